/* Which lists a search looks at: those whose centroids are nearest to the query, by 8-bit codes. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/ivf_search.h"

enum { FEW = 24, ABREAST = 16 };

/* Shell's: short, and fast for a few hundred. */
static void sort(uint64_t *keys, size_t count)
{
    static const size_t gaps[] = {8861, 3938, 1750, 701, 301, 132, 57, 23, 10, 4, 1};

    for (size_t g = 0; g < ARRAY_COUNT(gaps); g++)
        for (size_t i = gaps[g], gap = gaps[g]; i < count; i++) {
            uint64_t key = keys[i];
            size_t j = i;

            for (; j >= gap && keys[j - gap] > key; j -= gap)
                keys[j] = keys[j - gap];
            keys[j] = key;
        }
}

static uint64_t middle_of(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t low = MIN_OF(a, b), high = MAX_OF(a, b);

    return c < low ? low : MIN_OF(c, high);
}

/* Keys below the pivot to the front, without branches that depend on keys; returns how many. */
static size_t divide(uint64_t *keys, size_t count, uint64_t pivot)
{
    size_t below = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t key = keys[i];

        keys[i] = keys[below];
        keys[below] = key;
        below += key < pivot;
    }
    return below;
}

void ivf_select(uint64_t *keys, size_t total, size_t count)
{
    uint64_t random = 1;

    assert(count <= total);
    while (total > FEW && count > 0 && count < total) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint64_t pivot = middle_of(keys[(random >> 33) % total], keys[total / 2], keys[total - 1]);
        size_t below = divide(keys, total, pivot);

        if (below > count) {
            total = below;
        } else if (below > 0) {
            keys += below;
            total -= below;
            count -= below;
        } else {
            below = divide(keys, total, pivot + 1); /* the pivot is the least */
            keys += below;
            total -= below;
            count = count > below ? count - below : 0;
        }
    }
    if (count > 0 && count < total)
        sort(keys, total);
}

/* Returns the sum of z. */
static float encode_query(struct ivf_run *run)
{
    const float *z = run->scratch->z;
    size_t padded = run->ivf->rotation.padded;
    float most[ABREAST] = {0}, sums[ABREAST] = {0}, largest = 0, sum = 0;

    for (size_t i = 0; i < padded; i += ABREAST)
        for (size_t j = 0; j < ABREAST; j++) {
            float size = fabsf(z[i + j]);

            most[j] = size > most[j] ? size : most[j];
            sums[j] += z[i + j];
        }
    for (size_t j = 0; j < ABREAST; j++) {
        largest = most[j] > largest ? most[j] : largest;
        sum += sums[j];
    }
    run->z_step = largest / 127.0f;
    float inverse = run->z_step > FLT_MIN ? 1.0f / run->z_step : 0.0f;
    for (size_t i = 0; i < padded; i += ABREAST)
        for (size_t j = 0; j < ABREAST; j++) {
            float code = z[i + j] * inverse;

            code = code < 127.0f ? code : 127.0f;
            code = code > -127.0f ? code : -127.0f;
            run->scratch->codes[i + j] = (int8_t)(int32_t)(code + copysignf(0.5f, code));
        }
    return sum;
}

/* Keys of IVF_COARSE lists: |q - c|^2 or what stands for it (ivf_internal.h). */
static void make_keys(struct ivf_run *run, size_t first, float sum)
{
    const struct ivf *ivf = run->ivf;
    bool is_ip = ivf->options.metric == ENGINE_IP;
    const float *offsets = (is_ip ? ivf->shifts : ivf->squares) + first;
    float factor = is_ip ? -1.0f : -2.0f, sign = is_ip ? -1.0f : 1.0f;
    float *dots = run->scratch->dots + first;
    uint64_t *keys = run->scratch->lists + first;
    uint32_t orders[IVF_COARSE];

    for (size_t j = 0; j < IVF_COARSE; j++) {
        dots[j] = ivf->steps[first + j] * run->z_step * (float)run->scratch->sums[first + j] +
                  ivf->lows[first + j] * sum;
        orders[j] = key_order((sign * offsets[j] + factor * dots[j]) -
                              run->spread * ivf->spreads[first + j]);
    }
    for (size_t j = 0; j < IVF_COARSE; j++)
        keys[j] = (uint64_t)orders[j] << 32 | (uint32_t)(first + j);
}

void ivf_prepare(struct ivf_run *run)
{
    const struct ivf *ivf = run->ivf;
    struct ivf_scratch *scratch = run->scratch;
    size_t dim = ivf->options.dim;

    for (size_t i = 0; i < dim; i++)
        scratch->centred[i] = scratch->query[i] - ivf->mean[i];
    rotation_apply(&ivf->rotation, scratch->centred, scratch->z);
    run->z_square = ivf->kernels->dot(scratch->centred, scratch->centred, dim);
    run->mean_dot = ivf->kernels->dot(scratch->query, ivf->mean, dim);
    if (ivf->options.metric == ENGINE_IP && ivf->radius > 0)
        run->spread =
            sqrtf(ivf->kernels->dot(scratch->query, scratch->query, dim)) / (2.0f * ivf->radius);
    float sum = encode_query(run);
    ivf->inner->coarse(ivf->centroids, scratch->codes, ivf->rotation.padded, ivf->lists_padded,
                       scratch->sums);
    for (size_t l = 0; l < ivf->lists_padded; l += IVF_COARSE)
        make_keys(run, l, sum);
    if (ivf->options.kind != IVF_FLAT)
        ivf_tables(ivf, scratch->z, scratch->exact, scratch->tables, &run->scan);
}

void ivf_order(struct ivf_run *run, uint32_t done, uint32_t count)
{
    uint64_t *lists = run->scratch->lists + done;

    ivf_select(lists, run->ivf->lists - done, count);
    sort(lists, count);
}
