/* Writing the files of a copy (cluster/copy_files.h) into a folder, wherever they come from:
 * another replica (seed_fetch.h) or a snapshot (snapshot_fetch.h).  Everything that comes is
 * hostile: names are checked, sizes bounded by the disk, digests compared; files are synced. */
#ifndef VICINAL_SHARD_COPY_WRITE_H
#define VICINAL_SHARD_COPY_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/copy_files.h"
#include "common/base/buffer.h"
#include "common/base/err.h"

/* A chunk: COPY_CHUNK_BYTES of a file, fewer at its end. */
struct copy_chunk {
    size_t file;
    uint64_t at;
    size_t len;
};

/* Append the chunk to out, which is empty; another length than is wanted is found. */
typedef enum err_code copy_read_fn(void *context, const struct copy_chunk *chunk,
                                   struct buffer *out, struct err *err);

struct copy_writing {
    const char *folder; /* is there, and empty */
    const struct copy_file *files;
    size_t count;
    copy_read_fn *read;
    void *context;
    uint64_t bytes; /* told: of all files */
};

/* Errors: those of read, ERR_CORRUPT (a name that is none, no store among them, another size or
 * digest), ERR_INSUFFICIENT_STORAGE, ERR_IO, ERR_CONFIG. */
MUST_CHECK enum err_code copy_write(struct copy_writing *writing, struct err *err);

#endif
