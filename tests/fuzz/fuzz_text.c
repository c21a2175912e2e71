/* Foreign text: no function reads outside of its input, and what is accepted means the same when
 * it is written again. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool is_true, const char *what)
{
    if (is_true)
        return;
    (void)fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void check_base64(const char *text, size_t size)
{
    struct buffer plain = {0}, again = {0};
    uint8_t *out = malloc(size / 4 * 3 + 1);
    size_t len = 0;

    if (out != NULL && text_base64_decode(out, &len, text, size)) {
        must(len <= size / 4 * 3, "base64 fits");
        must(text_is_utf8(text, size), "base64 is ASCII");
    }
    free(out);
    if (text_base64url_decode(&plain, text, size)) {
        text_base64url_encode(&again, plain.data, plain.len);
        must(again.len == size && (size == 0 || memcmp(again.data, text, size) == 0),
             "base64url has one form");
    }
    buffer_free(&plain);
    buffer_free(&again);
}

static void check_percent(const char *text, size_t size)
{
    struct buffer encoded = {0};
    char *copy = malloc(size + 1);
    size_t len;

    if (copy == NULL)
        return;
    memcpy(copy, text, size);
    len = text_percent_decode(copy, size);
    must(len == SIZE_MAX || len <= size, "percent decoding shrinks");
    text_percent_encode(&encoded, text, size);
    if (encoded.len > 0) {
        len = text_percent_decode((char *)encoded.data, encoded.len);
        must(len == size && memcmp(encoded.data, text, size) == 0, "percent encoding reads back");
    }
    free(copy);
    buffer_free(&encoded);
}

static void check_numbers(const char *text, size_t size)
{
    double seconds = 0, number = 0;
    uint64_t whole;

    if (text_to_datetime(text, size, &seconds))
        must(seconds > -62170000000.0 && seconds < 253403000000.0, "a date of four-digit years");
    if (text_to_double(text, size, &number))
        must(isfinite(number), "finite");
    if (text_to_u64(text, size, &whole) && size < 1000)
        must(text_to_double(text, size, &number) && number == (double)whole, "equal numbers");
}

static void check_bytes(const uint8_t *data, size_t size)
{
    struct bytes_reader r = {.data = data, .len = size};
    struct buffer again = {0};
    uint64_t value = read_varint(&r);

    if (!r.failed) {
        buffer_append_varint(&again, value);
        must(again.len <= r.at, "the shortest varint");
    }
    buffer_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;

    if (size == 0)
        return 0;
    must(text_utf8_cut(text, size, size / 2) <= size / 2, "a cut");
    must(text_utf8_sequence(text, size) <= 4, "a sequence");
    (void)text_is_utf8(text, size);
    check_base64(text, size);
    check_percent(text, size);
    check_numbers(text, size);
    check_bytes(data, size);
    return 0;
}
