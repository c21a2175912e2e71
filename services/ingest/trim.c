/* When and to where the log is trimmed: see trim.h; who needs it: trim_holders.c.
 *
 * Happy path of a round: checkpoint if one is due, ask all, find the newest checkpoint that all
 * have passed, read the snapshots, trim, forget the checkpoints up to that one.
 *
 * Failure modes: everything that fails ends the round and is what holds the log; the next one
 * begins anew.  A trimming that fails half-way is repeated by the next round: wal_trim says so. */
#include "services/ingest/trim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "services/ingest/ingest.h"
#include "services/ingest/trim_holders.h"

#define CHECKPOINTS_MAX 16
#define CHECKPOINT_NS   (30 * NS_PER_S)
#define UNASKED_NS      (600 * NS_PER_S) /* while there is nothing to trim to */

static const struct log_context CONTEXT = {.operation = "trim"};

/* What a metric and the status call it. */
enum held_by { HELD_BY_NOTHING, HELD_BY_REPLICA, HELD_BY_SNAPSHOT, HELD_BY_REGION, HELD_BY_OTHER };
static const char *const held_names[] = {"", "replica", "snapshot", "region", "other"};

struct checkpoint {
    uint64_t *positions; /* by partition */
    uint64_t made_ns;    /* boot time */
};

struct trimmer {
    struct ingest *ingest;
    struct env *env;
    struct trim_options options;
    struct env_thread *thread;
    struct metric *trims, *failures, *first, *held[ARRAY_COUNT(held_names)];

    /* the thread's own */
    uint64_t term; /* of the sequencer; checkpoints are of this one */
    struct checkpoint checkpoints[CHECKPOINTS_MAX]; /* oldest first */
    size_t count;
    uint64_t records;  /* of the log at the newest one */
    uint64_t asked_ns; /* when all were asked; 0: never in this term */

    pthread_mutex_t lock;
    struct env_cond changed;
    /* below: guarded by lock */
    bool stopping;
    uint64_t wanted, done; /* rounds that were asked for, and that have ended */
    enum held_by held_by;
    char detail[ERR_MESSAGE_BYTES]; /* what holds the log, or "" */
    uint64_t trimmed;               /* times */
    uint64_t waiting;               /* checkpoints */
    uint64_t firsts;                /* sum of the first offsets */
};

static bool is_stopping(void *context)
{
    struct trimmer *trimmer = context;
    bool stopping;

    pthread_mutex_lock(&trimmer->lock);
    stopping = trimmer->stopping;
    pthread_mutex_unlock(&trimmer->lock);
    return stopping;
}

/* --- checkpoints -------------------------------------------------------------------------------
 */

/* The oldest ones. */
static void forget_checkpoints(struct trimmer *trimmer, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(trimmer->checkpoints[i].positions);
    trimmer->count -= count;
    memmove(trimmer->checkpoints, trimmer->checkpoints + count,
            trimmer->count * sizeof(trimmer->checkpoints[0]));
}

/* Every second one, so that new ones find room and old ones stay. */
static void thin_out(struct trimmer *trimmer)
{
    size_t kept = 0;

    for (size_t i = 0; i < trimmer->count; i++) {
        if (i % 2 == 0)
            trimmer->checkpoints[kept++] = trimmer->checkpoints[i];
        else
            free(trimmer->checkpoints[i].positions);
    }
    trimmer->count = kept;
}

static enum err_code make_checkpoint(struct trimmer *trimmer, struct err *err)
{
    struct ingest *ingest = trimmer->ingest;
    struct sequencer *s = &ingest->sequencer;
    uint64_t deadline_ns = env_boot_ns(trimmer->env) + CHECKPOINT_NS;
    uint64_t *positions = array_alloc(s->partitions, sizeof(*positions));
    enum err_code rc;

    if (positions == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a checkpoint");
    rc = sequencer_checkpoint(s, deadline_ns, positions, err);
    if (rc == ERR_OK)
        rc = catalogue_repeat(&ingest->catalogue, deadline_ns, err);
    if (rc != ERR_OK) {
        free(positions);
        return rc;
    }
    if (trimmer->count == CHECKPOINTS_MAX)
        thin_out(trimmer);
    trimmer->checkpoints[trimmer->count++] =
        (struct checkpoint){.positions = positions, .made_ns = env_boot_ns(trimmer->env)};
    return ERR_OK;
}

/* Records of the log, over all partitions. */
static uint64_t count_records(struct sequencer *s)
{
    uint32_t partitions;
    struct line_view *views = sequencer_views(s, &partitions);
    uint64_t records = 0;

    for (uint32_t p = 0; views != NULL && p < partitions; p++)
        records += views[p].end;
    free(views);
    return records;
}

/* is_wanted: somebody asks for one now. */
static enum err_code checkpoint_if_due(struct trimmer *trimmer, bool is_wanted, struct err *err)
{
    uint64_t records = count_records(&trimmer->ingest->sequencer);
    enum err_code rc;

