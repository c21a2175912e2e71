/* A cache in Redis, shared by all routers: redis://[user:password@]host:port[/db]
 *
 * Slower, never wrong: an entry carries its own key, length and checksum, so that what somebody
 * else wrote, or what was damaged, is a miss.  A get waits for at most CALL_MS; a put is written
 * and not waited for, its answer is read before the connection's next use.
 *
 * Failure modes: away, slow, full, garbage: the connection is dropped, and after a failure the
 * cache is not asked for a pause that doubles up to PAUSE_MAX_NS: misses cost nothing then.  At the
 * end of a pause one caller tries again.  Wrong credentials are told at open, where the server is
 * there. */
#include <assert.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "backends/cache/cache.h"
#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/text.h"

#define CONNECTIONS_MAX 64 /* at once; more callers miss */
#define CONNECT_MS      200
#define CALL_MS         50
#define PAUSE_MIN_NS    (100 * NS_PER_MS)
#define PAUSE_MAX_NS    (5 * NS_PER_S)
#define PENDING_MAX     32 /* answers to puts that nobody has read */
#define VALUE_MAX       MIB(1)
#define URL_PART_BYTES  256

/* Of an entry: "VC1\n", the key, the length, XXH3 of the value. */
#define HEAD_BYTES  (4 + 16 + 4 + 8)
#define KEY_PREFIX  "vicinal:1:"
#define KEY_BYTES   (sizeof(KEY_PREFIX) - 1 + 32)
#define MAGIC_VALUE 0x0a314356u /* "VC1\n" */

struct connection {
    struct connection *next;
    redisContext *redis;
    unsigned pending; /* puts whose answers have not been read */
};

struct redis_cache {
    struct cache base; /* first */
    struct env *env;
    char host[URL_PART_BYTES], user[URL_PART_BYTES], password[URL_PART_BYTES];
    uint16_t port;
    unsigned db;

    pthread_mutex_t lock; /* guards what follows; never held while talking */
    struct connection *idle;
    unsigned connections;
    uint64_t pause_ns, closed_until_ns; /* 0: open */
    struct cache_stats stats;
};

static struct redis_cache *redis_of(struct cache *cache)
{
    assert(cache->ops == &cache_redis_ops);
    return (struct redis_cache *)cache;
}

/* --- the URL -----------------------------------------------------------------------------------
 */

/* len bytes of text, percent-decoded. */
static bool url_part(char out[URL_PART_BYTES], const char *text, size_t len)
{
    size_t decoded;

    if (len >= URL_PART_BYTES)
        return false;
    memcpy(out, text, len);
    decoded = text_percent_decode(out, len);
    if (decoded == SIZE_MAX || memchr(out, '\0', decoded) != NULL)
        return false;
    out[decoded] = '\0';
    return true;
}

/* host:port[/db] */
static bool parse_place(struct redis_cache *cache, const char *place)
{
    const char *slash = strchr(place, '/'), *end = slash != NULL ? slash : place + strlen(place);
    const char *colon = memrchr(place, ':', (size_t)(end - place));
    uint64_t port, db = 0;

    if (colon == NULL || colon == place || !url_part(cache->host, place, (size_t)(colon - place)) ||
        !text_to_u64(colon + 1, (size_t)(end - colon - 1), &port) || port == 0 || port > UINT16_MAX)
        return false;
    if (slash != NULL && slash[1] != '\0' && !text_to_u64(slash + 1, strlen(slash + 1), &db))
        return false;
    cache->port = (uint16_t)port;
    cache->db = (unsigned)db;
    return db <= 1000000;
}

static bool parse_url(struct redis_cache *cache, const char *url)
{
    const char *place = url + strlen("redis://"), *at, *colon;

    if (strncmp(url, "redis://", strlen("redis://")) != 0)
        return false;
    at = strrchr(place, '@');
    if (at == NULL)
        return parse_place(cache, place);
    colon = memchr(place, ':', (size_t)(at - place));
    if (colon == NULL || !url_part(cache->user, place, (size_t)(colon - place)) ||
        !url_part(cache->password, colon + 1, (size_t)(at - colon - 1)))
        return false;
    return parse_place(cache, at + 1);
}

