/* Metadata in one SQLite file, shared by the processes of one host.
 *
 * The file is in write-ahead mode: readers do not wait for writers, and a process killed at any
 * moment leaves either all or nothing of its change.  Each change is one BEGIN IMMEDIATE
 * transaction that tests the expected version, takes the next number of the counter and writes the
 * row with it.  synchronous=NORMAL: a power cut may lose the newest changes, which loses nothing
 * (meta.h) and moves no version backwards while the machine runs; the close makes a checkpoint.
 *
 * One connection per struct meta, guarded by a mutex.  It is held over one small transaction and
 * never over a wait: when another process has the file, the attempt gives up soon, lets go of
 * the mutex, sleeps by the environment and tries again, for META_SQLITE_BUSY_NS in all; then the
 * answer is ERR_UNAVAILABLE.
 *
 * Refused at open: a file of a newer schema or of another program, and network file systems, whose
 * locks and shared memory do not hold between hosts.
 */
#include "backends/meta/meta_sqlite_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"

#define POLL_NS (20 * NS_PER_MS)

/* What a call asks for and gets; one struct for all of them, so that one loop can try again. */
struct call {
    const char *key; /* or prefix */
    const struct meta_put *put;
    uint64_t expected;
    uint64_t version;
    struct meta_row row;
    struct meta_rows rows;
    const struct meta_lag *lags; /* to put */
    size_t lag_count;
    struct meta_lags found;
};
typedef enum err_code call_fn(struct sqlite_meta *sqlite, struct call *call, struct err *err);

static struct sqlite_meta *sqlite_of(struct meta *meta)
{
    assert(meta->ops == &meta_sqlite_ops);
    return (struct sqlite_meta *)meta;
}

/* Run a statement that gives no row, or one that does: then *version is its first column. */
static enum err_code run(struct sqlite_meta *sqlite, enum statement which, uint64_t *version,
                         struct err *err)
{
    sqlite3_stmt *statement = sqlite->statements[which];
    int result = sqlite3_step(statement);
    enum err_code code = ERR_OK;

    if (result == SQLITE_ROW && version != NULL) {
        *version = (uint64_t)sqlite3_column_int64(statement, 0);
        /* An UPDATE … RETURNING is done only once it has been stepped to its end. */
        result = sqlite3_step(statement);
    }
    if (result != SQLITE_DONE)
        code = meta_sqlite_fail(sqlite, sqlite3_sql(statement), err);
    /* The result of the step stands; a reset only repeats it. */
    (void)sqlite3_reset(statement);
    return code;
}

/* Key and value stay with the caller, who clears the bindings before they go. */
static enum err_code bind_key(struct sqlite_meta *sqlite, enum statement which, const char *key,
                              struct err *err)
{
    if (sqlite3_bind_blob64(sqlite->statements[which], 1, key, strlen(key), SQLITE_STATIC) !=
        SQLITE_OK)
        return meta_sqlite_fail(sqlite, "key", err);
    return ERR_OK;
}

static void roll_back(struct sqlite_meta *sqlite)
{
    struct err ignored;

    /* After some failures SQLite has rolled back by itself. */
    if (sqlite3_get_autocommit(sqlite->db) == 0)
        (void)run(sqlite, ROLLBACK, NULL, &ignored);
}

/* fn under the lock, and when it writes in one transaction. */
static enum err_code attempt(struct sqlite_meta *sqlite, bool write, call_fn *fn, struct call *call,
                             struct err *err)
{
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&sqlite->lock);
    if (write)
        code = run(sqlite, BEGIN, NULL, err);
    if (code == ERR_OK)
        code = fn(sqlite, call, err);
    if (code == ERR_OK && write)
        code = run(sqlite, COMMIT, NULL, err);
    if (code != ERR_OK && write)
        roll_back(sqlite);
    assert(sqlite3_get_autocommit(sqlite->db) != 0);
    pthread_mutex_unlock(&sqlite->lock);
    return code;
}