    if (!is_wanted && records - MIN_OF(records, trimmer->records) < trimmer->options.records)
        return ERR_OK;
    rc = make_checkpoint(trimmer, err);
    if (rc == ERR_OK)
        trimmer->records = count_records(&trimmer->ingest->sequencer);
    return rc;
}

/* --- what may go -------------------------------------------------------------------------------
 */

/* A checkpoint that has waited for longer than regions are waited for. */
static bool is_overdue(const struct trimmer *trimmer, const struct checkpoint *checkpoint)
{
    return trimmer->options.region_retention_ns > 0 &&
           env_boot_ns(trimmer->env) - checkpoint->made_ns >= trimmer->options.region_retention_ns;
}

/* Who has not passed the checkpoint; NULL: all have.  *partition: where. */
static const struct holder *find_holder(const struct trimmer *trimmer,
                                        const struct holders *holders,
                                        const struct checkpoint *checkpoint, uint32_t *partition)
{
    bool overdue = is_overdue(trimmer, checkpoint);

    for (size_t i = 0; i < holders->count; i++) {
        const struct holder *holder = &holders->items[i];

        if (holder->kind == HOLDER_REGION && overdue)
            continue;
        for (uint32_t p = 0; p < trimmer->ingest->sequencer.partitions; p++) {
            *partition = p;
            if (holder->passed == NULL || holder->passed[p] <= checkpoint->positions[p])
                return holder;
        }
    }
    return NULL;
}

static enum held_by kind_of(const struct holder *holder)
{
    switch (holder->kind) {
    case HOLDER_REPLICA:
        return HELD_BY_REPLICA;
    case HOLDER_SNAPSHOT:
        return HELD_BY_SNAPSHOT;
    case HOLDER_REGION:
        return HELD_BY_REGION;
    case HOLDER_KINDS:
        break;
    }
    return HELD_BY_OTHER;
}

/* What became of a round. */
struct outcome {
    enum held_by held_by;
    char detail[ERR_MESSAGE_BYTES];
};

static void held_by(struct outcome *outcome, const struct holder *holder, uint32_t partition,
                    const struct checkpoint *checkpoint)
{
    outcome->held_by = kind_of(holder);
    if (holder->passed == NULL)
        (void)snprintf(outcome->detail, sizeof(outcome->detail), "%s %.230s", holder->name,
                       holder->why);
    else
        (void)snprintf(outcome->detail, sizeof(outcome->detail),
                       "%s has partition %u up to %llu, the checkpoint is at %llu", holder->name,
                       partition, (unsigned long long)holder->passed[partition],
                       (unsigned long long)checkpoint->positions[partition]);
}

static void failed(struct outcome *outcome, enum held_by by, const struct err *err)
{
    outcome->held_by = by;
    (void)snprintf(outcome->detail, sizeof(outcome->detail), "%s", err->message);
}

/* --- trimming ----------------------------------------------------------------------------------
 */

/* All snapshots that are relied on are there, to the last byte. */
static enum err_code check_snapshots(struct trimmer *trimmer, const struct holders *holders,
                                     struct err *err)
{
    enum err_code rc = ERR_OK;

    for (size_t i = 0; rc == ERR_OK && i < holders->count; i++)
        if (holders->items[i].kind == HOLDER_SNAPSHOT)
            rc = snapshot_check(trimmer->ingest->setup.blob, &holders->items[i].snapshot,
                                is_stopping, trimmer, err);
    return rc;
}

/* Of a log that is trimmed nobody may move partitions between shards. */
static enum err_code note_trimming(struct trimmer *trimmer, bool is_trimmed, struct err *err)
{
    static const char VALUE[] = "{\"trimmed\":true}";
    struct meta *meta = trimmer->ingest->setup.meta;
    struct meta_row row = {0};
    enum err_code rc = meta_get(meta, CLUSTER_TRIMMED_KEY, &row, err);
    bool is_noted = rc == ERR_OK;

