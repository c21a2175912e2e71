/* The graph: how it is walked, how it is linked.  For the engine's own files. */
#ifndef VICINAL_ENGINE_HNSW_H
#define VICINAL_ENGINE_HNSW_H

#include "engine/graph.h"
#include "engine/scratch.h"

/* What one walk needs to know; filled by the caller. */
struct walk {
    const struct graph *graph;
    struct scratch *scratch;
    const struct code_query *query;
    uint32_t limit;       /* slots at or above this are not looked at */
    uint32_t held;        /* slot + 1 of a node that walk_level() does not meet; 0: none */
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

/* The beam of one level, and the key from which on nothing is wanted. */
struct beam {
    uint64_t *pool; /* ascending */
    size_t count;
    size_t max;
    uint64_t horizon;
};

/* Put a key in its place; the worst one falls out of a full beam.  Returns the place. */
size_t beam_insert(struct beam *beam, const struct walk *walk, uint64_t key);

/* The expansion of one node, in three steps: while the rows of one are estimated, those of the
 * next and the links of the one after are on their way. */
enum {
    HOPS_AHEAD = 3, /* under way at a time ... */
    ROWS_AHEAD = 2, /* ... and with their links read */
};

struct hop {
    uint32_t node;
    size_t count;
    uint32_t slots[FRESH_MAX];      /* what it has met: fresh links ... */
    const uint8_t *rows[FRESH_MAX]; /* ... and their codes */
};

/* Choose the next node of the beam, *at or behind, below the horizon.  False: there is none. */
bool hop_choose(const struct walk *walk, const struct beam *beam, uint64_t horizon, size_t *at,
                uint32_t level, struct hop *hop);

/* Read its links. */
void hop_begin(struct walk *walk, uint32_t level, struct hop *hop);

/* The distances of what it has met, in scratch->distances. */
const float *hop_estimate(struct walk *walk, struct hop *hop);

/* Estimate the distances of the first count slots of scratch->fresh. */
void walk_estimate(struct walk *walk, size_t count);

/* The links of a node that this walk has not seen, into scratch->fresh; marks them.  Returns how
 * many. */
size_t walk_fresh(struct walk *walk, uint32_t slot, uint32_t level);

/* Keys from here on lie beyond the slack, if the wanted-th nearest is so far away. */
uint64_t walk_horizon(const struct walk *walk, float nearest);

/* A walk on the ground that knows what may be returned (admit.h). */
struct admit;

struct walk_filter {
    const struct admit *admit;
    uint32_t expanded; /* the walk ends when so many admitted nodes are expanded */
    uint32_t beam;     /* keys of the pool */
    uint64_t budget;   /* the walk ends when it has cost as much (plan.h) */
    uint64_t moves;    /* counted: keys that made room for others */
    bool is_overspent; /* set at the end: the pool means nothing */
};

/* hnsw_through.c: through all nodes, until nothing admitted can lie within the slack of the
 * wanted-th nearest admitted one; the pool holds refused ones too.  scratch->best is used.  False:
 * the deadline has passed. */
MUST_CHECK bool walk_through(struct walk *walk, struct walk_filter *filter, uint32_t start);

/* How many of some hundred nodes around start are admitted. */
struct walk_share {
    uint32_t tested;
    uint32_t admitted;
};

struct walk_share walk_probe(const struct walk *walk, const struct admit *admit, uint32_t start);

static inline uint32_t pool_slot(uint64_t key)
{
    return (uint32_t)key >> 1;
}

bool deadline_passed(uint64_t deadline_ns);

/* Put the distances from base into keys that have only slots yet. */
void keys_measure(const struct graph *graph, uint32_t base, uint64_t *keys, size_t count);

/* Keys are order << 32 | slot here.  Of count ascending keys around `base`, keep up to max that
 * are nearer to base than to any kept one, then fill up to `fill` with the nearest of the others;
 * the kept ones, ascending, replace the front of keys.  Keys that stand in tree (tree_count
 * ascending slots) are always kept.  Returns how many were kept. */
struct prune {
    const struct graph *graph;
    uint64_t *keys;
    size_t count;
    size_t max;  /* kept at the most */
    size_t fill; /* kept at the least, if there are so many */
    const uint32_t *tree;
    size_t tree_count;
};
size_t prune_select(const struct prune *prune);

#endif
