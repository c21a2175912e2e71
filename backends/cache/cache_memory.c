/* A cache in this process.
 *
 * Keys are spread over SHARDS parts, each with its own mutex, hash table of chains and list in
 * order of use; each part has the same share of the room.  What is counted against the room is all
 * that a value costs: its bytes, its entry, the allocator's part and the buckets.  A put makes room
 * from the far end of the list; a get moves to the front, or removes what is too old.  Without
 * memory a put is dropped: the next get misses.
 */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cache/cache.h"
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/base/text.h"

#define SHARDS          8 /* a power of two */
#define ROOM_MIN        KIB(64)
#define VALUE_SHARE     16 /* a value has at most the room divided by this */
#define BUCKETS_FIRST   16 /* a power of two */
#define ALLOCATOR_BYTES 16 /* what malloc adds to a block, roughly */

struct entry {
    struct hash128 key;
    uint64_t expires_ns;
    struct entry *chain; /* next of the same bucket */
    struct entry *newer; /* list in order of use */
    struct entry *older;
    size_t len;
    uint8_t value[];
};

struct shard {
    pthread_mutex_t lock;
    /* below: guarded by lock */
    struct entry **buckets; /* NULL as long as there was no entry */
    size_t bucket_count;
    struct entry *newest, *oldest;
    size_t bytes;             /* entries and buckets */
    struct cache_stats stats; /* entries and counters; bytes is filled when asked */
};

struct memory_cache {
    struct cache base; /* first */
    struct env *env;
    size_t value_max;
    size_t shard_room;
    struct shard shards[SHARDS];
};

static struct memory_cache *memory_of(struct cache *cache)
{
    assert(cache->ops == &cache_memory_ops);
    return (struct memory_cache *)cache;
}

/* "64MiB", "100000". */
static bool parse_size(const char *text, size_t *size)
{
    static const struct {
        const char *suffix;
        unsigned shift;
    } units[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"", 0}};
    size_t digits = strspn(text, "0123456789");
    uint64_t number;

    if (!text_to_u64(text, digits, &number))
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        if (strcmp(text + digits, units[i].suffix) == 0)
            return checked_mul(number, (uint64_t)1 << units[i].shift, size);
    }
    return false;
}

static enum err_code memory_open(struct cache **out, const char *url, struct env *env,
                                 struct err *err)
{
    struct memory_cache *memory;
    size_t room;

    if (!parse_size(url + strlen("memory:"), &room) || room < ROOM_MIN)
        return err_set(err, ERR_CONFIG,
                       "cache URL \"%s\": want memory:SIZE with a size as 64MiB, at least 64KiB",
                       url);
    memory = calloc(1, sizeof(*memory));
    if (memory == NULL)
        return err_set(err, ERR_NO_MEMORY, "cache: no memory");
    memory->base.ops = &cache_memory_ops;
    memory->env = env;
    memory->value_max = room / VALUE_SHARE;
    memory->shard_room = room / SHARDS;
    for (size_t i = 0; i < SHARDS; i++)
        pthread_mutex_init(&memory->shards[i].lock, NULL);
    *out = &memory->base;
    return ERR_OK;
}

static void memory_close(struct cache *cache)
{
    struct memory_cache *memory = memory_of(cache);

    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *shard = &memory->shards[i];

        while (shard->newest != NULL) {
            struct entry *entry = shard->newest;

            shard->newest = entry->older;
            free(entry);
        }
        free(shard->buckets);
        pthread_mutex_destroy(&shard->lock);
    }
    free(memory);
}

/* The two halves of a key choose different things, so that a shard's buckets are used evenly. */
static struct shard *shard_of(struct memory_cache *memory, struct hash128 key)
{
    return &memory->shards[key.high & (SHARDS - 1)];
}

static size_t cost_of(const struct entry *entry)
{
    return sizeof(*entry) + entry->len + ALLOCATOR_BYTES;
}

/* The pointer that leads to the entry, or to the NULL at the end of its chain; caller holds lock
 * and there are buckets. */
static struct entry **find_locked(struct shard *shard, struct hash128 key)
{
    struct entry **link = &shard->buckets[key.low & (shard->bucket_count - 1)];

    while (*link != NULL && ((*link)->key.low != key.low || (*link)->key.high != key.high))
        link = &(*link)->chain;
    return link;
}

static void list_remove_locked(struct shard *shard, struct entry *entry)
{
    if (entry->newer != NULL)
        entry->newer->older = entry->older;
    else
        shard->newest = entry->older;
    if (entry->older != NULL)
        entry->older->newer = entry->newer;
    else
        shard->oldest = entry->newer;
}