    meta_row_free(&row);
    if (rc != ERR_OK && rc != ERR_NOT_FOUND)
        return rc;
    err_clear(err);
    if (is_trimmed == is_noted)
        return ERR_OK;
    if (!is_trimmed) /* another log */
        return meta_delete(meta, CLUSTER_TRIMMED_KEY, META_ANY, err);
    return meta_put(meta,
                    &(struct meta_put){.key = CLUSTER_TRIMMED_KEY,
                                       .value = VALUE,
                                       .value_len = sizeof(VALUE) - 1,
                                       .expected = META_ANY},
                    NULL, err);
}

static enum err_code sum_firsts(struct trimmer *trimmer, struct err *err)
{
    struct sequencer *s = &trimmer->ingest->sequencer;
    uint64_t sum = 0;
    enum err_code rc = ERR_OK;

    for (uint32_t p = 0; rc == ERR_OK && p < s->partitions; p++) {
        uint64_t first;

        rc = wal_first(s->wal, p, &first, err);
        if (rc == ERR_OK)
            sum += first;
    }
    if (rc != ERR_OK)
        return rc;
    pthread_mutex_lock(&trimmer->lock);
    trimmer->firsts = sum;
    pthread_mutex_unlock(&trimmer->lock);
    /* A metadata store that was lost is told again. */
    return note_trimming(trimmer, sum > 0, err);
}

/* To checkpoint number `at`; it and those before it are done with. */
static enum err_code trim_to(struct trimmer *trimmer, size_t at, struct err *err)
{
    struct wal *wal = trimmer->ingest->sequencer.wal;
    enum err_code rc = note_trimming(trimmer, true, err);

    if (rc == ERR_OK)
        rc = wal_trim(wal, trimmer->checkpoints[at].positions, err);
    if (rc != ERR_OK) {
        if (trimmer->failures != NULL)
            metric_add(trimmer->failures, 1);
        log_err(LOG_WARN, &CONTEXT, "the log could not be trimmed", err);
        return rc;
    }
    forget_checkpoints(trimmer, at + 1);
    if (trimmer->trims != NULL)
        metric_add(trimmer->trims, 1);
    rc = sum_firsts(trimmer, err);
    pthread_mutex_lock(&trimmer->lock);
    trimmer->trimmed++;
    log_info(&CONTEXT, "the log was trimmed", LOG_U64("records", trimmer->firsts));
    pthread_mutex_unlock(&trimmer->lock);
    return rc;
}

/* Nothing is to be trimmed yet; who would be in the way is told all the same. */
static void tell_unknown(const struct holders *holders, struct outcome *outcome)
{
    size_t at = 0;

    while (at < holders->count && holders->items[at].passed != NULL)
        at++;
    if (at < holders->count)
        held_by(outcome, &holders->items[at], 0, NULL);
}

/* The newest one that all have passed, if there is one.  What holds back the one behind it, or the
 * oldest, is told. */
static void trim_what_may_go(struct trimmer *trimmer, const struct holders *holders,
                             struct outcome *outcome)
{
    const struct holder *holder = NULL;
    struct err err = {0};
    uint32_t partition = 0;
    size_t passed = 0;
    enum err_code rc;

