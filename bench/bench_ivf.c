/* See bench_ivf.h.  The vectors stand on huge pages, as an engine's do. */
#include "bench/bench_ivf.h"

#include "engine/kernels.h"
#include "engine/memory.h"

enum err_code bench_ivf_build(struct bench_ivf *bench, const struct npy *base,
                              const struct engine_executor *executor, struct err *err)
{
    size_t dim = base->cols;
    const struct kernels *kernels;
    enum err_code code = kernels_choose(bench->options.kernel, &kernels, err);

    if (code != ERR_OK)
        return code;
    bench->options.dim = base->cols;
    bench->rows_bytes = base->rows * dim * sizeof(float);
    bench->rows = memory_map(bench->rows_bytes);
    if (bench->rows == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the vectors");
    memory_want_huge(bench->rows, bench->rows_bytes);
    for (uint64_t i = 0; i < base->rows; i++) {
        npy_row_f32(base, i, bench->rows + i * dim);
        if (bench->options.metric == ENGINE_COSINE)
            (void)kernels_normalise(kernels, bench->rows + i * dim, bench->rows + i * dim, dim);
    }
    struct ivf_rows rows = {.count = (uint32_t)base->rows,
                            .vectors = bench->rows,
                            .stride = dim,
                            .is_unit = bench->options.metric == ENGINE_COSINE};
    return ivf_build(&bench->ivf, &bench->options, &rows, executor, err);
}

enum err_code bench_ivf_search(struct bench_ivf *bench, const struct engine_query *query,
                               struct engine_hit *hits, size_t *count,
                               struct engine_counters *counters, struct err *err)
{
    struct ivf_query asked = {.vector = query->vector,
                              .k = query->k,
                              .effort = {.probes = query->ef},
                              .bound = query->bound};
    struct ivf_counters told;
    enum err_code code = ivf_search(bench->ivf, &asked, hits, count, &told, err);

    *counters = (struct engine_counters){
        .plan = told.plan, .distances = told.measured, .hops = told.lists, .scanned = told.scanned};
    return code;
}

uint64_t bench_ivf_bytes(const struct bench_ivf *bench)
{
    return ivf_memory_used(bench->ivf) + bench->rows_bytes;
}

void bench_ivf_close(struct bench_ivf *bench)
{
    ivf_free(bench->ivf);
    memory_unmap(bench->rows, bench->rows_bytes);
}
