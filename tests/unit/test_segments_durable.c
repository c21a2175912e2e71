/* A segment takes its place only after a commit has followed on all that the engine was told, and
 * the store was synced; what fails on the way is told, counted, and tried again.
 * link-flags: -Wl,--wrap=store_sync,--wrap=store_commit,--wrap=renameat
 * pace: long */
#include "tests/unit/segments_rig.h"

static atomic_bool syncs_fail;
static atomic_uint syncs_failed;
static atomic_bool commits_wait; /* and fail in the end, if commits_fail */
static atomic_bool commits_fail;
static atomic_bool commit_waits; /* one is being held */
static atomic_uint segments_placed;
static atomic_uint placed_unsynced;
static _Thread_local bool has_synced; /* this thread, since it last put a segment in its place */

enum err_code __real_store_sync(struct store *store, struct err *err);
enum err_code __wrap_store_sync(struct store *store, struct err *err);
enum err_code __real_store_commit(struct store_txn *txn, struct err *err);
enum err_code __wrap_store_commit(struct store_txn *txn, struct err *err);
int __real_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to);

enum err_code __wrap_store_sync(struct store *store, struct err *err)
{
    enum err_code code;

    if (atomic_load(&syncs_fail)) {
        atomic_fetch_add(&syncs_failed, 1);
        return err_set(err, ERR_IO, "the disk does not sync");
    }
    code = __real_store_sync(store, err);
    has_synced = code == ERR_OK;
    return code;
}

enum err_code __wrap_store_commit(struct store_txn *txn, struct err *err)
{
    bool was_held = false;

    while (atomic_load(&commits_wait)) {
        atomic_store(&commit_waits, true);
        was_held = true;
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);
    }
    atomic_store(&commit_waits, false);
    if (!was_held || !atomic_exchange(&commits_fail, false))
        return __real_store_commit(txn, err);
    store_abort(txn);
    return err_set(err, ERR_IO, "the disk does not commit");
}

int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    if (strcmp(to, "graph.seg") == 0) {
        atomic_fetch_add(&segments_placed, 1);
        if (!has_synced)
            atomic_fetch_add(&placed_unsynced, 1);
        has_synced = false;
    }
    return __real_renameat(from_dir, from, to_dir, to);
}

static int clear(void **state)
{
    (void)state;
    atomic_store(&syncs_fail, false);
    atomic_store(&syncs_failed, 0);
    atomic_store(&commits_wait, false);
    atomic_store(&commits_fail, false);
    atomic_store(&segments_placed, 0);
    atomic_store(&placed_unsynced, 0);
    return 0;
}

static void the_store_is_synced_before_a_segment_takes_its_place(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");

    (void)state;
    segments_fill(rig, &collection, SEGMENTS_COUNT, 3 * SEGMENTS_COUNT);
    rig_catch_up(rig);
    AWAIT(covered_of(rig, &collection) > 2 * SEGMENTS_LEAST);
    assert_true(atomic_load(&segments_placed) >= 2);
    assert_int_equal(atomic_load(&placed_unsynced), 0);
    rig_free(rig);
}

static uint64_t failures_of(struct rig *rig)
{
    return metric_count(rig->shard.metrics.maintenance_failures);
}

static void a_failure_is_counted_and_tried_again(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_collection(rig, "c");
    struct shard_collection *entry;
    uint64_t began_ns = env_boot_ns(env_real()), failures;

    (void)state;
    atomic_store(&syncs_fail, true);
    segments_fill(rig, &collection, 0, SEGMENTS_COUNT);
    rig_catch_up(rig);
    AWAIT(failures_of(rig) >= 2);
    /* Not at once, although every round finds it due. */
    assert_true(env_boot_ns(env_real()) - began_ns >= NS_PER_S);
    assert_int_equal(covered_of(rig, &collection), 0);
    assert_false(segments_file_is_there(rig, &collection));
    assert_int_equal(segments_live(rig, &collection), SEGMENTS_COUNT);
    assert_true(segments_finds(rig, &collection, 77, 0));
    atomic_store(&syncs_fail, false);
    failures = failures_of(rig);
    AWAIT(covered_of(rig, &collection) > 0);
    assert_in_range(failures_of(rig), failures, failures + 1); /* one may have been under way */
    /* A success forgets the pauses. */
    entry = collections_get(&rig->shard, collection.incarnation);
    AWAIT(!is_maintained(rig, entry));
    segments_end_maintenance(rig);
    assert_true(entry->pause_ns == 0);
    collections_put(&rig->shard, entry);
    assert_int_equal(atomic_load(&placed_unsynced), 0);
    rig_free(rig);
}

