/* Hedging: see hedge.h. */
#include "cluster/hedge.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"

#define ONE         100 /* hedge, as the allowance counts */
#define LEARN_EVERY 16

void hedge_init(struct hedge *hedge)
{
    memset(hedge, 0, sizeof(*hedge));
    hedge->allowance = HEDGE_BURST * ONE;
}

uint64_t hedge_after_ns(struct hedge *hedge, uint32_t kind)
{
    const struct hedge_window *window = &hedge->windows[kind];

    assert(kind < HEDGE_KINDS);
    hedge->allowance = MIN_OF(hedge->allowance + HEDGE_PERCENT, (uint32_t)HEDGE_BURST * ONE);
    if (window->count < HEDGE_KNOWN)
        return HEDGE_GUESS_NS;
    return MAX_OF(window->p95_us * NS_PER_US, HEDGE_FLOOR_NS);
}

bool hedge_take(struct hedge *hedge)
{
    if (hedge->allowance < ONE)
        return false;
    hedge->allowance -= ONE;
    return true;
}

static int compare_samples(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

    return (left > right) - (left < right);
}

static uint32_t percentile_95(const struct hedge_window *window)
{
    uint32_t sorted[HEDGE_SAMPLES];
    uint32_t count = MIN_OF(window->count, (uint32_t)HEDGE_SAMPLES);

    memcpy(sorted, window->samples_us, count * sizeof(sorted[0]));
    qsort(sorted, count, sizeof(sorted[0]), compare_samples);
    return sorted[count * 95 / 100];
}

void hedge_learn(struct hedge *hedge, uint32_t kind, uint64_t took_ns)
{
    struct hedge_window *window = &hedge->windows[kind];

    assert(kind < HEDGE_KINDS);
    window->samples_us[window->count % HEDGE_SAMPLES] =
        (uint32_t)MIN_OF(took_ns / NS_PER_US, (uint64_t)UINT32_MAX);
    /* Far from overflow it goes on in the same place of the ring. */
    window->count =
        window->count == UINT32_MAX ? UINT32_MAX - HEDGE_SAMPLES + 1 : window->count + 1;
    if (window->count % LEARN_EVERY == 0)
        window->p95_us = percentile_95(window);
}
