/* A store that fails at one chosen call, in front of one in memory.  Included by unit tests. */
#ifndef VICINAL_TESTS_FAULTY_STORE_H
#define VICINAL_TESTS_FAULTY_STORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "backends/store/store.h"

struct faulty {
    struct store base;
    struct store *inner;
    bool writes_only; /* reads never fail */
    bool syncs;       /* a sync counts and fails as other calls do */
    atomic_uint calls;
    atomic_uint fail_at; /* 0: never */
};

struct faulty_txn {
    struct store_txn base;
    struct store_txn *inner;
};

struct faulty_cursor {
    struct store_cursor base;
    struct store_cursor *inner;
};

static inline void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s: %s", err_word(code), err->message);
}

/* The calls are counted from now on, and that one fails. */
static inline void faulty_fail_at(struct faulty *faulty, unsigned call)
{
    atomic_store(&faulty->calls, 0);
    atomic_store(&faulty->fail_at, call);
}

static inline enum err_code strike(struct store *store, bool write, struct err *err)
{
    struct faulty *faulty = (struct faulty *)store;
    unsigned call;

    if (faulty->writes_only && !write)
        return ERR_OK;
    call = atomic_fetch_add(&faulty->calls, 1) + 1;
    if (call == atomic_load(&faulty->fail_at))
        return err_set(err, ERR_IO, "call %u fails", call);
    return ERR_OK;
}

static struct store_txn *inner_of(struct store_txn *txn)
{
    return ((struct faulty_txn *)txn)->inner;
}

static enum err_code faulty_begin(struct store_txn **out, struct store *store, bool write,
                                  struct err *err)
{
    struct faulty_txn *txn = calloc(1, sizeof(*txn));
    enum err_code code = strike(store, write, err);

    if (code == ERR_OK)
        code = store_begin(&txn->inner, ((struct faulty *)store)->inner, write, err);
    if (code != ERR_OK) {
        free(txn);
        return code;
    }
    *out = &txn->base;
    return ERR_OK;
}

static enum err_code faulty_commit(struct store_txn *txn, struct err *err)
{
    struct store_txn *inner = inner_of(txn);
    enum err_code code = strike(txn->store, txn->write, err);

    free(txn);
    if (code == ERR_OK)
        return store_commit(inner, err);
    store_abort(inner);
    return code;
}

static void faulty_abort(struct store_txn *txn)
{
    store_abort(inner_of(txn));
    free(txn);
}

static enum err_code faulty_get(struct store_txn *txn, enum store_table table,
                                struct store_value key, struct store_value *value, struct err *err)
{
    enum err_code code = strike(txn->store, txn->write, err);

    return code == ERR_OK ? store_get(inner_of(txn), table, key, value, err) : code;
}

static enum err_code faulty_put(struct store_txn *txn, enum store_table table,
                                struct store_value key, struct store_value value, struct err *err)
{
    enum err_code code = strike(txn->store, txn->write, err);

    return code == ERR_OK ? store_put(inner_of(txn), table, key, value, err) : code;
}

static enum err_code faulty_remove(struct store_txn *txn, enum store_table table,
                                   struct store_value key, struct err *err)
{
    enum err_code code = strike(txn->store, txn->write, err);

    return code == ERR_OK ? store_delete(inner_of(txn), table, key, err) : code;
}

static enum err_code faulty_cursor_open(struct store_cursor **out, struct store_txn *txn,
                                        enum store_table table, struct store_value from,
                                        struct err *err)
{
    struct faulty_cursor *cursor = calloc(1, sizeof(*cursor));
    enum err_code code = strike(txn->store, txn->write, err);

    if (code == ERR_OK)
        code = store_cursor_open(&cursor->inner, inner_of(txn), table, from, err);
    if (code != ERR_OK) {
        free(cursor);
        return code;
    }
    *out = &cursor->base;
    return ERR_OK;
}

static enum err_code faulty_cursor_next(struct store_cursor *cursor, struct store_value *key,
                                        struct store_value *value, bool *more, struct err *err)
{
    enum err_code code = strike(cursor->txn->store, cursor->txn->write, err);

    return code == ERR_OK
               ? store_cursor_next(((struct faulty_cursor *)cursor)->inner, key, value, more, err)
               : code;
}

static void faulty_cursor_close(struct store_cursor *cursor)
{
    store_cursor_close(((struct faulty_cursor *)cursor)->inner);
    free(cursor);
}

static void faulty_close(struct store *store)
{
    store_close(((struct faulty *)store)->inner);
    free(store);
}

static enum err_code faulty_clear(struct store *store, struct err *err)
{
    return store_clear(((struct faulty *)store)->inner, err);
}

static enum err_code faulty_sync(struct store *store, struct err *err)
{
    enum err_code code = ((struct faulty *)store)->syncs ? strike(store, true, err) : ERR_OK;

    return code == ERR_OK ? store_sync(((struct faulty *)store)->inner, err) : code;
}

static uint64_t faulty_bytes(struct store *store)
{
    return store_bytes(((struct faulty *)store)->inner);
}

static const struct store_ops faulty_ops = {
    .scheme = "faulty",
    .close = faulty_close,
    .begin = faulty_begin,
    .commit = faulty_commit,
    .abort = faulty_abort,
    .get = faulty_get,
    .put = faulty_put,
    .remove = faulty_remove,
    .cursor_open = faulty_cursor_open,
    .cursor_next = faulty_cursor_next,
    .cursor_close = faulty_cursor_close,
    .clear = faulty_clear,
    .sync = faulty_sync,
    .bytes = faulty_bytes,
};

static inline struct faulty *faulty_new(bool writes_only)
{
    struct store_options options = {.url = "memory:", .env = env_real()};
    struct faulty *faulty = calloc(1, sizeof(*faulty));
    struct err err = {0};

    faulty->writes_only = writes_only;
    faulty->base.ops = &faulty_ops;
    faulty->base.env = env_real();
    must(store_open(&faulty->inner, &options, &err), &err);
    return faulty;
}

#endif
