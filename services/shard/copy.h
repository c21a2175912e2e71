/* A copy of all that a replica holds, handed out to a new one beside it: its store as it is at one
 * moment, and the segments that lie beside the store.
 *
 * Nothing of it is needed: the log has everything.  It spares a new replica reading the log from
 * its beginning and linking every vector.  The copy is made in a folder of its own when it is asked
 * for, at a bounded rate, by a thread of its own; several new replicas may fetch one copy; when
 * nobody has asked for a while it is removed.
 *
 *   POST /internal/v1/copy        begin one, unless there is one already
 *   GET  /internal/v1/copy        how far it is; once it is ready, its files with sizes and digests
 *   GET  /internal/v1/copy/chunk  COPY_CHUNK_BYTES of a file, fewer at its end */
#ifndef VICINAL_SHARD_COPY_H
#define VICINAL_SHARD_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/copy_files.h"
#include "common/base/err.h"
#include "common/http/route.h"

struct shard;
struct copier;

/* folder: where copies are made, emptied first; borrowed, as is shard.  rate: bytes per second, 0:
 * as fast as it goes.  Errors: ERR_IO, ERR_CONFIG, ERR_NO_MEMORY. */
struct copier_options {
    struct shard *shard;
    const char *folder;
    uint64_t rate;
};
MUST_CHECK enum err_code copier_open(struct copier **out, const struct copier_options *options,
                                     struct err *err);
void copier_stop(struct copier *copier);  /* its thread ends; NULL is fine */
void copier_close(struct copier *copier); /* after stop, and after the last request */

enum err_code copy_start_handle(struct request *req);  /* POST /internal/v1/copy */
enum err_code copy_status_handle(struct request *req); /* GET /internal/v1/copy */
enum err_code copy_chunk_handle(struct request *req);  /* GET /internal/v1/copy/chunk */

#endif
