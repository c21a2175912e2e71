/* One question to one replica: whom to ask, when to ask another too, what its end means.
 *
 * Of the two attempts of an aim the first answer wins.  While one is under way the failure of the
 * other is no reason for a third: it is that third already. */
#include "cluster/ask_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "common/base/checked.h"

#define REPLY_BYTES_MAX MIB(512)

bool ask_demands(const struct wire_question *question)
{
    return question->fresh || question->demands.count > 0 || question->max_staleness_ns != NEVER_NS;
}

static struct replica_state *state_of(const struct attempt *attempt)
{
    const struct aim *aim = attempt->aim;

    return &aim->asking->cluster->replicas[aim->shard * REPLICAS_MAX + attempt->replica];
}

bool attempt_begin(struct attempt *attempt, bool wants_healthy)
{
    struct aim *aim = attempt->aim;
    struct asking *asking = aim->asking;
    struct pick pick = {.view = asking->view,
                        .question = asking->ask->question,
                        .key = asking->key,
                        .shard = aim->shard,
                        .avoided = asking->avoided[aim->shard],
                        .wants_healthy = wants_healthy};

    assert(!attempt->is_open);
    if (!pick_replica(asking->cluster, &pick, &aim->tried, &attempt->replica))
        return false;
    attempt->is_open = true;
    attempt->began_ns = env_boot_ns(asking->cluster->env);
    return true;
}

void attempt_end(struct attempt *attempt, enum ending ending)
{
    struct cluster *cluster = attempt->aim->asking->cluster;
    struct health *health = &state_of(attempt)->health;
    uint64_t now_ns = env_boot_ns(cluster->env);

    assert(attempt->is_open);
    attempt->is_open = false;
    pthread_mutex_lock(&cluster->mutex);
    switch (ending) {
    case ENDED_ANSWERED:
        health_answered(health);
        break;
    case ENDED_BROKEN:
        health_broke(health, now_ns);
        break;
    case ENDED_OVERDUE:
        health_overdue(health, now_ns);
        break;
    case ENDED_DROPPED:
        health_dropped(health);
        break;
    }
    pthread_mutex_unlock(&cluster->mutex);
}

enum ending attempt_ending(const struct http_call *call)
{
    switch (call->rc) {
    case ERR_UNAVAILABLE:
    case ERR_IO:
        return ENDED_BROKEN;
    case ERR_TIMEOUT:
        return ENDED_OVERDUE;
    case ERR_OK:
        return ENDED_ANSWERED;
    default: /* nothing that the replica has done */
        return ENDED_DROPPED;
    }
}

/* Kinds of questions, as far as their times differ: by what is asked, and whether it may wait. */
static uint32_t kind_of(const struct wire_question *question)
{
    uint32_t kind = 2 * (uint32_t)question->op + (ask_demands(question) ? 1 : 0);

    static_assert(2 * WIRE_WAIT + 1 < HEDGE_KINDS, "every kind has a window");
    return kind;
}

/* Caller holds the mutex.  NULL: no memory, nothing is hedged. */
static struct hedge *hedge_of_locked(struct cluster *cluster, uint32_t shard)
{
    struct hedge **hedge = &cluster->hedges_of[shard];

    if (*hedge == NULL && (*hedge = malloc(sizeof(**hedge))) != NULL)
        hedge_init(*hedge);
    return *hedge;
}

/* An answer is there: the other attempt is not needed any more.  Who was asked first and is not
 * waited for is overdue; a hedge that comes second is not to blame. */
static void win(struct attempt *attempt)
{
    struct aim *aim = attempt->aim;
    struct cluster *cluster = aim->asking->cluster;
    bool is_hedge = attempt == &aim->hedge;
    struct attempt *other = is_hedge ? &aim->first : &aim->hedge;
    struct hedge *hedge;

    aim->winner = attempt;
    aim->took_ns = env_boot_ns(cluster->env) - attempt->began_ns;
    if (other->is_open)
        attempt_end(other, is_hedge ? ENDED_OVERDUE : ENDED_DROPPED);
    if (other->call != NULL)
        other->call->is_dropped = true;
    if (is_hedge && cluster->hedge_wins != NULL)
        metric_add(cluster->hedge_wins, 1);
    pthread_mutex_lock(&cluster->mutex);
    if (aim->failed == ERR_OK && (hedge = hedge_of_locked(cluster, aim->shard)) != NULL)
        hedge_learn(hedge, kind_of(aim->asking->ask->question), aim->took_ns);
    pthread_mutex_unlock(&cluster->mutex);
}

