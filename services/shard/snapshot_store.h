/* What a copied store says of itself, beside what a snapshot's manifest says of it; and fetching a
 * snapshot's files into a folder.  Block. */
#ifndef VICINAL_SHARD_SNAPSHOT_STORE_H
#define VICINAL_SHARD_SNAPSHOT_STORE_H

#include <stdatomic.h>

#include "cluster/snapshots.h"
#include "common/base/env.h"

/* Fill region and partitions of a snapshot from the store in FOLDER/store.
 * Errors: those of store_open and apply_load. */
MUST_CHECK enum err_code snapshot_describe(struct env *env, const char *folder,
                                           struct snapshot *snapshot, struct err *err);

/* The store in FOLDER/store is the one that the snapshot describes, and its ids make the digests
 * that it says.  Errors: ERR_CORRUPT (it is another, or damaged), those of store_open, ERR_DEAD. */
MUST_CHECK enum err_code snapshot_compare(struct env *env, const char *folder,
                                          const struct snapshot *snapshot,
                                          const atomic_bool *is_stopping, struct err *err);

/* Fetch all files into a folder, which is there and empty; digests are compared.  go_on: NULL, or
 * what is asked before each chunk.  Errors: the blob's, those of copy_write and of go_on. */
struct snapshot_fetch {
    struct blob *blob;
    const struct snapshot *snapshot;
    const char *folder;
    enum err_code (*go_on)(void *context, size_t len, struct err *err);
    void *context;
    uint64_t bytes; /* told */
};
MUST_CHECK enum err_code snapshot_fetch(struct snapshot_fetch *fetch, struct err *err);

#endif
