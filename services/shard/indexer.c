/* Work in the background: linking new vectors into the graphs, a slice of each collection at a
 * time; syncing the store once a second (what a power cut takes is read from the log again);
 * looking whether the map gives this shard other partitions.
 *
 * Failure modes: missing memory in a graph, a store or a metadata store that fails: logged, and
 * tried again a second later; searches scan flat what is not linked. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/shard/shard.h"

#define SLICE_VECTORS 64
#define CHORES_NS     NS_PER_S

static void report(struct shard *shard, const char *what, const struct err *err)
{
    char name[16];

    snprintf(name, sizeof(name), "%u", shard->setup.shard);
    log_err(LOG_WARN, &(struct log_context){.shard_id = name}, what, err);
}

/* One slice for every collection; true when there is more to link. */
static bool link_slices(struct shard *shard)
{
    bool more = false;
    bool is_last = false;

    if (atomic_load(&shard->is_filling))
        return false;
    for (uint32_t number = 0; !is_last && !shard_is_stopping(shard); number++) {
        struct shard_collection *entry = collections_at(shard, number, &is_last);
        struct err err = {0};
        uint64_t left = 0;

        if (entry == NULL)
            continue;
        if (engine_step(entry->engine, SLICE_VECTORS, &left, &err) != ERR_OK)
            report(shard, "vectors could not be linked", &err);
        else if (left > 0)
            more = true;
        collections_put(shard, entry);
    }
    return more;
}

static void watch_map(struct shard *shard)
{
    struct meta_row row = {0};
    struct shard_map map;
    struct partition_set served;
    struct err err = {0};
    enum err_code code = meta_get(shard->setup.meta, "map", &row, &err);

    if (code == ERR_OK)
        code = shard_map_decode(&map, row.value, row.value_len, &err);
    meta_row_free(&row);
    /* No map, or no metadata store: the last one goes on. */
    if (code != ERR_OK || shard->setup.shard >= map.shards)
        return;
    shard_map_partitions(&map, shard->setup.shard, &served);
    pthread_mutex_lock(&shard->lock);
    if (shard->served_count > 0) {
        shard->map_version = map.version;
        if (memcmp(&served, &shard->served, sizeof(served)) != 0)
            shard->should_reload = true;
    }
    pthread_mutex_unlock(&shard->lock);
}

/* What was published when a sync began is safe when it has ended. */
struct syncing {
    uint64_t commits; /* of which a sync knows */
    uint64_t generation;
    uint64_t positions[PARTITIONS_MAX]; /* by slot */
};

static void begin_sync(struct shard *shard, struct syncing *syncing)
{
    pthread_mutex_lock(&shard->lock);
    syncing->generation = shard->generation;
    for (uint32_t slot = 0; slot < shard->served_count; slot++)
        syncing->positions[slot] = shard->partitions[slot].position;
    pthread_mutex_unlock(&shard->lock);
}

static bool is_synced(struct shard *shard)
{
    bool is_all = true;

    pthread_mutex_lock(&shard->lock);
    for (uint32_t slot = 0; slot < shard->served_count; slot++)
        is_all = is_all && shard->partitions[slot].synced == shard->partitions[slot].position;
    pthread_mutex_unlock(&shard->lock);
    return is_all;
}

/* A store that was cleared meanwhile is another. */
static void end_sync(struct shard *shard, const struct syncing *syncing)
{
    pthread_mutex_lock(&shard->lock);
    for (uint32_t slot = 0; syncing->generation == shard->generation && slot < shard->served_count;
         slot++)
        shard->partitions[slot].synced = syncing->positions[slot];
    pthread_mutex_unlock(&shard->lock);
}

/* Unless nothing was committed since. */
static enum err_code sync_store(struct shard *shard, struct syncing *syncing)
{
    uint64_t commits = atomic_load(&shard->commits);
    struct err err = {0};
    enum err_code code;

    if (commits == syncing->commits && is_synced(shard))
        return ERR_OK;
    begin_sync(shard, syncing);
    code = store_sync(shard->setup.store, &err);
    if (code == ERR_OK) {
        end_sync(shard, syncing);
        syncing->commits = commits;
    } else if (code != ERR_DEAD) {
        report(shard, "the store could not be synced", &err);
    }
    return code;
}

void indexer_run(void *argument)
{
    struct shard *shard = argument;
    uint64_t chores_ns = env_boot_ns(shard->env) + CHORES_NS;
    struct syncing *syncing = array_alloc(1, sizeof(*syncing));
    uint64_t build_ns = 0; /* when linking began; 0: there is nothing to link */

    if (syncing == NULL)
        abort();
    while (!shard_is_stopping(shard)) {
        enum err_code code = ERR_OK;
        uint64_t now_ns;

        if (link_slices(shard)) {
            if (build_ns == 0)
                build_ns = env_boot_ns(shard->env);
            code = env_yield(shard->env);
        } else {
            if (build_ns != 0 && shard->metrics.build != NULL)
                metric_observe_ns(shard->metrics.build, env_boot_ns(shard->env) - build_ns);
            build_ns = 0;
            pthread_mutex_lock(&shard->lock);
            if (!shard_is_stopping(shard))
                code = env_cond_wait(&shard->changed, &shard->lock, chores_ns);
            pthread_mutex_unlock(&shard->lock);
        }
        if (code == ERR_DEAD)
            break;
        now_ns = env_boot_ns(shard->env);
        if (now_ns < chores_ns)
            continue;
        chores_ns = now_ns + CHORES_NS;
        if (sync_store(shard, syncing) == ERR_DEAD)
            break;
        watch_map(shard);
    }
    free(syncing);
}
