/* JSON numbers: see json_number.h.
 *
 * Writing a float: six digits tell any float that has a shorter form, nine tell every float.  So
 * 6, 7, 8, 9 digits are tried; each try scales the value to an integer, rounds it, and reads the
 * result back as the reader does.  The first that gives the value again is taken, without its
 * trailing zeros.  A double is tried so with 15 digits, as most that people or floats made have so
 * few.  Everything else, also values far from 1, where a power of ten is no exact double, is tried
 * with snprintf and strtod.
 */
#include "common/base/json_number.h"

#include <assert.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/json_reader.h"

#define EXACT_DIGITS (1ull << 53) /* integers below are doubles */
#define EXACT_POWER  22           /* 10^22 is the largest power of ten that is a double */
#define EXPONENT_MAX 100000       /* further digits of an exponent change nothing */
#define PLAIN_MIN    (-5)         /* decimal exponents printed without "e" */
#define PLAIN_MAX    16

static const double powers[EXACT_POWER + 1] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    assert(c_locale != (locale_t)0);
}

static locale_t get_c_locale(void)
{
    int code = pthread_once(&c_locale_once, make_c_locale);

    assert(code == 0);
    return c_locale;
}

static bool is_digit(const char *p, const char *end)
{
    return p < end && (uint8_t)(*p - '0') < 10;
}

/* A run of digits.  *dropped counts those that digits has no room for. */
static const char *scan_digits(const char *p, const char *end, struct json_number *out,
                               int64_t *dropped)
{
    for (; is_digit(p, end); p++) {
        /* One more digit must fit whatever it is. */
        if (out->digits < 1000000000000000000ull) {
            out->digits = out->digits * 10 + (uint64_t)(*p - '0');
        } else {
            out->is_complete = out->is_complete && *p == '0';
            ++*dropped;
        }
    }
    return p;
}

/* "e-12"; p is behind the "e".  NULL when there is no digit. */
static const char *scan_exponent(const char *p, const char *end, int64_t *out)
{
    bool is_negative = p < end && *p == '-';
    int64_t value = 0;

    if (p < end && (*p == '-' || *p == '+'))
        p++;
    if (!is_digit(p, end))
        return NULL;
    for (; is_digit(p, end); p++)
        if (value < EXPONENT_MAX)
            value = value * 10 + (*p - '0');
    *out = is_negative ? -value : value;
    return p;
}

bool json_number_scan(struct json_number *out, const char *text, size_t len)
{
    const char *p = text, *end = text + len, *start;
    int64_t dropped = 0, fraction_dropped = 0, exponent = 0;

    *out = (struct json_number){.text = text, .is_integer = true, .is_complete = true};
    out->is_negative = p < end && *p == '-';
    if (out->is_negative)
        p++;
    if (!is_digit(p, end))
        return false;
    if (*p == '0')
        p++; /* nothing but a point or an exponent may follow */
    else
        p = scan_digits(p, end, out, &dropped);
    if (p < end && *p == '.') {
        start = ++p;
        p = scan_digits(p, end, out, &fraction_dropped);
        if (p == start)
            return false;
        out->exponent -= (int64_t)(p - start) - fraction_dropped;
        out->is_integer = false;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p = scan_exponent(p + 1, end, &exponent);
        if (p == NULL)
            return false;
        out->is_integer = false;
    }
    out->exponent += dropped + exponent;
    out->len = (size_t)(p - text);
    return true;
}

/* digits * 10^exponent, exact up to one rounding; false when it cannot be had that way. */
static bool scale(uint64_t digits, int64_t exponent, double *out)
{
    if (digits >= EXACT_DIGITS || exponent < -EXACT_POWER || exponent > EXACT_POWER)
        return false;
    *out = exponent < 0 ? (double)digits / powers[-exponent] : (double)digits * powers[exponent];
    return true;
}

