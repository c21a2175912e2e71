/* Foreign text: what is well-formed is read, everything else refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/env.h"
#include "common/base/text.h"

static void utf8_is_told_from_other_bytes(void **state)
{
    static const char *const good[] = {"",
                                       "plain ascii text of more than eight bytes",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "12345678\xe2\x82\xac"};
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xc2 ",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xe2\x82",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xff",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "1234567\xe2\x82"};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(good); i++)
        assert_true(text_is_utf8(good[i], strlen(good[i])));
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(text_is_utf8(bad[i], strlen(bad[i])));
    assert_true(text_is_utf8("a\0b", 3));
    assert_int_equal(text_utf8_cut("a\xe2\x82\xac", 4, 3), 1);
    assert_int_equal(text_utf8_cut("a\xe2\x82\xac", 4, 4), 4);
    assert_int_equal(text_utf8_cut("abc", 3, 2), 2);
}

static void check_base64(const char *plain, const char *encoded)
{
    uint8_t out[64];
    size_t len = 0;

    assert_true(text_base64_decode(out, &len, encoded, strlen(encoded)));
    assert_int_equal(len, strlen(plain));
    assert_memory_equal(out, plain, len);
}

static void base64_is_strict(void **state)
{
    static const char *const bad[] = {
        "Zg=", "Zg", "Z===", "====", "Zh==", "Zm9=", "Zg==Zg==", "Z g=", "Zm9v\n", "Zm9_", "=g=="};
    uint8_t out[64];
    size_t len;

    (void)state;
    check_base64("", "");
    check_base64("f", "Zg==");
    check_base64("fo", "Zm8=");
    check_base64("foo", "Zm9v");
    check_base64("foob", "Zm9vYg==");
    check_base64("fooba", "Zm9vYmE=");
    check_base64("foobar", "Zm9vYmFy");
    check_base64("\xfb\xff", "+/8=");
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(text_base64_decode(out, &len, bad[i], strlen(bad[i])));
}

static void base64url_reads_back(void **state)
{
    struct buffer encoded = {0}, decoded = {0};
    uint8_t bytes[100];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(255 - i * 37);
    for (size_t len = 0; len <= sizeof(bytes); len++) {
        buffer_reset(&encoded);
        buffer_reset(&decoded);
        text_base64url_encode(&encoded, bytes, len);
        assert_true(text_base64url_decode(&decoded, (char *)encoded.data, encoded.len));
        assert_int_equal(decoded.len, len);
        assert_memory_equal(decoded.data, bytes, len);
    }
    buffer_reset(&encoded);
    text_base64url_encode(&encoded, "\xfb\xff", 2);
    assert_memory_equal(encoded.data, "-_8", 3);
    buffer_reset(&decoded);
    assert_false(text_base64url_decode(&decoded, "-_9", 3));
    assert_false(text_base64url_decode(&decoded, "-_8=", 4));
    assert_false(text_base64url_decode(&decoded, "A", 1));
    assert_int_equal(decoded.len, 0);
    buffer_free(&encoded);
    buffer_free(&decoded);
}

static void hexadecimal_reads_back(void **state)
{
    uint8_t bytes[3];
    char text[7];

    (void)state;
    text_hex_encode(text, "\x00\xab\xff", 3);
    assert_string_equal(text, "00abff");
    assert_true(text_hex_decode(bytes, 3, "00AbfF", 6));
    assert_memory_equal(bytes, "\x00\xab\xff", 3);
    assert_false(text_hex_decode(bytes, 3, "00abf", 5));
    assert_false(text_hex_decode(bytes, 3, "00abfg", 6));
    assert_false(text_hex_decode(bytes, 2, "00abff", 6));
}

static void whole_numbers_have_bounds(void **state)
{
    static const char *const bad[] = {"",
                                      " 1",
                                      "1 ",
                                      "+1",
                                      "-1",
                                      "0x1",
                                      "1.0",
                                      "18446744073709551616",
                                      "99999999999999999999999"};
    uint64_t value = 0;

    (void)state;
    assert_true(text_to_u64("18446744073709551615", 20, &value));
    assert_true(value == UINT64_MAX);
    assert_true(text_to_u64("007", 3, &value));
    assert_int_equal(value, 7);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(text_to_u64(bad[i], strlen(bad[i]), &value));
}

static void doubles_are_finite_and_decimal(void **state)
{
    static const char *const bad[] = {"",   "-",  "1e400", "nan", "inf",   "0x10",    " 1",
                                      "1 ", "1e", "--1",   "1,5", "1.2.3", "infinity"};
    double value = 0;

    (void)state;
    assert_true(text_to_double("-1.5e3", 6, &value));
    assert_true(value == -1500);
    assert_true(text_to_double("0.1xyz", 3, &value));
    assert_true(value == 0.1);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(text_to_double(bad[i], strlen(bad[i]), &value));
}

static void check_date(const char *text, double expected)
{
    double seconds = -1;

    assert_true(text_to_datetime(text, strlen(text), &seconds));
    assert_true(seconds == expected);
}

static void dates_become_seconds(void **state)
{
    static const char *const bad[] = {"",
                                      "2025",
                                      "2025-1-1",
                                      "2025-13-01",
                                      "2025-00-10",
                                      "2025-02-29",
                                      "2100-02-29",
                                      "2025-04-31",
                                      "2025-01-00",
                                      "2025-01-31T",
                                      "2025-01-31T24:00:00Z",
                                      "2025-01-31T10:60:00Z",
                                      "2025-01-31T10:00:61Z",
                                      "2025-01-31T10:00:00.Z",
                                      "2025-01-31T10:00:00+2:00",
                                      "2025-01-31T10:00:00+02:00x",
                                      "2025-01-31T10:00:00+24:00",
                                      "2025-01-31x10:00:00",
                                      " 2025-01-31"};
    double seconds;

    (void)state;
    check_date("1970-01-01", 0);
    check_date("2025-01-31", 1738281600);
    check_date("2025-01-31T10:00:00Z", 1738317600);
    check_date("2025-01-31T10:00:00", 1738317600);
    check_date("2025-01-31T10:00:00+02:00", 1738310400);
    check_date("2025-01-31t10:00:00.25-00:30", 1738319400.25);
    check_date("2000-02-29T23:59:60Z", 951868800);
    check_date("1969-12-31T23:59:59Z", -1);
    check_date("0001-01-01", -62135596800);
    check_date("0000-01-01", -62167219200);
    check_date("9999-12-31T23:59:59Z", 253402300799);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(text_to_datetime(bad[i], strlen(bad[i]), &seconds));
}

static void percent_encoding_reads_back(void **state)
{
    struct buffer out = {0};
    char text[] = "a%20b%2Fc%e2%82%ac+";
    char cut[] = "a%2";
    char wrong[] = "a%2x";
    size_t len;

    (void)state;
    len = text_percent_decode(text, strlen(text));
    assert_int_equal(len, 9);
    assert_memory_equal(text, "a b/c\xe2\x82\xac+", 9);
    text_percent_encode(&out, text, len);
    buffer_append_byte(&out, '\0');
    assert_string_equal((char *)out.data, "a%20b%2Fc%E2%82%AC%2B");
    assert_true(text_percent_decode(cut, 3) == SIZE_MAX);
    assert_true(text_percent_decode(wrong, 4) == SIZE_MAX);
    buffer_free(&out);
}

static void uuids_are_version_7_and_differ(void **state)
{
    char a[37], b[37];

    (void)state;
    text_uuid7(a, env_real());
    text_uuid7(b, env_real());
    assert_int_equal(strlen(a), 36);
    assert_true(a[8] == '-' && a[13] == '-' && a[18] == '-' && a[23] == '-');
    assert_int_equal(a[14], '7');
    assert_non_null(strchr("89ab", a[19]));
    assert_string_not_equal(a, b);
}

/* The example of RFC 9562, A.4; and what Python's uuid.uuid5 makes of "" in the space of URLs. */
static void uuids_of_names_have_their_published_values(void **state)
{
    uint8_t space[16], id[16];
    char out[37];

    (void)state;
    assert_true(text_hex_decode(space, 16, "6ba7b8109dad11d180b400c04fd430c8", 32));
    text_uuid5(id, space, "www.example.com", 15);
    text_uuid(out, id);
    assert_string_equal(out, "2ed6657d-e927-568b-95e1-2665a8aea6a2");
    assert_true(text_hex_decode(space, 16, "6ba7b8119dad11d180b400c04fd430c8", 32));
    text_uuid5(id, space, "", 0);
    text_uuid(out, id);
    assert_string_equal(out, "1b4db7eb-4057-5ddf-91e0-36dec72071f5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_is_told_from_other_bytes),
        cmocka_unit_test(base64_is_strict),
        cmocka_unit_test(base64url_reads_back),
        cmocka_unit_test(hexadecimal_reads_back),
        cmocka_unit_test(whole_numbers_have_bounds),
        cmocka_unit_test(doubles_are_finite_and_decimal),
        cmocka_unit_test(dates_become_seconds),
        cmocka_unit_test(percent_encoding_reads_back),
        cmocka_unit_test(uuids_are_version_7_and_differ),
        cmocka_unit_test(uuids_of_names_have_their_published_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
