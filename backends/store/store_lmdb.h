/* What the files of the LMDB store share: store_lmdb.c keeps it, store_lmdb_verify.c looks at it.
 */
#ifndef VICINAL_BACKENDS_STORE_LMDB_H
#define VICINAL_BACKENDS_STORE_LMDB_H

#include "backends/store/store.h"

#define STORE_LMDB_LOCK "owner.lock"
#define STORE_LMDB_MAIN "tables" /* what errors call the tree in which the tables stand */

extern const char *const store_lmdb_tables[STORE_TABLES];

#endif
