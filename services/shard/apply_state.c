/* How the consistency core's state lies in the store: STORE_META, one row for each thing.
 *
 *   s                  format, region, partitions served
 *   l                  life of the store, once something lies beside it
 *   c u32be            definition of a collection: JSON
 *   n u32be            its next ordinal and its revision
 *   p u32be            a partition: position, epoch, counts, version vector …
 *   q u32be u32be      a collection in a partition
 *
 * In key order 'c' comes before what belongs to it, so that one walk over the table loads all.
 * What was written by this file is checked when it is read: a store can be damaged. */
#include "services/shard/apply.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "services/shard/state_keys.h"

#define STATE_FORMAT     1
#define STATE_FORMAT_MAX 99 /* what says more is damaged, not newer */
#define ROW_HAS_DATA     2  /* in a partition's row, where older ones have the vector's form, 1 */
#define INDEX_SIZE_FIRST 64

/* --- collections in memory ------------------------------------------------------------------- */

static void free_collections(struct apply *apply)
{
    for (uint32_t i = 0; i < apply->collection_count; i++) {
        free(apply->collections[i]->parts);
        free(apply->collections[i]);
    }
    free(apply->collections);
    free(apply->index);
    apply->collections = NULL;
    apply->index = NULL;
    apply->collection_count = 0;
    apply->collection_size = 0;
    apply->index_size = 0;
}

/* Where an incarnation stands or would stand; the index has a free place. */
static uint32_t *index_place(struct apply *apply, const uint8_t *incarnation)
{
    uint32_t at = (uint32_t)hash_xxh64(incarnation, INCARNATION_BYTES, 0);

    for (;; at++) {
        uint32_t *place = &apply->index[at & (apply->index_size - 1)];

        if (*place == 0 || memcmp(apply->collections[*place - 1]->definition.incarnation,
                                  incarnation, INCARNATION_BYTES) == 0)
            return place;
    }
}

struct apply_collection *apply_find(struct apply *apply,
                                    const uint8_t incarnation[INCARNATION_BYTES])
{
    uint32_t number;

    if (apply->index_size == 0)
        return NULL;
    number = *index_place(apply, incarnation);
    return number == 0 ? NULL : apply->collections[number - 1];
}

/* At most half of the index is used. */
static bool grow_index(struct apply *apply)
{
    uint32_t size = apply->index_size == 0 ? INDEX_SIZE_FIRST : apply->index_size * 2;
    uint32_t *index;

    if ((apply->collection_count + 1) * 2 <= apply->index_size)
        return true;
    index = array_alloc(size, sizeof(*index));
    if (index == NULL)
        return false;
    free(apply->index);
    apply->index = index;
    apply->index_size = size;
    for (uint32_t i = 0; i < apply->collection_count; i++)
        *index_place(apply, apply->collections[i]->definition.incarnation) = i + 1;
    return true;
}

enum err_code apply_add(struct apply *apply, const struct collection *definition,
                        struct apply_collection **out, struct err *err)
{
    struct apply_collection *collection = array_alloc(1, sizeof(*collection));
    struct apply_part *parts = array_alloc(apply->partition_count, sizeof(*parts));

    assert(apply_find(apply, definition->incarnation) == NULL);
    assert(apply->collection_count < COLLECTION_NONE - 1);
    if (collection == NULL || parts == NULL || !grow_index(apply))
        goto no_memory;
    if (apply->collection_count == apply->collection_size) {
        uint32_t size = apply->collection_size == 0 ? 16 : apply->collection_size * 2;
        void *grown = array_resize(apply->collections, size, sizeof(struct apply_collection *));

        if (grown == NULL)
            goto no_memory;
        apply->collections = grown;
        apply->collection_size = size;
    }
    *collection = (struct apply_collection){
        .number = apply->collection_count,
        .definition = *definition,
        .parts = parts,
        .is_dirty = true,
    };
    *index_place(apply, definition->incarnation) = apply->collection_count + 1;
    apply->collections[apply->collection_count++] = collection;
    *out = collection;
    return ERR_OK;

no_memory:
    free(parts);
    free(collection);
    return err_set(err, ERR_NO_MEMORY, "no memory for another collection");
}

bool apply_is_active(const struct apply *apply, const struct apply_collection *collection)
{
    for (uint32_t slot = 0; slot < apply->partition_count; slot++) {
        if (collection->parts[slot].presence == PRESENCE_ACTIVE)
            return true;
    }
    return false;
}

/* --- writing --------------------------------------------------------------------------------- */

static void write_stamp(struct buffer *out, struct stamp stamp)
{
    buffer_append_u64(out, stamp.clock);
    buffer_append_u32(out, stamp.region);
}

