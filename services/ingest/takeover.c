/* Becoming the holder, and becoming sure again.
 *
 *   read every partition to its end (void rule) → lease row → a new epoch record in every
 * partition, one append → read up to it → what stands before it is known for ever → serve
 *
 * The same walk resolves doubts: what was appended and not answered is either found before the new
 * epoch record, and not void, or it is void for ever, however late it may land.  A higher epoch of
 * another holder does as well as our own.  Only the appender thread runs this. */
#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/ingest/sequencer.h"

#define READ_ITEMS       256
#define READ_DEADLINE_NS (30 * NS_PER_S) /* without any progress */
#define OTHER_WAIT_NS    (2 * NS_PER_S)  /* for the rest of another holder's epoch records */

enum read_until { UNTIL_END, UNTIL_OWN, UNTIL_OTHER };

struct reading {
    enum read_until until;
    uint64_t *ends;       /* of all partitions */
    uint32_t *partitions; /* those that the reader has */
    uint64_t *positions;
    struct buffer scratch;
    bool restart; /* a hint was wrong: open the reader again */
};

uint64_t next_epoch(const struct line *line)
{
    return MAX_OF(line->admitted.epoch, line->tried) + 1;
}

static bool line_done(const struct line *line, const struct reading *reading, uint32_t partition)
{
    switch (reading->until) {
    case UNTIL_END:
        return line->read >= reading->ends[partition];
    case UNTIL_OWN:
        return line->own_met || line->own_void;
    case UNTIL_OTHER:
        return line->other_met || line->doubt_head == SIZE_MAX;
    }
    return true;
}

static void match_doubt(struct sequencer *s, struct line *line, const struct record *record,
                        const struct wal_item *item)
{
    uint32_t crc = record_crc(item->data, item->len);

    for (size_t i = line->doubt_head; i != SIZE_MAX; i = s->doubts[i].next) {
        struct doubt *doubt = &s->doubts[i];

        if (doubt->found || doubt->crc != crc || stamp_compare(doubt->stamp, record->stamp) != 0)
            continue;
        doubt->found = true;
        doubt->offset = item->offset;
        break;
    }
    while (line->doubt_head != SIZE_MAX && s->doubts[line->doubt_head].found)
        line->doubt_head = s->doubts[line->doubt_head].next;
}

static void raise_entry(struct line *line, uint32_t region, uint64_t position, struct stamp newest)
{
    struct version_entry *entry = version_vector_entry(&line->vector, region);

    if (entry == NULL)
        return;
    entry->position = MAX_OF(entry->position, position);
    if (stamp_compare(newest, entry->newest) > 0)
        entry->newest = newest;
}

/* What a valid record teaches. */
static enum err_code learn(struct sequencer *s, struct line *line, const struct record *record,
                           uint64_t offset, struct err *err)
{
    struct version_vector vector;
    enum err_code rc;

    line->vector.clock = MAX_OF(line->vector.clock, record->stamp.clock);
    if (record->op == RECORD_VERSION_VECTOR) {
        rc = version_vector_decode(&vector, record->payload, record->payload_len, err);
        if (rc != ERR_OK)
            return rc;
        line->vector.clock = MAX_OF(line->vector.clock, vector.clock);
        for (uint32_t i = 0; i < vector.count; i++)
            raise_entry(line, vector.entries[i].region, vector.entries[i].position,
                        vector.entries[i].newest);
        line->since_vector = 0;
        line->vector_offset = offset;
        line->has_vector = true;
    } else if (record->origin_region != 0 && record->origin_region != s->region &&
               record->origin_offset != OFFSET_NONE) {
        raise_entry(line, record->origin_region, record->origin_offset + 1, record->stamp);
    }
    return ERR_OK;
}

static void meet_epoch(struct sequencer *s, struct line *line, const struct record *record,
                       bool admitted)
{
    bool ours =
        record->payload_len == HOLDER_BYTES && memcmp(record->payload, s->nonce, HOLDER_BYTES) == 0;

    if (ours && record->epoch == line->tried) {
        line->own_met = admitted;
        line->own_void = !admitted;
    } else if (!ours && admitted) {
        line->other_met = true;
    }
}

/* A hint was wrong.  A trimmed log begins with a version vector record as well. */
static enum err_code begin_at_first(struct sequencer *s, uint32_t partition, struct err *err)
{
    struct line *line = &s->lines[partition];
    uint64_t first;
    enum err_code rc = wal_first(s->wal, partition, &first, err);

    if (rc == ERR_OK && first > 0 && first == line->read)
        rc = err_set(err, ERR_CORRUPT, "partition %u begins at %llu, where no epoch can be told",
                     partition, (unsigned long long)first);
    if (rc != ERR_OK)
        return rc;
    line->read = first;
    line->from_hint = first > 0;
    return ERR_OK;
}

