/* Asking the shards, with replicas that die, hang, lag, forget and lie; and what is known of them.
 * The replicas are real HTTP servers in this process; every wait is bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/model/record.h"
#include "tests/lib/fake_shards.h"

#define PATIENCE_NS (20 * NS_PER_S)

struct world {
    struct meta *meta;
    struct http_client *client;
    struct cluster *cluster;
    struct shard_map map;
    struct fake fakes[FAKE_SHARDS_MAX]; /* shard * 2 + replica: two shards, two replicas */
};

static void put_text(struct world *world, const char *key, const char *value)
{
    struct meta_put put = {
        .key = key, .value = value, .value_len = strlen(value), .expected = META_ANY};
    struct err err = {0};

    assert_int_equal(meta_put(world->meta, &put, NULL, &err), ERR_OK);
}

static void breathe(void)
{
    assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
}

/* Every replica has answered a status call. */
static void wait_ready(struct world *world, const char *part)
{
    uint64_t until = env_boot_ns(env_real()) + PATIENCE_NS;

    while (env_boot_ns(env_real()) < until) {
        struct buffer status = {0};
        bool found;

        cluster_write_status(world->cluster, &status);
        buffer_append_byte(&status, 0);
        found = strstr((const char *)status.data, part) == NULL;
        buffer_free(&status);
        if (found)
            return;
        breathe();
    }
    fail_msg("the status still has %s", part);
}

static int open_world(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    struct err err = {0};

    log_start("test", LOG_OFF);
    assert_non_null(world);
    assert_int_equal(meta_open(&world->meta, "memory:", env_real(), &err), ERR_OK);
    put_text(world, "deployment", "{\"partitions\":8,\"region\":7}");
    assert_int_equal(cluster_place(world->meta, 2, 2, &err), ERR_OK);
    for (uint32_t i = 0; i < FAKE_SHARDS_MAX; i++) {
        char name[32];

        assert_true(fake_open(&world->fakes[i], i / 2, i % 2));
        cluster_replica_name(name, i / 2, i % 2);
        assert_int_equal(
            cluster_register(world->meta, env_real(), "shard", name, world->fakes[i].url, &err),
            ERR_OK);
    }
    assert_int_equal(
        http_client_open(&world->client, &(struct http_client_options){.env = env_real()}, &err),
        ERR_OK);
    assert_int_equal(cluster_open(&world->cluster,
                                  &(struct cluster_options){.env = env_real(),
                                                            .meta = world->meta,
                                                            .client = world->client,
                                                            .status_every_ms = 10},
                                  &err),
                     ERR_OK);
    assert_true(cluster_map(world->cluster, &world->map));
    wait_ready(world, "\"healthy\":false");
    *state = world;
    return 0;
}

static int close_world(void **state)
{
    struct world *world = *state;

    for (uint32_t i = 0; i < FAKE_SHARDS_MAX; i++)
        atomic_store(&world->fakes[i].released, true);
    cluster_stop(world->cluster);
    cluster_close(world->cluster);
    http_client_close(world->client);
    for (uint32_t i = 0; i < FAKE_SHARDS_MAX; i++)
        fake_close(&world->fakes[i]);
    meta_close(world->meta);
    free(world);
    return 0;
}

static void set_modes(struct world *world, uint32_t shard, enum fake_mode first,
                      enum fake_mode second)
{
    atomic_store(&world->fakes[shard * 2].mode, (int)first);
    atomic_store(&world->fakes[shard * 2 + 1].mode, (int)second);
}

struct count_ask {
    struct wire_question question;
    struct cluster_ask ask;
    struct cluster_answer answer;
    struct err err;
};

static void count_init(struct count_ask *count, uint64_t timeout_ms)
{
    *count = (struct count_ask){
        .question = {.op = WIRE_COUNT, .max_staleness_ns = NEVER_NS},
    };
    memcpy(count->question.incarnation, fake_incarnation, INCARNATION_BYTES);
    count->ask = (struct cluster_ask){
        .question = &count->question,
        .deadline_ns = env_boot_ns(env_real()) + timeout_ms * NS_PER_MS,
    };
}

static enum err_code run(struct world *world, struct count_ask *count)
{
    return cluster_ask(world->cluster, &count->ask, &count->answer, &count->err);
}

