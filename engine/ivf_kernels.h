/* The inner loops of a search in an inverted file, for each instruction set; all of them give
 * the same bits, because sums are of integers and numbers are added in one order.
 *
 * A block holds 32 vectors:
 *   row      32 uint32   the vectors' rows
 *   add      32 float    }
 *   multiply 32 float    } factors of the estimate
 *   error    32 float    }
 *   codes    16 bytes for each group of numbers: byte j holds in its low four bits the code of
 *            vector j / 2 + 8 (j % 2), and in its high ones that of the vector 16 further on: so
 *            16-bit sums of even and of odd bytes are sums of eight neighbours each
 * Blocks of IVF_FLAT hold the rows only. */
#ifndef VICINAL_ENGINE_IVF_KERNELS_H
#define VICINAL_ENGINE_IVF_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum {
    IVF_BLOCK = 32,                             /* vectors */
    IVF_ROWS_BYTES = IVF_BLOCK * 4,             /* where the factors begin ... */
    IVF_CODES_AT = IVF_ROWS_BYTES + 3 * 32 * 4, /* ... and the codes */
    IVF_GROUP_BYTES = IVF_BLOCK / 2,
    IVF_CODES = 16,         /* values of a code */
    IVF_GROUPS_EXACT = 256, /* so many look-ups of a byte fit into 16 bits */
    IVF_COARSE = 16,        /* centroids abreast */
};

/* What the scan of a list needs.  The estimate's lower bound of vector v is
 *
 *   ((base + add[v]) - multiply[v] (scale sum[v] + bias)) - error[v] error
 *
 * where sum[v] adds up what v's codes find in the tables. */
struct ivf_scan {
    const uint8_t *tables; /* IVF_CODES bytes for each group, on 64 bytes */
    uint32_t groups;       /* a multiple of 4 */
    float scale, bias;
    float base, error; /* of this list */
    float limit;
};

struct ivf_kernels {
    /* All 32 bounds of a block; returns which of them are not above the limit (NaN is not). */
    uint32_t (*scan)(const uint8_t *block, const struct ivf_scan *scan, float *bounds);

    /* out[c] = the sum over i of codes(c, i) query[i], for count centroids (a multiple of
     * IVF_COARSE) of bytes codes each (a multiple of 64).  Codes of IVF_COARSE centroids stand
     * together, four of each in turn.  query: on 64 bytes, no -128. */
    void (*coarse)(const uint8_t *codes, const int8_t *query, size_t bytes, size_t count,
                   int32_t *out);

    /* table[j] = the sum over d of z[d] book[d * IVF_CODES + j], less the least of them;
     * range: the least and the largest.  Sums begin at 0 and add one product after another. */
    void (*table)(const float *z, const float *book, size_t dims, float *table, float *range);

    /* out[i] = exact[i] inverse, rounded, at most 255; count: a multiple of 16; exact: at least 0,
     * or NaN, which becomes 255. */
    void (*round)(const float *exact, float inverse, size_t count, uint8_t *out);
};

extern const struct ivf_kernels ivf_scalar;

/* The kernels of that table (kernels.h). */
const struct ivf_kernels *ivf_kernels_of(const char *name);

/* Where the code of vector v stands in a group's bytes, and by how much it is shifted. */
static inline size_t ivf_code_byte(size_t v)
{
    return v % 8 * 2 + v / 8 % 2;
}

static inline unsigned ivf_code_shift(size_t v)
{
    return v < IVF_BLOCK / 2 ? 0 : 4;
}

#endif
