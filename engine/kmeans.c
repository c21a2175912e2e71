/* See kmeans.h.  Lloyd's iterations: assign every row of the sample to its nearest centroid, move
 * every centroid to the mean of its rows, divide large clusters where others are empty.
 *
 * Threads: rows are assigned, and centroids moved, independently of one another; a mean is summed
 * in the order of the rows, in double precision.  So it does not matter who does what.  Each lane
 * is a share of the work with a workspace of its own; there are enough for many threads.
 * Failure: no memory, before any work. */
#include "engine/kmeans.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/blas.h"
#include "engine/memory.h"
#include "engine/random.h"
#include "engine/spread.h"

enum {
    ITERATIONS = 10,
    SAMPLE = 64, /* rows a cluster */
    LANES = 32,
    ROWS = 256,   /* of a block */
    TILE = 512,   /* centroids that a block is compared with at a time */
    ABREAST = 16, /* minima searched side by side */
    SPLITS = 8,   /* of one cluster in one iteration */
};

#define SPLIT 0x1p-10f /* how far the halves of a divided cluster start apart */

struct lane {
    float *rows;   /* ROWS * dim */
    float *scores; /* ROWS * TILE, or fewer; or the sums of one mean, as doubles */
};

struct kmeans {
    const struct kmeans_options *options;
    const struct kmeans_rows *rows;
    uint32_t count;         /* rows looked at: all, or a sample */
    const float *centroids; /* while rows are assigned */
    float *moved;           /* the same, while centroids move */
    float *norms;           /* |c|^2 / 2 */
    uint32_t *assigned;
    uint32_t *begin;   /* clusters + 1: where each one's members begin */
    uint32_t *members; /* looked-at rows by cluster, ascending in each */
    float *work;       /* of all lanes */
    size_t lanes;
};

/* One of `from` things for each of `to` equal stretches: spread over all, ascending. */
static uint32_t pick(uint64_t seed, uint32_t i, uint32_t to, uint32_t from)
{
    uint64_t begin = (uint64_t)i * from / to, end = ((uint64_t)i + 1) * from / to;

    return (uint32_t)(begin + (end > begin ? random_mix(seed ^ random_mix(i)) % (end - begin) : 0));
}

static void read_row(const struct kmeans *kmeans, uint32_t i, float *out)
{
    uint32_t row = i;

    if (kmeans->count < kmeans->rows->count)
        row = pick(kmeans->options->seed, i, kmeans->count, kmeans->rows->count);
    kmeans->rows->read(kmeans->rows->state, row, out);
}

/* The scores of a block, or the sums of a mean; few clusters need little. */
static size_t score_floats(const struct kmeans_options *options)
{
    size_t width = MIN_OF((size_t)TILE, (size_t)options->clusters);

    return MAX_OF(ROWS * width, 2 * (size_t)options->dim);
}

static size_t lane_floats(const struct kmeans_options *options)
{
    return ROWS * (size_t)options->dim + score_floats(options);
}

static struct lane lane_at(const struct kmeans *kmeans, size_t index)
{
    float *work = kmeans->work + index * lane_floats(kmeans->options);

    return (struct lane){.rows = work, .scores = work + (size_t)ROWS * kmeans->options->dim};
}

/* The least of norms[j] - scores[j], and the first place where it stands.  NaN is never less. */
static float least(const float *scores, const float *norms, size_t count, uint32_t *place)
{
    float low[ABREAST];
    uint32_t at[ABREAST];
    size_t j = 0;

    for (size_t l = 0; l < ABREAST; l++) {
        low[l] = INFINITY;
        at[l] = 0;
    }
    for (; j + ABREAST <= count; j += ABREAST)
        for (size_t l = 0; l < ABREAST; l++) {
            float score = norms[j + l] - scores[j + l];

            at[l] = score < low[l] ? (uint32_t)(j + l) : at[l];
            low[l] = score < low[l] ? score : low[l];
        }
    for (size_t l = 1; l < ABREAST; l++)
        if (low[l] < low[0] || (low[l] == low[0] && at[l] < at[0])) {
            low[0] = low[l];
            at[0] = at[l];
        }
    for (; j < count; j++)
        if (norms[j] - scores[j] < low[0]) {
            low[0] = norms[j] - scores[j];
            at[0] = (uint32_t)j;
        }
    *place = at[0];
    return low[0];
}

