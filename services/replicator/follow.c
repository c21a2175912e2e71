/* Reading a peer's log: the void rule, and which of its records are to be shipped.
 *
 * What epoch is in force where we go on must be known.  It is known at the log's first entry, and
 * at a version vector record that its holder noted as a hint, because such a record is written in
 * the epoch in force; from the one of them below the wanted position reading begins, and what lies
 * below it is only looked at. */
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "services/replicator/replicator.h"

/* --- where to begin ----------------------------------------------------------------------------
 */

static enum err_code begin_at(struct peer *peer, uint32_t partition, struct err *err)
{
    struct line *line = &peer->lines[partition];
    uint64_t hint = wal_hint(peer->wal, partition), first = 0;
    enum err_code rc = wal_first(peer->wal, partition, &first, err);

    if (rc != ERR_OK)
        return rc;
    if (first > line->wanted)
        return err_set(err, ERR_NOT_FOUND,
                       "region %s: its log begins at %llu of partition %u, and we have it up to "
                       "%llu only: this region must be made anew from a copy of the other",
                       peer->row.name, (unsigned long long)first, partition,
                       (unsigned long long)line->wanted);
    line->read = hint > first && hint <= line->wanted ? hint : first;
    line->epochs = (struct epoch_state){0};
    return ERR_OK;
}

/* Open at the positions in line->read. */
static enum err_code open_reader(struct peer *peer, struct err *err)
{
    uint32_t partitions[PARTITIONS_MAX];
    uint64_t positions[PARTITIONS_MAX];

    for (uint32_t i = 0; i < peer->partitions; i++) {
        partitions[i] = i;
        positions[i] = peer->lines[i].read;
    }
    return wal_reader_open(&peer->reader, peer->wal, partitions, positions, peer->partitions, err);
}

enum err_code follow_open(struct peer *peer, struct err *err)
{
    enum err_code rc = ERR_OK;

    for (uint32_t i = 0; i < peer->partitions && rc == ERR_OK; i++)
        rc = begin_at(peer, i, err);
    return rc == ERR_OK ? open_reader(peer, err) : rc;
}

/* --- one entry ---------------------------------------------------------------------------------
 */

static enum err_code damaged(const struct peer *peer, const struct wal_item *item, struct err *err)
{
    return err_wrap(err, "region %s, partition %u, offset %llu", peer->row.name, item->partition,
                    (unsigned long long)item->offset);
}

/* What is damaged is told where it stands, and not passed on. */
static enum err_code check_record(const struct peer *peer, const struct wal_item *item,
                                  struct err *err)
{
    struct buffer scratch = {0};
    struct record record;
    enum err_code rc = record_decode(&record, item->data, item->len, &scratch, err);

    buffer_free(&scratch);
    return rc == ERR_OK ? rc : damaged(peer, item, err);
}

/* Its place in the log is its origin; after a doubt that its holder resolved, the offset that was
 * written into it may be another one. */
static void set_origin(const struct wal_item *item, const struct record *record, uint8_t *copy)
{
    struct record_turn turn = {.epoch = record->epoch,
                               .stamp = record->stamp,
                               .origin_region = record->origin_region,
                               .origin_offset = item->offset};

    record_set_turn(copy, item->len, &turn);
}

static enum err_code add_to_run(struct peer *peer, const struct wal_item *item,
                                const struct record *record, struct err *err)
{
    struct run *run = &peer->lines[item->partition].run;
    size_t at = run->records.len + 4;
    enum err_code rc = check_record(peer, item, err);

    if (rc != ERR_OK)
        return rc;
    buffer_append_u32(&run->records, (uint32_t)item->len);
    buffer_append(&run->records, item->data, item->len);
    buffer_append_u64(&run->clocks, record->stamp.clock);
    rc = buffer_check(&run->records, err);
    if (rc == ERR_OK)
        rc = buffer_check(&run->clocks, err);
    if (rc == ERR_OK && record->origin_offset != item->offset)
        set_origin(item, record, run->records.data + at);
    run->count++;
    peer->run_bytes += item->len + 4;
    return rc;
}

/* At a hint the epoch is taken from the record itself; false: it is no such record. */
static bool trust_hint(struct line *line, const struct wal_item *item, const struct record *record)
{
    if (line->epochs.epoch != 0 || item->offset == 0)
        return true;
    if (record->op != RECORD_VERSION_VECTOR)
        return false;
    line->epochs = (struct epoch_state){.epoch = record->epoch};
    return true;
}

/* What of our own log stands in the peer's: one of our records says so of everything below it, a
 * version vector by its entry. */
