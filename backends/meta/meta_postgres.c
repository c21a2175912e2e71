/* Metadata in Postgres, shared by many hosts.
 *
 * Each change is one call of a function in the database: it takes the counter's row, tests the
 * expected version, takes the next number and writes the row, all in one transaction and one round
 * trip; a NOTIFY with it wakes whoever waits.  Connections come from a small pool; every statement
 * is bounded in time here and in the server.
 *
 * Failure modes: a connection that is cut while a change is under way leaves its outcome open: the
 * row is read again, and tells whether it is ours.  Away: ERR_UNAVAILABLE, and the next call tries
 * to connect again.  Refused at open: wrong credentials, no such database, a newer schema. */
#include "backends/meta/meta_postgres_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"

#define LOOK_NS (2 * NS_PER_S) /* a waiter looks at least so often, should a NOTIFY be lost */

static struct postgres_meta *postgres_of(struct meta *meta)
{
    assert(meta->ops == &meta_postgres_ops);
    return (struct postgres_meta *)meta;
}

/* --- open and close ----------------------------------------------------------------------------
 */

static void postgres_close(struct meta *meta)
{
    struct postgres_meta *postgres = postgres_of(meta);

    while (postgres->idle != NULL) {
        struct postgres_connection *connection = postgres->idle;

        postgres->idle = connection->next;
        postgres_disconnect(connection);
    }
    env_cond_free(&postgres->given_back);
    pthread_mutex_destroy(&postgres->lock);
    free(postgres->conninfo);
    free(postgres);
}

static enum err_code postgres_open(struct meta **out, const char *url, struct env *env,
                                   struct err *err)
{
    struct postgres_meta *postgres = calloc(1, sizeof(*postgres));
    struct postgres_connection *connection = NULL;
    enum err_code rc;

    if (postgres == NULL)
        return err_set(err, ERR_NO_MEMORY, "metadata: no memory");
    postgres->base = (struct meta){.ops = &meta_postgres_ops, .env = env};
    pthread_mutex_init(&postgres->lock, NULL);
    env_cond_init(env, &postgres->given_back);
    rc = postgres_parse(postgres, url, err);
    if (rc == ERR_OK)
        rc = postgres_take(postgres, false, NEVER_NS, &connection, err);
    if (rc == ERR_OK)
        rc = postgres_migrate(postgres, connection, err);
    if (connection != NULL)
        postgres_give(postgres, connection);
    if (rc != ERR_OK) {
        postgres_close(&postgres->base);
        return rc;
    }
    postgres->is_open = true;
    *out = &postgres->base;
    return ERR_OK;
}

/* --- queries -----------------------------------------------------------------------------------
 */

static void add_text(struct postgres_query *query, const char *text)
{
    assert(query->count < POSTGRES_PARAMS_MAX);
    query->values[query->count++] = text;
}

static void add_bytes(struct postgres_query *query, const void *data, size_t len)
{
    assert(query->count < POSTGRES_PARAMS_MAX && len <= META_VALUE_BYTES_MAX);
    query->lens[query->count] = (int)len;
    query->formats[query->count] = 1;
    query->values[query->count++] = len == 0 ? "" : data;
}

/* A version as int8's text; META_ANY is -1. */
#define VERSION_TEXT 24
static const char *version_text(char text[VERSION_TEXT], uint64_t version)
{
    (void)snprintf(text, VERSION_TEXT, "%" PRId64, version > INT64_MAX ? -1 : (int64_t)version);
    return text;
}

#define SQL_BYTES 256

static enum err_code row_of(const PGresult *result, int at, struct meta_put *content,
                            struct err *err)
{
    int key_len = PQgetlength(result, at, 0), value_len = PQgetlength(result, at, 1);

    *content = (struct meta_put){.key = PQgetvalue(result, at, 0),
                                 .value = PQgetvalue(result, at, 1),
                                 .value_len = (size_t)value_len,
                                 .expected = postgres_u64(result, at, 2)};
    if (PQnfields(result) != 3 || key_len < 1 || key_len > META_KEY_BYTES_MAX || value_len < 0 ||
        (size_t)value_len > META_VALUE_BYTES_MAX || content->expected == 0 ||
        content->expected > INT64_MAX)
        return err_set(err, ERR_CORRUPT, "metadata: a row is damaged");
    return ERR_OK;
}

