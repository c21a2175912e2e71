/* What the inverted file promises besides recall: defined answers for whatever it is given, the
 * same index and answers for any kernel and any number of threads, bounds and deadlines. */
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <cmocka.h>

#include "common/base/limits.h"
#include "tests/lib/engine_threads.h"
#include "tests/lib/ivf_data.h"
#include "tests/lib/own_threads.h"

static struct ivf *build_of(const float *vectors, uint32_t count, struct ivf_options options)
{
    struct data data = {.count = count, .dim = options.dim, .vectors = (float *)(uintptr_t)vectors};

    return ivf_data_build(&data, options);
}

static size_t ask(struct ivf *ivf, const float *vector, uint32_t k, struct engine_hit *hits)
{
    struct ivf_query query = {.vector = vector, .k = k, .bound = INFINITY};
    size_t count;
    struct err err;

    assert_int_equal(ivf_search(ivf, &query, hits, &count, NULL, &err), ERR_OK);
    for (size_t i = 0; i < count; i++) {
        assert_true(hits[i].distance == hits[i].distance);
        assert_true(
            i == 0 || hits[i - 1].distance < hits[i].distance ||
            (hits[i - 1].distance == hits[i].distance && hits[i - 1].ordinal < hits[i].ordinal));
    }
    return count;
}

/* The body once for each kind and metric, as `options`. */
#define FOR_ALL(options)                                                                           \
    for (size_t kind = 0; kind < ARRAY_COUNT(ivf_kinds); kind++)                                   \
        for (size_t metric = 0; metric < ARRAY_COUNT(ivf_metrics); metric++)                       \
            for (struct ivf_options                                                                \
                     options = {.kind = ivf_kinds[kind], .metric = ivf_metrics[metric]},           \
                     *once = &options;                                                             \
                 once != NULL; once = NULL)

static void nothing_and_less_than_k_are_found(void **state)
{
    struct data data = data_make(50, 17, 0.0f, 1);
    struct engine_hit hits[100];

    (void)state;
    FOR_ALL(options)
    {
        options.dim = data.dim;
        for (uint32_t count = 0; count <= 50; count += count < 3 ? 1 : 47) {
            struct ivf *ivf = build_of(data.vectors, count, options);

            assert_int_equal(ask(ivf, data.vectors, 100, hits), count);
            assert_int_equal(ivf_count(ivf), count);
            ivf_free(ivf);
        }
    }
    ivf_free(NULL);
    data_free(&data);
}

static void identical_vectors_are_found_by_ordinal(void **state)
{
    enum { COUNT = 10000, DIM = 20, K = 30 };
    float *vectors = data_floats(COUNT, DIM);
    struct engine_hit hits[K];

    (void)state;
    for (size_t i = 0; i < (size_t)COUNT * DIM; i++)
        vectors[i] = 0.1f * (float)(i % DIM) - 0.3f;
    FOR_ALL(options)
    {
        options.dim = DIM;
        struct ivf *ivf = build_of(vectors, COUNT, options);

        assert_int_equal(ask(ivf, vectors, K, hits), K);
        for (uint32_t i = 0; i < K; i++)
            assert_int_equal(hits[i].ordinal, i);
        ivf_free(ivf);
    }
    free(vectors);
}

/* Zeros, one number for all dimensions, one dimension, some large, some tiny. */
static void odd_vectors_are_found(void **state)
{
    enum { COUNT = 600, DIM_MAX = 70 };
    static const float values[] = {0.0f, 3.0f, -1e-30f, 1e12f};
    static const uint32_t dims[] = {1, 2, 64, DIM_MAX};
    static float vectors[COUNT * DIM_MAX];
    struct engine_hit hits[COUNT];
    uint64_t random = 2;

    (void)state;
    FOR_ALL(options)
    for (size_t d = 0; d < ARRAY_COUNT(dims); d++)
        for (size_t v = 0; v < ARRAY_COUNT(values); v++) {
            options.dim = dims[d];
            for (size_t i = 0; i < COUNT * dims[d]; i++)
                vectors[i] = i / dims[d] % 3 == 0 ? 0.0f : values[v] * data_normal(&random);
            struct ivf *ivf = build_of(vectors, COUNT, options);

            assert_int_equal(ask(ivf, vectors, COUNT, hits), COUNT);
            assert_int_equal(ask(ivf, vectors + dims[d], 20, hits), 20);
            if (options.metric == ENGINE_L2)
                assert_true(hits[0].distance == 0.0f);
            if (options.metric == ENGINE_COSINE) {
                assert_int_equal(ask(ivf, vectors, 5, hits), 5); /* zero: 1 from everything */
                assert_true(hits[0].distance == 1.0f);
            }
            ivf_free(ivf);
        }
}

