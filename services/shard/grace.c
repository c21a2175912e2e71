/* Eras of searches: see grace.h. */
#include "services/shard/grace.h"

#include <assert.h>

void grace_init(struct grace *grace)
{
    atomic_init(&grace->era, 1);
    atomic_init(&grace->hint, 0);
    for (uint32_t i = 0; i < GRACE_SLOTS; i++)
        atomic_init(&grace->slots[i], 0);
}

int grace_enter(struct grace *grace)
{
    /* Relaxed: only a place to begin the search at. */
    uint32_t start = atomic_fetch_add_explicit(&grace->hint, 1, memory_order_relaxed);

    for (uint32_t i = 0; i < GRACE_SLOTS; i++) {
        uint32_t at = (start + i) % GRACE_SLOTS;
        uint_fast64_t is_free = 0;
        uint64_t era = atomic_load(&grace->era);

        if (atomic_compare_exchange_strong(&grace->slots[at], &is_free, era))
            return (int)at;
    }
    return -1;
}

void grace_leave(struct grace *grace, int slot)
{
    assert(slot >= 0 && slot < GRACE_SLOTS);
    assert(atomic_load(&grace->slots[slot]) != 0);
    atomic_store(&grace->slots[slot], 0);
}

uint64_t grace_advance(struct grace *grace)
{
    return atomic_fetch_add(&grace->era, 1);
}

uint64_t grace_oldest(struct grace *grace)
{
    uint64_t oldest = UINT64_MAX;

    for (uint32_t i = 0; i < GRACE_SLOTS; i++) {
        uint64_t era = atomic_load(&grace->slots[i]);

        if (era != 0 && era < oldest)
            oldest = era;
    }
    return oldest;
}
