/* A shard's life and what its threads share: see shard.h.
 *
 * shard_open starts the threads and returns at once: the consumer waits for the map and the log by
 * itself, so that a shard can be started before everything else.  Until it has caught up with the
 * log's end of that moment, questions are refused: an answer from a state that is being rebuilt
 * would look like lost data. */
#include "services/shard/shard.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "common/model/wire.h"
#include "services/shard/bitmap.h"
#include "services/shard/copy.h"
#include "services/shard/helpers.h"
#include "services/shard/snapshot.h"

bool shard_is_stopping(const struct shard *shard)
{
    /* Acquire: whoever sees it sees what was done before it was set. */
    return atomic_load_explicit(&shard->is_stopping, memory_order_acquire);
}

/* Once for every time that it gets there. */
static void tell_ready(const struct shard *shard)
{
    char name[16];

    snprintf(name, sizeof(name), "%u", shard->setup.shard);
    log_info(&(struct log_context){.shard_id = name}, "the log is followed",
             LOG_U64("replica", shard->setup.replica),
             LOG_U64("partitions", shard->apply.partition_count),
             LOG_U64("collections", shard->apply.collection_count));
}

void shard_set_state(struct shard *shard, enum shard_state state, const struct err *err)
{
    bool is_news;

    pthread_mutex_lock(&shard->lock);
    is_news = shard->state != state;
    shard->state = state;
    if (state == SHARD_READY)
        shard->is_open = true;
    snprintf(shard->detail, sizeof(shard->detail), "%s", err == NULL ? "" : err->message);
    env_cond_broadcast(&shard->changed);
    pthread_mutex_unlock(&shard->lock);
    if (state == SHARD_FAILED && shard->metrics.failures != NULL)
        metric_add(shard->metrics.failures, 1);
    if (state == SHARD_READY && is_news)
        tell_ready(shard);
}

void shard_shut(struct shard *shard)
{
    pthread_mutex_lock(&shard->lock);
    shard->state = SHARD_STARTING;
    shard->is_open = false;
    shard->generation++;
    shard->served_count = 0;
    memset(&shard->served, 0, sizeof(shard->served));
    env_cond_broadcast(&shard->changed);
    pthread_mutex_unlock(&shard->lock);
}

struct wal *shard_wal_get(struct shard *shard)
{
    struct wal *wal;

    pthread_mutex_lock(&shard->lock);
    wal = shard->wal;
    if (wal != NULL)
        shard->wal_users++;
    pthread_mutex_unlock(&shard->lock);
    return wal;
}

void shard_wal_put(struct shard *shard)
{
    pthread_mutex_lock(&shard->lock);
    assert(shard->wal_users > 0);
    shard->wal_users--;
    env_cond_broadcast(&shard->changed);
    pthread_mutex_unlock(&shard->lock);
}

bool shard_ready(struct shard *shard, struct buffer *why)
{
    bool is_open;

    pthread_mutex_lock(&shard->lock);
    is_open = shard->is_open && !shard_is_stopping(shard);
    if (!is_open) {
        const char *detail = shard->detail[0] != '\0' ? shard->detail : "catching up with the log";

        json_escape(why, detail, strlen(detail));
    }
    pthread_mutex_unlock(&shard->lock);
    return is_open;
}

/* --- metrics -----------------------------------------------------------------------------------
 */

