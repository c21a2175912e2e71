/* The sink of an import: records in, batches out, a few threads that send them.
 *
 * The source runs on the main thread and waits when all batches are on their way, so memory is
 * bounded by threads + 2 batches.  The first error of a sender ends the import; what was
 * acknowledged is in the state file by then. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/import.h"
#include "cli/progress.h"
#include "common/base/checked.h"

struct import_sink {
    struct import *import;
    struct import_state *state;
    struct batch *current; /* the source's; NULL: none taken */
    size_t record_start;   /* of the record being written, its comma included */
    uint64_t number;       /* of the next batch */
    uint64_t read_units, submitted_units;
    uint64_t began_ns;
    struct batch *batches; /* all of them, one array */
    size_t batch_count;
    struct env_thread **threads;
    size_t thread_count;
    struct env_thread *reporter;

    pthread_mutex_t mutex;
    struct env_cond changed;
    /* guarded by mutex */
    struct batch *free_ones;
    struct batch *queued, **queue_end;
    size_t under_way;
    bool is_over;   /* no more batches will come */
    bool is_failed; /* err says why */
    bool is_closed; /* the reporter is to end */
    struct err err;
    struct import_counts counts;
    uint64_t skipped_units;
};

const struct import *import_sink_import(const struct import_sink *sink)
{
    return sink->import;
}

static void fail_locked(struct import_sink *sink, const struct err *err)
{
    if (!sink->is_failed)
        sink->err = *err;
    sink->is_failed = true;
    env_cond_broadcast(&sink->changed);
}

/* --- refusals -------------------------------------------------------------------------------- */

void import_sink_count_refused(struct import_sink *sink, uint64_t row, const struct err *why)
{
    const char *word = err_word(why->code);
    struct import_counts *counts = &sink->counts;
    struct refusal *refusal = NULL;

    pthread_mutex_lock(&sink->mutex);
    counts->refused++;
    for (size_t i = 0; i < counts->refusal_count && refusal == NULL; i++)
        if (strcmp(counts->refusals[i].word, word) == 0)
            refusal = &counts->refusals[i];
    if (refusal == NULL && counts->refusal_count < REFUSALS_MAX) {
        refusal = &counts->refusals[counts->refusal_count++];
        (void)snprintf(refusal->word, sizeof(refusal->word), "%s", word);
    }
    if (refusal != NULL) {
        if (refusal->count < REFUSAL_EXAMPLES)
            (void)snprintf(refusal->examples[refusal->count], REFUSAL_TEXT_SIZE, "row %llu: %.160s",
                           (unsigned long long)row, why->message);
        refusal->count++;
    }
    pthread_mutex_unlock(&sink->mutex);
}

bool import_sink_pause(struct import_sink *sink, uint64_t until_ns, const char *why)
{
    enum err_code rc = ERR_OK;
    bool goes_on;

    pthread_mutex_lock(&sink->mutex);
    if (why != NULL)
        (void)snprintf(sink->counts.waiting, sizeof(sink->counts.waiting), "%s", why);
    while (!sink->is_failed && rc == ERR_OK)
        rc = env_cond_wait(&sink->changed, &sink->mutex, until_ns);
    goes_on = !sink->is_failed && rc != ERR_DEAD;
    pthread_mutex_unlock(&sink->mutex);
    return goes_on;
}

/* --- senders --------------------------------------------------------------------------------- */

static struct batch *take_queued(struct import_sink *sink)
{
    struct batch *batch = NULL;

    pthread_mutex_lock(&sink->mutex);
    while (sink->queued == NULL && !sink->is_over && !sink->is_failed)
        if (env_cond_wait(&sink->changed, &sink->mutex, NEVER_NS) == ERR_DEAD)
            break;
    if (!sink->is_failed && sink->queued != NULL) {
        batch = sink->queued;
        sink->queued = batch->next;
        if (sink->queued == NULL)
            sink->queue_end = &sink->queued;
        sink->under_way++;
    }
    pthread_mutex_unlock(&sink->mutex);
    return batch;
}

static void give_back(struct import_sink *sink, struct batch *batch)
{
    buffer_reset(&batch->body);
    batch->count = 0;
    batch->next = sink->free_ones;
    sink->free_ones = batch;
}