/* A read is one statement, which sees one state by itself.  A fn that fails owns nothing. */
static enum err_code perform(struct sqlite_meta *sqlite, bool write, call_fn *fn, struct call *call,
                             struct err *err)
{
    struct env *env = sqlite->base.env;
    uint64_t give_up_ns = env_boot_ns(env) + META_SQLITE_BUSY_NS;

    for (;;) {
        enum err_code code = attempt(sqlite, write, fn, call, err);
        uint64_t now_ns = env_boot_ns(env);

        if (code != ERR_UNAVAILABLE || now_ns >= give_up_ns)
            return code;
        if (env_sleep_until(env, now_ns + META_SQLITE_PAUSE_NS) != ERR_OK)
            return err_set(err, ERR_DEAD, "metadata: shutting down");
    }
}

static enum err_code sqlite_open(struct meta **out, const char *url, struct env *env,
                                 struct err *err)
{
    size_t url_size = strlen(url) + 1;
    const char *file = url + strlen("sqlite:");
    struct sqlite_meta *sqlite;
    enum err_code code;

    /* SQLite has its own meanings for "" and ":memory:". */
    if (file[0] == '\0' || file[0] == ':')
        return err_set(err, ERR_CONFIG, "metadata URL \"%s\": want sqlite:FILE", url);
    sqlite = calloc(1, sizeof(*sqlite) + url_size);
    if (sqlite == NULL)
        return err_set(err, ERR_NO_MEMORY, "metadata: no memory");
    memcpy(sqlite->url, url, url_size);
    sqlite->file = sqlite->url + (file - url);
    sqlite->base = (struct meta){.ops = &meta_sqlite_ops, .env = env};
    code = meta_sqlite_connect(sqlite, err);
    if (code != ERR_OK) {
        free(sqlite);
        return code;
    }
    pthread_mutex_init(&sqlite->lock, NULL);
    *out = &sqlite->base;
    return ERR_OK;
}

static void sqlite_close(struct meta *meta)
{
    struct sqlite_meta *sqlite = sqlite_of(meta);

    meta_sqlite_disconnect(sqlite);
    pthread_mutex_destroy(&sqlite->lock);
    free(sqlite);
}

/* --- calls: each runs with the lock held, those that write in a transaction
 * -------------------------------- */

/* The row that statement stands on, as content and version; valid until its next step.
 * Errors: ERR_CORRUPT: the file is foreign bytes. */
static enum err_code read_row(struct sqlite_meta *sqlite, sqlite3_stmt *statement,
                              struct meta_put *content, char key[META_KEY_BYTES_MAX + 1],
                              struct err *err)
{
    const void *key_data = sqlite3_column_blob(statement, 0);
    int key_len = sqlite3_column_bytes(statement, 0);
    const void *value = sqlite3_column_blob(statement, 1);
    int value_len = sqlite3_column_bytes(statement, 1);
    int64_t version = sqlite3_column_int64(statement, 2);

    if (key_data == NULL || key_len < 1 || key_len > META_KEY_BYTES_MAX || value_len < 0 ||
        (size_t)value_len > META_VALUE_BYTES_MAX || version < 1 ||
        memchr(key_data, '\0', (size_t)key_len) != NULL)
        return err_set(err, ERR_CORRUPT, "metadata %s: a row is damaged", sqlite->file);
    if (value == NULL && value_len > 0)
        return meta_sqlite_fail(sqlite, "value", err);
    memcpy(key, key_data, (size_t)key_len);
    key[key_len] = '\0';
    *content = (struct meta_put){
        .key = key, .value = value, .value_len = (size_t)value_len, .expected = (uint64_t)version};
    return ERR_OK;
}

static enum err_code get_call(struct sqlite_meta *sqlite, struct call *call, struct err *err)
{
    sqlite3_stmt *statement = sqlite->statements[GET];
    char key[META_KEY_BYTES_MAX + 1];
    struct meta_put content;
    enum err_code code = bind_key(sqlite, GET, call->key, err);