static enum err_code pg_get(struct meta *meta, const char *key, uint64_t until_ns,
                            struct meta_row *row, struct err *err)
{
    struct postgres_meta *postgres = postgres_of(meta);
    char sql[SQL_BYTES];
    struct postgres_query query = {.sql = sql, .may_repeat = true, .until_ns = until_ns};
    PGresult *result = NULL;
    struct meta_put content;
    bool is_cut;
    enum err_code rc;

    (void)snprintf(sql, sizeof(sql), "SELECT key, value, version FROM \"%s\".row WHERE key = $1",
                   postgres->schema);
    add_text(&query, key);
    rc = postgres_call(postgres, &query, &result, &is_cut, err);
    if (rc == ERR_OK && PQntuples(result) == 0)
        rc = err_set(err, ERR_NOT_FOUND, "metadata %s: no such row", key);
    if (rc == ERR_OK)
        rc = row_of(result, 0, &content, err);
    if (rc == ERR_OK)
        rc = meta_row_fill(row, &content, content.expected, err);
    PQclear(result);
    return rc;
}

/* --- changes -----------------------------------------------------------------------------------
 */

/* The answer of put_row or delete_row: 0 is somebody else's turn. */
static enum err_code change_answer(const PGresult *result, const char *key, uint64_t *version,
                                   struct err *err)
{
    *version = PQntuples(result) == 1 ? postgres_u64(result, 0, 0) : 0;
    if (*version == 0)
        return err_set(err, ERR_CONFLICT, "metadata %s: someone else was first", key);
    return ERR_OK;
}

static enum err_code put_once(struct postgres_meta *postgres, const struct meta_put *put,
                              uint64_t *version, bool *is_cut, struct err *err)
{
    char sql[SQL_BYTES], expected[VERSION_TEXT];
    struct postgres_query query = {.sql = sql};
    PGresult *result = NULL;
    enum err_code rc;

    (void)snprintf(sql, sizeof(sql), "SELECT \"%s\".put_row($1, $2, $3::bigint)", postgres->schema);
    add_text(&query, put->key);
    add_bytes(&query, put->value, put->value_len);
    add_text(&query, version_text(expected, put->expected));
    rc = postgres_call(postgres, &query, &result, is_cut, err);
    if (rc == ERR_OK)
        rc = change_answer(result, put->key, version, err);
    PQclear(result);
    return rc;
}

/* No answer came.  *is_open: it has not been made.  A row with another version than the expected
 * one and our content is taken for ours: then it does not matter whose it is. */
static enum err_code look_again(struct postgres_meta *postgres, const struct meta_put *put,
                                uint64_t *version, bool *is_open, struct err *err)
{
    struct meta_row row = {0};
    enum err_code rc = pg_get(&postgres->base, put->key, NEVER_NS, &row, err);
    uint64_t present = rc == ERR_OK ? row.version : META_ABSENT;

    *is_open = false;
    if (rc != ERR_OK && rc != ERR_NOT_FOUND)
        return rc;
    if (present == put->expected || (put->expected == META_ANY && rc == ERR_NOT_FOUND)) {
        *is_open = true;
        rc = ERR_OK;
    } else if (rc == ERR_OK && row.value_len == put->value_len &&
               memcmp(row.value, put->value_len == 0 ? "" : put->value, put->value_len) == 0) {
        *version = present;
    } else if (put->expected == META_ANY) {
        *is_open = true;
    } else {
        rc = err_set(err, ERR_CONFLICT, "metadata %s: someone else was first", put->key);
    }
    meta_row_free(&row);
    return rc;
}

static enum err_code pg_put(struct meta *meta, const struct meta_put *put, uint64_t *version,
                            struct err *err)
{
    struct postgres_meta *postgres = postgres_of(meta);
    bool is_cut, is_open;
    enum err_code rc = put_once(postgres, put, version, &is_cut, err);

    if (rc != ERR_UNAVAILABLE || !is_cut)
        return rc;
    rc = look_again(postgres, put, version, &is_open, err);
    return rc == ERR_OK && is_open ? put_once(postgres, put, version, &is_cut, err) : rc;
}

static enum err_code remove_once(struct postgres_meta *postgres, const char *key, uint64_t expected,
                                 bool *is_cut, struct err *err)
{
    char sql[SQL_BYTES], text[VERSION_TEXT];
    struct postgres_query query = {.sql = sql};
    PGresult *result = NULL;
    uint64_t done;
    enum err_code rc;

    (void)snprintf(sql, sizeof(sql), "SELECT \"%s\".delete_row($1, $2::bigint)", postgres->schema);
    add_text(&query, key);
    add_text(&query, version_text(text, expected));
    rc = postgres_call(postgres, &query, &result, is_cut, err);
    if (rc == ERR_OK)
        rc = change_answer(result, key, &done, err);
    PQclear(result);
    return rc;
}

