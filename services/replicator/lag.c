/* How far behind a peer's log we are, measured as staleness is (DESIGN of freshness.c): the boot
 * time is noted, then the ends are asked; once everything below them is here, all that was
 * committed there before that time is here.  No clock of another machine takes part. */
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "services/replicator/replicator.h"

/* Everything below is in our log, or is nothing that ever comes into it. */
static uint64_t applied_of(const struct line *line)
{
    return line->has_data || line->read < line->wanted ? line->wanted : line->read;
}

static void note_ends(struct peer *peer, uint64_t asked_ns, const uint64_t *ends)
{
    struct replicator *replicator = peer->replicator;

    for (uint32_t i = 0; i < peer->partitions; i++) {
        struct line *line = &peer->lines[i];

        /* The one that is waited for stays: the newest would never be reached under load. */
        if (!line->is_polled) {
            line->is_polled = true;
            line->asked_ns = asked_ns;
            line->end = ends[i];
        }
    }
    pthread_mutex_lock(&replicator->lock);
    for (uint32_t i = 0; i < peer->partitions; i++)
        peer->views[i].end = ends[i];
    peer->seen_us = env_wall_us(replicator->env);
    pthread_mutex_unlock(&replicator->lock);
}

static void note_reached(struct peer *peer)
{
    for (uint32_t i = 0; i < peer->partitions; i++) {
        struct line *line = &peer->lines[i];

        if (line->is_polled && applied_of(line) >= line->end) {
            line->fresh_ns = line->asked_ns;
            line->is_polled = false;
        }
    }
}

enum err_code lag_poll(struct peer *peer, struct err *err)
{
    struct env *env = peer->replicator->env;
    uint64_t now_ns = env_boot_ns(env);
    uint32_t partitions[PARTITIONS_MAX];
    uint64_t ends[PARTITIONS_MAX];
    struct err away = {0};
    enum err_code rc;

    note_reached(peer);
    if (now_ns - peer->ends_ns < ENDS_EVERY)
        return ERR_OK;
    for (uint32_t i = 0; i < peer->partitions; i++)
        partitions[i] = i;
    rc = wal_ends(peer->wal, partitions, peer->partitions, now_ns + ENDS_WAIT, ends, &away);
    peer->ends_ns = env_boot_ns(env);
    peer->are_ends_told = rc == ERR_OK;
    if (rc == ERR_OK) {
        note_ends(peer, now_ns, ends);
        note_reached(peer);
    } else if (rc == ERR_DEAD) {
        return err_set(err, ERR_DEAD, "shutting down");
    } else {
        peer_set_state(peer, PEER_AWAY, &away);
    }
    return ERR_OK;
}

/* --- what others see ---------------------------------------------------------------------------
 */

void lag_sample_locked(struct peer *peer, uint64_t us)
{
    peer->samples_us[peer->sampled++ % SAMPLES] = (uint32_t)MIN_OF(us, (uint64_t)UINT32_MAX);
}

static int compare_samples(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return a < b ? -1 : a > b;
}

/* Of what is not here: UINT64_MAX stands for never. */
static uint64_t lag_ms_of(const struct line_view *view, uint64_t now_ns)
{
    if (view->fresh_ns == 0)
        return LAG_NEVER;
    return now_ns > view->fresh_ns ? (now_ns - view->fresh_ns) / NS_PER_MS : 0;
}

