/* Verifying a shard's folder: its store, what the rows in it say of one another and of the state,
 * its segments, and all of that against the log that it was made from.  Nothing is changed, and no
 * service is let in meanwhile.
 *
 * Usage: open (which looks at everything in the folder), then every record of the log in its order,
 * then the log's end.  Where there is no log at hand, the two last steps are left out. */
#ifndef VICINAL_SHARD_VERIFY_H
#define VICINAL_SHARD_VERIFY_H

#include "backends/wal/wal_verify.h"
#include "common/base/env.h"
#include "common/base/scrub.h"
#include "common/model/record_verify.h"

struct blob;
struct shard_verify;

struct shard_verify_setup {
    const char *data; /* the folder, as --data; borrowed until the close */
    struct env *env;
    struct scrub *scrub;
    struct blob *blob; /* what the log's bulk manifests name; NULL: their rows are not compared */
};

struct shard_verified {
    uint64_t store_bytes, store_pages;
    uint32_t partitions, collections; /* served; active */
    uint64_t live, tombstones, vectors;
    uint64_t segment_files, segment_vectors, segment_bytes;
    uint64_t compared;        /* live records that are as the log has them */
    uint64_t bulk_uncompared; /* bulk manifests whose objects could not be looked at */
    bool is_empty;            /* there is no state yet */
    bool is_readable;         /* the rows could be looked at */
};

/* Errors: ERR_NOT_FOUND (no shard's folder, or nothing in it yet), ERR_CONFLICT (a service has it),
 * ERR_CONFIG (a newer format), ERR_IO, ERR_NO_MEMORY, ERR_DEAD (told to stop). */
MUST_CHECK enum err_code shard_verify_open(struct shard_verify **out,
                                           const struct shard_verify_setup *setup, struct err *err);

/* A record that keeps the rules; place: where it stands in the log.
 * Errors: ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code shard_verify_record(struct shard_verify *verify,
                                             const struct wal_item *item,
                                             const struct record_verified *verified,
                                             const struct scrub_finding *place, struct err *err);

/* All records have been given.  is_whole: none was left out for being damaged.
 * Errors: ERR_NO_MEMORY; those of the blob store, when it was away. */
MUST_CHECK enum err_code shard_verify_log(struct shard_verify *verify,
                                          const struct wal_verified *log, bool is_whole,
                                          struct err *err);

const struct shard_verified *shard_verify_result(const struct shard_verify *verify);
void shard_verify_close(struct shard_verify *verify); /* NULL is fine */

#endif