static void assign_block(const struct kmeans *kmeans, const struct lane *lane, uint32_t first)
{
    size_t dim = kmeans->options->dim, clusters = kmeans->options->clusters;
    size_t count = MIN_OF((size_t)ROWS, (size_t)(kmeans->count - first));
    float best[ROWS];

    for (size_t i = 0; i < count; i++) {
        read_row(kmeans, first + (uint32_t)i, lane->rows + i * dim);
        best[i] = INFINITY;
        kmeans->assigned[first + i] = 0;
    }
    for (size_t tile = 0; tile < clusters; tile += TILE) {
        size_t width = MIN_OF((size_t)TILE, clusters - tile);

        blas_dots(lane->rows, count, kmeans->centroids + tile * dim, width, dim, lane->scores);
        for (size_t i = 0; i < count; i++) {
            uint32_t place;
            float score = least(lane->scores + i * width, kmeans->norms + tile, width, &place);

            if (score < best[i]) {
                best[i] = score;
                kmeans->assigned[first + i] = (uint32_t)tile + place;
            }
        }
    }
}

static void assign_lane(void *argument, size_t index)
{
    const struct kmeans *kmeans = argument;
    struct lane lane = lane_at(kmeans, index);

    for (uint64_t first = index * ROWS; first < kmeans->count; first += kmeans->lanes * ROWS)
        assign_block(kmeans, &lane, (uint32_t)first);
}

static void assign(struct kmeans *kmeans)
{
    size_t dim = kmeans->options->dim;

    for (size_t c = 0; c < kmeans->options->clusters; c++) {
        const float *centroid = kmeans->centroids + c * dim;
        double square = 0;

        for (size_t d = 0; d < dim; d++)
            square += (double)centroid[d] * (double)centroid[d];
        kmeans->norms[c] = (float)(square / 2);
    }
    spread(kmeans->options->executor, assign_lane, kmeans, kmeans->lanes);
}

/* Members by cluster: a counting sort, so that each cluster's stand in ascending order. */
static void sort_members(struct kmeans *kmeans)
{
    uint32_t *begin = kmeans->begin;
    uint32_t clusters = kmeans->options->clusters;

    memset(begin, 0, ((size_t)clusters + 1) * sizeof(*begin));
    for (uint32_t i = 0; i < kmeans->count; i++)
        begin[kmeans->assigned[i] + 1]++;
    for (uint32_t c = 0; c < clusters; c++)
        begin[c + 1] += begin[c];
    for (uint32_t i = 0; i < kmeans->count; i++)
        kmeans->members[begin[kmeans->assigned[i]]++] = i;
    for (uint32_t c = clusters; c > 0; c--)
        begin[c] = begin[c - 1];
    begin[0] = 0;
}

static void move_centroid(const struct kmeans *kmeans, uint32_t cluster, const struct lane *lane)
{
    size_t dim = kmeans->options->dim;
    uint32_t begin = kmeans->begin[cluster], end = kmeans->begin[cluster + 1];
    double *sums = (void *)lane->scores;

    if (begin == end)
        return;
    memset(sums, 0, dim * sizeof(*sums));
    for (uint32_t i = begin; i < end; i++) {
        read_row(kmeans, kmeans->members[i], lane->rows);
        for (size_t d = 0; d < dim; d++)
            sums[d] += (double)lane->rows[d];
    }
    for (size_t d = 0; d < dim; d++)
        kmeans->moved[cluster * dim + d] = (float)(sums[d] / (end - begin));
}

static void move_lane(void *argument, size_t index)
{
    const struct kmeans *kmeans = argument;
    struct lane lane = lane_at(kmeans, index);

    for (size_t c = index; c < kmeans->options->clusters; c += kmeans->lanes)
        move_centroid(kmeans, (uint32_t)c, &lane);
}

static uint32_t size_of(const struct kmeans *kmeans, uint32_t cluster)
{
    return kmeans->begin[cluster + 1] - kmeans->begin[cluster];
}

/* Each empty cluster and the next one that is larger than average become two halves of that one.
 * Halves that lie in one place are told apart by no row, but they do no harm either. */
static void split(struct kmeans *kmeans)
{
    uint32_t clusters = kmeans->options->clusters;
    size_t dim = kmeans->options->dim;
    uint64_t looked = 0;

    for (uint32_t c = 0; c < clusters; c++) {
        if (size_of(kmeans, c) > 0)
            continue;
        while (looked < SPLITS * (uint64_t)clusters &&
               size_of(kmeans, (uint32_t)(looked % clusters)) <= 1 + kmeans->count / clusters)
            looked++;
        if (looked >= SPLITS * (uint64_t)clusters)
            return;
        float *from = kmeans->moved + looked++ % clusters * dim;
        float *to = kmeans->moved + c * dim;

        for (size_t d = 0; d < dim; d++) {
            float step = (d % 2 == 0 ? SPLIT : -SPLIT) * from[d];

            to[d] = from[d] + step;
            from[d] -= step;
        }
    }
}

