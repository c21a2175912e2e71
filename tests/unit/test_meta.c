/* The contract of the metadata store, the same for every back end.
 * needs: postgres */
#include "tests/unit/meta_rig.h"

static void a_row_comes_back_and_versions_rise_over_all_rows(void **state)
{
    struct meta *meta = open_meta();
    struct meta_row row = {0};
    struct err err;
    uint64_t first, second, third;

    (void)state;
    assert_int_equal(version_of(meta), 0);
    assert_int_equal(meta_get(meta, "map", &row, &err), ERR_NOT_FOUND);
    assert_null(row.key);
    first = must_put(meta, "map", "one", META_ABSENT);
    second = must_put(meta, "lease", "", META_ANY);
    third = must_put(meta, "map", "three", first);
    assert_true(first >= 1 && second > first && third > second);
    expect_row(meta, "map", "three", third);
    expect_row(meta, "lease", "", second);
    assert_int_equal(version_of(meta), third);
    meta_close(meta);
}

static void the_expected_version_decides(void **state)
{
    struct meta *meta = open_meta();
    uint64_t first, second, untouched = 5;
    struct err err;

    (void)state;
    assert_int_equal(put(meta, "a", "x", 1, &untouched), ERR_CONFLICT);
    first = must_put(meta, "a", "one", META_ABSENT);
    assert_int_equal(put(meta, "a", "x", META_ABSENT, &untouched), ERR_CONFLICT);
    assert_int_equal(put(meta, "a", "x", first + 1, &untouched), ERR_CONFLICT);
    second = must_put(meta, "a", "two", first);
    assert_int_equal(put(meta, "a", "x", first, &untouched), ERR_CONFLICT);
    assert_int_equal(untouched, 5);
    expect_row(meta, "a", "two", second);
    assert_int_equal(version_of(meta), second);
    assert_int_equal(meta_delete(meta, "a", first, &err), ERR_CONFLICT);
    assert_int_equal(meta_delete(meta, "a", META_ABSENT, &err), ERR_CONFLICT);
    expect_row(meta, "a", "two", second);
    meta_close(meta);
}

static void a_deletion_is_a_change_only_where_a_row_was(void **state)
{
    struct meta *meta = open_meta();
    struct meta_row row = {0};
    uint64_t version, after;
    struct err err;

    (void)state;
    version = must_put(meta, "a", "one", META_ABSENT);
    assert_int_equal(meta_delete(meta, "b", META_ANY, &err), ERR_OK);
    assert_int_equal(meta_delete(meta, "b", META_ABSENT, &err), ERR_OK);
    assert_int_equal(meta_delete(meta, "b", version, &err), ERR_CONFLICT);
    assert_int_equal(version_of(meta), version);
    assert_int_equal(meta_delete(meta, "a", version, &err), ERR_OK);
    assert_int_equal(meta_get(meta, "a", &row, &err), ERR_NOT_FOUND);
    after = version_of(meta);
    assert_true(after > version);
    /* A row that comes back gets a version it never had. */
    assert_true(must_put(meta, "a", "again", META_ABSENT) > after);
    meta_close(meta);
}

static void a_list_has_the_rows_of_the_prefix_in_order_of_bytes(void **state)
{
    static const char *const keys[] = {"collection/t/b",        "collection/t/a",
                                       "collection/u/a",        "collection",
                                       "collectionz",           "b",
                                       "collection/t/\xc3\xa4", "collection/t/B",
                                       "collection/t/a_",       "collection/t/%"};
    static const char *const expected[] = {"collection/t/%", "collection/t/B",
                                           "collection/t/a", "collection/t/a_",
                                           "collection/t/b", "collection/t/\xc3\xa4"};
    struct meta *meta = open_meta();
    struct meta_row *rows;
    size_t count;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++)
        (void)must_put(meta, keys[i], keys[i], META_ABSENT);
    assert_int_equal(meta_list(meta, "collection/t/", &rows, &count, &err), ERR_OK);
    assert_int_equal(count, ARRAY_COUNT(expected));
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(rows[i].key, expected[i]);
        assert_string_equal(rows[i].value, expected[i]);
    }
    meta_rows_free(rows, count);
    assert_int_equal(meta_list(meta, "", &rows, &count, &err), ERR_OK);
    assert_int_equal(count, ARRAY_COUNT(keys));
    meta_rows_free(rows, count);
    assert_int_equal(meta_list(meta, "nothing", &rows, &count, &err), ERR_OK);
    assert_int_equal(count, 0);
    meta_rows_free(rows, count);
    meta_close(meta);
}

