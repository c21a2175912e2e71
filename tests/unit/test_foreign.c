/* A whole ingest in one process, without a server or shards: foreign runs and collections, over a
 * log that fails to order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <cmocka.h>

#include "services/ingest/ingest.h"
#include "tests/lib/scratch.h"
#include "tests/lib/wal_faulty.h"

#define PARTITIONS 4
#define WAIT_NS    (30 * NS_PER_S)
#define REGION     77u

struct world {
    char dir[64], url[96];
    struct meta *meta;
    struct wal *log;
    struct ingest ingest;
    bool open;
};

static struct world world;

static enum err_code open_wal(void *context, struct wal **out, struct err *err)
{
    struct wal_options options = {
        .url = world.url, .env = env_real(), .writer = true, .partitions = PARTITIONS};
    enum err_code rc = wal_open(out, &options, err);

    (void)context;
    if (rc == ERR_OK)
        *out = world.log = wal_faulty_wrap(*out);
    return rc;
}

static void wait_ready(void)
{
    uint64_t end = env_boot_ns(env_real()) + WAIT_NS;
    struct buffer why = {0};

    while (!ingest_ready(&world.ingest, &why)) {
        assert_true(env_boot_ns(env_real()) < end);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
    }
    buffer_free(&why);
}

static void begin(void)
{
    struct ingest_setup setup = {.env = env_real(),
                                 .meta = world.meta,
                                 .name = "0",
                                 .url = "http://test",
                                 .open_wal = open_wal,
                                 .log_locks = true};
    struct err err = {0};

    memset(&world.ingest, 0, sizeof(world.ingest));
    assert_int_equal(ingest_open(&world.ingest, &setup, &err), ERR_OK);
    assert_int_equal(ingest_start(&world.ingest, NULL, &err), ERR_OK);
    world.open = true;
    wait_ready();
}

static void end(void)
{
    ingest_stop(&world.ingest);
    ingest_close(&world.ingest);
    world.open = false;
}

static int set_up(void **state)
{
    struct err err = {0};

    (void)state;
    memset(&world, 0, sizeof(world));
    (void)snprintf(world.dir, sizeof(world.dir), "/tmp/vicinal-foreign-XXXXXX");
    assert_non_null(mkdtemp(world.dir));
    (void)snprintf(world.url, sizeof(world.url), "file:%s/wal", world.dir);
    assert_int_equal(meta_open(&world.meta, "memory:", env_real(), &err), ERR_OK);
    begin();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (world.open)
        end();
    meta_close(world.meta);
    (void)scratch_remove(world.dir);
    return 0;
}

/* --- requests ------------------------------------------------------------------------------------
 */

static const char *media;

static const char *header(const struct request *req, const char *name)
{
    (void)req;
    return strcasecmp(name, "Content-Type") == 0 ? media : NULL;
}

/* The status; *answer (may be NULL) is the body, to be freed with json_decref. */
static int ask(const char *method, const char *path, const void *body, size_t len, json_t **answer)
{
    struct request req = {.state = &world.ingest,
                          .env = env_real(),
                          .method = method,
                          .path = path,
                          .query = "",
                          .body = body,
                          .body_len = len,
                          .received_ns = env_boot_ns(env_real()),
                          .header = header};
    int status;

    route_dispatch(ingest_routes, &req);
    status = req.reply.status;
    if (answer != NULL)
        *answer = json_loadb((const char *)req.reply.body.data, req.reply.body.len, 0, NULL);
    request_free(&req);
    return status;
}

static int ask_json(const char *method, const char *path, const char *body, json_t **answer)
{
    media = MEDIA_JSON;
    return ask(method, path, body, strlen(body), answer);
}

struct run {
    uint32_t region, partition;
    uint64_t from, to;
    uint32_t count;
    struct buffer records;
};

static void run_add(struct run *run, const struct record *record)
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
static size_t id_of(uint32_t partition, unsigned n, char out[32])
{
    for (unsigned i = 0;; i++) {
        size_t len = (size_t)snprintf(out, 32, "id-%u", i);

        if (record_partition(out, len, PARTITIONS) == partition && n-- == 0)
            return len;
    }
}

