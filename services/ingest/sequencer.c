/* The queue in front of the log, and the thread that empties it; see sequencer.h.
 *
 * The appender is always in one of three states.  Standby: it tries to take over, every 150 ms.
 * Recovering: something is in doubt; it tries to recover, at once and then at most every 100 ms.
 * Holder: it appends what is queued.  Only this thread changes the state. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/ingest/sequencer.h"

#define STANDBY_RETRY_NS (150 * NS_PER_MS)
#define RECOVER_RETRY_NS (100 * NS_PER_MS)
#define GATHER_PART      8 /* of an append's time may be spent on waiting for more */

static const struct log_context CONTEXT = {.operation = "sequencer"};

enum err_code sequencer_open(struct sequencer *s, const struct sequencer_setup *setup,
                             struct err *err)
{
    struct metrics *m = setup->metrics;

    assert(setup->env != NULL && setup->open_wal != NULL);
    *s = (struct sequencer){.setup = *setup, .env = setup->env};
    if (s->setup.queue_bytes_max == 0)
        s->setup.queue_bytes_max = SEQUENCER_QUEUE_MAX;
    env_random(s->env, s->nonce, sizeof(s->nonce));
    pthread_mutex_init(&s->lock, NULL);
    env_cond_init(s->env, &s->work);
    env_cond_init(s->env, &s->renewal);
    env_cond_init(s->env, &s->vectors_come);
    (void)err_set(&s->refusal, ERR_READ_ONLY, "this ingest has not taken over the log yet");
    if (m == NULL)
        return ERR_OK;
    s->metrics = (struct sequencer_metrics){
        .append = metrics_latency(m, "wal_append_seconds", "", "Time of one append to the log."),
        .queue = metrics_gauge(m, "ingest_queue_bytes", "", "Bytes that wait for the log."),
        .epochs = metrics_counter(m, "ingest_epochs_total", "", "Epoch records appended."),
        .takeovers = metrics_counter(m, "ingest_takeovers_total", "", "Times the log was taken."),
        .doubts = metrics_counter(m, "ingest_doubts_total", "", "Appends of unknown outcome."),
        .records = metrics_counter(m, "wal_records_total", "", "Records appended to the log."),
    };
    (void)err;
    return ERR_OK;
}

/* What is queued is refused: all of it, or what depends on a decision.  Caller holds the lock. */
static void flush_queue_locked(struct sequencer *s, bool decided_only, const struct err *why)
{
    struct sequence_batch *batch;

    while ((batch = queue_any(&s->queue, decided_only)) != NULL) {
        queue_remove(&s->queue, batch);
        batch->state = BATCH_DONE;
        batch->err = *why;
        env_cond_broadcast(&batch->done);
        batch_unref_locked(s, batch);
    }
}

static enum err_code refuse_stale(struct err *err)
{
    return err_set(err, ERR_UNAVAILABLE, "the log was recovered in between; try again");
}

void begin_generation_locked(struct sequencer *s)
{
    struct err why = {0};

    s->generation++;
    (void)refuse_stale(&why);
    flush_queue_locked(s, true, &why);
}

static void set_state(struct sequencer *s, enum sequencer_state state, const struct err *refusal)
{
    pthread_mutex_lock(&s->lock);
    s->state = state;
    err_clear(&s->refusal);
    s->wanted = false;
    if (state == SEQUENCER_HOLDER)
        begin_generation_locked(s);
    if (refusal != NULL) {
        s->refusal = *refusal;
        flush_queue_locked(s, false, refusal);
    }
    pthread_mutex_unlock(&s->lock);
}

static enum sequencer_state state_of(struct sequencer *s)
{
    enum sequencer_state state;

    pthread_mutex_lock(&s->lock);
    state = s->state;
    pthread_mutex_unlock(&s->lock);
    return state;
}

static bool is_stopping(struct sequencer *s)
{
    bool stopping;

    pthread_mutex_lock(&s->lock);
    stopping = s->stopping;
    pthread_mutex_unlock(&s->lock);
    return stopping;
}

/* Wait that long; with until_wanted no more than a second beyond, until a writer comes. */
static enum err_code pause_for(struct sequencer *s, uint64_t ns, bool until_wanted)
{
    uint64_t least = env_boot_ns(s->env) + ns, most = least + NS_PER_S;
    enum err_code rc = ERR_OK;

    pthread_mutex_lock(&s->lock);
    while (!s->stopping && rc != ERR_DEAD) {
        uint64_t now = env_boot_ns(s->env);

        if (now >= least && (!until_wanted || s->wanted || now >= most))
            break;
        rc = env_cond_wait(&s->work, &s->lock, now < least ? least : most);
    }
    pthread_mutex_unlock(&s->lock);
    return rc == ERR_DEAD ? ERR_DEAD : ERR_OK;
}

