/* One append: every record of a group of batches gets its turn, one wal_append carries all, every
 * offset that comes back is compared with the expected one.
 *
 * Happy path: stage (epoch, stamp, origin, expected offset; version vector records where they are
 * due) → append → all offsets as expected → lines move on, handlers wake.  Otherwise everything
 * staged becomes a doubt, for takeover.c to resolve, and the code says that recovery is due.  Only
 * the appender thread runs this. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "services/ingest/sequencer.h"

static enum err_code staged_room(struct sequencer *s, struct err *err)
{
    size_t size = s->staged_size == 0 ? 256 : s->staged_size * 2;
    void *grown;

    if (s->staged_count < s->staged_size)
        return ERR_OK;
    if ((grown = array_resize(s->staged, size, sizeof(*s->staged))) == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for an append");
    s->staged = grown;
    if ((grown = array_resize(s->entries, size, sizeof(*s->entries))) == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for an append");
    s->entries = grown;
    if ((grown = array_resize(s->offsets, size, sizeof(*s->offsets))) == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for an append");
    s->offsets = grown;
    s->staged_size = size;
    return ERR_OK;
}

/* The stamp of a local record: above everything in the partition. */
static struct stamp next_stamp(struct sequencer *s, struct line *line, uint64_t least_us)
{
    line->vector.clock = MAX_OF(line->vector.clock, least_us) + 1;
    return (struct stamp){.clock = line->vector.clock, .region = s->region};
}

/* What the line holds now, as a record of its own; it moves the clock no further than it must, for
 * what waited in a spool is stamped with the time of its writing where it can be. */
static enum err_code stage_vector(struct sequencer *s, uint32_t partition, struct err *err)
{
    struct line *line = &s->lines[partition];
    struct record record = {.op = RECORD_VERSION_VECTOR, .epoch = line->epoch};
    struct buffer payload = {0};
    size_t at = s->scratch.len;
    enum err_code rc = staged_room(s, err);

    if (rc != ERR_OK)
        return rc;
    record.stamp = next_stamp(s, line, 0);
    record.origin_region = s->region;
    record.origin_offset = line->next;
    version_vector_encode(&line->vector, &payload);
    record.payload = payload.data;
    record.payload_len = payload.len;
    rc = buffer_check(&payload, err);
    if (rc == ERR_OK)
        rc = record_encode(&record, &s->scratch, err);
    buffer_free(&payload);
    if (rc != ERR_OK)
        return rc;
    s->staged[s->staged_count++] = (struct staged){.partition = partition,
                                                   .expected = line->next++,
                                                   .stamp = record.stamp,
                                                   .at = at,
                                                   .len = s->scratch.len - at,
                                                   .is_vector = true};
    line->since_vector = 0;
    line->touched = true;
    return ERR_OK;
}

static enum err_code stage_item(struct sequencer *s, struct sequence_batch *batch, size_t index,
                                uint64_t wall_us, struct err *err)
{
    struct sequence_item *item = &batch->items[index];
    struct line *line = &s->lines[item->partition];
    struct record_turn turn = {.epoch = line->epoch};
    enum err_code rc = ERR_OK;

    assert(item->partition < s->partitions);
    if (line->since_vector + 1 >= VERSION_VECTOR_EVERY)
        rc = stage_vector(s, item->partition, err);
    if (rc == ERR_OK)
        rc = staged_room(s, err);
    if (rc != ERR_OK)
        return rc;
    if (item->keeps_stamp)
        line->vector.clock = MAX_OF(line->vector.clock, item->stamp.clock);
    else
        item->stamp = next_stamp(s, line, item->at_clock != 0 ? item->at_clock : wall_us);
    item->offset = line->next++;
    item->committed = false;
    turn.stamp = item->stamp;
    turn.origin_region = item->origin_region != 0 ? item->origin_region : s->region;
    turn.origin_offset = item->origin_region != 0 ? item->origin_offset : item->offset;
    record_set_turn(batch->bytes.data + item->at, item->len, &turn);
    s->staged[s->staged_count++] = (struct staged){.batch = batch,
                                                   .item = index,
                                                   .partition = item->partition,
                                                   .expected = item->offset,
                                                   .stamp = item->stamp,
                                                   .len = item->len};
    line->since_vector++;
    line->touched = true;
    return ERR_OK;
}

