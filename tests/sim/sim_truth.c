/* What is true: a region's log, read with nothing but the record format, the void rule and the
 * order of stamps, gives every id a history of values and deletions, in the order of its partition.
 *
 * Every value is written once and has a number.  What a client was told is compared with the
 * history: a write answered 200 is in it, one that failed is not; a conditional write follows a
 * state that met its condition; a read shows a state that the id had at or after the position that
 * the read had to see. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/model/collection.h"
#include "common/model/stamp.h"
#include "services/ingest/spool.h"
#include "tests/sim/sim.h"

const char *const sim_ids[SIM_IDS] = {"ant", "bee", "cat",  "dog",  "eel",
                                      "fox", "gnu", "hare", "ibis", "jay"};

uint32_t truth_partition(uint32_t id)
{
    return record_partition(sim_ids[id], strlen(sim_ids[id]), SIM_PARTITIONS);
}

int truth_id(const char *text, size_t len)
{
    for (int i = 0; i < SIM_IDS; i++)
        if (strlen(sim_ids[i]) == len && memcmp(sim_ids[i], text, len) == 0)
            return i;
    return -1;
}

uint32_t truth_new_op(struct sim_region *region, enum sim_op_kind kind, uint32_t id,
                      const char *if_match)
{
    struct sim *sim = region->sim;
    struct sim_truth *truth = &sim->truth;
    uint32_t value = ++truth->op_count;
    struct sim_op *op;

    assert(value < SIM_OPS_MAX);
    op = &truth->ops[value];
    *op = (struct sim_op){.kind = kind, .id = id, .region = region->index, .began_ns = sim->now_ns};
    (void)snprintf(op->if_match, sizeof(op->if_match), "%s", if_match == NULL ? "" : if_match);
    return value;
}

/* --- following the log ------------------------------------------------------------------------ */

static const struct sim_event *last_event(const struct sim_history *history)
{
    return history->count == 0 ? NULL : &history->events[history->count - 1];
}

static bool is_live(const struct sim_event *event)
{
    return event != NULL && event->kind == EVENT_VALUE;
}

/* Of two changes the newer stamp counts; a local one is always the newest. */
static void push_event(struct sim_region *region, uint32_t id, struct sim_event event)
{
    struct sim_history *history = &region->chronicle.ids[id];
    const struct sim_event *last = last_event(history);

    if (last != NULL && stamp_compare(event.stamp, last->stamp) <= 0) {
        region->sim->counts.overtaken++;
        return;
    }
    if (history->count == history->size) {
        history->size = history->size * 2 + 16;
        history->events = realloc(history->events, history->size * sizeof(*history->events));
        if (history->events == NULL)
            abort();
    }
    history->events[history->count++] = event;
}

/* A write whose condition did not hold when its turn came must not be in the log. */
static void check_condition(struct sim_region *region, uint32_t value)
{
    struct sim *sim = region->sim;
    const struct sim_op *op = &sim->truth.ops[value];
    const struct sim_event *before = last_event(&region->chronicle.ids[op->id]);
    char version[STAMP_TEXT_BYTES];

    if ((op->kind == OP_CREATE || op->kind == OP_SKIP) && is_live(before))
        sim_fail(sim, "value %u was to be created only if '%s' is absent, but follows value %u",
                 value, sim_ids[op->id], before->value);
    if (op->kind != OP_IF_MATCH)
        return;
    if (!is_live(before))
        sim_fail(sim, "value %u was written with If-Match, but '%s' was absent", value,
                 sim_ids[op->id]);
    stamp_to_text(version, before->stamp);
    if (strlen(op->if_match) != strlen(version) + 2 ||
        memcmp(op->if_match + 1, version, strlen(version)) != 0)
        sim_fail(sim, "value %u was written with If-Match %s, but follows version %s", value,
                 op->if_match, version);
}

static uint32_t value_of(struct sim *sim, const struct record *record)
{
    char text[64];
    const char *at;
    unsigned long value = 0;

    (void)snprintf(text, sizeof(text), "%.*s", (int)record->metadata_len, record->metadata);
    at = strstr(text, "\"v\":");
    if (at != NULL)
        value = strtoul(at + 4, NULL, 10);
    if (value == 0 || value > sim->truth.op_count)
        sim_fail(sim, "the log holds metadata that nobody wrote: %s", text);
    return (uint32_t)value;
}

