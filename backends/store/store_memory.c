/* Records in memory, for tests and the simulation.
 *
 * A state is four tables: sorted arrays of rows.  States, tables and rows are shared by reference
 * count and never change once they are reachable: a reader holds the state it began with; a writer
 * copies a table's array at its first change of it and commits by putting its state at the end of
 * the history.  The history holds every commit since the last sync, so that a power cut can take
 * the newest away; beyond HISTORY_MAX the oldest counts as synced, as a real disk writes back in
 * time.  A change costs O(rows): sizes here are small.
 */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backends/store/store.h"
#include "common/base/checked.h"

#define HISTORY_MAX  1024
#define ROW_OVERHEAD 64 /* bytes a row costs beside its own, roughly */

struct row {
    atomic_uint refs;
    size_t key_len;
    size_t value_len;
    uint8_t bytes[]; /* key, value */
};

struct table {
    atomic_uint refs;
    size_t count;
    size_t size; /* rows allocated */
    struct row *rows[];
};

struct state {
    atomic_uint refs;
    uint64_t bytes;
    struct table *tables[STORE_TABLES]; /* NULL: empty */
};

struct memory_store {
    struct store base; /* first */
    uint64_t bytes_max;
    pthread_mutex_t lock;
    /* below: guarded by lock */
    size_t history_count;               /* at least 1 */
    struct state *history[HISTORY_MAX]; /* synced, then each commit; the last is the present */
};

struct memory_txn {
    struct store_txn base;   /* first */
    struct state *state;     /* a writer's own, until its commit */
    bool owns[STORE_TABLES]; /* the table is the writer's own copy */
    bool changed;
};

struct memory_cursor {
    struct store_cursor base; /* first */
    enum store_table table;
    bool is_behind; /* go on behind key; else: at key */
    size_t key_len;
    uint8_t key[STORE_KEY_BYTES_MAX];
};

static struct memory_store *memory_of(struct store *store)
{
    assert(store->ops == &store_memory_ops);
    return (struct memory_store *)store;
}

static struct store_value key_of(const struct row *row)
{
    return (struct store_value){row->bytes, row->key_len};
}

static struct store_value value_of(const struct row *row)
{
    return (struct store_value){row->bytes + row->key_len, row->value_len};
}

/* True when that was the last reference.  The decrement publishes what was read before it; the
 * one who frees sees all of it. */
static bool drop_ref(atomic_uint *refs)
{
    unsigned before = atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel);

    assert(before > 0);
    return before == 1;
}

/* Who has a reference may make another without any order. */
static void take_ref(atomic_uint *refs)
{
    atomic_fetch_add_explicit(refs, 1, memory_order_relaxed);
}

static void row_put(struct row *row)
{
    if (drop_ref(&row->refs))
        free(row);
}

static void table_put(struct table *table)
{
    if (table == NULL || !drop_ref(&table->refs))
        return;
    for (size_t i = 0; i < table->count; i++)
        row_put(table->rows[i]);
    free(table);
}

static void state_put(struct state *state)
{
    if (!drop_ref(&state->refs))
        return;
    for (size_t i = 0; i < STORE_TABLES; i++)
        table_put(state->tables[i]);
    free(state);
}

/* A new state with one reference, sharing the tables of from (NULL: empty); NULL: no memory. */
static struct state *state_copy(const struct state *from)
{
    struct state *state = calloc(1, sizeof(*state));

    if (state == NULL)
        return NULL;
    atomic_init(&state->refs, 1);
    if (from == NULL)
        return state;
    state->bytes = from->bytes;
    for (size_t i = 0; i < STORE_TABLES; i++) {
        state->tables[i] = from->tables[i];
        if (state->tables[i] != NULL)
            take_ref(&state->tables[i]->refs);
    }
    return state;
}

/* A copy with one reference and room for one more row; NULL: no memory. */
static struct table *table_copy(const struct table *from)
{
    size_t count = from == NULL ? 0 : from->count;
    size_t size = count + count / 2 + 8;
    struct table *table = calloc(1, sizeof(*table) + size * sizeof(table->rows[0]));

    if (table == NULL)
        return NULL;
    atomic_init(&table->refs, 1);
    table->count = count;
    table->size = size;
    for (size_t i = 0; i < count; i++) {
        table->rows[i] = from->rows[i];
        take_ref(&table->rows[i]->refs);
    }
    return table;
}

static struct row *row_new(struct store_value key, struct store_value value)
{
    struct row *row;
    size_t size;

    if (!checked_add(sizeof(*row) + key.len, value.len, &size))
        return NULL;
    row = malloc(size);
    if (row == NULL)
        return NULL;
    atomic_init(&row->refs, 1);
    row->key_len = key.len;
    row->value_len = value.len;
    memcpy(row->bytes, key.data, key.len);
    if (value.len > 0)
        memcpy(row->bytes + key.len, value.data, value.len);
    return row;
}

