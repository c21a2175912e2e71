/* The keys of the consistency core's state in STORE_META, and where things stand in its rows: what
 * apply_state.c and apply_read.c share; nobody else includes this. */
#ifndef VICINAL_SHARD_STATE_KEYS_H
#define VICINAL_SHARD_STATE_KEYS_H

#include "common/base/bytes.h"
#include "services/shard/apply.h"

#define NUMBERS_BYTES       12
#define PART_BYTES          68
#define PART_COUNTS_AT      36
#define PARTITION_COUNTS_AT 40
#define COUNTS_BYTES        32
#define STATE_KEY_BYTES_MAX 9

struct state_key {
    uint8_t bytes[STATE_KEY_BYTES_MAX];
    size_t len;
};

static inline struct state_key state_key_of(char kind, uint32_t first)
{
    struct state_key key = {.len = 5};

    key.bytes[0] = (uint8_t)kind;
    store_be32(key.bytes + 1, first);
    return key;
}

static inline struct state_key state_part_key_of(uint32_t collection, uint32_t partition)
{
    struct state_key key = state_key_of('q', collection);

    store_be32(key.bytes + 5, partition);
    key.len = 9;
    return key;
}

static inline struct store_value state_key_value(const struct state_key *key)
{
    return (struct store_value){.data = key->bytes, .len = key->len};
}

static inline enum err_code state_damaged(struct err *err, const char *what)
{
    return err_set(err, ERR_CORRUPT, "the store's state of %s is damaged", what);
}

/* COUNTS_BYTES of them. */
static inline struct apply_counts state_counts(const uint8_t *bytes)
{
    return (struct apply_counts){
        .live = load_u64(bytes),
        .tombstones = load_u64(bytes + 8),
        .digest = {.low = load_u64(bytes + 16), .high = load_u64(bytes + 24)},
    };
}

#endif
