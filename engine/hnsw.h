/* The graph: how it is walked, how it is linked.  For the engine's own files. */
#ifndef VICINAL_ENGINE_HNSW_H
#define VICINAL_ENGINE_HNSW_H

#include "engine/internal.h"
#include "engine/scratch.h"

/* What one walk needs to know; filled by the caller. */
struct walk {
    const struct engine *engine;
    struct scratch *scratch;
    const struct code_query *query;
    uint32_t limit;       /* slots at or above this are not looked at */
    uint32_t wanted;      /* slack counts from the wanted-th nearest one seen; at least 1 */
    float slack;          /* see walk_level; INFINITY: none */
    float lift;           /* makes distances positive for that, where they are not */
    uint64_t deadline_ns; /* 0: none */
    uint64_t distances;   /* counted */
    uint64_t hops;        /* counted */
};

/* Go down greedily from the entry to level `to`, to the node nearest there. */
uint32_t walk_descend(struct walk *walk, uint64_t entry, uint32_t to);

/* Beam search on one level from start; the result is scratch->pool, ascending, up to ef keys of
 * estimated distances (decode with pool_slot).  With d the wanted-th nearest distance so far, nodes
 * farther than d + slack (d + lift) are left aside: an easy query ends early, a hard one is given
 * the whole beam.  False: the deadline has passed. Source of the stopping rule: Al-Jazzazi, Diwan,
 * Gou, Musco, Musco, Suel, "Distance adaptive beam search for provably accurate graph-based nearest
 * neighbor search", arXiv 2505.15636. */
MUST_CHECK bool walk_level(struct walk *walk, uint32_t start, uint32_t level, uint32_t ef);

static inline uint32_t pool_slot(uint64_t key)
{
    return (uint32_t)key >> 1;
}

bool deadline_passed(uint64_t deadline_ns);

/* Keys are order << 32 | slot here.  Of count ascending keys around `base`, keep up to max that
 * are nearer to base than to any kept one, then fill up to `fill` with the nearest of the others;
 * the kept ones, ascending, replace the front of keys.  Keys that stand in tree (tree_count
 * ascending slots) are always kept.  Returns how many were kept. */
struct prune {
    const struct engine *engine;
    uint64_t *keys;
    size_t count;
    size_t max;  /* kept at the most */
    size_t fill; /* kept at the least, if there are so many */
    const uint32_t *tree;
    size_t tree_count;
};
size_t prune_select(const struct prune *prune);

#endif