/* After a cut: a row that is gone is what was wanted. */
static enum err_code pg_remove(struct meta *meta, const char *key, uint64_t expected,
                               struct err *err)
{
    struct postgres_meta *postgres = postgres_of(meta);
    struct meta_row row = {0};
    bool is_cut;
    enum err_code rc = remove_once(postgres, key, expected, &is_cut, err);

    if (rc != ERR_UNAVAILABLE || !is_cut)
        return rc;
    rc = pg_get(meta, key, NEVER_NS, &row, err);
    if (rc == ERR_NOT_FOUND)
        return ERR_OK;
    meta_row_free(&row);
    return rc == ERR_OK ? remove_once(postgres, key, expected, &is_cut, err) : rc;
}

/* --- many rows ---------------------------------------------------------------------------------
 */

static enum err_code pg_list(struct meta *meta, const char *prefix, struct meta_row **rows,
                             size_t *count, struct err *err)
{
    struct postgres_meta *postgres = postgres_of(meta);
    char sql[SQL_BYTES];
    struct postgres_query query = {.sql = sql, .may_repeat = true};
    struct meta_rows found = {0};
    PGresult *result = NULL;
    struct meta_put content;
    bool is_cut;
    enum err_code rc;

    (void)snprintf(sql, sizeof(sql),
                   "SELECT key, value, version FROM \"%s\".row WHERE starts_with(key, $1)"
                   " ORDER BY key",
                   postgres->schema);
    add_text(&query, prefix);
    rc = postgres_call(postgres, &query, &result, &is_cut, err);
    for (int i = 0; rc == ERR_OK && i < PQntuples(result); i++) {
        rc = row_of(result, i, &content, err);
        if (rc == ERR_OK)
            rc = meta_rows_push(&found, &content, content.expected, err);
    }
    PQclear(result);
    if (rc != ERR_OK) {
        meta_rows_free(found.rows, found.count);
        return rc;
    }
    *rows = found.rows;
    *count = found.count;
    return ERR_OK;
}

/* --- the version, and waiting for it -----------------------------------------------------------
 */

static struct postgres_query version_query(const struct postgres_meta *postgres,
                                           char sql[SQL_BYTES])
{
    (void)snprintf(sql, SQL_BYTES, "SELECT version FROM \"%s\".counter", postgres->schema);
    return (struct postgres_query){.sql = sql, .may_repeat = true};
}

static enum err_code version_answer(const PGresult *result, uint64_t *version, struct err *err)
{
    if (PQntuples(result) != 1)
        return err_set(err, ERR_CORRUPT, "metadata: the counter is damaged");
    *version = postgres_u64(result, 0, 0);
    return ERR_OK;
}

static enum err_code pg_version(struct meta *meta, uint64_t *version, struct err *err)
{
    struct postgres_meta *postgres = postgres_of(meta);
    char sql[SQL_BYTES];
    struct postgres_query query = version_query(postgres, sql);
    PGresult *result = NULL;
    bool is_cut;
    enum err_code rc = postgres_call(postgres, &query, &result, &is_cut, err);

    if (rc == ERR_OK)
        rc = version_answer(result, version, err);
    PQclear(result);
    return rc;
}

static enum err_code listen_on(struct postgres_meta *postgres,
                               struct postgres_connection *connection, bool *is_cut,
                               struct err *err)
{
    char sql[SQL_BYTES];
    struct postgres_query query = {.sql = sql};
    PGresult *result = NULL;
    enum err_code rc;

    *is_cut = false;
    if (connection->is_listening)
        return ERR_OK;
    (void)snprintf(sql, sizeof(sql), "LISTEN \"vicinal.%s\"", postgres->schema);
    rc = postgres_ask(postgres, connection, &query, &result, is_cut, err);
    PQclear(result);
    connection->is_listening = rc == ERR_OK;
    return rc;
}

/* Sleep until a notice comes, or until_ns.  Errors: ERR_UNAVAILABLE (cut). */
static enum err_code await_notice(struct postgres_meta *postgres, PGconn *pg, uint64_t until_ns,
                                  struct err *err)
{
    PGnotify *notice = NULL;

