/* See blas.h.
 *
 * The library is loaded when it is first needed, not linked: it wants 60 KiB of thread-local
 * memory, and what a program is linked with takes that from every thread's stack, of which Civetweb
 * gives its workers no more than 100 KiB.  Loaded later it takes heap, and only of threads that
 * call it. Failure: only the loading; OpenBLAS has no errors for sizes that fit. */
#include "engine/blas.h"

#include <assert.h>
#include <cblas.h>
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#define LIBRARY "libopenblas.so.0"

static struct {
    pthread_once_t once;
    __typeof__(&cblas_sgemm) sgemm; /* NULL: it could not be loaded */
} blas = {.once = PTHREAD_ONCE_INIT};

/* ISO C knows no way from an object's address to a function's: POSIX says that this is one. */
static void find(void *library, const char *name, void *function, size_t size)
{
    void *address = dlsym(library, name);

    memcpy(function, &address, size);
}

static void load(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    __typeof__(&openblas_set_num_threads) set_num_threads;

    if (library == NULL)
        return;
    find(library, "openblas_set_num_threads", &set_num_threads, sizeof(set_num_threads));
    if (set_num_threads == NULL)
        return;
    set_num_threads(1);
    find(library, "cblas_sgemm", &blas.sgemm, sizeof(blas.sgemm));
}

enum err_code blas_open(struct err *err)
{
    (void)pthread_once(&blas.once, load);
    if (blas.sgemm == NULL)
        return err_set(err, ERR_CONFIG, LIBRARY " cannot be loaded: is OpenBLAS installed?");
    return ERR_OK;
}

void blas_dots(const float *rows, size_t row_count, const float *others, size_t other_count,
               size_t dim, float *out)
{
    assert(row_count <= INT_MAX && other_count <= INT_MAX && dim <= INT_MAX);
    assert(blas.sgemm != NULL);
    if (row_count == 0 || other_count == 0)
        return;
    blas.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)row_count, (int)other_count, (int)dim,
               1.0f, rows, (int)dim, others, (int)dim, 0.0f, out, (int)other_count);
}
