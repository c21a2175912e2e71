/* Exact search: every vector that may be returned is measured.  It serves small collections, the
 * tail that the graph does not hold yet, narrow filters, and as the oracle.
 * Failure: only a deadline, looked at every VECTORS_PER_CHECK vectors. */
#include "engine/search.h"

#include <assert.h>

enum { VECTORS_PER_CHECK = 4096, RUN_MAX = FRESH_MAX, LOOK_AHEAD = 2 };

static void scan_one(struct search *search, uint32_t slot)
{
    const struct engine *engine = search->engine;
    float distance =
        ruler_distance(&engine->ruler, search->scratch->query, vector_of(engine, slot));

    search->counters.scanned++;
    search->counters.distances++;
    topk_push(&search->best, key_make(distance, slot_of(engine, slot)->ordinal));
}

bool flat_range(struct search *search, uint32_t from, uint32_t to)
{
    for (uint32_t slot = from; slot < to; slot++) {
        if ((slot - from) % VECTORS_PER_CHECK == VECTORS_PER_CHECK - 1 &&
            deadline_passed(search->query->deadline_ns))
            return false;
        if ((slot_state(search->engine, slot) & SLOT_DEAD) != 0 ||
            !search_admits(search, slot_of(search->engine, slot)->ordinal))
            continue;
        scan_one(search, slot);
    }
    return true;
}

/* The vectors of a run are known before they are measured, so they are fetched ahead. */
static void scan_run(struct search *search, size_t count)
{
    const uint32_t *run = search->scratch->fresh;

    for (size_t i = 0; i < count && i < LOOK_AHEAD; i++)
        prefetch_vector(search->engine, run[i]);
    for (size_t i = 0; i < count; i++) {
        if (i + LOOK_AHEAD < count)
            prefetch_vector(search->engine, run[i + LOOK_AHEAD]);
        scan_one(search, run[i]);
    }
}

/* Slot of an ordinal, not before *from; *from moves on.  Slots and ordinals both ascend strictly,
 * so an ordinal stands at most as many slots on as it is larger: where ordinals have no gaps,
 * that guess is right at once. */
static bool seek(const struct search *search, uint32_t ordinal, uint32_t *from)
{
    const struct engine *engine = search->engine;
    uint32_t low = *from;
    uint32_t high = search->count;

    if (low >= high || slot_of(engine, low)->ordinal > ordinal)
        return false;
    uint32_t ahead = ordinal - slot_of(engine, low)->ordinal;
    if (ahead < high - low)
        high = low + ahead + 1;
    if (slot_of(engine, high - 1)->ordinal <= ordinal)
        low = high - 1;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;

        if (slot_of(engine, middle)->ordinal <= ordinal)
            low = middle;
        else
            high = middle;
    }
    *from = low;
    return slot_of(engine, low)->ordinal == ordinal;
}

bool flat_filter(struct search *search)
{
    const struct engine_bitmap *filter = search->query->filter;
    uint32_t *run = search->scratch->fresh;
    uint32_t from = 0;
    uint32_t checked = 0;
    size_t count = 0;

    if (search->count == 0)
        return true;
    uint32_t last = slot_of(search->engine, search->count - 1)->ordinal;
    for (size_t word = 0; word < filter->word_count && word <= last / 64; word++) {
        for (uint64_t bits = filter->words[word]; bits != 0; bits &= bits - 1) {
            uint32_t ordinal = (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(bits);

            if (++checked % VECTORS_PER_CHECK == 0 && deadline_passed(search->query->deadline_ns))
                return false;
            if (!seek(search, ordinal, &from) ||
                (slot_state(search->engine, from) & SLOT_DEAD) != 0)
                continue;
            run[count++] = from;
            if (count == RUN_MAX) {
                scan_run(search, count);
                count = 0;
            }
        }
    }
    scan_run(search, count);
    return true;
}
