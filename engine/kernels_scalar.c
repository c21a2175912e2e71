/* Distance kernels in plain C: they run everywhere and are the oracle for all others.
 * Four sums side by side keep the additions from waiting for one another. */
#include "engine/kernels_internal.h"

static bool scalar_supported(void)
{
    return true;
}

static float scalar_dot(const float *a, const float *b, size_t dim)
{
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    size_t i = 0;

    for (; i + 4 <= dim; i += 4)
        for (size_t j = 0; j < 4; j++)
            sum[j] += a[i + j] * b[i + j];
    for (; i < dim; i++)
        sum[0] += a[i] * b[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static float scalar_l2(const float *a, const float *b, size_t dim)
{
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    size_t i = 0;

    for (; i + 4 <= dim; i += 4) {
        for (size_t j = 0; j < 4; j++) {
            float d = a[i + j] - b[i + j];
            sum[j] += d * d;
        }
    }
    for (; i < dim; i++) {
        float d = a[i] - b[i];
        sum[0] += d * d;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static inline void scalar_codes(const uint8_t *const *rows, size_t count, const int8_t *query,
                                size_t bytes, int32_t *sums, uint32_t bits)
{
    uint32_t mask = (1u << bits) - 1;

    for (size_t r = 0; r < count; r++) {
        const int8_t *part = query;

        sums[r] = 0;
        for (size_t block = 0; block < bytes; block += 64)
            for (uint32_t shift = 0; shift < 8; shift += bits, part += 64)
                for (size_t i = 0; i < 64 && block + i < bytes; i++)
                    sums[r] += (int32_t)(rows[r][block + i] >> shift & mask) * part[i];
    }
}

static void scalar_codes_1(const uint8_t *const *rows, size_t count, const int8_t *planes,
                           size_t bytes, int32_t *sums)
{
    for (size_t r = 0; r < count; r++) {
        sums[r] = 0;
        for (size_t i = 0; i < bytes; i++) {
            const int8_t *plane = planes + i / 64 * 64 * CODE_PLANES + i % 64;

            for (size_t j = 0; j < CODE_PLANES; j++)
                sums[r] += __builtin_popcount(rows[r][i] & (uint8_t)plane[j * 64]) << (j + 1);
            sums[r] -= 15 * __builtin_popcount(rows[r][i]);
        }
    }
}

#define SCALAR_CODES(bits)                                                                         \
    static void scalar_codes_##bits(const uint8_t *const *rows, size_t count, const int8_t *query, \
                                    size_t bytes, int32_t *sums)                                   \
    {                                                                                              \
        scalar_codes(rows, count, query, bytes, sums, bits);                                       \
    }

SCALAR_CODES(2)
SCALAR_CODES(4)
SCALAR_CODES(8)

static void scalar_pairs(const uint8_t *a, const uint8_t *const *rows, size_t count, size_t bytes,
                         int32_t *sums)
{
    for (size_t r = 0; r < count; r++) {
        sums[r] = 0;
        for (size_t i = 0; i < bytes; i++)
            sums[r] += ((int32_t)a[i] - 128) * ((int32_t)rows[r][i] - 128);
    }
}

const struct kernels kernels_scalar = {
    .name = "scalar",
    .supported = scalar_supported,
    .dot = scalar_dot,
    .l2 = scalar_l2,
    .codes = {scalar_codes_1, scalar_codes_2, scalar_codes_4, scalar_codes_8},
    .pairs = scalar_pairs};
