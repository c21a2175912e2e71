/* A shard's rows and state against the log that they were made from: see verify.h.
 *
 * A live row is what the record of its stamp says, byte by byte: the log has checksums for what the
 * store has none for.  And an id is at least as new as each of its records that counted, unless a
 * truncation or a drop came over it.
 *
 * Of a log that was trimmed, what is left of it is held against the store: collections are believed
 * to be what the store says, and rows whose records are gone are compared with nothing. */
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "services/shard/verify_internal.h"

static bool bytes_equal(const void *a, size_t a_len, const void *b, size_t b_len)
{
    return (a == NULL) == (b == NULL) &&
           (a == NULL || (a_len == b_len && memcmp(a, b, a_len) == 0));
}

/* --- collections ----------------------------------------------------------------------------- */

static enum err_code take_change(struct shard_verify *verify, const struct record *record,
                                 uint32_t slot, struct err *err)
{
    struct collection definition;
    enum collection_change change;
    const struct apply_collection *from;
    struct verify_collection *found;
    struct verify_part *part;
    enum err_code code =
        collection_decode(&definition, &change, record->payload, record->payload_len, err);

    if (code != ERR_OK)
        return code;
    from = apply_find(&verify->apply, definition.incarnation);
    if (from == NULL) {
        verify_find(verify, "collection %s of the log is not known to the store", definition.name);
        return ERR_OK;
    }
    found = &verify->collections[from->number];
    part = &found->parts[slot];
    if (part->presence == PRESENCE_DROPPED)
        return ERR_OK;
    if (stamp_compare(definition.schema, part->schema) > 0)
        part->schema = definition.schema;
    if (!found->is_defined || stamp_compare(definition.schema, found->definition.schema) > 0)
        found->definition = definition;
    found->is_defined = true;
    part->presence = change == COLLECTION_DROP ? PRESENCE_DROPPED : PRESENCE_ACTIVE;
    return ERR_OK;
}

static void take_truncation(struct shard_verify *verify, const struct record *record, uint32_t slot)
{
    const struct apply_collection *from = apply_find(&verify->apply, record->incarnation);
    struct verify_part *part;

    if (from == NULL)
        return;
    part = &verify->collections[from->number].parts[slot];
    if (part->presence == PRESENCE_ACTIVE && stamp_compare(record->stamp, part->truncate) > 0)
        part->truncate = record->stamp;
}

/* --- rows ------------------------------------------------------------------------------------ */

/* The collection whose rows the record concerns; NULL: none, or what it did was undone. */
static struct apply_collection *concerned(struct shard_verify *verify, const struct record *record,
                                          uint32_t slot)
{
    struct apply_collection *from = apply_find(&verify->apply, record->incarnation);
    const struct apply_part *part;

    if (from == NULL || (record->op != RECORD_BULK_MANIFEST && record->id_len == 0) ||
        verify->collections[from->number].parts[slot].presence != PRESENCE_ACTIVE ||
        !apply_vector_fits(record, from->definition.dimension))
        return NULL;
    part = &from->parts[slot];
    if (part->presence != PRESENCE_ACTIVE || stamp_compare(record->stamp, part->truncate) < 0)
        return NULL;
    return from;
}

/* What of a row is not what its record says, or NULL.  Errors: ERR_NO_MEMORY. */
static enum err_code compare_row(struct shard_verify *verify, const struct apply_collection *from,
                                 const struct record *record, uint32_t ordinal, const char **fault,
                                 struct err *err)
{
    struct apply *apply = &verify->apply;
    struct ordinal_key key = ordinal_key_of(from->number, ordinal);
    uint32_t dim = from->definition.dimension;
    struct store_value vector = {0};
    struct row row;
    struct err ignored;