static enum err_code stand_by(struct sequencer *s)
{
    struct err err = {0}, why;
    enum err_code rc = take_over(s, &err);

    if (rc == ERR_OK) {
        pthread_mutex_lock(&s->lock);
        s->term++;
        pthread_mutex_unlock(&s->lock);
        set_state(s, SEQUENCER_HOLDER, NULL);
        log_info(&CONTEXT, "took over the log", LOG_U64("partitions", s->partitions),
                 LOG_U64("region", s->region));
        return ERR_OK;
    }
    if (rc == ERR_DEAD)
        return rc;
    if (rc == ERR_CONFLICT)
        (void)err_set(&why, ERR_READ_ONLY, "another ingest holds the log; this one stands by");
    else
        (void)err_set(&why, rc == ERR_INSUFFICIENT_STORAGE ? rc : ERR_READ_ONLY,
                      "the log cannot be taken over: %s", err.message);
    if (rc != ERR_CONFLICT)
        log_err(LOG_WARN, &CONTEXT, "could not take over the log", &err);
    set_state(s, SEQUENCER_STANDBY, &why);
    return pause_for(s, STANDBY_RETRY_NS, false);
}

static enum err_code recover_once(struct sequencer *s)
{
    struct err err = {0}, why;
    enum err_code rc = recover_holder(s, &err);

    if (rc == ERR_OK) {
        set_state(s, SEQUENCER_HOLDER, NULL);
        log_info(&CONTEXT, "recovered the log");
        return ERR_OK;
    }
    if (rc == ERR_DEAD)
        return rc;
    log_err(LOG_WARN, &CONTEXT, "could not recover the log", &err);
    if (rc == ERR_READ_ONLY) {
        (void)err_set(&why, ERR_READ_ONLY, "another ingest has taken the log");
        set_state(s, SEQUENCER_STANDBY, &why);
        return pause_for(s, STANDBY_RETRY_NS, false);
    }
    (void)err_set(&why, rc == ERR_INSUFFICIENT_STORAGE ? rc : ERR_UNAVAILABLE,
                  "the log takes no writes at present: %s", err.message);
    set_state(s, SEQUENCER_RECOVERING, &why);
    return pause_for(s, RECOVER_RETRY_NS, true);
}

/* What the holder is to do next. */
struct errand {
    struct sequence_batch *list; /* append these */
    uint64_t vectors;            /* append one to every partition first; 0: nobody asks for it */
    bool idle;                   /* nothing came for long */
    bool step_down;
};

/* What is queued, in the order of turns, as much as goes into one append.  Caller holds the lock.
 */
static struct sequence_batch *take_group_locked(struct sequencer *s)
{
    size_t bytes = 0, most = s->queue.flows > 1 ? SEQUENCER_SHARED_MAX : SEQUENCER_GROUP_MAX;
    struct sequence_batch *list = NULL, **tail = &list, *batch;

    while ((batch = queue_next(&s->queue)) != NULL &&
           (list == NULL || bytes + batch->bytes.len <= most)) {
        queue_take(&s->queue, batch);
        batch->state = BATCH_TAKEN;
        bytes += batch->bytes.len;
        *tail = batch;
        tail = &batch->next;
    }
    return list;
}

static bool is_called_locked(const struct sequencer *s)
{
    return s->stopping || s->step_down || s->vectors_wanted != s->vectors_done;
}

/* Those who wrote last time come again soon, and who misses an append waits for two.  So an append
 * waits for as many as there were in the last one, but no longer than an eighth of what that took.
 * Caller holds the lock. */
static enum err_code gather_locked(struct sequencer *s)
{
    uint64_t until_ns = s->last_ended_ns + s->last_took_ns / GATHER_PART;
    enum err_code rc = ERR_OK;

    while (rc == ERR_OK && s->queue.count < s->last_batches && !is_called_locked(s))
        rc = env_cond_wait(&s->work, &s->lock, until_ns);
    return rc == ERR_DEAD ? ERR_DEAD : ERR_OK;
}

/* Wait for something to do. */
static enum err_code take_queued(struct sequencer *s, struct errand *errand)
{
    uint64_t deadline = env_boot_ns(s->env) + SEQUENCER_IDLE_NS;
    enum err_code rc = ERR_OK;

