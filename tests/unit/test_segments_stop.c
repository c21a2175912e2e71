/* Maintenance that would take long holds up nobody: not the end of the shard, and not the drop of
 * its collection. */
#include "tests/unit/segments_rig.h"

#define WIDE_DIM  256u
#define WIDE_LIVE 9000u
#define WIDE_DEAD 3000u

/* A collection whose graph takes long to be rebuilt, and that has just begun. */
static struct collection long_work(struct rig *rig, struct shard_collection **entry)
{
    struct collection collection = rig_collection(rig, "c", WIDE_DIM, METRIC_L2);

    segments_fill(rig, &collection, 0, WIDE_LIVE + WIDE_DEAD);
    segments_write(rig, &collection, RECORD_DELETE, 0, WIDE_DEAD, 0);
    rig_catch_up(rig);
    *entry = collections_get(&rig->shard, collection.incarnation);
    AWAIT(is_maintained(rig, *entry));
    return collection;
}

static void a_stop_ends_it(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct shard_collection *entry;

    (void)state;
    (void)long_work(rig, &entry);
    segments_end_maintenance(rig);
    assert_true(engine_is_due(entry->engine)); /* it is not that it was done */
    assert_int_equal(metric_count(rig->shard.metrics.maintenance_failures), 0);
    collections_put(&rig->shard, entry);
    rig_free(rig);
}

static void a_drop_ends_it(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct shard_collection *entry;
    struct collection collection = long_work(rig, &entry);
    char folder[SEGMENTS_PATH_BYTES];

    (void)state;
    segments_path(folder, rig, &collection);
    rig_change(rig, &collection, COLLECTION_DROP);
    rig_catch_up(rig);
    AWAIT(atomic_load(&entry->is_leaving));
    AWAIT(!is_maintained(rig, entry));
    assert_true(engine_is_due(entry->engine));
    assert_int_equal(metric_count(rig->shard.metrics.maintenance_failures), 0);
    collections_put(&rig->shard, entry);
    AWAIT(!path_is_there(folder));
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stop_ends_it),
        cmocka_unit_test(a_drop_ends_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