/* --- connections -------------------------------------------------------------------------------
 */

static void connection_free(struct redis_cache *cache, struct connection *connection)
{
    if (connection->redis != NULL)
        redisFree(connection->redis);
    free(connection);
    pthread_mutex_lock(&cache->lock);
    cache->connections--;
    pthread_mutex_unlock(&cache->lock);
}

/* A command at the start of a connection; its answer must be a status. */
static enum err_code say(redisContext *redis, int argc, const char **argv, struct err *err)
{
    redisReply *reply = redisCommandArgv(redis, argc, argv, NULL);
    enum err_code rc = ERR_OK;

    if (reply == NULL)
        return err_set(err, ERR_UNAVAILABLE, "redis: %s", redis->errstr);
    /* Loading or busy passes; what is wrong about us does not. */
    if (reply->type == REDIS_REPLY_ERROR)
        rc = err_set(err,
                     strncmp(reply->str, "LOADING", 7) == 0 || strncmp(reply->str, "BUSY", 4) == 0
                         ? ERR_UNAVAILABLE
                         : ERR_CONFIG,
                     "redis says: %.200s", reply->str);
    else if (reply->type != REDIS_REPLY_STATUS)
        rc = err_set(err, ERR_UNAVAILABLE, "what answers there is no redis");
    freeReplyObject(reply);
    return rc;
}

static enum err_code greet(const struct redis_cache *cache, redisContext *redis, struct err *err)
{
    bool has_user = cache->user[0] != '\0';
    const char *auth[] = {"AUTH", has_user ? cache->user : cache->password, cache->password};
    const char *ping[] = {"PING"}, *choose[] = {"SELECT", NULL};
    char db[16];
    enum err_code rc = ERR_OK;

    if (cache->password[0] != '\0')
        rc = say(redis, has_user ? 3 : 2, auth, err);
    if (rc == ERR_OK && cache->db != 0) {
        (void)snprintf(db, sizeof(db), "%u", cache->db);
        choose[1] = db;
        rc = say(redis, 2, choose, err);
    }
    return rc == ERR_OK ? say(redis, 1, ping, err) : rc;
}

static enum err_code dial(const struct redis_cache *cache, redisContext **out, struct err *err)
{
    const struct timeval connect = {.tv_usec = CONNECT_MS * 1000},
                         call = {.tv_usec = CALL_MS * 1000};
    redisContext *redis = redisConnectWithTimeout(cache->host, cache->port, connect);
    const int on = 1;
    enum err_code rc = ERR_OK;

