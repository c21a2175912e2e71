/* Imports of one ingest, over stores and a log that fail to order: whatever fails, a client that
 * goes on where the upload stands loses no row, and no row goes over what was written later.  A
 * part that is not taken leaves no objects, and none that a row or the log may name is removed. */
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

#include "common/base/checked.h"
#include "services/ingest/imports.h"
#include "services/shard/apply.h"
#include "tests/lib/scratch.h"
#include "tests/lib/wal_faulty.h"

#define PARTITIONS 4
#define WAIT_NS    (30 * NS_PER_S)
#define DIM        3u
#define ROWS       90u
#define PART_ROWS  30u

/* --- stores that fail to order --------------------------------------------------------------- */

enum fault { FAULT_NONE, FAULT_BEFORE, FAULT_AFTER };

struct ordered {
    enum fault fault;
    unsigned nth; /* 1: the next */
};

/* What is to become of this call. */
static enum fault turn(struct ordered *ordered)
{
    if (ordered->nth == 0 || --ordered->nth > 0)
        return FAULT_NONE;
    return ordered->fault;
}

static struct world {
    char dir[64], url[96], blob_url[96];
    struct meta *meta;
    struct blob *blob;
    struct wal *log;
    struct ingest ingest;
    struct meta faulty_meta; /* passes on to meta */
    struct meta_ops meta_ops;
    struct blob faulty_blob;
    struct blob_ops blob_ops;
    struct ordered meta_order, blob_order;
    bool removals_fail;
    void (*after_put)(void); /* once, when an object has been put */
    uint64_t wall_skip_us;
    struct env env;
    struct env_ops env_ops;
    bool open;
} world;

static enum err_code faulty_meta_put(struct meta *meta, const struct meta_put *put,
                                     uint64_t *version, struct err *err)
{
    bool ours = strncmp(put->key, "import/", 7) == 0;
    enum fault fault = ours ? turn(&world.meta_order) : FAULT_NONE;
    enum err_code rc = ERR_OK;

    (void)meta;
    if (fault != FAULT_BEFORE)
        rc = meta_put(world.meta, put, version, err);
    if (rc == ERR_OK && fault != FAULT_NONE)
        rc = err_set(err, ERR_UNAVAILABLE, "a store that fails to order");
    return rc;
}

static enum err_code faulty_meta_get(struct meta *meta, const char *key, uint64_t until_ns,
                                     struct meta_row *row, struct err *err)
{
    (void)meta, (void)until_ns;
    return meta_get(world.meta, key, row, err);
}

static enum err_code faulty_meta_remove(struct meta *meta, const char *key, uint64_t expected,
                                        struct err *err)
{
    (void)meta;
    return meta_delete(world.meta, key, expected, err);
}

static enum err_code faulty_meta_list(struct meta *meta, const char *prefix, struct meta_row **rows,
                                      size_t *count, struct err *err)
{
    (void)meta;
    return meta_list(world.meta, prefix, rows, count, err);
}

static enum err_code faulty_meta_version(struct meta *meta, uint64_t *version, struct err *err)
{
    (void)meta;
    return meta_version(world.meta, version, err);
}

static enum err_code faulty_meta_wait(struct meta *meta, uint64_t seen, uint64_t deadline_ns,
                                      uint64_t *version, struct err *err)
{
    (void)meta;
    return meta_wait(world.meta, seen, deadline_ns, version, err);
}

static enum err_code faulty_blob_put(struct blob *blob, const char *name, const void *data,
                                     size_t len, struct err *err)
{
    enum fault fault = turn(&world.blob_order);
    enum err_code rc = ERR_OK;

    (void)blob;
    if (fault != FAULT_BEFORE)
        rc = blob_put(world.blob, name, data, len, err);
    if (rc == ERR_OK && fault != FAULT_NONE)
        rc = err_set(err, ERR_INSUFFICIENT_STORAGE, "a store that fails to order");
    if (world.after_put != NULL) {
        void (*after_put)(void) = world.after_put;

        world.after_put = NULL;
        after_put();
    }
    return rc;
}