/* Taken only in order: what is known is dropped, a gap is refused. */
static enum err_code stage_run(struct sequencer *s, struct sequence_batch *batch, uint64_t wall_us,
                               struct err *err)
{
    struct foreign_run *run = &batch->foreign;
    struct line *line = &s->lines[run->partition];
    struct version_entry *entry = version_vector_entry(&line->vector, run->region);
    enum err_code rc = ERR_OK;
    uint64_t position;

    if (entry == NULL)
        return err_set(err, ERR_INVALID_ARGUMENT, "too many regions in one log");
    position = entry->position;
    run->position = position;
    if (run->from > position)
        return err_set(err, ERR_VERSION_CONFLICT,
                       "a gap: position %llu of region %u, partition %u is wanted",
                       (unsigned long long)position, run->region, run->partition);
    for (size_t i = 0; i < batch->count && rc == ERR_OK; i++) {
        struct sequence_item *item = &batch->items[i];

        item->skipped = item->origin_offset < position;
        if (item->skipped)
            continue;
        rc = stage_item(s, batch, i, wall_us, err);
        entry->position = item->origin_offset + 1;
        if (stamp_compare(item->stamp, entry->newest) > 0)
            entry->newest = item->stamp;
    }
    if (rc == ERR_OK && run->to > entry->position) {
        entry->position = run->to;
        rc = stage_vector(s, run->partition, err);
    }
    if (rc == ERR_OK)
        run->position = entry->position;
    return rc;
}

/* A run that is not staged in full leaves the vector as it was: what it has not brought is wanted
 * still, and a region of which nothing has come takes no entry. */
static enum err_code stage_foreign(struct sequencer *s, struct sequence_batch *batch,
                                   uint64_t wall_us, struct err *err)
{
    struct line *line = &s->lines[batch->foreign.partition];
    struct version_vector before = line->vector;
    size_t staged = s->staged_count;
    enum err_code rc = stage_run(s, batch, wall_us, err);

    if (rc != ERR_OK || s->staged_count == staged) {
        before.clock = line->vector.clock;
        line->vector = before;
    }
    return rc;
}

static enum err_code stage_batch(struct sequencer *s, struct sequence_batch *batch,
                                 uint64_t wall_us, struct err *err)
{
    enum err_code rc = ERR_OK;

    if (batch->foreign.region != 0)
        return stage_foreign(s, batch, wall_us, err);
    for (size_t i = 0; i < batch->count && rc == ERR_OK; i++)
        rc = stage_item(s, batch, i, wall_us, err);
    return rc;
}

/* The lines of what is staged forget everything that has not been committed; clocks stay. */
static void restore_lines(struct sequencer *s)
{
    for (uint32_t i = 0; i < s->partitions; i++) {
        struct line *line = &s->lines[i];
        uint64_t clock = line->vector.clock;

        line->vector = line->safe;
        line->vector.clock = MAX_OF(clock, line->safe.clock);
        line->next = line->committed;
        line->since_vector = line->safe_since;
        line->touched = false;
    }
}

/* Room was made before the append. */
static void add_doubt(struct sequencer *s, size_t index)
{
    const struct staged *staged = &s->staged[index];
    const struct wal_entry *entry = &s->entries[index];
    struct line *line = &s->lines[staged->partition];

    assert(s->doubt_count < s->doubt_size);
    s->doubts[s->doubt_count] = (struct doubt){.batch = staged->batch,
                                               .item = staged->item,
                                               .stamp = staged->stamp,
                                               .crc = record_crc(entry->data, entry->len),
                                               .next = line->doubt_head};
    line->doubt_head = s->doubt_count++;
}

static bool doubts_room(struct sequencer *s)
{
    size_t wanted = s->doubt_count + s->staged_count;
    void *grown;

    if (wanted <= s->doubt_size)
        return true;
    if ((grown = array_resize(s->doubts, wanted, sizeof(*s->doubts))) == NULL)
        return false;
    s->doubts = grown;
    s->doubt_size = wanted;
    return true;
}

