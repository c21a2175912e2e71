/* A search goes on in the cold parts: see cold.h.
 *
 * The graph is asked first.  If k hits are known, the k-th is the bound from then on: hardly any
 * code passes, and few vectors are read from the file.  What is found is put among the best by
 * distance and ordinal, as if it had come from the graph: both measure by the same kernels.
 *
 * One effort, one recall: ef says how far a walk goes (plan.c), and here how many lists are looked
 * at: sqrt(lists) (PROBES_LEAST + PROBES_MORE (1 + PROBES_FEW / k) x), x being the walk's beam as a
 * multiple of the one that is usual for k.  The reasons: the k nearest that are missed stand in
 * lists that are not looked at, and lists are looked at in the order of their distances, so what is
 * missed falls about with the number of lists; what a walk misses falls about with its beam, which
 * is ef^2 / (16 sqrt(k)).  With the root of the number of lists the share of the vectors that is
 * looked at falls as the collection grows, and the lists around the query stay those that they
 * were.  For a few hits a walk goes far, so that one of them is found nearly always: PROBES_FEW.
 * Measured on 100,000 real passages, nine tenths of them cold: for k = 1, 10 and 100 and efforts
 * from 10 to 256 as much is found as in the graph, or more, but for a few in a thousand
 * (ARCHITECTURE.md). Failure: the deadline, or no memory for the workspace. */
#include <math.h>

#include "common/base/checked.h"
#include "engine/cold.h"
#include "engine/plan.h"
#include "engine/search.h"

enum { BEAM_LEAST = 8, BEAM_PART = 16 }; /* of plan.c */

#define PROBES_LEAST  0.5
#define PROBES_MORE   3.0
#define PROBES_FEW    0.75
#define PROBES_UNEVEN 1.5 /* among vectors of uneven lengths the longest of many lists are near */

/* Of the beam that is usual for k; a walk without slack has one of ef places.  No walk has fewer
 * than the least, which for many hits is more than the usual effort asks for: from there on only
 * its slack grows, and finds more, and so must the lists. */
static double share_of(const struct search *search)
{
    struct engine_query usual = {.k = search->query->k};
    double ef = search->ef, most = plan_effort(&usual, search->graph), k = search->query->k;
    double least = (1.5 * k + BEAM_LEAST) * BEAM_PART * sqrt(k); /* as ef^2 */

    if (plan_slack(search) == INFINITY)
        return PROBES_UNEVEN * ef / most;
    return fmax(ef * ef, fmin(least, most * most)) / (most * most);
}

static uint32_t probes_of(const struct search *search, const struct ivf *ivf)
{
    double more = PROBES_MORE * (1 + PROBES_FEW / search->query->k);
    double probes = sqrt((double)ivf->lists) * (PROBES_LEAST + more * share_of(search));

    return probes < (double)ivf->lists ? (uint32_t)ceil(probes) : ivf->lists;
}

/* The filter, as far as it concerns a part: no words behind it, and only its own bits counted. */
static struct engine_bitmap clip(const struct engine_bitmap *filter, const struct cold *cold)
{
    struct engine_bitmap clipped = {
        .words = filter->words,
        .word_count = MIN_OF(filter->word_count, ((size_t)cold->to - 1) / 64 + 1)};

    for (size_t word = cold->from / 64; word < clipped.word_count; word++)
        clipped.cardinality += (uint64_t)__builtin_popcountll(filter->words[word]);
    return clipped;
}

static float bound_of(const struct search *search)
{
    const struct topk *best = &search->best;

    return best->count == best->max ? key_distance(best->keys[0]) : search->query->bound;
}

static enum err_code search_part(struct search *search, const struct cold *cold,
                                 struct engine_hit *hits, struct err *err)
{
    const struct engine_query *query = search->query;
    bool has_dead = atomic_load_explicit(&cold->has_dead, memory_order_relaxed);
    struct ivf_query asked = {.vector = query->vector,
                              .k = query->k,
                              .effort = {.probes = probes_of(search, cold->ivf)},
                              .dead = has_dead ? cold->dead : NULL,
                              .exact = query->exact,
                              .bound = bound_of(search),
                              .known = (uint32_t)search->best.count,
                              .deadline_ns = query->deadline_ns};
    struct ivf_counters counters;
    struct engine_bitmap filter;
    size_t count;

    if (query->filter != NULL) {
        filter = clip(query->filter, cold);
        asked.filter = &filter;
        if (filter.cardinality == 0)
            return ERR_OK;
    }
    enum err_code code = ivf_search(cold->ivf, &asked, hits, &count, &counters, err);
    search->counters.distances += counters.measured;
    if (!query->exact && counters.lists > 0)
        search->counters.distances += counters.scanned; /* estimated */
    search->counters.lists += counters.lists;
    for (size_t i = 0; i < count; i++)
        topk_push(&search->best, key_make(hits[i].distance, hits[i].ordinal));
    return code;
}

static const char *plan_with(const char *plan)
{
    static const char *const plans[][2] = {{"hnsw", "hnsw+ivf"},
                                           {"flat", "flat+ivf"},
                                           {"hnsw_filter", "hnsw_filter+ivf"},
                                           {"flat_filter", "flat_filter+ivf"}};

    for (size_t i = 0; i < ARRAY_COUNT(plans); i++)
        if (strcmp(plan, plans[i][0]) == 0)
            return plans[i][1];
    return plan;
}

enum err_code cold_search(struct search *search, struct engine_hit *hits, struct err *err)
{
    const struct colds *colds = search->colds;
    enum err_code code = ERR_OK;

    if (colds == NULL)
        return ERR_OK;
    search->counters.plan = plan_with(search->counters.plan);
    for (uint32_t i = 0; code == ERR_OK && i < colds->count; i++)
        if (cold_live(colds->parts[i]) > 0)
            code = search_part(search, colds->parts[i], hits, err);
    return code;
}
