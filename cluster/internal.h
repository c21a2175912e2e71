/* What the files of cluster/ share; nobody else includes this. */
#ifndef VICINAL_CLUSTER_INTERNAL_H
#define VICINAL_CLUSTER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "cluster/cluster.h"

#define URL_BYTES         256
#define NODE_NAME_BYTES   64
#define STATUS_TIMEOUT_MS 500               /* of one status call */
#define HEARD_NS          NS_PER_S          /* a report older than this is not believed */
#define SUSPECT_NS        (200 * NS_PER_MS) /* a replica that failed is tried last for so long */

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
    uint64_t *last_change; /* by partition */
};

/* What one replica said of itself.  Immutable once published. */
struct report {
    atomic_uint references;
    uint64_t asked_ns; /* boot time before it was asked */
    uint32_t region;
    uint64_t position[PARTITIONS_MAX];
    uint64_t data[PARTITIONS_MAX];         /* behind the newest data record below it */
    uint64_t staleness_ns[PARTITIONS_MAX]; /* NEVER_NS: not known */
    struct partition_set serves;
    struct report_collection *collections;
    size_t collection_count;
    struct buffer raw; /* the JSON, for cluster_write_status */
};

struct replica_state {
    struct report *report;     /* newest; NULL before the first */
    uint64_t suspect_until_ns; /* a connection failed lately */
    bool healthy;              /* the last status call was answered "ready" */
};

struct cluster {
    struct env *env;
    struct meta *meta;
    struct http_client *client;
    struct metrics *metrics;
    uint32_t status_every_ms;
    struct env_thread *follower;
    struct env_thread *watcher;
    struct metric *retries;
    struct metric *metadata_up;
    _Atomic bool store_away; /* the last one who asked the metadata store had no answer */

    pthread_mutex_t mutex; /* guards all below */
    struct env_cond wake;  /* stopping */
    bool stopping;
    struct view *view; /* never NULL after open */
    struct replica_state
        *replicas; /* SHARDS_MAX * REPLICAS_MAX, [shard * REPLICAS_MAX + replica] */
    uint32_t turn; /* spreads reads over replicas */
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
void report_watch(void *cluster); /* thread */

#endif
