/* A restart takes over the segments: only what is behind them is read from the store and linked
 * anew, and what was deleted or rewritten since is as it was.
 * link-flags: -Wl,--wrap=engine_insert -Wl,--wrap=engine_rest */
#include "tests/unit/segments_rig.h"

static atomic_uint inserted;
static atomic_uint lowest;

enum err_code __real_engine_insert(struct engine *engine, uint32_t ordinal, const float *vector,
                                   struct err *err);
enum err_code __wrap_engine_insert(struct engine *engine, uint32_t ordinal, const float *vector,
                                   struct err *err);

enum err_code __wrap_engine_insert(struct engine *engine, uint32_t ordinal, const float *vector,
                                   struct err *err)
{
    atomic_fetch_add(&inserted, 1);
    if (ordinal < atomic_load(&lowest))
        atomic_store(&lowest, ordinal);
    return __real_engine_insert(engine, ordinal, vector, err);
}

static atomic_uint rested;

void __real_engine_rest(struct engine *engine);
void __wrap_engine_rest(struct engine *engine);

void __wrap_engine_rest(struct engine *engine)
{
    atomic_fetch_add(&rested, 1);
    __real_engine_rest(engine);
}

static void count_anew(void)
{
    atomic_store(&inserted, 0);
    atomic_store(&lowest, UINT32_MAX);
}

static void only_what_is_behind_the_segment_is_inserted(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    uint32_t covered = covered_of(rig, &collection);

    (void)state;
    assert_true(covered >= SEGMENTS_LEAST && covered <= SEGMENTS_COUNT);
    count_anew();
    segments_restart(rig);
    assert_int_equal(covered_of(rig, &collection), covered);
    assert_int_equal(atomic_load(&inserted), SEGMENTS_COUNT - covered);
    assert_true(atomic_load(&lowest) >= covered);
    assert_int_equal(segments_live(rig, &collection), SEGMENTS_COUNT);
    for (unsigned i = 0; i < SEGMENTS_COUNT; i += 997)
        assert_true(segments_finds(rig, &collection, i, 0));
    assert_int_equal(set_aside_count(rig), 0);
    rig_free(rig);
}

static void what_changed_since_the_segment_is_as_it_was(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");

    (void)state;
    segments_write(rig, &collection, RECORD_DELETE, 0, 100, 0);
    segments_write(rig, &collection, RECORD_UPSERT, 100, 200, 1);
    rig_catch_up(rig);
    count_anew();
    segments_restart(rig);
    assert_true(atomic_load(&inserted) < 500);
    assert_int_equal(segments_live(rig, &collection), SEGMENTS_COUNT - 100);
    /* And what is appended while it is down. */
    rig_close_shard(rig);
    segments_write(rig, &collection, RECORD_DELETE, 200, 300, 0);
    segments_write(rig, &collection, RECORD_UPSERT, 300, 400, 1);
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_int_equal(segments_live(rig, &collection), SEGMENTS_COUNT - 200);
    for (unsigned i = 0; i < 500; i += 23) {
        assert_true(segments_finds(rig, &collection, i, 0) == (i >= 400));
        assert_true(segments_finds(rig, &collection, i, 1) ==
                    ((i >= 100 && i < 200) || (i >= 300 && i < 400)));
    }
    assert_int_equal(set_aside_count(rig), 0);
    rig_free(rig);
}

/* Its engine decides whether it is worth writing. */
static void a_graph_that_grows_no_more_is_told_to_rest(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");

    (void)state;
    AWAIT(atomic_load(&rested) > 0);
    atomic_store(&rested, 0);
    segments_write(rig, &collection, RECORD_UPSERT, 0, 500, 1);
    rig_catch_up(rig);
    AWAIT(atomic_load(&rested) > 0);
    rig_free(rig);
}

static void without_a_folder_nothing_is_kept(void **state)
{
    struct rig *rig = segments_rig_new(true);
    struct collection collection;
    char folder[96];

    (void)state;
    memcpy(folder, rig->segments, sizeof(folder));
    rig->segments[0] = '\0';
    rig_open_shard(rig);
    rig_await_ready(rig);
    collection = segments_collection(rig, "c");
    segments_fill(rig, &collection, 0, 200);
    rig_catch_up(rig);
    count_anew();
    segments_restart(rig);
    assert_int_equal(atomic_load(&inserted), 200);
    assert_int_equal(rig->shard.apply.life, 0);
    assert_false(path_is_there(folder));
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_behind_the_segment_is_inserted),
        cmocka_unit_test(what_changed_since_the_segment_is_as_it_was),
        cmocka_unit_test(a_graph_that_grows_no_more_is_told_to_rest),
        cmocka_unit_test(without_a_folder_nothing_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
