/* POST /internal/v1/append: records of another region's log, in their order.
 *
 *   u8 version 1, u32 origin region, u32 partition, u64 from, u64 to, u32 count,
 *   then per record u32 length and the encoded record; little-endian
 *
 * Answer: {"position":n}, what is wanted next.  The overlap with what is known is dropped, a gap is
 * refused (409 version_conflict) with the wanted position in the message.  Stamps stay as they are
 * and raise the partition's clock; epoch and place are ours.  A change of a collection goes to all
 * partitions before anything else of the run.  Frozen: replicators of other versions speak it. */
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "services/ingest/ingest.h"

#define APPEND_VERSION     1
#define APPEND_RECORDS_MAX 100000
#define CLOCK_MAX          ((uint64_t)INT64_MAX) /* stamps of ours have to fit above */
#define INCARNATION_AT     16 /* in an encoded record, see common/model/record.h */

struct run {
    struct ingest *ingest;
    struct request *req;
    struct foreign_run foreign;
    uint32_t count;
    struct sequence_batch *batch;
    struct busy_key *keys;
    size_t key_count;
    struct busy_claim claim;
    struct collection *changes; /* of collections, in their order */
    size_t change_count, change_size;
    uint64_t last_offset; /* of the record before, plus one */
};

static enum err_code malformed(struct run *run, const char *what)
{
    return err_set(&run->req->err, ERR_INVALID_ARGUMENT, "the run is malformed: %s", what);
}

static enum err_code read_head(struct run *run, struct bytes_reader *r)
{
    struct sequencer *s = &run->ingest->sequencer;
    uint8_t version = read_u8(r);

    run->foreign.region = read_u32(r);
    run->foreign.partition = read_u32(r);
    run->foreign.from = read_u64(r);
    run->foreign.to = read_u64(r);
    run->count = read_u32(r);
    if (r->failed)
        return malformed(run, "too short");
    if (version != APPEND_VERSION)
        return malformed(run, "unknown version");
    if (run->foreign.region == 0 || run->foreign.region == s->region)
        return malformed(run, "not another region");
    if (run->foreign.partition >= s->partitions)
        return malformed(run, "no such partition");
    if (run->foreign.from > run->foreign.to || run->foreign.to > INT64_MAX)
        return malformed(run, "from is above to");
    if (run->count > APPEND_RECORDS_MAX)
        return malformed(run, "too many records");
    run->last_offset = run->foreign.from;
    return ERR_OK;
}

/* Is the record what the run says it is? */
static enum err_code check_record(struct run *run, const struct record *record)
{
    uint32_t partitions = run->ingest->sequencer.partitions;

    switch (record->op) {
    case RECORD_UPSERT:
    case RECORD_DELETE:
        if (record->id_len == 0 ||
            record_partition(record->id, record->id_len, partitions) != run->foreign.partition)
            return malformed(run, "a record of another partition");
        break;
    case RECORD_TRUNCATE:
    case RECORD_COLLECTION:
        break;
    default:
        return malformed(run, "a record that is no data");
    }
    /* A change of a third region, or of ours, stands in their log under their name. */
    if (record->origin_region != run->foreign.region ||
        (record->op != RECORD_COLLECTION && record->stamp.region != run->foreign.region))
        return malformed(run, "a record of another origin");
    if (record->stamp.clock > CLOCK_MAX)
        return malformed(run, "a clock that cannot be");
    if (record->origin_offset < run->last_offset || record->origin_offset >= run->foreign.to)
        return malformed(run, "offsets out of order");
    run->last_offset = record->origin_offset + 1;
    return ERR_OK;
}

/* Decode a change; it is taken when all of the run has been checked. */
static enum err_code note_change(struct run *run, const struct record *record)
{
    size_t size = run->change_size == 0 ? 4 : run->change_size * 2;
    struct collection *grown, collection;
    enum collection_change change;

    if (collection_decode(&collection, &change, record->payload, record->payload_len,
                          &run->req->err) != ERR_OK)
        return malformed(run, "a change that cannot be read");
    if (memcmp(collection.incarnation, record->incarnation, INCARNATION_BYTES) != 0)
        return malformed(run, "a change of another collection");
    if (stamp_compare(collection.schema, record->stamp) != 0)
        return malformed(run, "a change whose stamps differ");
    collection.dropped = change == COLLECTION_DROP;
    if (run->change_count == run->change_size) {
        grown = array_resize(run->changes, size, sizeof(*grown));
        if (grown == NULL)
            return err_set(&run->req->err, ERR_NO_MEMORY, "no memory for a run");
        run->changes = grown;
        run->change_size = size;
    }
    run->changes[run->change_count++] = collection;
    return ERR_OK;
}