static uint32_t sample_size(const struct kmeans_options *options, uint32_t count)
{
    uint64_t per_cluster = options->sample > 0 ? options->sample : SAMPLE;

    return (uint32_t)MIN_OF((uint64_t)count, per_cluster * options->clusters);
}

static size_t lane_count(uint32_t count)
{
    return MIN_OF((size_t)LANES, (size_t)count / ROWS + 1);
}

static size_t work_bytes(const struct kmeans_options *options, uint32_t count)
{
    return lane_count(count) * lane_floats(options) * sizeof(float);
}

static enum err_code open_kmeans(struct kmeans *kmeans, uint32_t count, struct err *err)
{
    kmeans->count = count;
    kmeans->lanes = lane_count(count);
    kmeans->norms = memory_alloc(kmeans->options->clusters, sizeof(*kmeans->norms));
    kmeans->work = memory_map(work_bytes(kmeans->options, count));
    if (kmeans->norms == NULL || kmeans->work == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %u clusters", kmeans->options->clusters);
    return blas_open(err);
}

static void close_kmeans(struct kmeans *kmeans)
{
    memory_free(kmeans->norms);
    memory_unmap(kmeans->work, work_bytes(kmeans->options, kmeans->count));
}

static void iterate(struct kmeans *kmeans)
{
    uint32_t iterations =
        kmeans->options->iterations > 0 ? kmeans->options->iterations : ITERATIONS;
    uint32_t clusters = kmeans->options->clusters;

    for (uint32_t c = 0; c < clusters; c++)
        read_row(kmeans, pick(kmeans->options->seed + 1, c, clusters, kmeans->count),
                 kmeans->moved + (size_t)c * kmeans->options->dim);
    for (uint32_t i = 0; i < iterations; i++) {
        assign(kmeans);
        sort_members(kmeans);
        spread(kmeans->options->executor, move_lane, kmeans, kmeans->lanes);
        split(kmeans);
    }
}

enum err_code kmeans_train(const struct kmeans_options *options, const struct kmeans_rows *rows,
                           float *centroids, struct err *err)
{
    uint32_t count = sample_size(options, rows->count);
    struct kmeans kmeans = {
        .options = options, .rows = rows, .centroids = centroids, .moved = centroids};
    enum err_code code;

    assert(options->dim > 0 && options->clusters > 0);
    if (count == 0) {
        memset(centroids, 0, (size_t)options->clusters * options->dim * sizeof(*centroids));
        return ERR_OK;
    }
    code = open_kmeans(&kmeans, count, err);
    kmeans.assigned = memory_alloc(count, sizeof(uint32_t));
    kmeans.members = memory_alloc(count, sizeof(uint32_t));
    kmeans.begin = memory_alloc((size_t)options->clusters + 1, sizeof(uint32_t));
    if (code == ERR_OK &&
        (kmeans.assigned == NULL || kmeans.members == NULL || kmeans.begin == NULL))
        code = err_set(err, ERR_NO_MEMORY, "no memory for a sample of %u rows", count);
    if (code == ERR_OK)
        iterate(&kmeans);
    memory_free(kmeans.assigned);
    memory_free(kmeans.members);
    memory_free(kmeans.begin);
    close_kmeans(&kmeans);
    return code;
}

enum err_code kmeans_assign(const struct kmeans_options *options, const struct kmeans_rows *rows,
                            const float *centroids, uint32_t *assigned, struct err *err)
{
    struct kmeans kmeans = {
        .options = options, .rows = rows, .centroids = centroids, .assigned = assigned};
    enum err_code code = open_kmeans(&kmeans, rows->count, err);

    assert(options->dim > 0 && options->clusters > 0);
    if (code == ERR_OK)
        assign(&kmeans);
    close_kmeans(&kmeans);
    return code;
}

uint64_t kmeans_predict(const struct kmeans_options *options, uint32_t count)
{
    uint32_t sample = sample_size(options, count);
    uint64_t train = work_bytes(options, sample) + 2 * (uint64_t)sample * sizeof(uint32_t) +
                     (uint64_t)options->clusters * (sizeof(uint32_t) + sizeof(float));
    uint64_t all = work_bytes(options, count) + (uint64_t)options->clusters * sizeof(float);

    return MAX_OF(train, all);
}
