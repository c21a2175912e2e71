/* The front of every record store: see store.h.
 *
 * Here the back end is chosen by the whole scheme of the URL, each begin, commit and sync is a
 * place where the simulation may hand over or stop the node, a change that failed makes its
 * transaction fail, and the rules of the interface (one writer, cursors within transactions, sizes
 * of keys) are asserted once for all back ends.
 */
#include "backends/store/store.h"

#include <assert.h>
#include <string.h>

#include "common/base/text.h"

static const struct store_ops *const back_ends[] = {&store_lmdb_ops, &store_memory_ops};

static const struct store_ops *find_back_end(const char *url)
{
    for (size_t i = 0; i < ARRAY_COUNT(back_ends); i++)
        if (text_has_scheme(url, back_ends[i]->scheme))
            return back_ends[i];
    return NULL;
}

enum err_code store_open(struct store **out, const struct store_options *options, struct err *err)
{
    const struct store_ops *ops;
    enum err_code code;

    assert(options->url != NULL);
    assert(options->env != NULL);
    *out = NULL;
    ops = find_back_end(options->url);
    if (ops == NULL)
        return err_set(err, ERR_CONFIG, "store URL \"%s\": want lmdb:DIR or memory:", options->url);
    code = ops->open(out, options, err);
    assert((code == ERR_OK) == (*out != NULL));
    if (code != ERR_OK)
        return code;
    assert((*out)->ops == ops);
    assert((*out)->env == options->env);
    return ERR_OK;
}

void store_close(struct store *store)
{
    if (store == NULL)
        return;
    assert(atomic_load(&store->open_txns) == 0);
    store->ops->close(store);
}

bool store_is_damaged(const struct store *store)
{
    return atomic_load_explicit(&store->is_damaged, memory_order_relaxed);
}

/* What a back end answered, on its way to the caller. */
static enum err_code heard(struct store *store, enum err_code code)
{
    if (code == ERR_CORRUPT)
        atomic_store_explicit(&store->is_damaged, true, memory_order_relaxed);
    return code;
}

static enum err_code check_alive(struct store *store, struct err *err)
{
    if (env_yield(store->env) != ERR_OK)
        return err_set(err, ERR_DEAD, "store: shutting down");
    return ERR_OK;
}

/* The rule of one writer is the owner's to keep: here it is only verified. */
static void enter_writer(struct store *store)
{
    bool was_writing = atomic_exchange(&store->is_writing, true);

    assert(!was_writing);
}

static void leave_writer(struct store *store)
{
    bool was_writing = atomic_exchange(&store->is_writing, false);

    assert(was_writing);
}

enum err_code store_begin(struct store_txn **out, struct store *store, bool write, struct err *err)
{
    enum err_code code;

    *out = NULL;
    code = check_alive(store, err);
    if (code != ERR_OK)
        return code;
    if (write)
        enter_writer(store);
    code = heard(store, store->ops->begin(out, store, write, err));
    assert((code == ERR_OK) == (*out != NULL));
    if (code != ERR_OK) {
        if (write)
            leave_writer(store);
        return code;
    }
    (*out)->store = store;
    (*out)->write = write;
    (*out)->failed = ERR_OK;
    (*out)->open_cursors = 0;
    atomic_fetch_add(&store->open_txns, 1);
    return ERR_OK;
}

/* Before the back end ends txn, whose memory is gone then. */
static void count_out(struct store_txn *txn)
{
    unsigned open_txns = atomic_fetch_sub(&txn->store->open_txns, 1);

    assert(open_txns > 0);
    assert(txn->open_cursors == 0);
}

enum err_code store_commit(struct store_txn *txn, struct err *err)
{
    struct store *store = txn->store;
    enum err_code code;

    assert(txn->write);
    code = txn->failed;
    if (code != ERR_OK)
        (void)err_set(err, code, "store: a change of this transaction has failed");
    else
        code = check_alive(store, err);
    if (code != ERR_OK) {
        store_abort(txn);
        return code;
    }
    count_out(txn);
    code = heard(store, store->ops->commit(txn, err));
    leave_writer(store);
    return code;
}

void store_abort(struct store_txn *txn)
{
    struct store *store;
    bool write;

    if (txn == NULL)
        return;
    store = txn->store;
    write = txn->write;
    count_out(txn);
    store->ops->abort(txn);
    if (write)
        leave_writer(store);
}

