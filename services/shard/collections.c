/* The collections as readers know them: by incarnation, with an engine each.
 *
 * Entries stand under the numbers that the consistency core gave them.  The consumer makes an entry
 * before the commit that makes it true, and publishes it after; a reader takes a reference, so that
 * an engine lives until its last search has ended.  A dropped collection keeps an entry without an
 * engine: questions for it are told that it is gone, not that it is empty.
 *
 * Failure modes: no memory for an entry or an engine fails the consumer's batch, which is undone
 * and tried again. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "services/shard/helpers.h"
#include "services/shard/shard.h"

#define INDEX_SIZE_FIRST 64

static void entry_free(struct shard_collection *entry)
{
    if (entry == NULL)
        return;
    assert(entry->references == 0);
    if (entry->engine != NULL)
        engine_close(entry->engine);
    free(entry->parts);
    free(entry);
}

void collections_put(struct shard *shard, struct shard_collection *collection)
{
    bool is_last;

    if (collection == NULL)
        return;
    pthread_mutex_lock(&shard->lock);
    assert(collection->references > 0);
    is_last = --collection->references == 0;
    pthread_mutex_unlock(&shard->lock);
    if (is_last)
        entry_free(collection);
}

/* Caller holds the lock.  Where an incarnation stands or would stand; there is a free place. */
static uint32_t *place_locked(struct shard *shard, const uint8_t *incarnation)
{
    uint32_t at = (uint32_t)hash_xxh64(incarnation, INCARNATION_BYTES, 0);

    for (;; at++) {
        uint32_t *place = &shard->index[at & (shard->index_size - 1)];

        if (*place == 0 || memcmp(shard->collections[*place - 1]->definition.incarnation,
                                  incarnation, INCARNATION_BYTES) == 0)
            return place;
    }
}

struct shard_collection *collections_get(struct shard *shard,
                                         const uint8_t incarnation[INCARNATION_BYTES])
{
    struct shard_collection *entry = NULL;

    pthread_mutex_lock(&shard->lock);
    if (shard->index_size > 0) {
        uint32_t number = *place_locked(shard, incarnation);

        if (number != 0 && shard->collections[number - 1]->is_published) {
            entry = shard->collections[number - 1];
            entry->references++;
        }
    }
    pthread_mutex_unlock(&shard->lock);
    return entry;
}

struct shard_collection *collections_at(struct shard *shard, uint32_t number, bool *is_last)
{
    struct shard_collection *entry = NULL;

    pthread_mutex_lock(&shard->lock);
    *is_last = number + 1 >= shard->collection_count;
    if (number < shard->collection_count && shard->collections[number]->engine != NULL) {
        entry = shard->collections[number];
        entry->references++;
    }
    pthread_mutex_unlock(&shard->lock);
    return entry;
}

struct shard_collection *collections_own(struct shard *shard, uint32_t number)
{
    assert(number < shard->collection_count);
    return shard->collections[number];
}

static enum err_code open_engine(struct shard *shard, struct shard_collection *entry,
                                 struct err *err)
{
    static const enum engine_metric metrics[] = {
        [METRIC_COSINE] = ENGINE_COSINE,
        [METRIC_IP] = ENGINE_IP,
        [METRIC_L2] = ENGINE_L2,
    };
    const struct collection *definition = &entry->definition;
    struct engine_options options = {
        .dim = definition->dimension,
        .metric = metrics[definition->metric],
        .kind = definition->index == INDEX_FLAT ? ENGINE_FLAT : ENGINE_HNSW,
        .m = definition->m,
        .ef_construction = definition->ef_construction,
        .memory_budget = shard->setup.memory_bytes,
        .seed = load_u64(definition->incarnation),
        .kernel = shard->setup.simd,
    };
    struct engine_executor executor = helpers_executor(shard->helpers);
    enum err_code code = engine_open(&entry->engine, NULL, &options, &executor, err);

    return code == ERR_OK ? ERR_OK : err_wrap(err, "collection %s", definition->name);
}

