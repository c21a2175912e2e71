/* See blas.h.  Cannot fail: OpenBLAS has no errors for sizes that fit. */
#include "engine/blas.h"

#include <assert.h>
#include <cblas.h>
#include <limits.h>
#include <pthread.h>

static void stay_on_one_thread(void)
{
    openblas_set_num_threads(1);
}

void blas_dots(const float *rows, size_t row_count, const float *others, size_t other_count,
               size_t dim, float *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    assert(row_count <= INT_MAX && other_count <= INT_MAX && dim <= INT_MAX);
    if (row_count == 0 || other_count == 0)
        return;
    (void)pthread_once(&once, stay_on_one_thread);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)row_count, (int)other_count, (int)dim,
                1.0f, rows, (int)dim, others, (int)dim, 0.0f, out, (int)other_count);
}
