/* Metadata in this process: a sorted array under a mutex; waiters sleep on a condition of the
 * environment, so simulated time works.  Nothing survives the close. */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backends/meta/meta.h"
#include "common/base/checked.h"

struct memory_meta {
    struct meta base; /* first */
    pthread_mutex_t lock;
    /* below: guarded by lock */
    struct env_cond changed;
    struct meta_rows rows; /* in key order */
    uint64_t version;      /* of the newest change */
    struct meta_lags lags; /* in their order */
};

static struct memory_meta *memory_of(struct meta *meta)
{
    assert(meta->ops == &meta_memory_ops);
    return (struct memory_meta *)meta;
}

static enum err_code memory_open(struct meta **out, const char *url, struct env *env,
                                 struct err *err)
{
    struct memory_meta *memory;

    if (strcmp(url, "memory:") != 0)
        return err_set(err, ERR_CONFIG, "metadata URL \"%s\": nothing may follow memory:", url);
    memory = calloc(1, sizeof(*memory));
    if (memory == NULL)
        return err_set(err, ERR_NO_MEMORY, "metadata: no memory");
    memory->base = (struct meta){.ops = &meta_memory_ops, .env = env};
    pthread_mutex_init(&memory->lock, NULL);
    env_cond_init(env, &memory->changed);
    *out = &memory->base;
    return ERR_OK;
}

static void memory_close(struct meta *meta)
{
    struct memory_meta *memory = memory_of(meta);

    meta_rows_free(memory->rows.rows, memory->rows.count);
    free(memory->lags.items);
    env_cond_free(&memory->changed);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
}

