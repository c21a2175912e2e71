/* Dot products of many vectors at once, by OpenBLAS: the only file that knows it is blas.c.
 *
 * OpenBLAS is told to stay on the caller's thread, for the engine has threads of its own to borrow
 * (struct engine_executor); any number of them may be here at a time.  Its workspace is its own and
 * passes by memory.h. */
#ifndef VICINAL_ENGINE_BLAS_H
#define VICINAL_ENGINE_BLAS_H

#include <stddef.h>

#include "common/base/err.h"

/* Before the first product; any number of times, on any thread.
 * Errors: ERR_CONFIG (OpenBLAS is not installed). */
MUST_CHECK enum err_code blas_open(struct err *err);

/* out[i * other_count + j] = the sum over d of rows[i * dim + d] others[j * dim + d].  Rounding
 * differs from processor to processor, but not from call to call of one shape.  Nothing is done
 * when a count is 0. */
void blas_dots(const float *rows, size_t row_count, const float *others, size_t other_count,
               size_t dim, float *out);

#endif
