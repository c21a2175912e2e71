/* Reading JSON: what is asked for comes, everything else is refused with the right code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "common/base/buffer.h"
#include "common/base/json_reader.h"
#include "common/base/limits.h"

static struct arena arena;
static struct err err;

static struct json_reader reader_of(const char *text)
{
    struct json_reader r;

    arena_reset(&arena);
    json_reader_init(&r, text, strlen(text), &arena, &err);
    return r;
}

static int free_arena(void **state)
{
    (void)state;
    arena_free(&arena);
    return 0;
}

static void documents_are_pulled(void **state)
{
    struct json_reader r = reader_of(" {\"id\" : \"x\", \"n\":[1, 2.5 ,-3e2],\"b\":true,"
                                     "\"no\":null,\"o\":{},\"skip\":{\"a\":[{}]}} ");
    struct json_text key, text, raw;
    double sum = 0, number = 0;
    uint32_t depth = 9;
    bool more, flag = false;

    (void)state;
    assert_int_equal(json_object_begin(&r), ERR_OK);
    while (json_object_next(&r, &key, &more) == ERR_OK && more) {
        if (json_text_is(key, "id")) {
            assert_int_equal(json_read_string(&r, &text), ERR_OK);
            assert_true(json_text_is(text, "x"));
        } else if (json_text_is(key, "n")) {
            assert_int_equal(json_array_begin(&r), ERR_OK);
            while (json_array_next(&r, &more) == ERR_OK && more) {
                assert_int_equal(json_read_double(&r, &number), ERR_OK);
                sum += number;
            }
        } else if (json_text_is(key, "b")) {
            assert_int_equal(json_read_bool(&r, &flag), ERR_OK);
        } else if (json_text_is(key, "no")) {
            assert_int_equal(json_read_null(&r), ERR_OK);
        } else if (json_text_is(key, "o")) {
            assert_int_equal(json_object_begin(&r), ERR_OK);
            assert_int_equal(json_object_next(&r, &key, &more), ERR_OK);
            assert_false(more);
        } else {
            assert_true(json_text_is(key, "skip"));
            assert_int_equal(json_skip(&r, &raw, &depth), ERR_OK);
            assert_true(json_text_is(raw, "{\"a\":[{}]}"));
        }
    }
    assert_int_equal(json_end(&r), ERR_OK);
    assert_true(flag);
    assert_true(sum == -296.5);
    assert_int_equal(depth, 3);
    assert_int_equal(r.depth, 0);
}

static enum err_code skip_all(const char *text)
{
    struct json_reader r = reader_of(text);
    enum err_code code = json_skip(&r, NULL, NULL);

    return code == ERR_OK ? json_end(&r) : code;
}

/* What the grammar, UTF-8 or our limits forbid. */
static const char *const malformed[] = {"",
                                        " ",
                                        "{",
                                        "[",
                                        "}",
                                        "[1,]",
                                        "[,1]",
                                        "{,}",
                                        "{\"a\"}",
                                        "{\"a\":}",
                                        "{\"a\":1,}",
                                        "{a:1}",
                                        "{1:1}",
                                        "[1 2]",
                                        "[1}",
                                        "{\"a\":1]",
                                        "01",
                                        "-",
                                        "1.",
                                        ".5",
                                        "+1",
                                        "1e",
                                        "1e+",
                                        "0x10",
                                        "--1",
                                        "tru",
                                        "nul",
                                        "True",
                                        "NaN",
                                        "Infinity",
                                        "-Infinity",
                                        "\"a",
                                        "\"\\x\"",
                                        "\"\\u12\"",
                                        "\"\\u123g\"",
                                        "\"\t\"",
                                        "\"\x01\"",
                                        "\"\x80\"",
                                        "\"\xed\xa0\x80\"",
                                        "\"\\u0000\"",
                                        "\"\\ud800\"",
                                        "\"\\udc00\"",
                                        "\"\\ud800\\u0041\"",
                                        "1 1",
                                        "[] []",
                                        "'a'",
                                        "\xef\xbb\xbf[]",
                                        "[1,2",
                                        "\"\\",
                                        "/**/1"};

static void malformed_text_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(malformed); i++)
        if (skip_all(malformed[i]) != ERR_INVALID_JSON)
            fail_msg("%s is accepted", malformed[i]);
    assert_int_equal(skip_all("1e400"), ERR_INVALID_ARGUMENT);
    assert_int_equal(skip_all("[-1e400]"), ERR_INVALID_ARGUMENT);
    assert_int_equal(skip_all("1e-400"), ERR_OK);
    assert_int_equal(skip_all("-0.0e-0"), ERR_OK);
}

