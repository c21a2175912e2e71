/* Admission by headroom: what is admitted never makes a replica want more than its limit, whatever
 * the replica has not told yet.  Reports are the test's.
 * link-flags: -Wl,--wrap=cluster_rooms_get -Wl,--wrap=cluster_rooms_free */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/checked.h"
#include "services/ingest/headroom.h"

#define PARTITIONS 8
#define LIMIT      UINT64_C(1600000)
#define EACH       UINT64_C(1000) /* bytes of a vector */
#define FITS       1500u          /* below the reserve */

/* Two shards; of each partition the position that a replica reports. */
static struct replica {
    uint32_t shard, replica;
    uint64_t wanted_bytes, limit_bytes;
    uint64_t positions[PARTITIONS_MAX];
    bool heard, knows;
    uint64_t holds; /* so many vectors in all; 0: one takes EACH, however many there are */
} replicas[3];
static struct cluster_room rooms[3];
static struct shard_map map;
static struct headroom headroom;
static struct collection docs = {.name = "docs", .dimension = 100};
static uint64_t ends[PARTITIONS]; /* of the log */

enum err_code __wrap_cluster_rooms_get(struct cluster *cluster, const uint8_t *incarnation,
                                       struct cluster_rooms *out, struct err *err);
void __wrap_cluster_rooms_free(struct cluster_rooms *rooms);

enum err_code __wrap_cluster_rooms_get(struct cluster *cluster, const uint8_t *incarnation,
                                       struct cluster_rooms *out, struct err *err)
{
    (void)cluster, (void)incarnation, (void)err;
    *out = (struct cluster_rooms){.rooms = rooms, .map = &map};
    for (size_t i = 0; i < ARRAY_COUNT(replicas); i++) {
        const struct replica *from = &replicas[i];
        uint64_t left = from->limit_bytes - MIN_OF(from->limit_bytes, from->wanted_bytes);

        uint64_t room = from->holds == 0 ? left / EACH : from->holds - from->positions[0];

        if (from->heard)
            rooms[out->count++] = (struct cluster_room){.shard = from->shard,
                                                        .replica = from->replica,
                                                        .limit_bytes = from->limit_bytes,
                                                        .wanted_bytes = from->wanted_bytes,
                                                        .vectors = from->knows ? room : UINT64_MAX,
                                                        .positions = from->positions};
    }
    return ERR_OK;
}

void __wrap_cluster_rooms_free(struct cluster_rooms *got)
{
    *got = (struct cluster_rooms){0};
}

/* Shard 0 has partitions 0 to 3 and two replicas, shard 1 the others and one. */
static int set_up(void **state)
{
    (void)state;
    memset(replicas, 0, sizeof(replicas));
    memset(ends, 0, sizeof(ends));
    map = (struct shard_map){.partitions = PARTITIONS, .shards = 2, .replicas = 2};
    for (uint32_t p = 0; p < PARTITIONS; p++)
        map.shard_of[p] = p >= PARTITIONS / 2;
    for (size_t i = 0; i < ARRAY_COUNT(replicas); i++)
        replicas[i] = (struct replica){
            .shard = i == 2, .replica = i == 1, .limit_bytes = LIMIT, .heard = true, .knows = true};
    headroom_init(&headroom);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    headroom_free(&headroom);
    return 0;
}

/* --- writes ------------------------------------------------------------------------------------
 */

struct writing {
    struct sequence_item items[PARTITIONS];
    struct sequence_batch batch;
    uint64_t bytes;
};

static enum err_code begin(struct writing *writing, uint32_t partition, uint64_t vectors,
                           enum headroom_use use)
{
    struct headroom_ask ask = {.cluster = (struct cluster *)&map, .collection = &docs, .use = use};
    struct err err = {0};

    *writing = (struct writing){.items = {{.partition = partition, .vectors = vectors}}};
    writing->batch = (struct sequence_batch){.items = writing->items, .count = 1};
    return headroom_take(&headroom, &ask, &writing->batch, &writing->bytes, &err);
}

