/* A search: choose a plan, walk or scan, merge, and make sure that nothing was missed.
 *
 * Happy path: walk the graph by codes with the effort ef, measure the nearest of the beam that are
 * alive and pass the filter (refine.c), scan the tail that the graph does not hold yet, return the
 * best k.
 * The dead and the filtered are walked through but not returned, so the beam is widened by their
 * share.  When the beam still holds too few that may be returned (they lie far from the query, or
 * the share was misjudged) the walk is repeated with a wider beam, and when scanning is cheaper
 * than that, everything that may be returned is scanned: k hits are found whenever there are k.
 * Failure: the deadline, or no memory for the workspace. */
#include <math.h>

#include "common/base/checked.h"
#include "engine/search.h"

enum {
    EF_FLOOR = 84,      /* default beam: recall@10 0.97 on 100,000 real passages ... */
    EF_BEYOND = 16,     /* ... and 5/4 k plus this for larger k: recall@100 0.97 */
    COST_PER_BEAM = 10, /* distances that a walk computes for each place in the beam */
    MOVES_PER_DISTANCE = 128,
    FILTER_FLAT_MAX = 2000, /* a filter that names no more is always scanned */
    BEAM_LEAST = 8,
    BEAM_PART = 16,
    WIDEN_BY = 4, /* the beam, when it held too few */
};

#define SLACK_LEAST     0.03f
#define SLACK_PER_PLACE 0.004f

static uint32_t effective_ef(const struct engine_query *query)
{
    uint64_t ef = query->ef;

    if (ef == 0)
        ef = MAX_OF((uint64_t)EF_FLOOR, query->k + (uint64_t)query->k / 4 + EF_BEYOND);
    return (uint32_t)MIN_OF(MAX_OF(ef, (uint64_t)query->k), PLANE_ROWS_MAX);
}

/* The k-th nearest that is alive is about the so many-th nearest of all. */
static uint64_t wanted_of(const struct search *search)
{
    uint64_t k = search->query->k;
    uint64_t wanted = k * search->count / MAX_OF(search->live, UINT64_C(1));

    /* An insertion under way is alive before it is counted. */
    return MIN_OF(MAX_OF(wanted, k), (uint64_t)UINT32_MAX);
}

/* Inner products have no zero to count distances from; what a vector of the usual length could
 * reach stands for it. */
static float lift_of(const struct search *search)
{
    const struct engine *engine = search->engine;
    const float *query = search->scratch->query;

    if (engine->options.metric != ENGINE_IP)
        return 0.0f;
    return sqrtf(engine->kernels->dot(query, query, engine->options.dim)) * engine->length;
}

/* The effort: how much farther than the k-th nearest a node may lie and still be expanded. */
static float slack_of(const struct search *search, uint32_t ef)
{
    float k = (float)search->query->k;

    if (search->query->filter != NULL ||
        (search->engine->options.metric == ENGINE_IP && search->engine->length == 0.0f))
        return INFINITY;
    return SLACK_LEAST + SLACK_PER_PLACE * ((float)ef - k) / sqrtf(k);
}

