/* See rebuild.h.
 *
 * The living vectors are copied and linked in the order of their ordinals, as if no other had ever
 * been there, so the new graph is that of a fresh build, and finds as much.  Others insert, delete,
 * link and search the old graph meanwhile.  When the new one has nearly caught up, insertions wait
 * for the rest to be copied, which the new graph holds as its tail; then the graphs change places,
 * and the old one's memory goes back as soon as the last search that reads it has ended.
 * Failure: the new graph is thrown away. */
#include "engine/rebuild.h"

#include <string.h>

#include "common/base/checked.h"
#include "engine/keeper.h"
#include "engine/memory.h"

enum {
    DEAD_LEAST = 2, /* a part of flat_below: fewer do not matter */
    DEAD_PART = 5,
    SLICE = 1024,   /* vectors between two questions whether to go on */
    TAIL_PART = 32, /* so few may be left to be linked as others are: insertions may be quicker */
};

struct rebuild {
    struct engine *engine;
    const struct graph *old;
    struct graph *new;
    struct batch *batch; /* NULL: nothing is linked */
    struct colds *colds; /* of the new graph; NULL: those of the old one */
    uint32_t first;      /* slots of the old graph before this become cold */
    uint32_t copied;     /* slots of the old graph that were looked at */
};

bool rebuild_is_due(const struct graph *graph)
{
    uint64_t count = atomic_load_explicit(&graph->count, memory_order_relaxed);
    uint64_t live = atomic_load_explicit(&graph->live, memory_order_relaxed);
    uint64_t dead = count - MIN_OF(live, count); /* an insertion under way counts as alive */

    return dead > 0 && dead >= graph->options.flat_below / DEAD_LEAST && dead * DEAD_PART >= count;
}

static enum err_code copy_to(struct rebuild *rebuild, uint32_t end, struct err *err)
{
    struct graph *new = rebuild->new;
    size_t bytes = new->options.dim * sizeof(float);

    for (; rebuild->copied < end; rebuild->copied++) {
        uint32_t slot = (uint32_t)graph_size_of(new).count;

        if ((slot_state(rebuild->old, rebuild->copied) & SLOT_DEAD) != 0)
            continue;
        if (!graph_reserve(new, slot + UINT64_C(1)))
            return err_set(err, ERR_NO_MEMORY, "no memory to rebuild the graph");
        memcpy(plane_row(&new->vectors, slot), vector_of(rebuild->old, rebuild->copied), bytes);
        graph_publish(new, slot_of(rebuild->old, rebuild->copied)->ordinal);
    }
    return ERR_OK;
}

static enum err_code check_budget(const struct rebuild *rebuild, struct err *err)
{
    uint64_t budget = rebuild->engine->options.memory_budget;
    struct graph_size size = graph_size_of(rebuild->new);

    if (budget == 0 ||
        engine_memory_used(rebuild->engine) + graph_bytes(&rebuild->new->options, &size) <= budget)
        return ERR_OK;
    return err_set(err, ERR_INSUFFICIENT_STORAGE,
                   "the memory budget has no room for a second graph to leave the dead behind");
}

/* Copy and link until little is left.  The old graph grows meanwhile. */
static enum err_code catch_up(struct rebuild *rebuild, const struct engine_hooks *hooks,
                              struct err *err)
{
    enum err_code code = ERR_OK;
    uint64_t left = 0;

    for (;;) {
        uint32_t count = atomic_load_explicit(&rebuild->old->count, memory_order_acquire);

        if (count - rebuild->copied + left <= MAX_OF((uint32_t)SLICE, count / TAIL_PART))
            return ERR_OK;
        if (!hooks_go_on(hooks))
            return err_set(err, ERR_DEAD, "stopped after %u of %u vectors", rebuild->copied, count);
        code = copy_to(rebuild, MIN_OF(count, rebuild->copied + SLICE), err);
        if (code == ERR_OK)
            code = check_budget(rebuild, err);
        if (code == ERR_OK && rebuild->batch != NULL)
            code = batch_link(rebuild->batch, rebuild->new, SLICE, &left, err);
        if (code != ERR_OK)
            return code;
    }
}