static void send_batches(void *argument)
{
    struct import_sink *sink = argument;
    struct batch *batch;

    while ((batch = take_queued(sink)) != NULL) {
        uint64_t imported = 0, refused = 0;
        struct err err = {0};
        enum err_code rc = import_post(sink, batch, &imported, &refused, &err);

        if (rc == ERR_OK)
            import_state_add(sink->state, batch->number, imported, refused);
        pthread_mutex_lock(&sink->mutex);
        sink->under_way--;
        sink->counts.imported += imported;
        if (rc == ERR_OK) {
            sink->counts.units += batch->units;
            sink->counts.waiting[0] = '\0';
        } else {
            fail_locked(sink, &err);
        }
        give_back(sink, batch);
        env_cond_broadcast(&sink->changed);
        pthread_mutex_unlock(&sink->mutex);
    }
}

static void show(struct import_sink *sink, bool is_last)
{
    struct import_counts counts;
    struct progress_state state;

    pthread_mutex_lock(&sink->mutex);
    counts = sink->counts;
    state.skipped = sink->skipped_units;
    pthread_mutex_unlock(&sink->mutex);
    state.done = counts.units;
    state.total = counts.units_total;
    state.rows = counts.imported + counts.refused;
    state.elapsed_ns = env_boot_ns(env_real()) - sink->began_ns;
    state.waiting = counts.waiting;
    progress_show(&state, is_last);
}

static void report(void *argument)
{
    struct import_sink *sink = argument;
    bool is_closed = false;

    while (!is_closed) {
        uint64_t until = env_boot_ns(env_real()) + progress_every_ns();
        enum err_code rc = ERR_OK;

        pthread_mutex_lock(&sink->mutex);
        while (!sink->is_closed && rc == ERR_OK)
            rc = env_cond_wait(&sink->changed, &sink->mutex, until);
        is_closed = sink->is_closed || rc == ERR_DEAD;
        pthread_mutex_unlock(&sink->mutex);
        if (!is_closed || progress_every_ns() < NS_PER_S)
            show(sink, is_closed);
    }
}

/* --- the source's side ----------------------------------------------------------------------- */

static struct batch *take_free(struct import_sink *sink)
{
    struct batch *batch = NULL;

    pthread_mutex_lock(&sink->mutex);
    while (sink->free_ones == NULL && !sink->is_failed)
        if (env_cond_wait(&sink->changed, &sink->mutex, NEVER_NS) == ERR_DEAD)
            break;
    if (!sink->is_failed && sink->free_ones != NULL) {
        batch = sink->free_ones;
        sink->free_ones = batch->next;
    }
    pthread_mutex_unlock(&sink->mutex);
    return batch;
}

/* Hand the current batch to the senders, or drop it when an earlier run has done it. */
static void submit(struct import_sink *sink)
{
    struct batch *batch = sink->current;
    bool is_done = import_state_has(sink->state, sink->number);

    sink->current = NULL;
    batch->number = sink->number++;
    batch->units = sink->read_units - sink->submitted_units;
    batch->next = NULL;
    sink->submitted_units = sink->read_units;
    pthread_mutex_lock(&sink->mutex);
    if (is_done) {
        sink->counts.units += batch->units;
        sink->skipped_units += batch->units;
        give_back(sink, batch);
    } else {
        *sink->queue_end = batch;
        sink->queue_end = &batch->next;
    }
    env_cond_broadcast(&sink->changed);
    pthread_mutex_unlock(&sink->mutex);
}

struct buffer *import_sink_begin(struct import_sink *sink)
{
    if (sink->current == NULL) {
        sink->current = take_free(sink);
        if (sink->current == NULL)
            return NULL;
        buffer_append_text(&sink->current->body, BATCH_HEAD);
    }
    sink->record_start = sink->current->body.len;
    if (sink->current->count > 0)
        buffer_append_byte(&sink->current->body, ',');
    return &sink->current->body;
}

void import_sink_end(struct import_sink *sink, uint64_t row)
{
    struct batch *batch = sink->current;

    assert(batch != NULL);
    if (batch->body.failed) {
        struct err err = {0};

        (void)err_set(&err, ERR_NO_MEMORY, "no memory for a batch of records");
        pthread_mutex_lock(&sink->mutex);
        fail_locked(sink, &err);
        pthread_mutex_unlock(&sink->mutex);
        return;
    }
    batch->ends[batch->count] = batch->body.len;
    batch->rows[batch->count] = row;
    batch->count++;
    if (batch->count >= sink->import->batch || batch->body.len >= sink->import->batch_bytes)
        submit(sink);
}

