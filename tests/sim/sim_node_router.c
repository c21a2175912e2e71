/* A router as an object of the simulation. */
#include <stdio.h>

#include "services/router/router.h"
#include "tests/sim/sim.h"

struct router_object {
    struct router router;
    struct cache *cache;
};

static enum err_code open_router(struct sim_node *node, struct err *err)
{
    struct router_object *object = node->object;
    struct router_setup setup = {
        .env = &node->life->env, .meta = &node->meta, .client = &node->client};
    char url[64];
    enum err_code code = cache_open(&object->cache, "memory:1MiB", &node->life->env, err);

    if (code != ERR_OK)
        return code;
    setup.cache = object->cache;
    code = router_open(&object->router, &setup, err);
    (void)snprintf(url, sizeof(url), "http://%s", node->name);
    if (code == ERR_OK)
        code = cluster_register(&node->meta, &node->life->env, "router", node->name, url, err);
    return code;
}

static void stop_router(struct sim_node *node)
{
    router_stop(&((struct router_object *)node->object)->router);
}

static void close_router(struct sim_node *node)
{
    struct router_object *object = node->object;
    struct cache_stats stats = {0};

    router_close(&object->router);
    if (object->cache != NULL)
        cache_stats(object->cache, &stats);
    node->sim->counts.cache_hits += stats.hits;
    cache_close(object->cache);
}

static void *router_state_of(struct sim_node *node)
{
    return &((struct router_object *)node->object)->router;
}

const struct sim_service sim_router_service = {
    .name = "router",
    .object_size = sizeof(struct router_object),
    .open = open_router,
    .stop = stop_router,
    .close = close_router,
    .routes = router_routes,
    .state = router_state_of,
};
