/* What the files of cluster/ share; nobody else includes this. */
#ifndef VICINAL_CLUSTER_INTERNAL_H
#define VICINAL_CLUSTER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "cluster/cluster.h"
#include "cluster/health.h"
#include "cluster/hedge.h"
#include "common/base/hash.h"
#include "common/http/json_doc.h"

#define URL_BYTES         256
#define NODE_NAME_BYTES   64
#define STATUS_TIMEOUT_MS 500      /* of one status call */
#define HEARD_NS          NS_PER_S /* a report older than this is not believed */

struct node {
    char service[16];
    char name[NODE_NAME_BYTES];
    char url[URL_BYTES];
};

/* What the metadata store said, at one version of it.  Immutable once published. */
struct view {
    atomic_uint references;
    uint64_t version;
    bool has_map;
    struct shard_map map;
    char ingest_url[URL_BYTES]; /* "" when nobody holds the lease */
    enum region_role role;
    char elsewhere[ERR_MESSAGE_BYTES]; /* who takes writes, for people; "" when not known */
    char others[REGIONS_MAX][REGION_NAME_BYTES]; /* the names of other regions */
    size_t other_count;
    struct node *nodes;
    size_t node_count;
    struct collection *collections; /* active ones, by tenant and name */
    size_t collection_count;
    char (*urls)[URL_BYTES]; /* [shard * replicas + replica], "" unknown; NULL without a map */
};

struct report_collection {
    uint8_t incarnation[INCARNATION_BYTES];
    uint64_t count;
    uint64_t room;         /* for so many further vectors; UINT64_MAX: not said */
    uint64_t *last_change; /* by partition */
};

/* A digest and where it was taken. */
struct report_point {
    uint64_t position; /* 0: none */
    struct hash128 digest;
};

#define POINTS_MAX 4 /* the newest, then marks */

/* What one replica said of itself.  Immutable once published. */
struct report {
    atomic_uint references;
    uint64_t asked_ns; /* boot time before it was asked */
    uint32_t region;
    uint64_t position[PARTITIONS_MAX];
    uint64_t data[PARTITIONS_MAX];         /* behind the newest data record below it */
    uint64_t staleness_ns[PARTITIONS_MAX]; /* NEVER_NS: not known */
    struct partition_set serves;
    uint16_t slot_of[PARTITIONS_MAX]; /* partition -> place in points, plus 1; 0: none */
    struct report_point (*points)[POINTS_MAX];
    uint32_t points_count;
    uint64_t memory_limit, memory_wanted;  /* bytes of its indexes; limit 0: there is none */
    struct report_collection *collections; /* by incarnation */
    size_t collection_count;
    struct buffer raw; /* the JSON, for cluster_write_status */
};

struct replica_state {
    struct report *report; /* newest; NULL before the first */
    struct health health;
    struct metric *_Atomic in_use; /* NULL before the first status call, or without metrics */
};

struct cluster {
    struct env *env;
    struct meta *meta;
    struct http_client *client;
    struct metrics *metrics;
    uint32_t status_every_ms;
    struct env_thread *follower;
    struct env_thread *watcher, *prober, *comparer;
    uint32_t compare_every_ms; /* 0: never */
    struct metric *retries, *hedges, *hedge_wins;
    struct metric *metadata_up;
    _Atomic bool has_limits; /* a replica has told of a memory limit */
    _Atomic bool store_away; /* the last one who asked the metadata store had no answer */

    pthread_mutex_t mutex; /* guards all below */
    struct env_cond wake;  /* stopping */
    bool stopping;
    struct view *view; /* never NULL after open */
    struct replica_state
        *replicas; /* SHARDS_MAX * REPLICAS_MAX, [shard * REPLICAS_MAX + replica] */
    struct hedge *hedges_of[SHARDS_MAX]; /* NULL before the shard's first question */
};

/* view.c */
MUST_CHECK enum err_code view_load(struct view **out, struct meta *meta, struct err *err);
struct view *view_get(struct cluster *cluster); /* never NULL */
void view_put(struct view *view);
MUST_CHECK enum err_code view_collection_row(const void *value, size_t len, struct collection *out,
                                             bool *active, struct err *err);
const char *view_url(const struct view *view, uint32_t shard, uint32_t replica);

/* report.c */
MUST_CHECK enum err_code report_parse(struct report **out, const void *data, size_t len,
                                      uint64_t asked_ns, bool *ready, struct err *err);
void report_put(struct report *report);
struct report *report_get(struct cluster *cluster, uint32_t shard, uint32_t replica);

/* What the report says of a collection; NULL: nothing. */
const struct report_collection *report_collection(const struct report *report,
                                                  const uint8_t incarnation[INCARNATION_BYTES]);
void report_watch(void *cluster); /* thread: asks those that are in use */
void report_probe(void *cluster); /* thread: asks those that are out, and may hang */

/* A digest's 32 digits; false: they are none. */
bool report_digest(const json_t *text, struct hash128 *out);

/* compare.c: thread */
void compare_run(void *cluster);

/* pick.c */

/* One question to a shard, for the choice of the replica. */
struct pick {
    const struct view *view;
    const struct wire_question *question;
    uint64_t key; /* pick_key of the question */
    uint32_t shard;
    uint32_t avoided;   /* bits of those that were of no use to this question before */
    bool wants_healthy; /* rather none than one that is out or in doubt */
};
uint64_t pick_key(const struct wire_question *question);

/* The best replica whose bit is not set in *tried; sets it, and notes that a question is under way.
 * False: none is left. */
bool pick_replica(struct cluster *cluster, const struct pick *pick, uint32_t *tried, uint32_t *out);

/* Is there a replica whose bit is not set? */
bool pick_is_left(const struct view *view, uint32_t shard, uint32_t tried);

#endif
