/* 8-bit codes of vectors, for walking: a quarter of the bytes, and bytes are what a walk costs.
 *
 * A code row holds c[i] = round((x[i] - low) / step) in 0..255, with step and low of its own
 * vector, so that x[i] is about low + step c[i] (locally adaptive quantisation: Aguerrebere et al.,
 * VLDB 2023).  The query becomes s[i] = round(q[i] / t) in -127..127, and
 *
 *   dot(q, x) ~ step t sum(c s) + low sum(q)
 *
 * where the integer sum is exact and the same on every machine.  Distances that are estimated so
 * steer the walk only; what is returned is measured on the vectors.
 *
 * Row: the codes, zeros, and in its last 16 bytes struct code_tail; the row's size is a multiple of
 * 64.  The query's codes are as long and zero behind dim, so kernels need no tail and the bytes of
 * code_tail count nothing. */
#ifndef VICINAL_ENGINE_CODES_H
#define VICINAL_ENGINE_CODES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/kernels.h"

struct code_tail {
    float step, low;
    float square; /* of the vector: the sum of x[i]^2 */
    float unused;
};

/* Bytes of a row. */
static inline size_t codes_stride(size_t dim)
{
    return (dim + sizeof(struct code_tail) + 63) / 64 * 64;
}

/* A vector into a row of zeros. */
void codes_encode(const struct kernels *kernels, uint8_t *row, const float *vector, size_t dim);

/* A query, made ready: distance = base + square * vector's square - scale * dot, at least floor. */
struct code_query {
    code_kernel_fn *kernel;
    const int8_t *codes; /* stride of them, on 64 bytes */
    size_t stride;
    float step, sum; /* t, and the sum of q[i] */
    float base, square, scale, floor;
};

/* codes: room for codes_stride(dim) bytes, all written.  For the squared distance is_l2; otherwise
 * base - dot. */
void codes_query(const struct kernels *kernels, struct code_query *out, int8_t *codes,
                 const float *query, size_t dim, bool is_l2, float base);

static inline float codes_distance(const struct code_query *query, const uint8_t *row)
{
    struct code_tail tail;
    float dot, distance;

    memcpy(&tail, row + query->stride - sizeof(tail), sizeof(tail));
    dot = tail.step * query->step * (float)query->kernel(row, query->codes, query->stride) +
          tail.low * query->sum;
    distance = query->base + query->square * tail.square - query->scale * dot;
    return distance > query->floor ? distance : query->floor;
}

#endif
