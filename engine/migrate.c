/* See migrate.h.
 *
 * A part is made in the same way whether its vectors come from the graph or from other parts: an
 * inverted file of the living is built, written to a file, and opened from there.  Then it takes
 * its place in memory at one blow: with a new graph that begins behind it, or instead of the parts
 * that it was merged from.  Who died meanwhile is buried before that, while deletions wait.
 *
 * On the disk the new file changes nothing until the graph's segment is written again, which then
 * begins behind it; until then it is a file that reaches into the segment, and not looked at (see
 * cold_folder.c).  So parts are merged only when that segment knows of all of them: the files they
 * were merged from are removed last, and any file that is left over stands for less than another.
 *
 * Of many parts the newest are merged, and older ones as long as they are at most twice as large as
 * all that are merged with them: so a vector is moved as often as the collection doubles.
 * Failure: the new file is removed, all is as it was. */
#include "engine/migrate.h"

#include <limits.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "engine/keeper.h"
#include "engine/memory.h"
#include "engine/rebuild.h"

enum {
    PARTS_USUAL = 4,  /* more are merged */
    PARTS_GROWTH = 2, /* see above */
    DEAD_PART = 5,
};

/* What becomes a part: the vectors stay where they are while it is made. */
struct making {
    struct engine *engine;
    const struct engine_hooks *hooks;
    uint32_t from, to; /* ordinals */
    uint32_t count, max;
    const float **vectors;
    uint32_t *ordinals;
    bool is_stopped;
    char path[PATH_MAX];
};

static bool go_on(struct making *making)
{
    if (!making->is_stopped)
        making->is_stopped = !hooks_go_on(making->hooks);
    return !making->is_stopped;
}

/* An executor of this thread alone, for the borrowed ones are for linking what is new.  Once it is
 * stopped it leaves all jobs out: what is built then is nonsense, and thrown away. */
static void run_while_wanted(void *state, void (*job)(void *argument, size_t index), void *argument,
                             size_t count)
{
    struct making *making = state;

    for (size_t i = 0; i < count && go_on(making); i++)
        job(argument, i);
}

static const float *vector_at(void *state, uint32_t row, float *room)
{
    const struct making *making = state;

    (void)room;
    return making->vectors[row];
}

static enum err_code open_making(struct making *making, uint64_t max, struct err *err)
{
    making->max = (uint32_t)max;
    making->vectors = memory_alloc(max, sizeof(*making->vectors));
    making->ordinals = memory_alloc(max, sizeof(*making->ordinals));
    if (making->vectors == NULL || making->ordinals == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to make a cold part");
    return ERR_OK;
}

static void close_making(struct making *making)
{
    memory_free(making->vectors);
    memory_free(making->ordinals);
}

static void take(struct making *making, uint32_t ordinal, const float *vector)
{
    making->vectors[making->count] = vector;
    making->ordinals[making->count++] = ordinal;
}

static struct ivf_options options_of(const struct engine_options *options)
{
    return (struct ivf_options){.dim = options->dim,
                                .metric = options->metric,
                                .kind = options->cold_kind,
                                .seed = options->seed};
}

uint64_t migrate_predict(const struct engine_options *options, uint64_t n)
{
    struct ivf_options of = options_of(options);
    uint32_t count = (uint32_t)MIN_OF(n, PLANE_ROWS_MAX);

    return sizeof(struct cold) + ivf_predict(&of, count, ENGINE_LOAD) + n * sizeof(uint32_t) +
           n / CHAR_BIT;
}

static enum err_code check_budget(const struct making *making, struct err *err)
{
    const struct engine *engine = making->engine;
    struct ivf_options options = options_of(&engine->options);
    uint64_t budget = engine->options.memory_budget;

    if (budget == 0 ||
        engine_memory_used(engine) + ivf_predict(&options, making->count, ENGINE_BUILD) <= budget)
        return ERR_OK;
    return err_set(err, ERR_INSUFFICIENT_STORAGE,
                   "the memory budget has no room to make %u vectors cold", making->count);
}

static enum err_code build(struct making *making, struct ivf **out, struct err *err)
{
    struct engine *engine = making->engine;
    struct ivf_options options = options_of(&engine->options);
    struct engine_executor executor = {.run = run_while_wanted, .state = making};
    struct ivf_rows rows = {.count = making->count,
                            .ordinals = making->ordinals,
                            .at = vector_at,
                            .state = making,
                            .is_unit = options.metric == ENGINE_COSINE};

