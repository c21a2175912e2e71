/* The contract of the metadata store, the same for every back end; what those that last promise
 * beyond it: several processes, kills at any moment; and what is refused.
 * needs: postgres */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "backends/meta/meta.h"
#include "tests/lib/scratch.h"

#define WAIT_NS (20 * NS_PER_S)

static char folder[256];
static char file[300];
static char sqlite_url[310];
static char postgres_url[300];
static unsigned schema_number;
static const char *url; /* of the back end under test */

static struct meta *open_meta(void)
{
    struct meta *meta = NULL;
    struct err err = {0};

    if (meta_open(&meta, url, env_real(), &err) != ERR_OK)
        fail_msg("%s", err.message);
    return meta;
}

static int setup(void **state)
{
    assert_true(scratch_make(folder, sizeof(folder), "meta"));
    snprintf(file, sizeof(file), "%s/meta.db", folder);
    snprintf(sqlite_url, sizeof(sqlite_url), "sqlite:%s", file);
    snprintf(postgres_url, sizeof(postgres_url), "%.200s?schema=test-%ld-%u",
             getenv("VICINAL_TEST_POSTGRES"), (long)getpid(), schema_number++);
    *state = NULL;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

static int choose_sqlite(void **state)
{
    (void)state;
    url = sqlite_url;
    return 0;
}

/* A schema of its own for each test. */
static int choose_postgres(void **state)
{
    (void)state;
    url = postgres_url;
    return 0;
}

static int choose_memory(void **state)
{
    (void)state;
    url = "memory:";
    return 0;
}

static enum err_code put(struct meta *meta, const char *key, const char *value, uint64_t expected,
                         uint64_t *version)
{
    struct meta_put change = {key, value, strlen(value), expected};
    struct err err;

    return meta_put(meta, &change, version, &err);
}

static uint64_t must_put(struct meta *meta, const char *key, const char *value, uint64_t expected)
{
    uint64_t version = 0;

    assert_int_equal(put(meta, key, value, expected, &version), ERR_OK);
    return version;
}

static void expect_row(struct meta *meta, const char *key, const char *value, uint64_t version)
{
    struct meta_row row = {0};
    struct err err = {0};

    if (meta_get(meta, key, &row, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_string_equal(row.key, key);
    assert_int_equal(row.value_len, strlen(value));
    assert_string_equal(row.value, value);
    assert_int_equal(row.version, version);
    meta_row_free(&row);
}

static uint64_t version_of(struct meta *meta)
{
    uint64_t version = 77;
    struct err err;

    assert_int_equal(meta_version(meta, &version, &err), ERR_OK);
    return version;
}

/* --- every back end ------------------------------------------------------------------------ */

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

/* Add one to the number in row, times times, by compare-and-swap. */
static bool increment(struct meta *meta, unsigned times)
{
    struct err err = {0};

    while (times > 0) {
        struct meta_row row = {0};
        char text[24];
        enum err_code code = meta_get(meta, "number", &row, &err);

        if (code != ERR_OK && code != ERR_NOT_FOUND)
            return false;
        snprintf(text, sizeof(text), "%lu",
                 code == ERR_OK ? strtoul(row.value, NULL, 10) + 1 : 1ul);
        code = put(meta, "number", text, code == ERR_OK ? row.version : META_ABSENT, NULL);
        meta_row_free(&row);
        if (code == ERR_OK)
            times--;
        else if (code != ERR_CONFLICT)
            return false;
    }
    return true;
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

static struct meta_lag lag_of(const char *region, const char *origin, uint32_t partition,
                              uint64_t end)
{
    struct meta_lag lag = {.origin_number = UINT32_MAX - partition,
                           .partition = partition,
                           .origin_end = end,
                           .applied = end / 2,
                           .lag_records = end - end / 2,
                           .lag_ms = partition == 2 ? LAG_NEVER : end * 3,
                           .seen_us = 1790000000123456u + end};

    snprintf(lag.region, sizeof(lag.region), "%s", region);
    snprintf(lag.origin, sizeof(lag.origin), "%s", origin);
    return lag;
}

static void expect_lags(struct meta *meta, const struct meta_lag *expected, size_t expected_count)
{
    struct meta_lag *lags;
    size_t count;
    struct err err = {0};

    if (meta_lag_list(meta, &lags, &count, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_int_equal(count, expected_count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(meta_lag_compare(&lags[i], &expected[i]), 0);
        assert_int_equal(lags[i].origin_number, expected[i].origin_number);
        assert_int_equal(lags[i].origin_end, expected[i].origin_end);
        assert_int_equal(lags[i].applied, expected[i].applied);
        assert_int_equal(lags[i].lag_records, expected[i].lag_records);
        assert_true(lags[i].lag_ms == expected[i].lag_ms);
        assert_int_equal(lags[i].seen_us, expected[i].seen_us);
    }
    free(lags);
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

/* --- what lasts ------------------------------------------------------------------------------ */

static void rows_and_versions_outlive_the_close(void **state)
{
    struct meta *meta = open_meta(), *second;
    uint64_t version;

    (void)state;
    (void)must_put(meta, "a", "one", META_ANY);
    (void)must_put(meta, "b", "two", META_ANY);
    version = must_put(meta, "a", "three", META_ANY);
    second = open_meta();
    expect_row(second, "a", "three", version);
    meta_close(second);
    meta_close(meta);
    meta = open_meta();
    expect_row(meta, "a", "three", version);
    assert_int_equal(must_put(meta, "c", "four", META_ABSENT), version + 1);
    meta_close(meta);
}

static void wait_for_child(pid_t child, int expected_signal)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    if (expected_signal != 0) {
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), expected_signal);
    } else {
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

static void processes_that_race_lose_no_change(void **state)
{
    pid_t children[3];
    struct meta *meta;

    (void)state;
    /* The file is not there yet: they race for its creation too. */
    for (size_t i = 0; i < ARRAY_COUNT(children); i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            struct err err;

            if (meta_open(&meta, url, env_real(), &err) != ERR_OK)
                _exit(2);
            if (!increment(meta, 100))
                _exit(3);
            meta_close(meta);
            _exit(0);
        }
    }
    for (size_t i = 0; i < ARRAY_COUNT(children); i++)
        wait_for_child(children[i], 0);
    meta = open_meta();
    expect_row(meta, "number", "300", 300);
    meta_close(meta);
}

static void a_wait_sees_the_change_of_another_process(void **state)
{
    struct meta *meta = open_meta();
    uint64_t seen, version = 0;
    struct err err;
    pid_t child;

    (void)state;
    seen = must_put(meta, "a", "one", META_ANY);
    meta_close(meta); /* no connection is carried over a fork */
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (meta_open(&meta, url, env_real(), &err) != ERR_OK ||
            put(meta, "a", "two", META_ANY, NULL) != ERR_OK)
            _exit(2);
        meta_close(meta);
        _exit(0);
    }
    meta = open_meta();
    assert_int_equal(meta_wait(meta, seen, env_boot_ns(env_real()) + WAIT_NS, &version, &err),
                     ERR_OK);
    assert_int_equal(version, seen + 1);
    wait_for_child(child, 0);
    meta_close(meta);
}

/* Write until killed, telling each acknowledged version. */
static void write_for_ever(int acknowledged)
{
    struct meta *meta;
    struct err err;

    if (meta_open(&meta, url, env_real(), &err) != ERR_OK)
        _exit(2);
    for (;;) {
        uint64_t version;

        if (put(meta, "a", "left", META_ANY, NULL) != ERR_OK ||
            put(meta, "b", "right", META_ANY, &version) != ERR_OK)
            _exit(3);
        if (write(acknowledged, &version, sizeof(version)) != sizeof(version))
            _exit(4);
    }
}

static void a_kill_loses_nothing_acknowledged(void **state)
{
    uint64_t acknowledged = 0;

    (void)state;
    for (int round = 0; round < 8; round++) {
        struct meta *meta;
        struct meta_row row;
        struct err err;
        int ends[2];
        pid_t child;

        assert_int_equal(pipe(ends), 0);
        child = fork();
        assert_true(child >= 0);
        if (child == 0)
            write_for_ever(ends[1]);
        assert_int_equal(close(ends[1]), 0);
        for (int i = 0; i <= round * 5; i++)
            assert_int_equal(read(ends[0], &acknowledged, sizeof(acknowledged)),
                             sizeof(acknowledged));
        assert_int_equal(kill(child, SIGKILL), 0);
        wait_for_child(child, SIGKILL);
        while (read(ends[0], &acknowledged, sizeof(acknowledged)) == sizeof(acknowledged))
            continue;
        assert_int_equal(close(ends[0]), 0);
        meta = open_meta();
        assert_int_equal(meta_get(meta, "b", &row, &err), ERR_OK);
        assert_true(row.version >= acknowledged);
        assert_true(version_of(meta) >= row.version);
        assert_string_equal(row.value, "right");
        meta_row_free(&row);
        meta_close(meta);
    }
}

/* Overwrite a big-endian number in the header of the database file. */
static void patch_header(off_t at, uint32_t value)
{
    uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8),
                        (uint8_t)value};
    int fd = open(file, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, sizeof(bytes), at), sizeof(bytes));
    assert_int_equal(close(fd), 0);
}

static void expect_refusal(const char *bad_url, enum err_code expected, const char *part)
{
    struct meta *meta = (struct meta *)&expected;
    struct err err = {0};

    assert_int_equal(meta_open(&meta, bad_url, env_real(), &err), expected);
    assert_null(meta);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", err.message, part);
}

static void files_that_are_not_ours_are_refused(void **state)
{
    struct meta *meta = open_meta();

    (void)state;
    (void)must_put(meta, "a", "one", META_ANY);
    meta_close(meta);
    patch_header(60, 3); /* PRAGMA user_version */
    expect_refusal(url, ERR_CONFIG, "newer");
    patch_header(60, 2);
    patch_header(68, 1); /* PRAGMA application_id */
    expect_refusal(url, ERR_CONFIG, "another program");
    patch_header(68, 0x5669636e);
    meta = open_meta();
    expect_row(meta, "a", "one", 1);
    meta_close(meta);
    patch_header(0, 0x6e6f7065);
    expect_refusal(url, ERR_CORRUPT, "rebuilt from the log");
}

static void a_file_of_the_first_schema_is_brought_up_to_date(void **state)
{
    const struct meta_lag lag = lag_of("a", "b", 0, 1);
    struct meta *meta;
    sqlite3 *db;
    struct err err;

    (void)state;
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db,
                     "CREATE TABLE row (key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL,"
                     " version INTEGER NOT NULL);"
                     "CREATE TABLE counter (version INTEGER NOT NULL);"
                     "INSERT INTO counter (version) VALUES (7);"
                     "INSERT INTO row VALUES (CAST('map' AS BLOB), CAST('old' AS BLOB), 7);"
                     "PRAGMA application_id = 1449747310; PRAGMA user_version = 1;",
                     NULL, NULL, NULL),
        SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    for (int i = 0; i < 2; i++) {
        meta = open_meta();
        expect_row(meta, "map", "old", 7);
        assert_int_equal(meta_lag_put(meta, &lag, 1, &err), ERR_OK);
        meta_close(meta);
    }
    meta = open_meta();
    expect_lags(meta, &lag, 1);
    assert_int_equal(must_put(meta, "map", "new", 7), 8);
    meta_close(meta);
}

