/* Connecting to Postgres, and the tables: see meta_postgres.c.
 *
 * A failure to connect is told apart by the SQLSTATE in the server's message: what will not pass by
 * itself (password, no such database, no right) is ERR_CONFIG, everything else ERR_UNAVAILABLE. */
#include "backends/meta/meta_postgres_internal.h"

#include <assert.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/text.h"

#define SCHEMA_DEFAULT "vicinal"
#define SCHEMA_OPTION  "schema="

/* Step i brings the schema from version i to i + 1; steps are only ever added.  %1$s is the
 * schema's name.  All writers take the counter's row first: the order of versions is the order of
 * commits, and who has seen a version has seen everything below. */
static const char *const schema_steps[] = {
    "CREATE TABLE \"%1$s\".row (key text COLLATE \"C\" PRIMARY KEY, value bytea NOT NULL,"
    " version bigint NOT NULL);"
    "CREATE TABLE \"%1$s\".counter (version bigint NOT NULL);"
    "INSERT INTO \"%1$s\".counter VALUES (0);"
    "CREATE TABLE \"%1$s\".replication_lag (region text NOT NULL, origin text NOT NULL,"
    " origin_number bigint NOT NULL, partition bigint NOT NULL, origin_end bigint NOT NULL,"
    " applied bigint NOT NULL, lag_records bigint NOT NULL, lag_ms bigint,"
    " seen_at timestamptz NOT NULL, PRIMARY KEY (region, origin, partition));"
    "CREATE FUNCTION \"%1$s\".next_version() RETURNS bigint LANGUAGE sql AS $$"
    " UPDATE \"%1$s\".counter SET version = version + 1 RETURNING version $$;"
    "CREATE FUNCTION \"%1$s\".put_row(k text, v bytea, expected bigint) RETURNS bigint"
    " LANGUAGE plpgsql AS $$ DECLARE now_at bigint; present bigint; BEGIN"
    "  PERFORM version FROM \"%1$s\".counter FOR UPDATE;"
    "  SELECT r.version INTO present FROM \"%1$s\".row r WHERE r.key = k;"
    "  IF expected >= 0 AND coalesce(present, 0) <> expected THEN RETURN 0; END IF;"
    "  now_at := \"%1$s\".next_version();"
    "  INSERT INTO \"%1$s\".row VALUES (k, v, now_at) ON CONFLICT (key)"
    "   DO UPDATE SET value = excluded.value, version = excluded.version;"
    "  PERFORM pg_notify('vicinal.%1$s', now_at::text); RETURN now_at; END $$;"
    "CREATE FUNCTION \"%1$s\".delete_row(k text, expected bigint) RETURNS bigint"
    " LANGUAGE plpgsql AS $$ DECLARE now_at bigint; present bigint; BEGIN"
    "  PERFORM version FROM \"%1$s\".counter FOR UPDATE;"
    "  SELECT r.version INTO present FROM \"%1$s\".row r WHERE r.key = k;"
    "  IF expected >= 0 AND coalesce(present, 0) <> expected THEN RETURN 0; END IF;"
    "  IF present IS NOT NULL THEN now_at := \"%1$s\".next_version();"
    "   DELETE FROM \"%1$s\".row r WHERE r.key = k;"
    "   PERFORM pg_notify('vicinal.%1$s', now_at::text); END IF; RETURN 1; END $$;",
};
#define SCHEMA_STEPS ARRAY_COUNT(schema_steps)

/* --- the URL -----------------------------------------------------------------------------------
 */

static bool is_schema_name(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-'))
            return false;
    }
    return len > 0 && len < POSTGRES_SCHEMA_BYTES;
}