/* A value may count once in each log: as it was written in its own, as it was shipped in others. */
static void take_place(struct sim_region *region, struct sim_op *op, uint32_t value,
                       const struct record *record, uint64_t offset)
{
    struct sim *sim = region->sim;
    bool is_local = record->origin_region == region->log.region;

    if (is_local != (op->region == region->index))
        sim_fail(sim, "value %u of region %u counts in region %s as %s", value, op->region,
                 region->name, is_local ? "its own" : "another's");
    /* What is in doubt may be spooled and appended again. */
    if (is_local && op->times > 0 &&
        (op->kind != OP_UPSERT || op->times > 1 || op->state == OP_ACKED))
        sim_fail(sim, "value %u counts %u times in the log of region %s", value, op->times + 1,
                 region->name);
    if (!is_local && op->is_shipped[region->index] &&
        op->shipped_offset[region->index] >= record->origin_offset)
        sim_fail(sim, "value %u counts twice in the log of region %s", value, region->name);
    if (op->state == OP_FAILED)
        sim_fail(sim, "value %u was answered as not written, but counts", value);
    if (is_local) {
        check_condition(region, value);
        op->times++;
        sim->counts.replays += op->times > 1;
        op->offset = offset;
    } else {
        op->is_shipped[region->index] = true;
        op->shipped_offset[region->index] = record->origin_offset;
        sim->counts.foreign++;
    }
}

static void take_upsert(struct sim_region *region, const struct record *record,
                        struct sim_event event)
{
    struct sim *sim = region->sim;
    int id = truth_id(record->id, record->id_len);
    struct sim_op *op;

    event.kind = EVENT_VALUE;
    event.value = value_of(sim, record);
    op = &sim->truth.ops[event.value];
    if (id < 0 || op->id != (uint32_t)id)
        sim_fail(sim, "value %u is in the log under another id", event.value);
    take_place(region, op, event.value, record, event.offset);
    push_event(region, (uint32_t)id, event);
}

static void take_truncate(struct sim_region *region, uint32_t partition, struct sim_event event)
{
    event.kind = EVENT_DELETE;
    region->sim->counts.truncates++;
    for (uint32_t id = 0; id < SIM_IDS; id++)
        if (truth_partition(id) == partition)
            push_event(region, id, event);
}

/* Where the records of each origin stand, its own ones too. */
static void note_place(struct sim_region *region, uint32_t partition, const struct record *record,
                       uint64_t offset)
{
    struct sim *sim = region->sim;
    struct sim_places *places = NULL;

    for (uint32_t i = 0; i < sim->region_count; i++)
        if (sim->regions[i].log.region == record->origin_region)
            places = &region->chronicle.origins[partition][i];
    if (places == NULL)
        sim_fail(sim, "a record of no region's log");
    if (places->count == places->size) {
        places->size = places->size * 2 + 16;
        places->places = realloc(places->places, places->size * sizeof(*places->places));
        if (places->places == NULL)
            abort();
    }
    if (record->origin_region != region->log.region && places->count > 0 &&
        places->places[places->count - 1].origin >= record->origin_offset)
        sim_fail(sim, "region %s, partition %u: the records of an origin are out of order",
                 region->name, partition);
    places->places[places->count++] = (struct sim_place){
        .origin = record->origin_region == region->log.region ? offset : record->origin_offset,
        .here = offset};
}

static void take_collection(struct sim *sim, const struct record *record)
{
    struct sim_truth *truth = &sim->truth;
    enum collection_change change;
    struct collection definition;
    struct err err = {0};

    if (collection_decode(&definition, &change, record->payload, record->payload_len, &err) !=
        ERR_OK)
        sim_fail(sim, "a collection's record cannot be read: %s", err.message);
    if (strcmp(definition.name, SIM_COLLECTION) != 0)
        return;
    if (truth->has_incarnation &&
        memcmp(truth->incarnation, definition.incarnation, INCARNATION_BYTES) != 0)
        sim_fail(sim, "the collection has got another incarnation");
    memcpy(truth->incarnation, definition.incarnation, INCARNATION_BYTES);
    truth->has_incarnation = true;
}

/* Stamps of local records rise without exception.  A collection's change brings its own, another
 * region's record too; an epoch record is stamped before its writer knows what lands right before
 * it. */
static void check_stamp(struct sim_region *region, uint32_t partition, const struct record *record)
{
    struct stamp *newest = &region->chronicle.newest[partition];
    bool is_local = record->stamp.region == region->log.region;

    if (stamp_compare(record->stamp, *newest) > 0)
        *newest = record->stamp;
    else if (is_local && record->op != RECORD_COLLECTION && record->op != RECORD_EPOCH)
        sim_fail(region->sim,
                 "region %s, partition %u: the stamp of op %d, %llu-%u, is not above %llu-%u, the "
                 "newest so far",
                 region->name, partition, (int)record->op, (unsigned long long)record->stamp.clock,
                 record->stamp.region, (unsigned long long)newest->clock, newest->region);
}

