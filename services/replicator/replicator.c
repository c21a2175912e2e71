/* The service's object, and its thread "regions": see replicator.h.
 *
 * Happy path: read the rows about regions, start a thread for each peer, wait for the rows to
 * change; once a second write the table of lag.  A row that changes or goes ends its thread and, if
 * there is one again, starts another.  Failure modes: the metadata store away: the peers go on; a
 * thread that cannot be started is tried again. */
#include "services/replicator/replicator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"

static const struct log_context CONTEXT = {.operation = "regions"};

static bool is_stopping(const struct replicator *replicator)
{
    return atomic_load(&replicator->stopping);
}

/* --- peers -------------------------------------------------------------------------------------
 */

static void register_metrics(struct peer *peer)
{
    struct metrics *metrics = peer->replicator->setup.metrics;
    char label[64];

    if (metrics == NULL)
        return;
    (void)snprintf(label, sizeof(label), "origin=\"%s\"", peer->row.name);
    peer->metrics = (struct peer_metrics){
        .lag = metrics_gauge(metrics, "replication_lag_seconds", label,
                             "How far this region's copy is behind the origin's log."),
        .lag_records = metrics_gauge(metrics, "replication_lag_records", label,
                                     "Entries of the origin's log that are not here."),
        .propagation = metrics_latency(
            metrics, "propagation_latency_seconds", label,
            "From the write's stamp at the origin to its commit here, by both regions' clocks."),
        .records = metrics_counter(metrics, "replicated_records_total", label,
                                   "Records of the origin that were taken."),
        .state = metrics_gauge(metrics, "replication_state", label,
                               "0 connecting, 1 following, 2 catching up, 3 away, 4 refused, 5 "
                               "stuck."),
    };
}

void peer_put_locked(struct peer *peer)
{
    if (--peer->refs > 0)
        return;
    free(peer->views);
    free(peer->round_ends);
    free(peer);
}

static void peer_start(struct replicator *replicator, const struct region_row *row)
{
    struct peer *peer = calloc(1, sizeof(*peer));
    struct err err = {0};

    if (peer == NULL) {
        (void)err_set(&err, ERR_NO_MEMORY, "no memory for a peer");
    } else {
        peer->replicator = replicator;
        peer->row = *row;
        peer->refs = 1;
        register_metrics(peer);
        if (env_thread_start(replicator->env, &peer->thread, "peer", peer_run, peer, &err) ==
            ERR_OK) {
            pthread_mutex_lock(&replicator->lock);
            peer->next = replicator->peers;
            replicator->peers = peer;
            pthread_mutex_unlock(&replicator->lock);
            return;
        }
    }
    free(peer);
    log_err(LOG_ERROR, &CONTEXT, "a peer cannot be followed", &err);
}

/* Take it out of the list, so that nobody sees it, then end it. */
static void peer_end(struct replicator *replicator, struct peer *peer)
{
    struct peer **at;

    pthread_mutex_lock(&replicator->lock);
    for (at = &replicator->peers; *at != peer;)
        at = &(*at)->next;
    *at = peer->next;
    atomic_store(&peer->stopping, true);
    env_cond_broadcast(&replicator->changed);
    pthread_mutex_unlock(&replicator->lock);
    env_thread_join(peer->thread);
    pthread_mutex_lock(&replicator->lock);
    peer_put_locked(peer);
    pthread_mutex_unlock(&replicator->lock);
}

static struct peer *peer_of(struct replicator *replicator, const char *name)
{
    struct peer *peer;

    pthread_mutex_lock(&replicator->lock);
    for (peer = replicator->peers; peer != NULL && strcmp(peer->row.name, name) != 0;)
        peer = peer->next;
    pthread_mutex_unlock(&replicator->lock);
    return peer;
}

static bool is_peer(const struct replicator *replicator, const struct region_row *row)
{
    return !row->is_self && strcmp(row->name, replicator->setup.region) != 0 &&
           row->wal_url[0] != '\0';
}

/* --- the rows ----------------------------------------------------------------------------------
 */

/* Only this thread changes the list: what it reads without the lock stays. */
static void end_those_that_went(struct replicator *replicator, const struct region_row *rows,
                                size_t count)
{
    struct peer *peer = replicator->peers;

    while (peer != NULL) {
        struct peer *next = peer->next;
        bool stays = false;

        for (size_t i = 0; i < count; i++)
            stays = stays ||
                    (strcmp(rows[i].name, peer->row.name) == 0 && is_peer(replicator, &rows[i]) &&
                     strcmp(rows[i].wal_url, peer->row.wal_url) == 0);
        if (!stays) {
            struct err err = {0};
            char name[REGION_NAME_BYTES];

            memcpy(name, peer->row.name, sizeof(name));
            peer_end(replicator, peer);
            if (meta_lag_remove(replicator->setup.meta, name, &err) != ERR_OK)
                log_err(LOG_WARN, &CONTEXT, "rows of lag of a former peer stay", &err);
        }
        peer = next;
    }
}

