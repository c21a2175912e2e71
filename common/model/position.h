/* Positions in logs, and the tokens that clients carry.
 *
 * A position of a partition is the next offset to read: everything below has been applied.  A
 * token is a list of (region number, partition, position): a replica satisfies it when, for its own
 * region's number, it has applied up to the positions, and, for other numbers, its version vectors
 * have reached them. */
#ifndef VICINAL_MODEL_POSITION_H
#define VICINAL_MODEL_POSITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/base/limits.h"

struct token_entry {
    uint32_t region;
    uint32_t partition;
    uint64_t position;
};

#define TOKEN_ENTRIES_MAX 8192

/* Growing list, sorted by (region, partition), at most one entry of each.  Zeroed is empty. */
struct token {
    struct token_entry *entries;
    size_t count;
    size_t size;
};

void token_free(struct token *token);

/* The entry becomes the higher of what was there and position.  Errors: ERR_NO_MEMORY,
 * ERR_INVALID_ARGUMENT (too many entries, or no such partition). */
MUST_CHECK enum err_code token_raise(struct token *token, uint32_t region, uint32_t partition,
                                     uint64_t position, struct err *err);
MUST_CHECK enum err_code token_merge(struct token *token, const struct token *other,
                                     struct err *err);

/* The position of (region, partition); 0 when there is none. */
uint64_t token_position(const struct token *token, uint32_t region, uint32_t partition);

/* "rt1." and base64url of: varints, and a checksum, so that a damaged token is told from an old
 * one. */
void token_to_text(const struct token *token, struct buffer *out);

/* Errors: ERR_INVALID_ARGUMENT (malformed; pointer "/read_token"), ERR_NO_MEMORY. */
MUST_CHECK enum err_code token_from_text(struct token *out, const char *text, size_t len,
                                         struct err *err);

/* The same content inside a wire form: varints; the number of regions, then for each one its
 * number, the number of its entries and, rising by partition, (partition, position).  Regions and
 * partitions rise: the first is told as it is, the next ones less their predecessor less 1.
 * Errors: ERR_INVALID_ARGUMENT (malformed), ERR_NO_MEMORY. */
struct bytes_reader;
void token_encode(const struct token *token, struct buffer *out);
MUST_CHECK enum err_code token_decode(struct token *out, struct bytes_reader *reader,
                                      struct err *err);

/* As token_decode, but the entries live in the arena: neither token_free nor token_raise. */
MUST_CHECK enum err_code token_decode_in(struct token *out, struct bytes_reader *reader,
                                         struct arena *arena, struct err *err);

/* Set of partitions, 0..PARTITIONS_MAX-1. */
struct partition_set {
    uint64_t words[PARTITIONS_MAX / 64];
};

static inline void partition_set_add(struct partition_set *set, uint32_t partition)
{
    set->words[partition / 64] |= 1ull << (partition % 64);
}

static inline void partition_set_remove(struct partition_set *set, uint32_t partition)
{
    set->words[partition / 64] &= ~(1ull << (partition % 64));
}

static inline bool partition_set_has(const struct partition_set *set, uint32_t partition)
{
    return (set->words[partition / 64] >> (partition % 64) & 1) != 0;
}

uint32_t partition_set_count(const struct partition_set *set);
void partition_set_fill(struct partition_set *set, uint32_t partitions); /* 0..partitions-1 */

#endif