static enum err_code absorb(struct sequencer *s, struct reading *reading,
                            const struct wal_item *item, struct err *err)
{
    struct line *line = &s->lines[item->partition];
    struct record record;
    enum err_code rc = record_decode(&record, item->data, item->len, &reading->scratch, err);
    bool admitted;

    if (rc != ERR_OK)
        return err_wrap(err, "partition %u, offset %llu", item->partition,
                        (unsigned long long)item->offset);
    if (line->from_hint) {
        line->from_hint = false;
        if (record.op != RECORD_VERSION_VECTOR || item->offset != line->read) {
            reading->restart = true;
            return begin_at_first(s, item->partition, err);
        }
        line->admitted = (struct epoch_state){.epoch = record.epoch};
    }
    if (item->offset < line->read)
        return ERR_OK;
    line->read = item->offset + 1;
    line->since_vector++;
    admitted = epoch_admit(&line->admitted, &record, item->offset);
    if (record.op == RECORD_EPOCH)
        meet_epoch(s, line, &record, admitted);
    if (!admitted)
        return ERR_OK;
    match_doubt(s, line, &record, item);
    return learn(s, line, &record, item->offset, err);
}

/* Open a reader over the partitions that are not done; *count 0: none. */
static enum err_code open_reader(struct sequencer *s, struct reading *reading,
                                 struct wal_reader **reader, struct err *err)
{
    size_t count = 0;

    *reader = NULL;
    for (uint32_t i = 0; i < s->partitions; i++)
        if (!line_done(&s->lines[i], reading, i)) {
            reading->partitions[count] = i;
            reading->positions[count++] = s->lines[i].read;
        }
    if (count == 0)
        return ERR_OK;
    return wal_reader_open(reader, s->wal, reading->partitions, reading->positions, count, err);
}

static bool all_done(struct sequencer *s, const struct reading *reading)
{
    for (uint32_t i = 0; i < s->partitions; i++)
        if (!line_done(&s->lines[i], reading, i))
            return false;
    return true;
}

static enum err_code read_with(struct sequencer *s, struct reading *reading,
                               struct wal_reader *reader, uint64_t patience_ns, struct err *err)
{
    struct wal_item items[READ_ITEMS];
    enum err_code rc = ERR_OK;
    size_t count;

    while (rc == ERR_OK && !reading->restart && !all_done(s, reading)) {
        rc = wal_reader_next(reader, items, READ_ITEMS, &count, env_boot_ns(s->env) + patience_ns,
                             err);
        if (rc == ERR_OK && count == 0)
            rc = err_set(err, ERR_TIMEOUT, "the log does not show what was appended");
        for (size_t i = 0; i < count && rc == ERR_OK && !reading->restart; i++)
            if (!line_done(&s->lines[items[i].partition], reading, items[i].partition))
                rc = absorb(s, reading, &items[i], err);
    }
    return rc;
}

static void reading_free(struct reading *reading)
{
    free(reading->ends);
    free(reading->partitions);
    free(reading->positions);
    buffer_free(&reading->scratch);
}

static enum err_code reading_init(struct sequencer *s, struct reading *reading,
                                  enum read_until until, struct err *err)
{
    *reading = (struct reading){.until = until};
    reading->ends = array_alloc(s->partitions, sizeof(*reading->ends));
    reading->partitions = array_alloc(s->partitions, sizeof(*reading->partitions));
    reading->positions = array_alloc(s->partitions, sizeof(*reading->positions));
    if (reading->ends == NULL || reading->partitions == NULL || reading->positions == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to read the log");
    for (uint32_t i = 0; i < s->partitions; i++)
        reading->partitions[i] = i;
    if (until != UNTIL_END)
        return ERR_OK;
    return wal_ends(s->wal, reading->partitions, s->partitions,
                    env_boot_ns(s->env) + APPEND_DEADLINE_NS, reading->ends, err);
}

static enum err_code read_lines(struct sequencer *s, enum read_until until, uint64_t patience_ns,
                                struct err *err)
{
    struct reading reading;
    struct wal_reader *reader;
    enum err_code rc = reading_init(s, &reading, until, err);

    while (rc == ERR_OK) {
        reading.restart = false;
        rc = open_reader(s, &reading, &reader, err);
        if (rc != ERR_OK || reader == NULL)
            break;
        rc = read_with(s, &reading, reader, patience_ns, err);
        wal_reader_close(reader);
    }
    reading_free(&reading);
    return rc;
}

/* A new epoch record in every partition, in one append. */
static enum err_code append_epochs(struct sequencer *s, struct err *err)
{
    struct wal_entry *entries = array_alloc(s->partitions, sizeof(*entries));
    uint64_t *offsets = array_alloc(s->partitions, sizeof(*offsets));
    struct buffer bytes = {0};
    enum err_code rc = entries == NULL || offsets == NULL
                           ? err_set(err, ERR_NO_MEMORY, "no memory for epoch records")
                           : ERR_OK;
    size_t len = 0;

