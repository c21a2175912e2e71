/* Little-endian numbers in foreign bytes, and a reader that cannot run past their end. */
#ifndef VICINAL_BASE_BYTES_H
#define VICINAL_BASE_BYTES_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the formats are little-endian");

static inline uint16_t load_u16(const void *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint32_t load_u32(const void *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t load_u64(const void *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void store_u16(void *p, uint16_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void store_u32(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}

static inline void store_u64(void *p, uint64_t v)
{
    memcpy(p, &v, sizeof(v));
}

/* Big-endian, for keys that sort as numbers do. */
static inline void store_be32(void *p, uint32_t v)
{
    store_u32(p, __builtin_bswap32(v));
}

static inline uint32_t load_be32(const void *p)
{
    return __builtin_bswap32(load_u32(p));
}

/* Reader over borrowed bytes.  A read past the end gives 0 or NULL and sets `failed`, which stays:
 * look once at the end. */
struct bytes_reader {
    const uint8_t *data;
    size_t len;
    size_t at;
    bool failed;
};

static inline const uint8_t *read_bytes(struct bytes_reader *r, size_t len)
{
    const uint8_t *p;

    if (r->failed || r->len - r->at < len) {
        r->failed = true;
        return NULL;
    }
    /* An empty input may have no address, which must not be computed with. */
    p = r->len == 0 ? (const uint8_t *)"" : r->data + r->at;
    r->at += len;
    return p;
}

static inline uint8_t read_u8(struct bytes_reader *r)
{
    const uint8_t *p = read_bytes(r, 1);

    return p == NULL ? 0 : *p;
}

static inline uint16_t read_u16(struct bytes_reader *r)
{
    const uint8_t *p = read_bytes(r, 2);

    return p == NULL ? 0 : load_u16(p);
}

static inline uint32_t read_u32(struct bytes_reader *r)
{
    const uint8_t *p = read_bytes(r, 4);

    return p == NULL ? 0 : load_u32(p);
}

static inline uint64_t read_u64(struct bytes_reader *r)
{
    const uint8_t *p = read_bytes(r, 8);

    return p == NULL ? 0 : load_u64(p);
}

/* LEB128; more than 10 bytes or 64 bits is a failure. */
uint64_t read_varint(struct bytes_reader *r);

/* Everything was read, and nothing was missing. */
static inline bool read_done(const struct bytes_reader *r)
{
    return !r->failed && r->at == r->len;
}

#endif