static void a_nul_byte_is_refused(void **state)
{
    static const char texts[][4] = {"1\0 ", "\0 1", "\"\0\"", "[\0]"};
    struct json_reader r;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        enum err_code code;

        json_reader_init(&r, texts[i], 3, &arena, &err);
        code = json_skip(&r, NULL, NULL);
        if (code == ERR_OK)
            code = json_end(&r);
        assert_int_equal(code, ERR_INVALID_JSON);
    }
}

static void nesting_is_bounded(void **state)
{
    struct json_reader r;
    struct buffer text = {0};
    uint32_t depth;
    bool more;

    (void)state;
    for (int i = 0; i < 100000; i++)
        buffer_append_byte(&text, '[');
    json_reader_init(&r, text.data, text.len, &arena, &err);
    assert_int_equal(json_skip(&r, NULL, NULL), ERR_INVALID_JSON);
    assert_non_null(strstr(err.message, "deep"));
    buffer_reset(&text);
    for (int i = 0; i < JSON_DEPTH_MAX; i++)
        buffer_append_byte(&text, '[');
    for (int i = 0; i < JSON_DEPTH_MAX; i++)
        buffer_append_byte(&text, ']');
    json_reader_init(&r, text.data, text.len, &arena, &err);
    assert_int_equal(json_skip(&r, NULL, &depth), ERR_OK);
    assert_int_equal(depth, JSON_DEPTH_MAX);
    /* The limit counts containers that the caller walks, too. */
    buffer_reset(&text);
    for (int i = 0; i <= JSON_DEPTH_MAX; i++)
        buffer_append_byte(&text, '[');
    json_reader_init(&r, text.data, text.len, &arena, &err);
    for (int i = 0; i < JSON_DEPTH_MAX; i++) {
        assert_int_equal(json_array_begin(&r), ERR_OK);
        assert_int_equal(json_array_next(&r, &more), ERR_OK);
    }
    assert_int_equal(json_array_begin(&r), ERR_INVALID_JSON);
    buffer_free(&text);
}

static void check_string(const char *json, const char *expected)
{
    struct json_reader r = reader_of(json);
    struct json_text text;

    assert_int_equal(json_read_string(&r, &text), ERR_OK);
    assert_int_equal(json_end(&r), ERR_OK);
    if (!json_text_is(text, expected))
        fail_msg("%s gives %.*s", json, (int)text.len, text.data);
}

static void strings_are_decoded(void **state)
{
    struct json_reader r = reader_of("\"plain\"");
    struct json_text text;

    (void)state;
    check_string("\"\"", "");
    check_string("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t");
    check_string("\"\\u0041\\u00e9\\u20AC\\ud83d\\ude00\"",
                 "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    check_string("\"long enough for the fast way \xc3\xa9 and \\n on\"",
                 "long enough for the fast way \xc3\xa9 and \n on");
    check_string("\"\x7f\"", "\x7f");
    /* Without escapes the text is a slice of the input. */
    assert_int_equal(json_read_string(&r, &text), ERR_OK);
    assert_true(text.data == r.data + 1);
}

static void another_type_is_an_invalid_argument(void **state)
{
    static const char *const values[] = {"null", "true", "1", "\"x\"", "[1]", "{\"a\":1}"};
    struct json_text text;
    double number;
    uint64_t whole;
    bool flag;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(values); i++) {
        const bool is[] = {i == 0, i == 1, i == 2, i == 2, i == 3, i == 4, i == 5};
        enum err_code codes[7];
        enum json_kind type;
        struct json_reader r;

        r = reader_of(values[i]);
        codes[0] = json_read_null(&r);
        r = reader_of(values[i]);
        codes[1] = json_read_bool(&r, &flag);
        r = reader_of(values[i]);
        codes[2] = json_read_double(&r, &number);
        r = reader_of(values[i]);
        codes[3] = json_read_u64(&r, 0, 9, &whole);
        r = reader_of(values[i]);
        codes[4] = json_read_string(&r, &text);
        r = reader_of(values[i]);
        codes[5] = json_array_begin(&r);
        r = reader_of(values[i]);
        codes[6] = json_object_begin(&r);
        for (size_t j = 0; j < 7; j++)
            assert_int_equal(codes[j], is[j] ? ERR_OK : ERR_INVALID_ARGUMENT);
        r = reader_of(values[i]);
        assert_int_equal(json_peek(&r, &type), ERR_OK);
        assert_int_equal(type, i);
    }
    {
        struct json_reader r = reader_of("[1,");

        assert_int_equal(json_read_double(&r, &number), ERR_INVALID_JSON);
    }
}