static void open_metrics(struct shard *shard)
{
    static const char *const operations[] = {
        [WIRE_SEARCH] = "search", [WIRE_GET] = "get",   [WIRE_SCROLL] = "scroll",
        [WIRE_COUNT] = "count",   [WIRE_WAIT] = "wait",
    };
    struct metrics *all = shard->setup.metrics;
    struct shard_metrics *m = &shard->metrics;
    char labels[80];

    static_assert(ARRAY_COUNT(operations) == ARRAY_COUNT(m->latency), "one for each operation");
    if (all == NULL)
        return;
    for (size_t op = WIRE_SEARCH; op <= WIRE_WAIT; op++) {
        snprintf(labels, sizeof(labels), "shard=\"%u\",operation=\"%s\"", shard->setup.shard,
                 operations[op]);
        m->latency[op] = metrics_latency(all, "vector_search_latency_seconds", labels,
                                         "Time to answer a question, waiting included.");
    }
    snprintf(labels, sizeof(labels), "shard=\"%u\"", shard->setup.shard);
    m->build = metrics_latency(all, "index_build_duration_seconds", labels,
                               "From vectors waiting to be linked until none is.");
    m->searches = metrics_counter(all, "search_qps_total", labels, "Searches answered.");
    m->read = metrics_counter(all, "shard_read_records_total", labels,
                              "Records of the log that this process has read.");
    metric_set(metrics_gauge(all, "shard_copied_bytes", labels,
                             "Bytes of another replica's copy that this process began with."),
               (double)shard->setup.copied_bytes);
    metric_set(metrics_gauge(all, "shard_store_set_aside", labels,
                             "1: a store that could not be used was in the place of this one's."),
               shard->setup.was_set_aside ? 1 : 0);
    m->applied = metrics_gauge(all, "shard_applied_records", labels,
                               "Records of the log that counted, since the store was made.");
    m->voided = metrics_gauge(all, "shard_void_records", labels,
                              "Records of holders that had been replaced.");
    m->parked = metrics_gauge(all, "shard_parked_records", labels,
                              "Records of collections that are not known.");
    m->failures = metrics_counter(all, "shard_failures_total", labels,
                                  "Times that the log could not be followed.");
    m->set_aside = metrics_counter(all, "shard_segments_set_aside_total", labels,
                                   "Segments that were damaged or not of the store's history.");
    m->maintenance_failures =
        metrics_counter(all, "shard_maintenance_failures_total", labels,
                        "Times that a graph could not be rebuilt or kept on the disk.");
    m->staleness = metrics_gauge(all, "staleness_seconds", labels,
                                 "How stale the stalest partition is; -1: unknown.");
    m->lag = metrics_gauge(all, "shard_position_lag", labels,
                           "Records between the positions and the log's ends.");
    m->memory = metrics_gauge(all, "shard_memory_bytes", labels, "Bytes that the indexes take.");
    m->memory_limit =
        metrics_gauge(all, "shard_memory_limit_bytes", labels, "Their limit; 0: none.");
    m->linked = metrics_gauge(all, "shard_linked_vectors", labels,
                              "Vectors in the graphs, and the cold ones.");
    m->unlinked = metrics_gauge(all, "shard_unlinked_vectors", labels,
                                "Live vectors less those in the graphs, at least 0.");
    m->cold = metrics_gauge(all, "shard_cold_vectors", labels,
                            "Live vectors that are kept in inverted files, not in the graphs.");
    m->records = metrics_gauge(all, "shard_records", labels, "Live records.");
    m->bytes = metrics_gauge(all, "shard_store_bytes", labels, "Bytes of the store.");
}

static void measure_locked(struct shard *shard, uint64_t now_ns)
{
    double staleness = 0;
    uint64_t lag = 0, records = 0, linked = 0, live = 0, cold = 0;

    for (uint32_t slot = 0; slot < shard->served_count; slot++) {
        const struct shard_partition *partition = &shard->partitions[slot];
        uint64_t stale_ns = freshness_of_locked(shard, slot, now_ns);

        if (stale_ns == NEVER_NS)
            staleness = -1;
        else if (staleness >= 0)
            staleness = MAX_OF(staleness, (double)stale_ns / (double)NS_PER_S);
        if (shard->round_ends[slot] > partition->position)
            lag += shard->round_ends[slot] - partition->position;
        records += partition->counts.live;
    }
    for (uint32_t i = 0; i < shard->collection_count; i++) {
        const struct engine *engine = shard->collections[i]->engine;

        live += engine == NULL ? 0 : engine_count(engine);
        linked += engine == NULL ? 0 : engine_linked(engine);
        cold += engine == NULL ? 0 : engine_cold(engine);
    }
    metric_set(shard->metrics.staleness, shard->is_open ? staleness : -1);
    metric_set(shard->metrics.lag, (double)lag);
    metric_set(shard->metrics.records, (double)records);
    metric_set(shard->metrics.linked, (double)linked);
    metric_set(shard->metrics.cold, (double)cold);
    metric_set(shard->metrics.unlinked, live > linked ? (double)(live - linked) : 0);
}

void shard_measure(struct shard *shard)
{
    if (shard->setup.metrics == NULL)
        return;
    snapshotter_measure(shard->snapshotter);
    metric_set(shard->metrics.memory, (double)collections_memory(shard));
    metric_set(shard->metrics.memory_limit, (double)shard->setup.memory_bytes);
    metric_set(shard->metrics.bytes, (double)store_bytes(shard->setup.store));
    pthread_mutex_lock(&shard->lock);
    measure_locked(shard, env_boot_ns(shard->env));
    metric_set(shard->metrics.applied, (double)shard->applied);
    metric_set(shard->metrics.voided, (double)shard->voided);
    metric_set(shard->metrics.parked, (double)shard->parked);
    pthread_mutex_unlock(&shard->lock);
}

