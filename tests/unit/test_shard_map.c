/* The ring: everything placed, nobody overloaded, equal maps from equal inputs, few moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/model/shard_map.h"

static struct shard_map make_map(uint32_t partitions, uint32_t shards)
{
    struct shard_map map = {
        .version = 1, .partitions = partitions, .shards = shards, .replicas = 2};

    for (uint32_t i = 0; i < shards; i++)
        map.weights[i] = 1;
    map.replica_weights[0] = 4;
    map.replica_weights[1] = 1;
    shard_map_place(&map);
    return map;
}

static void check_loads(const struct shard_map *map)
{
    uint32_t sum = 0;

    for (uint32_t shard = 0; shard < map->shards; shard++) {
        struct partition_set set;

        shard_map_partitions(map, shard, &set);
        assert_true(partition_set_count(&set) <= shard_map_room(map, shard));
        for (uint32_t i = 0; i < map->partitions; i++)
            assert_int_equal(partition_set_has(&set, i), map->shard_of[i] == shard);
        sum += partition_set_count(&set);
    }
    assert_int_equal(sum, map->partitions);
}

static void every_partition_has_a_shard_and_none_too_many(void **state)
{
    static const uint32_t partitions[] = {1, 2, 7, 64, 1000, PARTITIONS_MAX};
    static const uint32_t shards[] = {1, 2, 3, 5, 16, 100, SHARDS_MAX};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(partitions); i++) {
        for (size_t j = 0; j < ARRAY_COUNT(shards); j++) {
            struct shard_map map = make_map(partitions[i], shards[j]);

            check_loads(&map);
        }
    }
}

static void weights_are_followed(void **state)
{
    struct shard_map map = make_map(PARTITIONS_MAX, 4);
    struct partition_set set;

    (void)state;
    map.weights[0] = 5;
    map.weights[3] = SHARD_WEIGHT_MAX;
    shard_map_place(&map);
    check_loads(&map);
    shard_map_partitions(&map, 3, &set);
    assert_true(partition_set_count(&set) > PARTITIONS_MAX * 8 / 10);
    assert_int_equal(shard_map_room(&map, 0), (5 * 1024 * 5 + 4 * 107 - 1) / (4 * 107));
}

/* Other processes, of other releases too, place by themselves and must come to the same. */
static void placing_is_frozen(void **state)
{
    static const uint16_t wanted[16] = {0, 3, 1, 3, 2, 2, 2, 0, 3, 1, 1, 3, 1, 2, 0, 3};
    struct shard_map map = make_map(64, 4);
    struct shard_map again = make_map(64, 4);

    (void)state;
    assert_memory_equal(&map, &again, sizeof(map));
    for (size_t i = 0; i < ARRAY_COUNT(wanted); i++)
        assert_int_equal(map.shard_of[i], wanted[i]);
}

static void a_new_shard_moves_about_its_share(void **state)
{
    (void)state;
    for (uint32_t shards = 2; shards < 40; shards++) {
        struct shard_map before = make_map(PARTITIONS_MAX, shards);
        struct shard_map after = make_map(PARTITIONS_MAX, shards + 1);
        uint32_t moved = 0;

        for (uint32_t i = 0; i < PARTITIONS_MAX; i++)
            moved += before.shard_of[i] != after.shard_of[i];
        assert_true(moved >= 1);
        assert_true(moved <= 2 * PARTITIONS_MAX / (shards + 1) + 1);
    }
}

/* 80 of 100 questions to the replica with weight 4 of 5; one replica more moves none between the
 * others. */
static void replicas_draw_questions_by_weight(void **state)
{
    struct shard_map map = make_map(64, 2);
    uint32_t first = 0, moved = 0;

    (void)state;
    map.replica_weights[2] = 1;
    for (uint64_t key = 0; key < 10000; key++) {
        bool was_first = false, is_first = false;

        map.replicas = 2;
        was_first = shard_map_pull(&map, key, 1, 0) > shard_map_pull(&map, key, 1, 1);
        first += was_first;
        map.replicas = 3;
        is_first = shard_map_pull(&map, key, 1, 0) > shard_map_pull(&map, key, 1, 1);
        moved += was_first != is_first;
    }
    assert_in_range(first, 7800, 8200);
    assert_int_equal(moved, 0);
}

static void maps_come_back_from_json(void **state)
{
    static const char *const bad[] = {
        "",
        "{}",
        "{\"version\":1,\"partitions\":2,\"shards\":1,\"replicas\":1,\"weights\":[1],\"shard_of\":"
        "[0]}",
        "{\"version\":1,\"partitions\":1,\"shards\":1,\"replicas\":1,\"weights\":[1],\"shard_of\":"
        "[1]}",
        "{\"version\":1,\"partitions\":1,\"shards\":1,\"replicas\":1,\"weights\":[0],\"shard_of\":"
        "[0]}",
        "{\"version\":1,\"partitions\":1,\"shards\":1,\"replicas\":0,\"weights\":[1],\"shard_of\":"
        "[0]}",
        "{\"version\":1,\"partitions\":1,\"shards\":2,\"replicas\":1,\"weights\":[1],\"shard_of\":"
        "[0]}",
        "{\"version\":1,\"partitions\":1,\"shards\":999,\"replicas\":1,\"weights\":[1],"
        "\"shard_of\":[0]}",
        "{\"version\":1,\"partitions\":1,\"shards\":1,\"replicas\":1,\"weights\":[1],\"shard_of\":"
        "[0]}}",
        "{\"version\":1,\"partitions\":1,\"shards\":1,\"replicas\":1,\"weights\":[1],\"shard_of\":"
        "[0],\"replica_weights\":[1,1]}",
        "{\"version\":1,\"partitions\":1,\"shards\":1,\"replicas\":1,\"weights\":[1],\"shard_of\":"
        "[0],\"replica_weights\":[0]}"};
    static const char unweighted[] =
        "{\"version\":1,\"partitions\":1,\"shards\":1,\"replicas\":2,\"weights\":[1],\"shard_of\":"
        "[0]}";
    struct shard_map map = make_map(PARTITIONS_MAX, SHARDS_MAX);
    struct shard_map read;
    struct buffer out = {0};
    struct err err = {0};

    (void)state;
    shard_map_encode(&map, &out);
    assert_int_equal(shard_map_decode(&read, out.data, out.len, &err), ERR_OK);
    assert_memory_equal(&read, &map, sizeof(map));
    for (size_t i = 0; i < out.len; i++)
        assert_int_equal(shard_map_decode(&read, out.data, i, &err), ERR_CORRUPT);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_int_equal(shard_map_decode(&read, bad[i], strlen(bad[i]), &err), ERR_CORRUPT);
    assert_int_equal(shard_map_decode(&read, unweighted, strlen(unweighted), &err), ERR_OK);
    assert_int_equal(read.replica_weights[0] * read.replica_weights[1], 1);
    buffer_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_partition_has_a_shard_and_none_too_many),
        cmocka_unit_test(weights_are_followed),
        cmocka_unit_test(placing_is_frozen),
        cmocka_unit_test(a_new_shard_moves_about_its_share),
        cmocka_unit_test(replicas_draw_questions_by_weight),
        cmocka_unit_test(maps_come_back_from_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