    *fault = NULL;
    buffer_reset(&apply->text);
    if (record->text != NULL)
        json_escape(&apply->text, record->text, record->text_len);
    if (buffer_check(&apply->text, err) != ERR_OK)
        return ERR_NO_MEMORY;
    if (row_get(&row, verify->txn, from->number, ordinal, &ignored) != ERR_OK ||
        (row.has_vector && store_get(verify->txn, STORE_VECTORS, ordinal_key_value(&key), &vector,
                                     &ignored) != ERR_OK))
        return ERR_OK; /* it was told */
    if (record->vector != NULL)
        apply_unpack_vector(apply, record, dim);
    if (!bytes_equal(row.metadata, row.metadata_len, record->metadata, record->metadata_len))
        *fault = "metadata";
    else if (!bytes_equal(row.text, row.text_len, record->text == NULL ? NULL : apply->text.data,
                          apply->text.len))
        *fault = "text";
    else if (!bytes_equal(row.has_vector ? vector.data : NULL, vector.len,
                          record->vector == NULL ? NULL : apply->vector, dim * sizeof(float)))
        *fault = "vector";
    return ERR_OK;
}

enum err_code verify_entry(struct shard_verify *verify, const struct apply_collection *from,
                           uint32_t partition, const struct record *record, struct err *err)
{
    struct verify_collection *found = &verify->collections[from->number];
    struct id_key key = id_key_of(from->number, partition, record->id, record->id_len);
    bool is_live = record->op == RECORD_UPSERT;
    struct id_entry entry = {0};
    const char *fault = NULL;
    enum err_code code = id_entry_get(&entry, verify->txn, &key, err);
    int order;

    if (code == ERR_CORRUPT)
        return ERR_OK; /* it was told */
    if (code != ERR_OK && code != ERR_NOT_FOUND)
        return code;
    order = code == ERR_NOT_FOUND ? -1 : stamp_compare(entry.stamp, record->stamp);
    if (order < 0) {
        verify_find(verify, "collection %s, partition %u: the id \"%.*s\" is older than the log",
                    from->definition.name, partition, (int)MIN_OF(record->id_len, (size_t)100),
                    record->id);
        return ERR_OK;
    }
    if (order > 0)
        return ERR_OK;
    if (entry.is_live != is_live)
        fault = "state";
    else if (is_live)
        code = compare_row(verify, from, record, entry.ordinal, &fault, err);
    else
        code = ERR_OK;
    if (code != ERR_OK)
        return code;
    if (fault != NULL)
        verify_find(verify, "collection %s, partition %u: the %s of \"%.*s\" is not as in the log",
                    from->definition.name, partition, fault,
                    (int)MIN_OF(record->id_len, (size_t)100), record->id);
    else if (is_live && entry.ordinal / 64 < found->word_count)
        verify_set_bit(found->compared, entry.ordinal);
    return ERR_OK;
}

/* The record at which the partition was left. */
static void check_last(struct shard_verify *verify, const struct apply_partition *partition,
                       const struct wal_item *item, const struct scrub_finding *place)
{
    if (record_crc(item->data, item->len) != partition->crc)
        verify_find(verify,
                    "partition %u: the record before its position is another in the log (%s, byte "
                    "%llu)",
                    partition->partition, place->file, (unsigned long long)place->byte);
}

/* A record that counted. */
static enum err_code take(struct shard_verify *verify, const struct wal_item *item, uint32_t slot,
                          const struct record *record, struct err *err)
{
    const struct apply_collection *from;
    enum err_code code = apply_note(&verify->partitions[slot], verify->apply.region, record, err);

    if (code == ERR_OK && record->op == RECORD_COLLECTION)
        code = take_change(verify, record, slot, err);
    if (code == ERR_OK && record->op == RECORD_TRUNCATE)
        take_truncation(verify, record, slot);
    if (code != ERR_OK || (record->op != RECORD_UPSERT && record->op != RECORD_DELETE &&
                           record->op != RECORD_BULK_MANIFEST))
        return code;
    from = concerned(verify, record, slot);
    if (from == NULL)
        return ERR_OK;
    return record->op == RECORD_BULK_MANIFEST
               ? verify_manifest(verify, from, item, record, err)
               : verify_entry(verify, from, item->partition, record, err);
}