    for (uint32_t i = 0; i < s->partitions && rc == ERR_OK; i++) {
        struct line *line = &s->lines[i];
        struct record record = {
            .op = RECORD_EPOCH, .payload = s->nonce, .payload_len = HOLDER_BYTES};

        line->tried = record.epoch = next_epoch(line);
        line->own_met = line->own_void = false;
        line->vector.clock++; /* no further: see stage_vector */
        record.stamp = (struct stamp){.clock = line->vector.clock, .region = s->region};
        record.origin_region = s->region;
        record.origin_offset = line->read;
        rc = record_encode(&record, &bytes, err);
        if (i == 0)
            len = bytes.len;
        entries[i] = (struct wal_entry){.partition = i, .len = len};
    }
    if (rc == ERR_OK && bytes.len != len * s->partitions)
        rc = err_set(err, ERR_INTERNAL, "epoch records differ in length");
    for (uint32_t i = 0; i < s->partitions && rc == ERR_OK; i++)
        entries[i].data = bytes.data + i * len;
    if (rc == ERR_OK)
        rc = wal_append(s->wal, entries, s->partitions, env_boot_ns(s->env) + APPEND_DEADLINE_NS,
                        offsets, err);
    if (rc == ERR_OK && s->metrics.epochs != NULL)
        metric_add(s->metrics.epochs, s->partitions);
    buffer_free(&bytes);
    free(entries);
    free(offsets);
    return rc;
}

static void judge_batch(struct sequencer *s, const struct sequence_batch *batch,
                        struct err *outcome)
{
    size_t wanted = 0, committed = 0;

    err_clear(outcome);
    for (size_t i = 0; i < batch->count; i++) {
        wanted += !batch->items[i].skipped;
        committed += batch->items[i].committed;
    }
    if (committed == wanted)
        return;
    if (s->doubt_cause.code == ERR_INSUFFICIENT_STORAGE && committed == 0)
        *outcome = s->doubt_cause;
    else
        (void)err_set(outcome, ERR_UNAVAILABLE,
                      "the append failed: %zu of %zu records were "
                      "committed",
                      committed, wanted);
}

/* How far a foreign run has come, by what stands in the log: its last word may be a version vector,
 * which is no record of the batch and in doubt like the others. */
static void resolve_run(const struct sequencer *s, struct foreign_run *run)
{
    const struct version_entry *entry =
        run->region == 0 ? NULL
                         : version_vector_find(&s->lines[run->partition].vector, run->region);

    run->position = entry == NULL ? 0 : entry->position;
}

/* Everything in doubt is known now. */
static void resolve_doubts(struct sequencer *s)
{
    struct sequence_batch *batch = s->doubtful, *next;
    struct err outcome;

    for (size_t i = 0; i < s->doubt_count; i++) {
        const struct doubt *doubt = &s->doubts[i];
        struct sequence_item *item = &doubt->batch->items[doubt->item];

        item->committed = doubt->found;
        if (doubt->found)
            item->offset = doubt->offset;
    }
    for (uint32_t i = 0; i < s->partitions; i++)
        s->lines[i].doubt_head = SIZE_MAX;
    s->doubt_count = 0;
    s->doubtful = NULL;
    for (; batch != NULL; batch = next) {
        next = batch->next;
        judge_batch(s, batch, &outcome);
        resolve_run(s, &batch->foreign);
        batch_finish(s, batch, &outcome);
    }
}

static bool any_line(const struct sequencer *s, bool other)
{
    for (uint32_t i = 0; i < s->partitions; i++)
        if (other ? s->lines[i].other_met : s->lines[i].own_void)
            return true;
    return false;
}

/* Behind our epoch records: the lines as they are from here on. */
static void install_lines(struct sequencer *s)
{
    for (uint32_t i = 0; i < s->partitions; i++) {
        struct line *line = &s->lines[i];

        assert(line->own_met && line->admitted.epoch == line->tried);
        line->epoch = line->tried;
        line->next = line->committed = line->read;
        line->safe = line->vector;
        line->safe_since = line->since_vector;
        line->touched = line->other_met = false;
    }
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->partitions; i++)
        s->views[i] = (struct line_view){.end = s->lines[i].committed,
                                         .clock = s->lines[i].vector.clock,
                                         .epoch = s->lines[i].epoch,
                                         .vector = s->lines[i].vector_offset};
    pthread_mutex_unlock(&s->lock);
}