static const uint8_t INCARNATION[INCARNATION_BYTES] = {9};

static struct run run_of(uint32_t partition, uint64_t from, uint64_t to, uint64_t clock)
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
static int send_runs(struct run *runs, uint32_t count, json_t **answer)
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
    status = ask("POST", "/internal/v1/append", body.data, body.len, answer);
    assert_non_null(*answer);
    buffer_free(&body);
    return status;
}

/* The status of one run of an answer; its position or the error's text. */
static int read_run(json_t *answered, uint64_t *position, char *detail)
{
    const char *text = json_string_value(json_object_get(answered, "detail"));
    const char *code = json_string_value(json_object_get(answered, "code"));

    if (position != NULL)
        *position = (uint64_t)json_integer_value(json_object_get(answered, "position"));
    if (detail != NULL)
        (void)snprintf(detail, 320, "%s", text == NULL ? "" : text);
    return code == NULL ? 200 : err_status(err_from_word(code, strlen(code)));
}

static int send_run(struct run *run, uint64_t *position, char *detail)
{
    json_t *answer;
    int status = send_runs(run, 1, &answer);

    if (status == 200)
        status = read_run(json_array_get(json_object_get(answer, "runs"), 0), position, detail);
    json_decref(answer);
    return status;
}

static struct collection foreign_collection(const char *name, uint32_t dimension, uint64_t clock)
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

static int send_collection(const struct collection *collection, uint64_t offset)
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

/* --- what the log holds --------------------------------------------------------------------------
 */

typedef void look_fn(const struct record *record, uint64_t offset, void *context);

static void look_at(uint32_t partition, look_fn *look, void *context)
{
    struct epoch_state epochs = {0};
    struct wal_reader *reader;
    struct wal_item items[64];
    struct buffer scratch = {0};
    struct err err = {0};
    uint64_t position = 0, last;
    size_t count;

    assert_int_equal(wal_ends(world.log, &partition, 1, NEVER_NS, &last, &err), ERR_OK);
    assert_int_equal(wal_reader_open(&reader, world.log, &partition, &position, 1, &err), ERR_OK);
    while (position < last) {
        assert_int_equal(
            wal_reader_next(reader, items, 64, &count, env_boot_ns(env_real()) + WAIT_NS, &err),
            ERR_OK);
        for (size_t i = 0; i < count; i++) {
            struct record record;

            assert_int_equal(record_decode(&record, items[i].data, items[i].len, &scratch, &err),
                             ERR_OK);
            if (epoch_admit(&epochs, &record, items[i].offset))
                look(&record, items[i].offset, context);
            position = items[i].offset + 1;
        }
    }
    wal_reader_close(reader);
    buffer_free(&scratch);
}

struct tally {
    size_t foreign, local, creates, own_creates, drops, vectors;
    uint64_t local_clock, foreign_clock;
    struct version_vector vector;
};

static void count_record(const struct record *record, uint64_t offset, void *context)
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
            change == COLLECTION_CREATE && record->origin_region == world.ingest.sequencer.region;
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

/* --- promises: foreign runs ----------------------------------------------------------------------
 */

static void overlap_is_dropped_and_a_gap_is_refused(void **state)
{
    struct tally tally = {.foreign_clock = 5000};
    struct run run;
    uint64_t position;
    char detail[320];

    (void)state;
    run = run_of(1, 0, 6, 5000);
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 6);
    run = run_of(1, 8, 9, 5000);
    assert_int_equal(send_run(&run, NULL, detail), 409);
    assert_non_null(strstr(detail, "position 6 "));
    run = run_of(1, 3, 9, 5000);
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 9);
    run = run_of(1, 2, 5, 5000); /* nothing new */
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 9);
    look_at(1, count_record, &tally);
    assert_int_equal(tally.foreign, 9);
}