/* Those that died after they were copied.  Both graphs ascend by ordinal. */
static void bury(const struct rebuild *rebuild)
{
    uint32_t count = (uint32_t)graph_size_of(rebuild->new).count;
    uint32_t slot = 0;

    for (uint32_t i = 0; i < rebuild->first; i++)
        if ((slot_state(rebuild->old, i) & SLOT_DEAD) != 0)
            (void)colds_delete(rebuild->colds, slot_of(rebuild->old, i)->ordinal);
    for (uint32_t i = rebuild->first; i < rebuild->copied && slot < count; i++) {
        if (slot_of(rebuild->old, i)->ordinal != slot_of(rebuild->new, slot)->ordinal)
            continue;
        if ((slot_state(rebuild->old, i) & SLOT_DEAD) != 0)
            graph_delete(rebuild->new, slot);
        slot++;
    }
}

static enum err_code change_places(struct rebuild *rebuild, struct err *err)
{
    struct engine *engine = rebuild->engine;

    pthread_mutex_lock(&engine->link_lock);
    pthread_mutex_lock(&engine->write_lock);
    enum err_code code = copy_to(rebuild, (uint32_t)graph_size_of(rebuild->old).count, err);
    if (code == ERR_OK) {
        struct colds *colds = rebuild->colds;

        if (colds == NULL)
            colds = graph_cold(rebuild->old);
        bury(rebuild);
        rebuild->new->cold = colds;
        rebuild->new->cold_live = colds_live(colds);
        rebuild->new->cold_rows = colds_rows(colds);
        rebuild->new->before = graph_of(engine);
        /* It stands in until the new graph is measured, which is due at once: `calibrated` is 0. */
        rebuild->new->calibration = rebuild->old->calibration;
        keeper_forget(engine->keeper);
        /* Releasing: who sees the graph sees what it holds. */
        atomic_store_explicit(&engine->graph, rebuild->new, memory_order_release);
    }
    pthread_mutex_unlock(&engine->write_lock);
    pthread_mutex_unlock(&engine->link_lock);
    return code;
}

static enum err_code begin(struct rebuild *rebuild, struct err *err)
{
    struct engine *engine = rebuild->engine;
    uint32_t count = atomic_load_explicit(&rebuild->old->count, memory_order_acquire);

    rebuild->new = graph_new(&engine->options, engine->kernels);
    /* On this thread alone: the borrowed ones are for linking what is new. */
    if (rebuild->new != NULL && engine->options.kind != ENGINE_FLAT)
        rebuild->batch = batch_new(&engine->options, NULL, &engine->scratches);
    (void)slot_find(rebuild->old, colds_floor(rebuild->colds), count, &rebuild->first);
    rebuild->copied = rebuild->first;
    if (rebuild->new == NULL || (engine->options.kind != ENGINE_FLAT && rebuild->batch == NULL))
        return err_set(err, ERR_NO_MEMORY, "no memory to rebuild the graph");
    return ERR_OK;
}

enum err_code rebuild(struct engine *engine, struct colds *colds, const struct engine_hooks *hooks,
                      struct err *err)
{
    struct graph *old = graph_of(engine); /* only our caller changes it */
    struct rebuild rebuild = {.engine = engine, .old = old, .colds = colds};
    enum err_code code = begin(&rebuild, err);

    if (code == ERR_OK)
        code = catch_up(&rebuild, hooks, err);
    if (code == ERR_OK)
        code = change_places(&rebuild, err);
    batch_free(rebuild.batch);
    if (code != ERR_OK) {
        graph_free(rebuild.new);
        return code;
    }
    scratch_grace(&engine->scratches);
    if (colds != NULL)
        memory_free(graph_cold(old));
    atomic_store_explicit(&old->calibration, NULL, memory_order_relaxed); /* the new one's now */
    graph_clear(old);
    return ERR_OK;
}