static void note_holder(struct sim_region *region, uint32_t partition, const struct record *record)
{
    struct sim_chronicle *chronicle = &region->chronicle;

    region->sim->counts.epochs++;
    if (partition != 0 || record->payload_len != HOLDER_BYTES)
        return;
    region->sim->counts.takeovers += memcmp(chronicle->holder, record->payload, HOLDER_BYTES) != 0;
    memcpy(chronicle->holder, record->payload, HOLDER_BYTES);
}

static void take_record(struct sim_region *region, uint32_t partition, const struct record *record,
                        struct sim_event event)
{
    struct sim_truth *truth = &region->sim->truth;
    int id;

    if (record->op == RECORD_EPOCH)
        note_holder(region, partition, record);
    check_stamp(region, partition, record);
    if (record->op == RECORD_COLLECTION)
        take_collection(region->sim, record);
    if (record->op == RECORD_UPSERT || record->op == RECORD_DELETE || record->op == RECORD_TRUNCATE)
        note_place(region, partition, record, event.offset);
    if (!truth->has_incarnation ||
        memcmp(record->incarnation, truth->incarnation, INCARNATION_BYTES) != 0)
        return;
    event.stamp = record->stamp;
    if (record->op == RECORD_UPSERT) {
        take_upsert(region, record, event);
    } else if (record->op == RECORD_DELETE) {
        event.kind = EVENT_DELETE;
        if ((id = truth_id(record->id, record->id_len)) < 0)
            sim_fail(region->sim, "the log deletes an id that nobody has");
        push_event(region, (uint32_t)id, event);
    } else if (record->op == RECORD_TRUNCATE) {
        take_truncate(region, partition, event);
    }
}

static void follow_region(struct sim_region *region)
{
    struct sim *sim = region->sim;
    struct sim_chronicle *chronicle = &region->chronicle;

    for (uint32_t p = 0; p < SIM_PARTITIONS; p++) {
        const struct sim_partition *partition = &region->log.partitions[p];

        for (; chronicle->read[p] < partition->count; chronicle->read[p]++) {
            const struct sim_entry *entry = &partition->entries[chronicle->read[p]];
            struct sim_event event = {.offset = chronicle->read[p], .landed_ns = entry->landed_ns};
            struct record record;
            struct err err = {0};

            if (record_decode(&record, entry->data, entry->len, &sim->truth.scratch, &err) !=
                ERR_OK)
                sim_fail(sim, "the log holds what cannot be read: %s", err.message);
            if (epoch_admit(&chronicle->admitted[p], &record, event.offset))
                take_record(region, p, &record, event);
            else
                sim->counts.voided++;
        }
    }
}

void truth_follow(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->region_count; i++)
        follow_region(&sim->regions[i]);
}

/* --- what clients were told ------------------------------------------------------------------- */

void truth_acked(struct sim *sim, uint32_t value, const struct token *token)
{
    struct sim_op *op = &sim->truth.ops[value];
    struct sim_region *region = &sim->regions[op->region];
    struct sim_history *history = &region->chronicle.ids[op->id];

    truth_follow(sim);
    if (op->times == 0)
        sim_fail(sim, "value %u of '%s' was answered 200, but does not count in the log", value,
                 sim_ids[op->id]);
    if (op->offset >= token_position(token, region->log.region, truth_partition(op->id)))
        sim_fail(sim, "the token of value %u does not cover its offset %llu", value,
                 (unsigned long long)op->offset);
    op->state = OP_ACKED;
    sim->counts.acked++;
    if (op->offset + 1 > history->acked_position)
        history->acked_position = op->offset + 1;
}

/* The value that this row of a spool holds; 0: none. */
static uint32_t value_in_row(struct sim *sim, struct store_value bytes, struct spool_row *row)
{
    struct record record;

    if (spool_row_decode(row, bytes.data, bytes.len, NULL) != ERR_OK ||
        record_decode(&record, row->record, row->record_len, &sim->truth.scratch, NULL) != ERR_OK)
        sim_fail(sim, "a spool holds what cannot be read");
    if (record.op != RECORD_UPSERT || strcmp(row->collection, SIM_COLLECTION) != 0)
        return 0;
    return value_of(sim, &record);
}

static uint64_t row_number(struct store_value key)
{
    return __builtin_bswap64(load_u64((const uint8_t *)key.data + 1));
}

