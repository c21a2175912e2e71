/* A replicator as an object of the simulation: it reads the other regions' logs. */
#include <stdio.h>

#include "cluster/cluster.h"
#include "services/replicator/replicator.h"
#include "tests/sim/sim.h"

static enum err_code open_log(void *context, const char *url, struct wal **out, struct err *err)
{
    struct sim_node *node = context;

    return wal_open(out, &(struct wal_options){.url = url, .env = &node->life->env}, err);
}

static enum err_code open_replicator(struct sim_node *node, struct err *err)
{
    struct replicator_setup setup = {.env = &node->life->env,
                                     .meta = &node->meta,
                                     .client = &node->client,
                                     .region = node->region->name,
                                     .open_wal = open_log,
                                     .open_wal_context = node};
    char url[64];
    enum err_code code = replicator_open(node->object, &setup, err);

    (void)snprintf(url, sizeof(url), "http://%s", node->name);
    if (code == ERR_OK)
        code = cluster_register(&node->meta, &node->life->env, "replicator", node->region->name,
                                url, err);
    return code == ERR_OK ? replicator_start(node->object, err) : code;
}

static void stop_replicator(struct sim_node *node)
{
    replicator_stop(node->object);
}

static void close_replicator(struct sim_node *node)
{
    replicator_close(node->object);
}

static void *replicator_state_of(struct sim_node *node)
{
    return node->object;
}

const struct sim_service sim_replicator_service = {
    .name = "replicator",
    .object_size = sizeof(struct replicator),
    .open = open_replicator,
    .stop = stop_replicator,
    .close = close_replicator,
    .routes = replicator_routes,
    .state = replicator_state_of,
};
