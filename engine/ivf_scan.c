/* Looking at lists, and measuring what was found.
 *
 * Happy path: of each block all bounds are taken at once; those that are not above the limit go to
 * a pool.  Between two lists a few of the best are measured: the k-th distance so far is the limit
 * from then on, so that soon hardly any come in.  At the end the others are measured, in the order
 * of their bounds, until a bound is above the k-th distance.  A pool that is full is cut back to
 * the best.
 * Failure: only a deadline. */
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/ivf_search.h"

enum {
    LISTS_PER_CHECK = 8,
    FEW = 2, /* candidates measured between two lists */
    ROWS_PER_CHECK = 4096,
    LOOK_AHEAD = 6, /* rows of IVF_FLAT that are on their way from memory */
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
        __builtin_prefetch(vector + i, 0, 2); /* more may be under way to the second level */
        __asm__ volatile("" ::: "memory");    /* gcc 12 drops all but the first otherwise */
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

static void push(struct ivf_run *run, uint64_t key)
{
    uint64_t *pool = run->scratch->pool;
    size_t at = run->pooled++;

    for (; at > 0 && pool[(at - 1) / 2] > key; at = (at - 1) / 2)
        pool[at] = pool[(at - 1) / 2];
    pool[at] = key;
}

/* Back to the best that may still be measured. */
static void cut_pool(struct ivf_run *run)
{
    uint64_t *pool = run->scratch->pool;
    uint64_t worst = 0;

    ivf_select(pool, run->pooled, run->rerank);
    run->pooled = run->rerank;
    for (size_t i = 0; i < run->pooled; i++)
        worst = MAX_OF(worst, pool[i]);
    for (size_t i = run->pooled / 2; i-- > 0;)
        sift(pool, run->pooled, i);
    run->scan.limit = MIN_OF(run->scan.limit, key_distance(worst));
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
        push(run, key_make(bounds[v], row));
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

/* May the best candidate still be among the best? */
static bool is_hopeful(const struct ivf_run *run)
{
    return run->pooled > 0 && run->taken < run->rerank &&
           run->scratch->pool[0] >> 32 <= run->best.limit >> 32;
}

static uint32_t take(struct ivf_run *run)
{
    uint32_t row = key_number(pop(run));

    run->taken++;
    prefetch_row(run, row);
    return row;
}

/* Measure those that are on their way, and send for the next ones: while a list is scanned they
 * come, and the sooner the k-th distance is known the fewer candidates there are. */
static void measure_some(struct ivf_run *run)
{
    for (size_t i = 0; i < run->awaited; i++)
        measure(run, run->rows[i]);
    run->awaited = 0;
    if (run->best.count == run->best.max)
        run->scan.limit = MIN_OF(run->scan.limit, key_distance(run->best.limit));
    while (run->awaited < FEW && is_hopeful(run))
        run->rows[run->awaited++] = take(run);
}

bool ivf_measure_rest(struct ivf_run *run)
{
    size_t at = 0;

    for (;;) {
        while (run->awaited < IVF_AWAITED && is_hopeful(run))
            run->rows[(at + run->awaited++) % IVF_AWAITED] = take(run);
        if (run->awaited == 0)
            return true;
        measure(run, run->rows[at]);
        at = (at + 1) % IVF_AWAITED;
        run->awaited--;
        if (run->taken % ROWS_PER_CHECK == 0 && ivf_deadline_passed(run->query->deadline_ns))
            return false;
    }
}

static void scan_list(struct ivf_run *run, struct ivf_list list)
{
    const struct ivf *ivf = run->ivf;

    for (uint32_t at = 0; at < list.count; at += IVF_BLOCK) {
        const uint8_t *block = ivf_block(ivf, list.first + at / IVF_BLOCK);
        uint32_t count = MIN_OF(list.count - at, (uint32_t)IVF_BLOCK);

        if (ivf->options.kind == IVF_FLAT)
            scan_rows(run, block, count);
        else
            scan_codes(run, block, count);
    }
    run->counters.lists++;
    run->counters.scanned += list.count;
}

bool ivf_scan_lists(struct ivf_run *run, uint32_t from, uint32_t to)
{
    const struct ivf *ivf = run->ivf;
    bool has_codes = ivf->options.kind != IVF_FLAT;

    for (uint32_t i = from; i < to; i++) {
        uint32_t number = ivf_run_list(run, i);

        if ((i - from) % LISTS_PER_CHECK == 0 && ivf_deadline_passed(run->query->deadline_ns))
            return false;
        enter_list(run, number);
        scan_list(run, ivf->list[number]);
        if (has_codes)
            measure_some(run);
    }
    return true;
}

bool ivf_find_row(const struct ivf *ivf, uint32_t ordinal, uint32_t *from)
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

static bool scan_words(struct ivf_run *run, size_t first, size_t last)
{
    const struct engine_bitmap *filter = run->query->filter;
    uint32_t from = 0, checked = 0;

    for (size_t word = first; word < filter->word_count && word <= last; word++)
        for (uint64_t bits = filter->words[word]; bits != 0; bits &= bits - 1) {
            uint32_t ordinal = (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(bits);

            if (checked++ % ROWS_PER_CHECK == 0 && ivf_deadline_passed(run->query->deadline_ns))
                return false;
            if (ivf_find_row(run->ivf, ordinal, &from) && !ivf_is_dead(run, from)) {
                measure(run, from);
                run->counters.scanned++;
            }
        }
    return true;
}

/* Only the words that stand for rows. */
bool ivf_scan_filter(struct ivf_run *run)
{
    const struct ivf *ivf = run->ivf;

    return scan_words(run, ivf_ordinal(ivf, 0) / 64, ivf_ordinal(ivf, ivf->rows.count - 1) / 64);
}

bool ivf_scan_all(struct ivf_run *run)
{
    for (uint32_t row = 0; row < run->ivf->rows.count; row++) {
        if (row % ROWS_PER_CHECK == 0 && ivf_deadline_passed(run->query->deadline_ns))
            return false;
        if (ivf_is_dead(run, row))
            continue;
        measure(run, row);
        run->counters.scanned++;
    }
    return true;
}
