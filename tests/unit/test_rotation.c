/* A rotation keeps lengths and dot products, spreads what stands in one number over all, and is the
 * same to the bit for every kernel. */
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/rotation.h"
#include "tests/lib/engine_data.h"

static const size_t dims[] = {1,   2,   3,   63,  64,  65,  100,  127,  128,  129,
                              192, 320, 384, 448, 768, 960, 1000, 1024, 1536, DIMENSION_MAX};

static const struct kernels *table(const char *name)
{
    const struct kernels *kernels;
    struct err err;

    assert_int_equal(kernels_choose(name, &kernels, &err), ERR_OK);
    return kernels;
}

static void fill(float *vector, size_t dim, uint64_t seed)
{
    for (size_t i = 0; i < dim; i++)
        vector[i] = data_normal(&seed);
}

static double dot(const float *a, const float *b, size_t dim)
{
    double sum = 0;

    for (size_t i = 0; i < dim; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void lengths_and_dot_products_stay(void **state)
{
    static float a[DIMENSION_MAX], b[DIMENSION_MAX], x[DIMENSION_MAX], y[DIMENSION_MAX];
    static struct rotation rotation;

    (void)state;
    for (size_t d = 0; d < ARRAY_COUNT(dims); d++) {
        fill(a, dims[d], d);
        fill(b, dims[d], d + 100);
        rotation_init(&rotation, dims[d], 5, table(NULL));
        assert_int_equal(rotation.padded % ROTATION_PAD, 0);
        assert_true(rotation.padded >= dims[d] && rotation.padded < dims[d] + ROTATION_PAD);
        rotation_apply(&rotation, a, x);
        rotation_apply(&rotation, b, y);
        double size = sqrt(dot(a, a, dims[d]) * dot(b, b, dims[d]));
        assert_true(fabs(dot(x, y, rotation.padded) - dot(a, b, dims[d])) <= 1e-5 * size);
        assert_true(fabs(dot(x, x, rotation.padded) / dot(a, a, dims[d]) - 1) <= 1e-5);
    }
}

static void check_kernel(const struct kernels *kernels, size_t dim, uint64_t seed)
{
    static float in[DIMENSION_MAX], out[DIMENSION_MAX + 1], expected[DIMENSION_MAX];
    static struct rotation rotation;

    fill(in, dim, seed);
    rotation_init(&rotation, dim, seed, table("scalar"));
    rotation_apply(&rotation, in, expected);
    rotation_init(&rotation, dim, seed, kernels);
    rotation_apply(&rotation, in, out + 1); /* not aligned */
    assert_memory_equal(out + 1, expected, rotation.padded * sizeof(float));
    memcpy(out, in, dim * sizeof(float));
    rotation_apply(&rotation, out, out);
    assert_memory_equal(out, expected, rotation.padded * sizeof(float));
}

static void every_kernel_gives_the_same_bits(void **state)
{
    size_t count;
    const struct kernels *const *tables = kernels_all(&count);

    (void)state;
    for (size_t t = 0; t < count; t++) {
        if (!tables[t]->supported()) {
            print_message("%s is not supported here\n", tables[t]->name);
            continue;
        }
        for (size_t d = 0; d < ARRAY_COUNT(dims); d++)
            for (uint64_t seed = 0; seed < 3; seed++)
                check_kernel(tables[t], dims[d], seed);
    }
}

/* No number of the result is much larger than they all would be on average. */
static void one_number_is_spread_over_all(void **state)
{
    static float in[DIMENSION_MAX], out[DIMENSION_MAX];
    static struct rotation rotation;

    (void)state;
    for (size_t d = 0; d < ARRAY_COUNT(dims); d++)
        for (size_t i = 0; i < dims[d]; i += 1 + dims[d] / 9) {
            float largest = 0;

            rotation_init(&rotation, dims[d], d, table(NULL));
            memset(in, 0, sizeof(in));
            in[i] = 1.0f;
            rotation_apply(&rotation, in, out);
            for (size_t j = 0; j < rotation.padded; j++)
                largest = fmaxf(largest, fabsf(out[j]));
            assert_true(largest <= 6.0f / sqrtf((float)rotation.padded));
        }
}

static void seeds_differ_and_large_numbers_do_not_overflow(void **state)
{
    static float in[DIMENSION_MAX], x[DIMENSION_MAX], y[DIMENSION_MAX];
    static struct rotation rotation;

    (void)state;
    fill(in, 384, 1);
    rotation_init(&rotation, 384, 1, table(NULL));
    rotation_apply(&rotation, in, x);
    rotation_init(&rotation, 384, 2, table(NULL));
    rotation_apply(&rotation, in, y);
    assert_memory_not_equal(x, y, 384 * sizeof(float));
    for (size_t d = 0; d < ARRAY_COUNT(dims); d++) {
        for (size_t i = 0; i < dims[d]; i++)
            in[i] = FLT_MAX / 2.01f / sqrtf((float)dims[d]);
        rotation_init(&rotation, dims[d], 3, table(NULL));
        rotation_apply(&rotation, in, x);
        for (size_t i = 0; i < rotation.padded; i++)
            assert_true(isfinite(x[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_and_dot_products_stay),
        cmocka_unit_test(every_kernel_gives_the_same_bits),
        cmocka_unit_test(one_number_is_spread_over_all),
        cmocka_unit_test(seeds_differ_and_large_numbers_do_not_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
