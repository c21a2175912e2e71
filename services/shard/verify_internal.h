/* What the files of a shard's verification share.
 *
 *   verify.c            open and close; the state
 *   verify_rows.c       ids, rows and vectors against one another and the state
 *   verify_segments.c   segments against the ids
 *   verify_log.c        rows and state against the log */
#ifndef VICINAL_SHARD_VERIFY_INTERNAL_H
#define VICINAL_SHARD_VERIFY_INTERNAL_H

#include <limits.h>

#include "backends/store/store_verify.h"
#include "services/shard/apply.h"
#include "services/shard/rows.h"
#include "services/shard/verify.h"

/* Of one collection in one partition: what the log says. */
struct verify_part {
    enum apply_presence presence;
    struct stamp schema, truncate;
};

/* Of one collection; bits by ordinal. */
struct verify_collection {
    uint64_t *living;             /* rows of the store that have a vector */
    uint64_t *compared;           /* rows that the log has as they are */
    size_t word_count;            /* of both */
    uint64_t rows, vectors;       /* sound ones */
    struct apply_counts *counts;  /* of the ids; one for each partition served, by slot */
    struct verify_part *parts;    /* by slot */
    struct collection definition; /* the newest that the log has */
    bool is_defined;
};

struct shard_verify {
    struct shard_verify_setup setup;
    struct shard_verified result;
    struct store_verified store_state;
    struct store *store;
    struct store_txn *txn; /* one snapshot for all */
    struct apply apply;
    struct verify_collection *collections; /* apply.collection_count of them */
    struct apply_partition *partitions;    /* what the log says, apply.partition_count of them */
    char store_file[PATH_MAX];
};

static inline void verify_set_bit(uint64_t *words, uint32_t ordinal)
{
    words[ordinal / 64] |= UINT64_C(1) << ordinal % 64;
}

/* Tell something of the store. */
#define verify_find(verify, ...)                                                                   \
    scrub_find((verify)->setup.scrub, (verify)->store_file, SCRUB_NO_BYTE, __VA_ARGS__)

MUST_CHECK enum err_code verify_rows(struct shard_verify *verify, struct err *err);
MUST_CHECK enum err_code verify_segments(struct shard_verify *verify, struct err *err);

#endif
