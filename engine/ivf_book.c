/* What the codes of groups of numbers stand for.
 *
 * IVF_RABITQ: signs, so one book serves all groups.  IVF_PQ: sixteen centroids for each group, by
 * k-means over residuals of a sample of the vectors; groups are trained side by side.
 * Failure: no memory. */
#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/ivf_internal.h"
#include "engine/kmeans.h"
#include "engine/memory.h"
#include "engine/spread.h"

enum { SAMPLE = 8192, LANES = 32, CODE_DIMS_MAX = 8 };

struct training {
    struct ivf *ivf;
    const float *centroids;
    const uint32_t *assigned;
    const struct engine_executor *executor;
    float *residuals; /* of the sample: SAMPLE * padded, rotated */
    float *room;      /* LANES * 2 dim */
    uint32_t count;
    _Atomic bool has_failed;
};

struct group {
    const struct training *training;
    size_t index;
};

static struct kmeans_options group_options(const struct ivf_options *options)
{
    return (struct kmeans_options){.dim = options->code_dims,
                                   .clusters = IVF_CODES,
                                   .sample = SAMPLE / IVF_CODES,
                                   .seed = options->seed};
}

static void read_residuals(void *argument, size_t lane)
{
    struct training *training = argument;
    const struct ivf *ivf = training->ivf;
    size_t dim = ivf->options.dim;
    float *room = training->room + lane * 2 * dim, *residual = room + dim;

    for (uint32_t i = (uint32_t)lane; i < training->count; i += LANES) {
        uint32_t row = (uint32_t)((uint64_t)i * ivf->rows.count / training->count);
        const float *vector = ivf_row(ivf, row, room);
        const float *centroid = training->centroids + training->assigned[row] * dim;

        for (size_t d = 0; d < dim; d++)
            residual[d] = vector[d] - centroid[d];
        rotation_apply(&ivf->rotation, residual,
                       training->residuals + (size_t)i * ivf->rotation.padded);
    }
}

static void read_group(void *state, uint32_t row, float *out)
{
    const struct group *group = state;
    const struct ivf *ivf = group->training->ivf;
    size_t dims = ivf->options.code_dims;

    memcpy(out,
           group->training->residuals + (size_t)row * ivf->rotation.padded + group->index * dims,
           dims * sizeof(*out));
}

static void train_group(void *argument, size_t index)
{
    struct training *training = argument;
    struct ivf *ivf = training->ivf;
    struct group group = {.training = training, .index = index};
    struct kmeans_rows rows = {.count = training->count, .read = read_group, .state = &group};
    struct kmeans_options options = group_options(&ivf->options);
    float centroids[IVF_CODES * CODE_DIMS_MAX];
    float *book = ivf->book + index * ivf->book_stride;
    struct err err;

    assert(options.dim <= CODE_DIMS_MAX);
    if (kmeans_train(&options, &rows, centroids, &err) != ERR_OK) {
        atomic_store_explicit(&training->has_failed, true, memory_order_relaxed);
        return;
    }
    for (size_t j = 0; j < IVF_CODES; j++)
        for (size_t d = 0; d < options.dim; d++)
            book[d * IVF_CODES + j] = centroids[j * options.dim + d];
}

static void make_signs(struct ivf *ivf)
{
    for (size_t d = 0; d < ivf->options.code_dims; d++)
        for (size_t j = 0; j < IVF_CODES; j++)
            ivf->book[d * IVF_CODES + j] = (j >> d & 1) != 0 ? 1.0f : -1.0f;
}

enum err_code ivf_train_book(struct ivf *ivf, const float *centroids, const uint32_t *assigned,
                             const struct engine_executor *executor, struct err *err)
{
    struct training training = {.ivf = ivf,
                                .centroids = centroids,
                                .assigned = assigned,
                                .executor = executor,
                                .count = MIN_OF((uint32_t)SAMPLE, ivf->rows.count)};
    size_t bytes = (size_t)training.count * ivf->rotation.padded * sizeof(float);

    if (ivf->options.kind == IVF_RABITQ)
        make_signs(ivf);
    if (ivf->options.kind != IVF_PQ || training.count == 0)
        return ERR_OK;
    training.residuals = memory_map(bytes);
    training.room = memory_alloc(LANES * 2 * (size_t)ivf->options.dim, sizeof(float));
    if (training.residuals == NULL || training.room == NULL) {
        training.has_failed = true;
    } else {
        spread(executor, read_residuals, &training, LANES);
        spread(executor, train_group, &training, ivf->groups);
    }
    memory_unmap(training.residuals, bytes);
    memory_free(training.room);
    if (training.has_failed)
        return err_set(err, ERR_NO_MEMORY, "no memory to train the codes of an index");
    return ERR_OK;
}

/* Only so many groups as there are threads are trained at a time; two count. */
uint64_t ivf_predict_book(const struct ivf_options *options, uint32_t count)
{
    uint64_t sample = MIN_OF((uint32_t)SAMPLE, count);
    struct kmeans_options group;

    if (options->kind != IVF_PQ)
        return 0;
    group = group_options(options);
    return sample * rotation_padded(options->dim) * sizeof(float) +
           LANES * 2 * (uint64_t)options->dim * sizeof(float) +
           2 * kmeans_predict(&group, (uint32_t)sample);
}
