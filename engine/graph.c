/* See graph.h.  Making, filling and measuring a graph; linking is in hnsw_insert.c.
 *
 * A vector and its slot are written first and the new count is then published; everything that can
 * fail comes before.  Failure: only memory; the graph is then as it was. */
#include "engine/graph.h"

#include "common/base/checked.h"
#include "engine/memory.h"

/* Narrow vectors stand on the next power of two, so that none straddles two lines in vain. */
size_t vector_stride(uint32_t dim)
{
    size_t bytes = dim * sizeof(float);
    size_t stride = sizeof(float);

    if (bytes > 64)
        return (bytes + 63) / 64 * 64;
    while (stride < bytes)
        stride *= 2;
    return stride;
}

/* A level with probability 1/m each above the one before, from a mixed hash (splitmix64). */
uint32_t level_by(const struct engine_options *options, uint32_t ordinal)
{
    uint64_t hash = options->seed + (ordinal + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);
    uint32_t level = 0;

    hash = (hash ^ hash >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ hash >> 27) * UINT64_C(0x94d049bb133111eb);
    hash ^= hash >> 31;
    while (level < LEVEL_MAX && hash % options->m == 0) {
        hash /= options->m;
        level++;
    }
    return level;
}

/* The graph is built by the same distance as it is searched.  For the inner product that makes
 * the longest vectors hubs, which is where the answers are (measured: recall 1.00, where links by
 * the squared distance gave 0.93 to 0.99); the tree links keep the short ones reachable. */
static void set_ruler(struct graph *graph)
{
    graph->ruler = (struct ruler){.raw = graph->kernels->dot,
                                  .base = graph->options.metric == ENGINE_COSINE ? 1.0f : 0.0f,
                                  .sign = -1.0f,
                                  .dim = graph->options.dim};
    if (graph->options.metric == ENGINE_L2) {
        graph->ruler.raw = graph->kernels->l2;
        graph->ruler.sign = 1.0f;
    }
}

static bool init_planes(struct graph *graph)
{
    const struct engine_options *options = &graph->options;
    size_t link = sizeof(uint32_t);

    if (!plane_init(&graph->vectors, vector_stride(options->dim)) ||
        !plane_init(&graph->slots, sizeof(struct slot)))
        return false;
    if (options->kind == ENGINE_FLAT)
        return true;
    graph->frame.centre = memory_alloc(options->dim, sizeof(float));
    return graph->frame.centre != NULL &&
           plane_init(&graph->codes, codes_stride(options->dim, options->bits)) &&
           (options->bits == FINE_BITS ||
            plane_init(&graph->fine, codes_stride(options->dim, FINE_BITS))) &&
           plane_init(&graph->ground, 2 * options->m * link) &&
           plane_init(&graph->upper, options->m * link);
}

struct graph *graph_new(const struct engine_options *options, const struct kernels *kernels)
{
    struct graph *graph = memory_alloc(1, sizeof(*graph));

    if (graph == NULL)
        return NULL;
    graph->options = *options;
    graph->kernels = kernels;
    set_ruler(graph);
    frame_init(graph);
    if (!init_planes(graph)) {
        graph_free(graph);
        return NULL;
    }
    return graph;
}

void graph_clear(struct graph *graph)
{
    plane_free(&graph->upper);
    plane_free(&graph->ground);
    plane_free(&graph->slots);
    plane_free(&graph->codes);
    plane_free(&graph->fine);
    plane_free(&graph->vectors);
    memory_free(graph->frame.centre);
    graph->frame.centre = NULL;
    memory_free(atomic_exchange_explicit(&graph->calibration, NULL, memory_order_acquire));
}

void graph_free(struct graph *graph)
{
    if (graph == NULL)
        return;
    graph_clear(graph);
    memory_free(graph);
}

void graph_place(const struct graph *graph, float *row, const float *vector)
{
    size_t dim = graph->options.dim;

    if (graph->options.metric == ENGINE_COSINE) {
        (void)kernels_normalise(graph->kernels, row, vector, dim);
        return;
    }
    for (size_t i = 0; i < dim; i++)
        row[i] = vector[i] + 0.0f; /* -0 becomes 0: equal vectors have equal bytes */
}

bool graph_reserve(struct graph *graph, uint64_t count)
{
    return plane_reserve(&graph->vectors, count) && plane_reserve(&graph->slots, count);
}

void graph_publish(struct graph *graph, uint32_t ordinal)
{
    uint32_t slot = atomic_load_explicit(&graph->count, memory_order_relaxed);

    slot_of(graph, slot)->ordinal = ordinal;
    atomic_fetch_add_explicit(&graph->live, 1, memory_order_relaxed);
    /* Releasing: who sees the count sees the vector and the slot. */
    atomic_store_explicit(&graph->count, slot + 1, memory_order_release);
}

bool slot_find(const struct graph *graph, uint32_t ordinal, uint32_t count, uint32_t *slot)
{
    uint32_t low = 0;
    uint32_t high = count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (slot_of(graph, middle)->ordinal < ordinal)
            low = middle + 1;
        else
            high = middle;
    }
    *slot = low;
    return low < count && slot_of(graph, low)->ordinal == ordinal;
}

void graph_delete(struct graph *graph, uint32_t slot)
{
    /* Relaxed: the bit stands for nothing but itself. */
    uint32_t before =
        atomic_fetch_or_explicit(&slot_of(graph, slot)->state, SLOT_DEAD, memory_order_relaxed);

    atomic_store_explicit(&graph->has_dead, true, memory_order_relaxed);
    if ((before & SLOT_DEAD) == 0)
        atomic_fetch_sub_explicit(&graph->live, 1, memory_order_relaxed);
}

void graph_revive(struct graph *graph, uint32_t slot)
{
    uint32_t before = atomic_fetch_and_explicit(&slot_of(graph, slot)->state, ~(uint32_t)SLOT_DEAD,
                                                memory_order_relaxed);

    if ((before & SLOT_DEAD) != 0)
        atomic_fetch_add_explicit(&graph->live, 1, memory_order_relaxed);
}

uint64_t graph_bytes(const struct engine_options *options, const struct graph_size *size)
{
    size_t link = sizeof(uint32_t);
    uint64_t bytes = plane_bytes(vector_stride(options->dim), size->count - size->filed) +
                     plane_bytes(sizeof(struct slot), size->count);

    if (options->kind == ENGINE_FLAT)
        return bytes + sizeof(struct graph);
    bytes += plane_bytes(codes_stride(options->dim, options->bits), size->linked) +
             plane_bytes(2 * options->m * link, size->linked) +
             plane_bytes(options->m * link, size->upper_rows);
    if (options->bits != FINE_BITS)
        bytes += plane_bytes(codes_stride(options->dim, FINE_BITS), size->linked - size->filed);
    return bytes + sizeof(struct graph) + options->dim * sizeof(float);
}

struct graph_size graph_size_of(const struct graph *graph)
{
    return (struct graph_size){.count = atomic_load_explicit(&graph->count, memory_order_relaxed),
                               .linked = atomic_load_explicit(&graph->linked, memory_order_relaxed),
                               .upper_rows =
                                   atomic_load_explicit(&graph->upper_rows, memory_order_relaxed),
                               .filed = atomic_load_explicit(&graph->filed, memory_order_relaxed)};
}
