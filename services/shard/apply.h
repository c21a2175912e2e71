/* The consistency core: what a shard's state is after a prefix of the log.
 *
 * The state is a pure function of the prefixes of the partitions served: which records live, which
 * tombstones stand, positions, epochs, version vectors, digests.  It lies wholly in the store, and
 * the position moves in the same transaction as what it stands for; so a shard that dies at any
 * moment finds the state of some prefix and reads on from there.
 *
 * Rules, per partition, in the order of the log:
 *   - void records (epoch_admit) move the position and nothing else;
 *   - of two records of one id the newer stamp counts; an older one is dropped, an equal one is the
 *     same record delivered twice; a delete leaves a tombstone with its stamp;
 *   - a truncation removes everything of its collection in this partition with an older stamp,
 *     tombstones too, and keeps its stamp: older records that come later are dropped;
 *   - collections are known by incarnation, partition by partition.  A drop is final for its
 *     incarnation (a name created again is another one), so drop and create commute; between other
 *     changes the newer change stamp counts;
 *   - a bulk manifest is so many upserts with its stamp: the rows that it names, in their order;
 *   - a record of an incarnation that this partition does not know is counted as parked.
 *
 * Every rule commutes and is idempotent, which is what makes regions and replicas meet.
 *
 * One thread uses an apply.  After any error the transaction is to be aborted and apply_load called
 * again: what is in memory may be ahead of the store then. */
#ifndef VICINAL_SHARD_APPLY_H
#define VICINAL_SHARD_APPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/store/store.h"
#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/model/collection.h"
#include "common/model/position.h"
#include "common/model/record.h"

#define COLLECTION_NONE UINT32_MAX

/* Of the ids of a collection in a partition, or of a partition. */
struct apply_counts {
    uint64_t live;
    uint64_t tombstones;
    struct hash128 digest; /* sum, modulo 2^128, of one hash per entry: order does not matter */
};

/* The digest of a partition at an earlier position. */
struct apply_mark {
    uint64_t position; /* 0: none */
    struct hash128 digest;
};

#define APPLY_MARKS      2
#define APPLY_MARK_EVERY 1024 /* records */

enum apply_presence { PRESENCE_ABSENT, PRESENCE_ACTIVE, PRESENCE_DROPPED };

/* One collection in one partition. */
struct apply_part {
    enum apply_presence presence;
    struct stamp schema;   /* of the newest change */
    struct stamp truncate; /* of the newest truncation */
    uint64_t changed;      /* position behind the newest record that changed what is visible */
    struct apply_counts counts;
    bool is_dirty; /* differs from the store */
};

struct apply_collection {
    uint32_t number; /* in the store's keys; the index in apply.collections */
    struct collection definition;
    uint32_t next_ordinal;
    uint64_t revision;        /* rises with every commit that changes the collection */
    struct apply_part *parts; /* one for each partition served, by slot */
    bool is_dirty;
    bool is_defined; /* definition is in the store as it is here */
};

struct apply_partition {
    uint32_t partition;
    uint64_t position; /* next offset to read */
    uint64_t data;     /* behind the newest data record that counted: what tokens name */
    struct epoch_state epoch;
    uint32_t crc;        /* of the record at position - 1: names this log's lineage */
    struct stamp newest; /* of all records that counted */
    struct version_vector vector;
    struct apply_counts counts;
    uint64_t applied; /* records that counted */
    uint64_t voided;
    uint64_t parked;
    struct apply_mark marks[APPLY_MARKS]; /* newest first; since the state was loaded */
    bool is_dirty;
};

#define SLOT_NONE UINT16_MAX

struct apply {
    struct store *store;
    uint64_t life;   /* names this store, from its creation to its clearing; 0: not drawn yet */
    uint32_t region; /* number of the log read */
    struct partition_set served;
    uint32_t partition_count; /* served */
    struct apply_partition *partitions;
    uint16_t slot_of[PARTITIONS_MAX]; /* partition -> slot */
    struct apply_collection **collections;
    uint32_t collection_count;
    uint32_t collection_size;
    uint32_t *index; /* incarnation -> number + 1, open addressing; 0: free */
    uint32_t index_size;
    struct buffer unpacked; /* fields of the record in hand */
    struct buffer text;     /* its encoded text */
    struct buffer row;      /* the bytes about to be put */
    float *vector;          /* its vector, aligned: DIMENSION_MAX floats */
};

/* What a record changed, for the indexes beside the store. */
enum apply_effect_kind {
    EFFECT_OPENED,   /* the collection is there from now on */
    EFFECT_CLOSED,   /* all partitions served have dropped it */
    EFFECT_INSERTED, /* a vector */
    EFFECT_REMOVED,  /* an ordinal that had a vector */
};

struct apply_effect {
    enum apply_effect_kind kind;
    uint32_t collection;
    uint32_t ordinal;
    const float
        *vector; /* of INSERTED: until the next apply_record; inside input.bulk, or apply's */
};

/* Growing list; zeroed is empty. */
struct apply_effects {
    struct apply_effect *items;
    size_t count;
    size_t size;
};

void apply_effects_free(struct apply_effects *effects);

/* Load the state that the store holds.  apply is zeroed or was loaded before (then everything is
 * loaded anew).  Errors: ERR_NOT_FOUND (the store is empty; err is set), ERR_CORRUPT, ERR_CONFIG (a
 * newer format), ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code apply_load(struct apply *apply, struct store *store, struct err *err);

/* Begin anew: clear the store and note whose log and which partitions it is for.  firsts has the
 * first offset of each partition served, in rising order of partitions; NULL: all 0.  Then load. */