uint64_t truth_look_into_spool(struct sim_node *node, struct sim_op *wanted, uint32_t value)
{
    struct store_cursor *cursor = NULL;
    struct store_txn *txn = NULL;
    struct store_value key, bytes;
    struct err err = {0};
    uint64_t waiting = 0;
    bool more = true;

    if (node->store == NULL)
        return 0;
    if (store_begin(&txn, node->store, false, &err) != ERR_OK ||
        store_cursor_open(&cursor, txn, STORE_ROWS, (struct store_value){0}, &err) != ERR_OK)
        sim_fail(node->sim, "a spool cannot be read: %s", err.message);
    while (store_cursor_next(cursor, &key, &bytes, &more, &err) == ERR_OK && more) {
        struct spool_row row = {0};

        if (*(const uint8_t *)key.data != 0)
            continue; /* parked: of the other collection */
        waiting++;
        if (wanted != NULL && value_in_row(node->sim, bytes, &row) == value) {
            wanted->spooled = row.stamp;
            wanted->spool = node;
            wanted->spool_number = row_number(key);
        }
    }
    store_cursor_close(cursor);
    store_abort(txn);
    return waiting;
}

void truth_spooled(struct sim *sim, uint32_t value)
{
    struct sim_op *op = &sim->truth.ops[value];

    truth_follow(sim);
    for (uint32_t i = 0; i < sim->node_count; i++)
        if (sim->nodes[i].service == &sim_ingest_service &&
            sim->nodes[i].region->index == op->region)
            (void)truth_look_into_spool(&sim->nodes[i], op, value);
    op->state = OP_SPOOLED;
    sim->counts.spooled++;
}

void truth_failed(struct sim *sim, uint32_t value, const char *why)
{
    struct sim_op *op = &sim->truth.ops[value];

    truth_follow(sim);
    if (op->times > 0)
        sim_fail(sim, "value %u of '%s' was answered as not written (%s), but counts in the log",
                 value, sim_ids[op->id], why);
    op->state = OP_FAILED;
    sim->counts.failed++;
}

void truth_deleted(struct sim_region *region, uint32_t id, const struct token *token,
                   int64_t deleted_count)
{
    struct sim *sim = region->sim;
    struct sim_history *history = &region->chronicle.ids[id];
    uint64_t end = token_position(token, region->log.region, truth_partition(id));
    size_t at;

    truth_follow(sim);
    for (at = history->count; at > 0; at--)
        if (history->events[at - 1].offset < end)
            break;
    if (at == 0 || history->events[at - 1].kind != EVENT_DELETE)
        sim_fail(sim, "a delete of '%s' was answered 200, but the log has none below %llu",
                 sim_ids[id], (unsigned long long)end);
    if (deleted_count == 1 && (at < 2 || history->events[at - 2].kind != EVENT_VALUE))
        sim_fail(sim, "a delete of '%s' counted 1, but nothing was there", sim_ids[id]);
    sim->counts.acked++;
    if (history->events[at - 1].offset + 1 > history->acked_position)
        history->acked_position = history->events[at - 1].offset + 1;
}

/* --- what clients have read ------------------------------------------------------------------- */

static bool shows(const struct sim_event *event, uint32_t value)
{
    if (value == VALUE_ABSENT)
        return !is_live(event);
    return is_live(event) && event->value == value;
}

void truth_check_read(struct sim_region *region, uint32_t id, uint32_t value, uint64_t from,
                      const char *what)
{
    struct sim *sim = region->sim;
    const struct sim_history *history = &region->chronicle.ids[id];
    const struct sim_event *first = NULL;

    truth_follow(sim);
    for (size_t i = 0; i < history->count; i++) {
        const struct sim_event *event = &history->events[i];

        if (event->offset < from)
            first = event;
        else if (shows(event, value))
            return;
    }
    if (shows(first, value))
        return;
    sim_fail(sim,
             "region %s, %s: '%s' was read as value %u (0: absent), which is none of its states "
             "from partition %u position %llu on (then it was %u)",
             region->name, what, sim_ids[id], value, truth_partition(id), (unsigned long long)from,
             is_live(first) ? first->value : 0);
}

void truth_check_between(struct sim_region *region, uint32_t id, uint64_t began_ns, bool live,
                         const char *what)
{
    struct sim *sim = region->sim;
    const struct sim_history *history = &region->chronicle.ids[id];
    const struct sim_event *first = NULL;

    truth_follow(sim);
    for (size_t i = 0; i < history->count; i++) {
        const struct sim_event *event = &history->events[i];

        if (event->landed_ns <= began_ns)
            first = event;
        else if (is_live(event) == live)
            return;
    }
    if (is_live(first) != live)
        sim_fail(sim, "%s: '%s' was %s all the time", what, sim_ids[id], live ? "absent" : "there");
}

