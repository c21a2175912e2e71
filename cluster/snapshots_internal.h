/* What the files about snapshots share: the names of their objects.
 *
 *   snapshots.c           names; finding, reading and removing
 *   snapshot_manifest.c   the bytes of a manifest
 *   snapshots_verify.c    all of them, looked at */
#ifndef VICINAL_CLUSTER_SNAPSHOTS_INTERNAL_H
#define VICINAL_CLUSTER_SNAPSHOTS_INTERNAL_H

#include "cluster/snapshots.h"

#define SNAPSHOT_MANIFEST_NAME "manifest"
#define SNAPSHOT_VERIFIED_NAME "verified"
#define SNAPSHOTS_MAX          10000 /* that are listed at a time */

/* Something of a snapshot, or with "" for both what all names of a shard begin with. */
struct snapshot_place {
    uint32_t region, shard;
    const char *id, *name;
};
void snapshot_place_name(char out[BLOB_NAME_BYTES_MAX + 1], const struct snapshot_place *place);

/* What the name of an object says.  name points into the one that was read. */
struct snapshot_object {
    uint32_t region, shard;
    char id[SNAPSHOT_ID_BYTES];
    const char *name;
};
bool snapshot_object_parse(struct snapshot_object *out, const char *name); /* false: of none */

#endif
