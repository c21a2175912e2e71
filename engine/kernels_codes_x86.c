/* Sums over codes of 1, 2, 4 and 8 bits, with a query and of two rows: AVX2, AVX-512, and AVX-512
 * with its integer dot product and its count of bits.
 *
 * A register of codes is shifted and masked once for each code that a byte holds, and multiplied
 * with the query's bytes for those.  Codes below 16 times bytes of a query fit 16-bit sums,
 * four times over; 8-bit codes do not (the instruction saturates) and are widened first.
 * Rows end at any multiple of 8 bytes: AVX-512 masks the last load, AVX2 copies the last block. */
#include "engine/kernels_internal.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET_AVX2   __attribute__((target("avx2,fma")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define TARGET_VNNI                                                                                \
    __attribute__((                                                                                \
        target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma")))
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

/* The sums of four registers: lanes of two, then of four, are added crosswise; then the quarters.
 */
INLINED TARGET_VNNI __m128i vnni_sums(const __m512i *sums)
{
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[0], sums[1]),
                                 _mm512_unpackhi_epi32(sums[0], sums[1]));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[2], sums[3]),
                                 _mm512_unpackhi_epi32(sums[2], sums[3]));
    __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(c), _mm512_extracti64x4_epi64(c, 1));

    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* Four rows abreast: each part of the query is loaded once, and their sums are added up together.
 */
INLINED TARGET_VNNI __m128i vnni_four(const uint8_t *const *rows, const int8_t *query, size_t bytes,
                                      const int bits)
{
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    __m512i sums[4];

#pragma GCC unroll 4
    for (size_t r = 0; r < 4; r++)
        sums[r] = _mm512_setzero_si512();
    for (size_t at = 0; at < bytes; at += BLOCK) {
        size_t left = bytes - at;
        __mmask64 valid = left >= BLOCK ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
        __m512i codes[4];

#pragma GCC unroll 4
        for (size_t r = 0; r < 4; r++)
            codes[r] = _mm512_maskz_loadu_epi8(valid, rows[r] + at);
        for (int shift = 0; shift < 8; shift += bits, query += BLOCK) {
            __m512i part = _mm512_load_si512((const void *)query);

#pragma GCC unroll 4
            for (size_t r = 0; r < 4; r++) {
                __m512i numbers = _mm512_srli_epi16(codes[r], (unsigned)shift);

                if (bits != 8)
                    numbers = _mm512_and_si512(numbers, mask);
                sums[r] = _mm512_dpbusd_epi32(sums[r], numbers, part);
            }
        }
    }
    return vnni_sums(sums);
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

/* 1 bit: how many bits are set in common with each of the query's planes, twice its weight, and in
 * the row alone. */
INLINED TARGET_VNNI int32_t vnni_bits(const uint8_t *row, const int8_t *planes, size_t bytes)
{
    __m512i sums[CODE_PLANES + 1];

    for (size_t j = 0; j <= CODE_PLANES; j++)
        sums[j] = _mm512_setzero_si512();
    for (size_t at = 0; at < bytes; at += BLOCK, planes += CODE_PLANES * BLOCK) {
        size_t left = bytes - at;
        __mmask64 valid = left >= BLOCK ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
        __m512i codes = _mm512_maskz_loadu_epi8(valid, row + at);

        for (size_t j = 0; j < CODE_PLANES; j++) {
            __m512i plane = _mm512_load_si512((const void *)(planes + j * BLOCK));

            sums[j] =
                _mm512_add_epi64(sums[j], _mm512_popcnt_epi64(_mm512_and_si512(codes, plane)));
        }
        sums[CODE_PLANES] = _mm512_add_epi64(sums[CODE_PLANES], _mm512_popcnt_epi64(codes));
    }
    __m512i sum = _mm512_slli_epi64(sums[CODE_PLANES], CODE_PLANES); /* 16 times: 15 and 1 */
    sum = _mm512_sub_epi64(sums[CODE_PLANES], sum);
    for (unsigned j = 0; j < CODE_PLANES; j++)
        sum = _mm512_add_epi64(sum, _mm512_slli_epi64(sums[j], j + 1));
    return (int32_t)_mm512_reduce_add_epi64(sum);
}

/* Bits that are set, in each byte. */
INLINED TARGET_AVX2 __m256i avx2_popcount(__m256i bits)
{
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                            2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);

    return _mm256_add_epi8(
        _mm256_shuffle_epi8(counts, _mm256_and_si256(bits, nibble)),
        _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble)));
}

