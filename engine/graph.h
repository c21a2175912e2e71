/* A graph over vectors: its rows, who writes them, and how a distance is taken.
 *
 * A vector lives in a slot, numbered in the order of insertion, so slots ascend as ordinals do.
 * Slots below `linked` are in the graph, the others wait in the tail and are scanned.
 * A link is a slot + 1, so that a fresh, zeroed row is an empty list; links of a list ascend by
 * (distance, slot) and end at the first zero.  A tree link (LINK_TREE) is never pruned: the tree
 * links alone connect all nodes on the ground, in both directions.
 * A vector whose bytes equal those of a node becomes no node of its own but that node's twin, in
 * a chain that ascends by slot: many equal vectors would else form a clique that traps a walk.
 *
 * Who writes: engine_insert the vector, the slot's ordinal and `count`; engine_delete the
 * dead bit; linking (hnsw_insert.c) all the rest.  Readers learn of anything by an acquiring load
 * of `count`, `linked`, `entry`, a link or a twin, each stored releasing after what it stands for.
 */
#ifndef VICINAL_ENGINE_GRAPH_H
#define VICINAL_ENGINE_GRAPH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "engine/codes.h"
#include "engine/engine.h"
#include "engine/kernels.h"
#include "engine/plane.h"

enum {
    LEVEL_MAX = 15, /* highest level a node may have */
    BATCH_MAX = 64, /* vectors linked together */
    SLOT_DEAD = 1,  /* bits of slot.state */
    SLOT_TWIN = 2,
    FINE_BITS = 8,
    BITS_DEFAULT = 4, /* measured at 384 to 1536 dimensions: fewer bits are no faster */
    FLAT_BELOW_DEFAULT = 2000,
};

#define LINK_TREE   UINT32_C(0x80000000)
#define LINK_TARGET UINT32_C(0x7fffffff)

struct calibration;

struct slot {
    uint32_t ordinal;
    uint32_t upper;        /* node: first row in the upper plane; first twin of a chain: its last */
    _Atomic uint32_t twin; /* next equal vector, slot + 1; 0: none */
    _Atomic uint32_t state; /* SLOT_DEAD, SLOT_TWIN */
};

/* How to take a distance: base + sign * raw(a, b). */
struct ruler {
    kernel_fn *raw;
    float base;
    float sign;
    size_t dim;
};

struct colds;

struct graph {
    struct engine_options options; /* defaults filled in; kernel: NULL */
    const struct kernels *kernels;
    struct ruler ruler;      /* between query and vector, and between two vectors */
    struct code_frame frame; /* fitted by the first linking: frame.c */
    float length;            /* of the vectors, where all are about as long; else 0; fitted too */

    struct plane vectors; /* row of a slot: dim floats and padding */
    struct plane codes;   /* row of a node: codes.h; none without links */
    struct plane fine;    /* row of a node: 8-bit codes, for linking; none where `codes` are that */
    struct plane slots;   /* struct slot */
    struct plane ground;  /* row of a slot: 2 m links */
    struct plane upper;   /* row of (node, level above ground): m links */

    _Atomic uint32_t count;      /* slots in use */
    _Atomic uint32_t linked;     /* slots that are in the graph */
    _Atomic uint64_t live;       /* slots in use that are not dead */
    _Atomic uint64_t entry;      /* (slot + 1) << 8 | level; 0: nothing is linked */
    _Atomic uint32_t upper_rows; /* rows of the upper plane in use */
    _Atomic uint32_t filed;      /* slots whose vectors and finer codes are pages of a file */
    _Atomic bool has_dead;       /* some vector was deleted */
    _Atomic bool has_twins;      /* some node has a twin */

    _Atomic(struct colds *) cold; /* parts of what comes before it (cold.h); NULL: none */
    _Atomic uint64_t cold_live;   /* vectors of them that are not dead, and all */
    _Atomic uint64_t cold_rows;
    _Atomic(struct calibration *) calibration; /* calibrate.h; NULL: none yet */
    _Atomic uint32_t calibrated;               /* its `linked`; 0: it is of the graph before */

    struct graph *before; /* whose place it took: only its numbers are left */
};

/* Empty.  NULL: no memory. */
MUST_CHECK struct graph *graph_new(const struct engine_options *options,
                                   const struct kernels *kernels);
void graph_free(struct graph *graph); /* NULL is fine */

/* Give back what it holds of memory; only the numbers can be read then. */
void graph_clear(struct graph *graph);

/* Adding a vector: room for so many (false: no memory), the vector in the form in which it is kept
 * into its row, then the slot becomes visible with its ordinal, which is above all before it. */
MUST_CHECK bool graph_reserve(struct graph *graph, uint64_t count);
void graph_place(const struct graph *graph, float *row, const float *vector);
void graph_publish(struct graph *graph, uint32_t ordinal);

/* The first slot of low..high-1 whose ordinal is not below this one; high: there is none. */
uint32_t slot_seek(const struct graph *graph, uint32_t ordinal, uint32_t low, uint32_t high);

/* Slot of an ordinal; false: there is none among the first count slots. */
bool slot_find(const struct graph *graph, uint32_t ordinal, uint32_t count, uint32_t *slot);

void graph_delete(struct graph *graph, uint32_t slot);
void graph_revive(struct graph *graph, uint32_t slot); /* before anyone searches */

