/* POST /v1/collections/{c}/records: parse, embed, take the ids, decide, append, answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "services/ingest/ingest.h"
#include "services/ingest/upsert_parse.h"
#include "services/ingest/upsert_record.h"

/* A request while it is worked on: parallel arrays of upsert.count. */
struct upsert_work {
    struct write *write;
    struct upsert upsert;
    struct wire_id *ids; /* of those that are kept, kept_count of them */
    size_t *kept;        /* their indices */
    size_t kept_count;
    size_t skipped;
};

struct id_place {
    const struct upsert_record *record;
    size_t index;
};

static int place_compare(const void *left, const void *right)
{
    const struct id_place *a = left, *b = right;
    size_t len = MIN_OF(a->record->id_len, b->record->id_len);
    int order = memcmp(a->record->id, b->record->id, len);

    if (order != 0)
        return order;
    if (a->record->id_len != b->record->id_len)
        return a->record->id_len < b->record->id_len ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* 7a1f3f0e-52c4-4b7e-9d0b-6c2f5e8d9a41; as openapi/router.yaml tells clients. */
static const uint8_t KEY_SPACE[16] = {0x7a, 0x1f, 0x3f, 0x0e, 0x52, 0xc4, 0x4b, 0x7e,
                                      0x9d, 0x0b, 0x6c, 0x2f, 0x5e, 0x8d, 0x9a, 0x41};

/* The index-th id of a request with this key: the request again makes the same one. */
static void id_of_key(char out[37], const char *key, size_t index)
{
    uint8_t space[16], id[16];
    char number[24];
    int len = snprintf(number, sizeof(number), "%zu", index);

    text_uuid5(space, KEY_SPACE, key, strlen(key));
    text_uuid5(id, space, number, (size_t)len);
    text_uuid(out, id);
}

static enum err_code make_ids(struct upsert_work *work)
{
    struct request *req = work->write->req;
    const char *key = work->write->idempotency_key;

    for (size_t i = 0; i < work->upsert.count; i++) {
        struct upsert_record *record = &work->upsert.records[i];
        char *id;

        if (record->id != NULL)
            continue;
        if ((id = arena_alloc(&req->arena, 37, 1)) == NULL)
            return err_set(&req->err, ERR_NO_MEMORY, "no memory for ids");
        if (key != NULL)
            id_of_key(id, key, i);
        else
            text_uuid7(id, req->env);
        record->id = id;
        record->id_len = 36;
    }
    return ERR_OK;
}

static bool same_id(const struct upsert_record *a, const struct upsert_record *b)
{
    return a->id_len == b->id_len && memcmp(a->id, b->id, a->id_len) == 0;
}

/* Of several records with one id the last is kept. */
static enum err_code keep_last(struct upsert_work *work)
{
    struct request *req = work->write->req;
    size_t count = work->upsert.count;
    struct id_place *places = arena_alloc(&req->arena, count, sizeof(*places));

    work->kept = arena_alloc(&req->arena, count, sizeof(*work->kept));
    work->ids = arena_alloc(&req->arena, count, sizeof(*work->ids));
    if (places == NULL || work->kept == NULL || work->ids == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for ids");
    for (size_t i = 0; i < count; i++)
        places[i] = (struct id_place){.record = &work->upsert.records[i], .index = i};
    qsort(places, count, sizeof(*places), place_compare);
    for (size_t i = 0; i < count; i++) {
        if (i + 1 < count && same_id(places[i].record, places[i + 1].record))
            continue;
        work->ids[work->kept_count] =
            (struct wire_id){.data = places[i].record->id, .len = places[i].record->id_len};
        work->kept[work->kept_count++] = places[i].index;
    }
    return ERR_OK;
}

enum err_code upsert_embed(struct write *write, struct upsert_record *records, size_t count)
{
    struct request *req = write->req;
    uint32_t dimension = write->collection.dimension;
    struct embedder_text *texts = NULL;
    size_t wanted = 0, at = 0;
    float *vectors;
    enum err_code rc;

    for (size_t i = 0; i < count && write->collection.embedder[0] != '\0'; i++)
        wanted += records[i].vector == NULL && records[i].text != NULL;
    if (wanted == 0)
        return ERR_OK;
    texts = arena_alloc(&req->arena, wanted, sizeof(*texts));
    vectors = arena_alloc(&req->arena, wanted * dimension, sizeof(float));
    if (texts == NULL || vectors == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory to embed %zu texts", wanted);
    for (size_t i = 0; i < count; i++)
        if (records[i].vector == NULL && records[i].text != NULL)
            texts[at++] =
                (struct embedder_text){.data = records[i].text, .len = records[i].text_len};
    rc = ingest_embed(write, texts, wanted, vectors);
    at = 0;
    for (size_t i = 0; i < count && rc == ERR_OK; i++)
        if (records[i].vector == NULL && records[i].text != NULL)
            records[i].vector = vectors + dimension * at++;
    return rc;
}

enum err_code upsert_add(struct write *write, const struct upsert_record *from)
{
    struct record record = {.op = RECORD_UPSERT,
                            .id = from->id,
                            .id_len = from->id_len,
                            .vector = from->vector,
                            .text = from->text,
                            .text_len = from->text_len,
                            .metadata = from->metadata,
                            .metadata_len = from->metadata_len};

    if (from->vector != NULL)
        record.vector_bytes = write->collection.dimension * sizeof(float);
    return write_add(write,
                     record_partition(from->id, from->id_len, write->ingest->sequencer.partitions),
                     &record);
}

/* skip: existing ids leave the list.  fail: one that exists ends the request. */
static enum err_code decide(struct upsert_work *work)
{
    struct write *write = work->write;
    struct cluster_answer answer = {0};
    size_t kept = 0;
    enum err_code rc = decide_get(write, work->ids, work->kept_count, 0, &answer);

    for (size_t i = 0; i < work->kept_count && rc == ERR_OK; i++) {
        const struct wire_id *id = &work->ids[i];
        char pointer[48];

        if (decide_row(&answer, id->data, id->len) == NULL) {
            work->ids[kept] = *id;
            work->kept[kept++] = work->kept[i];
        } else if (work->upsert.on_conflict == CONFLICT_FAIL) {
            (void)snprintf(pointer, sizeof(pointer), "/records/%zu/id", work->kept[i]);
            rc = err_set_at(&write->req->err, ERR_RECORD_EXISTS, pointer,
                            "a record with this id exists");
        } else {
            work->skipped++;
        }
    }
    /* The token keeps the ends that were read: what made a record be skipped is seen with it. */
    if (rc == ERR_OK)
        work->kept_count = kept;
    cluster_answer_free(&answer);
    return rc;
}

static enum err_code add_all(struct upsert_work *work)
{
    enum err_code rc = ERR_OK;
    char prefix[32];

    for (size_t i = 0; i < work->kept_count && rc == ERR_OK; i++) {
        rc = upsert_add(work->write, &work->upsert.records[work->kept[i]]);
        if (rc == ERR_PAYLOAD_TOO_LARGE || rc == ERR_INVALID_ARGUMENT) {
            (void)snprintf(prefix, sizeof(prefix), "/records/%zu", work->kept[i]);
            err_prefix_pointer(&work->write->req->err, prefix);
        }
    }
    return rc;
}

static void answer(struct upsert_work *work)
{
    struct json_writer w;

    json_writer_init(&w, &work->write->req->reply.body);
    json_begin_object(&w);
    json_key(&w, "upserted_count");
    json_u64(&w, work->kept_count);
    json_key(&w, "skipped_count");
    json_u64(&w, work->skipped);
    json_key(&w, "ids");
    json_begin_array(&w);
    for (size_t i = 0; i < work->upsert.count; i++)
        json_put_string(&w, work->upsert.records[i].id, work->upsert.records[i].id_len);
    json_end_array(&w);
    write_token_member(work->write, &w);
    json_end_object(&w);
}

static enum err_code upsert(struct upsert_work *work, bool *answered)
{
    struct write *write = work->write;
    struct request *req = write->req;
    struct upsert_schema schema = {.collection = write->collection.name,
                                   .dimension = write->collection.dimension};
    bool plain;
    enum err_code rc =
        upsert_parse(&work->upsert, &schema, req->body, req->body_len, &req->arena, &req->err);

    if (rc != ERR_OK)
        return rc;
    plain = work->upsert.on_conflict == CONFLICT_REPLACE;
    write->wait_searchable = work->upsert.wait_searchable;
    write->quorum = work->upsert.write_quorum;
    write_set_timeout(write, work->upsert.timeout_ms);
    rc = write_check_quorum(write);
    write->may_spool = plain && !write->wait_searchable && !write->awaits_quorum;
    if (rc == ERR_OK)
        rc = make_ids(work);
    if (rc == ERR_OK)
        rc = keep_last(work);
    if (rc == ERR_OK)
        rc = upsert_embed(write, work->upsert.records, work->upsert.count);
    if (rc == ERR_OK)
        rc = write_take(write, work->ids, work->kept_count, plain ? BUSY_SHARED : BUSY_ALONE);
    if (rc == ERR_OK && !plain)
        rc = decide(work);
    if (rc == ERR_OK)
        rc = add_all(work);
    if (rc == ERR_OK && !plain && write->batch != NULL)
        write->batch->generation = write->generation;
    return rc == ERR_OK ? write_commit(write, answered) : rc;
}

enum err_code handle_upsert_records(struct request *req)
{
    struct write write;
    struct upsert_work work = {.write = &write};
    bool answered = false;
    enum err_code rc = write_begin(&write, req);

    if (rc == ERR_OK)
        rc = write_expect_json(req);
    if (rc == ERR_OK)
        rc = upsert(&work, &answered);
    if (rc == ERR_OK && !answered) {
        answer(&work);
        if (write.ingest->metrics.upserts != NULL)
            metric_add(write.ingest->metrics.upserts, work.kept_count);
    }
    write_end(&write);
    return rc;
}
