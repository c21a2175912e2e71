/* vicinal-router: the public door.  Called by clients; calls the shards (cluster/), ingest, the
 * metadata store and the result cache. */
#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/http/service.h"
#include "services/router/router.h"

struct router_process {
    struct service_base base;
    const char *name;
    const char *meta_url;
    const char *cache_url;
    const char *embedders, *embedders_cache;
    struct meta *meta;
    struct cache *cache;
    struct http_client *client;
    struct router router;
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct router_process, row_member)

static struct option options[] = {
    SERVICE_OPTION_ROWS(struct router_process),
    {ROW("name", OPTION_TEXT, name), .fallback = "0", .help = "Name of this router among others."},
    {ROW("meta", OPTION_TEXT, meta_url), .required = true,
     .help = "Metadata store: sqlite:FILE, postgres://… or memory:."},
    {ROW("cache", OPTION_TEXT, cache_url), .fallback = "memory:64MiB",
     .help = "Result cache: memory:SIZE, redis://HOST:PORT or none:."},
    EMBEDDERS_OPTION_ROWS(struct router_process, embedders, embedders_cache),
    {0},
};

static enum err_code open_router(void *state, struct err *err)
{
    struct router_process *process = state;
    enum err_code rc;

    if ((rc = meta_open(&process->meta, process->meta_url, process->base.env, err)) != ERR_OK)
        return err_wrap(err, "--meta");
    if ((rc = cache_open(&process->cache, process->cache_url, process->base.env, err)) != ERR_OK)
        return err_wrap(err, "--cache");
    rc = http_client_open(&process->client, &(struct http_client_options){.env = process->base.env},
                          err);
    if (rc != ERR_OK)
        return rc;
    return router_open(&process->router,
                       &(struct router_setup){.env = process->base.env,
                                              .meta = process->meta,
                                              .client = process->client,
                                              .cache = process->cache,
                                              .metrics = process->base.metrics,
                                              .embedders = process->embedders,
                                              .embedders_cache = process->embedders_cache},
                       err);
}

static enum err_code start_router(void *state, struct err *err)
{
    struct router_process *process = state;

    return cluster_register(process->meta, process->base.env, "router", process->name,
                            process->base.url, err);
}

static bool router_is_ready(void *state, struct buffer *why)
{
    struct router_process *process = state;

    return cluster_ready(process->router.cluster, why);
}

static void close_router(void *state)
{
    struct router_process *process = state;

    router_stop(&process->router);
    router_close(&process->router);
    http_client_close(process->client);
    cache_close(process->cache);
    meta_close(process->meta);
}

int main(int argc, char **argv)
{
    static struct router_process process;
    static const struct service service = {
        .name = "router",
        .about = "The public door: routes searches to the shards and writes to ingest.",
        .options = options,
        .routes = router_routes,
        .core_offset = offsetof(struct router_process, router),
        .open = open_router,
        .start = start_router,
        .ready = router_is_ready,
        .close = close_router,
    };

    /* The one service that is called from outside has a port of its own. */
    assert(strcmp(options[0].name, "listen") == 0);
    options[0].fallback = "127.0.0.1:8080";
    return service_run(&service, &process, argc, argv);
}
