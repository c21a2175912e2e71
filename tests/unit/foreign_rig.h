/* A whole ingest in one process, without a server or shards, over a log that fails to order; runs
 * of another region to send to it, and what its log holds.  Included by unit tests. */
#ifndef VICINAL_TESTS_FOREIGN_RIG_H
#define VICINAL_TESTS_FOREIGN_RIG_H

#include "tests/unit/ingest_rig.h"

#define REGION 77u

static struct {
    char dir[64];
    struct meta *meta;
} world;

static inline void begin(void)
{
    life_begin(&(struct ingest_setup){.meta = world.meta});
}

static inline int set_up(void **state)
{
    struct err err = {0};

    (void)state;
    memset(&world, 0, sizeof(world));
    assert_true(scratch_make(world.dir, sizeof(world.dir), "foreign"));
    life_prepare(env_real(), world.dir);
    assert_int_equal(meta_open(&world.meta, "memory:", env_real(), &err), ERR_OK);
    begin();
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    if (life.is_open)
        life_end();
    meta_close(world.meta);
    (void)scratch_remove(world.dir);
    return 0;
}

/* --- requests -------------------------------------------------------------------------------- */

static inline int ask_json(const char *method, const char *path, const char *body, json_t **answer)
{
    media = MEDIA_JSON;
    return status_and_body(life_ask(&(struct question){
                               .method = method, .path = path, .body = body, .len = strlen(body)}),
                           answer);
}

struct run {
    uint32_t region, partition;
    uint64_t from, to;
    uint32_t count;
    struct buffer records;
};

static inline void run_add(struct run *run, const struct record *record)
{
    struct buffer bytes = {0};
    struct err err = {0};

    assert_int_equal(record_encode(record, &bytes, &err), ERR_OK);
    buffer_append_u32(&run->records, (uint32_t)bytes.len);
    buffer_append(&run->records, bytes.data, bytes.len);
    run->count++;
    buffer_free(&bytes);
}

/* An id of the run's partition, the n-th. */
static inline size_t id_of(uint32_t partition, unsigned n, char out[32])
{
    for (unsigned i = 0;; i++) {
        size_t len = (size_t)snprintf(out, 32, "id-%u", i);

        if (record_partition(out, len, PARTITIONS) == partition && n-- == 0)
            return len;
    }
}

static const uint8_t INCARNATION[INCARNATION_BYTES] = {9};

static inline struct run run_of(uint32_t partition, uint64_t from, uint64_t to, uint64_t clock)
{
    struct run run = {.region = REGION, .partition = partition, .from = from, .to = to};
    char id[32];

    for (uint64_t offset = from; offset < to; offset++) {
        struct record record = {.op = RECORD_UPSERT,
                                .stamp = {.clock = clock + offset, .region = REGION},
                                .origin_region = REGION,
                                .origin_offset = offset,
                                .epoch = 1234,
                                .id = id,
                                .text = "t",
                                .text_len = 1};

        memcpy(record.incarnation, INCARNATION, sizeof(INCARNATION));
        record.id_len = id_of(partition, (unsigned)offset, id);
        run_add(&run, &record);
    }
    return run;
}

/* Send the runs in one request and free them. */
static inline int send_runs(struct run *runs, uint32_t count, json_t **answer)
{
    struct buffer body = {0};
    int status;

    buffer_append_byte(&body, 2);
    buffer_append_u32(&body, runs[0].region);
    buffer_append_u32(&body, count);
    for (uint32_t i = 0; i < count; i++) {
        buffer_append_u32(&body, runs[i].partition);
        buffer_append_u64(&body, runs[i].from);
        buffer_append_u64(&body, runs[i].to);
        buffer_append_u32(&body, runs[i].count);
        buffer_append(&body, runs[i].records.data, runs[i].records.len);
        buffer_free(&runs[i].records);
    }
    media = MEDIA_BINARY;
    status = status_and_body(
        life_ask(&(struct question){
            .method = "POST", .path = "/internal/v1/append", .body = body.data, .len = body.len}),
        answer);
    assert_non_null(*answer);
    buffer_free(&body);
    return status;
}

