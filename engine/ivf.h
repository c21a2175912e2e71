/* An inverted file: a cold index over vectors that do not change any more.
 *
 * k-means divides the vectors into lists around centroids (kmeans.h); a search looks at the few
 * lists whose centroids are nearest to the query.  What it does there is the index's kind:
 *
 *   IVF_FLAT     measures every vector.
 *   IVF_PQ       estimates distances by 4-bit codes of a product quantiser that was trained on the
 *                vectors: ivf_options.code_dims numbers to each code.
 *   IVF_RABITQ   estimates distances by one bit a number, without training.
 *
 * The last two keep a code of a vector's residual, that is of its difference to its centroid, after
 * a random rotation (rotation.h).  Codes stand in blocks of 32 and are scanned by look-ups in
 * registers ("fast scan").  An estimate comes with a bound of its error; the exact distance is
 * taken, in the order of the lower bounds, only of those that may still be among the best.  So all
 * distances that are answered are exact, and about 80 bytes for a vector of 384 numbers are enough
 * besides the vectors, which stay with their owner.
 *
 * Threads: any number of searches at a time.  ivf_build borrows threads.  Nothing else.
 * Codes do not depend on the kernels, given the centroids and, for cosine, rows of length one;
 * centroids come from OpenBLAS, whose rounding depends on the processor, so an index is shipped to
 * replicas, not built by each.
 *
 * Sources: Gao, Long, "RaBitQ", arXiv 2405.12497; Andre, Kermarrec, Le Scouarnec, "Cache locality
 * is not enough: high-performance nearest neighbor search with product quantization fast scan",
 * VLDB 2015; Jegou, Douze, Schmid, "Product quantization for nearest neighbor search", PAMI 2011.
 */
#ifndef VICINAL_ENGINE_IVF_H
#define VICINAL_ENGINE_IVF_H

#include <stdatomic.h>

#include "engine/engine.h"

struct ivf;

struct ivf_options {
    uint32_t dim; /* 1..DIMENSION_MAX */
    enum engine_metric metric;
    enum ivf_kind kind;
    uint32_t lists;      /* 0: default for the number of vectors; more than those are not made */
    uint32_t code_dims;  /* IVF_PQ: numbers that share a code: 2, 4 or 8; 0: default */
    uint32_t iterations; /* of k-means; 0: default */
    uint64_t seed;
    const char *kernel; /* "scalar", "avx2", "avx512", "vnni"; NULL: the best here */
};

/* Where the vectors are.  Their owner keeps them unchanged as long as the index lives. */
struct ivf_rows {
    uint32_t count;
    const uint32_t *ordinals; /* of the rows, ascending; NULL: the row's number.  Copied. */
    const float *vectors;     /* row i at vectors + i * stride; NULL: ask at() */
    size_t stride;            /* floats from row to row, at least dim */
    /* The dim floats of a row: in room, or wherever they lie until the next call with that room.
     * On any thread. */
    const float *(*at)(void *state, uint32_t row, float *room);
    void *state;
    bool is_unit; /* cosine: rows have length one, or zero, already */
};

/* The executor may be NULL.
 * Errors: ERR_INVALID_ARGUMENT (options; ordinals that do not ascend; a number that is not finite),
 * ERR_CONFIG (unknown or unsupported kernel; no OpenBLAS), ERR_NO_MEMORY; *out is NULL then. */
MUST_CHECK enum err_code ivf_build(struct ivf **out, const struct ivf_options *options,
                                   const struct ivf_rows *rows,
                                   const struct engine_executor *executor, struct err *err);
void ivf_free(struct ivf *ivf);

struct ivf_effort {
    uint32_t probes; /* lists looked at; 0: default */
    uint32_t
        rerank; /* at most so many are measured after a scan of codes; 0: default; at least k */
};

struct ivf_query {
    const float *vector; /* dim floats, finite */
    uint32_t k;          /* at least 1 */
    struct ivf_effort effort;
    const struct engine_bitmap *filter; /* by ordinal; NULL: all */
    const _Atomic uint64_t *dead; /* bit i % 64 of word i / 64: row i is left out; NULL: none */
    bool exact;                   /* measure all that may be returned */
    float bound;                  /* farther hits are not wanted; INFINITY: none */
    uint32_t known;       /* so many hits within the bound were found elsewhere: k less these */
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none */
};

struct ivf_counters {
    const char *plan;  /* "ivf_flat", "ivf_pq", "ivf_rabitq"; "flat": exact; "flat_filter": a narrow
                          filter */
    uint64_t lists;    /* looked at */
    uint64_t scanned;  /* vectors in them */
    uint64_t measured; /* exact distances taken */
};

/* Up to k hits, ascending by (distance, ordinal), into hits (room for k); *count says how many.
 * Distances are those of engine.h.  A filter widens effort.probes.  Beyond them lists are
 * looked at while fewer than k less `known` vectors were found that may be returned: with those
 * that are known k hits are found whenever there are k. counters may be NULL. Errors: ERR_TIMEOUT
 * (deadline), ERR_NO_MEMORY, ERR_INVALID_ARGUMENT. */
MUST_CHECK enum err_code ivf_search(struct ivf *ivf, const struct ivf_query *query,
                                    struct engine_hit *hits, size_t *count,
                                    struct ivf_counters *counters, struct err *err);

uint32_t ivf_count(const struct ivf *ivf);
uint32_t ivf_lists(const struct ivf *ivf);
const char *ivf_kernel(const struct ivf *ivf);

/* Bytes taken from the system, without the owner's vectors: now, and at the most while it was built
 * (without the workspace of OpenBLAS). */
uint64_t ivf_memory_used(const struct ivf *ivf);
uint64_t ivf_memory_peak(const struct ivf *ivf);

/* The same before it is built: ENGINE_BUILD the peak, ENGINE_LOAD what stays.  How full the last
 * blocks of lists are is not known before; within a tenth for lists of usual sizes. */
uint64_t ivf_predict(const struct ivf_options *options, uint32_t count, enum engine_work work);

/* A number that is equal for indexes with the same lists, codes and factors. */
uint64_t ivf_digest(const struct ivf *ivf);

/* Check every invariant: each row in one list, ordinals ascending, blocks in order, factors that
 * are numbers.  Errors: ERR_CORRUPT with what is wrong, ERR_NO_MEMORY. */
MUST_CHECK enum err_code ivf_validate(const struct ivf *ivf, struct err *err);

#endif
