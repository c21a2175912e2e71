/* The bytes of a shard's rows: see rows.h.
 *
 * What is read back is checked like foreign bytes: a store can be damaged, and a damaged length
 * must not lead outside the value. */
#include "services/shard/rows.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"

/* Row: u8 format, u8 flags, u16 length of the id, u32 partition, u64 clock, u32 region,
 * u32 length of the metadata, u32 length of the text; id, metadata, text. */
#define ROW_FORMAT       1
#define ROW_HEADER_BYTES 28

enum row_flag { ROW_VECTOR = 1, ROW_METADATA = 2, ROW_TEXT = 4, ROW_FLAGS = 7 };
enum entry_flag { ENTRY_LIVE = 1, ENTRY_VECTOR = 2 };

static_assert(ID_PREFIX_BYTES + ID_BYTES_MAX <= STORE_KEY_BYTES_MAX, "ids fit into a key");
static_assert(PARTITIONS_MAX <= UINT16_MAX, "a partition fits into its two bytes");

struct id_key id_key_of(uint32_t collection, uint32_t partition, const char *id, size_t id_len)
{
    struct id_key key;

    assert(id_len <= ID_BYTES_MAX);
    assert(partition < PARTITIONS_MAX);
    store_be32(key.bytes, collection);
    key.bytes[4] = (uint8_t)(partition >> 8);
    key.bytes[5] = (uint8_t)partition;
    if (id_len > 0)
        memcpy(key.bytes + ID_PREFIX_BYTES, id, id_len);
    key.len = ID_PREFIX_BYTES + id_len;
    return key;
}

struct store_value id_key_value(const struct id_key *key)
{
    return (struct store_value){.data = key->bytes, .len = key->len};
}

bool id_key_is_in(struct store_value key, uint32_t collection)
{
    return key.len > ID_PREFIX_BYTES && load_be32(key.data) == collection;
}

bool id_key_is_of(struct store_value key, uint32_t collection, uint32_t partition)
{
    const uint8_t *bytes = key.data;

    return id_key_is_in(key, collection) && ((uint32_t)bytes[4] << 8 | bytes[5]) == partition;
}

struct ordinal_key ordinal_key_of(uint32_t collection, uint32_t ordinal)
{
    struct ordinal_key key;

    store_be32(key.bytes, collection);
    store_be32(key.bytes + 4, ordinal);
    return key;
}

struct store_value ordinal_key_value(const struct ordinal_key *key)
{
    return (struct store_value){.data = key->bytes, .len = sizeof(key->bytes)};
}

bool ordinal_key_is_of(struct store_value key, uint32_t collection, uint32_t *ordinal)
{
    const uint8_t *bytes = key.data;

    if (key.len != ORDINAL_KEY_BYTES || load_be32(bytes) != collection)
        return false;
    *ordinal = load_be32(bytes + 4);
    return true;
}

struct hash128 id_entry_hash(const uint8_t *incarnation, const struct id_entry *entry,
                             const char *id, size_t id_len)
{
    uint8_t bytes[INCARNATION_BYTES + 13 + ID_BYTES_MAX];

    assert(id_len <= ID_BYTES_MAX);
    memcpy(bytes, incarnation, INCARNATION_BYTES);
    store_u64(bytes + INCARNATION_BYTES, entry->stamp.clock);
    store_u32(bytes + INCARNATION_BYTES + 8, entry->stamp.region);
    bytes[INCARNATION_BYTES + 12] = entry->is_live;
    memcpy(bytes + INCARNATION_BYTES + 13, id, id_len);
    return hash_xxh128(bytes, INCARNATION_BYTES + 13 + id_len);
}

void id_entry_encode(uint8_t out[ID_ENTRY_BYTES], const struct id_entry *entry)
{
    memset(out, 0, ID_ENTRY_BYTES);
    store_u64(out, entry->stamp.clock);
    store_u32(out + 8, entry->stamp.region);
    store_u32(out + 12, entry->ordinal);
    out[16] = (uint8_t)((entry->is_live ? ENTRY_LIVE : 0) | (entry->has_vector ? ENTRY_VECTOR : 0));
}

enum err_code id_entry_decode(struct id_entry *out, struct store_value value, struct err *err)
{
    const uint8_t *bytes = value.data;

