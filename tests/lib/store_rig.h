/* For tests of the record store: one back end at a time, in a folder that is removed again. */
#ifndef VICINAL_TESTS_LIB_STORE_RIG_H
#define VICINAL_TESTS_LIB_STORE_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

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

/* 0: the default. */
static inline struct store *open_limited(uint64_t map_bytes)
{
    struct store_options options = {.url = url, .env = env_real(), .map_bytes = map_bytes};
    struct store *store = NULL;
    struct err err = {0};

    if (store_open(&store, &options, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return store;
}

static inline struct store *open_store(void)
{
    return open_limited(0);
}

static inline struct store_txn *begin(struct store *store, bool write)
{
    struct store_txn *txn;
    struct err err = {0};

    if (store_begin(&txn, store, write, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return txn;
}

static inline void must_commit(struct store_txn *txn)
{
    struct err err = {0};

    if (store_commit(txn, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

#endif
