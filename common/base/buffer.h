/* A growing run of bytes.  Once an append fails for want of memory, `failed` stays set and later
 * appends do nothing: the writer looks once, at the end.  Not thread safe. */
#ifndef VICINAL_BASE_BUFFER_H
#define VICINAL_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/base/err.h"

struct buffer {
    uint8_t *data;
    size_t len;
    size_t size; /* bytes allocated */
    bool failed;
};

void buffer_free(struct buffer *buffer); /* zeroed is fine; leaves it zeroed */

/* Forget the content, keep the memory, clear `failed`. */
void buffer_reset(struct buffer *buffer);

/* Make room for extra more bytes.  False (and failed) when there is none. */
bool buffer_reserve(struct buffer *buffer, size_t extra);

void buffer_append(struct buffer *buffer, const void *data, size_t len);
void buffer_append_text(struct buffer *buffer, const char *text);
void buffer_append_format(struct buffer *buffer, const char *format, ...) PRINTF_LIKE(2, 3);
void buffer_append_byte(struct buffer *buffer, uint8_t byte);

/* Little-endian numbers and LEB128 varints. */
void buffer_append_u16(struct buffer *buffer, uint16_t value);
void buffer_append_u32(struct buffer *buffer, uint32_t value);
void buffer_append_u64(struct buffer *buffer, uint64_t value);
void buffer_append_varint(struct buffer *buffer, uint64_t value);

/* Errors: ERR_NO_MEMORY when an append has failed. */
MUST_CHECK enum err_code buffer_check(const struct buffer *buffer, struct err *err);

#endif
