/* Bulk manifests: rows of an object of the blob store, each applied as the upsert that it stands
 * for.  The object is foreign: its bytes are compared with the hash that stands in the log before
 * any of them is believed, and read with care all the same. */
#include <assert.h>
#include <string.h>

#include "common/model/bulk.h"
#include "services/shard/apply_internal.h"

/* The collection would take its rows, as things stand; nothing is counted. */
static bool is_taken(struct apply *apply, const struct record *record, uint32_t slot)
{
    const struct apply_collection *collection = apply_find(apply, record->incarnation);
    const struct apply_part *part;

    if (collection == NULL)
        return false;
    part = &collection->parts[slot];
    return part->presence == PRESENCE_ACTIVE && stamp_compare(record->stamp, part->truncate) >= 0;
}

enum err_code apply_wants_bulk(struct apply *apply, const struct apply_input *input,
                               struct bulk_manifest *manifest, bool *wanted, struct err *err)
{
    struct apply_partition *partition;
    struct record record;
    struct epoch_state epoch;
    enum err_code code = record_peek(&record, input->data, input->len, err);

    *wanted = false;
    if (code != ERR_OK || record.op != RECORD_BULK_MANIFEST)
        return code;
    assert(apply->slot_of[input->partition] != SLOT_NONE);
    partition = &apply->partitions[apply->slot_of[input->partition]];
    epoch = partition->epoch;
    if (input->offset < partition->position || !epoch_admit(&epoch, &record, input->offset) ||
        !is_taken(apply, &record, apply->slot_of[input->partition]))
        return ERR_OK;
    code = record_decode(&record, input->data, input->len, &apply->unpacked, err);
    if (code == ERR_OK)
        code = bulk_manifest_decode(manifest, record.payload, record.payload_len, err);
    *wanted = code == ERR_OK;
    return code;
}

/* The upsert that a row stands for. */
static enum err_code record_of_row(struct record *out, const struct record *manifest,
                                   const struct bulk_row *row, uint32_t dim, struct err *err)
{
    if (row->id_len == 0 || row->id_len > ID_BYTES_MAX)
        return err_set(err, ERR_CORRUPT, "bulk: an id of %zu bytes", row->id_len);
    *out = (struct record){
        .op = RECORD_UPSERT,
        .schema = manifest->schema,
        .stamp = manifest->stamp,
        .id = row->id,
        .id_len = row->id_len,
        .vector = row->vector,
        .vector_bytes = row->vector == NULL ? 0 : dim * sizeof(float),
        .text = row->text,
        .text_len = row->text_len,
        .metadata = row->metadata,
        .metadata_len = row->metadata_len,
    };
    memcpy(out->incarnation, manifest->incarnation, INCARNATION_BYTES);
    return ERR_OK;
}

enum err_code apply_each_row(const struct apply_bulk *bulk, apply_row_fn *each, void *context,
                             struct err *err)
{
    const uint8_t *at = bulk->data;
    size_t left = bulk->len;
    uint32_t rows = 0;
    enum err_code code = ERR_OK;

    for (; code == ERR_OK && left > 0; rows++) {
        size_t len = bulk_row_length(at, left);
        struct bulk_row row;
        struct record record;

        if (!bulk_row_length_is_possible(len) || len > left)
            return err_set(err, ERR_CORRUPT, "bulk: a row of %zu bytes, %zu are left", len, left);
        code = bulk_row_decode(&row, bulk->dimension, at, len, err);
        if (code == ERR_OK)
            code = record_of_row(&record, bulk->record, &row, bulk->dimension, err);
        if (code == ERR_OK)
            code = each(context, &record, err);
        at += len;
        left -= len;
    }
    if (code == ERR_OK && rows != bulk->manifest->section.rows)
        code = err_set(err, ERR_CORRUPT, "bulk: %u rows, the log says %u", rows,
                       bulk->manifest->section.rows);
    return code;
}

static enum err_code apply_row(void *context, const struct record *record, struct err *err)
{
    struct step *step = context;
    const struct record *manifest = step->record;
    enum err_code code;

    step->record = record;
    step->is_bulk = true;
    code = apply_entry(step, err);
    step->record = manifest;
    step->is_bulk = false;
    return code;
}

enum err_code apply_manifest(struct step *step, struct err *err)
{
    const struct apply_collection *collection = apply_collection_of(step);
    const struct apply_input *input = step->input;
    struct bulk_manifest manifest;
    struct apply_bulk bulk = {
        .record = step->record, .manifest = &manifest, .data = input->bulk, .len = input->bulk_len};
    enum err_code code;

    if (collection == NULL)
        return ERR_OK;
    if (input->bulk == NULL)
        return err_set(err, ERR_NOT_SUPPORTED, "a bulk manifest, and no blob store to read from");
    assert((uintptr_t)input->bulk % sizeof(float) == 0);
    bulk.dimension = collection->definition.dimension;
    code = bulk_manifest_decode(&manifest, step->record->payload, step->record->payload_len, err);
    if (code == ERR_OK)
        code = bulk_manifest_check(&manifest, input->bulk, input->bulk_len, err);
    return code == ERR_OK ? apply_each_row(&bulk, apply_row, step, err) : code;
}
