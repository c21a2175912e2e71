/* The engine's front: options, opening, inserting, deleting, and what is told about it.
 * The graph is in graph.c, linking in hnsw_insert.c, searching in search.c, what takes long in
 * keeper.c and rebuild.c.
 * Failure: no memory or a full budget refuse the insertion and leave the engine as it was. */
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "engine/blas.h"
#include "engine/calibrate.h"
#include "engine/internal.h"
#include "engine/keeper.h"
#include "engine/memory.h"
#include "engine/migrate.h"
#include "engine/rebuild.h"

enum { REST_SLICE = 256 }; /* vectors linked between two questions whether to go on */

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
    if (options->cold_kind > IVF_RABITQ)
        return err_set(err, ERR_INVALID_ARGUMENT, "unknown kind of inverted file");
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

void engine_fill_defaults(struct engine_options *options)
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
    if (options->cold_kind == IVF_FLAT)
        options->cold_kind = IVF_RABITQ;
}

static bool open_parts(struct engine *engine)
{
    struct graph *graph = graph_new(&engine->options, engine->kernels);

    atomic_store_explicit(&engine->graph, graph, memory_order_release);
    if (graph == NULL || engine->options.kind == ENGINE_FLAT)
        return graph != NULL;
    engine->batch = batch_new(&engine->options, &engine->executor, &engine->scratches);
    return engine->batch != NULL;
}

static struct engine *engine_new(const struct engine_options *options,
                                 const struct kernels *kernels,
                                 const struct engine_executor *executor)
{
    struct engine *engine = memory_alloc(1, sizeof(*engine));

    if (engine == NULL)
        return NULL;
    engine->options = *options;
    engine->kernels = kernels;
    if (executor != NULL)
        engine->executor = *executor;
    scratches_init(&engine->scratches, options);
    pthread_mutex_init(&engine->write_lock, NULL);
    pthread_mutex_init(&engine->link_lock, NULL);
    if (!open_parts(engine)) {
        engine_close(engine);
        return NULL;
    }
    return engine;
}

enum err_code engine_open(struct engine **out, const char *dir,
                          const struct engine_options *options,
                          const struct engine_executor *executor, struct err *err)
{
    struct engine_options filled = *options;
    const struct kernels *kernels;

    *out = NULL;
    engine_fill_defaults(&filled);
    if (check_options(&filled, err) != ERR_OK)
        return err_wrap(err, "engine");
    if (kernels_choose(options->kernel, &kernels, err) != ERR_OK)
        return err_wrap(err, "engine");
    if (filled.cold_above > 0 && blas_open(err) != ERR_OK)
        return err_wrap(err, "engine");
    struct engine *engine = engine_new(&filled, kernels, executor);
    if (engine == NULL)
        return err_set(err, ERR_NO_MEMORY, "engine: no memory");
    if (dir != NULL) {
        enum err_code code = keeper_open(engine, dir, err);

        if (code != ERR_OK) {
            engine_close(engine);
            return err_wrap(err, "engine");
        }
    }
    *out = engine;
    return ERR_OK;
}

void engine_close(struct engine *engine)
{
    if (engine == NULL)
        return;
    keeper_close(engine->keeper);
    batch_free(engine->batch);
    if (graph_of(engine) != NULL)
        colds_close(graph_cold(graph_of(engine)));
    for (struct graph *graph = graph_of(engine), *before; graph != NULL; graph = before) {
        before = graph->before;
        graph_free(graph);
    }
    scratches_free(&engine->scratches);
    pthread_mutex_destroy(&engine->link_lock);
    pthread_mutex_destroy(&engine->write_lock);
    memory_free(engine);
}

/* What an engine takes beside its graph and the scratches. */
static uint64_t fixed_bytes(const struct engine_options *options)
{
    return sizeof(struct engine) + (options->kind == ENGINE_FLAT ? 0 : batch_bytes(options));
}

/* Of so many vectors. */
static uint64_t bytes_of(const struct engine_options *options, uint64_t n, uint64_t filed)
{
    uint64_t linked = n < frame_sample(options) ? 0 : n;
    struct graph_size size = {.count = n,
                              .linked = linked,
                              .upper_rows = linked / (options->m - 1),
                              .filed = MIN_OF(filed, n)};

    return fixed_bytes(options) + graph_bytes(options, &size) + scratch_predict(options, n);
}

uint64_t engine_predict(const struct engine_options *options, uint64_t n, enum engine_work work)
{
    struct engine_options filled = *options;

    uint64_t hot = n, cold = 0;

    engine_fill_defaults(&filled);
    if (filled.cold_above != 0 && filled.kind != ENGINE_FLAT && n > filled.cold_above) {
        hot = filled.cold_above;
        cold = migrate_predict(&filled, n - hot);
    }
    return cold +
           bytes_of(&filled, hot, work == ENGINE_LOAD && filled.kind != ENGINE_FLAT ? hot : 0);
}

