/* For tests of the record store: one back end at a time, in a folder that is removed again. */
#ifndef VICINAL_TESTS_LIB_STORE_RIG_H
#define VICINAL_TESTS_LIB_STORE_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/store/store.h"
#include "tests/lib/scratch.h"

static char folder[256];
static char lmdb_url[310];
static const char *url; /* of the back end under test */

static inline int setup(void **state)
{
    assert_true(scratch_make(folder, sizeof(folder), "store"));
    snprintf(lmdb_url, sizeof(lmdb_url), "lmdb:%s/shard", folder);
    *state = NULL;
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

/* For a group of tests. */
static inline int choose_lmdb(void **state)
{
    (void)state;
    url = lmdb_url;
    return 0;
}

static inline int choose_memory(void **state)
{
    (void)state;
    url = "memory:";
    return 0;
}

static inline void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s", err->message);
}

/* 0: the default. */
static inline struct store *open_limited(uint64_t map_bytes)
{
    struct store_options options = {.url = url, .env = env_real(), .map_bytes = map_bytes};
    struct store *store = NULL;
    struct err err = {0};

    must(store_open(&store, &options, &err), &err);
    return store;
}

static inline struct store *open_store(void)
{
    return open_limited(0);
}

static inline void expect_refusal(const char *bad_url, enum err_code expected, const char *part)
{
    struct store_options options = {.url = bad_url, .env = env_real()};
    struct store *store = (struct store *)&options;
    struct err err = {0};

    assert_int_equal(store_open(&store, &options, &err), expected);
    assert_null(store);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", err.message, part);
}

static inline struct store_txn *begin(struct store *store, bool write)
{
    struct store_txn *txn;
    struct err err = {0};

    must(store_begin(&txn, store, write, &err), &err);
    return txn;
}

static inline void must_commit(struct store_txn *txn)
{
    struct err err = {0};

    must(store_commit(txn, &err), &err);
}

/* --- rows of text ------------------------------------------------------------------------------
 */

static inline struct store_value text(const char *string)
{
    return (struct store_value){string, strlen(string)};
}

static inline void must_put(struct store_txn *txn, enum store_table table, const char *key,
                            const char *value)
{
    struct err err = {0};

    must(store_put(txn, table, text(key), text(value), &err), &err);
}

/* One row in one commit. */
static inline void commit_row(struct store *store, const char *key, const char *value)
{
    struct store_txn *txn = begin(store, true);

    must_put(txn, STORE_IDS, key, value);
    must_commit(txn);
}

/* value NULL: the row must not be there. */
static inline void expect_in(struct store_txn *txn, enum store_table table, const char *key,
                             const char *value)
{
    struct store_value got = {0};
    struct err err = {0};
    enum err_code code = store_get(txn, table, text(key), &got, &err);

    if (value == NULL) {
        assert_int_equal(code, ERR_NOT_FOUND);
        assert_int_equal(err.code, ERR_OK);
        return;
    }
    assert_int_equal(code, ERR_OK);
    assert_int_equal(got.len, strlen(value));
    assert_memory_equal(got.data, value, got.len);
}

static inline void expect(struct store *store, const char *key, const char *value)
{
    struct store_txn *txn = begin(store, false);

    expect_in(txn, STORE_IDS, key, value);
    store_abort(txn);
}

/* --- two rows of one commit: equal in every snapshot ------------------------------------------ */

struct reader {
    struct store *store;
    unsigned rounds;
    unsigned torn;
};

static inline void read_pairs(void *argument)
{
    struct reader *reader = argument;

    for (unsigned i = 0; i < reader->rounds; i++) {
        struct store_value left, right;
        struct store_txn *txn;
        struct err err;

        if (store_begin(&txn, reader->store, false, &err) != ERR_OK)
            break;
        if (store_get(txn, STORE_IDS, text("left"), &left, &err) != ERR_OK ||
            store_get(txn, STORE_ROWS, text("right"), &right, &err) != ERR_OK ||
            left.len != right.len || memcmp(left.data, right.data, left.len) != 0)
            reader->torn++;
        store_abort(txn);
    }
}

static inline void write_pair(struct store *store, unsigned number)
{
    struct store_txn *txn = begin(store, true);
    char value[32];

    snprintf(value, sizeof(value), "%u", number);
    must_put(txn, STORE_IDS, "left", value);
    must_put(txn, STORE_ROWS, "right", value);
    must_commit(txn);
}

#endif
