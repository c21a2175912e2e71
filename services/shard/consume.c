/* The consumer: reads the log, applies, commits, publishes.
 *
 * A batch is whatever the reader has at hand, cut after 5 ms; what a bulk manifest in it names is
 * fetched first (bulk.c).  A commit costs a sync, so records that come one by one are gathered for
 * 5 ms after each, unless somebody waits for a position.  The steps of a batch, in this order:
 *   1. apply the records in one write transaction; insert each new vector into its engine: searches
 *      meet it, but find no row for it in their snapshots and pass over it;
 *   2. commit: new snapshots show the new rows and no longer the replaced ones;
 *   3. publish the positions and wake those who wait;
 *   4. retire the ordinals that were replaced or removed: they leave the engine when every search
 *      that began before step 2 has ended (grace.h).
 * So a record that is rewritten is found at every moment, in its old state or its new one.
 *
 * An engine is thus told of insertions before they are committed.  What must not happen to what it
 * keeps on the disk is that an ordinal in there is given again; so a segment takes its place only
 * when a commit has followed on all that the engine was told (maintain.c).  Deletions, but for
 * those of an undone batch, are told after the commit.
 *
 * Any failure undoes the batch: the transaction is aborted, inserted ordinals leave their engines
 * and are not used again, the state is loaded anew from the store, and reading goes on from there a
 * little later.  Meanwhile questions are answered, and the staleness grows and says so. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/shard/shard.h"

#define BATCH_RECORDS 1000
#define BATCH_NS      (5 * NS_PER_MS)
#define GATHER_NS     (5 * NS_PER_MS) /* after a commit, for the next */
#define CLOCK_EVERY   16              /* records between two looks at the clock */
#define IDLE_NS       (50 * NS_PER_MS)
#define RETIRE_NS     (2 * NS_PER_MS) /* while ordinals wait for searches */
#define RETRY_NS      (100 * NS_PER_MS)

struct retired {
    uint64_t era;
    uint32_t collection;
    uint32_t ordinal;
};

struct batch {
    struct shard *shard;
    struct store_txn *txn;
    struct apply_effects effects;
    size_t done;   /* effects whose first half is done */
    bool is_full;  /* no more vectors */
    bool is_short; /* one more may be tried, alone */
};

/* --- leaving the engines -----------------------------------------------------------------------
 */

void consume_forget_retired(struct shard *shard, uint32_t collection)
{
    size_t kept = 0;

    for (size_t i = 0; i < shard->retired_count; i++) {
        struct retired retired = shard->retired[shard->retired_head + i];

        if (retired.collection < collection)
            shard->retired[kept++] = retired;
    }
    shard->retired_head = 0;
    shard->retired_count = kept;
}

static bool make_room(struct shard *shard, size_t extra)
{
    size_t used = shard->retired_head + shard->retired_count;
    void *grown;

    if (shard->retired_size - used >= extra)
        return true;
    if (shard->retired_count > 0)
        memmove(shard->retired, shard->retired + shard->retired_head,
                shard->retired_count * sizeof(*shard->retired));
    shard->retired_head = 0;
    if (shard->retired_size - shard->retired_count >= extra)
        return true;
    grown =
        array_resize(shard->retired, (shard->retired_count + extra) * 2, sizeof(*shard->retired));
    if (grown == NULL)
        return false;
    shard->retired = grown;
    shard->retired_size = (shard->retired_count + extra) * 2;
    return true;
}

/* Let go of those that no search can still want. */
static void release_retired(struct shard *shard)
{
    uint64_t oldest;

    if (shard->retired_count == 0)
        return;
    oldest = grace_oldest(&shard->grace);
    while (shard->retired_count > 0 && shard->retired[shard->retired_head].era < oldest) {
        const struct retired *retired = &shard->retired[shard->retired_head];
        struct shard_collection *entry = collections_own(shard, retired->collection);

        if (entry->engine != NULL) {
            engine_delete(entry->engine, retired->ordinal);
            atomic_fetch_sub(&entry->pending, 1);
        }
        shard->retired_head++;
        shard->retired_count--;
    }
    if (shard->retired_count == 0)
        shard->retired_head = 0;
}

/* --- a batch -----------------------------------------------------------------------------------
 */

/* Every collection below `count` has an entry, in the order of their numbers: also one whose first
 * record here was its drop, which opens nothing. */
static enum err_code open_entries(struct shard *shard, uint32_t count, struct err *err)
{
    enum err_code code = ERR_OK;

    for (uint32_t n = shard->collection_count; code == ERR_OK && n < count; n++)
        code = collections_open(shard, shard->apply.collections[n], NULL, err);
    return code;
}

/* The first half of the effects that came with the last record. */
static enum err_code take_effects(struct batch *batch, struct err *err)
{
    struct shard *shard = batch->shard;
    enum err_code code = ERR_OK;

