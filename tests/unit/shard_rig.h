/* A shard as an object over a memory store, a file log in a temporary folder and metadata in
 * memory, asked through its routes.  Included by the shard's unit tests. */
#ifndef VICINAL_TESTS_SHARD_RIG_H
#define VICINAL_TESTS_SHARD_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/bytes.h"
#include "services/shard/ask.h"
#include "tests/lib/scratch.h"
#include "tests/unit/faulty_store.h"

#define RIG_PARTITIONS 4u
#define RIG_WAIT_MS    10000u

struct rig {
    char dir[64];
    char wal_url[128];
    char segments[96]; /* "": none are kept */
    uint32_t cold_above;
    struct wal *writer;
    struct meta *meta;
    struct store *store;
    struct blob *blob; /* NULL: there is none */
    struct metrics *metrics;
    uint64_t memory_bytes; /* limit of the next shard; 0: none */
    struct shard shard;
    uint64_t clock;
    uint64_t ends[RIG_PARTITIONS];
};

/* --- the log -----------------------------------------------------------------------------------
 */

static inline void rig_append(struct rig *rig, uint32_t partition, struct record record)
{
    struct buffer bytes = {0};
    struct wal_entry entry;
    struct err err = {0};
    uint64_t offset;

    record.epoch = record.epoch == 0 ? 1 : record.epoch;
    if (record.origin_region == 0)
        record.origin_offset = OFFSET_NONE;
    must(record_encode(&record, &bytes, &err), &err);
    entry = (struct wal_entry){.partition = partition, .data = bytes.data, .len = bytes.len};
    must(wal_append(rig->writer, &entry, 1, NEVER_NS, &offset, &err), &err);
    rig->ends[partition] = offset + 1;
    buffer_free(&bytes);
}

static inline struct stamp rig_stamp(struct rig *rig)
{
    return (struct stamp){.clock = ++rig->clock, .region = wal_region(rig->writer)};
}

static inline void rig_change(struct rig *rig, const struct collection *collection,
                              enum collection_change change)
{
    struct collection definition = *collection;
    struct buffer json = {0};

    definition.schema = rig_stamp(rig);
    collection_encode(&definition, change, &json);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++) {
        struct record record = {.op = RECORD_COLLECTION,
                                .stamp = definition.schema,
                                .schema = definition.schema,
                                .payload = json.data,
                                .payload_len = json.len};

        memcpy(record.incarnation, collection->incarnation, INCARNATION_BYTES);
        rig_append(rig, p, record);
    }
    buffer_free(&json);
}

static inline struct collection rig_collection(struct rig *rig, const char *name, uint32_t dim,
                                               enum distance_metric metric)
{
    struct collection collection = {
        .dimension = dim,
        .metric = metric,
        .m = 16,
        .ef_construction = 200,
        .created = {.clock = 1, .region = wal_region(rig->writer)},
        .schema = {.clock = 1, .region = wal_region(rig->writer)},
    };

    snprintf(collection.tenant, sizeof(collection.tenant), "%s", TENANT_DEFAULT);
    snprintf(collection.name, sizeof(collection.name), "%s", name);
    collection_identify(&collection);
    rig_change(rig, &collection, COLLECTION_CREATE);
    return collection;
}

/* Returns the partition. */
static inline uint32_t rig_upsert(struct rig *rig, const struct collection *collection,
                                  const char *id, const float *vector, const char *metadata)
{
    uint32_t partition = record_partition(id, strlen(id), RIG_PARTITIONS);
    char text[64];
    struct record record = {.op = RECORD_UPSERT,
                            .stamp = rig_stamp(rig),
                            .id = id,
                            .id_len = strlen(id),
                            .vector = vector,
                            .vector_bytes = vector == NULL ? 0 : collection->dimension * 4,
                            .metadata = metadata,
                            .metadata_len = metadata == NULL ? 0 : strlen(metadata),
                            .text = text};

    record.text_len = (size_t)snprintf(text, sizeof(text), "text of \"%s\"", id);
    memcpy(record.incarnation, collection->incarnation, INCARNATION_BYTES);
    rig_append(rig, partition, record);
    return partition;
}

static inline void rig_delete(struct rig *rig, const struct collection *collection, const char *id)
{
    struct record record = {
        .op = RECORD_DELETE, .stamp = rig_stamp(rig), .id = id, .id_len = strlen(id)};

    memcpy(record.incarnation, collection->incarnation, INCARNATION_BYTES);
    rig_append(rig, record_partition(id, strlen(id), RIG_PARTITIONS), record);
}

/* --- life --------------------------------------------------------------------------------------
 */

static inline void rig_open_log(struct rig *rig, const char *name)
{
    static const uint8_t holder[HOLDER_BYTES] = {1};
    struct wal_options options = {
        .url = rig->wal_url, .env = env_real(), .writer = true, .partitions = RIG_PARTITIONS};
    struct err err = {0};
    char url[128];

    /* A shard that is open already reads the URL. */
    snprintf(url, sizeof(url), "file:%s/%s", rig->dir, name);
    if (strcmp(url, rig->wal_url) != 0)
        memcpy(rig->wal_url, url, sizeof(url));
    must(wal_open(&rig->writer, &options, &err), &err);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        rig_append(
            rig, p,
            (struct record){.op = RECORD_EPOCH, .payload = holder, .payload_len = sizeof(holder)});
}

