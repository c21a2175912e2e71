/* What readers take of the consistency core's state from a snapshot of the store.
 *
 * The rows are written by apply_state.c; here only what is asked for is looked at. */
#include "services/shard/state_keys.h"

static_assert(PART_COUNTS_AT + COUNTS_BYTES == PART_BYTES, "counts stand last");

enum err_code apply_read_numbers(struct apply_numbers *out, struct store_txn *txn,
                                 uint32_t collection, struct err *err)
{
    struct state_key key = state_key_of('n', collection);
    struct store_value value;
    enum err_code code = store_get(txn, STORE_META, state_key_value(&key), &value, err);

    if (code != ERR_OK)
        return code;
    if (value.len != NUMBERS_BYTES)
        return state_damaged(err, "a collection's numbers");
    out->next_ordinal = load_u32(value.data);
    out->revision = load_u64((const uint8_t *)value.data + 4);
    return ERR_OK;
}

enum err_code apply_read_partition(struct apply_kept *out, struct store_txn *txn,
                                   uint32_t partition, struct err *err)
{
    struct state_key key = state_key_of('p', partition);
    struct store_value value;
    enum err_code code = store_get(txn, STORE_META, state_key_value(&key), &value, err);

    if (code != ERR_OK)
        return code;
    if (value.len < PARTITION_COUNTS_AT + COUNTS_BYTES)
        return state_damaged(err, "a partition");
    out->position = load_u64(value.data);
    out->counts = state_counts((const uint8_t *)value.data + PARTITION_COUNTS_AT);
    return ERR_OK;
}

enum err_code apply_read_counts(struct apply_counts *out, struct store_txn *txn,
                                uint32_t collection, uint32_t partition, struct err *err)
{
    struct state_key key = state_part_key_of(collection, partition);
    struct store_value value;
    enum err_code code = store_get(txn, STORE_META, state_key_value(&key), &value, err);

    *out = (struct apply_counts){0};
    if (code != ERR_OK)
        return code == ERR_NOT_FOUND ? ERR_OK : code;
    if (value.len != PART_BYTES)
        return state_damaged(err, "a collection in a partition");
    *out = state_counts((const uint8_t *)value.data + PART_COUNTS_AT);
    return ERR_OK;
}

enum err_code apply_read_definition(struct collection *out, struct store_txn *txn,
                                    uint32_t collection, struct err *err)
{
    struct state_key key = state_key_of('c', collection);
    enum collection_change change;
    struct store_value value;
    enum err_code code = store_get(txn, STORE_META, state_key_value(&key), &value, err);

    return code == ERR_OK ? collection_decode(out, &change, value.data, value.len, err) : code;
}

enum err_code apply_read_live(uint64_t *out, struct store_txn *txn, uint32_t collection,
                              uint32_t partition, struct err *err)
{
    struct apply_counts counts;
    enum err_code code = apply_read_counts(&counts, txn, collection, partition, err);

    if (code == ERR_OK)
        *out = counts.live;
    return code;
}