/* The first record of a partition whose log begins with it: what was before, the store says. */
static void begin_trimmed(struct shard_verify *verify, uint32_t slot, const struct record *record)
{
    verify->is_trimmed[slot] = verify->is_any_trimmed = true;
    if (record->op == RECORD_VERSION_VECTOR)
        verify->partitions[slot].epoch.epoch = record->epoch;
    for (uint32_t i = 0; i < verify->apply.collection_count; i++) {
        const struct apply_part *part = &verify->apply.collections[i]->parts[slot];

        verify->collections[i].parts[slot] = (struct verify_part){
            .presence = part->presence, .schema = part->schema, .truncate = part->truncate};
    }
}

enum err_code shard_verify_record(struct shard_verify *verify, const struct wal_item *item,
                                  const struct record_verified *verified,
                                  const struct scrub_finding *place, struct err *err)
{
    const struct apply_partition *partition;
    struct apply_partition *found;
    struct err why = {0};
    uint32_t slot;
    enum err_code code;

    if (!verify->result.is_readable || verify->apply.slot_of[item->partition] == SLOT_NONE)
        return ERR_OK;
    slot = verify->apply.slot_of[item->partition];
    partition = &verify->apply.partitions[slot];
    found = &verify->partitions[slot];
    if (item->offset >= partition->position)
        return ERR_OK;
    if (item->offset + 1 == partition->position)
        check_last(verify, partition, item, place);
    if (found->position == 0 && item->offset > 0)
        begin_trimmed(verify, slot, &verified->record);
    found->position = item->offset + 1;
    (void)epoch_admit(&found->epoch, &verified->record, item->offset);
    found->voided += !verified->counts;
    if (!verified->counts)
        return ERR_OK;
    code = take(verify, item, slot, &verified->record, &why);
    if (code != ERR_CORRUPT) {
        if (code != ERR_OK)
            *err = why;
        return code;
    }
    scrub_find(verify->setup.scrub, place->file, place->byte, "partition %u, offset %llu: %s",
               item->partition, (unsigned long long)item->offset, why.message);
    return ERR_OK;
}

/* --- when all records have been seen --------------------------------------------------------- */

