/* A random rotation of vectors: lengths and dot products stay, and what stood in a few numbers is
 * spread over all of them, which is what codes of a few bits a number want.
 *
 * A dense random matrix would cost dim^2 multiplications.  Four rounds of random sign flips and a
 * fast Hadamard transform mix as well in practice and cost dim log(dim) additions.  The transform
 * wants a power of two: it takes the largest one that fits, at the head in even and at the tail in
 * odd rounds, and a butterfly between the two halves mixes both ends, so nothing is padded further
 * than to a multiple of 64 numbers.  The butterfly comes after odd rounds only, unlike in the
 * source: after a head it would take numbers that no transform has spread yet out of the next one's
 * reach, and leave a quarter of a number that stands alone in one place.
 *
 * Only single additions, subtractions and multiplications, in an order that the formula fixes: the
 * result is the same, to the bit, for every kernel on every machine.
 *
 * Source: the "FhtKac" rotation of the RaBitQ library; Gao, Long, "RaBitQ", arXiv 2405.12497.
 */
#ifndef VICINAL_ENGINE_ROTATION_H
#define VICINAL_ENGINE_ROTATION_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/limits.h"
#include "engine/kernels.h"

enum { ROTATION_ROUNDS = 4, ROTATION_PAD = 64 };

struct rotation_kernels;

/* Fixed once made: any number of threads may use it.  It owns nothing. */
struct rotation {
    const struct rotation_kernels *kernels;
    uint32_t dim;    /* numbers of a vector before */
    uint32_t padded; /* and after: dim rounded up to a multiple of ROTATION_PAD */
    uint32_t part;   /* of them, the transform takes so many: a power of two */
    float scale;     /* 1 / sqrt(part) */
    uint32_t signs[ROTATION_ROUNDS][DIMENSION_MAX / 32]; /* bit i % 32 of word i / 32: flip i */
};

/* Numbers of a rotated vector of dim numbers. */
static inline size_t rotation_padded(size_t dim)
{
    return (dim + ROTATION_PAD - 1) / ROTATION_PAD * ROTATION_PAD;
}

/* dim: 1..DIMENSION_MAX.  Equal dims and seeds make equal rotations, whatever the kernels. */
void rotation_init(struct rotation *rotation, size_t dim, uint64_t seed,
                   const struct kernels *kernels);

/* in: dim numbers; out: padded numbers, which may lie anywhere but not across in (out may equal
 * in where in has the room).  Finite for every vector whose length is below FLT_MAX / 2. */
void rotation_apply(const struct rotation *rotation, const float *in, float *out);

#endif
