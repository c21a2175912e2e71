/* Walking the graph: greedily down the levels, then a beam on the ground.
 *
 * The beam is an array of 64-bit keys, ascending: finding the next node to expand, the worst one
 * and a tie's order are all plain integer work.  Of a node's links, those seen before are sorted
 * out first; then the code rows of the rest are all fetched at once, because memory answers many
 * questions in the time of one, and their distances estimated in one go.  So that memory is never
 * idle, three nodes are under way at a time: each is chosen before the two ahead of it have been
 * heard.  That costs hardly a distance more, for near the query about every node of the front is
 * expanded sooner or later.
 * Failure: only a deadline, looked at every HOPS_PER_CHECK hops. */
#include <assert.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "common/base/checked.h"
#include "engine/hnsw.h"

enum { HOPS_PER_CHECK = 64 };

bool deadline_passed(uint64_t deadline_ns)
{
    struct timespec now;

    if (deadline_ns == 0)
        return false;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec >= deadline_ns;
}

static void prefetch_links(const struct graph *graph, uint32_t slot)
{
    const char *links = (const char *)links_of(graph, slot, 0);

    prefetch(links);
    prefetch(links + CACHE_LINE);
}

void walk_estimate(struct walk *walk, size_t count)
{
    struct scratch *scratch = walk->scratch;
    size_t bytes = walk->query->bytes + sizeof(struct code_tail);

    for (size_t i = 0; i < count; i++) {
        scratch->rows[i] = code_of(walk->graph, scratch->fresh[i]);
        prefetch_row(scratch->rows[i], bytes);
    }
    codes_distances(walk->query, scratch->rows, count, scratch->distances);
    walk->distances += count;
}

static float estimate_one(struct walk *walk, uint32_t slot)
{
    walk->scratch->fresh[0] = slot;
    walk_estimate(walk, 1);
    return walk->scratch->distances[0];
}