/* What a graph holds, and the bytes of memory that it takes. */
struct graph_size {
    uint64_t count;
    uint64_t linked;
    uint64_t upper_rows;
    uint64_t filed;
};

struct graph_size graph_size_of(const struct graph *graph);
uint64_t graph_bytes(const struct engine_options *options, const struct graph_size *size);

static inline struct colds *graph_cold(const struct graph *graph)
{
    return atomic_load_explicit(&((struct graph *)(uintptr_t)graph)->cold, memory_order_acquire);
}

static inline float ruler_distance(const struct ruler *ruler, const float *a, const float *b)
{
    return ruler->base + ruler->sign * ruler->raw(a, b, ruler->dim);
}

static inline const float *vector_of(const struct graph *graph, uint32_t slot)
{
    return plane_row(&graph->vectors, slot);
}

static inline const uint8_t *code_of(const struct graph *graph, uint32_t slot)
{
    return plane_row(&graph->codes, slot);
}

/* 8-bit codes of a node. */
static inline const uint8_t *fine_of(const struct graph *graph, uint32_t slot)
{
    return plane_row(graph->options.bits == FINE_BITS ? &graph->codes : &graph->fine, slot);
}

/* Between a node and others, by their rows of 8-bit codes; by this links are ordered and pruned. */
static inline void pair_distances(const struct graph *graph, uint32_t slot,
                                  const uint8_t *const *rows, size_t count, float *distances)
{
    codes_pairs(graph->kernels, &graph->frame, fine_of(graph, slot), rows, count, distances);
}

static inline float pair_distance(const struct graph *graph, uint32_t a, uint32_t b)
{
    const uint8_t *row = fine_of(graph, b);
    float distance;

    pair_distances(graph, a, &row, 1, &distance);
    return distance;
}

static inline struct slot *slot_of(const struct graph *graph, uint32_t slot)
{
    return plane_row(&graph->slots, slot);
}

static inline uint32_t slot_state(const struct graph *graph, uint32_t slot)
{
    return atomic_load_explicit(&slot_of(graph, slot)->state, memory_order_relaxed);
}

/* Links of a node: 2 m on level 0, m above. */
static inline _Atomic uint32_t *links_of(const struct graph *graph, uint32_t slot, uint32_t level)
{
    if (level == 0)
        return plane_row(&graph->ground, slot);
    return plane_row(&graph->upper, slot_of(graph, slot)->upper + level - 1);
}

static inline uint32_t links_max(const struct graph *graph, uint32_t level)
{
    return level == 0 ? 2 * graph->options.m : graph->options.m;
}

static inline uint32_t entry_slot(uint64_t entry)
{
    return (uint32_t)(entry >> 8) - 1;
}

static inline uint32_t entry_level(uint64_t entry)
{
    return (uint32_t)(entry & 0xff);
}

/* The gcc 12 trap: without the barrier it drops all but the first prefetch of a loop. */
static inline void prefetch(const void *address)
{
    __builtin_prefetch(address, 0, 3);
    __asm__ volatile("" ::: "memory");
}

enum {
    CACHE_LINE = 64,
    LINES_AHEAD_MAX = 48, /* the hardware's own prefetcher does the rest of a long row */
};

/* Into the second level only: far more lines can be under way there than into the first. */
static inline void prefetch_row(const void *row, size_t bytes)
{
    size_t lines = bytes / CACHE_LINE;

    if (lines > LINES_AHEAD_MAX)
        lines = LINES_AHEAD_MAX;
    for (size_t i = 0; i < lines; i++) {
        __builtin_prefetch((const char *)row + i * CACHE_LINE, 0, 2);
        __asm__ volatile("" ::: "memory");
    }
    __builtin_prefetch((const char *)row + bytes - 1, 0, 2); /* rows need not begin on a line */
    __asm__ volatile("" ::: "memory");
}

static inline void prefetch_vector(const struct graph *graph, uint32_t slot)
{
    prefetch_row(vector_of(graph, slot), graph->options.dim * sizeof(float));
}

static inline void prefetch_fine(const struct graph *graph, uint32_t slot)
{
    prefetch_row(fine_of(graph, slot), codes_stride(graph->options.dim, FINE_BITS));
}

/* No NaN, no infinity.  On the bits: this is integer work that a compiler does many at a time. */
static inline bool all_finite(const float *vector, size_t dim)
{
    uint32_t bad = 0;

    for (size_t i = 0; i < dim; i++) {
        uint32_t bits;

        memcpy(&bits, &vector[i], sizeof(bits));
        bad |= (bits & UINT32_C(0x7f800000)) == UINT32_C(0x7f800000);
    }
    return bad == 0;
}

/* Level of the vector with this ordinal: a hash, so equal on all replicas. */
uint32_t level_by(const struct engine_options *options, uint32_t ordinal);

static inline uint32_t level_of(const struct graph *graph, uint32_t ordinal)
{
    return level_by(&graph->options, ordinal);
}

/* Bytes from one vector to the next. */
size_t vector_stride(uint32_t dim);

/* frame.c: where vectors are placed when they are coded (codes.h).  The frame is fitted to the
 * first vectors, so many of them; the graph does not begin before they are there.  frame_take: as
 * it was fitted before, to the vectors of a graph that is there already. */
void frame_init(struct graph *graph);
void frame_fit(struct graph *graph);
void frame_take(struct graph *graph, const float *centre, float length);
uint32_t frame_sample(const struct engine_options *options);

#endif
