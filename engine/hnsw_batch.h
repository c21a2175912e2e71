/* The workspace of linking: a batch of vectors, what each has found, and the links that go back.
 * For hnsw_insert.c, which says how a batch goes. */
#ifndef VICINAL_ENGINE_HNSW_BATCH_H
#define VICINAL_ENGINE_HNSW_BATCH_H

#include "common/base/limits.h"
#include "engine/internal.h"

struct member {
    uint32_t slot;
    uint32_t level;
    uint32_t twin_of; /* slot + 1 of the node it equals; 0: it becomes a node */
    uint32_t parent;  /* slot; its own slot: it is the root */
    uint64_t hash;    /* of the vector's bytes */
    size_t list;      /* its lists: batch->keys + (list + level) * span */
    uint32_t count[LEVEL_MAX + 1];
};

/* A link back: target takes source in. */
struct pair {
    uint32_t target;
    uint32_t order; /* of the distance */
    uint32_t source;
    uint32_t is_tree;
};

struct batch {
    const struct engine_executor *executor;
    struct scratches *scratches;
    struct graph *graph; /* that is being linked */
    uint64_t entry;      /* of the graph before the batch */
    uint32_t first;      /* slot of the first member */
    uint32_t count;
    struct member members[BATCH_MAX];
    uint64_t *keys;
    size_t lists_max; /* lists that keys has room for */
    size_t span;      /* keys of a list */
    struct pair *pairs;
    size_t pairs_max;
    size_t pair_count;
    size_t groups[BATCH_MAX * (HNSW_M_MAX + 1) + 1]; /* where each target's pairs begin */
    uint32_t level;                                  /* that is being linked back */
    _Atomic bool failed;                             /* a thread found no memory */
};

/* Room for so many lists; false: no memory, and as it was. */
MUST_CHECK bool batch_grow(struct batch *batch, size_t lists);

#endif
