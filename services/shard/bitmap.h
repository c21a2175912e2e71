/* Which ordinals of a collection a filter lets through, as the engine wants it.
 *
 * Made by walking over all rows of the collection once, or by looking up the ids that the filter
 * names.  The last few are kept: a filter that is asked again on a collection that has not changed
 * costs nothing. */
#ifndef VICINAL_SHARD_BITMAP_H
#define VICINAL_SHARD_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/store/store.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/model/filter.h"
#include "common/model/position.h"
#include "engine/engine.h"

#define BITMAPS_KEPT 16

struct bitmap_cache;

struct bitmap_cache *bitmap_cache_new(void); /* NULL: no memory */
void bitmap_cache_free(struct bitmap_cache *cache);

/* Immutable; bitmap_put when done with. */
struct bitmap {
    struct engine_bitmap bits; /* first: rows with a vector that match */
    uint64_t scanned;          /* rows looked at when it was made */
    uint32_t references;       /* guarded by the cache's lock */
    struct bitmap_cache *cache;
};

struct bitmap_request {
    struct store_txn *txn; /* the snapshot */
    uint64_t generation;   /* of the store */
    uint32_t collection;
    uint32_t partitions_all;           /* P, for the partitions of ids */
    const struct partition_set *asked; /* rows of other partitions do not match */
    const struct filter *filter;       /* parsed; NULL: all */
    const char *filter_text;           /* as it came: the key in the cache */
    size_t filter_len;
    struct env *env;
    uint64_t deadline_ns;
};

/* Errors: ERR_TIMEOUT, ERR_NO_MEMORY, ERR_CORRUPT, ERR_IO. */
MUST_CHECK enum err_code bitmap_get(struct bitmap **out, struct bitmap_cache *cache,
                                    const struct bitmap_request *request, struct err *err);
void bitmap_put(struct bitmap *bitmap); /* NULL is fine */

#endif
