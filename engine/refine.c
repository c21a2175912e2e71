/* The nearest of a beam, measured.
 *
 * A walk orders its beam by coarse estimates.  Where there are finer codes, the nearest are
 * estimated again by those; then the nearest of these are measured on the vectors.  Each stage
 * learns from the first ones how far the stage before was off, and ends when by those errors no
 * other node can still be among the best k: few codes and very few vectors are fetched. Failure:
 * only the deadline, and only in long chains of twins. */
#include <math.h>

#include "common/base/checked.h"
#include "engine/search.h"

enum {
    RUN_MAX = 4,    /* rows fetched ahead of measuring */
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

/* The next keys of the beam that may be returned, up to RUN_MAX, from *at on. */
static size_t take_run(const struct search *search, size_t *at, uint64_t *run)
{
    const struct scratch *scratch = search->scratch;
    size_t count = 0;

    for (; *at < scratch->pool_count && count < RUN_MAX; (*at)++)
        if (is_wanted(search, pool_slot(scratch->pool[*at])))
            run[count++] = scratch->pool[*at];
    return count;
}

static void insert_key(uint64_t *keys, size_t count, uint64_t key)
{
    for (; count > 0 && keys[count - 1] > key; count--)
        keys[count] = keys[count - 1];
    keys[count] = key;
}

/* Estimate again by the finer codes.  The beam's front becomes the keys that were estimated,
 * ascending; returns how many.  *rest: of those behind, how many may be returned. */
static size_t estimate_finer(struct search *search, uint64_t *rest)
{
    struct scratch *scratch = search->scratch;
    uint64_t *keys = scratch->pool;
    uint32_t k = search->query->k;
    struct error error = {0};
    uint64_t run[RUN_MAX];
    float distances[RUN_MAX];
    size_t at = 0, count = 0, taken;

    while ((taken = take_run(search, &at, run)) > 0) {
        if (count >= k && !is_hopeful(&error, key_distance(run[0]), key_distance(keys[k - 1])))
            break;
        for (size_t i = 0; i < taken; i++) {
            scratch->rows[i] = fine_of(search->graph, pool_slot(run[i]));
            prefetch_fine(search->graph, pool_slot(run[i]));
        }
        codes_distances(&scratch->fine, scratch->rows, taken, distances);
        for (size_t i = 0; i < taken; i++) {
            error_add(&error, distances[i] - key_distance(run[i]));
            insert_key(keys, count++, key_make(distances[i], pool_slot(run[i]) << 1));
        }
        search->counters.distances += taken;
    }
    for (*rest = taken; at < scratch->pool_count; at++)
        *rest += is_wanted(search, pool_slot(scratch->pool[at]));
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
    uint64_t rest = 0;
    size_t at = 0, count;

    if (graph_reads_fine(&search->graph->options))
        scratch->pool_count = estimate_finer(search, &rest);
    *found = 0;
    while ((count = take_run(search, &at, run)) > 0) {
        if (best->count == best->max &&
            !is_hopeful(&error, key_distance(run[0]), key_distance(best->keys[0])))
            break;
        if (!measure(search, run, count, &error, found))
            return false;
    }
    for (*found += count + rest; at < scratch->pool_count; at++)
        *found += is_wanted(search, pool_slot(scratch->pool[at]));
    return true;
}