    if (redis == NULL)
        return err_set(err, ERR_NO_MEMORY, "redis: no memory");
    if (redis->err != 0)
        rc = err_set(err, ERR_UNAVAILABLE, "redis at %s:%u: %s", cache->host, cache->port,
                     redis->errstr);
    else if (redisSetTimeout(redis, call) != REDIS_OK)
        rc = err_set(err, ERR_UNAVAILABLE, "redis: no time-out can be set");
    if (rc == ERR_OK) {
        (void)setsockopt(redis->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        redis->reader->maxbuf = KIB(64); /* kept when idle */
        rc = greet(cache, redis, err);
    }
    if (rc == ERR_OK)
        *out = redis;
    else
        redisFree(redis);
    return rc;
}

/* The cache has failed: leave it alone for a while. */
static void pause_it(struct redis_cache *cache, const struct err *why)
{
    uint64_t now_ns = env_boot_ns(cache->env);
    bool is_first;

    pthread_mutex_lock(&cache->lock);
    is_first = cache->pause_ns == 0;
    cache->pause_ns = is_first ? PAUSE_MIN_NS : MIN_OF(cache->pause_ns * 2, PAUSE_MAX_NS);
    cache->closed_until_ns = now_ns + cache->pause_ns;
    pthread_mutex_unlock(&cache->lock);
    if (is_first)
        log_err(LOG_WARN, &(struct log_context){.operation = "cache"},
                "the cache is away: going on without", why);
}

static void went_well(struct redis_cache *cache)
{
    bool was_away;

    pthread_mutex_lock(&cache->lock);
    was_away = cache->pause_ns != 0;
    cache->pause_ns = cache->closed_until_ns = 0;
    pthread_mutex_unlock(&cache->lock);
    if (was_away)
        log_info(&(struct log_context){.operation = "cache"}, "the cache is back");
}

/* May the cache be asked now?  One caller at the end of a pause; then *idle may be NULL. */
static bool may_ask(struct redis_cache *cache, struct connection **idle)
{
    uint64_t now_ns = env_boot_ns(cache->env);
    bool may = true;

    pthread_mutex_lock(&cache->lock);
    *idle = NULL;
    if (cache->closed_until_ns != 0) {
        may = now_ns >= cache->closed_until_ns;
        if (may) /* the others wait for what comes of this one */
            cache->closed_until_ns = now_ns + cache->pause_ns;
    }
    if (may && cache->idle != NULL) {
        *idle = cache->idle;
        cache->idle = (*idle)->next;
    } else if (may) {
        may = cache->connections < CONNECTIONS_MAX;
        cache->connections += may;
    }
    pthread_mutex_unlock(&cache->lock);
    return may;
}

static struct connection *connection_take(struct redis_cache *cache)
{
    struct connection *connection;
    struct err err = {0};

    if (!may_ask(cache, &connection) || connection != NULL)
        return connection;
    connection = calloc(1, sizeof(*connection));
    if (connection == NULL) {
        pthread_mutex_lock(&cache->lock);
        cache->connections--;
        pthread_mutex_unlock(&cache->lock);
        return NULL;
    }
    if (dial(cache, &connection->redis, &err) != ERR_OK) {
        connection_free(cache, connection);
        pause_it(cache, &err);
        return NULL;
    }
    return connection;
}

static void connection_give(struct redis_cache *cache, struct connection *connection)
{
    pthread_mutex_lock(&cache->lock);
    connection->next = cache->idle;
    cache->idle = connection;
    pthread_mutex_unlock(&cache->lock);
}

/* The connection is of no use any more, nor are the idle ones, which are of the same life. */
static void connection_failed(struct redis_cache *cache, struct connection *connection)
{
    struct connection *idle;
    struct err err = {0};

    (void)err_set(&err, ERR_UNAVAILABLE, "redis: %s",
                  connection->redis->err != 0 ? connection->redis->errstr : "nonsense");
    connection_free(cache, connection);
    pthread_mutex_lock(&cache->lock);
    idle = cache->idle;
    cache->idle = NULL;
    pthread_mutex_unlock(&cache->lock);
    while (idle != NULL) {
        struct connection *next = idle->next;

        connection_free(cache, idle);
        idle = next;
    }
    pause_it(cache, &err);
}

/* Read the answers to puts.  Whether a put succeeded is of no interest: a full server says no. */
static bool read_pending(struct connection *connection)
{
    while (connection->pending > 0) {
        void *reply = NULL;

        if (redisGetReply(connection->redis, &reply) != REDIS_OK)
            return false;
        freeReplyObject(reply);
        connection->pending--;
    }
    return true;
}

/* --- entries -----------------------------------------------------------------------------------
 */

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
        reply->len > HEAD_BYTES + VALUE_MAX)
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
    struct connection *connection = connection_take(cache);
    char name[KEY_BYTES + 1];
    redisReply *reply = NULL;
    bool hit = false;

    if (connection != NULL && read_pending(connection)) {
        const char *argv[] = {"GET", name};

        key_text(name, key);
        reply = redisCommandArgv(connection->redis, 2, argv, NULL);
    }
    if (reply != NULL) {
        hit = entry_is_ours(key, reply);
        if (hit) {
            buffer_append(out, reply->str + HEAD_BYTES, reply->len - HEAD_BYTES);
            hit = !out->failed;
        }
        freeReplyObject(reply);
        connection_give(cache, connection);
        went_well(cache);
    } else if (connection != NULL) {
        connection_failed(cache, connection);
    }
    count(cache, hit);
    return hit;
}

