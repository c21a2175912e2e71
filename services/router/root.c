/* What the door says of itself: GET /, GET /openapi.json, GET /internal/v1/status. */
#include <string.h>

#include "common/base/version.h"
#include "openapi_router.h"
#include "services/router/router.h"

enum err_code router_root(struct request *req)
{
    static const char *const links[] = {
        "openapi",   "/openapi.json", "collections", "/v1/collections", "health",  "/livez",
        "readiness", "/readyz",       "metrics",     "/metrics",        "version", "/version",
    };
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "name");
    json_text(&w, "vicinal");
    json_key(&w, "version");
    json_text(&w, VICINAL_VERSION);
    json_key(&w, "links");
    json_begin_object(&w);
    for (size_t i = 0; i + 1 < ARRAY_COUNT(links); i += 2) {
        json_key(&w, links[i]);
        json_text(&w, links[i + 1]);
    }
    json_end_object(&w);
    json_end_object(&w);
    return ERR_OK;
}

enum err_code router_openapi(struct request *req)
{
    buffer_append(&req->reply.body, openapi_json, sizeof(openapi_json) - 1);
    return ERR_OK;
}

static void write_cache(struct cache *cache, struct json_writer *w)
{
    struct cache_stats stats = {0};

    cache_stats(cache, &stats);
    json_begin_object(w);
    json_key(w, "hits");
    json_u64(w, stats.hits);
    json_key(w, "misses");
    json_u64(w, stats.misses);
    json_key(w, "evictions");
    json_u64(w, stats.evictions);
    json_key(w, "entries");
    json_u64(w, stats.entries);
    json_key(w, "bytes");
    json_u64(w, stats.bytes);
    json_end_object(w);
}

/* The cluster's status with the member "cache" added. */
enum err_code router_status(struct request *req)
{
    struct router *router = req->state;
    struct buffer *out = &req->reply.body;
    struct json_writer w;

    cluster_write_status(router->cluster, out);
    if (out->failed || out->len == 0)
        return buffer_check(out, &req->err);
    out->len--; /* the closing brace */
    buffer_append_text(out, ",\"cache\":");
    json_writer_init(&w, out);
    write_cache(router->cache, &w);
    buffer_append_byte(out, '}');
    return ERR_OK;
}
