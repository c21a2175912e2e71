/* A cache in Redis, shared by all routers: redis://[user:password@]host:port[/db]
 *
 * Slower, never wrong: an entry carries its own key, length and checksum, so that what somebody
 * else wrote, or what was damaged, is a miss.  A get waits for at most CALL_NS; a put is written
 * and not waited for, its answer is read before the connection's next use.
 *
 * No caller ever waits for a connection to be made: one thread of the cache's own dials.  Who finds
 * no idle connection misses, and asks for one more, up to CONNECTIONS_MAX.
 *
 * Failure modes: away, slow, full, garbage: the connection is dropped with all idle ones, and the
 * cache is not asked for a pause that doubles up to PAUSE_MAX_NS: misses cost nothing then.  Behind
 * the pause the thread dials again; one answered question ends the row of failures.  A server that
 * refuses one connection more (it is at its limit of clients) is used with those that are open.
 * Wrong credentials are told at open, where the server is there. */
#include "backends/cache/cache_redis_internal.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/base/text.h"

#define CONNECTIONS_MAX 64 /* at once; more callers miss */
#define CALL_NS         (20 * NS_PER_MS)
#define PAUSE_MIN_NS    (100 * NS_PER_MS)
#define PAUSE_MAX_NS    (5 * NS_PER_S)
#define REDIAL_NS       NS_PER_S /* with connections open, when one more was refused */
#define PENDING_MAX     32       /* answers to puts that nobody has read */

/* Of an entry: "VC1\n", the key, the length, XXH64 of the value. */
#define HEAD_BYTES  (4 + 16 + 4 + 8)
#define KEY_PREFIX  "vicinal:1:"
#define KEY_BYTES   (sizeof(KEY_PREFIX) - 1 + 32)
#define MAGIC_VALUE 0x0a314356u /* "VC1\n" */

struct redis_cache {
    struct cache base; /* first */
    struct env *env;
    struct redis_address address;
    struct env_thread *dialler;

    pthread_mutex_t lock; /* guards what follows; never held while talking */
    struct env_cond wake; /* the dialler: wanted, failed or stopping changed */
    struct redis_connection *idle;
    unsigned connections; /* idle and in use */
    bool wanted;          /* a caller found none */
    bool stopping;
    bool closed;       /* failed: nobody asks until the dialler opens it again */
    uint64_t pause_ns; /* 0: the last question was answered */
    uint64_t dial_ns;  /* no connection more is asked for before */
    struct cache_stats stats;
};

static struct redis_cache *redis_of(struct cache *cache)
{
    assert(cache->ops == &cache_redis_ops);
    return (struct redis_cache *)cache;
}

/* --- connections ----------------------------------------------------------------------------- */

/* NULL: none is idle, or the cache is left alone for a while. */
static struct redis_connection *connection_take(struct redis_cache *cache)
{
    struct redis_connection *connection = NULL;

    pthread_mutex_lock(&cache->lock);
    if (!cache->closed) {
        connection = cache->idle;
        if (connection != NULL) {
            cache->idle = connection->next;
        } else if (!cache->wanted && cache->connections < CONNECTIONS_MAX &&
                   env_boot_ns(cache->env) >= cache->dial_ns) {
            cache->wanted = true;
            env_cond_signal(&cache->wake);
        }
    }
    pthread_mutex_unlock(&cache->lock);
    return connection;
}

static void connection_give(struct redis_cache *cache, struct redis_connection *connection,
                            bool was_answered)
{
    bool was_away = false;

    pthread_mutex_lock(&cache->lock);
    connection->next = cache->idle;
    cache->idle = connection;
    if (was_answered && !cache->closed) {
        was_away = cache->pause_ns != 0;
        cache->pause_ns = 0;
    }
    pthread_mutex_unlock(&cache->lock);
    if (was_away)
        log_info(&(struct log_context){.operation = "cache"}, "the cache is back");
}

/* Close the cache for a pause.  True: it had been well. */
static bool close_locked(struct redis_cache *cache)
{
    bool is_first = cache->pause_ns == 0;

    if (!cache->closed)
        cache->pause_ns = is_first ? PAUSE_MIN_NS : MIN_OF(cache->pause_ns * 2, PAUSE_MAX_NS);
    cache->closed = true;
    env_cond_signal(&cache->wake);
    return is_first;
}

static void tell_away(const struct err *why)
{
    log_err(LOG_WARN, &(struct log_context){.operation = "cache"},
            "the cache is away: going on without", why);
}

static void hang_up_all(struct redis_connection *idle)
{
    while (idle != NULL) {
        struct redis_connection *next = idle->next;

        redis_hang_up(idle);
        idle = next;
    }
}

