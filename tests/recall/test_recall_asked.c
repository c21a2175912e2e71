/* Who asks for a recall gets it within a point, on fresh queries, whatever the metric, the number
 * of neighbours and the part of the vectors that is dead or refused by a filter; and where less is
 * asked less is done.
 * pace: long */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "engine/internal.h"
#include "tests/lib/engine_data.h"

enum { COUNT = 12000, DIM = 32, QUERIES = 1000, WORDS = COUNT / 64 + 1 };

static const float asked[] = {0.90f, 0.95f, 0.99f};

struct world {
    struct data data;
    struct engine *engine;
    float spread;
};

static struct world open_world(enum engine_metric metric)
{
    struct world world = {.spread = metric == ENGINE_COSINE ? 0.0f : 0.3f};
    struct err err = {0};

    world.data = data_make(COUNT, DIM, world.spread, 61);
    world.engine = data_open(DIM, metric);
    world.engine->forced = PLAN_WALK; /* so few could as well be scanned */
    data_insert(world.engine, &world.data, 0, COUNT);
    data_link(world.engine);
    assert_true(engine_is_due(world.engine));
    assert_int_equal(engine_maintain(world.engine, NULL, &err), ERR_OK);
    assert_false(engine_is_due(world.engine));
    return world;
}

static void close_world(struct world *world)
{
    engine_close(world->engine);
    data_free(&world->data);
}

static double recall_got(const struct world *world, struct engine_query query, double *distances)
{
    float vector[DIM];
    uint64_t random = 4712;
    double sum = 0;

    *distances = 0;
    query.vector = vector;
    query.bound = INFINITY;
    for (uint32_t i = 0; i < QUERIES; i++) {
        struct engine_counters counters;

        data_vector(&world->data, i % world->data.clusters, world->spread, &random, vector);
        sum += data_recall_one(world->engine, query, &counters);
        *distances += (double)counters.distances / QUERIES;
    }
    return sum / QUERIES;
}

static void keeps_promise(const struct world *world, struct engine_query query, const char *what)
{
    double before = 0;

    for (size_t i = 0; i < ARRAY_COUNT(asked); i++) {
        double distances;

        query.recall = asked[i];
        double got = recall_got(world, query, &distances);
        printf("%s, k %u: asked %.3f, got %.4f, %.0f distances\n", what, query.k, (double)asked[i],
               got, distances);
        assert_true(got >= (double)asked[i] - 0.01);
        assert_true(distances >= before);
        before = distances;
    }
}

static void metric_keeps_promise(enum engine_metric metric, const char *name)
{
    static const uint32_t ks[] = {1, 3, 10, 100, 250};
    struct world world = open_world(metric);

    for (size_t i = 0; i < ARRAY_COUNT(ks); i++)
        keeps_promise(&world, (struct engine_query){.k = ks[i]}, name);
    close_world(&world);
}

static void cosine_gets_what_is_asked(void **state)
{
    (void)state;
    metric_keeps_promise(ENGINE_COSINE, "cosine");
}

static void inner_product_gets_what_is_asked(void **state)
{
    (void)state;
    metric_keeps_promise(ENGINE_IP, "ip");
}

static void squared_distance_gets_what_is_asked(void **state)
{
    (void)state;
    metric_keeps_promise(ENGINE_L2, "l2");
}

static void filters_get_what_is_asked(void **state)
{
    static const uint32_t one_in[] = {2, 10, 100};
    struct world world = open_world(ENGINE_COSINE);

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(one_in); i++) {
        uint64_t words[WORDS] = {0};
        struct engine_bitmap bitmap = {.words = words, .word_count = WORDS};
        uint64_t random = 99;

        for (uint32_t j = 0; j < COUNT; j++)
            if (data_random(&random) % one_in[i] == 0) {
                words[j / 64] |= UINT64_C(1) << j % 64;
                bitmap.cardinality++;
            }
        keeps_promise(&world, (struct engine_query){.k = 10, .filter = &bitmap}, "filtered");
    }
    close_world(&world);
}

static void the_living_are_got_as_asked(void **state)
{
    static const uint32_t one_in[] = {8, 3, 2}; /* dies */
    struct world world = open_world(ENGINE_L2);

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(one_in); i++) {
        for (uint32_t j = 0; j < COUNT; j += one_in[i])
            engine_delete(world.engine, j);
        keeps_promise(&world, (struct engine_query){.k = 10}, "some dead");
    }
    close_world(&world);
}

/* Fewer than a calibration is worth, and the guess that stands for it. */
static void small_graphs_get_what_is_asked(void **state)
{
    struct world world = {.data = data_make(4500, DIM, 0.0f, 62),
                          .engine = data_open(DIM, ENGINE_COSINE)};

    (void)state;
    world.engine->forced = PLAN_WALK;
    data_insert(world.engine, &world.data, 0, world.data.count);
    data_link(world.engine);
    assert_false(engine_is_due(world.engine));
    keeps_promise(&world, (struct engine_query){.k = 1}, "guessed");
    keeps_promise(&world, (struct engine_query){.k = 10}, "guessed");
    keeps_promise(&world, (struct engine_query){.k = 100}, "guessed");
    close_world(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cosine_gets_what_is_asked),
        cmocka_unit_test(inner_product_gets_what_is_asked),
        cmocka_unit_test(squared_distance_gets_what_is_asked),
        cmocka_unit_test(filters_get_what_is_asked),
        cmocka_unit_test(the_living_are_got_as_asked),
        cmocka_unit_test(small_graphs_get_what_is_asked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
