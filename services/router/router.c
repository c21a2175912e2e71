/* The router as an object: its life, and what its handlers share. */
#include "services/router/router.h"

#include <assert.h>
#include <string.h>

#include "common/base/checked.h"

#define LOOK_NS    (250 * NS_PER_MS) /* for the metadata store, of a fresh read */
#define COMPARE_MS 1000              /* between two looks at the replicas' digests */

enum err_code router_open(struct router *router, const struct router_setup *setup, struct err *err)
{
    struct metrics *metrics = setup->metrics;
    enum err_code rc;

    router->env = setup->env;
    router->meta = setup->meta;
    router->client = setup->client;
    router->cache = setup->cache;
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
    rc = embedders_open(&router->embedders,
                        &(struct embedders_setup){.list = setup->embedders,
                                                  .cache_url = setup->embedders_cache,
                                                  .env = setup->env,
                                                  .client = setup->client,
                                                  .metrics = metrics},
                        err);
    if (rc != ERR_OK)
        return rc;
    return cluster_open(&router->cluster,
                        &(struct cluster_options){.env = setup->env,
                                                  .meta = setup->meta,
                                                  .client = setup->client,
                                                  .metrics = metrics,
                                                  .compare_every_ms = COMPARE_MS},
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
    embedders_close(router->embedders);
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

/* A token may name a state, perhaps another region's, in which the collection is there already.
 * Errors: those of cluster_ask. */
static enum err_code await_demands(struct request *req, const struct consistency *consistency)
{
    struct router *router = req->state;
    struct wire_question question = {.op = WIRE_WAIT};
    struct cluster_answer answer = {0};
    struct cluster_ask ask;
    enum err_code rc;

    consistency_apply(consistency, req, &question, &ask);
    question.fresh = false;
    question.max_staleness_ns = NEVER_NS;
    for (size_t i = 0; i < question.demands.count; i++)
        partition_set_add(&question.partitions, question.demands.entries[i].partition);
    rc = cluster_ask(router->cluster, &ask, &answer, &req->err);
    cluster_answer_free(&answer);
    return rc;
}

/* With the metadata store away, or slow, what was known last must do.  Whether the collection was
 * dropped meanwhile its shards tell, at the log's end. */
static enum err_code find_now(struct request *req, uint64_t timeout_ms, struct collection *out)
{
    struct router *router = req->state;
    uint64_t wait_ns = MIN_OF(LOOK_NS, timeout_ms * NS_PER_MS / 4);

    req->collection = req->params[0];
    if (collection_check_name(req->params[0], req->param_lens[0], &req->err) != ERR_OK)
        return err_set(&req->err, ERR_COLLECTION_NOT_FOUND, "there is no such collection");
    return cluster_collection_now(router->cluster, req->params[0],
                                  env_boot_ns(router->env) + wait_ns, out, &req->err);
}

/* First everything of the other regions comes into this one's log; a fresh read sees it then.  Who
 * takes a stale answer too is to have some time left for it. */
static enum err_code reach_regions(struct request *req, struct consistency *consistency)
{
    struct router *router = req->state;
    uint64_t began_ns = env_boot_ns(router->env), wait_ns = consistency->timeout_ms * NS_PER_MS;
    uint64_t from_ns = consistency->began_ns == 0 ? req->received_ns : consistency->began_ns;

    if (consistency->serve_stale)
        wait_ns = wait_ns / 2;
    cluster_reach(router->cluster, from_ns + wait_ns, &consistency->reached);
    consistency->reach_ns = env_boot_ns(router->env) - began_ns;
    if (consistency->reached.is_met || consistency->serve_stale)
        return ERR_OK;
    return err_set(&req->err, ERR_STALENESS_UNMET, "%s", consistency->reached.detail);
}

enum err_code router_read_collection(struct request *req, struct consistency *consistency,
                                     struct collection *out)
{
    enum err_code rc = consistency->global ? reach_regions(req, consistency) : ERR_OK;

    if (rc == ERR_OK)
        rc = consistency->fresh ? find_now(req, consistency->timeout_ms, out)
                                : router_collection(req, false, out);
    if (rc != ERR_COLLECTION_NOT_FOUND || consistency->demands.count == 0)
        return rc;
    err_clear(&req->err);
    rc = await_demands(req, consistency);
    return rc == ERR_OK ? router_collection(req, true, out) : rc;
}

enum err_code router_ask(struct request *req, struct collection *collection,
                         struct cluster_ask *ask, struct cluster_answer *out)
{
    struct router *router = req->state;
    struct wire_question *question = ask->question;
    enum err_code rc;

    memcpy(question->incarnation, collection->incarnation, INCARNATION_BYTES);
    rc = cluster_ask(router->cluster, ask, out, &req->err);
    if (rc != ERR_COLLECTION_NOT_FOUND)
        return rc;
    err_clear(&req->err);
    if ((rc = router_collection(req, true, collection)) != ERR_OK)
        return rc;
    if (question->vector != NULL && question->dim != collection->dimension)
        return err_set(&req->err, ERR_DIMENSION_MISMATCH,
                       "the collection was made anew with dimension %u", collection->dimension);
    memcpy(question->incarnation, collection->incarnation, INCARNATION_BYTES);
    return cluster_ask(router->cluster, ask, out, &req->err);
}

enum err_code router_embedder(struct router *router, const struct collection *collection,
                              struct embedder **out, struct err *err)
{
    *out = NULL;
    if (collection->embedder[0] == '\0')
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/embed", "the collection has no embedder");
    *out = embedders_find(router->embedders, collection->embedder);
    if (*out == NULL)
        return err_set(err, ERR_EMBEDDING_FAILED, "the embedder '%s' is not configured here",
                       collection->embedder);
    return ERR_OK;
}
