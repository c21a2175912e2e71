/* Workspace of one search in an inverted file: one piece of memory, cut into arrays on 64 bytes. */
#ifndef VICINAL_ENGINE_IVF_SCRATCH_H
#define VICINAL_ENGINE_IVF_SCRATCH_H

#include "engine/ivf_internal.h"

struct ivf_scratch {
    struct ivf_scratch *next;
    uint64_t bytes;  /* of all */
    size_t pool_max; /* candidates it has room for */
    size_t best_max; /* best ones */
    float *query;    /* dim: of length one where the metric wants it */
    float *centred;  /* dim: query - mean */
    float *room;     /* dim: for a row */
    float *z;        /* padded: centred, rotated */
    int8_t *codes;   /* padded: of z */
    int32_t *sums;   /* lists_padded: of codes of z and of centroids */
    float *dots;     /* lists_padded: dot(z, z of c) */
    uint64_t *lists; /* lists: order << 32 | list */
    float *exact;    /* groups * IVF_CODES: tables before they are rounded, */
    uint8_t *tables; /* and after */
    uint64_t *pool;  /* candidates: order of the bound << 32 | row */
    uint64_t *best;  /* room for the heap of a topk */
};

/* Borrow one with so much room; NULL: no memory. */
MUST_CHECK struct ivf_scratch *ivf_scratch_get(struct ivf *ivf, size_t pool, size_t best);
void ivf_scratch_put(struct ivf *ivf, struct ivf_scratch *scratch);

#endif