/* Sums overflow; there are answers all the same, and nothing undefined happens. */
static void huge_numbers_have_answers(void **state)
{
    enum { COUNT = 200, DIM = 40 };
    static float vectors[COUNT * DIM];
    struct engine_hit hits[COUNT];
    uint64_t random = 3;

    (void)state;
    for (size_t i = 0; i < COUNT * DIM; i++)
        vectors[i] = data_random(&random) % 2 == 0 ? FLT_MAX : -1e25f;
    FOR_ALL(options)
    {
        options.dim = DIM;
        struct ivf_rows rows = {.count = COUNT, .vectors = vectors, .stride = DIM};
        struct ivf *ivf;
        struct err err;

        assert_int_equal(ivf_build(&ivf, &options, &rows, NULL, &err), ERR_OK);
        assert_true(ask(ivf, vectors, COUNT, hits) <= COUNT);
        ivf_free(ivf);
    }
}

static const float *double_row(void *state, uint32_t row, float *room)
{
    const struct data *data = state;

    for (uint32_t i = 0; i < data->dim; i++)
        room[i] = data_at(data, row)[i];
    return room;
}

/* Rows from a callback, ordinals with gaps: the answers are those of rows in memory. */
static void rows_may_be_asked_for_and_have_ordinals(void **state)
{
    enum { COUNT = 3000, DIM = 24, K = 10 };
    struct data data = data_make(COUNT, DIM, 0.2f, 4);
    struct ivf_rows rows = {.count = COUNT, .at = double_row, .state = &data};
    static uint32_t ordinals[COUNT];
    static uint64_t words[COUNT * 3 / 64 + 1];
    struct engine_bitmap filter = {.words = words, .word_count = ARRAY_COUNT(words)};
    struct engine_hit hits[K], expected[K];
    struct err err;

    (void)state;
    for (uint32_t i = 0; i < COUNT; i++) {
        ordinals[i] = 3 * i + i % 2;
        if (i % 40 == 0)
            words[ordinals[i] / 64] |= UINT64_C(1) << ordinals[i] % 64, filter.cardinality++;
    }
    rows.ordinals = ordinals;
    FOR_ALL(options)
    {
        struct ivf *plain = ivf_data_build(&data, options), *asked;
        struct ivf_query query = {.k = K, .filter = &filter, .bound = INFINITY};
        size_t count;

        options.dim = DIM;
        assert_int_equal(ivf_build(&asked, &options, &rows, NULL, &err), ERR_OK);
        assert_int_equal(ivf_validate(asked, &err), ERR_OK);
        assert_true(ivf_digest(asked) == ivf_digest(plain));
        for (uint32_t q = 0; q < 20; q++) {
            assert_int_equal(ask(plain, data_at(&data, q), K, expected), K);
            assert_int_equal(ask(asked, data_at(&data, q), K, hits), K);
            for (size_t i = 0; i < K; i++) {
                assert_true(hits[i].distance == expected[i].distance);
                assert_int_equal(hits[i].ordinal, ordinals[expected[i].ordinal]);
            }
            query.vector = data_at(&data, q);
            assert_int_equal(ivf_search(asked, &query, hits, &count, NULL, &err), ERR_OK);
            assert_int_equal(count, K);
            for (size_t i = 0; i < count; i++)
                assert_true(ivf_data_admits(&filter, hits[i].ordinal));
        }
        ivf_free(plain);
        ivf_free(asked);
    }
    data_free(&data);
}

static void a_filter_that_admits_nothing_finds_nothing(void **state)
{
    struct data data = data_make(2000, 16, 0.0f, 5);
    uint64_t words[40] = {0};
    struct engine_bitmap filters[] = {{.words = words, .word_count = 40},
                                      {.words = NULL, .word_count = 0},
                                      {.words = words, .word_count = 40, .cardinality = 1500}};
    struct engine_hit hits[5];
    struct err err;

    (void)state;
    FOR_ALL(options)
    {
        struct ivf *ivf = ivf_data_build(&data, options);

        for (size_t f = 0; f < ARRAY_COUNT(filters); f++) {
            struct ivf_query query = {
                .vector = data.vectors, .k = 5, .filter = &filters[f], .bound = INFINITY};
            size_t count;

            assert_int_equal(ivf_search(ivf, &query, hits, &count, NULL, &err), ERR_OK);
            assert_int_equal(count, 0);
        }
        ivf_free(ivf);
    }
    data_free(&data);
}

static void bound_and_deadline_are_kept(void **state)
{
    struct data data = data_make(4000, 32, 0.0f, 6);
    struct engine_hit all[50], hits[50];
    struct err err;

    (void)state;
    FOR_ALL(options)
    {
        struct ivf *ivf = ivf_data_build(&data, options);
        struct ivf_query query = {.vector = data.vectors, .k = 50};
        size_t count;

        assert_int_equal(ask(ivf, data.vectors, 50, all), 50);
        query.bound = all[20].distance;
        assert_int_equal(ivf_search(ivf, &query, hits, &count, NULL, &err), ERR_OK);
        assert_true(count >= 21 && hits[count - 1].distance <= query.bound);
        query.deadline_ns = 1;
        assert_int_equal(ivf_search(ivf, &query, hits, &count, NULL, &err), ERR_TIMEOUT);
        ivf_free(ivf);
    }
    data_free(&data);
}

