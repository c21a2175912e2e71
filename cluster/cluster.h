/* The view of the other services that router and ingest share: which nodes there are, who serves
 * which partition, how far each replica is, which collections exist; and asking the shards.
 *
 * Three threads, four when digests are compared (compare.h): one follows the metadata store, one
 * asks every replica that is in use for its status each 100 ms, one those that are out.  Views are
 * immutable and swapped by reference count. When the metadata store is away the last view goes on
 * serving.
 */
#ifndef VICINAL_CLUSTER_CLUSTER_H
#define VICINAL_CLUSTER_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/meta/meta.h"
#include "cluster/regions.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/http/client.h"
#include "common/model/collection.h"
#include "common/model/shard_map.h"
#include "common/model/wire.h"
#include "common/observe/metrics.h"

struct cluster;
struct report;
struct view;

struct cluster_options {
    struct env *env;
    struct meta *meta;
    struct http_client *client;
    struct metrics *metrics;   /* may be NULL */
    uint32_t status_every_ms;  /* 0: 100 */
    uint32_t compare_every_ms; /* the replicas' digests; 0: never */
};

/* All borrowed until close.  Loads what there is (an empty store is fine), starts the threads. */
MUST_CHECK enum err_code cluster_open(struct cluster **out, const struct cluster_options *options,
                                      struct err *err);
void cluster_stop(struct cluster *cluster);  /* wakes and ends the threads */
void cluster_close(struct cluster *cluster); /* after stop */

/* Read the metadata store now, instead of when the follower does: after a change that went through
 * here.  Errors: ERR_UNAVAILABLE (the last view stays). */
MUST_CHECK enum err_code cluster_refresh(struct cluster *cluster, struct err *err);

/* --- nodes and map --------------------------------------------------------------------------- */

/* Write the row node/SERVICE/NAME.  Errors: those of meta_put. */
MUST_CHECK enum err_code cluster_register(struct meta *meta, struct env *env, const char *service,
                                          const char *name, const char *url, struct err *err);

/* The name of a shard's replica as a node: "SHARD.REPLICA". */
void cluster_replica_name(char out[32], uint32_t shard, uint32_t replica);

/* A row that is there while the log is trimmed: ingest writes it before it trims. */
#define CLUSTER_TRIMMED_KEY "trimmed"

/* Make (or change to) this many shards and replicas: reads the row deployment for P, writes the row
 * map if it differs.  Errors: ERR_NOT_FOUND (no deployment row yet: ingest writes it), ERR_CONFIG
 * (partitions would move, and the log is trimmed). */
MUST_CHECK enum err_code cluster_place(struct meta *meta, uint32_t shards, uint32_t replicas,
                                       struct err *err);

/* Let the replicas of every shard share its questions in these proportions (one weight for each
 * replica, 1..SHARD_WEIGHT_MAX).  Errors: ERR_CONFIG (another number of replicas). */
MUST_CHECK enum err_code cluster_weigh(struct meta *meta, const uint32_t *weights, uint32_t count,
                                       struct err *err);

/* The map in force; false: there is none yet. */
bool cluster_map(struct cluster *cluster, struct shard_map *out);

/* The URL of the ingest that holds the lease, fresh from the metadata store when `again`.
 * Errors: ERR_READ_ONLY (nobody does). */
MUST_CHECK enum err_code cluster_ingest_url(struct cluster *cluster, bool again, char *out,
                                            size_t size, struct err *err);

/* The region's role, and whether it takes writes of its own.
 * Errors: ERR_PASSIVE (with where to go). */
enum region_role cluster_role(struct cluster *cluster);
MUST_CHECK enum err_code cluster_check_role(struct cluster *cluster, struct err *err);

/* --- collections ----------------------------------------------------------------------------- */

/* By name; `again`: read the metadata store even when the name is known.  A name that is not known
 * is always looked up there.  A pending collection counts as absent.
 * Errors: ERR_COLLECTION_NOT_FOUND, ERR_UNAVAILABLE. */
MUST_CHECK enum err_code cluster_collection(struct cluster *cluster, const char *tenant,
                                            const char *name, bool again, struct collection *out,
                                            struct err *err);

/* By name, of the default tenant, for a read that wants to see everything: from the metadata store,
 * or, when that has not answered at until_ns or is known to be away, as it was known last.
 * Errors: those of cluster_collection. */
MUST_CHECK enum err_code cluster_collection_now(struct cluster *cluster, const char *name,
                                                uint64_t until_ns, struct collection *out,
                                                struct err *err);

/* Active collections of a tenant in name order, with names above `after` ("": from the start), at
 * most max.  *more: there are further ones. */
MUST_CHECK enum err_code cluster_collections(struct cluster *cluster, const char *tenant,
                                             const char *after, struct collection *out, size_t max,
                                             size_t *count, bool *more, struct err *err);

/* --- asking the shards ----------------------------------------------------------------------- */

struct cluster_ask {
    struct wire_question *question; /* partitions: those wanted, or none for all (for gets: those of
                                     * the ids); wait_ms is filled in */
    uint64_t deadline_ns;           /* boot time */
    bool allow_partial;             /* missing partitions are no error */
    const char *request_id;
    const char *traceparent;
};

