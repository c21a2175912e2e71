/* Making a copy in a folder: see copy.h.  Blocks; may be told to stop from outside. */
#ifndef VICINAL_SHARD_COPY_MAKE_H
#define VICINAL_SHARD_COPY_MAKE_H

#include <pthread.h>
#include <stdatomic.h>

#include "backends/store/store.h"
#include "services/shard/copy.h"

/* Bytes per second, shared by all who read and write for copies. */
struct copy_pace {
    struct env *env;
    uint64_t rate; /* 0: no bound */
    pthread_mutex_t lock;
    uint64_t next_ns; /* guarded by lock: when the next byte may go */
};

/* Wait for the turn of len bytes.  Errors: ERR_DEAD. */
MUST_CHECK enum err_code copy_pace(struct copy_pace *pace, size_t len, struct err *err);

struct copy_making {
    struct store *store;
    const char *segments; /* the folder of all lives; NULL: there is none */
    const char *folder;   /* is there, and empty */
    struct copy_pace *pace;
    const atomic_bool *is_stopping;
    _Atomic uint64_t made_bytes; /* written or read so far */
    /* made */
    struct copy_file *files; /* owned by the caller from the start: free */
    size_t count, size;
};

/* Segments first, then the store: so no segment is ahead of its store.  After an error the folder
 * holds what it holds.  Errors: ERR_IO, ERR_INSUFFICIENT_STORAGE, ERR_NO_MEMORY, ERR_NOT_SUPPORTED,
 * ERR_DEAD.
 */
MUST_CHECK enum err_code copy_make(struct copy_making *making, struct err *err);

#endif