/* A double to the float that is nearest to the number which value was rounded from: the same as
 * the one nearest to value, unless value lies in the middle between two floats, or where floats
 * have fewer bits. */
static bool narrow(double value, float *out)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x1fffffff) == 0x10000000)
        return false;
    if (value != 0 && !(value >= 0x1p-126 && value <= 0x1p127))
        return false;
    *out = (float)value;
    return true;
}

bool json_number_small(uint64_t digits, unsigned places, float *out)
{
    assert(places <= EXACT_POWER);
    return digits < EXACT_DIGITS && narrow((double)digits / powers[places], out);
}

/* The text as strtod wants it. */
static bool copy_text(char copy[JSON_NUMBER_BYTES_MAX + 1], const struct json_number *number)
{
    if (number->len > JSON_NUMBER_BYTES_MAX)
        return false;
    memcpy(copy, number->text, number->len);
    copy[number->len] = '\0';
    return true;
}

bool json_number_to_double(const struct json_number *number, double *out)
{
    char copy[JSON_NUMBER_BYTES_MAX + 1];
    double value;

    if (number->len > JSON_NUMBER_BYTES_MAX)
        return false;
    if (number->is_complete && scale(number->digits, number->exponent, &value)) {
        *out = number->is_negative ? -value : value;
        return true;
    }
    if (!copy_text(copy, number))
        return false;
    value = strtod_l(copy, NULL, get_c_locale());
    if (!isfinite(value))
        return false;
    *out = value;
    return true;
}

bool json_number_to_float(const struct json_number *number, float *out)
{
    char copy[JSON_NUMBER_BYTES_MAX + 1];
    double wide;
    float value;

    if (number->len > JSON_NUMBER_BYTES_MAX)
        return false;
    if (number->is_complete && scale(number->digits, number->exponent, &wide) &&
        narrow(wide, &value)) {
        *out = number->is_negative ? -value : value;
        return true;
    }
    if (!copy_text(copy, number))
        return false;
    value = strtof_l(copy, NULL, get_c_locale());
    if (!isfinite(value))
        return false;
    *out = value;
    return true;
}