static void wrong_input_is_refused(void **state)
{
    float vectors[6] = {1, 2, 3, 4, NAN, 6};
    uint32_t ordinals[] = {5, 5};
    struct ivf_options options = {.dim = 2, .kind = IVF_RABITQ};
    struct ivf_rows rows = {.count = 3, .vectors = vectors, .stride = 2};
    struct ivf *ivf;
    struct err err;

    (void)state;
    assert_int_equal(ivf_build(&ivf, &options, &rows, NULL, &err), ERR_INVALID_ARGUMENT);
    assert_null(ivf);
    rows.count = 2;
    rows.ordinals = ordinals;
    assert_int_equal(ivf_build(&ivf, &options, &rows, NULL, &err), ERR_INVALID_ARGUMENT);
    rows.ordinals = NULL;
    options.code_dims = 3;
    assert_int_equal(ivf_build(&ivf, &options, &rows, NULL, &err), ERR_INVALID_ARGUMENT);
    options.code_dims = 0;
    options.dim = DIMENSION_MAX + 1;
    assert_int_equal(ivf_build(&ivf, &options, &rows, NULL, &err), ERR_INVALID_ARGUMENT);
    options.dim = 2;
    options.kernel = "abacus";
    assert_int_equal(ivf_build(&ivf, &options, &rows, NULL, &err), ERR_CONFIG);
    assert_null(ivf);
    options.kernel = NULL;
    assert_int_equal(ivf_build(&ivf, &options, &rows, NULL, &err), ERR_OK);
    struct ivf_query query = {.vector = vectors + 4, .k = 1, .bound = INFINITY};
    struct engine_hit hit;
    size_t count;
    assert_int_equal(ivf_search(ivf, &query, &hit, &count, NULL, &err), ERR_INVALID_ARGUMENT);
    query = (struct ivf_query){.vector = vectors, .k = 0, .bound = INFINITY};
    assert_int_equal(ivf_search(ivf, &query, &hit, &count, NULL, &err), ERR_INVALID_ARGUMENT);
    ivf_free(ivf);
}

/* Codes and lists are equal to the bit; so are the candidates, hence the hits' ordinals.  Distances
 * differ by the rounding of the kernels that measure them. */
static void kernels_and_threads_do_not_matter(void **state)
{
    enum { COUNT = IS_TSAN ? 1000 : 3000, DIM = 100, K = 10 };
    struct data data = data_make(COUNT, DIM, 0.2f, 7);
    struct ivf_rows rows = {
        .count = COUNT, .vectors = data.vectors, .stride = DIM, .is_unit = true};
    size_t tables;
    const struct kernels *const *all = kernels_all(&tables);
    struct err err;

    (void)state;
    for (uint32_t i = 0; i < COUNT; i++)
        (void)kernels_normalise(all[tables - 1], data.vectors + (size_t)i * DIM, data_at(&data, i),
                                DIM);
    FOR_ALL(options)
    {
        struct ivf *first = NULL;

        options.dim = DIM;
        for (size_t t = 0; t < tables; t++)
            for (uint32_t threads = 1; threads <= 3 && all[t]->supported(); threads++) {
                struct engine_executor executor = threads_executor(&threads);
                struct ivf *ivf;

                options.kernel = all[t]->name;
                assert_int_equal(
                    ivf_build(&ivf, &options, &rows, threads > 1 ? &executor : NULL, &err), ERR_OK);
                assert_string_equal(ivf_kernel(ivf), all[t]->name);
                if (first == NULL) {
                    first = ivf;
                    continue;
                }
                assert_true(ivf_digest(ivf) == ivf_digest(first));
                for (uint32_t q = 0; q < 20; q++) {
                    struct engine_hit hits[K], expected[K];

                    assert_int_equal(ask(ivf, data_at(&data, q * 7), K, hits), K);
                    assert_int_equal(ask(first, data_at(&data, q * 7), K, expected), K);
                    for (size_t i = 0; i < K; i++)
                        assert_true(fabsf(hits[i].distance - expected[i].distance) < 1e-4f);
                }
                ivf_free(ivf);
            }
        ivf_free(first);
    }
    data_free(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_and_less_than_k_are_found),
        cmocka_unit_test(identical_vectors_are_found_by_ordinal),
        cmocka_unit_test(odd_vectors_are_found),
        cmocka_unit_test(huge_numbers_have_answers),
        cmocka_unit_test(rows_may_be_asked_for_and_have_ordinals),
        cmocka_unit_test(a_filter_that_admits_nothing_finds_nothing),
        cmocka_unit_test(bound_and_deadline_are_kept),
        cmocka_unit_test(wrong_input_is_refused),
        cmocka_unit_test(kernels_and_threads_do_not_matter),
    };

    OWN_THREADS_ONLY_IN(tests, "kernels_and_threads_do_not_matter");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
