/* See headroom.h. */
#include "services/ingest/headroom.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"

/* Of a collection that no shard has told of yet: the floats, codes of 12 bits, links and slots. */
#define GUESS_PER_NUMBER 6
#define GUESS_FIXED      512

void headroom_init(struct headroom *headroom)
{
    *headroom = (struct headroom){0};
    pthread_mutex_init(&headroom->lock, NULL);
}

void headroom_free(struct headroom *headroom)
{
    free(headroom->partitions);
    pthread_mutex_destroy(&headroom->lock);
    *headroom = (struct headroom){0};
}

/* --- amounts -----------------------------------------------------------------------------------
 */

static bool is_of(const struct headroom_amount *amount,
                  const uint8_t incarnation[INCARNATION_BYTES])
{
    return amount->vectors > 0 && memcmp(amount->incarnation, incarnation, INCARNATION_BYTES) == 0;
}

static void amount_add(struct headroom_amount *to, const struct headroom_amount *more)
{
    if (to->bytes == 0) {
        *to = *more;
        return;
    }
    to->bytes += more->bytes;
    to->vectors = is_of(more, to->incarnation) && to->vectors > 0 ? to->vectors + more->vectors : 0;
}

static void amount_take(struct headroom_amount *from, const struct headroom_amount *less)
{
    assert(from->bytes >= less->bytes);
    from->bytes -= less->bytes;
    from->vectors -= MIN_OF(from->vectors, less->vectors);
}

static struct headroom_amount amount_of(const struct collection *collection, uint64_t vectors,
                                        uint64_t each)
{
    struct headroom_amount amount = {.bytes = vectors * each, .vectors = vectors};

    memcpy(amount.incarnation, collection->incarnation, INCARNATION_BYTES);
    return amount;
}

/* --- what is held ------------------------------------------------------------------------------
 */

static void drop_oldest(struct headroom_partition *partition, size_t count)
{
    partition->count -= count;
    memmove(partition->held, partition->held + count,
            partition->count * sizeof(partition->held[0]));
}

/* The two neighbours that have least become one, which is held as long as the later of them. */
static void join_least(struct headroom_partition *partition)
{
    struct headroom_held *held = partition->held;
    size_t least = 0;

    for (size_t i = 1; i + 1 < partition->count; i++)
        if (held[i].amount.bytes + held[i + 1].amount.bytes <
            held[least].amount.bytes + held[least + 1].amount.bytes)
            least = i;
    amount_add(&held[least + 1].amount, &held[least].amount);
    partition->count--;
    memmove(held + least, held + least + 1, (partition->count - least) * sizeof(held[0]));
}

/* One entry a write. */
static void hold(struct headroom_partition *partition, const struct headroom_held *held)
{
    struct headroom_held *newest;

    if (partition->count == HELD_MAX)
        join_least(partition);
    newest = partition->count == 0 ? NULL : &partition->held[partition->count - 1];
    if (newest != NULL && newest->write == held->write) {
        newest->end = MAX_OF(newest->end, held->end);
        amount_add(&newest->amount, &held->amount);
        return;
    }
    /* Writes settle in any order: what is noted later is not held for shorter. */
    partition->held[partition->count] = *held;
    if (newest != NULL)
        partition->held[partition->count].end = MAX_OF(held->end, newest->end);
    partition->count++;
}

/* Let go of what every replica of the partition's shard has applied. */
static void prune(struct headroom *headroom, const struct cluster_rooms *rooms)
{
    for (uint32_t p = 0; p < rooms->map->partitions; p++) {
        struct headroom_partition *partition = &headroom->partitions[p];
        uint64_t passed = UINT64_MAX;
        size_t gone = 0;

        if (partition->count == 0)
            continue;
        for (size_t i = 0; i < rooms->count; i++)
            if (rooms->map->shard_of[p] == rooms->rooms[i].shard)
                passed = MIN_OF(passed, rooms->rooms[i].positions[p]);
        while (passed != UINT64_MAX && gone < partition->count &&
               partition->held[gone].end <= passed)
            gone++;
        if (gone > 0)
            drop_oldest(partition, gone);
    }
}

