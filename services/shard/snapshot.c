/* When snapshots are made: see snapshot.h; how: snapshot_make.c.
 *
 * Happy path: once the shard is ready, what is left unfinished is removed and the newest verified
 * snapshot loaded; every LOOK_NS it is seen whether the log has grown enough since, or enough time
 * has passed; then one is made, and older ones are removed.
 *
 * Failure modes: whatever fails is told, counted, and tried again after a minute, then twice as
 * long each time, up to an hour.  Meanwhile the log is not trimmed beyond the last one. */
#include "services/shard/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "services/shard/shard.h"
#include "services/shard/snapshot_make.h"

#define LOOK_NS         NS_PER_S
#define TURN_NS         (60 * NS_PER_S) /* for each replica before this one */
#define PAUSE_LEAST_NS  (60 * NS_PER_S)
#define PAUSE_MOST_NS   (3600 * NS_PER_S)
#define RECORDS_BY_TIME 10000 /* fewer are not worth one because of the time alone */

struct snapshotter {
    struct shard *shard;
    struct env *env;
    struct env_thread *thread;
    atomic_bool is_stopping;
    struct snapshot_making making; /* the thread's, but for done_bytes */
    struct copy_pace pace;
    struct metric *made_total, *failures, *age;
    uint64_t began_ns;
    uint64_t due_ns;   /* since when one is due; 0: none is; the thread's */
    uint64_t pause_ns; /* after the next failure; 0: the shortest; the thread's */
    uint64_t retry_ns; /* not before; the thread's */

    pthread_mutex_t lock;
    struct env_cond changed;
    /* below: guarded by lock */
    bool is_wanted, is_making;
    char newest[SNAPSHOT_ID_BYTES]; /* verified; "": none is known */
    uint64_t newest_us;
    uint64_t newest_records; /* sum of its positions */
    uint64_t made, failed;
    char detail[ERR_MESSAGE_BYTES]; /* why the last one failed */
};

/* --- what there is -----------------------------------------------------------------------------
 */

/* The log as it is applied now.  False: the shard is not ready. */
static bool look_at_shard(struct snapshotter *snapshotter, struct partition_set *served,
                          uint64_t *records)
{
    struct shard *shard = snapshotter->shard;
    bool is_ready;

    *records = 0;
    pthread_mutex_lock(&shard->lock);
    is_ready = shard->state == SHARD_READY && shard->served_count > 0;
    *served = shard->served;
    snapshotter->making.region = shard->region;
    for (uint32_t slot = 0; slot < shard->served_count; slot++)
        *records += shard->partitions[slot].position;
    pthread_mutex_unlock(&shard->lock);
    return is_ready;
}

static uint64_t records_of(const struct snapshot *snapshot)
{
    uint64_t records = 0;

    for (size_t i = 0; i < snapshot->partition_count; i++)
        records += snapshot->partitions[i].position;
    return records;
}

static void note_newest(struct snapshotter *snapshotter, const struct snapshot *newest)
{
    pthread_mutex_lock(&snapshotter->lock);
    (void)snprintf(snapshotter->newest, sizeof(snapshotter->newest), "%s", newest->id);
    snapshotter->newest_us = newest->made_us;
    snapshotter->newest_records = records_of(newest);
    pthread_mutex_unlock(&snapshotter->lock);
}

/* What others have made counts, too. */
static enum err_code find_newest(struct snapshotter *snapshotter,
                                 const struct partition_set *served, struct err *err)
{
    struct snapshot_wanted wanted = {
        .region = snapshotter->making.region, .shard = snapshotter->making.shard, .served = served};
    struct snapshot newest = {0};
    enum err_code code = snapshots_newest(snapshotter->making.blob, &wanted, &newest, err);

    if (code != ERR_OK && code != ERR_NOT_FOUND)
        return code;
    err_clear(err);
    note_newest(snapshotter, &newest);
    snapshot_free(&newest);
    return ERR_OK;
}

/* --- when --------------------------------------------------------------------------------------
 */