static enum err_code read_double(const char *text, double *out)
{
    struct json_reader r = reader_of(text);
    enum err_code code = json_read_double(&r, out);

    return code == ERR_OK ? json_end(&r) : code;
}

static void numbers_are_the_nearest_doubles(void **state)
{
    static const char *const texts[] = {"0",
                                        "-0",
                                        "0.1",
                                        "1e22",
                                        "1e23",
                                        "123456789012345678",
                                        "9007199254740993",
                                        "0.30000000000000004",
                                        "2.2250738585072011e-308",
                                        "5e-324",
                                        "1e-400",
                                        "1e308",
                                        "1.7976931348623157e308",
                                        "100000000000000000000000000000",
                                        "0.000000000000000000000001",
                                        "12345678901234567890.12345678901234567890",
                                        "1E5",
                                        "1e+5",
                                        "1e0000000000000000005",
                                        "10000000000000000000",
                                        "100000000000000000000",
                                        "0e999999999999"};
    static const char *const out_of_range[] = {
        "1e400", "-1e400", "1e99999999999999999999", "NaN", "Infinity", "-Infinity", "1.8e308"};
    double value;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        double expected = strtod(texts[i], NULL);

        assert_int_equal(read_double(texts[i], &value), ERR_OK);
        if (memcmp(&value, &expected, sizeof(value)) != 0)
            fail_msg("%s gives %.17g", texts[i], value);
    }
    for (size_t i = 0; i < ARRAY_COUNT(out_of_range); i++)
        assert_int_equal(read_double(out_of_range[i], &value), ERR_INVALID_ARGUMENT);
    assert_int_equal(read_double("1x", &value), ERR_INVALID_JSON);
    assert_int_equal(read_double("Nan", &value), ERR_INVALID_JSON);
    assert_int_equal(read_double("01", &value), ERR_INVALID_JSON);
}

static void long_numbers_are_bounded(void **state)
{
    char text[JSON_NUMBER_BYTES_MAX + 2];
    double value;

    (void)state;
    memset(text, '0', sizeof(text));
    memcpy(text, "0.", 2);
    text[JSON_NUMBER_BYTES_MAX - 1] = '1';
    text[JSON_NUMBER_BYTES_MAX] = '\0';
    assert_int_equal(read_double(text, &value), ERR_OK);
    assert_true(value == 0);
    text[JSON_NUMBER_BYTES_MAX] = '1';
    text[JSON_NUMBER_BYTES_MAX + 1] = '\0';
    assert_int_equal(read_double(text, &value), ERR_INVALID_ARGUMENT);
    assert_int_equal(skip_all(text), ERR_INVALID_ARGUMENT);
}

static enum err_code read_whole(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    struct json_reader r = reader_of(text);

    return json_read_u64(&r, min, max, out);
}

static void whole_numbers_have_bounds(void **state)
{
    static const char *const bad[] = {"0", "10001", "1.0", "1e3", "-1", "18446744073709551616"};
    uint64_t value;

    (void)state;
    assert_int_equal(read_whole("1", 1, 10000, &value), ERR_OK);
    assert_int_equal(read_whole("10000", 1, 10000, &value), ERR_OK);
    assert_int_equal(value, 10000);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_int_equal(read_whole(bad[i], 1, 10000, &value), ERR_INVALID_ARGUMENT);
    assert_int_equal(read_whole("18446744073709551615", 0, UINT64_MAX, &value), ERR_OK);
    assert_true(value == UINT64_MAX);
}

static void check_floats(const char *text, size_t expected_count)
{
    struct json_reader r = reader_of(text);
    float floats[8] = {0};
    size_t count, bad;

    assert_int_equal(json_read_floats(&r, floats, 8, &count, &bad), ERR_OK);
    assert_int_equal(json_end(&r), ERR_OK);
    assert_int_equal(count, expected_count);
    for (size_t i = 0; i < count && i < 8; i++) {
        text += strspn(text, "[, \n\t");
        assert_true(floats[i] == strtof(text, NULL));
        text += strcspn(text, ",]");
    }
}

