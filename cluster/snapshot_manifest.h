/* The bytes of a snapshot's manifest: its checksum as text, a line feed, JSON.  Equal snapshots
 * have equal bytes. */
#ifndef VICINAL_CLUSTER_SNAPSHOT_MANIFEST_H
#define VICINAL_CLUSTER_SNAPSHOT_MANIFEST_H

#include "cluster/snapshots.h"

#define SNAPSHOT_CHECKSUM_BYTES 32 /* at the beginning */

/* Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code snapshot_manifest_encode(const struct snapshot *snapshot,
                                                  struct buffer *out, struct err *err);

/* Everything is checked: numbers against their limits, names of files, that there is a store.
 * Errors: ERR_CORRUPT, ERR_CONFIG (a newer format), ERR_NO_MEMORY; *out is zeroed then. */
MUST_CHECK enum err_code snapshot_manifest_decode(struct snapshot *out, const void *data,
                                                  size_t len, struct err *err);

#endif
