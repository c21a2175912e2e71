/* The kernels of ivf_kernels.h in plain C: they run everywhere and are the oracle for all others.
 */
#include "engine/ivf_kernels.h"

#include <string.h>

static uint32_t scalar_scan(const uint8_t *block, const struct ivf_scan *scan, float *bounds)
{
    float add[IVF_BLOCK], multiply[IVF_BLOCK], error[IVF_BLOCK];
    uint32_t mask = 0;

    memcpy(add, block + IVF_ROWS_BYTES, sizeof(add));
    memcpy(multiply, block + IVF_ROWS_BYTES + sizeof(add), sizeof(multiply));
    memcpy(error, block + IVF_ROWS_BYTES + 2 * sizeof(add), sizeof(error));
    for (size_t v = 0; v < IVF_BLOCK; v++) {
        const uint8_t *codes = block + IVF_CODES_AT + ivf_code_byte(v);
        uint32_t sum = 0;

        for (size_t g = 0; g < scan->groups; g++)
            sum += scan->tables[g * IVF_CODES +
                                (codes[g * IVF_GROUP_BYTES] >> ivf_code_shift(v) & 15)];
        float dot = (float)sum * scan->scale + scan->bias;
        bounds[v] = ((scan->base + add[v]) - multiply[v] * dot) - error[v] * scan->error;
        mask |= (uint32_t) !(bounds[v] > scan->limit) << v;
    }
    return mask;
}

static void scalar_coarse(const uint8_t *codes, const int8_t *query, size_t bytes, size_t count,
                          int32_t *out)
{
    for (size_t c = 0; c < count; c++) {
        const uint8_t *four = codes + c / IVF_COARSE * IVF_COARSE * bytes + c % IVF_COARSE * 4;
        int32_t sum = 0;

        for (size_t i = 0; i < bytes; i++)
            sum += (int32_t)four[i / 4 * 4 * IVF_COARSE + i % 4] * query[i];
        out[c] = sum;
    }
}

static void scalar_table(const float *z, const float *book, size_t dims, float *table, float *range)
{
    memset(table, 0, IVF_CODES * sizeof(*table));
    for (size_t d = 0; d < dims; d++)
        for (size_t j = 0; j < IVF_CODES; j++)
            table[j] += z[d] * book[d * IVF_CODES + j];
    range[0] = range[1] = table[0];
    for (size_t j = 1; j < IVF_CODES; j++) {
        range[0] = table[j] < range[0] ? table[j] : range[0];
        range[1] = table[j] > range[1] ? table[j] : range[1];
    }
    for (size_t j = 0; j < IVF_CODES; j++)
        table[j] -= range[0];
}

static void scalar_round(const float *exact, float inverse, size_t count, uint8_t *out)
{
    for (size_t i = 0; i < count; i++) {
        float number = exact[i] * inverse + 0.5f;

        out[i] = (uint8_t)(int32_t)(number < 255.0f ? number : 255.0f);
    }
}

const struct ivf_kernels ivf_scalar = {
    .scan = scalar_scan, .coarse = scalar_coarse, .table = scalar_table, .round = scalar_round};
