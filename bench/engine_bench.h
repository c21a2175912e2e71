/* What the files of engine-bench share. */
#ifndef VICINAL_BENCH_ENGINE_BENCH_H
#define VICINAL_BENCH_ENGINE_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/bench_ivf.h"
#include "common/base/limits.h"
#include "common/base/npy.h"
#include "engine/engine.h"

enum { TARGETS_MAX = 16, POINTS_MAX = 32, SHARES_MAX = 16 };

/* How a filter stands to the query: names anything; what lies near; only what lies far. */
enum bench_filter { FILTER_UNCORRELATED, FILTER_CORRELATED, FILTER_ANTI };

struct options {
    const char *base, *queries, *truth;
    struct engine_options engine;
    bool is_ivf;
    uint32_t k, ef, threads, repeats;
    double targets[TARGETS_MAX];
    size_t target_count;
    double shares[SHARES_MAX]; /* of the vectors, that filters name */
    size_t share_count;
    double recalls[TARGETS_MAX]; /* that are asked for */
    size_t recall_count;
    enum bench_filter filter;
    const char *keep; /* folder; NULL: the graph is not written */
    bool inserting;   /* measure searches while the second half is inserted */
    bool json, serve;
};

struct point {
    uint32_t ef, used; /* effort asked for, and used */
    double asked;      /* recall; 0: by ef */
    double recall, qps, p50_us, p99_us, distances, hops;
};

struct bench {
    struct options options;
    struct npy base, queries, truth;
    float *vectors; /* queries as floats */
    struct engine *engine;
    struct bench_ivf ivf; /* instead of the engine, when options.is_ivf */
    double build_s, insert_s;
    struct point points[POINTS_MAX];
    size_t point_count;
};

/* Room for one run of all queries. */
struct work {
    struct engine_hit *hits;
    int32_t *truth;
    double *times;
};

double bench_now_s(void);

typedef enum err_code bench_build_fn(struct bench *bench, struct err *err);

/* engine_keep.c: open the engine on options.keep; if there is nothing, let build() fill it, write
 * it, close it and open it again.  Errors: those of the engine, and of build(). */
MUST_CHECK enum err_code bench_keep(struct bench *bench, const struct engine_executor *executor,
                                    bench_build_fn *build, struct err *err);

/* engine_inserting.c: fills the engine itself.  Errors: those of the engine, ERR_NO_MEMORY. */
MUST_CHECK enum err_code bench_inserting(struct bench *bench, struct err *err);

/* Run all queries once, as the point says; its speed becomes that of its fastest run.
 * Errors: those of engine_search(). */
MUST_CHECK enum err_code bench_run(struct bench *bench, struct work *work, struct point *point,
                                   struct err *err);

/* engine_recall.c: let the engine find out which effort gives which recall; what is got when a
 * recall is asked for.
 * Errors: those of engine_maintain() and engine_search(). */
MUST_CHECK enum err_code bench_calibrate(struct bench *bench, struct err *err);
MUST_CHECK enum err_code bench_recalls(struct bench *bench, struct work *work, struct err *err);

/* engine_filters.c: recall and speed under filters, of the planner's choice and of each plan.
 * Errors: those of engine_search(), ERR_NO_MEMORY. */
MUST_CHECK enum err_code bench_filters(struct bench *bench, struct err *err);

#endif