static void runs_that_bring_nothing_use_up_no_region(void **state)
{
    struct run run;
    uint64_t position;

    (void)state;
    for (uint32_t i = 0; i < 2 * VERSION_ENTRIES_MAX; i++) {
        run = (struct run){.region = 1000 + i, .partition = 1, .from = i % 2, .to = i % 2};
        assert_int_equal(send_run(&run, NULL, NULL), i % 2 == 0 ? 200 : 409);
    }
    run = run_of(1, 0, 6, 5000);
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 6);
}

static void a_run_without_records_moves_the_vector_for_good(void **state)
{
    struct run run = {.region = REGION, .partition = 3, .from = 0, .to = 40};
    struct tally tally = {0};
    uint64_t position;

    (void)state;
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 40);
    look_at(3, count_record, &tally);
    assert_int_equal(tally.vectors, 1);
    assert_int_equal(version_vector_find(&tally.vector, REGION)->position, 40);
    end();
    begin();
    run = run_of(3, 41, 42, 1);
    assert_int_equal(send_run(&run, NULL, NULL), 409);
    run = run_of(3, 40, 42, 1);
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 42);
}

static void stamps_are_kept_and_raise_the_clock(void **state)
{
    uint64_t ahead = env_wall_us(env_real()) + 100 * (uint64_t)1000000;
    struct tally tally = {.foreign_clock = ahead};
    struct run run = run_of(2, 0, 3, ahead);
    char body[128], id[32];

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(send_run(&run, NULL, NULL), 200);
    (void)id_of(2, 50, id);
    (void)snprintf(body, sizeof(body), "{\"records\":[{\"id\":\"%s\",\"vector\":[1,2]}]}", id);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records", body, NULL), 200);
    look_at(2, count_record, &tally);
    assert_int_equal(tally.local, 1);
    assert_true(tally.local_clock > ahead + 2);
}

/* One that is taken is the highest clock there is: what is written here afterwards would be lost.
 */
static void a_clock_that_cannot_be_is_refused(void **state)
{
    struct collection collection = foreign_collection("late", 2, UINT64_MAX);
    struct run run = run_of(1, 0, 1, UINT64_MAX);

    (void)state;
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 1, (uint64_t)INT64_MAX + 1);
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    assert_int_equal(send_collection(&collection, 0), 400);
    run = run_of(1, 0, 1, INT64_MAX);
    assert_int_equal(send_run(&run, NULL, NULL), 200);
}

static void a_run_that_lies_is_refused_whole(void **state)
{
    struct tally tally = {0};
    struct run run;
    struct record record;
    char id[32];

    (void)state;
    run = run_of(1, 0, 3, 1);
    run.partition = 2; /* ids of another partition */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.region = 78; /* records of another origin */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.region = world.ingest.sequencer.region;
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.to = 2; /* an offset beyond */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.count = 2; /* bytes left over */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.count = 4; /* bytes missing */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.records.data[40] ^= 1; /* damage */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 1, 1);
    run.to = 5;
    record = (struct record){.op = RECORD_EPOCH,
                             .stamp = {.clock = 9, .region = REGION},
                             .origin_region = REGION,
                             .origin_offset = 3,
                             .payload = INCARNATION,
                             .payload_len = HOLDER_BYTES};
    run_add(&run, &record);
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    (void)id_of(1, 0, id);
    look_at(1, count_record, &tally);
    assert_int_equal(tally.foreign, 0);
}

/* --- promises: collections -----------------------------------------------------------------------
 */

