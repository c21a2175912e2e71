/* A whole ingest in one process, with a spool, over a log that fails to order: asked through its
 * routes; and what its log has in the end.  Included by the unit tests of the replay. */
#ifndef VICINAL_TESTS_REPLAY_RIG_H
#define VICINAL_TESTS_REPLAY_RIG_H

#include <pthread.h>
#include <stdatomic.h>

#include "tests/unit/ingest_rig.h"

/* The world's env; a test may have one of its own. */
#ifndef REPLAY_ENV
#define REPLAY_ENV env_real()
#endif

#define FOR_LONG 1000000u /* appends */
#define RECORDS  "/v1/collections/docs/records"

struct world {
    char dir[64], spool[96];
    char own_url[64]; /* of a server of the test's; "": there is none */
    uint64_t spool_bytes;
    bool without_spool;              /* in the next life */
    spool_open_store_fn *open_spool; /* instead of by its URL */
    struct meta *meta;
    struct cluster *cluster; /* NULL: there are no shards */
    struct http_client *client;
    pthread_t trigger;
    bool triggered;
};

static struct world world;

static inline void begin(void)
{
    life_begin(&(struct ingest_setup){.meta = world.meta,
                                      .cluster = world.cluster,
                                      .client = world.client,
                                      .url = world.own_url[0] == '\0' ? NULL : world.own_url,
                                      .spool = world.without_spool ? NULL : world.spool,
                                      .open_spool = world.open_spool,
                                      .spool_bytes = world.spool_bytes});
}

static inline void join_trigger(void)
{
    if (world.triggered)
        assert_int_equal(pthread_join(world.trigger, NULL), 0);
    world.triggered = false;
}

static inline void end(void)
{
    ingest_stop(&life.ingest);
    join_trigger();
    ingest_close(&life.ingest);
    life.is_open = false;
}

static inline int tear_down(void **state)
{
    (void)state;
    if (life.is_open)
        end();
    meta_close(world.meta);
    (void)scratch_remove(world.dir);
    return 0;
}

/* --- requests ------------------------------------------------------------------------------------
 */

static inline struct answer ask(const char *method, const char *path, const void *body, size_t len)
{
    return life_ask(&(struct question){.method = method, .path = path, .body = body, .len = len});
}

static inline struct answer ask_json(const char *method, const char *path, const char *body)
{
    media = MEDIA_JSON;
    return ask(method, path, body, strlen(body));
}

static inline int status_in(struct answer answer)
{
    json_decref(answer.body);
    return answer.status;
}

static inline int status_of(const char *method, const char *path, const char *body)
{
    return status_in(ask_json(method, path, body));
}

static inline struct answer upsert(const char *id, const char *value)
{
    char body[160];

    (void)snprintf(body, sizeof(body), "{\"records\":[{\"id\":\"%s\",\"text\":\"%s\"}]}", id,
                   value);
    return ask_json("POST", RECORDS, body);
}

static inline int upsert_status(const char *id, const char *value)
{
    struct answer answer = upsert(id, value);

    json_decref(answer.body);
    return answer.status;
}

static inline int delete_status(const char *id)
{
    char body[160];

    (void)snprintf(body, sizeof(body), "{\"ids\":[\"%s\"],\"count\":false}", id);
    return status_of("POST", RECORDS "/delete", body);
}

static const char *text_of(struct answer answer, const char *name)
{
    const char *text = json_string_value(json_object_get(answer.body, name));

    return text == NULL ? "" : text;
}

/* 202, durability "spooled", and no token. */
static inline void expect_spooled(struct answer answer)
{
    assert_int_equal(answer.status, 202);
    assert_string_equal(text_of(answer, "durability"), "spooled");
    assert_null(json_object_get(answer.body, "read_token"));
    assert_null(json_object_get(answer.body, "version"));
    json_decref(answer.body);
}