/* Is one due, by records or by time? */
static bool is_due(struct snapshotter *snapshotter, uint64_t records)
{
    const struct shard_setup *setup = &snapshotter->shard->setup;
    uint64_t now_us = env_wall_us(snapshotter->env);
    uint64_t age_ns = env_boot_ns(snapshotter->env) - snapshotter->began_ns;
    uint64_t grown = records - MIN_OF(records, snapshotter->newest_records);

    if (setup->snapshot_records > 0 && grown >= setup->snapshot_records)
        return true;
    if (snapshotter->newest[0] != '\0')
        age_ns =
            now_us > snapshotter->newest_us ? (now_us - snapshotter->newest_us) * NS_PER_US : 0;
    return setup->snapshot_every_ns > 0 && age_ns >= setup->snapshot_every_ns &&
           grown >= RECORDS_BY_TIME;
}

static bool take_wanted(struct snapshotter *snapshotter)
{
    bool wanted;

    pthread_mutex_lock(&snapshotter->lock);
    wanted = snapshotter->is_wanted;
    snapshotter->is_wanted = false;
    snapshotter->is_making = wanted;
    pthread_mutex_unlock(&snapshotter->lock);
    return wanted;
}

/* why: "" after a success. */
static void end_making(struct snapshotter *snapshotter, const char *why)
{
    pthread_mutex_lock(&snapshotter->lock);
    if (snapshotter->is_making) {
        snapshotter->made += why[0] == '\0';
        snapshotter->failed += why[0] != '\0';
        (void)snprintf(snapshotter->detail, sizeof(snapshotter->detail), "%s", why);
    }
    snapshotter->is_making = false;
    pthread_mutex_unlock(&snapshotter->lock);
}

/* Due for as long as it takes until it is this replica's turn? */
static bool is_our_turn(struct snapshotter *snapshotter, uint64_t records)
{
    uint64_t now_ns = env_boot_ns(snapshotter->env);

    if (now_ns < snapshotter->retry_ns || !is_due(snapshotter, records)) {
        snapshotter->due_ns = 0;
        return false;
    }
    if (snapshotter->due_ns == 0)
        snapshotter->due_ns = now_ns;
    return now_ns - snapshotter->due_ns >= snapshotter->making.replica * TURN_NS;
}

/* --- making ------------------------------------------------------------------------------------
 */

static void note_made(struct snapshotter *snapshotter, uint64_t began_ns)
{
    const struct snapshot *made = &snapshotter->making.made;

    note_newest(snapshotter, made);
    snapshotter->pause_ns = snapshotter->retry_ns = 0;
    if (snapshotter->made_total != NULL)
        metric_add(snapshotter->made_total, 1);
    log_info(NULL, "a snapshot was made and verified", LOG_U64("shard", made->shard),
             LOG_TEXT("snapshot", made->id), LOG_U64("records", records_of(made)),
             LOG_U64("ms", (env_boot_ns(snapshotter->env) - began_ns) / NS_PER_MS));
}

static void note_failed(struct snapshotter *snapshotter, const struct err *err)
{
    snapshotter->pause_ns = MAX_OF(snapshotter->pause_ns, PAUSE_LEAST_NS);
    snapshotter->retry_ns = env_boot_ns(snapshotter->env) + snapshotter->pause_ns;
    snapshotter->pause_ns = MIN_OF(2 * snapshotter->pause_ns, PAUSE_MOST_NS);
    if (snapshotter->failures != NULL)
        metric_add(snapshotter->failures, 1);
    log_err(LOG_WARN, NULL, "no snapshot could be made", err);
}

static void make(struct snapshotter *snapshotter)
{
    uint64_t began_ns = env_boot_ns(snapshotter->env);
    struct err err = {0}, ignored = {0};
    enum err_code code;

    pthread_mutex_lock(&snapshotter->lock);
    snapshotter->is_making = true;
    pthread_mutex_unlock(&snapshotter->lock);
    code = snapshot_make(&snapshotter->making, &err);
    if (code == ERR_OK)
        note_made(snapshotter, began_ns);
    else if (code != ERR_DEAD)
        note_failed(snapshotter, &err);
    /* Older ones go only now that there is a newer one. */
    if (code == ERR_OK && snapshot_tidy(&snapshotter->making, NULL, &ignored) != ERR_OK)
        log_err(LOG_WARN, NULL, "old snapshots could not be removed", &ignored);
    snapshot_free(&snapshotter->making.made);
    end_making(snapshotter, code == ERR_OK ? "" : err.message);
}

