/* Writing JSON: commas, escapes, and numbers that read back equal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/json_writer.h"

static struct buffer out;

static int free_out(void **state)
{
    (void)state;
    buffer_free(&out);
    return 0;
}

static struct json_writer writer(void)
{
    struct json_writer w;

    buffer_reset(&out);
    json_writer_init(&w, &out);
    return w;
}

static void wrote(const char *expected)
{
    buffer_append_byte(&out, '\0');
    assert_false(out.failed);
    assert_string_equal((char *)out.data, expected);
}

static void commas_come_by_themselves(void **state)
{
    struct json_writer w = writer();

    (void)state;
    json_begin_object(&w);
    json_key(&w, "a");
    json_begin_array(&w);
    json_u64(&w, 0);
    json_i64(&w, INT64_MIN);
    json_u64(&w, UINT64_MAX);
    json_begin_object(&w);
    json_end_object(&w);
    json_put_null(&w);
    json_end_array(&w);
    json_key(&w, "b");
    json_bool(&w, true);
    json_key_text(&w, "c\"", 2);
    json_raw(&w, "{\"x\":1}", 7);
    json_key(&w, "d");
    json_text(&w, "y");
    json_end_object(&w);
    wrote("{\"a\":[0,-9223372036854775808,18446744073709551615,{},null],\"b\":true,"
          "\"c\\\"\":{\"x\":1},\"d\":\"y\"}");
}

static void strings_are_escaped(void **state)
{
    struct json_writer w = writer();

    (void)state;
    json_put_string(&w, "a\"\\\b\f\n\r\t\x01\x1f/\x7f\xc3\xa9", 14);
    wrote("\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f/\x7f\xc3\xa9\"");
    w = writer();
    json_put_string(&w, "0123456789abcdef\xff\0z\xe2\x82", 21);
    wrote("\"0123456789abcdef\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd\"");
}

static void check_float(float value, const char *expected)
{
    struct json_writer w = writer();

    json_float(&w, value);
    wrote(expected);
}

static void check_double(double value, const char *expected)
{
    struct json_writer w = writer();

    json_double(&w, value);
    wrote(expected);
}

static void numbers_are_short(void **state)
{
    (void)state;
    check_float(0.0f, "0");
    check_float(-0.0f, "-0");
    check_float(1.0f, "1");
    check_float(-0.5f, "-0.5");
    check_float(0.1f, "0.1");
    check_float(0.3f, "0.3");
    check_float(16777216.0f, "16777216");
    check_float(1e10f, "10000000000");
    check_float(0.00001f, "0.00001");
    check_float(0.000001f, "1e-6");
    check_float(3.4028235e38f, "3.4028235e+38");
    check_float(1e-45f, "1e-45");
    check_float(0.87654322f, "0.8765432");
    check_double(0.0, "0");
    check_double(-3.0, "-3");
    check_double(0.1, "0.1");
    check_double(0.1 + 0.2, "0.30000000000000004");
    check_double(0.8765432, "0.8765432");
    check_double(123456.789, "123456.789");
    check_double(1e-7, "1e-7");
    check_double(999999999999999.9, "999999999999999.9");
    check_double(1e300, "1e+300");
    check_double(5e-324, "5e-324");
    check_double(9007199254740991.0, "9007199254740991");
}

/* xorshift: equal numbers in every run. */
static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void every_number_reads_back(void **state)
{
    uint64_t seed = 88172645463325252;

    (void)state;
    for (int i = 0; i < 100000; i++) {
        uint64_t bits = next_random(&seed);
        uint32_t low = (uint32_t)bits;
        struct json_writer w;
        double number, wide;
        float value, narrow;

        memcpy(&number, &bits, sizeof(number));
        memcpy(&value, &low, sizeof(value));
        if (i % 4 == 1) /* few digits */
            number = (double)(low % 100000000) / 1e7;
        if (i % 2 == 0) /* the usual range of vectors and scores */
            value = (float)(int32_t)low / 2147483648.0f;
        if (!isfinite(number) || !isfinite(value))
            continue;
        w = writer();
        json_begin_array(&w);
        json_float(&w, value);
        json_double(&w, number);
        json_end_array(&w);
        buffer_append_byte(&out, '\0');
        narrow = strtof((char *)out.data + 1, NULL);
        wide = strtod(strchr((char *)out.data, ',') + 1, NULL);
        if (memcmp(&narrow, &value, sizeof(value)) != 0 ||
            memcmp(&wide, &number, sizeof(number)) != 0)
            fail_msg("%.9g and %.17g are written %s", (double)value, number, (char *)out.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commas_come_by_themselves),
        cmocka_unit_test(strings_are_escaped),
        cmocka_unit_test(numbers_are_short),
        cmocka_unit_test(every_number_reads_back),
    };

    return cmocka_run_group_tests(tests, NULL, free_out);
}