static void a_change_stands_once_in_every_partition(void **state)
{
    json_t *answer;

    (void)state;
    assert_int_equal(ask_json("PUT", "/v1/collections/a", "{\"vector\":{\"dimension\":2}}", NULL),
                     201);
    assert_int_equal(ask_json("PUT", "/v1/collections/a", "{\"vector\":{\"dimension\":2}}", NULL),
                     200);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/a", "{\"vector\":{\"dimension\":3}}", &answer), 409);
    assert_string_equal(json_string_value(json_object_get(answer, "code")), "collection_exists");
    json_decref(answer);
    assert_int_equal(ask_json("DELETE", "/v1/collections/b", "", NULL), 404);
    assert_int_equal(ask_json("DELETE", "/v1/collections/a", "", NULL), 204);
    assert_int_equal(ask_json("DELETE", "/v1/collections/a", "", NULL), 404);
    assert_int_equal(ask_json("POST", "/v1/collections/a/records", "{\"records\":[{}]}", NULL),
                     404);
    assert_int_equal(ask_json("PUT", "/v1/collections/a", "{\"vector\":{\"dimension\":3}}", NULL),
                     201);
    assert_int_equal(ask_json("POST", "/v1/collections/a/records", "{\"records\":[{}]}", NULL),
                     200);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        struct tally tally = {0};

        look_at(i, count_record, &tally);
        assert_int_equal(tally.creates, 2);
        assert_int_equal(tally.drops, 1);
    }
}

static void the_catalogue_comes_back_from_the_log_alone(void **state)
{
    struct catalogue_entry before, after;
    struct err err = {0};

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/kept", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/gone", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(ask_json("DELETE", "/v1/collections/gone", "", NULL), 204);
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "kept", &before));
    for (int lost = 0; lost < 2; lost++) {
        end();
        if (lost) {
            meta_close(world.meta);
            assert_int_equal(meta_open(&world.meta, "memory:", env_real(), &err), ERR_OK);
        }
        begin();
        assert_true(catalogue_find(&world.ingest.catalogue, "default", "kept", &after));
        assert_memory_equal(&before.collection, &after.collection, sizeof(after.collection));
        assert_int_equal(after.state, COLLECTION_ACTIVE);
        assert_true(catalogue_find(&world.ingest.catalogue, "default", "gone", &after));
        assert_int_equal(after.state, COLLECTION_DROPPED);
        assert_int_equal(
            ask_json("POST", "/v1/collections/kept/records", "{\"records\":[{}]}", NULL), 200);
    }
    assert_int_equal(
        ask_json("PUT", "/v1/collections/gone", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "gone", &after));
    assert_int_equal(after.collection.generation, 1);
}

static void a_change_cut_off_is_completed_by_the_next_holder(void **state)
{
    (void)state;
    wal_faulty_set(world.log, WAL_FAULT_HALF, 1, 1);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/half", "{\"vector\":{\"dimension\":2}}", NULL), 503);
    end(); /* pending as a rule; completed already if the settler was quick */
    begin();
    assert_int_equal(
        ask_json("PUT", "/v1/collections/half", "{\"vector\":{\"dimension\":2}}", NULL), 200);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        struct tally tally = {0};

        look_at(i, count_record, &tally);
        assert_true(tally.creates >= 1);
    }
}

static void a_change_cut_off_is_completed_by_itself(void **state)
{
    static const char PATH[] = "/v1/collections/again/records", BODY[] = "{\"records\":[{}]}";
    uint64_t end_ns = env_boot_ns(env_real()) + WAIT_NS;

    (void)state;
    wal_faulty_set(world.log, WAL_FAULT_HALF, 1, 1);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/again", "{\"vector\":{\"dimension\":2}}", NULL), 503);
    while (ask_json("POST", PATH, BODY, NULL) != 200)
        assert_true(env_boot_ns(env_real()) < end_ns);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        struct tally tally = {0};

        look_at(i, count_record, &tally);
        assert_true(tally.creates >= 1);
    }
    assert_int_equal(
        ask_json("PUT", "/v1/collections/again", "{\"vector\":{\"dimension\":2}}", NULL), 200);
}

static void a_change_that_never_landed_leaves_nothing(void **state)
{
    static const char ROW[] = "collection/default/never";
    static const char PATH[] = "/v1/collections/never/records", BODY[] = "{\"records\":[{}]}";
    struct meta_row row;
    struct err err;

    (void)state;
    wal_faulty_set(world.log, WAL_FAULT_BEFORE, 1, 1);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/never", "{\"vector\":{\"dimension\":2}}", NULL), 503);
    assert_int_equal(meta_get(world.meta, ROW, &row, &err), ERR_NOT_FOUND);
    wait_ready();
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 404);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/never", "{\"vector\":{\"dimension\":3}}", NULL), 201);
    wal_faulty_set(world.log, WAL_FAULT_BEFORE, 1, 1);
    assert_int_equal(ask_json("DELETE", "/v1/collections/never", "", NULL), 503);
    wait_ready();
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 200);
    assert_int_equal(meta_get(world.meta, ROW, &row, &err), ERR_OK);
    assert_non_null(strstr(row.value, "\"active\""));
    meta_row_free(&row);
}

