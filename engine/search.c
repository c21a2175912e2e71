/* A search: choose a plan, walk or scan, merge, and make sure that nothing was missed.
 *
 * Happy path: walk the graph by codes (plan.c says how), measure the nearest of the beam that may
 * be returned (refine.c), scan the tail that the graph does not hold yet, go on in the cold parts
 * (cold_search.c), return the best k.  The dead and those that the filter does not name are one to
 * a search (admit.h): they may be walked through, but are not returned.  A walk that found too few
 * of the others, or has cost more than scanning them would, gives way to the scan: k hits are found
 * whenever there are k, and nothing takes longer than twice the scan.
 * Failure: the deadline, or no memory for the workspace. */
#include <math.h>

#include "common/base/checked.h"
#include "engine/plan.h"
#include "engine/search.h"

#define RECALL_LEAST 0.5f

/* The k-th nearest that is alive is about the so many-th nearest of all. */
static uint32_t wanted_of(const struct search *search)
{
    uint64_t k = search->query->k;
    uint64_t wanted = k * search->count / MAX_OF(search->live, UINT64_C(1));

    /* An insertion under way is alive before it is counted. */
    return (uint32_t)MIN_OF(MAX_OF(wanted, k), (uint64_t)UINT32_MAX);
}

/* Inner products have no zero to count distances from; what a vector of the usual length could
 * reach stands for it. */
static float lift_of(const struct search *search)
{
    const struct graph *graph = search->graph;
    const float *query = search->scratch->query;

    if (graph->options.metric != ENGINE_IP)
        return 0.0f;
    return sqrtf(graph->kernels->dot(query, query, graph->options.dim)) * graph->length;
}

static void best_reset(struct search *search)
{
    float bound = search->query->bound;
    uint64_t limit = UINT64_MAX;

    if (bound == bound)
        limit = ((uint64_t)key_order(bound) + 1) << 32;
    search->best =
        (struct topk){.keys = search->scratch->best, .max = search->query->k, .limit = limit};
}

/* Only when the graph is there: its first linking fixes the frame. */
static void code_query(struct search *search)
{
    const struct graph *graph = search->graph;
    struct scratch *scratch = search->scratch;
    struct code_place place = {.numbers = scratch->placed};

    if (search->is_coded)
        return;
    search->is_coded = true;
    codes_place_query(&graph->frame, scratch->query, &place);
    codes_query(graph->kernels, &graph->frame, &place, graph->options.bits, scratch->codes,
                &scratch->coded);
}

static struct walk walk_of(const struct search *search)
{
    return (struct walk){.graph = search->graph,
                         .scratch = search->scratch,
                         .query = &search->scratch->coded,
                         .limit = search->linked,
                         .held = search->held,
                         .wanted = search->query->k,
                         .slack = plan_slack(search),
                         .lift = lift_of(search),
                         .deadline_ns = search->query->deadline_ns};
}

/* Measure what the walk found.  *found: how much of it may be returned. */
static bool refine_walk(struct search *search, uint64_t *found)
{
    search->walked = search->scratch->pool_count;
    best_reset(search);
    return refine_beam(search, found);
}

static void count_walk(struct search *search, const struct walk *walk)
{
    search->counters.distances += walk->distances;
    search->counters.hops += walk->hops;
}

/* Nearly all may be returned.  *is_plenty: enough of what was found may be, or the walk has seen
 * every node.  False: the deadline has passed. */
static bool walk_plain(struct search *search, bool *is_plenty)
{
    struct walk walk = walk_of(search);
    uint32_t beam = plan_beam(search);
    uint64_t found, k = search->query->k;

    walk.limit = search->count;
    walk.wanted = wanted_of(search);
    if (!scratch_beam(search->scratch, beam))
        return true; /* the scan needs no room */
    bool in_time = walk_level(&walk, walk_descend(&walk, search->entry, 0), 0, beam);

    count_walk(search, &walk);
    if (!in_time || !refine_walk(search, &found))
        return false;
    *is_plenty = found >= k;
    if (walk.slack == INFINITY)
        *is_plenty = found >= MAX_OF(k, (uint64_t)search->ef / 2) || search->walked < beam;
    return true;
}

/* How the walk goes, now that it is known where the query lies. */
static bool is_scan_better(const struct search *search, const struct walk *walk, uint32_t start)
{
    if (search->engine->forced != PLAN_CHOOSE)
        return search->engine->forced == PLAN_SCAN;
    struct walk_share near = walk_probe(walk, &search->admit, start);

    return plan_settle(search, &near) == PLAN_SCAN;
}

/* The same where many may not be returned. */
static bool walk_admitted(struct search *search, bool *is_plenty)
{
    struct walk walk = walk_of(search);
    uint32_t start = walk_descend(&walk, search->entry, 0);
    struct walk_filter filter = {
        .admit = &search->admit,
        .expanded = plan_expanded(search),
        .beam = plan_beam_through(search),
        .budget = search->engine->forced != PLAN_CHOOSE ? UINT64_MAX : plan_scan_cost(search)};
    bool in_time = true;
    bool is_walked =
        !is_scan_better(search, &walk, start) && scratch_beam(search->scratch, filter.beam);
    uint64_t found;

    if (walk.slack == INFINITY) { /* the ef nearest say how far it goes */
        walk.wanted = MIN_OF(search->ef, search->count);
        walk.slack = 0.0f;
    }
    if (is_walked)
        in_time = walk_through(&walk, &filter, start);
    count_walk(search, &walk);
    if (!in_time || !is_walked || filter.is_overspent)
        return in_time;
    if (!refine_walk(search, &found))
        return false;
    *is_plenty = found >= search->query->k;
    return true;
}