/* 503 "unavailable", to be tried again. */
static inline void expect_refused(struct answer answer)
{
    assert_int_equal(answer.status, 503);
    assert_string_equal(text_of(answer, "code"), "unavailable");
    assert_true(answer.retry_after);
    json_decref(answer.body);
}

static inline json_int_t spool_number(const char *name)
{
    struct answer answer = ask_json("GET", "/internal/v1/status", "");
    json_t *number = json_object_get(json_object_get(answer.body, "spool"), name);
    json_int_t value = json_integer_value(number);

    assert_true(json_is_integer(number));
    json_decref(answer.body);
    return value;
}

static inline int set_up(void **state)
{
    struct err err = {0};

    (void)state;
    memset(&world, 0, sizeof(world));
    /* On the disk: how much is written meanwhile is a matter of its pace. */
    (void)snprintf(world.dir, sizeof(world.dir), "/tmp/vicinal-replay-XXXXXX");
    assert_non_null(mkdtemp(world.dir));
    life_prepare(REPLAY_ENV, world.dir);
    (void)snprintf(world.spool, sizeof(world.spool), "lmdb:%s/spool", world.dir);
    assert_int_equal(meta_open(&world.meta, "memory:", REPLAY_ENV, &err), ERR_OK);
    begin();
    assert_int_equal(status_of("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}"),
                     201);
    assert_int_equal(status_of("PUT", "/v1/collections/other", "{\"vector\":{\"dimension\":2}}"),
                     201);
    return 0;
}

/* --- the log, away and back ----------------------------------------------------------------------
 */

static inline void *write_first(void *unused)
{
    int status;

    do /* on a fast clock its time may be over before its turn has come */
        status = status_of("POST", "/v1/collections/other/records",
                           "{\"records\":[{\"id\":\"first\"}]}");
    while (status == 504);
    assert_true(status == 200 || status == 202 || status == 503);
    return unused;
}

static inline bool log_is_away(void)
{
    struct sequencer *s = &life.ingest.sequencer;
    bool is_away;

    pthread_mutex_lock(&s->lock);
    is_away = sequencer_is_away_locked(s);
    pthread_mutex_unlock(&s->lock);
    return is_away;
}

/* Nothing lands any more, and the ingest knows.  The write that finds out waits on for a while. */
static inline void log_goes_away(void)
{
    wal_faulty_set(life.log, WAL_FAULT_BEFORE, 1, FOR_LONG);
    assert_int_equal(pthread_create(&world.trigger, NULL, write_first, NULL), 0);
    world.triggered = true;
    AWAIT(log_is_away());
}

static inline void log_comes_back(void)
{
    wal_faulty_set(life.log, WAL_FAULT_NONE, 1, 1);
    AWAIT(is_ready());
    join_trigger();
}

static inline bool spool_is_empty(void)
{
    return !spool_waits(life.ingest.spool);
}

/* --- what the log holds --------------------------------------------------------------------------
 */

/* The valid records of one id, as they lie in the log. */
struct history {
    const char *id;
    size_t count;
    char newest[64]; /* "": a delete */
    struct stamp stamp;
    size_t of_value; /* times that `value` is there */
    const char *value;
};

static inline void note(const struct record *record, uint64_t offset, void *context)
{
    struct history *history = context;

    (void)offset;
    if ((record->op != RECORD_UPSERT && record->op != RECORD_DELETE) ||
        record->id_len != strlen(history->id) ||
        memcmp(record->id, history->id, record->id_len) != 0)
        return;
    assert_true(stamp_compare(record->stamp, history->stamp) > 0);
    history->stamp = record->stamp;
    history->count++;
    (void)snprintf(history->newest, sizeof(history->newest), "%.*s", (int)record->text_len,
                   record->text == NULL ? "" : record->text);
    if (history->value != NULL && strcmp(history->newest, history->value) == 0)
        history->of_value++;
}

static inline struct history history_of(const char *id, const char *value)
{
    struct history history = {.id = id, .value = value};

    look_at(record_partition(id, strlen(id), PARTITIONS), note, &history);
    return history;
}

