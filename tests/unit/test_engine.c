/* The engine's contract on small sets: exact order, ties, limits, deletion, bad arguments. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <cmocka.h>

#include "common/base/limits.h"
#include "tests/lib/engine_data.h"

static struct engine *open_with(struct engine_options options)
{
    struct engine *engine;
    struct err err = {0};

    if (engine_open(&engine, NULL, &options, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return engine;
}

static size_t search(struct engine *engine, const float *vector, uint32_t k,
                     struct engine_hit *hits)
{
    struct engine_query query = {.vector = vector, .k = k, .bound = INFINITY};
    struct err err = {0};
    size_t count;

    if (engine_search(engine, &query, hits, &count, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_true(count <= k);
    for (size_t i = 1; i < count; i++)
        assert_true(
            hits[i - 1].distance < hits[i].distance ||
            (hits[i - 1].distance == hits[i].distance && hits[i - 1].ordinal < hits[i].ordinal));
    return count;
}

static void insert(struct engine *engine, uint32_t ordinal, const float *vector)
{
    struct err err = {0};

    if (engine_insert(engine, ordinal, vector, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

static void six_dimensions_come_in_exact_order(void **state)
{
    static const struct {
        enum engine_metric metric;
        uint32_t order[7];
        float distances[7];
    } cases[] = {
        {ENGINE_L2, {2, 4, 6, 8, 10, 12, 14}, {0, 1, 4, 9, 16, 25, 36}},
        {ENGINE_IP, {14, 12, 10, 8, 6, 4, 2}, {-7, -6, -5, -4, -3, -2, -1}},
    };

    (void)state;
    for (size_t c = 0; c < ARRAY_COUNT(cases); c++) {
        for (uint32_t flat_below = 1; flat_below <= 2000; flat_below += 1999) {
            struct engine *engine = open_with((struct engine_options){
                .dim = 6, .metric = cases[c].metric, .flat_below = flat_below});
            struct engine_hit hits[10];
            const float query[6] = {1, 0, 0, 0, 0, 0};

            for (uint32_t i = 0; i < 7; i++) {
                float vector[6] = {1.0f + (float)i, 0, 0, 0, 0, 0};
                insert(engine, 2 + 2 * i, vector);
                data_link(engine);
            }
            assert_int_equal(search(engine, query, 10, hits), 7);
            for (size_t i = 0; i < 7; i++) {
                assert_int_equal(hits[i].ordinal, cases[c].order[i]);
                assert_true(hits[i].distance == cases[c].distances[i]);
            }
            engine_close(engine);
        }
    }
}

static void a_zero_vector_is_at_cosine_distance_one(void **state)
{
    struct engine *engine = open_with((struct engine_options){.dim = 3});
    const float zero[3] = {0, 0, 0};
    const float x[3] = {5, 0, 0};
    const float minus_x[3] = {-1, 0, 0};
    struct engine_hit hits[5];

    (void)state;
    insert(engine, 0, zero);
    insert(engine, 1, minus_x);
    insert(engine, 2, x);
    assert_int_equal(search(engine, x, 5, hits), 3);
    assert_int_equal(hits[0].ordinal, 2);
    assert_true(hits[0].distance == 0.0f);
    assert_int_equal(hits[1].ordinal, 0);
    assert_true(hits[1].distance == 1.0f);
    assert_true(hits[2].distance == 2.0f);
    assert_int_equal(search(engine, zero, 5, hits), 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(hits[i].distance == 1.0f && hits[i].ordinal == i);
    engine_close(engine);
}

static void an_inserted_vector_is_found_at_once_and_a_deleted_one_never(void **state)
{
    struct data data = data_make(700, 8, 0.0f, 1);
    struct engine *engine = data_open(8, ENGINE_L2);
    struct engine_hit hits[700];
    struct err err = {0};

    (void)state;
    for (uint32_t i = 0; i < data.count; i++) {
        insert(engine, i, data_at(&data, i));
        assert_int_equal(search(engine, data_at(&data, i), 1, hits), 1);
        assert_int_equal(hits[0].ordinal, i);
        if (i % 97 == 0)
            data_link(engine);
    }
    for (uint32_t i = 0; i < data.count; i++) {
        engine_delete(engine, i);
        engine_delete(engine, i);
        engine_delete(engine, data.count + i);
        assert_int_equal(engine_count(engine), data.count - i - 1);
        size_t count = search(engine, data_at(&data, i), 700, hits);
        assert_int_equal(count, data.count - i - 1);
        for (size_t j = 0; j < count; j++)
            assert_true(hits[j].ordinal > i);
    }
    assert_int_equal(engine_validate(engine, &err), ERR_OK);
    engine_close(engine);
    data_free(&data);
}

static void many_equal_vectors_come_by_ordinal(void **state)
{
    enum { EQUAL = 1500, OTHERS = 500 };
    struct data data = data_make(OTHERS, 16, 0.0f, 2);

    (void)state;
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++) {
        struct engine *engine = data_open(16, metric);
        struct engine_hit hits[100];
        struct err err = {0};
        float vector[16];

        for (uint32_t j = 0; j < 16; j++)
            vector[j] = 4.0f;
        for (uint32_t i = 0; i < EQUAL + OTHERS; i++)
            insert(engine, i, i % 7 == 3 ? data_at(&data, i / 7) : vector);
        data_link(engine);
        assert_int_equal(engine_validate(engine, &err), ERR_OK);
        engine_delete(engine, 1);
        assert_int_equal(search(engine, vector, 100, hits), 100);
        for (uint32_t i = 0, expected = 0; i < 100; i++, expected++) {
            while (expected % 7 == 3 || expected == 1)
                expected++;
            assert_int_equal(hits[i].ordinal, expected);
        }
        for (uint32_t i = 0; i < OTHERS; i += 50) {
            uint32_t ordinal = 7 * i + 3;
            if (ordinal >= EQUAL + OTHERS || metric == ENGINE_IP)
                continue;
            assert_int_equal(search(engine, data_at(&data, i), 10, hits), 10);
            assert_int_equal(hits[0].ordinal, ordinal);
        }
        engine_close(engine);
    }
    data_free(&data);
}

static void only_zero_vectors_are_served(void **state)
{
    float zero[5] = {0};

    (void)state;
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++) {
        struct engine *engine = data_open(5, metric);
        struct engine_hit hits[20];
        struct err err = {0};

        for (uint32_t i = 0; i < 1500; i++)
            insert(engine, i, zero);
        data_link(engine);
        assert_int_equal(search(engine, zero, 20, hits), 20);
        for (uint32_t i = 0; i < 20; i++)
            assert_int_equal(hits[i].ordinal, i);
        assert_int_equal(engine_validate(engine, &err), ERR_OK);
        engine_close(engine);
    }
}

static void extreme_dimensions_work(void **state)
{
    static const uint32_t dims[] = {1, 2, 15, 17, DIMENSION_MAX};

    (void)state;
    for (size_t d = 0; d < ARRAY_COUNT(dims); d++) {
        uint32_t count = dims[d] == DIMENSION_MAX ? 150 : 700;
        struct data data = data_make(count, dims[d], 0.0f, 3);
        struct engine *engine = data_open(dims[d], ENGINE_L2);
        struct engine_hit hits[5];
        struct err err = {0};

        data_insert(engine, &data, 0, count);
        data_link(engine);
        for (uint32_t i = 0; i < count; i += 13) {
            assert_int_equal(search(engine, data_at(&data, i), 5, hits), 5);
            assert_true(hits[0].distance == 0.0f);
        }
        assert_int_equal(engine_validate(engine, &err), ERR_OK);
        engine_close(engine);
        data_free(&data);
    }
}

static void k_and_ef_may_exceed_the_set(void **state)
{
    struct data data = data_make(3000, 12, 0.0f, 4);
    struct engine *engine = data_open(12, ENGINE_COSINE);
    struct engine_hit *hits = calloc(10000, sizeof(*hits));
    struct engine_query query = {
        .vector = data_at(&data, 5), .k = 3, .ef = UINT32_MAX, .bound = INFINITY};
    struct err err = {0};
    size_t count;

    (void)state;
    assert_non_null(hits);
    assert_int_equal(search(engine, data_at(&data, 0), 10000, hits), 0);
    data_insert(engine, &data, 0, data.count);
    data_link(engine);
    assert_int_equal(search(engine, data_at(&data, 0), 10000, hits), 3000);
    assert_int_equal(search(engine, data_at(&data, 0), 2999, hits), 2999);
    assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_equal(count, 3);
    assert_int_equal(hits[0].ordinal, 5);
    free(hits);
    engine_close(engine);
    data_free(&data);
}

static void the_bound_and_the_deadline_hold(void **state)
{
    struct data data = data_make(6000, 16, 0.0f, 6);
    struct engine *engine = data_open(16, ENGINE_L2);
    struct engine_hit hits[10];
    struct engine_query query = {.vector = data_at(&data, 9), .k = 10, .bound = INFINITY};
    struct engine_counters counters;
    struct err err = {0};
    size_t count;

    (void)state;
    data_insert(engine, &data, 0, data.count);
    for (int is_linked = 0; is_linked <= 1; is_linked++) {
        query.bound = INFINITY;
        query.deadline_ns = 0;
        assert_int_equal(engine_search(engine, &query, hits, &count, &counters, &err), ERR_OK);
        assert_int_equal(count, 10);
        assert_string_equal(counters.plan, is_linked != 0 ? "hnsw" : "flat");
        query.bound = hits[4].distance;
        assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_OK);
        assert_int_equal(count, 5);
        query.bound = -1.0f;
        assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_OK);
        assert_int_equal(count, 0);
        query.deadline_ns = 1;
        assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_TIMEOUT);
        assert_int_equal(count, 0);
        data_link(engine);
    }
    engine_close(engine);
    data_free(&data);
}

static void bad_arguments_are_refused(void **state)
{
    static const struct engine_options bad[] = {
        {.dim = 0},
        {.dim = DIMENSION_MAX + 1},
        {.dim = 4, .m = 3},
        {.dim = 4, .m = 65},
        {.dim = 4, .ef_construction = 7},
        {.dim = 4, .ef_construction = 2001},
        {.dim = 4, .metric = 9},
        {.dim = 4, .kind = 9},
    };
    const float good[4] = {1, 2, 3, 4};
    const float nan_vector[4] = {1, NAN, 3, 4};
    const float infinite[4] = {1, 2, 3, -INFINITY};
    struct engine_hit hits[4];
    struct engine_query query = {.vector = good, .k = 0, .bound = INFINITY};
    struct engine *engine;
    struct err err;
    size_t count;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_int_equal(engine_open(&engine, NULL, &bad[i], NULL, &err), ERR_INVALID_ARGUMENT);
        assert_null(engine);
    }
    struct engine_options options = {.dim = 4, .kernel = "abacus"};
    assert_int_equal(engine_open(&engine, NULL, &options, NULL, &err), ERR_CONFIG);
    engine = open_with((struct engine_options){.dim = 4});
    insert(engine, 10, good);
    assert_int_equal(engine_insert(engine, 10, good, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(engine_insert(engine, 9, good, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(engine_insert(engine, 11, nan_vector, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(engine_insert(engine, 11, infinite, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(engine_count(engine), 1);
    assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_INVALID_ARGUMENT);
    query.k = 1;
    query.vector = nan_vector;
    assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_INVALID_ARGUMENT);
    engine_close(engine);
    engine_close(NULL);
}

static void overflowing_distances_are_infinite_not_wrong(void **state)
{
    const float huge[2] = {3e38f, -3e38f};
    const float other[2] = {-3e38f, 3e38f};
    struct engine_hit hits[3];

    (void)state;
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++) {
        struct engine *engine = data_open(2, metric);

        insert(engine, 1, other);
        insert(engine, 2, huge);
        assert_int_equal(search(engine, huge, 3, hits), 2);
        assert_int_equal(hits[0].ordinal, 2);
        assert_true(hits[0].distance == hits[0].distance);
        assert_true(hits[1].distance == hits[1].distance);
        engine_close(engine);
    }
}

static void a_flat_engine_never_links(void **state)
{
    struct data data = data_make(5000, 10, 0.0f, 9);
    struct engine *engine =
        open_with((struct engine_options){.dim = 10, .kind = ENGINE_FLAT, .flat_below = 1});
    struct engine_counters counters;
    struct err err = {0};

    (void)state;
    data_insert(engine, &data, 0, data.count);
    data_link(engine);
    assert_int_equal(engine_linked(engine), 0);
    double recall = data_recall_one(
        engine, (struct engine_query){.vector = data_at(&data, 3), .k = 10, .bound = INFINITY},
        &counters);
    assert_true(recall >= 1.0);
    assert_string_equal(counters.plan, "flat");
    assert_int_equal(counters.scanned, 5000);
    assert_int_equal(engine_validate(engine, &err), ERR_OK);
    engine_close(engine);
    data_free(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(six_dimensions_come_in_exact_order),
        cmocka_unit_test(a_zero_vector_is_at_cosine_distance_one),
        cmocka_unit_test(an_inserted_vector_is_found_at_once_and_a_deleted_one_never),
        cmocka_unit_test(many_equal_vectors_come_by_ordinal),
        cmocka_unit_test(only_zero_vectors_are_served),
        cmocka_unit_test(extreme_dimensions_work),
        cmocka_unit_test(k_and_ef_may_exceed_the_set),
        cmocka_unit_test(the_bound_and_the_deadline_hold),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(overflowing_distances_are_infinite_not_wrong),
        cmocka_unit_test(a_flat_engine_never_links),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
