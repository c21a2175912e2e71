/* From nothing to a shard that follows its log.
 *
 * 1. the map says which partitions this shard serves: wait for it;
 * 2. the log is there and has as many partitions: wait for it;
 * 3. load the state from the store.  It must be of this log and of these partitions, and not reach
 *    beyond the log's end; otherwise the store is cleared and everything is read anew, loudly: the
 *    log is the truth;
 * 4. open the engines with the segments that they kept, and fill them with the stored vectors that
 *    are in none (engines.c): searches scan these flat until they are linked again;
 * 5. open the reader one record before each position: the consumer compares that record's CRC with
 *    the one that the store remembers, which proves that the log is the one that was read before.
 *
 * After a failure later on the same steps run again; engines that are there already are kept. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "services/shard/shard.h"

static void warn(const struct shard *shard, const char *what, const struct err *err)
{
    char name[16];

    snprintf(name, sizeof(name), "%u", shard->setup.shard);
    log_err(LOG_WARN, &(struct log_context){.shard_id = name}, what, err);
}

/* --- 1. the map --------------------------------------------------------------------------------
 */

static enum err_code read_map(struct shard *shard, struct shard_map *map, struct err *err)
{
    struct meta_row row = {0};
    enum err_code code = meta_get(shard->setup.meta, "map", &row, err);

    if (code == ERR_NOT_FOUND)
        return err_set(err, ERR_UNAVAILABLE, "there is no shard map yet");
    if (code == ERR_OK)
        code = shard_map_decode(map, row.value, row.value_len, err);
    meta_row_free(&row);
    if (code == ERR_OK && shard->setup.shard >= map->shards)
        code = err_set(err, ERR_UNAVAILABLE, "the map has %u shards, this is number %u",
                       map->shards, shard->setup.shard);
    return code;
}

/* --- 2. the log --------------------------------------------------------------------------------
 */

void start_close_wal(struct shard *shard)
{
    struct wal *wal;

    pthread_mutex_lock(&shard->lock);
    wal = shard->wal;
    shard->wal = NULL;
    /* A dead node's waits end at once; its calls do too. */
    while (shard->wal_users > 0)
        (void)!env_cond_wait(&shard->changed, &shard->lock, NEVER_NS);
    pthread_mutex_unlock(&shard->lock);
    if (wal != NULL && wal != shard->setup.wal)
        wal_close(wal);
}

static enum err_code open_log(struct shard *shard, const struct shard_map *map, struct err *err)
{
    struct wal *wal = shard->setup.wal;
    enum err_code code = ERR_OK;

    if (shard->wal != NULL && shard->must_rebuild)
        start_close_wal(shard);
    if (shard->wal != NULL)
        return ERR_OK;
    if (wal == NULL) {
        struct wal_options options = {.url = shard->setup.wal_url, .env = shard->env};

        code = wal_open(&wal, &options, err);
        if (code == ERR_NOT_FOUND)
            return err_set(err, ERR_UNAVAILABLE, "there is no log yet");
        if (code != ERR_OK)
            return code;
    }
    if (wal_partitions(wal) != map->partitions) {
        code = err_set(err, ERR_UNAVAILABLE, "the log has %u partitions, the map %u",
                       wal_partitions(wal), map->partitions);
        if (wal != shard->setup.wal)
            wal_close(wal);
        return code;
    }
    pthread_mutex_lock(&shard->lock);
    shard->wal = wal;
    pthread_mutex_unlock(&shard->lock);
    return ERR_OK;
}

/* --- 3. the state ------------------------------------------------------------------------------
 */

/* A state that is made from a trimmed log would lack what was trimmed: it has to come from another
 * replica or from a snapshot, which is where a process begins. */
static enum err_code begin_again(struct shard *shard, uint32_t partition, uint64_t first,
                                 struct err *err)
{
    (void)err_set(err, ERR_NOT_FOUND,
                  "the log begins at %llu of partition %u: what comes before has to come from a "
                  "snapshot or another replica",
                  (unsigned long long)first, partition);
    shard_shut(shard);
    if (shard->setup.begin_again != NULL)
        shard->setup.begin_again(shard->setup.process, err);
    return err->code;
}