/* One look. */
static void look(struct snapshotter *snapshotter, bool *is_tidy)
{
    struct partition_set served;
    struct err err = {0};
    enum err_code code = ERR_OK;
    uint64_t records;
    bool wanted;

    if (!look_at_shard(snapshotter, &served, &records)) {
        (void)take_wanted(snapshotter);
        end_making(snapshotter, "the shard is not ready");
        return;
    }
    if (!*is_tidy && env_boot_ns(snapshotter->env) >= snapshotter->retry_ns) {
        code = snapshot_tidy(&snapshotter->making, NULL, &err);
        if (code == ERR_OK)
            code = find_newest(snapshotter, &served, &err);
        *is_tidy = code == ERR_OK;
    }
    wanted = take_wanted(snapshotter);
    if (code == ERR_OK && !wanted && is_our_turn(snapshotter, records)) {
        /* Another replica may have made one meanwhile. */
        code = find_newest(snapshotter, &served, &err);
        wanted = code == ERR_OK && is_due(snapshotter, records);
    }
    if (code != ERR_OK) {
        note_failed(snapshotter, &err);
        end_making(snapshotter, err.message);
    } else if (wanted) {
        make(snapshotter);
    }
}

static void run(void *argument)
{
    struct snapshotter *snapshotter = argument;
    enum err_code code = ERR_OK;
    bool is_tidy = false;

    while (code != ERR_DEAD) {
        uint64_t until_ns = env_boot_ns(snapshotter->env) + LOOK_NS;

        look(snapshotter, &is_tidy);
        code = ERR_OK;
        pthread_mutex_lock(&snapshotter->lock);
        while (code == ERR_OK && !snapshotter->is_wanted && !atomic_load(&snapshotter->is_stopping))
            code = env_cond_wait(&snapshotter->changed, &snapshotter->lock, until_ns);
        if (atomic_load(&snapshotter->is_stopping))
            code = ERR_DEAD;
        pthread_mutex_unlock(&snapshotter->lock);
    }
}

/* --- life --------------------------------------------------------------------------------------
 */

static void open_metrics(struct snapshotter *snapshotter, struct metrics *all, uint32_t shard)
{
    char labels[32];

    if (all == NULL)
        return;
    (void)snprintf(labels, sizeof(labels), "shard=\"%u\"", shard);
    snapshotter->made_total = metrics_counter(all, "shard_snapshots_total", labels,
                                              "Snapshots that were made and verified.");
    snapshotter->failures = metrics_counter(all, "shard_snapshot_failures_total", labels,
                                            "Times that no snapshot could be made.");
    snapshotter->age =
        metrics_gauge(all, "shard_snapshot_age_seconds", labels,
                      "Age of the newest verified snapshot that is known; -1: there is none.");
}

enum err_code snapshotter_open(struct snapshotter **out, struct shard *shard, struct err *err)
{
    const struct shard_setup *setup = &shard->setup;
    struct snapshotter *snapshotter = calloc(1, sizeof(*snapshotter));
    enum err_code code;