static void sizes_are_bounded_at_both_edges(void **state)
{
    struct meta *meta = open_meta();
    char key[META_KEY_BYTES_MAX + 2];
    struct meta_put change = {.key = key, .expected = META_ANY};
    struct meta_row row, *rows;
    char *value = malloc(META_VALUE_BYTES_MAX + 1);
    size_t count;
    struct err err;

    (void)state;
    assert_non_null(value);
    memset(value, 0xa5, META_VALUE_BYTES_MAX + 1);
    memset(key, 'k', sizeof(key));
    key[META_KEY_BYTES_MAX] = '\0';
    change.value = value;
    change.value_len = META_VALUE_BYTES_MAX;
    assert_int_equal(meta_put(meta, &change, NULL, &err), ERR_OK);
    assert_int_equal(meta_get(meta, key, &row, &err), ERR_OK);
    assert_int_equal(row.value_len, META_VALUE_BYTES_MAX);
    assert_memory_equal(row.value, value, META_VALUE_BYTES_MAX);
    meta_row_free(&row);
    change.value_len++;
    assert_int_equal(meta_put(meta, &change, NULL, &err), ERR_INVALID_ARGUMENT);
    change.value_len = 1;
    key[META_KEY_BYTES_MAX] = 'k';
    key[META_KEY_BYTES_MAX + 1] = '\0';
    assert_int_equal(meta_put(meta, &change, NULL, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(meta_list(meta, key, &rows, &count, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(meta_get(meta, "", &row, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(meta_delete(meta, "", META_ANY, &err), ERR_INVALID_ARGUMENT);
    free(value);
    meta_close(meta);
}

static void put_one(void *argument)
{
    (void)must_put(argument, "late", "x", META_ANY);
}

static void a_wait_ends_with_a_change_or_the_deadline(void **state)
{
    struct meta *meta = open_meta();
    struct env_thread *thread;
    uint64_t seen, version = 0;
    struct err err;

    (void)state;
    seen = must_put(meta, "early", "x", META_ANY);
    /* Nothing to wait for, and nothing that comes. */
    assert_int_equal(meta_wait(meta, seen - 1, 0, &version, &err), ERR_OK);
    assert_int_equal(version, seen);
    assert_int_equal(meta_wait(meta, seen, env_boot_ns(env_real()) + NS_PER_MS, &version, &err),
                     ERR_OK);
    assert_int_equal(version, seen);
    assert_int_equal(env_thread_start(env_real(), &thread, "late", put_one, meta, &err), ERR_OK);
    assert_int_equal(meta_wait(meta, seen, env_boot_ns(env_real()) + WAIT_NS, &version, &err),
                     ERR_OK);
    assert_true(version > seen);
    env_thread_join(thread);
    meta_close(meta);
}

struct racer {
    struct meta *meta;
    bool done;
};

static void race(void *argument)
{
    struct racer *racer = argument;

    racer->done = increment(racer->meta, 50);
}

static void threads_that_race_lose_no_change(void **state)
{
    struct racer racers[4];
    struct env_thread *threads[4];
    struct meta *meta = open_meta();
    struct err err;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        racers[i] = (struct racer){.meta = meta};
        assert_int_equal(env_thread_start(env_real(), &threads[i], "racer", race, &racers[i], &err),
                         ERR_OK);
    }
    for (size_t i = 0; i < 4; i++) {
        env_thread_join(threads[i]);
        assert_true(racers[i].done);
    }
    expect_row(meta, "number", "200", version_of(meta));
    meta_close(meta);
}

static bool is_dead;

static enum err_code mortal_yield(struct env *env)
{
    (void)env;
    return is_dead ? ERR_DEAD : ERR_OK;
}

static void a_dead_node_gets_no_answer(void **state)
{
    struct env_ops ops = *env_real()->ops;
    struct env mortal = {.ops = &ops};
    struct meta_row row, *rows;
    struct meta *meta;
    uint64_t version;
    size_t count;
    struct err err;

    (void)state;
    ops.yield = mortal_yield;
    is_dead = false;
    assert_int_equal(meta_open(&meta, url, &mortal, &err), ERR_OK);
    version = must_put(meta, "a", "one", META_ANY);
    is_dead = true;
    assert_int_equal(put(meta, "a", "two", META_ANY, NULL), ERR_DEAD);
    assert_int_equal(meta_get(meta, "a", &row, &err), ERR_DEAD);
    assert_int_equal(meta_delete(meta, "a", META_ANY, &err), ERR_DEAD);
    assert_int_equal(meta_list(meta, "", &rows, &count, &err), ERR_DEAD);
    assert_int_equal(meta_version(meta, &version, &err), ERR_DEAD);
    assert_int_equal(meta_wait(meta, 0, NEVER_NS, &version, &err), ERR_DEAD);
    is_dead = false;
    expect_row(meta, "a", "one", version);
    meta_close(meta);
}

static void lag_is_kept_beside_the_rows(void **state)
{
    struct meta *meta = open_meta();
    struct meta_lag bad = lag_of("a", "B", 0, 1);
    const struct meta_lag first[] = {lag_of("b", "c", 2, 40), lag_of("a", "b", 10, 7),
                                     lag_of("a", "b", 2, 0), lag_of("a", "c-1", 0, 9)};
    const struct meta_lag sorted[] = {first[2], first[1], first[3], first[0]};
    const struct meta_lag newer[] = {lag_of("a", "b", 2, 1000), lag_of("b", "a", 0, 5)};
    const struct meta_lag then[] = {newer[0], first[1], first[3], newer[1], first[0]};
    const struct meta_lag last[] = {first[3], newer[1], first[0]};
    uint64_t version = must_put(meta, "a", "one", META_ANY);
    struct err err = {0};

    (void)state;
    expect_lags(meta, NULL, 0);
    assert_int_equal(meta_lag_put(meta, NULL, 0, &err), ERR_OK);
    if (meta_lag_put(meta, first, ARRAY_COUNT(first), &err) != ERR_OK)
        fail_msg("%s", err.message);
    expect_lags(meta, sorted, ARRAY_COUNT(sorted));
    assert_int_equal(meta_lag_put(meta, newer, ARRAY_COUNT(newer), &err), ERR_OK);
    expect_lags(meta, then, ARRAY_COUNT(then));
    assert_int_equal(meta_lag_put(meta, &bad, 1, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(meta_lag_remove(meta, "b", &err), ERR_OK);
    assert_int_equal(meta_lag_remove(meta, "nobody", &err), ERR_OK);
    expect_lags(meta, last, ARRAY_COUNT(last));
    /* It is nobody's reason to read the rows again. */
    assert_int_equal(version_of(meta), version);
    meta_close(meta);
}

static void a_lag_row_that_comes_twice_in_one_call_is_the_later_one(void **state)
{
    struct meta *meta = open_meta();
    const struct meta_lag rows[] = {lag_of("a", "b", 1, 1), lag_of("a", "b", 0, 7),
                                    lag_of("a", "b", 1, 2), lag_of("a", "b", 1, 3)};
    const struct meta_lag sorted[] = {rows[1], rows[3]};
    struct err err = {0};

    (void)state;
    for (int i = 0; i < 2; i++) {
        if (meta_lag_put(meta, rows, ARRAY_COUNT(rows), &err) != ERR_OK)
            fail_msg("%s", err.message);
        expect_lags(meta, sorted, ARRAY_COUNT(sorted));
    }
    meta_close(meta);
}

static void a_bad_lag_row_is_refused_with_all_that_came_with_it(void **state)
{
    struct meta *meta = open_meta();
    struct meta_lag rows[] = {lag_of("a", "b", 0, 1), lag_of("a", "b", 1, 1)};
    uint64_t *const numbers[] = {&rows[1].origin_end, &rows[1].applied, &rows[1].lag_records,
                                 &rows[1].seen_us, &rows[1].lag_ms};
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        uint64_t good = *numbers[i];

        *numbers[i] = (uint64_t)INT64_MAX + 1;
        assert_int_equal(meta_lag_put(meta, rows, 2, &err), ERR_INVALID_ARGUMENT);
        *numbers[i] = good;
    }
    rows[1].seen_us = UINT64_MAX;
    assert_int_equal(meta_lag_put(meta, rows, 2, &err), ERR_INVALID_ARGUMENT);
    rows[1] = lag_of("", "b", 1, 1);
    assert_int_equal(meta_lag_put(meta, rows, 2, &err), ERR_INVALID_ARGUMENT);
    rows[1] = lag_of("a", "b", 1, 1);
    memset(rows[1].origin, 'b', sizeof(rows[1].origin));
    assert_int_equal(meta_lag_put(meta, rows, 2, &err), ERR_INVALID_ARGUMENT);
    expect_lags(meta, NULL, 0);
    meta_close(meta);
}

static void many_lag_rows_go_in_one_call(void **state)
{
    struct meta *meta = open_meta();
    struct meta_lag *rows = calloc(3000, sizeof(*rows));
    struct err err;

    (void)state;
    assert_non_null(rows);
    for (uint32_t i = 0; i < 3000; i++)
        rows[i] = lag_of("a", "b", i, i);
    assert_int_equal(meta_lag_put(meta, rows, 3000, &err), ERR_OK);
    expect_lags(meta, rows, 3000);
    free(rows);
    meta_close(meta);
}

int main(void)
{
    const struct CMUnitTest contract[] = {
        CASE(a_row_comes_back_and_versions_rise_over_all_rows),
        CASE(the_expected_version_decides),
        CASE(a_deletion_is_a_change_only_where_a_row_was),
        CASE(a_list_has_the_rows_of_the_prefix_in_order_of_bytes),
        CASE(sizes_are_bounded_at_both_edges),
        CASE(a_wait_ends_with_a_change_or_the_deadline),
        CASE(threads_that_race_lose_no_change),
        CASE(a_dead_node_gets_no_answer),
        CASE(lag_is_kept_beside_the_rows),
        CASE(a_lag_row_that_comes_twice_in_one_call_is_the_later_one),
        CASE(a_bad_lag_row_is_refused_with_all_that_came_with_it),
        CASE(many_lag_rows_go_in_one_call),
    };
    int failed;

    if (!is_served())
        return 2;
    failed = cmocka_run_group_tests_name("sqlite", contract, choose_sqlite, NULL);
    failed += cmocka_run_group_tests_name("postgres", contract, choose_postgres, NULL);
    failed += cmocka_run_group_tests_name("memory", contract, choose_memory, NULL);
    return failed;
}
