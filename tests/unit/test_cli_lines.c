/* Lines of files, plain and compressed, and base64: what the import reads and sends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "cli/base64.h"
#include "cli/lines.h"
#include "common/base/text.h"

/* libzstd's header stays in the folders that use it; these three make the test's input. */
size_t ZSTD_compress(void *to, size_t room, const void *from, size_t len, int level);
size_t ZSTD_compressBound(size_t len);
unsigned ZSTD_isError(size_t code);

struct file {
    char path[64];
};

static struct file make(const void *data, size_t len)
{
    struct file file = {.path = "/tmp/vicinal-lines-XXXXXX"};
    int fd = mkstemp(file.path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), len);
    assert_int_equal(close(fd), 0);
    return file;
}

/* All lines joined by '|', and the code that reading ended with. */
static enum err_code read_all(const struct file *file, struct buffer *out, uint64_t *count)
{
    struct lines lines;
    struct err err = {0};
    const char *data;
    size_t len;
    bool more = true;
    enum err_code rc = lines_open(&lines, file->path, &err);

    assert_int_equal(rc, ERR_OK);
    while ((rc = lines_next(&lines, &data, &len, &more, &err)) == ERR_OK && more) {
        buffer_append(out, data, len);
        buffer_append_byte(out, '|');
    }
    *count = lines.number;
    lines_close(&lines);
    assert_int_equal(unlink(file->path), 0);
    return rc;
}

static void check(const char *text, const char *wanted, uint64_t lines)
{
    struct file file = make(text, strlen(text));
    struct buffer got = {0};
    uint64_t count;

    assert_int_equal(read_all(&file, &got, &count), ERR_OK);
    assert_int_equal(count, lines);
    assert_int_equal(got.len, strlen(wanted));
    assert_true(got.len == 0 || memcmp(got.data, wanted, got.len) == 0);
    buffer_free(&got);
}

static void plain_lines(void **state)
{
    (void)state;
    check("", "", 0);
    check("\n", "|", 1);
    check("a", "a|", 1);
    check("a\nb\r\n\nlast", "a|b||last|", 4);
    check("a\nb\n", "a|b|", 2);
}

/* Many lines of all lengths; two frames, the second empty or not. */
static void compressed_lines(void **state)
{
    struct buffer text = {0}, wanted = {0}, got = {0};
    size_t bound;
    uint8_t *packed;
    size_t first, second;
    struct file file;
    uint64_t count;

    (void)state;
    for (int i = 0; i < 60000; i++) {
        buffer_append_format(&text, "line %d %.*s", i, i % 97,
                             "-------------------------------"
                             "------------------------------------------------------------------");
        buffer_append_byte(&text, '\n');
    }
    for (size_t i = 0; i < text.len; i++)
        buffer_append_byte(&wanted, text.data[i] == '\n' ? '|' : text.data[i]);
    bound = 2 * ZSTD_compressBound(text.len);
    packed = malloc(bound);
    assert_non_null(packed);
    first = ZSTD_compress(packed, bound, text.data, text.len / 2, 1);
    assert_false(ZSTD_isError(first));
    second = ZSTD_compress(packed + first, bound - first, text.data + text.len / 2,
                           text.len - text.len / 2, 1);
    assert_false(ZSTD_isError(second));
    file = make(packed, first + second);
    assert_int_equal(read_all(&file, &got, &count), ERR_OK);
    assert_int_equal(count, 60000);
    assert_int_equal(got.len, wanted.len);
    assert_memory_equal(got.data, wanted.data, wanted.len);
    /* Cut in the middle, and damaged. */
    buffer_reset(&got);
    file = make(packed, first + second / 2);
    assert_int_equal(read_all(&file, &got, &count), ERR_CORRUPT);
    memset(packed + first / 2, 0x5a, 64);
    buffer_reset(&got);
    file = make(packed, first + second);
    assert_int_equal(read_all(&file, &got, &count), ERR_CORRUPT);
    free(packed);
    buffer_free(&text);
    buffer_free(&wanted);
    buffer_free(&got);
}

static void a_line_may_be_too_long(void **state)
{
    size_t len = LINE_BYTES_MAX + (2u << 20);
    char *text = malloc(len);
    struct buffer got = {0};
    struct file file;
    uint64_t count;

    (void)state;
    assert_non_null(text);
    memset(text, 'x', len);
    file = make(text, len);
    assert_int_equal(read_all(&file, &got, &count), ERR_PAYLOAD_TOO_LARGE);
    free(text);
    buffer_free(&got);
}

static void a_missing_file_is_said(void **state)
{
    struct lines lines;
    struct err err = {0};

    (void)state;
    assert_int_equal(lines_open(&lines, "/nowhere/at/all", &err), ERR_CONFIG);
    lines_close(&lines);
}

static void base64_is_read_back(void **state)
{
    uint8_t bytes[257], back[300];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 37 + 11);
    for (size_t len = 0; len < sizeof(bytes); len++) {
        struct buffer out = {0};
        size_t got;

        base64_append(&out, bytes, len);
        assert_int_equal(out.len, (len + 2) / 3 * 4);
        assert_true(text_base64_decode(back, &got, out.len == 0 ? "" : (char *)out.data, out.len));
        assert_int_equal(got, len);
        assert_memory_equal(back, bytes, len);
        buffer_free(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_lines),
        cmocka_unit_test(compressed_lines),
        cmocka_unit_test(a_line_may_be_too_long),
        cmocka_unit_test(a_missing_file_is_said),
        cmocka_unit_test(base64_is_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
