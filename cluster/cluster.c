/* The view of the other services: life, metadata follower, look-ups.  See cluster.h.
 *
 * The follower waits for the metadata store's version to rise and swaps the view.  When the store
 * is away it keeps the last view and tries again each second. */
#include "cluster/internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "common/http/json_doc.h"

#define FOLLOW_WAIT_NS  (100 * NS_PER_MS) /* so long a stop may take */
#define FOLLOW_RETRY_NS (200 * NS_PER_MS)

static bool is_stopping(struct cluster *cluster)
{
    bool stopping;

    pthread_mutex_lock(&cluster->mutex);
    stopping = cluster->stopping;
    pthread_mutex_unlock(&cluster->mutex);
    return stopping;
}

/* Replace the view unless it is newer already. */
static void publish_view(struct cluster *cluster, struct view *view)
{
    struct view *old = view;

    pthread_mutex_lock(&cluster->mutex);
    if (cluster->view == NULL || view->version >= cluster->view->version) {
        old = cluster->view;
        cluster->view = view;
    }
    pthread_mutex_unlock(&cluster->mutex);
    view_put(old);
}

enum err_code cluster_refresh(struct cluster *cluster, struct err *err)
{
    struct view *view;
    enum err_code rc = view_load(&view, cluster->meta, err);

    if (rc != ERR_OK)
        return rc;
    publish_view(cluster, view);
    return ERR_OK;
}

static void follow(void *argument)
{
    struct cluster *cluster = argument;

    while (!is_stopping(cluster)) {
        struct view *view = view_get(cluster);
        uint64_t seen = view->version, version = 0;
        uint64_t now = env_boot_ns(cluster->env);
        struct err err = {0};
        enum err_code rc;

        view_put(view);
        rc = meta_wait(cluster->meta, seen, now + FOLLOW_WAIT_NS, &version, &err);
        if (rc == ERR_OK && version != seen)
            rc = cluster_refresh(cluster, &err);
        atomic_store(&cluster->store_away, rc != ERR_OK);
        if (cluster->metadata_up != NULL)
            metric_set(cluster->metadata_up, rc == ERR_OK ? 1 : 0);
        if (rc == ERR_DEAD)
            return;
        if (rc == ERR_OK)
            continue;
        log_err(LOG_WARN, NULL, "the metadata store cannot be read, the last view serves on", &err);
        if (env_sleep_until(cluster->env, now + FOLLOW_RETRY_NS) != ERR_OK)
            return;
    }
}

enum err_code cluster_open(struct cluster **out, const struct cluster_options *options,
                           struct err *err)
{
    struct cluster *cluster = calloc(1, sizeof(*cluster));
    enum err_code rc;

    *out = NULL;
    if (cluster == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the cluster's view");
    cluster->env = options->env;
    cluster->meta = options->meta;
    cluster->client = options->client;
    cluster->metrics = options->metrics;
    cluster->status_every_ms = options->status_every_ms == 0 ? 100 : options->status_every_ms;
    cluster->compare_every_ms = options->compare_every_ms;
    pthread_mutex_init(&cluster->mutex, NULL);
    env_cond_init(cluster->env, &cluster->wake);
    if (cluster->metrics != NULL) {
        cluster->retries = metrics_counter(cluster->metrics, "shard_retries_total", "",
                                           "Questions sent to another replica.");
        cluster->hedges =
            metrics_counter(cluster->metrics, "shard_hedges_total", "",
                            "Questions asked of a second replica because the first was slow.");
        cluster->hedge_wins = metrics_counter(cluster->metrics, "shard_hedge_wins_total", "",
                                              "Of those, how many the second answered first.");
        cluster->metadata_up = metrics_gauge(cluster->metrics, "metadata_up", "",
                                             "1 when the metadata store answers.");
    }
    cluster->replicas = calloc((size_t)SHARDS_MAX * REPLICAS_MAX, sizeof(cluster->replicas[0]));
    if (cluster->replicas == NULL)
        rc = err_set(err, ERR_NO_MEMORY, "no memory for the replicas' states");
    else
        rc = cluster_refresh(cluster, err);
    if (rc == ERR_OK)
        rc = env_thread_start(cluster->env, &cluster->follower, "follow", follow, cluster, err);
    if (rc == ERR_OK)
        rc = env_thread_start(cluster->env, &cluster->watcher, "watch", report_watch, cluster, err);
    if (rc == ERR_OK)
        rc = env_thread_start(cluster->env, &cluster->prober, "probe", report_probe, cluster, err);
    if (rc == ERR_OK && cluster->compare_every_ms > 0)
        rc = env_thread_start(cluster->env, &cluster->comparer, "compare", compare_run, cluster,
                              err);
    if (rc != ERR_OK) {
        cluster_stop(cluster);
        cluster_close(cluster);
        return rc;
    }
    *out = cluster;
    return ERR_OK;
}

void cluster_stop(struct cluster *cluster)
{
    if (cluster == NULL)
        return;
    pthread_mutex_lock(&cluster->mutex);
    cluster->stopping = true;
    pthread_mutex_unlock(&cluster->mutex);
    env_cond_broadcast(&cluster->wake);
}

void cluster_close(struct cluster *cluster)
{
    if (cluster == NULL)
        return;
    env_thread_join(cluster->follower);
    env_thread_join(cluster->watcher);
    env_thread_join(cluster->prober);
    env_thread_join(cluster->comparer);
    if (cluster->replicas != NULL)
        for (size_t i = 0; i < (size_t)SHARDS_MAX * REPLICAS_MAX; i++)
            report_put(cluster->replicas[i].report);
    free(cluster->replicas);
    for (size_t i = 0; i < SHARDS_MAX; i++)
        free(cluster->hedges_of[i]);
    view_put(cluster->view);
    env_cond_free(&cluster->wake);
    pthread_mutex_destroy(&cluster->mutex);
    free(cluster);
}

enum err_code cluster_register(struct meta *meta, struct env *env, const char *service,
                               const char *name, const char *url, struct err *err)
{
    struct buffer value = {0};
    struct json_writer w;
    char key[128];
    enum err_code rc;

    (void)snprintf(key, sizeof(key), "node/%s/%s", service, name);
    json_writer_init(&w, &value);
    json_begin_object(&w);
    json_key(&w, "url");
    json_text(&w, url);
    json_key(&w, "started_us");
    json_u64(&w, env_wall_us(env));
    json_end_object(&w);
    rc = buffer_check(&value, err);
    if (rc == ERR_OK)
        rc = meta_put(
            meta,
            &(struct meta_put){
                .key = key, .value = value.data, .value_len = value.len, .expected = META_ANY},
            NULL, err);
    buffer_free(&value);
    return rc;
}

void cluster_replica_name(char out[32], uint32_t shard, uint32_t replica)
{
    (void)snprintf(out, 32, "%u.%u", shard, replica);
}

bool cluster_map(struct cluster *cluster, struct shard_map *out)
{
    struct view *view = view_get(cluster);
    bool has_map = view->has_map;

    if (has_map)
        *out = view->map;
    view_put(view);
    return has_map;
}

enum err_code cluster_ingest_url(struct cluster *cluster, bool again, char *out, size_t size,
                                 struct err *err)
{
    struct view *view;
    enum err_code rc = ERR_OK;

