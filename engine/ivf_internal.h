/* What the files of the inverted file share: the index, and how its parts are found.
 *
 * All parts are flat arrays that hold no pointers, so a file can hold them as they are.  Vectors
 * are known by their row; rows ascend as ordinals do, so an order by row is one by ordinal.
 *
 * Centroids and queries are looked at from the mean of all centroids ("centred"), rotated: z of the
 * query, and of each centroid 8-bit codes, which choose the lists, are accurate to about 1/1000 of
 * the lengths, and are allowed for in the bounds.  A list's vectors x have residuals o = x - c and,
 * rotated, y; r is what y's codes stand for.  The estimate of dot(o, q - c) is
 *
 *   f (dot(r, z) - dot(r, z of c))   with f = |y|^2 / dot(y, r)
 *
 * which has no bias over random rotations, and whose error is about normal with deviation
 * |y| |q - c| sqrt((|y|^2 |r|^2 / dot(y, r)^2 - 1) / (n - 1)) of n numbers.  Distances follow:
 *
 *   l2     |q - c|^2 + |o|^2 - 2 dot(o, q - c)
 *   ip     -dot(q, c) - dot(o, c) - dot(o, q - c)         cosine: 1 + that, of unit vectors
 *
 * Lists are looked at by |q - c|^2.  For ip that would be wrong, for only the lists' directions
 * count then, and -dot(q, c) alone would slight lists whose vectors differ much, as these have
 * short centroids: |q| |o|^2 / (2 radius) is taken off, which comes to the same order as |q - c|^2
 * where all vectors have one length, and does not depend on the length of the query. */
#ifndef VICINAL_ENGINE_IVF_INTERNAL_H
#define VICINAL_ENGINE_IVF_INTERNAL_H

#include <pthread.h>
#include <time.h>

#include "engine/ivf.h"
#include "engine/ivf_kernels.h"
#include "engine/kernels.h"
#include "engine/rotation.h"

struct ivf_list {
    uint32_t first; /* block */
    uint32_t count; /* vectors */
};

struct ivf_scratch; /* workspace of a search */

struct ivf {
    struct ivf_options options; /* defaults filled in; kernel: NULL */
    struct ivf_rows rows;       /* ordinals: our copy */
    const struct kernels *kernels;
    const struct ivf_kernels *inner;
    struct rotation rotation;
    uint32_t lists;
    uint32_t lists_padded; /* to a multiple of IVF_COARSE */
    uint32_t groups;       /* codes of a vector; IVF_FLAT: 0 */
    uint32_t block_bytes;

    float *mean; /* dim: of the centroids */
    uint8_t
        *centroids; /* lists_padded * padded: codes of the centred centroids, IVF_COARSE abreast */
    float *steps;   /* for each list: a code's step and the number that 0 stands for, ... */
    float *lows;
    float *squares; /* ... |c - mean|^2, and dot(mean, c - mean) */
    float *shifts;
    float *spreads; /* and the mean of |o|^2 in the list */
    float radius;   /* ip: root of the mean of |x|^2 */
    struct ivf_list *list;
    float *book; /* code_dims * IVF_CODES numbers: what codes stand for, number by number ... */
    size_t book_stride; /* ... for each group; 0: one for all */
    uint32_t *ordinals; /* of the rows; NULL: the row's number */
    uint8_t *blocks;    /* ivf_kernels.h; a list's are neighbours, rows ascend in it */
    uint32_t block_count;

    uint64_t bytes, peak; /* peak - bytes: only while it was built */
    pthread_mutex_t lock;
    uint64_t scratch_bytes; /* guarded by lock, as is the list of free ones */
    struct ivf_scratch *scratch;
};

static inline uint32_t ivf_ordinal(const struct ivf *ivf, uint32_t row)
{
    return ivf->ordinals == NULL ? row : ivf->ordinals[row];
}

static inline uint8_t *ivf_block(const struct ivf *ivf, uint32_t block)
{
    return ivf->blocks + (size_t)block * ivf->block_bytes;
}

/* Blocks of a list of so many vectors. */
static inline uint32_t ivf_blocks_of(uint32_t count)
{
    return count / IVF_BLOCK + (count % IVF_BLOCK != 0);
}

/* What the codes of group g stand for: number d of code j at [d * IVF_CODES + j]. */
static inline const float *ivf_book(const struct ivf *ivf, size_t g)
{
    return ivf->book + g * ivf->book_stride;
}

/* The vector that a row is measured by: of length one where the metric wants it.  room: dim. */
static inline const float *ivf_row(const struct ivf *ivf, uint32_t row, float *room)
{
    const struct ivf_rows *rows = &ivf->rows;
    const float *vector = rows->vectors != NULL ? rows->vectors + row * rows->stride
                                                : rows->at(rows->state, row, room);

    if (ivf->options.metric != ENGINE_COSINE || rows->is_unit)
        return vector;
    (void)kernels_normalise(ivf->kernels, room, vector, ivf->options.dim);
    return room;
}

static inline bool ivf_deadline_passed(uint64_t deadline_ns)
{
    struct timespec now;

    if (deadline_ns == 0)
        return false;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec >= deadline_ns;
}

/* ivf_codes.c */

/* A residual, rotated, into codes of its groups. */
struct ivf_coded {
    double y_y, y_r, r_r; /* dot products of y and of what its codes stand for */
    double r_c;           /* and of that with the rotated, centred centroid */
};
void ivf_encode(const struct ivf *ivf, const float *y, const float *centroid, uint8_t *codes,
                struct ivf_coded *coded);

/* Codes of a rotated, centred centroid, and its step, low and square. */
void ivf_encode_centroid(struct ivf *ivf, uint32_t list, const float *centroid);

/* Tables of a rotated, centred query for the scan: tables, scale and bias.  exact: room for groups
 * * IVF_CODES floats. */
void ivf_tables(const struct ivf *ivf, const float *z, float *exact, uint8_t *tables,
                struct ivf_scan *scan);

/* ivf_book.c: what codes stand for.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code ivf_train_book(struct ivf *ivf, const float *centroids,
                                        const uint32_t *assigned,
                                        const struct engine_executor *executor, struct err *err);
uint64_t ivf_predict_book(const struct ivf_options *options, uint32_t count);

/* ivf_scan.c: row of an ordinal at or behind *from, which moves on; false: there is none. */
bool ivf_find_row(const struct ivf *ivf, uint32_t ordinal, uint32_t *from);

/* ivf_build.c: workspace of encoding. */
uint64_t ivf_encode_bytes(size_t dim);

/* ivf_scratch.c */
void ivf_scratch_free_all(struct ivf *ivf);
uint64_t ivf_scratch_predict(const struct ivf_options *options, uint32_t lists);

/* ivf.c: options with defaults for so many vectors, and sizes. */
struct ivf_options ivf_defaults(const struct ivf_options *options, uint32_t count);
uint32_t ivf_groups(const struct ivf_options *options);
uint32_t ivf_block_bytes(const struct ivf_options *options);
size_t ivf_book_floats(const struct ivf_options *options);

#endif
