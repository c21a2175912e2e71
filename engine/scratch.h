/* The workspace of one walk or scan: who has been seen, the beam, the best k, the query.
 * Kept in a free list, so that a search allocates nothing once it is warm.
 *
 * Whoever reads an engine's graph holds one, from before it looks which graph is the engine's until
 * it is done; so scratch_grace() knows when nobody reads a graph that was the engine's before.
 * Failure: a workspace that cannot be grown stays as it was. */
#ifndef VICINAL_ENGINE_SCRATCH_H
#define VICINAL_ENGINE_SCRATCH_H

#include <pthread.h>

#include "engine/graph.h"
#include "engine/topk.h"

/* All that an engine has. */
struct scratches {
    uint32_t dim, bits;
    _Atomic uint64_t bytes; /* of all, in use or not */
    pthread_mutex_t lock;   /* guards what follows */
    pthread_cond_t quiet;   /* one side has no users any more */
    struct scratch *free;
    uint32_t users[2]; /* those who came before, and since, the last change of sides */
    uint32_t side;     /* of those who come now */
};

struct scratch {
    struct scratches *owner;
    struct scratch *next;
    uint32_t side;
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
    uint32_t *fresh;      /* slots of one hop, or of one run of a filtered scan */
    const uint8_t **rows; /* code rows of fresh */
    float *distances;     /* estimated, of fresh */
    uint64_t bytes;       /* of all of the above */
    uint8_t tag;
};

enum { FRESH_MAX = 256 }; /* above 2 m for every m */

void scratches_init(struct scratches *scratches, const struct engine_options *options);
void scratches_free(struct scratches *scratches); /* none is in use */

/* Borrow one; NULL: no memory. */
MUST_CHECK struct scratch *scratch_get(struct scratches *scratches);
void scratch_put(struct scratch *scratch);

/* Wait until all who hold one now have put it back.  One caller at a time. */
void scratch_grace(struct scratches *scratches);

/* Make room for `slots` slots, a beam of `beam` and `best` best ones; what was in it is lost. */
MUST_CHECK bool scratch_room(struct scratch *scratch, size_t slots, size_t beam, size_t best);
MUST_CHECK bool scratch_beam(struct scratch *scratch, size_t beam);

/* Bytes that one takes for so many slots. */
uint64_t scratch_predict(const struct engine_options *options, uint64_t slots);

/* Begin a walk: nobody has been seen. */
void scratch_begin(struct scratch *scratch);

#endif
