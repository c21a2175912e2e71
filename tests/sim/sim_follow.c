/* Following the logs: what stands in them, with nothing but the record format, the void rule and
 * the order of stamps, becomes the histories that everything else is compared with (sim_truth.c).
 *
 * What must not be in a log at all is found here: writes whose condition did not hold, or that were
 * answered as not written, or that count twice; stamps that fall; objects that are not there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/model/bulk.h"
#include "common/model/collection.h"
#include "common/model/stamp.h"
#include "tests/sim/sim.h"

/* Of two changes the newer stamp counts; a local one is always the newest. */
static void push_event(struct sim_region *region, uint32_t id, struct sim_event event)
{
    struct sim_history *history = &region->chronicle.ids[id];
    const struct sim_event *last = truth_last_event(history);

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

/* It keeps all of what was there but the value. */
static void check_patch(struct sim *sim, uint32_t value, const struct sim_event *before)
{
    const struct sim_op *op = &sim->truth.ops[value];

    if (!truth_is_live(before))
        sim_fail(sim, "value %u was patched into '%s', which was absent", value, sim_ids[op->id]);
    if (op->expects != 0 && op->expects != before->value)
        sim_fail(sim, "value %u was patched where %u was to be found, but follows value %u", value,
                 op->expects, before->value);
    if (op->base != sim->truth.ops[before->value].base)
        sim_fail(sim, "value %u was patched over value %u, which began as %u, and begins as %u",
                 value, before->value, sim->truth.ops[before->value].base, op->base);
}

/* A write whose condition did not hold when its turn came must not be in the log. */
static void check_condition(struct sim_region *region, uint32_t value)
{
    struct sim *sim = region->sim;
    const struct sim_op *op = &sim->truth.ops[value];
    const struct sim_event *before = truth_last_event(&region->chronicle.ids[op->id]);
    char version[STAMP_TEXT_BYTES];

    if (op->kind == OP_UPSERT || op->kind == OP_KEYED || op->kind == OP_IMPORT)
        return;
    sim->counts.checks[CHECK_CONDITION]++;
    if ((op->kind == OP_CREATE || op->kind == OP_SKIP) && truth_is_live(before))
        sim_fail(sim, "value %u was to be created only if '%s' is absent, but follows value %u",
                 value, sim_ids[op->id], before->value);
    if (op->kind == OP_PATCH)
        check_patch(sim, value, before);
    if (op->if_match[0] == '\0')
        return;
    if (!truth_is_live(before))
        sim_fail(sim, "value %u was written with If-Match, but '%s' was absent", value,
                 sim_ids[op->id]);
    stamp_to_text(version, before->stamp);
    if (strlen(op->if_match) != strlen(version) + 2 ||
        memcmp(op->if_match + 1, version, strlen(version)) != 0)
        sim_fail(sim, "value %u was written with If-Match %s, but follows version %s", value,
                 op->if_match, version);
}

static uint32_t number_in(struct sim *sim, const struct record *record, const char *name)
{
    char text[64];
    const char *at;
    unsigned long value = 0;

    (void)snprintf(text, sizeof(text), "%.*s", (int)record->metadata_len, record->metadata);
    at = strstr(text, name);
    if (at != NULL)
        value = strtoul(at + strlen(name), NULL, 10);
    if (value == 0 || value > sim->truth.op_count)
        sim_fail(sim, "the log holds metadata that nobody wrote: %s", text);
    return (uint32_t)value;
}

uint32_t truth_value_of(struct sim *sim, const struct record *record)
{
    return number_in(sim, record, "\"v\":");
}

/* The value that the image began with: it is in the metadata and in the vector, and the same in
 * every region. */
static void take_base(struct sim *sim, struct sim_op *op, uint32_t value,
                      const struct record *record)
{
    uint32_t base = number_in(sim, record, "\"w\":");
    float vector[SIM_DIMENSION];

    if (record->vector_bytes != sizeof(vector) || record->vector_is_f16)
        sim_fail(sim, "value %u is in the log without its vector", value);
    memcpy(vector, record->vector, sizeof(vector));
    if (vector[SIM_DIMENSION - 1] != (float)base)
        sim_fail(sim, "value %u begins as %u and has the vector of %.0f", value, base,
                 (double)vector[SIM_DIMENSION - 1]);
    if (op->kind != OP_PATCH && base != value)
        sim_fail(sim, "value %u is in the log as an image of %u", value, base);
    if (op->base != 0 && op->base != base)
        sim_fail(sim, "value %u begins as %u in one log and as %u in another", value, op->base,
                 base);
    op->base = base;
}

/* May a value count once more in its own log? */
static bool may_count_again(const struct sim_op *op, const struct record *record)
{
    switch (op->kind) {
    case OP_UPSERT: /* what is in doubt may be spooled and appended again */
        return op->times < 2 && op->state != OP_ACKED;
    case OP_KEYED:
        return op->times < 2 * op->sends && (op->state != OP_ACKED || op->sends > 1);
    case OP_IMPORT:
        return stamp_compare(op->stamp, record->stamp) == 0;
    default:
        return false;
    }
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
    if (is_local && op->times > 0 && !may_count_again(op, record))
        sim_fail(sim, "value %u counts %u times in the log of region %s", value, op->times + 1,
                 region->name);
    if (!is_local && op->is_shipped[region->index] &&
        op->shipped_offset[region->index] >= record->origin_offset)
        sim_fail(sim, "value %u counts twice in the log of region %s", value, region->name);
    if (op->state == OP_FAILED)
        sim_fail(sim, "value %u was answered as not written, but counts", value);
    if (is_local) {
        check_condition(region, value);
        if (op->times++ == 0)
            op->first_offset = offset;
        sim->counts.replays += op->times > 1;
        op->offset = offset;
        op->stamp = record->stamp;
    } else {
        op->is_shipped[region->index] = true;
        op->shipped_offset[region->index] = record->origin_offset;
        sim->counts.foreign++;
    }
}

/* What waits in the holder's spool is older than whatever was asked for after it was answered.  One
 * with a key may have been sent before, too, and come late. */
static void check_spooled(struct sim_region *region, const struct sim_op *op, uint32_t value)
{
    const struct sim_event *before = truth_last_event(&region->chronicle.ids[op->id]);
    const struct sim_op *newer;

    if (op->state != OP_SPOOLED || op->kind == OP_KEYED || op->region != region->index ||
        !truth_is_live(before) || op->spooled_ns == 0 ||
        op->spooled_ns <= region->chronicle.held_ns)
        return;
    newer = &region->sim->truth.ops[before->value];
    if (newer != op && newer->region == op->region && newer->began_ns > op->spooled_ns)
        sim_fail(region->sim,
                 "value %u was spooled before value %u was asked for, and goes over it", value,
                 before->value);
}

static void take_upsert(struct sim_region *region, const struct record *record,
                        struct sim_event event)
{
    struct sim *sim = region->sim;
    int id = truth_id(record->id, record->id_len);
    struct sim_op *op;

    event.kind = EVENT_VALUE;
    event.value = truth_value_of(sim, record);
    op = &sim->truth.ops[event.value];
    if (id < 0 || op->id != (uint32_t)id)
        sim_fail(sim, "value %u is in the log under another id", event.value);
    take_base(sim, op, event.value, record);
    check_spooled(region, op, event.value);
    take_place(region, op, event.value, record, event.offset);
    push_event(region, (uint32_t)id, event);
}

/* A row of an object counts as if it stood in the log with the manifest's stamp. */
static void take_row(struct sim_region *region, const struct record *manifest,
                     const struct bulk_row *row, struct sim_event event)
{
    struct record record = *manifest;

    record.id = row->id;
    record.id_len = row->id_len;
    record.vector = row->vector;
    record.vector_bytes = row->vector == NULL ? 0 : SIM_DIMENSION * sizeof(float);
    record.metadata = row->metadata;
    record.metadata_len = row->metadata_len;
    take_upsert(region, &record, event);
}

/* What the log names is there, and has been since before. */
static void take_manifest(struct sim_region *region, const struct record *record,
                          struct sim_event event)
{
    struct sim *sim = region->sim;
    const struct buffer *object;
    struct bulk_manifest manifest;
    const uint8_t *at, *end;
    struct bulk_row row;
    struct err err = {0};

    if (bulk_manifest_decode(&manifest, record->payload, record->payload_len, &err) != ERR_OK)
        sim_fail(sim, "a manifest cannot be read: %s", err.message);
    object = sim_blob_find(sim, manifest.name);
    if (object == NULL || manifest.section.at + manifest.section.bytes > object->len)
        sim_fail(sim, "the log names the object %s, which is not there", manifest.name);
    at = object->data + manifest.section.at;
    end = at + manifest.section.bytes;
    if (bulk_manifest_check(&manifest, at, (size_t)(end - at), &err) != ERR_OK)
        sim_fail(sim, "the object %s is not what the log names", manifest.name);
    sim->counts.manifests++;
    for (size_t len; at < end; at += len) {
        len = bulk_row_length(at, (size_t)(end - at));
        if (!bulk_row_length_is_possible(len) || len > (size_t)(end - at) ||
            bulk_row_decode(&row, SIM_DIMENSION, at, len, &err) != ERR_OK)
            sim_fail(sim, "the object %s holds what cannot be read", manifest.name);
        take_row(region, record, &row, event);
    }
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

/* Stamps of local records rise without exception.  A collection's change brings its own, and a part
 * of an import keeps it for ever, another region's record too; an epoch record is stamped before
 * its writer knows what lands right before it. */
static void check_stamp(struct sim_region *region, uint32_t partition, const struct record *record)
{
    struct stamp *newest = &region->chronicle.newest[partition];
    bool is_local = record->stamp.region == region->log.region;

    if (stamp_compare(record->stamp, *newest) > 0)
        *newest = record->stamp;
    else if (is_local && record->op != RECORD_COLLECTION && record->op != RECORD_EPOCH &&
             record->op != RECORD_BULK_MANIFEST)
        sim_fail(region->sim,
                 "region %s, partition %u: the stamp of op %d, %llu-%u, is not above %llu-%u, the "
                 "newest so far",
                 region->name, partition, (int)record->op, (unsigned long long)record->stamp.clock,
                 record->stamp.region, (unsigned long long)newest->clock, newest->region);
}

static void note_holder(struct sim_region *region, uint32_t partition, const struct record *record,
                        uint64_t landed_ns)
{
    struct sim_chronicle *chronicle = &region->chronicle;

    region->sim->counts.epochs++;
    if (partition != 0 || record->payload_len != HOLDER_BYTES ||
        memcmp(chronicle->holder, record->payload, HOLDER_BYTES) == 0)
        return;
    region->sim->counts.takeovers++;
    memcpy(chronicle->holder, record->payload, HOLDER_BYTES);
    chronicle->held_ns = landed_ns;
}

static void take_record(struct sim_region *region, uint32_t partition, const struct record *record,
                        struct sim_event event)
{
    struct sim_truth *truth = &region->sim->truth;
    int id;

    if (record->op == RECORD_EPOCH)
        note_holder(region, partition, record, event.landed_ns);
    check_stamp(region, partition, record);
    if (record->op == RECORD_COLLECTION)
        take_collection(region->sim, record);
    if (record_is_data(record->op) && record->op != RECORD_COLLECTION)
        note_place(region, partition, record, event.offset);
    if (!truth->has_incarnation ||
        memcmp(record->incarnation, truth->incarnation, INCARNATION_BYTES) != 0)
        return;
    event.stamp = record->stamp;
    if (record->op == RECORD_UPSERT) {
        take_upsert(region, record, event);
    } else if (record->op == RECORD_BULK_MANIFEST) {
        take_manifest(region, record, event);
    } else if (record->op == RECORD_DELETE) {
        event.kind = EVENT_DELETE;
        if ((id = truth_id(record->id, record->id_len)) < 0)
            sim_fail(region->sim, "the log deletes an id that nobody has");
        push_event(region, (uint32_t)id, event);
    } else if (record->op == RECORD_TRUNCATE) {
        take_truncate(region, partition, event);
    }
}

static void tell(const struct sim_region *region, uint32_t partition, const struct record *record,
                 uint64_t offset, bool is_admitted)
{
    if (region->sim->options.verbose)
        printf("           log %s: partition %u offset %llu: op %d, epoch %llu, stamp %llu-%u, "
               "origin %u-%lld%s %.*s %.*s\n",
               region->name, partition, (unsigned long long)offset, (int)record->op,
               (unsigned long long)record->epoch, (unsigned long long)record->stamp.clock,
               record->stamp.region, record->origin_region, (long long)record->origin_offset,
               is_admitted ? "" : ", void", (int)record->id_len, record->id,
               (int)record->metadata_len, record->metadata);
}

static void follow_region(struct sim_region *region)
{
    struct sim *sim = region->sim;
    struct sim_chronicle *chronicle = &region->chronicle;

    for (uint32_t p = 0; p < SIM_PARTITIONS; p++) {
        const struct sim_partition *partition = &region->log.partitions[p];

        for (; chronicle->read[p] < partition->count; chronicle->read[p]++) {
            struct sim_entry *entry = &partition->entries[chronicle->read[p]];
            struct sim_event event = {.offset = chronicle->read[p], .landed_ns = entry->landed_ns};
            struct record record;
            struct err err = {0};
            bool is_admitted;

            if (record_decode(&record, entry->data, entry->len, &sim->truth.scratch, &err) !=
                ERR_OK)
                sim_fail(sim, "the log holds what cannot be read: %s", err.message);
            is_admitted = epoch_admit(&chronicle->admitted[p], &record, event.offset);
            entry->is_void = !is_admitted;
            tell(region, p, &record, event.offset, is_admitted);
            if (is_admitted)
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
