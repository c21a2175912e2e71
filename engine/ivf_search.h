/* One search in an inverted file under way, for ivf_search.c, ivf_probe.c and ivf_scan.c. */
#ifndef VICINAL_ENGINE_IVF_SEARCH_H
#define VICINAL_ENGINE_IVF_SEARCH_H

#include "engine/ivf_scratch.h"
#include "engine/topk.h"

enum { IVF_AWAITED = 8 };

struct ivf_run {
    struct ivf *ivf;
    const struct ivf_query *query;
    struct ivf_scratch *scratch;
    struct topk best;           /* keys: order << 32 | row */
    float z_square;             /* |z|^2 */
    float z_step;               /* of the codes of z */
    float mean_dot;             /* dot(query, mean) */
    float spread;               /* ip: what a list's spread counts */
    uint32_t probes;            /* lists to look at */
    size_t rerank;              /* candidates that are kept */
    size_t pooled;              /* candidates in the pool: a heap, the best one first */
    size_t taken;               /* candidates that were taken out of it */
    uint32_t rows[IVF_AWAITED]; /* of them, those that are on their way from memory */
    size_t awaited;
    struct ivf_scan scan;
    struct ivf_counters counters;
};

/* The places of lists in the order in which they are looked at. */
static inline uint32_t ivf_run_list(const struct ivf_run *run, uint32_t place)
{
    return key_number(run->scratch->lists[place]);
}

static inline bool ivf_is_dead(const struct ivf_run *run, uint32_t row)
{
    const _Atomic uint64_t *dead = run->query->dead;

    /* Relaxed: the bit stands for nothing but itself. */
    return dead != NULL &&
           (atomic_load_explicit(&dead[row / 64], memory_order_relaxed) >> row % 64 & 1) != 0;
}

static inline bool ivf_admits(const struct ivf_run *run, uint32_t row)
{
    const struct engine_bitmap *filter = run->query->filter;

    return !ivf_is_dead(run, row) &&
           (filter == NULL || engine_bitmap_names(filter, ivf_ordinal(run->ivf, row)));
}

/* The count least keys to the front, in any order. */
void ivf_select(uint64_t *keys, size_t total, size_t count);

/* ivf_probe.c: make the query ready and order the lists; the next count lists behind done. */
void ivf_prepare(struct ivf_run *run);
void ivf_order(struct ivf_run *run, uint32_t done, uint32_t count);

/* ivf_scan.c.  False: the deadline has passed. */
MUST_CHECK bool ivf_scan_lists(struct ivf_run *run, uint32_t from, uint32_t to);
MUST_CHECK bool ivf_measure_rest(struct ivf_run *run);
MUST_CHECK bool ivf_scan_filter(struct ivf_run *run);
MUST_CHECK bool ivf_scan_all(struct ivf_run *run);

#endif
