/* Between apply.c and apply_bulk.c. */
#ifndef VICINAL_SHARD_APPLY_INTERNAL_H
#define VICINAL_SHARD_APPLY_INTERNAL_H

#include "services/shard/apply.h"

/* A record on its way. */
struct step {
    struct apply *apply;
    struct store_txn *txn;
    const struct record *record;
    struct apply_partition *partition;
    uint32_t slot;
    uint64_t offset;
    struct apply_effects *effects;
    const struct apply_input *input;
    bool is_bulk; /* record is a row of a manifest: its vector is aligned and stays */
};

/* Last writer wins: replace what is known of the id by the record's state, if that is newer. */
MUST_CHECK enum err_code apply_entry(struct step *step, struct err *err);

/* The collection that a record belongs to, or NULL when it is not to be applied. */
struct apply_collection *apply_collection_of(struct step *step);

/* apply_bulk.c: all rows of a manifest. */
MUST_CHECK enum err_code apply_manifest(struct step *step, struct err *err);

#endif
