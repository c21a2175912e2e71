/* With a graph that may hold only so many vectors the oldest become cold, and a shard treats them
 * as the others: they are found, deleted and rewritten, also while it is down, and a restart takes
 * them over. */
#include "tests/unit/segments_rig.h"

#define COLD_ABOVE 6000u

static uint64_t cold_of(struct rig *rig, const struct collection *collection)
{
    struct shard_collection *entry = collections_get(&rig->shard, collection->incarnation);
    uint64_t count = engine_cold(entry->engine);

    collections_put(&rig->shard, entry);
    return count;
}

static bool is_due(struct rig *rig, const struct collection *collection)
{
    struct shard_collection *entry = collections_get(&rig->shard, collection->incarnation);
    bool is_due = engine_is_due(entry->engine) || is_maintained(rig, entry);

    collections_put(&rig->shard, entry);
    return is_due;
}

static struct rig *cold_rig(struct collection *collection)
{
    struct rig *rig = segments_rig_new(true);

    rig->cold_above = COLD_ABOVE;
    rig_open_shard(rig);
    rig_await_ready(rig);
    *collection = segments_collection(rig, "c");
    segments_fill(rig, collection, 0, SEGMENTS_COUNT);
    rig_catch_up(rig);
    AWAIT(cold_of(rig, collection) > 0 && !is_due(rig, collection));
    assert_true(cold_of(rig, collection) >= SEGMENTS_COUNT - COLD_ABOVE);
    return rig;
}

static void they_are_deleted_and_rewritten_like_others(void **state)
{
    struct collection collection;
    struct rig *rig = cold_rig(&collection);

    (void)state;
    segments_write(rig, &collection, RECORD_DELETE, 0, 100, 0);
    segments_write(rig, &collection, RECORD_UPSERT, 100, 200, 1);
    rig_catch_up(rig);
    assert_int_equal(segments_live(rig, &collection), SEGMENTS_COUNT - 100);
    uint64_t cold = cold_of(rig, &collection); /* no deletion is on its way any more */
    segments_restart(rig);
    assert_int_equal(segments_live(rig, &collection), SEGMENTS_COUNT - 100);
    assert_true(cold_of(rig, &collection) >= cold);
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
    for (unsigned i = 500; i < SEGMENTS_COUNT; i += 997)
        assert_true(segments_finds(rig, &collection, i, 0));
    assert_int_equal(set_aside_count(rig), 0);
    rig_free(rig);
}

/* What the option said when they became cold does not matter later. */
static void they_stay_when_the_option_is_gone(void **state)
{
    struct collection collection;
    struct rig *rig = cold_rig(&collection);

    (void)state;
    rig->cold_above = 0;
    segments_restart(rig);
    assert_true(cold_of(rig, &collection) > 0);
    assert_int_equal(segments_live(rig, &collection), SEGMENTS_COUNT);
    for (unsigned i = 0; i < SEGMENTS_COUNT; i += 997)
        assert_true(segments_finds(rig, &collection, i, 0));
    assert_int_equal(set_aside_count(rig), 0);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_are_deleted_and_rewritten_like_others),
        cmocka_unit_test(they_stay_when_the_option_is_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
