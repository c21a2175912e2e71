/* Statements on pooled connections, each bounded in time: see meta_postgres.c. */
#include "backends/meta/meta_postgres_internal.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"

enum err_code postgres_poll(struct env *env, PGconn *pg, bool for_write, uint64_t until_ns)
{
    struct pollfd fd = {.fd = PQsocket(pg), .events = for_write ? POLLIN | POLLOUT : POLLIN};

    for (;;) {
        uint64_t now_ns = env_boot_ns(env);
        uint64_t left_ms = now_ns >= until_ns ? 0 : (until_ns - now_ns) / NS_PER_MS + 1;
        int got = fd.fd < 0 ? -1 : poll(&fd, 1, (int)MIN_OF(left_ms, (uint64_t)INT32_MAX));

        if (got > 0)
            return ERR_OK;
        if (got == 0 && now_ns >= until_ns)
            return ERR_TIMEOUT;
        if (got < 0 && errno != EINTR)
            return ERR_TIMEOUT; /* no socket any more: the next call to libpq says why */
    }
}

uint64_t postgres_u64(const PGresult *result, int row, int column)
{
    const uint8_t *bytes = (const uint8_t *)PQgetvalue(result, row, column);
    uint64_t value = 0;

    if (PQgetisnull(result, row, column) || PQgetlength(result, row, column) != 8)
        return 0;
    for (int i = 0; i < 8; i++) /* the wire is big-endian */
        value = value << 8 | bytes[i];
    return value;
}

/* --- one statement -----------------------------------------------------------------------------
 */

static enum err_code statement_error(const PGresult *result, struct err *err)
{
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    enum err_code code = ERR_IO;

    state = state == NULL ? "" : state;
    if (strncmp(state, "40", 2) == 0)
        code = ERR_CONFLICT; /* rolled back: a deadlock, a serialisation */
    else if (strncmp(state, "57", 2) == 0 || strncmp(state, "55", 2) == 0 ||
             strncmp(state, "25006", 5) == 0)
        code = ERR_UNAVAILABLE; /* cancelled, shutting down, locked, a standby */
    else if (strncmp(state, "53100", 5) == 0)
        code = ERR_INSUFFICIENT_STORAGE;
    else if (strncmp(state, "42501", 5) == 0)
        code = ERR_CONFIG;
    return err_set(err, code, "postgres: %.200s (%.5s)%s", text == NULL ? "no answer" : text, state,
                   code == ERR_CONFIG ? ": grant the user this right" : "");
}

static enum err_code flush(struct postgres_meta *postgres, PGconn *pg, uint64_t until_ns)
{
    int left;

    while ((left = PQflush(pg)) == 1) {
        if (postgres_poll(postgres->base.env, pg, true, until_ns) != ERR_OK)
            return ERR_TIMEOUT;
        if (PQconsumeInput(pg) == 0)
            return ERR_IO;
    }
    return left == 0 ? ERR_OK : ERR_IO;
}

/* The first result; the rest is read and forgotten, so that the connection is free again. */
static enum err_code read_result(struct postgres_meta *postgres, PGconn *pg, uint64_t until_ns,
                                 PGresult **out)
{
    for (;;) {
        PGresult *result;

        while (PQisBusy(pg)) {
            if (postgres_poll(postgres->base.env, pg, false, until_ns) != ERR_OK)
                return ERR_TIMEOUT;
            if (PQconsumeInput(pg) == 0)
                return ERR_IO;
        }
        result = PQgetResult(pg);
        if (result == NULL)
            return *out == NULL ? ERR_IO : ERR_OK;
        if (*out == NULL)
            *out = result;
        else
            PQclear(result);
    }
}

enum err_code postgres_ask(struct postgres_meta *postgres, struct postgres_connection *connection,
                           const struct postgres_query *query, PGresult **out, bool *is_cut,
                           struct err *err)
{
    PGconn *pg = connection->pg;
    uint64_t until_ns = env_boot_ns(postgres->base.env) + POSTGRES_CALL_NS + NS_PER_S;
    enum err_code rc = ERR_IO;

    if (query->until_ns != 0)
        until_ns = MIN_OF(until_ns, query->until_ns);
    *out = NULL;
    *is_cut = false;
    if (PQsendQueryParams(pg, query->sql, query->count, NULL, query->values, query->lens,
                          query->formats, 1) == 1)
        rc = flush(postgres, pg, until_ns);
    if (rc == ERR_OK)
        rc = read_result(postgres, pg, until_ns, out);
    if (rc != ERR_OK || PQstatus(pg) != CONNECTION_OK) {
        *is_cut = true;
        PQclear(*out);
        *out = NULL;
        if (rc == ERR_TIMEOUT)
            return err_set(err, ERR_UNAVAILABLE, "postgres does not answer");
        return err_set(err, ERR_UNAVAILABLE, "postgres: %.*s",
                       (int)strcspn(PQerrorMessage(pg), "\n"), PQerrorMessage(pg));
    }
    if (PQresultStatus(*out) == PGRES_TUPLES_OK || PQresultStatus(*out) == PGRES_COMMAND_OK)
        return ERR_OK;
    rc = statement_error(*out, err);
    PQclear(*out);
    *out = NULL;
    return rc;
}

