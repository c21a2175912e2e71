/* See codes.h.  A vector whose numbers are all equal, or nearly, has codes of zero.  Of numbers so
 * large that a sum overflows the estimate means little, but it is a number. */
#include "engine/codes.h"

#include <float.h>
#include <math.h>

#include "common/base/checked.h"

enum { BLOCK = 16 }; /* numbers at a time: a loop of fixed length becomes one instruction or two */

/* The smallest and the largest number. */
static void find_range(const float *vector, size_t dim, float *low, float *high)
{
    float lows[BLOCK], highs[BLOCK];
    size_t i = 0;

    for (size_t j = 0; j < BLOCK; j++)
        lows[j] = highs[j] = vector[j < dim ? j : 0];
    for (; i + BLOCK <= dim; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++) {
            lows[j] = vector[i + j] < lows[j] ? vector[i + j] : lows[j];
            highs[j] = vector[i + j] > highs[j] ? vector[i + j] : highs[j];
        }
    for (; i < dim; i++) {
        lows[0] = fminf(lows[0], vector[i]);
        highs[0] = fmaxf(highs[0], vector[i]);
    }
    *low = lows[0];
    *high = highs[0];
    for (size_t j = 1; j < BLOCK; j++) {
        *low = fminf(*low, lows[j]);
        *high = fmaxf(*high, highs[j]);
    }
}

static inline uint8_t encode_one(float number, float low, float inverse)
{
    float code = (number - low) * inverse + 0.5f;

    return (uint8_t)(int32_t)(code < 255.0f ? code : 255.0f);
}

void codes_encode(const struct kernels *kernels, uint8_t *row, const float *vector, size_t dim)
{
    struct code_tail tail = {0};
    float high, inverse;
    size_t i = 0;

    find_range(vector, dim, &tail.low, &high);
    tail.step = high / 255.0f - tail.low / 255.0f;
    inverse = tail.step > FLT_MIN ? 1.0f / tail.step : 0.0f;
    for (; i + BLOCK <= dim; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            row[i + j] = encode_one(vector[i + j], tail.low, inverse);
    for (; i < dim; i++)
        row[i] = encode_one(vector[i], tail.low, inverse);
    tail.square = fminf(kernels->dot(vector, vector, dim), FLT_MAX);
    memcpy(row + codes_stride(dim) - sizeof(tail), &tail, sizeof(tail));
}

static inline int8_t query_one(float number, float inverse)
{
    return (int8_t)(int32_t)(number * inverse + (number < 0 ? -0.5f : 0.5f));
}

void codes_query(const struct kernels *kernels, struct code_query *out, int8_t *codes,
                 const float *query, size_t dim, bool is_l2, float base)
{
    float low, high, inverse;
    double sum = 0;
    size_t i = 0;

    *out = (struct code_query){.kernel = kernels->codes,
                               .codes = codes,
                               .stride = codes_stride(dim),
                               .base = base,
                               .scale = 1.0f,
                               .floor = -FLT_MAX};
    find_range(query, dim, &low, &high);
    out->step = fmaxf(fabsf(low), fabsf(high)) / 127.0f;
    inverse = out->step > FLT_MIN ? 1.0f / out->step : 0.0f;
    for (; i + BLOCK <= dim; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            codes[i + j] = query_one(query[i + j], inverse);
    for (; i < dim; i++)
        codes[i] = query_one(query[i], inverse);
    memset(codes + dim, 0, out->stride - dim);
    for (i = 0; i < dim; i++)
        sum += (double)query[i];
    out->sum = (float)sum;
    if (!is_l2)
        return;
    out->base = fminf(kernels->dot(query, query, dim), FLT_MAX);
    out->square = 1.0f;
    out->scale = 2.0f;
    out->floor = 0.0f;
}
