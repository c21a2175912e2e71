/* k-means: centroids of clusters, and the nearest centroid of each row, by squared distance.
 *
 * Distances are taken as |c|^2 - 2 x c for blocks of rows by a matrix product (blas.h); rows are
 * read as they are needed and never copied as a whole.  Training sees a sample of the rows.  The
 * result depends on rows, options and processor, not on the number of threads; ties go to the
 * lower number.  Whatever the rows are, if they are finite so are the centroids: an empty cluster
 * takes over half of a large one, and stays empty when that one cannot be divided.
 */
#ifndef VICINAL_ENGINE_KMEANS_H
#define VICINAL_ENGINE_KMEANS_H

#include "engine/engine.h"

/* Where rows are read: a row's dim floats into out, on any thread. */
struct kmeans_rows {
    uint32_t count;
    void (*read)(void *state, uint32_t row, float *out);
    void *state;
};

struct kmeans_options {
    uint32_t dim;        /* at least 1 */
    uint32_t clusters;   /* at least 1; may exceed the number of rows */
    uint32_t iterations; /* 0: default */
    uint32_t sample;     /* rows for each cluster; 0: default */
    uint64_t seed;
    const struct engine_executor *executor; /* NULL: the caller's thread */
};

/* centroids: room for clusters * dim floats.  Without rows they are zeros.
 * Errors: ERR_NO_MEMORY, ERR_CONFIG (no OpenBLAS); centroids are undefined then. */
MUST_CHECK enum err_code kmeans_train(const struct kmeans_options *options,
                                      const struct kmeans_rows *rows, float *centroids,
                                      struct err *err);

/* assigned[i] = the centroid nearest to row i.  Errors: as above. */
MUST_CHECK enum err_code kmeans_assign(const struct kmeans_options *options,
                                       const struct kmeans_rows *rows, const float *centroids,
                                       uint32_t *assigned, struct err *err);

/* Bytes that training, and after it assigning, takes at the most besides its results. */
uint64_t kmeans_predict(const struct kmeans_options *options, uint32_t count);

#endif
