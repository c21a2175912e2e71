/* Whether a replica is asked: what this process has seen of it, as one small state machine.
 *
 *          a status: ready, not behind           the status says otherwise, a connection
 *          │  it failed before: on trial         broke, or nothing was heard for 1.5 s
 *          ▼                                     │
 *   OUT ──────▶ TRIAL ── a question answered ──▶ IN ──▶ OUT
 *                 └───── a question failed ────▶ OUT, and longer each time
 *
 * The statuses that every replica is asked for are the only probes: a replica that is out costs one
 * call each round, whatever the traffic.  On trial it gets one question at a time.  A replica that
 * is in and keeps several questions waiting, one after the other, is in doubt until it has answered
 * a status that was asked afterwards: one that stands still is left within a few questions, not
 * only when its silence has lasted.
 *
 * Pure: times are given (boot time, in ns), nothing blocks; whoever shares one guards it. */
#ifndef VICINAL_CLUSTER_HEALTH_H
#define VICINAL_CLUSTER_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/env.h"

#define HEALTH_SILENT_NS    (1500 * NS_PER_MS) /* unheard for so long: out, before 2 s are over */
#define HEALTH_PAUSE_NS     (100 * NS_PER_MS)  /* after the first failure; doubles with each */
#define HEALTH_PAUSE_MAX_NS (5 * NS_PER_S)
#define HEALTH_OVERDUE_MAX  3 /* questions in a row that it was not waited for */

enum health_state { HEALTH_OUT, HEALTH_TRIAL, HEALTH_IN };

/* How far behind the other replicas of its shard. */
enum health_lag {
    LAG_NONE, /* may come back */
    LAG_SOME, /* may stay */
    LAG_MUCH  /* may not: another has more, and it is stale */
};

/* Zeroed: out, nothing seen yet. */
struct health {
    enum health_state state;
    uint32_t in_flight; /* questions under way */
    uint32_t failures;  /* in a row, of connections */
    uint32_t overdue;   /* in a row, of questions */
    uint64_t heard_ns;  /* when the newest good status was asked */
    uint64_t back_ns;   /* a status asked earlier does not bring it back */
    uint64_t doubt_ns;  /* a status asked earlier does not end the doubt */
};

/* A status came. */
struct health_status {
    uint64_t asked_ns;
    bool is_ready;
    enum health_lag lag;
};
void health_heard(struct health *health, const struct health_status *status);

/* A status did not come: refused, broken, or late. */
void health_unheard(struct health *health, uint64_t now_ns, bool is_refused);

/* The life of a question: begun, then ended in one of four ways. */
void health_asked(struct health *health);
void health_answered(struct health *health);                 /* whatever it said */
void health_broke(struct health *health, uint64_t now_ns);   /* no connection, or it broke */
void health_overdue(struct health *health, uint64_t now_ns); /* given up by who waited */
void health_dropped(struct health *health);                  /* another was quicker: no fault */

/* Lower is better: 0 as good as any, 1 in doubt or on trial and busy, 2 out. */
uint32_t health_rank(const struct health *health);

const char *health_name(enum health_state state);

#endif
