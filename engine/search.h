/* One search under way, for the files that make up a search: search.c (the steps), plan.c (which
 * way), flat.c (scans), refine.c (from estimates to distances). */
#ifndef VICINAL_ENGINE_SEARCH_H
#define VICINAL_ENGINE_SEARCH_H

#include "engine/admit.h"
#include "engine/cold.h"
#include "engine/hnsw.h"
#include "engine/internal.h"

struct search {
    struct engine *engine;
    const struct graph *graph; /* the engine's when the search began */
    const struct colds *colds; /* and the cold parts that belong to it */
    const struct engine_query *query;
    struct scratch *scratch;
    struct admit admit;
    struct topk best; /* keys: order << 32 | ordinal */
    uint32_t ef;      /* the effort */
    uint32_t linked;  /* slots below are found by the walk, and coded */
    uint32_t count;   /* slots below exist for this search */
    uint64_t entry;
    uint64_t live;       /* when the search began */
    uint64_t candidates; /* about as many vectors may be returned */
    size_t walked;       /* nodes that the last walk left in its beam */
    bool is_coded;       /* the query is */
    uint32_t held;       /* slot + 1 of a node on the ground that is not met; 0: none */
    struct engine_counters counters;
};

/* search.c: the search itself, when all is filled in but what it works out by itself: best, walked,
 * is_coded, counters.  As engine_search(). */
MUST_CHECK enum err_code search_answer(struct search *search, struct engine_hit *hits,
                                       size_t *count, struct err *err);

/* refine.c: measure the nearest of the beam that may be returned, into search->best; *found says
 * how many of the beam may be returned.  False: the deadline has passed. */
MUST_CHECK bool refine_beam(struct search *search, uint64_t *found);

/* flat.c: exact scan of the slots from..to-1 that may be returned.  False: the deadline has
 * passed. */
MUST_CHECK bool flat_range(struct search *search, uint32_t from, uint32_t to);

/* The same for all slots below `linked`, by their codes: only those that may be among the best are
 * measured.  The query is coded. */
MUST_CHECK bool flat_codes(struct search *search);

#endif
