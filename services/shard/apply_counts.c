/* Counts and digests: see apply_counts.h.  A digest is a sum of hashes, so that the order in which
 * entries come and go does not matter. */
#include "services/shard/apply_counts.h"

#include <assert.h>

struct apply_counts apply_counts_of(const struct counted_entry *counted)
{
    return (struct apply_counts){.live = counted->entry->is_live,
                                 .tombstones = !counted->entry->is_live,
                                 .digest = id_entry_hash(counted->incarnation, counted->entry,
                                                         counted->id, counted->id_len)};
}

void apply_counts_add(struct apply_counts *sum, const struct apply_counts *counts)
{
    hash128_add(&sum->digest, counts->digest);
    sum->live += counts->live;
    sum->tombstones += counts->tombstones;
}

void apply_counts_subtract(struct apply_counts *sum, const struct apply_counts *counts)
{
    assert(sum->live >= counts->live);
    assert(sum->tombstones >= counts->tombstones);
    hash128_subtract(&sum->digest, counts->digest);
    sum->live -= counts->live;
    sum->tombstones -= counts->tombstones;
}

bool apply_counts_equal(const struct apply_counts *a, const struct apply_counts *b)
{
    return a->live == b->live && a->tombstones == b->tombstones &&
           hash128_equal(a->digest, b->digest);
}
