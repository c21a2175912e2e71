/* The rotation for x86-64: AVX2 and AVX-512, named by a target attribute on each function.
 *
 * In the transform's first passes both numbers of a pair lie in one register.  With b the register
 * whose pairs are exchanged, one addition does both halves: b + a below, b + (-a) above, which are
 * a + b and a - b to the bit.  Later passes take two levels at a time: half the loads and stores.
 * This is the only file of the rotation that knows the architecture. */
#include "engine/rotation_kernels.h"

#include <string.h>

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET_AVX2   __attribute__((target("avx2")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512dq,avx2")))

TARGET_AVX2 static void avx2_flip(float *x, const uint32_t *signs, size_t count, float scale)
{
    __m256 factor = _mm256_set1_ps(scale);
    __m256i lane = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    __m256i top = _mm256_set1_epi32(INT32_MIN);

    for (size_t i = 0; i < count; i += 8) {
        __m256i bits = _mm256_set1_epi32((int32_t)(signs[i / 32] >> i % 32));
        __m256i sign = _mm256_and_si256(_mm256_sllv_epi32(bits, lane), top);
        __m256 turned = _mm256_xor_ps(factor, _mm256_castsi256_ps(sign));

        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), turned));
    }
}

TARGET_AVX2 static void avx2_butterfly(float *a, float *b, size_t count, float scale)
{
    __m256 factor = _mm256_set1_ps(scale);

    for (size_t i = 0; i < count; i += 8) {
        __m256 x = _mm256_loadu_ps(a + i), y = _mm256_loadu_ps(b + i);

        _mm256_storeu_ps(a + i, _mm256_mul_ps(_mm256_add_ps(x, y), factor));
        _mm256_storeu_ps(b + i, _mm256_mul_ps(_mm256_sub_ps(x, y), factor));
    }
}

/* Pairs one, two and four numbers apart. */
TARGET_AVX2 static inline __m256 avx2_within(__m256 a)
{
    const __m256 odd = _mm256_setr_ps(0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f);
    const __m256 two = _mm256_setr_ps(0.0f, 0.0f, -0.0f, -0.0f, 0.0f, 0.0f, -0.0f, -0.0f);
    const __m256 four = _mm256_setr_ps(0.0f, 0.0f, 0.0f, 0.0f, -0.0f, -0.0f, -0.0f, -0.0f);

    a = _mm256_add_ps(_mm256_permute_ps(a, 0xb1), _mm256_xor_ps(a, odd));
    a = _mm256_add_ps(_mm256_permute_ps(a, 0x4e), _mm256_xor_ps(a, two));
    return _mm256_add_ps(_mm256_permute2f128_ps(a, a, 0x01), _mm256_xor_ps(a, four));
}

TARGET_AVX2 static void avx2_hadamard(float *x, size_t count)
{
    size_t half = 8;

    for (size_t i = 0; i < count; i += 8)
        _mm256_storeu_ps(x + i, avx2_within(_mm256_loadu_ps(x + i)));
    for (; 4 * half <= count; half *= 4)
        for (size_t i = 0; i < count; i += 4 * half)
            for (size_t j = i; j < i + half; j += 8) {
                __m256 a = _mm256_loadu_ps(x + j), b = _mm256_loadu_ps(x + j + half);
                __m256 c = _mm256_loadu_ps(x + j + 2 * half);
                __m256 d = _mm256_loadu_ps(x + j + 3 * half);
                __m256 ab = _mm256_add_ps(a, b), cd = _mm256_add_ps(c, d);

                a = _mm256_sub_ps(a, b);
                c = _mm256_sub_ps(c, d);
                _mm256_storeu_ps(x + j, _mm256_add_ps(ab, cd));
                _mm256_storeu_ps(x + j + half, _mm256_add_ps(a, c));
                _mm256_storeu_ps(x + j + 2 * half, _mm256_sub_ps(ab, cd));
                _mm256_storeu_ps(x + j + 3 * half, _mm256_sub_ps(a, c));
            }
    if (half < count)
        avx2_butterfly(x, x + half, half, 1.0f);
}

