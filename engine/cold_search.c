/* A search goes on in the cold parts: see cold.h.
 *
 * The graph is asked first.  If k hits are known, the k-th is the bound from then on: hardly any
 * code passes, and few vectors are read from the file.  What is found is put among the best by
 * distance and ordinal, as if it had come from the graph: both measure by the same kernels.
 *
 * One effort, one recall: ef says how far a walk goes (plan.c), and here how many lists are looked
 * at: sqrt(lists) (PROBES_LEAST + PROBES_MORE x^2), x being the effort as a multiple of the default
 * for k.  A vector of the k nearest is missed because its list is not looked at; lists come in the
 * order of their distances, of which the share that is missed falls about as a power of the share
 * of lists looked at, and a number of lists as the root of all of them leaves about the same recall
 * whatever their number.  That of a walk falls about as fast with the square of ef, as its beam is
 * ef^2 / (16 sqrt(k)).  The coefficients are measured: on 100,000 real passages the inverted file
 * finds at each ef from 10 to 128 as much as the graph does, or more.
 * Failure: the deadline, or no memory for the workspace. */
#include <math.h>

#include "common/base/checked.h"
#include "engine/cold.h"
#include "engine/plan.h"
#include "engine/search.h"

#define PROBES_LEAST 0.5
#define PROBES_MORE  3.0

static uint32_t probes_of(const struct search *search, const struct ivf *ivf)
{
    struct engine_query usual = {.k = search->query->k};
    double effort = (double)search->ef / (double)plan_effort(&usual);
    double probes = sqrt((double)ivf->lists) * (PROBES_LEAST + PROBES_MORE * effort * effort);

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
