/* Walking the graph: greedily down the levels, then a beam on the ground.
 *
 * The beam is an array of 64-bit keys, ascending: finding the next node to expand, the worst one
 * and a tie's order are all plain integer work.  Of a node's links, those seen before are sorted
 * out first; the vectors of the rest are prefetched while the ones before them are computed.  With
 * codes (walk.coded) it is their rows that are fetched, and the keys are estimates.
 * Failure: only a deadline, looked at every HOPS_PER_CHECK hops. */
#include <assert.h>
#include <string.h>
#include <time.h>

#include "engine/hnsw.h"

enum {
    HOPS_PER_CHECK = 64,
    LINE_BYTES = 64,
    LINE_FLOATS = 16,     /* floats of a cache line */
    LOOK_AHEAD = 2,       /* vectors being fetched while one is computed */
    CODES_AHEAD = 6,      /* the same of codes */
    LINES_AHEAD_MAX = 48, /* the hardware's own prefetcher does the rest of a long row */
};

bool deadline_passed(uint64_t deadline_ns)
{
    struct timespec now;

    if (deadline_ns == 0)
        return false;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec >= deadline_ns;
}

static void prefetch_row(const struct walk *walk, uint32_t slot)
{
    const struct engine *engine = walk->engine;
    const void *row = walk->coded != NULL ? (const void *)code_of(engine, slot)
                                          : (const void *)vector_of(engine, slot);
    size_t lines = walk->coded != NULL ? walk->coded->stride / LINE_BYTES
                                       : (engine->options.dim + LINE_FLOATS - 1) / LINE_FLOATS;

    if (lines > LINES_AHEAD_MAX)
        lines = LINES_AHEAD_MAX;
    for (size_t i = 0; i < lines; i++)
        prefetch((const char *)row + i * LINE_BYTES);
}

static inline float distance_to(const struct walk *walk, uint32_t slot)
{
    if (walk->coded != NULL)
        return codes_distance(walk->coded, code_of(walk->engine, slot));
    return ruler_distance(walk->ruler, walk->query, vector_of(walk->engine, slot));
}

static float measure(struct walk *walk, uint32_t slot)
{
    walk->distances++;
    return distance_to(walk, slot);
}

/* One greedy step: the nearest link of node, if it is nearer than node. */
static bool step_nearer(struct walk *walk, uint32_t level, uint64_t *nearest)
{
    const struct engine *engine = walk->engine;
    _Atomic uint32_t *links = links_of(engine, key_number(*nearest), level);
    uint32_t max = links_max(engine, level);
    uint64_t before = *nearest;

    walk->hops++;
    for (uint32_t i = 0; i < max; i++) {
        uint32_t link = atomic_load_explicit(&links[i], memory_order_acquire) & LINK_TARGET;

        if (link == 0)
            break;
        if (link - 1 >= walk->limit)
            continue;
        uint64_t key = key_make(measure(walk, link - 1), link - 1);
        if (key < *nearest)
            *nearest = key;
    }
    return *nearest != before;
}

uint32_t walk_descend(struct walk *walk, uint64_t entry, uint32_t to)
{
    assert(entry != 0);
    uint32_t slot = entry_slot(entry);

    if (entry_level(entry) <= to)
        return slot;
    uint64_t nearest = key_make(measure(walk, slot), slot);
    for (uint32_t level = entry_level(entry); level > to; level--)
        while (step_nearer(walk, level, &nearest))
            continue;
    return key_number(nearest);
}

/* Put a key in its place; the worst one falls out of a full beam.  Returns the place. */
static size_t pool_insert(struct scratch *scratch, uint64_t key, size_t ef)
{
    uint64_t *pool = scratch->pool;
    size_t low = 0;
    size_t high = scratch->pool_count;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (pool[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    size_t moved = scratch->pool_count - low;
    if (scratch->pool_count == ef)
        moved--;
    else
        scratch->pool_count++;
    memmove(pool + low + 1, pool + low, moved * sizeof(*pool));
    pool[low] = key;
    return low;
}

/* The links of a node that this walk has not seen; marks them.  Returns how many. */
static size_t collect_fresh(struct walk *walk, uint32_t slot, uint32_t level)
{
    struct scratch *scratch = walk->scratch;
    _Atomic uint32_t *links = links_of(walk->engine, slot, level);
    uint32_t max = links_max(walk->engine, level);
    uint8_t *visited = scratch->visited;
    uint8_t tag = scratch->tag;
    size_t count = 0;

    for (uint32_t i = 0; i < max; i++) {
        uint32_t link = atomic_load_explicit(&links[i], memory_order_acquire) & LINK_TARGET;

        if (link == 0)
            break;
        uint32_t target = link - 1;
        if (target >= walk->limit || visited[target] == tag)
            continue;
        visited[target] = tag;
        scratch->fresh[count++] = target;
    }
    return count;
}

/* Measure what collect_fresh() found.  Returns the lowest place at which a key was inserted. */
static size_t absorb_fresh(struct walk *walk, size_t count, size_t ef)
{
    struct scratch *scratch = walk->scratch;
    const uint32_t *fresh = scratch->fresh;
    size_t ahead = walk->coded != NULL ? CODES_AHEAD : LOOK_AHEAD;
    size_t lowest = SIZE_MAX;

    for (size_t i = 0; i < count && i < ahead; i++)
        prefetch_row(walk, fresh[i]);
    for (size_t i = 0; i < count; i++) {
        if (i + ahead < count)
            prefetch_row(walk, fresh[i + ahead]);
        uint64_t order = key_order(distance_to(walk, fresh[i]));
        uint64_t key = order << 32 | (uint64_t)fresh[i] << 1;
        if (scratch->pool_count == ef && key >= scratch->pool[ef - 1])
            continue;
        size_t at = pool_insert(scratch, key, ef);
        if (at < lowest)
            lowest = at;
    }
    walk->distances += count;
    return lowest;
}

bool walk_level(struct walk *walk, uint32_t start, uint32_t level, uint32_t ef)
{
    struct scratch *scratch = walk->scratch;
    uint64_t *pool = scratch->pool;
    size_t at = 0;
    uint32_t hops = 0;

    assert(ef > 0 && ef <= scratch->pool_max);
    assert(start < walk->limit && walk->limit <= scratch->visited_max);
    scratch_begin(scratch);
    scratch->visited[start] = scratch->tag;
    pool[0] = (uint64_t)key_order(measure(walk, start)) << 32 | (uint64_t)start << 1;
    scratch->pool_count = 1;
    while (at < scratch->pool_count) {
        if ((pool[at] & 1) != 0) {
            at++;
            continue;
        }
        pool[at] |= 1;
        if (++hops % HOPS_PER_CHECK == 0 && deadline_passed(walk->deadline_ns))
            return false;
        size_t count = collect_fresh(walk, pool_slot(pool[at]), level);
        if (at + 1 < scratch->pool_count && level == 0) {
            prefetch(links_of(walk->engine, pool_slot(pool[at + 1]), 0));
            prefetch((char *)links_of(walk->engine, pool_slot(pool[at + 1]), 0) + 64);
        }
        size_t lowest = absorb_fresh(walk, count, ef);
        at = lowest <= at ? lowest : at + 1;
    }
    walk->hops += hops;
    return true;
}
