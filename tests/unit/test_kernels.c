/* Every kernel of this machine agrees with the scalar one: each dimension, unaligned data. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "engine/kernels.h"
#include "tests/lib/engine_data.h"

enum { DIM_MAX = 8192 };

static const struct kernels *scalar_table(void)
{
    const struct kernels *kernels;
    struct err err;

    assert_int_equal(kernels_choose("scalar", &kernels, &err), ERR_OK);
    return kernels;
}

static void check_dim(const struct kernels *kernels, size_t dim, size_t shift)
{
    const struct kernels *oracle = scalar_table();
    float *a = data_floats(1, dim + 4);
    float *b = data_floats(1, dim + 4);
    uint64_t random = dim * 31 + shift;
    float tolerance = 1e-6f * (float)dim * 4 + 1e-6f;

    for (size_t i = 0; i < dim; i++) {
        a[shift + i] = data_normal(&random);
        b[shift + i] = data_normal(&random);
    }
    /* a number past the end would show */
    a[shift + dim] = b[shift + dim] = 1e30f;
    assert_true(fabsf(kernels->dot(a + shift, b + shift, dim) -
                      oracle->dot(a + shift, b + shift, dim)) <= tolerance);
    assert_true(fabsf(kernels->l2(a + shift, b + shift, dim) -
                      oracle->l2(a + shift, b + shift, dim)) <= 4 * tolerance);
    assert_true(kernels->l2(a + shift, a + shift, dim) == 0.0f);
    assert_true(kernels->dot(a + shift, b + shift, dim) == kernels->dot(b + shift, a + shift, dim));
    assert_true(kernels->l2(a + shift, b + shift, dim) == kernels->l2(b + shift, a + shift, dim));
    free(a);
    free(b);
}

static void all_tables_agree_with_the_scalar_one(void **state)
{
    static const size_t large[] = {384, 512, 768, 1000, 1024, 1536, 3072, 8191, DIM_MAX};
    size_t count;
    const struct kernels *const *tables = kernels_all(&count);

    (void)state;
    for (size_t t = 0; t < count; t++) {
        if (!tables[t]->supported()) {
            print_message("%s is not supported here\n", tables[t]->name);
            continue;
        }
        for (size_t shift = 0; shift < 4; shift++) {
            for (size_t dim = 1; dim <= 130; dim++)
                check_dim(tables[t], dim, shift);
            for (size_t i = 0; i < ARRAY_COUNT(large); i++)
                check_dim(tables[t], large[i], shift);
        }
    }
}

static void check_codes(const struct kernels *kernels, size_t width, const uint8_t *codes,
                        const int8_t *query, size_t bytes)
{
    enum { ROWS = 3 };
    const uint8_t *rows[ROWS] = {codes, codes + 3, codes + 6};
    int32_t sums[ROWS], expected[ROWS];

    kernels->codes[width](rows, ROWS, query, bytes, sums);
    scalar_table()->codes[width](rows, ROWS, query, bytes, expected);
    assert_memory_equal(sums, expected, sizeof(sums));
}

/* Integers: not nearly, but equal; also where all are as large as they may be. */
static void codes_agree_exactly(void **state)
{
    enum { BYTES_MAX = 8192 };
    static uint8_t codes[BYTES_MAX + 8];
    static _Alignas(64) int8_t query[(BYTES_MAX + 64) * 8];
    uint64_t random = 7;
    size_t count;
    const struct kernels *const *tables = kernels_all(&count);

    (void)state;
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < BYTES_MAX + 8; i++)
            codes[i] = round == 0 ? (uint8_t)(data_random(&random) >> 40) : 255;
        for (size_t i = 0; i < ARRAY_COUNT(query); i++)
            query[i] = round == 0   ? (int8_t)((int64_t)(data_random(&random) >> 40) % 128 -
                                             (int64_t)(data_random(&random) >> 40) % 128)
                       : round == 1 ? 127
                                    : -127;
        for (size_t t = 0; t < count; t++)
            for (size_t width = 0; tables[t]->supported() && width < CODE_WIDTHS; width++)
                for (size_t bytes = 8; bytes <= BYTES_MAX; bytes += bytes < 1024 ? 8 : 1024)
                    check_codes(tables[t], width, codes, query, bytes);
    }
}

static void scalar_is_right(void **state)
{
    const struct kernels *kernels = scalar_table();
    const float a[6] = {1, 2, 3, 4, 5, 6};
    const float b[6] = {6, 5, 4, 3, 2, 1};

    (void)state;
    assert_true(kernels->dot(a, b, 6) == 56.0f);
    assert_true(kernels->l2(a, b, 6) == 70.0f);
    assert_true(kernels->dot(a, b, 0) == 0.0f);
}

static void a_table_is_chosen_by_name_or_by_speed(void **state)
{
    const struct kernels *kernels;
    struct err err;
    size_t count;
    const struct kernels *const *tables = kernels_all(&count);

    (void)state;
    for (size_t t = 0; t < count; t++) {
        if (!tables[t]->supported())
            continue;
        assert_int_equal(kernels_choose(tables[t]->name, &kernels, &err), ERR_OK);
        assert_ptr_equal(kernels, tables[t]);
    }
    assert_int_equal(kernels_choose(NULL, &kernels, &err), ERR_OK);
    const struct kernels *fastest = kernels;
    assert_int_equal(kernels_choose("", &kernels, &err), ERR_OK);
    assert_ptr_equal(kernels, fastest);
    assert_int_equal(kernels_choose("abacus", &kernels, &err), ERR_CONFIG);
    assert_non_null(strstr(err.message, "scalar"));
}

static void normalising_survives_extreme_vectors(void **state)
{
    static const float sizes[] = {1e-42f, 1e-30f, 1e-10f, 1.0f, 1e10f, 1e30f, 3e38f};
    size_t count;
    const struct kernels *const *tables = kernels_all(&count);
    float in[19];
    float out[19];

    (void)state;
    for (size_t t = 0; t < count; t++) {
        if (!tables[t]->supported())
            continue;
        for (size_t s = 0; s < ARRAY_COUNT(sizes); s++) {
            for (size_t i = 0; i < 19; i++)
                in[i] = sizes[s] * (i % 2 == 0 ? 1.0f : -1.0f);
            (void)kernels_normalise(tables[t], out, in, 19);
            assert_true(fabsf(tables[t]->dot(out, out, 19) - 1.0f) < 1e-5f);
        }
        memset(in, 0, sizeof(in));
        in[3] = -0.0f;
        assert_true(kernels_normalise(tables[t], out, in, 19) == 0.0f);
        for (size_t i = 0; i < 19; i++)
            assert_true(out[i] == 0.0f && !signbit(out[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_agree_exactly),
        cmocka_unit_test(scalar_is_right),
        cmocka_unit_test(all_tables_agree_with_the_scalar_one),
        cmocka_unit_test(a_table_is_chosen_by_name_or_by_speed),
        cmocka_unit_test(normalising_survives_extreme_vectors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