static void commit(struct writing *writing)
{
    writing->items[0].committed = true;
    writing->items[0].offset = ends[writing->items[0].partition]++;
    headroom_settle(&headroom, &docs, &writing->batch, writing->bytes, true);
}

static enum err_code put(uint32_t partition, uint64_t vectors)
{
    struct writing writing;
    enum err_code rc = begin(&writing, partition, vectors, HEADROOM_NEW);

    if (rc == ERR_OK)
        commit(&writing);
    return rc;
}

static unsigned put_until_refused(uint32_t partition)
{
    unsigned count = 0;

    while (put(partition, 1) == ERR_OK)
        count++;
    return count;
}

/* The replica applies everything of its partitions, and says so. */
static void apply(struct replica *replica, uint64_t vectors)
{
    replica->wanted_bytes += vectors * EACH;
    for (uint32_t p = 0; p < PARTITIONS; p++)
        if (map.shard_of[p] == replica->shard)
            replica->positions[p] = ends[p];
}

/* --- promises ----------------------------------------------------------------------------------
 */

static void what_is_admitted_counts_before_it_is_reported(void **state)
{
    unsigned count;

    (void)state;
    count = put_until_refused(1);
    assert_in_range(count, FITS - 5, FITS);
    assert_int_equal(put(2, 1), ERR_NO_HEADROOM); /* the same shard */
    assert_int_equal(put(4, 1), ERR_OK);          /* another */
    assert_int_equal(put(1, 0), ERR_OK);          /* a delete */
    apply(&replicas[0], count);
    apply(&replicas[1], count);
    assert_int_equal(put(1, 5), ERR_NO_HEADROOM);
    assert_int_equal(headroom.partitions[1].count, 0); /* known, and let go of */
    replicas[0].wanted_bytes = replicas[1].wanted_bytes = LIMIT / 2;
    assert_int_equal(put(1, 100), ERR_OK); /* there is room again */
}

static void patches_may_use_the_reserve_and_no_more(void **state)
{
    struct writing writing;
    unsigned patches = 0;

    (void)state;
    (void)put_until_refused(0);
    while (begin(&writing, 0, 1, HEADROOM_PATCH) == ERR_OK) {
        commit(&writing);
        patches++;
    }
    assert_in_range(patches, LIMIT / RESERVE_PART / EACH - 5, LIMIT / RESERVE_PART / EACH + 5);
    assert_int_equal(begin(&writing, 0, 1, HEADROOM_GIVEN), ERR_OK); /* decided before */
    commit(&writing);
}

static void what_came_to_nothing_is_let_go_of(void **state)
{
    struct writing writing;

    (void)state;
    for (int i = 0; i < 10000; i++) {
        assert_int_equal(begin(&writing, 3, 1000, HEADROOM_NEW), ERR_OK);
        assert_int_equal(put(3, 1000), ERR_NO_HEADROOM); /* while it is under way */
        headroom_settle(&headroom, &docs, &writing.batch, writing.bytes, i % 2 == 0);
    }
    assert_int_equal(headroom.partitions[3].under_way.bytes, 0);
}

static void the_replica_that_has_least_decides(void **state)
{
    (void)state;
    replicas[1].wanted_bytes = LIMIT - LIMIT / RESERVE_PART - 10 * EACH;
    assert_in_range(put_until_refused(0), 9, 10);
    replicas[1].heard = false; /* it refuses nothing then */
    assert_int_equal(put(0, 100), ERR_OK);
}

