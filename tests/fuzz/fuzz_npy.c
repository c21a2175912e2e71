/* Any bytes are read as an .npy file or refused, and what is read lies within them. */
#include <assert.h>
#include <stdint.h>

#include "common/base/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { COLS_MAX = 4096 };
    float row[COLS_MAX];
    struct npy npy;
    struct err err;

    if (npy_parse(data, size, &npy, &err) != ERR_OK) {
        assert(npy.data == NULL);
        return 0;
    }
    assert(npy.data >= data && npy.data <= data + size);
    if (npy.cols <= COLS_MAX && npy.rows > 0) {
        npy_row_f32(&npy, 0, row);
        npy_row_f32(&npy, npy.rows - 1, row);
    }
    npy_close(&npy);
    return 0;
}
