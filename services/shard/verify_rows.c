/* Ids, rows and vectors of a store, each against the others: see verify.h.
 *
 * A row names its id and the id names its row; so, when every row is named by its id and there are
 * as many rows as live ids, ids and ordinals belong to one another one by one.  The same holds for
 * rows and vectors. */
#include <math.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "services/shard/apply_counts.h"
#include "services/shard/verify_internal.h"

typedef enum err_code row_fn(struct shard_verify *verify, struct store_value key,
                             struct store_value value, struct err *err);

/* Every row of a table.  A row that is told and nothing more is ERR_OK. */
static enum err_code walk(struct shard_verify *verify, enum store_table table, row_fn *each,
                          struct err *err)
{
    struct store_cursor *cursor = NULL;
    enum err_code code =
        store_cursor_open(&cursor, verify->txn, table, (struct store_value){.data = ""}, err);

    /* Nearly all of a store is vectors: what lies between them is not worth as much. */
    if (code == ERR_OK && table == STORE_VECTORS)
        store_cursor_read_ahead(cursor);
    while (code == ERR_OK) {
        struct store_value key, value;
        bool more;

        code = store_cursor_next(cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more)
            break;
        code = each(verify, key, value, err);
        if (code == ERR_OK)
            code = scrub_go_on(verify->setup.scrub, key.len + value.len, err);
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    return code;
}

/* The collection of a key that begins with its number; NULL: it was told. */
static struct apply_collection *collection_of(struct shard_verify *verify, struct store_value key,
                                              size_t len_min, const char *what)
{
    uint32_t number;

    if (key.len < len_min) {
        verify_find(verify, "%s has a key of %zu bytes", what, key.len);
        return NULL;
    }
    number = load_be32(key.data);
    if (number < verify->apply.collection_count)
        return verify->apply.collections[number];
    verify_find(verify, "%s is of collection %u, and there are only %u", what, number,
                verify->apply.collection_count);
    return NULL;
}

/* --- rows ------------------------------------------------------------------------------------ */

static const char *vector_fault(struct shard_verify *verify, const struct apply_collection *from,
                                uint32_t ordinal)
{
    struct ordinal_key key = ordinal_key_of(from->number, ordinal);
    struct store_value value;
    uint32_t dim = from->definition.dimension;
    struct err ignored;

    if (store_get(verify->txn, STORE_VECTORS, ordinal_key_value(&key), &value, &ignored) != ERR_OK)
        return "has no vector";
    if (value.len != dim * sizeof(float))
        return "has a vector of another dimension";
    for (uint32_t i = 0; i < dim; i++) {
        float number;

        memcpy(&number, (const uint8_t *)value.data + i * sizeof(number), sizeof(number));
        if (!isfinite(number))
            return "has a vector that is not finite";
    }
    return NULL;
}

/* What is wrong with a row, or NULL. */
static const char *row_fault(struct shard_verify *verify, const struct apply_collection *from,
                             uint32_t ordinal, const struct row *row)
{
    struct id_entry entry;
    struct id_key id;
    struct err ignored;

    if (ordinal >= from->next_ordinal)
        return "was never given";
    if (verify->apply.slot_of[row->partition] == SLOT_NONE)
        return "is of a partition that is not served";
    id = id_key_of(from->number, row->partition, row->id, row->id_len);
    if (id_entry_get(&entry, verify->txn, &id, &ignored) != ERR_OK)
        return "has an id that is not known";
    if (!entry.is_live || entry.ordinal != ordinal)
        return "is not that of its id";
    if (stamp_compare(entry.stamp, row->stamp) != 0 || entry.has_vector != row->has_vector)
        return "is not what its id says";
    return row->has_vector ? vector_fault(verify, from, ordinal) : NULL;
}

static enum err_code check_row(struct shard_verify *verify, struct store_value key,
                               struct store_value value, struct err *err)
{
    const struct apply_collection *from =
        collection_of(verify, key, ORDINAL_KEY_BYTES, "a row of the store");
    struct verify_collection *found;
    struct row row;
    uint32_t ordinal = 0;
    const char *fault;

    (void)err;
    if (from == NULL)
        return ERR_OK;
    found = &verify->collections[from->number];
    if (!ordinal_key_is_of(key, from->number, &ordinal))
        fault = "has a key that is none";
    else if (row_decode(&row, value, NULL) != ERR_OK)
        fault = "is damaged";
    else
        fault = row_fault(verify, from, ordinal, &row);
    if (fault != NULL) {
        verify_find(verify, "collection %s: the row of ordinal %u %s", from->definition.name,
                    ordinal, fault);
        return ERR_OK;
    }
    found->rows++;
    found->vectors += row.has_vector;
    if (row.has_vector)
        verify_set_bit(found->living, ordinal);
    return ERR_OK;
}

/* --- ids ------------------------------------------------------------------------------------- */

/* What is wrong with an id's entry, or NULL. */
static const char *entry_fault(struct shard_verify *verify, const struct apply_collection *from,
                               const struct id_entry *entry)
{
    struct ordinal_key key = ordinal_key_of(from->number, entry->ordinal);
    struct store_value value;
    struct err ignored;

    if (!entry->is_live)
        return entry->ordinal != 0 || entry->has_vector ? "is a tombstone with a row" : NULL;
    if (store_get(verify->txn, STORE_ROWS, ordinal_key_value(&key), &value, &ignored) != ERR_OK)
        return "has no row";
    return NULL;
}

static enum err_code check_id(struct shard_verify *verify, struct store_value key,
                              struct store_value value, struct err *err)
{
    const struct apply_collection *from =
        collection_of(verify, key, ID_PREFIX_BYTES + 1, "an id of the store");
    const uint8_t *bytes = key.data;
    struct id_entry entry;
    struct counted_entry counted = {.entry = &entry};
    struct apply_counts one;
    uint32_t partition;
    const char *fault = NULL;

