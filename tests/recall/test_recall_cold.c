/* One effort, one recall: with a part of the vectors cold, in one part or in many, a search finds
 * at least what it finds when all are in the graph, for few and for many hits; also with filters,
 * and with many dead.  And who asks for a recall gets it within a point, however much is cold.
 * pace: long */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "engine/calibrate.h"
#include "engine/cold.h"
#include "engine/internal.h"
#include "tests/lib/engine_data.h"
#include "tests/lib/scratch.h"

enum { COUNT = 20000, DIM = 48, QUERIES = 400 };

#define TOLERANCE 0.006

static char folder[200];
static struct data data;

static int draw(void **state)
{
    (void)state;
    data = data_make(COUNT, DIM, 0.2f, 62);
    return 0;
}

static int forget(void **state)
{
    (void)state;
    data_free(&data);
    return 0;
}

static int make_folder(void **state)
{
    (void)state;
    return !scratch_make(folder, sizeof(folder), "cold");
}

static int drop_folder(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

/* All of the data, inserted in so many rounds. */
static struct engine *make(uint32_t cold_above, enum engine_metric metric, uint32_t rounds)
{
    struct engine_options options = {.dim = DIM,
                                     .metric = metric,
                                     .m = 16,
                                     .ef_construction = 200,
                                     .flat_below = 1,
                                     .cold_above = cold_above,
                                     .seed = 7};
    struct engine *engine;
    struct err err;

    assert_int_equal(engine_open(&engine, cold_above == 0 ? NULL : folder, &options, NULL, &err),
                     ERR_OK);
    engine->forced = PLAN_WALK; /* so few could as well be scanned */
    for (uint32_t i = 0; i < rounds; i++) {
        data_insert(engine, &data, COUNT / rounds * i, COUNT / rounds * (i + 1));
        data_link(engine);
        while (cold_above > 0 && engine_is_due(engine))
            assert_int_equal(engine_maintain(engine, NULL, &err), ERR_OK);
    }
    return engine;
}

static double recall_got(struct engine *engine, struct engine_query query)
{
    float vector[DIM];
    uint64_t random = 4711;
    double sum = 0;

    query.vector = vector;
    query.bound = INFINITY;
    for (uint32_t i = 0; i < QUERIES; i++) {
        data_vector(&data, i % data.clusters, 0.2f, &random, vector);
        sum += data_recall_one(engine, query, NULL);
    }
    return sum / QUERIES;
}

static double recall_of(struct engine *engine, uint32_t k, uint32_t ef,
                        const struct engine_bitmap *filter)
{
    return recall_got(engine, (struct engine_query){.k = k, .ef = ef, .filter = filter});
}

static void compare(struct engine *engine, struct engine *warm, const char *what)
{
    static const struct {
        uint32_t k, ef;
    } efforts[] = {{1, 0}, {10, 20}, {10, 40}, {10, 0}, {10, 120}, {100, 0}};

    for (size_t e = 0; e < ARRAY_COUNT(efforts); e++) {
        double recall = recall_of(engine, efforts[e].k, efforts[e].ef, NULL);
        double graph = recall_of(warm, efforts[e].k, efforts[e].ef, NULL);

        printf("%s, k %u, ef %u: recall %.4f, of the graph %.4f\n", what, efforts[e].k,
               efforts[e].ef, recall, graph);
        assert_true(recall >= graph - TOLERANCE);
    }
}

static void it_finds_no_less_than_the_graph_alone(void **state)
{
    static const char *const names[] = {"cosine", "ip", "l2"};
    static const uint32_t above[] = {COUNT - 1, COUNT / 5};

    (void)state;
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++) {
        struct engine *warm = make(0, metric, 1);

        for (size_t a = 0; a < ARRAY_COUNT(above); a++) {
            struct engine *engine = make(above[a], metric, 1);

            assert_int_equal(graph_cold(graph_of(engine))->count, 1);
            compare(engine, warm, names[metric]);
            engine_close(engine);
            assert_int_equal(drop_folder(NULL), 0);
            assert_int_equal(make_folder(NULL), 0);
        }
        engine_close(warm);
    }
}