    if (trimmer->count == 0)
        tell_unknown(holders, outcome);
    while (passed < trimmer->count && holder == NULL) {
        holder = find_holder(trimmer, holders, &trimmer->checkpoints[passed], &partition);
        if (holder == NULL)
            passed++;
    }
    if (holder != NULL)
        held_by(outcome, holder, partition, &trimmer->checkpoints[passed]);
    if (passed == 0)
        return;
    rc = check_snapshots(trimmer, holders, &err);
    if (rc != ERR_OK) {
        failed(outcome, HELD_BY_SNAPSHOT, &err);
        log_err(LOG_ERROR, &CONTEXT, "a snapshot is not whole; the log is not trimmed", &err);
        return;
    }
    if (trim_to(trimmer, passed - 1, &err) != ERR_OK)
        failed(outcome, HELD_BY_OTHER, &err);
}

/* --- a round -----------------------------------------------------------------------------------
 */

/* Checkpoints of a term in which another one may have held the log are not ours to use. */
static void follow_term(struct trimmer *trimmer)
{
    uint64_t term = sequencer_term(&trimmer->ingest->sequencer);

    if (term == trimmer->term)
        return;
    trimmer->term = term;
    trimmer->asked_ns = 0;
    forget_checkpoints(trimmer, trimmer->count);
    trimmer->records = trimmer->firsts;
}

/* Nothing waits to be trimmed, and a while ago nothing was in the way. */
static bool may_rest(struct trimmer *trimmer)
{
    bool was_free;

    if (trimmer->count > 0 || trimmer->asked_ns == 0 ||
        env_boot_ns(trimmer->env) - trimmer->asked_ns >= UNASKED_NS)
        return false;
    pthread_mutex_lock(&trimmer->lock);
    was_free = trimmer->held_by == HELD_BY_NOTHING;
    pthread_mutex_unlock(&trimmer->lock);
    return was_free;
}

/* Ask all, and trim to what they have passed. */
static enum err_code ask_and_trim(struct trimmer *trimmer, struct outcome *outcome, struct err *err)
{
    struct ingest *ingest = trimmer->ingest;
    struct holders_setup setup = {.env = trimmer->env,
                                  .meta = ingest->setup.meta,
                                  .blob = ingest->setup.blob,
                                  .client = ingest->setup.client,
                                  .region = ingest->sequencer.region,
                                  .partitions = ingest->sequencer.partitions,
                                  .is_stopping = is_stopping,
                                  .context = trimmer};
    struct holders holders = {0};
    enum err_code rc = holders_gather(&setup, &holders, err);

