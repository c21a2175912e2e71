/* Memory: any allocation may fail and leaves a valid engine that goes on; the budget is kept; what
 * is predicted is what is used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "engine/memory.h"
#include "tests/lib/engine_data.h"

enum { COUNT = 2600, DIM = 700 };

/* Insert, link and search; an operation that lacked memory is done again.  Returns how many did. */
static uint32_t run_stubbornly(struct engine *engine, const struct data *data)
{
    uint32_t failures = 0;
    struct err err = {0};
    struct engine_hit hits[20];
    size_t count;
    uint64_t left;

    for (uint32_t i = 0; i < data->count; i++) {
        while (engine_insert(engine, i, data_at(data, i), &err) != ERR_OK) {
            assert_int_equal(err.code, ERR_NO_MEMORY);
            assert_int_equal(engine_count(engine), i);
            failures++;
        }
        if (i % 400 != 399)
            continue;
        while (engine_step(engine, UINT32_MAX, &left, &err) != ERR_OK) {
            assert_int_equal(err.code, ERR_NO_MEMORY);
            failures++;
        }
        struct engine_query query = {
            .vector = data_at(data, i), .k = 20, .ef = i / 2, .bound = INFINITY};
        while (engine_search(engine, &query, hits, &count, NULL, &err) != ERR_OK) {
            assert_int_equal(err.code, ERR_NO_MEMORY);
            failures++;
        }
        assert_int_equal(count, 20);
        assert_int_equal(hits[0].ordinal, i);
    }
    return failures;
}

static void any_allocation_may_fail(void **state)
{
    struct data data = data_make(COUNT, DIM, 0.0f, 51);
    struct engine_options options = {
        .dim = DIM, .metric = ENGINE_L2, .m = 4, .ef_construction = 8, .flat_below = 1};
    struct err err = {0};
    uint64_t digest = 0;

    (void)state;
    (void)memory_fail_at(0);
    for (uint64_t n = 0;; n++) {
        struct engine *engine;

        (void)memory_fail_at(n);
        while (engine_open(&engine, NULL, &options, NULL, &err) != ERR_OK) {
            assert_int_equal(err.code, ERR_NO_MEMORY);
            assert_null(engine);
        }
        uint32_t failures = run_stubbornly(engine, &data);
        uint64_t allocations = memory_fail_at(0);
        assert_true(failures <= 1);
        assert_int_equal(engine_validate(engine, &err), ERR_OK);
        if (n == 0)
            digest = engine_digest(engine);
        assert_true(engine_digest(engine) == digest);
        engine_close(engine);
        if (n > allocations) {
            printf("%llu allocations failed one by one\n", (unsigned long long)n - 1);
            break;
        }
    }
    data_free(&data);
}

static void the_budget_is_kept(void **state)
{
    struct data data = data_make(20000, 64, 0.0f, 52);
    struct engine_options options = {.dim = 64, .metric = ENGINE_L2, .ef_construction = 8};
    struct engine *engine;
    struct err err = {0};
    uint32_t i = 0;

    (void)state;
    options.memory_budget = engine_predict(&options, 12000, ENGINE_BUILD);
    assert_int_equal(engine_open(&engine, NULL, &options, NULL, &err), ERR_OK);
    while (engine_insert(engine, i, data_at(&data, i), &err) == ERR_OK)
        i++;
    assert_int_equal(err.code, ERR_INSUFFICIENT_STORAGE);
    assert_true(i >= 12000 && i < 20000);
    assert_int_equal(engine_count(engine), i);
    data_link(engine);
    assert_true(engine_memory_used(engine) <= options.memory_budget * 11 / 10);
    assert_int_equal(engine_insert(engine, i, data_at(&data, i), &err), ERR_INSUFFICIENT_STORAGE);
    assert_int_equal(engine_validate(engine, &err), ERR_OK);
    engine_close(engine);
    data_free(&data);
}

static void what_is_predicted_is_used(void **state)
{
    static const uint32_t counts[] = {300, 3000, 30000};

    (void)state;
    for (size_t c = 0; c < ARRAY_COUNT(counts); c++) {
        struct data data = data_make(counts[c], 96, 0.0f, 53);
        struct engine_options options = {.dim = 96, .ef_construction = 8};
        struct engine *engine;
        struct engine_hit hits[10];
        struct engine_query query = {.vector = data_at(&data, 0), .k = 10, .bound = INFINITY};
        size_t count;
        struct err err = {0};

        assert_int_equal(engine_open(&engine, NULL, &options, NULL, &err), ERR_OK);
        data_insert(engine, &data, 0, data.count);
        data_link(engine);
        assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_OK);
        double used = (double)engine_memory_used(engine);
        double predicted = (double)engine_predict(&options, counts[c], ENGINE_BUILD);
        printf("%u vectors: predicted %.0f, used %.0f\n", counts[c], predicted, used);
        assert_true(used <= predicted * 1.1 && used >= predicted * 0.9);
        engine_close(engine);
        data_free(&data);
    }
}

/* So many as there is said to be room for are room for, and one more is not. */
static void room_is_what_fits(void **state)
{
    static const uint32_t counts[] = {0, 900, 4000};
    struct data data = data_make(30000, 96, 0.0f, 54);

    (void)state;
    for (size_t c = 0; c < ARRAY_COUNT(counts); c++) {
        struct engine_options options = {.dim = 96, .ef_construction = 8};
        struct engine *engine;
        struct err err = {0};

        assert_int_equal(engine_open(&engine, NULL, &options, NULL, &err), ERR_OK);
        data_insert(engine, &data, 0, counts[c]);
        uint64_t before = engine_memory_wanted(engine), bytes = 8u << 20;
        uint64_t room = engine_room(engine, bytes);
        assert_true(room > 0 && counts[c] + room < data.count);
        assert_int_equal(engine_room(engine, 0), 0);
        data_insert(engine, &data, counts[c], counts[c] + (uint32_t)room);
        uint64_t wanted = engine_memory_wanted(engine);
        printf("%u vectors: room for %u more in %u bytes, which took %u\n", counts[c],
               (unsigned)room, (unsigned)bytes, (unsigned)(wanted - before));
        assert_true(wanted - before <= bytes);
        data_link(engine);
        assert_true(engine_memory_used(engine) <= wanted + wanted / 16);
        data_insert(engine, &data, counts[c] + (uint32_t)room, counts[c] + (uint32_t)room + 1);
        assert_true(engine_memory_wanted(engine) - before > bytes);
        engine_close(engine);
    }
    data_free(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_allocation_may_fail),
        cmocka_unit_test(the_budget_is_kept),
        cmocka_unit_test(what_is_predicted_is_used),
        cmocka_unit_test(room_is_what_fits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
