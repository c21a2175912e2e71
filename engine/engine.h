/* The vector engine: nearest neighbours among vectors that are inserted and deleted while they
 * are searched.  No sockets, no JSON, no threads of its own.
 *
 * A vector is known by its ordinal, a number that its owner hands out in rising order and never
 * uses twice.  Inserting is cheap: the vector is copied into the plane and is found from then on
 * by a flat scan of the part that the graph does not hold yet; engine_step() links that part into
 * the graph, a slice at a time, so whoever owns the engine decides when the work is done.
 *
 * Threads: any number of readers (engine_search, engine_count …) at any time, without locks.
 * engine_insert and engine_delete: one caller at a time.  engine_step: one caller at a time, on
 * any thread, also while another thread inserts or deletes.  The owner keeps the engine alive
 * until its last reader has returned.
 *
 * The graph is walked, and built, by 4-bit codes of the vectors (codes.h), which are an eighth of
 * their bytes; the nearest that a walk finds are measured on the vectors, so that every distance
 * which is answered is exact.  A walk ends when what is left lies too far beyond the k-th nearest:
 * ef, the effort, says how far that is and how wide the beam may grow.  With a filter the engine
 * chooses between walking and scanning what the filter names, by the same codes.
 *
 * Source: Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using
 * hierarchical navigable small world graphs", arXiv 1603.09320.
 */
#ifndef VICINAL_ENGINE_ENGINE_H
#define VICINAL_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

struct engine;

enum engine_metric { ENGINE_COSINE, ENGINE_IP, ENGINE_L2 };
enum engine_kind { ENGINE_HNSW, ENGINE_FLAT };

/* Inverted files (ivf.h): how they know vectors before they measure them. */
enum ivf_kind { IVF_FLAT, IVF_PQ, IVF_RABITQ };

/* Borrowed threads: run job(argument, i) for every i < count, on any threads, and return when all
 * have ended.  NULL run: the caller's thread does it. */
struct engine_executor {
    void (*run)(void *state, void (*job)(void *argument, size_t index), void *argument,
                size_t count);
    void *state;
};

struct engine_options {
    uint32_t dim; /* 1..DIMENSION_MAX */
    enum engine_metric metric;
    enum engine_kind kind;
    uint32_t m; /* links a node keeps above the ground, where it keeps 2 m; 0: default */
    uint32_t ef_construction; /* beam of an insertion; 0: default */
    uint32_t bits;            /* of the codes that the walk reads: 1, 2, 4, 8; 0: default */
    uint32_t flat_below;      /* at most so many live vectors: exact scan; 0: default */
    uint32_t cold_above;      /* live vectors that the graph may hold, see below; 0: any number */
    enum ivf_kind cold_kind;  /* of what becomes cold; IVF_FLAT: default */
    uint64_t memory_budget;   /* bytes; 0: no limit */
    uint64_t seed;            /* of the levels; equal on all replicas */
    const char *kernel;       /* "scalar", "avx2", "avx512", "vnni"; NULL: the best here */
};

/* cold_above: an engine with a folder whose graph holds more live vectors lets the oldest of them
 * become cold when it is maintained, until half as many are left: they live in inverted files in
 * the folder then, and take a quarter of the memory.  A search asks both, for one answer of one
 * recall.
 *
 * dir: the folder, made if it is not there, in which the engine keeps its segment (segment.h); the
 * engine's alone.  NULL: nothing is kept.  A segment that is there is loaded: all that was linked
 * when it was written is there again, dead or alive as it was then; what was cold lives again as
 * far as it lived when it became so.  What is damaged or made with other options is renamed to
 * X.damaged, what comes behind it cannot be used either, and engine_notice() says why.  What was
 * measured on the graph (engine_query.recall) is kept as well; if that is damaged it is measured
 * again.
 * The executor is borrowed until close, may be NULL.
 * Errors: ERR_INVALID_ARGUMENT (options), ERR_CONFIG (unknown or unsupported kernel; no OpenBLAS,
 * which cold_above wants), ERR_NO_MEMORY, ERR_IO (the folder). */