/* So many that a segment is not due, and is with the first 16 more, the least that a batch takes:
 * vectors are linked by 64. */
#define NEARLY (SEGMENTS_LEAST + 40)
#define ALL    (NEARLY + 500)

/* A graph with vectors of a batch that is not committed, and a segment on its way. */
static struct shard_collection *hold_commit(struct rig *rig, const struct collection *collection)
{
    struct shard_collection *entry;

    segments_fill(rig, collection, 0, NEARLY);
    rig_catch_up(rig);
    entry = collections_get(&rig->shard, collection->incarnation);
    AWAIT(engine_linked(entry->engine) + 64 > NEARLY);
    AWAIT(!engine_is_due(entry->engine)); /* its recall may have to be measured first */
    atomic_store(&commits_wait, true);
    segments_fill(rig, collection, NEARLY, ALL);
    AWAIT(atomic_load(&commit_waits));
    return entry;
}

static void a_segment_waits_for_the_commit_of_what_it_has(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_collection(rig, "c");
    struct shard_collection *entry = hold_commit(rig, &collection);
    uint64_t until_ns;

    (void)state;
    AWAIT(is_maintained(rig, entry));
    until_ns = env_boot_ns(env_real()) + 200 * NS_PER_MS;
    while (env_boot_ns(env_real()) < until_ns) {
        assert_false(segments_file_is_there(rig, &collection));
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + 5 * NS_PER_MS), NULL);
    }
    atomic_store(&commits_wait, false);
    AWAIT(engine_covered(entry->engine) > 0);
    assert_int_equal(atomic_load(&placed_unsynced), 0);
    collections_put(&rig->shard, entry);
    rig_free(rig);
}

/* The ordinals of the batch that failed are in the segment, dead, and are never given again. */
static void a_batch_that_fails_meanwhile_is_no_part_of_it(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_collection(rig, "c");
    struct shard_collection *entry = hold_commit(rig, &collection);

    (void)state;
    AWAIT(is_maintained(rig, entry));
    atomic_store(&commits_fail, true);
    atomic_store(&commits_wait, false);
    AWAIT(engine_covered(entry->engine) > 0);
    collections_put(&rig->shard, entry);
    rig_catch_up(rig);
    assert_true(rig->shard.apply.collections[0]->next_ordinal > ALL);
    segments_restart(rig);
    assert_int_equal(set_aside_count(rig), 0);
    assert_true(covered_of(rig, &collection) > 0);
    assert_int_equal(segments_live(rig, &collection), ALL);
    for (unsigned i = NEARLY - 100; i < ALL; i += 50)
        assert_true(segments_finds(rig, &collection, i, 0));
    assert_int_equal(atomic_load(&placed_unsynced), 0);
    rig_free(rig);
}

/* All that was not synced is lost, but the segment: it has nothing that the store does not have. */
static void a_power_cut_takes_nothing_that_a_segment_has(void **state)
{
    struct rig *rig = segments_rig_new(false);
    struct collection collection;
    uint32_t covered;

    (void)state;
    rig_open_shard(rig);
    rig_await_ready(rig);
    collection = segments_kept(rig, "c");
    segments_write(rig, &collection, RECORD_DELETE, 0, 50, 0);
    segments_fill(rig, &collection, SEGMENTS_COUNT, SEGMENTS_COUNT + 500);
    rig_catch_up(rig);
    covered = covered_of(rig, &collection);
    rig_close_shard(rig);
    store_memory_crash(rig->store, UINT32_MAX);
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_int_equal(set_aside_count(rig), 0);
    assert_true(covered_of(rig, &collection) >= covered);
    rig_catch_up(rig);
    assert_int_equal(segments_live(rig, &collection), SEGMENTS_COUNT + 450);
    for (unsigned i = 50; i < SEGMENTS_COUNT + 500; i += 997)
        assert_true(segments_finds(rig, &collection, i, 0));
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_store_is_synced_before_a_segment_takes_its_place, clear),
        cmocka_unit_test_setup(a_failure_is_counted_and_tried_again, clear),
        cmocka_unit_test_setup(a_segment_waits_for_the_commit_of_what_it_has, clear),
        cmocka_unit_test_setup(a_batch_that_fails_meanwhile_is_no_part_of_it, clear),
        cmocka_unit_test_setup(a_power_cut_takes_nothing_that_a_segment_has, clear),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
