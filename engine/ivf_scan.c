/* Looking at lists, and measuring what was found.
 *
 * Happy path: of each block all bounds are taken at once; those that are not above the worst of the
 * best so far go to a pool, which is cut back to the best when it is full; at the end candidates
 * are measured in the order of their bounds until a bound is above the k-th distance.
 * Failure: only a deadline. */
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/ivf_search.h"

enum {
    LISTS_PER_CHECK = 8,
    ROWS_PER_CHECK = 4096,
    LOOK_AHEAD = 6, /* rows that are on their way from memory */
};

#define BOUND_DEVIATIONS 1.9f   /* of the estimate's error: the bound holds for 97 in 100 */
#define SLACK_DEVIATIONS 3.0f   /* of the dot products with centroids */
#define ROUND_DEVIATION  0.289f /* of what rounding leaves of a step: sqrt(1 / 12) */

static void prefetch_row(const struct ivf_run *run, uint32_t row)
{
    const struct ivf_rows *rows = &run->ivf->rows;

    if (rows->vectors == NULL)
        return;
    const float *vector = rows->vectors + row * rows->stride;
    for (size_t i = 0; i < run->ivf->options.dim; i += 16) {
        __builtin_prefetch(vector + i, 0, 3);
        __asm__ volatile("" ::: "memory"); /* gcc 12 drops all but the first otherwise */
    }
}

static void measure(struct ivf_run *run, uint32_t row)
{
    const struct ivf *ivf = run->ivf;
    const float *vector = ivf_row(ivf, row, run->scratch->room), *query = run->scratch->query;
    float distance;

    if (ivf->options.metric == ENGINE_L2)
        distance = ivf->kernels->l2(query, vector, ivf->options.dim);
    else
        distance = (ivf->options.metric == ENGINE_COSINE ? 1.0f : 0.0f) -
                   ivf->kernels->dot(query, vector, ivf->options.dim);
    run->counters.measured++;
    topk_push(&run->best, key_make(distance, row));
}

/* What of the estimate is the same for all of a list. */
static void enter_list(struct ivf_run *run, uint32_t list)
{
    const struct ivf *ivf = run->ivf;
    float dot = run->scratch->dots[list];
    float gap = MAX_OF(run->z_square + ivf->squares[list] - 2.0f * dot, 0.0f);
    float code = ivf->steps[list] * ivf->steps[list] * run->z_square +
                 run->z_step * run->z_step * ivf->squares[list];
    float slack = SLACK_DEVIATIONS * ROUND_DEVIATION * sqrtf(code);

    if (ivf->options.metric == ENGINE_L2)
        run->scan.base = gap - 2.0f * slack;
    else
        run->scan.base = (ivf->options.metric == ENGINE_COSINE ? 1.0f : 0.0f) - run->mean_dot -
                         dot - ivf->shifts[list] - slack;
    run->scan.error = BOUND_DEVIATIONS * sqrtf(gap);
}

static void cut_pool(struct ivf_run *run)
{
    uint64_t *pool = run->scratch->pool;
    uint64_t worst = 0;

    ivf_select(pool, run->pooled, run->rerank);
    run->pooled = run->rerank;
    for (size_t i = 0; i < run->pooled; i++)
        worst = MAX_OF(worst, pool[i]);
    run->scan.limit = key_distance(worst);
}

static void scan_codes(struct ivf_run *run, const uint8_t *block, uint32_t count)
{
    float bounds[IVF_BLOCK];
    uint32_t mask = run->ivf->inner->scan(block, &run->scan, bounds);

    if (count < IVF_BLOCK)
        mask &= (UINT32_C(1) << count) - 1;
    for (; mask != 0; mask &= mask - 1) {
        unsigned v = (unsigned)__builtin_ctz(mask);
        uint32_t row = ((const uint32_t *)(const void *)block)[v];

        if (!ivf_admits(run, row))
            continue;
        run->scratch->pool[run->pooled++] = key_make(bounds[v], row);
        if (run->pooled == run->scratch->pool_max)
            cut_pool(run);
    }
}

