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
#include "services/ingest/ingest.h"
#include "tests/sim/sim.h"

/* The last ones are those that openapi/router.yaml tells to be made of the keys "key-0" and so on.
 */
const char *const sim_ids[SIM_IDS] = {"ant",
                                      "bee",
                                      "cat",
                                      "dog",
                                      "eel",
                                      "fox",
                                      "gnu",
                                      "hare",
                                      "ibis",
                                      "jay",
                                      "52820a6c-b803-50b7-ba6a-94cf5d0f5497",
                                      "e0fbc213-0637-5793-a282-7855399b2c68",
                                      "6af8d3b0-de4d-5b2c-a69d-3302f2f54f42",
                                      "11d6b018-682f-5edf-931b-bb318a7c6665"};

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

const struct sim_event *truth_last_event(const struct sim_history *history)
{
    return history->count == 0 ? NULL : &history->events[history->count - 1];
}

bool truth_is_live(const struct sim_event *event)
{
    return event != NULL && event->kind == EVENT_VALUE;
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
    /* What was sent again may count once more behind what was answered. */
    if ((op->sends > 1 ? op->first_offset : op->offset) >=
        token_position(token, region->log.region, truth_partition(op->id)))
        sim_fail(sim, "the token of value %u does not cover its offset %llu", value,
                 (unsigned long long)op->offset);
    op->state = OP_ACKED;
    sim->counts.acked++;
    sim->counts.checks[CHECK_ACKED]++;
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
    return truth_value_of(sim, &record);
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
    if (op->spool != NULL && op->spool->object != NULL &&
        memcmp(sim_ingest_of((struct sim_node *)op->spool)->sequencer.nonce,
               sim->regions[op->region].chronicle.holder, HOLDER_BYTES) == 0)
        op->spooled_ns = sim->now_ns;
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
    sim->counts.checks[CHECK_REFUSED]++;
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
        return !truth_is_live(event);
    return truth_is_live(event) && event->value == value;
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
             truth_is_live(first) ? first->value : 0);
}

void truth_seen(struct sim_region *region, uint32_t id, uint32_t value, uint64_t from)
{
    struct sim_history *history = &region->chronicle.ids[id];
    const struct sim_event *seen = NULL;

    for (size_t i = 0; i < history->count; i++) {
        const struct sim_event *event = &history->events[i];

        /* The state at `from`, if that shows the value, else the first one behind it that does. */
        if (event->offset >= from && shows(seen, value))
            break;
        seen = event;
    }
    if (seen != NULL && shows(seen, value) && seen->offset + 1 > history->seen_position)
        history->seen_position = seen->offset + 1;
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
        else if (truth_is_live(event) == live)
            return;
    }
    if (truth_is_live(first) != live)
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

/* Records of the origin's own below that position of its log. */
static size_t count_below(const struct sim_region *origin, uint32_t partition, uint64_t position)
{
    const struct sim_places *there = &origin->chronicle.origins[partition][origin->index];
    size_t count = 0;

    while (count < there->count && there->places[count].here < position)
        count++;
    return count;
}

bool truth_has_arrived(const struct sim_region *region, const struct sim_region *origin,
                       uint32_t partition, uint64_t position)
{
    return count_below(origin, partition, position) <=
           region->chronicle.origins[partition][origin->index].count;
}

uint64_t truth_arrived(struct sim_region *region, const struct sim_region *origin,
                       uint32_t partition, uint64_t position, const char *what)
{
    const struct sim_places *here = &region->chronicle.origins[partition][origin->index];
    size_t wanted = count_below(origin, partition, position);

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
    last = truth_last_event(&region->chronicle.ids[id]);
    return truth_is_live(last) ? last->value : VALUE_ABSENT;
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

/* Of equal stamps, which two holders may give, that in the log counts. */
static bool has_newer_event(const struct sim *sim, const struct sim_op *op)
{
    const struct sim_history *history = &sim->regions[op->region].chronicle.ids[op->id];

    for (size_t i = 0; i < history->count; i++)
        if (stamp_compare(history->events[i].stamp, op->spooled) >= 0)
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
            sim_fail(sim, "value %u of '%s' was spooled (by %s, with the stamp %llu) and is lost",
                     value, sim_ids[op->id], op->spool == NULL ? "nobody" : op->spool->name,
                     (unsigned long long)op->spooled.clock);
        check_shipped(sim, value);
    }
}

void truth_free(struct sim *sim)
{
    for (uint32_t r = 0; r < sim->region_count; r++) {
        struct sim_chronicle *chronicle = &sim->regions[r].chronicle;

        for (uint32_t i = 0; i < SIM_IDS; i++)
            free(chronicle->ids[i].events);
        for (uint32_t p = 0; p < SIM_PARTITIONS; p++) {
            free(chronicle->marks[p].marks);
            for (uint32_t i = 0; i < SIM_REGIONS_MAX; i++)
                free(chronicle->origins[p][i].places);
        }
    }
    buffer_free(&sim->truth.scratch);
}