/* Index of the first row whose key is not below key; caller holds lock. */
static size_t lower_bound_locked(const struct memory_meta *memory, const char *key)
{
    size_t low = 0, high = memory->rows.count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strcmp(memory->rows.rows[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_at_locked(const struct memory_meta *memory, size_t at, const char *key)
{
    return at < memory->rows.count && strcmp(memory->rows.rows[at].key, key) == 0;
}

static struct meta_put content_of(const struct meta_row *row)
{
    return (struct meta_put){.key = row->key, .value = row->value, .value_len = row->value_len};
}

static enum err_code memory_get(struct meta *meta, const char *key, uint64_t until_ns,
                                struct meta_row *row, struct err *err)
{
    (void)until_ns;
    struct memory_meta *memory = memory_of(meta);
    enum err_code code = ERR_NOT_FOUND;
    size_t at;

    pthread_mutex_lock(&memory->lock);
    at = lower_bound_locked(memory, key);
    if (is_at_locked(memory, at, key)) {
        struct meta_put content = content_of(&memory->rows.rows[at]);

        code = meta_row_fill(row, &content, memory->rows.rows[at].version, err);
    }
    pthread_mutex_unlock(&memory->lock);
    if (code == ERR_NOT_FOUND)
        return err_set(err, ERR_NOT_FOUND, "metadata %s: no such row", key);
    return code;
}

/* Caller holds lock. */
static enum err_code check_expected_locked(const struct memory_meta *memory, size_t at,
                                           const char *key, uint64_t expected, struct err *err)
{
    uint64_t present = is_at_locked(memory, at, key) ? memory->rows.rows[at].version : META_ABSENT;

    if (expected == META_ANY || expected == present)
        return ERR_OK;
    return err_set(err, ERR_CONFLICT, "metadata %s: someone else was first", key);
}

/* Caller holds lock; everything that can fail comes before the first visible change. */
static enum err_code put_locked(struct memory_meta *memory, const struct meta_put *put,
                                struct err *err)
{
    size_t at = lower_bound_locked(memory, put->key);
    struct meta_row *rows, row;
    enum err_code code = check_expected_locked(memory, at, put->key, put->expected, err);

    if (code != ERR_OK)
        return code;
    if (is_at_locked(memory, at, put->key)) {
        code = meta_row_fill(&row, put, memory->version + 1, err);
        if (code != ERR_OK)
            return code;
        meta_row_free(&memory->rows.rows[at]);
        memory->rows.rows[at] = row;
    } else {
        code = meta_rows_push(&memory->rows, put, memory->version + 1, err);
        if (code != ERR_OK)
            return code;
        rows = memory->rows.rows;
        row = rows[memory->rows.count - 1];
        memmove(&rows[at + 1], &rows[at], (memory->rows.count - 1 - at) * sizeof(*rows));
        rows[at] = row;
    }
    memory->version++;
    env_cond_broadcast(&memory->changed);
    return ERR_OK;
}

static enum err_code memory_put(struct meta *meta, const struct meta_put *put, uint64_t *version,
                                struct err *err)
{
    struct memory_meta *memory = memory_of(meta);
    enum err_code code;

    pthread_mutex_lock(&memory->lock);
    code = put_locked(memory, put, err);
    *version = memory->version;
    pthread_mutex_unlock(&memory->lock);
    return code;
}

static enum err_code memory_remove(struct meta *meta, const char *key, uint64_t expected,
                                   struct err *err)
{
    struct memory_meta *memory = memory_of(meta);
    struct meta_row *rows;
    enum err_code code;
    size_t at;

    pthread_mutex_lock(&memory->lock);
    at = lower_bound_locked(memory, key);
    code = check_expected_locked(memory, at, key, expected, err);
    if (code == ERR_OK && is_at_locked(memory, at, key)) {
        rows = memory->rows.rows;
        meta_row_free(&rows[at]);
        memory->rows.count--;
        memmove(&rows[at], &rows[at + 1], (memory->rows.count - at) * sizeof(*rows));
        memory->version++;
        env_cond_broadcast(&memory->changed);
    }
    pthread_mutex_unlock(&memory->lock);
    return code;
}

static enum err_code memory_list(struct meta *meta, const char *prefix, struct meta_row **rows,
                                 size_t *count, struct err *err)
{
    struct memory_meta *memory = memory_of(meta);
    size_t prefix_len = strlen(prefix);
    struct meta_rows found = {0};
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&memory->lock);
    for (size_t at = lower_bound_locked(memory, prefix);
         code == ERR_OK && at < memory->rows.count &&
         strncmp(memory->rows.rows[at].key, prefix, prefix_len) == 0;
         at++) {
        struct meta_put content = content_of(&memory->rows.rows[at]);

        code = meta_rows_push(&found, &content, memory->rows.rows[at].version, err);
    }
    pthread_mutex_unlock(&memory->lock);
    if (code != ERR_OK) {
        meta_rows_free(found.rows, found.count);
        return code;
    }
    *rows = found.rows;
    *count = found.count;
    return ERR_OK;
}

static enum err_code memory_version(struct meta *meta, uint64_t *version, struct err *err)
{
    struct memory_meta *memory = memory_of(meta);

    (void)err;
    pthread_mutex_lock(&memory->lock);
    *version = memory->version;
    pthread_mutex_unlock(&memory->lock);
    return ERR_OK;
}

static enum err_code memory_wait(struct meta *meta, uint64_t seen, uint64_t deadline_ns,
                                 uint64_t *version, struct err *err)
{
    struct memory_meta *memory = memory_of(meta);
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&memory->lock);
    while (code == ERR_OK && memory->version <= seen)
        code = env_cond_wait(&memory->changed, &memory->lock, deadline_ns);
    *version = memory->version;
    pthread_mutex_unlock(&memory->lock);
    if (code == ERR_DEAD)
        return err_set(err, ERR_DEAD, "metadata: shutting down");
    return ERR_OK;
}

/* Room for so many more, so that nothing fails half-way; caller holds lock. */
static enum err_code lag_reserve_locked(struct meta_lags *lags, size_t count, struct err *err)
{
    size_t size = lags->count + count;
    struct meta_lag *bigger;

    if (lags->size >= size)
        return ERR_OK;
    bigger = array_resize(lags->items, size, sizeof(*bigger));
    if (bigger == NULL)
        return err_set(err, ERR_NO_MEMORY, "metadata: no memory for %zu rows of lag", size);
    lags->items = bigger;
    lags->size = size;
    return ERR_OK;
}

/* Caller holds lock, and there is room.  A row that is there is replaced, a new one moved to its
 * place. */
static void lag_put_locked(struct memory_meta *memory, const struct meta_lag *lag)
{
    struct meta_lags *lags = &memory->lags;
    size_t at = 0;

    while (at < lags->count && meta_lag_compare(&lags->items[at], lag) < 0)
        at++;
    if (at == lags->count || meta_lag_compare(&lags->items[at], lag) != 0) {
        assert(lags->count < lags->size);
        memmove(&lags->items[at + 1], &lags->items[at], (lags->count - at) * sizeof(*lag));
        lags->count++;
    }
    lags->items[at] = *lag;
}

static enum err_code memory_lag_put(struct meta *meta, const struct meta_lag *lags, size_t count,
                                    struct err *err)
{
    struct memory_meta *memory = memory_of(meta);
    enum err_code code;

    pthread_mutex_lock(&memory->lock);
    code = lag_reserve_locked(&memory->lags, count, err);
    for (size_t i = 0; i < count && code == ERR_OK; i++)
        lag_put_locked(memory, &lags[i]);
    pthread_mutex_unlock(&memory->lock);
    return code;
}

static enum err_code memory_lag_list(struct meta *meta, struct meta_lag **lags, size_t *count,
                                     struct err *err)
{
    struct memory_meta *memory = memory_of(meta);
    struct meta_lags found = {0};
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < memory->lags.count && code == ERR_OK; i++)
        code = meta_lags_push(&found, &memory->lags.items[i], err);
    pthread_mutex_unlock(&memory->lock);
    if (code != ERR_OK) {
        free(found.items);
        return code;
    }
    *lags = found.items;
    *count = found.count;
    return ERR_OK;
}

static enum err_code memory_lag_remove(struct meta *meta, const char *origin, struct err *err)
{
    struct memory_meta *memory = memory_of(meta);
    size_t kept = 0;

    (void)err;
    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < memory->lags.count; i++)
        if (strcmp(memory->lags.items[i].origin, origin) != 0)
            memory->lags.items[kept++] = memory->lags.items[i];
    memory->lags.count = kept;
    pthread_mutex_unlock(&memory->lock);
    return ERR_OK;
}

const struct meta_ops meta_memory_ops = {
    .scheme = "memory",
    .open = memory_open,
    .close = memory_close,
    .get = memory_get,
    .put = memory_put,
    .remove = memory_remove,
    .list = memory_list,
    .version = memory_version,
    .wait = memory_wait,
    .lag_put = memory_lag_put,
    .lag_list = memory_lag_list,
    .lag_remove = memory_lag_remove,
};