/* hedged: gets the questions of each shard that went to both replicas; may be NULL. */
static void expect_hedged(struct world *world, struct count_ask *count, int hedged[2])
{
    uint64_t sum = 0;

    assert_int_equal(run(world, count), ERR_OK);
    assert_int_equal(count->answer.served_count, FAKE_PARTITIONS);
    assert_int_equal(count->answer.wanted_count, FAKE_PARTITIONS);
    assert_false(count->answer.partial);
    for (size_t i = 0; i < count->answer.count; i++) {
        sum += count->answer.parts[i].answer.count;
        if (hedged != NULL)
            hedged[count->answer.parts[i].shard] += count->answer.parts[i].is_hedged;
    }
    assert_int_equal(sum, 10 * FAKE_PARTITIONS);
    assert_int_equal(count->answer.seen.count, FAKE_PARTITIONS);
    cluster_answer_free(&count->answer);
}

static void expect_whole(struct world *world, struct count_ask *count)
{
    expect_hedged(world, count, NULL);
}

static void every_shard_is_asked_once(void **state)
{
    struct world *world = *state;
    struct count_ask count;

    atomic_store(&world->fakes[0].staleness_ms, 3);
    atomic_store(&world->fakes[1].staleness_ms, 3);
    count_init(&count, 5000);
    assert_int_equal(run(world, &count), ERR_OK);
    assert_int_equal(count.answer.count, 2);
    assert_int_equal(count.answer.retries, 0);
    assert_true(count.answer.known_ns <= (int64_t)(env_boot_ns(env_real()) - 3 * NS_PER_MS));
    for (uint32_t p = 0; p < FAKE_PARTITIONS; p++)
        assert_int_equal(token_position(&count.answer.seen, FAKE_REGION, p), 10);
    for (int i = 0; i < 4; i += 2) /* twice: a hedge on a busy machine */
        assert_in_range(
            atomic_load(&world->fakes[i].asked) + atomic_load(&world->fakes[i + 1].asked), 1, 2);
    cluster_answer_free(&count.answer);
}

/* One collection under one filter is one replica's; all of them are everybody's. */
static void replicas_share_the_questions(void **state)
{
    struct world *world = *state;
    struct count_ask count;
    int hedged[2] = {0};
    char filter[32];

    for (int i = 0; i < 20; i++) {
        count_init(&count, 5000);
        expect_hedged(world, &count, hedged);
    }
    for (uint32_t shard = 0; shard < 2; shard++) {
        int first = atomic_exchange(&world->fakes[2 * shard].asked, 0);
        int second = atomic_exchange(&world->fakes[2 * shard + 1].asked, 0);

        /* But for hedges on a busy machine. */
        assert_in_range(first + second, 20, 20 + hedged[shard]);
        assert_in_range(MIN_OF(first, second), 0, hedged[shard]);
    }
    for (int i = 0; i < 40; i++) {
        count_init(&count, 5000);
        count.question.filter = filter;
        count.question.filter_len = (size_t)snprintf(filter, sizeof(filter), "{\"n\":%d}", i);
        expect_whole(world, &count);
    }
    for (uint32_t i = 0; i < FAKE_SHARDS_MAX; i++)
        assert_in_range(atomic_load(&world->fakes[i].asked), 5, 35);
}

/* Who hangs is overtaken: nobody waits until half of the time is gone. */
static void a_slow_replica_is_hedged(void **state)
{
    struct world *world = *state;
    struct count_ask count;
    uint32_t hedges = 0;

    /* Whichever of the two the questions belong to; a hedge or a retry would not tell. */
    for (int i = 0;; i++) {
        assert_true(i < 8);
        count_init(&count, 5000);
        assert_int_equal(run(world, &count), ERR_OK);
        if (count.answer.hedges + count.answer.retries == 0)
            break;
        cluster_answer_free(&count.answer);
    }
    for (size_t i = 0; i < count.answer.count; i++) {
        const struct cluster_part *part = &count.answer.parts[i];

        atomic_store(&world->fakes[2 * part->shard + part->replica].mode, FAKE_HANGS);
    }
    cluster_answer_free(&count.answer);
    for (int i = 0; i < 10; i++) {
        uint64_t began = env_boot_ns(env_real());

        count_init(&count, 60000);
        assert_int_equal(run(world, &count), ERR_OK);
        assert_true(env_boot_ns(env_real()) - began < PATIENCE_NS);
        hedges += count.answer.hedges;
        cluster_answer_free(&count.answer);
    }
    assert_in_range(hedges, 2, 20);
}

