/* Collections in memory and their changes; see catalogue.h.  catalogue_load.c brings them back. */
#include "services/ingest/catalogue.h"

#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "services/ingest/catalogue_row.h"

#define REPEAT_BATCH 100 /* changes of one append */

static const struct log_context CONTEXT = {.operation = "catalogue"};

const uint8_t CATALOGUE_NAMES[INCARNATION_BYTES];

void catalogue_init(struct catalogue *catalogue, struct sequencer *sequencer, struct meta *meta,
                    struct env *env)
{
    *catalogue = (struct catalogue){.sequencer = sequencer, .meta = meta, .env = env};
    pthread_mutex_init(&catalogue->lock, NULL);
    env_cond_init(env, &catalogue->left.come);
}

void catalogue_free(struct catalogue *catalogue)
{
    if (catalogue->env == NULL)
        return;
    free(catalogue->entries);
    free(catalogue->told.places);
    free(catalogue->left.changes);
    env_cond_free(&catalogue->left.come);
    pthread_mutex_destroy(&catalogue->lock);
    *catalogue = (struct catalogue){0};
}

/* Where the name is, or would be; *found says which. */
static size_t index_locked(const struct catalogue *catalogue, const char *tenant, const char *name,
                           bool *found)
{
    size_t low = 0, high = catalogue->count;

    *found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct collection *there = &catalogue->entries[middle].collection;
        int order = strcmp(there->tenant, tenant);

        if (order == 0)
            order = strcmp(there->name, name);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool catalogue_find(struct catalogue *catalogue, const char *tenant, const char *name,
                    struct catalogue_entry *out)
{
    bool found;
    size_t index;

    pthread_mutex_lock(&catalogue->lock);
    index = index_locked(catalogue, tenant, name, &found);
    if (found)
        *out = catalogue->entries[index];
    pthread_mutex_unlock(&catalogue->lock);
    return found;
}

enum err_code catalogue_set(struct catalogue *catalogue, const struct collection *collection,
                            enum collection_state state, struct err *err)
{
    enum err_code rc = ERR_OK;
    struct catalogue_entry *grown;
    size_t index, size;
    bool found;

    pthread_mutex_lock(&catalogue->lock);
    index = index_locked(catalogue, collection->tenant, collection->name, &found);
    if (!found && catalogue->count == catalogue->size) {
        size = catalogue->size == 0 ? 16 : catalogue->size * 2;
        grown = array_resize(catalogue->entries, size, sizeof(*grown));
        if (grown == NULL) {
            rc = err_set(err, ERR_NO_MEMORY, "no memory for another collection");
        } else {
            catalogue->entries = grown;
            catalogue->size = size;
        }
    }
    if (rc == ERR_OK) {
        if (!found) {
            memmove(catalogue->entries + index + 1, catalogue->entries + index,
                    (catalogue->count - index) * sizeof(*catalogue->entries));
            catalogue->count++;
        }
        catalogue->entries[index] =
            (struct catalogue_entry){.collection = *collection, .state = state};
    }
    pthread_mutex_unlock(&catalogue->lock);
    return rc;
}

void catalogue_forget(struct catalogue *catalogue, const struct collection *collection)
{
    size_t index;
    bool found;

    pthread_mutex_lock(&catalogue->lock);
    index = index_locked(catalogue, collection->tenant, collection->name, &found);
    if (found) {
        catalogue->count--;
        memmove(catalogue->entries + index, catalogue->entries + index + 1,
                (catalogue->count - index) * sizeof(*catalogue->entries));
    }
    pthread_mutex_unlock(&catalogue->lock);
}

void catalogue_clear(struct catalogue *catalogue)
{
    pthread_mutex_lock(&catalogue->lock);
    catalogue->count = 0;
    free(catalogue->told.places);
    catalogue->told = (struct told_changes){0};
    pthread_mutex_unlock(&catalogue->lock);
}

/* --- what was told -------------------------------------------------------------------------------
 */

/* Where the change is, or would be; there is a free place. */
static struct told_change *told_place(const struct told_changes *told,
                                      const struct told_change *change)
{
    size_t at = (size_t)hash_xxh64(change->incarnation, INCARNATION_BYTES, change->schema.clock);

    for (;; at++) {
        struct told_change *place = &told->places[at % told->size];

        if (stamp_is_none(place->schema) ||
            (stamp_compare(place->schema, change->schema) == 0 &&
             memcmp(place->incarnation, change->incarnation, INCARNATION_BYTES) == 0))
            return place;
    }
}

static struct told_change told_key(const struct collection *collection)
{
    struct told_change change = {.schema = collection->schema};

    memcpy(change.incarnation, collection->incarnation, INCARNATION_BYTES);
    return change;
}

static bool was_told(struct catalogue *catalogue, const struct collection *collection)
{
    struct told_change change = told_key(collection);
    bool found;

    pthread_mutex_lock(&catalogue->lock);
    found =
        catalogue->told.size > 0 && !stamp_is_none(told_place(&catalogue->told, &change)->schema);
    pthread_mutex_unlock(&catalogue->lock);
    return found;
}

/* Room for one more, at most half full. */
static enum err_code make_room_locked(struct told_changes *told, struct err *err)
{
    struct told_changes grown = {.size = told->size == 0 ? 64 : told->size * 2};

    if (told->count * 2 < told->size)
        return ERR_OK;
    grown.places = array_alloc(grown.size, sizeof(*grown.places));
    if (grown.places == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the changes of collections");
    for (size_t i = 0; i < told->size; i++)
        if (!stamp_is_none(told->places[i].schema))
            *told_place(&grown, &told->places[i]) = told->places[i];
    grown.count = told->count;
    free(told->places);
    *told = grown;
    return ERR_OK;
}

static enum err_code note_told(struct catalogue *catalogue, const struct collection *collection,
                               struct err *err)
{
    struct told_change change = told_key(collection), *place;
    enum err_code rc;

    pthread_mutex_lock(&catalogue->lock);
    rc = make_room_locked(&catalogue->told, err);
    if (rc == ERR_OK) {
        place = told_place(&catalogue->told, &change);
        catalogue->told.count += stamp_is_none(place->schema);
        *place = change;
    }
    pthread_mutex_unlock(&catalogue->lock);
    return rc;
}

bool catalogue_next_pending(struct catalogue *catalogue, struct collection *out)
{
    bool found = false;

    pthread_mutex_lock(&catalogue->lock);
    for (size_t i = 0; i < catalogue->count && !found; i++) {
        found = catalogue->entries[i].state == COLLECTION_PENDING;
        if (found)
            *out = catalogue->entries[i].collection;
    }
    pthread_mutex_unlock(&catalogue->lock);
    return found;
}

size_t catalogue_count(struct catalogue *catalogue)
{
    size_t count = 0;

    pthread_mutex_lock(&catalogue->lock);
    for (size_t i = 0; i < catalogue->count; i++)
        count += catalogue->entries[i].state == COLLECTION_ACTIVE;
    pthread_mutex_unlock(&catalogue->lock);
    return count;
}

enum err_code catalogue_active(struct catalogue *catalogue, const char *tenant, const char *name,
                               struct collection *out, struct err *err)
{
    struct catalogue_entry entry;

    if (!catalogue_find(catalogue, tenant, name, &entry) || entry.state == COLLECTION_DROPPED)
        return err_set(err, ERR_COLLECTION_NOT_FOUND, "there is no collection '%s'", name);
    if (entry.state == COLLECTION_PENDING)
        return err_set(err, ERR_UNAVAILABLE, "a change of collection '%s' is under way", name);
    *out = entry.collection;
    return ERR_OK;
}

bool catalogue_is_news(const struct collection *known, const struct collection *collection)
{
    if (memcmp(known->incarnation, collection->incarnation, INCARNATION_BYTES) == 0)
        return !known->dropped &&
               (collection->dropped || stamp_compare(collection->schema, known->schema) > 0);
    if (collection->generation != known->generation)
        return collection->generation > known->generation;
    return stamp_compare(collection->created, known->created) < 0;
}

/* A record of the change for each partition below `partitions`. */
static enum err_code add_change(struct sequence_batch *batch, const struct collection *collection,
                                uint32_t partitions, struct err *err)
{
    struct record record = {
        .op = RECORD_COLLECTION, .schema = collection->schema, .stamp = collection->schema};
    struct buffer definition = {0};
    enum err_code rc;

    memcpy(record.incarnation, collection->incarnation, INCARNATION_BYTES);
    collection_encode(collection, collection->dropped ? COLLECTION_DROP : COLLECTION_CREATE,
                      &definition);
    record.payload = definition.data;
    record.payload_len = definition.len;
    rc = buffer_check(&definition, err);
    for (uint32_t i = 0; i < partitions && rc == ERR_OK; i++)
        rc = sequence_batch_add(batch, i, &record, err);
    buffer_free(&definition);
    return rc;
}

/* One record in every partition, all with the change stamp.  A change that was made in another
 * region stands there as one of ours, so that it reaches a third region before records that are
 * written here: that one may not hear from the first for a while.  What was told is not told again,
 * or it would come back for ever. */
static enum err_code change_batch(struct catalogue *catalogue, const struct collection *collection,
                                  struct sequence_batch **out, struct err *err)
{
    enum err_code rc = sequence_batch_new(out, catalogue->sequencer, err);

    return rc == ERR_OK ? add_change(*out, collection, catalogue->sequencer->partitions, err) : rc;
}

/* The next entry that has no change under way, from *at on. */
static bool next_settled(struct catalogue *catalogue, size_t *at, struct collection *out)
{
    bool found = false;

    pthread_mutex_lock(&catalogue->lock);
    for (; *at < catalogue->count && !found; ++*at) {
        found = catalogue->entries[*at].state != COLLECTION_PENDING;
        if (found)
            *out = catalogue->entries[*at].collection;
    }
    pthread_mutex_unlock(&catalogue->lock);
    return found;
}

enum err_code catalogue_repeat(struct catalogue *catalogue, uint64_t deadline_ns, struct err *err)
{
    uint32_t partitions = catalogue->sequencer->partitions;
    struct collection collection;
    enum err_code rc = ERR_OK;
    size_t at = 0;
    bool more = next_settled(catalogue, &at, &collection);

    while (more && rc == ERR_OK) {
        struct sequence_batch *batch = NULL;

        rc = sequence_batch_new(&batch, catalogue->sequencer, err);
        for (size_t i = 0; more && rc == ERR_OK && i < REPEAT_BATCH; i++) {
            rc = add_change(batch, &collection, partitions, err);
            partitions = 1;
            more = next_settled(catalogue, &at, &collection);
        }
        if (rc == ERR_OK)
            rc = sequencer_commit(catalogue->sequencer, batch, deadline_ns, err);
        sequence_batch_put(catalogue->sequencer, batch);
    }
    return rc;
}

static bool nothing_committed(const struct sequence_batch *batch)
{
    for (size_t i = 0; i < batch->count; i++)
        if (batch->items[i].committed)
            return false;
    return true;
}

enum err_code catalogue_complete(struct catalogue *catalogue, const struct collection *collection,
                                 uint64_t deadline_ns, bool *nothing, struct err *err)
{
    enum collection_state state = collection->dropped ? COLLECTION_DROPPED : COLLECTION_ACTIVE;
    struct sequence_batch *batch;
    enum err_code rc = change_batch(catalogue, collection, &batch, err);

    if (rc == ERR_OK)
        rc = deadline_ns == 0 ? sequencer_append_now(catalogue->sequencer, batch, err)
                              : sequencer_commit(catalogue->sequencer, batch, deadline_ns, err);
    /* Of an unknown outcome nothing is said: the appender may still work on it. */
    if (nothing != NULL && rc != ERR_OK)
        *nothing = batch == NULL || (rc != ERR_UNKNOWN_OUTCOME && nothing_committed(batch));
    sequence_batch_put(catalogue->sequencer, batch);
    if (rc == ERR_OK)
        rc = catalogue_row_put(catalogue, collection, state, NULL, err);
    if (rc == ERR_OK)
        rc = catalogue_set(catalogue, collection, state, err);
    return rc == ERR_OK ? note_told(catalogue, collection, err) : rc;
}

enum err_code catalogue_change(struct catalogue *catalogue, const struct collection *collection,
                               uint64_t deadline_ns, struct err *err)
{
    struct catalogue_entry before;
    bool known = catalogue_find(catalogue, collection->tenant, collection->name, &before);
    bool nothing = false;
    uint64_t version = 0;
    enum err_code rc;

    assert(!stamp_is_none(collection->schema));
    rc = catalogue_row_put(catalogue, collection, COLLECTION_PENDING, &version, err);
    if (rc == ERR_OK)
        rc = catalogue_set(catalogue, collection, COLLECTION_PENDING, err);
    if (rc == ERR_OK)
        rc = catalogue_complete(catalogue, collection, deadline_ns, &nothing, err);
    if (rc == ERR_OK) {
        catalogue_note_position(catalogue);
        return ERR_OK;
    }
    log_err(LOG_WARN, &CONTEXT, "a change of a collection failed", err);
    /* What was pending before may stand in the log in part: it stays so. */
    if (!nothing || (known && before.state == COLLECTION_PENDING)) {
        catalogue_leave_over(catalogue, collection);
        return rc;
    }
    if (!catalogue_row_restore(catalogue, collection, known ? &before : NULL, version))
        catalogue_leave_over(catalogue, collection);
    if (!known)
        catalogue_forget(catalogue, collection);
    else if (catalogue_set(catalogue, &before.collection, before.state, NULL) != ERR_OK)
        assert(!"an entry that exists needs no memory");
    return rc;
}

enum err_code catalogue_foreign(struct catalogue *catalogue, const struct collection *collection,
                                uint64_t deadline_ns, struct err *err)
{
    struct sequence_batch *batch;
    struct catalogue_entry entry;
    enum err_code rc;
    bool known = catalogue_find(catalogue, collection->tenant, collection->name, &entry);
    bool same = known && memcmp(entry.collection.incarnation, collection->incarnation,
                                INCARNATION_BYTES) == 0;

    if (!known || catalogue_is_news(&entry.collection, collection))
        return catalogue_change(catalogue, collection, deadline_ns, err);
    if (same)
        return entry.state != COLLECTION_PENDING
                   ? ERR_OK
                   : catalogue_complete(catalogue, &entry.collection, deadline_ns, NULL, err);
    /* Ours stays; theirs is told to every partition, once, where its records are parked. */
    if (was_told(catalogue, collection))
        return ERR_OK;
    rc = change_batch(catalogue, collection, &batch, err);
    if (rc == ERR_OK)
        rc = sequencer_commit(catalogue->sequencer, batch, deadline_ns, err);
    sequence_batch_put(catalogue->sequencer, batch);
    return rc == ERR_OK ? note_told(catalogue, collection, err) : rc;
}