static void scan_rows(struct ivf_run *run, const uint8_t *block, uint32_t count)
{
    const uint32_t *rows = (const void *)block;

    for (uint32_t i = 0; i < count; i++) {
        if (i + LOOK_AHEAD < count && ivf_admits(run, rows[i + LOOK_AHEAD]))
            prefetch_row(run, rows[i + LOOK_AHEAD]);
        if (!ivf_admits(run, rows[i]))
            continue;
        measure(run, rows[i]);
        run->pooled++;
    }
}

bool ivf_scan_lists(struct ivf_run *run, uint32_t from, uint32_t to)
{
    const struct ivf *ivf = run->ivf;

    for (uint32_t i = from; i < to; i++) {
        uint32_t number = ivf_run_list(run, i);
        struct ivf_list list = ivf->list[number];

        if ((i - from) % LISTS_PER_CHECK == 0 && ivf_deadline_passed(run->query->deadline_ns))
            return false;
        run->counters.lists++;
        run->counters.scanned += list.count;
        enter_list(run, number);
        for (uint32_t at = 0; at < list.count; at += IVF_BLOCK) {
            const uint8_t *block = ivf_block(ivf, list.first + at / IVF_BLOCK);
            uint32_t count = MIN_OF(list.count - at, (uint32_t)IVF_BLOCK);

            if (ivf->options.kind == IVF_FLAT)
                scan_rows(run, block, count);
            else
                scan_codes(run, block, count);
        }
    }
    return true;
}

/* A heap with the least key first. */
static void sift(uint64_t *keys, size_t count, size_t at)
{
    uint64_t key = keys[at];

    for (;;) {
        size_t child = 2 * at + 1;

        if (child >= count)
            break;
        child += child + 1 < count && keys[child + 1] < keys[child];
        if (keys[child] >= key)
            break;
        keys[at] = keys[child];
        at = child;
    }
    keys[at] = key;
}

static uint64_t pop(struct ivf_run *run)
{
    uint64_t *pool = run->scratch->pool;
    uint64_t least = pool[0];

    pool[0] = pool[--run->pooled];
    if (run->pooled > 0)
        sift(pool, run->pooled, 0);
    return least;
}

/* Rows wait in a ring while they are fetched. */
bool ivf_rerank(struct ivf_run *run)
{
    uint64_t *pool = run->scratch->pool;
    uint32_t ring[LOOK_AHEAD];
    size_t taken = 0;

    for (size_t i = run->pooled / 2; i-- > 0;)
        sift(pool, run->pooled, i);
    while (run->pooled > 0 && taken < run->rerank) {
        uint64_t key = pop(run);

        if (key >> 32 > run->best.limit >> 32)
            break; /* neither this one nor any later one can be better */
        if (taken >= LOOK_AHEAD)
            measure(run, ring[taken % LOOK_AHEAD]);
        if (taken % ROWS_PER_CHECK == 0 && ivf_deadline_passed(run->query->deadline_ns))
            return false;
        ring[taken++ % LOOK_AHEAD] = key_number(key);
        prefetch_row(run, key_number(key));
    }
    for (size_t i = taken > LOOK_AHEAD ? taken - LOOK_AHEAD : 0; i < taken; i++)
        measure(run, ring[i % LOOK_AHEAD]);
    return true;
}

/* Row of an ordinal at or behind *from, which moves on. */
static bool find_row(const struct ivf *ivf, uint32_t ordinal, uint32_t *from)
{
    uint32_t low = *from, high = ivf->rows.count;

    if (ivf->ordinals == NULL) {
        *from = ordinal;
        return ordinal < high;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (ivf->ordinals[middle] < ordinal)
            low = middle + 1;
        else
            high = middle;
    }
    *from = low;
    return low < ivf->rows.count && ivf->ordinals[low] == ordinal;
}

bool ivf_scan_filter(struct ivf_run *run)
{
    const struct engine_bitmap *filter = run->query->filter;
    uint32_t from = 0, checked = 0;

    for (size_t word = 0; word < filter->word_count && word <= UINT32_MAX / 64; word++)
        for (uint64_t bits = filter->words[word]; bits != 0; bits &= bits - 1) {
            uint32_t ordinal = (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(bits);

            if (checked++ % ROWS_PER_CHECK == 0 && ivf_deadline_passed(run->query->deadline_ns))
                return false;
            if (find_row(run->ivf, ordinal, &from)) {
                measure(run, from);
                run->counters.scanned++;
            }
        }
    return true;
}
