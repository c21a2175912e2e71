/* Imports of one ingest, over stores and a log that fail to order: whatever fails, a client that
 * goes on where the upload stands loses no row, and no row goes over what was written later. */
#include "tests/unit/imports_rig.h"

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
            wal_faulty_set(life.log, faults[i], nth, 1);
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
    life_end();
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
    media = MEDIA_BINARY;
    status = status_and_body(
        life_ask(&(struct question){
            .method = "POST", .path = "/internal/v1/append", .body = body.data, .len = body.len}),
        NULL);
    media = MEDIA_JSON;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stores_may_fail_at_any_call),
        cmocka_unit_test(the_log_may_fail_at_any_append),
        PROMISE(what_is_appended_again_does_not_win_again),
        PROMISE(who_was_overtaken_changes_nothing),
        PROMISE(abandoned_imports_are_forgotten_after_a_day),
        PROMISE(a_row_that_makes_no_sense_is_told),
        PROMISE(another_regions_import_is_taken_when_its_object_is_here),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
