/* Generated vectors for the engine's tests, and recall against its exact search.
 * Seeded, so that a failure can be repeated; out of memory ends the test by an assertion. */
#ifndef VICINAL_TESTS_LIB_ENGINE_DATA_H
#define VICINAL_TESTS_LIB_ENGINE_DATA_H

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

struct data {
    uint32_t count;
    uint32_t dim;
    uint32_t clusters; /* vector i belongs to cluster i % clusters */
    float *vectors;
    float *centres;
};

static inline uint64_t data_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Roughly normal: the sum of four uniform numbers, variance one. */
static inline float data_normal(uint64_t *state)
{
    float sum = 0.0f;

    for (int i = 0; i < 4; i++)
        sum += (float)(data_random(state) >> 40) * 0x1p-24f - 0.5f;
    return sum * 1.7320508f;
}

/* One vector near the centre; its length varies by a factor of exp(spread * normal). */
static inline void data_vector(const struct data *data, uint32_t cluster, float spread,
                               uint64_t *state, float *out)
{
    float scale = expf(spread * data_normal(state));

    for (uint32_t j = 0; j < data->dim; j++)
        out[j] =
            scale * (data->centres[(size_t)cluster * data->dim + j] + 1.2f * data_normal(state));
}

static inline float *data_floats(size_t count, size_t dim)
{
    float *floats = calloc(count * dim, sizeof(*floats));

    assert(floats != NULL);
    return floats;
}

static inline struct data data_make(uint32_t count, uint32_t dim, float spread, uint64_t seed)
{
    struct data data = {.count = count, .dim = dim, .clusters = 1 + count / 200};
    uint64_t state = seed;

    data.centres = data_floats(data.clusters, dim);
    data.vectors = data_floats(count, dim);
    for (size_t i = 0; i < (size_t)data.clusters * dim; i++)
        data.centres[i] = data_normal(&state);
    for (uint32_t i = 0; i < count; i++)
        data_vector(&data, i % data.clusters, spread, &state, data.vectors + (size_t)i * dim);
    return data;
}

static inline void data_free(struct data *data)
{
    free(data->vectors);
    free(data->centres);
}

static inline const float *data_at(const struct data *data, uint32_t i)
{
    return data->vectors + (size_t)i * data->dim;
}

static inline struct engine *data_open(uint32_t dim, enum engine_metric metric)
{
    struct engine_options options = {
        .dim = dim, .metric = metric, .m = 16, .ef_construction = 200, .flat_below = 1, .seed = 7};
    struct engine *engine;
    struct err err;

    if (engine_open(&engine, NULL, &options, NULL, &err) != ERR_OK)
        assert(!"the engine opens");
    return engine;
}

static inline void data_insert(struct engine *engine, const struct data *data, uint32_t from,
                               uint32_t to)
{
    struct err err;

    for (uint32_t i = from; i < to; i++)
        if (engine_insert(engine, i, data_at(data, i), &err) != ERR_OK)
            assert(!"the engine inserts");
}

static inline void data_link(struct engine *engine)
{
    struct err err;
    uint64_t left;

    if (engine_step(engine, UINT32_MAX, &left, &err) != ERR_OK || left != 0)
        assert(!"the engine links");
}

/* Share of the k exact hits that the query finds; a hit as near as the k-th exact one counts. */
static inline double data_recall_one(struct engine *engine, struct engine_query query,
                                     struct engine_counters *counters)
{
    struct engine_hit *hits = calloc(2 * (size_t)query.k, sizeof(*hits));
    struct engine_hit *exact = hits + query.k;
    size_t count;
    size_t exact_count;
    size_t right = 0;
    struct err err;

    assert(hits != NULL);
    if (engine_search(engine, &query, hits, &count, counters, &err) != ERR_OK)
        assert(!"the engine searches");
    query.exact = true;
    if (engine_search(engine, &query, exact, &exact_count, NULL, &err) != ERR_OK)
        assert(!"the engine searches exactly");
    assert(count == exact_count);
    for (size_t i = 0; i < count; i++)
        right += hits[i].distance <= exact[exact_count - 1].distance;
    free(hits);
    return exact_count == 0 ? 1.0 : (double)right / (double)exact_count;
}

/* Mean over queries drawn as the data were; plan, when not NULL, must have been used by all. */
static inline double data_recall(struct engine *engine, const struct data *data, float spread,
                                 const struct engine_bitmap *filter, const char *plan)
{
    enum { QUERIES = 100 };
    float *vector = data_floats(1, data->dim);
    uint64_t state = 4711;
    double sum = 0;

    for (uint32_t i = 0; i < QUERIES; i++) {
        struct engine_counters counters;

        data_vector(data, i % data->clusters, spread, &state, vector);
        sum += data_recall_one(
            engine,
            (struct engine_query){.vector = vector, .k = 10, .filter = filter, .bound = INFINITY},
            &counters);
        assert(plan == NULL || strcmp(counters.plan, plan) == 0);
        assert(plan == NULL || strncmp(plan, "hnsw", 4) != 0 || counters.hops > 0);
    }
    free(vector);
    return sum / QUERIES;
}

#endif