static enum err_code create_state(struct shard *shard, const struct partition_set *served,
                                  struct err *err)
{
    uint64_t firsts[PARTITIONS_MAX];
    struct apply_origin origin = {
        .region = wal_region(shard->wal),
        .served = *served,
        .firsts = firsts,
    };
    size_t count = 0;

    for (uint32_t p = 0; p < wal_partitions(shard->wal); p++) {
        enum err_code code = ERR_OK;

        if (partition_set_has(served, p))
            code = wal_first(shard->wal, p, &firsts[count++], err);
        if (code == ERR_OK && partition_set_has(served, p) && firsts[count - 1] > 0)
            code = begin_again(shard, p, firsts[count - 1], err);
        if (code != ERR_OK)
            return code;
    }
    shard_shut(shard);
    consume_forget_retired(shard, 0);
    collections_cut(shard, 0);
    return apply_create(&shard->apply, shard->setup.store, &origin, err);
}

static enum err_code load_state(struct shard *shard, const struct partition_set *served,
                                struct err *err)
{
    struct err why = {0};
    enum err_code code;

    if (shard->must_rebuild) {
        err_set(&why, ERR_CONFLICT, "the log is another than the one that was read");
    } else {
        code = apply_load(&shard->apply, shard->setup.store, &why);
        if (code == ERR_NOT_FOUND)
            return create_state(shard, served, err);
        if (code != ERR_OK && code != ERR_CORRUPT) {
            *err = why;
            return code;
        }
        if (code == ERR_OK && shard->apply.region != wal_region(shard->wal))
            err_set(&why, ERR_CONFLICT, "the store is of log %u, the log is %u",
                    shard->apply.region, wal_region(shard->wal));
        else if (code == ERR_OK && memcmp(&shard->apply.served, served, sizeof(*served)) != 0)
            err_set(&why, ERR_CONFLICT, "the store is of other partitions");
        else if (code == ERR_OK)
            return ERR_OK;
    }
    warn(shard, "the store is cleared and built again from the log", &why);
    return create_state(shard, served, err);
}

/* Readers learn which partitions there are, and where they stand. */
static void show_state(struct shard *shard, const struct shard_map *map)
{
    const struct apply *apply = &shard->apply;
    bool is_same;

    pthread_mutex_lock(&shard->lock);
    shard->region = apply->region;
    shard->map_version = map->version;
    is_same = shard->served_count == apply->partition_count &&
              memcmp(&shard->served, &apply->served, sizeof(shard->served)) == 0;
    shard->partitions_all = map->partitions;
    shard->served = apply->served;
    shard->served_count = apply->partition_count;
    shard->should_reload = false;
    memcpy(shard->slot_of, apply->slot_of, sizeof(shard->slot_of));
    /* After a failed batch the state is what is published already. */
    for (uint32_t slot = 0; !is_same && slot < apply->partition_count; slot++) {
        const struct apply_partition *from = &apply->partitions[slot];

        shard->partition_of[slot] = from->partition;
        shard->partitions[slot] = (struct shard_partition){
            .position = from->position,
            .data = from->data,
            .epoch = from->epoch.epoch,
            .counts = from->counts,
            .vector = from->vector,
        };
        shard->round_ends[slot] = 0;
    }
    pthread_mutex_unlock(&shard->lock);
}

/* --- 4. the engines ----------------------------------------------------------------------------
 */

static enum err_code open_collections(struct shard *shard, struct err *err)
{
    struct apply *apply = &shard->apply;
    struct store_txn *txn = NULL;
    uint32_t known = shard->collection_count;
    enum err_code code;

