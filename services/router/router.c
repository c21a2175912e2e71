/* The router as an object: its life, and what its handlers share. */
#include "services/router/router.h"

#include <assert.h>
#include <string.h>

enum err_code router_open(struct router *router, const struct router_setup *setup, struct err *err)
{
    struct metrics *metrics = setup->metrics;

    router->env = setup->env;
    router->meta = setup->meta;
    router->client = setup->client;
    router->cache = setup->cache;
    pthread_mutex_init(&router->embedders_lock, NULL);
    if (metrics != NULL)
        router->metrics = (struct router_metrics){
            .search_latency = metrics_latency(metrics, "vector_search_latency_seconds",
                                              "shard=\"all\",operation=\"search\"",
                                              "Time of a search, from its arrival."),
            .searches = metrics_counter(metrics, "search_qps_total", "", "Searches answered."),
            .hits = metrics_counter(metrics, "cache_hits_total", "", "Searches from the cache."),
            .misses = metrics_counter(metrics, "cache_misses_total", "",
                                      "Searches that the cache could not answer."),
            .bypasses = metrics_counter(metrics, "cache_bypasses_total", "",
                                        "Searches that may not use the cache."),
            .forwarded =
                metrics_counter(metrics, "writes_forwarded_total", "", "Writes handed to ingest."),
        };
    return cluster_open(
        &router->cluster,
        &(struct cluster_options){
            .env = setup->env, .meta = setup->meta, .client = setup->client, .metrics = metrics},
        err);
}

void router_stop(struct router *router)
{
    cluster_stop(router->cluster);
}

void router_close(struct router *router)
{
    if (router->env == NULL)
        return;
    cluster_close(router->cluster);
    for (size_t i = 0; i < EMBEDDERS_MAX; i++)
        embedder_close(router->embedders[i]);
    pthread_mutex_destroy(&router->embedders_lock);
    memset(router, 0, sizeof(*router));
}

enum err_code router_collection(struct request *req, bool again, struct collection *out)
{
    struct router *router = req->state;

    assert(req->params[0] != NULL);
    req->collection = req->params[0];
    if (collection_check_name(req->params[0], req->param_lens[0], &req->err) != ERR_OK)
        return err_set(&req->err, ERR_COLLECTION_NOT_FOUND, "there is no such collection");
    return cluster_collection(router->cluster, TENANT_DEFAULT, req->params[0], again, out,
                              &req->err);
}
