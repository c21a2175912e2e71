/* Hashes: see hash.h.  murmur3 and CRC32C are written here, because formats depend on them to the
 * bit; XXH3 comes from libxxhash, SHA-256 from OpenSSL. */
#include "common/base/hash.h"

#include <assert.h>
#include <pthread.h>

#include <openssl/evp.h>
#include <xxhash.h>

#include "common/base/bytes.h"
#include "common/base/text.h"

static uint32_t rotate_left(uint32_t value, unsigned bits)
{
    return (value << bits) | (value >> (32 - bits));
}

static uint32_t murmur3_mix(uint32_t k)
{
    k *= 0xcc9e2d51u;
    k = rotate_left(k, 15);
    return k * 0x1b873593u;
}

uint32_t hash_murmur3_32(const void *data, size_t len, uint32_t seed)
{
    const uint8_t *p = data;
    size_t blocks = len / 4;
    uint32_t h = seed;
    uint32_t tail = 0;

    for (size_t i = 0; i < blocks; i++) {
        h ^= murmur3_mix(load_u32(p + 4 * i));
        h = rotate_left(h, 13);
        h = h * 5 + 0xe6546b64u;
    }
    for (size_t i = len & 3; i > 0; i--)
        tail = tail << 8 | p[4 * blocks + i - 1];
    if ((len & 3) != 0)
        h ^= murmur3_mix(tail);
    h ^= (uint32_t)len;
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    h ^= h >> 16;
    return h;
}

/* 0x1edc6f41 with its bits reversed. */
#define CRC32C_POLYNOMIAL 0x82f63b78u

static uint32_t crc32c_table[256];
static pthread_once_t crc32c_once = PTHREAD_ONCE_INIT;

static void crc32c_fill_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (unsigned bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? CRC32C_POLYNOMIAL : 0);
        crc32c_table[i] = crc;
    }
}

uint32_t hash_crc32c_portable(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;
    int code = pthread_once(&crc32c_once, crc32c_fill_table);

    assert(code == 0);
    crc = ~crc;
    for (size_t i = 0; i < len; i++)
        crc = crc >> 8 ^ crc32c_table[(crc ^ p[i]) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data,
                                                               size_t len)
{
    const uint8_t *p = data;
    uint64_t wide = ~crc;

    for (; len >= 8; len -= 8, p += 8)
        wide = __builtin_ia32_crc32di(wide, load_u64(p));
    crc = (uint32_t)wide;
    for (; len > 0; len--, p++)
        crc = __builtin_ia32_crc32qi(crc, *p);
    return ~crc;
}
#endif

uint32_t hash_crc32c(uint32_t crc, const void *data, size_t len)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return crc32c_sse42(crc, data, len);
#endif
    return hash_crc32c_portable(crc, data, len);
}

uint64_t hash_xxh64(const void *data, size_t len, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, len, seed);
}

struct hash128 hash_xxh128(const void *data, size_t len)
{
    XXH128_hash_t hash = XXH3_128bits(data, len);

    return (struct hash128){.low = hash.low64, .high = hash.high64};
}

static uint64_t load_be64(const uint8_t *bytes)
{
    return (uint64_t)load_be32(bytes) << 32 | load_be32(bytes + 4);
}

void hash128_to_text(char out[HASH128_TEXT_BYTES], struct hash128 hash)
{
    uint8_t bytes[16];

    store_be32(bytes, (uint32_t)(hash.high >> 32));
    store_be32(bytes + 4, (uint32_t)hash.high);
    store_be32(bytes + 8, (uint32_t)(hash.low >> 32));
    store_be32(bytes + 12, (uint32_t)hash.low);
    text_hex_encode(out, bytes, sizeof(bytes));
}

bool hash128_from_text(struct hash128 *out, const char *text, size_t len)
{
    uint8_t bytes[16];

    if (len != 2 * sizeof(bytes) || !text_hex_decode(bytes, sizeof(bytes), text, len))
        return false;
    *out = (struct hash128){.high = load_be64(bytes), .low = load_be64(bytes + 8)};
    return true;
}

/* The default provider always has these: a failure means a broken installation. */
static void digest(void *out, unsigned size, const EVP_MD *kind, const void *data, size_t len)
{
    unsigned got = 0;
    int ok = EVP_Digest(data, len, out, &got, kind, NULL);

    assert(ok == 1);
    assert(got == size);
}

void hash_sha1(uint8_t out[20], const void *data, size_t len)
{
    digest(out, 20, EVP_sha1(), data, len);
}

void hash_sha256(uint8_t out[32], const void *data, size_t len)
{
    digest(out, 32, EVP_sha256(), data, len);
}