/* One greedy step: the nearest link of node, if it is nearer than node. */
static bool step_nearer(struct walk *walk, uint32_t level, uint64_t *nearest)
{
    const struct graph *graph = walk->graph;
    struct scratch *scratch = walk->scratch;
    _Atomic uint32_t *links = links_of(graph, key_number(*nearest), level);
    uint32_t max = links_max(graph, level);
    uint64_t before = *nearest;
    size_t count = 0;

    walk->hops++;
    for (uint32_t i = 0; i < max; i++) {
        uint32_t link = atomic_load_explicit(&links[i], memory_order_acquire) & LINK_TARGET;

        if (link == 0)
            break;
        if (link - 1 >= walk->limit)
            continue;
        prefetch(slot_of(graph, link - 1)); /* which knows where its links are */
        scratch->fresh[count++] = link - 1;
    }
    walk_estimate(walk, count);
    for (size_t i = 0; i < count; i++) {
        uint64_t key = key_make(scratch->distances[i], scratch->fresh[i]);

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
    uint64_t nearest = key_make(estimate_one(walk, slot), slot);
    for (uint32_t level = entry_level(entry); level > to; level--)
        while (step_nearer(walk, level, &nearest))
            continue;
    return key_number(nearest);
}

size_t walk_fresh(struct walk *walk, uint32_t slot, uint32_t level)
{
    struct scratch *scratch = walk->scratch;
    _Atomic uint32_t *links = links_of(walk->graph, slot, level);
    uint32_t max = links_max(walk->graph, level);
    uint8_t *visited = scratch->visited;
    uint8_t tag = scratch->tag;
    size_t count = 0;

    for (uint32_t i = 0; i < max; i++) {
        uint32_t link = atomic_load_explicit(&links[i], memory_order_acquire) & LINK_TARGET;

        if (link == 0)
            break;
        uint32_t target = link - 1;
        if (target >= walk->limit)
            continue;
        /* Without a branch: whether a link was seen before is hard to predict. */
        scratch->fresh[count] = target;
        count += visited[target] != tag;
        visited[target] = tag;
    }
    return count;
}

uint64_t walk_horizon(const struct walk *walk, float nearest)
{
    float farthest = nearest + walk->slack * fmaxf(nearest + walk->lift, 0.0f);

    return ((uint64_t)key_order(farthest) + 1) << 32;
}

static void beam_set_horizon(struct beam *beam, const struct walk *walk)
{
    beam->horizon = beam->count == beam->max ? beam->pool[beam->max - 1] : UINT64_MAX;
    if (walk->slack == INFINITY || beam->count < walk->wanted)
        return;
    uint64_t horizon = walk_horizon(walk, key_distance(beam->pool[walk->wanted - 1]));
    if (horizon < beam->horizon)
        beam->horizon = horizon;
}

size_t beam_insert(struct beam *beam, const struct walk *walk, uint64_t key)
{
    uint64_t *pool = beam->pool;
    size_t low = 0;

    /* Without a branch: where a key belongs is hard to predict. */
    for (size_t left = beam->count; left > 0;) {
        size_t half = (left + 1) / 2;

        low = pool[low + half - 1] < key ? low + half : low;
        left -= half;
    }
    size_t moved = beam->count - low;
    if (beam->count == beam->max)
        moved--;
    else
        beam->count++;
    memmove(pool + low + 1, pool + low, moved * sizeof(*pool));
    pool[low] = key;
    if (low < walk->wanted || beam->count == beam->max)
        beam_set_horizon(beam, walk);
    return low;
}

bool hop_choose(const struct walk *walk, const struct beam *beam, uint64_t horizon, size_t *at,
                uint32_t level, struct hop *hop)
{
    while (*at < beam->count && (beam->pool[*at] & 1) != 0)
        ++*at;
    if (*at == beam->count || beam->pool[*at] >= horizon)
        return false;
    beam->pool[*at] |= 1;
    hop->node = pool_slot(beam->pool[*at]);
    ++*at;
    if (level > 0)
        return true;
    prefetch_links(walk->graph, hop->node);
    if (*at < beam->count) /* perhaps the next */
        prefetch_links(walk->graph, pool_slot(beam->pool[*at]));
    return true;
}

void hop_begin(struct walk *walk, uint32_t level, struct hop *hop)
{
    size_t bytes = walk->query->bytes + sizeof(struct code_tail);

    hop->count = walk_fresh(walk, hop->node, level);
    for (size_t i = 0; i < hop->count; i++) {
        hop->slots[i] = walk->scratch->fresh[i];
        hop->rows[i] = code_of(walk->graph, hop->slots[i]);
        prefetch_row(hop->rows[i], bytes);
    }
}

const float *hop_estimate(struct walk *walk, struct hop *hop)
{
    float *distances = walk->scratch->distances;

    codes_distances(walk->query, hop->rows, hop->count, distances);
    walk->distances += hop->count;
    return distances;
}

/* Take in what a hop has met; *at goes back to the first key that is new. */
static void hop_end(struct walk *walk, struct beam *beam, size_t *at, struct hop *hop)
{
    const float *distances = hop_estimate(walk, hop);

    for (size_t i = 0; i < hop->count; i++) {
        uint64_t key = key_make(distances[i], hop->slots[i] << 1);

        if (key >= beam->horizon)
            continue;
        size_t place = beam_insert(beam, walk, key);
        *at = MIN_OF(*at, place);
    }
}

bool walk_level(struct walk *walk, uint32_t start, uint32_t level, uint32_t ef)
{
    struct scratch *scratch = walk->scratch;
    struct beam beam = {.pool = scratch->pool, .max = ef, .horizon = UINT64_MAX};
    struct hop hops[HOPS_AHEAD];
    uint32_t chosen = 0, begun = 0, ended = 0;
    size_t at = 0;

    assert(ef > 0 && ef <= scratch->pool_max && walk->wanted > 0);
    assert(start < walk->limit && walk->limit <= scratch->visited_max);
    scratch_begin(scratch);
    scratch->visited[start] = scratch->tag;
    if (walk->held != 0)
        scratch->visited[walk->held - 1] = scratch->tag;
    (void)beam_insert(&beam, walk, key_make(estimate_one(walk, start), start << 1));
    for (;;) {
        while (chosen - ended < HOPS_AHEAD &&
               hop_choose(walk, &beam, beam.horizon, &at, level, &hops[chosen % HOPS_AHEAD]))
            chosen++;
        while (begun < chosen && begun - ended < ROWS_AHEAD)
            hop_begin(walk, level, &hops[begun++ % HOPS_AHEAD]);
        if (begun == ended)
            break;
        hop_end(walk, &beam, &at, &hops[ended % HOPS_AHEAD]);
        if (++ended % HOPS_PER_CHECK == 0 && deadline_passed(walk->deadline_ns))
            return false;
    }
    scratch->pool_count = beam.count;
    walk->hops += ended;
    return true;
}