static void set_positions(struct world *world, uint32_t replica, uint64_t position,
                          uint64_t staleness_ms)
{
    for (uint32_t shard = 0; shard < 2; shard++) {
        atomic_store(&world->fakes[2 * shard + replica].position, position);
        atomic_store(&world->fakes[2 * shard + replica].staleness_ms, staleness_ms);
    }
}

/* Until the status says so often that a replica is in this state of health. */
static void wait_health(struct world *world, const char *part, size_t wanted)
{
    uint64_t until = env_boot_ns(env_real()) + PATIENCE_NS;
    size_t found = 0;

    do {
        struct buffer status = {0};

        assert_true(env_boot_ns(env_real()) < until);
        breathe();
        cluster_write_status(world->cluster, &status);
        buffer_append_byte(&status, 0);
        found = 0;
        for (const char *at = (const char *)status.data; (at = strstr(at, part)) != NULL; at++)
            found++;
        buffer_free(&status);
    } while (found != wanted);
}

struct asker {
    struct world *world;
    pthread_t thread;
    int hedged[2];
};

static void *ask_once(void *argument)
{
    struct asker *asker = argument;
    struct count_ask count;

    count_init(&count, 20000);
    expect_hedged(asker->world, &count, asker->hedged);
    return NULL;
}

static void await_asked(struct world *world, uint32_t shard, int wanted)
{
    uint64_t until = env_boot_ns(env_real()) + PATIENCE_NS;

    while (atomic_load(&world->fakes[2 * shard].asked) +
               atomic_load(&world->fakes[2 * shard + 1].asked) <
           wanted) {
        assert_true(env_boot_ns(env_real()) < until);
        breathe();
    }
}

/* Eight at a time, under way together.  True: none was hedged, which would ask both. */
static bool share_eight(struct world *world)
{
    struct asker askers[8] = {0};
    int hedged = 0;

    for (uint32_t i = 0; i < FAKE_SHARDS_MAX; i++) {
        atomic_store(&world->fakes[i].released, false);
        atomic_store(&world->fakes[i].asked, 0);
    }
    for (size_t i = 0; i < ARRAY_COUNT(askers); i++) {
        askers[i].world = world;
        assert_int_equal(pthread_create(&askers[i].thread, NULL, ask_once, &askers[i]), 0);
    }
    for (uint32_t shard = 0; shard < 2; shard++)
        await_asked(world, shard, ARRAY_COUNT(askers));
    for (uint32_t i = 0; i < FAKE_SHARDS_MAX; i++)
        atomic_store(&world->fakes[i].released, true);
    for (size_t i = 0; i < ARRAY_COUNT(askers); i++) {
        assert_int_equal(pthread_join(askers[i].thread, NULL), 0);
        hedged += askers[i].hedged[0] + askers[i].hedged[1];
    }
    return hedged == 0;
}

/* Every replica was asked for its status after this was called, and has answered. */
static void hear_all(struct world *world)
{
    static uint64_t staleness_ms = 1000; /* that nobody has had */

    /* The first answer may have been on its way. */
    for (int i = 0; i < 2; i++) {
        char part[48];

        (void)snprintf(part, sizeof(part), "\"staleness_ms\":%llu",
                       (unsigned long long)++staleness_ms);
        set_positions(world, 0, 10, staleness_ms);
        set_positions(world, 1, 10, staleness_ms);
        wait_health(world, part, FAKE_SHARDS_MAX * FAKE_PARTITIONS);
    }
}

/* The preferred replica has at most its share and a quarter.  On a busy machine it may take several
 * rounds until there are no hedges; more than there is allowance for are not made. */
static void a_loaded_replica_is_passed_over(void **state)
{
    struct world *world = *state;

    for (uint32_t i = 0; i < FAKE_SHARDS_MAX; i++)
        atomic_store(&world->fakes[i].mode, FAKE_DAWDLES);
    for (int i = 0; !share_eight(world); i++) {
        assert_true(i < 50);
        hear_all(world); /* who was overtaken stands aside until then */
    }
    for (uint32_t i = 0; i < FAKE_SHARDS_MAX; i++)
        assert_in_range(atomic_load(&world->fakes[i].asked), 3, 5);
}

