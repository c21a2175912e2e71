/* The hashes that formats depend on: murmur3_32 places ids, CRC32C guards bytes, SHA-256 names
 * collections, SHA-1 makes UUIDs (and guards nothing), xxh3 keys caches and digests. */
#ifndef VICINAL_BASE_HASH_H
#define VICINAL_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hash128 {
    uint64_t low, high;
};

/* Sums modulo 2^128: what is added can be taken out again, in any order. */
static inline void hash128_add(struct hash128 *sum, struct hash128 hash)
{
    unsigned carry = __builtin_add_overflow(sum->low, hash.low, &sum->low);

    sum->high += hash.high + carry;
}

static inline void hash128_subtract(struct hash128 *sum, struct hash128 hash)
{
    unsigned borrow = __builtin_sub_overflow(sum->low, hash.low, &sum->low);

    sum->high -= hash.high + borrow;
}

static inline bool hash128_equal(struct hash128 a, struct hash128 b)
{
    return a.low == b.low && a.high == b.high;
}

#define HASH128_TEXT_BYTES 33 /* 32 digits and a NUL */

/* Hexadecimal, the high half first.  false: that is no such text. */
void hash128_to_text(char out[HASH128_TEXT_BYTES], struct hash128 hash);
bool hash128_from_text(struct hash128 *out, const char *text, size_t len);

/* MurmurHash3_x86_32 of Austin Appleby (public domain). */
uint32_t hash_murmur3_32(const void *data, size_t len, uint32_t seed);

/* CRC32C (Castagnoli), continuing from crc (0 at the start).  SSE4.2 where there is one. */
uint32_t hash_crc32c(uint32_t crc, const void *data, size_t len);

/* The same without special instructions: the oracle of the tests. */
uint32_t hash_crc32c_portable(uint32_t crc, const void *data, size_t len);

uint64_t hash_xxh64(const void *data, size_t len, uint64_t seed); /* XXH3, 64 bits */
struct hash128 hash_xxh128(const void *data, size_t len);         /* XXH3, 128 bits */
void hash_sha1(uint8_t out[20], const void *data, size_t len);
void hash_sha256(uint8_t out[32], const void *data, size_t len);

#endif
