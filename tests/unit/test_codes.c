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

static const uint32_t widths[] = {1, 2, 4, 8};
static const struct kernels *kernels;
static struct code_frame frame;
static float centre[DIM_MAX], placed[DIM_MAX];
static _Alignas(64) int8_t query_codes[DIM_MAX + 512];
static uint8_t row[DIM_MAX + 64];

static int choose(void **state)
{
    struct err err;

    (void)state;
    return kernels_choose(NULL, &kernels, &err) == ERR_OK ? 0 : -1;
}

/* A frame whose centre lies somewhere near, as a mean would. */
static void set_frame(size_t dim, bool is_l2)
{
    uint64_t random = dim;

    frame.centre = centre;
    frame.is_l2 = is_l2;
    frame.base = 1.0f;
    rotation_init(&frame.rotation, dim, 5, kernels);
    for (size_t i = 0; i < dim; i++)
        centre[i] = 0.3f * data_normal(&random) / sqrtf((float)dim);
}

static float estimate(const float *query, const float *vector, uint32_t bits)
{
    struct code_place place = {.numbers = placed};
    struct code_query coded;
    const uint8_t *rows[] = {row};
    float distance;

    memset(row, 0x55, sizeof(row)); /* what was there before counts nothing */
    memset(query_codes, 0x55, sizeof(query_codes));
    codes_place_vector(&frame, vector, &place);
    codes_encode(kernels, &frame, &place, bits, row);
    codes_place_query(&frame, query, &place);
    codes_query(kernels, &frame, &place, bits, query_codes, &coded);
    codes_distances(&coded, rows, 1, &distance);
    return distance;
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

/* A pair's share of what a code of so many bits loses, with room for the luck of the draw; in few
 * dimensions, padded to 64, nothing averages out. */
static double allowed(uint32_t bits, size_t dim)
{
    static const double losses[] = {[1] = 0.9, [2] = 0.4, [4] = 0.12, [8] = 0.02};

    return 8 * losses[bits] / sqrt((double)(dim < 64 ? 64 : dim));
}

/* Unit vectors; the squared distance errs twice as much as the dot product. */
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
            for (int is_l2 = 0; is_l2 < 2; is_l2++) {
                set_frame(dim, is_l2);
                for (size_t w = 0; w < ARRAY_COUNT(widths); w++)
                    assert_true(fabs((double)estimate(query, vector, widths[w]) -
                                     truth(query, vector, dim, is_l2)) <
                                (1 + is_l2) * allowed(widths[w], dim));
            }
        }
}

static void check_number(const float *query, const float *vector, size_t dim)
{
    for (int is_l2 = 0; is_l2 < 2; is_l2++)
        for (size_t w = 0; w < ARRAY_COUNT(widths); w++) {
            set_frame(dim, is_l2);
            float distance = estimate(query, vector, widths[w]);

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
    enum { DIM = 96, VECTORS = 2000, QUERIES = 10, K = 10 };
    static const size_t among[] = {[1] = 300, [2] = 80, [4] = 20, [8] = 12};
    float *vectors = data_floats(VECTORS, DIM), query[DIM];
    static float truths[VECTORS], estimates[VECTORS];
    uint64_t random = 11;

    (void)state;
    set_frame(DIM, true);
    for (size_t i = 0; i < (size_t)VECTORS * DIM; i++)
        vectors[i] = data_normal(&random);
    for (size_t w = 0; w < ARRAY_COUNT(widths); w++) {
        unsigned found = 0;

        for (size_t q = 0; q < QUERIES; q++) {
            for (size_t i = 0; i < DIM; i++)
                query[i] = data_normal(&random);
            for (size_t v = 0; v < VECTORS; v++) {
                truths[v] = (float)truth(query, vectors + v * DIM, DIM, true);
                estimates[v] = estimate(query, vectors + v * DIM, widths[w]);
            }
            for (size_t v = 0; v < VECTORS; v++) {
                unsigned nearer = 0, estimated = 0;

                for (size_t u = 0; u < VECTORS; u++) {
                    nearer += truths[u] < truths[v];
                    estimated += estimates[u] < estimates[v];
                }
                found += nearer < K && estimated < among[widths[w]];
            }
        }
        print_message("%u bits: %u of %d among %zu\n", widths[w], found, QUERIES * K,
                      among[widths[w]]);
        assert_true(found >= QUERIES * K * 95 / 100);
    }
    free(vectors);
}

/* Replicas on different machines walk the same way. */
static void all_kernels_estimate_the_same_bits(void **state)
{
    enum { DIM = 200, VECTORS = 50 };
    float *vectors = data_floats(VECTORS, DIM);
    const struct kernels *const before = kernels;
    size_t count;
    const struct kernels *const *tables = kernels_all(&count);
    uint64_t random = 13;

    (void)state;
    for (size_t i = 0; i < (size_t)VECTORS * DIM; i++)
        vectors[i] = data_normal(&random);
    for (size_t v = 1; v < VECTORS; v++)
        for (size_t w = 0; w < ARRAY_COUNT(widths); w++) {
            float expected = 0;

            for (size_t t = count; t-- > 0;) { /* the scalar one stands last */
                if (!tables[t]->supported())
                    continue;
                kernels = tables[t];
                set_frame(DIM, v % 2 != 0);
                float got = estimate(vectors, vectors + v * DIM, widths[w]);
                if (t == count - 1)
                    expected = got;
                assert_memory_equal(&got, &expected, sizeof(got));
            }
        }
    kernels = before;
    free(vectors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(estimates_lie_near_the_truth),
        cmocka_unit_test(whatever_comes_the_estimate_is_a_number),
        cmocka_unit_test(the_nearest_are_estimated_as_the_nearest),
        cmocka_unit_test(all_kernels_estimate_the_same_bits),
    };

    return cmocka_run_group_tests(tests, choose, NULL);
}