    if (again && (rc = cluster_refresh(cluster, err)) != ERR_OK)
        return rc;
    view = view_get(cluster);
    (void)snprintf(out, size, "%s", view->ingest_url);
    view_put(view);
    if (out[0] == '\0')
        return err_set(err, ERR_READ_ONLY, "no ingest service holds the log at present");
    return ERR_OK;
}

enum region_role cluster_role(struct cluster *cluster)
{
    struct view *view = view_get(cluster);
    enum region_role role = view->role;

    view_put(view);
    return role;
}

enum err_code cluster_check_role(struct cluster *cluster, struct err *err)
{
    struct view *view = view_get(cluster);
    enum err_code rc = ERR_OK;

    if (view->role == REGION_PASSIVE)
        rc = err_set(err, ERR_PASSIVE, "this region is passive: write to the primary one%s",
                     view->elsewhere);
    view_put(view);
    return rc;
}

static enum err_code collection_from_meta(struct cluster *cluster, const char *tenant,
                                          const char *name, uint64_t until_ns,
                                          struct collection *out, struct err *err)
{
    char key[META_KEY_BYTES_MAX];
    struct meta_row row = {0};
    bool active = false;
    enum err_code rc;

    (void)snprintf(key, sizeof(key), "collection/%s/%s", tenant, name);
    rc = meta_get_until(cluster->meta, key, until_ns, &row, err);
    if (rc == ERR_OK) {
        rc = view_collection_row(row.value, row.value_len, out, &active, err);
        meta_row_free(&row);
    }
    if (rc == ERR_NOT_FOUND || (rc == ERR_OK && !active))
        return err_set(err, ERR_COLLECTION_NOT_FOUND, "there is no collection '%s'", name);
    return rc;
}

static bool collection_from_view(struct cluster *cluster, const char *tenant, const char *name,
                                 struct collection *out)
{
    struct view *view = view_get(cluster);
    bool found = false;

    for (size_t low = 0, high = view->collection_count; low < high && !found;) {
        size_t middle = low + (high - low) / 2;
        const struct collection *candidate = &view->collections[middle];
        int order = strcmp(tenant, candidate->tenant);

        if (order == 0)
            order = strcmp(name, candidate->name);
        if (order == 0) {
            *out = *candidate;
            found = true;
        } else if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    view_put(view);
    return found;
}

enum err_code cluster_collection(struct cluster *cluster, const char *tenant, const char *name,
                                 bool again, struct collection *out, struct err *err)
{
    if (!again && collection_from_view(cluster, tenant, name, out))
        return ERR_OK;
    return collection_from_meta(cluster, tenant, name, NEVER_NS, out, err);
}

enum err_code cluster_collection_now(struct cluster *cluster, const char *name, uint64_t until_ns,
                                     struct collection *out, struct err *err)
{
    enum err_code rc;

    if (atomic_load(&cluster->store_away) &&
        collection_from_view(cluster, TENANT_DEFAULT, name, out))
        return ERR_OK;
    rc = collection_from_meta(cluster, TENANT_DEFAULT, name, until_ns, out, err);
    if (rc != ERR_UNAVAILABLE && rc != ERR_IO)
        return rc;
    atomic_store(&cluster->store_away, true); /* until the follower has heard from it */
    if (!collection_from_view(cluster, TENANT_DEFAULT, name, out))
        return rc;
    err_clear(err);
    return ERR_OK;
}

enum err_code cluster_collections(struct cluster *cluster, const char *tenant, const char *after,
                                  struct collection *out, size_t max, size_t *count, bool *more,
                                  struct err *err)
{
    struct view *view;
    enum err_code rc = cluster_refresh(cluster, err);

    *count = 0;
    *more = false;
    if (rc != ERR_OK)
        return rc;
    view = view_get(cluster);
    for (size_t i = 0; i < view->collection_count && !*more; i++) {
        const struct collection *collection = &view->collections[i];

        if (strcmp(collection->tenant, tenant) != 0 || strcmp(collection->name, after) <= 0)
            continue;
        *more = *count == max;
        if (!*more)
            out[(*count)++] = *collection;
    }
    view_put(view);
    return ERR_OK;
}
