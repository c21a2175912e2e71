/* Health of a replica: see health.h. */
#include "cluster/health.h"

#include <assert.h>

#include "common/base/checked.h"

static void take_out(struct health *health)
{
    health->state = HEALTH_OUT;
}

void health_heard(struct health *health, const struct health_status *status)
{
    if (status->asked_ns < health->heard_ns)
        return;
    health->heard_ns = status->asked_ns;
    if (!status->is_ready || status->lag == LAG_MUCH) {
        take_out(health);
        return;
    }
    if (status->asked_ns >= health->doubt_ns)
        health->overdue = 0;
    if (health->state != HEALTH_OUT || status->lag != LAG_NONE ||
        status->asked_ns < health->back_ns)
        return;
    health->state = health->failures == 0 ? HEALTH_IN : HEALTH_TRIAL;
}

void health_unheard(struct health *health, uint64_t now_ns, bool is_refused)
{
    if (is_refused || now_ns - MIN_OF(health->heard_ns, now_ns) >= HEALTH_SILENT_NS)
        take_out(health);
}

static void end_question(struct health *health)
{
    assert(health->in_flight > 0);
    health->in_flight--;
}

void health_asked(struct health *health)
{
    health->in_flight++;
}

void health_answered(struct health *health)
{
    end_question(health);
    health->failures = 0;
    health->overdue = 0;
    if (health->state == HEALTH_TRIAL)
        health->state = HEALTH_IN;
}

void health_broke(struct health *health, uint64_t now_ns)
{
    uint64_t pause_ns = HEALTH_PAUSE_NS << MIN_OF(health->failures, 6u);

    end_question(health);
    /* Of many questions that break at once, one counts. */
    if (health->state != HEALTH_OUT || now_ns >= health->back_ns) {
        health->failures++;
        health->back_ns = now_ns + MIN_OF(pause_ns, HEALTH_PAUSE_MAX_NS);
    }
    take_out(health);
}

void health_overdue(struct health *health, uint64_t now_ns)
{
    end_question(health);
    health->overdue++;
    health->doubt_ns = now_ns;
}

void health_dropped(struct health *health)
{
    end_question(health);
}

uint32_t health_rank(const struct health *health)
{
    switch (health->state) {
    case HEALTH_IN:
        return health->overdue >= HEALTH_OVERDUE_MAX ? 1 : 0;
    case HEALTH_TRIAL:
        return health->in_flight > 0 ? 1 : 0;
    case HEALTH_OUT:
        break;
    }
    return 2;
}

const char *health_name(enum health_state state)
{
    switch (state) {
    case HEALTH_IN:
        return "in";
    case HEALTH_TRIAL:
        return "trial";
    case HEALTH_OUT:
        break;
    }
    return "out";
}