/* What a lock of the engine is taken for: the cold parts cannot go meanwhile. */
static pthread_mutex_t *write_lock_of(const struct engine *engine)
{
    return &((struct engine *)(uintptr_t)engine)->write_lock;
}

/* What an engine takes now, by what takes it. */
struct memory_use {
    struct graph_size size;
    uint64_t scratches;
    uint64_t others; /* what does not grow with the vectors of the graph */
};

static struct memory_use memory_use(const struct engine *engine)
{
    struct memory_use use = {.size = graph_size_of(graph_of(engine))};

    pthread_mutex_lock(write_lock_of(engine));
    use.others = colds_bytes(graph_cold(graph_of(engine)));
    pthread_mutex_unlock(write_lock_of(engine));
    use.scratches = atomic_load_explicit(&engine->scratches.bytes, memory_order_relaxed);
    use.others += calibrate_bytes(graph_of(engine)) + keeper_bytes(engine->keeper);
    return use;
}

static uint64_t memory_used(const struct engine *engine, const struct memory_use *use)
{
    return fixed_bytes(&engine->options) + graph_bytes(&engine->options, &use->size) +
           use->scratches + use->others;
}

uint64_t engine_memory_used(const struct engine *engine)
{
    struct memory_use use = memory_use(engine);

    return memory_used(engine, &use);
}

/* With so many more, all linked; rises with their number. */
static uint64_t memory_wanted(const struct engine *engine, const struct memory_use *use,
                              uint64_t more)
{
    uint64_t count = use->size.count + more;
    uint64_t scratch = scratch_predict(&engine->options, count);
    uint64_t wanted = bytes_of(&engine->options, count, use->size.filed) - scratch +
                      MAX_OF(use->scratches, scratch) + use->others;

    return MAX_OF(wanted, memory_used(engine, use));
}

uint64_t engine_memory_wanted(const struct engine *engine)
{
    struct memory_use use = memory_use(engine);

    return memory_wanted(engine, &use, 0);
}

uint64_t engine_room(const struct engine *engine, uint64_t bytes)
{
    struct memory_use use = memory_use(engine);
    uint64_t now = memory_wanted(engine, &use, 0);
    uint64_t least = 0, most = PLANE_ROWS_MAX - 1 - MIN_OF(use.size.count, PLANE_ROWS_MAX - 1);

    while (least < most) {
        uint64_t middle = least + (most - least + 1) / 2;

        if (memory_wanted(engine, &use, middle) - now <= bytes)
            least = middle;
        else
            most = middle - 1;
    }
    return least;
}

static enum err_code insert_locked(struct engine *engine, uint32_t ordinal, const float *vector,
                                   struct err *err)
{
    struct graph *graph = graph_of(engine);
    struct graph_size size = graph_size_of(graph);
    uint32_t slot = (uint32_t)size.count;
    uint64_t budget = engine->options.memory_budget;

    if (ordinal < engine->next_ordinal)
        return err_set(err, ERR_INVALID_ARGUMENT, "ordinal %u is not above %u", ordinal,
                       engine->next_ordinal - 1);
    if (slot >= PLANE_ROWS_MAX - 1 ||
        (budget != 0 &&
         colds_bytes(graph_cold(graph)) + bytes_of(&engine->options, size.count + 1, size.filed) >
             budget))
        return err_set(err, ERR_INSUFFICIENT_STORAGE,
                       "%u vectors fill the memory budget of %llu bytes", slot,
                       (unsigned long long)budget);
    if (!graph_reserve(graph, size.count + 1))
        return err_set(err, ERR_NO_MEMORY, "no memory for vector %u", slot);
    graph_place(graph, plane_row(&graph->vectors, slot), vector);
    graph_publish(graph, ordinal);
    engine->next_ordinal = ordinal + 1;
    return ERR_OK;
}

enum err_code engine_insert(struct engine *engine, uint32_t ordinal, const float *vector,
                            struct err *err)
{
    if (!all_finite(vector, engine->options.dim))
        return err_set(err, ERR_INVALID_ARGUMENT, "the vector has a number that is not finite");
    pthread_mutex_lock(&engine->write_lock);
    enum err_code code = insert_locked(engine, ordinal, vector, err);
    pthread_mutex_unlock(&engine->write_lock);
    return code;
}