    for (; code == ERR_OK && batch->done < batch->effects.count; batch->done++) {
        const struct apply_effect *effect = &batch->effects.items[batch->done];
        struct shard_collection *entry;

        if (effect->kind == EFFECT_OPENED)
            code = open_entries(shard, effect->collection, err);
        if (effect->kind == EFFECT_OPENED && code == ERR_OK)
            code = collections_open(shard, shard->apply.collections[effect->collection], NULL, err);
        if (effect->kind != EFFECT_INSERTED)
            continue;
        entry = collections_own(shard, effect->collection);
        /* First: whoever finds the vector in the engine finds that it has been told. */
        atomic_store(&entry->floor, effect->ordinal + 1);
        code = engine_insert(entry->engine, effect->ordinal, effect->vector, err);
        if (code != ERR_OK)
            break;
        atomic_fetch_add(&entry->pending, 1);
    }
    return code;
}

static void undo(struct batch *batch)
{
    struct shard *shard = batch->shard;

    store_abort(batch->txn);
    for (size_t i = 0; i < batch->done; i++) {
        const struct apply_effect *effect = &batch->effects.items[i];
        struct shard_collection *entry;

        if (effect->kind != EFFECT_INSERTED)
            continue;
        entry = collections_own(shard, effect->collection);
        engine_delete(entry->engine, effect->ordinal);
        atomic_fetch_sub(&entry->pending, 1);
    }
}

/* Step 3. */
static void publish(struct shard *shard)
{
    struct apply *apply = &shard->apply;

    pthread_mutex_lock(&shard->lock);
    shard->applied = 0;
    shard->voided = 0;
    shard->parked = 0;
    for (uint32_t slot = 0; slot < apply->partition_count; slot++) {
        const struct apply_partition *from = &apply->partitions[slot];
        struct shard_partition *to = &shard->partitions[slot];
        size_t entries = from->vector.count * sizeof(from->vector.entries[0]);

        shard->applied += from->applied;
        shard->voided += from->voided;
        shard->parked += from->parked;
        if (!from->is_dirty)
            continue;
        to->position = from->position;
        to->data = from->data;
        to->epoch = from->epoch.epoch;
        to->counts = from->counts;
        memcpy(to->marks, from->marks, sizeof(to->marks));
        to->vector.clock = from->vector.clock;
        to->vector.count = from->vector.count;
        memcpy(to->vector.entries, from->vector.entries, entries);
        freshness_reached_locked(to);
    }
    for (uint32_t i = 0; i < apply->collection_count; i++) {
        if (!apply->collections[i]->is_dirty)
            continue;
        collections_publish_locked(shard, apply->collections[i]);
        collections_own(shard, i)->committed = apply->collections[i]->next_ordinal;
    }
    env_cond_broadcast(&shard->changed);
    pthread_mutex_unlock(&shard->lock);
    apply_clean(apply);
}

/* Step 4, and what else was to wait for the commit. */
static void settle(struct batch *batch)
{
    struct shard *shard = batch->shard;
    uint64_t era = grace_advance(&shard->grace);

    for (size_t i = 0; i < batch->effects.count; i++) {
        const struct apply_effect *effect = &batch->effects.items[i];
        struct shard_collection *entry = collections_own(shard, effect->collection);
        struct err err = {0};

        if (effect->kind == EFFECT_INSERTED)
            atomic_fetch_sub(&entry->pending, 1);
        if (effect->kind == EFFECT_REMOVED && entry->engine != NULL) {
            atomic_fetch_add(&entry->pending, 1);
            shard->retired[shard->retired_head + shard->retired_count++] = (struct retired){
                .era = era, .collection = effect->collection, .ordinal = effect->ordinal};
        }
        if (effect->kind == EFFECT_CLOSED &&
            collections_drop_engine(shard, effect->collection, &err) != ERR_OK)
            log_err(LOG_WARN, NULL, "the engine of a dropped collection stays", &err);
    }
}

static size_t count_removed(const struct apply_effects *effects)
{
    size_t count = 0;

    for (size_t i = 0; i < effects->count; i++)
        count += effects->items[i].kind == EFFECT_REMOVED;
    return count;
}

/* Is it an upsert with a vector, or so many of them, that has not been applied yet? */
static bool brings_vectors(const struct apply *apply, const struct wal_item *item)
{
    struct buffer scratch = {0};
    struct record record;
    bool brings;

    if (item->offset < apply->partitions[apply->slot_of[item->partition]].position)
        return false;
    brings = record_decode(&record, item->data, item->len, &scratch, NULL) == ERR_OK &&
             (record.op == RECORD_BULK_MANIFEST || record.vector != NULL);

    buffer_free(&scratch);
    return brings;
}