struct apply_origin {
    uint32_t region;
    struct partition_set served;
    const uint64_t *firsts;
};
MUST_CHECK enum err_code apply_create(struct apply *apply, struct store *store,
                                      const struct apply_origin *origin, struct err *err);
void apply_free(struct apply *apply); /* zeroed is fine; leaves it zeroed */

/* apply_life.c: give the store that is loaded a life, if it has none: a random number, not 0, which
 * is on the disk at the return.  What lies beside the store and speaks of its ordinals goes by it.
 * apply is unchanged after an error.
 * Errors: ERR_INSUFFICIENT_STORAGE, ERR_IO, ERR_NO_MEMORY, ERR_DEAD. */
MUST_CHECK enum err_code apply_take_life(struct apply *apply, struct err *err);

/* One record of the log. */
struct apply_input {
    uint32_t partition; /* one that is served */
    uint64_t offset;
    const void *data;
    size_t len;
    const void *bulk; /* of a manifest, when apply_wants_bulk says so: the bytes that it names,
                       * 4-aligned */
    size_t bulk_len;
};

/* Does the record count, and is it a manifest of a collection that takes its rows?  Then input.bulk
 * has to be there for apply_record.  Errors: ERR_CORRUPT, ERR_NOT_SUPPORTED, ERR_NO_MEMORY. */
struct bulk_manifest;
MUST_CHECK enum err_code apply_wants_bulk(struct apply *apply, const struct apply_input *input,
                                          struct bulk_manifest *manifest, bool *wanted,
                                          struct err *err);

/* Apply it inside a write transaction; effects are appended.  A record below the partition's
 * position was applied before and changes nothing.
 * Errors: ERR_CORRUPT (the record, its bulk or the store), ERR_NOT_SUPPORTED,
 * ERR_INSUFFICIENT_STORAGE, ERR_NO_MEMORY, ERR_IO, ERR_DEAD. */
MUST_CHECK enum err_code apply_record(struct apply *apply, struct store_txn *txn,
                                      const struct apply_input *input,
                                      struct apply_effects *effects, struct err *err);

/* Put everything that is dirty into the transaction; to be called once, before store_commit. */
MUST_CHECK enum err_code apply_flush(struct apply *apply, struct store_txn *txn, struct err *err);

/* The commit has succeeded: nothing is dirty any more. */
void apply_clean(struct apply *apply);

/* NULL: no such incarnation was ever seen. */
struct apply_collection *apply_find(struct apply *apply,
                                    const uint8_t incarnation[INCARNATION_BYTES]);

/* Of the partitions served, is the collection active in any? */
bool apply_is_active(const struct apply *apply, const struct apply_collection *collection);

/* --- what readers take from a snapshot ------------------------------------------------------- */

struct apply_numbers {
    uint32_t next_ordinal;
    uint64_t revision;
};

/* Errors: ERR_NOT_FOUND (err untouched), ERR_CORRUPT, ERR_IO. */
MUST_CHECK enum err_code apply_read_numbers(struct apply_numbers *out, struct store_txn *txn,
                                            uint32_t collection, struct err *err);

/* What is known of a partition as a whole.  Errors: those of apply_read_numbers. */
struct apply_kept {
    uint64_t position;
    struct apply_counts counts;
};
MUST_CHECK enum err_code apply_read_partition(struct apply_kept *out, struct store_txn *txn,
                                              uint32_t partition, struct err *err);

/* Of a collection in a partition; zeroed where there is nothing.  Errors: ERR_CORRUPT, ERR_IO. */
MUST_CHECK enum err_code apply_read_counts(struct apply_counts *out, struct store_txn *txn,
                                           uint32_t collection, uint32_t partition,
                                           struct err *err);

/* Collections have the numbers from 0 on.  Errors: ERR_NOT_FOUND (err untouched: there are no
 * more), ERR_CORRUPT, ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code apply_read_definition(struct collection *out, struct store_txn *txn,
                                               uint32_t collection, struct err *err);

/* Live records of a collection in a partition; 0 where there is nothing. */
MUST_CHECK enum err_code apply_read_live(uint64_t *out, struct store_txn *txn, uint32_t collection,
                                         uint32_t partition, struct err *err);

/* --- for those who compare a store with its log ---------------------------------------------- */

/* What a record that counts says of its partition, whatever it does to a collection: how many
 * counted, the newest data and stamp, the version vector.  The position is behind it already.
 * Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code apply_note(struct apply_partition *partition, uint32_t own_region,
                                    const struct record *record, struct err *err);

/* Has the record no vector, or one of that dimension? */
bool apply_vector_fits(const struct record *record, uint32_t dim);

/* The vector of a record that has one and fits, into apply->vector. */
void apply_unpack_vector(struct apply *apply, const struct record *record, uint32_t dim);

/* apply_bulk.c: the rows of a manifest, in their order, as the upserts that they stand for. */
struct apply_bulk {
    const struct record *record; /* the manifest */
    const struct bulk_manifest *manifest;
    uint32_t dimension; /* of its collection */
    const void *data;   /* what it names: bulk_manifest_check has been passed */
    size_t len;
};

/* record is borrowed until the return, what it points to is within the bulk's bytes. */
typedef enum err_code apply_row_fn(void *context, const struct record *record, struct err *err);

/* Errors: ERR_CORRUPT (what was made is no list of rows), those of each. */
MUST_CHECK enum err_code apply_each_row(const struct apply_bulk *bulk, apply_row_fn *each,
                                        void *context, struct err *err);

/* --- between apply.c and apply_state.c ------------------------------------------------------- */

/* A collection that is not there yet; it is dirty and not defined. */
MUST_CHECK enum err_code apply_add(struct apply *apply, const struct collection *definition,
                                   struct apply_collection **out, struct err *err);

#endif
