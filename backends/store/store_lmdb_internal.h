/* What the files of the LMDB back end share; nobody else includes this. */
#ifndef VICINAL_BACKENDS_STORE_LMDB_INTERNAL_H
#define VICINAL_BACKENDS_STORE_LMDB_INTERNAL_H

#include <lmdb.h>

#include "backends/store/store.h"

/* LMDB's code, which is not 0, as ours. */
enum err_code lmdb_fail(int result, const char *what, struct err *err);

struct lmdb_taker {
    store_take_fn *take;
    void *context;
};

/* store_lmdb_copy.c: as store_copy. */
MUST_CHECK enum err_code lmdb_copy_env(MDB_env *lmdb, struct env *env,
                                       const struct lmdb_taker *taker, struct err *err);

#endif
