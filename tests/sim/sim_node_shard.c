/* A shard's replica as an object of the simulation. */
#include <stdio.h>

#include "backends/blob/blob.h"
#include "cluster/cluster.h"
#include "services/shard/shard.h"
#include "tests/sim/sim.h"

#define SNAPSHOT_RECORDS 150 /* of the log, from one to the next */

struct shard_object {
    struct shard shard;
    struct store *store;
    struct blob *blob;
    char wal_url[16];
    char copies[SIM_PATH_BYTES], snapshots[SIM_PATH_BYTES];
};

static enum err_code open_shard(struct sim_node *node, struct err *err)
{
    struct shard_object *object = node->object;
    struct shard_setup setup = {.env = &node->life->env,
                                .meta = &node->meta,
                                .wal_url = object->wal_url,
                                .shard = node->shard,
                                .replica = node->replica,
                                .snapshot_records = SNAPSHOT_RECORDS,
                                .snapshot_keep = 1 + (uint32_t)node->sim->options.seed % 2,
                                .begin_again = sim_begin_again,
                                .process = node,
                                .simd = "scalar"};
    char name[32], url[64];
    enum err_code code = sim_begin_shard(node, &setup.copied_bytes, err);

    if (code != ERR_OK)
        return code;
    if (node->region->replicas > 1) {
        sim_node_path(node, "copies", object->copies);
        setup.copies = object->copies;
    }
    if (node->sim->trims) {
        sim_node_path(node, "snapshot", object->snapshots);
        setup.snapshots = object->snapshots;
    }
    (void)snprintf(object->wal_url, sizeof(object->wal_url), "sim:%u", node->region->index);
    setup.store = object->store = sim_store_open(node);
    setup.blob = object->blob = sim_blob_open(node);
    cluster_replica_name(name, node->shard, node->replica);
    (void)snprintf(url, sizeof(url), "http://%s", node->name);
    code = cluster_register(&node->meta, &node->life->env, "shard", name, url, err);
    return code == ERR_OK ? shard_open(&object->shard, &setup, err) : code;
}

static void stop_shard(struct sim_node *node)
{
    shard_stop(&((struct shard_object *)node->object)->shard);
}

static void close_shard(struct sim_node *node)
{
    struct shard_object *object = node->object;

    shard_close(&object->shard);
    store_close(object->store);
    blob_close(object->blob);
}

struct shard *sim_shard_of(struct sim_node *node)
{
    return &((struct shard_object *)node->object)->shard;
}

static void *shard_state_of(struct sim_node *node)
{
    return &((struct shard_object *)node->object)->shard;
}

const struct sim_service sim_shard_service = {
    .name = "shard",
    .object_size = sizeof(struct shard_object),
    .open = open_shard,
    .stop = stop_shard,
    .close = close_shard,
    .routes = shard_routes,
    .state = shard_state_of,
};