static void it_does_so_with_many_parts_and_many_dead(void **state)
{
    struct engine *warm = make(0, ENGINE_COSINE, 1);
    struct engine *engine = make(COUNT / 5, ENGINE_COSINE, 10);
    static uint64_t words[COUNT / 64 + 1];
    struct engine_bitmap filter = {.words = words, .word_count = ARRAY_COUNT(words)};

    (void)state;
    assert_true(graph_cold(graph_of(engine))->count > 1);
    compare(engine, warm, "many parts");
    for (uint32_t i = 0; i < COUNT; i += 6) {
        engine_delete(engine, i);
        engine_delete(warm, i);
    }
    compare(engine, warm, "many dead");
    for (uint32_t every = 2; every < 200; every *= 5) {
        memset(words, 0, sizeof(words));
        filter.cardinality = 0;
        for (uint32_t i = 0; i < COUNT; i += every, filter.cardinality++)
            words[i / 64] |= UINT64_C(1) << i % 64;
        double recall = recall_of(engine, 10, 0, &filter);
        double graph = recall_of(warm, 10, 0, &filter);
        printf("one in %u: recall %.4f, of the graph %.4f\n", every, recall, graph);
        assert_true(recall >= graph - TOLERANCE && recall >= 0.95);
    }
    engine_close(engine);
    engine_close(warm);
}

/* The table of a graph that holds a part of all is not taken at its word. */
static void assert_stricter(struct engine *engine)
{
    const struct graph *graph = graph_of(engine);
    struct engine_query query = {
        .vector = data.vectors, .k = 10, .recall = 0.98f, .bound = INFINITY};
    struct engine_hit hits[10];
    struct engine_counters counters;
    struct err err;
    size_t count;

    assert_int_equal(engine_search(engine, &query, hits, &count, &counters, &err), ERR_OK);
    assert_non_null(graph->calibration);
    assert_true(counters.ef > calibrated_ef(graph->calibration, query.recall, query.k));
}

/* Half and two thirds cold, and so much that the graph is too small to be measured. */
static void a_recall_that_is_asked_for_is_got(void **state)
{
    static const char *const names[] = {"cosine", "ip", "l2"};
    static const uint32_t above[] = {COUNT - 1, 3 * COUNT / 5, COUNT / 5};
    static const uint32_t ks[] = {1, 10, 100};
    static const float asked[] = {0.90f, 0.95f, 0.98f, 0.99f};

    (void)state;
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++)
        for (size_t a = 0; a < ARRAY_COUNT(above); a++) {
            struct engine *engine = make(above[a], metric, 1);

            if (above[a] > COUNT / 2)
                assert_stricter(engine);
            for (size_t i = 0; i < ARRAY_COUNT(ks) * ARRAY_COUNT(asked); i++) {
                uint32_t k = ks[i / ARRAY_COUNT(asked)];
                float recall = asked[i % ARRAY_COUNT(asked)];
                double got = recall_got(engine, (struct engine_query){.k = k, .recall = recall});

                printf("%s, graph of %u, k %u: asked %.2f, got %.4f\n", names[metric], above[a], k,
                       (double)recall, got);
                assert_true(got >= (double)recall - 0.01);
            }
            engine_close(engine);
            assert_int_equal(drop_folder(NULL), 0);
            assert_int_equal(make_folder(NULL), 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_finds_no_less_than_the_graph_alone, make_folder,
                                        drop_folder),
        cmocka_unit_test_setup_teardown(it_does_so_with_many_parts_and_many_dead, make_folder,
                                        drop_folder),
        cmocka_unit_test_setup_teardown(a_recall_that_is_asked_for_is_got, make_folder,
                                        drop_folder),
    };

    return cmocka_run_group_tests(tests, draw, forget);
}