    /* What a failed batch has made is not in the state any more. */
    if (known > apply->collection_count) {
        collections_cut(shard, apply->collection_count);
        known = apply->collection_count;
    }
    /* No ordinal is given twice to one engine: what a failed batch used is skipped, and the next
     * commit, whatever it is of, says so in the store. */
    for (uint32_t i = 0; i < known; i++) {
        uint32_t floor = (uint32_t)atomic_load(&collections_own(shard, i)->floor);

        if (floor <= apply->collections[i]->next_ordinal)
            continue;
        apply->collections[i]->next_ordinal = floor;
        apply->collections[i]->is_dirty = true;
    }
    code = engines_prepare(shard, err);
    if (code == ERR_OK)
        code = store_begin(&txn, shard->setup.store, false, err);
    for (uint32_t i = 0; code == ERR_OK && i < apply->collection_count; i++) {
        bool had_engine = i < known && collections_own(shard, i)->engine != NULL;

        code = collections_open(shard, apply->collections[i], txn, err);
        if (code == ERR_OK && !had_engine && collections_own(shard, i)->engine != NULL)
            code = engines_fill(shard, collections_own(shard, i), txn, err);
        if (code != ERR_OK) {
            /* A half-filled engine is of no use to the next try. */
            consume_forget_retired(shard, i);
            collections_cut(shard, i);
            break;
        }
        pthread_mutex_lock(&shard->lock);
        collections_publish_locked(shard, apply->collections[i]);
        if (!had_engine)
            collections_own(shard, i)->committed = apply->collections[i]->next_ordinal;
        pthread_mutex_unlock(&shard->lock);
    }
    store_abort(txn);
    return code;
}

/* --- 5. the reader -----------------------------------------------------------------------------
 */

static enum err_code open_reader(struct shard *shard, struct start *start, struct err *err)
{
    const struct apply *apply = &shard->apply;
    uint64_t positions[PARTITIONS_MAX];
    uint64_t asked_ns = env_boot_ns(shard->env);
    enum err_code code;

    start->unproven_count = 0;
    for (uint32_t slot = 0; slot < apply->partition_count; slot++) {
        const struct apply_partition *partition = &apply->partitions[slot];

        start->is_unproven[slot] = partition->applied + partition->voided > 0;
        start->unproven_count += start->is_unproven[slot];
        positions[slot] = partition->position - start->is_unproven[slot];
    }
    code = wal_ends(shard->wal, shard->partition_of, apply->partition_count, asked_ns + NS_PER_S,
                    start->ends, err);
    for (uint32_t slot = 0; code == ERR_OK && slot < apply->partition_count; slot++) {
        if (apply->partitions[slot].position > start->ends[slot])
            code =
                err_set(err, ERR_CONFLICT, "partition %u was read up to %llu, the log ends at %llu",
                        apply->partitions[slot].partition,
                        (unsigned long long)apply->partitions[slot].position,
                        (unsigned long long)start->ends[slot]);
    }
    pthread_mutex_lock(&shard->lock);
    for (uint32_t slot = 0; code == ERR_OK && slot < apply->partition_count; slot++)
        freshness_note_locked(&shard->partitions[slot], asked_ns, start->ends[slot]);
    pthread_mutex_unlock(&shard->lock);
    if (code == ERR_OK)
        code = wal_reader_open(&start->reader, shard->wal, shard->partition_of, positions,
                               apply->partition_count, err);
    return code;
}

enum err_code start_shard(struct shard *shard, struct start *start, struct err *err)
{
    struct shard_map map;
    struct partition_set served;
    enum err_code code = read_map(shard, &map, err);

    /* Without the metadata store the last map goes on. */
    if (code == ERR_OK)
        shard->map = map;
    else if (!shard->has_map)
        return code;
    shard->has_map = true;
    code = open_log(shard, &shard->map, err);
    if (code != ERR_OK)
        return code;
    shard_map_partitions(&shard->map, shard->setup.shard, &served);
    if (shard->served_count > 0 && memcmp(&served, &shard->served, sizeof(served)) != 0)
        shard_shut(shard);
    code = load_state(shard, &served, err);
    if (code != ERR_OK)
        return code;
    shard->must_rebuild = false;
    show_state(shard, &shard->map);
    /* Nobody is answered before it is done, and linking would take the processors from it. */
    atomic_store(&shard->is_filling, true);
    code = open_collections(shard, err);
    atomic_store(&shard->is_filling, false);
    if (code == ERR_OK)
        code = open_reader(shard, start, err);
    /* Another log than the one that was read: the next try begins from nothing. */
    if (code == ERR_CONFLICT || code == ERR_NOT_FOUND)
        shard->must_rebuild = true;
    return code;
}
