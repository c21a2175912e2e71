/* A search in an inverted file: choose lists, scan them, measure the candidates, return the best.
 *
 * With a filter the matches lie farther apart, so more lists are looked at, by the root of the
 * share that matches; of a narrow filter every match is measured instead.  While too few candidates
 * were found, further lists are looked at. Failure: the deadline, or no memory for the workspace.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/ivf_search.h"

enum {
    PROBES_PER_ROOT = 2, /* default: so many times the root of the number of lists */
    RERANK_TIMES = 20,   /* default: so many times k, and so many more */
    RERANK_MORE = 100,
    POOL_MORE = 128,   /* the pool has more room than it keeps: it is cut back less often */
    FILTER_FLAT = 256, /* a filter that names no more, ... */
    FILTER_SHARE = 64, /* or one in so many, is not worth a scan of codes */
};

static const char *plan_of(const struct ivf *ivf)
{
    static const char *const plans[] = {"ivf_flat", "ivf_pq", "ivf_rabitq"};

    return plans[ivf->options.kind];
}

static enum err_code check_query(const struct ivf *ivf, const struct ivf_query *query,
                                 struct err *err)
{
    bool is_finite = true;

    if (query->k < 1)
        return err_set(err, ERR_INVALID_ARGUMENT, "k %u is not allowed", query->k);
    for (size_t i = 0; i < ivf->options.dim; i++)
        is_finite &= fabsf(query->vector[i]) <= FLT_MAX;
    if (!is_finite)
        return err_set(err, ERR_INVALID_ARGUMENT, "the query has a number that is not finite");
    return ERR_OK;
}

/* Matches of the filter, as far as that can be known without looking. */
static uint64_t matches_of(const struct ivf_run *run)
{
    uint64_t count = run->ivf->rows.count;

    return run->query->filter == NULL ? count : MIN_OF(count, run->query->filter->cardinality);
}

static void choose_effort(struct ivf_run *run)
{
    const struct ivf_effort *effort = &run->query->effort;
    uint32_t lists = run->ivf->lists, count = run->ivf->rows.count;
    uint64_t matches = MAX_OF(matches_of(run), UINT64_C(1));
    uint64_t rerank = effort->rerank;
    double probes = effort->probes;

    if (probes == 0)
        probes = PROBES_PER_ROOT * sqrt((double)lists);
    probes = ceil(probes * sqrt((double)count / (double)matches));
    run->probes = probes < lists ? (uint32_t)probes : lists;
    if (rerank == 0)
        rerank = (uint64_t)RERANK_TIMES * run->query->k + RERANK_MORE;
    rerank = MAX_OF(rerank, (uint64_t)run->query->k);
    run->rerank = (size_t)MIN_OF(rerank, (uint64_t)MAX_OF(count, 1u));
}

static bool probe(struct ivf_run *run)
{
    uint32_t lists = run->ivf->lists, done = 0, count = run->probes;

    run->counters.plan = plan_of(run->ivf);
    ivf_prepare(run);
    /* What is too far would not count, but there must be k of them. */
    run->scan.limit = run->query->known >= run->query->k ? run->query->bound : INFINITY;
    do {
        ivf_order(run, done, count);
        if (!ivf_scan_lists(run, done, done + count))
            return false;
        done += count;
        count = MIN_OF(done, lists - done);
    } while (count > 0 && run->pooled + run->taken + run->query->known < run->query->k);
    return run->ivf->options.kind == IVF_FLAT || ivf_measure_rest(run);
}

static bool search(struct ivf_run *run)
{
    const struct ivf_query *query = run->query;
    float bound = query->bound;
    uint64_t matches = matches_of(run);

    run->best = (struct topk){.keys = run->scratch->best,
                              .max = MIN_OF((size_t)query->k, (size_t)run->ivf->rows.count),
                              .limit = bound == bound ? ((uint64_t)key_order(bound) + 1) << 32
                                                      : UINT64_MAX};
    if (ivf_deadline_passed(query->deadline_ns))
        return false;
    if (query->exact && query->filter == NULL) {
        run->counters.plan = "flat";
        return ivf_scan_all(run);
    }
    if (!query->exact && (query->filter == NULL ||
                          (matches > FILTER_FLAT && matches > run->ivf->rows.count / FILTER_SHARE)))
        return probe(run);
    run->counters.plan = "flat_filter";
    return ivf_scan_filter(run);
}

static void prepare_query(struct ivf_run *run)
{
    const struct ivf *ivf = run->ivf;
    size_t dim = ivf->options.dim;

    if (ivf->options.metric == ENGINE_COSINE)
        (void)kernels_normalise(ivf->kernels, run->scratch->query, run->query->vector, dim);
    else
        memcpy(run->scratch->query, run->query->vector, dim * sizeof(float));
}

enum err_code ivf_search(struct ivf *ivf, const struct ivf_query *query, struct engine_hit *hits,
                         size_t *count, struct ivf_counters *counters, struct err *err)
{
    struct ivf_run run = {.ivf = ivf, .query = query, .counters = {.plan = plan_of(ivf)}};
    enum err_code code = check_query(ivf, query, err);

    *count = 0;
    if (code != ERR_OK)
        return code;
    choose_effort(&run);
    if (ivf->rows.count > 0) {
        size_t best = MIN_OF((size_t)query->k, (size_t)ivf->rows.count);

        run.scratch = ivf_scratch_get(ivf, run.rerank + POOL_MORE, best);
        if (run.scratch == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory to search");
        prepare_query(&run);
        if (!search(&run))
            code = err_set(err, ERR_TIMEOUT, "the deadline passed after %llu lists",
                           (unsigned long long)run.counters.lists);
        topk_finish(&run.best);
        for (size_t i = 0; i < run.best.count && code == ERR_OK; i++)
            hits[(*count)++] =
                (struct engine_hit){.distance = key_distance(run.best.keys[i]),
                                    .ordinal = ivf_ordinal(ivf, key_number(run.best.keys[i]))};
        ivf_scratch_put(ivf, run.scratch);
    }
    if (counters != NULL)
        *counters = run.counters;
    return code;
}