static void a_foreign_change_reaches_every_partition_and_the_smaller_stamp_wins(void **state)
{
    uint64_t now = env_wall_us(env_real());
    struct collection theirs = foreign_collection("new", 5, now),
                      older = foreign_collection("clash", 7, 1000),
                      younger = foreign_collection("other", 7, now + 3600 * (uint64_t)1000000);
    struct catalogue_entry entry;

    (void)state;
    assert_int_equal(send_collection(&theirs, 0), 200);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        struct tally tally = {0};

        look_at(i, count_record, &tally);
        assert_int_equal(tally.creates, i == 1 ? 2 : 1);
    }
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "new", &entry));
    assert_int_equal(entry.state, COLLECTION_ACTIVE);
    assert_int_equal(entry.collection.dimension, 5);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/clash", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/other", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(send_collection(&older, 1), 200);
    assert_int_equal(send_collection(&younger, 2), 200);
    for (int again = 0; again < 2; again++) {
        assert_true(catalogue_find(&world.ingest.catalogue, "default", "clash", &entry));
        assert_int_equal(entry.collection.dimension, 7);
        assert_true(catalogue_find(&world.ingest.catalogue, "default", "other", &entry));
        assert_int_equal(entry.collection.dimension, 2);
        end();
        begin();
    }
}

/* Whoever meets a change appends it to all partitions, under its own name: so ours comes back. */
static void a_change_that_others_pass_on_is_taken(void **state)
{
    struct collection third = foreign_collection("third", 5, 1000);
    struct catalogue_entry entry;
    struct collection ours;

    (void)state;
    third.created.region = third.schema.region = REGION + 1;
    assert_int_equal(send_collection(&third, 0), 200);
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "third", &entry));
    assert_int_equal(entry.state, COLLECTION_ACTIVE);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/ours", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "ours", &entry));
    ours = entry.collection;
    assert_int_equal(send_collection(&ours, 1), 200);
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "ours", &entry));
    assert_int_equal(stamp_compare(entry.collection.schema, ours.schema), 0);
    assert_int_equal(entry.state, COLLECTION_ACTIVE);
}

/* Records that are written here must find the collection in a third region that does not hear from
 * the one that made it.  Regions that told each other again, each time, would never hear the end of
 * it. */
static void a_foreign_change_is_told_on_once(void **state)
{
    struct collection younger = foreign_collection("clash", 7, (uint64_t)1 << 60),
                      older = foreign_collection("clash", 9, 1000), ours;
    struct catalogue_entry entry;
    struct tally tally = {0};

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/clash", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "clash", &entry));
    ours = entry.collection;
    for (uint64_t offset = 0; offset < 5; offset++)
        assert_int_equal(send_collection(&younger, offset), 200);
    look_at(0, count_record, &tally);
    assert_int_equal(tally.creates, 2); /* ours and theirs */
    assert_int_equal(tally.own_creates, 2);
    assert_int_equal(send_collection(&older, 5), 200);
    /* Ours has lost now; it stands everywhere already, so nobody has to be told. */
    for (uint64_t offset = 6; offset < 10; offset++)
        assert_int_equal(send_collection(&ours, offset), 200);
    tally = (struct tally){0};
    look_at(0, count_record, &tally);
    assert_int_equal(tally.creates, 3);
    assert_int_equal(tally.own_creates, 3);
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "clash", &entry));
    assert_int_equal(entry.collection.dimension, 9);
}

