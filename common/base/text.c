/* Text that comes from outside: see text.h.  Every function takes a length, reads nothing behind
 * it, and accepts the whole input or refuses it. */
#include "common/base/text.h"

#include <assert.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/env.h"
#include "common/base/hash.h"

#define DOUBLE_TEXT_BYTES_MAX 1200
#define NO_DIGIT              0xff

size_t text_utf8_sequence(const void *data, size_t len)
{
    const uint8_t *p = data;
    uint8_t low = 0x80, high = 0xbf; /* bounds of the second byte */
    size_t size;

    assert(len > 0);
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    size = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (len < size)
        return 0;
    if (p[0] == 0xe0)
        low = 0xa0; /* shorter forms exist below */
    else if (p[0] == 0xed)
        high = 0x9f; /* surrogates above */
    else if (p[0] == 0xf0)
        low = 0x90; /* shorter forms exist below */
    else if (p[0] == 0xf4)
        high = 0x8f; /* beyond U+10FFFF above */
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < size; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return size;
}

bool text_is_utf8(const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t at = 0;

    while (at < len) {
        size_t size;

        if (len - at >= 8 && (load_u64(p + at) & 0x8080808080808080u) == 0) {
            at += 8;
            continue;
        }
        size = text_utf8_sequence(p + at, len - at);
        if (size == 0)
            return false;
        at += size;
    }
    return true;
}

size_t text_utf8_cut(const char *data, size_t len, size_t max)
{
    if (len <= max)
        return len;
    while (max > 0 && ((uint8_t)data[max] & 0xc0) == 0x80)
        max--;
    return max;
}

static uint8_t hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return (uint8_t)(c - '0');
    if (c >= 'a' && c <= 'f')
        return (uint8_t)(c - 'a' + 10);
    if (c >= 'A' && c <= 'F')
        return (uint8_t)(c - 'A' + 10);
    return NO_DIGIT;
}

void text_hex_encode(char *out, const void *data, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * len] = '\0';
}

bool text_hex_decode(void *out, size_t out_len, const char *in, size_t len)
{
    uint8_t *bytes = out;

    if (len % 2 != 0 || len / 2 != out_len)
        return false;
    for (size_t i = 0; i < out_len; i++) {
        uint8_t high = hex_digit(in[2 * i]);
        uint8_t low = hex_digit(in[2 * i + 1]);

        if (high == NO_DIGIT || low == NO_DIGIT)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

bool text_to_u64(const char *in, size_t len, uint64_t *out)
{
    uint64_t value = 0;

    if (len == 0)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (in[i] < '0' || in[i] > '9')
            return false;
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(in[i] - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    assert(c_locale != (locale_t)0);
}

/* in has a digit or point where strtod expects one: no blanks, "inf", "nan" or hexadecimal. */
static bool looks_decimal(const char *in, size_t len)
{
    size_t at = len > 0 && (in[0] == '-' || in[0] == '+') ? 1 : 0;

    if (at == len || len > DOUBLE_TEXT_BYTES_MAX || in[at] == '-' || in[at] == '+')
        return false;
    for (; at < len; at++)
        if (memchr("0123456789.eE+-", in[at], 15) == NULL)
            return false;
    return true;
}

bool text_to_double(const char *in, size_t len, double *out)
{
    char copy[DOUBLE_TEXT_BYTES_MAX + 1];
    int code = pthread_once(&c_locale_once, make_c_locale);
    double value;
    char *end;

    assert(code == 0);
    if (!looks_decimal(in, len))
        return false;
    memcpy(copy, in, len);
    copy[len] = '\0';
    value = strtod_l(copy, &end, c_locale);
    if (end != copy + len || !isfinite(value))
        return false;
    *out = value;
    return true;
}

size_t text_percent_decode(char *data, size_t len)
{
    size_t out = 0;

    for (size_t at = 0; at < len; at++) {
        uint8_t high, low;

        if (data[at] != '%') {
            data[out++] = data[at];
            continue;
        }
        if (len - at < 3)
            return SIZE_MAX;
        high = hex_digit(data[at + 1]);
        low = hex_digit(data[at + 2]);
        if (high == NO_DIGIT || low == NO_DIGIT)
            return SIZE_MAX;
        data[out++] = (char)(high << 4 | low);
        at += 2;
    }
    assert(out <= len);
    return out;
}

static bool is_unreserved(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

void text_percent_encode(struct buffer *out, const char *data, size_t len)
{
    static const char digits[] = "0123456789ABCDEF";

    for (size_t i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)data[i];

        if (is_unreserved(data[i])) {
            buffer_append_byte(out, byte);
            continue;
        }
        buffer_append_byte(out, '%');
        buffer_append_byte(out, (uint8_t)digits[byte >> 4]);
        buffer_append_byte(out, (uint8_t)digits[byte & 15]);
    }
}

void text_uuid(char out[37], const uint8_t id[16])
{
    size_t at = 0;

    for (unsigned i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            out[at++] = '-';
        text_hex_encode(out + at, id + i, 1);
        at += 2;
    }
    assert(at == 36);
}

static void set_version(uint8_t id[16], uint8_t version)
{
    id[6] = (uint8_t)(version << 4 | (id[6] & 0x0f));
    id[8] = (uint8_t)(0x80 | (id[8] & 0x3f));
}

void text_uuid7(char out[37], struct env *env)
{
    uint64_t ms = env_wall_us(env) / 1000;
    uint8_t id[16];

    env_random(env, id, sizeof(id));
    for (unsigned i = 0; i < 6; i++)
        id[i] = (uint8_t)(ms >> (40 - 8 * i));
    set_version(id, 7);
    text_uuid(out, id);
}

void text_uuid5(uint8_t id[16], const uint8_t space[16], const void *name, size_t len)
{
    uint8_t whole[16 + UUID5_NAME_MAX], hash[20];

    assert(len <= UUID5_NAME_MAX);
    memcpy(whole, space, 16);
    memcpy(whole + 16, name, len);
    hash_sha1(hash, whole, 16 + len);
    memcpy(id, hash, 16);
    set_version(id, 5);
}

bool text_has_scheme(const char *url, const char *scheme)
{
    size_t len = strlen(scheme);

    return strncmp(url, scheme, len) == 0 && url[len] == ':';
}
