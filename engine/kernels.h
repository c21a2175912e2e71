/* Distance kernels: scalar (the oracle), AVX2, AVX-512; chosen once at run time, forceable by name.
 * All of one table agree with the scalar one within rounding, for every dim, on unaligned data. */
#ifndef VICINAL_ENGINE_KERNELS_H
#define VICINAL_ENGINE_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

typedef float kernel_fn(const float *a, const float *b, size_t dim);

/* For each of count rows of codes u (codes.h: `bytes` bytes, a multiple of 8, which may lie
 * anywhere) an exact sum with a query s, which stands on 64 bytes.  There is a kernel for each
 * number of bits, 1 << index.  2, 4, 8: the sum of u[i] s[i], s being bytes other than -128.  1:
 * the sum of u[i] (2 s[i] - 15), s being numbers of CODE_PLANES bits: for each 64 bytes of a row, a
 * plane of 64 bytes for each bit of s, lowest first. */
typedef void code_kernel_fn(const uint8_t *const *rows, size_t count, const int8_t *query,
                            size_t bytes, int32_t *sums);
enum { CODE_PLANES = 4 };

/* For each of count rows b the sum of (a[i] - 128) (b[i] - 128), exact; bytes: a multiple of 8; all
 * may lie anywhere. */
typedef void code_pairs_fn(const uint8_t *a, const uint8_t *const *rows, size_t count, size_t bytes,
                           int32_t *sums);

enum { CODE_WIDTHS = 4 };

struct kernels {
    const char *name;        /* "scalar", "avx2", "avx512", "vnni" (with bit counts) */
    bool (*supported)(void); /* by this CPU and this operating system */
    kernel_fn *dot;          /* sum of a[i] b[i] */
    kernel_fn *l2;           /* sum of (a[i] - b[i])^2 */
    code_kernel_fn *codes[CODE_WIDTHS];
    code_pairs_fn *pairs;
};

/* The table of that name; NULL or "": the fastest one that this machine supports.
 * Errors: ERR_CONFIG (unknown name, or not supported here: the message lists those that are). */
MUST_CHECK enum err_code kernels_choose(const char *name, const struct kernels **out,
                                        struct err *err);

/* All tables, fastest first, for tests and benches; *count of them. */
const struct kernels *const *kernels_all(size_t *count);

/* out = in / |in|; a zero vector stays zero.  Returns |in|. */
float kernels_normalise(const struct kernels *kernels, float *out, const float *in, size_t dim);

#endif