TARGET_AVX512 static void avx512_flip(float *x, const uint32_t *signs, size_t count, float scale)
{
    __m512 factor = _mm512_set1_ps(scale), turned = _mm512_set1_ps(-scale);

    for (size_t i = 0; i < count; i += 16) {
        __mmask16 mask = (__mmask16)(signs[i / 32] >> i % 32);

        _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_loadu_ps(x + i),
                                              _mm512_mask_blend_ps(mask, factor, turned)));
    }
}

TARGET_AVX512 static void avx512_butterfly(float *a, float *b, size_t count, float scale)
{
    __m512 factor = _mm512_set1_ps(scale);

    for (size_t i = 0; i < count; i += 16) {
        __m512 x = _mm512_loadu_ps(a + i), y = _mm512_loadu_ps(b + i);

        _mm512_storeu_ps(a + i, _mm512_mul_ps(_mm512_add_ps(x, y), factor));
        _mm512_storeu_ps(b + i, _mm512_mul_ps(_mm512_sub_ps(x, y), factor));
    }
}

/* Pairs one, two, four and eight numbers apart. */
TARGET_AVX512 static inline __m512 avx512_within(__m512 a)
{
    const __m512 minus = _mm512_set1_ps(-0.0f);

    a = _mm512_add_ps(_mm512_permute_ps(a, 0xb1), _mm512_mask_xor_ps(a, 0xaaaa, a, minus));
    a = _mm512_add_ps(_mm512_permute_ps(a, 0x4e), _mm512_mask_xor_ps(a, 0xcccc, a, minus));
    a = _mm512_add_ps(_mm512_shuffle_f32x4(a, a, 0xb1), _mm512_mask_xor_ps(a, 0xf0f0, a, minus));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, a, 0x4e), _mm512_mask_xor_ps(a, 0xff00, a, minus));
}

TARGET_AVX512 static void avx512_hadamard(float *x, size_t count)
{
    size_t half = 16;

    for (size_t i = 0; i < count; i += 16)
        _mm512_storeu_ps(x + i, avx512_within(_mm512_loadu_ps(x + i)));
    for (; 4 * half <= count; half *= 4)
        for (size_t i = 0; i < count; i += 4 * half)
            for (size_t j = i; j < i + half; j += 16) {
                __m512 a = _mm512_loadu_ps(x + j), b = _mm512_loadu_ps(x + j + half);
                __m512 c = _mm512_loadu_ps(x + j + 2 * half);
                __m512 d = _mm512_loadu_ps(x + j + 3 * half);
                __m512 ab = _mm512_add_ps(a, b), cd = _mm512_add_ps(c, d);

                a = _mm512_sub_ps(a, b);
                c = _mm512_sub_ps(c, d);
                _mm512_storeu_ps(x + j, _mm512_add_ps(ab, cd));
                _mm512_storeu_ps(x + j + half, _mm512_add_ps(a, c));
                _mm512_storeu_ps(x + j + 2 * half, _mm512_sub_ps(ab, cd));
                _mm512_storeu_ps(x + j + 3 * half, _mm512_sub_ps(a, c));
            }
    if (half < count)
        avx512_butterfly(x, x + half, half, 1.0f);
}

static const struct rotation_kernels avx2_kernels = {
    .flip = avx2_flip, .hadamard = avx2_hadamard, .butterfly = avx2_butterfly};
static const struct rotation_kernels avx512_kernels = {
    .flip = avx512_flip, .hadamard = avx512_hadamard, .butterfly = avx512_butterfly};

const struct rotation_kernels *rotation_kernels_of(const char *name)
{
    if (strcmp(name, "avx512") == 0 || strcmp(name, "vnni") == 0)
        return &avx512_kernels;
    return strcmp(name, "avx2") == 0 ? &avx2_kernels : &rotation_scalar;
}

#else

const struct rotation_kernels *rotation_kernels_of(const char *name)
{
    (void)name;
    return &rotation_scalar;
}

#endif