/* Shards never take back a drop: a collection that ingest revived would swallow its records. */
static void a_drop_is_final_whatever_comes_later(void **state)
{
    static const char PATH[] = "/v1/collections/docs/records";
    static const char BODY[] = "{\"records\":[{\"id\":\"a\"}]}";
    struct catalogue_entry entry;
    struct collection again;

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "docs", &entry));
    again = entry.collection;
    assert_int_equal(ask_json("DELETE", "/v1/collections/docs", "", NULL), 204);
    again.schema.region = again.created.region = REGION;
    again.schema.clock = again.created.clock = again.schema.clock + (uint64_t)1000000000;
    assert_int_equal(send_collection(&again, 0), 200);
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 404);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 200);
    /* One that is older than the newest change, too. */
    assert_true(catalogue_find(&world.ingest.catalogue, "default", "docs", &entry));
    again = entry.collection;
    again.dropped = true;
    again.schema = (struct stamp){.clock = 1000, .region = REGION};
    assert_int_equal(send_collection(&again, 1), 200);
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 404);
    end();
    begin();
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 404);
}

static void a_foreign_definition_of_an_older_generation_does_not_stop_the_run(void **state)
{
    struct collection older = foreign_collection("docs", 7, 1000);
    struct catalogue_entry entry;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
        assert_int_equal(ask_json("DELETE", "/v1/collections/docs", "", NULL), 204);
    }
    assert_int_equal(send_collection(&older, 0), 200);
    for (int again = 0; again < 2; again++) {
        assert_true(catalogue_find(&world.ingest.catalogue, "default", "docs", &entry));
        assert_int_equal(entry.state, COLLECTION_DROPPED);
        assert_int_equal(entry.collection.generation, 1);
        end();
        begin();
    }
}

/* --- promises: records without shards
 * -------------------------------------------------------------- */

static void a_half_committed_request_says_which_half(void **state)
{
    json_t *answer, *errors;

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    wal_faulty_set(world.log, WAL_FAULT_HALF, 1, 1);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records",
                              "{\"records\":[{\"id\":\"a\"},{\"id\":\"b\"},{\"id\":\"c\"},"
                              "{\"id\":\"d\"}]}",
                              &answer),
                     503);
    errors = json_object_get(answer, "errors");
    assert_int_equal(json_array_size(errors), 2);
    assert_non_null(json_object_get(json_array_get(errors, 0), "id"));
    assert_non_null(json_string_value(json_object_get(answer, "read_token")));
    assert_true(json_is_true(json_object_get(answer, "committed")));
    json_decref(answer);
    wal_faulty_set(world.log, WAL_FAULT_NO_SPACE, 1, 1);
    wait_ready();
    assert_int_equal(
        ask_json("POST", "/v1/collections/docs/records", "{\"records\":[{\"id\":\"a\"}]}", &answer),
        507);
    assert_string_equal(json_string_value(json_object_get(answer, "code")), "insufficient_storage");
    json_decref(answer);
}

static void conditions_need_a_shard_and_plain_writes_do_not(void **state)
{
    static const char PATH[] = "/v1/collections/docs/records";
    json_t *answer;

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(ask_json("POST", PATH,
                              "{\"records\":[{\"id\":\"a\"},{\"id\":\"b\"},{\"id\":\"a\"}]}",
                              &answer),
                     200);
    assert_int_equal(json_integer_value(json_object_get(answer, "upserted_count")), 2);
    assert_int_equal(json_array_size(json_object_get(answer, "ids")), 3);
    json_decref(answer);
    assert_int_equal(
        ask_json("POST", PATH, "{\"records\":[{\"id\":\"a\"}],\"on_conflict\":\"fail\"}", &answer),
        503);
    assert_string_equal(json_string_value(json_object_get(answer, "code")), "shards_unavailable");
    json_decref(answer);
    assert_int_equal(ask_json("PUT", "/v1/collections/docs/records/a", "{\"text\":\"x\"}", NULL),
                     200);
    assert_int_equal(ask_json("DELETE", "/v1/collections/docs/records/a", "", NULL), 503);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records/delete",
                              "{\"ids\":[\"a\"],\"count\":false}", &answer),
                     200);
    assert_null(json_object_get(answer, "deleted_count"));
    json_decref(answer);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records/delete",
                              "{\"delete_all\":true,\"count\":false}", NULL),
                     200);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records/delete",
                              "{\"ids\":[\"a\"],\"delete_all\":true}", NULL),
                     400);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records/delete", "{}", NULL), 400);
    assert_int_equal(busy_count(world.ingest.busy), 0);
}