/* --- life --------------------------------------------------------------------------------------
 */

static enum err_code start_threads(struct shard *shard, struct err *err)
{
    struct env *env = shard->env;
    enum err_code code =
        env_thread_start(env, &shard->consumer, "consume", consume_run, shard, err);

    if (code == ERR_OK)
        code = env_thread_start(env, &shard->indexer, "index", indexer_run, shard, err);
    if (code == ERR_OK)
        code = env_thread_start(env, &shard->maintainer, "maintain", maintain_run, shard, err);
    if (code == ERR_OK)
        code = env_thread_start(env, &shard->poller, "fresh", freshness_run, shard, err);
    if (code == ERR_OK && shard->setup.copies != NULL)
        code = copier_open(&shard->copier,
                           &(struct copier_options){.shard = shard,
                                                    .folder = shard->setup.copies,
                                                    .rate = shard->setup.copy_rate},
                           err);
    if (code == ERR_OK && shard->setup.snapshots != NULL && shard->setup.blob != NULL)
        code = snapshotter_open(&shard->snapshotter, shard, err);
    return code;
}

enum err_code shard_open(struct shard *shard, const struct shard_setup *setup, struct err *err)
{
    enum err_code code;

    assert(setup->env != NULL && setup->meta != NULL && setup->store != NULL);
    assert(setup->wal != NULL || setup->wal_url != NULL);
    shard->setup = *setup;
    shard->env = setup->env;
    if (shard->setup.waiters_max == 0)
        shard->setup.waiters_max = WAITERS_MAX_DEFAULT;
    if (shard->setup.poll_ms == 0)
        shard->setup.poll_ms = POLL_MS_DEFAULT;
    if (shard->setup.maintain_ms == 0)
        shard->setup.maintain_ms = MAINTAIN_MS_DEFAULT;
    pthread_mutex_init(&shard->lock, NULL);
    env_cond_init(shard->env, &shard->changed);
    env_cond_init(shard->env, &shard->errand);
    env_cond_init(shard->env, &shard->wanted);
    grace_init(&shard->grace);
    atomic_init(&shard->is_stopping, false);
    atomic_init(&shard->commits, 0);
    shard->partitions = array_alloc(PARTITIONS_MAX, sizeof(*shard->partitions));
    shard->round_ends = array_alloc(PARTITIONS_MAX, sizeof(*shard->round_ends));
    shard->bitmaps = bitmap_cache_new();
    if (shard->partitions == NULL || shard->round_ends == NULL || shard->bitmaps == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory for a shard");
    else
        code = ERR_OK;
    if (code == ERR_OK)
        code = helpers_open(&shard->helpers, shard->env, shard->setup.link_threads, err);
    if (code == ERR_OK) {
        open_metrics(shard);
        code = start_threads(shard, err);
    }
    if (code != ERR_OK) {
        shard_stop(shard);
        shard_close(shard);
    }
    return code;
}

void shard_stop(struct shard *shard)
{
    if (shard->env == NULL)
        return;
    pthread_mutex_lock(&shard->lock);
    /* Release, see shard_is_stopping. */
    atomic_store_explicit(&shard->is_stopping, true, memory_order_release);
    env_cond_broadcast(&shard->changed);
    env_cond_broadcast(&shard->errand);
    env_cond_broadcast(&shard->wanted);
    pthread_mutex_unlock(&shard->lock);
    copier_stop(shard->copier);
    snapshotter_stop(shard->snapshotter);
}

void shard_close(struct shard *shard)
{
    if (shard->env == NULL)
        return;
    assert(shard_is_stopping(shard));
    copier_close(shard->copier);
    snapshotter_close(shard->snapshotter);
    env_thread_join(shard->poller);
    env_thread_join(shard->maintainer);
    env_thread_join(shard->indexer);
    env_thread_join(shard->consumer);
    start_close_wal(shard);
    collections_cut(shard, 0);
    collections_free_gone(shard);
    helpers_close(shard->helpers);
    bitmap_cache_free(shard->bitmaps);
    apply_free(&shard->apply);
    buffer_free(&shard->bulk);
    free(shard->retired);
    free(shard->collections);
    free(shard->index);
    free(shard->partitions);
    free(shard->round_ends);
    env_cond_free(&shard->changed);
    env_cond_free(&shard->errand);
    env_cond_free(&shard->wanted);
    pthread_mutex_destroy(&shard->lock);
    *shard = (struct shard){0};
}
