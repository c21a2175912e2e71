/* The consistency core: see apply.h for the rules.
 *
 * Happy path of an upsert: decode and check the record; move the position; the void rule; note the
 * origin and the newest stamp; find the collection; compare with what is known of the id; remove
 * the old row; put id, row and vector under a new ordinal; adjust the counts.  apply_flush then
 * puts positions and counts into the same transaction.
 *
 * Anything that fails leaves the memory ahead of the store: the caller aborts and loads anew. */
#include "services/shard/apply_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "services/shard/apply_counts.h"
#include "services/shard/rows.h"

#define REMOVE_AT_ONCE 256 /* ids that a walk collects before it removes them */

void apply_effects_free(struct apply_effects *effects)
{
    free(effects->items);
    *effects = (struct apply_effects){0};
}

static enum err_code effects_push(struct apply_effects *effects, struct apply_effect effect,
                                  struct err *err)
{
    if (effects->count == effects->size) {
        size_t size = effects->size == 0 ? 64 : effects->size * 2;
        void *grown = array_resize(effects->items, size, sizeof(*effects->items));

        if (grown == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory for %zu effects", size);
        effects->items = grown;
        effects->size = size;
    }
    effects->items[effects->count++] = effect;
    return ERR_OK;
}

/* --- counts ---------------------------------------------------------------------------------- */

struct identity {
    const char *id;
    size_t len;
};

/* Count an entry in (or out) of both the partition and the collection's part of it. */
static void count_entry(struct step *step, struct apply_collection *collection,
                        const struct id_entry *entry, struct identity id, bool in)
{
    struct apply_counts *both[] = {&step->partition->counts, &collection->parts[step->slot].counts};
    struct counted_entry counted = {.incarnation = collection->definition.incarnation,
                                    .entry = entry,
                                    .id = id.id,
                                    .id_len = id.len};
    struct apply_counts one = apply_counts_of(&counted);

    for (size_t i = 0; i < ARRAY_COUNT(both); i++) {
        if (in)
            apply_counts_add(both[i], &one);
        else
            apply_counts_subtract(both[i], &one);
    }
}

/* --- rows ------------------------------------------------------------------------------------ */

static void mark(struct step *step, struct apply_collection *collection, bool is_visible)
{
    struct apply_part *part = &collection->parts[step->slot];

    part->is_dirty = true;
    collection->is_dirty = true;
    if (is_visible)
        part->changed = step->offset + 1;
}

/* The row and the vector of a live entry go. */
static enum err_code remove_row(struct step *step, uint32_t collection,
                                const struct id_entry *entry, struct err *err)
{
    struct ordinal_key key = ordinal_key_of(collection, entry->ordinal);
    enum err_code code;

    assert(entry->is_live);
    code = store_delete(step->txn, STORE_ROWS, ordinal_key_value(&key), err);
    if (code != ERR_OK || !entry->has_vector)
        return code;
    code = store_delete(step->txn, STORE_VECTORS, ordinal_key_value(&key), err);
    if (code != ERR_OK)
        return code;
    return effects_push(step->effects,
                        (struct apply_effect){.kind = EFFECT_REMOVED,
                                              .collection = collection,
                                              .ordinal = entry->ordinal},
                        err);
}

static enum err_code put_entry(struct step *step, const struct id_key *key,
                               const struct id_entry *entry, struct err *err)
{
    uint8_t bytes[ID_ENTRY_BYTES];

    id_entry_encode(bytes, entry);
    return store_put(step->txn, STORE_IDS, id_key_value(key),
                     (struct store_value){.data = bytes, .len = sizeof(bytes)}, err);
}

static float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 0x1f;
    uint32_t fraction = half & 0x3ff;
    uint32_t bits;
    float value;

