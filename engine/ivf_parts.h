/* The flat arrays that an inverted file consists of: made all at once, zeroed, and known one by
 * one, so that a file can hold them and an index can be put together from a file (cold.h). */
#ifndef VICINAL_ENGINE_IVF_PARTS_H
#define VICINAL_ENGINE_IVF_PARTS_H

#include "engine/ivf_internal.h"

/* See struct ivf. */
enum ivf_part {
    IVF_PART_MEAN,
    IVF_PART_CENTROIDS,
    IVF_PART_STEPS,
    IVF_PART_LOWS,
    IVF_PART_SQUARES,
    IVF_PART_SHIFTS,
    IVF_PART_SPREADS,
    IVF_PART_LISTS,
    IVF_PART_BOOK,
    IVF_PART_ORDINALS,
    IVF_PART_BLOCKS,
    IVF_PARTS
};

/* What the sizes of all parts follow from, and the only number that is no part. */
struct ivf_shape {
    struct ivf_options options; /* defaults filled in */
    uint32_t count;             /* rows */
    uint32_t block_count;
    float radius;
    bool has_ordinals;
};

struct ivf_shape ivf_shape_of(const struct ivf *ivf);

/* Are the numbers of a foreign shape such that its sizes can be computed, and can they be those of
 * an index?  Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code ivf_check_shape(const struct ivf_shape *shape, struct err *err);

uint64_t ivf_part_bytes(const struct ivf_shape *shape, enum ivf_part part);

/* An index whose parts are zeros, with so many blocks as the shape has, and without rows.
 * Errors: ERR_NO_MEMORY; *out is NULL then. */
MUST_CHECK enum err_code ivf_new(struct ivf **out, const struct ivf_shape *shape,
                                 const struct kernels *kernels, struct err *err);

/* Blocks, once, where the shape had none. */
MUST_CHECK enum err_code ivf_add_blocks(struct ivf *ivf, uint32_t blocks, struct err *err);

/* First byte of a part; NULL: it has none. */
void *ivf_part_of(const struct ivf *ivf, enum ivf_part part);

/* Where the vectors are; ordinals are a part. */
void ivf_put_rows(struct ivf *ivf, const struct ivf_rows *rows);

#endif
