/* Bitmaps of filters: see bitmap.h.
 *
 * A bitmap belongs to (store, collection, its revision in the snapshot, partitions asked, filter
 * text); the revision rises with every commit that changes the collection, so that a kept bitmap is
 * never stale.  Failure modes: the deadline, looked at every 1,024 rows and more often where their
 * metadata is long; no memory. */
#include "services/shard/bitmap.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_reader.h"
#include "common/model/record.h"
#include "services/shard/apply.h"
#include "services/shard/rows.h"

#define KEPT_BYTES_MAX MIB(64) /* of all bitmaps and filter texts kept */
#define ROW_WORK       64      /* of any row, beside the bytes of its metadata */
#define WORK_PER_CHECK KIB(64) /* between two looks at the clock */

struct key {
    uint64_t generation;
    uint32_t collection;
    uint64_t revision;
    struct partition_set asked;
    char *filter; /* owned in the cache, borrowed in a look-up */
    size_t filter_len;
};

struct kept {
    struct key key;
    struct bitmap *bitmap; /* NULL: free */
    uint64_t used_at;
    size_t bytes;
};

struct bitmap_cache {
    pthread_mutex_t lock;
    /* below: guarded by lock */
    uint64_t clock;
    size_t bytes;
    struct kept kept[BITMAPS_KEPT];
};

struct bitmap_cache *bitmap_cache_new(void)
{
    struct bitmap_cache *cache = array_alloc(1, sizeof(*cache));

    if (cache != NULL)
        pthread_mutex_init(&cache->lock, NULL);
    return cache;
}

static void bitmap_free(struct bitmap *bitmap)
{
    if (bitmap == NULL)
        return;
    free((void *)(uintptr_t)bitmap->bits.words);
    free(bitmap);
}

/* Caller holds the cache's lock.  True: that was the last reference. */
static bool drop_reference_locked(struct bitmap *bitmap)
{
    assert(bitmap->references > 0);
    return --bitmap->references == 0;
}

void bitmap_put(struct bitmap *bitmap)
{
    bool is_last;

    if (bitmap == NULL)
        return;
    pthread_mutex_lock(&bitmap->cache->lock);
    is_last = drop_reference_locked(bitmap);
    pthread_mutex_unlock(&bitmap->cache->lock);
    if (is_last)
        bitmap_free(bitmap);
}

static void evict_locked(struct bitmap_cache *cache, struct kept *kept)
{
    if (kept->bitmap == NULL)
        return;
    if (drop_reference_locked(kept->bitmap))
        bitmap_free(kept->bitmap);
    free(kept->key.filter);
    cache->bytes -= kept->bytes;
    *kept = (struct kept){0};
}

