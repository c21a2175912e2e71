/* What a bulk manifest names, in the blob store: for the shard that applies it, and for those who
 * compare a store with its log. */
#ifndef VICINAL_SHARD_BULK_H
#define VICINAL_SHARD_BULK_H

#include "common/base/buffer.h"
#include "common/base/err.h"

struct blob;
struct bulk_manifest;

/* Fetch it into out, in place of what was there, and compare it with the hash that the log has.
 * Errors: those of blob_get, ERR_INVALID_ARGUMENT (the name), ERR_CORRUPT. */
MUST_CHECK enum err_code bulk_fetch(struct blob *blob, const struct bulk_manifest *manifest,
                                    struct buffer *out, struct err *err);

#endif