/* The connection is of no use any more, nor are the idle ones, which are of the same life. */
static void connection_failed(struct redis_cache *cache, struct redis_connection *connection)
{
    struct redis_connection *idle;
    struct err err = {0};
    bool is_first;

    (void)err_set(&err, ERR_UNAVAILABLE, "redis: %s", redis_why(connection));
    pthread_mutex_lock(&cache->lock);
    idle = cache->idle;
    cache->idle = NULL;
    cache->connections--;
    for (struct redis_connection *at = idle; at != NULL; at = at->next)
        cache->connections--;
    is_first = close_locked(cache);
    pthread_mutex_unlock(&cache->lock);
    redis_hang_up(connection);
    hang_up_all(idle);
    if (is_first)
        tell_away(&err);
}

/* What became of dialling; caller holds nothing. */
static void dialled(struct redis_cache *cache, struct redis_connection *connection,
                    const struct err *err)
{
    bool is_first = false;

    pthread_mutex_lock(&cache->lock);
    cache->wanted = false;
    if (connection != NULL) {
        connection->next = cache->idle;
        cache->idle = connection;
        cache->connections++;
        cache->closed = false;
    } else if (cache->connections > 0) {
        /* Who has a connection may be well served; if not, that closes the cache. */
        cache->dial_ns = env_boot_ns(cache->env) + REDIAL_NS;
        cache->closed = false;
    } else {
        cache->closed = false; /* so that the pause grows */
        is_first = close_locked(cache);
    }
    pthread_mutex_unlock(&cache->lock);
    if (is_first)
        tell_away(err);
}

/* Sleep until there is something to dial for.  False: the end. */
static bool await_work(struct redis_cache *cache)
{
    enum err_code rc = ERR_OK;
    bool goes_on;

    pthread_mutex_lock(&cache->lock);
    while (rc != ERR_DEAD && !cache->stopping && !cache->closed && !cache->wanted)
        rc = env_cond_wait(&cache->wake, &cache->lock, NEVER_NS);
    if (cache->closed) {
        uint64_t until_ns = env_boot_ns(cache->env) + cache->pause_ns;

        rc = ERR_OK;
        while (rc == ERR_OK && !cache->stopping)
            rc = env_cond_wait(&cache->wake, &cache->lock, until_ns);
    }
    goes_on = rc != ERR_DEAD && !cache->stopping;
    pthread_mutex_unlock(&cache->lock);
    return goes_on;
}

static void dial_on(void *argument)
{
    struct redis_cache *cache = argument;

    while (await_work(cache)) {
        struct redis_connection *connection;
        struct err err = {0};

        (void)!redis_dial(&connection, &cache->address, cache->env, &err);
        dialled(cache, connection, &err);
    }
}

/* --- entries --------------------------------------------------------------------------------- */

static void key_text(char out[KEY_BYTES + 1], struct hash128 key)
{
    uint8_t bytes[16];

    store_u64(bytes, key.high);
    store_u64(bytes + 8, key.low);
    memcpy(out, KEY_PREFIX, sizeof(KEY_PREFIX) - 1);
    text_hex_encode(out + sizeof(KEY_PREFIX) - 1, bytes, sizeof(bytes));
}

static void head_encode(uint8_t head[HEAD_BYTES], struct hash128 key, const void *value, size_t len)
{
    store_u32(head, MAGIC_VALUE);
    store_u64(head + 4, key.low);
    store_u64(head + 12, key.high);
    store_u32(head + 20, (uint32_t)len);
    store_u64(head + 24, hash_xxh64(len == 0 ? "" : value, len, 0));
}

/* Is it, byte for byte, what was put under this key? */
static bool entry_is_ours(struct hash128 key, const redisReply *reply)
{
    uint8_t head[HEAD_BYTES];

    if (reply->type != REDIS_REPLY_STRING || reply->len < HEAD_BYTES ||
        reply->len > HEAD_BYTES + REDIS_VALUE_MAX)
        return false;
    head_encode(head, key, reply->str + HEAD_BYTES, reply->len - HEAD_BYTES);
    return memcmp(head, reply->str, HEAD_BYTES) == 0;
}

static void count(struct redis_cache *cache, bool hit)
{
    pthread_mutex_lock(&cache->lock);
    cache->stats.hits += hit;
    cache->stats.misses += !hit;
    pthread_mutex_unlock(&cache->lock);
}

