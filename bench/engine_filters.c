/* Filters of given shares: what the planner's choice finds and costs, beside the plans that it
 * chooses between.
 *
 * Each query has filters of its own, made from the exact order of all vectors around it.  A filter
 * of share S names, uncorrelated, any vector with probability S; correlated, two in three of the
 * nearest 3/2 S; anti, two in three of the farthest 3/2 S.  Filters are made before anything is
 * timed, so that the exact scans do not clear the caches between.
 * Failure: no memory, or that of a search. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/engine_bench.h"
#include "common/base/checked.h"
#include "engine/internal.h"

enum { QUERIES_MAX = 200, QUERIES_LEAST = 20, ORDERS = 20 << 20 };

/* The filter of one query, and the nearest of what it names. */
struct asked {
    struct engine_bitmap bitmap;
    struct engine_hit *truth;
    size_t truth_count;
};

struct filters {
    struct bench *bench;
    struct asked *asked; /* [share][query] */
    uint64_t query_count;
    struct engine_hit *order; /* all vectors, nearest first */
    struct engine_hit *hits;
};

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Does the filter name the vector of this place in the order? */
static bool is_named(const struct options *options, double share, double place, uint64_t random)
{
    double chance = (double)(mix(random) >> 11) * 0x1p-53;

    switch (options->filter) {
    case FILTER_CORRELATED:
        return place < 1.5 * share && chance * 3 < 2;
    case FILTER_ANTI:
        return place >= 1 - 1.5 * share && chance * 3 < 2;
    default:
        return chance < share;
    }
}

static enum err_code make_filter(struct filters *filters, size_t count, double share,
                                 uint64_t random, struct asked *asked)
{
    const struct options *options = &filters->bench->options;
    size_t words = (count + 63) / 64;
    uint64_t *bits = calloc(words, sizeof(*bits));

    asked->bitmap = (struct engine_bitmap){.words = bits, .word_count = words};
    asked->truth = array_alloc(options->k, sizeof(*asked->truth));
    if (bits == NULL || asked->truth == NULL)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const struct engine_hit *hit = &filters->order[i];

        if (!is_named(options, share, (double)i / (double)count, random + hit->ordinal))
            continue;
        bits[hit->ordinal / 64] |= UINT64_C(1) << hit->ordinal % 64;
        asked->bitmap.cardinality++;
        if (asked->truth_count < options->k)
            asked->truth[asked->truth_count++] = *hit;
    }
    return ERR_OK;
}

static enum err_code make_filters(struct filters *filters, struct err *err)
{
    struct bench *bench = filters->bench;

    for (uint64_t q = 0; q < filters->query_count; q++) {
        struct engine_query query = {.vector = bench->vectors + q * bench->queries.cols,
                                     .k = (uint32_t)bench->base.rows,
                                     .bound = INFINITY,
                                     .exact = true};
        size_t count;
        enum err_code code =
            engine_search(bench->engine, &query, filters->order, &count, NULL, err);

        for (size_t s = 0; code == ERR_OK && s < bench->options.share_count; s++)
            if (make_filter(filters, count, bench->options.shares[s], mix(q * SHARES_MAX + s + 1),
                            &filters->asked[s * filters->query_count + q]) != ERR_OK)
                code = err_set(err, ERR_NO_MEMORY, "no memory for filters");
        if (code != ERR_OK)
            return code;
    }
    return ERR_OK;
}

struct outcome {
    double recall, time_s, walked, distances, hops;
};

static double recall_of(const struct asked *asked, const struct engine_hit *hits, size_t count)
{
    size_t right = 0;

    if (asked->truth_count == 0)
        return count == 0 ? 1 : 0;
    for (size_t i = 0; i < count; i++)
        right += hits[i].distance <= asked->truth[asked->truth_count - 1].distance;
    return (double)right / (double)asked->truth_count;
}

static enum err_code run_once(struct filters *filters, size_t share, struct outcome *out,
                              struct err *err)
{
    struct bench *bench = filters->bench;

