/* Buffers, and the reader that reads what they hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/buffer.h"
#include "common/base/bytes.h"

static void what_is_appended_is_there(void **state)
{
    struct buffer buffer = {0};
    struct err err;

    (void)state;
    for (int i = 0; i < 1000; i++)
        buffer_append_format(&buffer, "%d,", i);
    buffer_append_text(&buffer, "end");
    buffer_append(&buffer, NULL, 0);
    assert_int_equal(buffer.len, 10 * 2 + 90 * 3 + 900 * 4 + 3);
    assert_memory_equal(buffer.data, "0,1,2,3,", 8);
    assert_memory_equal(buffer.data + buffer.len - 7, "999,end", 7);
    assert_int_equal(buffer_check(&buffer, &err), ERR_OK);
    buffer_reset(&buffer);
    assert_int_equal(buffer.len, 0);
    assert_true(buffer.size > 0);
    buffer_free(&buffer);
    assert_null(buffer.data);
    buffer_free(&buffer);
}

static void long_formats_fit(void **state)
{
    struct buffer buffer = {0};
    char text[5000];

    (void)state;
    memset(text, 'y', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    buffer_append_format(&buffer, "<%s>", text);
    assert_int_equal(buffer.len, sizeof(text) + 1);
    assert_int_equal(buffer.data[buffer.len - 1], '>');
    buffer_free(&buffer);
}

static void a_failure_sticks_and_keeps_the_content(void **state)
{
    struct buffer buffer = {0};
    struct err err;

    (void)state;
    buffer_append_text(&buffer, "abc");
    assert_false(buffer_reserve(&buffer, SIZE_MAX));
    assert_false(buffer_reserve(&buffer, 1));
    buffer_append_text(&buffer, "def");
    assert_int_equal(buffer.len, 3);
    assert_int_equal(buffer_check(&buffer, &err), ERR_NO_MEMORY);
    buffer_reset(&buffer);
    assert_int_equal(buffer_check(&buffer, &err), ERR_OK);
    buffer_free(&buffer);
}

static void numbers_read_back(void **state)
{
    static const uint64_t varints[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX};
    struct buffer buffer = {0};
    struct bytes_reader r;

    (void)state;
    buffer_append_byte(&buffer, 7);
    buffer_append_u16(&buffer, 0x1234);
    buffer_append_u32(&buffer, 0x12345678);
    buffer_append_u64(&buffer, 0x123456789abcdef0);
    assert_int_equal(buffer.data[1], 0x34);
    for (size_t i = 0; i < ARRAY_COUNT(varints); i++)
        buffer_append_varint(&buffer, varints[i]);
    r = (struct bytes_reader){.data = buffer.data, .len = buffer.len};
    assert_int_equal(read_u8(&r), 7);
    assert_int_equal(read_u16(&r), 0x1234);
    assert_int_equal(read_u32(&r), 0x12345678);
    assert_true(read_u64(&r) == 0x123456789abcdef0);
    for (size_t i = 0; i < ARRAY_COUNT(varints); i++)
        assert_true(read_varint(&r) == varints[i]);
    assert_true(read_done(&r));
    assert_int_equal(read_u32(&r), 0);
    assert_false(read_done(&r));
    buffer_free(&buffer);
}

static void a_reader_never_passes_the_end(void **state)
{
    static const uint8_t endless[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
                                      0x80, 0x80, 0x80, 0x80, 0x00};
    static const uint8_t too_big[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
    struct bytes_reader r = {.data = endless, .len = 3};

    (void)state;
    assert_int_equal(read_u32(&r), 0);
    assert_true(r.failed);
    assert_int_equal(read_u8(&r), 0);
    r = (struct bytes_reader){.data = endless, .len = 3};
    assert_null(read_bytes(&r, SIZE_MAX));
    r = (struct bytes_reader){.data = endless, .len = 3};
    assert_int_equal(read_varint(&r), 0);
    assert_true(r.failed);
    r = (struct bytes_reader){.data = endless, .len = sizeof(endless)};
    (void)read_varint(&r);
    assert_true(r.failed);
    r = (struct bytes_reader){.data = too_big, .len = sizeof(too_big)};
    (void)read_varint(&r);
    assert_true(r.failed);
    r = (struct bytes_reader){.data = NULL, .len = 0};
    assert_non_null(read_bytes(&r, 0));
    assert_true(read_done(&r));
}

static void big_endian_sorts(void **state)
{
    uint8_t a[4], b[4];

    (void)state;
    store_be32(a, 255);
    store_be32(b, 256);
    assert_true(memcmp(a, b, 4) < 0);
    assert_int_equal(load_be32(b), 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_appended_is_there),
        cmocka_unit_test(long_formats_fit),
        cmocka_unit_test(a_failure_sticks_and_keeps_the_content),
        cmocka_unit_test(numbers_read_back),
        cmocka_unit_test(a_reader_never_passes_the_end),
        cmocka_unit_test(big_endian_sorts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