INLINED TARGET_AVX2 int32_t avx2_bits(const uint8_t *row, const int8_t *planes, size_t bytes)
{
    uint8_t last[BLOCK] = {0};
    __m256i sum = _mm256_setzero_si256();

    for (size_t at = 0; at < bytes; at += BLOCK, planes += CODE_PLANES * BLOCK) {
        const uint8_t *codes = row + at;

        if (bytes - at < BLOCK) {
            memcpy(last, codes, bytes - at);
            codes = last;
        }
        for (size_t half = 0; half < BLOCK; half += 32) {
            __m256i bits = _mm256_loadu_si256((const void *)(codes + half));
            __m256i weighted = _mm256_setzero_si256(); /* at most 15 * 8 in a byte */

            for (int j = 0; j < CODE_PLANES; j++) {
                __m256i plane =
                    _mm256_load_si256((const void *)(planes + (size_t)j * BLOCK + half));
                __m256i count = avx2_popcount(_mm256_and_si256(bits, plane));

                weighted = _mm256_add_epi8(weighted, _mm256_slli_epi16(count, j));
            }
            /* 2 weighted - 15 count, in pairs of bytes */
            __m256i both = _mm256_unpacklo_epi8(weighted, avx2_popcount(bits));
            __m256i factors = _mm256_set1_epi16((short)(((-15 & 0xff) << 8) | 2));
            __m256i pairs = _mm256_maddubs_epi16(both, factors);

            both = _mm256_unpackhi_epi8(weighted, avx2_popcount(bits));
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(both, factors));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
    }
    return avx2_sum(sum);
}

#define BIT_KERNEL(table, target, row_kernel)                                                      \
    target void table##_codes_1(const uint8_t *const *rows, size_t count, const int8_t *query,     \
                                size_t bytes, int32_t *sums)                                       \
    {                                                                                              \
        for (size_t i = 0; i < count; i++)                                                         \
            sums[i] = row_kernel(rows[i], query, bytes);                                           \
    }

BIT_KERNEL(avx2, TARGET_AVX2, avx2_bits)
BIT_KERNEL(avx512, TARGET_AVX512, avx2_bits)
BIT_KERNEL(vnni, TARGET_VNNI, vnni_bits)

#define CODE_KERNEL(table, target, bits)                                                           \
    target void table##_codes_##bits(const uint8_t *const *rows, size_t count,                     \
                                     const int8_t *query, size_t bytes, int32_t *sums)             \
    {                                                                                              \
        for (size_t i = 0; i < count; i++)                                                         \
            sums[i] = table##_row(rows[i], query, bytes, bits);                                    \
    }

CODE_KERNEL(avx2, TARGET_AVX2, 2)
CODE_KERNEL(avx2, TARGET_AVX2, 4)
CODE_KERNEL(avx2, TARGET_AVX2, 8)
CODE_KERNEL(avx512, TARGET_AVX512, 2)
CODE_KERNEL(avx512, TARGET_AVX512, 4)
CODE_KERNEL(avx512, TARGET_AVX512, 8)
#define CODE_KERNEL_BY_FOUR(bits)                                                                  \
    TARGET_VNNI void vnni_codes_##bits(const uint8_t *const *rows, size_t count,                   \
                                       const int8_t *query, size_t bytes, int32_t *sums)           \
    {                                                                                              \
        for (; count >= 4; count -= 4, rows += 4, sums += 4)                                       \
            _mm_storeu_si128((void *)sums, vnni_four(rows, query, bytes, bits));                   \
        for (size_t i = 0; i < count; i++)                                                         \
            sums[i] = vnni_row(rows[i], query, bytes, bits);                                       \
    }

CODE_KERNEL_BY_FOUR(2)
CODE_KERNEL_BY_FOUR(4)
CODE_KERNEL_BY_FOUR(8)

