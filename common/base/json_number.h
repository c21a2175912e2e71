/* Numbers between JSON and binary, for json_reader.c and json_writer.c only.
 *
 * Reading: the digits go into a u64 and are scaled by a power of ten in double.  This is exact
 * when the digits stay below 2^53 and the power within 10^22 (both are doubles then, and one
 * operation rounds once).  All else goes to strtod or strtof.  Writing: see json_number.c.
 */
#ifndef VICINAL_BASE_JSON_NUMBER_H
#define VICINAL_BASE_JSON_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define NUMBER_TEXT_MAX 32 /* bytes of a printed number */

struct json_number {
    const char *text; /* from the sign on */
    size_t len;
    uint64_t digits;  /* the first of them as an integer */
    int64_t exponent; /* power of ten that digits are to be multiplied by */
    bool is_negative;
    bool is_integer;  /* neither fraction nor exponent */
    bool is_complete; /* digits holds all of them */
};

/* Scan the number that text starts with; false when it does not start with one. */
bool json_number_scan(struct json_number *out, const char *text, size_t len);

/* Round to nearest.  False when the number is not finite in that type or has more than
 * JSON_NUMBER_BYTES_MAX bytes. */
bool json_number_to_double(const struct json_number *number, double *out);
bool json_number_to_float(const struct json_number *number, float *out);

/* The fast path of json_number_to_float for digits / 10^places, places <= 22 and digits < 2^53;
 * false when that does not give the nearest float for sure. */
bool json_number_small(uint64_t digits, unsigned places, float *out);

/* Scan the number that the reader comes to and go behind it; its range is not looked at.
 * Errors: as json_read_double. */
struct json_reader;
MUST_CHECK enum err_code json_take_number(struct json_reader *r, struct json_number *number);

/* The shortest decimal form that reads back equal; value is finite.  Returns the length, at most
 * NUMBER_TEXT_MAX; out is not terminated. */
size_t json_number_print_float(char *out, float value);
size_t json_number_print_double(char *out, double value);
size_t json_number_print_u64(char *out, uint64_t value);

#endif
