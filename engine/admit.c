/* See admit.h. */
#include "engine/admit.h"

#include "common/base/checked.h"

enum {
    TWINS_LOOKED_AT = 8,
    LOOKS_PER_RUN = 1 << 16, /* in vain, before a run ends */
};

void admit_init(struct admit *admit, const struct graph *graph, const struct engine_bitmap *filter,
                uint32_t count)
{
    uint32_t first = slot_of(graph, 0)->ordinal;

    *admit =
        (struct admit){.graph = graph,
                       .count = count,
                       .first = first,
                       .is_dense = slot_of(graph, count - 1)->ordinal - first == count - 1,
                       /* Relaxed: set before a deletion returns, never cleared. */
                       .has_dead = atomic_load_explicit(&graph->has_dead, memory_order_relaxed),
                       .has_twins = atomic_load_explicit(&graph->has_twins, memory_order_relaxed)};
    if (filter != NULL) {
        static const uint64_t nothing;

        admit->words = filter->words != NULL ? filter->words : &nothing;
        admit->bits = (uint64_t)filter->word_count * 64;
    }
}

bool admit_twins(const struct admit *admit, uint32_t slot)
{
    uint32_t next = atomic_load_explicit(&slot_of(admit->graph, slot)->twin, memory_order_acquire);

    for (uint32_t i = 0; next != 0; i++) {
        if (i == TWINS_LOOKED_AT || (next - 1 < admit->count && admit_slot(admit, next - 1)))
            return true;
        next = atomic_load_explicit(&slot_of(admit->graph, next - 1)->twin, memory_order_acquire);
    }
    return false;
}

/* First slot from `from` on, below count, whose ordinal is not below this one.  Slots and ordinals
 * both ascend strictly, so an ordinal stands at most as many slots on as it is larger. */
static uint32_t seek(const struct admit *admit, uint32_t ordinal, uint32_t from)
{
    const struct graph *graph = admit->graph;
    uint32_t low = from;
    uint32_t high = admit->count;

    if (low >= high || slot_of(graph, low)->ordinal >= ordinal)
        return low;
    uint32_t ahead = ordinal - slot_of(graph, low)->ordinal;
    if (ahead < high - low)
        high = low + ahead;
    return slot_seek(graph, ordinal, low + 1, high);
}

/* The same where it is known at once. */
static uint32_t slot_at(const struct admit *admit, uint32_t ordinal, uint32_t from)
{
    if (!admit->is_dense)
        return seek(admit, ordinal, from);
    return ordinal <= admit->first ? 0 : MIN_OF(ordinal - admit->first, admit->count);
}

static uint32_t ordinal_at(const struct admit *admit, uint32_t slot)
{
    return admit->is_dense ? slot + admit->first : slot_of(admit->graph, slot)->ordinal;
}

static size_t run_of_all(const struct admit *admit, struct admit_cursor *cursor, uint32_t *slots,
                         size_t max)
{
    size_t count = 0;
    uint32_t end =
        cursor->to - cursor->slot > LOOKS_PER_RUN ? cursor->slot + LOOKS_PER_RUN : cursor->to;

    for (; cursor->slot < end && count < max; cursor->slot++)
        if (admit_slot(admit, cursor->slot))
            slots[count++] = cursor->slot;
    cursor->is_done = cursor->slot >= cursor->to;
    return count;
}

size_t admit_run(const struct admit *admit, struct admit_cursor *cursor, uint32_t *slots,
                 size_t max)
{
    size_t count = 0;
    uint32_t looks = 0;

    if (cursor->slot >= cursor->to) {
        cursor->is_done = true;
        return 0;
    }
    if (admit->words == NULL)
        return run_of_all(admit, cursor, slots, max);
    uint32_t ordinal = ordinal_at(admit, cursor->slot);
    uint64_t word = ordinal / 64;
    uint64_t mask = ~UINT64_C(0) << ordinal % 64;
    uint64_t word_count =
        MIN_OF(admit->bits / 64, ordinal_at(admit, cursor->to - 1) / 64 + UINT64_C(1));
    for (; word < word_count; word++, mask = ~UINT64_C(0)) {
        for (uint64_t bits = admit->words[word] & mask; bits != 0; bits &= bits - 1) {
            uint32_t named = (uint32_t)word * 64 + (uint32_t)__builtin_ctzll(bits);
            uint32_t slot = slot_at(admit, named, cursor->slot);

            cursor->slot = slot;
            if (slot >= cursor->to || count == max || looks++ == LOOKS_PER_RUN) {
                cursor->is_done = slot >= cursor->to;
                return count;
            }
            if (ordinal_at(admit, slot) != named)
                continue;
            cursor->slot = slot + 1;
            if (!admit->has_dead || (slot_state(admit->graph, slot) & SLOT_DEAD) == 0)
                slots[count++] = slot;
        }
    }
    cursor->is_done = true;
    return count;
}