static void who_is_behind_is_not_asked_until_it_has_caught_up(void **state)
{
    struct world *world = *state;
    struct count_ask count;

    /* Stale alone is no reason: where the log is away all are. */
    set_positions(world, 0, 10, 60000);
    set_positions(world, 1, 10, 60000);
    wait_health(world, "\"staleness_ms\":60000", FAKE_SHARDS_MAX * FAKE_PARTITIONS);
    wait_health(world, "\"health\":\"in\"", 4);
    set_positions(world, 1, 20, 0);
    wait_health(world, "\"health\":\"out\"", 2);
    atomic_store(&world->fakes[0].asked, 0);
    atomic_store(&world->fakes[2].asked, 0);
    for (int i = 0; i < 10; i++) {
        count_init(&count, 5000);
        expect_whole(world, &count);
    }
    assert_int_equal(atomic_load(&world->fakes[0].asked) + atomic_load(&world->fakes[2].asked), 0);
    set_positions(world, 0, 20, 60000);
    wait_health(world, "\"health\":\"in\"", 4);
}

static void one_that_stands_still_is_left_within_two_seconds(void **state)
{
    struct world *world = *state;
    uint64_t began = env_boot_ns(env_real());

    atomic_store(&world->fakes[1].is_silent, true);
    wait_health(world, "\"health\":\"out\"", 1);
    assert_true(env_boot_ns(env_real()) - began < 10 * NS_PER_S); /* 2 s where there is time */
    atomic_store(&world->fakes[1].is_silent, false);
    wait_health(world, "\"health\":\"in\"", 4);
}

static void one_dead_replica_is_no_error(void **state)
{
    struct world *world = *state;
    struct count_ask count;

    fake_close(&world->fakes[0]);
    for (int i = 0; i < 20; i++) {
        count_init(&count, 5000);
        expect_whole(world, &count);
    }
}

static void one_broken_or_late_replica_is_no_error(void **state)
{
    struct world *world = *state;
    const enum fake_mode modes[] = {FAKE_BEHIND, FAKE_FAILS, FAKE_HANGS, FAKE_FORGETS};

    for (size_t m = 0; m < ARRAY_COUNT(modes); m++) {
        set_modes(world, 0, modes[m], FAKE_ANSWERS);
        for (int i = 0; i < 4; i++) {
            struct count_ask count;

            count_init(&count, 2000);
            expect_whole(world, &count);
        }
    }
}

static void without_a_replica_the_partitions_are_missing(void **state)
{
    struct world *world = *state;
    struct count_ask count;

    fake_close(&world->fakes[2]);
    fake_close(&world->fakes[3]);
    count_init(&count, 3000);
    assert_int_equal(run(world, &count), ERR_SHARDS_UNAVAILABLE);
    count_init(&count, 3000);
    count.ask.allow_partial = true;
    assert_int_equal(run(world, &count), ERR_OK);
    assert_true(count.answer.partial);
    assert_int_equal(count.answer.wanted_count, FAKE_PARTITIONS);
    assert_in_range(count.answer.served_count, 1, FAKE_PARTITIONS - 1);
    for (uint32_t p = 0; p < FAKE_PARTITIONS; p++)
        assert_true(partition_set_has(&count.answer.served, p) == (world->map.shard_of[p] == 0));
    cluster_answer_free(&count.answer);
}

static void a_demand_that_nobody_meets_is_staleness_unmet(void **state)
{
    struct world *world = *state;
    struct count_ask count;

    set_modes(world, 1, FAKE_BEHIND, FAKE_BEHIND);
    for (int partial = 0; partial < 2; partial++) {
        count_init(&count, 3000);
        count.question.fresh = true;
        count.ask.allow_partial = partial == 1;
        assert_int_equal(run(world, &count), ERR_STALENESS_UNMET);
    }
    set_modes(world, 1, FAKE_HANGS, FAKE_HANGS);
    count_init(&count, 3000);
    count.question.fresh = true;
    assert_int_equal(run(world, &count), ERR_STALENESS_UNMET);
}

