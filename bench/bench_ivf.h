/* The inverted file as engine-bench measures it, with vectors that it keeps in memory itself. */
#ifndef VICINAL_BENCH_BENCH_IVF_H
#define VICINAL_BENCH_BENCH_IVF_H

#include "common/base/npy.h"
#include "engine/ivf.h"

struct bench_ivf {
    struct ivf_options options;
    struct ivf *ivf;
    float *rows;
    size_t rows_bytes;
};

/* Rows of a cosine index are brought to length one, as an engine keeps them. */
MUST_CHECK enum err_code bench_ivf_build(struct bench_ivf *bench, const struct npy *base,
                                         const struct engine_executor *executor, struct err *err);

/* Of the counters distances, scanned and hops (lists) are set. */
MUST_CHECK enum err_code bench_ivf_search(struct bench_ivf *bench, const struct engine_query *query,
                                          struct engine_hit *hits, size_t *count,
                                          struct engine_counters *counters, struct err *err);

/* Bytes with the vectors, as an engine counts them. */
uint64_t bench_ivf_bytes(const struct bench_ivf *bench);
void bench_ivf_close(struct bench_ivf *bench);

#endif