/* Up to four rows of 8 bits with a.  Bytes that a masked load leaves out count as 128, hence as
 * nothing. */
INLINED TARGET_VNNI __m128i vnni_pairs_four(const uint8_t *a, const uint8_t *const *rows,
                                            size_t bytes, const int count)
{
    const __m512i middle = _mm512_set1_epi8((char)128);
    __m512i sums[4], excess = _mm512_setzero_si512();

#pragma GCC unroll 4
    for (int r = 0; r < 4; r++)
        sums[r] = _mm512_setzero_si512();
    for (size_t at = 0; at < bytes; at += BLOCK) {
        size_t left = bytes - at;
        __mmask64 valid = left >= BLOCK ? ~UINT64_C(0) : (UINT64_C(1) << left) - 1;
        __m512i x = _mm512_mask_loadu_epi8(middle, valid, a + at);

        x = _mm512_xor_si512(x, middle); /* signed: less 128 */
        excess = _mm512_dpbusd_epi32(excess, middle, x);
#pragma GCC unroll 4
        for (int r = 0; r < count; r++)
            sums[r] = _mm512_dpbusd_epi32(sums[r],
                                          _mm512_mask_loadu_epi8(middle, valid, rows[r] + at), x);
    }
#pragma GCC unroll 4
    for (int r = 0; r < count; r++)
        sums[r] = _mm512_sub_epi32(sums[r], excess);
    return vnni_sums(sums);
}

TARGET_VNNI void vnni_pairs(const uint8_t *a, const uint8_t *const *rows, size_t count,
                            size_t bytes, int32_t *sums)
{
    for (; count >= 4; count -= 4, rows += 4, sums += 4)
        _mm_storeu_si128((void *)sums, vnni_pairs_four(a, rows, bytes, 4));
    for (; count >= 2; count -= 2, rows += 2, sums += 2)
        _mm_storel_epi64((void *)sums, vnni_pairs_four(a, rows, bytes, 2));
    if (count > 0)
        sums[0] = _mm_cvtsi128_si32(vnni_pairs_four(a, rows, bytes, 1));
}

INLINED TARGET_AVX2 __m256i avx2_less_middle(const uint8_t *codes)
{
    return _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)codes)),
                            _mm256_set1_epi16(128));
}

INLINED TARGET_AVX2 int32_t avx2_pair(const uint8_t *a, const uint8_t *b, size_t bytes)
{
    __m256i sum = _mm256_setzero_si256();
    size_t i = 0;
    int32_t rest = 0;

    for (; i + 16 <= bytes; i += 16)
        sum = _mm256_add_epi32(sum,
                               _mm256_madd_epi16(avx2_less_middle(a + i), avx2_less_middle(b + i)));
    for (; i < bytes; i++)
        rest += ((int32_t)a[i] - 128) * ((int32_t)b[i] - 128);
    return avx2_sum(sum) + rest;
}

INLINED TARGET_AVX512 int32_t avx512_pair(const uint8_t *a, const uint8_t *b, size_t bytes)
{
    const __m512i middle = _mm512_set1_epi16(128);
    __m512i sum = _mm512_setzero_si512();
    size_t i = 0;

    for (; i + 32 <= bytes; i += 32) {
        __m512i x = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)(a + i)));
        __m512i y = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)(b + i)));

        sum = _mm512_add_epi32(
            sum, _mm512_madd_epi16(_mm512_sub_epi16(x, middle), _mm512_sub_epi16(y, middle)));
    }
    return _mm512_reduce_add_epi32(sum) + (i < bytes ? avx2_pair(a + i, b + i, bytes - i) : 0);
}

#define PAIRS_KERNEL(table, target)                                                                \
    target void table##_pairs(const uint8_t *a, const uint8_t *const *rows, size_t count,          \
                              size_t bytes, int32_t *sums)                                         \
    {                                                                                              \
        for (size_t i = 0; i < count; i++)                                                         \
            sums[i] = table##_pair(a, rows[i], bytes);                                             \
    }

PAIRS_KERNEL(avx2, TARGET_AVX2)
PAIRS_KERNEL(avx512, TARGET_AVX512)

#endif
