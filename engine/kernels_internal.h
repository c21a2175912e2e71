/* The tables that kernels_all() lists.  One that this architecture lacks says so by supported(). */
#ifndef VICINAL_ENGINE_KERNELS_INTERNAL_H
#define VICINAL_ENGINE_KERNELS_INTERNAL_H

#include "engine/kernels.h"

extern const struct kernels kernels_scalar;
extern const struct kernels kernels_avx2;
extern const struct kernels kernels_avx512;
extern const struct kernels kernels_vnni; /* AVX-512 with its integer dot product */

#endif