    options.kernel = engine->kernels->name;
    enum err_code code = ivf_build(out, &options, &rows, &executor, err);
    if (code == ERR_OK && making->is_stopped) {
        ivf_free(*out);
        *out = NULL;
        return err_set(err, ERR_DEAD, "stopped while %u vectors became cold", making->count);
    }
    return code;
}

/* The part from its file, which is there after ERR_OK only. */
static enum err_code make_part(struct making *making, struct cold **out, struct err *err)
{
    struct engine *engine = making->engine;
    uint32_t number = keeper_next_cold(engine->keeper);
    struct ivf *ivf = NULL;
    enum err_code code = check_budget(making, err);

    *out = NULL;
    if (code == ERR_OK &&
        !keeper_cold_path(engine->keeper, number, making->path, sizeof(making->path)))
        code = err_set(err, ERR_INVALID_ARGUMENT, "the folder's path is too long");
    if (code == ERR_OK)
        code = build(making, &ivf, err);
    if (code != ERR_OK)
        return code;
    struct cold_source source = {.ivf = ivf, .from = making->from, .to = making->to};
    code = cold_write(making->path, &source, making->hooks, err);
    ivf_free(ivf);
    if (code == ERR_OK)
        code = cold_open(out, making->path, &engine->options, engine->kernels, err);
    if (code != ERR_OK) {
        (void)unlink(making->path); /* its name may not be synced */
        return code;
    }
    (*out)->number = number;
    return ERR_OK;
}

static void unmake(const struct making *making, struct cold *part)
{
    cold_close(part);
    (void)unlink(making->path);
}

/* --- from the graph -------------------------------------------------------------------------- */

bool migrate_is_due(const struct engine *engine, const struct graph *graph)
{
    const struct colds *colds = graph_cold(graph);
    uint64_t live = atomic_load_explicit(&graph->live, memory_order_relaxed);

    return engine->keeper != NULL && engine->options.cold_above > 0 &&
           live > engine->options.cold_above && (colds == NULL || colds->count < COLD_PARTS_MAX);
}

/* The oldest that live. */
static void take_oldest(struct making *making, const struct graph *graph)
{
    uint32_t count = atomic_load_explicit(&graph->count, memory_order_acquire);

    for (uint32_t slot = 0; slot < count && making->count < making->max; slot++)
        if ((slot_state(graph, slot) & SLOT_DEAD) == 0) {
            take(making, slot_of(graph, slot)->ordinal, vector_of(graph, slot));
            making->to = slot_of(graph, slot)->ordinal + 1;
        }
}

static enum err_code migrate_all(struct making *making, struct err *err)
{
    struct engine *engine = making->engine;
    struct colds *before = graph_cold(graph_of(engine));
    struct cold *part;

    take_oldest(making, graph_of(engine));
    if (making->count == 0)
        return ERR_OK; /* they have died meanwhile */
    enum err_code code = make_part(making, &part, err);
    if (code != ERR_OK)
        return code;
    struct colds *colds = colds_changed(before, before == NULL ? 0 : before->count, 0, part);
    if (colds == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory for a cold part");
    else
        code = rebuild(engine, colds, making->hooks, err);
    if (code != ERR_OK) {
        memory_free(colds);
        unmake(making, part);
    }
    return code;
}

enum err_code migrate(struct engine *engine, const struct engine_hooks *hooks, struct err *err)
{
    const struct graph *graph = graph_of(engine); /* only our caller changes it */
    uint64_t live = atomic_load_explicit(&graph->live, memory_order_relaxed);
    struct making making = {
        .engine = engine, .hooks = hooks, .from = colds_floor(graph_cold(graph))};

    if (live <= engine->options.cold_above)
        return ERR_OK; /* some have died meanwhile */
    enum err_code code = open_making(&making, live - engine->options.cold_above / 2, err);

