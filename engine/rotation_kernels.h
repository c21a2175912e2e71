/* The three steps of a rotation, for each instruction set; bit-identical (rotation.h). */
#ifndef VICINAL_ENGINE_ROTATION_KERNELS_H
#define VICINAL_ENGINE_ROTATION_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* All counts are multiples of 32; x may lie anywhere. */
struct rotation_kernels {
    /* x[i] = x[i] scale, with the other sign where bit i of signs is set */
    void (*flip)(float *x, const uint32_t *signs, size_t count, float scale);
    /* The Hadamard transform, not normalised; count: a power of two, at least 64. */
    void (*hadamard)(float *x, size_t count);
    /* (a, b) = (a + b, a - b) scale; two arrays of count numbers */
    void (*butterfly)(float *a, float *b, size_t count, float scale);
};

extern const struct rotation_kernels rotation_scalar;

/* The kernels of that table (kernels.h); the scalar ones where it has none of its own. */
const struct rotation_kernels *rotation_kernels_of(const char *name);

#endif
