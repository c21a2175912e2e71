/* Admission of vectors before the memory of shards runs out.
 *
 * Shards report what their indexes want, their limit, and for how many further vectors of each
 * collection there is room (cluster.h).  A write is reckoned before its append: for each replica
 * that it will reach, its vectors and those that were admitted since the replica's report was made
 * have to fit below the limit, less a reserve of a RESERVE_PART of it for what cannot be refused:
 * records of other regions, what the spool has kept, patches.  So a shard need not stop applying.
 *
 * What has been admitted is held by partition and offset until a replica's position has passed it.
 * Memory grows by steps, so what each vector takes changes from report to report: those of the
 * collection that is written to are reckoned anew each time.
 * Deletes, and records without a vector, are not reckoned.  A replica that has not been heard for
 * ten seconds, or not yet since the process began, or has no limit, refuses nothing.
 *
 * Locks: one, of its own, held over arithmetic and the look at the reports. */
#ifndef VICINAL_INGEST_HEADROOM_H
#define VICINAL_INGEST_HEADROOM_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/cluster.h"
#include "common/base/err.h"
#include "common/model/collection.h"
#include "services/ingest/sequencer.h"

#define RESERVE_PART 16
#define HELD_MAX     32 /* of a partition; of more some are put together */

/* How far a write may go. */
enum headroom_use {
    HEADROOM_NEW,   /* up to the reserve */
    HEADROOM_PATCH, /* up to the limit */
    HEADROOM_GIVEN  /* was decided before: it is reckoned for others only */
};

/* Admitted vectors. */
struct headroom_amount {
    uint64_t bytes;   /* as was reckoned when they were */
    uint64_t vectors; /* of the collection; 0: they are of several */
    uint8_t incarnation[INCARNATION_BYTES];
};

/* Those that lie below the offset `end`. */
struct headroom_held {
    uint64_t end;
    uint64_t write; /* whose */
    struct headroom_amount amount;
};

struct headroom_partition {
    struct headroom_amount under_way; /* not in the log yet */
    size_t count;
    struct headroom_held held[HELD_MAX]; /* rising */
};

struct headroom {
    pthread_mutex_t lock;                  /* guards all below */
    struct headroom_partition *partitions; /* PARTITIONS_MAX; NULL until a limit was met */
    uint64_t writes;
};

void headroom_init(struct headroom *headroom);
void headroom_free(struct headroom *headroom);

/* Vectors of a collection for a partition. */
struct headroom_want {
    uint32_t partition;
    uint64_t vectors;
};

struct headroom_ask {
    struct cluster *cluster; /* NULL: everything fits */
    const struct collection *collection;
    const struct headroom_want *wants;
    size_t count;
    enum headroom_use use;
};

/* Do they fit?  Errors: ERR_NO_HEADROOM (which shard, and what it has), ERR_NO_MEMORY. */
MUST_CHECK enum err_code headroom_check(struct headroom *headroom, const struct headroom_ask *ask,
                                        struct err *err);

/* The same for the vectors of a batch (ask->wants is not read), which are held from now on.
 * *bytes: what each of them takes, for headroom_settle; 0: nothing is held. */
MUST_CHECK enum err_code headroom_take(struct headroom *headroom, const struct headroom_ask *ask,
                                       const struct sequence_batch *batch, uint64_t *bytes,
                                       struct err *err);

/* What became of them: in the log as the batch's items say, or (not is_known) nowhere, as far as is
 * known. */
void headroom_settle(struct headroom *headroom, const struct collection *collection,
                     const struct sequence_batch *batch, uint64_t bytes, bool is_known);

#endif
