/* The kernels of ivf_kernels.h for x86-64, named by a target attribute on each function.
 *
 * Scan: a table of 16 bytes fills a register's lane, one instruction looks up 16 codes in each
 * lane. Bytes are added up 16 bits at a time, the odd ones shifted down and the even ones with what
 * the odd ones add above them, which is taken off at the end.  After IVF_GROUPS_EXACT groups sums
 * move on to 32 bits.  Numbers are multiplied and added by separate instructions, as the oracle
 * does. This is the only file of the inverted file that knows the architecture. */
#include "engine/ivf_kernels.h"

#include <string.h>

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET_AVX2   __attribute__((target("avx2")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2")))
#define TARGET_VNNI   __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2")))

/* 16-bit sums of four times eight vectors: even and odd bytes, of low and of high codes. */
struct sums16 {
    __m128i of[4];
};

TARGET_AVX2 static inline __m128i avx2_lanes(__m256i a)
{
    return _mm_add_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}

TARGET_AVX2 static inline struct sums16 avx2_look_up(const uint8_t *codes, const uint8_t *tables,
                                                     size_t groups)
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256i even = _mm256_setzero_si256(), odd = even, even2 = even, odd2 = even;

    for (size_t g = 0; g < groups; g += 2) {
        __m256i both = _mm256_loadu_si256((const void *)(codes + g * IVF_GROUP_BYTES));
        __m256i table = _mm256_load_si256((const void *)(tables + g * IVF_CODES));
        __m256i a = _mm256_shuffle_epi8(table, _mm256_and_si256(both, low));
        __m256i b = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(both, 4), low));

        even = _mm256_add_epi16(even, a);
        odd = _mm256_add_epi16(odd, _mm256_srli_epi16(a, 8));
        even2 = _mm256_add_epi16(even2, b);
        odd2 = _mm256_add_epi16(odd2, _mm256_srli_epi16(b, 8));
    }
    even = _mm256_sub_epi16(even, _mm256_slli_epi16(odd, 8));
    even2 = _mm256_sub_epi16(even2, _mm256_slli_epi16(odd2, 8));
    return (struct sums16){
        {avx2_lanes(even), avx2_lanes(odd), avx2_lanes(even2), avx2_lanes(odd2)}};
}

TARGET_AVX2 static uint32_t avx2_scan(const uint8_t *block, const struct ivf_scan *scan,
                                      float *bounds)
{
    const float *factors = (const void *)(block + IVF_ROWS_BYTES);
    __m256i total[4] = {0};
    uint32_t mask = 0;

    for (size_t g = 0; g < scan->groups; g += IVF_GROUPS_EXACT) {
        size_t groups = scan->groups - g < IVF_GROUPS_EXACT ? scan->groups - g : IVF_GROUPS_EXACT;
        struct sums16 sums = avx2_look_up(block + IVF_CODES_AT + g * IVF_GROUP_BYTES,
                                          scan->tables + g * IVF_CODES, groups);

        for (size_t i = 0; i < 4; i++)
            total[i] = _mm256_add_epi32(total[i], _mm256_cvtepu16_epi32(sums.of[i]));
    }
    for (size_t i = 0; i < 4; i++) {
        __m256 dot =
            _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(total[i]), _mm256_set1_ps(scan->scale)),
                          _mm256_set1_ps(scan->bias));
        __m256 bound = _mm256_add_ps(_mm256_set1_ps(scan->base), _mm256_loadu_ps(factors + 8 * i));

        bound = _mm256_sub_ps(bound, _mm256_mul_ps(_mm256_loadu_ps(factors + 32 + 8 * i), dot));
        bound = _mm256_sub_ps(bound, _mm256_mul_ps(_mm256_loadu_ps(factors + 64 + 8 * i),
                                                   _mm256_set1_ps(scan->error)));
        _mm256_storeu_ps(bounds + 8 * i, bound);
        mask |= (uint32_t)_mm256_movemask_ps(
                    _mm256_cmp_ps(bound, _mm256_set1_ps(scan->limit), _CMP_NGT_UQ))
                << 8 * i;
    }
    return mask;
}

TARGET_AVX2 static inline __m256i avx2_step(__m256i sum, const uint8_t *codes, __m256i factor)
{
    __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)codes));

    return _mm256_add_epi32(sum, _mm256_madd_epi16(wide, factor));
}

/* Four codes of four centroids at a time, widened to 16 bits: the instruction that multiplies
 * bytes saturates.  Each centroid's sum comes in two parts. */
