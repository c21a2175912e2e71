/* What others ask of the sequencer: whether it takes anything, and how far the log is. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "services/ingest/sequencer.h"

#define PROMPT_NS (250 * NS_PER_MS)

bool sequencer_is_away_locked(const struct sequencer *s)
{
    return !s->stopping && s->state == SEQUENCER_RECOVERING && s->refusal.code != ERR_OK;
}

enum err_code sequencer_check(struct sequencer *s, uint64_t *generation, bool *is_away,
                              struct err *err)
{
    enum err_code rc;

    pthread_mutex_lock(&s->lock);
    *generation = s->generation;
    if (is_away != NULL)
        *is_away = sequencer_is_away_locked(s);
    rc = s->stopping ? err_set(err, ERR_DEAD, "the service is shutting down") : s->refusal.code;
    if (!s->stopping && rc != ERR_OK) {
        *err = s->refusal;
        s->wanted = true;
        env_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

bool sequencer_stands_by(struct sequencer *s)
{
    bool stands_by;

    pthread_mutex_lock(&s->lock);
    stands_by = s->state == SEQUENCER_STANDBY;
    pthread_mutex_unlock(&s->lock);
    return stands_by;
}

bool sequencer_is_prompt(struct sequencer *s)
{
    uint64_t now = env_boot_ns(s->env);
    bool prompt;

    pthread_mutex_lock(&s->lock);
    prompt =
        s->state == SEQUENCER_HOLDER && (s->append_began == 0 || now < s->append_began + PROMPT_NS);
    pthread_mutex_unlock(&s->lock);
    return prompt;
}

bool sequencer_may_defer(struct sequencer *s, const struct sequence_batch *batch)
{
    bool may = false;

    pthread_mutex_lock(&s->lock);
    switch (batch->state) {
    case BATCH_NEW: /* not even queued; the log may have come back meanwhile */
        may = batch->met_away;
        break;
    case BATCH_APPENDING:
    case BATCH_DOUBT:
        may = true;
        break;
    case BATCH_DONE: /* left the queue, or void for ever */
        may = s->state == SEQUENCER_RECOVERING || batch->err.code == ERR_UNAVAILABLE;
        for (size_t i = 0; i < batch->count; i++)
            may = may && !batch->items[i].committed;
        break;
    default:
        break;
    }
    may = may && !s->stopping && s->state != SEQUENCER_STANDBY;
    pthread_mutex_unlock(&s->lock);
    return may;
}

uint64_t sequencer_term(struct sequencer *s)
{
    uint64_t term;

    pthread_mutex_lock(&s->lock);
    term = s->term;
    pthread_mutex_unlock(&s->lock);
    return term;
}

struct stamp sequencer_change_stamp(struct sequencer *s)
{
    struct stamp stamp;
    uint64_t wall = env_wall_us(s->env);

    pthread_mutex_lock(&s->lock);
    stamp.clock = MAX_OF(wall, MAX_OF(s->last_change, s->last_staged));
    for (uint32_t i = 0; i < s->partitions; i++)
        stamp.clock = MAX_OF(stamp.clock, s->views[i].clock);
    stamp.clock++;
    stamp.region = s->region;
    s->last_change = stamp.clock;
    pthread_mutex_unlock(&s->lock);
    return stamp;
}

uint64_t sequencer_end(struct sequencer *s, uint32_t partition)
{
    uint64_t end;

    pthread_mutex_lock(&s->lock);
    assert(partition < s->partitions);
    end = s->views[partition].end;
    pthread_mutex_unlock(&s->lock);
    return end;
}

struct line_view *sequencer_views(struct sequencer *s, uint32_t *partitions)
{
    struct line_view *copy = NULL;

    pthread_mutex_lock(&s->lock);
    *partitions = s->partitions;
    if (s->partitions > 0 && (copy = array_alloc(s->partitions, sizeof(*copy))) != NULL)
        memcpy(copy, s->views, s->partitions * sizeof(*copy));
    pthread_mutex_unlock(&s->lock);
    return copy;
}
