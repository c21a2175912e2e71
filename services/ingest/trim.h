/* Trimming the log, by the ingest that holds it.
 *
 * Now and then a *checkpoint* is made: a version vector record in every partition, behind which the
 * definitions of all collections are appended again.  A log that begins at a checkpoint's positions
 * is all that a holder, a replicator or a shard with a snapshot needs.  When every replica has
 * applied and synced what comes before, a verified snapshot of every shard has it, and every other
 * region has read it, all of those snapshots are read once more and compared with their digests;
 * then the log is trimmed to the checkpoint.  Whatever cannot be learnt trims nothing, and the
 * status says what holds it back.
 *
 * Objects of imports stay: a manifest that was trimmed may stand in another region's log.
 *
 *   POST /internal/v1/trim   make a checkpoint now, and trim to whichever may be trimmed to
 *
 * The thread "trim".  Checkpoints are in memory: a new holder makes its own. */
#ifndef VICINAL_INGEST_TRIM_H
#define VICINAL_INGEST_TRIM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/http/route.h"

struct ingest;
struct json_writer;
struct trimmer;

struct trim_options {
    uint64_t every_ns;            /* between two looks; 0: nothing is ever trimmed */
    uint64_t records;             /* of the log from one checkpoint to the next; at least 1 */
    uint64_t region_retention_ns; /* so long a checkpoint waits for regions; 0: for ever */
};

/* ingest is borrowed, open, and not started yet.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code trimmer_open(struct trimmer **out, struct ingest *ingest,
                                      const struct trim_options *options, struct err *err);
MUST_CHECK enum err_code trimmer_start(struct trimmer *trimmer, struct err *err);
void trimmer_stop(struct trimmer *trimmer);    /* its thread ends; NULL is fine */
void trimmer_close(struct trimmer *trimmer);   /* after stop; NULL is fine */
void trimmer_measure(struct trimmer *trimmer); /* set the gauges; NULL is fine */

/* A member "trim" of the open object: what was trimmed, and what holds the rest. */
void trimmer_write(struct trimmer *trimmer, struct json_writer *w);

enum err_code handle_trim(struct request *req); /* POST /internal/v1/trim */

#endif