    while (notice == NULL && postgres_poll(postgres->base.env, pg, false, until_ns) == ERR_OK) {
        if (PQconsumeInput(pg) == 0)
            return err_set(err, ERR_UNAVAILABLE, "postgres: the connection was cut");
        notice = PQnotifies(pg);
    }
    PQfreemem(notice);
    return ERR_OK;
}

/* Listen first, then look, then sleep: no change is missed in between. */
static enum err_code wait_on(struct postgres_meta *postgres, struct postgres_connection *connection,
                             uint64_t seen, uint64_t deadline_ns, uint64_t *version, bool *is_cut,
                             struct err *err)
{
    struct env *env = postgres->base.env;
    char sql[SQL_BYTES];
    struct postgres_query query = version_query(postgres, sql);
    enum err_code rc = listen_on(postgres, connection, is_cut, err);

    while (rc == ERR_OK) {
        PGresult *result = NULL;
        uint64_t now_ns;

        postgres_forget_notices(connection->pg);
        rc = postgres_ask(postgres, connection, &query, &result, is_cut, err);
        if (rc == ERR_OK)
            rc = version_answer(result, version, err);
        PQclear(result);
        now_ns = env_boot_ns(env);
        if (rc != ERR_OK || *version > seen || now_ns >= deadline_ns)
            break;
        rc = await_notice(postgres, connection->pg, MIN_OF(now_ns + LOOK_NS, deadline_ns), err);
        *is_cut = rc != ERR_OK;
    }
    return rc;
}

static enum err_code pg_wait(struct meta *meta, uint64_t seen, uint64_t deadline_ns,
                             uint64_t *version, struct err *err)
{
    struct postgres_meta *postgres = postgres_of(meta);
    bool try_again = true, is_cut = false;
    enum err_code rc = ERR_OK;

    while (try_again) {
        struct postgres_connection *connection;

        rc = postgres_take(postgres, true, NEVER_NS, &connection, err);
        if (rc != ERR_OK)
            return rc;
        try_again = connection->is_used;
        rc = wait_on(postgres, connection, seen, deadline_ns, version, &is_cut, err);
        if (is_cut) {
            postgres_drop(postgres, connection);
        } else {
            postgres_give(postgres, connection);
            try_again = false;
        }
    }
    return rc;
}

/* --- lag ---------------------------------------------------------------------------------------
 */

/* Column by column, as arrays in text form: names and numbers need no quoting.  The numbers fit:
 * the front has looked. */
static void lag_columns(const struct meta_lag *lags, size_t count, struct buffer columns[9])
{
    for (size_t at = 0; at < 9; at++)
        buffer_append_byte(&columns[at], '{');
    for (size_t i = 0; i < count; i++) {
        const struct meta_lag *lag = &lags[i];
        const uint64_t numbers[] = {lag->origin_number, lag->partition,   lag->origin_end,
                                    lag->applied,       lag->lag_records, lag->lag_ms,
                                    lag->seen_us};
        const char *comma = i == 0 ? "" : ",";

        buffer_append_format(&columns[0], "%s%s", comma, lag->region);
        buffer_append_format(&columns[1], "%s%s", comma, lag->origin);
        for (size_t at = 0; at < ARRAY_COUNT(numbers); at++) {
            if (numbers[at] == LAG_NEVER)
                buffer_append_format(&columns[2 + at], "%sNULL", comma);
            else
                buffer_append_format(&columns[2 + at], "%s%" PRId64, comma, (int64_t)numbers[at]);
        }
    }
    for (size_t at = 0; at < 9; at++) {
        buffer_append_byte(&columns[at], '}');
        buffer_append_byte(&columns[at], '\0');
    }
}

static enum err_code pg_lag_put(struct meta *meta, const struct meta_lag *lags, size_t count,
                                struct err *err)
{
    struct postgres_meta *postgres = postgres_of(meta);
    char sql[900];
    struct postgres_query query = {.sql = sql, .may_repeat = true};
    struct buffer columns[9] = {0};
    PGresult *result = NULL;
    enum err_code rc = ERR_OK;
    bool is_cut;