/* Cut our own option out of the URL's query, in place. */
static bool cut_schema(struct postgres_meta *postgres)
{
    char *query = strchr(postgres->conninfo, '?'), *at, *end;

    (void)snprintf(postgres->schema, sizeof(postgres->schema), "%s", SCHEMA_DEFAULT);
    for (at = query; at != NULL && strncmp(at + 1, SCHEMA_OPTION, strlen(SCHEMA_OPTION)) != 0;)
        at = strchr(at + 1, '&');
    if (at == NULL)
        return true;
    at++;
    end = at + strcspn(at, "&");
    if (!is_schema_name(at + strlen(SCHEMA_OPTION), (size_t)(end - at) - strlen(SCHEMA_OPTION)))
        return false;
    (void)snprintf(postgres->schema, sizeof(postgres->schema), "%.*s",
                   (int)((size_t)(end - at) - strlen(SCHEMA_OPTION)), at + strlen(SCHEMA_OPTION));
    if (*end == '&')
        memmove(at, end + 1, strlen(end + 1) + 1);
    else
        at[-1] = '\0'; /* with its ? or & */
    return true;
}

static bool ends_with(const char *text, size_t len, const char *end)
{
    return len >= strlen(end) && memcmp(text + len - strlen(end), end, strlen(end)) == 0;
}

/* libpq quotes what it could not read, which may be the password: quotes are emptied, but for
 * those of an option's name. */
static enum err_code url_error(const char *why, struct err *err)
{
    size_t len = strcspn(why, "\n"), out = 0;
    bool quoted = false, told = true;
    char text[200];

    for (size_t at = 0; at < len && out < sizeof(text) - 1; at++) {
        if (why[at] == '"') {
            quoted = !quoted;
            told = !quoted || ends_with(why, at, "query parameter: ") ||
                   ends_with(why, at, "connection option ");
            text[out++] = '"';
        } else if (told) {
            text[out++] = why[at];
        }
    }
    text[out] = '\0';
    return err_set(err, ERR_CONFIG, "metadata URL: %s", text);
}

enum err_code postgres_parse(struct postgres_meta *postgres, const char *url, struct err *err)
{
    PQconninfoOption *options;
    char *why = NULL;
    enum err_code rc = ERR_OK;

    postgres->conninfo = strdup(url);
    if (postgres->conninfo == NULL)
        return err_set(err, ERR_NO_MEMORY, "metadata: no memory");
    if (!cut_schema(postgres))
        return err_set(err, ERR_CONFIG, "metadata URL: schema=NAME wants 1 to %d of a-z 0-9 _ -",
                       POSTGRES_SCHEMA_BYTES - 1);
    options = PQconninfoParse(postgres->conninfo, &why);
    if (options == NULL)
        rc = why == NULL ? err_set(err, ERR_NO_MEMORY, "metadata URL: no memory")
                         : url_error(why, err);
    PQconninfoFree(options);
    PQfreemem(why);
    return rc;
}

/* --- connecting --------------------------------------------------------------------------------
 */

/* A SQLSTATE in a message of verbose form, "FATAL:  28P01: …". */
static bool sqlstate_of(const char *message, char state[6])
{
    const char *at = strstr(message, "FATAL:  ");

    if (at == NULL || strnlen(at + 8, 6) < 6 || at[13] != ':')
        return false;
    memcpy(state, at + 8, 5);
    state[5] = '\0';
    return true;
}

static enum err_code connect_error(PGconn *pg, struct err *err)
{
    const char *message = PQerrorMessage(pg);
    char state[6], text[200];
    size_t len = strcspn(message, "\n");
    /* 28: who; 3D: which database; 42: no right; 0A: not supported, 08P01: not its protocol. */
    bool for_ever = sqlstate_of(message, state) &&
                    (strncmp(state, "28", 2) == 0 || strncmp(state, "3D", 2) == 0 ||
                     strncmp(state, "42", 2) == 0 || strncmp(state, "0A", 2) == 0);

    (void)snprintf(text, sizeof(text), "%.*s", (int)len, message);
    if (strncmp(text, "invalid ", strlen("invalid ")) == 0)
        return url_error(message, err); /* an option's value: libpq has not gone anywhere */
    if (strstr(text, gai_strerror(EAI_NONAME)) != NULL)
        return err_set(err, ERR_CONFIG, "postgres: %s (check the host)", text);
    if (for_ever || PQconnectionNeedsPassword(pg))
        return err_set(err, ERR_CONFIG, "postgres refuses: %s (check user, password and database)",
                       text);
    return err_set(err, ERR_UNAVAILABLE, "postgres: %s", text);
}

