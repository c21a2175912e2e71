/* A part of an import that is not taken leaves no objects, and none that a row or the log may name
 * is removed. */
#include "tests/unit/imports_rig.h"

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
        wal_faulty_set(life.log, faults[i], 1, 1);
        (void)put_part(upload.path, 0, upload.data, upload.ends[PART_ROWS - 1], false, NULL);
        assert_int_equal(objects_of(upload.path), 1);
        AWAIT(is_ready());
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
        PROMISE(a_part_whose_turn_does_not_come_leaves_nothing),
        PROMISE(a_part_of_an_import_that_is_cancelled_meanwhile_leaves_nothing),
        PROMISE(a_part_that_was_sent_twice_is_there_once_and_stays),
        PROMISE(a_part_that_cannot_be_put_whole_leaves_nothing),
        PROMISE(what_the_row_may_name_stays),
        cmocka_unit_test(what_the_log_may_have_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