static void write_counts(struct buffer *out, const struct apply_counts *counts)
{
    buffer_append_u64(out, counts->live);
    buffer_append_u64(out, counts->tombstones);
    buffer_append_u64(out, counts->digest.low);
    buffer_append_u64(out, counts->digest.high);
}

/* Put what stands in apply->row. */
static enum err_code put_row(struct apply *apply, struct store_txn *txn,
                             const struct state_key *key, struct err *err)
{
    enum err_code code = buffer_check(&apply->row, err);

    if (code != ERR_OK)
        return code;
    return store_put(txn, STORE_META, state_key_value(key),
                     (struct store_value){.data = apply->row.data, .len = apply->row.len}, err);
}

static enum err_code flush_partition(struct apply *apply, struct store_txn *txn,
                                     const struct apply_partition *partition, struct err *err)
{
    struct state_key key = state_key_of('p', partition->partition);
    struct buffer *row = &apply->row;

    row->len = 0;
    buffer_append_u64(row, partition->position);
    buffer_append_u64(row, partition->epoch.epoch);
    buffer_append_u64(row, partition->epoch.epoch_offset);
    buffer_append_u32(row, partition->crc);
    write_stamp(row, partition->newest);
    write_counts(row, &partition->counts);
    buffer_append_u64(row, partition->applied);
    buffer_append_u64(row, partition->voided);
    buffer_append_u64(row, partition->parked);
    buffer_append_byte(row, ROW_HAS_DATA);
    buffer_append_u64(row, partition->data);
    version_vector_encode(&partition->vector, row);
    return put_row(apply, txn, &key, err);
}

static enum err_code flush_part(struct apply *apply, struct store_txn *txn,
                                const struct state_key *key, const struct apply_part *part,
                                struct err *err)
{
    struct buffer *row = &apply->row;

    row->len = 0;
    buffer_append_u32(row, part->presence);
    write_stamp(row, part->schema);
    write_stamp(row, part->truncate);
    buffer_append_u64(row, part->changed);
    write_counts(row, &part->counts);
    assert(row->failed || row->len == PART_BYTES);
    return put_row(apply, txn, key, err);
}

static enum err_code flush_collection(struct apply *apply, struct store_txn *txn,
                                      struct apply_collection *collection, struct err *err)
{
    struct state_key key = state_key_of('n', collection->number);
    enum err_code code;

    collection->revision++;
    apply->row.len = 0;
    buffer_append_u32(&apply->row, collection->next_ordinal);
    buffer_append_u64(&apply->row, collection->revision);
    code = put_row(apply, txn, &key, err);
    if (code == ERR_OK && !collection->is_defined) {
        key = state_key_of('c', collection->number);
        apply->row.len = 0;
        collection_encode(&collection->definition, COLLECTION_CREATE, &apply->row);
        code = put_row(apply, txn, &key, err);
        collection->is_defined = code == ERR_OK;
    }
    for (uint32_t slot = 0; code == ERR_OK && slot < apply->partition_count; slot++) {
        if (!collection->parts[slot].is_dirty)
            continue;
        key = state_part_key_of(collection->number, apply->partitions[slot].partition);
        code = flush_part(apply, txn, &key, &collection->parts[slot], err);
    }
    return code;
}

enum err_code apply_flush(struct apply *apply, struct store_txn *txn, struct err *err)
{
    enum err_code code = ERR_OK;

    for (uint32_t i = 0; code == ERR_OK && i < apply->collection_count; i++) {
        if (apply->collections[i]->is_dirty)
            code = flush_collection(apply, txn, apply->collections[i], err);
    }
    for (uint32_t i = 0; code == ERR_OK && i < apply->partition_count; i++) {
        if (apply->partitions[i].is_dirty)
            code = flush_partition(apply, txn, &apply->partitions[i], err);
    }
    return code == ERR_OK ? ERR_OK : err_wrap(err, "state of the shard");
}

void apply_clean(struct apply *apply)
{
    for (uint32_t i = 0; i < apply->partition_count; i++)
        apply->partitions[i].is_dirty = false;
    for (uint32_t i = 0; i < apply->collection_count; i++) {
        struct apply_collection *collection = apply->collections[i];

        if (!collection->is_dirty)
            continue;
        collection->is_dirty = false;
        for (uint32_t slot = 0; slot < apply->partition_count; slot++)
            collection->parts[slot].is_dirty = false;
    }
}

/* --- reading --------------------------------------------------------------------------------- */

static struct stamp read_stamp(struct bytes_reader *r)
{
    struct stamp stamp;

    stamp.clock = read_u64(r);
    stamp.region = read_u32(r);
    return stamp;
}

static struct apply_counts read_counts(struct bytes_reader *r)
{
    struct apply_counts counts;