void import_sink_refuse(struct import_sink *sink, uint64_t row, const struct err *why)
{
    assert(sink->current != NULL);
    sink->current->body.len = sink->record_start;
    import_sink_count_refused(sink, row, why);
}

void import_sink_progress(struct import_sink *sink, uint64_t units)
{
    sink->read_units = units;
}

/* --- life ------------------------------------------------------------------------------------ */

static enum err_code start_threads(struct import_sink *sink, struct err *err)
{
    size_t count = sink->import->threads;
    enum err_code rc;

    sink->threads = array_alloc(count, sizeof(struct env_thread *));
    if (sink->threads == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    rc = env_thread_start(env_real(), &sink->reporter, "progress", report, sink, err);
    while (rc == ERR_OK && sink->thread_count < count) {
        rc = env_thread_start(env_real(), &sink->threads[sink->thread_count], "send", send_batches,
                              sink, err);
        sink->thread_count += rc == ERR_OK;
    }
    return rc;
}

enum err_code import_sink_open(struct import_sink **out, const struct import_sink_setup *setup,
                               struct err *err)
{
    struct import_sink *sink = calloc(1, sizeof(*sink));
    struct import_counts counts;
    struct err ignored = {0};
    enum err_code rc;

    *out = NULL;
    if (sink == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    sink->import = setup->import;
    sink->state = setup->state;
    sink->counts.units_total = setup->units_total;
    sink->counts.earlier = setup->state->imported;
    sink->counts.earlier_refused = setup->state->refused;
    sink->queue_end = &sink->queued;
    sink->began_ns = env_boot_ns(env_real());
    pthread_mutex_init(&sink->mutex, NULL);
    env_cond_init(env_real(), &sink->changed);
    sink->batches = array_alloc(setup->import->threads + 2, sizeof(struct batch));
    if (sink->batches == NULL) {
        rc = err_set(err, ERR_NO_MEMORY, "no memory");
    } else {
        sink->batch_count = setup->import->threads + 2;
        for (size_t i = 0; i < sink->batch_count; i++)
            give_back(sink, &sink->batches[i]);
        rc = start_threads(sink, err);
    }
    if (rc != ERR_OK) {
        (void)!import_sink_close(sink, true, &counts, &ignored);
        return rc;
    }
    *out = sink;
    return ERR_OK;
}

/* Wait until everything has been sent, or the import has failed. */
static void drain(struct import_sink *sink)
{
    pthread_mutex_lock(&sink->mutex);
    while (!sink->is_failed && (sink->queued != NULL || sink->under_way > 0))
        if (env_cond_wait(&sink->changed, &sink->mutex, NEVER_NS) == ERR_DEAD)
            break;
    pthread_mutex_unlock(&sink->mutex);
}

enum err_code import_sink_close(struct import_sink *sink, bool abandon,
                                struct import_counts *counts, struct err *err)
{
    struct err given_up = {0};
    enum err_code rc = ERR_OK;

    if (!abandon && sink->current != NULL && sink->current->count > 0)
        submit(sink);
    if (!abandon)
        drain(sink);
    (void)err_set(&given_up, ERR_DEAD, "given up");
    pthread_mutex_lock(&sink->mutex);
    if (abandon)
        fail_locked(sink, &given_up);
    sink->counts.units += sink->read_units - sink->submitted_units;
    sink->is_over = sink->is_closed = true;
    env_cond_broadcast(&sink->changed);
    pthread_mutex_unlock(&sink->mutex);
    for (size_t i = 0; i < sink->thread_count; i++)
        env_thread_join(sink->threads[i]);
    env_thread_join(sink->reporter);
    if (sink->is_failed) {
        *err = sink->err;
        rc = sink->err.code;
    }
    *counts = sink->counts;
    for (size_t i = 0; i < sink->batch_count; i++)
        buffer_free(&sink->batches[i].body);
    env_cond_free(&sink->changed);
    pthread_mutex_destroy(&sink->mutex);
    free(sink->threads);
    free(sink->batches);
    free(sink);
    return rc;
}