    (void)err;
    if (from == NULL)
        return ERR_OK;
    partition = (uint32_t)bytes[4] << 8 | bytes[5];
    counted.incarnation = from->definition.incarnation;
    counted.id = (const char *)bytes + ID_PREFIX_BYTES;
    counted.id_len = key.len - ID_PREFIX_BYTES;
    if (counted.id_len > ID_BYTES_MAX || partition >= PARTITIONS_MAX ||
        verify->apply.slot_of[partition] == SLOT_NONE)
        fault = "is none, or of a partition that is not served";
    else if (id_entry_decode(&entry, value, NULL) != ERR_OK)
        fault = "has a damaged entry";
    else
        fault = entry_fault(verify, from, &entry);
    if (fault != NULL) {
        verify_find(verify, "collection %s, partition %u: the id \"%.*s\" %s",
                    from->definition.name, partition, (int)MIN_OF(counted.id_len, (size_t)100),
                    counted.id, fault);
        return ERR_OK;
    }
    one = apply_counts_of(&counted);
    apply_counts_add(&verify->collections[from->number].counts[verify->apply.slot_of[partition]],
                     &one);
    return ERR_OK;
}

/* --- vectors --------------------------------------------------------------------------------- */

/* Those that a row has were looked at with it; here, that there is no other. */
static enum err_code check_vector(struct shard_verify *verify, struct store_value key,
                                  struct store_value value, struct err *err)
{
    const struct apply_collection *from =
        collection_of(verify, key, ORDINAL_KEY_BYTES, "a vector of the store");
    const struct verify_collection *found;
    uint32_t ordinal = 0;

    (void)value;
    (void)err;
    if (from == NULL)
        return ERR_OK;
    found = &verify->collections[from->number];
    if (ordinal_key_is_of(key, from->number, &ordinal) && ordinal / 64 < found->word_count &&
        (found->living[ordinal / 64] >> ordinal % 64 & 1) != 0)
        return ERR_OK;
    verify_find(verify, "collection %s: the vector of ordinal %u belongs to no row",
                from->definition.name, ordinal);
    return ERR_OK;
}

/* --- counts ---------------------------------------------------------------------------------- */

static void check_counts(struct shard_verify *verify)
{
    const struct apply *apply = &verify->apply;

    for (uint32_t slot = 0; slot < apply->partition_count; slot++) {
        const struct apply_partition *partition = &apply->partitions[slot];
        struct apply_counts sum = {0};

        for (uint32_t i = 0; i < apply->collection_count; i++) {
            const struct apply_counts *found = &verify->collections[i].counts[slot];
            const struct apply_part *part = &apply->collections[i]->parts[slot];

            apply_counts_add(&sum, found);
            if (apply_counts_equal(found, &part->counts))
                continue;
            verify_find(verify,
                        "partition %u, collection %s: counts or digest of its ids are not those of "
                        "the state (%llu live ones, %llu tombstones; said are %llu, %llu)",
                        partition->partition, apply->collections[i]->definition.name,
                        (unsigned long long)found->live, (unsigned long long)found->tombstones,
                        (unsigned long long)part->counts.live,
                        (unsigned long long)part->counts.tombstones);
        }
        if (!apply_counts_equal(&sum, &partition->counts))
            verify_find(verify, "partition %u: its counts or digest are not those of its ids",
                        partition->partition);
        verify->result.live += sum.live;
        verify->result.tombstones += sum.tombstones;
    }
}

static void check_rows_are_ids(struct shard_verify *verify)
{
    const struct apply *apply = &verify->apply;

    for (uint32_t i = 0; i < apply->collection_count; i++) {
        const struct verify_collection *found = &verify->collections[i];
        uint64_t live = 0;

        for (uint32_t slot = 0; slot < apply->partition_count; slot++)
            live += found->counts[slot].live;
        if (live != found->rows)
            verify_find(verify, "collection %s: %llu ids live and %llu rows are theirs",
                        apply->collections[i]->definition.name, (unsigned long long)live,
                        (unsigned long long)found->rows);
        verify->result.vectors += found->vectors;
    }
}

enum err_code verify_rows(struct shard_verify *verify, struct err *err)
{
    enum err_code code = walk(verify, STORE_ROWS, check_row, err);

    if (code == ERR_OK)
        code = walk(verify, STORE_IDS, check_id, err);
    if (code == ERR_OK)
        code = walk(verify, STORE_VECTORS, check_vector, err);
    if (code != ERR_OK)
        return code;
    check_counts(verify);
    check_rows_are_ids(verify);
    return ERR_OK;
}
