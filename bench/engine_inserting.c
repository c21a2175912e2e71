/* engine-bench --inserting: what searches lose while another thread inserts and links at full
 * speed.
 *
 * Half of the base is there when it begins.  All queries are run again and again on one processor:
 * first alone, then while the other half comes in on another processor, then alone again; what is
 * compared is searches a second with the same vectors in the graph, so the mean of the two quiet
 * runs is what the run between them is measured by. */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#include "bench/engine_bench.h"

enum { SLICE = 256 };

struct inserter {
    struct bench *bench;
    uint64_t from;
    double seconds;
    _Atomic bool is_done;
    enum err_code code;
    struct err err;
};

static void stay_on(int processor)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static enum err_code insert(struct bench *bench, uint64_t from, uint64_t to, struct err *err)
{
    float row[DIMENSION_MAX];
    enum err_code code = ERR_OK;
    uint64_t left;

    for (uint64_t i = from; code == ERR_OK && i < to; i++) {
        npy_row_f32(&bench->base, i, row);
        code = engine_insert(bench->engine, (uint32_t)i, row, err);
        if (code == ERR_OK && (i % SLICE == SLICE - 1 || i + 1 == to))
            code = engine_step(bench->engine, UINT32_MAX, &left, err);
    }
    return code;
}

static void *insert_rest(void *argument)
{
    struct inserter *inserter = argument;
    double begin = bench_now_s();

    stay_on(1);
    inserter->code =
        insert(inserter->bench, inserter->from, inserter->bench->base.rows, &inserter->err);
    inserter->seconds = bench_now_s() - begin;
    atomic_store(&inserter->is_done, true);
    return NULL;
}

/* Searches a second: all queries at least once, and until it is done. */
static enum err_code search(struct bench *bench, const _Atomic bool *is_done, double *qps,
                            struct err *err)
{
    uint64_t searches = 0;
    double begin = bench_now_s();

    do {
        for (uint64_t i = 0; i < bench->queries.rows; i++, searches++) {
            struct engine_query query = {.vector = bench->vectors + i * bench->queries.cols,
                                         .k = bench->options.k,
                                         .ef = bench->options.ef,
                                         .bound = INFINITY};
            struct engine_hit hits[TOP_K_MAX];
            size_t count;
            enum err_code code = engine_search(bench->engine, &query, hits, &count, NULL, err);

            if (code != ERR_OK)
                return code;
        }
    } while (is_done != NULL && !atomic_load(is_done));
    *qps = (double)searches / (bench_now_s() - begin);
    return ERR_OK;
}

static enum err_code search_quietly(struct bench *bench, double *qps, struct err *err)
{
    enum err_code code = ERR_OK;

    *qps = 0;
    for (uint32_t i = 0; code == ERR_OK && i < bench->options.repeats; i++) {
        double once;

        code = search(bench, NULL, &once, err);
        *qps = code == ERR_OK && once > *qps ? once : *qps;
    }
    return code;
}

enum err_code bench_inserting(struct bench *bench, struct err *err)
{
    struct inserter inserter = {.bench = bench, .from = bench->base.rows / 2};
    double before, meanwhile, after;
    pthread_t thread;
    enum err_code code = engine_open(&bench->engine, NULL, &bench->options.engine, NULL, err);

    if (code == ERR_OK)
        code = insert(bench, 0, inserter.from, err);
    stay_on(0);
    if (code == ERR_OK)
        code = search_quietly(bench, &before, err);
    if (code != ERR_OK)
        return code;
    if (pthread_create(&thread, NULL, insert_rest, &inserter) != 0)
        return err_set(err, ERR_NO_MEMORY, "no thread");
    code = search(bench, &inserter.is_done, &meanwhile, err);
    (void)pthread_join(thread, NULL);
    if (code == ERR_OK && inserter.code != ERR_OK) {
        *err = inserter.err;
        return inserter.code;
    }
    if (code == ERR_OK)
        code = search_quietly(bench, &after, err);
    if (code == ERR_OK)
        printf("quiet %.0f and %.0f qps, while %.0f a second are inserted %.0f qps: %.0f %%\n",
               before, after, (double)(bench->base.rows - inserter.from) / inserter.seconds,
               meanwhile, meanwhile / ((before + after) / 2) * 100);
    return code;
}
