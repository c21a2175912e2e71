/* How a new replica begins: with a copy of what another replica of its shard holds (copy.h), or
 * with the newest snapshot in the blob store (cluster/snapshots.h), instead of reading the log from
 * its beginning.
 *
 * Only a replica without a store is new.  The copy is fetched into a folder of its own, its digests
 * are compared, its store is opened once; then its folders are renamed into their places, the
 * store's last. So what is there under the store's name is whole; what was interrupted goes at the
 * next start.  From there on the replica is one that was stopped at the copy's positions: it proves
 * that the log is the one that was applied, and reads on.
 *
 * Without another replica that is ready and has read much, and without a verified snapshot, or when
 * they cannot be had, the replica begins from the log: that is slower, never wrong.  Unless the log
 * has been trimmed: then there has to be one of them. */
#ifndef VICINAL_SHARD_SEED_H
#define VICINAL_SHARD_SEED_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/blob/blob.h"
#include "backends/meta/meta.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/http/client.h"

#define SEED_RECORDS_MIN 10000 /* fewer are read from the log as fast */

/* All borrowed for the call. */
struct seed {
    struct env *env;
    struct meta *meta;
    struct http_client *client;
    const char *data; /* the replica's folder, which is there */
    uint32_t shard, replica;
    struct blob *blob;         /* NULL: there are no snapshots */
    uint32_t region;           /* of the log; 0: not known, snapshots are not looked for */
    const uint64_t *firsts;    /* by partition: where the log begins; NULL: at 0 */
    bool is_trimmed;           /* it begins later in some partition: every copy is welcome */
    uint64_t records_min;      /* 0: SEED_RECORDS_MIN */
    bool (*is_stopping)(void); /* NULL: never */
    uint64_t bytes;            /* told: how much was copied; 0: nothing */
};

struct apply;

/* Does the log, which begins at these offsets, still have what comes behind the state, and the
 * record before, which proves that it is the log that was applied?  Errors: ERR_NOT_FOUND (no). */
MUST_CHECK enum err_code seed_reaches(const struct apply *apply, const uint64_t *firsts,
                                      struct err *err);

/* Errors: ERR_DEAD (stopping), ERR_IO, ERR_CONFIG (the own folder), ERR_NOT_FOUND (the log is
 * trimmed, and there is nothing to begin with).  What others fail in is told in the log, and is no
 * error. */
MUST_CHECK enum err_code seed_run(struct seed *seed, struct err *err);

#endif