static bool scan_all(struct search *search)
{
    bool has_filter = search->query->filter != NULL;

    best_reset(search);
    search->counters.plan = has_filter ? "flat_filter" : "flat";
    if (!plan_by_codes(search))
        return flat_range(search, 0, search->count);
    code_query(search);
    return flat_codes(search) && flat_range(search, search->linked, search->count);
}

static bool run(struct search *search)
{
    bool is_plain = plan_is_plain(search);
    bool is_plenty = false;

    if (plan_choose(search) == PLAN_SCAN)
        return scan_all(search);
    search->counters.plan = search->query->filter != NULL ? "hnsw_filter" : "hnsw";
    code_query(search);
    if (is_plain && !walk_plain(search, &is_plenty))
        return false;
    /* Those that may not be returned may all be here. */
    if (!is_plenty && search->candidates < search->count && !walk_admitted(search, &is_plenty))
        return false;
    if (!is_plenty)
        return scan_all(search);
    return flat_range(search, search->linked, search->count);
}

static enum err_code check_query(const struct engine *engine, const struct engine_query *query,
                                 struct err *err)
{
    if (query->k < 1 || query->k > PLANE_ROWS_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "k %u is not allowed", query->k);
    if (!(query->recall == 0 || (query->recall >= RECALL_LEAST && query->recall <= 1)))
        return err_set(err, ERR_INVALID_ARGUMENT, "recall %g is not in 0.5..1",
                       (double)query->recall);
    if (!all_finite(query->vector, engine->options.dim))
        return err_set(err, ERR_INVALID_ARGUMENT, "the query has a number that is not finite");
    return ERR_OK;
}

/* The entry first: whatever it names is below the count that is read after it. */
static void look(struct search *search)
{
    const struct graph *graph = graph_of(search->engine);
    const struct engine_bitmap *filter = search->query->filter;

    search->graph = graph;
    search->colds = graph_cold(graph);
    search->entry = atomic_load_explicit(&graph->entry, memory_order_acquire);
    search->linked = atomic_load_explicit(&graph->linked, memory_order_acquire);
    search->count = atomic_load_explicit(&graph->count, memory_order_acquire);
    search->live = atomic_load_explicit(&graph->live, memory_order_relaxed);
    /* An insertion under way may be counted among the living already. */
    search->candidates = MIN_OF(search->live, (uint64_t)search->count);
    if (filter != NULL)
        search->candidates = MIN_OF(search->candidates, filter->cardinality);
    search->counters.linked = search->linked + colds_rows(search->colds);
    search->ef = plan_effort(search->query, graph);
    if (search->count > 0)
        admit_init(&search->admit, graph, filter, search->count);
}

static void prepare_query(struct search *search)
{
    const struct graph *graph = search->graph;
    const float *vector = search->query->vector;
    float *query = search->scratch->query;

    if (graph->options.metric == ENGINE_COSINE)
        (void)kernels_normalise(graph->kernels, query, vector, graph->options.dim);
    else
        memcpy(query, vector, graph->options.dim * sizeof(float));
}

enum err_code search_answer(struct search *search, struct engine_hit *hits, size_t *count,
                            struct err *err)
{
    size_t beam = MIN_OF(search->ef, search->count); /* not below k */
    size_t best = MIN_OF((uint64_t)search->ef, search->count + colds_rows(search->colds));

    if (!scratch_room(search->scratch, search->count, beam, best))
        return err_set(err, ERR_NO_MEMORY, "no memory to search");
    prepare_query(search);
    if (deadline_passed(search->query->deadline_ns) || !run(search))
        return err_set(err, ERR_TIMEOUT, "the deadline passed after %llu distances",
                       (unsigned long long)search->counters.distances);
    enum err_code code = cold_search(search, hits, err);
    if (code != ERR_OK)
        return code;
    topk_finish(&search->best);
    for (size_t i = 0; i < search->best.count; i++)
        hits[i] = (struct engine_hit){.distance = key_distance(search->best.keys[i]),
                                      .ordinal = key_number(search->best.keys[i])};
    *count = search->best.count;
    return ERR_OK;
}

enum err_code engine_search(struct engine *engine, const struct engine_query *query,
                            struct engine_hit *hits, size_t *count,
                            struct engine_counters *counters, struct err *err)
{
    struct search search = {.engine = engine, .query = query};
    enum err_code code = check_query(engine, query, err);

    *count = 0;
    if (code != ERR_OK)
        return code;
    search.scratch = scratch_get(&engine->scratches);
    if (search.scratch == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to search");
    look(&search);
    code = search_answer(&search, hits, count, err);
    scratch_put(search.scratch);
    search.counters.ef = search.ef;
    if (counters != NULL)
        *counters = search.counters;
    return code;
}