/* --- several runs at a time ----------------------------------------------------------------------
 */

static void runs_of_several_partitions_are_one_append(void **state)
{
    struct run runs[3] = {run_of(0, 0, 5, 1000), run_of(2, 0, 7, 2000), run_of(3, 0, 0, 0)};
    unsigned before = wal_faulty_appends(world.log);
    uint64_t position;
    json_t *answer, *answered;

    (void)state;
    assert_int_equal(send_runs(runs, 3, &answer), 200);
    assert_int_equal(wal_faulty_appends(world.log), before + 1);
    answered = json_object_get(answer, "runs");
    assert_int_equal(json_array_size(answered), 3);
    assert_int_equal(read_run(json_array_get(answered, 0), &position, NULL), 200);
    assert_int_equal(position, 5);
    assert_int_equal(read_run(json_array_get(answered, 1), &position, NULL), 200);
    assert_int_equal(position, 7);
    assert_int_equal(read_run(json_array_get(answered, 2), &position, NULL), 200);
    assert_int_equal(position, 0);
    json_decref(answer);
}

static void a_gap_in_one_run_does_not_hold_up_the_others(void **state)
{
    struct run runs[2] = {run_of(1, 3, 6, 1000), run_of(2, 0, 4, 2000)};
    uint64_t position;
    json_t *answer, *answered;

    (void)state;
    assert_int_equal(send_runs(runs, 2, &answer), 200);
    answered = json_object_get(answer, "runs");
    assert_int_equal(read_run(json_array_get(answered, 0), &position, NULL), 409);
    assert_int_equal(position, 0);
    assert_int_equal(read_run(json_array_get(answered, 1), &position, NULL), 200);
    assert_int_equal(position, 4);
    json_decref(answer);
}

static void a_partition_stands_once_in_a_request(void **state)
{
    struct run runs[2] = {run_of(1, 0, 2, 1000), run_of(1, 2, 4, 2000)};
    struct run none = run_of(1, 0, 0, 0);
    json_t *answer;

    (void)state;
    assert_int_equal(send_runs(runs, 2, &answer), 400);
    json_decref(answer);
    assert_int_equal(send_runs(&none, 0, &answer), 400);
    json_decref(answer);
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(overlap_is_dropped_and_a_gap_is_refused),
        PROMISE(runs_that_bring_nothing_use_up_no_region),
        PROMISE(a_run_without_records_moves_the_vector_for_good),
        PROMISE(stamps_are_kept_and_raise_the_clock),
        PROMISE(a_clock_that_cannot_be_is_refused),
        PROMISE(a_run_that_lies_is_refused_whole),
        PROMISE(runs_of_several_partitions_are_one_append),
        PROMISE(a_gap_in_one_run_does_not_hold_up_the_others),
        PROMISE(a_partition_stands_once_in_a_request),
        PROMISE(a_change_stands_once_in_every_partition),
        PROMISE(the_catalogue_comes_back_from_the_log_alone),
        PROMISE(a_change_cut_off_is_completed_by_the_next_holder),
        PROMISE(a_change_cut_off_is_completed_by_itself),
        PROMISE(a_change_that_never_landed_leaves_nothing),
        PROMISE(a_foreign_change_reaches_every_partition_and_the_smaller_stamp_wins),
        PROMISE(a_change_that_others_pass_on_is_taken),
        PROMISE(a_foreign_change_is_told_on_once),
        PROMISE(a_drop_is_final_whatever_comes_later),
        PROMISE(a_foreign_definition_of_an_older_generation_does_not_stop_the_run),
        PROMISE(a_half_committed_request_says_which_half),
        PROMISE(conditions_need_a_shard_and_plain_writes_do_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
