/* A router as an object of the simulation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/router/router.h"
#include "tests/sim/sim.h"

struct router_object {
    struct router router;
    struct cache *cache;
    struct metrics *metrics;
};

/* The sum of a metric over its labels. */
static uint64_t sum_of(const char *text, const char *name)
{
    size_t len = strlen(name);
    uint64_t sum = 0;

    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n'), *value;

        value = strncmp(line, name, len) == 0 ? memchr(line, ' ', (size_t)(end - line)) : NULL;
        if (value != NULL && (line[len] == '{' || line[len] == ' '))
            sum += strtoull(value, NULL, 10);
        line = end == NULL ? NULL : end + 1;
    }
    return sum;
}

/* What the router counted in its life; it has found no difference between replicas. */
static void take_metrics(struct sim_node *node, struct metrics *metrics)
{
    struct sim_counts *counts = &node->sim->counts;
    struct buffer out = {0};
    const char *text;

    metrics_write(metrics, &out);
    buffer_append(&out, "", 1);
    text = (const char *)out.data;
    if (sum_of(text, "replica_divergent_partitions") > 0)
        sim_fail(node->sim, "%s says that replicas differ", node->name);
    counts->checks[CHECK_COMPARED] += sum_of(text, "replica_comparisons_total");
    counts->scrubs += sum_of(text, "replica_scrubs_total");
    counts->retries += sum_of(text, "shard_retries_total");
    counts->hedges += sum_of(text, "shard_hedges_total");
    counts->hedge_wins += sum_of(text, "shard_hedge_wins_total");
    buffer_free(&out);
}

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
    setup.metrics = object->metrics = metrics_new();
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
    if (object->metrics != NULL)
        take_metrics(node, object->metrics);
    metrics_free(object->metrics);
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
