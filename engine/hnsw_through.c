/* Walking through all nodes for those that a search may return.
 *
 * As the plain walk, but only admitted nodes say how far it goes: with d the k-th nearest of them
 * so far, nodes beyond d + slack d are left aside.  So it is right wherever the admitted lie:
 * around the query it is as quick as the plain walk, and where the query stands in a hole of the
 * filter it goes on to the hole's edge, or until it has cost as much as a scan.
 * Failure: the deadline; the budget. */
#include <assert.h>
#include <math.h>

#include "common/base/checked.h"
#include "engine/admit.h"
#include "engine/plan.h"

enum { HOPS_PER_CHECK = 16, PROBED = 256 };

struct through {
    struct walk *walk;
    struct walk_filter *filter;
    struct walk endless; /* the walk without its slack, which is not the beam's here */
    struct beam beam;
    struct topk nearest; /* admitted ones */
    uint64_t horizon;    /* by them */
    size_t at;           /* keys before it are expanded, or about to be */
    uint32_t expanded;   /* admitted ones among those */
};

static void note_admitted(struct through *t, uint32_t slot, float distance)
{
    struct topk *nearest = &t->nearest;
    uint64_t key = key_make(distance, slot);

    if (key >= nearest->limit || !admit_node(t->filter->admit, slot))
        return;
    topk_push(nearest, key);
    if (nearest->count == nearest->max)
        t->horizon = walk_horizon(t->walk, key_distance(nearest->keys[0]));
}

/* Take a key in; at goes back to it if it is new. */
static void meet(struct through *t, uint32_t slot, float distance)
{
    uint64_t key = key_make(distance, slot << 1);

    if (key >= t->horizon)
        return;
    note_admitted(t, slot, distance);
    if (key >= t->beam.horizon)
        return;
    size_t place = beam_insert(&t->beam, &t->endless, key);
    t->filter->moves += t->beam.count - place;
    t->at = MIN_OF(t->at, place);
}

static void hop_end(struct through *t, struct hop *hop)
{
    const float *distances = hop_estimate(t->walk, hop);

    for (size_t i = 0; i < hop->count; i++)
        meet(t, hop->slots[i], distances[i]);
    t->filter->is_overspent = plan_spent(t->walk, t->filter) > t->filter->budget;
}

/* Is there a next node to expand?  Not beyond the horizon, nor when enough of those that may be
 * returned are expanded. */
static bool choose(struct through *t, struct hop *hop)
{
    if (t->expanded > t->filter->expanded ||
        !hop_choose(t->walk, &t->beam, t->horizon, &t->at, 0, hop))
        return false;
    t->expanded += admit_node(t->filter->admit, hop->node);
    return true;
}

/* Three hops are under way at a time, as in walk_level(). */
static bool walk_on(struct through *t)
{
    struct hop hops[HOPS_AHEAD];
    uint32_t chosen = 0, begun = 0, ended = 0;

    while (!t->filter->is_overspent) {
        while (chosen - ended < HOPS_AHEAD && choose(t, &hops[chosen % HOPS_AHEAD]))
            chosen++;
        while (begun < chosen && begun - ended < ROWS_AHEAD)
            hop_begin(t->walk, 0, &hops[begun++ % HOPS_AHEAD]);
        if (begun == ended)
            break;
        hop_end(t, &hops[ended % HOPS_AHEAD]);
        if (++ended % HOPS_PER_CHECK == 0 && deadline_passed(t->walk->deadline_ns))
            return false;
    }
    t->walk->hops += ended;
    return true;
}

bool walk_through(struct walk *walk, struct walk_filter *filter, uint32_t start)
{
    struct scratch *scratch = walk->scratch;
    struct through t = {
        .walk = walk,
        .filter = filter,
        .endless = *walk,
        .beam = {.pool = scratch->pool, .max = filter->beam, .horizon = UINT64_MAX},
        .nearest = {.keys = scratch->best, .max = walk->wanted, .limit = UINT64_MAX},
        .horizon = UINT64_MAX};

    assert(filter->beam > 0 && filter->beam <= scratch->pool_max);
    assert(start < walk->limit && walk->limit <= scratch->visited_max);
    assert(walk->wanted > 0 && walk->wanted <= scratch->best_max);
    t.endless.slack = INFINITY;
    scratch_begin(scratch);
    scratch->visited[start] = scratch->tag;
    scratch->fresh[0] = start;
    walk_estimate(walk, 1);
    meet(&t, start, scratch->distances[0]);
    bool in_time = walk_on(&t);
    scratch->pool_count = t.beam.count;
    return in_time;
}

/* Count the links of a node. */
static void probe_links(const struct walk *walk, const struct admit *admit, uint32_t slot,
                        struct walk_share *share)
{
    _Atomic uint32_t *links = links_of(walk->graph, slot, 0);
    uint32_t max = links_max(walk->graph, 0);

    for (uint32_t i = 0; i < max && share->tested < PROBED; i++) {
        uint32_t link = atomic_load_explicit(&links[i], memory_order_acquire) & LINK_TARGET;

        if (link == 0)
            break;
        if (link - 1 >= walk->limit)
            continue;
        share->tested++;
        share->admitted += admit_node(admit, link - 1);
    }
}

struct walk_share walk_probe(const struct walk *walk, const struct admit *admit, uint32_t start)
{
    _Atomic uint32_t *links = links_of(walk->graph, start, 0);
    uint32_t max = links_max(walk->graph, 0);
    struct walk_share share = {0};

    probe_links(walk, admit, start, &share);
    for (uint32_t i = 0; i < max && share.tested < PROBED; i++) {
        uint32_t link = atomic_load_explicit(&links[i], memory_order_acquire) & LINK_TARGET;

        if (link == 0)
            break;
        if (link - 1 < walk->limit)
            probe_links(walk, admit, link - 1, &share);
    }
    return share;
}
