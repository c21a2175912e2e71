/* Counts and digests: see apply_counts.h.  A digest is a sum of hashes, so that the order in which
 * entries come and go does not matter. */
#include "services/shard/apply_counts.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"

/* What an entry adds to the digest: incarnation, stamp, state and id, each at its fixed place. */
static struct hash128 entry_hash(const struct counted_entry *counted)
{
    uint8_t bytes[INCARNATION_BYTES + 13 + ID_BYTES_MAX];
    const struct id_entry *entry = counted->entry;

    assert(counted->id_len <= ID_BYTES_MAX);
    memcpy(bytes, counted->incarnation, INCARNATION_BYTES);
    store_u64(bytes + INCARNATION_BYTES, entry->stamp.clock);
    store_u32(bytes + INCARNATION_BYTES + 8, entry->stamp.region);
    bytes[INCARNATION_BYTES + 12] = entry->is_live;
    memcpy(bytes + INCARNATION_BYTES + 13, counted->id, counted->id_len);
    return hash_xxh128(bytes, INCARNATION_BYTES + 13 + counted->id_len);
}

struct apply_counts apply_counts_of(const struct counted_entry *counted)
{
    return (struct apply_counts){.live = counted->entry->is_live,
                                 .tombstones = !counted->entry->is_live,
                                 .digest = entry_hash(counted)};
}

void apply_counts_add(struct apply_counts *sum, const struct apply_counts *counts)
{
    unsigned carry = __builtin_add_overflow(sum->digest.low, counts->digest.low, &sum->digest.low);

    sum->digest.high += counts->digest.high + carry;
    sum->live += counts->live;
    sum->tombstones += counts->tombstones;
}

void apply_counts_subtract(struct apply_counts *sum, const struct apply_counts *counts)
{
    unsigned borrow = __builtin_sub_overflow(sum->digest.low, counts->digest.low, &sum->digest.low);

    assert(sum->live >= counts->live);
    assert(sum->tombstones >= counts->tombstones);
    sum->digest.high -= counts->digest.high + borrow;
    sum->live -= counts->live;
    sum->tombstones -= counts->tombstones;
}

bool apply_counts_equal(const struct apply_counts *a, const struct apply_counts *b)
{
    return a->live == b->live && a->tombstones == b->tombstones && a->digest.low == b->digest.low &&
           a->digest.high == b->digest.high;
}