/* It is behind, not full: what the other one has reported is not counted twice. */
static void a_slow_replica_holds_up_nobody(void **state)
{
    unsigned count = 0;

    (void)state;
    for (int round = 0; round < 14; round++) {
        for (int i = 0; i < 100; i++)
            assert_int_equal(put((uint32_t)i % 4, 1), ERR_OK);
        count += 100;
        apply(&replicas[0], 100);
    }
    assert_true(headroom.partitions[0].count <= HELD_MAX);
    assert_in_range(put_until_refused(0), FITS - count - 5, FITS - count);
    apply(&replicas[1], count);
}

/* Reports of any age, several collections' worth of writes: never over the limit. */
static void no_replica_is_ever_filled_over_its_limit(void **state)
{
    uint64_t there[2] = {0}, seed = 20261121;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 20000; i++) {
        uint32_t partition, vectors, what;

        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        partition = (uint32_t)(seed >> 40) % PARTITIONS;
        vectors = 1 + (uint32_t)(seed >> 50) % 40;
        what = (uint32_t)(seed >> 33) % 20;
        if (what == 0) { /* one replica reports */
            struct replica *replica = &replicas[partition % 3];

            apply(replica, 0);
            replica->wanted_bytes = there[replica->shard] * EACH;
        } else if (what == 1) { /* a rebuild has left the dead behind */
            uint32_t shard = partition % 2;

            there[shard] -= there[shard] / 3;
            for (int r = 0; r < 3; r++)
                if (replicas[r].shard == shard) {
                    apply(&replicas[r], 0);
                    replicas[r].wanted_bytes = there[shard] * EACH;
                }
        } else if (put(partition, vectors) == ERR_OK) {
            there[map.shard_of[partition]] += vectors;
        }
        assert_true(there[0] * EACH <= LIMIT - LIMIT / RESERVE_PART);
        assert_true(there[1] * EACH <= LIMIT - LIMIT / RESERVE_PART);
    }
    assert_true(there[0] * EACH > LIMIT / 3);
}

static void a_collection_that_no_shard_knows_yet_is_guessed(void **state)
{
    (void)state;
    replicas[2].knows = false;
    assert_in_range(put_until_refused(5), 900, FITS);
}

/* Memory grows by steps: a report that comes half way may say that each of the rest takes more than
 * was guessed, and that holds for those that were admitted by the guess. */
static void what_was_guessed_too_low_is_reckoned_anew(void **state)
{
    unsigned count;

    (void)state;
    for (unsigned half = 100; half < 1300; half += 100) {
        (void)tear_down(NULL);
        (void)set_up(NULL);
        replicas[0].knows = replicas[1].knows = false;
        count = put_until_refused(0);
        assert_in_range(count, 1300, 1400);
        for (int r = 0; r < 2; r++) {
            replicas[r].knows = true;
            replicas[r].holds = 1450;
            replicas[r].positions[0] = half;
            replicas[r].wanted_bytes = half * 700;
        }
        count += put_until_refused(0);
        assert_in_range(count, 1300, 1450);
    }
}

static void of_several_collections_each_is_reckoned_as_it_was(void **state)
{
    struct collection others = {.name = "others", .dimension = 4, .incarnation = {9}};
    struct collection first = docs;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(replicas); i++)
        replicas[i].knows = false;
    docs = others; /* small ones: 536 bytes each */
    for (int i = 0; i < 1000; i++)
        assert_int_equal(put(5, 1), ERR_OK);
    docs = first; /* 1112 each */
    assert_in_range(put_until_refused(5), 850, 875);
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(what_is_admitted_counts_before_it_is_reported),
        PROMISE(patches_may_use_the_reserve_and_no_more),
        PROMISE(what_came_to_nothing_is_let_go_of),
        PROMISE(the_replica_that_has_least_decides),
        PROMISE(a_slow_replica_holds_up_nobody),
        PROMISE(no_replica_is_ever_filled_over_its_limit),
        PROMISE(a_collection_that_no_shard_knows_yet_is_guessed),
        PROMISE(what_was_guessed_too_low_is_reckoned_anew),
        PROMISE(of_several_collections_each_is_reckoned_as_it_was),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