static enum err_code follow_rows(struct replicator *replicator, struct err *err)
{
    struct region_row *rows = NULL;
    size_t count = 0;
    enum err_code rc = regions_read(replicator->setup.meta, &rows, &count, err);

    if (rc != ERR_OK)
        return rc;
    end_those_that_went(replicator, rows, count);
    for (size_t i = 0; i < count; i++)
        if (is_peer(replicator, &rows[i]) && peer_of(replicator, rows[i].name) == NULL)
            peer_start(replicator, &rows[i]);
    free(rows);
    return ERR_OK;
}

/* Say once what is wrong with the metadata store. */
static void note_trouble(struct replicator *replicator, const struct err *err)
{
    bool is_news;

    pthread_mutex_lock(&replicator->lock);
    is_news = strcmp(replicator->trouble, err->message) != 0;
    (void)snprintf(replicator->trouble, sizeof(replicator->trouble), "%s", err->message);
    replicator->has_rows = replicator->has_rows || err->code == ERR_OK;
    pthread_mutex_unlock(&replicator->lock);
    if (is_news && err->code != ERR_OK)
        log_err(LOG_WARN, &CONTEXT, "the metadata store is away: the peers go on", err);
}

static void regions_run(void *argument)
{
    struct replicator *replicator = argument;
    struct meta *meta = replicator->setup.meta;
    uint64_t seen = 0, version = 0, written_ns = 0;

    while (!is_stopping(replicator)) {
        struct err err = {0};
        uint64_t now_ns = env_boot_ns(replicator->env);
        enum err_code rc = meta_wait(meta, seen, now_ns + LAG_EVERY / 4, &version, &err);

        if (rc == ERR_OK && (version != seen || !replicator->has_rows)) {
            rc = follow_rows(replicator, &err);
            seen = rc == ERR_OK ? version : seen;
        }
        if (rc == ERR_OK && env_boot_ns(replicator->env) - written_ns >= LAG_EVERY) {
            written_ns = env_boot_ns(replicator->env);
            rc = lag_write(replicator, &err);
        }
        if (rc == ERR_DEAD)
            break;
        note_trouble(replicator, &err);
        if (rc != ERR_OK && env_sleep_until(replicator->env, env_boot_ns(replicator->env) +
                                                                 RETRY_MAX_NS / 4) != ERR_OK)
            break;
    }
    while (replicator->peers != NULL)
        peer_end(replicator, replicator->peers);
}

/* --- the object --------------------------------------------------------------------------------
 */

enum err_code replicator_open(struct replicator *replicator, const struct replicator_setup *setup,
                              struct err *err)
{
    if (!region_name_is_valid(setup->region))
        return err_set(err, ERR_CONFIG, "--region wants 1 to %d of a-z, 0-9 and -",
                       REGION_NAME_BYTES - 1);
    replicator->setup = *setup;
    replicator->env = setup->env;
    if (setup->metrics != NULL)
        replicator->waiting =
            metrics_gauge(setup->metrics, "replication_waiters", "",
                          "Reads over all regions, and writes with a quorum, that wait here.");
    pthread_mutex_init(&replicator->lock, NULL);
    env_cond_init(setup->env, &replicator->changed);
    return ERR_OK;
}

enum err_code replicator_start(struct replicator *replicator, struct err *err)
{
    return env_thread_start(replicator->env, &replicator->regions, "regions", regions_run,
                            replicator, err);
}

void replicator_stop(struct replicator *replicator)
{
    if (replicator->env == NULL)
        return;
    atomic_store(&replicator->stopping, true);
    pthread_mutex_lock(&replicator->lock);
    for (struct peer *peer = replicator->peers; peer != NULL; peer = peer->next)
        atomic_store(&peer->stopping, true);
    env_cond_broadcast(&replicator->changed);
    pthread_mutex_unlock(&replicator->lock);
}

void replicator_close(struct replicator *replicator)
{
    if (replicator->env == NULL)
        return;
    replicator_stop(replicator);
    env_thread_join(replicator->regions);
    env_cond_free(&replicator->changed);
    pthread_mutex_destroy(&replicator->lock);
    replicator->env = NULL;
}

/* A peer that is away is no reason to take the replicator out: it is what it is there for. */
bool replicator_ready(struct replicator *replicator, struct buffer *why)
{
    bool ready;

    pthread_mutex_lock(&replicator->lock);
    ready = replicator->has_rows;
    pthread_mutex_unlock(&replicator->lock);
    if (!ready)
        buffer_append_text(why, "\"the metadata store has not been read\"");
    return ready;
}

const struct route replicator_routes[] = {
    {"GET", "/internal/v1/status", handle_replicator_status, 0, "replicatorStatus"},
    {"POST", "/internal/v1/reach", handle_reach, REACH_BODY_MAX, "replicatorReach"},
    {"POST", "/internal/v1/held", handle_held, HELD_BODY_MAX, "replicatorHeld"},
    {0},
};