    trimmer->asked_ns = rc == ERR_OK && trimmer->count == 0 ? env_boot_ns(trimmer->env) : 0;
    if (rc == ERR_OK)
        trim_what_may_go(trimmer, &holders, outcome);
    holders_free(&holders);
    return rc;
}

static void run_round(struct trimmer *trimmer, bool is_wanted, struct outcome *outcome)
{
    struct sequencer *s = &trimmer->ingest->sequencer;
    struct err err = {0};
    uint64_t generation;
    enum err_code rc;

    if (sequencer_stands_by(s))
        return; /* it is another one's business */
    rc = sequencer_check(s, &generation, NULL, &err);
    if (rc == ERR_OK && trimmer->term != sequencer_term(s))
        rc = sum_firsts(trimmer, &err);
    if (rc == ERR_OK) {
        follow_term(trimmer);
        rc = checkpoint_if_due(trimmer, is_wanted, &err);
    }
    if (rc == ERR_OK && !is_wanted && may_rest(trimmer))
        return;
    if (rc == ERR_OK)
        rc = ask_and_trim(trimmer, outcome, &err);
    if (rc != ERR_OK)
        failed(outcome, HELD_BY_OTHER, &err);
}

static void note_outcome(struct trimmer *trimmer, const struct outcome *outcome, uint64_t wanted)
{
    pthread_mutex_lock(&trimmer->lock);
    trimmer->held_by = outcome->held_by;
    (void)snprintf(trimmer->detail, sizeof(trimmer->detail), "%s", outcome->detail);
    trimmer->waiting = trimmer->count;
    trimmer->done = wanted;
    env_cond_broadcast(&trimmer->changed);
    pthread_mutex_unlock(&trimmer->lock);
}

static void run(void *argument)
{
    struct trimmer *trimmer = argument;
    enum err_code rc = ERR_OK;

    while (rc != ERR_DEAD) {
        uint64_t until_ns = env_boot_ns(trimmer->env) + trimmer->options.every_ns;
        struct outcome outcome = {0};
        bool is_wanted;
        uint64_t wanted;

        pthread_mutex_lock(&trimmer->lock);
        rc = ERR_OK;
        while (rc == ERR_OK && !trimmer->stopping && trimmer->wanted == trimmer->done)
            rc = env_cond_wait(&trimmer->changed, &trimmer->lock, until_ns);
        wanted = trimmer->wanted;
        is_wanted = wanted > trimmer->done;
        if (trimmer->stopping)
            rc = ERR_DEAD;
        pthread_mutex_unlock(&trimmer->lock);
        if (rc == ERR_DEAD)
            break;
        run_round(trimmer, is_wanted, &outcome);
        note_outcome(trimmer, &outcome, wanted);
    }
}

/* --- life --------------------------------------------------------------------------------------
 */

static void open_metrics(struct trimmer *trimmer, struct metrics *all)
{
    if (all == NULL)
        return;
    trimmer->trims = metrics_counter(all, "wal_trims_total", "", "Times that the log was trimmed.");
    trimmer->failures =
        metrics_counter(all, "wal_trim_failures_total", "", "Times that trimming failed.");
    trimmer->first = metrics_gauge(all, "wal_trimmed_records", "",
                                   "Records before the log's first ones, over all partitions.");
    for (size_t i = 1; i < ARRAY_COUNT(held_names); i++) {
        char labels[40];

        (void)snprintf(labels, sizeof(labels), "by=\"%s\"", held_names[i]);
        trimmer->held[i] = metrics_gauge(all, "wal_trim_held", labels,
                                         "1 for what keeps the log from being trimmed.");
    }
}

enum err_code trimmer_open(struct trimmer **out, struct ingest *ingest,
                           const struct trim_options *options, struct err *err)
{
    struct trimmer *trimmer = calloc(1, sizeof(*trimmer));

    *out = trimmer;
    if (trimmer == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for trimming");
    trimmer->ingest = ingest;
    trimmer->env = ingest->setup.env;
    trimmer->options = *options;
    pthread_mutex_init(&trimmer->lock, NULL);
    env_cond_init(trimmer->env, &trimmer->changed);
    open_metrics(trimmer, ingest->setup.metrics);
    return ERR_OK;
}

enum err_code trimmer_start(struct trimmer *trimmer, struct err *err)
{
    return env_thread_start(trimmer->env, &trimmer->thread, "trim", run, trimmer, err);
}

void trimmer_stop(struct trimmer *trimmer)
{
    if (trimmer == NULL)
        return;
    pthread_mutex_lock(&trimmer->lock);
    trimmer->stopping = true;
    env_cond_broadcast(&trimmer->changed);
    pthread_mutex_unlock(&trimmer->lock);
}

void trimmer_close(struct trimmer *trimmer)
{
    if (trimmer == NULL)
        return;
    env_thread_join(trimmer->thread);
    forget_checkpoints(trimmer, trimmer->count);
    env_cond_free(&trimmer->changed);
    pthread_mutex_destroy(&trimmer->lock);
    free(trimmer);
}

void trimmer_measure(struct trimmer *trimmer)
{
    if (trimmer == NULL || trimmer->first == NULL)
        return;
    pthread_mutex_lock(&trimmer->lock);
    metric_set(trimmer->first, (double)trimmer->firsts);
    for (size_t i = 1; i < ARRAY_COUNT(held_names); i++)
        metric_set(trimmer->held[i], trimmer->held_by == (enum held_by)i);
    pthread_mutex_unlock(&trimmer->lock);
}

/* --- telling -----------------------------------------------------------------------------------
 */

void trimmer_write(struct trimmer *trimmer, struct json_writer *w)
{
    pthread_mutex_lock(&trimmer->lock);
    json_key(w, "trim");
    json_begin_object(w);
    json_key(w, "trimmed_records");
    json_u64(w, trimmer->firsts);
    json_key(w, "trims");
    json_u64(w, trimmer->trimmed);
    json_key(w, "checkpoints");
    json_u64(w, trimmer->waiting);
    json_key(w, "held_by");
    json_text(w, held_names[trimmer->held_by]);
    json_key(w, "detail");
    json_text(w, trimmer->detail);
    json_end_object(w);
    pthread_mutex_unlock(&trimmer->lock);
}

enum err_code handle_trim(struct request *req)
{
    struct ingest *ingest = req->state;
    struct trimmer *trimmer = ingest->trimmer;
    enum err_code rc = ERR_OK;
    struct json_writer w;
    uint64_t generation, wanted;

    if (trimmer == NULL)
        return err_set(&req->err, ERR_NOT_SUPPORTED,
                       "the log is not trimmed here (--trim-every 0)");
    rc = sequencer_check(&ingest->sequencer, &generation, NULL, &req->err);
    if (rc != ERR_OK)
        return rc;
    pthread_mutex_lock(&trimmer->lock);
    wanted = ++trimmer->wanted;
    env_cond_broadcast(&trimmer->changed);
    while (rc == ERR_OK && trimmer->done < wanted && !trimmer->stopping)
        rc = env_cond_wait(&trimmer->changed, &trimmer->lock,
                           env_boot_ns(trimmer->env) + CHECKPOINT_NS);
    pthread_mutex_unlock(&trimmer->lock);
    if (rc != ERR_OK)
        return err_set(&req->err, rc, "the log is being trimmed still");
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    trimmer_write(trimmer, &w);
    json_end_object(&w);
    return buffer_check(&req->reply.body, &req->err);
}
