/* Counting entries in and out of the counts and digests of a shard's state (apply.h). */
#ifndef VICINAL_SHARD_APPLY_COUNTS_H
#define VICINAL_SHARD_APPLY_COUNTS_H

#include "services/shard/apply.h"
#include "services/shard/rows.h"

struct counted_entry {
    const uint8_t *incarnation; /* of its collection */
    const struct id_entry *entry;
    const char *id;
    size_t id_len; /* at most ID_BYTES_MAX */
};

/* Those of this one entry. */
struct apply_counts apply_counts_of(const struct counted_entry *counted);

void apply_counts_add(struct apply_counts *sum, const struct apply_counts *counts);

/* Of what was added before. */
void apply_counts_subtract(struct apply_counts *sum, const struct apply_counts *counts);

bool apply_counts_equal(const struct apply_counts *a, const struct apply_counts *b);

#endif
