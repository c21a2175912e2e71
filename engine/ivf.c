/* The inverted file as an object: its sizes, and what it tells about itself. */
#include "engine/ivf_internal.h"

#include <math.h>

#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/kmeans.h"
#include "engine/memory.h"

enum {
    LISTS_PER_ROOT = 4,    /* lists: so many times the square root of the number of vectors, ... */
    VECTORS_PER_LIST = 32, /* ... but not so many that their blocks stand nearly empty */
    CODE_DIMS = 4,
};

struct ivf_options ivf_defaults(const struct ivf_options *options, uint32_t count)
{
    struct ivf_options out = *options;
    uint32_t lists = (uint32_t)(LISTS_PER_ROOT * sqrt((double)count));

    if (out.lists == 0)
        out.lists = MIN_OF(lists, count / VECTORS_PER_LIST);
    out.lists = MAX_OF(MIN_OF(out.lists, count), 1u);
    if (out.kind != IVF_PQ || out.code_dims == 0)
        out.code_dims = CODE_DIMS;
    out.kernel = NULL;
    return out;
}

uint32_t ivf_groups(const struct ivf_options *options)
{
    return options->kind == IVF_FLAT
               ? 0
               : (uint32_t)(rotation_padded(options->dim) / options->code_dims);
}

uint32_t ivf_block_bytes(const struct ivf_options *options)
{
    if (options->kind == IVF_FLAT)
        return IVF_ROWS_BYTES;
    return IVF_CODES_AT + ivf_groups(options) * IVF_GROUP_BYTES;
}

size_t ivf_book_floats(const struct ivf_options *options)
{
    size_t books = options->kind == IVF_PQ ? ivf_groups(options) : 1;

    return books * options->code_dims * IVF_CODES;
}

uint32_t ivf_count(const struct ivf *ivf)
{
    return ivf->rows.count;
}

uint32_t ivf_lists(const struct ivf *ivf)
{
    return ivf->lists;
}

const char *ivf_kernel(const struct ivf *ivf)
{
    return ivf->kernels->name;
}

uint64_t ivf_memory_used(const struct ivf *ivf)
{
    struct ivf *unlocked = (struct ivf *)(uintptr_t)ivf; /* only its lock changes */

    (void)pthread_mutex_lock(&unlocked->lock);
    uint64_t bytes = ivf->bytes + ivf->scratch_bytes;
    (void)pthread_mutex_unlock(&unlocked->lock);
    return bytes;
}

uint64_t ivf_memory_peak(const struct ivf *ivf)
{
    return ivf->peak;
}

/* On average half a block of each list is empty.  Ordinals are counted: a shard has them. */
uint64_t ivf_predict(const struct ivf_options *options, uint32_t count, enum engine_work work)
{
    struct ivf_options full = ivf_defaults(options, count);
    struct kmeans_options kmeans = {.dim = full.dim, .clusters = full.lists};
    uint64_t padded = rotation_padded(full.dim);
    uint64_t blocks = count / IVF_BLOCK + (full.lists + 1) / 2;
    uint64_t bytes = sizeof(struct ivf) + ivf_scratch_predict(&full, full.lists);

    bytes += blocks * ivf_block_bytes(&full) + (full.lists + IVF_COARSE / 2) * padded;
    bytes += full.lists * (5 * sizeof(float) + sizeof(struct ivf_list));
    bytes += full.dim * sizeof(float) + ivf_book_floats(&full) * sizeof(float);
    if (work == ENGINE_LOAD)
        return bytes;
    uint64_t clustering = kmeans_predict(&kmeans, count);
    return bytes + ivf_encode_bytes(full.dim) + (uint64_t)full.lists * full.dim * sizeof(float) +
           2 * (uint64_t)count * sizeof(uint32_t) +
           MAX_OF(clustering, ivf_predict_book(&full, count));
}

uint64_t ivf_digest(const struct ivf *ivf)
{
    uint64_t digest = hash_xxh64(ivf->list, ivf->lists * sizeof(*ivf->list), ivf->rows.count);

    digest = hash_xxh64(ivf->blocks, (size_t)ivf->block_count * ivf->block_bytes, digest);
    digest = hash_xxh64(ivf->centroids, (size_t)ivf->lists_padded * ivf->rotation.padded, digest);
    return digest;
}