    if (code == ERR_OK) {
        int result = sqlite3_step(statement);

        if (result == SQLITE_DONE)
            code = err_set(err, ERR_NOT_FOUND, "metadata %s: no such row", call->key);
        else if (result != SQLITE_ROW)
            code = meta_sqlite_fail(sqlite, "get", err);
    }
    if (code == ERR_OK)
        code = read_row(sqlite, statement, &content, key, err);
    if (code == ERR_OK)
        code = meta_row_fill(&call->row, &content, content.expected, err);
    (void)sqlite3_reset(statement);
    (void)sqlite3_clear_bindings(statement);
    return code;
}

static enum err_code list_call(struct sqlite_meta *sqlite, struct call *call, struct err *err)
{
    sqlite3_stmt *statement = sqlite->statements[LIST];
    size_t prefix_len = strlen(call->key);
    char key[META_KEY_BYTES_MAX + 1];
    enum err_code code = bind_key(sqlite, LIST, call->key, err);

    while (code == ERR_OK) {
        int result = sqlite3_step(statement);
        struct meta_put content;

        if (result == SQLITE_DONE)
            break;
        code = result == SQLITE_ROW ? read_row(sqlite, statement, &content, key, err)
                                    : meta_sqlite_fail(sqlite, "list", err);
        if (code == ERR_OK && strncmp(key, call->key, prefix_len) != 0)
            break;
        if (code == ERR_OK)
            code = meta_rows_push(&call->rows, &content, content.expected, err);
    }
    (void)sqlite3_reset(statement);
    (void)sqlite3_clear_bindings(statement);
    if (code != ERR_OK) {
        meta_rows_free(call->rows.rows, call->rows.count);
        call->rows = (struct meta_rows){0};
    }
    return code;
}

/* The row's version (META_ABSENT without one) must be the expected one. */
static enum err_code check_expected(struct sqlite_meta *sqlite, const struct call *call,
                                    bool *present, struct err *err)
{
    uint64_t version = META_ABSENT;
    enum err_code code = bind_key(sqlite, ROW_VERSION, call->key, err);

    if (code == ERR_OK)
        code = run(sqlite, ROW_VERSION, &version, err);
    (void)sqlite3_clear_bindings(sqlite->statements[ROW_VERSION]);
    if (code != ERR_OK)
        return code;
    if (call->expected != META_ANY && call->expected != version)
        return err_set(err, ERR_CONFLICT, "metadata %s: someone else was first", call->key);
    *present = version != META_ABSENT;
    return ERR_OK;
}

static enum err_code put_call(struct sqlite_meta *sqlite, struct call *call, struct err *err)
{
    sqlite3_stmt *statement = sqlite->statements[PUT];
    const struct meta_put *put = call->put;
    uint64_t version = 0;
    bool present;
    enum err_code code = check_expected(sqlite, call, &present, err);

    if (code == ERR_OK)
        code = run(sqlite, NEXT_VERSION, &version, err);
    if (code == ERR_OK && (version == 0 || version > INT64_MAX))
        code = err_set(err, ERR_CORRUPT, "metadata %s: the counter is damaged", sqlite->file);
    if (code == ERR_OK)
        code = bind_key(sqlite, PUT, call->key, err);
    if (code == ERR_OK && (sqlite3_bind_blob64(statement, 2, put->value_len == 0 ? "" : put->value,
                                               put->value_len, SQLITE_STATIC) != SQLITE_OK ||
                           sqlite3_bind_int64(statement, 3, (int64_t)version) != SQLITE_OK))
        code = meta_sqlite_fail(sqlite, "bind", err);
    if (code == ERR_OK)
        code = run(sqlite, PUT, NULL, err);
    (void)sqlite3_clear_bindings(statement);
    if (code == ERR_OK)
        call->version = version;
    return code;
}

static enum err_code remove_call(struct sqlite_meta *sqlite, struct call *call, struct err *err)
{
    uint64_t version = 0;
    bool present = false;
    enum err_code code = check_expected(sqlite, call, &present, err);

    if (code != ERR_OK || !present)
        return code;
    code = run(sqlite, NEXT_VERSION, &version, err);
    if (code == ERR_OK)
        code = bind_key(sqlite, DELETE, call->key, err);
    if (code == ERR_OK)
        code = run(sqlite, DELETE, NULL, err);
    (void)sqlite3_clear_bindings(sqlite->statements[DELETE]);
    return code;
}