/* Where memory is short: may the item be applied?  What comes before one that may not is committed
 * first, deletions too, so that nothing waits that need not.  *is_last: it ends the batch. */
static enum err_code check_short(const struct batch *batch, const struct wal_item *item,
                                 bool is_first, bool *is_last, struct err *err)
{
    *is_last = false;
    if ((!batch->is_full && !batch->is_short) || !brings_vectors(&batch->shard->apply, item))
        return ERR_OK;
    *is_last = true;
    if (is_first && batch->is_full)
        return err_set(err, ERR_INSUFFICIENT_STORAGE, "over the memory limit of %llu bytes",
                       (unsigned long long)batch->shard->setup.memory_bytes);
    return ERR_OK;
}

/* It failed before it had any effect. */
static bool is_unread(const struct apply *apply, const struct apply_input *input)
{
    return apply->partitions[apply->slot_of[input->partition]].position <= input->offset;
}

/* Step 1: apply items until they or the time are used up; *taken says how many. */
static enum err_code apply_items(struct batch *batch, const struct wal_item *items, size_t count,
                                 size_t *taken, struct err *err)
{
    struct shard *shard = batch->shard;
    uint64_t until_ns = env_boot_ns(shard->env) + BATCH_NS;
    enum err_code code = ERR_OK;
    size_t i = 0;

    while (code == ERR_OK && i < count) {
        struct apply_input input = {
            .partition = items[i].partition,
            .offset = items[i].offset,
            .data = items[i].data,
            .len = items[i].len,
        };
        bool is_last;

        code = check_short(batch, &items[i], i == 0, &is_last, err);
        if (code != ERR_OK || (is_last && i > 0))
            break;
        code = bulk_prepare(shard, &input, err);
        if (code == ERR_OK)
            code = apply_record(&shard->apply, batch->txn, &input, &batch->effects, err);
        /* What cannot be fetched, or is damaged, ends the batch before it: what comes before is
         * committed; tried again, it begins the next one and uses up no ordinals. */
        if (code != ERR_OK && i > 0 && is_unread(&shard->apply, &input)) {
            err_clear(err);
            code = ERR_OK;
            break;
        }
        if (code == ERR_OK)
            code = take_effects(batch, err);
        i++;
        if (is_last || batch->effects.count >= BATCH_RECORDS ||
            ((i % CLOCK_EVERY == 0 || input.bulk != NULL) && env_boot_ns(shard->env) >= until_ns))
            break;
    }
    if (code == ERR_OK)
        code = open_entries(shard, shard->apply.collection_count, err);
    *taken = i;
    return code;
}

static enum err_code run_batch(struct shard *shard, const struct wal_item *items, size_t count,
                               size_t *taken, struct err *err)
{
    struct batch batch = {.shard = shard, .is_short = shard->is_short};
    enum err_code code = store_begin(&batch.txn, shard->setup.store, true, err);

    if (code != ERR_OK)
        return code;
    batch.is_full =
        shard->setup.memory_bytes > 0 && collections_memory(shard) > shard->setup.memory_bytes;
    code = apply_items(&batch, items, count, taken, err);
    shard->is_short = code == ERR_INSUFFICIENT_STORAGE || (batch.is_short && *taken != 1);
    if (code == ERR_OK)
        code = apply_flush(&shard->apply, batch.txn, err);
    if (code == ERR_OK && !make_room(shard, count_removed(&batch.effects)))
        code = err_set(err, ERR_NO_MEMORY, "no memory for retired ordinals");
    if (code == ERR_OK) {
        code = store_commit(batch.txn, err);
        batch.txn = NULL;
    }
    if (code != ERR_OK) {
        undo(&batch);
    } else {
        publish(shard);
        /* Behind it: who finds the commit counted finds its positions. */
        atomic_fetch_add(&shard->commits, 1);
        settle(&batch);
    }
    apply_effects_free(&batch.effects);
    return code;
}

/* --- following the log -------------------------------------------------------------------------
 */

/* Compare the records before the positions with what the store remembers of them. */
static enum err_code prove(struct shard *shard, struct start *start, const struct wal_item *items,
                           size_t count, struct err *err)
{
    for (size_t i = 0; start->unproven_count > 0 && i < count; i++) {
        uint16_t slot = shard->apply.slot_of[items[i].partition];
        const struct apply_partition *partition = &shard->apply.partitions[slot];

        if (!start->is_unproven[slot])
            continue;
        if (items[i].offset + 1 != partition->position || items[i].len < RECORD_HEADER_BYTES ||
            record_crc(items[i].data, items[i].len) != partition->crc) {
            shard->must_rebuild = true;
            return err_set(err, ERR_CONFLICT,
                           "partition %u: offset %llu holds another record than was read there",
                           partition->partition, (unsigned long long)items[i].offset);
        }
        start->is_unproven[slot] = false;
        start->unproven_count--;
    }
    return ERR_OK;
}

