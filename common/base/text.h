/* Text that comes from outside: UTF-8, base64, hexadecimal, numbers. */
#ifndef VICINAL_BASE_TEXT_H
#define VICINAL_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"

/* Well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms). */
bool text_is_utf8(const void *data, size_t len);

/* Length (1..4) of the well-formed UTF-8 sequence that data (len >= 1) starts with, 0 if none. */
size_t text_utf8_sequence(const void *data, size_t len);

/* The longest prefix of at most max bytes that does not cut a UTF-8 sequence of well-formed data.
 */
size_t text_utf8_cut(const char *data, size_t len, size_t max);

/* Standard base64 with padding (RFC 4648 4); strict.  out has room for len / 4 * 3 bytes.
 * Returns false for anything else than well-formed input. */
bool text_base64_decode(void *out, size_t *out_len, const char *in, size_t len);

/* URL-safe base64 without padding (RFC 4648 5). */
void text_base64url_encode(struct buffer *out, const void *data, size_t len);
bool text_base64url_decode(struct buffer *out, const char *in, size_t len);

/* Lower-case hexadecimal; out gets 2 * len + 1 bytes, NUL-terminated. */
void text_hex_encode(char *out, const void *data, size_t len);
bool text_hex_decode(void *out, size_t out_len, const char *in, size_t len);

/* The whole input as a decimal number without sign or blanks; false on overflow or anything else.
 */
bool text_to_u64(const char *in, size_t len, uint64_t *out);

/* The whole input as a finite decimal floating-point number. */
bool text_to_double(const char *in, size_t len, double *out);

/* RFC 3339 date-time or ISO date ("2025-01-31", "2025-01-31T10:00:00Z", "…+02:00", fractions), as
 * seconds since 1970 UTC.  A date-time without a zone counts as UTC. */
bool text_to_datetime(const char *in, size_t len, double *seconds);

/* %XX decoding in place (no '+'); returns the new length, or SIZE_MAX when malformed. */
size_t text_percent_decode(char *data, size_t len);
void text_percent_encode(struct buffer *out, const char *data, size_t len); /* unreserved kept */

/* url begins with the whole scheme and a colon: how a front finds the back end of a URL. */
bool text_has_scheme(const char *url, const char *scheme);

/* A random UUID-like id: version 7 layout (time-ordered), 36 characters and NUL. */
struct env;
void text_uuid7(char out[37], struct env *env);

/* The UUID of a name in a space (RFC 9562, version 5); name of at most UUID5_NAME_MAX bytes. */
#define UUID5_NAME_MAX 256
void text_uuid5(uint8_t id[16], const uint8_t space[16], const void *name, size_t len);
void text_uuid(char out[37], const uint8_t id[16]); /* in its 36 characters, and NUL */

#endif