/* The outcome of everything staged is unknown. */
static void all_in_doubt(struct sequencer *s, struct sequence_batch *list, const struct err *cause)
{
    uint64_t until = env_boot_ns(s->env) + DOUBT_GRACE_NS;
    struct sequence_batch **tail = &s->doubtful;

    while (*tail != NULL)
        tail = &(*tail)->next;
    *tail = list;
    pthread_mutex_lock(&s->lock);
    s->append_began = 0;
    for (; list != NULL; list = list->next) {
        list->state = BATCH_DOUBT;
        list->doubt_until_ns = until;
        env_cond_broadcast(&list->done); /* it waits less long now */
    }
    pthread_mutex_unlock(&s->lock);
    for (size_t i = s->staged_count; i-- > 0;)
        if (s->staged[i].batch != NULL)
            add_doubt(s, i);
    s->doubt_cause = *cause;
    restore_lines(s);
}

static void all_committed(struct sequencer *s)
{
    for (size_t i = 0; i < s->staged_count; i++) {
        const struct staged *staged = &s->staged[i];
        struct line *line = &s->lines[staged->partition];

        line->committed = line->next;
        line->read = line->next;
        if (staged->batch != NULL)
            staged->batch->items[staged->item].committed = true;
        if (staged->is_vector) {
            line->vector_offset = staged->expected;
            line->has_vector = true;
            wal_hint_set(s->wal, staged->partition, staged->expected);
        }
    }
    for (size_t i = 0; i < s->staged_count; i++) {
        struct line *line = &s->lines[s->staged[i].partition];

        if (!line->touched)
            continue;
        line->safe = line->vector;
        line->safe_since = line->since_vector;
        line->touched = false;
    }
    pthread_mutex_lock(&s->lock);
    s->append_began = 0;
    for (size_t i = 0; i < s->staged_count; i++) {
        const struct line *line = &s->lines[s->staged[i].partition];

        s->views[s->staged[i].partition] = (struct line_view){.end = line->committed,
                                                              .clock = line->vector.clock,
                                                              .epoch = line->epoch,
                                                              .vector = line->vector_offset};
    }
    pthread_mutex_unlock(&s->lock);
}

/* Append what is staged and compare the offsets. */
static enum err_code append_staged(struct sequencer *s, struct err *err)
{
    uint64_t began = env_boot_ns(s->env);
    enum err_code rc;

    for (size_t i = 0; i < s->staged_count; i++) {
        const struct staged *staged = &s->staged[i];
        const struct sequence_batch *batch = staged->batch;

        s->entries[i] = (struct wal_entry){
            .partition = staged->partition,
            .data = batch == NULL ? s->scratch.data + staged->at
                                  : batch->bytes.data + batch->items[staged->item].at,
            .len = staged->len};
    }
    rc = wal_append(s->wal, s->entries, s->staged_count, began + APPEND_DEADLINE_NS, s->offsets,
                    err);
    if (s->metrics.append != NULL) {
        metric_observe_ns(s->metrics.append, env_boot_ns(s->env) - began);
        metric_add(s->metrics.records, s->staged_count);
    }
    for (size_t i = 0; i < s->staged_count && rc == ERR_OK; i++)
        if (s->offsets[i] != s->staged[i].expected)
            rc = err_set(err, ERR_UNKNOWN_OUTCOME,
                         "partition %u: offset %llu came back instead of %llu",
                         s->staged[i].partition, (unsigned long long)s->offsets[i],
                         (unsigned long long)s->staged[i].expected);
    return rc;
}

/* Stage every batch.  Those that are refused or have nothing new are finished at once and leave the
 * list.  An error in the middle of a batch ends the whole group. */
static enum err_code stage_all(struct sequencer *s, struct sequence_batch **list, struct err *err)
{
    uint64_t wall_us = env_wall_us(s->env);
    struct sequence_batch **at = list;

    s->staged_count = 0;
    buffer_reset(&s->scratch);
    while (*at != NULL) {
        struct sequence_batch *batch = *at;
        size_t before = s->staged_count;
        enum err_code rc = stage_batch(s, batch, wall_us, err);

        if (s->staged_count > before) {
            if (rc != ERR_OK)
                return rc;
            at = &batch->next;
            continue;
        }
        *at = batch->next;
        batch_finish(s, batch, rc == ERR_OK ? NULL : err);
        err_clear(err);
    }
    return ERR_OK;
}

