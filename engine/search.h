/* One search under way, for search.c, refine.c and flat.c. */
#ifndef VICINAL_ENGINE_SEARCH_H
#define VICINAL_ENGINE_SEARCH_H

#include "engine/hnsw.h"

struct search {
    struct engine *engine;
    const struct engine_query *query;
    struct scratch *scratch;
    struct topk best; /* keys: order << 32 | ordinal */
    uint32_t linked;  /* slots below are found by the walk */
    uint32_t count;   /* slots below exist for this search */
    uint64_t entry;
    uint64_t live;       /* when the search began */
    bool wants_all;      /* no filter, and all are alive */
    uint64_t candidates; /* about as many vectors may be returned */
    size_t walked;       /* nodes that the last walk left in its beam */
    struct engine_counters counters;
};

static inline bool search_admits(const struct search *search, uint32_t ordinal)
{
    const struct engine_bitmap *filter = search->query->filter;

    if (filter == NULL)
        return true;
    size_t word = ordinal / 64;
    return word < filter->word_count && (filter->words[word] >> ordinal % 64 & 1) != 0;
}

/* Measure the nearest of the beam that may be returned, into search->best; *found says how many of
 * the beam may be returned.  False: the deadline has passed. */
MUST_CHECK bool refine_beam(struct search *search, uint64_t *found);

/* Exact scan of the slots from..to-1.  False: the deadline has passed. */
MUST_CHECK bool flat_range(struct search *search, uint32_t from, uint32_t to);

/* Exact scan of what the filter names.  False: the deadline has passed. */
MUST_CHECK bool flat_filter(struct search *search);

#endif