    if (code == ERR_OK)
        code = migrate_all(&making, err);
    close_making(&making);
    return code;
}

/* --- from other parts ------------------------------------------------------------------------ */

/* Parts `at` .. at + count - 1; false: none need it. */
static bool choose(const struct colds *colds, uint32_t *at, uint32_t *count)
{
    for (uint32_t i = 0; colds != NULL && i < colds->count; i++) {
        uint64_t rows = colds->parts[i]->ivf->rows.count;
        uint64_t dead = rows - cold_live(colds->parts[i]);

        *at = i;
        *count = 1;
        if (dead > 0 && dead * DEAD_PART >= rows)
            return true;
    }
    if (colds == NULL || colds->count <= PARTS_USUAL)
        return false;
    uint64_t rows = cold_live(colds->parts[colds->count - 1]);
    *at = colds->count - 1;
    do
        rows += cold_live(colds->parts[--*at]);
    while (*at > 0 && cold_live(colds->parts[*at - 1]) <= PARTS_GROWTH * rows);
    *count = colds->count - *at;
    return true;
}

bool merge_is_due(const struct engine *engine, const struct graph *graph)
{
    uint32_t at, count;

    return engine->keeper != NULL &&
           keeper_floor(engine->keeper) == colds_floor(graph_cold(graph)) &&
           choose(graph_cold(graph), &at, &count);
}

static void take_living(struct making *making, const struct cold *cold)
{
    const struct ivf_rows *rows = &cold->ivf->rows;

    for (uint32_t row = 0; row < rows->count && making->count < making->max; row++)
        if (!cold_is_dead(cold, row))
            take(making, ivf_ordinal(cold->ivf, row), rows->vectors + row * rows->stride);
}

/* Those that died since they were taken. */
static void bury(struct cold *part, const struct cold *old)
{
    for (uint32_t row = 0; row < old->ivf->rows.count; row++)
        if (cold_is_dead(old, row))
            (void)cold_delete(part, ivf_ordinal(old->ivf, row));
}

static enum err_code change_places(const struct making *making, struct cold *part, uint32_t at,
                                   uint32_t count, struct err *err)
{
    struct engine *engine = making->engine;
    struct graph *graph = graph_of(engine);
    struct colds *old = graph_cold(graph);
    struct colds *colds = colds_changed(old, at, count, part);

    if (colds == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to merge cold parts");
    pthread_mutex_lock(&engine->write_lock);
    for (uint32_t i = at; i < at + count; i++)
        bury(part, old->parts[i]);
    /* Releasing: who sees the list sees its parts. */
    atomic_store_explicit(&graph->cold, colds, memory_order_release);
    atomic_store_explicit(&graph->cold_rows, colds_rows(colds), memory_order_relaxed);
    pthread_mutex_unlock(&engine->write_lock);
    scratch_grace(&engine->scratches);
    for (uint32_t i = at; i < at + count; i++) {
        char path[PATH_MAX];

        if (keeper_cold_path(engine->keeper, old->parts[i]->number, path, sizeof(path)))
            (void)unlink(path); /* one that stays is removed when the folder is opened */
        cold_close(old->parts[i]);
    }
    memory_free(old);
    return ERR_OK;
}

enum err_code merge(struct engine *engine, const struct engine_hooks *hooks, struct err *err)
{
    struct colds *colds = graph_cold(graph_of(engine)); /* only our caller changes it */
    struct making making = {.engine = engine, .hooks = hooks};
    uint32_t at, count;
    uint64_t live = 0;
    struct cold *part;

    if (!choose(colds, &at, &count))
        return ERR_OK;
    making.from = colds->parts[at]->from;
    making.to = colds->parts[at + count - 1]->to;
    for (uint32_t i = at; i < at + count; i++)
        live += cold_live(colds->parts[i]);
    enum err_code code = open_making(&making, live, err);
    for (uint32_t i = at; code == ERR_OK && i < at + count; i++)
        take_living(&making, colds->parts[i]);
    if (code == ERR_OK)
        code = make_part(&making, &part, err);
    if (code == ERR_OK) {
        code = change_places(&making, part, at, count, err);
        if (code != ERR_OK)
            unmake(&making, part);
    }
    close_making(&making);
    return code;
}