static bool vectors_equal(const struct version_vector *a, const struct version_vector *b)
{
    if (a->clock != b->clock || a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (a->entries[i].region != b->entries[i].region ||
            a->entries[i].position != b->entries[i].position ||
            stamp_compare(a->entries[i].newest, b->entries[i].newest) != 0)
            return false;
    return true;
}

/* What of a partition's state is not as the log says, or NULL. */
static const char *state_fault(const struct apply_partition *said,
                               const struct apply_partition *found, bool is_trimmed)
{
    if (!is_trimmed && (said->applied != found->applied || said->voided != found->voided))
        return "how many records counted";
    if (said->epoch.epoch != found->epoch.epoch ||
        (!is_trimmed && said->epoch.epoch_offset != found->epoch.epoch_offset))
        return "the epoch";
    if (said->data < found->data) /* it may be above: what older versions wrote had none */
        return "the newest data";
    if (stamp_compare(said->newest, found->newest) != 0)
        return "the newest stamp";
    return vectors_equal(&said->vector, &found->vector) ? NULL : "the version vector";
}

static void check_partition(struct shard_verify *verify, uint32_t slot,
                            const struct wal_verified *log, bool is_whole)
{
    const struct apply_partition *partition = &verify->apply.partitions[slot];
    const char *fault = state_fault(partition, &verify->partitions[slot], verify->is_trimmed[slot]);

    if (partition->partition >= log->partitions) {
        verify_find(verify, "partition %u: the log has only %u", partition->partition,
                    log->partitions);
        return;
    }
    if (partition->position > log->end[partition->partition])
        verify_find(verify, "partition %u was read up to %llu, the log ends at %llu",
                    partition->partition, (unsigned long long)partition->position,
                    (unsigned long long)log->end[partition->partition]);
    else if (partition->position < log->first[partition->partition])
        verify_find(verify, "partition %u was read up to %llu, the log begins at %llu",
                    partition->partition, (unsigned long long)partition->position,
                    (unsigned long long)log->first[partition->partition]);
    else if (is_whole && fault != NULL)
        verify_find(verify, "partition %u: %s is not as in the log", partition->partition, fault);
}

static enum err_code check_definition(struct shard_verify *verify, uint32_t number, struct err *err)
{
    const struct collection *stored = &verify->apply.collections[number]->definition;
    const struct verify_collection *found = &verify->collections[number];
    struct buffer said = {0}, logged = {0};
    enum err_code code;

    if (verify->is_any_trimmed && !found->is_defined)
        return ERR_OK;
    collection_encode(stored, COLLECTION_CREATE, &said);
    collection_encode(&found->definition, COLLECTION_CREATE, &logged);
    code = buffer_check(&said, err);
    if (code == ERR_OK)
        code = buffer_check(&logged, err);
    if (code == ERR_OK &&
        (!found->is_defined || !bytes_equal(said.data, said.len, logged.data, logged.len)))
        verify_find(verify, "collection %s: its definition is not as in the log", stored->name);
    buffer_free(&said);
    buffer_free(&logged);
    return code;
}

/* What a collection's changes and truncations have made of it in each partition. */
static void check_parts(struct shard_verify *verify, uint32_t number)
{
    const struct apply_collection *from = verify->apply.collections[number];
    const struct verify_collection *found = &verify->collections[number];

    for (uint32_t slot = 0; slot < verify->apply.partition_count; slot++)
        if (from->parts[slot].presence != found->parts[slot].presence ||
            stamp_compare(from->parts[slot].schema, found->parts[slot].schema) != 0 ||
            stamp_compare(from->parts[slot].truncate, found->parts[slot].truncate) != 0)
            verify_find(verify, "partition %u, collection %s: its changes are not as in the log",
                        verify->apply.partitions[slot].partition, from->definition.name);
}

static void check_all_compared(struct shard_verify *verify, uint32_t number, bool is_whole)
{
    const struct verify_collection *found = &verify->collections[number];
    uint64_t compared = 0;

    for (size_t i = 0; i < found->word_count; i++)
        compared += (uint64_t)__builtin_popcountll(found->compared[i]);
    verify->result.compared += compared;
    if (is_whole && !found->is_partial && !verify->is_any_trimmed && compared < found->rows)
        verify_find(verify, "collection %s: %llu of its %llu rows are not as in the log",
                    verify->apply.collections[number]->definition.name,
                    (unsigned long long)(found->rows - compared), (unsigned long long)found->rows);
}

enum err_code shard_verify_log(struct shard_verify *verify, const struct wal_verified *log,
                               bool is_whole, struct err *err)
{
    const struct apply *apply = &verify->apply;
    enum err_code code = ERR_OK;

    if (!verify->result.is_readable || log->partitions == 0)
        return ERR_OK;
    if (apply->region != log->region) {
        verify_find(verify, "the store is of log %u, the log is %u", apply->region, log->region);
        return ERR_OK;
    }
    for (uint32_t slot = 0; slot < apply->partition_count; slot++)
        check_partition(verify, slot, log, is_whole);
    for (uint32_t i = 0; i < apply->collection_count; i++)
        check_all_compared(verify, i, is_whole);
    for (uint32_t i = 0; code == ERR_OK && is_whole && i < apply->collection_count; i++) {
        check_parts(verify, i);
        code = check_definition(verify, i, err);
    }
    if (code == ERR_OK && verify->blob_err.code != ERR_OK) {
        *err = verify->blob_err;
        code = err->code;
    }
    return code;
}
