/* A log that brings more vectors than there is memory for: everything before the first of them that
 * does not fit is applied, deletions too, and nothing is skipped: with more memory the rest
 * follows. */
#include "tests/unit/shard_rig.h"

#define DIM   64u
#define LIMIT MIB(2)

enum { VECTORS = 9000 };

/* Every tenth is a deletion of the one before; its id is in the same partition. */
static void append_too_many(struct rig *rig, const struct collection *collection)
{
    float vector[DIM] = {0};

    for (unsigned i = 0; i < VECTORS; i++) {
        char id[16];

        (void)snprintf(id, sizeof(id), "id-%05u", i % 10 == 9 ? i - 1 : i);
        vector[i % DIM] = (float)(i + 1);
        if (i % 10 == 9)
            rig_delete(rig, collection, id);
        else
            (void)rig_upsert(rig, collection, id, vector, NULL);
    }
}

static uint64_t live_of(struct rig *rig, uint64_t positions[RIG_PARTITIONS])
{
    uint64_t live = 0;

    pthread_mutex_lock(&rig->shard.lock);
    for (uint32_t p = 0; p < rig->shard.served_count; p++) {
        live += rig->shard.partitions[p].counts.live;
        positions[p] = rig->shard.partitions[p].position;
    }
    pthread_mutex_unlock(&rig->shard.lock);
    return live;
}

/* It says so.  The batch that did not fit is undone, up to BATCH_RECORDS of them; tried again one
 * by one, some of it may follow. */
static uint64_t await_full(struct rig *rig, uint64_t positions[RIG_PARTITIONS])
{
    uint64_t until_ns = env_boot_ns(env_real()) + RIG_WAIT_MS * NS_PER_MS;
    bool is_full = false;

    while (!is_full) {
        pthread_mutex_lock(&rig->shard.lock);
        is_full = rig->shard.state == SHARD_FAILED && strstr(rig->shard.detail, "memory") != NULL;
        pthread_mutex_unlock(&rig->shard.lock);
        assert_true(env_boot_ns(env_real()) < until_ns);
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);
    }
    return live_of(rig, positions);
}

/* The next record of each partition, as the log has it. */
static enum record_op op_at(struct rig *rig, uint32_t partition, uint64_t position)
{
    struct wal_reader *reader;
    struct wal_item item;
    struct record record;
    struct err err = {0};
    size_t count = 0;

    must(wal_reader_open(&reader, rig->writer, &partition, &position, 1, &err), &err);
    must(wal_reader_next(reader, &item, 1, &count, env_boot_ns(env_real()) + 10 * NS_PER_S, &err),
         &err);
    assert_int_equal(count, 1);
    must(record_peek(&record, item.data, item.len, &err), &err);
    wal_reader_close(reader);
    return record.op;
}

static void what_fits_is_applied_and_the_rest_with_more_memory(void **state)
{
    struct rig *rig = rig_new();
    uint64_t before[RIG_PARTITIONS], after[RIG_PARTITIONS];
    struct collection collection;
    uint64_t live;
    bool waits_for_vector = false;

    (void)state;
    rig->memory_bytes = LIMIT;
    rig_open_log(rig, "wal");
    rig_put_map(rig, 1);
    rig_open_shard(rig);
    rig_await_ready(rig);
    collection = rig_collection(rig, "docs", DIM, METRIC_L2);
    append_too_many(rig, &collection);
    live = await_full(rig, before);
    assert_in_range(live, LIMIT / (DIM * 32), LIMIT / (DIM * 4));
    assert_true(collections_memory(&rig->shard) <= LIMIT + LIMIT / 16);
    /* Again, from the start: not one record is applied twice, and no more room is taken. */
    rig_close_shard(rig);
    rig_open_shard(rig);
    assert_in_range(await_full(rig, after), live, LIMIT / (DIM * 4));
    assert_true(collections_memory(&rig->shard) <= LIMIT + LIMIT / 16);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++) {
        assert_true(after[p] >= before[p] && after[p] < rig->ends[p]);
        waits_for_vector |= op_at(rig, p, after[p]) == RECORD_UPSERT;
    }
    assert_true(waits_for_vector);
    rig_close_shard(rig);
    rig->memory_bytes = 64 * LIMIT;
    rig_open_shard(rig);
    rig_await_ready(rig);
    rig_catch_up(rig);
    live = live_of(rig, after);
    assert_int_equal(live, VECTORS / 10 * 8);
    rig_free(rig);
}

/* Without a graph nothing grows but by insertion. */
static struct collection flat_collection(struct rig *rig, const char *name)
{
    struct stamp stamp = {.clock = 1, .region = wal_region(rig->writer)};
    struct collection collection = {.dimension = DIM,
                                    .metric = METRIC_L2,
                                    .index = INDEX_FLAT,
                                    .m = 16,
                                    .ef_construction = 200,
                                    .created = stamp,
                                    .schema = stamp};

    (void)snprintf(collection.tenant, sizeof(collection.tenant), "%s", TENANT_DEFAULT);
    (void)snprintf(collection.name, sizeof(collection.name), "%s", name);
    collection_identify(&collection);
    rig_change(rig, &collection, COLLECTION_CREATE);
    return collection;
}

/* Vectors of a collection, until all indexes take so much; near that each is applied before the
 * next one. */
static unsigned fill(struct rig *rig, const struct collection *collection, uint64_t bytes)
{
    uint64_t until_ns = env_boot_ns(env_real()) + 6 * RIG_WAIT_MS * NS_PER_MS;
    float vector[DIM] = {1};
    unsigned count = 0;

    while (collections_memory(&rig->shard) <= bytes) {
        uint64_t positions[RIG_PARTITIONS];
        uint32_t partition;
        char id[16];

        (void)snprintf(id, sizeof(id), "id-%05u", count++);
        partition = rig_upsert(rig, collection, id, vector, NULL);
        if (count % 64 != 0 && collections_memory(&rig->shard) <= bytes - LIMIT / 16)
            continue;
        do {
            (void)live_of(rig, positions);
            assert_true(env_boot_ns(env_real()) < until_ns);
        } while (positions[partition] < rig->ends[partition]);
    }
    return count;
}

/* Over its limit by two collections, neither of which is: it goes on with what takes no memory. */
static void a_full_shard_applies_what_takes_no_memory(void **state)
{
    struct rig *rig = rig_new();
    struct collection first, second;
    uint64_t positions[RIG_PARTITIONS];
    unsigned count;

    (void)state;
    rig->memory_bytes = LIMIT;
    rig_open_log(rig, "wal");
    rig_put_map(rig, 1);
    rig_open_shard(rig);
    rig_await_ready(rig);
    first = flat_collection(rig, "first");
    second = flat_collection(rig, "second");
    count = fill(rig, &first, LIMIT / 2);
    count += fill(rig, &second, LIMIT);
    for (unsigned i = 0; i < 100; i++) {
        char id[16];

        (void)snprintf(id, sizeof(id), "id-%05u", i);
        rig_delete(rig, &first, id);
    }
    (void)rig_upsert(rig, &second, "words", NULL, NULL);
    rig_catch_up(rig);
    assert_int_equal(live_of(rig, positions), count - 100 + 1);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_fits_is_applied_and_the_rest_with_more_memory),
        cmocka_unit_test(a_full_shard_applies_what_takes_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
