/* Codes of a few bits a number, for walking: what a walk costs is the bytes that it fetches.
 *
 * A vector x is placed relative to a centre and rotated (rotation.h): y = P(x - centre).  The
 * numbers of y are then spread like those of a normal distribution, whatever x was, and each
 * becomes one of 2^bits equal steps around zero, u[i]; a step is a fixed share of |y| / sqrt(dim).
 * With v[i] = u[i] - (2^bits - 1) / 2 the dot product with a query z, placed alike, is estimated by
 *
 *   dot(z, y) ~ dot(z, v) |y|^2 / dot(y, v)
 *
 * which is without bias.  z itself becomes integers of 8 bits (against codes of 1 bit: of 4, one
 * bit plane each, so that bits are counted), so dot(z, u) is a sum of integers, exact and the same
 * on every machine.  Distances estimated so steer a walk; what is returned is measured.
 *
 * Row: dim (padded to a multiple of 64) codes of `bits` bits, then struct code_tail.  A byte holds
 * codes that stand a block apart, so that one shift and one mask bring forth 64 neighbours: byte l
 * of a block of n bytes (64; the last block: what is left) holds codes l, l + n, l + 2n ... of it.
 *
 * Source: Gao, Gou, Xu, Yang, Long, Wong, "Practical and asymptotically optimal quantization of
 * high-dimensional vectors in Euclidean space for approximate nearest neighbor search" (extended
 * RaBitQ), arXiv 2409.09913. */
#ifndef VICINAL_ENGINE_CODES_H
#define VICINAL_ENGINE_CODES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/kernels.h"
#include "engine/rotation.h"

struct code_tail {
    float scale; /* |y|^2 / dot(y, v) */
    float add;   /* what the vector alone adds to a distance */
};

/* Behind that in a row of 8-bit codes, so that two rows can be compared. */
struct code_pair_tail {
    int32_t sum;  /* of u[i] - 128 */
    float square; /* of what the codes stand for: scale^2 dot(v, v) */
};

/* How the vectors of one engine are placed.  Written once, then shared by all threads. */
struct code_frame {
    struct rotation rotation;
    float *centre; /* dim floats, owned by whoever made the frame */
    bool is_l2;    /* the squared distance; else base - dot */
    float base;
    float pair_weight; /* between two rows: this times the squared distance; 0: base - dot */
    float pair_base;   /* base less the centre's square */
};

/* A vector or a query in its place. */
struct code_place {
    float *numbers; /* rotation.padded floats: room that the caller gives */
    float add;      /* see code_tail; of a query: the part of a distance that it alone makes */
};

void codes_place_vector(const struct code_frame *frame, const float *vector,
                        struct code_place *place);
void codes_place_query(const struct code_frame *frame, const float *query,
                       struct code_place *place);

/* Bytes of the codes of a row, and of a row.  bits: 1, 2, 4 or 8. */
static inline size_t codes_bytes(size_t dim, uint32_t bits)
{
    return rotation_padded(dim) * bits / 8;
}

static inline size_t codes_stride(size_t dim, uint32_t bits)
{
    size_t tails = sizeof(struct code_tail) + (bits == 8 ? sizeof(struct code_pair_tail) : 0);

    return codes_bytes(dim, bits) + tails;
}

/* Bytes that a query's codes take: for each 64 bytes of a row, 64 for each code that a byte holds,
 * or for each plane. */
static inline size_t codes_query_bytes(size_t dim, uint32_t bits)
{
    return (codes_bytes(dim, bits) + 63) / 64 * 64 * (bits == 1 ? CODE_PLANES : 8 / bits);
}

/* A placed vector into a row. */
void codes_encode(const struct kernels *kernels, const struct code_frame *frame,
                  const struct code_place *place, uint32_t bits, uint8_t *row);

enum { CODES_ROWS_MAX = 256 };

/* Estimated distances between a row of 8 bits and up to CODES_ROWS_MAX others: symmetric, the same
 * on every machine; 0 between equal rows unless for inner products. */
void codes_pairs(const struct kernels *kernels, const struct code_frame *frame, const uint8_t *row,
                 const uint8_t *const *rows, size_t count, float *distances);

/* A query, made ready: distance = base + add - scale (step sum(u s) + bias), at least floor. */
struct code_query {
    code_kernel_fn *kernel;
    const int8_t *codes; /* on 64 bytes */
    size_t bytes;        /* codes of a row */
    float step, bias, base, floor;
    float deviation; /* of an estimate from the distance, for each unit of the row's scale */
};

/* By how much the estimate of this row's distance errs, as a standard deviation.  Codes of so many
 * bits lie at a fixed angle to what they stand for; the part of it that falls on the query is as a
 * random rotation makes it, and the scale says how long the vector is. */
static inline float codes_deviation(const struct code_query *query, const uint8_t *row)
{
    struct code_tail tail;

    memcpy(&tail, row + query->bytes, sizeof(tail));
    return query->deviation * tail.scale;
}

/* codes: room for codes_query_bytes(), on 64 bytes. */
void codes_query(const struct kernels *kernels, const struct code_frame *frame,
                 const struct code_place *place, uint32_t bits, int8_t *codes,
                 struct code_query *out);

/* Estimated distances of up to CODES_ROWS_MAX rows. */
void codes_distances(const struct code_query *query, const uint8_t *const *rows, size_t count,
                     float *distances);

#endif
