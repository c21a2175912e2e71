/* The inverted file finds nearly all of the nearest, for every kind and metric, with filters of any
 * width, and all of them when it looks at everything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/lib/ivf_data.h"

enum { COUNT = 20000, DIM = 48, QUERIES = 100 };

static const char *const kind_names[] = {"flat", "pq", "rabitq"};
static const char *const metric_names[] = {"cosine", "ip", "l2"};
static struct data data;

static int draw(void **state)
{
    (void)state;
    data = data_make(COUNT, DIM, 0.2f, 61);
    return 0;
}

static int forget(void **state)
{
    (void)state;
    data_free(&data);
    return 0;
}

static void every_kind_and_metric_finds_nearly_all(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_COUNT(ivf_kinds); k++)
        for (size_t m = 0; m < ARRAY_COUNT(ivf_metrics); m++) {
            struct ivf *ivf = ivf_data_build(
                &data, (struct ivf_options){.metric = ivf_metrics[m], .kind = ivf_kinds[k]});
            double usual =
                ivf_data_recall(ivf, &data, ivf_metrics[m], (struct ivf_query){.k = 10}, QUERIES);
            double more = ivf_data_recall(
                ivf, &data, ivf_metrics[m],
                (struct ivf_query){.k = 100, .effort = {.probes = 200, .rerank = 2000}}, QUERIES);
            double all = ivf_data_recall(
                ivf, &data, ivf_metrics[m],
                (struct ivf_query){.k = 10, .effort = {.probes = UINT32_MAX, .rerank = 5000}},
                QUERIES);

            printf("%s %s: recall@10 %.3f, recall@100 of 200 lists %.3f, @10 of all %.4f\n",
                   kind_names[k], metric_names[m], usual, more, all);
            assert_true(usual >= 0.95);
            assert_true(more >= 0.97);
            assert_true(all >= (ivf_kinds[k] == IVF_FLAT ? 1.0 : 0.985));
            ivf_free(ivf);
        }
}

static void filters_of_any_width_find_nearly_all(void **state)
{
    static const uint32_t every[] = {1, 2, 5, 10, 30, 100, 1000};
    uint64_t words[COUNT / 64 + 1];

    (void)state;
    for (size_t k = 0; k < ARRAY_COUNT(ivf_kinds); k++) {
        struct ivf *ivf = ivf_data_build(
            &data, (struct ivf_options){.metric = ENGINE_COSINE, .kind = ivf_kinds[k]});

        for (size_t e = 0; e < ARRAY_COUNT(every); e++) {
            struct engine_bitmap filter = {.words = words, .word_count = ARRAY_COUNT(words)};
            uint64_t random = every[e];

            memset(words, 0, sizeof(words));
            for (uint32_t i = 0; i < COUNT; i++)
                if (data_random(&random) % every[e] == 0) {
                    words[i / 64] |= UINT64_C(1) << i % 64;
                    filter.cardinality++;
                }
            double recall = ivf_data_recall(ivf, &data, ENGINE_COSINE,
                                            (struct ivf_query){.k = 10, .filter = &filter}, 50);
            printf("%s, %llu match: recall@10 %.3f\n", kind_names[k],
                   (unsigned long long)filter.cardinality, recall);
            assert_true(recall >= 0.95);
        }
        ivf_free(ivf);
    }
}

/* Half, a quarter ... of the bits of a number make a code: less memory, less recall, still useful.
 */
static void shorter_codes_are_worse_but_useful(void **state)
{
    static const double floors[] = {0.98, 0.97, 0.85};

    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        struct ivf *ivf = ivf_data_build(
            &data, (struct ivf_options){
                       .metric = ENGINE_L2, .kind = IVF_PQ, .code_dims = UINT32_C(2) << i});
        double recall = ivf_data_recall(
            ivf, &data, ENGINE_L2, (struct ivf_query){.k = 10, .effort = {.probes = 100}}, QUERIES);

        printf("%u numbers a code: recall@10 %.3f, %.1f bytes a vector\n", 2u << i, recall,
               (double)ivf_memory_used(ivf) / COUNT);
        assert_true(recall >= floors[i]);
        ivf_free(ivf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_and_metric_finds_nearly_all),
        cmocka_unit_test(filters_of_any_width_find_nearly_all),
        cmocka_unit_test(shorter_codes_are_worse_but_useful),
    };

    return cmocka_run_group_tests(tests, draw, forget);
}