static inline void rig_put_map(struct rig *rig, uint32_t shards)
{
    struct shard_map *map = calloc(1, sizeof(*map));
    struct buffer json = {0};
    struct meta_put put = {.key = "map", .expected = META_ANY};
    struct err err = {0};

    *map = (struct shard_map){
        .version = shards, .partitions = RIG_PARTITIONS, .shards = shards, .replicas = 1};
    for (uint32_t i = 0; i < shards; i++)
        map->weights[i] = 1;
    for (uint32_t i = 0; i < map->replicas; i++)
        map->replica_weights[i] = 1;
    shard_map_place(map);
    shard_map_encode(map, &json);
    put.value = json.data;
    put.value_len = json.len;
    must(meta_put(rig->meta, &put, NULL, &err), &err);
    buffer_free(&json);
    free(map);
}

static inline void rig_open_shard(struct rig *rig)
{
    struct shard_setup setup = {
        .env = env_real(),
        .meta = rig->meta,
        .store = rig->store,
        .blob = rig->blob,
        .wal_url = rig->wal_url,
        .segments = rig->segments[0] == '\0' ? NULL : rig->segments,
        .metrics = rig->metrics,
        .cold_above = rig->cold_above,
        .memory_bytes = rig->memory_bytes,
        .waiters_max = 4,
        .link_threads = 1,
        .poll_ms = 20,
        .maintain_ms = 10,
    };
    struct err err = {0};

    must(shard_open(&rig->shard, &setup, &err), &err);
}

static inline void rig_close_shard(struct rig *rig)
{
    shard_stop(&rig->shard);
    shard_close(&rig->shard);
}

static inline void rig_await_ready(struct rig *rig)
{
    for (unsigned i = 0; i < RIG_WAIT_MS; i++) {
        struct buffer why = {0};
        bool ready = shard_ready(&rig->shard, &why);

        buffer_free(&why);
        if (ready)
            return;
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);
    }
    fail_msg("the shard is not ready: %s", rig->shard.detail);
}

static inline struct rig *rig_new(void)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct store_options options = {.url = "memory:", .env = env_real()};
    struct err err = {0};

    assert_true(scratch_make(rig->dir, sizeof(rig->dir), "shard"));
    rig->clock = 100;
    rig->metrics = metrics_new();
    must(meta_open(&rig->meta, "memory:", env_real(), &err), &err);
    must(store_open(&rig->store, &options, &err), &err);
    return rig;
}

static inline void rig_free(struct rig *rig)
{
    rig_close_shard(rig);
    wal_close(rig->writer);
    store_close(rig->store);
    meta_close(rig->meta);
    metrics_free(rig->metrics);
    scratch_remove(rig->dir);
    free(rig);
}

/* Log, map and shard, ready. */
static inline struct rig *rig_ready(void)
{
    struct rig *rig = rig_new();

    rig_open_log(rig, "wal");
    rig_put_map(rig, 1);
    rig_open_shard(rig);
    rig_await_ready(rig);
    return rig;
}

/* --- asking ------------------------------------------------------------------------------------
 */

struct reply_of {
    enum err_code code; /* of the problem; ERR_OK */
    struct request req;
    struct wire_answer answer;
};

static inline const char *rig_binary(const struct request *req, const char *name)
{
    (void)req;
    return strcasecmp(name, "content-type") == 0 ? MEDIA_BINARY : NULL;
}

static inline const char *rig_json(const struct request *req, const char *name)
{
    (void)req;
    return strcasecmp(name, "content-type") == 0 ? MEDIA_JSON : NULL;
}

static inline void rig_send(struct rig *rig, struct reply_of *reply, const char *path,
                            const void *body, size_t len)
{
    struct request *req = &reply->req;

    req->state = &rig->shard;
    req->env = env_real();
    req->method = body == NULL ? "GET" : "POST";
    req->path = path;
    req->query = "";
    req->body = body;
    req->body_len = len;
    req->received_ns = env_boot_ns(env_real());
    route_dispatch(shard_routes, req);
    reply->code = req->err.code;
}

static inline struct wire_question rig_question(const struct collection *collection,
                                                enum wire_op op)
{
    struct wire_question question = {
        .op = op,
        .max_staleness_ns = NEVER_NS,
        .wait_ms = RIG_WAIT_MS,
        .bound = INFINITY,
        .k = 10,
        .limit = 10,
        .include = INCLUDE_TEXT | INCLUDE_METADATA,
    };

    if (collection != NULL)
        memcpy(question.incarnation, collection->incarnation, INCARNATION_BYTES);
    partition_set_fill(&question.partitions, RIG_PARTITIONS);
    return question;
}

/* To be freed by reply_free. */
static inline void rig_ask(struct rig *rig, struct reply_of *reply,
                           const struct wire_question *question)
{
    struct buffer body = {0};
    struct err err = {0};

    memset(reply, 0, sizeof(*reply));
    wire_question_encode(question, &body);
    reply->req.header = rig_binary;
    rig_send(rig, reply, "/internal/v1/ask", body.data, body.len);
    buffer_free(&body);
    if (reply->code == ERR_OK)
        must(wire_answer_decode(&reply->answer, reply->req.reply.body.data,
                                reply->req.reply.body.len, &reply->req.arena, &err),
             &err);
}

static inline void reply_free(struct reply_of *reply)
{
    request_free(&reply->req);
}

/* Wait until everything appended is applied. */
static inline void rig_catch_up(struct rig *rig)
{
    enum { TRIES = 9 }; /* each up to its deadline: sanitizers are slow */
    struct wire_question question = rig_question(NULL, WIRE_WAIT);
    struct reply_of reply;

    question.fresh = true;
    rig_ask(rig, &reply, &question);
    for (int i = 1; i < TRIES && reply.code == ERR_BEHIND; i++) {
        reply_free(&reply);
        rig_ask(rig, &reply, &question);
    }
    must(reply.code, &reply.req.err);
    reply_free(&reply);
}

static inline bool row_is(const struct wire_row *row, const char *id)
{
    return row->id_len == strlen(id) && memcmp(row->id, id, row->id_len) == 0;
}

#endif
