/* A metadata store of one back end at a time: a file in a folder that is removed again, a schema of
 * its own for each test, or memory; rows in it, and what is compared.  Included by the unit tests
 * of the metadata store; they need VICINAL_TEST_POSTGRES. */
#ifndef VICINAL_TESTS_META_RIG_H
#define VICINAL_TESTS_META_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/meta/meta.h"
#include "tests/lib/scratch.h"

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define WAIT_NS    (20 * NS_PER_S)

static char folder[256];
static char file[300];
static char sqlite_url[310];
static char postgres_url[300];
static unsigned schema_number;
static const char *url; /* of the back end under test */

static inline struct meta *open_meta(void)
{
    struct meta *meta = NULL;
    struct err err = {0};

    if (meta_open(&meta, url, env_real(), &err) != ERR_OK)
        fail_msg("%s", err.message);
    return meta;
}

static inline int setup(void **state)
{
    assert_true(scratch_make(folder, sizeof(folder), "meta"));
    snprintf(file, sizeof(file), "%s/meta.db", folder);
    snprintf(sqlite_url, sizeof(sqlite_url), "sqlite:%s", file);
    snprintf(postgres_url, sizeof(postgres_url), "%.200s?schema=test-%ld-%u",
             getenv("VICINAL_TEST_POSTGRES"), (long)getpid(), schema_number++);
    *state = NULL;
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

static inline int choose_sqlite(void **state)
{
    (void)state;
    url = sqlite_url;
    return 0;
}

/* A schema of its own for each test. */
static inline int choose_postgres(void **state)
{
    (void)state;
    url = postgres_url;
    return 0;
}

static inline int choose_memory(void **state)
{
    (void)state;
    url = "memory:";
    return 0;
}

static inline enum err_code put(struct meta *meta, const char *key, const char *value,
                                uint64_t expected, uint64_t *version)
{
    struct meta_put change = {key, value, strlen(value), expected};
    struct err err;

    return meta_put(meta, &change, version, &err);
}

static inline uint64_t must_put(struct meta *meta, const char *key, const char *value,
                                uint64_t expected)
{
    uint64_t version = 0;

    assert_int_equal(put(meta, key, value, expected, &version), ERR_OK);
    return version;
}

static inline void expect_row(struct meta *meta, const char *key, const char *value,
                              uint64_t version)
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

static inline uint64_t version_of(struct meta *meta)
{
    uint64_t version = 77;
    struct err err;

    assert_int_equal(meta_version(meta, &version, &err), ERR_OK);
    return version;
}

/* Add one to the number in row, times times, by compare-and-swap. */
static inline bool increment(struct meta *meta, unsigned times)
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

/* --- rows of lag
 * ---------------------------------------------------------------------------------- */

static inline struct meta_lag lag_of(const char *region, const char *origin, uint32_t partition,
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

static inline void expect_lags(struct meta *meta, const struct meta_lag *expected,
                               size_t expected_count)
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

static inline bool is_served(void)
{
    if (getenv("VICINAL_TEST_POSTGRES") != NULL)
        return true;
    fprintf(stderr, "VICINAL_TEST_POSTGRES names no server: run by tests/run_programs.py\n");
    return false;
}

#endif
