/* Memory of the inverted file: any allocation may fail and nothing is lost; what is predicted is
 * what is used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "engine/memory.h"
#include "tests/lib/ivf_data.h"

/* Build and search, each again while memory lacks; returns how often it did. */
static uint32_t run_stubbornly(const struct data *data, const struct ivf_options *options,
                               uint64_t *digest)
{
    struct ivf_rows rows = ivf_data_rows(data);
    struct ivf_query query = {.vector = data->vectors, .bound = INFINITY};
    struct engine_hit hits[200];
    uint32_t failures = 0;
    size_t count;
    struct ivf *ivf;
    struct err err;

    while (ivf_build(&ivf, options, &rows, NULL, &err) != ERR_OK) {
        assert_int_equal(err.code, ERR_NO_MEMORY);
        assert_null(ivf);
        failures++;
    }
    for (query.k = 2; query.k <= 200; query.k += 99) /* the workspace grows */
        while (ivf_search(ivf, &query, hits, &count, NULL, &err) != ERR_OK) {
            assert_int_equal(err.code, ERR_NO_MEMORY);
            failures++;
        }
    assert_int_equal(hits[0].ordinal, 0);
    while (ivf_validate(ivf, &err) != ERR_OK) {
        assert_int_equal(err.code, ERR_NO_MEMORY);
        failures++;
    }
    *digest = ivf_digest(ivf);
    ivf_free(ivf);
    return failures;
}

static void any_allocation_may_fail(void **state)
{
    struct data data = data_make(400, 20, 0.0f, 81);

    (void)state;
    for (size_t k = 0; k < ARRAY_COUNT(ivf_kinds); k++) {
        struct ivf_options options = {
            .dim = data.dim, .metric = ENGINE_L2, .kind = ivf_kinds[k], .iterations = 2};
        uint64_t expected, digest, allocations;

        (void)memory_fail_at(0);
        (void)run_stubbornly(&data, &options, &expected);
        allocations = memory_fail_at(0);
        for (uint64_t n = 1; n <= allocations; n++) {
            (void)memory_fail_at(n);
            assert_int_equal(run_stubbornly(&data, &options, &digest), 1);
            assert_true(digest == expected);
        }
        (void)memory_fail_at(0);
        printf("kind %zu: %llu allocations failed one by one\n", k,
               (unsigned long long)allocations);
    }
    data_free(&data);
}

static bool is_within_a_tenth(uint64_t predicted, uint64_t used)
{
    return predicted * 10 <= used * 11 && predicted * 10 >= used * 9;
}

static void what_is_predicted_is_used(void **state)
{
    static const uint32_t counts[] = {1000, 8000, 30000};

    (void)state;
    for (size_t c = 0; c < ARRAY_COUNT(counts); c++) {
        struct data data = data_make(counts[c], 96, 0.2f, 82);

        for (size_t k = 0; k < ARRAY_COUNT(ivf_kinds); k++) {
            struct ivf_options options = {
                .dim = data.dim, .metric = ENGINE_COSINE, .kind = ivf_kinds[k], .iterations = 4};
            struct ivf_query query = {.vector = data.vectors, .k = 10, .bound = INFINITY};
            struct engine_hit hits[10];
            size_t count;
            struct err err;
            struct ivf *ivf = ivf_data_build(&data, options);

            assert_int_equal(ivf_search(ivf, &query, hits, &count, NULL, &err), ERR_OK);
            uint64_t stays = ivf_predict(&options, counts[c], ENGINE_LOAD);
            uint64_t peak = ivf_predict(&options, counts[c], ENGINE_BUILD);
            printf("%u vectors, kind %zu: predicted %llu, used %llu; while built %llu, %llu\n",
                   counts[c], k, (unsigned long long)stays,
                   (unsigned long long)ivf_memory_used(ivf), (unsigned long long)peak,
                   (unsigned long long)ivf_memory_peak(ivf));
            assert_true(is_within_a_tenth(stays, ivf_memory_used(ivf)));
            assert_true(is_within_a_tenth(peak, ivf_memory_peak(ivf)));
            ivf_free(ivf);
        }
        data_free(&data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_allocation_may_fail),
        cmocka_unit_test(what_is_predicted_is_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