    if (exponent == 0) {
        /* Zero or subnormal: fraction * 2^-24, exact in a float. */
        value = (float)fraction * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    bits = exponent == 0x1f ? sign | 0x7f800000u | fraction << 13
                            : sign | (exponent + 112) << 23 | fraction << 13;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

void apply_unpack_vector(struct apply *apply, const struct record *record, uint32_t dim)
{
    const uint8_t *bytes = record->vector;

    if (!record->vector_is_f16) {
        memcpy(apply->vector, bytes, dim * sizeof(float));
        return;
    }
    for (uint32_t i = 0; i < dim; i++)
        apply->vector[i] = half_to_float(load_u16(bytes + 2 * (size_t)i));
}

static enum err_code put_vector(struct step *step, struct apply_collection *collection,
                                uint32_t ordinal, struct err *err)
{
    struct apply *apply = step->apply;
    uint32_t dim = collection->definition.dimension;
    struct ordinal_key key = ordinal_key_of(collection->number, ordinal);
    const float *vector = apply->vector;
    enum err_code code;

    if (step->is_bulk)
        vector = step->record->vector;
    else
        apply_unpack_vector(apply, step->record, dim);
    code = store_put(step->txn, STORE_VECTORS, ordinal_key_value(&key),
                     (struct store_value){.data = vector, .len = dim * sizeof(float)}, err);
    if (code != ERR_OK)
        return code;
    return effects_push(step->effects,
                        (struct apply_effect){.kind = EFFECT_INSERTED,
                                              .collection = collection->number,
                                              .ordinal = ordinal,
                                              .vector = vector},
                        err);
}

static enum err_code put_row(struct step *step, struct apply_collection *collection,
                             const struct id_entry *entry, struct err *err)
{
    struct apply *apply = step->apply;
    const struct record *record = step->record;
    struct ordinal_key key = ordinal_key_of(collection->number, entry->ordinal);
    struct row row = {
        .partition = step->partition->partition,
        .stamp = entry->stamp,
        .has_vector = entry->has_vector,
        .id = record->id,
        .id_len = record->id_len,
        .metadata = record->metadata,
        .metadata_len = record->metadata_len,
    };
    enum err_code code;

    apply->text.len = 0;
    if (record->text != NULL) {
        json_escape(&apply->text, record->text, record->text_len);
        row.text = (const char *)apply->text.data;
        row.text_len = apply->text.len;
    }
    apply->row.len = 0;
    code = buffer_check(&apply->text, err);
    if (code == ERR_OK) {
        row_encode(&apply->row, &row);
        code = buffer_check(&apply->row, err);
    }
    if (code != ERR_OK)
        return code;
    code = store_put(step->txn, STORE_ROWS, ordinal_key_value(&key),
                     (struct store_value){.data = apply->row.data, .len = apply->row.len}, err);
    if (code == ERR_OK && entry->has_vector)
        code = put_vector(step, collection, entry->ordinal, err);
    return code;
}

/* --- upserts and deletes --------------------------------------------------------------------- */

bool apply_vector_fits(const struct record *record, uint32_t dim)
{
    size_t width = record->vector_is_f16 ? 2 : sizeof(float);

    return record->vector == NULL || record->vector_bytes == dim * width;
}

struct apply_collection *apply_collection_of(struct step *step)
{
    const struct record *record = step->record;
    struct apply_collection *collection = apply_find(step->apply, record->incarnation);
    const struct apply_part *part;

    if (collection == NULL || collection->parts[step->slot].presence == PRESENCE_ABSENT ||
        (record->op != RECORD_TRUNCATE && record->op != RECORD_BULK_MANIFEST &&
         record->id_len == 0) ||
        !apply_vector_fits(record, collection->definition.dimension)) {
        step->partition->parked++;
        return NULL;
    }
    part = &collection->parts[step->slot];
    if (part->presence == PRESENCE_DROPPED || stamp_compare(record->stamp, part->truncate) < 0)
        return NULL;
    return collection;
}

enum err_code apply_entry(struct step *step, struct err *err)
{
    const struct record *record = step->record;
    struct identity id = {.id = record->id, .len = record->id_len};
    struct apply_collection *collection = apply_collection_of(step);
    struct id_entry entry = {.stamp = record->stamp, .is_live = record->op == RECORD_UPSERT};
    struct id_entry old = {0};
    struct id_key key;
    enum err_code code;

    if (collection == NULL)
        return ERR_OK;
    key = id_key_of(collection->number, step->partition->partition, id.id, id.len);
    code = id_entry_get(&old, step->txn, &key, err);
    if (code != ERR_OK && code != ERR_NOT_FOUND)
        return code;
    if (code == ERR_OK) {
        if (stamp_compare(entry.stamp, old.stamp) <= 0)
            return ERR_OK;
        if (old.is_live && (code = remove_row(step, collection->number, &old, err)) != ERR_OK)
            return code;
        count_entry(step, collection, &old, id, false);
    }
    if (entry.is_live) {
        if (collection->next_ordinal == UINT32_MAX)
            return err_set(err, ERR_INSUFFICIENT_STORAGE, "collection %s has used all ordinals",
                           collection->definition.name);
        entry.ordinal = collection->next_ordinal++;
        entry.has_vector = record->vector != NULL;
        code = put_row(step, collection, &entry, err);
        if (code != ERR_OK)
            return code;
    }
    count_entry(step, collection, &entry, id, true);
    mark(step, collection, entry.is_live || old.is_live);
    return put_entry(step, &key, &entry, err);
}

/* --- truncations and drops ------------------------------------------------------------------- */

struct doomed {
    struct id_key key;
    struct id_entry entry;
};

struct walk {
    uint32_t collection;
    struct stamp before; /* none: everything */
    struct id_key from;  /* the next walk begins here */
    struct doomed doomed[REMOVE_AT_ONCE];
    size_t count;
    bool more;
};

/* Collect the next ids that are older than walk->before. */
static enum err_code walk_collect(struct step *step, struct walk *walk, struct err *err)
{
    struct store_cursor *cursor = NULL;
    struct store_value key, value;
    bool more = false;
    enum err_code code =
        store_cursor_open(&cursor, step->txn, STORE_IDS, id_key_value(&walk->from), err);

    walk->count = 0;
    walk->more = false;
    while (code == ERR_OK) {
        struct doomed *doomed = &walk->doomed[walk->count];

        code = store_cursor_next(cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more ||
            !id_key_is_of(key, walk->collection, step->partition->partition))
            break;
        code = id_entry_decode(&doomed->entry, value, err);
        if (code != ERR_OK ||
            (!stamp_is_none(walk->before) && stamp_compare(doomed->entry.stamp, walk->before) >= 0))
            continue;
        if (key.len > sizeof(doomed->key.bytes)) {
            code = err_set(err, ERR_CORRUPT, "an id of the store is too long");
            break;
        }
        memcpy(doomed->key.bytes, key.data, key.len);
        doomed->key.len = key.len;
        if (++walk->count == REMOVE_AT_ONCE) {
            walk->more = true;
            walk->from = doomed->key;
            break;
        }
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    return code;
}

/* Remove every entry of the collection in this partition that is older than before (none: all). */
static enum err_code remove_older(struct step *step, struct apply_collection *collection,
                                  struct stamp before, struct err *err)
{
    struct walk *walk = array_alloc(1, sizeof(*walk));
    enum err_code code = ERR_OK;

    if (walk == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to walk over ids");
    walk->collection = collection->number;
    walk->before = before;
    walk->from = id_key_of(collection->number, step->partition->partition, NULL, 0);
    do {
        code = walk_collect(step, walk, err);
        for (size_t i = 0; code == ERR_OK && i < walk->count; i++) {
            const struct doomed *doomed = &walk->doomed[i];
            struct identity id = {
                .id = (const char *)doomed->key.bytes + ID_PREFIX_BYTES,
                .len = doomed->key.len - ID_PREFIX_BYTES,
            };

            if (doomed->entry.is_live)
                code = remove_row(step, collection->number, &doomed->entry, err);
            if (code == ERR_OK)
                code = store_delete(step->txn, STORE_IDS, id_key_value(&doomed->key), err);
            if (code == ERR_OK)
                count_entry(step, collection, &doomed->entry, id, false);
        }
    } while (code == ERR_OK && walk->more);
    free(walk);
    return code;
}

static enum err_code apply_truncate(struct step *step, struct err *err)
{
    struct apply_collection *collection = apply_collection_of(step);
    struct apply_part *part;
    uint64_t live;
    enum err_code code;

    if (collection == NULL)
        return ERR_OK;
    part = &collection->parts[step->slot];
    if (stamp_compare(step->record->stamp, part->truncate) <= 0)
        return ERR_OK;
    live = part->counts.live;
    part->truncate = step->record->stamp;
    code = remove_older(step, collection, step->record->stamp, err);
    mark(step, collection, part->counts.live != live);
    return code;
}

static enum err_code drop_part(struct step *step, struct apply_collection *collection,
                               struct err *err)
{
    struct apply_part *part = &collection->parts[step->slot];
    enum err_code code = remove_older(step, collection, (struct stamp){0}, err);

    if (code != ERR_OK)
        return code;
    assert(part->counts.live == 0 && part->counts.tombstones == 0);
    part->presence = PRESENCE_DROPPED;
    mark(step, collection, true);
    for (uint32_t slot = 0; slot < step->apply->partition_count; slot++) {
        if (collection->parts[slot].presence != PRESENCE_DROPPED)
            return ERR_OK;
    }
    return effects_push(
        step->effects,
        (struct apply_effect){.kind = EFFECT_CLOSED, .collection = collection->number}, err);
}

/* --- collections ----------------------------------------------------------------------------- */

static enum err_code apply_change(struct step *step, struct err *err)
{
    const struct record *record = step->record;
    struct collection definition;
    enum collection_change change;
    struct apply_collection *collection;
    struct apply_part *part;
    enum err_code code =
        collection_decode(&definition, &change, record->payload, record->payload_len, err);
    bool was_active;

    if (code != ERR_OK)
        return code;
    collection = apply_find(step->apply, definition.incarnation);
    if (collection == NULL &&
        (code = apply_add(step->apply, &definition, &collection, err)) != ERR_OK)
        return code;
    part = &collection->parts[step->slot];
    if (part->presence == PRESENCE_DROPPED)
        return ERR_OK;
    was_active = apply_is_active(step->apply, collection);
    if (stamp_compare(definition.schema, part->schema) > 0)
        part->schema = definition.schema;
    if (stamp_compare(definition.schema, collection->definition.schema) > 0) {
        collection->definition = definition;
        collection->is_defined = false;
    }
    if (change == COLLECTION_DROP)
        return drop_part(step, collection, err);
    part->presence = PRESENCE_ACTIVE;
    mark(step, collection, true);
    if (was_active)
        return ERR_OK;
    return effects_push(
        step->effects,
        (struct apply_effect){.kind = EFFECT_OPENED, .collection = collection->number}, err);
}

/* --- the record ------------------------------------------------------------------------------ */

/* Raise what is known of an origin.  A vector that is full stays as it is. */
static void note_origin(struct apply_partition *partition, uint32_t own_region,
                        const struct version_entry *origin)
{
    struct version_entry *entry;

    if (origin->region == 0 || origin->region == own_region)
        return;
    entry = version_vector_entry(&partition->vector, origin->region);
    if (entry == NULL)
        return;
    if (origin->position > entry->position)
        entry->position = origin->position;
    if (stamp_compare(origin->newest, entry->newest) > 0)
        entry->newest = origin->newest;
}

static enum err_code note_vector(struct apply_partition *partition, uint32_t own_region,
                                 const struct record *record, struct err *err)
{
    struct version_vector vector;
    enum err_code code = version_vector_decode(&vector, record->payload, record->payload_len, err);

    if (code != ERR_OK)
        return code;
    partition->vector.clock = MAX_OF(partition->vector.clock, vector.clock);
    for (uint32_t i = 0; i < vector.count; i++)
        note_origin(partition, own_region, &vector.entries[i]);
    return ERR_OK;
}

enum err_code apply_note(struct apply_partition *partition, uint32_t own_region,
                         const struct record *record, struct err *err)
{
    struct version_entry origin = {.region = record->origin_region,
                                   .position = record->origin_offset + 1,
                                   .newest = record->stamp};

    partition->applied++;
    if (record_is_data(record->op))
        partition->data = partition->position;
    if (stamp_compare(record->stamp, partition->newest) > 0)
        partition->newest = record->stamp;
    if (record->origin_offset != OFFSET_NONE)
        note_origin(partition, own_region, &origin);
    return record->op == RECORD_VERSION_VECTOR ? note_vector(partition, own_region, record, err)
                                               : ERR_OK;
}

static enum err_code apply_op(struct step *step, struct err *err)
{
    const struct record *record = step->record;
    enum err_code code = apply_note(step->partition, step->apply->region, record, err);

    if (code != ERR_OK)
        return code;
    switch (record->op) {
    case RECORD_UPSERT:
    case RECORD_DELETE:
        return apply_entry(step, err);
    case RECORD_TRUNCATE:
        return apply_truncate(step, err);
    case RECORD_COLLECTION:
        return apply_change(step, err);
    case RECORD_BULK_MANIFEST:
        return apply_manifest(step, err);
    case RECORD_VERSION_VECTOR:
    case RECORD_EPOCH:
        break;
    }
    return ERR_OK;
}

/* Every so many records the digest is noted: replicas that are never at one position when they are
 * asked have these in common. */
static void note_mark(struct apply_partition *partition)
{
    struct apply_mark *marks = partition->marks;

    if (partition->position % APPLY_MARK_EVERY != 0)
        return;
    memmove(marks + 1, marks, (APPLY_MARKS - 1) * sizeof(marks[0]));
    marks[0] =
        (struct apply_mark){.position = partition->position, .digest = partition->counts.digest};
}

enum err_code apply_record(struct apply *apply, struct store_txn *txn,
                           const struct apply_input *input, struct apply_effects *effects,
                           struct err *err)
{
    struct record record;
    struct step step = {
        .apply = apply,
        .txn = txn,
        .record = &record,
        .offset = input->offset,
        .effects = effects,
        .input = input,
    };
    enum err_code code;

    assert(input->partition < PARTITIONS_MAX);
    assert(apply->slot_of[input->partition] != SLOT_NONE);
    step.slot = apply->slot_of[input->partition];
    step.partition = &apply->partitions[step.slot];
    if (input->offset < step.partition->position)
        return ERR_OK;
    code = record_decode(&record, input->data, input->len, &apply->unpacked, err);
    if (code == ERR_OK) {
        step.partition->position = input->offset + 1;
        step.partition->crc = record_crc(input->data, input->len);
        step.partition->is_dirty = true;
        if (epoch_admit(&step.partition->epoch, &record, input->offset))
            code = apply_op(&step, err);
        else
            step.partition->voided++;
    }
    if (code != ERR_OK)
        return err_wrap(err, "partition %u, offset %llu", input->partition,
                        (unsigned long long)input->offset);
    note_mark(step.partition);
    return ERR_OK;
}