static enum err_code connect_by(struct env *env, PGconn *pg, uint64_t until_ns, struct err *err)
{
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;

    while (state != PGRES_POLLING_OK) {
        if (state == PGRES_POLLING_FAILED || PQstatus(pg) == CONNECTION_BAD)
            return connect_error(pg, err);
        if (postgres_poll(env, pg, state == PGRES_POLLING_WRITING, until_ns) != ERR_OK)
            return err_set(err, ERR_UNAVAILABLE, "postgres: no connection in time");
        state = PQconnectPoll(pg);
    }
    return ERR_OK;
}

static void ignore_notice(void *context, const char *message)
{
    (void)context, (void)message;
}

enum err_code postgres_connect(struct postgres_meta *postgres, uint64_t until_ns,
                               struct postgres_connection **out, struct err *err)
{
    char set[256];
    struct postgres_query query = {.sql = set, .until_ns = until_ns};
    struct postgres_connection *connection = calloc(1, sizeof(*connection));
    PGresult *result = NULL;
    bool is_cut;
    enum err_code rc;

    *out = NULL;
    until_ns = MIN_OF(until_ns, env_boot_ns(postgres->base.env) + POSTGRES_CONNECT_NS);
    if (connection != NULL)
        connection->pg = PQconnectStart(postgres->conninfo);
    if (connection == NULL || connection->pg == NULL) {
        free(connection);
        return err_set(err, ERR_NO_MEMORY, "metadata: no memory");
    }
    (void)PQsetErrorVerbosity(connection->pg, PQERRORS_VERBOSE);
    (void)PQsetNoticeProcessor(connection->pg, ignore_notice, NULL);
    rc = connect_by(postgres->base.env, connection->pg, until_ns, err);
    if (rc == ERR_OK && PQsetnonblocking(connection->pg, 1) != 0)
        rc = err_set(err, ERR_UNAVAILABLE, "postgres: the socket cannot be used");
    /* A lock that somebody holds while he sleeps must not hold us up for longer than a call.  Who
     * has waited for the counter's row goes on from what stands there then, whatever the database's
     * default. */
    (void)snprintf(set, sizeof(set),
                   "SELECT set_config('default_transaction_isolation', 'read committed', false),"
                   " set_config('statement_timeout', '%llu', false),"
                   " set_config('idle_in_transaction_session_timeout', '%llu', false)",
                   POSTGRES_CALL_NS / NS_PER_MS, 2 * POSTGRES_CALL_NS / NS_PER_MS);
    if (rc == ERR_OK)
        rc = postgres_ask(postgres, connection, &query, &result, &is_cut, err);
    PQclear(result);
    if (rc != ERR_OK) {
        postgres_disconnect(connection);
        return rc;
    }
    *out = connection;
    return ERR_OK;
}

void postgres_disconnect(struct postgres_connection *connection)
{
    if (connection == NULL)
        return;
    PQfinish(connection->pg);
    free(connection);
}

/* --- the tables --------------------------------------------------------------------------------
 */

/* One statement whose result is of no interest. */
static enum err_code tell(struct postgres_meta *postgres, struct postgres_connection *connection,
                          const char *sql, struct err *err)
{
    struct postgres_query query = {.sql = sql};
    PGresult *result = NULL;
    bool is_cut;
    enum err_code rc = postgres_ask(postgres, connection, &query, &result, &is_cut, err);

    PQclear(result);
    return rc;
}

/* Several statements, without parameters: run one by one inside a DO block, which an extended query
 * may hold. */
static enum err_code run_step(struct postgres_meta *postgres,
                              struct postgres_connection *connection, size_t step, struct err *err)
{
    struct buffer sql = {0};
    enum err_code rc;