static void nothing_but_time_missing_is_a_timeout(void **state)
{
    struct world *world = *state;
    struct count_ask count;

    set_modes(world, 0, FAKE_HANGS, FAKE_HANGS);
    count_init(&count, 100);
    assert_int_equal(run(world, &count), ERR_TIMEOUT);
}

/* Which replica of the first shard fresh questions belong to. */
static uint32_t owner_of_fresh(struct world *world)
{
    struct count_ask count;
    uint32_t owner = 0, hedges;

    do {
        count_init(&count, 5000);
        count.question.fresh = true;
        assert_int_equal(run(world, &count), ERR_OK);
        hedges = count.answer.hedges;
        for (size_t i = 0; i < count.answer.count; i++)
            if (count.answer.parts[i].shard == 0)
                owner = count.answer.parts[i].replica;
        cluster_answer_free(&count.answer);
    } while (hedges > 0);
    return owner;
}

/* Whoever cannot find out what is the newest takes a whole round for that; the other one can, and
 * is asked when there is time for it.  Hedges help at first, until too many are needed. */
static void who_waits_in_vain_leaves_time_for_the_others(void **state)
{
    struct world *world = *state;
    struct fake *other = &world->fakes[1 - owner_of_fresh(world)];
    uint32_t alone = 0;

    set_modes(world, 0, FAKE_WAITS, FAKE_WAITS);
    atomic_store(&other->mode, (int)FAKE_TARRIES);
    for (int i = 0; i < 60 && alone < 2; i++) {
        uint64_t began = env_boot_ns(env_real());
        struct count_ask count;

        count_init(&count, 2000);
        count.question.fresh = true;
        assert_int_equal(run(world, &count), ERR_OK);
        alone += count.answer.hedges == 0 && env_boot_ns(env_real()) - began > 500 * NS_PER_MS;
        cluster_answer_free(&count.answer);
    }
    assert_int_equal(alone, 2);
}

static void what_no_other_replica_can_mend_is_told_at_once(void **state)
{
    struct world *world = *state;
    struct count_ask count;

    set_modes(world, 0, FAKE_DROPPED, FAKE_DROPPED);
    count_init(&count, 60000);
    assert_int_equal(run(world, &count), ERR_COLLECTION_NOT_FOUND);
    set_modes(world, 0, FAKE_BABBLES, FAKE_BABBLES);
    assert_int_equal(run(world, &count), ERR_INTERNAL);
    set_modes(world, 0, FAKE_TRESPASSES, FAKE_TRESPASSES);
    assert_int_equal(run(world, &count), ERR_INTERNAL);
}

static void a_gap_is_asked_again_under_the_new_map(void **state)
{
    struct world *world = *state;
    struct count_ask count;
    struct err err = {0};

    /* Shard 1 serves nothing any more; in the store there is a map of one shard already. */
    set_modes(world, 1, FAKE_FORGETS, FAKE_FORGETS);
    assert_int_equal(cluster_place(world->meta, 1, 2, &err), ERR_OK);
    count_init(&count, 5000);
    expect_whole(world, &count);
    assert_true(cluster_map(world->cluster, &world->map));
    assert_int_equal(world->map.shards, 1);
}

static void a_get_goes_only_where_its_ids_are(void **state)
{
    struct world *world = *state;
    struct wire_id ids[32];
    char texts[32][16];
    uint64_t of_shard[2] = {0};
    struct count_ask get;

    for (int i = 0; i < 32; i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "id%d", i);
        ids[i] = (struct wire_id){.data = texts[i], .len = strlen(texts[i])};
        of_shard[world->map.shard_of[record_partition(ids[i].data, ids[i].len, 8)]]++;
    }
    fake_close(&world->fakes[1]);
    fake_close(&world->fakes[3]);
    count_init(&get, 5000);
    get.question.op = WIRE_GET;
    get.question.ids = ids;
    get.question.id_count = 32;
    assert_int_equal(run(world, &get), ERR_OK);
    assert_int_equal(atomic_load(&world->fakes[0].last_ids), of_shard[0]);
    assert_int_equal(atomic_load(&world->fakes[2].last_ids), of_shard[1]);
    cluster_answer_free(&get.answer);
    atomic_store(&world->fakes[0].asked, 0);
    atomic_store(&world->fakes[2].asked, 0);
    count_init(&get, 5000);
    get.question.op = WIRE_GET;
    get.question.ids = ids;
    get.question.id_count = 1;
    assert_int_equal(run(world, &get), ERR_OK);
    assert_int_equal(get.answer.wanted_count, 1);
    assert_int_equal(atomic_load(&world->fakes[0].asked) + atomic_load(&world->fakes[2].asked), 1);
    cluster_answer_free(&get.answer);
}

