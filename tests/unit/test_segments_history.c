/* A segment is believed only beside the store whose history it is of: not after the store was made
 * anew, not when an older copy of it was put in its place, and not when it is damaged.  Then all is
 * linked again, nothing is missing, and it is said. */
#include "tests/unit/segments_rig.h"

static void expect_all(struct rig *rig, const struct collection *collection, uint64_t count)
{
    assert_int_equal(segments_live(rig, collection), count);
    for (unsigned i = 0; i < count; i += 1009)
        assert_true(segments_finds(rig, collection, i, 0));
}

static void a_store_made_anew_has_another_life(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    uint64_t life = rig->shard.apply.life;
    char folder[SEGMENTS_PATH_BYTES];

    (void)state;
    assert_true(life != 0);
    segments_path(folder, rig, &collection);
    assert_true(path_is_there(folder));
    segments_restart(rig);
    assert_true(rig->shard.apply.life == life);
    rig_close_shard(rig);
    must(store_clear(rig->store, NULL), NULL);
    rig_open_shard(rig);
    rig_await_ready(rig);
    rig_catch_up(rig);
    assert_true(rig->shard.apply.life != 0);
    assert_true(rig->shard.apply.life != life);
    assert_false(path_is_there(folder));
    expect_all(rig, &collection, SEGMENTS_COUNT);
    AWAIT(covered_of(rig, &collection) > 0);
    assert_int_equal(entries_of(rig->segments), 1);
    rig_free(rig);
}

/* A shard that finds, while it runs, that its store is not of the log. */
static void another_log_has_another_life(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    uint64_t life = rig->shard.apply.life;

    (void)state;
    rig_close_shard(rig);
    wal_close(rig->writer);
    rig_open_log(rig, "another");
    collection = segments_collection(rig, "c");
    segments_fill(rig, &collection, 0, 50);
    rig_open_shard(rig);
    rig_await_ready(rig);
    rig_catch_up(rig);
    assert_true(rig->shard.apply.life != life);
    expect_all(rig, &collection, 50);
    assert_int_equal(entries_of(rig->segments), 1);
    rig_free(rig);
}

/* The store of before the last records were applied: the segment has ordinals that it will give to
 * others. */
static void a_segment_that_is_ahead_of_the_store_is_removed(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_collection(rig, "c");

    (void)state;
    segments_fill(rig, &collection, 0, 5000);
    rig_catch_up(rig);
    rig_close_shard(rig);
    segments_swap_store(rig, false);
    rig_open_shard(rig);
    rig_await_ready(rig);
    segments_fill(rig, &collection, 5000, SEGMENTS_COUNT);
    rig_catch_up(rig);
    AWAIT(covered_of(rig, &collection) > 0);
    rig_close_shard(rig);
    segments_swap_store(rig, true);
    rig_open_shard(rig);
    rig_await_ready(rig);
    rig_catch_up(rig);
    assert_int_equal(set_aside_count(rig), 1);
    expect_all(rig, &collection, SEGMENTS_COUNT);
    /* What it keeps from now on is its own. */
    AWAIT(covered_of(rig, &collection) > 0);
    segments_restart(rig);
    assert_true(covered_of(rig, &collection) > 0);
    expect_all(rig, &collection, SEGMENTS_COUNT);
    rig_free(rig);
}

static ino_t inode_of(const char *path)
{
    struct stat about;

    assert_int_equal(stat(path, &about), 0);
    return about.st_ino;
}

/* The store of before some were deleted, whose vectors the segment has left behind since: no
 * ordinal is amiss, but vectors that live again are not there. */
static void a_segment_that_lacks_what_lives_is_removed(void **state)
{
    struct rig *rig = segments_rig_ready();
    unsigned count = SEGMENTS_LEAST + 4000, deleted = 3500;
    struct collection collection = segments_collection(rig, "c");
    char folder[SEGMENTS_PATH_BYTES], path[SEGMENTS_PATH_BYTES + 16];
    ino_t before;

    (void)state;
    segments_fill(rig, &collection, 0, count);
    rig_catch_up(rig);
    AWAIT(covered_of(rig, &collection) > 0);
    segments_path(folder, rig, &collection);
    (void)snprintf(path, sizeof(path), "%s/graph.seg", folder);
    rig_close_shard(rig);
    before = inode_of(path);
    segments_swap_store(rig, false);
    rig_open_shard(rig);
    rig_await_ready(rig);
    segments_write(rig, &collection, RECORD_DELETE, 0, deleted, 0);
    rig_catch_up(rig);
    AWAIT(inode_of(path) != before); /* rebuilt without them, and written */
    rig_close_shard(rig);
    segments_swap_store(rig, true);
    rig_open_shard(rig);
    rig_await_ready(rig);
    /* As it began, before the log was read on. */
    assert_int_equal(set_aside_count(rig), 1);
    rig_catch_up(rig);
    assert_int_equal(segments_live(rig, &collection), count - deleted);
    assert_true(segments_finds(rig, &collection, deleted, 0));
    assert_false(segments_finds(rig, &collection, deleted - 1, 0));
    rig_free(rig);
}

static void a_damaged_segment_is_set_aside(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    char folder[SEGMENTS_PATH_BYTES], path[SEGMENTS_PATH_BYTES + 32];
    int fd;

    (void)state;
    segments_path(folder, rig, &collection);
    rig_close_shard(rig);
    (void)snprintf(path, sizeof(path), "%s/graph.seg", folder);
    fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "damage", 6, 4096), 6);
    close(fd);
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_int_equal(set_aside_count(rig), 1);
    (void)snprintf(path, sizeof(path), "%s/graph.seg.damaged", folder);
    assert_true(path_is_there(path));
    expect_all(rig, &collection, SEGMENTS_COUNT);
    rig_free(rig);
}

/* Any call of the store fails once while the shard starts: it tries again, and the segment is
 * there still. */
static void a_store_that_fails_is_no_fault_of_the_segment(void **state)
{
    static const unsigned far_calls[] = {100, 1000, 9000, 10200, 10300, 10310, 10320, 10340, 10360};
    struct rig *rig = segments_rig_new(false);
    struct faulty *faulty = faulty_new(false);
    struct collection collection;
    uint32_t covered;

    (void)state;
    faulty->syncs = true;
    store_close(rig->store);
    rig->store = &faulty->base;
    rig_open_shard(rig);
    rig_await_ready(rig);
    collection = segments_kept(rig, "c");
    covered = covered_of(rig, &collection);
    for (unsigned i = 1; i < 30 + ARRAY_COUNT(far_calls); i++) {
        rig_close_shard(rig);
        faulty_fail_at(faulty, i < 30 ? i : far_calls[i - 30]);
        rig_open_shard(rig);
        rig_await_ready(rig);
        assert_int_equal(set_aside_count(rig), 0);
        assert_int_equal(covered_of(rig, &collection), covered);
        assert_int_equal(segments_live(rig, &collection), SEGMENTS_COUNT);
    }
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_made_anew_has_another_life),
        cmocka_unit_test(another_log_has_another_life),
        cmocka_unit_test(a_segment_that_is_ahead_of_the_store_is_removed),
        cmocka_unit_test(a_segment_that_lacks_what_lives_is_removed),
        cmocka_unit_test(a_damaged_segment_is_set_aside),
        cmocka_unit_test(a_store_that_fails_is_no_fault_of_the_segment),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
