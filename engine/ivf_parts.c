/* See ivf_parts.h.  The beginning and the end of an inverted file's memory.
 * Failure: memory; all that was taken is given back. */
#include "engine/ivf_parts.h"

#include <assert.h>
#include <math.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "engine/memory.h"
#include "engine/plane.h"

static_assert(sizeof(struct ivf_list) == 8, "lists stand in files");

static uint64_t pad_lists(uint32_t lists)
{
    return ((uint64_t)lists + IVF_COARSE - 1) / IVF_COARSE * IVF_COARSE;
}

struct ivf_shape ivf_shape_of(const struct ivf *ivf)
{
    return (struct ivf_shape){.options = ivf->options,
                              .count = ivf->rows.count,
                              .block_count = ivf->block_count,
                              .radius = ivf->radius,
                              .has_ordinals = ivf->ordinals != NULL};
}

enum err_code ivf_check_shape(const struct ivf_shape *shape, struct err *err)
{
    const struct ivf_options *options = &shape->options;
    uint32_t dims = options->code_dims, lists = options->lists;

    if (options->dim < 1 || options->dim > DIMENSION_MAX)
        return err_set(err, ERR_CORRUPT, "dimension %u", options->dim);
    if (options->metric > ENGINE_L2 || options->kind > IVF_RABITQ)
        return err_set(err, ERR_CORRUPT, "metric %u or kind %u", (unsigned)options->metric,
                       (unsigned)options->kind);
    if (dims != 2 && dims != 4 && dims != 8)
        return err_set(err, ERR_CORRUPT, "codes of %u numbers", dims);
    if (shape->count >= PLANE_ROWS_MAX)
        return err_set(err, ERR_CORRUPT, "%u rows", shape->count);
    if (lists < 1 || lists > MAX_OF(shape->count, 1u))
        return err_set(err, ERR_CORRUPT, "%u lists", lists);
    if (shape->block_count < ivf_blocks_of(shape->count) ||
        shape->block_count > (uint64_t)shape->count / IVF_BLOCK + lists)
        return err_set(err, ERR_CORRUPT, "%u blocks", shape->block_count);
    if (!isfinite(shape->radius) || shape->radius < 0)
        return err_set(err, ERR_CORRUPT, "a radius that is no number");
    return ERR_OK;
}

uint64_t ivf_part_bytes(const struct ivf_shape *shape, enum ivf_part part)
{
    const struct ivf_options *options = &shape->options;

    switch (part) {
    case IVF_PART_MEAN:
        return options->dim * sizeof(float);
    case IVF_PART_CENTROIDS:
        return pad_lists(options->lists) * rotation_padded(options->dim);
    case IVF_PART_LISTS:
        return options->lists * sizeof(struct ivf_list);
    case IVF_PART_BOOK:
        return ivf_book_floats(options) * sizeof(float);
    case IVF_PART_ORDINALS:
        return shape->has_ordinals ? shape->count * sizeof(uint32_t) : 0;
    case IVF_PART_BLOCKS:
        return (uint64_t)shape->block_count * ivf_block_bytes(options);
    default: /* a number for each list */
        return pad_lists(options->lists) * sizeof(float);
    }
}

void *ivf_part_of(const struct ivf *ivf, enum ivf_part part)
{
    void *const parts[IVF_PARTS] = {
        [IVF_PART_MEAN] = ivf->mean,       [IVF_PART_CENTROIDS] = ivf->centroids,
        [IVF_PART_STEPS] = ivf->steps,     [IVF_PART_LOWS] = ivf->lows,
        [IVF_PART_SQUARES] = ivf->squares, [IVF_PART_SHIFTS] = ivf->shifts,
        [IVF_PART_SPREADS] = ivf->spreads, [IVF_PART_LISTS] = ivf->list,
        [IVF_PART_BOOK] = ivf->book,       [IVF_PART_ORDINALS] = ivf->ordinals,
        [IVF_PART_BLOCKS] = ivf->blocks};

    assert(part < IVF_PARTS);
    return parts[part];
}

void ivf_put_rows(struct ivf *ivf, const struct ivf_rows *rows)
{
    assert(rows->count == ivf->rows.count);
    ivf->rows = *rows;
    ivf->rows.ordinals = NULL;
}

