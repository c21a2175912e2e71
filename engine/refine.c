/* The nearest of a beam, measured.
 *
 * A walk orders its beam by coarse estimates; the nearest are measured on the vectors.  The first
 * ones tell how far the estimates are off, and it ends when by those errors no other node can still
 * be among the best k: very few vectors are fetched.
 * Failure: only the deadline, and only in long chains of twins. */
#include <math.h>

#include "common/base/checked.h"
#include "engine/search.h"

enum {
    RUN_MAX = 16,   /* rows fetched ahead of measuring, as long as k are not there ... */
    RUN_NEXT = 4,   /* ... and then, when each run may be the last */
    ERRORS_MIN = 8, /* from so many on their spread is known */
    CHAIN_PER_CHECK = 4096,
};

#define DEVIATIONS 2.5

/* How far distances lie from what was estimated, seen so far. */
struct error {
    double sum, square;
    uint32_t count;
};

static void error_add(struct error *error, float difference)
{
    error->sum += (double)difference;
    error->square += (double)difference * (double)difference;
    error->count++;
}

/* Can what is estimated so still lie nearer than that? */
static bool is_hopeful(const struct error *error, float estimated, float worst)
{
    if (error->count < ERRORS_MIN)
        return true;
    double mean = error->sum / error->count;
    double deviation = sqrt(fmax(error->square / error->count - mean * mean, 0.0));

    return (double)estimated + mean - DEVIATIONS * deviation <= (double)worst;
}

/* Of a node and its twins, would the search return any? */
static bool is_wanted(const struct search *search, uint32_t slot)
{
    return slot < search->linked && admit_node(&search->admit, slot);
}

/* The next keys of the beam that may be returned, from *at on, when so many were taken before. */
static size_t take_run(const struct search *search, size_t taken, size_t *at, uint64_t *run)
{
    const struct scratch *scratch = search->scratch;
    size_t k = search->query->k;
    size_t max = taken < k ? MIN_OF(k - taken, (size_t)RUN_MAX) : RUN_NEXT;
    size_t count = 0;

    for (; *at < scratch->pool_count && count < max; (*at)++)
        if (is_wanted(search, pool_slot(scratch->pool[*at])))
            run[count++] = scratch->pool[*at];
    return count;
}

/* Add a node at this distance, and its twins.  False: the deadline has passed. */
static bool collect_node(struct search *search, uint32_t slot, uint32_t order, uint64_t *found)
{
    const struct graph *graph = search->graph;
    uint64_t taken = 0;
    uint32_t seen = 0;

    for (;;) {
        const struct slot *row = slot_of(graph, slot);

        if (slot >= search->linked)
            break; /* linked while we walked; the scan of the tail sees it */
        if (admit_slot(&search->admit, slot)) {
            topk_push(&search->best, (uint64_t)order << 32 | row->ordinal);
            taken++;
        }
        uint32_t next = atomic_load_explicit(&row->twin, memory_order_acquire);
        if (next == 0 || taken >= search->query->k)
            break; /* later twins lie no nearer and have larger ordinals */
        if (++seen % CHAIN_PER_CHECK == 0 && deadline_passed(search->query->deadline_ns))
            return false;
        slot = next - 1;
    }
    *found += taken;
    return true;
}

static bool measure(struct search *search, const uint64_t *run, size_t count, struct error *error,
                    uint64_t *found)
{
    const struct graph *graph = search->graph;

    for (size_t i = 0; i < count; i++) {
        prefetch(slot_of(graph, pool_slot(run[i])));
        prefetch_vector(graph, pool_slot(run[i]));
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t slot = pool_slot(run[i]);
        float distance =
            ruler_distance(&graph->ruler, search->scratch->query, vector_of(graph, slot));

        error_add(error, distance - key_distance(run[i]));
        if (!collect_node(search, slot, key_order(distance), found))
            return false;
    }
    search->counters.distances += count;
    return true;
}

bool refine_beam(struct search *search, uint64_t *found)
{
    struct scratch *scratch = search->scratch;
    const struct topk *best = &search->best;
    struct error error = {0};
    uint64_t run[RUN_MAX];
    size_t at = 0, count;

    *found = 0;
    while ((count = take_run(search, best->count, &at, run)) > 0) {
        if (best->count == best->max &&
            !is_hopeful(&error, key_distance(run[0]), key_distance(best->keys[0])))
            break;
        if (!measure(search, run, count, &error, found))
            return false;
    }
    for (*found += count; at < scratch->pool_count; at++)
        *found += is_wanted(search, pool_slot(scratch->pool[at]));
    return true;
}