static enum err_code faulty_blob_remove(struct blob *blob, const char *name, struct err *err)
{
    (void)blob;
    if (world.removals_fail)
        return err_set(err, ERR_UNAVAILABLE, "a store that removes nothing");
    return blob_remove(world.blob, name, err);
}

static enum err_code faulty_blob_get(struct blob *blob, const struct blob_range *range,
                                     struct buffer *out, struct err *err)
{
    (void)blob;
    return blob_get(world.blob, range, out, err);
}

static enum err_code faulty_blob_size(struct blob *blob, const char *name, uint64_t *bytes,
                                      struct err *err)
{
    (void)blob;
    return blob_size(world.blob, name, bytes, err);
}

static uint64_t wall_us(struct env *env)
{
    (void)env;
    return env_wall_us(env_real()) + world.wall_skip_us;
}

/* --- life ------------------------------------------------------------------------------------ */

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

static bool is_ready(void)
{
    struct buffer why = {0};
    bool ready = ingest_ready(&world.ingest, &why);

    buffer_free(&why);
    return ready;
}

static void wait_ready(void)
{
    uint64_t end = env_boot_ns(env_real()) + WAIT_NS;

    while (!is_ready()) {
        assert_true(env_boot_ns(env_real()) < end);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
    }
}

static void begin(void)
{
    struct ingest_setup setup = {.env = &world.env,
                                 .meta = &world.faulty_meta,
                                 .blob = &world.faulty_blob,
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

static void set_faulty(void)
{
    world.meta_ops = *world.meta->ops;
    world.meta_ops.put = faulty_meta_put;
    world.meta_ops.get = faulty_meta_get;
    world.meta_ops.remove = faulty_meta_remove;
    world.meta_ops.list = faulty_meta_list;
    world.meta_ops.version = faulty_meta_version;
    world.meta_ops.wait = faulty_meta_wait;
    world.faulty_meta = (struct meta){.ops = &world.meta_ops, .env = env_real()};
    world.blob_ops = *world.blob->ops;
    world.blob_ops.put = faulty_blob_put;
    world.blob_ops.get = faulty_blob_get;
    world.blob_ops.size = faulty_blob_size;
    world.blob_ops.remove = faulty_blob_remove;
    world.faulty_blob = (struct blob){.ops = &world.blob_ops, .env = env_real()};
    world.env_ops = *env_real()->ops;
    world.env_ops.wall_us = wall_us;
    world.env = (struct env){.ops = &world.env_ops};
}

static int set_up(void **state)
{
    struct err err = {0};

    (void)state;
    memset(&world, 0, sizeof(world));
    (void)snprintf(world.dir, sizeof(world.dir), "/tmp/vicinal-imports-XXXXXX");
    assert_non_null(mkdtemp(world.dir));
    (void)snprintf(world.url, sizeof(world.url), "file:%s/wal", world.dir);
    (void)snprintf(world.blob_url, sizeof(world.blob_url), "file:%s/blob", world.dir);
    assert_int_equal(meta_open(&world.meta, "memory:", env_real(), &err), ERR_OK);
    assert_int_equal(blob_open(&world.blob, world.blob_url, env_real(), &err), ERR_OK);
    set_faulty();
    begin();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (world.open)
        end();
    meta_close(world.meta);
    blob_close(world.blob);
    (void)scratch_remove(world.dir);
    return 0;
}

/* --- requests -------------------------------------------------------------------------------- */

static const char *media = MEDIA_JSON;

static const char *header(const struct request *req, const char *name)
{
    (void)req;
    return strcasecmp(name, "Content-Type") == 0 ? media : NULL;
}

/* The status; *answer (may be NULL) is the body, to be freed with json_decref. */
static int ask(const char *method, const char *path, const char *query, const char *body,
               json_t **answer)
{
    struct request req = {.state = &world.ingest,
                          .env = &world.env,
                          .method = method,
                          .path = path,
                          .query = query,
                          .body = (const uint8_t *)body,
                          .body_len = strlen(body),
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

static void create_collection(void)
{
    assert_int_equal(ask("PUT", "/v1/collections/docs", "",
                         "{\"vector\":{\"dimension\":3,\"metric\":\"ip\"}}", NULL),
                     201);
}

/* A new import's path. */
static void create_import(char path[160])
{
    json_t *answer;

    assert_int_equal(
        ask("POST", "/v1/collections/docs/imports", "", "{\"format\":\"ndjson\"}", &answer), 201);
    (void)snprintf(path, 160, "/v1/collections/docs/imports/%s",
                   json_string_value(json_object_get(answer, "id")));
    json_decref(answer);
}

static uint64_t number_of(json_t *answer, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(answer, name));
}

static uint64_t stand(const char *path)
{
    json_t *answer;
    uint64_t offset;

    assert_int_equal(ask("GET", path, "", "", &answer), 200);
    offset = number_of(answer, "offset");
    json_decref(answer);
    return offset;
}

static int put_part(const char *path, uint64_t offset, const char *data, size_t len, bool is_final,
                    json_t **answer)
{
    char query[64], whole[200], *body = strndup(data, len);
    int status;

    assert_non_null(body);
    (void)snprintf(whole, sizeof(whole), "%s/data", path);
    (void)snprintf(query, sizeof(query), "offset=%llu%s", (unsigned long long)offset,
                   is_final ? "&final=true" : "");
    status = ask("PUT", whole, query, body, answer);
    free(body);
    return status;
}

/* --- what the log has in the end ------------------------------------------------------------- */

struct found {
    uint64_t live, manifests;
    char first_text[32]; /* of row 0 */
};

static enum err_code apply_one(struct apply *apply, struct store *store,
                               const struct wal_item *item, struct buffer *bulk, struct err *err)
{
    struct apply_input input = {
        .partition = item->partition, .offset = item->offset, .data = item->data, .len = item->len};
    struct apply_effects effects = {0};
    struct bulk_manifest manifest;
    struct store_txn *txn = NULL;
    bool wanted = false;
    enum err_code rc = apply_wants_bulk(apply, &input, &manifest, &wanted, err);

    buffer_reset(bulk);
    if (rc == ERR_OK && wanted) {
        struct blob_range range = {
            .name = manifest.name, .at = manifest.section.at, .len = manifest.section.bytes};

        rc = blob_get(world.blob, &range, bulk, err);
        input.bulk = bulk->data;
        input.bulk_len = bulk->len;
    }
    if (rc == ERR_OK)
        rc = store_begin(&txn, store, true, err);
    if (rc == ERR_OK)
        rc = apply_record(apply, txn, &input, &effects, err);
    if (rc == ERR_OK)
        rc = apply_flush(apply, txn, err);
    if (rc == ERR_OK)
        rc = store_commit(txn, err);
    if (rc == ERR_OK)
        apply_clean(apply);
    apply_effects_free(&effects);
    return rc;
}

static bool note_text(struct store_value value, struct found *found)
{
    const char *row = value.data;
    const char *id = memmem(row, value.len, "row-0\"", 6);

    if (id == NULL)
        return false;
    (void)snprintf(found->first_text, sizeof(found->first_text), "%.*s",
                   (int)(value.len - (size_t)(id - row)), id);
    return true;
}

static void look_for_first(struct store *store, struct found *found)
{
    struct store_txn *txn = NULL;
    struct store_cursor *cursor = NULL;
    struct store_value key, value;
    struct err err = {0};
    bool more = true;

    assert_int_equal(store_begin(&txn, store, false, &err), ERR_OK);
    assert_int_equal(store_cursor_open(&cursor, txn, STORE_ROWS,
                                       (struct store_value){.data = "", .len = 0}, &err),
                     ERR_OK);
    while (more && store_cursor_next(cursor, &key, &value, &more, &err) == ERR_OK && more)
        (void)note_text(value, found);
    store_cursor_close(cursor);
    store_abort(txn);
}

static void apply_items(struct apply *apply, struct store *store, struct found *found)
{
    uint32_t partitions[PARTITIONS];
    uint64_t positions[PARTITIONS] = {0}, ends[PARTITIONS], left = 0;
    struct wal_item items[64];
    struct wal_reader *reader;
    struct buffer bulk = {0};
    struct err err = {0};

    for (uint32_t p = 0; p < PARTITIONS; p++)
        partitions[p] = p;
    assert_int_equal(wal_ends(world.log, partitions, PARTITIONS, NEVER_NS, ends, &err), ERR_OK);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        left += ends[p];
    assert_int_equal(wal_reader_open(&reader, world.log, partitions, positions, PARTITIONS, &err),
                     ERR_OK);
    while (left > 0) {
        size_t count = 0;

        assert_int_equal(wal_reader_next(reader, items, ARRAY_COUNT(items), &count,
                                         env_boot_ns(env_real()) + WAIT_NS, &err),
                         ERR_OK);
        assert_true(count > 0);
        for (size_t i = 0; i < count && left > 0; i++, left--) {
            struct record record;

            if (apply_one(apply, store, &items[i], &bulk, &err) != ERR_OK)
                fail_msg("%s", err.message);
            assert_int_equal(record_peek(&record, items[i].data, items[i].len, &err), ERR_OK);
            found->manifests += record.op == RECORD_BULK_MANIFEST;
        }
    }
    wal_reader_close(reader);
    buffer_free(&bulk);
}

static struct found apply_log(void)
{
    struct apply_origin origin = {.region = wal_region(world.log)};
    struct store_options options = {.url = "memory:", .env = env_real()};
    struct apply *apply = calloc(1, sizeof(*apply));
    struct found found = {0};
    struct store *store;
    struct err err = {0};

    assert_non_null(apply);
    partition_set_fill(&origin.served, PARTITIONS);
    assert_int_equal(store_open(&store, &options, &err), ERR_OK);
    assert_int_equal(apply_create(apply, store, &origin, &err), ERR_OK);
    apply_items(apply, store, &found);
    for (uint32_t slot = 0; slot < PARTITIONS; slot++)
        found.live += apply->partitions[slot].counts.live;
    look_for_first(store, &found);
    apply_free(apply);
    store_close(store);
    free(apply);
    return found;
}

/* --- the client ------------------------------------------------------------------------------ */

struct upload {
    char path[160];
    char data[ROWS * 64];
    size_t ends[ROWS]; /* behind each row */
};

static void make_upload(struct upload *upload)
{
    size_t at = 0;

    create_import(upload->path);
    for (unsigned n = 0; n < ROWS; n++) {
        at +=
            (size_t)snprintf(upload->data + at, sizeof(upload->data) - at,
                             "{\"id\":\"row-%u\",\"vector\":[%u,1,2],\"text\":\"import\"}\n", n, n);
        upload->ends[n] = at;
    }
}

/* As a client does that hears nothing but 200: ask where to go on.  How many tries it took. */
static unsigned run_upload(struct upload *upload)
{
    size_t offset = 0, len = upload->ends[ROWS - 1];
    unsigned tries = 0;
    bool ended = false;

    while (!ended) {
        size_t part = offset;
        json_t *answer = NULL;
        int status;

        assert_true(tries++ < 50);
        wait_ready();
        for (unsigned n = 0; n < ROWS && upload->ends[n] <= offset + PART_ROWS * 52; n++)
            part = MAX_OF(part, upload->ends[n]);
        status = put_part(upload->path, offset, upload->data + offset, part - offset, part == len,
                          &answer);
        ended = status == 200 &&
                strcmp(json_string_value(json_object_get(answer, "state")), "succeeded") == 0;
        if (status == 200)
            offset = number_of(answer, "offset");
        else
            offset = stand(upload->path);
        json_decref(answer);
        /* Its end may have been taken without an answer. */
        if (!ended && offset == len && stand(upload->path) == len) {
            assert_int_equal(ask("GET", upload->path, "", "", &answer), 200);
            ended = strcmp(json_string_value(json_object_get(answer, "state")), "succeeded") == 0;
            json_decref(answer);
        }
    }
    return tries;
}

/* --- the promises ---------------------------------------------------------------------------- */

static void every_row_is_there_once(struct upload *upload)
{
    struct found found = apply_log();
    json_t *answer;

    assert_int_equal(found.live, ROWS);
    assert_int_equal(ask("GET", upload->path, "", "", &answer), 200);
    assert_int_equal(number_of(answer, "rows_done"), ROWS);
    assert_int_equal(number_of(answer, "rows_refused"), 0);
    assert_string_equal(json_string_value(json_object_get(answer, "state")), "succeeded");
    json_decref(answer);
}

static void with_fault(const char *where, enum fault fault, unsigned nth)
{
    struct upload upload;

    assert_int_equal(set_up(NULL), 0);
    create_collection();
    make_upload(&upload);
    if (strcmp(where, "meta") == 0)
        world.meta_order = (struct ordered){.fault = fault, .nth = nth};
    else
        world.blob_order = (struct ordered){.fault = fault, .nth = nth};
    (void)run_upload(&upload);
    every_row_is_there_once(&upload);
    assert_int_equal(tear_down(NULL), 0);
}

static void stores_may_fail_at_any_call(void **state)
{
    (void)state;
    for (unsigned nth = 1; nth <= 7; nth++) {
        with_fault("meta", FAULT_BEFORE, nth);
        with_fault("meta", FAULT_AFTER, nth);
    }
    for (unsigned nth = 1; nth <= 4; nth++) {
        with_fault("blob", FAULT_BEFORE, nth);
        with_fault("blob", FAULT_AFTER, nth);
    }
}

static void the_log_may_fail_at_any_append(void **state)
{
    static const enum wal_fault faults[] = {
        WAL_FAULT_BEFORE,      WAL_FAULT_AFTER,    WAL_FAULT_HALF,       WAL_FAULT_LATE_BEFORE,
        WAL_FAULT_LATE_BEHIND, WAL_FAULT_NO_SPACE, WAL_FAULT_VOID_BEFORE};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++)
        for (unsigned nth = 1; nth <= 3; nth++) {
            struct upload upload;

            assert_int_equal(set_up(NULL), 0);
            create_collection();
            make_upload(&upload);
            wal_faulty_set(world.log, faults[i], nth, 1);
            (void)run_upload(&upload);
            every_row_is_there_once(&upload);
            assert_int_equal(tear_down(NULL), 0);
        }
}

/* The part stands in the log, its row in the store says pending: the ingest dies.  What was written
 * since is newer than what the next one appends again. */
static void what_is_appended_again_does_not_win_again(void **state)
{
    struct upload upload;
    struct found found;
    uint64_t before;

    (void)state;
    create_collection();
    make_upload(&upload);
    before = apply_log().manifests;
    world.meta_order = (struct ordered){.fault = FAULT_BEFORE, .nth = 2}; /* "done" */
    assert_int_not_equal(
        put_part(upload.path, 0, upload.data, upload.ends[PART_ROWS - 1], false, NULL), 200);
    assert_int_equal(stand(upload.path), 0); /* not acknowledged */
    found = apply_log();
    assert_true(found.manifests > before);
    before = found.manifests;
    end();
    begin();
    assert_int_equal(ask("POST", "/v1/collections/docs/records", "",
                         "{\"records\":[{\"id\":\"row-0\",\"text\":\"after\"}]}", NULL),
                     200);
    /* Sent again it is found done: the client goes on behind it. */
    assert_int_equal(put_part(upload.path, 0, upload.data, upload.ends[PART_ROWS - 1], false, NULL),
                     409);
    assert_int_equal(stand(upload.path), upload.ends[PART_ROWS - 1]);
    (void)run_upload(&upload);
    every_row_is_there_once(&upload);
    found = apply_log();
    assert_true(found.manifests > before);
    assert_non_null(strstr(found.first_text, "after"));
}

/* A holder that was overtaken comes back to life with a part in its hands. */
static void who_was_overtaken_changes_nothing(void **state)
{
    struct import_job *old, *new;
    struct upload upload;
    struct err err = {0};
    const char *id;

    (void)state;
    create_collection();
    make_upload(&upload);
    id = strrchr(upload.path, '/') + 1;
    assert_int_equal(import_job_load(&old, world.meta, id, "docs", &err), ERR_OK);
    assert_int_equal(put_part(upload.path, 0, upload.data, upload.ends[PART_ROWS - 1], false, NULL),
                     200);
    old->next.offset = 7;
    assert_int_equal(import_job_save(old, world.meta, 1, &err), ERR_VERSION_CONFLICT);
    err_clear(&err);
    assert_int_equal(import_job_load(&new, world.meta, id, "docs", &err), ERR_OK);
    assert_int_equal(new->done.offset, upload.ends[PART_ROWS - 1]);
    import_job_free(old);
    import_job_free(new);
}

static void abandoned_imports_are_forgotten_after_a_day(void **state)
{
    char first[160], path[160];

    (void)state;
    create_collection();
    create_import(first);
    for (unsigned i = 1; i < IMPORT_JOBS_MAX; i++)
        create_import(path);
    assert_int_equal(
        ask("POST", "/v1/collections/docs/imports", "", "{\"format\":\"ndjson\"}", NULL), 429);
    world.wall_skip_us = IMPORT_KEPT_US - 1000000;
    assert_int_equal(put_part(first, 0, "{\"id\":\"a\"}\n", 11, false, NULL), 200);
    world.wall_skip_us += 60000000;
    create_import(path);
    assert_int_equal(ask("GET", first, "", "", NULL), 200); /* it was touched */
    assert_int_equal(stand(path), 0);
    assert_int_equal(put_part(first, 11, "{\"id\":\"b\"}\n", 11, true, NULL), 200);
    assert_int_equal(apply_log().live, 2);
}

static void a_row_that_makes_no_sense_is_told(void **state)
{
    static const char *const rows[] = {"", "{}", "[1]", "{\"collection\":\"docs\"}"};
    char path[160], key[64];
    struct meta_put put = {.key = key, .expected = META_ANY};
    struct err err = {0};

    (void)state;
    create_collection();
    create_import(path);
    (void)snprintf(key, sizeof(key), "import/%s", strrchr(path, '/') + 1);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        put.value = rows[i];
        put.value_len = strlen(rows[i]);
        assert_int_equal(meta_put(world.meta, &put, NULL, &err), ERR_OK);
        assert_int_equal(ask("GET", path, "", "", NULL), 500);
        assert_int_equal(put_part(path, 0, "{\"id\":\"a\"}\n", 11, false, NULL), 500);
    }
}

/* A run of region 77's partition 1 with one manifest; the status. */
static int send_foreign(const struct bulk_manifest *manifest)
{
    struct record record = {.op = RECORD_BULK_MANIFEST,
                            .stamp = {.clock = 1000, .region = 77},
                            .origin_region = 77,
                            .epoch = 5};
    struct buffer payload = {0}, encoded = {0}, body = {0};
    struct request req = {.state = &world.ingest,
                          .env = &world.env,
                          .method = "POST",
                          .path = "/internal/v1/append",
                          .query = "",
                          .received_ns = env_boot_ns(env_real()),
                          .header = header};
    struct err err = {0};
    int status;

    bulk_manifest_encode(manifest, &payload);
    record.payload = payload.data;
    record.payload_len = payload.len;
    assert_int_equal(record_encode(&record, &encoded, &err), ERR_OK);
    buffer_append_byte(&body, 2);
    buffer_append_u32(&body, 77);
    buffer_append_u32(&body, 1);
    buffer_append_u32(&body, 1);
    buffer_append_u64(&body, 0);
    buffer_append_u64(&body, 1);
    buffer_append_u32(&body, 1);
    buffer_append_u32(&body, (uint32_t)encoded.len);
    buffer_append(&body, encoded.data, encoded.len);
    req.body = body.data;
    req.body_len = body.len;
    media = MEDIA_BINARY;
    route_dispatch(ingest_routes, &req);
    media = MEDIA_JSON;
    status = req.reply.status;
    request_free(&req);
    buffer_free(&payload);
    buffer_free(&encoded);
    buffer_free(&body);
    return status;
}

static void another_regions_import_is_taken_when_its_object_is_here(void **state)
{
    struct bulk_manifest manifest = {.name = "imports/there/0-1",
                                     .section = {.rows = 1, .at = 10, .bytes = 32}};
    static const char bytes[64] = "an object";
    uint64_t before = apply_log().manifests;
    struct err err = {0};

    (void)state;
    assert_int_equal(send_foreign(&manifest), 503);
    assert_int_equal(blob_put(world.blob, manifest.name, bytes, 41, &err), ERR_OK);
    assert_int_equal(send_foreign(&manifest), 503); /* too short */
    assert_int_equal(apply_log().manifests, before);
    assert_int_equal(blob_put(world.blob, manifest.name, bytes, 42, &err), ERR_OK);
    assert_int_equal(send_foreign(&manifest), 200);
    assert_int_equal(send_foreign(&manifest), 200); /* known: not appended again */
    assert_int_equal(apply_log().manifests, before + 1);
    manifest.name[0] = '/';
    assert_int_equal(send_foreign(&manifest), 400);
}

/* --- what nobody names ------------------------------------------------------------------------ */

static bool count_one(void *context, const char *name)
{
    (void)name;
    ++*(size_t *)context;
    return true;
}

static size_t objects_of(const char *path)
{
    char prefix[64];
    struct err err = {0};
    size_t count = 0;

    (void)snprintf(prefix, sizeof(prefix), "imports/%s/", strrchr(path, '/') + 1);
    assert_int_equal(blob_list(world.blob, prefix, count_one, &count, &err), ERR_OK);
    return count;
}

static void a_part_whose_turn_does_not_come_leaves_nothing(void **state)
{
    struct upload upload;

    (void)state;
    create_collection();
    make_upload(&upload);
    assert_int_equal(put_part(upload.path, 7, upload.data, upload.ends[0], false, NULL), 409);
    assert_int_equal(objects_of(upload.path), 0);
    /* Nor does it take anything of one that was taken, whose rows it repeats. */
    (void)run_upload(&upload);
    assert_int_equal(put_part(upload.path, 0, upload.data, upload.ends[0], false, NULL), 409);
    every_row_is_there_once(&upload);
}

static char changed_path[160];

static void cancel_it(void)
{
    char path[200];

    (void)snprintf(path, sizeof(path), "%s/cancel", changed_path);
    assert_int_equal(ask("POST", path, "", "", NULL), 200);
}

static void a_part_of_an_import_that_is_cancelled_meanwhile_leaves_nothing(void **state)
{
    struct upload upload;

    (void)state;
    create_collection();
    make_upload(&upload);
    memcpy(changed_path, upload.path, sizeof(changed_path));
    world.after_put = cancel_it;
    assert_int_equal(put_part(upload.path, 0, upload.data, upload.ends[0], false, NULL), 409);
    assert_null(world.after_put);
    assert_int_equal(objects_of(upload.path), 0);
    assert_int_equal(apply_log().live, 0);
}

static struct upload *repeated;

static void take_it_first(void)
{
    assert_int_equal(
        put_part(repeated->path, 0, repeated->data, repeated->ends[ROWS - 1], true, NULL), 200);
}

/* Two requests bring the same bytes at the same place; the slower one is refused. */
static void a_part_that_was_sent_twice_is_there_once_and_stays(void **state)
{
    struct upload upload;

    (void)state;
    create_collection();
    make_upload(&upload);
    repeated = &upload;
    world.after_put = take_it_first;
    assert_int_equal(put_part(upload.path, 0, upload.data, upload.ends[ROWS - 1], true, NULL), 409);
    assert_int_equal(objects_of(upload.path), 1);
    every_row_is_there_once(&upload);
}

/* Rows for two objects and some more. */
static char *make_long_part(size_t *len)
{
    size_t size = (2 * (size_t)BULK_ROWS_MAX + 5) * 16, at = 0;
    char *part = malloc(size);

    assert_non_null(part);
    for (unsigned n = 0; n < 2 * BULK_ROWS_MAX + 5; n++)
        at += (size_t)snprintf(part + at, size - at, "{\"id\":\"%u\"}\n", n);
    *len = at;
    return part;
}

static void a_part_that_cannot_be_put_whole_leaves_nothing(void **state)
{
    size_t len;
    char *part = make_long_part(&len), path[160];

    (void)state;
    create_collection();
    create_import(path);
    for (unsigned nth = 1; nth <= 3; nth++)
        for (enum fault fault = FAULT_BEFORE; fault <= FAULT_AFTER; fault++) {
            world.blob_order = (struct ordered){.fault = fault, .nth = nth};
            assert_int_equal(put_part(path, 0, part, len, true, NULL), 507);
            assert_int_equal(objects_of(path), 0);
        }
    /* Where nothing can be removed it stays, and the answer is the same. */
    world.removals_fail = true;
    world.blob_order = (struct ordered){.fault = FAULT_BEFORE, .nth = 3};
    assert_int_equal(put_part(path, 0, part, len, true, NULL), 507);
    assert_int_equal(objects_of(path), 2);
    world.removals_fail = false;
    assert_int_equal(put_part(path, 0, part, len, true, NULL), 200);
    assert_int_equal(objects_of(path), 2 + 3);
    assert_int_equal(apply_log().live, 2 * BULK_ROWS_MAX + 5);
    free(part);
}

/* The row was to say its names: whether it does is not known to who was told that it failed. */
static void what_the_row_may_name_stays(void **state)
{
    struct upload upload;

    (void)state;
    create_collection();
    make_upload(&upload);
    for (enum fault fault = FAULT_BEFORE; fault <= FAULT_AFTER; fault++) {
        world.meta_order = (struct ordered){.fault = fault, .nth = 1}; /* "pending" */
        assert_int_equal(
            put_part(upload.path, 0, upload.data, upload.ends[PART_ROWS - 1], false, NULL), 503);
        assert_int_equal(objects_of(upload.path), fault);
    }
    (void)run_upload(&upload);
    every_row_is_there_once(&upload);
}

static void what_the_log_may_have_stays(void **state)
{
    static const enum wal_fault faults[] = {WAL_FAULT_BEFORE, WAL_FAULT_AFTER,
                                            WAL_FAULT_LATE_BEHIND};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
        struct upload upload;

        assert_int_equal(set_up(NULL), 0);
        create_collection();
        make_upload(&upload);
        wal_faulty_set(world.log, faults[i], 1, 1);
        (void)put_part(upload.path, 0, upload.data, upload.ends[PART_ROWS - 1], false, NULL);
        assert_int_equal(objects_of(upload.path), 1);
        wait_ready();
        /* Who cancels it finds it pending, and brings it in first. */
        memcpy(changed_path, upload.path, sizeof(changed_path));
        cancel_it();
        assert_int_equal(objects_of(upload.path), 1);
        assert_int_equal(apply_log().live, PART_ROWS);
        assert_int_equal(tear_down(NULL), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stores_may_fail_at_any_call),
        cmocka_unit_test(the_log_may_fail_at_any_append),
        cmocka_unit_test_setup_teardown(what_is_appended_again_does_not_win_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(who_was_overtaken_changes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(abandoned_imports_are_forgotten_after_a_day, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_row_that_makes_no_sense_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_regions_import_is_taken_when_its_object_is_here,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_part_whose_turn_does_not_come_leaves_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            a_part_of_an_import_that_is_cancelled_meanwhile_leaves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_part_that_was_sent_twice_is_there_once_and_stays, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_part_that_cannot_be_put_whole_leaves_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_the_row_may_name_stays, set_up, tear_down),
        cmocka_unit_test(what_the_log_may_have_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