static enum err_code entry_new(struct shard *shard, const struct apply_collection *from,
                               bool with_engine, struct shard_collection **out, struct err *err)
{
    struct shard_collection *entry = array_alloc(1, sizeof(*entry));
    enum err_code code;

    *out = NULL;
    if (entry == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for another collection");
    entry->number = from->number;
    entry->definition = from->definition;
    atomic_init(&entry->pending, 0);
    entry->parts = array_alloc(shard->apply.partition_count, sizeof(*entry->parts));
    code = entry->parts == NULL ? err_set(err, ERR_NO_MEMORY, "no memory for another collection")
                                : ERR_OK;
    if (code == ERR_OK && with_engine)
        code = open_engine(shard, entry, err);
    if (code != ERR_OK) {
        entry_free(entry);
        return code;
    }
    entry->references = 1;
    *out = entry;
    return ERR_OK;
}

/* Caller holds the lock.  Room for one more in the table and, at most half full, in the index. */
static bool make_room_locked(struct shard *shard)
{
    if (shard->collection_count == shard->collection_size) {
        uint32_t size = shard->collection_size == 0 ? 16 : shard->collection_size * 2;
        void *grown = array_resize(shard->collections, size, sizeof(struct shard_collection *));

        if (grown == NULL)
            return false;
        shard->collections = grown;
        shard->collection_size = size;
    }
    if ((shard->collection_count + 1) * 2 > shard->index_size) {
        uint32_t size = shard->index_size == 0 ? INDEX_SIZE_FIRST : shard->index_size * 2;
        uint32_t *index = array_alloc(size, sizeof(*index));

        if (index == NULL)
            return false;
        free(shard->index);
        shard->index = index;
        shard->index_size = size;
        for (uint32_t i = 0; i < shard->collection_count; i++)
            *place_locked(shard, shard->collections[i]->definition.incarnation) = i + 1;
    }
    return true;
}

/* Put the entry in the place of the one before, or behind all. */
static enum err_code install(struct shard *shard, struct shard_collection *entry, struct err *err)
{
    struct shard_collection *old = NULL;
    bool is_new = entry->number == shard->collection_count;
    bool has_room = true;

    assert(entry->number <= shard->collection_count);
    pthread_mutex_lock(&shard->lock);
    if (is_new)
        has_room = make_room_locked(shard);
    if (is_new && has_room) {
        *place_locked(shard, entry->definition.incarnation) = entry->number + 1;
        shard->collections[shard->collection_count++] = entry;
    } else if (has_room) {
        old = shard->collections[entry->number];
        entry->is_published = old->is_published;
        memcpy(entry->parts, old->parts, shard->served_count * sizeof(*entry->parts));
        shard->collections[entry->number] = entry;
    }
    pthread_mutex_unlock(&shard->lock);
    collections_put(shard, old);
    if (has_room)
        return ERR_OK;
    entry->references = 0;
    entry_free(entry);
    return err_set(err, ERR_NO_MEMORY, "no memory for another collection");
}

enum err_code collections_open(struct shard *shard, struct apply_collection *from, struct err *err)
{
    bool is_active = apply_is_active(&shard->apply, from);
    bool is_known = from->number < shard->collection_count;
    struct shard_collection *entry;
    enum err_code code;

    if (is_known && (!is_active || shard->collections[from->number]->engine != NULL))
        return ERR_OK;
    code = entry_new(shard, from, is_active, &entry, err);
    return code == ERR_OK ? install(shard, entry, err) : code;
}

enum err_code collections_drop_engine(struct shard *shard, uint32_t number, struct err *err)
{
    struct shard_collection *entry;
    enum err_code code;

    if (collections_own(shard, number)->engine == NULL)
        return ERR_OK;
    code = entry_new(shard, shard->apply.collections[number], false, &entry, err);
    return code == ERR_OK ? install(shard, entry, err) : code;
}

void collections_publish_locked(struct shard *shard, const struct apply_collection *from)
{
    struct shard_collection *entry;

    assert(from->number < shard->collection_count);
    entry = shard->collections[from->number];
    entry->is_published = true;
    for (uint32_t slot = 0; slot < shard->served_count; slot++) {
        entry->parts[slot] = (struct shard_part){
            .presence = from->parts[slot].presence,
            .changed = from->parts[slot].changed,
            .live = from->parts[slot].counts.live,
            .truncate = from->parts[slot].truncate,
        };
    }
}

void collections_cut(struct shard *shard, uint32_t count)
{
    while (shard->collection_count > count) {
        struct shard_collection *entry;

        pthread_mutex_lock(&shard->lock);
        entry = shard->collections[--shard->collection_count];
        /* Entries leave in the reverse order of their coming, so that no chain of the index is
         * broken: whoever stands behind a place came later. */
        *place_locked(shard, entry->definition.incarnation) = 0;
        pthread_mutex_unlock(&shard->lock);
        collections_put(shard, entry);
    }
}

uint64_t collections_memory(struct shard *shard)
{
    uint64_t bytes = 0;

    pthread_mutex_lock(&shard->lock);
    for (uint32_t i = 0; i < shard->collection_count; i++) {
        if (shard->collections[i]->engine != NULL)
            bytes += engine_memory_used(shard->collections[i]->engine);
    }
    pthread_mutex_unlock(&shard->lock);
    return bytes;
}