static void list_push_locked(struct shard *shard, struct entry *entry)
{
    entry->newer = NULL;
    entry->older = shard->newest;
    if (shard->newest != NULL)
        shard->newest->newer = entry;
    else
        shard->oldest = entry;
    shard->newest = entry;
}

static void remove_locked(struct shard *shard, struct entry **link)
{
    struct entry *entry = *link;

    assert(shard->stats.entries > 0);
    assert(shard->bytes >= cost_of(entry));
    *link = entry->chain;
    list_remove_locked(shard, entry);
    shard->bytes -= cost_of(entry);
    shard->stats.entries--;
    free(entry);
}

/* Room in the table for one more entry: as many buckets as entries.  False: no memory, and no
 * buckets at all.  Chains only grow longer when a bigger table cannot be had. */
static bool grow_buckets_locked(struct shard *shard)
{
    size_t count = shard->bucket_count == 0 ? BUCKETS_FIRST : shard->bucket_count * 2;
    struct entry **buckets;

    if (shard->stats.entries < shard->bucket_count)
        return true;
    buckets = array_alloc(count, sizeof(struct entry *));
    if (buckets == NULL)
        return shard->buckets != NULL;
    for (struct entry *entry = shard->newest; entry != NULL; entry = entry->older) {
        struct entry **bucket = &buckets[entry->key.low & (count - 1)];

        entry->chain = *bucket;
        *bucket = entry;
    }
    free(shard->buckets);
    shard->bytes += (count - shard->bucket_count) * sizeof(struct entry *);
    shard->buckets = buckets;
    shard->bucket_count = count;
    return true;
}

static bool memory_get(struct cache *cache, struct hash128 key, struct buffer *out)
{
    struct memory_cache *memory = memory_of(cache);
    struct shard *shard = shard_of(memory, key);
    uint64_t now_ns = env_boot_ns(memory->env);
    struct entry **link;
    bool hit = false;

    pthread_mutex_lock(&shard->lock);
    link = shard->buckets == NULL ? NULL : find_locked(shard, key);
    if (link != NULL && *link != NULL) {
        struct entry *entry = *link;

        if (now_ns >= entry->expires_ns) {
            remove_locked(shard, link);
        } else if (buffer_reserve(out, entry->len)) {
            buffer_append(out, entry->value, entry->len);
            list_remove_locked(shard, entry);
            list_push_locked(shard, entry);
            hit = true;
        }
    }
    if (hit)
        shard->stats.hits++;
    else
        shard->stats.misses++;
    pthread_mutex_unlock(&shard->lock);
    return hit;
}

/* Takes over entry. */
static void insert(struct memory_cache *memory, struct shard *shard, struct entry *entry)
{
    struct entry **link;

    pthread_mutex_lock(&shard->lock);
    if (!grow_buckets_locked(shard)) {
        pthread_mutex_unlock(&shard->lock);
        free(entry);
        return;
    }
    link = find_locked(shard, entry->key);
    if (*link != NULL)
        remove_locked(shard, link);
    while (shard->oldest != NULL && shard->bytes + cost_of(entry) > memory->shard_room) {
        remove_locked(shard, find_locked(shard, shard->oldest->key));
        shard->stats.evictions++;
    }
    link = find_locked(shard, entry->key);
    entry->chain = NULL;
    *link = entry;
    list_push_locked(shard, entry);
    shard->bytes += cost_of(entry);
    shard->stats.entries++;
    pthread_mutex_unlock(&shard->lock);
}

static void memory_put(struct cache *cache, struct hash128 key, const void *value, size_t len,
                       uint32_t ttl_ms)
{
    struct memory_cache *memory = memory_of(cache);
    struct entry *entry;

    if (len > memory->value_max || ttl_ms == 0)
        return;
    entry = malloc(sizeof(*entry) + len);
    if (entry == NULL)
        return;
    *entry = (struct entry){
        .key = key, .expires_ns = env_boot_ns(memory->env) + ttl_ms * NS_PER_MS, .len = len};
    if (len > 0)
        memcpy(entry->value, value, len);
    insert(memory, shard_of(memory, key), entry);
}

static void memory_stats(struct cache *cache, struct cache_stats *out)
{
    struct memory_cache *memory = memory_of(cache);

    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *shard = &memory->shards[i];

        pthread_mutex_lock(&shard->lock);
        out->hits += shard->stats.hits;
        out->misses += shard->stats.misses;
        out->evictions += shard->stats.evictions;
        out->entries += shard->stats.entries;
        out->bytes += shard->bytes;
        pthread_mutex_unlock(&shard->lock);
    }
}

const struct cache_ops cache_memory_ops = {
    .scheme = "memory",
    .open = memory_open,
    .close = memory_close,
    .get = memory_get,
    .put = memory_put,
    .stats = memory_stats,
};