    *out = NULL;
    if (snapshotter == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for snapshots");
    snapshotter->shard = shard;
    snapshotter->env = shard->env;
    snapshotter->began_ns = env_boot_ns(shard->env);
    snapshotter->pace = (struct copy_pace){.env = shard->env, .rate = setup->copy_rate};
    pthread_mutex_init(&snapshotter->pace.lock, NULL);
    pthread_mutex_init(&snapshotter->lock, NULL);
    env_cond_init(snapshotter->env, &snapshotter->changed);
    snapshotter->making.env = shard->env;
    snapshotter->making.blob = setup->blob;
    snapshotter->making.store = setup->store;
    snapshotter->making.segments = setup->segments;
    snapshotter->making.folder = setup->snapshots;
    snapshotter->making.pace = &snapshotter->pace;
    snapshotter->making.is_stopping = &snapshotter->is_stopping;
    snapshotter->making.shard = setup->shard;
    snapshotter->making.replica = setup->replica;
    snapshotter->making.keep = setup->snapshot_keep;
    open_metrics(snapshotter, setup->metrics, setup->shard);
    code =
        env_thread_start(snapshotter->env, &snapshotter->thread, "snapshot", run, snapshotter, err);
    if (code != ERR_OK)
        snapshotter_close(snapshotter);
    else
        *out = snapshotter;
    return code;
}

void snapshotter_stop(struct snapshotter *snapshotter)
{
    if (snapshotter == NULL)
        return;
    pthread_mutex_lock(&snapshotter->lock);
    atomic_store(&snapshotter->is_stopping, true);
    env_cond_broadcast(&snapshotter->changed);
    pthread_mutex_unlock(&snapshotter->lock);
}

void snapshotter_close(struct snapshotter *snapshotter)
{
    if (snapshotter == NULL)
        return;
    env_thread_join(snapshotter->thread);
    env_cond_free(&snapshotter->changed);
    pthread_mutex_destroy(&snapshotter->lock);
    pthread_mutex_destroy(&snapshotter->pace.lock);
    free(snapshotter);
}

void snapshotter_measure(struct snapshotter *snapshotter)
{
    uint64_t now_us, newest_us;
    bool has_one;

    if (snapshotter == NULL || snapshotter->age == NULL)
        return;
    now_us = env_wall_us(snapshotter->env);
    pthread_mutex_lock(&snapshotter->lock);
    has_one = snapshotter->newest[0] != '\0';
    newest_us = snapshotter->newest_us;
    pthread_mutex_unlock(&snapshotter->lock);
    metric_set(snapshotter->age,
               !has_one ? -1 : (double)(now_us - MIN_OF(now_us, newest_us)) / 1e6);
}

/* --- the handlers ------------------------------------------------------------------------------
 */

static void write_newest_locked(const struct snapshotter *snapshotter, struct json_writer *w)
{
    json_key(w, "newest");
    if (snapshotter->newest[0] == '\0') {
        json_put_null(w);
        return;
    }
    json_begin_object(w);
    json_key(w, "id");
    json_text(w, snapshotter->newest);
    json_key(w, "made_us");
    json_u64(w, snapshotter->newest_us);
    json_key(w, "records");
    json_u64(w, snapshotter->newest_records);
    json_end_object(w);
}

static enum err_code write_status(struct snapshotter *snapshotter, struct request *req)
{
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    pthread_mutex_lock(&snapshotter->lock);
    json_begin_object(&w);
    json_key(&w, "state");
    json_text(&w, snapshotter->is_making || snapshotter->is_wanted ? "making"
                  : snapshotter->detail[0] != '\0'                 ? "failed"
                                                                   : "idle");
    json_key(&w, "detail");
    json_text(&w, snapshotter->detail);
    json_key(&w, "done_bytes");
    json_u64(&w, atomic_load(&snapshotter->making.done_bytes));
    json_key(&w, "made");
    json_u64(&w, snapshotter->made);
    json_key(&w, "failed");
    json_u64(&w, snapshotter->failed);
    write_newest_locked(snapshotter, &w);
    json_end_object(&w);
    pthread_mutex_unlock(&snapshotter->lock);
    return buffer_check(&req->reply.body, &req->err);
}

static enum err_code find_snapshotter(struct request *req, struct snapshotter **out)
{
    struct shard *shard = req->state;

    *out = shard->snapshotter;
    return *out != NULL ? ERR_OK
                        : err_set(&req->err, ERR_NOT_SUPPORTED,
                                  "no snapshots are made here: there is no blob store (--blob)");
}

enum err_code snapshot_start_handle(struct request *req)
{
    struct snapshotter *snapshotter;
    enum err_code code = find_snapshotter(req, &snapshotter);

    if (code != ERR_OK)
        return code;
    if (!shard_ready(snapshotter->shard, &req->reply.body)) {
        buffer_reset(&req->reply.body);
        return err_set(&req->err, ERR_UNAVAILABLE, "the shard is starting");
    }
    pthread_mutex_lock(&snapshotter->lock);
    if (!snapshotter->is_making)
        snapshotter->is_wanted = true;
    env_cond_broadcast(&snapshotter->changed);
    pthread_mutex_unlock(&snapshotter->lock);
    return write_status(snapshotter, req);
}

enum err_code snapshot_status_handle(struct request *req)
{
    struct snapshotter *snapshotter;
    enum err_code code = find_snapshotter(req, &snapshotter);

    return code == ERR_OK ? write_status(snapshotter, req) : code;
}
