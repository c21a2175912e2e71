/* Scans: everything that may be returned is looked at.  They serve small collections, the tail that
 * the graph does not hold yet, narrow filters, and as the oracle.
 *
 * flat_range() measures every vector.  flat_codes() estimates all by their codes, which are an
 * eighth of the bytes, and measures the nearest until the errors seen so far say that no other can
 * be among the best.  It keeps the nearest estimates only; if all of those had to be measured, a
 * second pass measures whatever else lies below the line that is known by then.
 * Failure: only a deadline, looked at after each run. */
#include "engine/search.h"

#include <assert.h>
#include <math.h>

#include "common/base/checked.h"

enum {
    RUN_MAX = FRESH_MAX,
    RUN_CODES = 64, /* rows fetched ahead of estimating */
    LOOK_AHEAD = 2, /* vectors fetched ahead of measuring */
    RUNS_PER_CHECK = 16,
    KEPT_BEYOND = 38, /* estimates kept: 3 k and so many; nearly always enough */
    LINE_BYTES = 64,
};

/* Misses less than one neighbour in a thousand, also where thousands lie equally far. */
#define SCAN_DEVIATIONS 3.4f

static void measure_one(struct search *search, uint32_t slot)
{
    const struct graph *graph = search->graph;
    float distance = ruler_distance(&graph->ruler, search->scratch->query, vector_of(graph, slot));

    search->counters.distances++;
    topk_push(&search->best, key_make(distance, slot_of(graph, slot)->ordinal));
}

/* The vectors of a run are known before they are measured, so they are fetched ahead. */
static void measure_run(struct search *search, size_t count)
{
    const uint32_t *run = search->scratch->fresh;

    for (size_t i = 0; i < count && i < LOOK_AHEAD; i++)
        prefetch_vector(search->graph, run[i]);
    for (size_t i = 0; i < count; i++) {
        if (i + LOOK_AHEAD < count)
            prefetch_vector(search->graph, run[i + LOOK_AHEAD]);
        measure_one(search, run[i]);
    }
}

bool flat_range(struct search *search, uint32_t from, uint32_t to)
{
    struct admit_cursor cursor = {.slot = from, .to = to, .is_done = from >= to};

    for (uint32_t run = 1; !cursor.is_done; run++) {
        size_t count = admit_run(&search->admit, &cursor, search->scratch->fresh, RUN_MAX);

        search->counters.scanned += count;
        measure_run(search, count);
        if (run % RUNS_PER_CHECK == 0 && deadline_passed(search->query->deadline_ns))
            return false;
    }
    return true;
}

/* The least that the distances of fresh[0..count-1] may be, in place of the estimates. */
static void lower(const struct scratch *scratch, size_t count)
{
    for (size_t i = 0; i < count; i++)
        scratch->distances[i] -=
            SCAN_DEVIATIONS * codes_deviation(&scratch->coded, scratch->rows[i]);
}

/* What is done with a run of slots whose distances are estimated. */
typedef void estimated_fn(struct search *search, size_t count, void *state);

/* Estimate all slots below `linked` that may be returned.  False: the deadline has passed. */
static bool estimate_all(struct search *search, estimated_fn *estimated, void *state)
{
    struct admit_cursor cursor = {.to = search->linked, .is_done = search->linked == 0};
    struct scratch *scratch = search->scratch;
    size_t bytes = scratch->coded.bytes + sizeof(struct code_tail);

    for (uint32_t run = 1; !cursor.is_done; run++) {
        size_t count = admit_run(&search->admit, &cursor, scratch->fresh, RUN_CODES);

        for (size_t i = 0; i < count; i++) {
            scratch->rows[i] = code_of(search->graph, scratch->fresh[i]);
            for (size_t at = 0; at < bytes; at += LINE_BYTES)
                prefetch(scratch->rows[i] + at);
        }
        codes_distances(&scratch->coded, scratch->rows, count, scratch->distances);
        lower(scratch, count);
        search->counters.distances += count;
        estimated(search, count, state);
        if (run % RUNS_PER_CHECK == 0 && deadline_passed(search->query->deadline_ns))
            return false;
    }
    return true;
}

static void keep_nearest(struct search *search, size_t count, void *state)
{
    const struct scratch *scratch = search->scratch;
    struct topk *nearest = state;

    search->counters.scanned += count;
    for (size_t i = 0; i < count; i++)
        topk_push(nearest, key_make(scratch->distances[i], scratch->fresh[i]));
}

/* Can a vector be among the best whose distance is at least that of the key? */
static bool is_hopeful(const struct search *search, uint64_t key)
{
    return (key >> 32) << 32 < search->best.limit;
}

/* Measure the keys, ascending, as long as there is hope.  Returns the last one that was. */
static uint64_t measure_nearest(struct search *search, const struct topk *nearest)
{
    const struct graph *graph = search->graph;
    uint64_t last = 0;

    for (size_t i = 0; i < nearest->count && i < LOOK_AHEAD; i++)
        prefetch_vector(graph, key_number(nearest->keys[i]));
    for (size_t i = 0; i < nearest->count && is_hopeful(search, nearest->keys[i]); i++) {
        if (i + LOOK_AHEAD < nearest->count)
            prefetch_vector(graph, key_number(nearest->keys[i + LOOK_AHEAD]));
        measure_one(search, key_number(nearest->keys[i]));
        last = nearest->keys[i];
    }
    return last;
}

/* The second pass: state is the key up to which all were measured. */
static void measure_hopeful(struct search *search, size_t count, void *state)
{
    const struct scratch *scratch = search->scratch;
    const uint64_t *last = state;
    size_t hopeful = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t key = key_make(scratch->distances[i], scratch->fresh[i]);

        if (key > *last && is_hopeful(search, key))
            scratch->fresh[hopeful++] = scratch->fresh[i];
    }
    measure_run(search, hopeful);
}

bool flat_codes(struct search *search)
{
    size_t k = MIN_OF(search->query->k, search->linked);
    struct topk nearest = {.max = 3 * k + KEPT_BEYOND, .limit = UINT64_MAX};

    if (!scratch_beam(search->scratch, nearest.max))
        return flat_range(search, 0, search->linked);
    nearest.keys = search->scratch->pool;
    if (!estimate_all(search, keep_nearest, &nearest))
        return false;
    topk_finish(&nearest);
    uint64_t last = measure_nearest(search, &nearest);
    if (nearest.count < nearest.max || last < nearest.keys[nearest.count - 1])
        return true;
    return estimate_all(search, measure_hopeful, &last);
}
