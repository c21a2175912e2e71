/* Inverted files over generated vectors, and exact answers to compare theirs with. */
#ifndef VICINAL_TESTS_LIB_IVF_DATA_H
#define VICINAL_TESTS_LIB_IVF_DATA_H

#include "engine/ivf.h"
#include "engine/kernels.h"
#include "tests/lib/engine_data.h"

static const enum ivf_kind ivf_kinds[] = {IVF_FLAT, IVF_PQ, IVF_RABITQ};
static const enum engine_metric ivf_metrics[] = {ENGINE_COSINE, ENGINE_IP, ENGINE_L2};

static inline struct ivf_rows ivf_data_rows(const struct data *data)
{
    return (struct ivf_rows){.count = data->count, .vectors = data->vectors, .stride = data->dim};
}

static inline struct ivf *ivf_data_build(const struct data *data, struct ivf_options options)
{
    struct ivf_rows rows = ivf_data_rows(data);
    struct ivf *ivf;
    struct err err;

    options.dim = data->dim;
    if (ivf_build(&ivf, &options, &rows, NULL, &err) != ERR_OK)
        assert(!"the index is built");
    if (ivf_validate(ivf, &err) != ERR_OK)
        assert(!"the index is valid");
    return ivf;
}

/* As engine.h defines it, in double precision. */
static inline double ivf_data_distance(enum engine_metric metric, const float *a, const float *b,
                                       uint32_t dim)
{
    double dot = 0, a_a = 0, b_b = 0, square = 0;

    for (uint32_t i = 0; i < dim; i++) {
        dot += (double)a[i] * (double)b[i];
        a_a += (double)a[i] * (double)a[i];
        b_b += (double)b[i] * (double)b[i];
        square += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    }
    if (metric == ENGINE_L2)
        return square;
    if (metric == ENGINE_IP)
        return -dot;
    return a_a == 0 || b_b == 0 ? 1 : 1 - dot / sqrt(a_a) / sqrt(b_b);
}

static inline bool ivf_data_admits(const struct engine_bitmap *filter, uint32_t ordinal)
{
    return filter == NULL || (ordinal / 64 < filter->word_count &&
                              (filter->words[ordinal / 64] >> ordinal % 64 & 1) != 0);
}

/* Distance of the k-th nearest that the filter admits; *matches: how many it admits. */
static inline double ivf_data_kth(const struct data *data, enum engine_metric metric,
                                  const struct ivf_query *query, uint32_t *matches)
{
    double *best = calloc(query->k, sizeof(*best));
    double kth;

    assert(best != NULL);
    *matches = 0;
    for (uint32_t i = 0; i < data->count; i++) {
        if (!ivf_data_admits(query->filter, i))
            continue;
        double distance = ivf_data_distance(metric, query->vector, data_at(data, i), data->dim);
        uint32_t at = *matches < query->k ? *matches : query->k;

        ++*matches;
        for (; at > 0 && best[at - 1] > distance; at--)
            if (at < query->k)
                best[at] = best[at - 1];
        if (at < query->k)
            best[at] = distance;
    }
    kth = *matches == 0 ? 0 : best[(*matches < query->k ? *matches : query->k) - 1];
    free(best);
    return kth;
}

/* Share of the k nearest that is found; asserts all that must hold of any answer. */
static inline double ivf_data_recall_one(struct ivf *ivf, const struct data *data,
                                         enum engine_metric metric, const struct ivf_query *query)
{
    struct engine_hit *hits = calloc(query->k, sizeof(*hits));
    uint32_t matches;
    double kth = ivf_data_kth(data, metric, query, &matches);
    size_t count, right = 0, wanted = matches < query->k ? matches : query->k;
    struct err err;

    assert(hits != NULL);
    if (ivf_search(ivf, query, hits, &count, NULL, &err) != ERR_OK)
        assert(!"the index is searched");
    assert(count == wanted);
    for (size_t i = 0; i < count; i++) {
        double distance =
            ivf_data_distance(metric, query->vector, data_at(data, hits[i].ordinal), data->dim);
        double tolerance = 1e-5 * (fabs(distance) + fabs(kth) + 1);

        assert(ivf_data_admits(query->filter, hits[i].ordinal));
        assert(fabs(distance - (double)hits[i].distance) <= tolerance);
        assert(i == 0 || hits[i - 1].distance < hits[i].distance ||
               (hits[i - 1].distance == hits[i].distance && hits[i - 1].ordinal < hits[i].ordinal));
        right += distance <= kth + tolerance;
    }
    free(hits);
    return wanted == 0 ? 1 : (double)right / (double)wanted;
}

/* Mean over queries drawn as the data were. */
static inline double ivf_data_recall(struct ivf *ivf, const struct data *data,
                                     enum engine_metric metric, struct ivf_query query,
                                     uint32_t queries)
{
    float *vector = data_floats(1, data->dim);
    uint64_t state = 4711;
    double sum = 0;

    query.vector = vector;
    query.bound = INFINITY;
    for (uint32_t i = 0; i < queries; i++) {
        data_vector(data, i % data->clusters, 0.2f, &state, vector);
        sum += ivf_data_recall_one(ivf, data, metric, &query);
    }
    free(vector);
    return sum / queries;
}

#endif