    *out = (struct outcome){0};
    for (uint64_t q = 0; q < filters->query_count; q++) {
        const struct asked *asked = &filters->asked[share * filters->query_count + q];
        struct engine_query query = {.vector = bench->vectors + q * bench->queries.cols,
                                     .k = bench->options.k,
                                     .ef = bench->options.ef,
                                     .recall = (float)bench->options.recalls[0],
                                     .filter = &asked->bitmap,
                                     .bound = INFINITY};
        struct engine_counters counters;
        size_t count;
        double begin = bench_now_s();
        enum err_code code =
            engine_search(bench->engine, &query, filters->hits, &count, &counters, err);
        out->time_s += bench_now_s() - begin;
        if (code != ERR_OK)
            return code;
        out->recall += recall_of(asked, filters->hits, count);
        out->walked += strncmp(counters.plan, "hnsw", 4) == 0;
        out->distances += (double)counters.distances;
        out->hops += (double)counters.hops;
    }
    return ERR_OK;
}

static enum err_code run_plan(struct filters *filters, size_t share, const char *name,
                              enum plan plan, struct err *err)
{
    struct bench *bench = filters->bench;
    double n = (double)filters->query_count, best_s = INFINITY;
    struct outcome outcome = {0};

    bench->engine->forced = plan;
    for (uint32_t r = 0; r < bench->options.repeats; r++) {
        enum err_code code = run_once(filters, share, &outcome, err);
        if (code != ERR_OK)
            return code;
        best_s = fmin(best_s, outcome.time_s);
    }
    printf("share %.4f%%  %-7s  recall %.4f  %8.0f qps  %7.1f us  %7.0f distances  %5.0f hops  "
           "walked %3.0f%%\n",
           bench->options.shares[share] * 100, name, outcome.recall / n, n / best_s,
           best_s / n * 1e6, outcome.distances / n, outcome.hops / n, outcome.walked / n * 100);
    return ERR_OK;
}

static enum err_code run_plans(struct filters *filters, struct err *err)
{
    static const struct {
        const char *name;
        enum plan plan;
    } plans[] = {{"planner", PLAN_CHOOSE}, {"scan", PLAN_SCAN}, {"walk", PLAN_WALK}};

    for (size_t s = 0; s < filters->bench->options.share_count; s++)
        for (size_t p = 0; p < ARRAY_COUNT(plans); p++) {
            enum err_code code = run_plan(filters, s, plans[p].name, plans[p].plan, err);
            if (code != ERR_OK)
                return code;
        }
    return ERR_OK;
}

/* Their exact orders take long in large sets. */
static uint64_t queries_of(const struct bench *bench)
{
    uint64_t most = MAX_OF(ORDERS / bench->base.rows, (uint64_t)QUERIES_LEAST);

    return MIN_OF(bench->queries.rows, MIN_OF(most, (uint64_t)QUERIES_MAX));
}

enum err_code bench_filters(struct bench *bench, struct err *err)
{
    struct filters filters = {.bench = bench, .query_count = queries_of(bench)};
    size_t asked_count = bench->options.share_count * filters.query_count;
    enum err_code code = ERR_OK;

    filters.asked = calloc(asked_count, sizeof(*filters.asked));
    filters.order = array_alloc(bench->base.rows, sizeof(*filters.order));
    filters.hits = array_alloc(bench->options.k, sizeof(*filters.hits));
    if (filters.asked == NULL || filters.order == NULL || filters.hits == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory for filters");
    if (code == ERR_OK)
        code = make_filters(&filters, err);
    if (code == ERR_OK)
        code = run_plans(&filters, err);
    for (size_t i = 0; filters.asked != NULL && i < asked_count; i++) {
        free((void *)(uintptr_t)filters.asked[i].bitmap.words);
        free(filters.asked[i].truth);
    }
    free(filters.asked);
    free(filters.order);
    free(filters.hits);
    return code;
}
