/* What is true: the log, read with nothing but the record format and the void rule, gives every id
 * a history of values and deletions, in the order of its partition.
 *
 * Every value is written once and has a number.  What a client was told is compared with the
 * history: a write answered 200 is in it, one that failed is not; a conditional write follows a
 * state that met its condition; a read shows a state that the id had at or after the position that
 * the read had to see. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/collection.h"
#include "common/model/stamp.h"
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

uint32_t truth_new_op(struct sim *sim, enum sim_op_kind kind, uint32_t id, const char *if_match)
{
    struct sim_truth *truth = &sim->truth;
    uint32_t value = ++truth->op_count;
    struct sim_op *op;

    assert(value < SIM_OPS_MAX);
    op = &truth->ops[value];
    *op = (struct sim_op){.kind = kind, .id = id, .began_ns = sim->now_ns};
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

static void push_event(struct sim_history *history, struct sim_event event)
{
    if (history->count == history->size) {
        history->size = history->size * 2 + 16;
        history->events = realloc(history->events, history->size * sizeof(*history->events));
        if (history->events == NULL)
            abort();
    }
    history->events[history->count++] = event;
}

/* A write whose condition did not hold when its turn came must not be in the log. */
static void check_condition(struct sim *sim, uint32_t value)
{
    const struct sim_op *op = &sim->truth.ops[value];
    const struct sim_event *before = last_event(&sim->truth.ids[op->id]);
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

static void take_upsert(struct sim *sim, const struct record *record, struct sim_event event)
{
    struct sim_truth *truth = &sim->truth;
    int id = truth_id(record->id, record->id_len);
    struct sim_op *op;

    event.kind = EVENT_VALUE;
    event.value = value_of(sim, record);
    op = &truth->ops[event.value];
    if (id < 0 || op->id != (uint32_t)id)
        sim_fail(sim, "value %u is in the log under another id", event.value);
    if (op->in_log)
        sim_fail(sim, "value %u counts twice in the log", event.value);
    if (op->state == OP_FAILED)
        sim_fail(sim, "value %u was answered as not written, but counts", event.value);
    check_condition(sim, event.value);
    op->in_log = true;
    op->offset = event.offset;
    push_event(&truth->ids[id], event);
}

static void take_truncate(struct sim *sim, uint32_t partition, struct sim_event event)
{
    event.kind = EVENT_DELETE;
    sim->counts.truncates++;
    for (uint32_t id = 0; id < SIM_IDS; id++)
        if (truth_partition(id) == partition)
            push_event(&sim->truth.ids[id], event);
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

/* Stamps of local records rise without exception.  A collection's change brings its own; an epoch
 * record is stamped before its writer knows what lands right before it. */
static void check_stamp(struct sim *sim, uint32_t partition, const struct record *record)
{
    struct stamp *newest = &sim->truth.newest[partition];

    if (stamp_compare(record->stamp, *newest) > 0)
        *newest = record->stamp;
    else if (record->op != RECORD_COLLECTION && record->op != RECORD_EPOCH)
        sim_fail(
            sim,
            "partition %u: the stamp of op %d, %llu-%u, is not above %llu-%u, the newest so far",
            partition, (int)record->op, (unsigned long long)record->stamp.clock,
            record->stamp.region, (unsigned long long)newest->clock, newest->region);
}

static void note_holder(struct sim *sim, uint32_t partition, const struct record *record)
{
    struct sim_truth *truth = &sim->truth;

    sim->counts.epochs++;
    if (partition != 0 || record->payload_len != HOLDER_BYTES)
        return;
    sim->counts.takeovers += memcmp(truth->holder, record->payload, HOLDER_BYTES) != 0;
    memcpy(truth->holder, record->payload, HOLDER_BYTES);
}

static void take_record(struct sim *sim, uint32_t partition, const struct record *record,
                        struct sim_event event)
{
    struct sim_truth *truth = &sim->truth;
    int id;

    if (record->op == RECORD_EPOCH)
        note_holder(sim, partition, record);
    check_stamp(sim, partition, record);
    if (record->op == RECORD_COLLECTION)
        take_collection(sim, record);
    if (!truth->has_incarnation ||
        memcmp(record->incarnation, truth->incarnation, INCARNATION_BYTES) != 0)
        return;
    event.stamp = record->stamp;
    if (record->op == RECORD_UPSERT) {
        take_upsert(sim, record, event);
    } else if (record->op == RECORD_DELETE) {
        event.kind = EVENT_DELETE;
        if ((id = truth_id(record->id, record->id_len)) < 0)
            sim_fail(sim, "the log deletes an id that nobody has");
        push_event(&truth->ids[id], event);
    } else if (record->op == RECORD_TRUNCATE) {
        take_truncate(sim, partition, event);
    }
}

void truth_follow(struct sim *sim)
{
    struct sim_truth *truth = &sim->truth;

    for (uint32_t p = 0; p < SIM_PARTITIONS; p++) {
        const struct sim_partition *partition = &sim->log.partitions[p];

        for (; truth->read[p] < partition->count; truth->read[p]++) {
            const struct sim_entry *entry = &partition->entries[truth->read[p]];
            struct sim_event event = {.offset = truth->read[p], .landed_ns = entry->landed_ns};
            struct record record;
            struct err err = {0};

            if (record_decode(&record, entry->data, entry->len, &truth->scratch, &err) != ERR_OK)
                sim_fail(sim, "the log holds what cannot be read: %s", err.message);
            if (epoch_admit(&truth->admitted[p], &record, event.offset))
                take_record(sim, p, &record, event);
            else
                sim->counts.voided++;
        }
    }
}

/* --- what clients were told ------------------------------------------------------------------- */

void truth_acked(struct sim *sim, uint32_t value, const struct token *token)
{
    struct sim_op *op = &sim->truth.ops[value];
    struct sim_history *history = &sim->truth.ids[op->id];

    truth_follow(sim);
    if (!op->in_log)
        sim_fail(sim, "value %u of '%s' was answered 200, but does not count in the log", value,
                 sim_ids[op->id]);
    if (op->offset >= token_position(token, sim->log.region, truth_partition(op->id)))
        sim_fail(sim, "the token of value %u does not cover its offset %llu", value,
                 (unsigned long long)op->offset);
    op->state = OP_ACKED;
    sim->counts.acked++;
    if (op->offset + 1 > history->acked_position)
        history->acked_position = op->offset + 1;
}

void truth_failed(struct sim *sim, uint32_t value, const char *why)
{
    struct sim_op *op = &sim->truth.ops[value];

    truth_follow(sim);
    if (op->in_log)
        sim_fail(sim, "value %u of '%s' was answered as not written (%s), but counts in the log",
                 value, sim_ids[op->id], why);
    op->state = OP_FAILED;
    sim->counts.failed++;
}

void truth_deleted(struct sim *sim, uint32_t id, const struct token *token, int64_t deleted_count)
{
    struct sim_history *history = &sim->truth.ids[id];
    uint64_t end = token_position(token, sim->log.region, truth_partition(id));
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

void truth_check_read(struct sim *sim, uint32_t id, uint32_t value, uint64_t from, const char *what)
{
    const struct sim_history *history = &sim->truth.ids[id];
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
             "%s: '%s' was read as value %u (0: absent), which is none of its states from "
             "partition %u position %llu on (then it was %u)",
             what, sim_ids[id], value, truth_partition(id), (unsigned long long)from,
             is_live(first) ? first->value : 0);
}

void truth_check_between(struct sim *sim, uint32_t id, uint64_t began_ns, bool live,
                         const char *what)
{
    const struct sim_history *history = &sim->truth.ids[id];
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

uint64_t truth_landed_before(struct sim *sim, uint32_t partition, uint64_t ns)
{
    const struct sim_partition *log = &sim->log.partitions[partition];
    size_t count = log->count;

    while (count > 0 && log->entries[count - 1].landed_ns >= ns)
        count--;
    return count;
}

uint32_t truth_last(struct sim *sim, uint32_t id)
{
    const struct sim_event *last;

    truth_follow(sim);
    last = last_event(&sim->truth.ids[id]);
    return is_live(last) ? last->value : VALUE_ABSENT;
}

void truth_check_ops(struct sim *sim)
{
    truth_follow(sim);
    for (uint32_t value = 1; value <= sim->truth.op_count; value++) {
        const struct sim_op *op = &sim->truth.ops[value];

        if (op->state == OP_ACKED && !op->in_log)
            sim_fail(sim, "value %u was acknowledged and is lost", value);
        if (op->state == OP_FAILED && op->in_log)
            sim_fail(sim, "value %u had failed and counts", value);
    }
}

void truth_free(struct sim_truth *truth)
{
    for (uint32_t i = 0; i < SIM_IDS; i++)
        free(truth->ids[i].events);
    buffer_free(&truth->scratch);
}
