/* See rotation.h.  The scalar kernels stand here: they are the oracle of those in rotation_x86.c.
 *
 * Scaling comes before the transform, so that no partial sum exceeds the vector's length: large
 * numbers do not overflow on the way.  Nothing here can fail. */
#include "engine/rotation.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/rotation_kernels.h"
#include "engine/random.h"

#define HALF_ROOT 0.70710678f /* of a butterfly: sqrt(1/2) */

static void scalar_flip(float *x, const uint32_t *signs, size_t count, float scale)
{
    for (size_t i = 0; i < count; i++)
        x[i] *= (signs[i / 32] >> i % 32 & 1) != 0 ? -scale : scale;
}

static void scalar_butterfly(float *a, float *b, size_t count, float scale)
{
    for (size_t i = 0; i < count; i++) {
        float sum = a[i] + b[i];
        float difference = a[i] - b[i];

        a[i] = sum * scale;
        b[i] = difference * scale;
    }
}

static void scalar_hadamard(float *x, size_t count)
{
    for (size_t half = 1; half < count; half *= 2)
        for (size_t i = 0; i < count; i += 2 * half)
            for (size_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];

                x[j] = a + b;
                x[j + half] = a - b;
            }
}

const struct rotation_kernels rotation_scalar = {
    .flip = scalar_flip, .hadamard = scalar_hadamard, .butterfly = scalar_butterfly};

void rotation_init(struct rotation *rotation, size_t dim, uint64_t seed,
                   const struct kernels *kernels)
{
    uint64_t state = seed;

    assert(dim >= 1 && dim <= DIMENSION_MAX);
    memset(rotation, 0, sizeof(*rotation));
    rotation->kernels = rotation_kernels_of(kernels->name);
    rotation->dim = (uint32_t)dim;
    rotation->padded = (uint32_t)rotation_padded(dim);
    rotation->part = UINT32_C(1) << (31 - __builtin_clz(rotation->padded));
    rotation->scale = 1.0f / sqrtf((float)rotation->part);
    for (size_t round = 0; round < ROTATION_ROUNDS; round++)
        for (size_t i = 0; i < rotation->padded / 32; i++)
            rotation->signs[round][i] = (uint32_t)(random_next(&state) >> 32);
}

void rotation_apply(const struct rotation *rotation, const float *in, float *out)
{
    const struct rotation_kernels *kernels = rotation->kernels;
    size_t padded = rotation->padded, part = rotation->part, rest = padded - part;

    memmove(out, in, rotation->dim * sizeof(*out));
    memset(out + rotation->dim, 0, (padded - rotation->dim) * sizeof(*out));
    for (size_t round = 0; round < ROTATION_ROUNDS; round++) {
        const uint32_t *signs = rotation->signs[round];
        size_t at = round % 2 == 0 ? 0 : rest;    /* of the transform */
        size_t other = round % 2 == 0 ? part : 0; /* of what it leaves out */

        kernels->flip(out + at, signs + at / 32, part, rotation->scale);
        kernels->flip(out + other, signs + other / 32, rest, 1.0f);
        kernels->hadamard(out + at, part);
        if (rest > 0 && round % 2 != 0)
            kernels->butterfly(out, out + padded / 2, padded / 2, HALF_ROOT);
    }
}