static int key_compare(struct store_value a, struct store_value b)
{
    size_t len = MIN_OF(a.len, b.len);
    int order = len == 0 ? 0 : memcmp(a.data, b.data, len);

    if (order != 0)
        return order;
    return (a.len > b.len) - (a.len < b.len);
}

/* Index of the first row whose key is not below key. */
static size_t lower_bound(const struct table *table, struct store_value key)
{
    size_t low = 0, high = table == NULL ? 0 : table->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (key_compare(key_of(table->rows[middle]), key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_at(const struct table *table, size_t at, struct store_value key)
{
    return table != NULL && at < table->count && key_compare(key_of(table->rows[at]), key) == 0;
}

/* --- the store ----------------------------------------------------------------------------- */

static enum err_code memory_open(struct store **out, const struct store_options *options,
                                 struct err *err)
{
    struct memory_store *memory;

    if (strcmp(options->url, "memory:") != 0)
        return err_set(err, ERR_CONFIG,
                       "store URL \"%s\": nothing may follow memory:", options->url);
    memory = calloc(1, sizeof(*memory));
    if (memory == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory");
    memory->history[0] = state_copy(NULL);
    if (memory->history[0] == NULL) {
        free(memory);
        return err_set(err, ERR_NO_MEMORY, "store: no memory");
    }
    memory->history_count = 1;
    memory->base.ops = &store_memory_ops;
    memory->base.env = options->env;
    memory->bytes_max = options->map_bytes == 0 ? UINT64_MAX : options->map_bytes;
    pthread_mutex_init(&memory->lock, NULL);
    *out = &memory->base;
    return ERR_OK;
}

static void memory_close(struct store *store)
{
    struct memory_store *memory = memory_of(store);

    for (size_t i = 0; i < memory->history_count; i++)
        state_put(memory->history[i]);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
}

/* The present state, with a reference of the caller's. */
static struct state *present_get(struct memory_store *memory)
{
    struct state *state;

    pthread_mutex_lock(&memory->lock);
    state = memory->history[memory->history_count - 1];
    take_ref(&state->refs);
    pthread_mutex_unlock(&memory->lock);
    return state;
}

/* Append to the history; takes over the caller's reference. */
static void push_state(struct memory_store *memory, struct state *state)
{
    struct state *oldest = NULL;

    pthread_mutex_lock(&memory->lock);
    if (memory->history_count == HISTORY_MAX) {
        oldest = memory->history[0];
        memory->history_count--;
        memmove(&memory->history[0], &memory->history[1],
                memory->history_count * sizeof(memory->history[0]));
    }
    memory->history[memory->history_count++] = state;
    pthread_mutex_unlock(&memory->lock);
    if (oldest != NULL)
        state_put(oldest);
}

static enum err_code memory_begin(struct store_txn **out, struct store *store, bool write,
                                  struct err *err)
{
    struct memory_store *memory = memory_of(store);
    struct memory_txn *txn = calloc(1, sizeof(*txn));
    struct state *present;

    if (txn == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory for a transaction");
    present = present_get(memory);
    txn->state = present;
    if (write) {
        txn->state = state_copy(present);
        state_put(present);
        if (txn->state == NULL) {
            free(txn);
            return err_set(err, ERR_NO_MEMORY, "store: no memory for a transaction");
        }
    }
    *out = &txn->base;
    return ERR_OK;
}

static enum err_code memory_commit(struct store_txn *base, struct err *err)
{
    struct memory_txn *txn = (struct memory_txn *)base;

    (void)err;
    if (txn->changed)
        push_state(memory_of(base->store), txn->state);
    else
        state_put(txn->state);
    free(txn);
    return ERR_OK;
}

static void memory_abort(struct store_txn *base)
{
    struct memory_txn *txn = (struct memory_txn *)base;

    state_put(txn->state);
    free(txn);
}

static enum err_code memory_get(struct store_txn *base, enum store_table which,
                                struct store_value key, struct store_value *value, struct err *err)
{
    const struct table *table = ((struct memory_txn *)base)->state->tables[which];
    size_t at = lower_bound(table, key);

    (void)err;
    if (!is_at(table, at, key))
        return ERR_NOT_FOUND;
    *value = value_of(table->rows[at]);
    return ERR_OK;
}

/* The writer's own table, with room for one more row; NULL: no memory. */
static struct table *own_table(struct memory_txn *txn, enum store_table which)
{
    struct table *table = txn->state->tables[which];

    if (txn->owns[which] && table->count < table->size)
        return table;
    table = table_copy(table);
    if (table == NULL)
        return NULL;
    table_put(txn->state->tables[which]);
    txn->state->tables[which] = table;
    txn->owns[which] = true;
    return table;
}

static enum err_code memory_put(struct store_txn *base, enum store_table which,
                                struct store_value key, struct store_value value, struct err *err)
{
    struct memory_txn *txn = (struct memory_txn *)base;
    size_t at = lower_bound(txn->state->tables[which], key);
    bool replaces = is_at(txn->state->tables[which], at, key);
    uint64_t bytes = txn->state->bytes;
    struct table *table;
    struct row *row;

    if (replaces)
        bytes -= txn->state->tables[which]->rows[at]->value_len;
    else
        bytes += key.len + ROW_OVERHEAD;
    bytes += value.len;
    if (bytes > memory_of(base->store)->bytes_max)
        return err_set(err, ERR_INSUFFICIENT_STORAGE, "store: full");
    table = own_table(txn, which);
    row = table == NULL ? NULL : row_new(key, value);
    if (row == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory");
    if (replaces) {
        row_put(table->rows[at]);
    } else {
        memmove(&table->rows[at + 1], &table->rows[at],
                (table->count - at) * sizeof(table->rows[0]));
        table->count++;
    }
    table->rows[at] = row;
    txn->state->bytes = bytes;
    txn->changed = true;
    return ERR_OK;
}

static enum err_code memory_remove(struct store_txn *base, enum store_table which,
                                   struct store_value key, struct err *err)
{
    struct memory_txn *txn = (struct memory_txn *)base;
    size_t at = lower_bound(txn->state->tables[which], key);
    struct table *table;
    struct row *row;

    if (!is_at(txn->state->tables[which], at, key))
        return ERR_OK;
    table = own_table(txn, which);
    if (table == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory");
    row = table->rows[at];
    table->count--;
    memmove(&table->rows[at], &table->rows[at + 1], (table->count - at) * sizeof(table->rows[0]));
    txn->state->bytes -= row->key_len + row->value_len + ROW_OVERHEAD;
    txn->changed = true;
    row_put(row);
    return ERR_OK;
}

static enum err_code memory_cursor_open(struct store_cursor **out, struct store_txn *txn,
                                        enum store_table table, struct store_value from,
                                        struct err *err)
{
    struct memory_cursor *cursor = calloc(1, sizeof(*cursor));

    (void)txn;
    if (cursor == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory for a cursor");
    cursor->table = table;
    cursor->key_len = from.len;
    if (from.len > 0)
        memcpy(cursor->key, from.data, from.len);
    *out = &cursor->base;
    return ERR_OK;
}

/* The place is kept as a key, not as an index: the rows may change meanwhile. */
static enum err_code memory_cursor_next(struct store_cursor *base, struct store_value *key,
                                        struct store_value *value, bool *more, struct err *err)
{
    struct memory_cursor *cursor = (struct memory_cursor *)base;
    const struct table *table = ((struct memory_txn *)base->txn)->state->tables[cursor->table];
    struct store_value from = {cursor->key, cursor->key_len};
    size_t at = lower_bound(table, from);

    (void)err;
    if (cursor->is_behind && is_at(table, at, from))
        at++;
    *more = table != NULL && at < table->count;
    if (!*more)
        return ERR_OK;
    *key = key_of(table->rows[at]);
    *value = value_of(table->rows[at]);
    memcpy(cursor->key, key->data, key->len);
    cursor->key_len = key->len;
    cursor->is_behind = true;
    return ERR_OK;
}

static void memory_cursor_close(struct store_cursor *cursor)
{
    free(cursor);
}

/* Everything below the present is forgotten: nothing of it can come back. */
static enum err_code memory_sync(struct store *store, struct err *err)
{
    struct memory_store *memory = memory_of(store);

    (void)err;
    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i + 1 < memory->history_count; i++)
        state_put(memory->history[i]);
    memory->history[0] = memory->history[memory->history_count - 1];
    memory->history_count = 1;
    pthread_mutex_unlock(&memory->lock);
    return ERR_OK;
}

static enum err_code memory_clear(struct store *store, struct err *err)
{
    struct state *empty = state_copy(NULL);

    if (empty == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory");
    push_state(memory_of(store), empty);
    return ERR_OK;
}

static uint64_t memory_bytes(struct store *store)
{
    struct state *state = present_get(memory_of(store));
    uint64_t bytes = state->bytes;

    state_put(state);
    return bytes;
}

void store_memory_crash(struct store *store, uint32_t lost)
{
    struct memory_store *memory = memory_of(store);

    assert(atomic_load(&store->open_txns) == 0);
    pthread_mutex_lock(&memory->lock);
    for (; lost > 0 && memory->history_count > 1; lost--)
        state_put(memory->history[--memory->history_count]);
    pthread_mutex_unlock(&memory->lock);
}

const struct store_ops store_memory_ops = {
    .scheme = "memory",
    .open = memory_open,
    .close = memory_close,
    .begin = memory_begin,
    .commit = memory_commit,
    .abort = memory_abort,
    .get = memory_get,
    .put = memory_put,
    .remove = memory_remove,
    .cursor_open = memory_cursor_open,
    .cursor_next = memory_cursor_next,
    .cursor_close = memory_cursor_close,
    .sync = memory_sync,
    .clear = memory_clear,
    .bytes = memory_bytes,
};