static bool is_key(enum store_table table, struct store_value key)
{
    if (key.len < 1 || key.len > STORE_KEY_BYTES_MAX)
        return false;
    return table != STORE_META || *(const uint8_t *)key.data != STORE_META_RESERVED;
}

enum err_code store_get(struct store_txn *txn, enum store_table table, struct store_value key,
                        struct store_value *value, struct err *err)
{
    struct store_value got = {0};
    enum err_code code;

    assert(table < STORE_TABLES);
    assert(is_key(table, key));
    code = heard(txn->store, txn->store->ops->get(txn, table, key, &got, err));
    if (code == ERR_OK)
        *value = got;
    return code;
}

static enum err_code note_failure(struct store_txn *txn, enum err_code code)
{
    if (code != ERR_OK && txn->failed == ERR_OK)
        txn->failed = code;
    return heard(txn->store, code);
}

enum err_code store_put(struct store_txn *txn, enum store_table table, struct store_value key,
                        struct store_value value, struct err *err)
{
    assert(txn->write);
    assert(table < STORE_TABLES);
    assert(is_key(table, key));
    assert(value.data != NULL || value.len == 0);
    if (txn->failed != ERR_OK)
        return err_set(err, txn->failed, "store: a change of this transaction has failed");
    return note_failure(txn, txn->store->ops->put(txn, table, key, value, err));
}

enum err_code store_delete(struct store_txn *txn, enum store_table table, struct store_value key,
                           struct err *err)
{
    assert(txn->write);
    assert(table < STORE_TABLES);
    assert(is_key(table, key));
    if (txn->failed != ERR_OK)
        return err_set(err, txn->failed, "store: a change of this transaction has failed");
    return note_failure(txn, txn->store->ops->remove(txn, table, key, err));
}

enum err_code store_cursor_open(struct store_cursor **out, struct store_txn *txn,
                                enum store_table table, struct store_value from, struct err *err)
{
    enum err_code code;

    assert(table < STORE_TABLES);
    assert(from.len <= STORE_KEY_BYTES_MAX);
    *out = NULL;
    code = heard(txn->store, txn->store->ops->cursor_open(out, txn, table, from, err));
    assert((code == ERR_OK) == (*out != NULL));
    if (code != ERR_OK)
        return code;
    (*out)->txn = txn;
    (*out)->reads_ahead = false;
    txn->open_cursors++;
    return ERR_OK;
}

void store_cursor_read_ahead(struct store_cursor *cursor)
{
    cursor->reads_ahead = true;
}

enum err_code store_cursor_next(struct store_cursor *cursor, struct store_value *key,
                                struct store_value *value, bool *more, struct err *err)
{
    bool found = false;
    struct store *store = cursor->txn->store;
    enum err_code code = heard(store, store->ops->cursor_next(cursor, key, value, &found, err));

    if (code != ERR_OK)
        return code;
    assert(!found || key->len > 0);
    *more = found;
    return ERR_OK;
}

void store_cursor_close(struct store_cursor *cursor)
{
    if (cursor == NULL)
        return;
    assert(cursor->txn->open_cursors > 0);
    cursor->txn->open_cursors--;
    cursor->txn->store->ops->cursor_close(cursor);
}

enum err_code store_sync(struct store *store, struct err *err)
{
    enum err_code code = check_alive(store, err);

    return code == ERR_OK ? heard(store, store->ops->sync(store, err)) : code;
}

enum err_code store_copy(struct store *store, store_take_fn *take, void *context, struct err *err)
{
    enum err_code code = check_alive(store, err);

    assert(take != NULL);
    if (code != ERR_OK)
        return code;
    if (store->ops->copy == NULL)
        return err_set(err, ERR_NOT_SUPPORTED, "store: it cannot be copied");
    return heard(store, store->ops->copy(store, take, context, err));
}

enum err_code store_clear(struct store *store, struct err *err)
{
    enum err_code code = check_alive(store, err);

    if (code != ERR_OK)
        return code;
    enter_writer(store);
    code = heard(store, store->ops->clear(store, err));
    leave_writer(store);
    return code;
}

uint64_t store_bytes(struct store *store)
{
    return store->ops->bytes(store);
}