void lag_summarise_locked(const struct peer *peer, struct lag_summary *out)
{
    uint64_t now_ns = env_boot_ns(peer->replicator->env);
    uint32_t sorted[SAMPLES];
    size_t count = (size_t)MIN_OF(peer->sampled, (uint64_t)SAMPLES);

    *out = (struct lag_summary){.p50_ms = -1, .p99_ms = -1};
    if (peer->view_count == 0)
        out->lag_ms = LAG_NEVER;
    for (uint32_t i = 0; i < peer->view_count; i++) {
        const struct line_view *view = &peer->views[i];

        out->lag_ms = MAX_OF(out->lag_ms, lag_ms_of(view, now_ns));
        out->lag_records += view->end > view->applied ? view->end - view->applied : 0;
    }
    if (count == 0)
        return;
    memcpy(sorted, peer->samples_us, count * sizeof(sorted[0]));
    qsort(sorted, count, sizeof(sorted[0]), compare_samples);
    out->p50_ms = sorted[count / 2] / 1000.0;
    out->p99_ms = sorted[count * 99 / 100] / 1000.0;
}

void lag_publish(struct peer *peer)
{
    struct replicator *replicator = peer->replicator;
    struct lag_summary summary;

    note_reached(peer);
    pthread_mutex_lock(&replicator->lock);
    for (uint32_t i = 0; i < peer->partitions; i++) {
        peer->views[i].applied = applied_of(&peer->lines[i]);
        peer->views[i].fresh_ns = peer->lines[i].fresh_ns;
    }
    lag_summarise_locked(peer, &summary);
    pthread_mutex_unlock(&replicator->lock);
    if (peer->are_ends_told && peer->ingest_url[0] != '\0')
        peer_set_state(peer,
                       summary.lag_ms >= BEHIND_NS / NS_PER_MS ? PEER_CATCHING_UP : PEER_FOLLOWING,
                       NULL);
}

/* --- the table ---------------------------------------------------------------------------------
 */

static enum err_code add_rows_locked(struct replicator *replicator, const struct peer *peer,
                                     struct meta_lags *rows, struct err *err)
{
    uint64_t now_ns = env_boot_ns(replicator->env);
    enum err_code rc = ERR_OK;

    for (uint32_t i = 0; i < peer->view_count && rc == ERR_OK; i++) {
        const struct line_view *view = &peer->views[i];
        struct meta_lag row = {.origin_number = peer->view_number,
                               .partition = i,
                               .origin_end = view->end,
                               .applied = view->applied,
                               .lag_records =
                                   view->end > view->applied ? view->end - view->applied : 0,
                               .lag_ms = lag_ms_of(view, now_ns),
                               .seen_us = peer->seen_us};

        memcpy(row.origin, peer->row.name, sizeof(row.origin));
        memcpy(row.region, replicator->setup.region,
               strnlen(replicator->setup.region, REGION_NAME_BYTES - 1));
        rc = meta_lags_push(rows, &row, err);
    }
    return rc;
}

enum err_code lag_write(struct replicator *replicator, struct err *err)
{
    struct meta_lags rows = {0};
    enum err_code rc = ERR_OK;

    pthread_mutex_lock(&replicator->lock);
    for (const struct peer *peer = replicator->peers; peer != NULL && rc == ERR_OK;
         peer = peer->next)
        rc = add_rows_locked(replicator, peer, &rows, err);
    pthread_mutex_unlock(&replicator->lock);
    if (rc == ERR_OK)
        rc = meta_lag_put(replicator->setup.meta, rows.items, rows.count, err);
    free(rows.items);
    return rc;
}

void replicator_measure(struct replicator *replicator)
{
    pthread_mutex_lock(&replicator->lock);
    if (replicator->waiting != NULL)
        metric_set(replicator->waiting, replicator->waiters);
    for (struct peer *peer = replicator->peers; peer != NULL; peer = peer->next) {
        struct lag_summary summary;

        if (peer->metrics.lag == NULL)
            continue;
        lag_summarise_locked(peer, &summary);
        metric_set(peer->metrics.lag, summary.lag_ms == LAG_NEVER ? 1e9 : summary.lag_ms / 1000.0);
        metric_set(peer->metrics.lag_records, (double)summary.lag_records);
        metric_set(peer->metrics.state, (double)peer->state);
    }
    pthread_mutex_unlock(&replicator->lock);
}
