/* A shard's store as a node sees it: the memory back end, which survives, behind a disk that fails
 * at times; every access is a place where another thread may run or the node may die. */
#include <stdlib.h>

#include "tests/sim/sim.h"

#define SLOW_NS (4 * NS_PER_MS) /* a page that has to be fetched */

struct sim_store {
    struct store base; /* first */
    struct store *inner;
    struct sim_node *node;
};

struct sim_txn {
    struct store_txn base; /* first */
    struct store_txn *inner;
};

struct sim_cursor {
    struct store_cursor base; /* first */
    struct store_cursor *inner;
};

static struct store_txn *inner_of(struct store_txn *txn)
{
    return ((struct sim_txn *)txn)->inner;
}

/* The data is there even for a node that has just died: it learns of that at its next call. */
static void access_store(struct store *base)
{
    struct sim_node *node = ((struct sim_store *)base)->node;
    bool dies = sim_touch(base->env) != ERR_OK;

    if (!dies && sim_below(node->sim, 32) == 0)
        (void)!sim_pass(base->env, sim_below(node->sim, SLOW_NS));
    else if (dies || sim_below(node->sim, 8) == 0)
        sim_switch(node->sim);
}

static bool disk_fails(struct store *base)
{
    struct sim_store *store = (struct sim_store *)base;
    bool fails = sim_percent(store->node->sim, store->node->disk_fail);

    store->node->sim->counts.disk_errors += fails;
    return fails;
}

static void close_store(struct store *store)
{
    free(store);
}

static enum err_code begin(struct store_txn **out, struct store *base, bool write, struct err *err)
{
    struct sim_txn *txn = calloc(1, sizeof(*txn));
    enum err_code code;

    if (txn == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory");
    code = store_begin(&txn->inner, ((struct sim_store *)base)->inner, write, err);
    if (code != ERR_OK) {
        free(txn);
        return code;
    }
    access_store(base);
    *out = &txn->base;
    return ERR_OK;
}

static enum err_code commit(struct store_txn *txn, struct err *err)
{
    enum err_code code;

    if (disk_fails(txn->store)) {
        store_abort(inner_of(txn));
        code = err_set(err, ERR_IO, "store: the disk failed");
    } else {
        code = store_commit(inner_of(txn), err);
    }
    free(txn);
    return code;
}

static void abort_txn(struct store_txn *txn)
{
    store_abort(inner_of(txn));
    free(txn);
}

static enum err_code get(struct store_txn *txn, enum store_table table, struct store_value key,
                         struct store_value *value, struct err *err)
{
    access_store(txn->store);
    return store_get(inner_of(txn), table, key, value, err);
}

static enum err_code put(struct store_txn *txn, enum store_table table, struct store_value key,
                         struct store_value value, struct err *err)
{
    access_store(txn->store);
    if (disk_fails(txn->store))
        return err_set(err, ERR_INSUFFICIENT_STORAGE, "store: full");
    return store_put(inner_of(txn), table, key, value, err);
}

static enum err_code take_out(struct store_txn *txn, enum store_table table, struct store_value key,
                              struct err *err)
{
    access_store(txn->store);
    return store_delete(inner_of(txn), table, key, err);
}

static enum err_code cursor_open(struct store_cursor **out, struct store_txn *txn,
                                 enum store_table table, struct store_value from, struct err *err)
{
    struct sim_cursor *cursor = calloc(1, sizeof(*cursor));
    enum err_code code;

    if (cursor == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory");
    code = store_cursor_open(&cursor->inner, inner_of(txn), table, from, err);
    if (code != ERR_OK) {
        free(cursor);
        return code;
    }
    *out = &cursor->base;
    return ERR_OK;
}

static enum err_code cursor_next(struct store_cursor *cursor, struct store_value *key,
                                 struct store_value *value, bool *more, struct err *err)
{
    access_store(cursor->txn->store);
    return store_cursor_next(((struct sim_cursor *)cursor)->inner, key, value, more, err);
}

static void cursor_close(struct store_cursor *cursor)
{
    store_cursor_close(((struct sim_cursor *)cursor)->inner);
    free(cursor);
}

static enum err_code sync_store(struct store *base, struct err *err)
{
    if (disk_fails(base))
        return err_set(err, ERR_IO, "store: the disk failed");
    return store_sync(((struct sim_store *)base)->inner, err);
}

static enum err_code clear(struct store *base, struct err *err)
{
    return store_clear(((struct sim_store *)base)->inner, err);
}

static uint64_t bytes(struct store *base)
{
    return store_bytes(((struct sim_store *)base)->inner);
}

static const struct store_ops sim_store_ops = {
    .scheme = "sim",
    .close = close_store,
    .begin = begin,
    .commit = commit,
    .abort = abort_txn,
    .get = get,
    .put = put,
    .remove = take_out,
    .cursor_open = cursor_open,
    .cursor_next = cursor_next,
    .cursor_close = cursor_close,
    .sync = sync_store,
    .clear = clear,
    .bytes = bytes,
};

struct store *sim_store_open(struct sim_node *node)
{
    struct store_options options = {.url = "memory:", .env = &node->sim->world.env};
    struct sim_store *store = calloc(1, sizeof(*store));
    struct err err = {0};

    if (store == NULL ||
        (node->store == NULL && store_open(&node->store, &options, &err) != ERR_OK))
        abort();
    store->base.ops = &sim_store_ops;
    store->base.env = &node->life->env;
    store->inner = node->store;
    store->node = node;
    return &store->base;
}
