/* A JSON merge patch (RFC 7396) for metadata: members of the patch replace those of the target,
 * objects are merged, null removes.  What the patch does not name keeps its bytes: numbers of any
 * size and precision stay as they were written. */
#ifndef VICINAL_INGEST_METADATA_MERGE_H
#define VICINAL_INGEST_METADATA_MERGE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/arena.h"
#include "common/base/buffer.h"
#include "common/base/err.h"

struct merge_patch;

/* data: an object that upsert_check_metadata has taken; it and the arena are borrowed as long as
 * the patch is used.  One thread uses a patch.  Errors: ERR_INVALID_JSON, ERR_NO_MEMORY. */
MUST_CHECK enum err_code merge_patch_parse(struct merge_patch **out, const char *data, size_t len,
                                           struct arena *arena, struct err *err);

/* The target (an object without a key twice; NULL: none) with the patch applied, into out, which is
 * emptied first.  *changed false: it is as it was.  The arena keeps keys that have escapes.
 * Errors: ERR_PAYLOAD_TOO_LARGE (beyond METADATA_BYTES_MAX), ERR_CORRUPT (the target is none),
 * ERR_NO_MEMORY. */
MUST_CHECK enum err_code merge_patch_apply(struct merge_patch *patch, const char *target,
                                           size_t len, struct arena *arena, struct buffer *out,
                                           bool *changed, struct err *err);

#endif
