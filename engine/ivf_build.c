/* Building an inverted file: centroids, the list of each vector, the book of codes, the blocks.
 *
 * Happy path: k-means over a sample, every vector to its nearest centroid, residuals of a sample
 * train the book, then each list's vectors are encoded into its blocks, rows ascending.
 * Threads: lists are encoded independently of one another, so it does not matter by whom.
 * Failure: what the rows or options lack is found first; after that only memory can be missing, and
 * all that was made is given back. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/ivf_internal.h"
#include "engine/ivf_parts.h"
#include "engine/kmeans.h"
#include "engine/memory.h"
#include "engine/spread.h"

enum { LANES = 32 };

struct build {
    struct ivf *ivf;
    const struct engine_executor *executor;
    float *centroids;   /* lists * dim */
    uint32_t *assigned; /* the list of each row */
    uint32_t *order;    /* rows by list, ascending in each */
    float *work;        /* of all lanes */
    float *read_room;   /* dim */
    size_t lane_floats;
};

static bool all_finite(const float *vector, size_t dim)
{
    bool is_finite = true;

    for (size_t i = 0; i < dim; i++)
        is_finite &= fabsf(vector[i]) <= FLT_MAX;
    return is_finite;
}

static enum err_code check_options(const struct ivf_options *options, const struct ivf_rows *rows,
                                   struct err *err)
{
    uint32_t dims = options->code_dims;

    if (options->dim < 1 || options->dim > DIMENSION_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "dimension %u is not allowed", options->dim);
    if (dims != 0 && dims != 2 && dims != 4 && dims != 8)
        return err_set(err, ERR_INVALID_ARGUMENT, "%u numbers cannot share a code", dims);
    if (rows->vectors == NULL ? rows->count > 0 && rows->at == NULL : rows->stride < options->dim)
        return err_set(err, ERR_INVALID_ARGUMENT, "there are no rows of %u numbers", options->dim);
    return ERR_OK;
}

/* Also takes the vectors' usual length. */
static enum err_code check_rows(struct build *build, struct err *err)
{
    struct ivf *ivf = build->ivf;
    const struct ivf_rows *rows = &ivf->rows;
    size_t dim = ivf->options.dim;
    double squares = 0;

    for (uint32_t i = 0; i < rows->count; i++) {
        const float *vector = rows->vectors != NULL ? rows->vectors + i * rows->stride
                                                    : rows->at(rows->state, i, build->read_room);

        if (!all_finite(vector, dim))
            return err_set(err, ERR_INVALID_ARGUMENT, "row %u has a number that is not finite", i);
        if (i > 0 && ivf->ordinals != NULL && ivf->ordinals[i] <= ivf->ordinals[i - 1])
            return err_set(err, ERR_INVALID_ARGUMENT, "the ordinal of row %u does not ascend", i);
        if (ivf->options.metric == ENGINE_IP)
            squares += (double)ivf->kernels->dot(vector, vector, dim);
    }
    ivf->radius = (float)sqrt(squares / MAX_OF(rows->count, 1u));
    return ERR_OK;
}

static void read_row(void *state, uint32_t row, float *out)
{
    const struct ivf *ivf = state;
    const float *vector = ivf_row(ivf, row, out);

    if (vector != out)
        memcpy(out, vector, ivf->options.dim * sizeof(*out));
}

static enum err_code cluster(struct build *build, struct err *err)
{
    struct ivf *ivf = build->ivf;
    size_t dim = ivf->options.dim;
    struct kmeans_rows rows = {.count = ivf->rows.count, .read = read_row, .state = ivf};
    struct kmeans_options options = {.dim = ivf->options.dim,
                                     .clusters = ivf->lists,
                                     .iterations = ivf->options.iterations,
                                     .seed = ivf->options.seed,
                                     .executor = build->executor};
    enum err_code code = kmeans_train(&options, &rows, build->centroids, err);

    if (code == ERR_OK)
        code = kmeans_assign(&options, &rows, build->centroids, build->assigned, err);
    if (code != ERR_OK)
        return code;
    for (size_t d = 0; d < dim; d++) {
        double sum = 0;

        for (size_t l = 0; l < ivf->lists; l++)
            sum += (double)build->centroids[l * dim + d];
        ivf->mean[d] = (float)(sum / ivf->lists);
    }
    return ERR_OK;
}

/* The order by list, and where lists have their blocks. */
static enum err_code lay_out(struct build *build, struct err *err)
{
    struct ivf *ivf = build->ivf;
    struct ivf_list *list = ivf->list;
    uint32_t blocks = 0, at = 0;