/* Caught up with the log's end as it was at the start: questions are answered from now on. */
static void note_progress(struct shard *shard, const struct start *start)
{
    if (start->unproven_count > 0)
        return;
    for (uint32_t slot = 0; slot < shard->apply.partition_count; slot++) {
        if (shard->apply.partitions[slot].position < start->ends[slot])
            return;
    }
    shard_set_state(shard, SHARD_READY, NULL);
}

static enum err_code handle_items(struct shard *shard, struct start *start,
                                  const struct wal_item *items, size_t count, struct err *err)
{
    enum err_code code = prove(shard, start, items, count, err);
    size_t at = 0;

    if (shard->metrics.read != NULL)
        metric_add(shard->metrics.read, count);

    while (code == ERR_OK && at < count) {
        size_t taken = 0;

        code = run_batch(shard, items + at, count - at, &taken, err);
        at += taken;
        release_retired(shard);
    }
    return code;
}

static bool should_reload(struct shard *shard)
{
    bool should;

    pthread_mutex_lock(&shard->lock);
    should = shard->should_reload;
    pthread_mutex_unlock(&shard->lock);
    return should;
}

/* What comes meanwhile shares the next commit. */
static void gather(struct shard *shard)
{
    uint64_t until_ns = env_boot_ns(shard->env) + GATHER_NS;
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&shard->lock);
    while (code == ERR_OK && shard->waiters == 0 && !shard_is_stopping(shard))
        code = env_cond_wait(&shard->wanted, &shard->lock, until_ns);
    pthread_mutex_unlock(&shard->lock);
}

static enum err_code follow(struct shard *shard, struct start *start, struct wal_item *items,
                            struct err *err)
{
    bool is_ready = false;

    while (!shard_is_stopping(shard) && !should_reload(shard)) {
        uint64_t wait_ns = shard->retired_count > 0 ? RETIRE_NS : IDLE_NS;
        size_t count = 0;
        enum err_code code;

        if (store_is_damaged(shard->setup.store)) /* searches find that too */
            return err_set(err, ERR_CORRUPT, "the store is damaged");

        if (!is_ready) {
            note_progress(shard, start);
            is_ready = shard->state == SHARD_READY;
        }
        code = wal_reader_next(start->reader, items, BATCH_RECORDS, &count,
                               env_boot_ns(shard->env) + wait_ns, err);
        if (code == ERR_CONFLICT || code == ERR_NOT_FOUND)
            shard->must_rebuild = true;
        if (code == ERR_OK)
            code = handle_items(shard, start, items, count, err);
        if (code != ERR_OK)
            return code;
        if (count > 0 && count < BATCH_RECORDS)
            gather(shard);
        release_retired(shard);
    }
    return ERR_OK;
}

/* Say once what is wrong, then try again a little later.  False: the node is gone. */
static bool pause_after(struct shard *shard, const struct err *err)
{
    enum err_code code = ERR_OK;
    bool is_news;
    char name[16];

    if (err->code == ERR_DEAD || shard_is_stopping(shard))
        return err->code != ERR_DEAD;
    pthread_mutex_lock(&shard->lock);
    is_news = strcmp(shard->detail, err->message) != 0;
    pthread_mutex_unlock(&shard->lock);
    snprintf(name, sizeof(name), "%u", shard->setup.shard);
    if (is_news)
        log_err(err->code == ERR_UNAVAILABLE ? LOG_INFO : LOG_ERROR,
                &(struct log_context){.shard_id = name}, "the log is not followed", err);
    /* What is not there yet while the shard starts is no failure. */
    shard_set_state(shard,
                    err->code == ERR_UNAVAILABLE && shard->state == SHARD_STARTING ? SHARD_STARTING
                                                                                   : SHARD_FAILED,
                    err);
    if (shard->setup.on_damage != NULL && store_is_damaged(shard->setup.store))
        shard->setup.on_damage(shard->setup.process, err);
    code = env_sleep_until(shard->env, env_boot_ns(shard->env) + RETRY_NS);
    return code != ERR_DEAD;
}

void consume_run(void *argument)
{
    struct shard *shard = argument;
    struct start *start = array_alloc(1, sizeof(*start));
    struct wal_item *items = array_alloc(BATCH_RECORDS, sizeof(*items));

    if (start == NULL || items == NULL)
        abort();
    while (!shard_is_stopping(shard)) {
        struct err err = {0};
        enum err_code code = start_shard(shard, start, &err);

        if (code == ERR_OK)
            code = follow(shard, start, items, &err);
        if (start->reader != NULL)
            wal_reader_close(start->reader);
        start->reader = NULL;
        if (code != ERR_OK && !pause_after(shard, &err))
            break;
    }
    free(items);
    free(start);
}
