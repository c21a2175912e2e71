/* A shard's store as a node sees it: the memory back end, which survives, behind a disk that fails
 * at times; every access is a place where another thread may run or the node may die. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
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
    struct store *base = txn->store;
    enum err_code code;

    access_store(base);

    if (disk_fails(txn->store)) {
        store_abort(inner_of(txn));
        code = err_set(err, ERR_IO, "store: the disk failed");
    } else {
        code = store_commit(inner_of(txn), err);
    }
    free(txn);
    access_store(base);
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

/* Rows of one table: u8 table, u32 bytes of the key, u32 bytes of the value, key, value. */
static enum err_code copy_table(struct store_txn *txn, enum store_table table, store_take_fn *take,
                                void *context, struct err *err)
{
    struct store_cursor *cursor = NULL;
    struct store_value key, value;
    struct buffer bytes = {0};
    bool more = true;
    enum err_code code = store_cursor_open(&cursor, txn, table, (struct store_value){0}, err);

    while (code == ERR_OK && more) {
        code = store_cursor_next(cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more)
            break;
        buffer_reset(&bytes);
        buffer_append_byte(&bytes, (uint8_t)table);
        buffer_append_u32(&bytes, (uint32_t)key.len);
        buffer_append_u32(&bytes, (uint32_t)value.len);
        buffer_append(&bytes, key.data, key.len);
        buffer_append(&bytes, value.data, value.len);
        code = take(context, bytes.data, bytes.len, err);
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    buffer_free(&bytes);
    return code;
}

/* The state of one moment, read piece by piece while others commit. */
static enum err_code copy_store(struct store *base, store_take_fn *take, void *context,
                                struct err *err)
{
    struct store_txn *txn = NULL;
    enum err_code code = store_begin(&txn, base, false, err);

    for (int table = 0; code == ERR_OK && table < STORE_TABLES; table++)
        code = copy_table(txn, (enum store_table)table, take, context, err);
    if (txn != NULL)
        store_abort(txn);
    return code;
}

/* A copy as the rows that it holds.  Errors: ERR_CORRUPT. */
static enum err_code load_copy(struct store *store, const struct buffer *bytes, struct err *err)
{
    struct bytes_reader reader = {.data = bytes->data, .len = bytes->len};
    struct store_txn *txn = NULL;
    enum err_code code = store_begin(&txn, store, true, err);

    while (code == ERR_OK && reader.at < reader.len) {
        enum store_table table = read_u8(&reader);
        uint32_t key_len = read_u32(&reader), value_len = read_u32(&reader);
        const uint8_t *key = read_bytes(&reader, key_len);
        const uint8_t *value = read_bytes(&reader, value_len);

        if (table >= STORE_TABLES || key == NULL || value == NULL)
            code = err_set(err, ERR_CORRUPT, "store: this is no copy");
        if (code == ERR_OK)
            code = store_put(txn, table, (struct store_value){key, key_len},
                             (struct store_value){value, value_len}, err);
    }
    if (code == ERR_OK)
        return store_commit(txn, err);
    store_abort(txn);
    return code;
}

static enum err_code read_file(const char *path, struct buffer *out, struct err *err)
{
    FILE *file = fopen(path, "rb");
    char block[4096];
    size_t got;

    if (file == NULL)
        return err_set_errno(err, errno, "store: %.200s", path);
    while ((got = fread(block, 1, sizeof(block), file)) > 0)
        buffer_append(out, block, got);
    (void)fclose(file);
    return buffer_check(out, err);
}

/* Linked in the place of store_open (--wrap): a folder with a copy of a store is what a new replica
 * opens, and here it is in memory.  A file without a byte stands for the node's own disk. */
enum err_code __real_store_open(struct store **out, const struct store_options *options,
                                struct err *err);
enum err_code __wrap_store_open(struct store **out, const struct store_options *options,
                                struct err *err);

enum err_code __wrap_store_open(struct store **out, const struct store_options *options,
                                struct err *err)
{
    static const char LMDB[] = "lmdb:";
    struct store_options memory = {.url = "memory:", .env = options->env};
    struct buffer bytes = {0};
    char path[512];
    enum err_code code;

    if (strncmp(options->url, LMDB, strlen(LMDB)) != 0)
        return __real_store_open(out, options, err);
    *out = NULL;
    (void)snprintf(path, sizeof(path), "%s/" STORE_COPY_NAME, options->url + strlen(LMDB));
    code = read_file(path, &bytes, err);
    if (code == ERR_OK && bytes.len == 0) {
        *out = sim_store_open(sim_node_of(options->env));
        return ERR_OK;
    }
    if (code == ERR_OK)
        code = __real_store_open(out, &memory, err);
    if (code == ERR_OK && (code = load_copy(*out, &bytes, err)) != ERR_OK) {
        store_close(*out);
        *out = NULL;
    }
    buffer_free(&bytes);
    return code;
}

static enum err_code gather(void *context, const void *data, size_t len, struct err *err)
{
    buffer_append(context, data, len);
    return buffer_check(context, err);
}

struct store *sim_store_clone(struct sim *sim, struct store *store)
{
    struct store_options options = {.url = "memory:", .env = &sim->world.env};
    struct store *clone = NULL;
    struct buffer bytes = {0};
    struct err err = {0};

    if (copy_store(store, gather, &bytes, &err) != ERR_OK ||
        __real_store_open(&clone, &options, &err) != ERR_OK ||
        load_copy(clone, &bytes, &err) != ERR_OK || store_sync(clone, &err) != ERR_OK)
        abort();
    buffer_free(&bytes);
    return clone;
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
    .copy = copy_store,
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
