/* How a shard's records stand in its store: keys and values of STORE_IDS, STORE_ROWS and
 * STORE_VECTORS.
 *
 *   STORE_IDS      u32be collection, u16be partition, id   stamp, ordinal, live or tombstone
 *   STORE_ROWS     u32be collection, u32be ordinal         partition, stamp, id, metadata, text
 *   STORE_VECTORS  u32be collection, u32be ordinal         dim floats, as the client gave them
 *
 * The partition stands in the key of an id so that a truncation or a drop, which the log carries
 * once per partition, walks over that partition's ids only.  Texts are kept as encoded JSON
 * strings: they are encoded once and then spliced into every answer. */
#ifndef VICINAL_SHARD_ROWS_H
#define VICINAL_SHARD_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/store/store.h"
#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/model/record.h"
#include "common/model/stamp.h"

#define ID_PREFIX_BYTES   6 /* collection, partition */
#define ORDINAL_KEY_BYTES 8
#define ID_ENTRY_BYTES    20

struct id_key {
    uint8_t bytes[ID_PREFIX_BYTES + ID_BYTES_MAX];
    size_t len;
};

/* The key of an id; id_len 0: where the ids of that partition begin. */
struct id_key id_key_of(uint32_t collection, uint32_t partition, const char *id, size_t id_len);
struct store_value id_key_value(const struct id_key *key);

/* Is this the key of an id of (collection, partition)?  Of the collection, in any partition? */
bool id_key_is_of(struct store_value key, uint32_t collection, uint32_t partition);
bool id_key_is_in(struct store_value key, uint32_t collection);

struct ordinal_key {
    uint8_t bytes[ORDINAL_KEY_BYTES];
};

struct ordinal_key ordinal_key_of(uint32_t collection, uint32_t ordinal);
struct store_value ordinal_key_value(const struct ordinal_key *key);

/* The ordinal of a key of this collection; false: the key is of another one. */
bool ordinal_key_is_of(struct store_value key, uint32_t collection, uint32_t *ordinal);

/* What is known of an id. */
struct id_entry {
    struct stamp stamp;
    uint32_t ordinal; /* of a live one */
    bool is_live;     /* false: a tombstone */
    bool has_vector;
};

/* What an entry adds to the digests: incarnation, stamp, state and id, each at its fixed place. */
struct hash128 id_entry_hash(const uint8_t *incarnation, const struct id_entry *entry,
                             const char *id, size_t id_len);

void id_entry_encode(uint8_t out[ID_ENTRY_BYTES], const struct id_entry *entry);

/* Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code id_entry_decode(struct id_entry *out, struct store_value value,
                                         struct err *err);

/* Errors: ERR_NOT_FOUND (err untouched), those of store_get, ERR_CORRUPT. */
MUST_CHECK enum err_code id_entry_get(struct id_entry *out, struct store_txn *txn,
                                      const struct id_key *key, struct err *err);

struct row {
    uint32_t partition;
    struct stamp stamp;
    bool has_vector;
    const char *id;
    size_t id_len;
    const char *metadata; /* a JSON object; NULL: none */
    size_t metadata_len;
    const char *text; /* an encoded JSON string; NULL: none */
    size_t text_len;
};

/* Appends; the buffer's `failed` tells of missing memory. */
void row_encode(struct buffer *out, const struct row *row);

/* Pointers lead into the value.  Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code row_decode(struct row *out, struct store_value value, struct err *err);

/* Errors: ERR_NOT_FOUND (err untouched), those of store_get, ERR_CORRUPT. */
MUST_CHECK enum err_code row_get(struct row *out, struct store_txn *txn, uint32_t collection,
                                 uint32_t ordinal, struct err *err);

#endif