static void urls_are_checked_whole(void **state)
{
    char nowhere[400];

    (void)state;
    snprintf(nowhere, sizeof(nowhere), "sqlite:%s/no/such/meta.db", folder);
    expect_refusal(nowhere, ERR_CONFIG, "no folder");
    expect_refusal("sqlite:", ERR_CONFIG, "sqlite:FILE");
    expect_refusal("sqlite::memory:", ERR_CONFIG, "sqlite:FILE");
    expect_refusal("sqlit:x", ERR_CONFIG, "want sqlite:FILE");
    expect_refusal("sqlitex:x", ERR_CONFIG, "want sqlite:FILE");
    expect_refusal("memory", ERR_CONFIG, "want sqlite:FILE");
    expect_refusal("memory:x", ERR_CONFIG, "nothing may follow");
    expect_refusal("", ERR_CONFIG, "want sqlite:FILE");
    expect_refusal(":", ERR_CONFIG, "want sqlite:FILE");
}

/* Of Postgres: what will not pass by itself is wrong configuration, what may is not. */
static void wrong_addresses_and_names_are_told_apart(void **state)
{
    const char *server = getenv("VICINAL_TEST_POSTGRES");
    char bad[300];
    int host_len = (int)(strrchr(server, '/') - server);

    (void)state;
    snprintf(bad, sizeof(bad), "%.*s/nosuchdb", host_len, server);
    expect_refusal(bad, ERR_CONFIG, "check user, password and database");
    snprintf(bad, sizeof(bad), "postgres://nobody@%s", strchr(server, '@') + 1);
    expect_refusal(bad, ERR_CONFIG, "check user, password and database");
    expect_refusal("postgres://postgres@127.0.0.1:1/postgres", ERR_UNAVAILABLE, "postgres");
    snprintf(bad, sizeof(bad), "%s?schema=No", server);
    expect_refusal(bad, ERR_CONFIG, "schema=NAME");
    snprintf(bad, sizeof(bad), "%s?schema=", server);
    expect_refusal(bad, ERR_CONFIG, "schema=NAME");
    snprintf(bad, sizeof(bad), "%s?nonsense=1", server);
    expect_refusal(bad, ERR_CONFIG, "nonsense");
}

