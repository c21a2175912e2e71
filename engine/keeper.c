/* See keeper.h.
 *
 * The folder holds one segment, which is replaced as a whole: graph.seg; and cold parts, which say
 * of themselves what they stand for.  A segment of a graph that begins behind cold parts says so
 * too: without them it cannot be used, for what it covers would have gaps.  It is written again
 * when the graph has grown by a quarter, so that each vector is written about five times while a
 * collection grows, and at most a fifth of it is linked again after a restart; or, while it rests,
 * by a sixteenth.
 * What was measured on the graph is a file of its own, graph.cal, for it is known only after the
 * segment is written, and stays true when that is written again.  One that is damaged or of another
 * graph is not looked at again: it costs the seconds of measuring.
 * Failure: what stands in the folder stays as it was, and the writing is still due. */
#include "engine/keeper.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "engine/calibrate_file.h"
#include "engine/cold.h"
#include "engine/memory.h"
#include "engine/new_file.h"
#include "engine/segment.h"

enum {
    GROWTH_LEAST = 5, /* times flat_below: by default what is linked in about a second */
    GROWTH_PART = 4,
    REST_PART = 16,
};

struct keeper {
    char dir[PATH_MAX];
    char path[PATH_MAX]; /* of the segment */
    struct err notice;   /* why it, or a cold part, was set aside */
    uint32_t next_cold;  /* number of the next cold part */
    _Atomic uint32_t covered;
    _Atomic uint32_t written; /* slots of the engine's graph that are in the segment */
    _Atomic uint32_t floor;   /* of the segment */
    _Atomic uint32_t rested;  /* graph.linked when it was told to rest; it does until that grows */
    _Atomic uint32_t calibrated; /* graph.calibrated of the calibration that is in the folder */
};

static enum err_code name_segment(struct keeper *keeper, const char *dir, struct err *err)
{
    int len = snprintf(keeper->path, sizeof(keeper->path), "%s/" KEEPER_SEGMENT, dir);

    if (len < 0 || (size_t)len >= sizeof(keeper->path) ||
        snprintf(keeper->dir, sizeof(keeper->dir), "%s", dir) >= (int)sizeof(keeper->dir))
        return err_set(err, ERR_INVALID_ARGUMENT, "the folder's path is too long");
    if (mkdir(dir, 0755) != 0 && errno != EEXIST)
        return err_set_errno(err, errno, "folder of segments");
    return ERR_OK;
}

/* What a crash left of a file that was being written. */
static enum err_code remove_unfinished(const char *path, struct err *err)
{
    char unfinished[PATH_MAX + 8];

    (void)snprintf(unfinished, sizeof(unfinished), "%s" NEW_FILE_SUFFIX, path);
    if (unlink(unfinished) != 0 && errno != ENOENT)
        return err_set_errno(err, errno, "removing an unfinished segment");
    return ERR_OK;
}

static void name_calibration(const struct keeper *keeper, char out[PATH_MAX + 16])
{
    (void)snprintf(out, PATH_MAX + 16, "%s/" KEEPER_CALIBRATION, keeper->dir);
}

/* Before anybody searches.  Errors: ERR_NO_MEMORY. */
static enum err_code take_calibration(const struct engine *engine, struct err *err)
{
    struct graph *graph = graph_of(engine);
    struct calibration *found;
    char path[PATH_MAX + 16];
    struct err why;

    name_calibration(engine->keeper, path);
    enum err_code code = calibrate_read(&found, path, graph, &why);
    if (code == ERR_NO_MEMORY)
        *err = why;
    if (code != ERR_OK)
        return code == ERR_NO_MEMORY ? code : ERR_OK;
    graph->calibration = found;
    graph->calibrated = engine->keeper->calibrated = found->linked;
    return ERR_OK;
}

/* A segment that cannot be used is kept for whoever wants to know why, but only the last one. */
static enum err_code set_aside(struct keeper *keeper, const struct err *why, struct err *err)
{
    char aside[PATH_MAX + 16];

    (void)snprintf(aside, sizeof(aside), "%s.damaged", keeper->path);
    if (rename(keeper->path, aside) != 0)
        return err_set_errno(err, errno, "setting a segment aside (%.100s)", why->message);
    if (keeper->notice.message[0] == '\0')
        keeper->notice = *why;
    return ERR_OK;
}

/* colds: those that come before so many vectors of the graph. */
static enum err_code check_budget(const struct engine *engine, const struct colds *colds,
                                  uint32_t count, struct err *err)
{
    struct engine_options options = engine->options;

    options.cold_above = 0;
    uint64_t bytes = engine_predict(&options, count, ENGINE_LOAD) + colds_bytes(colds);
    if (options.memory_budget == 0 || bytes <= options.memory_budget)
        return ERR_OK;
    return err_set(
        err, ERR_INSUFFICIENT_STORAGE,
        "the segment's %u vectors, and %llu cold ones, take %llu bytes, above the memory "
        "budget",
        count, (unsigned long long)colds_rows(colds), (unsigned long long)bytes);
}

