/* Each metric finds at least 95 % of the true nearest ten at the default effort, by the graph. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "common/base/npy.h"
#include "tests/lib/engine_data.h"

static void check_metric(enum engine_metric metric, float spread, uint32_t dim)
{
    struct data data = data_make(8000, dim, spread, 11);
    struct engine *engine = data_open(dim, metric);
    struct err err = {0};

    data_insert(engine, &data, 0, data.count);
    data_link(engine);
    assert_true(engine_linked(engine) + 64 > data.count);
    assert_int_equal(engine_validate(engine, &err), ERR_OK);
    double recall = data_recall(engine, &data, spread, NULL, "hnsw");
    printf("metric %d, spread %.1f, dim %u: recall %.4f\n", (int)metric, (double)spread, dim,
           recall);
    assert_true(recall >= 0.95);
    engine_close(engine);
    data_free(&data);
}

static void cosine_finds_the_nearest(void **state)
{
    (void)state;
    check_metric(ENGINE_COSINE, 0.0f, 64);
    check_metric(ENGINE_COSINE, 1.0f, 16);
}

static void l2_finds_the_nearest(void **state)
{
    (void)state;
    check_metric(ENGINE_L2, 0.0f, 64);
    check_metric(ENGINE_L2, 0.5f, 24);
}

static void ip_finds_the_largest_products(void **state)
{
    (void)state;
    check_metric(ENGINE_IP, 0.0f, 64);
    check_metric(ENGINE_IP, 0.3f, 48);
    check_metric(ENGINE_IP, 1.0f, 32);
}

/* With VICINAL_DATA: the first vectors of docs-100k.npy, real embeddings. */
static void real_passages_are_found(void **state)
{
    const char *folder = getenv("VICINAL_DATA");
    char path[4096];
    struct npy npy;
    struct err err = {0};

    (void)state;
    if (folder == NULL || folder[0] == '\0') {
        print_message("VICINAL_DATA is not set: generated data only\n");
        return;
    }
    assert_true(snprintf(path, sizeof(path), "%s/docs-100k.npy", folder) < (int)sizeof(path));
    assert_int_equal(npy_open(path, &npy, &err), ERR_OK);
    struct engine *engine = data_open(npy.cols, ENGINE_COSINE);
    float *row = data_floats(1, npy.cols);
    uint32_t count = npy.rows < 10100 ? (uint32_t)npy.rows : 10100;
    double sum = 0;
    for (uint32_t i = 100; i < count; i++) {
        npy_row_f32(&npy, i, row);
        assert_int_equal(engine_insert(engine, i, row, &err), ERR_OK);
    }
    data_link(engine);
    for (uint32_t i = 0; i < 100; i++) {
        struct engine_counters counters;

        npy_row_f32(&npy, i, row);
        sum += data_recall_one(
            engine, (struct engine_query){.vector = row, .k = 10, .bound = INFINITY}, &counters);
        assert_string_equal(counters.plan, "hnsw");
    }
    printf("real passages: recall %.4f\n", sum / 100);
    assert_true(sum / 100 >= 0.95);
    free(row);
    engine_close(engine);
    npy_close(&npy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cosine_finds_the_nearest),
        cmocka_unit_test(l2_finds_the_nearest),
        cmocka_unit_test(ip_finds_the_largest_products),
        cmocka_unit_test(real_passages_are_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
