/* Every kernel of the inverted file gives what the scalar one gives, to the bit. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/ivf_kernels.h"
#include "engine/kernels.h"
#include "tests/lib/engine_data.h"

enum { GROUPS_MAX = 4096 };

static _Alignas(64) uint8_t block[IVF_CODES_AT + GROUPS_MAX * IVF_GROUP_BYTES];
static _Alignas(64) uint8_t tables[GROUPS_MAX * IVF_CODES];

static void fill_bytes(uint8_t *bytes, size_t count, uint64_t *random, int largest)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = largest > 0 ? (uint8_t)largest : (uint8_t)data_random(random);
}

static void fill_block(uint64_t *random, int largest)
{
    float *factors = (void *)(block + IVF_ROWS_BYTES);

    fill_bytes(block + IVF_CODES_AT, sizeof(block) - IVF_CODES_AT, random, largest);
    fill_bytes(tables, sizeof(tables), random, largest);
    for (size_t i = 0; i < 3 * IVF_BLOCK; i++)
        factors[i] = data_normal(random);
    factors[5] = NAN;
    factors[IVF_BLOCK + 9] = INFINITY;
}

static void check_scan(const struct ivf_kernels *kernels, const struct ivf_scan *scan)
{
    float expected[IVF_BLOCK], bounds[IVF_BLOCK + 1];
    uint32_t mask = ivf_scalar.scan(block, scan, expected);

    assert_int_equal(kernels->scan(block, scan, bounds + 1), mask);
    for (size_t v = 0; v < IVF_BLOCK; v++) {
        assert_true(bounds[v + 1] == expected[v] ||
                    (bounds[v + 1] != bounds[v + 1] && expected[v] != expected[v]));
        assert_true((mask >> v & 1) == !(expected[v] > scan->limit));
    }
}

static void check_scans(const struct ivf_kernels *kernels)
{
    static const uint32_t groups[] = {4, 8, 16, 96, 252, 256, 260, 508, 516, 1024, GROUPS_MAX};
    uint64_t random = 17;

    for (size_t g = 0; g < ARRAY_COUNT(groups); g++)
        for (int round = 0; round < 6; round++) {
            struct ivf_scan scan = {.tables = tables,
                                    .groups = groups[g],
                                    .scale = 0.01f,
                                    .bias = data_normal(&random),
                                    .base = data_normal(&random),
                                    .error = fabsf(data_normal(&random)),
                                    .limit = round == 0 ? INFINITY : data_normal(&random)};

            fill_block(&random, round == 1 ? 255 : 0); /* sums as large as they may be */
            check_scan(kernels, &scan);
        }
}

static void check_coarse(const struct ivf_kernels *kernels)
{
    enum { BYTES_MAX = 8192, COUNT = 48 };
    static const size_t bytes[] = {64, 128, 192, 384, 1024, BYTES_MAX};
    static _Alignas(64) uint8_t codes[BYTES_MAX * COUNT];
    static _Alignas(64) int8_t query[BYTES_MAX];
    int32_t expected[COUNT], out[COUNT];
    uint64_t random = 3;

    for (size_t b = 0; b < ARRAY_COUNT(bytes); b++)
        for (int round = 0; round < 3; round++) {
            fill_bytes(codes, sizeof(codes), &random, round > 0 ? 255 : 0);
            for (size_t i = 0; i < BYTES_MAX; i++)
                query[i] = round == 0 ? (int8_t)((int)(data_random(&random) % 255) - 127)
                                      : (int8_t)(round == 1 ? 127 : -127);
            ivf_scalar.coarse(codes, query, bytes[b], COUNT, expected);
            kernels->coarse(codes, query, bytes[b], COUNT, out);
            assert_memory_equal(out, expected, sizeof(out));
        }
}

static void check_tables(const struct ivf_kernels *kernels)
{
    enum { COUNT = 160, DIMS_MAX = 8 };
    float z[DIMS_MAX], book[DIMS_MAX * IVF_CODES], exact[COUNT], expected[IVF_CODES], range[4];
    uint8_t rounded[COUNT], expected_rounded[COUNT];
    uint64_t random = 23;

    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < ARRAY_COUNT(book); i++)
            book[i] = round == 0 ? 0.0f : data_normal(&random);
        for (size_t i = 0; i < DIMS_MAX; i++)
            z[i] = data_normal(&random);
        for (size_t dims = 2; dims <= DIMS_MAX; dims *= 2) {
            ivf_scalar.table(z, book, dims, expected, range);
            kernels->table(z, book, dims, exact, range + 2);
            assert_memory_equal(exact, expected, sizeof(expected));
            assert_true(range[0] == range[2] && range[1] == range[3]);
        }
        for (size_t i = 0; i < COUNT; i++)
            exact[i] = fabsf(data_normal(&random));
        exact[9] = round % 2 == 0 ? NAN : INFINITY;
        ivf_scalar.round(exact, 70.0f, COUNT, expected_rounded);
        kernels->round(exact, 70.0f, COUNT, rounded);
        assert_memory_equal(rounded, expected_rounded, COUNT);
        assert_int_equal(rounded[9], 255);
    }
}

static void every_kernel_agrees_with_the_scalar_one(void **state)
{
    size_t count;
    const struct kernels *const *all = kernels_all(&count);

    (void)state;
    for (size_t t = 0; t < count; t++) {
        if (!all[t]->supported()) {
            print_message("%s is not supported here\n", all[t]->name);
            continue;
        }
        check_scans(ivf_kernels_of(all[t]->name));
        check_coarse(ivf_kernels_of(all[t]->name));
        check_tables(ivf_kernels_of(all[t]->name));
    }
}

/* The oracle itself, against sums that are taken vector by vector. */
static void a_code_stands_where_it_is_said_to_stand(void **state)
{
    struct ivf_scan scan = {.tables = tables, .groups = 8, .scale = 1.0f, .limit = INFINITY};
    float *factors = (void *)(block + IVF_ROWS_BYTES);
    float bounds[IVF_BLOCK];
    uint64_t random = 5;

    (void)state;
    memset(block, 0, sizeof(block));
    fill_bytes(tables, sizeof(tables), &random, 0);
    for (size_t v = 0; v < IVF_BLOCK; v++) {
        float sum = 0;

        factors[IVF_BLOCK + v] = -1.0f;
        for (size_t g = 0; g < scan.groups; g++) {
            uint8_t code = (uint8_t)(data_random(&random) % IVF_CODES);

            block[IVF_CODES_AT + g * IVF_GROUP_BYTES + ivf_code_byte(v)] |=
                (uint8_t)(code << ivf_code_shift(v));
            sum += tables[g * IVF_CODES + code];
        }
        assert_int_equal(ivf_scalar.scan(block, &scan, bounds), UINT32_MAX);
        assert_true(bounds[v] == sum);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_agrees_with_the_scalar_one),
        cmocka_unit_test(a_code_stands_where_it_is_said_to_stand),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
