/* What the files of the Postgres back end share: connections are made in meta_postgres_open.c, kept
 * and asked in meta_postgres_call.c, used in meta_postgres.c. */
#ifndef VICINAL_BACKENDS_META_POSTGRES_INTERNAL_H
#define VICINAL_BACKENDS_META_POSTGRES_INTERNAL_H

#include <libpq-fe.h>
#include <pthread.h>

#include "backends/meta/meta.h"

#define POSTGRES_CONNECT_NS      (3 * NS_PER_S)
#define POSTGRES_CALL_NS         (5 * NS_PER_S) /* one statement; the server is told the same */
#define POSTGRES_CONNECTIONS_MAX 16
#define POSTGRES_SCHEMA_BYTES    56 /* with "vicinal." before it, it names the channel: 63 in all */

struct postgres_connection {
    struct postgres_connection *next;
    PGconn *pg;
    bool is_listening; /* to the channel of changes */
    bool is_used;      /* it has been idle: the server may have dropped it meanwhile */
};

struct postgres_meta {
    struct meta base;                   /* first */
    bool is_open;                       /* set once, before anybody else knows it */
    char *conninfo;                     /* the URL without our own options */
    char schema[POSTGRES_SCHEMA_BYTES]; /* [a-z0-9_-]: no quoting inside quotes */
    pthread_mutex_t lock;
    /* below: guarded by lock, which is never held while talking */
    struct env_cond given_back;
    struct postgres_connection *idle;
    unsigned connections;
};

/* One statement with its parameters, in text form unless `lens` says bytes. */
#define POSTGRES_PARAMS_MAX 9
struct postgres_query {
    const char *sql;
    int count;
    const char *values[POSTGRES_PARAMS_MAX];
    int lens[POSTGRES_PARAMS_MAX];
    int formats[POSTGRES_PARAMS_MAX]; /* 1: bytes */
    bool may_repeat;                  /* running it twice is the same as once */
    uint64_t until_ns; /* 0: as long as any; earlier: who asks cannot wait, whoever is to blame */
};

/* --- meta_postgres_open.c -------------------------------------------------------------------- */

/* Take the URL apart.  Errors: ERR_CONFIG. */
MUST_CHECK enum err_code postgres_parse(struct postgres_meta *postgres, const char *url,
                                        struct err *err);

/* A connection that is ready for statements.  Errors: ERR_UNAVAILABLE (away, starting, full),
 * ERR_CONFIG (credentials, no such database), ERR_NO_MEMORY. */
MUST_CHECK enum err_code postgres_connect(struct postgres_meta *postgres, uint64_t until_ns,
                                          struct postgres_connection **out, struct err *err);
void postgres_disconnect(struct postgres_connection *connection);

/* Make or bring up to date schema and tables.  Errors: also ERR_CONFIG (newer schema, no right). */
MUST_CHECK enum err_code postgres_migrate(struct postgres_meta *postgres,
                                          struct postgres_connection *connection, struct err *err);

/* --- meta_postgres_call.c -------------------------------------------------------------------- */

/* Run one statement on this connection; *out (to be PQclear-ed) holds rows in binary form.
 * Errors: ERR_UNAVAILABLE (the connection is of no use any more: *is_cut), ERR_CONFLICT (lost a
 * race: try again), ERR_IO, ERR_INSUFFICIENT_STORAGE, ERR_CONFIG (no right). */
MUST_CHECK enum err_code postgres_ask(struct postgres_meta *postgres,
                                      struct postgres_connection *connection,
                                      const struct postgres_query *query, PGresult **out,
                                      bool *is_cut, struct err *err);

/* A connection from the pool, which may be a new one.  Who waits for changes gets one that listens,
 * if there is one, and nobody else does as long as there may be more: what the server sends to one
 * that nobody reads would pile up.
 * Errors: those of postgres_connect; of a store that is open never ERR_CONFIG. */
MUST_CHECK enum err_code postgres_take(struct postgres_meta *postgres, bool to_wait,
                                       uint64_t until_ns, struct postgres_connection **out,
                                       struct err *err);
void postgres_give(struct postgres_meta *postgres, struct postgres_connection *connection);
/* Forget the notices that have come: the version is asked when it matters. */
void postgres_forget_notices(PGconn *pg);

/* It was cut: close it, and the idle ones, which are of the same life of the server. */
void postgres_drop(struct postgres_meta *postgres, struct postgres_connection *connection);

/* Take, ask, give back.  A connection that had been idle and turns out to be dead is replaced when
 * the statement may run twice.  *is_cut: it was sent, and no answer came. */
MUST_CHECK enum err_code postgres_call(struct postgres_meta *postgres,
                                       const struct postgres_query *query, PGresult **out,
                                       bool *is_cut, struct err *err);

/* Wait until the socket can be read (or written), or the boot time.  Errors: ERR_TIMEOUT. */
MUST_CHECK enum err_code postgres_poll(struct env *env, PGconn *pg, bool for_write,
                                       uint64_t until_ns);

/* Cell as a number (int8), or 0. */
uint64_t postgres_u64(const PGresult *result, int row, int column);

#endif
