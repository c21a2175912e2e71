/* POST /internal/v1/append: records of another region's log, in their order.
 *
 *   u8 version 2, u32 origin region, u32 number of runs, each of another partition:
 *   u32 partition, u64 from, u64 to, u32 count, then per record u32 length and the encoded record;
 *   little-endian
 *
 * Answer: {"runs":[{"position":n}, …]}, what is wanted next of each, in their order.  The overlap
 * with what is known is dropped.  A run that was not taken has a code and a detail too: a gap is
 * version_conflict.  All runs go into one append.  Stamps stay as they are and raise the
 * partition's clock; epoch and place are ours.  Changes of collections go to all partitions before
 * anything else. */
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "services/ingest/ingest.h"

#define APPEND_VERSION     2
#define APPEND_RECORDS_MAX 100000                /* of one run */
#define CLOCK_MAX          ((uint64_t)INT64_MAX) /* stamps of ours have to fit above */
#define INCARNATION_AT     16 /* in an encoded record, see common/model/record.h */

/* Records of one partition. */
struct run {
    struct foreign_run foreign;
    uint32_t count;
    uint64_t last_offset; /* of the record before, plus one */
};

struct delivery {
    struct ingest *ingest;
    struct request *req;
    uint32_t region;
    struct run *runs;
    struct sequence_batch **batches; /* one for each run */
    struct err *errs;                /* likewise: what became of it */
    uint32_t run_count;
    struct partition_set partitions;
    struct busy_key *keys; /* of all runs */
    size_t key_count, key_size;
    struct busy_claim claim;
    struct collection *changes; /* of collections, in their order */
    size_t change_count, change_size;
    struct import_known *known;
};

static enum err_code malformed(struct delivery *delivery, const char *what)
{
    return err_set(&delivery->req->err, ERR_INVALID_ARGUMENT, "the run is malformed: %s", what);
}

static enum err_code no_memory(struct delivery *delivery)
{
    return err_set(&delivery->req->err, ERR_NO_MEMORY, "no memory for a run");
}

static enum err_code read_head(struct delivery *delivery, struct bytes_reader *r)
{
    const struct sequencer *s = &delivery->ingest->sequencer;
    uint8_t version = read_u8(r);

    delivery->region = read_u32(r);
    delivery->run_count = read_u32(r);
    if (version != APPEND_VERSION)
        return malformed(delivery, "unknown version");
    if (r->failed)
        return malformed(delivery, "too short");
    if (delivery->region == 0 || delivery->region == s->region)
        return malformed(delivery, "not another region");
    if (delivery->run_count == 0 || delivery->run_count > s->partitions)
        return malformed(delivery, "none, or too many");
    return ERR_OK;
}

static enum err_code read_run_head(struct delivery *delivery, struct run *run,
                                   struct bytes_reader *r)
{
    struct foreign_run *foreign = &run->foreign;

    foreign->region = delivery->region;
    foreign->partition = read_u32(r);
    foreign->from = read_u64(r);
    foreign->to = read_u64(r);
    run->count = read_u32(r);
    run->last_offset = foreign->from;
    if (r->failed)
        return malformed(delivery, "too short");
    if (foreign->partition >= delivery->ingest->sequencer.partitions)
        return malformed(delivery, "no such partition");
    if (partition_set_has(&delivery->partitions, foreign->partition))
        return malformed(delivery, "a partition twice");
    partition_set_add(&delivery->partitions, foreign->partition);
    if (foreign->from > foreign->to || foreign->to > INT64_MAX)
        return malformed(delivery, "from is above to");
    /* A record takes more than its header: the body bounds the count. */
    if (run->count > APPEND_RECORDS_MAX || run->count > (r->len - r->at) / RECORD_HEADER_BYTES)
        return malformed(delivery, "too many records");
    return ERR_OK;
}

/* Is the record what the run says it is? */
static enum err_code check_record(struct delivery *delivery, struct run *run,
                                  const struct record *record)
{
    uint32_t partitions = delivery->ingest->sequencer.partitions;

    switch (record->op) {
    case RECORD_UPSERT:
    case RECORD_DELETE:
        if (record->id_len == 0 ||
            record_partition(record->id, record->id_len, partitions) != run->foreign.partition)
            return malformed(delivery, "a record of another partition");
        break;
    case RECORD_TRUNCATE:
    case RECORD_COLLECTION:
    case RECORD_BULK_MANIFEST:
        break;
    default:
        return malformed(delivery, "a record that is no data");
    }
    /* A change of a third region, or of ours, stands in their log under their name. */
    if (record->origin_region != run->foreign.region ||
        (record->op != RECORD_COLLECTION && record->stamp.region != run->foreign.region))
        return malformed(delivery, "a record of another origin");
    if (record->stamp.clock > CLOCK_MAX)
        return malformed(delivery, "a clock that cannot be");
    if (record->origin_offset < run->last_offset || record->origin_offset >= run->foreign.to)
        return malformed(delivery, "offsets out of order");
    run->last_offset = record->origin_offset + 1;
    return ERR_OK;
}

