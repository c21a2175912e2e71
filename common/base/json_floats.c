/* Arrays of floats in JSON: see json_reader.h.
 *
 * Vectors are the bulk of what the services read, so they have a loop of their own.  The usual
 * number, "-0.01234567" and then a comma, is read here: digits go into an integer, eight of a
 * fraction at a time, and one division makes the number of them.  Everything else (exponents, many
 * digits, other types, errors) goes to json_take_number and the exact conversion.  Both ways give
 * the float that is nearest to the text.
 */
#include "common/base/json_reader.h"

#include <assert.h>

#include "common/base/bytes.h"
#include "common/base/json_number.h"

#define FAST_DIGITS_MAX 18 /* fit into 64 bits whatever they are */

/* All eight bytes are decimal digits: 0x30 to 0x3f, and still so with 6 added. */
static bool are_digits(uint64_t word)
{
    uint64_t high = word & 0xf0f0f0f0f0f0f0f0u;
    uint64_t high_of_sum = (word + 0x0606060606060606u) & 0xf0f0f0f0f0f0f0f0u;

    return (high | high_of_sum >> 4) == 0x3333333333333333u;
}

/* Their number: neighbours are joined to pairs, pairs to fours, fours to eight. */
static uint32_t eight_digits(uint64_t word)
{
    word = (word & 0x0f0f0f0f0f0f0f0fu) * 2561 >> 8;
    word = (word & 0x00ff00ff00ff00ffu) * 6553601 >> 16;
    return (uint32_t)((word & 0x0000ffff0000ffffu) * 42949672960001u >> 32);
}

static bool is_digit(char c)
{
    return (uint8_t)(c - '0') < 10;
}

/* Read the number at p if it is a simple one.  Returns its end, NULL if the slow way is to be
 * taken.  Never looks at or behind end. */
static const char *read_simple(const char *p, const char *end, float *out)
{
    bool is_negative = p < end && *p == '-';
    const char *start, *point;
    uint64_t digits = 0;
    float value;

    p += is_negative;
    start = p;
    while (p < end && is_digit(*p) && p - start < FAST_DIGITS_MAX)
        digits = digits * 10 + (uint64_t)(*p++ - '0');
    if (p == start || (*start == '0' && p - start > 1))
        return NULL;
    point = p;
    if (p < end && *p == '.') {
        point = ++p;
        if (end - p >= 8 && p - start <= FAST_DIGITS_MAX - 8 && are_digits(load_u64(p))) {
            digits = digits * 100000000 + eight_digits(load_u64(p));
            p += 8;
        }
        while (p < end && is_digit(*p) && p - start <= FAST_DIGITS_MAX)
            digits = digits * 10 + (uint64_t)(*p++ - '0');
        if (p == point)
            return NULL;
    }
    if (p == end || is_digit(*p) || *p == 'e' || *p == 'E' || *p == '.')
        return NULL;
    if (!json_number_small(digits, (unsigned)(p - point), &value))
        return NULL;
    *out = is_negative ? -value : value;
    return p;
}

/* The number that comes, whatever it looks like. */
static enum err_code read_any(struct json_reader *r, float *out)
{
    struct json_number number;
    enum err_code code = json_take_number(r, &number);

    if (code == ERR_OK && !json_number_to_float(&number, out))
        code = err_set(r->err, ERR_INVALID_ARGUMENT, "the number is out of range");
    return code;
}

enum err_code json_read_floats(struct json_reader *r, float *out, size_t max, size_t *count,
                               size_t *bad)
{
    const char *end = r->data + r->len;
    enum err_code code = json_array_begin(r);
    bool more = true;

    *count = 0;
    *bad = SIZE_MAX;
    if (code == ERR_OK)
        code = json_array_next(r, &more);
    while (code == ERR_OK && more) {
        const char *p = r->data + r->at;
        float value = 0;

        if (p < end && *p == ' ')
            p++;
        p = read_simple(p, end, &value);
        if (p != NULL) {
            r->at = (size_t)(p - r->data);
        } else {
            code = read_any(r, &value);
            if (code != ERR_OK) {
                *bad = *count;
                break;
            }
        }
        if (*count < max)
            out[*count] = value;
        ++*count;
        if (r->at < r->len && r->data[r->at] == ',')
            r->at++;
        else
            code = json_array_next(r, &more);
    }
    return code;
}