/* New epoch records, read up to them.  ERR_CONFLICT: another's epoch went before, in some
 * partition; all doubts are resolved then too. */
static enum err_code claim(struct sequencer *s, struct err *err)
{
    enum err_code rc = append_epochs(s, err);

    if (rc == ERR_OK)
        rc = read_lines(s, UNTIL_OWN, READ_DEADLINE_NS, err);
    if (rc != ERR_OK)
        return rc;
    if (any_line(s, false)) {
        resolve_doubts(s);
        return err_set(err, ERR_CONFLICT, "another holder's epoch came first");
    }
    install_lines(s);
    resolve_doubts(s);
    return ERR_OK;
}

static enum err_code open_log(struct sequencer *s, struct err *err)
{
    struct wal *wal;
    uint32_t partitions;
    enum err_code rc;

    if (s->wal != NULL)
        return s->lines_known ? wal_recover(s->wal, err) : ERR_OK;
    rc = s->setup.open_wal(s->setup.open_wal_context, &wal, err);
    if (rc != ERR_OK)
        return rc;
    partitions = wal_partitions(wal);
    s->lines = array_alloc(partitions, sizeof(*s->lines));
    s->views = array_alloc(partitions, sizeof(*s->views));
    if (s->lines == NULL || s->views == NULL) {
        free(s->lines);
        free(s->views);
        s->lines = NULL;
        s->views = NULL;
        wal_close(wal);
        return err_set(err, ERR_NO_MEMORY, "no memory for %u partitions", partitions);
    }
    for (uint32_t i = 0; i < partitions; i++)
        s->lines[i].doubt_head = SIZE_MAX;
    pthread_mutex_lock(&s->lock);
    s->wal = wal;
    s->partitions = partitions;
    s->region = wal_region(wal);
    pthread_mutex_unlock(&s->lock);
    return ERR_OK;
}

/* Where the first reading begins: at a hint, or at the log's first offset. */
static enum err_code place_lines(struct sequencer *s, const uint64_t *hints, struct err *err)
{
    struct reading reading;
    enum err_code rc = reading_init(s, &reading, UNTIL_END, err);
    uint64_t first;

    for (uint32_t i = 0; i < s->partitions && rc == ERR_OK; i++) {
        struct line *line = &s->lines[i];
        uint64_t hint = MAX_OF(wal_hint(s->wal, i), hints[i]);

        rc = wal_first(s->wal, i, &first, err);
        if (rc != ERR_OK)
            break;
        line->read = hint > first && hint < reading.ends[i] ? hint : first;
        line->from_hint = line->read > 0;
    }
    reading_free(&reading);
    return rc;
}

enum err_code take_over(struct sequencer *s, struct err *err)
{
    uint64_t version = META_ABSENT, *hints = NULL;
    enum err_code rc = open_log(s, err);

    if (rc != ERR_OK)
        return rc;
    if ((hints = array_alloc(s->partitions, sizeof(*hints))) == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for hints");
    if (s->setup.meta != NULL)
        rc = lease_look(s, &version, hints, err);
    if (rc == ERR_OK && !s->lines_known)
        rc = place_lines(s, hints, err);
    free(hints);
    if (rc == ERR_OK)
        rc = read_lines(s, UNTIL_END, READ_DEADLINE_NS, err);
    if (rc != ERR_OK)
        return rc;
    s->lines_known = true;
    if (s->setup.meta != NULL)
        rc = lease_take(s, version, err);
    if (rc == ERR_OK)
        rc = claim(s, err);
    if (rc == ERR_OK && s->setup.taken != NULL)
        rc = s->setup.taken(s->setup.taken_context, err);
    if (rc == ERR_OK && s->metrics.takeovers != NULL)
        metric_add(s->metrics.takeovers, 1);
    return rc;
}

enum err_code recover_holder(struct sequencer *s, struct err *err)
{
    enum err_code rc = wal_recover(s->wal, err);
    bool lost;

    if (rc == ERR_OK)
        rc = read_lines(s, UNTIL_END, READ_DEADLINE_NS, err);
    if (rc != ERR_OK)
        return rc;
    lost = any_line(s, true);
    if (lost && read_lines(s, UNTIL_OTHER, OTHER_WAIT_NS, err) == ERR_OK) {
        resolve_doubts(s);
        return err_set(err, ERR_READ_ONLY, "another ingest has taken the log");
    }
    rc = claim(s, err);
    if (rc == ERR_CONFLICT || (rc == ERR_OK && lost))
        return err_set(err, ERR_READ_ONLY, "another ingest has taken the log");
    return rc;
}