bool ask_another_may_help(enum err_code rc)
{
    return err_is_retriable(rc) || rc == ERR_INTERNAL;
}

bool attempt_call_ended(void *context, struct http_call *call)
{
    struct asking *asking = context;
    struct attempt *attempt = call->user;
    struct aim *aim = attempt->aim;
    struct attempt *other = attempt == &aim->first ? &aim->hedge : &aim->first;
    struct cluster *cluster = asking->cluster;

    err_clear(&aim->err);
    aim->failed = http_call_expect(call, &aim->err);
    attempt_end(attempt, attempt_ending(call));
    if (aim->failed == ERR_OK || !ask_another_may_help(aim->failed)) {
        win(attempt);
        return false;
    }
    /* While the other one is under way it is the next replica already. */
    if (call->rc == ERR_TIMEOUT || call->rc == ERR_DEAD || other->is_open)
        return false;
    /* Who waited in vain for what is demanded says so when the round is all but over: the others
     * are asked in the next one, with time for it. */
    if (env_boot_ns(cluster->env) >= asking->last_turn_ns || !attempt_begin(attempt, false)) {
        if (other->call != NULL)
            other->call->is_dropped = true;
        return false;
    }
    if (cluster->retries != NULL)
        metric_add(cluster->retries, 1);
    asking->out->retries++;
    call->base = view_url(asking->view, aim->shard, attempt->replica);
    return true;
}

bool attempt_call_due(void *context, struct http_call *call)
{
    struct asking *asking = context;
    struct attempt *attempt = call->user;
    struct aim *aim = attempt->aim;
    struct cluster *cluster = asking->cluster;
    struct hedge *hedge;
    bool is_allowed;

    if (!attempt_begin(attempt, true))
        return false;
    pthread_mutex_lock(&cluster->mutex);
    hedge = hedge_of_locked(cluster, aim->shard);
    is_allowed = hedge != NULL && hedge_take(hedge);
    pthread_mutex_unlock(&cluster->mutex);
    if (!is_allowed) {
        attempt_end(attempt, ENDED_DROPPED);
        aim->tried &= ~(1u << attempt->replica);
        return false;
    }
    if (cluster->hedges != NULL)
        metric_add(cluster->hedges, 1);
    asking->out->hedges++;
    aim->is_hedged = true;
    call->base = view_url(asking->view, aim->shard, attempt->replica);
    return true;
}

void attempt_fill_call(struct attempt *attempt, struct http_call *call, uint64_t hedge_ns)
{
    struct aim *aim = attempt->aim;
    const struct asking *asking = aim->asking;

    attempt->call = call;
    *call = (struct http_call){
        .method = "POST",
        .base = hedge_ns == 0 ? view_url(asking->view, aim->shard, attempt->replica) : "",
        .path = "/internal/v1/ask",
        .content_type = "application/x-vicinal",
        .request_id = asking->ask->request_id,
        .traceparent = asking->ask->traceparent,
        .body = aim->body.data,
        .body_len = aim->body.len,
        .reply_max = REPLY_BYTES_MAX,
        .after_ns = hedge_ns,
        .user = attempt,
    };
}

uint64_t attempt_hedge_ns(const struct asking *asking, const struct aim *aim)
{
    struct cluster *cluster = asking->cluster;
    uint64_t after_ns = 0;
    struct hedge *hedge;

    if (!pick_is_left(asking->view, aim->shard, aim->tried))
        return 0;
    pthread_mutex_lock(&cluster->mutex);
    if ((hedge = hedge_of_locked(cluster, aim->shard)) != NULL)
        after_ns = hedge_after_ns(hedge, kind_of(asking->ask->question));
    pthread_mutex_unlock(&cluster->mutex);
    return after_ns == 0 ? 0 : aim->first.began_ns + after_ns;
}