TARGET_AVX2 static void avx2_coarse(const uint8_t *codes, const int8_t *query, size_t bytes,
                                    size_t count, int32_t *out)
{
    for (size_t c = 0; c < count; c += IVF_COARSE) {
        __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;

        for (size_t i = 0; i < bytes; i += 4, codes += 4 * IVF_COARSE) {
            int32_t four;

            memcpy(&four, query + i, sizeof(four));
            __m256i factor = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)));
            s0 = avx2_step(s0, codes, factor);
            s1 = avx2_step(s1, codes + 16, factor);
            s2 = avx2_step(s2, codes + 32, factor);
            s3 = avx2_step(s3, codes + 48, factor);
        }
        /* a b . . | c d . . of four centroids each after the parts are added */
        s0 = _mm256_permute4x64_epi64(_mm256_hadd_epi32(s0, s1), 0xd8);
        s2 = _mm256_permute4x64_epi64(_mm256_hadd_epi32(s2, s3), 0xd8);
        _mm256_storeu_si256((void *)(out + c), s0);
        _mm256_storeu_si256((void *)(out + c + 8), s2);
    }
}

TARGET_AVX512 static inline __m128i avx512_lanes(__m512i a)
{
    __m256i half = _mm256_add_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));

    return _mm_add_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

TARGET_AVX512 static inline struct sums16 avx512_look_up(const uint8_t *codes,
                                                         const uint8_t *tables, size_t groups)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i even = _mm512_setzero_si512(), odd = even, even2 = even, odd2 = even;

    for (size_t g = 0; g < groups; g += 4) {
        __m512i both = _mm512_loadu_si512(codes + g * IVF_GROUP_BYTES);
        __m512i table = _mm512_load_si512(tables + g * IVF_CODES);
        __m512i a = _mm512_shuffle_epi8(table, _mm512_and_si512(both, low));
        __m512i b = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));

        even = _mm512_add_epi16(even, a);
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16(a, 8));
        even2 = _mm512_add_epi16(even2, b);
        odd2 = _mm512_add_epi16(odd2, _mm512_srli_epi16(b, 8));
    }
    even = _mm512_sub_epi16(even, _mm512_slli_epi16(odd, 8));
    even2 = _mm512_sub_epi16(even2, _mm512_slli_epi16(odd2, 8));
    return (struct sums16){
        {avx512_lanes(even), avx512_lanes(odd), avx512_lanes(even2), avx512_lanes(odd2)}};
}

TARGET_AVX512 static uint32_t avx512_scan(const uint8_t *block, const struct ivf_scan *scan,
                                          float *bounds)
{
    const float *factors = (const void *)(block + IVF_ROWS_BYTES);
    __m512i total[2] = {0};
    uint32_t mask = 0;

    for (size_t g = 0; g < scan->groups; g += IVF_GROUPS_EXACT) {
        size_t groups = scan->groups - g < IVF_GROUPS_EXACT ? scan->groups - g : IVF_GROUPS_EXACT;
        struct sums16 sums = avx512_look_up(block + IVF_CODES_AT + g * IVF_GROUP_BYTES,
                                            scan->tables + g * IVF_CODES, groups);

        for (size_t i = 0; i < 2; i++)
            total[i] = _mm512_add_epi32(total[i], _mm512_cvtepu16_epi32(_mm256_set_m128i(
                                                      sums.of[2 * i + 1], sums.of[2 * i])));
    }
    for (size_t i = 0; i < 2; i++) {
        __m512 dot =
            _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(total[i]), _mm512_set1_ps(scan->scale)),
                          _mm512_set1_ps(scan->bias));
        __m512 bound = _mm512_add_ps(_mm512_set1_ps(scan->base), _mm512_loadu_ps(factors + 16 * i));

        bound = _mm512_sub_ps(bound, _mm512_mul_ps(_mm512_loadu_ps(factors + 32 + 16 * i), dot));
        bound = _mm512_sub_ps(bound, _mm512_mul_ps(_mm512_loadu_ps(factors + 64 + 16 * i),
                                                   _mm512_set1_ps(scan->error)));
        _mm512_storeu_ps(bounds + 16 * i, bound);
        mask |= (uint32_t)_mm512_cmp_ps_mask(bound, _mm512_set1_ps(scan->limit), _CMP_NGT_UQ)
                << 16 * i;
    }
    return mask;
}

TARGET_VNNI static inline __m512i vnni_step(__m512i sum, const uint8_t *codes, const int8_t *query)
{
    int32_t four;

    memcpy(&four, query, sizeof(four));
    return _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(codes), _mm512_set1_epi32(four));
}

/* Four chains of additions, for one would wait for itself. */
TARGET_VNNI static void vnni_coarse(const uint8_t *codes, const int8_t *query, size_t bytes,
                                    size_t count, int32_t *out)
{
    const size_t next = 4 * IVF_COARSE;

    for (size_t c = 0; c < count; c += IVF_COARSE) {
        __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;

        for (size_t i = 0; i < bytes; i += 16, codes += 4 * next) {
            s0 = vnni_step(s0, codes, query + i);
            s1 = vnni_step(s1, codes + next, query + i + 4);
            s2 = vnni_step(s2, codes + 2 * next, query + i + 8);
            s3 = vnni_step(s3, codes + 3 * next, query + i + 12);
        }
        _mm512_storeu_si512(out + c,
                            _mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3)));
    }
}

