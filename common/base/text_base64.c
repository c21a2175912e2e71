/* Base64 (RFC 4648), standard with padding and URL-safe without: see text.h.
 *
 * Strict both ways: no blanks, no wrong padding, and the unused bits of the last digit are zero,
 * so that one run of bytes has one encoding. */
#include "common/base/text.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#define NO_DIGIT 0xff

struct base64_table {
    uint8_t standard[256]; /* value of a digit, or NO_DIGIT */
    uint8_t url[256];
};

static const char url_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static struct base64_table table;
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void fill_table(void)
{
    memset(&table, NO_DIGIT, sizeof(table));
    for (uint8_t i = 0; i < 64; i++) {
        table.url[(uint8_t)url_digits[i]] = i;
        if (i < 62)
            table.standard[(uint8_t)url_digits[i]] = i;
    }
    table.standard['+'] = 62;
    table.standard['/'] = 63;
}

static const struct base64_table *get_table(void)
{
    int code = pthread_once(&table_once, fill_table);

    assert(code == 0);
    return &table;
}

/* Whole groups of four digits, len a multiple of 4. */
static bool decode_groups(uint8_t *out, const uint8_t *digits, const uint8_t *in, size_t len)
{
    uint8_t seen = 0;

    assert(len % 4 == 0);
    for (size_t i = 0; i < len; i += 4, out += 3) {
        uint8_t a = digits[in[i]], b = digits[in[i + 1]];
        uint8_t c = digits[in[i + 2]], d = digits[in[i + 3]];

        /* Values have six bits: a higher one means a character that is no digit. */
        seen |= a | b | c | d;
        out[0] = (uint8_t)(a << 2 | b >> 4);
        out[1] = (uint8_t)(b << 4 | c >> 2);
        out[2] = (uint8_t)(c << 6 | d);
    }
    return seen < 64;
}

/* The last two or three digits; false when they are none or have bits over. */
static bool decode_rest(uint8_t *out, const uint8_t *digits, const uint8_t *in, size_t len)
{
    uint8_t a = digits[in[0]], b = digits[in[1]];
    uint8_t c = len == 3 ? digits[in[2]] : 0;

    assert(len == 2 || len == 3);
    if ((a | b | c) >= 64)
        return false;
    out[0] = (uint8_t)(a << 2 | b >> 4);
    if (len == 2)
        return (b & 15) == 0;
    out[1] = (uint8_t)(b << 4 | c >> 2);
    return (c & 3) == 0;
}

bool text_base64_decode(void *out, size_t *out_len, const char *in, size_t len)
{
    const uint8_t *digits = get_table()->standard;
    const uint8_t *bytes = (const uint8_t *)in;
    uint8_t *p = out;
    size_t rest = 0; /* digits of a last group that is padded */
    size_t whole = len;

    if (len % 4 != 0)
        return false;
    if (len > 0 && in[len - 1] == '=') {
        rest = in[len - 2] == '=' ? 2 : 3;
        whole = len - 4;
    }
    if (!decode_groups(p, digits, bytes, whole))
        return false;
    if (rest != 0 && !decode_rest(p + whole / 4 * 3, digits, bytes + whole, rest))
        return false;
    *out_len = whole / 4 * 3 + (rest == 0 ? 0 : rest - 1);
    return true;
}

void text_base64url_encode(struct buffer *out, const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t at = 0;

    for (; len - at >= 3; at += 3) {
        uint32_t group = (uint32_t)p[at] << 16 | (uint32_t)p[at + 1] << 8 | p[at + 2];

        for (unsigned shift = 24; shift > 0; shift -= 6)
            buffer_append_byte(out, (uint8_t)url_digits[group >> (shift - 6) & 63]);
    }
    if (len - at >= 1) {
        uint32_t group = (uint32_t)p[at] << 16 | (len - at == 2 ? (uint32_t)p[at + 1] << 8 : 0);

        buffer_append_byte(out, (uint8_t)url_digits[group >> 18 & 63]);
        buffer_append_byte(out, (uint8_t)url_digits[group >> 12 & 63]);
        if (len - at == 2)
            buffer_append_byte(out, (uint8_t)url_digits[group >> 6 & 63]);
    }
}

bool text_base64url_decode(struct buffer *out, const char *in, size_t len)
{
    const uint8_t *digits = get_table()->url;
    const uint8_t *bytes = (const uint8_t *)in;
    size_t whole = len / 4 * 4;
    size_t rest = len - whole;
    uint8_t *p;

    if (rest == 1 || !buffer_reserve(out, len))
        return false;
    p = out->data + out->len;
    if (!decode_groups(p, digits, bytes, whole))
        return false;
    if (rest != 0 && !decode_rest(p + whole / 4 * 3, digits, bytes + whole, rest))
        return false;
    out->len += whole / 4 * 3 + (rest == 0 ? 0 : rest - 1);
    return true;
}