/* Decode a change; it is taken when all of the run has been checked. */
static enum err_code note_change(struct delivery *delivery, const struct record *record)
{
    size_t size = delivery->change_size == 0 ? 4 : delivery->change_size * 2;
    struct collection *grown, collection;
    enum collection_change change;

    if (collection_decode(&collection, &change, record->payload, record->payload_len,
                          &delivery->req->err) != ERR_OK)
        return malformed(delivery, "a change that cannot be read");
    if (memcmp(collection.incarnation, record->incarnation, INCARNATION_BYTES) != 0)
        return malformed(delivery, "a change of another collection");
    if (stamp_compare(collection.schema, record->stamp) != 0)
        return malformed(delivery, "a change whose stamps differ");
    collection.dropped = change == COLLECTION_DROP;
    if (delivery->change_count == delivery->change_size) {
        grown = array_resize(delivery->changes, size, sizeof(*grown));
        if (grown == NULL)
            return err_set(&delivery->req->err, ERR_NO_MEMORY, "no memory for a run");
        delivery->changes = grown;
        delivery->change_size = size;
    }
    delivery->changes[delivery->change_count++] = collection;
    return ERR_OK;
}

/* In every partition, before records of it are taken. */
static enum err_code take_change(struct delivery *delivery, const struct collection *collection,
                                 uint64_t deadline_ns)
{
    struct busy_claim claim = {0};
    struct busy_key key = {.incarnation = CATALOGUE_NAMES,
                           .id = collection->name,
                           .len = strlen(collection->name),
                           .mode = BUSY_ALONE};
    struct err *err = &delivery->req->err;
    enum err_code rc = busy_take(delivery->ingest->busy, &claim, &key, 1, deadline_ns, err);

    if (rc == ERR_OK)
        rc = catalogue_foreign(&delivery->ingest->catalogue, collection, deadline_ns, err);
    busy_release(&claim);
    return rc;
}

/* All keys lead into the request's body. */
static enum err_code note_keys(struct delivery *delivery, const uint8_t *incarnation,
                               const struct record *record)
{
    bool alone = record->op == RECORD_TRUNCATE || record->op == RECORD_BULK_MANIFEST;

    if (delivery->key_count + 2 > delivery->key_size) {
        size_t size = delivery->key_size == 0 ? 64 : delivery->key_size * 2;
        struct busy_key *grown = array_resize(delivery->keys, size, sizeof(*grown));

        if (grown == NULL)
            return no_memory(delivery);
        delivery->keys = grown;
        delivery->key_size = size;
    }
    delivery->keys[delivery->key_count++] =
        (struct busy_key){.incarnation = incarnation, .mode = alone ? BUSY_ALONE : BUSY_SHARED};
    if (record->id_len > 0)
        delivery->keys[delivery->key_count++] = (struct busy_key){.incarnation = incarnation,
                                                                  .id = record->id,
                                                                  .len = record->id_len,
                                                                  .mode = BUSY_SHARED};
    return ERR_OK;
}

static enum err_code read_record(struct delivery *delivery, struct run *run,
                                 struct sequence_batch *batch, struct bytes_reader *r)
{
    uint32_t len = read_u32(r);
    const uint8_t *data = read_bytes(r, len);
    struct buffer scratch = {0};
    struct record record;
    enum err_code rc;

    if (data == NULL || len == 0 || len > RECORD_BYTES_MAX)
        return malformed(delivery, "a record's length");
    if (record_decode(&record, data, len, &scratch, &delivery->req->err) != ERR_OK)
        rc = malformed(delivery, "a damaged record");
    else
        rc = check_record(delivery, run, &record);
    if (rc == ERR_OK && record.op == RECORD_COLLECTION)
        rc = note_change(delivery, &record);
    if (rc == ERR_OK && record.op == RECORD_BULK_MANIFEST)
        rc = import_check_foreign(delivery->ingest, &record, delivery->known, &delivery->req->err);
    if (rc == ERR_OK)
        rc = sequence_batch_add_encoded(batch, run->foreign.partition, data, len, &record,
                                        &delivery->req->err);
    if (rc == ERR_OK && record.op != RECORD_COLLECTION)
        rc = note_keys(delivery, data + INCARNATION_AT, &record);
    buffer_free(&scratch);
    return rc;
}

