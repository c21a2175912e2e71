/* Walking through all nodes for those that a search may return.
 *
 * As the plain walk, but only admitted nodes say how far it goes: with d the k-th nearest of them
 * so far, nodes beyond d + slack d are left aside.  So it is right wherever the admitted lie:
 * around the query it is as quick as the plain walk, and where the query stands in a hole of the
 * filter it goes on to the hole's edge, or until it has cost as much as a scan. Failure: the
 * deadline; the budget. */
#include <assert.h>
#include <math.h>

#include "common/base/checked.h"
#include "engine/admit.h"
#include "engine/plan.h"

enum { HOPS_PER_CHECK = 16, AHEAD = 2, PROBED = 256 };

struct through {
    struct walk *walk;
    struct walk_filter *filter;
    struct walk endless; /* the walk without its slack, which is not the beam's here */
    struct beam beam;
    struct topk nearest; /* admitted ones */
    uint64_t horizon;    /* by them */
    size_t at;           /* keys before it are expanded */
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

static void absorb(struct through *t, size_t count)
{
    const struct scratch *scratch = t->walk->scratch;

    walk_estimate(t->walk, count);
    for (size_t i = 0; i < count; i++) {
        uint64_t key = key_make(scratch->distances[i], scratch->fresh[i] << 1);

        if (key >= t->horizon)
            continue;
        note_admitted(t, scratch->fresh[i], scratch->distances[i]);
        if (key >= t->beam.horizon)
            continue;
        size_t place = beam_insert(&t->beam, &t->endless, key);
        t->filter->moves += t->beam.count - place;
        if (place < t->at + AHEAD)
            walk_prefetch_links(t->walk->graph, scratch->fresh[i]);
        t->at = MIN_OF(t->at, place);
    }
}

/* The next node to expand.  False: the walk is at its end. */
static bool next_node(struct through *t, uint32_t *slot)
{
    struct beam *beam = &t->beam;

    for (; t->at < beam->count && beam->pool[t->at] < t->horizon; t->at++)
        if ((beam->pool[t->at] & 1) == 0) {
            beam->pool[t->at] |= 1;
            *slot = pool_slot(beam->pool[t->at++]);
            return true;
        }
    return false;
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
    uint32_t slot, hops = 0, admitted = 0;

    assert(filter->beam > 0 && filter->beam <= scratch->pool_max);
    assert(start < walk->limit && walk->limit <= scratch->visited_max);
    assert(walk->wanted > 0 && walk->wanted <= scratch->best_max);
    t.endless.slack = INFINITY;
    scratch_begin(scratch);
    scratch->visited[start] = scratch->tag;
    scratch->fresh[0] = start;
    absorb(&t, 1);
    while (!filter->is_overspent && next_node(&t, &slot)) {
        admitted += admit_node(filter->admit, slot);
        if (admitted > filter->expanded)
            break;
        size_t count = walk_fresh(walk, slot, 0);
        if (t.at < t.beam.count)
            walk_prefetch_links(walk->graph, pool_slot(t.beam.pool[t.at]));
        absorb(&t, count);
        walk->hops++;
        if (++hops % HOPS_PER_CHECK == 0 && deadline_passed(walk->deadline_ns))
            return false;
        filter->is_overspent = plan_spent(walk, filter) > filter->budget;
    }
    scratch->pool_count = t.beam.count;
    return true;
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