static void floats_are_the_nearest(void **state)
{
    (void)state;
    check_floats("[]", 0);
    check_floats(" [ ] ", 0);
    check_floats("[1]", 1);
    check_floats("[0.12345678,-0.87654321, 1e-3 ,16777217,3.4028235e38]", 5);
    check_floats("[ 0.1,\n0.2\t, 0.30000001192092896,1.00000005960464477539]", 4);
    check_floats("[1e-45,7e-46,1.17549435e-38,123456789.123456789012345]", 4);
    check_floats("[123456789012345678,1234567890123456789,0.123456789012345678,-0]", 4);
    check_floats("[1,2,3,4,5,6,7,8,9,10]", 10);
    check_floats("[0.5,0.12345678901,12345678.12345678]", 3);
}

static void refuse_floats(const char *text, enum err_code expected, size_t expected_bad)
{
    struct json_reader r = reader_of(text);
    size_t count, bad = 77;
    float floats[4];
    enum err_code code = json_read_floats(&r, floats, 4, &count, &bad);

    if (code != expected)
        fail_msg("%s gives %s", text, err_word(code));
    if (code == ERR_INVALID_ARGUMENT && bad != expected_bad)
        fail_msg("%s: %zu is at fault", text, bad);
}

static void what_is_no_float_is_named(void **state)
{
    (void)state;
    refuse_floats("[1,NaN]", ERR_INVALID_ARGUMENT, 1);
    refuse_floats("[Infinity]", ERR_INVALID_ARGUMENT, 0);
    refuse_floats("[1,2,-Infinity]", ERR_INVALID_ARGUMENT, 2);
    refuse_floats("[1,2,3,4,5,1e400]", ERR_INVALID_ARGUMENT, 5);
    refuse_floats("[3.5e38]", ERR_INVALID_ARGUMENT, 0);
    refuse_floats("[1,\"2\"]", ERR_INVALID_ARGUMENT, 1);
    refuse_floats("[true]", ERR_INVALID_ARGUMENT, 0);
    refuse_floats("[1,null]", ERR_INVALID_ARGUMENT, 1);
    refuse_floats("[[1]]", ERR_INVALID_ARGUMENT, 0);
    refuse_floats("\"x\"", ERR_INVALID_ARGUMENT, SIZE_MAX);
    refuse_floats("[1,]", ERR_INVALID_JSON, 0);
    refuse_floats("[1", ERR_INVALID_JSON, 0);
    refuse_floats("[1,", ERR_INVALID_JSON, 0);
    refuse_floats("[1.]", ERR_INVALID_JSON, 0);
    refuse_floats("[01]", ERR_INVALID_JSON, 0);
    refuse_floats("[1 2]", ERR_INVALID_JSON, 0);
    refuse_floats("[1..2]", ERR_INVALID_JSON, 0);
    refuse_floats("[-]", ERR_INVALID_JSON, 0);
    refuse_floats("[0.12345678", ERR_INVALID_JSON, 0);
    refuse_floats("[1,\"\\u00", ERR_INVALID_JSON, 0);
}

static void every_cut_of_a_document_is_refused(void **state)
{
    static const char text[] = "{\"a\":[1.5,\"x\\u00e9\",{\"b\":null}],\"c\":false}";

    (void)state;
    for (size_t len = 0; len < sizeof(text) - 1; len++) {
        char *cut = malloc(len + 1); /* of exact size: a sanitizer sees any read behind it */
        struct json_reader r;

        assert_non_null(cut);
        memcpy(cut, text, len);
        json_reader_init(&r, cut, len, &arena, &err);
        assert_int_equal(json_skip(&r, NULL, NULL), ERR_INVALID_JSON);
        free(cut);
    }
    assert_int_equal(skip_all(text), ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_are_pulled),
        cmocka_unit_test(malformed_text_is_refused),
        cmocka_unit_test(a_nul_byte_is_refused),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(strings_are_decoded),
        cmocka_unit_test(another_type_is_an_invalid_argument),
        cmocka_unit_test(numbers_are_the_nearest_doubles),
        cmocka_unit_test(long_numbers_are_bounded),
        cmocka_unit_test(whole_numbers_have_bounds),
        cmocka_unit_test(floats_are_the_nearest),
        cmocka_unit_test(what_is_no_float_is_named),
        cmocka_unit_test(every_cut_of_a_document_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, free_arena);
}
