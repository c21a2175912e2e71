/* Sums over codes of 1, 2, 4 and 8 bits: AVX2, AVX-512 with and without its integer dot product.
 *
 * A register of codes is shifted and masked once for each code that a byte holds, and multiplied
 * with the query's bytes for those.  Codes below 16 times bytes of a query fit 16-bit sums, eight
 * times over; 8-bit codes do not (the instruction saturates) and are widened first.
 * Rows end at any multiple of 8 bytes: AVX-512 masks the last load, AVX2 copies the last block. */
#include "engine/kernels_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET_AVX2   __attribute__((target("avx2,fma")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define TARGET_VNNI                                                                                \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")))
#define INLINED static inline __attribute__((always_inline))

enum { BLOCK = 64 }; /* bytes of a row that share their part of the query */

INLINED TARGET_VNNI int32_t vnni_row(const uint8_t *row, const int8_t *query, size_t bytes,
                                     const int bits)
{
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    __m512i s0 = _mm512_setzero_si512(), s1 = s0;

    for (size_t at = 0; at < bytes; at += BLOCK) {
        size_t left = bytes - at;
        __mmask64 valid = left >= BLOCK ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
        __m512i codes = _mm512_maskz_loadu_epi8(valid, row + at);

        for (int shift = 0; shift < 8; shift += bits, query += BLOCK) {
            __m512i part = bits == 8
                               ? codes
                               : _mm512_and_si512(_mm512_srli_epi16(codes, (unsigned)shift), mask);
            __m512i sum = _mm512_dpbusd_epi32(s0, part, _mm512_load_si512((const void *)query));

            s0 = s1; /* in turn, so that no sum waits for the one before */
            s1 = sum;
        }
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(s0, s1));
}

/* 32 bytes of 8-bit codes, widened. */
INLINED TARGET_AVX512 __m512i avx512_wide(const __m256i codes, const int8_t *query)
{
    return _mm512_madd_epi16(_mm512_cvtepu8_epi16(codes),
                             _mm512_cvtepi8_epi16(_mm256_load_si256((const void *)query)));
}

INLINED TARGET_AVX512 int32_t avx512_row(const uint8_t *row, const int8_t *query, size_t bytes,
                                         const int bits)
{
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i sum = _mm512_setzero_si512();

    for (size_t at = 0; at < bytes; at += BLOCK) {
        size_t left = bytes - at;
        __mmask64 valid = left >= BLOCK ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
        __m512i codes = _mm512_maskz_loadu_epi8(valid, row + at);
        __m512i block = _mm512_setzero_si512();

        if (bits == 8) {
            sum = _mm512_add_epi32(sum, avx512_wide(_mm512_castsi512_si256(codes), query));
            sum =
                _mm512_add_epi32(sum, avx512_wide(_mm512_extracti64x4_epi64(codes, 1), query + 32));
            query += BLOCK;
            continue;
        }
        for (int shift = 0; shift < 8; shift += bits, query += BLOCK) {
            __m512i part = _mm512_and_si512(_mm512_srli_epi16(codes, (unsigned)shift), mask);

            block = _mm512_add_epi16(
                block, _mm512_maddubs_epi16(part, _mm512_load_si512((const void *)query)));
        }
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(block, ones));
    }
    return _mm512_reduce_add_epi32(sum);
}

INLINED TARGET_AVX2 int32_t avx2_sum(__m256i sums)
{
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));

    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

INLINED TARGET_AVX2 __m256i avx2_wide(const uint8_t *codes, const int8_t *query)
{
    return _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)codes)),
                             _mm256_cvtepi8_epi16(_mm_load_si128((const void *)query)));
}

/* One half of a block: 32 bytes of codes, whose parts of the query stand BLOCK bytes apart. */
INLINED TARGET_AVX2 __m256i avx2_half(const uint8_t *row, const int8_t *query, const int bits)
{
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    __m256i sum = _mm256_setzero_si256();

    if (bits == 8)
        return _mm256_add_epi32(avx2_wide(row, query), avx2_wide(row + 16, query + 16));
    __m256i codes = _mm256_loadu_si256((const void *)row);
    for (int shift = 0; shift < 8; shift += bits, query += BLOCK) {
        __m256i part = _mm256_and_si256(_mm256_srli_epi16(codes, shift), mask);

        sum = _mm256_add_epi16(sum,
                               _mm256_maddubs_epi16(part, _mm256_load_si256((const void *)query)));
    }
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

INLINED TARGET_AVX2 int32_t avx2_row(const uint8_t *row, const int8_t *query, size_t bytes,
                                     const int bits)
{
    __m256i sum = _mm256_setzero_si256();
    uint8_t last[BLOCK] = {0};

    for (size_t at = 0; at < bytes; at += BLOCK, query += BLOCK * (8 / bits)) {
        const uint8_t *codes = row + at;

        if (bytes - at < BLOCK) {
            memcpy(last, codes, bytes - at);
            codes = last;
        }
        sum = _mm256_add_epi32(sum, avx2_half(codes, query, bits));
        sum = _mm256_add_epi32(sum, avx2_half(codes + 32, query + 32, bits));
    }
    return avx2_sum(sum);
}

#define CODE_KERNEL(table, target, bits)                                                           \
    target void table##_codes_##bits(const uint8_t *const *rows, size_t count,                     \
                                     const int8_t *query, size_t bytes, int32_t *sums)             \
    {                                                                                              \
        for (size_t i = 0; i < count; i++)                                                         \
            sums[i] = table##_row(rows[i], query, bytes, bits);                                    \
    }

CODE_KERNEL(avx2, TARGET_AVX2, 1)
CODE_KERNEL(avx2, TARGET_AVX2, 2)
CODE_KERNEL(avx2, TARGET_AVX2, 4)
CODE_KERNEL(avx2, TARGET_AVX2, 8)
CODE_KERNEL(avx512, TARGET_AVX512, 1)
CODE_KERNEL(avx512, TARGET_AVX512, 2)
CODE_KERNEL(avx512, TARGET_AVX512, 4)
CODE_KERNEL(avx512, TARGET_AVX512, 8)
CODE_KERNEL(vnni, TARGET_VNNI, 1)
CODE_KERNEL(vnni, TARGET_VNNI, 2)
CODE_KERNEL(vnni, TARGET_VNNI, 4)
CODE_KERNEL(vnni, TARGET_VNNI, 8)

#endif
