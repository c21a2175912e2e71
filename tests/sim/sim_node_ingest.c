/* An ingest as an object of the simulation, on a log without a lock. */
#include <stdio.h>

#include "services/ingest/ingest.h"
#include "tests/sim/sim.h"

#define SPOOL_BYTES     KIB(16) /* of the smaller ones: it is full at times */
#define STATUS_EVERY_MS 400     /* rarer than in the real world: most calls would be of these */
#define TRIM_EVERY_NS   (2 * NS_PER_S)
#define TRIM_RECORDS    80 /* of the log, from one checkpoint to the next */

struct ingest_object {
    struct ingest ingest;
    struct cluster *cluster;
    struct blob *blob;
    char url[64];
};

static enum err_code open_log(void *context, struct wal **out, struct err *err)
{
    struct sim_node *node = context;
    char url[16];
    struct wal_options options = {
        .url = url, .env = &node->life->env, .writer = true, .partitions = SIM_PARTITIONS};

    (void)snprintf(url, sizeof(url), "sim:%u", node->region->index);
    return wal_open(out, &options, err);
}

/* What survives the node, less what a power cut takes. */
static enum err_code open_spool(void *context, struct store **out, struct err *err)
{
    struct sim_node *node = context;

    *out = sim_store_open(node);
    return sim_touch(&node->life->env) == ERR_OK ? ERR_OK
                                                 : err_set(err, ERR_DEAD, "the node is dead");
}

static enum err_code open_ingest(struct sim_node *node, struct err *err)
{
    struct ingest_object *object = node->object;
    struct cluster_options cluster = {.env = &node->life->env,
                                      .meta = &node->meta,
                                      .client = &node->client,
                                      .status_every_ms = STATUS_EVERY_MS};
    struct ingest_setup setup = {.env = &node->life->env,
                                 .meta = &node->meta,
                                 .name = node->name,
                                 .open_wal = open_log,
                                 .open_wal_context = node,
                                 .spool = "sim:",
                                 .open_spool = open_spool,
                                 .open_spool_context = node,
                                 .spool_bytes = SPOOL_BYTES};
    enum err_code code = cluster_open(&object->cluster, &cluster, err);

    if (code != ERR_OK)
        return code;
    setup.cluster = object->cluster;
    setup.blob = object->blob = sim_blob_open(node);
    setup.client = &node->client;
    if (node->sim->trims)
        setup.trim = (struct trim_options){.every_ns = TRIM_EVERY_NS, .records = TRIM_RECORDS};
    (void)snprintf(object->url, sizeof(object->url), "http://%s", node->name);
    code = ingest_open(&object->ingest, &setup, err);
    return code == ERR_OK ? ingest_start(&object->ingest, object->url, err) : code;
}

static void stop_ingest(struct sim_node *node)
{
    struct ingest_object *object = node->object;

    if (object->cluster != NULL)
        cluster_stop(object->cluster);
    ingest_stop(&object->ingest);
}

static void close_ingest(struct sim_node *node)
{
    struct ingest_object *object = node->object;

    ingest_close(&object->ingest);
    if (object->cluster != NULL)
        cluster_close(object->cluster);
    blob_close(object->blob);
}

static void *ingest_state_of(struct sim_node *node)
{
    return &((struct ingest_object *)node->object)->ingest;
}

struct ingest *sim_ingest_of(struct sim_node *node)
{
    return &((struct ingest_object *)node->object)->ingest;
}

const struct sim_service sim_ingest_service = {
    .name = "ingest",
    .object_size = sizeof(struct ingest_object),
    .open = open_ingest,
    .stop = stop_ingest,
    .close = close_ingest,
    .routes = ingest_routes,
    .state = ingest_state_of,
};