/* The newest is this, and it is there once. */
static inline void expect_newest(const char *id, const char *value)
{
    struct history history = history_of(id, value);

    assert_string_equal(history.newest, value);
    assert_int_equal(history.of_value, 1);
}

/* --- many writers --------------------------------------------------------------------------------
 */

enum { WRITERS = 4, WRITER_IDS = 6, MAYBE_MAX = 4096 };

/* Writes its own ids, one write after the other. */
struct writer {
    pthread_t thread;
    unsigned number, seed, serial;
    unsigned spooled, committed, refused;
    /* Of each id: the last acknowledged value, 0 a delete or nothing; and refused ones behind it.
     */
    unsigned may[WRITER_IDS][MAYBE_MAX];
    unsigned may_count[WRITER_IDS];
};

static atomic_bool writers_end;
static atomic_int writers_failed; /* the status that none should get, or -1; 0: none did */

static inline void writer_id(const struct writer *writer, unsigned at, char out[16])
{
    (void)snprintf(out, 16, "w%u-%u", writer->number, at);
}

static inline void note_maybe(struct writer *writer, unsigned at, unsigned value)
{
    if (writer->may_count[at] < MAYBE_MAX)
        writer->may[at][writer->may_count[at]++] = value;
    else
        atomic_store(&writers_failed, -1);
}

static inline bool may_be(const struct writer *writer, unsigned at, unsigned value)
{
    bool may = false;

    for (unsigned i = 0; i < writer->may_count[at]; i++)
        may = may || writer->may[at][i] == value;
    return may;
}

static inline void *keep_writing(void *argument)
{
    struct writer *writer = argument;

    while (!atomic_load(&writers_end)) {
        unsigned at = (unsigned)rand_r(&writer->seed) % WRITER_IDS;
        bool is_delete = rand_r(&writer->seed) % 5 == 0;
        unsigned value = ++writer->serial;
        char id[16], text[16];
        int status;

        writer_id(writer, at, id);
        (void)snprintf(text, sizeof(text), "%u", value);
        status = is_delete ? delete_status(id) : upsert_status(id, text);
        if (status == 200 || status == 202) {
            writer->may_count[at] = 0;
            *(status == 200 ? &writer->committed : &writer->spooled) += 1;
        } else if ((status != 503 && status != 504) || /* 504: a slow disk */
                   env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS) != ERR_OK) {
            atomic_store(&writers_failed, status);
        } else {
            writer->refused++;
        }
        note_maybe(writer, at, is_delete ? 0 : value);
    }
    return NULL;
}

/* Writes of many threads, while appends go wrong in these ways: of each id the log ends with what
 * was acknowledged last, or with one that was refused since. */
static inline void write_through_faults(const enum wal_fault *faults, size_t fault_count)
{
    const char *given = getenv("VICINAL_SEED");
    unsigned seed = given == NULL ? (unsigned)getpid() : (unsigned)strtoul(given, NULL, 10);
    struct writer *writers = calloc(WRITERS, sizeof(*writers));
    unsigned spooled = 0, committed = 0, refused = 0;

    printf("VICINAL_SEED=%u\n", seed);
    assert_non_null(writers);
    atomic_store(&writers_end, false);
    atomic_store(&writers_failed, 0);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i].number = i;
        writers[i].seed = seed + i + 1;
        for (unsigned at = 0; at < WRITER_IDS; at++)
            note_maybe(&writers[i], at, 0);
        assert_int_equal(pthread_create(&writers[i].thread, NULL, keep_writing, &writers[i]), 0);
    }
    for (unsigned round = 0; round < 24; round++) {
        unsigned appends = wal_faulty_appends(life.log);

        wal_faulty_set(life.log, faults[(unsigned)rand_r(&seed) % fault_count],
                       1 + (unsigned)rand_r(&seed) % 3, 1);
        wal_faulty_then(life.log, WAL_FAULT_BEFORE, (unsigned)rand_r(&seed) % 4);
        AWAIT(wal_faulty_appends(life.log) > appends);
        if (round % 3 == 0) /* the writers do not keep it from becoming empty */
            AWAIT(is_ready() && spool_is_empty());
    }
    wal_faulty_set(life.log, WAL_FAULT_NONE, 1, 1);
    atomic_store(&writers_end, true);
    for (unsigned i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
        spooled += writers[i].spooled;
        committed += writers[i].committed;
        refused += writers[i].refused;
    }
    AWAIT(is_ready() && spool_is_empty());
    printf("%u committed, %u spooled, %u refused\n", committed, spooled, refused);
    assert_int_equal(atomic_load(&writers_failed), 0);
    for (unsigned i = 0; i < WRITERS; i++)
        for (unsigned at = 0; at < WRITER_IDS; at++) {
            struct history history;
            char id[16];

            writer_id(&writers[i], at, id);
            history = history_of(id, NULL);
            if (!may_be(&writers[i], at, (unsigned)strtoul(history.newest, NULL, 10)))
                fail_msg("%s ends as '%s'", id, history.newest);
        }
    AWAIT(busy_count(life.ingest.busy) == 0);
    free(writers);
}