    *errand = (struct errand){0};
    pthread_mutex_lock(&s->lock);
    while (rc == ERR_OK && s->queue.count == 0 && !is_called_locked(s))
        rc = env_cond_wait(&s->work, &s->lock, deadline);
    if (rc == ERR_OK && s->queue.count > 0)
        rc = gather_locked(s);
    errand->idle = rc == ERR_TIMEOUT && s->queue.count == 0;
    errand->step_down = s->step_down;
    s->step_down = false;
    if (s->vectors_wanted > s->vectors_done)
        errand->vectors = s->vectors_wanted;
    else if (rc != ERR_DEAD && !errand->step_down)
        errand->list = take_group_locked(s);
    pthread_mutex_unlock(&s->lock);
    return rc == ERR_DEAD ? ERR_DEAD : ERR_OK;
}

static enum err_code serve(struct sequencer *s)
{
    struct errand errand;
    struct err err = {0};
    enum err_code rc = take_queued(s, &errand);

    if (rc != ERR_OK)
        return rc;
    if (errand.step_down) {
        (void)err_set(&err, ERR_READ_ONLY, "another ingest has the lease");
        set_state(s, SEQUENCER_STANDBY, &err);
        return ERR_OK;
    }
    if (errand.list != NULL)
        rc = append_group(s, errand.list, &err);
    else if (errand.vectors > 0)
        rc = append_wanted(s, errand.vectors, &err);
    else if (errand.idle)
        rc = append_vectors(s, false, &err);
    if (rc != ERR_OK) {
        log_err(LOG_WARN, &CONTEXT, "an append is in doubt", &err);
        if (s->metrics.doubts != NULL)
            metric_add(s->metrics.doubts, 1);
        set_state(s, SEQUENCER_RECOVERING, NULL);
    }
    return rc == ERR_DEAD ? ERR_DEAD : ERR_OK;
}

/* The thread "appender". */
static void appender_main(void *argument)
{
    struct sequencer *s = argument;
    enum err_code rc = ERR_OK;
    struct err gone = {0};

    while (rc != ERR_DEAD) {
        enum sequencer_state state = state_of(s);
        bool queued, stopping = is_stopping(s);

        pthread_mutex_lock(&s->lock);
        queued = s->queue.count > 0;
        pthread_mutex_unlock(&s->lock);
        if (stopping && (state != SEQUENCER_HOLDER || !queued))
            break;
        rc = state == SEQUENCER_STANDBY      ? stand_by(s)
             : state == SEQUENCER_RECOVERING ? recover_once(s)
                                             : serve(s);
    }
    if (rc != ERR_DEAD && state_of(s) == SEQUENCER_HOLDER &&
        append_vectors(s, false, &gone) != ERR_OK)
        log_err(LOG_WARN, &CONTEXT, "no version vectors at the end", &gone);
    (void)err_set(&gone, ERR_DEAD, "the service is shutting down");
    set_state(s, SEQUENCER_STANDBY, &gone);
    while (s->doubtful != NULL) {
        struct sequence_batch *batch = s->doubtful;

        s->doubtful = batch->next;
        (void)err_set(&gone, ERR_UNKNOWN_OUTCOME, "the service ended before the log came back");
        batch_finish(s, batch, &gone);
    }
}

enum err_code sequencer_start(struct sequencer *s, struct err *err)
{
    enum err_code rc = env_thread_start(s->env, &s->appender, "appender", appender_main, s, err);

    if (rc == ERR_OK && s->setup.meta != NULL)
        rc = env_thread_start(s->env, &s->renewer, "lease", lease_thread, s, err);
    return rc;
}

void sequencer_stop(struct sequencer *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    env_cond_broadcast(&s->work);
    env_cond_broadcast(&s->renewal);
    env_cond_broadcast(&s->vectors_come);
    pthread_mutex_unlock(&s->lock);
}

void sequencer_close(struct sequencer *s)
{
    if (s->env == NULL)
        return;
    sequencer_stop(s);
    env_thread_join(s->appender);
    env_thread_join(s->renewer);
    assert(s->queue.count == 0 && s->doubtful == NULL);
    wal_close(s->wal);
    free(s->lines);
    free(s->views);
    free(s->staged);
    free(s->entries);
    free(s->offsets);
    free(s->doubts);
    buffer_free(&s->scratch);
    env_cond_free(&s->work);
    env_cond_free(&s->renewal);
    env_cond_free(&s->vectors_come);
    pthread_mutex_destroy(&s->lock);
    *s = (struct sequencer){0};
}

/* Why a batch is not queued.  Caller holds the lock. */
static enum err_code refuse_locked(struct sequencer *s, struct sequence_batch *batch,
                                   struct err *err)
{
    if (s->stopping)
        return err_set(err, ERR_DEAD, "the service is shutting down");
    if (s->refusal.code != ERR_OK) {
        s->wanted = true;
        env_cond_signal(&s->work);
        batch->met_away = sequencer_is_away_locked(s);
        *err = s->refusal;
        return err->code;
    }
    if (batch->generation != 0 && batch->generation != s->generation)
        return refuse_stale(err);
    return queue_check(&s->queue, batch->key, batch->bytes.len, s->setup.queue_bytes_max, err);
}