static enum err_code read_run(struct delivery *delivery, uint32_t index, struct bytes_reader *r)
{
    struct run *run = &delivery->runs[index];
    enum err_code rc = read_run_head(delivery, run, r);

    if (rc == ERR_OK)
        rc = sequence_batch_new(&delivery->batches[index], &delivery->ingest->sequencer,
                                &delivery->req->err);
    for (uint32_t i = 0; i < run->count && rc == ERR_OK; i++)
        rc = read_record(delivery, run, delivery->batches[index], r);
    if (rc != ERR_OK)
        return rc;
    delivery->batches[index]->foreign = run->foreign;
    delivery->batches[index]->key.collection = run->foreign.region;
    return rc;
}

static enum err_code read_runs(struct delivery *delivery)
{
    struct request *req = delivery->req;
    struct bytes_reader r = {.data = req->body, .len = req->body_len};
    enum err_code rc = read_head(delivery, &r);
    uint32_t count = delivery->run_count;

    if (rc != ERR_OK)
        return rc;
    delivery->runs = arena_alloc(&req->arena, count, sizeof(*delivery->runs));
    delivery->errs = arena_alloc(&req->arena, count, sizeof(*delivery->errs));
    delivery->batches = arena_alloc(&req->arena, count, sizeof(struct sequence_batch *));
    delivery->known = arena_alloc(&req->arena, 1, sizeof(*delivery->known));
    if (delivery->runs == NULL || delivery->errs == NULL || delivery->batches == NULL ||
        delivery->known == NULL)
        return no_memory(delivery);
    for (uint32_t i = 0; i < count && rc == ERR_OK; i++)
        rc = read_run(delivery, i, &r);
    if (rc == ERR_OK && !read_done(&r))
        rc = malformed(delivery, "bytes behind the last record");
    return rc;
}

static void answer(struct delivery *delivery)
{
    uint64_t taken = 0;
    struct json_writer w;

    json_writer_init(&w, &delivery->req->reply.body);
    json_begin_object(&w);
    json_key(&w, "runs");
    json_begin_array(&w);
    for (uint32_t i = 0; i < delivery->run_count; i++) {
        const struct err *err = &delivery->errs[i];

        json_begin_object(&w);
        if (err->code != ERR_OK) {
            json_key(&w, "code");
            json_text(&w, err_word(err->code));
            json_key(&w, "detail");
            json_text(&w, err->message);
        }
        if (err->code == ERR_OK || err->code == ERR_VERSION_CONFLICT) {
            json_key(&w, "position");
            json_u64(&w, delivery->batches[i]->foreign.position);
        }
        json_end_object(&w);
        if (err->code == ERR_OK)
            taken += delivery->runs[i].count;
    }
    json_end_array(&w);
    json_end_object(&w);
    if (delivery->ingest->metrics.foreign != NULL)
        metric_add(delivery->ingest->metrics.foreign, taken);
}

enum err_code handle_append(struct request *req)
{
    struct delivery delivery = {.ingest = req->state, .req = req};
    uint64_t deadline_ns = req->received_ns + WRITE_DEADLINE_MS_DEFAULT * NS_PER_MS, generation;
    struct sequencer *s = &delivery.ingest->sequencer;
    enum err_code rc = request_expect_media(req, MEDIA_BINARY);

    if (rc == ERR_OK)
        rc = sequencer_check(s, &generation, NULL, &req->err);
    if (rc == ERR_OK)
        rc = ingest_check_spool(delivery.ingest, &req->err);
    if (rc == ERR_OK)
        rc = read_runs(&delivery);
    for (size_t i = 0; i < delivery.change_count && rc == ERR_OK; i++)
        rc = take_change(&delivery, &delivery.changes[i], deadline_ns);
    if (rc == ERR_OK)
        rc = busy_take(delivery.ingest->busy, &delivery.claim, delivery.keys, delivery.key_count,
                       deadline_ns, &req->err);
    if (rc == ERR_OK)
        sequencer_commit_all(s, delivery.batches, delivery.run_count, deadline_ns, delivery.errs);
    busy_release(&delivery.claim);
    if (rc == ERR_OK)
        answer(&delivery);
    for (uint32_t i = 0; i < delivery.run_count && delivery.batches != NULL; i++)
        sequence_batch_put(s, delivery.batches[i]);
    free(delivery.keys);
    free(delivery.changes);
    return rc;
}
