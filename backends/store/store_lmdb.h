/* What the files of the LMDB store share; nobody else includes this.
 *
 *   store_lmdb.c          keeps it
 *   store_lmdb_make.c     its file
 *   store_lmdb_ahead.c    reads ahead of a scan
 *   store_lmdb_copy.c     copies for others
 *   store_lmdb_verify.c   looks at it */
#ifndef VICINAL_BACKENDS_STORE_LMDB_H
#define VICINAL_BACKENDS_STORE_LMDB_H

#include <lmdb.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/store/store.h"

#define STORE_LMDB_LOCK "owner.lock"
#define STORE_LMDB_MAIN "tables" /* what errors call the tree in which the tables stand */

/* Let there be a file that LMDB can open, in a folder that is locked; one that is there is left
 * alone. Errors: ERR_IO, ERR_INSUFFICIENT_STORAGE, ERR_NO_MEMORY, ERR_CONFIG (the path is too
 * long). */
MUST_CHECK enum err_code store_lmdb_make(const char *folder, struct err *err);

/* LMDB's code, which is not 0, as ours. */
enum err_code lmdb_fail(int result, const char *what, struct err *err);

struct lmdb_taker {
    store_take_fn *take;
    void *context;
};

/* As store_copy. */
MUST_CHECK enum err_code lmdb_copy_env(MDB_env *lmdb, struct env *env,
                                       const struct lmdb_taker *taker, struct err *err);

/* What has been asked for ahead of a cursor; zeroed: nothing. */
struct lmdb_ahead {
    uintptr_t from, to; /* addresses of the map */
    size_t window;      /* asked for next */
};

/* The cursor stands at this row of the map. */
void lmdb_read_ahead(struct lmdb_ahead *ahead, const void *row);

extern const char *const store_lmdb_tables[STORE_TABLES];

#endif