/* The status of one run of an answer; its position or the error's text. */
static inline int read_run(json_t *answered, uint64_t *position, char *detail)
{
    const char *text = json_string_value(json_object_get(answered, "detail"));
    const char *code = json_string_value(json_object_get(answered, "code"));

    if (position != NULL)
        *position = (uint64_t)json_integer_value(json_object_get(answered, "position"));
    if (detail != NULL)
        (void)snprintf(detail, 320, "%s", text == NULL ? "" : text);
    return code == NULL ? 200 : err_status(err_from_word(code, strlen(code)));
}

static inline int send_run(struct run *run, uint64_t *position, char *detail)
{
    json_t *answer;
    int status = send_runs(run, 1, &answer);

    if (status == 200)
        status = read_run(json_array_get(json_object_get(answer, "runs"), 0), position, detail);
    json_decref(answer);
    return status;
}

static inline struct collection foreign_collection(const char *name, uint32_t dimension,
                                                   uint64_t clock)
{
    struct collection collection = {.dimension = dimension,
                                    .m = HNSW_M_DEFAULT,
                                    .ef_construction = HNSW_EF_CONSTRUCTION_DEFAULT,
                                    .created = {.clock = clock, .region = REGION},
                                    .schema = {.clock = clock, .region = REGION}};

    (void)snprintf(collection.tenant, sizeof(collection.tenant), "default");
    (void)snprintf(collection.name, sizeof(collection.name), "%s", name);
    collection_identify(&collection);
    return collection;
}

static inline int send_collection(const struct collection *collection, uint64_t offset)
{
    struct run run = {.region = REGION, .partition = 1, .from = offset, .to = offset + 1};
    struct buffer definition = {0};
    struct record record = {.op = RECORD_COLLECTION,
                            .schema = collection->schema,
                            .stamp = collection->schema,
                            .origin_region = REGION,
                            .origin_offset = offset};

    collection_encode(collection, collection->dropped ? COLLECTION_DROP : COLLECTION_CREATE,
                      &definition);
    memcpy(record.incarnation, collection->incarnation, INCARNATION_BYTES);
    record.payload = definition.data;
    record.payload_len = definition.len;
    run_add(&run, &record);
    buffer_free(&definition);
    return send_run(&run, NULL, NULL);
}

/* --- what the log holds ---------------------------------------------------------------------- */

struct tally {
    size_t foreign, local, creates, own_creates, drops, vectors;
    uint64_t local_clock, foreign_clock;
    struct version_vector vector;
};

static inline void count_record(const struct record *record, uint64_t offset, void *context)
{
    struct tally *tally = context;
    struct collection collection;
    enum collection_change change;

    (void)offset;
    if (record->op == RECORD_COLLECTION) {
        assert_int_equal(
            collection_decode(&collection, &change, record->payload, record->payload_len, NULL),
            ERR_OK);
        tally->creates += change == COLLECTION_CREATE;
        tally->own_creates +=
            change == COLLECTION_CREATE && record->origin_region == life.ingest.sequencer.region;
        tally->drops += change == COLLECTION_DROP;
    }
    if (record->op == RECORD_VERSION_VECTOR) {
        tally->vectors++;
        assert_int_equal(
            version_vector_decode(&tally->vector, record->payload, record->payload_len, NULL),
            ERR_OK);
    }
    if (record->op != RECORD_UPSERT)
        return;
    if (record->origin_region == REGION) {
        /* As it was written there: stamp and origin; only the epoch is ours. */
        assert_int_equal(record->stamp.region, REGION);
        assert_int_equal(record->stamp.clock, tally->foreign_clock + record->origin_offset);
        assert_int_not_equal(record->epoch, 1234);
        tally->foreign++;
    } else {
        tally->local++;
        tally->local_clock = record->stamp.clock;
    }
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
