/* One ingest over stores and a log that fail to order, a client that uploads to it, and what the
 * log has in the end.  Included by the unit tests of imports. */
#ifndef VICINAL_TESTS_IMPORTS_RIG_H
#define VICINAL_TESTS_IMPORTS_RIG_H

#include "common/base/checked.h"
#include "services/ingest/imports.h"
#include "services/shard/apply.h"
#include "tests/unit/ingest_rig.h"

#define DIM       3u
#define ROWS      90u
#define PART_ROWS 30u

/* --- stores that fail to order --------------------------------------------------------------- */

enum fault { FAULT_NONE, FAULT_BEFORE, FAULT_AFTER };

struct ordered {
    enum fault fault;
    unsigned nth; /* 1: the next */
};

/* What is to become of this call. */
static inline enum fault turn(struct ordered *ordered)
{
    if (ordered->nth == 0 || --ordered->nth > 0)
        return FAULT_NONE;
    return ordered->fault;
}

static struct world {
    char dir[64], blob_url[96];
    struct meta *meta;
    struct blob *blob;
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
} world;

static inline enum err_code faulty_meta_put(struct meta *meta, const struct meta_put *put,
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

static inline enum err_code faulty_meta_get(struct meta *meta, const char *key, uint64_t until_ns,
                                            struct meta_row *row, struct err *err)
{
    (void)meta, (void)until_ns;
    return meta_get(world.meta, key, row, err);
}

static inline enum err_code faulty_meta_remove(struct meta *meta, const char *key,
                                               uint64_t expected, struct err *err)
{
    (void)meta;
    return meta_delete(world.meta, key, expected, err);
}

static inline enum err_code faulty_meta_list(struct meta *meta, const char *prefix,
                                             struct meta_row **rows, size_t *count, struct err *err)
{
    (void)meta;
    return meta_list(world.meta, prefix, rows, count, err);
}

static inline enum err_code faulty_meta_version(struct meta *meta, uint64_t *version,
                                                struct err *err)
{
    (void)meta;
    return meta_version(world.meta, version, err);
}

static inline enum err_code faulty_meta_wait(struct meta *meta, uint64_t seen, uint64_t deadline_ns,
                                             uint64_t *version, struct err *err)
{
    (void)meta;
    return meta_wait(world.meta, seen, deadline_ns, version, err);
}

static inline enum err_code faulty_blob_put(struct blob *blob, const char *name, const void *data,
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

static inline enum err_code faulty_blob_remove(struct blob *blob, const char *name, struct err *err)
{
    (void)blob;
    if (world.removals_fail)
        return err_set(err, ERR_UNAVAILABLE, "a store that removes nothing");
    return blob_remove(world.blob, name, err);
}

static inline enum err_code faulty_blob_get(struct blob *blob, const struct blob_range *range,
                                            struct buffer *out, struct err *err)
{
    (void)blob;
    return blob_get(world.blob, range, out, err);
}

static inline enum err_code faulty_blob_size(struct blob *blob, const char *name, uint64_t *bytes,
                                             struct err *err)
{
    (void)blob;
    return blob_size(world.blob, name, bytes, err);
}

static inline uint64_t wall_us(struct env *env)
{
    (void)env;
    return env_wall_us(env_real()) + world.wall_skip_us;
}

/* --- life ------------------------------------------------------------------------------------ */

static inline void begin(void)
{
    life_begin(&(struct ingest_setup){.meta = &world.faulty_meta, .blob = &world.faulty_blob});
}

static inline void set_faulty(void)
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

static inline int set_up(void **state)
{
    struct err err = {0};

    (void)state;
    memset(&world, 0, sizeof(world));
    assert_true(scratch_make(world.dir, sizeof(world.dir), "imports"));
    life_prepare(&world.env, world.dir);
    (void)snprintf(world.blob_url, sizeof(world.blob_url), "file:%s/blob", world.dir);
    assert_int_equal(meta_open(&world.meta, "memory:", env_real(), &err), ERR_OK);
    assert_int_equal(blob_open(&world.blob, world.blob_url, env_real(), &err), ERR_OK);
    set_faulty();
    begin();
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    if (life.is_open)
        life_end();
    meta_close(world.meta);
    blob_close(world.blob);
    (void)scratch_remove(world.dir);
    return 0;
}

/* --- requests -------------------------------------------------------------------------------- */

/* The status; *answer (may be NULL) is the body, to be freed with json_decref. */
static inline int ask(const char *method, const char *path, const char *query, const char *body,
                      json_t **answer)
{
    return status_and_body(
        life_ask(&(struct question){
            .method = method, .path = path, .query = query, .body = body, .len = strlen(body)}),
        answer);
}

static inline void create_collection(void)
{
    assert_int_equal(ask("PUT", "/v1/collections/docs", "",
                         "{\"vector\":{\"dimension\":3,\"metric\":\"ip\"}}", NULL),
                     201);
}

/* A new import's path. */
static inline void create_import(char path[160])
{
    json_t *answer;

    assert_int_equal(
        ask("POST", "/v1/collections/docs/imports", "", "{\"format\":\"ndjson\"}", &answer), 201);
    (void)snprintf(path, 160, "/v1/collections/docs/imports/%s",
                   json_string_value(json_object_get(answer, "id")));
    json_decref(answer);
}

static inline uint64_t number_of(json_t *answer, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(answer, name));
}

static inline uint64_t stand(const char *path)
{
    json_t *answer;
    uint64_t offset;

    assert_int_equal(ask("GET", path, "", "", &answer), 200);
    offset = number_of(answer, "offset");
    json_decref(answer);
    return offset;
}

static inline int put_part(const char *path, uint64_t offset, const char *data, size_t len,
                           bool is_final, json_t **answer)
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

static inline enum err_code apply_one(struct apply *apply, struct store *store,
                                      const struct wal_item *item, struct buffer *bulk,
                                      struct err *err)
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

static inline bool note_text(struct store_value value, struct found *found)
{
    const char *row = value.data;
    const char *id = memmem(row, value.len, "row-0\"", 6);

    if (id == NULL)
        return false;
    (void)snprintf(found->first_text, sizeof(found->first_text), "%.*s",
                   (int)(value.len - (size_t)(id - row)), id);
    return true;
}

static inline void look_for_first(struct store *store, struct found *found)
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

static inline void apply_items(struct apply *apply, struct store *store, struct found *found)
{
    uint32_t partitions[PARTITIONS];
    uint64_t positions[PARTITIONS] = {0}, ends[PARTITIONS], left = 0;
    struct wal_item items[64];
    struct wal_reader *reader;
    struct buffer bulk = {0};
    struct err err = {0};

    for (uint32_t p = 0; p < PARTITIONS; p++)
        partitions[p] = p;
    assert_int_equal(wal_ends(life.log, partitions, PARTITIONS, NEVER_NS, ends, &err), ERR_OK);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        left += ends[p];
    assert_int_equal(wal_reader_open(&reader, life.log, partitions, positions, PARTITIONS, &err),
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

static inline struct found apply_log(void)
{
    struct apply_origin origin = {.region = wal_region(life.log)};
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

static inline void make_upload(struct upload *upload)
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
static inline unsigned run_upload(struct upload *upload)
{
    size_t offset = 0, len = upload->ends[ROWS - 1];
    unsigned tries = 0;
    bool ended = false;

    while (!ended) {
        size_t part = offset;
        json_t *answer = NULL;
        int status;

        assert_true(tries++ < 50);
        AWAIT(is_ready());
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

/* --- in the end ------------------------------------------------------------------------------ */

static inline void every_row_is_there_once(struct upload *upload)
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

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
