/* Distances that are estimated by codes lie near the true ones, and are numbers whatever comes. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/codes.h"
#include "tests/lib/engine_data.h"

enum { DIM_MAX = 8192, ROUNDS = 40 };

static const struct kernels *kernels;
static _Alignas(64) int8_t query_codes[DIM_MAX + 64];
static uint8_t row[DIM_MAX + 64];

static int choose(void **state)
{
    struct err err;

    (void)state;
    return kernels_choose(NULL, &kernels, &err) == ERR_OK ? 0 : -1;
}

static float estimate(const float *query, const float *vector, size_t dim, bool is_l2)
{
    struct code_query coded;

    memset(row, 0, sizeof(row));
    memset(query_codes, 0x55, sizeof(query_codes)); /* what was there before counts nothing */
    codes_encode(kernels, row, vector, dim);
    codes_query(kernels, &coded, query_codes, query, dim, is_l2, 1.0f);
    return codes_distance(&coded, row);
}

static double truth(const float *query, const float *vector, size_t dim, bool is_l2)
{
    double sum = is_l2 ? 0 : 1;

    for (size_t i = 0; i < dim; i++) {
        double d = (double)query[i] - (double)vector[i];

        sum += is_l2 ? d * d : -(double)query[i] * (double)vector[i];
    }
    return sum;
}

/* Unit vectors: the error is that of two roundings in each of dim numbers, which mostly cancel. */
static void estimates_lie_near_the_truth(void **state)
{
    static const size_t dims[] = {1, 2, 15, 16, 17, 47, 48, 49, 63, 64, 65, 100, 384, 768, 1536};
    static float query[DIM_MAX], vector[DIM_MAX];
    uint64_t random = 3;

    (void)state;
    for (size_t d = 0; d < ARRAY_COUNT(dims); d++)
        for (size_t round = 0; round < ROUNDS; round++) {
            size_t dim = dims[d];

            for (size_t i = 0; i < dim; i++) {
                query[i] = data_normal(&random);
                vector[i] = data_normal(&random) + 0.3f * query[i];
            }
            (void)kernels_normalise(kernels, query, query, dim);
            (void)kernels_normalise(kernels, vector, vector, dim);
            for (int is_l2 = 0; is_l2 < 2; is_l2++)
                assert_true(fabs((double)estimate(query, vector, dim, is_l2) -
                                 truth(query, vector, dim, is_l2)) < 0.03);
            assert_true(fabs((double)estimate(vector, vector, dim, true)) < 0.03);
        }
}

static void check_number(const float *query, const float *vector, size_t dim)
{
    for (int is_l2 = 0; is_l2 < 2; is_l2++) {
        float distance = estimate(query, vector, dim, is_l2);

        assert_true(distance == distance);
        assert_true(!is_l2 || distance >= 0.0f);
    }
}

static void whatever_comes_the_estimate_is_a_number(void **state)
{
    static const float numbers[] = {0.0f,   -0.0f,   1.0f,   -1.0f,   FLT_MAX, -FLT_MAX, 1e30f,
                                    -1e30f, FLT_MIN, 1e-42f, -1e-42f, 1e38f,   -3.3e38f, 1e-20f};
    static float query[100], vector[100];
    uint64_t random = 5;

    (void)state;
    for (size_t a = 0; a < ARRAY_COUNT(numbers); a++)
        for (size_t b = 0; b < ARRAY_COUNT(numbers); b++) {
            for (size_t i = 0; i < 100; i++) {
                query[i] = numbers[a];
                vector[i] = numbers[b];
            }
            check_number(query, vector, 100);
            vector[17] = numbers[a];
            query[3] = numbers[b];
            check_number(query, vector, 100);
        }
    for (size_t round = 0; round < 2000; round++) {
        for (size_t i = 0; i < 100; i++) {
            query[i] = numbers[data_random(&random) % ARRAY_COUNT(numbers)];
            vector[i] = numbers[data_random(&random) % ARRAY_COUNT(numbers)];
        }
        check_number(query, vector, 100);
    }
}

/* A walk looks first at the nearest ones: their order by estimates is nearly the true one. */
static void the_nearest_are_estimated_as_the_nearest(void **state)
{
    enum { DIM = 96, VECTORS = 2000, QUERIES = 20, K = 10, AMONG = 16 };
    float *vectors = data_floats(VECTORS, DIM), query[DIM];
    double truths[VECTORS];
    float estimates[VECTORS];
    uint64_t random = 11;
    unsigned found = 0;

    (void)state;
    for (size_t i = 0; i < (size_t)VECTORS * DIM; i++)
        vectors[i] = data_normal(&random);
    for (size_t q = 0; q < QUERIES; q++) {
        for (size_t i = 0; i < DIM; i++)
            query[i] = data_normal(&random);
        for (size_t v = 0; v < VECTORS; v++) {
            truths[v] = truth(query, vectors + v * DIM, DIM, true);
            estimates[v] = estimate(query, vectors + v * DIM, DIM, true);
        }
        for (size_t v = 0; v < VECTORS; v++) {
            unsigned nearer = 0, estimated = 0;

            for (size_t w = 0; w < VECTORS; w++) {
                nearer += truths[w] < truths[v];
                estimated += estimates[w] < estimates[v];
            }
            found += nearer < K && estimated < AMONG;
        }
    }
    free(vectors);
    assert_true(found >= QUERIES * K * 99 / 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(estimates_lie_near_the_truth),
        cmocka_unit_test(whatever_comes_the_estimate_is_a_number),
        cmocka_unit_test(the_nearest_are_estimated_as_the_nearest),
    };

    return cmocka_run_group_tests(tests, choose, NULL);
}