static enum err_code version_call(struct sqlite_meta *sqlite, struct call *call, struct err *err)
{
    return run(sqlite, VERSION, &call->version, err);
}

static enum err_code lag_put_call(struct sqlite_meta *sqlite, struct call *call, struct err *err)
{
    sqlite3_stmt *statement = sqlite->statements[LAG_PUT];
    enum err_code code = ERR_OK;

    for (size_t i = 0; i < call->lag_count && code == ERR_OK; i++) {
        const struct meta_lag *lag = &call->lags[i];
        const uint64_t numbers[] = {lag->origin_number, lag->partition,   lag->origin_end,
                                    lag->applied,       lag->lag_records, lag->lag_ms,
                                    lag->seen_us};
        int result = sqlite3_bind_text(statement, 1, lag->region, -1, SQLITE_STATIC) |
                     sqlite3_bind_text(statement, 2, lag->origin, -1, SQLITE_STATIC);

        for (int at = 0; at < (int)ARRAY_COUNT(numbers); at++)
            result |= numbers[at] == LAG_NEVER
                          ? sqlite3_bind_null(statement, 3 + at)
                          : sqlite3_bind_int64(statement, 3 + at, (int64_t)numbers[at]);
        code = result != SQLITE_OK ? meta_sqlite_fail(sqlite, "bind", err)
                                   : run(sqlite, LAG_PUT, NULL, err);
    }
    (void)sqlite3_clear_bindings(statement);
    return code;
}

static bool read_lag(sqlite3_stmt *statement, struct meta_lag *lag)
{
    const char *region = (const char *)sqlite3_column_text(statement, 0);
    const char *origin = (const char *)sqlite3_column_text(statement, 1);

    if (region == NULL || origin == NULL || strlen(region) >= REGION_NAME_BYTES ||
        strlen(origin) >= REGION_NAME_BYTES)
        return false;
    *lag = (struct meta_lag){
        .origin_number = (uint32_t)sqlite3_column_int64(statement, 2),
        .partition = (uint32_t)sqlite3_column_int64(statement, 3),
        .origin_end = (uint64_t)sqlite3_column_int64(statement, 4),
        .applied = (uint64_t)sqlite3_column_int64(statement, 5),
        .lag_records = (uint64_t)sqlite3_column_int64(statement, 6),
        .lag_ms = sqlite3_column_type(statement, 7) == SQLITE_NULL
                      ? LAG_NEVER
                      : (uint64_t)sqlite3_column_int64(statement, 7),
        .seen_us = (uint64_t)sqlite3_column_int64(statement, 8),
    };
    memcpy(lag->region, region, strlen(region) + 1);
    memcpy(lag->origin, origin, strlen(origin) + 1);
    return true;
}

static enum err_code lag_list_call(struct sqlite_meta *sqlite, struct call *call, struct err *err)
{
    sqlite3_stmt *statement = sqlite->statements[LAG_LIST];
    enum err_code code = ERR_OK;
    int result;

    while (code == ERR_OK && (result = sqlite3_step(statement)) != SQLITE_DONE) {
        struct meta_lag lag;

        if (result != SQLITE_ROW)
            code = meta_sqlite_fail(sqlite, "lag", err);
        else if (!read_lag(statement, &lag))
            code = err_set(err, ERR_CORRUPT, "metadata %s: a row is damaged", sqlite->file);
        else
            code = meta_lags_push(&call->found, &lag, err);
    }
    (void)sqlite3_reset(statement);
    if (code != ERR_OK) {
        free(call->found.items);
        call->found = (struct meta_lags){0};
    }
    return code;
}

static enum err_code lag_remove_call(struct sqlite_meta *sqlite, struct call *call, struct err *err)
{
    sqlite3_stmt *statement = sqlite->statements[LAG_REMOVE];
    enum err_code code = ERR_OK;

