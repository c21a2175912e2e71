/* Making one snapshot of a replica, from beginning to end: a copy as for a new replica
 * (copy_make.h) in a folder, its files in parts into the blob store, the manifest; then all of it
 * is fetched into the folder again, digests compared, the store opened, its ids counted; only then
 * is it marked as verified, and older ones are removed.  Blocks; may be told to stop from outside.
 */
#ifndef VICINAL_SHARD_SNAPSHOT_MAKE_H
#define VICINAL_SHARD_SNAPSHOT_MAKE_H

#include "cluster/snapshots.h"
#include "services/shard/copy_make.h"

struct snapshot_making {
    struct env *env;
    struct blob *blob;
    struct store *store;
    const char *segments; /* as in copy_making */
    const char *folder;   /* made, emptied and removed */
    struct copy_pace *pace;
    const atomic_bool *is_stopping;
    uint32_t region, shard, replica;
    uint32_t keep;               /* verified ones of this shard; at least 1 */
    struct snapshot made;        /* told, owned by the caller: snapshot_free */
    _Atomic uint64_t done_bytes; /* copied, put or read so far */
};

/* After an error nothing counts that was made; what is left of it in the blob store is removed, now
 * or by snapshot_tidy.
 * Errors: those of copy_make, the blob's, ERR_CONFLICT (the store is of another log meanwhile),
 * ERR_CORRUPT (what was read back is not what was put), ERR_DEAD. */
MUST_CHECK enum err_code snapshot_make(struct snapshot_making *making, struct err *err);

/* Remove verified ones of which `keep` others hold as much in every partition (what is newer may
 * hold less, where a replica was behind, or its clock ahead), what this replica has left
 * unfinished, but not `current` (an ID, or NULL), and what others have left unfinished a day ago.
 * Never the last verified one. Errors: the blob's. */
MUST_CHECK enum err_code snapshot_tidy(const struct snapshot_making *making, const char *current,
                                       struct err *err);

#endif