    buffer_append_text(&sql, "DO $step$ BEGIN ");
    buffer_append_format(&sql, schema_steps[step], postgres->schema);
    buffer_append_format(&sql,
                         "DELETE FROM \"%s\".schema_version;"
                         "INSERT INTO \"%s\".schema_version VALUES (%zu); END $step$",
                         postgres->schema, postgres->schema, step + 1);
    buffer_append_byte(&sql, '\0');
    rc = buffer_check(&sql, err);
    if (rc == ERR_OK)
        rc = tell(postgres, connection, (const char *)sql.data, err);
    buffer_free(&sql);
    return rc;
}

static enum err_code read_version(struct postgres_meta *postgres,
                                  struct postgres_connection *connection, uint64_t *version,
                                  struct err *err)
{
    char sql[192];
    struct postgres_query query = {.sql = sql};
    PGresult *result = NULL;
    bool is_cut;
    enum err_code rc;

    (void)snprintf(sql, sizeof(sql), "SELECT max(version)::bigint FROM \"%s\".schema_version",
                   postgres->schema);
    rc = postgres_ask(postgres, connection, &query, &result, &is_cut, err);
    if (rc == ERR_OK)
        *version = PQgetisnull(result, 0, 0) ? 0 : postgres_u64(result, 0, 0);
    PQclear(result);
    return rc;
}

static enum err_code check_known(const struct postgres_meta *postgres, uint64_t version,
                                 struct err *err)
{
    if (version <= SCHEMA_STEPS)
        return ERR_OK;
    return err_set(
        err, ERR_CONFIG,
        "metadata: schema \"%s\" has version %llu, but this program knows %zu at most: run "
        "the newer program, or stop all services and drop the schema: it is rebuilt from "
        "the log",
        postgres->schema, (unsigned long long)version, SCHEMA_STEPS);
}

static enum err_code migrate_locked(struct postgres_meta *postgres,
                                    struct postgres_connection *connection, struct err *err)
{
    uint64_t version = 0;
    char sql[192];
    enum err_code rc;

    (void)snprintf(sql, sizeof(sql), "CREATE SCHEMA IF NOT EXISTS \"%s\"", postgres->schema);
    rc = tell(postgres, connection, sql, err);
    (void)snprintf(sql, sizeof(sql),
                   "CREATE TABLE IF NOT EXISTS \"%s\".schema_version (version bigint NOT NULL)",
                   postgres->schema);
    if (rc == ERR_OK)
        rc = tell(postgres, connection, sql, err);
    if (rc == ERR_OK)
        rc = read_version(postgres, connection, &version, err);
    if (rc == ERR_OK)
        rc = check_known(postgres, version, err);
    for (size_t step = version; step < SCHEMA_STEPS && rc == ERR_OK; step++)
        rc = run_step(postgres, connection, step, err);
    return rc;
}

/* One opener at a time, by a lock that ends with the transaction. */
enum err_code postgres_migrate(struct postgres_meta *postgres,
                               struct postgres_connection *connection, struct err *err)
{
    char sql[192];
    struct err ignored;
    uint64_t version = 0;
    enum err_code rc;

    /* Mostly everything is there, and a user without the right to create may use it. */
    if (read_version(postgres, connection, &version, &ignored) == ERR_OK && version >= SCHEMA_STEPS)
        return check_known(postgres, version, err);
    (void)snprintf(sql, sizeof(sql),
                   "SELECT pg_advisory_xact_lock(hashtextextended('vicinal.%s', 0))::text",
                   postgres->schema);
    rc = tell(postgres, connection, "BEGIN", err);
    if (rc == ERR_OK)
        rc = tell(postgres, connection, sql, err);
    if (rc == ERR_OK)
        rc = migrate_locked(postgres, connection, err);
    if (rc == ERR_OK)
        return tell(postgres, connection, "COMMIT", err);
    (void)tell(postgres, connection, "ROLLBACK", &ignored);
    return rc;
}
