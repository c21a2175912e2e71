/* The tables that kernels_all() lists.  One that this architecture lacks says so by supported(). */
#ifndef VICINAL_ENGINE_KERNELS_INTERNAL_H
#define VICINAL_ENGINE_KERNELS_INTERNAL_H

#include "engine/kernels.h"

extern const struct kernels kernels_scalar;
extern const struct kernels kernels_avx2;
extern const struct kernels kernels_avx512;
extern const struct kernels kernels_vnni; /* AVX-512 with its integer dot product */

/* kernels_codes_x86.c: the sums over codes for each table and number of bits. */
#define DECLARE_CODE_KERNELS(table)                                                                \
    code_pairs_fn table##_pairs;                                                                   \
    code_kernel_fn table##_codes_1, table##_codes_2, table##_codes_4, table##_codes_8
#define CODE_KERNELS(table)                                                                        \
    {                                                                                              \
        table##_codes_1, table##_codes_2, table##_codes_4, table##_codes_8                         \
    }

DECLARE_CODE_KERNELS(avx2);
DECLARE_CODE_KERNELS(avx512);
DECLARE_CODE_KERNELS(vnni);

#endif
