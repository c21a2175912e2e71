/* The engine's front: options, opening, inserting, deleting, and what is told about it.
 *
 * An insertion writes the vector and its slot and then publishes the new count; everything that
 * can fail comes before.  Linking is in hnsw_insert.c, searching in search.c.
 * Failure: no memory or a full budget refuse the insertion and leave the engine as it was. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "engine/hnsw.h"
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

static enum err_code check_options(const struct engine_options *options, struct err *err)
{
    if (options->dim < 1 || options->dim > DIMENSION_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "dimension %u is not in 1..%d", options->dim,
                       DIMENSION_MAX);
    if (options->bits > 8 || (options->bits & (options->bits - 1)) != 0)
        return err_set(err, ERR_INVALID_ARGUMENT, "codes of %u bits are not 1, 2, 4 or 8",
                       options->bits);
    if (options->metric > ENGINE_L2 || options->kind > ENGINE_FLAT)
        return err_set(err, ERR_INVALID_ARGUMENT, "unknown metric or kind of index");
    if (options->m < HNSW_M_MIN || options->m > HNSW_M_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "m %u is not in %d..%d", options->m, HNSW_M_MIN,
                       HNSW_M_MAX);
    if (options->ef_construction < HNSW_EF_CONSTRUCTION_MIN ||
        options->ef_construction > HNSW_EF_CONSTRUCTION_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "ef_construction %u is not in %d..%d",
                       options->ef_construction, HNSW_EF_CONSTRUCTION_MIN,
                       HNSW_EF_CONSTRUCTION_MAX);
    return ERR_OK;
}

static void fill_defaults(struct engine_options *options)
{
    options->kernel = NULL;
    if (options->m == 0)
        options->m = HNSW_M_DEFAULT;
    if (options->ef_construction == 0)
        options->ef_construction = HNSW_EF_CONSTRUCTION_DEFAULT;
    if (options->bits == 0)
        options->bits = BITS_DEFAULT;
    if (options->flat_below == 0)
        options->flat_below = FLAT_BELOW_DEFAULT;
}

/* The graph is built by the same distance as it is searched.  For the inner product that makes
 * the longest vectors hubs, which is where the answers are (measured: recall 1.00, where links by
 * the squared distance gave 0.93 to 0.99); the tree links keep the short ones reachable. */
static void set_ruler(struct engine *engine)
{
    engine->ruler = (struct ruler){.raw = engine->kernels->dot,
                                   .base = engine->options.metric == ENGINE_COSINE ? 1.0f : 0.0f,
                                   .sign = -1.0f,
                                   .dim = engine->options.dim};
    if (engine->options.metric == ENGINE_L2) {
        engine->ruler.raw = engine->kernels->l2;
        engine->ruler.sign = 1.0f;
    }
}

static bool open_parts(struct engine *engine)
{
    size_t link = sizeof(uint32_t);
    uint32_t m = engine->options.m;

    if (!plane_init(&engine->vectors, vector_stride(engine->options.dim)) ||
        !plane_init(&engine->slots, sizeof(struct slot)))
        return false;
    if (engine->options.kind == ENGINE_FLAT)
        return true;
    engine->frame.centre = memory_alloc(engine->options.dim, sizeof(float));
    if (engine->frame.centre == NULL ||
        !plane_init(&engine->codes, codes_stride(engine->options.dim, engine->bits)) ||
        (engine->bits != FINE_BITS &&
         !plane_init(&engine->fine, codes_stride(engine->options.dim, FINE_BITS))) ||
        !plane_init(&engine->ground, 2 * m * link) || !plane_init(&engine->upper, m * link))
        return false;
    engine->batch = batch_new(&engine->options);
    return engine->batch != NULL;
}

enum err_code engine_open(struct engine **out, const char *dir,
                          const struct engine_options *options,
                          const struct engine_executor *executor, struct err *err)
{
    struct engine_options filled = *options;
    const struct kernels *kernels;

    (void)dir;
    *out = NULL;
    fill_defaults(&filled);
    if (check_options(&filled, err) != ERR_OK)
        return err_wrap(err, "engine");
    if (kernels_choose(options->kernel, &kernels, err) != ERR_OK)
        return err_wrap(err, "engine");
    struct engine *engine = memory_alloc(1, sizeof(*engine));
    if (engine == NULL)
        return err_set(err, ERR_NO_MEMORY, "engine: no memory");
    engine->options = filled;
    engine->kernels = kernels;
    if (executor != NULL)
        engine->executor = *executor;
    set_ruler(engine);
    engine->bits = filled.bits;
    frame_init(engine);
    pthread_mutex_init(&engine->scratch_lock, NULL);
    if (!open_parts(engine)) {
        engine_close(engine);
        return err_set(err, ERR_NO_MEMORY, "engine: no memory");
    }
    *out = engine;
    return ERR_OK;
}

void engine_close(struct engine *engine)
{
    if (engine == NULL)
        return;
    scratch_free_all(engine);
    pthread_mutex_destroy(&engine->scratch_lock);
    batch_free(engine->batch);
    plane_free(&engine->upper);
    plane_free(&engine->ground);
    plane_free(&engine->slots);
    plane_free(&engine->codes);
    plane_free(&engine->fine);
    memory_free(engine->frame.centre);
    plane_free(&engine->vectors);
    memory_free(engine);
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

bool slot_find(const struct engine *engine, uint32_t ordinal, uint32_t count, uint32_t *slot)
{
    uint32_t low = 0;
    uint32_t high = count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (slot_of(engine, middle)->ordinal < ordinal)
            low = middle + 1;
        else
            high = middle;
    }
    *slot = low;
    return low < count && slot_of(engine, low)->ordinal == ordinal;
}