    for (uint32_t i = 0; i < ivf->rows.count; i++)
        list[build->assigned[i]].count++;
    for (uint32_t l = 0; l < ivf->lists; l++) {
        list[l].first = at; /* here its place in the order; its blocks are counted below */
        at += list[l].count;
    }
    for (uint32_t i = 0; i < ivf->rows.count; i++)
        build->order[list[build->assigned[i]].first++] = i;
    for (uint32_t l = 0; l < ivf->lists; l++) {
        list[l].first = blocks;
        blocks += ivf_blocks_of(list[l].count);
    }
    return ivf_add_blocks(ivf, blocks, err);
}

struct lane {
    float *room, *residual; /* dim each */
    float *y, *centroid;    /* padded each */
    uint8_t *codes;         /* groups */
};

static struct lane lane_at(const struct build *build, size_t index)
{
    size_t dim = build->ivf->options.dim, padded = build->ivf->rotation.padded;
    float *work = build->work + index * build->lane_floats;

    return (struct lane){.room = work,
                         .residual = work + dim,
                         .y = work + 2 * dim,
                         .centroid = work + 2 * dim + padded,
                         .codes = (void *)(work + 2 * dim + 2 * padded)};
}

/* Factors of the estimate (ivf_internal.h); o_c: of the residual and the centroid.  A residual that
 * its codes say nothing of has no estimate but the centroid, and is as far off as it is long. */
static void put_factors(const struct ivf *ivf, float *factors, const struct ivf_coded *coded,
                        double o_c)
{
    double f = 0, error = sqrt(coded->y_y);
    double n = ivf->rotation.padded;

    if (coded->y_r > 0) {
        double excess = coded->y_y * coded->r_r / (coded->y_r * coded->y_r) - 1;

        f = coded->y_y / coded->y_r;
        error *= sqrt(MAX_OF(excess, 0.0) / (n - 1));
    }
    if (ivf->options.metric == ENGINE_L2) {
        factors[0] = (float)(coded->y_y + 2 * f * coded->r_c);
        factors[IVF_BLOCK] = (float)(2 * f);
        factors[2 * IVF_BLOCK] = (float)(2 * error);
    } else {
        factors[0] = (float)(f * coded->r_c - o_c);
        factors[IVF_BLOCK] = (float)f;
        factors[2 * IVF_BLOCK] = (float)error;
    }
}

/* The residual into the lane; its dot product with the centroid; returns its square. */
static double take_residual(const struct build *build, const struct lane *lane, uint32_t row,
                            double *o_c)
{
    const struct ivf *ivf = build->ivf;
    size_t dim = ivf->options.dim;
    const float *vector = ivf_row(ivf, row, lane->room);
    const float *centroid = build->centroids + build->assigned[row] * dim;
    double square = 0;

    *o_c = 0;
    for (size_t d = 0; d < dim; d++) {
        lane->residual[d] = vector[d] - centroid[d];
        *o_c += (double)lane->residual[d] * (double)centroid[d];
        square += (double)lane->residual[d] * (double)lane->residual[d];
    }
    return square;
}

static void encode_vector(const struct ivf *ivf, const struct lane *lane, double o_c,
                          uint8_t *block, size_t v)
{
    struct ivf_coded coded;

    rotation_apply(&ivf->rotation, lane->residual, lane->y);
    ivf_encode(ivf, lane->y, lane->centroid, lane->codes, &coded);
    put_factors(ivf, (float *)(void *)(block + IVF_ROWS_BYTES) + v, &coded, o_c);
    uint8_t *codes = block + IVF_CODES_AT + ivf_code_byte(v);
    for (size_t g = 0; g < ivf->groups; g++)
        codes[g * IVF_GROUP_BYTES] |= (uint8_t)(lane->codes[g] << ivf_code_shift(v));
}

static void encode_list(const struct build *build, const struct lane *lane, uint32_t l,
                        uint32_t first)
{
    struct ivf *ivf = build->ivf;
    const float *centroid = build->centroids + (size_t)l * ivf->options.dim;
    double shift = 0, squares = 0;

    for (size_t d = 0; d < ivf->options.dim; d++) {
        lane->residual[d] = centroid[d] - ivf->mean[d];
        shift += (double)lane->residual[d] * (double)ivf->mean[d];
    }
    ivf->shifts[l] = (float)shift;
    rotation_apply(&ivf->rotation, lane->residual, lane->centroid);
    ivf_encode_centroid(ivf, l, lane->centroid);
    for (uint32_t i = 0; i < ivf->list[l].count; i++) {
        uint8_t *block = ivf_block(ivf, ivf->list[l].first + i / IVF_BLOCK);
        uint32_t row = build->order[first + i];
        double o_c;

        ((uint32_t *)(void *)block)[i % IVF_BLOCK] = row;
        squares += take_residual(build, lane, row, &o_c);
        if (ivf->options.kind != IVF_FLAT)
            encode_vector(ivf, lane, o_c, block, i % IVF_BLOCK);
    }
    if (ivf->list[l].count > 0)
        ivf->spreads[l] = (float)(squares / ivf->list[l].count);
}