static enum err_code note_held(struct peer *peer, const struct wal_item *item,
                               const struct record *peeked, struct err *err)
{
    struct line *line = &peer->lines[item->partition];
    struct version_vector vector;
    struct buffer scratch = {0};
    struct record record;
    const struct version_entry *entry = NULL;
    enum err_code rc;

    if (record_is_data(peeked->op)) {
        if (peeked->origin_region == peer->own_number && peeked->origin_offset != OFFSET_NONE)
            line->held = MAX_OF(line->held, peeked->origin_offset + 1);
        return ERR_OK;
    }
    if (peeked->op != RECORD_VERSION_VECTOR)
        return ERR_OK;
    rc = record_decode(&record, item->data, item->len, &scratch, err);
    if (rc == ERR_OK)
        rc = version_vector_decode(&vector, record.payload, record.payload_len, err);
    if (rc == ERR_OK)
        entry = version_vector_find(&vector, peer->own_number);
    if (entry != NULL)
        line->held = MAX_OF(line->held, entry->position);
    buffer_free(&scratch);
    return rc == ERR_OK ? rc : damaged(peer, item, err);
}

static enum err_code take(struct peer *peer, const struct wal_item *item, bool *is_misled,
                          struct err *err)
{
    struct line *line = &peer->lines[item->partition];
    struct record record;
    bool is_admitted;
    enum err_code rc = record_peek(&record, item->data, item->len, err);

    if (rc != ERR_OK)
        return damaged(peer, item, err);
    if (item->offset < line->read)
        return ERR_OK;
    *is_misled = !trust_hint(line, item, &record);
    if (*is_misled)
        return ERR_OK;
    is_admitted = epoch_admit(&line->epochs, &record, item->offset);
    line->read = item->offset + 1;
    if (!is_admitted)
        return ERR_OK;
    rc = note_held(peer, item, &record, err);
    if (rc != ERR_OK || item->offset < line->wanted || !record_is_data(record.op))
        return rc;
    line->has_data = true;
    line->data = item->offset + 1;
    return record.origin_region == peer->number ? add_to_run(peer, item, &record, err) : ERR_OK;
}

/* --- reading -----------------------------------------------------------------------------------
 */

/* A hint led to another record: read that partition from the log's first entry. */
static enum err_code begin_anew(struct peer *peer, uint32_t partition, struct err *err)
{
    struct line *line = &peer->lines[partition];
    uint64_t misled_at = line->read;
    enum err_code rc;

    wal_reader_close(peer->reader);
    peer->reader = NULL;
    peer->item_count = peer->item_at = 0;
    rc = wal_first(peer->wal, partition, &line->read, err);
    if (rc == ERR_OK && line->read == misled_at)
        return err_set(err, ERR_CORRUPT,
                       "region %s: partition %u begins at %llu, where no epoch can be told",
                       peer->row.name, partition, (unsigned long long)misled_at);
    return rc == ERR_OK ? open_reader(peer, err) : rc;
}

/* As many of the items at hand as fit into one shipment; the others wait for the next. */
static enum err_code take_items(struct peer *peer, struct err *err)
{
    enum err_code rc = ERR_OK;

    while (peer->item_at < peer->item_count && peer->run_bytes < SHIP_BYTES_MAX && rc == ERR_OK) {
        const struct wal_item *item = &peer->items[peer->item_at++];
        bool is_misled = false;

        if (item->partition >= peer->partitions)
            return err_set(err, ERR_CORRUPT, "region %s: an entry of no partition", peer->row.name);
        rc = take(peer, item, &is_misled, err);
        /* The items go with the reader: those behind are read again, each line knows its place. */
        if (rc == ERR_OK && is_misled)
            rc = begin_anew(peer, item->partition, err);
    }
    return rc;
}

enum err_code follow_read(struct peer *peer, uint64_t until_ns, struct err *err)
{
    size_t taken = 0;
    enum err_code rc = take_items(peer, err);

    while (rc == ERR_OK && peer->item_at == peer->item_count && taken < SHIP_ITEMS_MAX &&
           peer->run_bytes < SHIP_BYTES_MAX) {
        peer->item_at = peer->item_count = 0;
        rc = wal_reader_next(peer->reader, peer->items, READ_ITEMS_MAX, &peer->item_count,
                             taken == 0 ? until_ns : 0, err);
        if (rc != ERR_OK || peer->item_count == 0)
            break;
        taken += peer->item_count;
        rc = take_items(peer, err);
    }
    if (rc == ERR_CONFLICT) /* another log stands there now: whose it is, connecting tells */
        rc = err_set(err, ERR_UNAVAILABLE, "region %s: its log was replaced", peer->row.name);
    return rc;
}