MUST_CHECK enum err_code engine_open(struct engine **out, const char *dir,
                                     const struct engine_options *options,
                                     const struct engine_executor *executor, struct err *err);
void engine_close(struct engine *engine);

/* Copy dim floats; found by every search that begins after the return.  ordinal must be above all
 * before it (gaps are allowed and cost 8 bytes each at the most).  A cosine engine keeps the
 * normalised vector; a zero vector is kept and has distance 1 to everything.
 * Errors: ERR_NO_MEMORY, ERR_INSUFFICIENT_STORAGE (over the budget), ERR_INVALID_ARGUMENT
 * (ordinal not above the last one, a number that is not finite); the engine is unchanged then. */
MUST_CHECK enum err_code engine_insert(struct engine *engine, uint32_t ordinal, const float *vector,
                                       struct err *err);

/* Not returned from now on, still walked through.  Unknown and dead ordinals are ignored. */
void engine_delete(struct engine *engine, uint32_t ordinal);

/* Which ordinals a search may return: bit i of words[i / 64]; ordinals beyond are excluded. */
struct engine_bitmap {
    const uint64_t *words;
    size_t word_count;
    uint64_t cardinality; /* bits set */
};

static inline bool engine_bitmap_names(const struct engine_bitmap *bitmap, uint32_t ordinal)
{
    return ordinal / 64 < bitmap->word_count &&
           (bitmap->words[ordinal / 64] >> ordinal % 64 & 1) != 0;
}

struct engine_query {
    const float *vector;                /* dim floats, finite */
    uint32_t k;                         /* at least 1 */
    uint32_t ef;                        /* effort; 0: default for k; raised to k */
    float recall;                       /* 0.5..1 that is wanted of the k nearest; 0: as ef says */
    bool exact;                         /* measure all that may be returned */
    const struct engine_bitmap *filter; /* NULL: all */
    float bound;                        /* farther hits are not wanted; INFINITY: none */
    uint64_t deadline_ns;               /* CLOCK_MONOTONIC; 0: none */
};

/* Smaller is nearer: cosine 1 - cos, ip -dot, l2 the squared distance. */
struct engine_hit {
    float distance;
    uint32_t ordinal;
};

struct engine_counters {
    /* "hnsw", "flat", "flat_filter", "hnsw_filter": what gave the answer; and "+ivf" behind that if
     * inverted files were asked too. */
    const char *plan;
    uint64_t distances; /* estimated and measured, in the graph and in the scan */
    uint64_t hops;      /* graph nodes expanded */
    uint64_t lists;     /* lists of inverted files looked at */
    uint64_t scanned;   /* vectors that the flat scan saw */
    uint64_t linked;    /* vectors that the graph and the inverted files held */
    uint32_t ef;        /* effort of a walk */
};

/* A search may say which recall it wants, the share of the k nearest that is found, instead of the
 * effort; an ef that is given too is the least effort then.  Recall is a mean over queries, and the
 * promise holds within a point for queries that lie no farther from the data than k-th neighbours
 * from one another, in data that have some structure.  engine_maintain() finds out which effort
 * that takes in this graph, and the folder keeps it; before, or while there are few vectors, it is
 * guessed cautiously.  1 is the greatest effort that was worth measuring; only `exact`
 * promises all. */

/* Up to k hits, ascending by (distance, ordinal), into hits (room for k); *count says how many.
 * counters may be NULL.
 * Errors: ERR_TIMEOUT (deadline), ERR_NO_MEMORY, ERR_INVALID_ARGUMENT. */
MUST_CHECK enum err_code engine_search(struct engine *engine, const struct engine_query *query,
                                       struct engine_hit *hits, size_t *count,
                                       struct engine_counters *counters, struct err *err);

/* One slice of background work: link up to budget vectors into the graph (with the executor's
 * threads, if it has any).  *left says how many a further call would link: 0, nothing to do.
 * Vectors are linked in batches of up to 64, whose sizes depend only on the number linked before,
 * so that the graph does not depend on budgets and threads: a call may exceed its budget by a part
 * of a batch, and the last vectors, fewer than a batch, stay in the flat scan until it is full
 * (engine_linked() is then below the number inserted while *left is 0).
 * Errors: ERR_NO_MEMORY; nothing of the batch is linked then. */