/* Bytes of the planes for n vectors, of which the graph holds some, with so many rows above the
 * ground. */
static uint64_t planes_bytes(const struct engine_options *options, uint64_t n, uint64_t linked,
                             uint64_t rows)
{
    size_t link = sizeof(uint32_t);
    uint64_t bytes =
        plane_bytes(vector_stride(options->dim), n) + plane_bytes(sizeof(struct slot), n);

    if (options->kind == ENGINE_HNSW)
        bytes += plane_bytes(codes_stride(options->dim, options->bits), linked) +
                 plane_bytes(2 * options->m * link, linked) + plane_bytes(options->m * link, rows);
    if (options->kind == ENGINE_HNSW && options->bits != FINE_BITS)
        bytes += plane_bytes(codes_stride(options->dim, FINE_BITS), linked);
    return bytes;
}

static uint64_t fixed_bytes(const struct engine_options *options)
{
    if (options->kind == ENGINE_FLAT)
        return sizeof(struct engine);
    return sizeof(struct engine) + options->dim * sizeof(float) + batch_bytes(options);
}

uint64_t engine_predict(const struct engine_options *options, uint64_t n, enum engine_work work)
{
    struct engine_options filled = *options;

    (void)work; /* a load is a build as long as there are no segments */
    fill_defaults(&filled);
    uint64_t linked = n < frame_sample(&filled) ? 0 : n;
    return fixed_bytes(&filled) + planes_bytes(&filled, n, linked, linked / (filled.m - 1)) +
           scratch_predict(&filled, n);
}

uint64_t engine_memory_used(const struct engine *engine)
{
    uint64_t count = atomic_load_explicit(&engine->count, memory_order_relaxed);
    uint64_t linked = atomic_load_explicit(&engine->linked, memory_order_relaxed);
    uint64_t rows = atomic_load_explicit(&engine->upper_rows, memory_order_relaxed);

    return fixed_bytes(&engine->options) + planes_bytes(&engine->options, count, linked, rows) +
           atomic_load_explicit(&engine->scratch_bytes, memory_order_relaxed);
}

enum err_code engine_insert(struct engine *engine, uint32_t ordinal, const float *vector,
                            struct err *err)
{
    uint32_t slot = atomic_load_explicit(&engine->count, memory_order_relaxed);
    size_t dim = engine->options.dim;
    uint64_t budget = engine->options.memory_budget;

    if (slot > 0 && ordinal <= slot_of(engine, slot - 1)->ordinal)
        return err_set(err, ERR_INVALID_ARGUMENT, "ordinal %u is not above %u", ordinal,
                       slot_of(engine, slot - 1)->ordinal);
    if (!all_finite(vector, dim))
        return err_set(err, ERR_INVALID_ARGUMENT, "the vector has a number that is not finite");
    if (slot >= PLANE_ROWS_MAX - 1 ||
        (budget != 0 &&
         engine_predict(&engine->options, slot + UINT64_C(1), ENGINE_BUILD) > budget))
        return err_set(err, ERR_INSUFFICIENT_STORAGE,
                       "%u vectors fill the memory budget of %llu bytes", slot,
                       (unsigned long long)budget);
    if (!plane_reserve(&engine->vectors, slot + UINT64_C(1)) ||
        !plane_reserve(&engine->slots, slot + UINT64_C(1)))
        return err_set(err, ERR_NO_MEMORY, "no memory for vector %u", slot);
    float *row = plane_row(&engine->vectors, slot);
    if (engine->options.metric == ENGINE_COSINE) {
        (void)kernels_normalise(engine->kernels, row, vector, dim);
    } else {
        for (size_t i = 0; i < dim; i++)
            row[i] = vector[i] + 0.0f; /* -0 becomes 0: equal vectors have equal bytes */
    }
    slot_of(engine, slot)->ordinal = ordinal;
    atomic_fetch_add_explicit(&engine->live, 1, memory_order_relaxed);
    /* Releasing: who sees the count sees the vector and the slot. */
    atomic_store_explicit(&engine->count, slot + 1, memory_order_release);
    return ERR_OK;
}

void engine_delete(struct engine *engine, uint32_t ordinal)
{
    uint32_t slot;

    if (!slot_find(engine, ordinal, atomic_load_explicit(&engine->count, memory_order_acquire),
                   &slot))
        return;
    /* Relaxed: the bit stands for nothing but itself. */
    uint32_t before =
        atomic_fetch_or_explicit(&slot_of(engine, slot)->state, SLOT_DEAD, memory_order_relaxed);
    atomic_store_explicit(&engine->has_dead, true, memory_order_relaxed);
    if ((before & SLOT_DEAD) == 0)
        atomic_fetch_sub_explicit(&engine->live, 1, memory_order_relaxed);
}

uint32_t engine_covered(const struct engine *engine)
{
    (void)engine;
    return 0;
}

uint64_t engine_count(const struct engine *engine)
{
    return atomic_load_explicit(&engine->live, memory_order_relaxed);
}

uint64_t engine_linked(const struct engine *engine)
{
    return atomic_load_explicit(&engine->linked, memory_order_relaxed);
}

const char *engine_kernel(const struct engine *engine)
{
    return engine->kernels->name;
}