void bitmap_cache_free(struct bitmap_cache *cache)
{
    if (cache == NULL)
        return;
    for (size_t i = 0; i < BITMAPS_KEPT; i++)
        evict_locked(cache, &cache->kept[i]);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

static bool keys_are_equal(const struct key *a, const struct key *b)
{
    return a->generation == b->generation && a->collection == b->collection &&
           a->revision == b->revision && a->filter_len == b->filter_len &&
           memcmp(&a->asked, &b->asked, sizeof(a->asked)) == 0 &&
           (a->filter_len == 0 || memcmp(a->filter, b->filter, a->filter_len) == 0);
}

static struct bitmap *look_up(struct bitmap_cache *cache, const struct key *key)
{
    struct bitmap *found = NULL;

    pthread_mutex_lock(&cache->lock);
    for (size_t i = 0; found == NULL && i < BITMAPS_KEPT; i++) {
        if (cache->kept[i].bitmap == NULL || !keys_are_equal(&cache->kept[i].key, key))
            continue;
        cache->kept[i].used_at = ++cache->clock;
        found = cache->kept[i].bitmap;
        found->references++;
    }
    pthread_mutex_unlock(&cache->lock);
    return found;
}

/* Keep the bitmap in the place used longest ago.  Without memory it is not kept. */
static void keep(struct bitmap_cache *cache, const struct key *key, struct bitmap *bitmap)
{
    size_t bytes = bitmap->bits.word_count * sizeof(uint64_t) + key->filter_len;
    char *filter;

    if (bytes > KEPT_BYTES_MAX)
        return;
    filter = array_alloc(key->filter_len, 1);
    if (filter == NULL)
        return;
    if (key->filter_len > 0)
        memcpy(filter, key->filter, key->filter_len);
    pthread_mutex_lock(&cache->lock);
    for (;;) {
        struct kept *oldest = &cache->kept[0];

        for (size_t i = 1; i < BITMAPS_KEPT; i++) {
            if (cache->kept[i].used_at < oldest->used_at)
                oldest = &cache->kept[i];
        }
        if (oldest->bitmap == NULL && cache->bytes + bytes <= KEPT_BYTES_MAX) {
            *oldest = (struct kept){.key = *key, .bitmap = bitmap, .bytes = bytes};
            oldest->key.filter = filter;
            oldest->used_at = ++cache->clock;
            cache->bytes += bytes;
            bitmap->references++;
            break;
        }
        /* A free place, and still too many bytes: the oldest in use goes. */
        if (oldest->bitmap == NULL) {
            for (size_t i = 0; i < BITMAPS_KEPT; i++) {
                if (cache->kept[i].bitmap != NULL &&
                    (oldest->bitmap == NULL || cache->kept[i].used_at < oldest->used_at))
                    oldest = &cache->kept[i];
            }
        }
        evict_locked(cache, oldest);
    }
    pthread_mutex_unlock(&cache->lock);
}

/* --- making one --------------------------------------------------------------------------------
 */

struct making {
    const struct bitmap_request *request;
    struct bitmap *bitmap;
    uint64_t *words;
    uint64_t ordinals; /* room, in bits */
    uint64_t work;     /* since the last look at the clock */
    struct filter_scratch scratch;
};

static void consider(struct making *making, const struct row *row, uint32_t ordinal)
{
    const struct bitmap_request *request = making->request;
    uint64_t bit = 1ull << ordinal % 64;

    if (!row->has_vector || ordinal >= making->ordinals ||
        !partition_set_has(request->asked, row->partition) ||
        (making->words[ordinal / 64] & bit) != 0 ||
        !filter_matches(request->filter, row->id, row->id_len, row->metadata, row->metadata_len,
                        &making->scratch))
        return;
    making->words[ordinal / 64] |= bit;
    making->bitmap->bits.cardinality++;
}

/* After each row: a filter costs as much as the metadata is long. */
static enum err_code check_deadline(struct making *making, size_t metadata_len, struct err *err)
{
    const struct bitmap_request *request = making->request;

    making->work += ROW_WORK + metadata_len;
    if (making->work < WORK_PER_CHECK)
        return ERR_OK;
    making->work = 0;
    if (env_boot_ns(request->env) >= request->deadline_ns)
        return err_set(err, ERR_TIMEOUT, "the deadline came while the filter was evaluated");
    return ERR_OK;
}

static enum err_code walk_rows(struct making *making, struct err *err)
{
    const struct bitmap_request *request = making->request;
    struct ordinal_key from = ordinal_key_of(request->collection, 0);
    struct store_cursor *cursor = NULL;
    enum err_code code =
        store_cursor_open(&cursor, request->txn, STORE_ROWS, ordinal_key_value(&from), err);

    while (code == ERR_OK) {
        struct store_value key, value;
        struct row row;
        uint32_t ordinal;
        bool more;

        code = store_cursor_next(cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more || !ordinal_key_is_of(key, request->collection, &ordinal))
            break;
        code = row_decode(&row, value, err);
        if (code == ERR_OK) {
            consider(making, &row, ordinal);
            making->bitmap->scanned++;
            code = check_deadline(making, row.metadata_len, err);
        }
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    return code;
}

static enum err_code look_up_ids(struct making *making, const struct json_text *ids, size_t count,
                                 struct err *err)
{
    const struct bitmap_request *request = making->request;
    enum err_code code = ERR_OK;

    for (size_t i = 0; code == ERR_OK && i < count; i++) {
        struct id_entry entry;
        struct id_key key;
        struct row row;
        uint32_t partition;

        if (ids[i].len == 0 || ids[i].len > ID_BYTES_MAX)
            continue;
        partition = record_partition(ids[i].data, ids[i].len, request->partitions_all);
        key = id_key_of(request->collection, partition, ids[i].data, ids[i].len);
        code = id_entry_get(&entry, request->txn, &key, err);
        making->bitmap->scanned++;
        if (code == ERR_OK && entry.is_live) {
            code = row_get(&row, request->txn, request->collection, entry.ordinal, err);
            if (code == ERR_OK) {
                consider(making, &row, entry.ordinal);
                code = check_deadline(making, row.metadata_len, err);
            }
        }
        if (code == ERR_NOT_FOUND)
            code = ERR_OK;
    }
    return code;
}

static enum err_code make(struct bitmap **out, struct bitmap_cache *cache,
                          const struct bitmap_request *request, uint32_t ordinals, struct err *err)
{
    struct making making = {.request = request, .ordinals = ordinals};
    size_t words = ((size_t)ordinals + 63) / 64;
    const struct json_text *ids;
    size_t id_count = 0;
    enum err_code code;

    making.bitmap = array_alloc(1, sizeof(*making.bitmap));
    making.words = array_alloc(words, sizeof(uint64_t));
    if (making.bitmap == NULL || making.words == NULL) {
        free(making.bitmap);
        free(making.words);
        return err_set(err, ERR_NO_MEMORY, "no memory for the bitmap of a filter");
    }
    making.bitmap->bits.words = making.words;
    making.bitmap->bits.word_count = words;
    making.bitmap->references = 1;
    making.bitmap->cache = cache;
    ids = request->filter == NULL ? NULL : filter_ids(request->filter, &id_count);
    code = ids != NULL ? look_up_ids(&making, ids, id_count, err) : walk_rows(&making, err);
    /* Rows may have been judged wrongly then. */
    if (code == ERR_OK && making.scratch.failed)
        code = err_set(err, ERR_NO_MEMORY, "no memory to evaluate the filter");
    filter_scratch_free(&making.scratch);
    if (code != ERR_OK) {
        bitmap_free(making.bitmap);
        return code;
    }
    *out = making.bitmap;
    return ERR_OK;
}

enum err_code bitmap_get(struct bitmap **out, struct bitmap_cache *cache,
                         const struct bitmap_request *request, struct err *err)
{
    struct apply_numbers numbers = {0};
    struct key key = {
        .generation = request->generation,
        .collection = request->collection,
        .asked = *request->asked,
        .filter = (char *)(uintptr_t)request->filter_text,
        .filter_len = request->filter_len,
    };
    enum err_code code = apply_read_numbers(&numbers, request->txn, request->collection, err);

    /* NOT_FOUND: the snapshot is older than the collection, and has no rows of it. */
    if (code != ERR_OK && code != ERR_NOT_FOUND)
        return code;
    key.revision = numbers.revision;
    *out = look_up(cache, &key);
    if (*out != NULL)
        return ERR_OK;
    code = make(out, cache, request, numbers.next_ordinal, err);
    if (code == ERR_OK)
        keep(cache, &key, *out);
    return code;
}
