/* A cache of byte strings under 128-bit keys.  It may forget anything at any time; what it returns
 * is what was put, whole, and not older than its time to live.  Slow or away: a miss.
 *
 *   memory:64MiB   in this process, least recently used leaves first
 *   redis://…      shared by all routers: redis://[user:password@]host:port[/db]; a server that is
 *                  away, slow, full or holds garbage is a miss
 *   none:          holds nothing
 */
#ifndef VICINAL_BACKENDS_CACHE_H
#define VICINAL_BACKENDS_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/base/hash.h"

struct cache;

/* Errors: ERR_CONFIG (URL, credentials).  A server that is away is no error: its time may come. */
MUST_CHECK enum err_code cache_open(struct cache **out, const char *url, struct env *env,
                                    struct err *err);
void cache_close(struct cache *cache);

/* True: the value was appended to out.  Thread safe. */
bool cache_get(struct cache *cache, struct hash128 key, struct buffer *out);

/* Values over a sixteenth of the room (redis: 1 MiB) are not kept.  Thread safe. */
void cache_put(struct cache *cache, struct hash128 key, const void *value, size_t len,
               uint32_t ttl_ms);

struct cache_stats {
    uint64_t hits, misses, evictions, bytes, entries;
};
void cache_stats(struct cache *cache, struct cache_stats *out);

/* --- for back ends only -------------------------------------------------------------------- */

struct cache_ops {
    const char *scheme;
    enum err_code (*open)(struct cache **out, const char *url, struct env *env, struct err *err);
    void (*close)(struct cache *cache);
    bool (*get)(struct cache *cache, struct hash128 key, struct buffer *out);
    void (*put)(struct cache *cache, struct hash128 key, const void *value, size_t len,
                uint32_t ttl_ms);
    void (*stats)(struct cache *cache, struct cache_stats *out);
};

struct cache {
    const struct cache_ops *ops;
};

extern const struct cache_ops cache_memory_ops, cache_redis_ops, cache_none_ops;

#endif
