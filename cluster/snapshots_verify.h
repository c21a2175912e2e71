/* Verifying all snapshots of a blob store: their manifests, the objects that these name, and where
 * the logs that they are of stand.  Nothing is changed.
 *
 * A snapshot without its mark counts for nothing: whatever it has or lacks is no damage.  One that
 * has a mark has to be whole, and not to reach beyond the end of its log; a log that was trimmed
 * begins where a whole one of each shard reaches to. */
#ifndef VICINAL_CLUSTER_SNAPSHOTS_VERIFY_H
#define VICINAL_CLUSTER_SNAPSHOTS_VERIFY_H

#include "backends/blob/blob.h"
#include "backends/wal/wal_verify.h"
#include "common/base/scrub.h"

struct snapshots_verify_setup {
    struct blob *blob;
    struct scrub *scrub; /* is told names of objects as files */
    const struct wal_verified *const *logs;
    size_t log_count; /* those that are at hand; of the others only the bytes are looked at */
};

struct snapshots_verified {
    uint64_t whole;      /* marked, and as they were made */
    uint64_t unfinished; /* not marked: somebody makes them, or has died while making them */
    uint64_t others;     /* of those that are whole: of logs that are not at hand */
    uint64_t objects;    /* below SNAPSHOTS_PREFIX */
    uint64_t unnamed;    /* of them: of no snapshot, or not named by the one that they lie with */
    uint64_t bytes;      /* that were read and compared */
};

/* One that is removed meanwhile is no damage.
 * Errors: ERR_CONFIG (one has a newer format; all others were looked at), the blob's,
 * ERR_NO_MEMORY, ERR_DEAD (told to stop).  *out is what was seen until then. */
MUST_CHECK enum err_code snapshots_verify(const struct snapshots_verify_setup *setup,
                                          struct snapshots_verified *out, struct err *err);

#endif
