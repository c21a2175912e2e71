/* The collections as readers know them: by incarnation, with an engine each.
 *
 * Entries stand under the numbers that the consistency core gave them.  The consumer makes an entry
 * before the commit that makes it true, and publishes it after; a reader takes a reference, so that
 * an engine lives until its last search has ended.  A dropped collection keeps an entry without an
 * engine: questions for it are told that it is gone, not that it is empty.  The entry that it had
 * goes to the maintainer with its last reference: closing a large engine and removing its segment
 * take longer than a search or a batch should.
 *
 * Failure modes: no memory for an entry or an engine fails the consumer's batch, which is undone
 * and tried again. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/shard/segments.h"
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
    if (is_last && collection->is_dropped && collection->life != 0) {
        collection->next = shard->gone;
        shard->gone = collection;
        env_cond_signal(&shard->errand);
        is_last = false;
    }
    pthread_mutex_unlock(&shard->lock);
    if (is_last)
        entry_free(collection);
}

/* An engine that nobody uses any more, and then its segment. */
static void free_dropped(struct shard *shard, struct shard_collection *entry)
{
    char folder[SEGMENTS_PATH_BYTES];
    struct segments_place place = {.root = shard->setup.segments,
                                   .life = entry->life,
                                   .incarnation = entry->definition.incarnation};
    struct err err = {0};
    enum err_code code;

    engine_close(entry->engine);
    entry->engine = NULL;
    code = segments_folder(folder, &place, &err);
    if (code == ERR_OK)
        code = segments_remove(folder, &err);
    /* The next start sweeps it. */
    if (code != ERR_OK)
        log_err(LOG_WARN, &(struct log_context){.collection = entry->definition.name},
                "the segment of a dropped collection stays", &err);
    entry_free(entry);
}

void collections_free_gone(struct shard *shard)
{
    struct shard_collection *entry;

    do {
        pthread_mutex_lock(&shard->lock);
        entry = shard->gone;
        if (entry != NULL)
            shard->gone = entry->next;
        pthread_mutex_unlock(&shard->lock);
        if (entry != NULL)
            free_dropped(shard, entry);
    } while (entry != NULL);
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

static enum err_code entry_new(struct shard *shard, const struct apply_collection *from,
                               struct shard_collection **out, struct err *err)
{
    struct shard_collection *entry = array_alloc(1, sizeof(*entry));

    *out = NULL;
    if (entry == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for another collection");
    entry->number = from->number;
    entry->definition = from->definition;
    atomic_init(&entry->floor, 0);
    atomic_init(&entry->pending, 0);
    atomic_init(&entry->is_leaving, false);
    entry->parts = array_alloc(shard->apply.partition_count, sizeof(*entry->parts));
    if (entry->parts == NULL) {
        entry_free(entry);
        return err_set(err, ERR_NO_MEMORY, "no memory for another collection");
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

/* Caller holds the lock: nothing new is begun with the entry, and what takes long ends soon. */
static void leave_locked(struct shard *shard, struct shard_collection *entry)
{
    atomic_store(&entry->is_leaving, true);
    env_cond_broadcast(&shard->changed);
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
        old->is_dropped = entry->engine == NULL;
        leave_locked(shard, old);
    }
    pthread_mutex_unlock(&shard->lock);
    collections_put(shard, old);
    if (has_room)
        return ERR_OK;
    entry->references = 0;
    entry_free(entry);
    return err_set(err, ERR_NO_MEMORY, "no memory for another collection");
}

enum err_code collections_open(struct shard *shard, struct apply_collection *from,
                               struct store_txn *stored, struct err *err)
{
    bool is_active = apply_is_active(&shard->apply, from);
    bool is_known = from->number < shard->collection_count;
    struct shard_collection *entry;
    enum err_code code;

    if (is_known && (!is_active || shard->collections[from->number]->engine != NULL))
        return ERR_OK;
    code = entry_new(shard, from, &entry, err);
    if (code != ERR_OK)
        return code;
    /* Before anybody else may use it. */
    if (is_active)
        code = engines_open(shard, entry, from, stored, err);
    if (code == ERR_OK)
        return install(shard, entry, err);
    entry->references = 0;
    entry_free(entry);
    return code;
}

enum err_code collections_drop_engine(struct shard *shard, uint32_t number, struct err *err)
{
    struct shard_collection *entry;
    enum err_code code;

    if (collections_own(shard, number)->engine == NULL)
        return ERR_OK;
    code = entry_new(shard, shard->apply.collections[number], &entry, err);
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
        leave_locked(shard, entry);
        while (entry->is_maintained &&
               env_cond_wait(&shard->changed, &shard->lock, NEVER_NS) != ERR_DEAD)
            continue;
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
