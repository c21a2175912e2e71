/* engine-bench --keep: the graph is written to a folder, closed and opened again; what is there
 * already is only opened. */
#include <math.h>
#include <stdio.h>

#include "bench/engine_bench.h"

/* Its memory is that of what was linked when it was written, and of the few that come behind. */
static enum err_code insert_rest(struct bench *bench, struct err *err)
{
    float row[DIMENSION_MAX];
    enum err_code code = ERR_OK;

    for (uint64_t i = engine_covered(bench->engine); code == ERR_OK && i < bench->base.rows; i++) {
        npy_row_f32(&bench->base, i, row);
        code = engine_insert(bench->engine, (uint32_t)i, row, err);
    }
    return code;
}

static enum err_code answer_first(struct bench *bench, struct err *err)
{
    struct engine_query query = {.vector = bench->vectors, .k = 1, .bound = INFINITY};
    struct engine_hit hit;
    size_t count;

    return engine_search(bench->engine, &query, &hit, &count, NULL, err);
}

static enum err_code open_again(struct bench *bench, const struct engine_executor *executor,
                                struct err *err)
{
    double begin = bench_now_s();
    enum err_code code =
        engine_open(&bench->engine, bench->options.keep, &bench->options.engine, executor, err);

    if (code != ERR_OK)
        return code;
    double opened = bench_now_s();
    code = answer_first(bench, err);
    if (code != ERR_OK || engine_covered(bench->engine) == 0)
        return code;
    fprintf(stderr, "opened in %.3f s, first answer after %.3f s, %.1f MB\n", opened - begin,
            bench_now_s() - begin, (double)engine_memory_used(bench->engine) * 1e-6);
    return insert_rest(bench, err);
}

enum err_code bench_keep(struct bench *bench, const struct engine_executor *executor,
                         bench_build_fn *build, struct err *err)
{
    enum err_code code = open_again(bench, executor, err);

    if (code != ERR_OK || engine_covered(bench->engine) > 0)
        return code;
    code = build(bench, err);
    if (code != ERR_OK)
        return code;
    double begin = bench_now_s();
    do
        code = engine_maintain(bench->engine, NULL, err);
    while (code == ERR_OK && engine_is_due(bench->engine));
    if (code != ERR_OK)
        return code;
    if (engine_covered(bench->engine) == 0)
        return err_set(err, ERR_INVALID_ARGUMENT, "too few vectors to be kept");
    fprintf(stderr, "written in %.2f s\n", bench_now_s() - begin);
    engine_close(bench->engine);
    bench->engine = NULL;
    return open_again(bench, executor, err);
}