    counts.live = read_u64(r);
    counts.tombstones = read_u64(r);
    counts.digest.low = read_u64(r);
    counts.digest.high = read_u64(r);
    return counts;
}

static struct apply_collection *collection_numbered(struct apply *apply, uint32_t number)
{
    return number < apply->collection_count ? apply->collections[number] : NULL;
}

static enum err_code load_collection(struct apply *apply, uint32_t number, struct store_value value,
                                     struct err *err)
{
    struct collection definition;
    enum collection_change change;
    struct apply_collection *collection;
    enum err_code code = collection_decode(&definition, &change, value.data, value.len, err);

    if (code != ERR_OK)
        return code;
    if (number != apply->collection_count || apply_find(apply, definition.incarnation) != NULL)
        return state_damaged(err, "collections");
    code = apply_add(apply, &definition, &collection, err);
    if (code == ERR_OK) {
        collection->is_dirty = false;
        collection->is_defined = true;
    }
    return code;
}

static enum err_code load_numbers(struct apply *apply, uint32_t number, struct bytes_reader *r,
                                  struct err *err)
{
    struct apply_collection *collection = collection_numbered(apply, number);

    if (collection == NULL)
        return state_damaged(err, "a collection's numbers");
    collection->next_ordinal = read_u32(r);
    collection->revision = read_u64(r);
    return read_done(r) ? ERR_OK : state_damaged(err, "a collection's numbers");
}

static enum err_code load_partition(struct apply *apply, uint32_t number, struct bytes_reader *r,
                                    struct err *err)
{
    struct apply_partition *partition;
    const uint8_t *vector;
    size_t left;

    if (number >= PARTITIONS_MAX || apply->slot_of[number] == SLOT_NONE)
        return state_damaged(err, "a partition");
    partition = &apply->partitions[apply->slot_of[number]];
    partition->position = read_u64(r);
    partition->epoch.epoch = read_u64(r);
    partition->epoch.epoch_offset = read_u64(r);
    partition->crc = read_u32(r);
    partition->newest = read_stamp(r);
    partition->counts = read_counts(r);
    partition->applied = read_u64(r);
    partition->voided = read_u64(r);
    partition->parked = read_u64(r);
    partition->data = partition->position;
    if (r->at < r->len && r->data[r->at] == ROW_HAS_DATA) {
        (void)read_u8(r);
        partition->data = read_u64(r);
    }
    if (partition->data > partition->position)
        return state_damaged(err, "a partition");
    left = r->len - r->at;
    vector = read_bytes(r, left);
    if (!read_done(r))
        return state_damaged(err, "a partition");
    return version_vector_decode(&partition->vector, vector, left, err);
}

static enum err_code load_part(struct apply *apply, const uint8_t *key, struct bytes_reader *r,
                               struct err *err)
{
    struct apply_collection *collection = collection_numbered(apply, load_be32(key));
    uint32_t number = load_be32(key + 4);
    struct apply_part *part;
    uint32_t presence;

    if (collection == NULL || number >= PARTITIONS_MAX || apply->slot_of[number] == SLOT_NONE)
        return state_damaged(err, "a collection in a partition");
    part = &collection->parts[apply->slot_of[number]];
    presence = read_u32(r);
    part->presence = (enum apply_presence)presence;
    part->schema = read_stamp(r);
    part->truncate = read_stamp(r);
    part->changed = read_u64(r);
    part->counts = read_counts(r);
    if (!read_done(r) || presence > PRESENCE_DROPPED)
        return state_damaged(err, "a collection in a partition");
    return ERR_OK;
}

static enum err_code load_row(struct apply *apply, struct store_value key, struct store_value value,
                              struct err *err)
{
    const uint8_t *bytes = key.data;
    struct bytes_reader r = {.data = value.data, .len = value.len};

    if (key.len == 1 && bytes[0] == 's')
        return ERR_OK;
    if (key.len == 1 && bytes[0] == 'l') {
        apply->life = read_u64(&r);
        return read_done(&r) ? ERR_OK : state_damaged(err, "its life");
    }
    if (key.len == 5 && bytes[0] == 'c')
        return load_collection(apply, load_be32(bytes + 1), value, err);
    if (key.len == 5 && bytes[0] == 'n')
        return load_numbers(apply, load_be32(bytes + 1), &r, err);
    if (key.len == 5 && bytes[0] == 'p')
        return load_partition(apply, load_be32(bytes + 1), &r, err);
    if (key.len == 9 && bytes[0] == 'q')
        return load_part(apply, bytes + 1, &r, err);
    return state_damaged(err, "an unknown row");
}