static bool walk_once(struct search *search, uint32_t ef, float slack, uint64_t *found)
{
    struct scratch *scratch = search->scratch;
    struct walk walk = {.engine = search->engine,
                        .scratch = scratch,
                        .query = &scratch->coded,
                        .limit = search->count,
                        .wanted = (uint32_t)wanted_of(search),
                        .slack = slack,
                        .lift = lift_of(search),
                        .deadline_ns = search->query->deadline_ns};
    bool in_time = walk_level(&walk, walk_descend(&walk, search->entry, 0), 0, ef);

    search->walked = scratch->pool_count;
    search->counters.distances += walk.distances;
    search->counters.hops += walk.hops;
    *found = 0;
    return in_time && refine_beam(search, found);
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

static bool scan_all(struct search *search)
{
    best_reset(search);
    if (search->query->filter != NULL && search->candidates < search->count / 4) {
        search->counters.plan = "flat_filter";
        return flat_filter(search);
    }
    search->counters.plan = search->query->filter != NULL ? "flat_filter" : "flat";
    return flat_range(search, 0, search->count);
}

/* What a walk with this beam costs, in distances: those it computes, and the keys it moves when it
 * inserts into its sorted beam, which only count for wide ones. */
static uint64_t walk_cost(uint64_t beam)
{
    return COST_PER_BEAM * beam + beam / MOVES_PER_DISTANCE * beam;
}

/* Beam that is expected to hold ef vectors that may be returned. */
static uint64_t widened(const struct search *search, uint64_t ef)
{
    uint64_t beam = ef * search->count / MAX_OF(search->candidates, UINT64_C(1)) + 1;

    return MIN_OF(beam, (uint64_t)UINT32_MAX);
}

static bool is_flat(const struct search *search, uint32_t ef)
{
    const struct engine *engine = search->engine;
    const struct engine_query *query = search->query;

    if (engine->options.kind == ENGINE_FLAT || query->exact || search->entry == 0 ||
        search->linked == 0 || search->live <= engine->options.flat_below)
        return true;
    if (query->filter != NULL && search->candidates <= FILTER_FLAT_MAX)
        return true;
    return walk_cost(widened(search, ef)) >= search->candidates;
}

/* Enough of the beam may be returned to trust it.  Duplicates may have made the graph smaller
 * than the beam; then the walk has seen every node. */
static bool is_plenty(const struct search *search, uint64_t found, uint32_t ef, uint64_t beam,
                      float slack)
{
    if (slack != INFINITY)
        return found >= search->query->k;
    uint64_t wanted = MAX_OF((uint64_t)search->query->k, (uint64_t)ef / 2);

    return found >= wanted || search->walked < beam;
}

/* Only when the graph is there: its first linking fixes the frame. */
static void code_query(struct search *search)
{
    struct engine *engine = search->engine;
    struct scratch *scratch = search->scratch;
    struct code_place place = {.numbers = scratch->placed};

    codes_place_query(&engine->frame, scratch->query, &place);
    codes_query(engine->kernels, &engine->frame, &place, engine->bits, scratch->codes,
                &scratch->coded);
    if (engine->bits != FINE_BITS)
        codes_query(engine->kernels, &engine->frame, &place, FINE_BITS, scratch->fine_codes,
                    &scratch->fine);
}

/* A hard query may fill so wide a beam: little more than a usual one at low effort, where a long
 * tail would cost more than it finds, and several of them at high effort. */
static uint64_t beam_of_slack(const struct search *search, uint64_t ef)
{
    uint64_t k = search->query->k;
    double wide = (double)ef * (double)ef / (BEAM_PART * sqrt((double)k));

    return MAX_OF(k + k / 2 + BEAM_LEAST, (uint64_t)fmin(wide, (double)search->count));
}

static bool walk_and_merge(struct search *search, uint32_t ef, bool *starved)
{
    float slack = slack_of(search, ef);
    uint64_t beam = widened(search, slack == INFINITY ? ef : beam_of_slack(search, ef));

    search->counters.plan = search->query->filter != NULL ? "hnsw_filter" : "hnsw";
    code_query(search);
    for (;;) {
        uint64_t found;

        if ((slack == INFINITY && walk_cost(beam) >= search->candidates + walk_cost(ef)) ||
            !scratch_beam(search->engine, search->scratch, beam)) {
            *starved = true;
            return true;
        }
        best_reset(search);
        if (!walk_once(search, (uint32_t)MIN_OF(beam, (uint64_t)search->count), slack, &found))
            return false;
        if (is_plenty(search, found, ef, beam, slack))
            break;
        beam = slack == INFINITY ? beam * WIDEN_BY : widened(search, ef);
        slack = INFINITY;
    }
    return flat_range(search, search->linked, search->count);
}

static enum err_code check_query(const struct engine *engine, const struct engine_query *query,
                                 struct err *err)
{
    if (query->k < 1 || query->k > PLANE_ROWS_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "k %u is not allowed", query->k);
    if (!all_finite(query->vector, engine->options.dim))
        return err_set(err, ERR_INVALID_ARGUMENT, "the query has a number that is not finite");
    return ERR_OK;
}

/* The entry first: whatever it names is below the count that is read after it. */
static void look(struct search *search)
{
    struct engine *engine = search->engine;
    const struct engine_bitmap *filter = search->query->filter;

    search->entry = atomic_load_explicit(&engine->entry, memory_order_acquire);
    search->linked = atomic_load_explicit(&engine->linked, memory_order_acquire);
    search->count = atomic_load_explicit(&engine->count, memory_order_acquire);
    search->live = atomic_load_explicit(&engine->live, memory_order_relaxed);
    search->candidates = search->live;
    if (filter != NULL)
        search->candidates = MIN_OF(search->live, filter->cardinality);
    search->wants_all = filter == NULL && search->live == search->count;
    search->counters.linked = search->linked;
}

static bool run(struct search *search, uint32_t ef)
{
    bool starved = is_flat(search, ef);

    if (!starved && !walk_and_merge(search, ef, &starved))
        return false;
    return !starved || scan_all(search);
}

static void prepare_query(struct search *search)
{
    struct engine *engine = search->engine;
    const float *vector = search->query->vector;
    float *query = search->scratch->query;

    if (engine->options.metric == ENGINE_COSINE)
        (void)kernels_normalise(engine->kernels, query, vector, engine->options.dim);
    else
        memcpy(query, vector, engine->options.dim * sizeof(float));
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
    look(&search);
    uint32_t ef = effective_ef(query);
    size_t beam = (size_t)MIN_OF((uint64_t)ef, (uint64_t)search.count);
    size_t best = (size_t)MIN_OF((uint64_t)query->k, (uint64_t)search.count);
    search.scratch = scratch_get(engine, search.count, beam, best);
    if (search.scratch == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to search");
    prepare_query(&search);
    if (deadline_passed(query->deadline_ns) || !run(&search, ef)) {
        code = err_set(err, ERR_TIMEOUT, "the deadline passed after %llu distances",
                       (unsigned long long)search.counters.distances);
    } else {
        topk_finish(&search.best);
        for (size_t i = 0; i < search.best.count; i++)
            hits[i] = (struct engine_hit){.distance = key_distance(search.best.keys[i]),
                                          .ordinal = key_number(search.best.keys[i])};
        *count = search.best.count;
    }
    scratch_put(engine, search.scratch);
    if (counters != NULL)
        *counters = search.counters;
    return code;
}