/* --- the pool ----------------------------------------------------------------------------------
 */

/* The first idle one that (or: that does not) listen; caller holds lock. */
static struct postgres_connection *idle_locked(struct postgres_meta *postgres, bool listening)
{
    struct postgres_connection **link = &postgres->idle, *found;

    while (*link != NULL && (*link)->is_listening != listening)
        link = &(*link)->next;
    found = *link;
    if (found != NULL)
        *link = found->next;
    return found;
}

/* NULL: a new one is to be made, and counted already. */
static enum err_code take_idle(struct postgres_meta *postgres, bool to_wait, uint64_t until_ns,
                               struct postgres_connection **out)
{
    enum err_code rc = ERR_OK;
    bool is_full;

    until_ns = MIN_OF(until_ns, env_boot_ns(postgres->base.env) + POSTGRES_CALL_NS);
    pthread_mutex_lock(&postgres->lock);
    while (rc == ERR_OK && postgres->idle == NULL &&
           postgres->connections == POSTGRES_CONNECTIONS_MAX)
        rc = env_cond_wait(&postgres->given_back, &postgres->lock, until_ns);
    is_full = postgres->connections == POSTGRES_CONNECTIONS_MAX;
    *out = rc == ERR_OK ? idle_locked(postgres, to_wait) : NULL;
    if (*out == NULL && rc == ERR_OK && (to_wait || is_full))
        *out = idle_locked(postgres, !to_wait);
    if (*out == NULL && rc == ERR_OK)
        postgres->connections++;
    pthread_mutex_unlock(&postgres->lock);
    return rc;
}

enum err_code postgres_take(struct postgres_meta *postgres, bool to_wait, uint64_t until_ns,
                            struct postgres_connection **out, struct err *err)
{
    enum err_code rc = take_idle(postgres, to_wait, until_ns, out);

    if (rc != ERR_OK)
        return err_set(err, rc == ERR_DEAD ? ERR_DEAD : ERR_UNAVAILABLE,
                       "metadata: too many calls at once");
    if (*out != NULL)
        return ERR_OK;
    rc = postgres_connect(postgres, until_ns, out, err);
    if (rc != ERR_OK)
        postgres_drop(postgres, NULL);
    /* It was right once, and may be again: a name that is gone for a moment, a new password. */
    if (rc == ERR_CONFIG && postgres->is_open) {
        rc = ERR_UNAVAILABLE;
        if (err != NULL)
            err->code = rc;
    }
    return rc;
}

void postgres_forget_notices(PGconn *pg)
{
    PGnotify *notice;

    while ((notice = PQnotifies(pg)) != NULL)
        PQfreemem(notice);
}

void postgres_give(struct postgres_meta *postgres, struct postgres_connection *connection)
{
    postgres_forget_notices(connection->pg);
    pthread_mutex_lock(&postgres->lock);
    connection->is_used = true;
    connection->next = postgres->idle;
    postgres->idle = connection;
    env_cond_signal(&postgres->given_back);
    pthread_mutex_unlock(&postgres->lock);
}

void postgres_drop(struct postgres_meta *postgres, struct postgres_connection *connection)
{
    struct postgres_connection *idle;

    pthread_mutex_lock(&postgres->lock);
    idle = postgres->idle;
    postgres->idle = NULL;
    postgres->connections--;
    for (struct postgres_connection *at = idle; at != NULL; at = at->next)
        postgres->connections--;
    env_cond_broadcast(&postgres->given_back);
    pthread_mutex_unlock(&postgres->lock);
    postgres_disconnect(connection);
    while (idle != NULL) {
        struct postgres_connection *next = idle->next;

        postgres_disconnect(idle);
        idle = next;
    }
}

static void discard(struct postgres_meta *postgres, struct postgres_connection *connection)
{
    pthread_mutex_lock(&postgres->lock);
    postgres->connections--;
    env_cond_signal(&postgres->given_back);
    pthread_mutex_unlock(&postgres->lock);
    postgres_disconnect(connection);
}

enum err_code postgres_call(struct postgres_meta *postgres, const struct postgres_query *query,
                            PGresult **out, bool *is_cut, struct err *err)
{
    uint64_t until_ns = query->until_ns == 0 ? NEVER_NS : query->until_ns;
    bool try_again = true;
    enum err_code rc = ERR_OK;

    *out = NULL;
    *is_cut = false;
    while (try_again) {
        struct postgres_connection *connection;

        rc = postgres_take(postgres, false, until_ns, &connection, err);
        if (rc != ERR_OK)
            return rc;
        try_again = connection->is_used && query->may_repeat;
        rc = postgres_ask(postgres, connection, query, out, is_cut, err);
        if (*is_cut && env_boot_ns(postgres->base.env) >= until_ns) {
            discard(postgres, connection); /* impatience says nothing about the others */
            try_again = false;
        } else if (*is_cut) {
            postgres_drop(postgres, connection);
        } else {
            postgres_give(postgres, connection);
            try_again = false;
        }
    }
    return rc;
}