static enum err_code load_rows(struct apply *apply, struct store_txn *txn, struct err *err)
{
    struct store_cursor *cursor = NULL;
    struct store_value key, value;
    bool more = false;
    enum err_code code = store_cursor_open(&cursor, txn, STORE_META,
                                           (struct store_value){.data = "", .len = 0}, err);

    while (code == ERR_OK) {
        code = store_cursor_next(cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more)
            break;
        code = load_row(apply, key, value, err);
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    return code;
}

/* Make the partitions of the set, all at the log's beginning. */
static enum err_code make_partitions(struct apply *apply, struct err *err)
{
    uint32_t count = partition_set_count(&apply->served);
    uint32_t slot = 0;

    free(apply->partitions);
    apply->partition_count = 0;
    apply->partitions = array_alloc(count, sizeof(*apply->partitions));
    if (apply->vector == NULL)
        apply->vector = array_alloc(DIMENSION_MAX, sizeof(float));
    if (apply->partitions == NULL || apply->vector == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the state of the shard");
    for (uint32_t p = 0; p < PARTITIONS_MAX; p++) {
        apply->slot_of[p] = SLOT_NONE;
        if (!partition_set_has(&apply->served, p))
            continue;
        apply->slot_of[p] = (uint16_t)slot;
        apply->partitions[slot++].partition = p;
    }
    assert(slot == count);
    apply->partition_count = count;
    return ERR_OK;
}

static enum err_code load_head(struct apply *apply, struct store_txn *txn, struct err *err)
{
    struct store_value value;
    struct bytes_reader r = {0};
    uint32_t format;
    enum err_code code =
        store_get(txn, STORE_META, (struct store_value){.data = "s", .len = 1}, &value, err);

    if (code == ERR_NOT_FOUND)
        return err_set(err, ERR_NOT_FOUND, "the store is empty");
    if (code != ERR_OK)
        return code;
    r.data = value.data;
    r.len = value.len;
    format = read_u32(&r);
    if (!r.failed && format > STATE_FORMAT && format <= STATE_FORMAT_MAX)
        return err_set(err, ERR_CONFIG,
                       "the shard's state has format %u, this version knows %d: run the version "
                       "that wrote it, or remove the folder: it is rebuilt from the log",
                       format, STATE_FORMAT);
    if (format != STATE_FORMAT)
        return state_damaged(err, "the shard (another format)");
    apply->region = read_u32(&r);
    for (size_t i = 0; i < ARRAY_COUNT(apply->served.words); i++)
        apply->served.words[i] = read_u64(&r);
    return read_done(&r) ? ERR_OK : state_damaged(err, "the shard");
}

enum err_code apply_load(struct apply *apply, struct store *store, struct err *err)
{
    struct store_txn *txn = NULL;
    enum err_code code = store_begin(&txn, store, false, err);

    apply->store = store;
    apply->life = 0;
    free_collections(apply);
    if (code == ERR_OK)
        code = load_head(apply, txn, err);
    if (code == ERR_OK)
        code = make_partitions(apply, err);
    if (code == ERR_OK)
        code = load_rows(apply, txn, err);
    store_abort(txn);
    return code;
}

enum err_code apply_create(struct apply *apply, struct store *store,
                           const struct apply_origin *origin, struct err *err)
{
    struct store_txn *txn = NULL;
    enum err_code code = store_clear(store, err);

    apply->store = store;
    apply->life = 0;
    apply->region = origin->region;
    apply->served = origin->served;
    free_collections(apply);
    if (code == ERR_OK)
        code = make_partitions(apply, err);
    if (code == ERR_OK)
        code = store_begin(&txn, store, true, err);
    if (code != ERR_OK)
        return code;
    apply->row.len = 0;
    buffer_append_u32(&apply->row, STATE_FORMAT);
    buffer_append_u32(&apply->row, origin->region);
    for (size_t i = 0; i < ARRAY_COUNT(origin->served.words); i++)
        buffer_append_u64(&apply->row, origin->served.words[i]);
    code = put_row(apply, txn, &(struct state_key){.bytes = "s", .len = 1}, err);
    for (uint32_t i = 0; i < apply->partition_count; i++) {
        apply->partitions[i].position = origin->firsts == NULL ? 0 : origin->firsts[i];
        apply->partitions[i].is_dirty = true;
    }
    if (code == ERR_OK)
        code = apply_flush(apply, txn, err);
    if (code != ERR_OK) {
        store_abort(txn);
        return code;
    }
    code = store_commit(txn, err);
    if (code == ERR_OK)
        apply_clean(apply);
    return code;
}

void apply_free(struct apply *apply)
{
    free_collections(apply);
    free(apply->partitions);
    free(apply->vector);
    buffer_free(&apply->unpacked);
    buffer_free(&apply->text);
    buffer_free(&apply->row);
    *apply = (struct apply){0};
}