    if (value.len != ID_ENTRY_BYTES || (bytes[16] & ~(ENTRY_LIVE | ENTRY_VECTOR)) != 0 ||
        bytes[17] != 0 || bytes[18] != 0 || bytes[19] != 0)
        return err_set(err, ERR_CORRUPT, "the store's entry of an id is damaged");
    *out = (struct id_entry){
        .stamp = {.clock = load_u64(bytes), .region = load_u32(bytes + 8)},
        .ordinal = load_u32(bytes + 12),
        .is_live = (bytes[16] & ENTRY_LIVE) != 0,
        .has_vector = (bytes[16] & ENTRY_VECTOR) != 0,
    };
    return ERR_OK;
}

enum err_code id_entry_get(struct id_entry *out, struct store_txn *txn, const struct id_key *key,
                           struct err *err)
{
    struct store_value value;
    enum err_code code = store_get(txn, STORE_IDS, id_key_value(key), &value, err);

    return code == ERR_OK ? id_entry_decode(out, value, err) : code;
}

void row_encode(struct buffer *out, const struct row *row)
{
    uint8_t flags = 0;

    assert(row->id_len >= 1 && row->id_len <= ID_BYTES_MAX);
    assert(row->metadata_len <= UINT32_MAX && row->text_len <= UINT32_MAX);
    flags |= row->has_vector ? ROW_VECTOR : 0;
    flags |= row->metadata != NULL ? ROW_METADATA : 0;
    flags |= row->text != NULL ? ROW_TEXT : 0;
    buffer_append_byte(out, ROW_FORMAT);
    buffer_append_byte(out, flags);
    buffer_append_u16(out, (uint16_t)row->id_len);
    buffer_append_u32(out, row->partition);
    buffer_append_u64(out, row->stamp.clock);
    buffer_append_u32(out, row->stamp.region);
    buffer_append_u32(out, row->metadata != NULL ? (uint32_t)row->metadata_len : 0);
    buffer_append_u32(out, row->text != NULL ? (uint32_t)row->text_len : 0);
    buffer_append(out, row->id, row->id_len);
    if (row->metadata != NULL)
        buffer_append(out, row->metadata, row->metadata_len);
    if (row->text != NULL)
        buffer_append(out, row->text, row->text_len);
}

enum err_code row_decode(struct row *out, struct store_value value, struct err *err)
{
    struct bytes_reader r = {.data = value.data, .len = value.len};
    const uint8_t *head = read_bytes(&r, ROW_HEADER_BYTES);
    const char *metadata, *text;

    if (head == NULL || head[0] != ROW_FORMAT || (head[1] & ~ROW_FLAGS) != 0 ||
        load_u32(head + 4) >= PARTITIONS_MAX)
        return err_set(err, ERR_CORRUPT, "a row of the store is damaged");
    *out = (struct row){
        .partition = load_u32(head + 4),
        .stamp = {.clock = load_u64(head + 8), .region = load_u32(head + 16)},
        .has_vector = (head[1] & ROW_VECTOR) != 0,
        .id_len = load_u16(head + 2),
        .metadata_len = load_u32(head + 20),
        .text_len = load_u32(head + 24),
    };
    out->id = (const char *)read_bytes(&r, out->id_len);
    metadata = (const char *)read_bytes(&r, out->metadata_len);
    text = (const char *)read_bytes(&r, out->text_len);
    if (!read_done(&r) || out->id_len == 0 || out->id_len > ID_BYTES_MAX)
        return err_set(err, ERR_CORRUPT, "a row of the store is damaged");
    out->metadata = (head[1] & ROW_METADATA) != 0 ? metadata : NULL;
    out->text = (head[1] & ROW_TEXT) != 0 ? text : NULL;
    return ERR_OK;
}

enum err_code row_get(struct row *out, struct store_txn *txn, uint32_t collection, uint32_t ordinal,
                      struct err *err)
{
    struct ordinal_key key = ordinal_key_of(collection, ordinal);
    struct store_value value;
    enum err_code code = store_get(txn, STORE_ROWS, ordinal_key_value(&key), &value, err);

    return code == ERR_OK ? row_decode(out, value, err) : code;
}