static void a_token_is_asked_of_the_replica_that_has_it(void **state)
{
    struct world *world = *state;
    struct token demands = {0};
    struct count_ask count;
    int hedged[2] = {0};
    struct err err = {0};

    atomic_store(&world->fakes[0].position, 5);
    atomic_store(&world->fakes[1].position, 99);
    for (uint64_t until = env_boot_ns(env_real()) + PATIENCE_NS;;) {
        struct cluster_known known[PARTITIONS_MAX];
        uint32_t p = 0;

        while (world->map.shard_of[p] != 0)
            p++;
        if (cluster_known(world->cluster, fake_incarnation, known) == FAKE_REGION &&
            known[p].position == 99)
            break;
        assert_true(env_boot_ns(env_real()) < until);
        breathe();
    }
    for (uint32_t p = 0; p < FAKE_PARTITIONS; p++)
        if (world->map.shard_of[p] == 0)
            assert_int_equal(token_raise(&demands, FAKE_REGION, p, 50, &err), ERR_OK);
    atomic_store(&world->fakes[0].asked, 0);
    for (int i = 0; i < 10; i++) {
        count_init(&count, 5000);
        count.question.demands = demands;
        expect_hedged(world, &count, hedged);
    }
    assert_in_range(atomic_load(&world->fakes[0].asked), 0, hedged[0]);
    token_free(&demands);
}

static void what_is_known_is_of_the_farthest_replica(void **state)
{
    static const uint8_t other[INCARNATION_BYTES] = {9};
    struct world *world = *state;
    struct cluster_known known[PARTITIONS_MAX];
    uint64_t until = env_boot_ns(env_real()) + PATIENCE_NS;
    bool done = false;

    for (uint32_t i = 0; i < FAKE_SHARDS_MAX; i++) {
        atomic_store(&world->fakes[i].position, 20 + i);
        atomic_store(&world->fakes[i].last_change, 10 + i);
    }
    while (!done && env_boot_ns(env_real()) < until) {
        breathe();
        done = cluster_known(world->cluster, fake_incarnation, known) == FAKE_REGION;
        for (uint32_t p = 0; p < FAKE_PARTITIONS; p++) {
            uint64_t best = world->map.shard_of[p] == 0 ? 1 : 3;

            done = done && known[p].heard && known[p].position == 20 + best &&
                   known[p].last_change == 10 + best;
        }
    }
    assert_true(done);
    assert_int_equal(cluster_known(world->cluster, other, known), FAKE_REGION);
    for (uint32_t p = 0; p < FAKE_PARTITIONS; p++)
        assert_true(known[p].last_change == UINT64_MAX);
}

static void readiness_names_what_fails(void **state)
{
    struct world *world = *state;
    struct buffer why = {0};
    char url[256];
    struct err err = {0};

    assert_false(cluster_ready(world->cluster, &why));
    buffer_append_byte(&why, 0);
    assert_non_null(strstr((const char *)why.data, "no ingest service holds the log"));
    assert_int_equal(cluster_ingest_url(world->cluster, false, url, sizeof(url), &err),
                     ERR_READ_ONLY);
    put_text(world, "lease", "{\"holder\":\"aa\",\"url\":\"http://127.0.0.1:1\"}");
    assert_int_equal(cluster_ingest_url(world->cluster, true, url, sizeof(url), &err), ERR_OK);
    assert_string_equal(url, "http://127.0.0.1:1");
    buffer_reset(&why);
    assert_true(cluster_ready(world->cluster, &why));
    fake_close(&world->fakes[2]);
    fake_close(&world->fakes[3]);
    for (uint64_t until = env_boot_ns(env_real()) + PATIENCE_NS; why.len == 0;) {
        breathe();
        (void)cluster_ready(world->cluster, &why);
        assert_true(env_boot_ns(env_real()) < until);
    }
    buffer_append_byte(&why, 0);
    assert_string_equal((const char *)why.data, "\"shard 1 has no healthy replica\"");
    buffer_free(&why);
}