size_t json_number_print_u64(char *out, uint64_t value)
{
    char digits[20];
    size_t len = 0;

    do {
        digits[len++] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    for (size_t i = 0; i < len; i++)
        out[i] = digits[len - 1 - i];
    return len;
}

/* "e-07" without the needless zero. */
static size_t print_exponent(char *out, int exponent)
{
    out[0] = 'e';
    out[1] = exponent < 0 ? '-' : '+';
    return 2 + json_number_print_u64(out + 2, (uint64_t)abs(exponent));
}

/* digits * 10^exponent in the form that people would write; digits are not 0 and have at most 17
 * places. */
static size_t print_decimal(char *out, uint64_t digits, int exponent)
{
    char text[20];
    size_t len, at = 0;
    int point; /* digits before the point */

    assert(digits != 0);
    for (; digits % 10 == 0; digits /= 10)
        exponent++;
    len = json_number_print_u64(text, digits);
    point = (int)len + exponent;
    if (point <= PLAIN_MIN || point > PLAIN_MAX) {
        out[at++] = text[0];
        if (len > 1) {
            out[at++] = '.';
            memcpy(out + at, text + 1, len - 1);
            at += len - 1;
        }
        return at + print_exponent(out + at, point - 1);
    }
    if (point <= 0) {
        memcpy(out, "0.0000000", (size_t)(2 - point));
        memcpy(out + 2 - point, text, len);
        return (size_t)(2 - point) + len;
    }
    if (exponent >= 0) {
        memcpy(out, text, len);
        memset(out + len, '0', (size_t)exponent);
        return len + (size_t)exponent;
    }
    memcpy(out, text, (size_t)point);
    out[point] = '.';
    memcpy(out + point + 1, text + point, len - (size_t)point);
    return len + 1;
}

/* The slow, general way: precision is the first one that is tried, 17 tells every double.  Numbers
 * below FLT_MIN and DBL_MIN have fewer digits the nearer they are to 0: all are tried. */
static size_t print_ladder(char *out, double value, int precision, bool as_float)
{
    char text[NUMBER_TEXT_MAX];
    locale_t c = get_c_locale();
    locale_t before = uselocale(c);
    int len;

    for (;; precision++) {
        len = snprintf(text, sizeof(text), "%.*g", precision, value);
        assert(len > 0 && (size_t)len < sizeof(text));
        if (precision == 17)
            break;
        if (as_float ? strtof_l(text, NULL, c) == (float)value : strtod_l(text, NULL, c) == value)
            break;
    }
    (void)uselocale(before);
    memcpy(out, text, (size_t)len);
    return (size_t)len;
}

/* floor(log10(value)) of value > 0; false when it is so far from 0 that powers[] ends. */
static bool decimal_exponent(double value, int *out)
{
    int binary, guess;

    (void)frexp(value, &binary);
    guess = (int)floor((binary - 1) * 0.30102999566398120); /* right, or one too small */
    if (guess + 1 < -EXACT_POWER || guess + 1 > EXACT_POWER)
        return false;
    if (guess + 1 >= 0 ? value >= powers[guess + 1] : value * powers[-(guess + 1)] >= 1)
        guess++;
    *out = guess;
    return true;
}

/* The fast way; 0 when it is not sure to be right. */
static size_t print_small_float(char *out, float value)
{
    double wide = (double)value;
    int exponent;

    if (!decimal_exponent(wide, &exponent))
        return 0;
    for (int count = 6; count <= 9; count++) {
        int shift = count - 1 - exponent; /* power of ten that makes an integer of count digits */
        double scaled;
        uint64_t digits;
        float again;

        if (shift < -EXACT_POWER || shift > EXACT_POWER)
            return 0;
        scaled = shift < 0 ? wide / powers[-shift] : wide * powers[shift];
        digits = (uint64_t)(scaled + 0.5);
        if (!scale(digits, -shift, &scaled) || !narrow(scaled, &again))
            return 0;
        if (again == value)
            return print_decimal(out, digits, -shift);
    }
    return 0;
}

/* Fifteen digits tell every double that has a form of so many or fewer; 0 when this one has none,
 * or when it is not sure. */
static size_t print_small_double(char *out, double value)
{
    double scaled, again;
    uint64_t digits;
    int exponent, shift;

    if (!decimal_exponent(value, &exponent))
        return 0;
    shift = 14 - exponent;
    if (shift < -EXACT_POWER || shift > EXACT_POWER)
        return 0;
    scaled = shift < 0 ? value / powers[-shift] : value * powers[shift];
    digits = (uint64_t)(scaled + 0.5);
    if (!scale(digits, -shift, &again) || again != value)
        return 0;
    return print_decimal(out, digits, -shift);
}

size_t json_number_print_float(char *out, float value)
{
    size_t at = 0, len;

    assert(isfinite(value));
    if (signbit(value) != 0) {
        out[at++] = '-';
        value = -value;
    }
    if (value == 0) {
        out[at++] = '0';
        return at;
    }
    len = print_small_float(out + at, value);
    if (len == 0)
        len = print_ladder(out + at, (double)value, value < FLT_MIN ? 1 : 6, true);
    return at + len;
}

size_t json_number_print_double(char *out, double value)
{
    size_t at = 0, len;

    assert(isfinite(value));
    if (signbit(value) != 0) {
        out[at++] = '-';
        value = -value;
    }
    if (value < (double)EXACT_DIGITS && value == floor(value))
        return at + json_number_print_u64(out + at, (uint64_t)value);
    len = print_small_double(out + at, value);
    if (len == 0)
        len = print_ladder(out + at, value, value < DBL_MIN ? 1 : 15, false);
    return at + len;
}