/* Vectors that were admitted and that the replica's report does not have. */
struct beyond {
    const uint8_t *incarnation;
    uint64_t others;         /* bytes */
    uint64_t bytes, vectors; /* of the collection */
};

static void beyond_add(struct beyond *beyond, const struct headroom_amount *amount)
{
    if (!is_of(amount, beyond->incarnation)) {
        beyond->others += amount->bytes;
        return;
    }
    beyond->bytes += amount->bytes;
    beyond->vectors += amount->vectors;
}

/* Bytes; each: what a vector of the collection takes as the replica has it now. */
static uint64_t beyond_report(const struct headroom *headroom, const struct cluster_rooms *rooms,
                              const struct cluster_room *room, const struct collection *collection,
                              uint64_t each)
{
    struct beyond beyond = {.incarnation = collection->incarnation};
    uint64_t now;

    for (uint32_t p = 0; p < rooms->map->partitions; p++) {
        const struct headroom_partition *partition = &headroom->partitions[p];

        if (rooms->map->shard_of[p] != room->shard)
            continue;
        beyond_add(&beyond, &partition->under_way);
        for (size_t i = partition->count; i-- > 0 && partition->held[i].end > room->positions[p];)
            beyond_add(&beyond, &partition->held[i].amount);
    }
    if (!checked_mul(beyond.vectors, each, &now) || now > UINT64_MAX / 4)
        now = UINT64_MAX / 4; /* more than there is; sums fit */
    return beyond.others + MAX_OF(beyond.bytes, now);
}

/* --- the decision ------------------------------------------------------------------------------
 */

static uint64_t bytes_left(const struct cluster_room *room)
{
    return room->limit_bytes - MIN_OF(room->limit_bytes, room->wanted_bytes);
}

/* What one more vector takes there: what is left is room for so many. */
static uint64_t bytes_each(const struct cluster_room *room, const struct collection *collection)
{
    uint64_t left = bytes_left(room);

    if (room->vectors == UINT64_MAX)
        return (uint64_t)collection->dimension * GUESS_PER_NUMBER + GUESS_FIXED;
    return left / MAX_OF(room->vectors, (uint64_t)1) + 1;
}

static uint64_t vectors_for(const struct headroom_ask *ask, const struct cluster_rooms *rooms,
                            uint32_t shard)
{
    uint64_t vectors = 0;

    for (size_t i = 0; i < ask->count; i++)
        if (rooms->map->shard_of[ask->wants[i].partition] == shard)
            vectors += ask->wants[i].vectors;
    return vectors;
}

/* Caller holds the lock. */
static enum err_code check_locked(const struct headroom *headroom, const struct headroom_ask *ask,
                                  const struct cluster_rooms *rooms, struct err *err)
{
    for (size_t i = 0; i < rooms->count; i++) {
        const struct cluster_room *room = &rooms->rooms[i];
        uint64_t vectors = vectors_for(ask, rooms, room->shard);
        uint64_t reserve = ask->use == HEADROOM_NEW ? room->limit_bytes / RESERVE_PART : 0;
        uint64_t each = bytes_each(room, ask->collection);
        uint64_t taken, left = bytes_left(room);

        if (vectors == 0)
            continue;
        taken = reserve + beyond_report(headroom, rooms, room, ask->collection, each);
        if (taken <= left && (left - taken) / each >= vectors)
            continue;
        return err_set(err, ERR_NO_HEADROOM,
                       "shard %u.%u has no memory for %llu more vectors of '%s': its indexes take "
                       "%llu of %llu bytes, %llu are kept free, %llu were admitted just now",
                       room->shard, room->replica, (unsigned long long)vectors,
                       ask->collection->name, (unsigned long long)room->wanted_bytes,
                       (unsigned long long)room->limit_bytes, (unsigned long long)reserve,
                       (unsigned long long)(taken - reserve));
    }
    return ERR_OK;
}