/* Out of the queue again.  Caller holds the lock. */
static void withdraw_locked(struct sequencer *s, struct sequence_batch *batch)
{
    queue_remove(&s->queue, batch);
    batch->state = BATCH_DONE;
    batch_unref_locked(s, batch);
}

/* Queue the batch, or say why not.  Caller holds the lock. */
static void enqueue_locked(struct sequencer *s, struct sequence_batch *batch, struct err *err)
{
    if (refuse_locked(s, batch, err) != ERR_OK || queue_push(&s->queue, batch, err) != ERR_OK)
        return;
    batch->state = BATCH_QUEUED;
    batch->refs++;
    env_cond_signal(&s->work);
}

/* How long the batch is waited for, as it stands now.  Caller holds the lock. */
static uint64_t patience_locked(const struct sequencer *s, const struct sequence_batch *batch,
                                uint64_t deadline_ns)
{
    uint64_t defer_ns = batch->defer_ns == 0 ? NEVER_NS : batch->defer_ns;

    switch (batch->state) {
    case BATCH_TAKEN:
    case BATCH_APPENDING:
        deadline_ns =
            deadline_ns > NEVER_NS - OUTCOME_GRACE_NS ? NEVER_NS : deadline_ns + OUTCOME_GRACE_NS;
        return batch->state == BATCH_TAKEN ? deadline_ns : MIN_OF(deadline_ns, defer_ns);
    case BATCH_DOUBT:
        return MIN_OF(MAX_OF(deadline_ns, batch->doubt_until_ns), defer_ns);
    default: /* a holder's queue moves on */
        return s->state == SEQUENCER_HOLDER ? deadline_ns : MIN_OF(deadline_ns, defer_ns);
    }
}

/* Caller holds the lock. */
static enum err_code await_locked(struct sequencer *s, struct sequence_batch *batch,
                                  uint64_t deadline_ns, struct err *err)
{
    enum err_code rc = ERR_OK;

    while (batch->state != BATCH_DONE) {
        uint64_t until_ns = patience_locked(s, batch, deadline_ns);

        /* The state that it is in when its time to defer comes decides. */
        if (batch->defer_ns > env_boot_ns(s->env))
            until_ns = MIN_OF(until_ns, batch->defer_ns);
        rc = env_cond_wait(&batch->done, &s->lock, until_ns);
        if (rc == ERR_OK || batch->state == BATCH_DONE ||
            (rc == ERR_TIMEOUT && env_boot_ns(s->env) < patience_locked(s, batch, deadline_ns)))
            continue;
        if (batch->state == BATCH_QUEUED) {
            withdraw_locked(s, batch);
            return err_set(err, rc, "nothing was written: the deadline passed in the queue");
        }
        if (rc == ERR_DEAD || env_boot_ns(s->env) >= patience_locked(s, batch, deadline_ns)) {
            batch->left = true;
            return err_set(err, ERR_UNKNOWN_OUTCOME,
                           "the log has not come back; the outcome of "
                           "the write is not known");
        }
    }
    if (batch->err.code != ERR_OK)
        *err = batch->err;
    return batch->err.code;
}

void sequencer_commit_all(struct sequencer *s, struct sequence_batch *const *batches, size_t count,
                          uint64_t deadline_ns, struct err *errs)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < count; i++) {
        assert(batches[i]->state == BATCH_NEW);
        err_clear(&errs[i]);
        enqueue_locked(s, batches[i], &errs[i]);
    }
    for (size_t i = 0; i < count; i++)
        if (errs[i].code == ERR_OK)
            (void)await_locked(s, batches[i], deadline_ns, &errs[i]);
    pthread_mutex_unlock(&s->lock);
}

enum err_code sequencer_commit(struct sequencer *s, struct sequence_batch *batch,
                               uint64_t deadline_ns, struct err *err)
{
    struct err outcome = {0};

    sequencer_commit_all(s, &batch, 1, deadline_ns, &outcome);
    if (outcome.code != ERR_OK)
        *err = outcome;
    return outcome.code;
}

enum err_code sequencer_append_now(struct sequencer *s, struct sequence_batch *batch,
                                   struct err *err)
{
    enum err_code rc;

    assert(batch->state == BATCH_NEW);
    pthread_mutex_lock(&s->lock);
    batch->state = BATCH_TAKEN;
    batch->refs++;
    pthread_mutex_unlock(&s->lock);
    rc = append_group(s, batch, err);
    if (rc == ERR_OK && batch->err.code != ERR_OK) {
        *err = batch->err;
        rc = err->code;
    }
    return rc;
}
