/* The files of a copy of what a replica holds, whoever it is for: another replica that fetches it
 * (services/shard/copy.h), or a snapshot in the blob store (snapshots.h). */
#ifndef VICINAL_CLUSTER_COPY_FILES_H
#define VICINAL_CLUSTER_COPY_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/hash.h"
#include "common/base/limits.h"

#define COPY_CHUNK_BYTES MIB(1)
#define COPY_NAME_BYTES  192
#define COPY_FILES_MAX   100000
#define COPY_STORE_NAME  "store/data.mdb"

struct copy_file {
    char name[COPY_NAME_BYTES]; /* below the replica's folder: "store/…", "segments/LIFE/…" */
    uint64_t bytes;
    struct hash128 digest; /* of its chunks, one after the other: copy_chain */
};

/* Add a file's next chunk to its digest, which begins as zeros. */
void copy_chain(struct hash128 *digest, const void *data, size_t len);

/* Is this the name of a file of a copy, and of nothing outside of it? */
bool copy_name_is_valid(const char *name);

#endif