static bool make_partitions_locked(struct headroom *headroom)
{
    if (headroom->partitions == NULL)
        headroom->partitions = calloc(PARTITIONS_MAX, sizeof(*headroom->partitions));
    return headroom->partitions != NULL;
}

/* Decide; and, with bytes, hold what was asked for. */
static enum err_code decide(struct headroom *headroom, const struct headroom_ask *ask,
                            uint64_t *bytes, struct err *err)
{
    struct cluster_rooms rooms = {0};
    enum err_code rc = ERR_OK;

    /* No other decision in between: what a newer report has passed would be held no more, and not
     * be in this one either. */
    pthread_mutex_lock(&headroom->lock);
    if (ask->cluster != NULL && ask->count > 0)
        rc = cluster_rooms_get(ask->cluster, ask->collection->incarnation, &rooms, err);
    if (rc == ERR_OK && rooms.count > 0) {
        if (!make_partitions_locked(headroom))
            rc = err_set(err, ERR_NO_MEMORY, "no memory to reckon with memory");
        if (rc == ERR_OK)
            prune(headroom, &rooms);
        if (rc == ERR_OK && ask->use != HEADROOM_GIVEN)
            rc = check_locked(headroom, ask, &rooms, err);
        for (size_t i = 0; i < rooms.count && rc == ERR_OK && bytes != NULL; i++)
            *bytes = MAX_OF(*bytes, bytes_each(&rooms.rooms[i], ask->collection));
        for (size_t i = 0; i < ask->count && rc == ERR_OK && bytes != NULL; i++) {
            struct headroom_amount amount =
                amount_of(ask->collection, ask->wants[i].vectors, *bytes);

            amount_add(&headroom->partitions[ask->wants[i].partition].under_way, &amount);
        }
    }
    pthread_mutex_unlock(&headroom->lock);
    cluster_rooms_free(&rooms);
    return rc;
}

enum err_code headroom_check(struct headroom *headroom, const struct headroom_ask *ask,
                             struct err *err)
{
    return decide(headroom, ask, NULL, err);
}

enum err_code headroom_take(struct headroom *headroom, const struct headroom_ask *ask,
                            const struct sequence_batch *batch, uint64_t *bytes, struct err *err)
{
    struct headroom_want *wants = array_alloc(MAX_OF(batch->count, (size_t)1), sizeof(*wants));
    struct headroom_ask whole = *ask;
    enum err_code rc;

    *bytes = 0;
    if (wants == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to reckon with memory");
    whole.wants = wants;
    whole.count = 0;
    for (size_t i = 0; i < batch->count; i++)
        if (batch->items[i].vectors > 0)
            wants[whole.count++] = (struct headroom_want){.partition = batch->items[i].partition,
                                                          .vectors = batch->items[i].vectors};
    rc = decide(headroom, &whole, bytes, err);
    free(wants);
    return rc;
}

void headroom_settle(struct headroom *headroom, const struct collection *collection,
                     const struct sequence_batch *batch, uint64_t bytes, bool is_known)
{
    if (bytes == 0)
        return;
    pthread_mutex_lock(&headroom->lock);
    headroom->writes++;
    for (size_t i = 0; i < batch->count; i++) {
        const struct sequence_item *item = &batch->items[i];
        struct headroom_partition *partition = &headroom->partitions[item->partition];
        struct headroom_amount amount = amount_of(collection, item->vectors, bytes);

        if (amount.bytes == 0)
            continue;
        amount_take(&partition->under_way, &amount);
        if (is_known && item->committed)
            hold(partition, &(struct headroom_held){.end = item->offset + 1,
                                                    .write = headroom->writes,
                                                    .amount = amount});
    }
    pthread_mutex_unlock(&headroom->lock);
}
