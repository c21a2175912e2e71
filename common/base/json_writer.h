/* Writes JSON into a buffer; commas are put in by itself.  For answers on the hot path; the
 * buffer's `failed` tells of missing memory.  Asserts that what is written is well-formed. */
#ifndef VICINAL_BASE_JSON_WRITER_H
#define VICINAL_BASE_JSON_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"

struct json_writer {
    struct buffer *out;
    uint32_t depth;
    bool comma;       /* the next value needs one before it */
    bool after_key;   /* the next thing is the value of a member */
    uint64_t objects; /* bit d: the container of depth d + 1 is an object */
};

void json_writer_init(struct json_writer *w, struct buffer *out);

void json_begin_object(struct json_writer *w);
void json_end_object(struct json_writer *w);
void json_begin_array(struct json_writer *w);
void json_end_array(struct json_writer *w);

void json_key(struct json_writer *w, const char *key); /* a literal without escapes */
void json_key_text(struct json_writer *w, const char *data, size_t len);   /* UTF-8; escapes */
void json_put_string(struct json_writer *w, const char *data, size_t len); /* UTF-8; escapes */
void json_text(struct json_writer *w, const char *text);                   /* NUL-terminated */
void json_u64(struct json_writer *w, uint64_t value);
void json_i64(struct json_writer *w, int64_t value);
void json_double(struct json_writer *w, double value); /* shortest that reads back; finite */
void json_float(struct json_writer *w, float value);   /* shortest that reads back as float */
void json_bool(struct json_writer *w, bool value);
void json_put_null(struct json_writer *w);
void json_raw(struct json_writer *w, const void *data, size_t len); /* one value, encoded */

/* The bytes of a JSON string, quotes included, appended to a buffer.  NUL and bytes that are not
 * well-formed UTF-8 become U+FFFD: json_reader reads what is written, whatever came in. */
void json_escape(struct buffer *out, const char *data, size_t len);

#endif
