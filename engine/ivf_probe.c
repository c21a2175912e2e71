/* Which lists a search looks at: those whose centroids are nearest to the query, by 8-bit codes. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/ivf_search.h"

enum { FEW = 24 };

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

static void encode_query(struct ivf_run *run)
{
    const float *z = run->scratch->z;
    size_t padded = run->ivf->rotation.padded;
    float largest = 0;

    for (size_t i = 0; i < padded; i++)
        largest = fabsf(z[i]) > largest ? fabsf(z[i]) : largest;
    run->z_step = largest / 127.0f;
    float inverse = run->z_step > FLT_MIN ? 1.0f / run->z_step : 0.0f;
    for (size_t i = 0; i < padded; i++) {
        float code = z[i] * inverse;

        code = code < 127.0f ? code : 127.0f;
        code = code > -127.0f ? code : -127.0f;
        run->scratch->codes[i] = (int8_t)(int32_t)(code + (code < 0 ? -0.5f : 0.5f));
    }
}

static void take_dots(struct ivf_run *run)
{
    const struct ivf *ivf = run->ivf;
    struct ivf_scratch *scratch = run->scratch;
    float sum = 0;

    for (size_t i = 0; i < ivf->rotation.padded; i++)
        sum += scratch->z[i];
    ivf->inner->coarse(ivf->centroids, scratch->codes, ivf->rotation.padded, ivf->lists_padded,
                       scratch->sums);
    for (size_t l = 0; l < ivf->lists_padded; l++)
        scratch->dots[l] =
            ivf->steps[l] * run->z_step * (float)scratch->sums[l] + ivf->lows[l] * sum;
}

void ivf_prepare(struct ivf_run *run)
{
    const struct ivf *ivf = run->ivf;
    struct ivf_scratch *scratch = run->scratch;
    size_t dim = ivf->options.dim;
    bool is_ip = ivf->options.metric == ENGINE_IP;

    for (size_t i = 0; i < dim; i++)
        scratch->centred[i] = scratch->query[i] - ivf->mean[i];
    rotation_apply(&ivf->rotation, scratch->centred, scratch->z);
    run->z_square = ivf->kernels->dot(scratch->centred, scratch->centred, dim);
    run->mean_dot = ivf->kernels->dot(scratch->query, ivf->mean, dim);
    encode_query(run);
    take_dots(run);
    for (uint32_t l = 0; l < ivf->lists; l++) {
        float distance = is_ip ? -(scratch->dots[l] + ivf->shifts[l])
                               : ivf->squares[l] - 2.0f * scratch->dots[l];

        scratch->lists[l] = key_make(distance, l);
    }
    if (ivf->options.kind != IVF_FLAT)
        ivf_tables(ivf, scratch->z, scratch->exact, scratch->tables, &run->scan);
}

void ivf_order(struct ivf_run *run, uint32_t done, uint32_t count)
{
    uint64_t *lists = run->scratch->lists + done;

    ivf_select(lists, run->ivf->lists - done, count);
    sort(lists, count);
}