void engine_delete(struct engine *engine, uint32_t ordinal)
{
    uint32_t slot;

    pthread_mutex_lock(&engine->write_lock);
    struct graph *graph = graph_of(engine);
    if (ordinal < colds_floor(graph_cold(graph))) {
        if (colds_delete(graph_cold(graph), ordinal))
            atomic_fetch_sub_explicit(&graph->cold_live, 1, memory_order_relaxed);
    } else if (slot_find(graph, ordinal, atomic_load_explicit(&graph->count, memory_order_acquire),
                         &slot)) {
        graph_delete(graph, slot);
    }
    pthread_mutex_unlock(&engine->write_lock);
}

enum err_code engine_step(struct engine *engine, uint32_t budget, uint64_t *left, struct err *err)
{
    *left = 0;
    if (engine->options.kind == ENGINE_FLAT)
        return ERR_OK;
    pthread_mutex_lock(&engine->link_lock);
    enum err_code code = batch_link(engine->batch, graph_of(engine), budget, left, err);
    pthread_mutex_unlock(&engine->link_lock);
    return code;
}

uint64_t engine_count(const struct engine *engine)
{
    const struct graph *graph = graph_of(engine);

    return atomic_load_explicit(&graph->live, memory_order_relaxed) +
           atomic_load_explicit(&graph->cold_live, memory_order_relaxed);
}

uint64_t engine_linked(const struct engine *engine)
{
    const struct graph *graph = graph_of(engine);

    return atomic_load_explicit(&graph->linked, memory_order_relaxed) +
           atomic_load_explicit(&graph->cold_rows, memory_order_relaxed);
}

uint64_t engine_cold(const struct engine *engine)
{
    return atomic_load_explicit(&graph_of(engine)->cold_live, memory_order_relaxed);
}

const char *engine_kernel(const struct engine *engine)
{
    return engine->kernels->name;
}

uint32_t engine_covered(const struct engine *engine)
{
    return keeper_covered(engine->keeper);
}

void engine_keep(struct engine *engine, const struct engine_bitmap *living)
{
    struct graph *graph = graph_of(engine);
    uint32_t count = (uint32_t)graph_size_of(graph).count;

    for (uint32_t slot = 0; slot < count; slot++) {
        if (engine_bitmap_names(living, slot_of(graph, slot)->ordinal))
            graph_revive(graph, slot);
        else
            graph_delete(graph, slot);
    }
    colds_keep(graph_cold(graph), living);
    graph->cold_live = colds_live(graph_cold(graph));
}

void engine_rest(struct engine *engine)
{
    pthread_mutex_lock(write_lock_of(engine));
    keeper_rest(engine->keeper, graph_of(engine));
    pthread_mutex_unlock(write_lock_of(engine));
}

bool engine_is_due(const struct engine *engine)
{
    pthread_mutex_lock(write_lock_of(engine));
    const struct graph *graph = graph_of(engine);
    bool is_due = rebuild_is_due(graph) || migrate_is_due(engine, graph) ||
                  keeper_is_due(engine->keeper, graph) || merge_is_due(engine, graph) ||
                  calibrate_is_due(graph) || keeper_lacks_calibration(engine->keeper, graph);
    pthread_mutex_unlock(write_lock_of(engine));
    return is_due;
}

/* What a new graph has not linked yet, so that the segment covers no less than before. */
static enum err_code link_rest(struct engine *engine, const struct engine_hooks *hooks,
                               struct err *err)
{
    enum err_code code = ERR_OK;
    uint64_t left = 1;

    while (code == ERR_OK && left > 0) {
        if (!hooks_go_on(hooks))
            return err_set(err, ERR_DEAD, "stopped while the rest was linked");
        code = engine_step(engine, REST_SLICE, &left, err);
    }
    return code;
}

enum err_code engine_maintain(struct engine *engine, const struct engine_hooks *hooks,
                              struct err *err)
{
    const struct graph *before = graph_of(engine);
    enum err_code code = ERR_OK;

    if (migrate_is_due(engine, before))
        code = migrate(engine, hooks, err);
    else if (rebuild_is_due(before))
        code = rebuild(engine, NULL, hooks, err);
    if (code == ERR_OK && (keeper_is_behind(engine->keeper, graph_of(engine)) ||
                           (engine->keeper != NULL && graph_of(engine) != before)))
        code = link_rest(engine, hooks, err);
    if (code == ERR_OK && keeper_is_due(engine->keeper, graph_of(engine)))
        code = keeper_seal(engine, hooks, err);
    if (code == ERR_OK && merge_is_due(engine, graph_of(engine)))
        code = merge(engine, hooks, err);
    if (code == ERR_OK && calibrate_is_due(graph_of(engine)))
        code = calibrate(engine, hooks, err);
    if (code == ERR_OK && keeper_lacks_calibration(engine->keeper, graph_of(engine)))
        code = keeper_keep_calibration(engine, err);
    return code == ERR_OK ? ERR_OK : err_wrap(err, "maintenance");
}
