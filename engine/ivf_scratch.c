/* See ivf_scratch.h.  Free ones wait in a list; one that is too small is replaced. */
#include "engine/ivf_scratch.h"

#include "common/base/checked.h"
#include "engine/memory.h"

enum { ALIGNMENT = 64, POOL_USUAL = 1024, BEST_USUAL = 64 };

static size_t round_up(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* The next bytes of the piece; of none, when only its size is wanted. */
static void *cut(uint8_t *piece, size_t *used, size_t bytes)
{
    void *part = piece == NULL ? NULL : piece + *used;

    *used += round_up(bytes);
    return part;
}

/* Cut the piece; returns the bytes it takes. */
static size_t lay_out(struct ivf_scratch *scratch, uint8_t *piece,
                      const struct ivf_options *options, uint32_t lists)
{
    size_t used = round_up(sizeof(*scratch));
    size_t padded = rotation_padded(options->dim), tables = ivf_groups(options) * IVF_CODES;
    size_t coarse = ((size_t)lists + IVF_COARSE - 1) / IVF_COARSE * IVF_COARSE;

    scratch->query = cut(piece, &used, options->dim * sizeof(float));
    scratch->centred = cut(piece, &used, options->dim * sizeof(float));
    scratch->room = cut(piece, &used, options->dim * sizeof(float));
    scratch->z = cut(piece, &used, padded * sizeof(float));
    scratch->codes = cut(piece, &used, padded);
    scratch->sums = cut(piece, &used, coarse * sizeof(int32_t));
    scratch->dots = cut(piece, &used, coarse * sizeof(float));
    scratch->lists = cut(piece, &used, coarse * sizeof(uint64_t));
    scratch->exact = cut(piece, &used, tables * sizeof(float));
    scratch->tables = cut(piece, &used, tables);
    scratch->pool = cut(piece, &used, scratch->pool_max * sizeof(uint64_t));
    scratch->best = cut(piece, &used, scratch->best_max * sizeof(uint64_t));
    return used;
}

static struct ivf_scratch *scratch_new(const struct ivf *ivf, size_t pool, size_t best)
{
    struct ivf_scratch shape = {.pool_max = MAX_OF(pool, (size_t)POOL_USUAL),
                                .best_max = MAX_OF(best, (size_t)BEST_USUAL)};
    size_t bytes = lay_out(&shape, NULL, &ivf->options, ivf->lists);
    uint8_t *piece = memory_alloc(1, bytes);
    struct ivf_scratch *scratch = (void *)piece;

    if (piece == NULL)
        return NULL;
    *scratch = shape;
    (void)lay_out(scratch, piece, &ivf->options, ivf->lists);
    scratch->bytes = bytes;
    return scratch;
}

struct ivf_scratch *ivf_scratch_get(struct ivf *ivf, size_t pool, size_t best)
{
    (void)pthread_mutex_lock(&ivf->lock);
    struct ivf_scratch *scratch = ivf->scratch;
    if (scratch != NULL) {
        ivf->scratch = scratch->next;
        if (scratch->pool_max < pool || scratch->best_max < best)
            ivf->scratch_bytes -= scratch->bytes;
    }
    (void)pthread_mutex_unlock(&ivf->lock);
    if (scratch != NULL && scratch->pool_max >= pool && scratch->best_max >= best)
        return scratch;
    memory_free(scratch);
    scratch = scratch_new(ivf, pool, best);
    if (scratch != NULL) {
        (void)pthread_mutex_lock(&ivf->lock);
        ivf->scratch_bytes += scratch->bytes;
        (void)pthread_mutex_unlock(&ivf->lock);
    }
    return scratch;
}

void ivf_scratch_put(struct ivf *ivf, struct ivf_scratch *scratch)
{
    (void)pthread_mutex_lock(&ivf->lock);
    scratch->next = ivf->scratch;
    ivf->scratch = scratch;
    (void)pthread_mutex_unlock(&ivf->lock);
}

void ivf_scratch_free_all(struct ivf *ivf)
{
    while (ivf->scratch != NULL) {
        struct ivf_scratch *scratch = ivf->scratch;

        ivf->scratch = scratch->next;
        memory_free(scratch);
    }
}

uint64_t ivf_scratch_predict(const struct ivf_options *options, uint32_t lists)
{
    struct ivf_scratch shape = {.pool_max = POOL_USUAL, .best_max = BEST_USUAL};

    return lay_out(&shape, NULL, options, lists);
}
