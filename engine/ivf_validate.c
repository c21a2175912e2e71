/* Every invariant of an inverted file, for tests and tools. */
#include <float.h>
#include <math.h>

#include "engine/ivf_internal.h"
#include "engine/memory.h"

/* Each row stands in one list, and rows of a list ascend. */
static enum err_code check_list(const struct ivf *ivf, uint32_t l, uint8_t *seen, struct err *err)
{
    struct ivf_list list = ivf->list[l];
    uint32_t before = 0;

    for (uint32_t i = 0; i < list.count; i++) {
        const uint8_t *block = ivf_block(ivf, list.first + i / IVF_BLOCK);
        const float *factors = (const void *)(block + IVF_ROWS_BYTES);
        uint32_t row = ((const uint32_t *)(const void *)block)[i % IVF_BLOCK];

        if (row >= ivf->rows.count || (i > 0 && row <= before))
            return err_set(err, ERR_CORRUPT, "list %u: row %u stands behind %u", l, row, before);
        if ((seen[row / 8] >> row % 8 & 1) != 0)
            return err_set(err, ERR_CORRUPT, "list %u: row %u stands elsewhere too", l, row);
        seen[row / 8] |= (uint8_t)(1 << row % 8);
        before = row;
        for (size_t f = 0; f < 3 && ivf->options.kind != IVF_FLAT; f++)
            if (factors[f * IVF_BLOCK + i % IVF_BLOCK] != factors[f * IVF_BLOCK + i % IVF_BLOCK])
                return err_set(err, ERR_CORRUPT, "list %u: a factor of row %u is no number", l,
                               row);
    }
    return ERR_OK;
}

static enum err_code check_lists(const struct ivf *ivf, uint8_t *seen, struct err *err)
{
    uint64_t blocks = 0, rows = 0;

    for (uint32_t l = 0; l < ivf->lists; l++) {
        struct ivf_list list = ivf->list[l];

        if (list.first != blocks)
            return err_set(err, ERR_CORRUPT, "list %u begins at block %u", l, list.first);
        blocks += ivf_blocks_of(list.count);
        rows += list.count;
        if (blocks > ivf->block_count)
            return err_set(err, ERR_CORRUPT, "list %u ends behind the last block", l);
        if (!(ivf->squares[l] >= 0) || !(ivf->steps[l] >= 0) || ivf->lows[l] != ivf->lows[l])
            return err_set(err, ERR_CORRUPT, "the centroid of list %u is no number", l);
        enum err_code code = check_list(ivf, l, seen, err);
        if (code != ERR_OK)
            return code;
    }
    if (rows != ivf->rows.count || blocks != ivf->block_count)
        return err_set(err, ERR_CORRUPT, "lists hold %llu of %u rows", (unsigned long long)rows,
                       ivf->rows.count);
    return ERR_OK;
}

enum err_code ivf_validate(const struct ivf *ivf, struct err *err)
{
    for (uint32_t i = 1; ivf->ordinals != NULL && i < ivf->rows.count; i++)
        if (ivf->ordinals[i] <= ivf->ordinals[i - 1])
            return err_set(err, ERR_CORRUPT, "the ordinal of row %u does not ascend", i);
    uint8_t *seen = memory_alloc(ivf->rows.count / 8 + 1, 1);
    if (seen == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to check an index");
    enum err_code code = check_lists(ivf, seen, err);
    memory_free(seen);
    return code;
}