static bool write_put(struct connection *connection, struct hash128 key, struct buffer *entry,
                      uint32_t ttl_ms)
{
    char name[KEY_BYTES + 1], ttl[16];
    const char *argv[] = {"SET", name, (const char *)entry->data, "PX", ttl};
    const size_t lens[] = {3, KEY_BYTES, entry->len, 2,
                           (size_t)snprintf(ttl, sizeof(ttl), "%u", ttl_ms)};
    int done = 0;

    key_text(name, key);
    if (redisAppendCommandArgv(connection->redis, 5, argv, lens) != REDIS_OK)
        return false;
    connection->pending++;
    while (done == 0)
        if (redisBufferWrite(connection->redis, &done) != REDIS_OK)
            return false;
    return connection->pending < PENDING_MAX || read_pending(connection);
}

static void redis_cache_put(struct cache *base, struct hash128 key, const void *value, size_t len,
                            uint32_t ttl_ms)
{
    struct redis_cache *cache = redis_of(base);
    struct connection *connection;
    struct buffer entry = {0};
    uint8_t head[HEAD_BYTES];

    if (len > VALUE_MAX || ttl_ms == 0)
        return;
    head_encode(head, key, value, len);
    buffer_append(&entry, head, sizeof(head));
    buffer_append(&entry, value, len);
    connection = entry.failed ? NULL : connection_take(cache);
    if (connection != NULL) {
        if (write_put(connection, key, &entry, ttl_ms))
            connection_give(cache, connection);
        else
            connection_failed(cache, connection);
    }
    buffer_free(&entry);
}

static void redis_cache_stats(struct cache *base, struct cache_stats *out)
{
    struct redis_cache *cache = redis_of(base);

    pthread_mutex_lock(&cache->lock);
    *out = cache->stats;
    pthread_mutex_unlock(&cache->lock);
}

/* --- open and close ----------------------------------------------------------------------------
 */

static void redis_cache_close(struct cache *base)
{
    struct redis_cache *cache = redis_of(base);

    while (cache->idle != NULL) {
        struct connection *connection = cache->idle;

        cache->idle = connection->next;
        connection_free(cache, connection);
    }
    assert(cache->connections == 0);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* Wrong credentials are wrong for ever; a server that is away now may come. */
static enum err_code redis_cache_open(struct cache **out, const char *url, struct env *env,
                                      struct err *err)
{
    struct redis_cache *cache = calloc(1, sizeof(*cache));
    redisContext *redis = NULL;
    struct err away = {0};
    enum err_code rc = ERR_OK;

    if (cache == NULL)
        return err_set(err, ERR_NO_MEMORY, "cache: no memory");
    cache->base.ops = &cache_redis_ops;
    cache->env = env;
    pthread_mutex_init(&cache->lock, NULL);
    if (!parse_url(cache, url))
        rc = err_set(&away, ERR_CONFIG, "cache URL: want redis://[user:password@]host:port[/db]");
    else
        rc = dial(cache, &redis, &away);
    if (redis != NULL)
        redisFree(redis);
    if (rc != ERR_OK && rc != ERR_UNAVAILABLE) {
        redis_cache_close(&cache->base);
        return err_set(err, rc, "%s", away.message);
    }
    if (rc != ERR_OK)
        pause_it(cache, &away);
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
