/* A shard's replica as an object of the simulation. */
#include <stdio.h>

#include "cluster/cluster.h"
#include "services/shard/shard.h"
#include "tests/sim/sim.h"

static enum err_code open_shard(struct sim_node *node, struct err *err)
{
    struct store_options store = {.url = "memory:", .env = &node->life->env};
    struct shard_setup setup = {.env = &node->life->env,
                                .meta = &node->meta,
                                .wal_url = "sim:",
                                .shard = node->shard,
                                .replica = node->replica,
                                .simd = "scalar"};
    char name[32], url[64];
    enum err_code code = ERR_OK;

    if (node->store == NULL)
        code = store_open(&node->store, &store, err);
    if (code != ERR_OK)
        return code;
    node->store->env = &node->life->env;
    setup.store = node->store;
    cluster_replica_name(name, node->shard, node->replica);
    (void)snprintf(url, sizeof(url), "http://%s", node->name);
    code = cluster_register(&node->meta, &node->life->env, "shard", name, url, err);
    return code == ERR_OK ? shard_open(node->object, &setup, err) : code;
}

static void stop_shard(struct sim_node *node)
{
    shard_stop(node->object);
}

static void close_shard(struct sim_node *node)
{
    shard_close(node->object);
}

static void *shard_state_of(struct sim_node *node)
{
    return node->object;
}

const struct sim_service sim_shard_service = {
    .name = "shard",
    .object_size = sizeof(struct shard),
    .open = open_shard,
    .stop = stop_shard,
    .close = close_shard,
    .routes = shard_routes,
    .state = shard_state_of,
};