struct cluster_part {
    uint32_t shard, replica;
    struct wire_answer answer;
    struct buffer raw; /* what answer points into */
    uint64_t took_ns;
    bool is_hedged; /* it took long: a second replica was asked too */
};

#define CLUSTER_UNKNOWN INT64_MIN

/* When that was whole which was staleness_ns old at at_ns. */
int64_t cluster_known_at(uint64_t at_ns, uint64_t staleness_ns);

/* What came back.  Owns everything; cluster_answer_free. */
struct cluster_answer {
    struct cluster_part *parts;
    size_t count;
    struct partition_set served;
    uint32_t served_count, wanted_count;
    int64_t known_ns; /* boot time of ours: what was committed before it is in all parts;
                       * CLUSTER_UNKNOWN: not known */
    bool stale;
    bool partial;      /* served_count < wanted_count */
    struct token seen; /* what the answer reflects: the read's token */
    uint32_t retries, hedges;
    struct arena arena;
};

/* Ask one replica of each shard concerned; a replica that cannot be reached, is behind or has moved
 * is replaced by another at once, one that is slow is joined by another (hedge.h), gaps are asked
 * again with a fresh map, within the deadline. Errors: ERR_COLLECTION_NOT_FOUND (dropped: look it
 * up again), ERR_STALENESS_UNMET, ERR_TOKEN_LOG_GONE, ERR_SHARDS_UNAVAILABLE (and not
 * allow_partial), ERR_TIMEOUT, ERR_DIMENSION_MISMATCH, what a shard says of the question itself. */
MUST_CHECK enum err_code cluster_ask(struct cluster *cluster, const struct cluster_ask *ask,
                                     struct cluster_answer *out, struct err *err);
void cluster_answer_free(struct cluster_answer *answer);

/* --- other regions (reach.c) ----------------------------------------------------------------- */

/* How many regions there are, this one included. */
uint32_t cluster_region_count(struct cluster *cluster);

struct cluster_reached {
    bool is_met;                    /* every region was asked, and what it had committed is here */
    uint64_t known_ns;              /* boot time: what was committed anywhere before it is in this
                                     * region's log; NEVER_NS: not known */
    char detail[ERR_MESSAGE_BYTES]; /* which region was not reached, and why */
};

/* For a read over all regions: everything that was committed in any of them before the call is in
 * this region's log, as its replicator says, or the deadline has come.  Without other regions that
 * is so at once. */
void cluster_reach(struct cluster *cluster, uint64_t deadline_ns, struct cluster_reached *out);

/* Wait until that many other regions have all of this region's log below the positions.
 * Errors: ERR_QUORUM_UNMET, with the reason. */
MUST_CHECK enum err_code cluster_await_held(struct cluster *cluster, const struct token *token,
                                            uint32_t regions, uint64_t deadline_ns,
                                            struct err *err);

/* --- what replicas report -------------------------------------------------------------------- */

/* For the result cache: what is known of a collection in each partition, from the newest report of
 * the replica that is farthest. */
struct cluster_known {
    uint64_t position;     /* K: the replica had applied up to here … */
    uint64_t data;         /* the newest data record stands below this */
    uint64_t last_change;  /* … and this is the position behind the collection's last change;
                            * UINT64_MAX: that replica does not know the collection */
    uint64_t staleness_ns; /* of that replica's partition now */
    bool heard;            /* within the last second */
};

/* One entry for each partition of the map, into out (room for PARTITIONS_MAX); returns the region
 * number that the positions are of, 0 when nothing was heard, or of more than one region. */
uint32_t cluster_known(struct cluster *cluster, const uint8_t incarnation[INCARNATION_BYTES],
                       struct cluster_known *out);

/* What replicas have room for, of those heard within the last ten seconds that have a memory limit.
 */
struct cluster_room {
    uint32_t shard, replica;
    uint64_t limit_bytes;
    uint64_t wanted_bytes;     /* of all that it had applied, once it is linked */
    uint64_t vectors;          /* of the collection: for so many more; UINT64_MAX: not known */
    const uint64_t *positions; /* by partition: what lies below has been applied */
    struct report *report;
};

struct cluster_rooms {
    struct cluster_room *rooms;
    size_t count; /* 0: nobody has a limit, or nobody was heard */
    struct view *view;
    const struct shard_map *map;
};

/* Everything lives until cluster_rooms_free (zeroed is fine).  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code cluster_rooms_get(struct cluster *cluster,
                                           const uint8_t incarnation[INCARNATION_BYTES],
                                           struct cluster_rooms *out, struct err *err);
void cluster_rooms_free(struct cluster_rooms *rooms);

/* Everything, as JSON, for `vicinal status` and GET /internal/v1/status of the router: map, nodes
 * with url and health, partitions with position, staleness, digest per replica. */
void cluster_write_status(struct cluster *cluster, struct buffer *out);

/* At least one replica of every shard is healthy, and an ingest holds the lease; otherwise the
 * failing checks are appended to why as JSON strings separated by commas. */
bool cluster_ready(struct cluster *cluster, struct buffer *why);

#endif
