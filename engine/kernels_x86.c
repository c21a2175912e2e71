/* Distance kernels for x86-64: AVX2 with FMA, and AVX-512.
 *
 * The instruction set is named by a target attribute on each function, never by a flag of the
 * file, so one binary runs on every machine and takes what it finds; __builtin_cpu_supports asks
 * for the operating system's side too.  Four accumulators hide the latency of the FMA.  Tails:
 * AVX-512 masks them, AVX2 finishes in scalar code; nothing is read past the end.
 * This is the only file that knows the architecture: elsewhere both tables are unsupported. */
#include "engine/kernels_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET_AVX2   __attribute__((target("avx2,fma")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))

static bool avx2_supported(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool avx512_supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           avx2_supported();
}

TARGET_AVX2 static float avx2_sum(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));

    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    half = _mm_add_ss(half, _mm_movehdup_ps(half));
    return _mm_cvtss_f32(half);
}

TARGET_AVX2 static float avx2_dot(const float *a, const float *b, size_t dim)
{
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;

    for (; i + 32 <= dim; i += 32) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s1);
        s2 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16), s2);
        s3 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24), s3);
    }
    for (; i + 8 <= dim; i += 8)
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
    float sum = avx2_sum(s0, s1, s2, s3);
    for (; i < dim; i++)
        sum += a[i] * b[i];
    return sum;
}

TARGET_AVX2 static __m256 avx2_square(__m256 sum, const float *a, const float *b)
{
    __m256 d = _mm256_sub_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b));

    return _mm256_fmadd_ps(d, d, sum);
}

TARGET_AVX2 static float avx2_l2(const float *a, const float *b, size_t dim)
{
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;

    for (; i + 32 <= dim; i += 32) {
        s0 = avx2_square(s0, a + i, b + i);
        s1 = avx2_square(s1, a + i + 8, b + i + 8);
        s2 = avx2_square(s2, a + i + 16, b + i + 16);
        s3 = avx2_square(s3, a + i + 24, b + i + 24);
    }
    for (; i + 8 <= dim; i += 8)
        s0 = avx2_square(s0, a + i, b + i);
    float sum = avx2_sum(s0, s1, s2, s3);
    for (; i < dim; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

TARGET_AVX512 static float avx512_dot(const float *a, const float *b, size_t dim)
{
    __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;

    for (; i + 64 <= dim; i += 64) {
        s0 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), s0);
        s1 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16), s1);
        s2 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 32), _mm512_loadu_ps(b + i + 32), s2);
        s3 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 48), _mm512_loadu_ps(b + i + 48), s3);
    }
    for (; i < dim; i += 16) {
        size_t rest = dim - i;
        __mmask16 mask = rest >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << rest) - 1u);

        s0 = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i),
                             s0);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)));
}

TARGET_AVX512 static __m512 avx512_square(__m512 sum, const float *a, const float *b)
{
    __m512 d = _mm512_sub_ps(_mm512_loadu_ps(a), _mm512_loadu_ps(b));

    return _mm512_fmadd_ps(d, d, sum);
}

TARGET_AVX512 static float avx512_l2(const float *a, const float *b, size_t dim)
{
    __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;

    for (; i + 64 <= dim; i += 64) {
        s0 = avx512_square(s0, a + i, b + i);
        s1 = avx512_square(s1, a + i + 16, b + i + 16);
        s2 = avx512_square(s2, a + i + 32, b + i + 32);
        s3 = avx512_square(s3, a + i + 48, b + i + 48);
    }
    for (; i < dim; i += 16) {
        size_t rest = dim - i;
        __mmask16 mask = rest >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << rest) - 1u);
        __m512 d =
            _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i));

        s0 = _mm512_fmadd_ps(d, d, s0);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)));
}

static bool vnni_supported(void)
{
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vpopcntdq") &&
           avx512_supported();
}

const struct kernels kernels_avx2 = {.name = "avx2",
                                     .supported = avx2_supported,
                                     .dot = avx2_dot,
                                     .l2 = avx2_l2,
                                     .codes = CODE_KERNELS(avx2),
                                     .pairs = avx2_pairs};
const struct kernels kernels_avx512 = {.name = "avx512",
                                       .supported = avx512_supported,
                                       .dot = avx512_dot,
                                       .l2 = avx512_l2,
                                       .codes = CODE_KERNELS(avx512),
                                       .pairs = avx512_pairs};
const struct kernels kernels_vnni = {.name = "vnni",
                                     .supported = vnni_supported,
                                     .dot = avx512_dot,
                                     .l2 = avx512_l2,
                                     .codes = CODE_KERNELS(vnni),
                                     .pairs = vnni_pairs};

#else

static bool never_supported(void)
{
    return false;
}

const struct kernels kernels_avx2 = {.name = "avx2", .supported = never_supported};
const struct kernels kernels_avx512 = {.name = "avx512", .supported = never_supported};
const struct kernels kernels_vnni = {.name = "vnni", .supported = never_supported};

#endif