static enum err_code take_segment(struct engine *engine, struct segment *segment, struct err *err)
{
    struct keeper *keeper = engine->keeper;
    struct graph *graph = graph_of(engine);
    uint32_t count = segment_parts(segment)->count;
    enum err_code code = segment_give(segment, graph, err);

    if (code != ERR_OK)
        return code;
    keeper->covered = slot_of(graph, count - 1)->ordinal + 1;
    keeper->written = count;
    return take_calibration(engine, err);
}

/* *out: NULL if there is none, or none that can be used. */
static enum err_code open_segment(const struct engine *engine, struct segment **out,
                                  struct err *err)
{
    struct keeper *keeper = engine->keeper;
    struct segment_how how = {.copied = SEGMENT_COPY_ALL & ~segment_filed(&engine->options),
                              .expected = &engine->options};
    struct err why = {0};
    enum err_code code = segment_open(out, keeper->path, &how, &why);

    if (code == ERR_OK || code == ERR_NOT_FOUND)
        return ERR_OK;
    if (code == ERR_CORRUPT || code == ERR_CONFIG || code == ERR_IO)
        return set_aside(keeper, &why, err);
    *err = why;
    return code;
}

/* The parts that come before the segment; if they are not all there it is set aside and *segment
 * is NULL: then they are all there is. */
static enum err_code open_colds(const struct engine *engine, struct segment **segment,
                                struct colds **out, struct err *err)
{
    struct keeper *keeper = engine->keeper;
    struct cold_folder folder = {.dir = keeper->dir,
                                 .floor = UINT32_MAX,
                                 .expected = &engine->options,
                                 .kernels = engine->kernels,
                                 .notice = &keeper->notice};
    struct err why = {0};

    if (*segment != NULL)
        folder.floor = segment_parts(*segment)->floor;
    enum err_code code = colds_open(out, &folder, err);
    if (code != ERR_OK || *segment == NULL || colds_floor(*out) == folder.floor)
        return code;
    (void)err_set(&why, ERR_CORRUPT,
                  "segment " KEEPER_SEGMENT
                  ": the cold vectors from ordinal %u to %u are not there",
                  colds_floor(*out), folder.floor);
    colds_close(*out);
    *out = NULL;
    segment_close(*segment);
    *segment = NULL;
    code = set_aside(keeper, &why, err);
    folder.floor = UINT32_MAX;
    return code == ERR_OK ? colds_open(out, &folder, err) : code;
}

static enum err_code take_all(struct engine *engine, struct segment *segment, struct colds *colds,
                              struct err *err)
{
    struct keeper *keeper = engine->keeper;
    struct graph *graph = graph_of(engine);
    uint32_t count = segment == NULL ? 0 : segment_parts(segment)->count;
    enum err_code code = ERR_OK;

    graph->cold = colds;
    graph->cold_live = colds_live(colds);
    graph->cold_rows = colds_rows(colds);
    keeper->covered = keeper->floor = colds_floor(colds);
    if (count > 0 || colds != NULL)
        code = check_budget(engine, colds, count, err);
    if (code == ERR_OK && segment != NULL)
        code = take_segment(engine, segment, err);
    engine->next_ordinal = keeper->covered;
    if (code == ERR_OK)
        colds_tidy(colds, keeper->dir, &keeper->next_cold);
    return code;
}

static enum err_code load(struct engine *engine, struct err *err)
{
    struct segment *segment = NULL;
    struct colds *colds = NULL;
    enum err_code code = open_segment(engine, &segment, err);

    if (code == ERR_OK)
        code = open_colds(engine, &segment, &colds, err);
    if (code == ERR_OK)
        code = take_all(engine, segment, colds, err); /* the parts are the graph's now */
    segment_close(segment);
    return code;
}