/* Our own option goes, whatever stands before and behind it. */
static void the_schema_is_cut_out_of_the_url(void **state)
{
    static const char *const queries[] = {"?application_name=x&schema=%s",
                                          "?schema=%s&application_name=x",
                                          "?application_name=x&schema=%s&connect_timeout=3"};
    const char *server = getenv("VICINAL_TEST_POSTGRES");
    char name[64], query[128], full[400];

    (void)state;
    snprintf(name, sizeof(name), "cut-%ld", (long)getpid());
    for (size_t i = 0; i < ARRAY_COUNT(queries); i++) {
        struct meta *meta;
        struct err err = {0};

        snprintf(query, sizeof(query), queries[i], name);
        snprintf(full, sizeof(full), "%s%s", server, query);
        if (meta_open(&meta, full, env_real(), &err) != ERR_OK)
            fail_msg("%s", err.message);
        if (i == 0)
            (void)must_put(meta, "same", "x", META_ABSENT);
        expect_row(meta, "same", "x", 1);
        meta_close(meta);
    }
}

static void network_file_systems_are_known(void **state)
{
    (void)state;
    assert_true(meta_sqlite_is_network(0x6969));
    assert_true(meta_sqlite_is_network(0xff534d42));
    assert_true(meta_sqlite_is_network(0xffffffffff534d42)); /* sign-extended */
    assert_false(meta_sqlite_is_network(0xef53));            /* ext4 */
    assert_false(meta_sqlite_is_network(0x01021994));        /* tmpfs */
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
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
    const struct CMUnitTest lasting[] = {
        CASE(rows_and_versions_outlive_the_close),
        CASE(processes_that_race_lose_no_change),
        CASE(a_wait_sees_the_change_of_another_process),
        CASE(a_kill_loses_nothing_acknowledged),
    };
    const struct CMUnitTest postgres_only[] = {
        CASE(wrong_addresses_and_names_are_told_apart),
        CASE(the_schema_is_cut_out_of_the_url),
    };
    const struct CMUnitTest sqlite_only[] = {
        CASE(files_that_are_not_ours_are_refused),
        CASE(a_file_of_the_first_schema_is_brought_up_to_date),
        CASE(urls_are_checked_whole),
        CASE(network_file_systems_are_known),
    };
    int failed;

    if (getenv("VICINAL_TEST_POSTGRES") == NULL) {
        fprintf(stderr, "VICINAL_TEST_POSTGRES names no server: run by tests/run_programs.py\n");
        return 2;
    }
    failed = cmocka_run_group_tests_name("sqlite", contract, choose_sqlite, NULL);
    failed += cmocka_run_group_tests_name("postgres", contract, choose_postgres, NULL);
    failed += cmocka_run_group_tests_name("sqlite lasts", lasting, choose_sqlite, NULL);
    failed += cmocka_run_group_tests_name("postgres lasts", lasting, choose_postgres, NULL);
    failed += cmocka_run_group_tests_name("postgres only", postgres_only, choose_postgres, NULL);
    failed += cmocka_run_group_tests_name("memory", contract, choose_memory, NULL);
    failed += cmocka_run_group_tests_name("sqlite only", sqlite_only, choose_sqlite, NULL);
    return failed;
}
