/* When a question is asked a second time, of another replica: once it has waited longer than 95 of
 * 100 recent ones of its kind did at its shard, and as long as such hedges stay a small share of
 * all questions: a shard that is slow as a whole must not be asked twice as much.
 *
 * Pure but for memory: whoever shares one guards it. */
#ifndef VICINAL_CLUSTER_HEDGE_H
#define VICINAL_CLUSTER_HEDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/env.h"

#define HEDGE_SAMPLES  128              /* answers that are remembered, of each kind */
#define HEDGE_KNOWN    32               /* so many are needed before they tell anything */
#define HEDGE_FLOOR_NS NS_PER_MS        /* never sooner */
#define HEDGE_GUESS_NS (50 * NS_PER_MS) /* before enough is known */
#define HEDGE_PERCENT  5                /* of the questions may be asked twice … */
#define HEDGE_BURST    10               /* … and so many at once after a quiet time */
#define HEDGE_KINDS    12

/* The answers of one kind of question; zeroed is empty. */
struct hedge_window {
    uint32_t samples_us[HEDGE_SAMPLES];
    uint32_t count; /* ever; UINT32_MAX: stays */
    uint32_t p95_us;
};

/* Of one shard; zeroed, but for the allowance: hedge_init. */
struct hedge {
    uint32_t allowance; /* in hundredths of a hedge */
    struct hedge_window windows[HEDGE_KINDS];
};

void hedge_init(struct hedge *hedge);

/* A question goes out: how long it waits for its first replica alone.  kind < HEDGE_KINDS. */
uint64_t hedge_after_ns(struct hedge *hedge, uint32_t kind);

/* A question has waited so long: may it be asked again?  True takes one from the allowance. */
bool hedge_take(struct hedge *hedge);

/* A question of this kind was answered within took_ns. */
void hedge_learn(struct hedge *hedge, uint32_t kind, uint64_t took_ns);

#endif