enum err_code keeper_open(struct engine *engine, const char *dir, struct err *err)
{
    if (engine->options.kind == ENGINE_FLAT)
        return ERR_OK; /* nothing is linked: its owner's copies are all there is to keep */
    engine->keeper = memory_alloc(1, sizeof(*engine->keeper));
    if (engine->keeper == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to keep segments");
    char calibration[PATH_MAX + 16];
    enum err_code code = name_segment(engine->keeper, dir, err);
    if (code == ERR_OK)
        code = remove_unfinished(engine->keeper->path, err);
    if (code == ERR_OK) {
        name_calibration(engine->keeper, calibration);
        code = remove_unfinished(calibration, err);
    }
    return code == ERR_OK ? load(engine, err) : code;
}

void keeper_close(struct keeper *keeper)
{
    memory_free(keeper);
}

uint32_t keeper_covered(const struct keeper *keeper)
{
    return keeper == NULL ? 0 : atomic_load_explicit(&keeper->covered, memory_order_acquire);
}

uint64_t keeper_bytes(const struct keeper *keeper)
{
    return keeper == NULL ? 0 : sizeof(*keeper);
}

uint32_t keeper_floor(const struct keeper *keeper)
{
    return atomic_load_explicit(&keeper->floor, memory_order_relaxed);
}

uint32_t keeper_next_cold(struct keeper *keeper)
{
    return keeper->next_cold++;
}

bool keeper_cold_path(const struct keeper *keeper, uint32_t number, char *out, size_t size)
{
    return cold_path(out, size, keeper->dir, number);
}

const char *engine_notice(const struct engine *engine)
{
    return engine->keeper == NULL ? "" : engine->keeper->notice.message;
}

bool keeper_is_behind(const struct keeper *keeper, const struct graph *graph)
{
    return keeper != NULL && colds_floor(graph_cold(graph)) != keeper_floor(keeper);
}

bool keeper_is_due(const struct keeper *keeper, const struct graph *graph)
{
    if (keeper == NULL)
        return false;
    uint32_t linked = atomic_load_explicit(&graph->linked, memory_order_relaxed);
    uint32_t written = atomic_load_explicit(&keeper->written, memory_order_relaxed);
    uint64_t least = (uint64_t)GROWTH_LEAST * graph->options.flat_below;

    if (keeper_is_behind(keeper, graph) &&
        graph_size_of(graph).count >= (uint64_t)frame_sample(&graph->options) + BATCH_MAX)
        return true; /* so many are linked soon */
    uint32_t part = linked == atomic_load_explicit(&keeper->rested, memory_order_relaxed)
                        ? REST_PART
                        : GROWTH_PART;
    return linked >= written && linked - written >= MAX_OF(least, (uint64_t)written / part);
}

void keeper_rest(struct keeper *keeper, const struct graph *graph)
{
    if (keeper != NULL)
        atomic_store_explicit(&keeper->rested,
                              atomic_load_explicit(&graph->linked, memory_order_relaxed),
                              memory_order_relaxed);
}

void keeper_forget(struct keeper *keeper)
{
    if (keeper == NULL)
        return;
    atomic_store_explicit(&keeper->written, 0, memory_order_relaxed);
    atomic_store_explicit(&keeper->calibrated, 0, memory_order_relaxed);
}

/* --- writing --------------------------------------------------------------------------------- */

struct sealing {
    struct engine *engine;
    const struct engine_hooks *hooks;
    bool is_locked; /* nothing is linked */
};

static bool seal_go_on(void *state, uint64_t bytes_done, uint64_t bytes)
{
    const struct sealing *sealing = state;

    (void)bytes_done;
    (void)bytes;
    return hooks_go_on(sealing->hooks);
}

static void seal_unlock(void *state)
{
    struct sealing *sealing = state;

    if (sealing->is_locked)
        pthread_mutex_unlock(&sealing->engine->link_lock);
    sealing->is_locked = false;
}

static enum err_code seal_make_durable(void *state, struct err *err)
{
    const struct sealing *sealing = state;

    return hooks_make_durable(sealing->hooks, err);
}

enum err_code keeper_seal(struct engine *engine, const struct engine_hooks *hooks, struct err *err)
{
    struct keeper *keeper = engine->keeper;
    struct sealing sealing = {.engine = engine, .hooks = hooks, .is_locked = true};
    struct segment_progress progress = {.go_on = seal_go_on,
                                        .links_written = seal_unlock,
                                        .before_rename = seal_make_durable,
                                        .state = &sealing};

    pthread_mutex_lock(&engine->link_lock);
    struct graph *graph = graph_of(engine); /* only our caller changes it */
    struct segment_parts parts = segment_parts_of(graph);
    enum err_code code = segment_write(keeper->path, &parts, &progress, err);
    seal_unlock(&sealing);
    if (code != ERR_OK)
        return code;
    atomic_store_explicit(&keeper->covered, slot_of(graph, parts.count - 1)->ordinal + 1,
                          memory_order_release);
    atomic_store_explicit(&keeper->written, parts.count, memory_order_relaxed);
    atomic_store_explicit(&keeper->floor, parts.floor, memory_order_relaxed);
    return segment_lend(keeper->path, &parts, graph, err);
}

bool keeper_lacks_calibration(const struct keeper *keeper, const struct graph *graph)
{
    if (keeper == NULL)
        return false;
    uint32_t calibrated = atomic_load_explicit(&graph->calibrated, memory_order_relaxed);

    return calibrated != atomic_load_explicit(&keeper->calibrated, memory_order_relaxed) &&
           calibrated != 0 && atomic_load_explicit(&keeper->written, memory_order_relaxed) != 0;
}

enum err_code keeper_keep_calibration(struct engine *engine, struct err *err)
{
    struct keeper *keeper = engine->keeper;
    const struct graph *graph = graph_of(engine); /* only our caller changes it */
    uint32_t written = atomic_load_explicit(&keeper->written, memory_order_relaxed);
    uint32_t calibrated = atomic_load_explicit(&graph->calibrated, memory_order_relaxed);
    char path[PATH_MAX + 16];

    /* More may have been linked than is in the segment: only that is there after a restart. */
    name_calibration(keeper, path);
    enum err_code code = calibrate_write(path, graph, MIN_OF(written, calibrated), err);
    if (code == ERR_OK)
        atomic_store_explicit(&keeper->calibrated, calibrated, memory_order_relaxed);
    return code;
}
