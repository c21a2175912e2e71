/* The front of every cache: see cache.h.
 *
 * Here the back end is chosen by the whole scheme of the URL, and hits are asserted to append only.
 * The cache that holds nothing is so small that it lives here too.
 */
#include "backends/cache/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"

static const struct cache_ops *const back_ends[] = {&cache_memory_ops, &cache_redis_ops,
                                                    &cache_none_ops};

static const struct cache_ops *find_back_end(const char *url)
{
    for (size_t i = 0; i < ARRAY_COUNT(back_ends); i++)
        if (text_has_scheme(url, back_ends[i]->scheme))
            return back_ends[i];
    return NULL;
}

enum err_code cache_open(struct cache **out, const char *url, struct env *env, struct err *err)
{
    const struct cache_ops *ops;
    enum err_code code;

    assert(url != NULL);
    assert(env != NULL);
    *out = NULL;
    ops = find_back_end(url);
    if (ops == NULL)
        return err_set(err, ERR_CONFIG,
                       "cache URL \"%.*s…\": want memory:SIZE, redis://HOST:PORT or none:",
                       (int)strcspn(url, ":/"), url);
    code = ops->open(out, url, env, err);
    assert((code == ERR_OK) == (*out != NULL));
    assert(code != ERR_OK || (*out)->ops == ops);
    return code;
}

void cache_close(struct cache *cache)
{
    if (cache != NULL)
        cache->ops->close(cache);
}

bool cache_get(struct cache *cache, struct hash128 key, struct buffer *out)
{
    size_t before = out->len;
    bool hit = cache->ops->get(cache, key, out);

    assert(out->len >= before);
    assert(hit || out->len == before);
    return hit;
}

void cache_put(struct cache *cache, struct hash128 key, const void *value, size_t len,
               uint32_t ttl_ms)
{
    assert(value != NULL || len == 0);
    cache->ops->put(cache, key, value, len, ttl_ms);
}

void cache_stats(struct cache *cache, struct cache_stats *out)
{
    *out = (struct cache_stats){0};
    cache->ops->stats(cache, out);
}

/* --- none: --------------------------------------------------------------------------------- */

static enum err_code none_open(struct cache **out, const char *url, struct env *env,
                               struct err *err)
{
    struct cache *cache;

    (void)env;
    if (strcmp(url, "none:") != 0)
        return err_set(err, ERR_CONFIG, "cache URL \"%s\": nothing may follow none:", url);
    cache = calloc(1, sizeof(*cache));
    if (cache == NULL)
        return err_set(err, ERR_NO_MEMORY, "cache: no memory");
    cache->ops = &cache_none_ops;
    *out = cache;
    return ERR_OK;
}

static void none_close(struct cache *cache)
{
    free(cache);
}

static bool none_get(struct cache *cache, struct hash128 key, struct buffer *out)
{
    (void)cache;
    (void)key;
    (void)out;
    return false;
}

static void none_put(struct cache *cache, struct hash128 key, const void *value, size_t len,
                     uint32_t ttl_ms)
{
    (void)cache;
    (void)key;
    (void)value;
    (void)len;
    (void)ttl_ms;
}

static void none_stats(struct cache *cache, struct cache_stats *out)
{
    (void)cache;
    (void)out;
}

const struct cache_ops cache_none_ops = {
    .scheme = "none",
    .open = none_open,
    .close = none_close,
    .get = none_get,
    .put = none_put,
    .stats = none_stats,
};