    if (sqlite3_bind_text(statement, 1, call->key, -1, SQLITE_STATIC) != SQLITE_OK)
        code = meta_sqlite_fail(sqlite, "bind", err);
    if (code == ERR_OK)
        code = run(sqlite, LAG_REMOVE, NULL, err);
    (void)sqlite3_clear_bindings(statement);
    return code;
}

/* --- the interface ------------------------------------------------------------------------- */

static enum err_code sqlite_get(struct meta *meta, const char *key, uint64_t until_ns,
                                struct meta_row *row, struct err *err)
{
    (void)until_ns; /* it is on this machine */
    struct call call = {.key = key};
    enum err_code code = perform(sqlite_of(meta), false, get_call, &call, err);

    if (code == ERR_OK)
        *row = call.row;
    return code;
}

static enum err_code sqlite_put(struct meta *meta, const struct meta_put *put, uint64_t *version,
                                struct err *err)
{
    struct call call = {.key = put->key, .put = put, .expected = put->expected};
    enum err_code code = perform(sqlite_of(meta), true, put_call, &call, err);

    *version = call.version;
    return code;
}

static enum err_code sqlite_remove(struct meta *meta, const char *key, uint64_t expected,
                                   struct err *err)
{
    struct call call = {.key = key, .expected = expected};

    return perform(sqlite_of(meta), true, remove_call, &call, err);
}

static enum err_code sqlite_list(struct meta *meta, const char *prefix, struct meta_row **rows,
                                 size_t *count, struct err *err)
{
    struct call call = {.key = prefix};
    enum err_code code = perform(sqlite_of(meta), false, list_call, &call, err);

    if (code != ERR_OK)
        return code;
    *rows = call.rows.rows;
    *count = call.rows.count;
    return ERR_OK;
}

static enum err_code sqlite_version(struct meta *meta, uint64_t *version, struct err *err)
{
    struct call call = {0};
    enum err_code code = perform(sqlite_of(meta), false, version_call, &call, err);

    if (code == ERR_OK)
        *version = call.version;
    return code;
}

/* Other processes cannot wake us: the counter is looked at every POLL_NS. */
static enum err_code sqlite_wait(struct meta *meta, uint64_t seen, uint64_t deadline_ns,
                                 uint64_t *version, struct err *err)
{
    for (;;) {
        enum err_code code = sqlite_version(meta, version, err);
        uint64_t now_ns = env_boot_ns(meta->env);

        if (code != ERR_OK || *version > seen || now_ns >= deadline_ns)
            return code;
        if (env_sleep_until(meta->env, MIN_OF(now_ns + POLL_NS, deadline_ns)) != ERR_OK)
            return err_set(err, ERR_DEAD, "metadata: shutting down");
    }
}

static enum err_code sqlite_lag_put(struct meta *meta, const struct meta_lag *lags, size_t count,
                                    struct err *err)
{
    struct call call = {.lags = lags, .lag_count = count};

    return perform(sqlite_of(meta), true, lag_put_call, &call, err);
}

static enum err_code sqlite_lag_list(struct meta *meta, struct meta_lag **lags, size_t *count,
                                     struct err *err)
{
    struct call call = {0};
    enum err_code code = perform(sqlite_of(meta), false, lag_list_call, &call, err);

    if (code != ERR_OK)
        return code;
    *lags = call.found.items;
    *count = call.found.count;
    return ERR_OK;
}

static enum err_code sqlite_lag_remove(struct meta *meta, const char *origin, struct err *err)
{
    struct call call = {.key = origin};

    return perform(sqlite_of(meta), true, lag_remove_call, &call, err);
}

const struct meta_ops meta_sqlite_ops = {
    .scheme = "sqlite",
    .open = sqlite_open,
    .close = sqlite_close,
    .get = sqlite_get,
    .put = sqlite_put,
    .remove = sqlite_remove,
    .list = sqlite_list,
    .version = sqlite_version,
    .wait = sqlite_wait,
    .lag_put = sqlite_lag_put,
    .lag_list = sqlite_lag_list,
    .lag_remove = sqlite_lag_remove,
};