enum err_code ivf_add_blocks(struct ivf *ivf, uint32_t blocks, struct err *err)
{
    size_t bytes = (size_t)blocks * ivf->block_bytes;

    assert(ivf->blocks == NULL);
    if (bytes == 0)
        return ERR_OK;
    ivf->blocks = memory_map(bytes);
    if (ivf->blocks == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the codes of %u vectors",
                       ivf->rows.count);
    memory_want_huge(ivf->blocks, bytes);
    ivf->block_count = blocks;
    ivf->bytes += bytes;
    return ERR_OK;
}

static bool make_parts(struct ivf *ivf, const struct ivf_shape *shape)
{
    size_t coarse = ivf_part_bytes(shape, IVF_PART_CENTROIDS);
    struct {
        void **array;
        enum ivf_part part;
    } arrays[] = {
        {(void **)&ivf->mean, IVF_PART_MEAN},        {(void **)&ivf->steps, IVF_PART_STEPS},
        {(void **)&ivf->lows, IVF_PART_LOWS},        {(void **)&ivf->squares, IVF_PART_SQUARES},
        {(void **)&ivf->shifts, IVF_PART_SHIFTS},    {(void **)&ivf->spreads, IVF_PART_SPREADS},
        {(void **)&ivf->list, IVF_PART_LISTS},       {(void **)&ivf->book, IVF_PART_BOOK},
        {(void **)&ivf->ordinals, IVF_PART_ORDINALS}};

    ivf->bytes = sizeof(*ivf) + coarse;
    ivf->centroids = memory_map(coarse);
    if (ivf->centroids == NULL)
        return false;
    memory_want_huge(ivf->centroids, coarse);
    for (size_t i = 0; i < ARRAY_COUNT(arrays); i++) {
        size_t bytes = ivf_part_bytes(shape, arrays[i].part);

        if (arrays[i].part == IVF_PART_ORDINALS && !shape->has_ordinals)
            continue;
        *arrays[i].array = memory_alloc(bytes, 1);
        if (*arrays[i].array == NULL)
            return false;
        ivf->bytes += bytes;
    }
    return true;
}

enum err_code ivf_new(struct ivf **out, const struct ivf_shape *shape,
                      const struct kernels *kernels, struct err *err)
{
    struct ivf *ivf = memory_alloc(1, sizeof(*ivf));
    enum err_code code = ERR_OK;

    *out = NULL;
    if (ivf == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for an index");
    ivf->options = shape->options;
    ivf->options.kernel = NULL;
    ivf->rows.count = shape->count;
    ivf->kernels = kernels;
    ivf->inner = ivf_kernels_of(kernels->name);
    rotation_init(&ivf->rotation, shape->options.dim, shape->options.seed, kernels);
    ivf->lists = shape->options.lists;
    ivf->lists_padded = (uint32_t)pad_lists(ivf->lists);
    ivf->groups = ivf_groups(&ivf->options);
    ivf->block_bytes = ivf_block_bytes(&ivf->options);
    ivf->radius = shape->radius;
    if (ivf->options.kind == IVF_PQ)
        ivf->book_stride = (size_t)ivf->options.code_dims * IVF_CODES;
    (void)pthread_mutex_init(&ivf->lock, NULL);
    if (!make_parts(ivf, shape))
        code = err_set(err, ERR_NO_MEMORY, "no memory for an index of %u lists", ivf->lists);
    if (code == ERR_OK)
        code = ivf_add_blocks(ivf, shape->block_count, err);
    if (code != ERR_OK) {
        ivf_free(ivf);
        return code;
    }
    *out = ivf;
    return ERR_OK;
}

void ivf_free(struct ivf *ivf)
{
    if (ivf == NULL)
        return;
    ivf_scratch_free_all(ivf);
    (void)pthread_mutex_destroy(&ivf->lock);
    memory_unmap(ivf->blocks, (size_t)ivf->block_count * ivf->block_bytes);
    memory_unmap(ivf->centroids, (size_t)ivf->lists_padded * ivf->rotation.padded);
    memory_free(ivf->mean);
    memory_free(ivf->steps);
    memory_free(ivf->lows);
    memory_free(ivf->squares);
    memory_free(ivf->shifts);
    memory_free(ivf->spreads);
    memory_free(ivf->list);
    memory_free(ivf->book);
    memory_free(ivf->ordinals);
    memory_free(ivf);
}
