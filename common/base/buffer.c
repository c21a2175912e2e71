/* Growing byte runs: see buffer.h.
 *
 * Memory at least doubles when it grows, so appending n bytes one by one costs O(n).  A failed
 * growth leaves the content as it was and sets `failed`.
 */
#include "common/base/buffer.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"

#define BUFFER_SIZE_MIN 256

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){0};
}

void buffer_reset(struct buffer *buffer)
{
    buffer->len = 0;
    buffer->failed = false;
}

static bool buffer_grow(struct buffer *buffer, size_t extra)
{
    size_t need, size;
    uint8_t *data;

    if (!checked_add(buffer->len, extra, &need))
        goto fail;
    if (!checked_mul(buffer->size, (size_t)2, &size))
        size = need;
    size = MAX_OF(MAX_OF(size, need), (size_t)BUFFER_SIZE_MIN);
    data = realloc(buffer->data, size);
    if (data == NULL)
        goto fail;
    buffer->data = data;
    buffer->size = size;
    return true;
fail:
    buffer->failed = true;
    return false;
}

bool buffer_reserve(struct buffer *buffer, size_t extra)
{
    assert(buffer->len <= buffer->size);
    if (buffer->failed)
        return false;
    if (buffer->size - buffer->len >= extra && buffer->data != NULL)
        return true;
    return buffer_grow(buffer, extra);
}

void buffer_append(struct buffer *buffer, const void *data, size_t len)
{
    if (len == 0 || !buffer_reserve(buffer, len))
        return;
    memcpy(buffer->data + buffer->len, data, len);
    buffer->len += len;
}

void buffer_append_text(struct buffer *buffer, const char *text)
{
    buffer_append(buffer, text, strlen(text));
}

void buffer_append_format(struct buffer *buffer, const char *format, ...)
{
    va_list args;
    int len;

    if (!buffer_reserve(buffer, 64))
        return;
    va_start(args, format);
    len = vsnprintf((char *)buffer->data + buffer->len, buffer->size - buffer->len, format, args);
    va_end(args);
    assert(len >= 0);
    if ((size_t)len >= buffer->size - buffer->len) {
        if (!buffer_reserve(buffer, (size_t)len + 1))
            return;
        va_start(args, format);
        len =
            vsnprintf((char *)buffer->data + buffer->len, buffer->size - buffer->len, format, args);
        va_end(args);
        assert(len >= 0 && (size_t)len < buffer->size - buffer->len);
    }
    buffer->len += (size_t)len;
}

void buffer_append_byte(struct buffer *buffer, uint8_t byte)
{
    if (!buffer_reserve(buffer, 1))
        return;
    buffer->data[buffer->len++] = byte;
}

void buffer_append_u16(struct buffer *buffer, uint16_t value)
{
    buffer_append(buffer, &value, sizeof(value));
}

void buffer_append_u32(struct buffer *buffer, uint32_t value)
{
    buffer_append(buffer, &value, sizeof(value));
}

void buffer_append_u64(struct buffer *buffer, uint64_t value)
{
    buffer_append(buffer, &value, sizeof(value));
}

void buffer_append_varint(struct buffer *buffer, uint64_t value)
{
    uint8_t bytes[10];
    size_t len = 0;

    while (value >= 0x80) {
        bytes[len++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    bytes[len++] = (uint8_t)value;
    assert(len <= sizeof(bytes));
    buffer_append(buffer, bytes, len);
}

enum err_code buffer_check(const struct buffer *buffer, struct err *err)
{
    if (buffer->failed)
        return err_set(err, ERR_NO_MEMORY, "no memory for a buffer of %zu bytes", buffer->len);
    return ERR_OK;
}