    (void)snprintf(
        sql, sizeof(sql),
        "INSERT INTO \"%s\".replication_lag SELECT DISTINCT ON (a, b, d) a, b, c, d, e, f, g, h,"
        " to_timestamp(i / 1000000.0) FROM unnest($1::text[], $2::text[], $3::bigint[],"
        " $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])"
        " WITH ORDINALITY AS t(a, b, c, d, e, f, g, h, i, n) ORDER BY a, b, d, n DESC"
        " ON CONFLICT (region, origin, partition) DO UPDATE SET"
        " origin_number = excluded.origin_number, origin_end = excluded.origin_end,"
        " applied = excluded.applied, lag_records = excluded.lag_records,"
        " lag_ms = excluded.lag_ms, seen_at = excluded.seen_at",
        postgres->schema);
    lag_columns(lags, count, columns);
    for (size_t i = 0; i < 9; i++) {
        if (rc == ERR_OK)
            rc = buffer_check(&columns[i], err);
        add_text(&query, (const char *)columns[i].data);
    }
    if (rc == ERR_OK)
        rc = postgres_call(postgres, &query, &result, &is_cut, err);
    PQclear(result);
    for (size_t i = 0; i < 9; i++)
        buffer_free(&columns[i]);
    return rc;
}

static bool lag_of(const PGresult *result, int at, struct meta_lag *lag)
{
    if (PQgetlength(result, at, 0) >= REGION_NAME_BYTES ||
        PQgetlength(result, at, 1) >= REGION_NAME_BYTES)
        return false;
    *lag = (struct meta_lag){
        .origin_number = (uint32_t)postgres_u64(result, at, 2),
        .partition = (uint32_t)postgres_u64(result, at, 3),
        .origin_end = postgres_u64(result, at, 4),
        .applied = postgres_u64(result, at, 5),
        .lag_records = postgres_u64(result, at, 6),
        .lag_ms = PQgetisnull(result, at, 7) ? LAG_NEVER : postgres_u64(result, at, 7),
        .seen_us = postgres_u64(result, at, 8),
    };
    memcpy(lag->region, PQgetvalue(result, at, 0), (size_t)PQgetlength(result, at, 0));
    memcpy(lag->origin, PQgetvalue(result, at, 1), (size_t)PQgetlength(result, at, 1));
    return true;
}

static enum err_code pg_lag_list(struct meta *meta, struct meta_lag **lags, size_t *count,
                                 struct err *err)
{
    struct postgres_meta *postgres = postgres_of(meta);
    char sql[320];
    struct postgres_query query = {.sql = sql, .may_repeat = true};
    struct meta_lags found = {0};
    PGresult *result = NULL;
    struct meta_lag lag;
    bool is_cut;
    enum err_code rc;

    (void)snprintf(sql, sizeof(sql),
                   "SELECT region, origin, origin_number, partition, origin_end, applied,"
                   " lag_records, lag_ms, (extract(epoch FROM seen_at) * 1000000)::bigint"
                   " FROM \"%s\".replication_lag"
                   " ORDER BY region COLLATE \"C\", origin COLLATE \"C\", partition",
                   postgres->schema);
    rc = postgres_call(postgres, &query, &result, &is_cut, err);
    for (int i = 0; rc == ERR_OK && i < PQntuples(result); i++)
        rc = lag_of(result, i, &lag) ? meta_lags_push(&found, &lag, err)
                                     : err_set(err, ERR_CORRUPT, "metadata: a row is damaged");
    PQclear(result);
    if (rc != ERR_OK) {
        free(found.items);
        return rc;
    }
    *lags = found.items;
    *count = found.count;
    return ERR_OK;
}

static enum err_code pg_lag_remove(struct meta *meta, const char *origin, struct err *err)
{
    struct postgres_meta *postgres = postgres_of(meta);
    char sql[SQL_BYTES];
    struct postgres_query query = {.sql = sql, .may_repeat = true};
    PGresult *result = NULL;
    bool is_cut;
    enum err_code rc;

    (void)snprintf(sql, sizeof(sql), "DELETE FROM \"%s\".replication_lag WHERE origin = $1",
                   postgres->schema);
    add_text(&query, origin);
    rc = postgres_call(postgres, &query, &result, &is_cut, err);
    PQclear(result);
    return rc;
}

const struct meta_ops meta_postgres_ops = {
    .scheme = "postgres",
    .scheme_too = "postgresql",
    .open = postgres_open,
    .close = postgres_close,
    .get = pg_get,
    .put = pg_put,
    .remove = pg_remove,
    .list = pg_list,
    .version = pg_version,
    .wait = pg_wait,
    .lag_put = pg_lag_put,
    .lag_list = pg_lag_list,
    .lag_remove = pg_lag_remove,
};
