/* Reading .npy files, version 1 to 3: float16, float32 or int32, little-endian, two dimensions, C
 * order.  The header is validated whole and the file's size must be what it says. */
#ifndef VICINAL_BASE_NPY_H
#define VICINAL_BASE_NPY_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum npy_type { NPY_FLOAT16, NPY_FLOAT32, NPY_INT32 };

struct npy {
    enum npy_type type;
    uint64_t rows;
    uint32_t cols;             /* at least 1 */
    const unsigned char *data; /* rows * cols numbers, inside the mapping; maybe unaligned */
    void *map;                 /* the whole file; NULL: not open */
    size_t map_bytes;
};

/* Map the file.  Errors: ERR_IO, ERR_NO_MEMORY (cannot be opened or mapped),
 * ERR_INVALID_ARGUMENT (not such a file; says why).  npy is zeroed then. */
MUST_CHECK enum err_code npy_open(const char *path, struct npy *npy, struct err *err);

/* Parse bytes that are in memory already; npy->data points into them, npy->map stays NULL. */
MUST_CHECK enum err_code npy_parse(const unsigned char *bytes, size_t size, struct npy *npy,
                                   struct err *err);

/* The same for the beginning of such a file: its whole header is there, what follows may be cut. */
MUST_CHECK enum err_code npy_parse_head(const unsigned char *bytes, size_t size, struct npy *npy,
                                        struct err *err);

/* Copy row (< rows) to out, cols numbers.  row_f32 converts float16; row_i32 wants NPY_INT32. */
void npy_row_f32(const struct npy *npy, uint64_t row, float *out);
void npy_row_i32(const struct npy *npy, uint64_t row, int32_t *out);

/* A zeroed or closed one is accepted. */
void npy_close(struct npy *npy);

/* One IEEE half, exactly. */
float npy_half(uint16_t bits);

#endif