/* From here on the bytes stay as they are, and their stamps may be met in the log. */
static void begin_append(struct sequencer *s, struct sequence_batch *list)
{
    pthread_mutex_lock(&s->lock);
    s->append_began = env_boot_ns(s->env);
    for (; list != NULL; list = list->next)
        list->state = BATCH_APPENDING;
    for (size_t i = 0; i < s->staged_count; i++)
        s->last_staged = MAX_OF(s->last_staged, s->staged[i].stamp.clock);
    pthread_mutex_unlock(&s->lock);
}

/* For whoever decides how long the next one may wait for more. */
static void note_append(struct sequencer *s, const struct sequence_batch *list)
{
    s->last_ended_ns = env_boot_ns(s->env);
    s->last_took_ns = s->last_ended_ns - s->append_began;
    for (s->last_batches = 0; list != NULL; list = list->next)
        s->last_batches++;
}

static void finish_list(struct sequencer *s, struct sequence_batch *list, const struct err *outcome)
{
    struct sequence_batch *next;

    for (; list != NULL; list = next) {
        next = list->next;
        batch_finish(s, list, outcome);
    }
}

enum err_code append_group(struct sequencer *s, struct sequence_batch *list, struct err *err)
{
    struct err cause = {0};
    enum err_code rc = stage_all(s, &list, &cause);

    assert(s->doubt_count == 0);
    if (rc == ERR_OK && !doubts_room(s))
        rc = err_set(&cause, ERR_NO_MEMORY, "no memory for an append");
    if (rc != ERR_OK) {
        /* Nothing was appended: nothing is in doubt. */
        restore_lines(s);
        finish_list(s, list, &cause);
        return ERR_OK;
    }
    if (s->staged_count == 0)
        return ERR_OK;
    begin_append(s, list);
    rc = append_staged(s, &cause);
    note_append(s, list);
    if (rc != ERR_OK) {
        all_in_doubt(s, list, &cause);
        *err = cause;
        return rc;
    }
    all_committed(s);
    finish_list(s, list, NULL);
    return ERR_OK;
}

enum err_code append_vectors(struct sequencer *s, bool all, struct err *err)
{
    enum err_code rc = ERR_OK;

    s->staged_count = 0;
    buffer_reset(&s->scratch);
    for (uint32_t i = 0; i < s->partitions && rc == ERR_OK; i++)
        if (all || s->lines[i].since_vector > 0)
            rc = stage_vector(s, i, err);
    if (rc != ERR_OK) {
        restore_lines(s);
        return ERR_OK; /* nothing was appended */
    }
    if (s->staged_count == 0)
        return ERR_OK;
    rc = append_staged(s, err);
    if (rc == ERR_OK)
        all_committed(s);
    else
        all_in_doubt(s, NULL, err);
    return rc;
}

enum err_code append_wanted(struct sequencer *s, uint64_t wanted, struct err *err)
{
    enum err_code rc = append_vectors(s, true, err);

    pthread_mutex_lock(&s->lock);
    s->vectors_done = wanted;
    if (rc == ERR_OK)
        s->vectors_good = wanted;
    env_cond_broadcast(&s->vectors_come);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

enum err_code sequencer_checkpoint(struct sequencer *s, uint64_t deadline_ns, uint64_t *positions,
                                   struct err *err)
{
    enum err_code rc = ERR_OK;
    uint64_t wanted;

    pthread_mutex_lock(&s->lock);
    wanted = ++s->vectors_wanted;
    env_cond_signal(&s->work);
    while (rc == ERR_OK && s->vectors_done < wanted && !s->stopping)
        rc = env_cond_wait(&s->vectors_come, &s->lock, deadline_ns);
    if (rc == ERR_OK && s->vectors_good < wanted)
        rc = s->stopping ? ERR_DEAD : ERR_UNAVAILABLE;
    for (uint32_t i = 0; rc == ERR_OK && i < s->partitions; i++)
        positions[i] = s->views[i].vector;
    pthread_mutex_unlock(&s->lock);
    return rc == ERR_OK ? ERR_OK
                        : err_set(err, rc, "no version vectors could be appended to the log");
}