TARGET_AVX512 static void avx512_table(const float *z, const float *book, size_t dims, float *table,
                                       float *range)
{
    __m512 sum = _mm512_setzero_ps();

    for (size_t d = 0; d < dims; d++)
        sum = _mm512_add_ps(
            sum, _mm512_mul_ps(_mm512_set1_ps(z[d]), _mm512_loadu_ps(book + d * IVF_CODES)));
    range[0] = _mm512_reduce_min_ps(sum);
    range[1] = _mm512_reduce_max_ps(sum);
    _mm512_storeu_ps(table, _mm512_sub_ps(sum, _mm512_set1_ps(range[0])));
}

TARGET_AVX512 static void avx512_round(const float *exact, float inverse, size_t count,
                                       uint8_t *out)
{
    for (size_t i = 0; i < count; i += 16) {
        __m512 number =
            _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(exact + i), _mm512_set1_ps(inverse)),
                          _mm512_set1_ps(0.5f));

        number = _mm512_min_ps(number, _mm512_set1_ps(255.0f)); /* of NaN: 255 */
        _mm_storeu_si128((void *)(out + i), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(number)));
    }
}

/* The least, or the largest of 16: in halves, then in quarters ... */
TARGET_AVX2 static void avx2_table(const float *z, const float *book, size_t dims, float *table,
                                   float *range)
{
    __m256 a = _mm256_setzero_ps(), b = a;

    for (size_t d = 0; d < dims; d++) {
        __m256 factor = _mm256_set1_ps(z[d]);

        a = _mm256_add_ps(a, _mm256_mul_ps(factor, _mm256_loadu_ps(book + d * IVF_CODES)));
        b = _mm256_add_ps(b, _mm256_mul_ps(factor, _mm256_loadu_ps(book + d * IVF_CODES + 8)));
    }
    __m256 low = _mm256_min_ps(a, b), high = _mm256_max_ps(a, b);
    __m128 l = _mm_min_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(high), _mm256_extractf128_ps(high, 1));
    l = _mm_min_ps(l, _mm_movehl_ps(l, l));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    range[0] = _mm_cvtss_f32(_mm_min_ss(l, _mm_movehdup_ps(l)));
    range[1] = _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
    _mm256_storeu_ps(table, _mm256_sub_ps(a, _mm256_set1_ps(range[0])));
    _mm256_storeu_ps(table + 8, _mm256_sub_ps(b, _mm256_set1_ps(range[0])));
}

TARGET_AVX2 static inline __m128i avx2_four(const float *exact, __m128 inverse)
{
    __m128 number = _mm_add_ps(_mm_mul_ps(_mm_loadu_ps(exact), inverse), _mm_set1_ps(0.5f));

    return _mm_cvttps_epi32(_mm_min_ps(number, _mm_set1_ps(255.0f)));
}

TARGET_AVX2 static void avx2_round(const float *exact, float inverse, size_t count, uint8_t *out)
{
    __m128 factor = _mm_set1_ps(inverse);

    for (size_t i = 0; i < count; i += 16) {
        __m128i a = _mm_packs_epi32(avx2_four(exact + i, factor), avx2_four(exact + i + 4, factor));
        __m128i b =
            _mm_packs_epi32(avx2_four(exact + i + 8, factor), avx2_four(exact + i + 12, factor));

        _mm_storeu_si128((void *)(out + i), _mm_packus_epi16(a, b));
    }
}

static const struct ivf_kernels avx2_kernels = {
    .scan = avx2_scan, .coarse = avx2_coarse, .table = avx2_table, .round = avx2_round};
static const struct ivf_kernels avx512_kernels = {
    .scan = avx512_scan, .coarse = avx2_coarse, .table = avx512_table, .round = avx512_round};
static const struct ivf_kernels vnni_kernels = {
    .scan = avx512_scan, .coarse = vnni_coarse, .table = avx512_table, .round = avx512_round};

const struct ivf_kernels *ivf_kernels_of(const char *name)
{
    if (strcmp(name, "vnni") == 0)
        return &vnni_kernels;
    if (strcmp(name, "avx512") == 0)
        return &avx512_kernels;
    return strcmp(name, "avx2") == 0 ? &avx2_kernels : &ivf_scalar;
}

#else

const struct ivf_kernels *ivf_kernels_of(const char *name)
{
    (void)name;
    return &ivf_scalar;
}

#endif