MUST_CHECK enum err_code engine_step(struct engine *engine, uint32_t budget, uint64_t *left,
                                     struct err *err);

/* Every vector that was inserted with an ordinal below this is in the segment, on the disk, or was
 * dead when that was written: after engine_open() the owner inserts those from here on. */
uint32_t engine_covered(const struct engine *engine);

/* What engine_open() set aside and why; "" if nothing. */
const char *engine_notice(const struct engine *engine);

/* Of the vectors that are there, exactly those live that `living` names: for an owner who knows
 * better than the segment.  Before the first search, insertion or step. */
void engine_keep(struct engine *engine, const struct engine_bitmap *living);

/* Work that takes seconds or minutes, on the thread that calls engine_maintain(). */
struct engine_hooks {
    /* Asked often; false ends the work with ERR_DEAD.  NULL: it goes on. */
    bool (*go_on)(void *state);
    /* Asked before a new segment takes the place of the old one: whatever the engine has been told
     * so far, insertions and deletions, must not be lost or undone from now on.  NULL: it cannot
     * be. */
    enum err_code (*make_durable)(void *state, struct err *err);
    void *state;
};

/* Nothing has been linked for a while: until more is, a smaller part that the graph has grown by is
 * worth being written.  Any thread. */
void engine_rest(struct engine *engine);

/* Is there maintenance that is worth its cost?  The graph has grown by a part since it was last
 * written, or above cold_above, or has doubled since its recall was measured, or what was measured
 * is not written yet, or many vectors are dead. */
bool engine_is_due(const struct engine *engine);

/* Do it: when many vectors are dead the living ones are linked into a new graph, which then takes
 * the place of the old one and gives its memory back; then the graph is written as the engine's
 * segment, in place of the one before, and its vectors are from then on read from that file, not
 * kept in memory; then it is found out which effort gives which recall, and that is written too.
 * When the graph holds more than cold_above, the oldest become cold first; when many of those are
 * dead or stand in many files, these are made anew.  Searches see either state. One caller at a
 * time, on any thread, also while others insert, delete, step and search; a step may wait while
 * links are written. After an error all is as it was, and the work is still due. Errors: ERR_DEAD
 * (go_on), ERR_IO, ERR_INSUFFICIENT_STORAGE, ERR_NO_MEMORY, ERR_CORRUPT, those of make_durable. */
MUST_CHECK enum err_code engine_maintain(struct engine *engine, const struct engine_hooks *hooks,
                                         struct err *err);

uint64_t engine_count(const struct engine *engine);       /* live vectors */
uint64_t engine_linked(const struct engine *engine);      /* those in the graph, and the cold */
uint64_t engine_cold(const struct engine *engine);        /* live ones in inverted files */
uint64_t engine_memory_used(const struct engine *engine); /* bytes taken from the system */

/* Bytes that it takes once all that it holds is linked: at least those that it takes now. */
uint64_t engine_memory_wanted(const struct engine *engine);

/* How many further vectors make that grow by no more than so many bytes. */
uint64_t engine_room(const struct engine *engine, uint64_t bytes);
const char *engine_kernel(const struct engine *engine); /* name of the kernels in use */

enum engine_work { ENGINE_BUILD, ENGINE_LOAD };

/* Bytes that building or loading n vectors will need; with cold_above, when the graph holds as many
 * as it may. */
uint64_t engine_predict(const struct engine_options *options, uint64_t n, enum engine_work work);

/* A number that is equal for engines with the same ordinals, vectors, deletions and graph, hence
 * after the same sequence of insertions, whatever the budgets and threads of engine_step() were;
 * but what is cold depends on when it became so, and on the processor (ivf.h). Only while nobody
 * inserts, deletes or steps. */
uint64_t engine_digest(const struct engine *engine);

/* Check every invariant: degrees, ids, levels, link distances ascending, reachability of live
 * nodes from the entry point.  Only while nobody inserts or steps.
 * Errors: ERR_CORRUPT with what is wrong. */
MUST_CHECK enum err_code engine_validate(const struct engine *engine, struct err *err);

#endif