static void put_collection(struct world *world, const char *name, const char *status)
{
    struct collection collection = {.dimension = 3, .m = 16, .ef_construction = 200};
    struct buffer row = {0}, definition = {0};
    char key[64];

    (void)snprintf(collection.tenant, sizeof(collection.tenant), "default");
    (void)snprintf(collection.name, sizeof(collection.name), "%s", name);
    collection_encode(&collection, COLLECTION_CREATE, &definition);
    buffer_append_format(&row, "{\"state\":\"%s\",\"definition\":%.*s}", status,
                         (int)definition.len, (const char *)definition.data);
    buffer_append_byte(&row, 0);
    (void)snprintf(key, sizeof(key), "collection/default/%s", name);
    put_text(world, key, (const char *)row.data);
    buffer_free(&row);
    buffer_free(&definition);
}

static void collections_are_found_at_once_and_listed_in_order(void **state)
{
    struct world *world = *state;
    struct collection found, page[2];
    struct err err = {0};
    size_t count = 0;
    bool more = false;

    put_collection(world, "b", "active");
    put_collection(world, "c", "active");
    put_collection(world, "a", "active");
    put_collection(world, "p", "pending");
    put_text(world, "collection/default/x", "{\"state\":");
    assert_int_equal(cluster_collection(world->cluster, "default", "b", false, &found, &err),
                     ERR_OK);
    assert_int_equal(found.dimension, 3);
    assert_int_equal(cluster_collection(world->cluster, "default", "p", false, &found, &err),
                     ERR_COLLECTION_NOT_FOUND);
    assert_int_equal(cluster_collection(world->cluster, "other", "b", false, &found, &err),
                     ERR_COLLECTION_NOT_FOUND);
    assert_int_equal(
        cluster_collections(world->cluster, "default", "", page, 2, &count, &more, &err), ERR_OK);
    assert_true(more && count == 2);
    assert_string_equal(page[0].name, "a");
    assert_string_equal(page[1].name, "b");
    assert_int_equal(
        cluster_collections(world->cluster, "default", "b", page, 2, &count, &more, &err), ERR_OK);
    assert_true(!more && count == 1);
    assert_string_equal(page[0].name, "c");
    assert_int_equal(cluster_collection_now(world->cluster, "b", NEVER_NS, &found, &err), ERR_OK);
    put_collection(world, "b", "dropped");
    assert_int_equal(cluster_collection_now(world->cluster, "b", NEVER_NS, &found, &err),
                     ERR_COLLECTION_NOT_FOUND);
    assert_int_equal(cluster_collection(world->cluster, "default", "b", true, &found, &err),
                     ERR_COLLECTION_NOT_FOUND);
    assert_int_equal(cluster_refresh(world->cluster, &err), ERR_OK);
    assert_int_equal(cluster_collection(world->cluster, "default", "b", false, &found, &err),
                     ERR_COLLECTION_NOT_FOUND);
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(every_shard_is_asked_once),
        IN_WORLD(replicas_share_the_questions),
        IN_WORLD(a_loaded_replica_is_passed_over),
        IN_WORLD(a_slow_replica_is_hedged),
        IN_WORLD(who_is_behind_is_not_asked_until_it_has_caught_up),
        IN_WORLD(one_that_stands_still_is_left_within_two_seconds),
        IN_WORLD(one_dead_replica_is_no_error),
        IN_WORLD(one_broken_or_late_replica_is_no_error),
        IN_WORLD(without_a_replica_the_partitions_are_missing),
        IN_WORLD(a_demand_that_nobody_meets_is_staleness_unmet),
        IN_WORLD(nothing_but_time_missing_is_a_timeout),
        IN_WORLD(who_waits_in_vain_leaves_time_for_the_others),
        IN_WORLD(what_no_other_replica_can_mend_is_told_at_once),
        IN_WORLD(a_gap_is_asked_again_under_the_new_map),
        IN_WORLD(a_get_goes_only_where_its_ids_are),
        IN_WORLD(a_token_is_asked_of_the_replica_that_has_it),
        IN_WORLD(what_is_known_is_of_the_farthest_replica),
        IN_WORLD(readiness_names_what_fails),
        IN_WORLD(collections_are_found_at_once_and_listed_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
