/* Codes of residuals, centroids and queries.  See ivf_internal.h for what they mean.
 *
 * Everything is summed in one fixed order, so that codes and factors do not depend on the kernels;
 * inner loops run over the 16 values of a code, which compilers turn into vector instructions. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/ivf_internal.h"

static uint8_t encode_signs(const float *y, size_t dims)
{
    unsigned code = 0;

    for (size_t d = 0; d < dims; d++)
        code |= (unsigned)(y[d] > 0) << d;
    return (uint8_t)code;
}

static uint8_t encode_nearest(const float *y, const float *book, size_t dims)
{
    float squares[IVF_CODES] = {0};
    uint8_t nearest = 0;

    for (size_t d = 0; d < dims; d++)
        for (size_t j = 0; j < IVF_CODES; j++) {
            float gap = y[d] - book[d * IVF_CODES + j];

            squares[j] += gap * gap;
        }
    for (uint8_t j = 1; j < IVF_CODES; j++)
        if (squares[j] < squares[nearest])
            nearest = j;
    return nearest;
}

void ivf_encode(const struct ivf *ivf, const float *y, const float *centroid, uint8_t *codes,
                struct ivf_coded *coded)
{
    size_t dims = ivf->options.code_dims;
    double y_y = 0, y_r = 0, r_r = 0, r_c = 0;

    for (size_t g = 0; g < ivf->groups; g++, y += dims, centroid += dims) {
        const float *book = ivf_book(ivf, g);

        codes[g] =
            ivf->options.kind == IVF_RABITQ ? encode_signs(y, dims) : encode_nearest(y, book, dims);
        for (size_t d = 0; d < dims; d++) {
            double number = (double)y[d], r = (double)book[d * IVF_CODES + codes[g]];

            y_y += number * number;
            y_r += number * r;
            r_r += r * r;
            r_c += r * (double)centroid[d];
        }
    }
    *coded = (struct ivf_coded){.y_y = y_y, .y_r = y_r, .r_r = r_r, .r_c = r_c};
}

static void find_range(const float *numbers, size_t count, float *low, float *high)
{
    *low = *high = numbers[0];
    for (size_t i = 1; i < count; i++) {
        *low = numbers[i] < *low ? numbers[i] : *low;
        *high = numbers[i] > *high ? numbers[i] : *high;
    }
}

/* Rounded, and whatever overflow brought forth, a byte. */
static inline uint8_t to_byte(float number)
{
    number += 0.5f;
    number = number < 255.0f ? number : 255.0f;
    return (uint8_t)(int32_t)number;
}

void ivf_encode_centroid(struct ivf *ivf, uint32_t list, const float *centroid)
{
    size_t padded = ivf->rotation.padded;
    uint8_t *codes =
        ivf->centroids + list / IVF_COARSE * IVF_COARSE * padded + list % IVF_COARSE * 4;
    double square = 0;
    float low, high;

    find_range(centroid, padded, &low, &high);
    float step = high / 255.0f - low / 255.0f;
    float inverse = step > FLT_MIN ? 1.0f / step : 0.0f;
    for (size_t i = 0; i < padded; i++) {
        codes[i / 4 * 4 * IVF_COARSE + i % 4] = to_byte((centroid[i] - low) * inverse);
        square += (double)centroid[i] * (double)centroid[i];
    }
    ivf->steps[list] = step;
    ivf->lows[list] = low;
    ivf->squares[list] = (float)MIN_OF(square, (double)FLT_MAX);
}

void ivf_tables(const struct ivf *ivf, const float *z, float *exact, uint8_t *tables,
                struct ivf_scan *scan)
{
    size_t dims = ivf->options.code_dims;
    float widest = 0;
    double bias = 0;

    for (size_t g = 0; g < ivf->groups; g++) {
        float range[2];

        ivf->inner->table(z + g * dims, ivf_book(ivf, g), dims, exact + g * IVF_CODES, range);
        bias += (double)range[0];
        widest = range[1] - range[0] > widest ? range[1] - range[0] : widest;
    }
    scan->tables = tables;
    scan->groups = ivf->groups;
    scan->bias = (float)bias;
    scan->scale = widest / 255.0f;
    ivf->inner->round(exact, scan->scale > FLT_MIN ? 1.0f / scan->scale : 0.0f,
                      (size_t)ivf->groups * IVF_CODES, tables);
}