uint64_t truth_landed_before(struct sim_region *region, uint32_t partition, uint64_t ns)
{
    const struct sim_partition *log = &region->log.partitions[partition];
    size_t count = log->count;

    while (count > 0 && log->entries[count - 1].landed_ns >= ns)
        count--;
    return count;
}

uint64_t truth_arrived(struct sim_region *region, const struct sim_region *origin,
                       uint32_t partition, uint64_t position, const char *what)
{
    const struct sim_places *there = &origin->chronicle.origins[partition][origin->index];
    const struct sim_places *here = &region->chronicle.origins[partition][origin->index];
    size_t wanted = 0;

    while (wanted < there->count && there->places[wanted].here < position)
        wanted++;
    if (wanted > here->count)
        sim_fail(region->sim,
                 "region %s answered %s with a token of region %s, partition %u position %llu: "
                 "%zu records stand there below it, and %zu have come",
                 region->name, what, origin->name, partition, (unsigned long long)position, wanted,
                 here->count);
    return wanted == 0 ? 0 : here->places[wanted - 1].here + 1;
}

uint32_t truth_last(struct sim_region *region, uint32_t id)
{
    const struct sim_event *last;

    truth_follow(region->sim);
    last = last_event(&region->chronicle.ids[id]);
    return is_live(last) ? last->value : VALUE_ABSENT;
}

/* What was shipped is what stands in the origin's log, at that place. */
static void check_shipped(struct sim *sim, uint32_t value)
{
    const struct sim_op *op = &sim->truth.ops[value];

    for (uint32_t i = 0; i < sim->region_count; i++) {
        if (i == op->region)
            continue;
        if (op->times > 0 && !op->is_shipped[i])
            sim_fail(sim, "value %u of region %u has not come to region %u", value, op->region, i);
        if (op->is_shipped[i] && (op->times == 0 || op->shipped_offset[i] != op->offset))
            sim_fail(sim, "value %u was shipped to region %u as offset %llu, and its own log %s",
                     value, i, (unsigned long long)op->shipped_offset[i],
                     op->times > 0 ? "has it elsewhere" : "has it not");
    }
}

static bool has_newer_event(const struct sim *sim, const struct sim_op *op)
{
    const struct sim_history *history = &sim->regions[op->region].chronicle.ids[op->id];

    for (size_t i = 0; i < history->count; i++)
        if (stamp_compare(history->events[i].stamp, op->spooled) > 0)
            return true;
    return false;
}

/* Has anything newer counted, or what took its place in the spool? */
static bool is_overtaken(const struct sim *sim, const struct sim_op *op)
{
    if (has_newer_event(sim, op))
        return true;
    for (uint32_t value = 1; value <= sim->truth.op_count; value++) {
        const struct sim_op *other = &sim->truth.ops[value];

        if (other->id == op->id && other->spool == op->spool &&
            other->spool_number > op->spool_number &&
            (other->times > 0 || has_newer_event(sim, other)))
            return true;
    }
    return false;
}

void truth_check_ops(struct sim *sim)
{
    truth_follow(sim);
    for (uint32_t value = 1; value <= sim->truth.op_count; value++) {
        const struct sim_op *op = &sim->truth.ops[value];

        if (op->state == OP_ACKED && op->times == 0)
            sim_fail(sim, "value %u was acknowledged and is lost", value);
        if (op->state == OP_FAILED && op->times > 0)
            sim_fail(sim, "value %u had failed and counts", value);
        if (op->state == OP_SPOOLED && op->times == 0 && !is_overtaken(sim, op))
            sim_fail(sim, "value %u was spooled and is lost", value);
        check_shipped(sim, value);
    }
}

void truth_free(struct sim *sim)
{
    for (uint32_t r = 0; r < sim->region_count; r++) {
        struct sim_chronicle *chronicle = &sim->regions[r].chronicle;

        for (uint32_t i = 0; i < SIM_IDS; i++)
            free(chronicle->ids[i].events);
        for (uint32_t p = 0; p < SIM_PARTITIONS; p++)
            for (uint32_t i = 0; i < SIM_REGIONS_MAX; i++)
                free(chronicle->origins[p][i].places);
    }
    buffer_free(&sim->truth.scratch);
}
