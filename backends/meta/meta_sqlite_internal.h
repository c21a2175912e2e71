/* What the files of the SQLite back end share: the connection is made in meta_sqlite_open.c and
 * used in meta_sqlite.c; meta_sqlite_verify.c looks at a copy of the file. */
#ifndef VICINAL_BACKENDS_META_SQLITE_INTERNAL_H
#define VICINAL_BACKENDS_META_SQLITE_INTERNAL_H

#include <pthread.h>
#include <sqlite3.h>

#include "backends/meta/meta.h"

#define META_SQLITE_BUSY_NS  (5 * NS_PER_S)  /* so long is a busy file tried again */
#define META_SQLITE_PAUSE_NS (5 * NS_PER_MS) /* between two tries */

#define META_SQLITE_APPLICATION 0x5669636e /* "Vicn" */

int meta_sqlite_schemas(void); /* the newest schema that is known */

/* The prepared statements: their text is in meta_sqlite_open.c. */
enum statement {
    BEGIN,
    COMMIT,
    ROLLBACK,
    GET,
    LIST,
    ROW_VERSION,
    NEXT_VERSION,
    VERSION,
    PUT,
    DELETE,
    LAG_PUT,
    LAG_LIST,
    LAG_REMOVE,
    STATEMENTS
};

struct sqlite_meta {
    struct meta base; /* first */
    const char *file; /* of the URL, behind it in memory */
    pthread_mutex_t lock;
    /* below: guarded by lock */
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    char url[]; /* a copy */
};

/* Errors: what the connection last failed with, as a code; ERR_UNAVAILABLE: someone else has the
 * file, try again.  what says what was tried. */
enum err_code meta_sqlite_fail(const struct sqlite_meta *sqlite, const char *what, struct err *err);

/* Fill db and statements; file and base are set.  No lock is needed: nobody else knows it yet.
 * Errors: as meta_open. */
MUST_CHECK enum err_code meta_sqlite_connect(struct sqlite_meta *sqlite, struct err *err);
void meta_sqlite_disconnect(struct sqlite_meta *sqlite);

#endif