static bool redis_cache_get(struct cache *base, struct hash128 key, struct buffer *out)
{
    struct redis_cache *cache = redis_of(base);
    struct redis_connection *connection = connection_take(cache);
    uint64_t until_ns = env_boot_ns(cache->env) + CALL_NS;
    char name[KEY_BYTES + 1];
    const char *argv[] = {"GET", name};
    redisReply *reply = NULL;
    bool hit = false;

    key_text(name, key);
    if (connection != NULL && redis_write(connection, 2, argv, NULL, until_ns) &&
        redis_read_pending(connection, until_ns))
        reply = redis_read(connection, until_ns);
    if (reply != NULL) {
        hit = entry_is_ours(key, reply) && buffer_reserve(out, reply->len - HEAD_BYTES);
        if (hit)
            buffer_append(out, reply->str + HEAD_BYTES, reply->len - HEAD_BYTES);
        freeReplyObject(reply);
        connection_give(cache, connection, true);
    } else if (connection != NULL) {
        connection_failed(cache, connection);
    }
    count(cache, hit);
    return hit;
}

static bool write_put(struct redis_connection *connection, struct hash128 key,
                      const struct buffer *entry, uint32_t ttl_ms)
{
    uint64_t until_ns = env_boot_ns(connection->env) + CALL_NS;
    char name[KEY_BYTES + 1], ttl[16];
    const char *argv[] = {"SET", name, (const char *)entry->data, "PX", ttl};
    const size_t lens[] = {3, KEY_BYTES, entry->len, 2,
                           (size_t)snprintf(ttl, sizeof(ttl), "%u", ttl_ms)};

    key_text(name, key);
    if (!redis_write(connection, 5, argv, lens, until_ns))
        return false;
    connection->pending++;
    return connection->pending < PENDING_MAX || redis_read_pending(connection, until_ns);
}

static void redis_cache_put(struct cache *base, struct hash128 key, const void *value, size_t len,
                            uint32_t ttl_ms)
{
    struct redis_cache *cache = redis_of(base);
    struct redis_connection *connection;
    struct buffer entry = {0};
    uint8_t head[HEAD_BYTES];

    if (len > REDIS_VALUE_MAX || ttl_ms == 0)
        return;
    connection = connection_take(cache);
    if (connection == NULL)
        return;
    head_encode(head, key, value, len);
    buffer_append(&entry, head, sizeof(head));
    buffer_append(&entry, value, len);
    if (entry.failed || write_put(connection, key, &entry, ttl_ms))
        connection_give(cache, connection, false);
    else
        connection_failed(cache, connection);
    buffer_free(&entry);
}

static void redis_cache_stats(struct cache *base, struct cache_stats *out)
{
    struct redis_cache *cache = redis_of(base);

    pthread_mutex_lock(&cache->lock);
    *out = cache->stats;
    pthread_mutex_unlock(&cache->lock);
}

/* --- open and close -------------------------------------------------------------------------- */

static void redis_cache_close(struct cache *base)
{
    struct redis_cache *cache = redis_of(base);

    pthread_mutex_lock(&cache->lock);
    cache->stopping = true;
    env_cond_signal(&cache->wake);
    pthread_mutex_unlock(&cache->lock);
    env_thread_join(cache->dialler);
    hang_up_all(cache->idle);
    env_cond_free(&cache->wake);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* Wrong credentials are wrong for ever; a server that is away now may come. */
static enum err_code redis_cache_open(struct cache **out, const char *url, struct env *env,
                                      struct err *err)
{
    struct redis_cache *cache = calloc(1, sizeof(*cache));
    struct redis_connection *connection = NULL;
    struct err away = {0};
    enum err_code rc;

    if (cache == NULL)
        return err_set(err, ERR_NO_MEMORY, "cache: no memory");
    cache->base.ops = &cache_redis_ops;
    cache->env = env;
    pthread_mutex_init(&cache->lock, NULL);
    env_cond_init(env, &cache->wake);
    if (!redis_parse_url(&cache->address, url))
        rc = err_set(&away, ERR_CONFIG, "cache URL: want redis://[user:password@]host:port[/db]");
    else
        rc = redis_dial(&connection, &cache->address, env, &away);
    if (rc == ERR_OK || rc == ERR_UNAVAILABLE) {
        dialled(cache, connection, &away);
        rc = env_thread_start(env, &cache->dialler, "cache", dial_on, cache, &away);
    }
    if (rc != ERR_OK) {
        redis_cache_close(&cache->base);
        return err_set(err, rc, "%s", away.message);
    }
    *out = &cache->base;
    return ERR_OK;
}

const struct cache_ops cache_redis_ops = {
    .scheme = "redis",
    .open = redis_cache_open,
    .close = redis_cache_close,
    .get = redis_cache_get,
    .put = redis_cache_put,
    .stats = redis_cache_stats,
};
