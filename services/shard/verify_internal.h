/* What the files of a shard's verification share.
 *
 *   verify.c            open and close; the state
 *   verify_rows.c       ids, rows and vectors against one another and the state
 *   verify_segments.c   segments against the ids
 *   verify_log.c        rows and state against the log
 *   verify_bulk.c       rows against the objects that the log names */
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
    bool is_partial; /* rows of a manifest could not be compared */
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
    bool is_trimmed[PARTITIONS_MAX];       /* by slot: the log begins later than at 0 */
    bool is_any_trimmed;
    struct buffer bulk;  /* what the manifest in hand names */
    struct err blob_err; /* why the blob store was given up; zeroed: it was not */
    char store_file[PATH_MAX];
};

static inline void verify_set_bit(uint64_t *words, uint32_t ordinal)
{
    words[ordinal / 64] |= UINT64_C(1) << ordinal % 64;
}

/* Tell something of the store. */
#define verify_find(verify, ...)                                                                   \
    scrub_find((verify)->setup.scrub, (verify)->store_file, SCRUB_NO_BYTE, __VA_ARGS__)

/* An upsert or a delete that counted against the row that the store has.
 * Errors: ERR_NO_MEMORY, ERR_IO. */
MUST_CHECK enum err_code verify_entry(struct shard_verify *verify,
                                      const struct apply_collection *from, uint32_t partition,
                                      const struct record *record, struct err *err);

/* The rows of a manifest that counted.  Errors: ERR_CORRUPT (the record), ERR_NO_MEMORY, ERR_IO. */
MUST_CHECK enum err_code verify_manifest(struct shard_verify *verify,
                                         const struct apply_collection *from,
                                         const struct wal_item *item, const struct record *record,
                                         struct err *err);

MUST_CHECK enum err_code verify_rows(struct shard_verify *verify, struct err *err);
MUST_CHECK enum err_code verify_segments(struct shard_verify *verify, struct err *err);

#endif
