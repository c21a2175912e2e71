/* What a replica's process does before it opens its store: a store that the log does not reach back
 * to is set aside, and one that is missing comes from elsewhere (seed.h).
 *
 * A store is set aside, under the name DATA/store.aside, when it is damaged (sound.h), when the log
 * was trimmed above its positions, or when the shard has found out that it has to begin again and
 * may not do so from a trimmed log (begin_again).  It is renamed, never removed, but for the one
 * set aside before. */
#ifndef VICINAL_SHARD_BEGIN_H
#define VICINAL_SHARD_BEGIN_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/blob/blob.h"
#include "backends/meta/meta.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/http/client.h"

/* All borrowed for the call. */
struct begin {
    struct env *env;
    struct meta *meta;
    struct blob *blob;          /* NULL: there are no snapshots */
    struct http_client *client; /* NULL: one of its own */
    const char *wal_url;
    const char *data; /* the replica's folder, which is there */
    uint32_t shard, replica;
    bool seed;                 /* also where the log would do */
    uint64_t records_min;      /* as in seed.h */
    bool (*is_stopping)(void); /* NULL: never */
    const struct err *damage;  /* why the store could not be opened; NULL: that was not tried yet */
    bool was_set_aside;        /* told: a store was */
    uint64_t bytes;            /* told: how much was copied; 0: nothing */
};

/* A log that is away or not there yet is taken for one that was not trimmed: the shard finds out.
 * Errors: those of seed_run, ERR_IO, ERR_CONFIG, ERR_NO_MEMORY. */
MUST_CHECK enum err_code begin_run(struct begin *begin, struct err *err);

/* Note in the replica's folder that its store is to be set aside at the next start.
 * Errors: ERR_IO, ERR_CONFIG. */
MUST_CHECK enum err_code begin_again(const char *data, struct err *err);

#endif