/* --- another ingest's rows
 * -------------------------------------------------------------------------
 */

struct rows {
    struct buffer bytes;
    uint32_t count;
};

static inline void add_bytes(struct rows *rows, const void *data, size_t len)
{
    buffer_append_u32(&rows->bytes, (uint32_t)len);
    buffer_append(&rows->bytes, data, len);
    rows->count++;
}

static inline struct spool_row row_of(struct buffer *record_bytes, const char *collection,
                                      const char *id)
{
    struct record record = {.op = RECORD_UPSERT, .id = id, .id_len = strlen(id)};
    struct spool_row row = {.wall_us = env_wall_us(REPLAY_ENV),
                            .stamp = {.clock = 5, .region = life.ingest.sequencer.region},
                            .life = {1},
                            .term = 1};
    struct catalogue_entry entry;

    if (catalogue_find(&life.ingest.catalogue, "default", collection, &entry))
        memcpy(record.incarnation, entry.collection.incarnation, INCARNATION_BYTES);
    buffer_reset(record_bytes);
    assert_int_equal(record_encode(&record, record_bytes, NULL), ERR_OK);
    (void)snprintf(row.tenant, sizeof(row.tenant), "default");
    (void)snprintf(row.collection, sizeof(row.collection), "%s", collection);
    memcpy(row.incarnation, record.incarnation, INCARNATION_BYTES);
    row.id = id;
    row.id_len = strlen(id);
    row.record = record_bytes->data;
    row.record_len = record_bytes->len;
    return row;
}

static inline void add_row(struct rows *rows, const struct spool_row *row)
{
    struct buffer bytes = {0};

    spool_row_encode(row, &bytes);
    add_bytes(rows, bytes.data, bytes.len);
    buffer_free(&bytes);
}

static inline void add(struct rows *rows, const char *collection, const char *id)
{
    struct buffer record = {0};
    struct spool_row row = row_of(&record, collection, id);

    add_row(rows, &row);
    buffer_free(&record);
}

/* Send them and free them.  more: bytes behind the last one. */
static inline struct answer send_as(struct rows *rows, uint8_t version, uint32_t count,
                                    const char *more)
{
    struct buffer body = {0};
    struct answer answer;

    buffer_append_byte(&body, version);
    buffer_append_u32(&body, count);
    buffer_append(&body, rows->bytes.data, rows->bytes.len);
    buffer_append_text(&body, more);
    media = MEDIA_BINARY;
    answer = ask("POST", "/internal/v1/replay", body.data, body.len);
    buffer_free(&body);
    buffer_free(&rows->bytes);
    rows->count = 0;
    return answer;
}

static inline struct answer send_rows(struct rows *rows)
{
    return send_as(rows, 1, rows->count, "");
}

#endif