static void encode_lane(void *argument, size_t index)
{
    const struct build *build = argument;
    struct lane lane = lane_at(build, index);
    uint32_t first = 0;

    for (uint32_t l = 0; l < build->ivf->lists; l++) {
        if (l % LANES == index)
            encode_list(build, &lane, l, first);
        first += build->ivf->list[l].count;
    }
}

/* Of a lane; groups are at most half of the padded numbers. */
static size_t lane_floats(size_t dim)
{
    return 2 * dim + 3 * rotation_padded(dim);
}

uint64_t ivf_encode_bytes(size_t dim)
{
    return LANES * lane_floats(dim) * sizeof(float);
}

static enum err_code open_build(struct build *build, struct err *err)
{
    const struct ivf *ivf = build->ivf;
    size_t dim = ivf->options.dim;

    build->lane_floats = lane_floats(dim);
    build->centroids = memory_alloc(ivf->lists, dim * sizeof(float));
    build->assigned = memory_alloc(ivf->rows.count, sizeof(uint32_t));
    build->order = memory_alloc(ivf->rows.count, sizeof(uint32_t));
    build->work = memory_alloc(LANES * build->lane_floats, sizeof(float));
    build->read_room = memory_alloc(dim, sizeof(float));
    if (build->centroids == NULL || build->assigned == NULL || build->order == NULL ||
        build->work == NULL || build->read_room == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to build an index of %u lists", ivf->lists);
    return ERR_OK;
}

static void close_build(struct build *build)
{
    memory_free(build->centroids);
    memory_free(build->assigned);
    memory_free(build->order);
    memory_free(build->work);
    memory_free(build->read_room);
}

static uint64_t peak_of(const struct build *build)
{
    const struct ivf *ivf = build->ivf;
    struct kmeans_options kmeans = {.dim = ivf->options.dim, .clusters = ivf->lists};
    uint64_t clustering = kmeans_predict(&kmeans, ivf->rows.count);
    uint64_t book = ivf_predict_book(&ivf->options, ivf->rows.count);

    return ivf->bytes + (uint64_t)ivf->lists * ivf->options.dim * sizeof(float) +
           2 * (uint64_t)ivf->rows.count * sizeof(uint32_t) + ivf_encode_bytes(ivf->options.dim) +
           MAX_OF(clustering, book);
}

static enum err_code build_ivf(struct build *build, struct err *err)
{
    enum err_code code = open_build(build, err);

    if (code == ERR_OK)
        code = check_rows(build, err);
    if (code == ERR_OK)
        code = cluster(build, err);
    if (code == ERR_OK)
        code = ivf_train_book(build->ivf, build->centroids, build->assigned, build->executor, err);
    if (code == ERR_OK)
        code = lay_out(build, err);
    if (code == ERR_OK) {
        spread(build->executor, encode_lane, build, LANES);
        build->ivf->peak = peak_of(build);
    }
    return code;
}

enum err_code ivf_build(struct ivf **out, const struct ivf_options *options,
                        const struct ivf_rows *rows, const struct engine_executor *executor,
                        struct err *err)
{
    const struct kernels *kernels;
    enum err_code code = check_options(options, rows, err);

    *out = NULL;
    if (code == ERR_OK)
        code = kernels_choose(options->kernel, &kernels, err);
    if (code != ERR_OK)
        return code;
    struct ivf_shape shape = {.options = ivf_defaults(options, rows->count),
                              .count = rows->count,
                              .has_ordinals = rows->ordinals != NULL};
    struct ivf *ivf;
    code = ivf_new(&ivf, &shape, kernels, err);
    if (code != ERR_OK)
        return code;
    struct build build = {.ivf = ivf, .executor = executor};
    ivf_put_rows(ivf, rows);
    if (rows->ordinals != NULL)
        memcpy(ivf->ordinals, rows->ordinals, rows->count * sizeof(*ivf->ordinals));
    code = build_ivf(&build, err);
    close_build(&build);
    if (code != ERR_OK) {
        ivf_free(ivf);
        return code;
    }
    *out = ivf;
    return ERR_OK;
}
