/* The workspace of one walk or scan: who has been seen, the beam, the best k, the query.
 * Kept in a free list of the engine, so that a search allocates nothing once it is warm.
 * Failure: a workspace that cannot be grown is put back as it was. */
#ifndef VICINAL_ENGINE_SCRATCH_H
#define VICINAL_ENGINE_SCRATCH_H

#include "engine/internal.h"
#include "engine/topk.h"

struct scratch {
    struct scratch *next;
    uint8_t *visited;   /* equals tag: seen in this walk */
    size_t visited_max; /* slots it has room for */
    uint64_t *pool;     /* beam, ascending: order << 32 | slot << 1 | expanded */
    size_t pool_max;
    size_t pool_count;
    uint64_t *best; /* room for the heap of a topk */
    size_t best_max;
    float *query;  /* dim floats, normalised where the metric wants it */
    float *placed; /* the query, or a vector that is being linked, in its place (codes.h) */
    int8_t *codes; /* and coded: codes_query_bytes(), on 64 bytes */
    struct code_query coded;
    int8_t *fine_codes; /* the same, finer; NULL: the engine has no such codes */
    struct code_query fine;
    uint32_t *fresh;      /* slots of one hop, or of one run of a filtered scan */
    const uint8_t **rows; /* code rows of fresh */
    float *distances;     /* estimated, of fresh */
    uint64_t bytes;       /* of all of the above */
    uint8_t tag;
};

enum { FRESH_MAX = 256 }; /* above 2 m for every m */

/* Borrow one with room for `slots` slots, a beam of `beam` and `best` best ones; NULL: no memory.
 * Room is made by scratch_beam() too, when a walk is repeated with a wider beam. */
MUST_CHECK struct scratch *scratch_get(struct engine *engine, size_t slots, size_t beam,
                                       size_t best);
MUST_CHECK bool scratch_beam(struct engine *engine, struct scratch *scratch, size_t beam);
void scratch_put(struct engine *engine, struct scratch *scratch);
void scratch_free_all(struct engine *engine);

/* Bytes that one takes for so many slots. */
uint64_t scratch_predict(const struct engine_options *options, uint64_t slots);

/* Begin a walk: nobody has been seen. */
void scratch_begin(struct scratch *scratch);

#endif
