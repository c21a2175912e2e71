/* The graph is a pure function of what was inserted: whatever the slices and threads of the
 * linking, digests and hits are equal, and every invariant holds after each phase. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/lib/engine_data.h"
#include "tests/lib/engine_threads.h"

enum { COUNT = 3000, DIM = 24, THREADS = 4 };

static struct engine *open_engine(enum engine_metric metric, bool is_parallel, uint64_t seed)
{
    struct engine_options options = {
        .dim = DIM, .metric = metric, .m = 8, .ef_construction = 60, .flat_below = 1, .seed = seed};
    static uint32_t threads = THREADS;
    struct engine_executor executor = threads_executor(&threads);
    struct engine *engine;
    struct err err = {0};

    if (engine_open(&engine, NULL, &options, is_parallel ? &executor : NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return engine;
}

static void validate(const struct engine *engine)
{
    struct err err = {0};

    if (engine_validate(engine, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

/* Insert all in parts of `part` and link with that budget after each. */
static void build(struct engine *engine, const struct data *data, uint32_t part, uint32_t budget)
{
    struct err err = {0};
    uint64_t left;

    for (uint32_t i = 0; i < data->count; i += part) {
        uint32_t end = i + part < data->count ? i + part : data->count;

        data_insert(engine, data, i, end);
        assert_int_equal(engine_step(engine, budget, &left, &err), ERR_OK);
        if (i % (8 * part) == 0)
            validate(engine);
    }
    do {
        assert_int_equal(engine_step(engine, budget, &left, &err), ERR_OK);
    } while (left > 0);
    assert_true(engine_linked(engine) + 64 > data->count);
}

/* Duplicates all over, so that twins are chained within and across batches. */
static struct data data_with_twins(void)
{
    struct data data = data_make(COUNT, DIM, 0.3f, 31);
    uint64_t random = 5;

    for (uint32_t i = 1; i < COUNT; i++)
        if (data_random(&random) % 4 == 0)
            memcpy(data.vectors + (size_t)i * DIM,
                   data_at(&data, (uint32_t)data_random(&random) % i), DIM * sizeof(float));
    return data;
}

static void slices_and_threads_make_no_difference(void **state)
{
    static const struct {
        uint32_t part, budget;
        bool is_parallel;
    } ways[] = {{COUNT, UINT32_MAX, false}, {COUNT, UINT32_MAX, true}, {1, 1, false}, {37, 5, true},
                {500, 64, false},           {1000, 100, true}};
    struct data data = data_with_twins();

    (void)state;
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++) {
        uint64_t digest = 0;

        for (size_t w = 0; w < ARRAY_COUNT(ways); w++) {
            struct engine *engine = open_engine(metric, ways[w].is_parallel, 1);

            build(engine, &data, ways[w].part, ways[w].budget);
            validate(engine);
            if (w == 0)
                digest = engine_digest(engine);
            assert_true(engine_digest(engine) == digest);
            engine_close(engine);
        }
        struct engine *other = open_engine(metric, false, 2);
        build(other, &data, COUNT, UINT32_MAX);
        assert_true(engine_digest(other) != digest);
        engine_close(other);
    }
    data_free(&data);
}

static void equal_engines_give_equal_hits(void **state)
{
    struct data data = data_with_twins();
    struct engine *one = open_engine(ENGINE_COSINE, false, 1);
    struct engine *other = open_engine(ENGINE_COSINE, true, 1);

    (void)state;
    build(one, &data, COUNT, UINT32_MAX);
    build(other, &data, 91, 17);
    for (uint32_t i = 0; i < COUNT; i += 3) {
        engine_delete(one, i);
        engine_delete(other, i);
    }
    validate(one);
    for (uint32_t i = 0; i < 200; i++) {
        struct engine_query query = {.vector = data_at(&data, i), .k = 20, .bound = INFINITY};
        struct engine_hit hits[2][20];
        size_t count[2];
        struct err err;

        assert_int_equal(engine_search(one, &query, hits[0], &count[0], NULL, &err), ERR_OK);
        assert_int_equal(engine_search(other, &query, hits[1], &count[1], NULL, &err), ERR_OK);
        assert_int_equal(count[0], 20);
        assert_int_equal(count[1], 20);
        assert_memory_equal(hits[0], hits[1], sizeof(hits[0]));
    }
    assert_true(engine_digest(one) == engine_digest(other));
    engine_close(one);
    engine_close(other);
    data_free(&data);
}

/* Far outliers and a dense crowd: the shapes that leave nodes of other graphs unreachable. */
static void odd_shapes_stay_reachable(void **state)
{
    struct data data = data_make(COUNT, DIM, 0.0f, 77);

    (void)state;
    for (uint32_t i = 0; i < COUNT; i++) {
        float *vector = data.vectors + (size_t)i * DIM;
        for (uint32_t j = 0; j < DIM; j++)
            vector[j] =
                i % 50 == 0 ? (j == i / 50 % DIM ? 100.0f + (float)i : 0.0f) : vector[j] * 1e-3f;
    }
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++) {
        struct engine *engine = open_engine(metric, false, 1);

        build(engine, &data, COUNT, UINT32_MAX);
        validate(engine);
        engine_close(engine);
    }
    data_free(&data);
}

static void ordinals_may_have_gaps(void **state)
{
    struct data data = data_make(COUNT, DIM, 0.0f, 3);
    struct engine *engine = open_engine(ENGINE_L2, false, 1);
    struct err err = {0};
    uint64_t random = 1;
    uint32_t ordinal = 1000000;
    uint32_t ordinals[COUNT];

    (void)state;
    for (uint32_t i = 0; i < COUNT; i++) {
        ordinal += 1 + (uint32_t)(data_random(&random) % 1000);
        ordinals[i] = ordinal;
        assert_int_equal(engine_insert(engine, ordinal, data_at(&data, i), &err), ERR_OK);
        if (i % 2 == 0)
            engine_delete(engine, ordinal - 1); /* in a gap, mostly */
    }
    data_link(engine);
    uint64_t live = engine_count(engine);
    size_t words = ordinal / 64 + 1;
    uint64_t *bits = calloc(words, sizeof(*bits));
    assert_non_null(bits);
    struct engine_bitmap bitmap = {.words = bits, .word_count = words};
    for (uint32_t i = 0; i < COUNT; i += 3) {
        bits[ordinals[i] / 64] |= UINT64_C(1) << ordinals[i] % 64;
        bitmap.cardinality++;
    }
    for (uint32_t i = 0; i < 600; i += 3) {
        struct engine_query query = {
            .vector = data_at(&data, i), .k = 1, .filter = &bitmap, .bound = INFINITY};
        struct engine_hit hit;
        size_t count;

        assert_int_equal(engine_search(engine, &query, &hit, &count, NULL, &err), ERR_OK);
        assert_int_equal(count, 1);
        assert_true(hit.ordinal == ordinals[i] || live < COUNT);
    }
    validate(engine);
    free(bits);
    engine_close(engine);
    data_free(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_and_threads_make_no_difference),
        cmocka_unit_test(equal_engines_give_equal_hits),
        cmocka_unit_test(odd_shapes_stay_reachable),
        cmocka_unit_test(ordinals_may_have_gaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