/* In every partition, before records of it are taken. */
static enum err_code take_change(struct run *run, const struct collection *collection,
                                 uint64_t deadline_ns)
{
    struct busy_claim claim = {0};
    struct busy_key key = {.incarnation = CATALOGUE_NAMES,
                           .id = collection->name,
                           .len = strlen(collection->name),
                           .mode = BUSY_ALONE};
    struct err *err = &run->req->err;
    enum err_code rc = busy_take(run->ingest->busy, &claim, &key, 1, deadline_ns, err);

    if (rc == ERR_OK)
        rc = catalogue_foreign(&run->ingest->catalogue, collection, deadline_ns, err);
    busy_release(&claim);
    return rc;
}

/* All keys lead into the request's body. */
static void note_keys(struct run *run, const uint8_t *incarnation, const struct record *record)
{
    bool alone = record->op == RECORD_TRUNCATE;

    run->keys[run->key_count++] =
        (struct busy_key){.incarnation = incarnation, .mode = alone ? BUSY_ALONE : BUSY_SHARED};
    if (record->id_len > 0)
        run->keys[run->key_count++] = (struct busy_key){.incarnation = incarnation,
                                                        .id = record->id,
                                                        .len = record->id_len,
                                                        .mode = BUSY_SHARED};
}

static enum err_code read_record(struct run *run, struct bytes_reader *r)
{
    uint32_t len = read_u32(r);
    const uint8_t *data = read_bytes(r, len);
    struct buffer scratch = {0};
    struct record record;
    enum err_code rc;

    if (data == NULL || len == 0 || len > RECORD_BYTES_MAX)
        return malformed(run, "a record's length");
    if (record_decode(&record, data, len, &scratch, &run->req->err) != ERR_OK)
        rc = malformed(run, "a damaged record");
    else
        rc = check_record(run, &record);
    if (rc == ERR_OK && record.op == RECORD_COLLECTION)
        rc = note_change(run, &record);
    if (rc == ERR_OK)
        rc = sequence_batch_add_encoded(run->batch, run->foreign.partition, data, len, &record,
                                        &run->req->err);
    if (rc == ERR_OK && record.op != RECORD_COLLECTION)
        note_keys(run, data + INCARNATION_AT, &record);
    buffer_free(&scratch);
    return rc;
}

static enum err_code read_run(struct run *run)
{
    struct bytes_reader r = {.data = run->req->body, .len = run->req->body_len};
    enum err_code rc = read_head(run, &r);

    if (rc == ERR_OK)
        rc = sequence_batch_new(&run->batch, &run->ingest->sequencer, &run->req->err);
    if (rc != ERR_OK)
        return rc;
    run->batch->foreign = run->foreign;
    /* A record takes more than its header: the body bounds the count. */
    if (run->count > run->req->body_len / RECORD_HEADER_BYTES)
        return malformed(run, "too many records");
    run->keys = array_alloc((size_t)run->count * 2, sizeof(*run->keys));
    if (run->keys == NULL)
        return err_set(&run->req->err, ERR_NO_MEMORY, "no memory for a run");
    for (uint32_t i = 0; i < run->count && rc == ERR_OK; i++)
        rc = read_record(run, &r);
    if (rc == ERR_OK && !read_done(&r))
        rc = malformed(run, "bytes behind the last record");
    return rc;
}

enum err_code handle_append(struct request *req)
{
    struct run run = {.ingest = req->state, .req = req};
    uint64_t deadline_ns = req->received_ns + WRITE_DEADLINE_MS_DEFAULT * NS_PER_MS, generation;
    struct sequencer *s = &run.ingest->sequencer;
    struct json_writer w;
    enum err_code rc = request_expect_media(req, MEDIA_BINARY);

    if (rc == ERR_OK)
        rc = sequencer_check(s, &generation, &req->err);
    if (rc == ERR_OK)
        rc = ingest_check_spool(run.ingest, &req->err);
    if (rc == ERR_OK)
        rc = read_run(&run);
    for (size_t i = 0; i < run.change_count && rc == ERR_OK; i++)
        rc = take_change(&run, &run.changes[i], deadline_ns);
    if (rc == ERR_OK)
        rc = busy_take(run.ingest->busy, &run.claim, run.keys, run.key_count, deadline_ns,
                       &req->err);
    if (rc == ERR_OK)
        rc = sequencer_commit(s, run.batch, deadline_ns, &req->err);
    busy_release(&run.claim);
    if (rc == ERR_OK) {
        json_writer_init(&w, &req->reply.body);
        json_begin_object(&w);
        json_key(&w, "position");
        json_u64(&w, run.batch->foreign.position);
        json_end_object(&w);
        if (run.ingest->metrics.foreign != NULL)
            metric_add(run.ingest->metrics.foreign, run.count);
    }
    sequence_batch_put(s, run.batch);
    free(run.keys);
    free(run.changes);
    return rc;
}
