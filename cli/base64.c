/* Standard base64 (RFC 4648 4), fast enough that a vector costs a microsecond: see base64.h. */
#include "cli/base64.h"

#include <pthread.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static char pairs[4096][2];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_pairs(void)
{
    for (size_t i = 0; i < 4096; i++) {
        pairs[i][0] = alphabet[i >> 6];
        pairs[i][1] = alphabet[i & 63];
    }
}

void base64_append(struct buffer *out, const void *data, size_t len)
{
    const uint8_t *in = data;
    size_t whole = len / 3 * 3;
    uint8_t *to;
    uint32_t bits;

    (void)pthread_once(&once, fill_pairs);
    if (!buffer_reserve(out, (len + 2) / 3 * 4))
        return;
    to = out->data + out->len;
    for (size_t i = 0; i < whole; i += 3, to += 4) {
        bits = (uint32_t)in[i] << 16 | (uint32_t)in[i + 1] << 8 | in[i + 2];
        memcpy(to, pairs[bits >> 12], 2);
        memcpy(to + 2, pairs[bits & 4095], 2);
    }
    if (whole < len) {
        bits = (uint32_t)in[whole] << 16 | (len - whole == 2 ? (uint32_t)in[whole + 1] << 8 : 0);
        memcpy(to, pairs[bits >> 12], 2);
        memcpy(to + 2, pairs[bits & 4095], 2);
        to[3] = '=';
        if (len - whole == 1)
            to[2] = '=';
        to += 4;
    }
    out->len = (size_t)(to - out->data);
}
