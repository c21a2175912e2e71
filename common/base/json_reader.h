/* A strict, single-pass JSON reader over bytes in memory (RFC 8259), for bodies on the hot path
 * and for filters.  jansson does everything else.
 *
 * Pull style: the caller asks for what it expects.  Nothing is allocated; strings without escapes
 * are given as slices of the input, others are decoded into the arena.  UTF-8 is checked, NUL
 * ("\u0000" too), lone surrogates, nesting beyond JSON_DEPTH_MAX, trailing bytes, and numbers that
 * are not finite are refused.  Differentially fuzzed against jansson.
 *
 * Errors: ERR_INVALID_JSON for malformed input; ERR_INVALID_ARGUMENT where JSON is well-formed but
 * of another type than asked for, and for numbers out of range (1e400; those of more than
 * JSON_NUMBER_BYTES_MAX bytes count as such); ERR_NO_MEMORY.  The words NaN and Infinity are
 * ERR_INVALID_ARGUMENT where a number is asked for (json_peek calls them JSON_KIND_NUMBER), and
 * ERR_INVALID_JSON elsewhere, as in json_skip.  After an error the reader is not used further.
 * Pointers of errors are the caller's business (err_prefix_pointer).
 */
#ifndef VICINAL_BASE_JSON_READER_H
#define VICINAL_BASE_JSON_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"

#define JSON_NUMBER_BYTES_MAX 1200 /* no double needs more to be told exactly */

enum json_kind {
    JSON_KIND_NULL,
    JSON_KIND_BOOL,
    JSON_KIND_NUMBER,
    JSON_KIND_STRING,
    JSON_KIND_ARRAY,
    JSON_KIND_OBJECT
};

struct json_text {
    const char *data; /* not NUL-terminated */
    size_t len;
};

struct json_reader {
    const char *data;
    size_t len;
    size_t at;
    uint32_t depth;
    bool fresh; /* a container was just opened: no comma before its first element */
    struct arena *arena;
    struct err *err;
};

/* The bytes are borrowed until the reader is done; arena too. */
void json_reader_init(struct json_reader *r, const void *data, size_t len, struct arena *arena,
                      struct err *err);

/* Type of the next value, which stays unread. */
MUST_CHECK enum err_code json_peek(struct json_reader *r, enum json_kind *type);

/* Objects:  json_object_begin(r);  while (json_object_next(r, &key, &more) == ERR_OK && more)
 * read one value.  Arrays alike.  Duplicate keys are given as they come. */
MUST_CHECK enum err_code json_object_begin(struct json_reader *r);
MUST_CHECK enum err_code json_object_next(struct json_reader *r, struct json_text *key, bool *more);
MUST_CHECK enum err_code json_array_begin(struct json_reader *r);
MUST_CHECK enum err_code json_array_next(struct json_reader *r, bool *more);

MUST_CHECK enum err_code json_read_string(struct json_reader *r, struct json_text *out);
MUST_CHECK enum err_code json_read_double(struct json_reader *r, double *out);
MUST_CHECK enum err_code json_read_bool(struct json_reader *r, bool *out);
MUST_CHECK enum err_code json_read_null(struct json_reader *r);

/* An integer literal (no fraction, no exponent) in [min, max], else ERR_INVALID_ARGUMENT. */
MUST_CHECK enum err_code json_read_u64(struct json_reader *r, uint64_t min, uint64_t max,
                                       uint64_t *out);

/* An array of finite numbers as float (round to nearest; out of float's range is refused).
 * Up to max are stored; *count is the number in the array, which may exceed max (reading goes on,
 * nothing more is stored).  *bad: index of the element that is at fault, on ERR_INVALID_ARGUMENT.
 */
MUST_CHECK enum err_code json_read_floats(struct json_reader *r, float *out, size_t max,
                                          size_t *count, size_t *bad);

/* Skip one value, checking it wholly; *raw (may be NULL) gets its exact bytes.  *depth_max (may be
 * NULL) gets the deepest nesting inside: 0 for a scalar, 1 for a flat object. */
MUST_CHECK enum err_code json_skip(struct json_reader *r, struct json_text *raw,
                                   uint32_t *depth_max);

/* Only white space is left.  Errors: ERR_INVALID_JSON. */
MUST_CHECK enum err_code json_end(struct json_reader *r);

bool json_text_is(struct json_text text, const char *literal);

#endif
