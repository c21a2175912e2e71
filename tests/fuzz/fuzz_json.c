/* The JSON reader against jansson.
 *
 * Any input: json_skip and json_end accept it if and only if jansson does.  Ours is stricter in
 * three points, which are allowed for: nesting beyond JSON_DEPTH_MAX, numbers of more than
 * JSON_NUMBER_BYTES_MAX bytes, and a NUL byte behind the value, where jansson stops reading.  What
 * both accept is walked: strings, keys and numbers are equal.  Beside that: json_read_floats agrees
 * with strtof, whatever is escaped or printed reads back.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/base/arena.h"
#include "common/base/buffer.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"
#include "common/base/limits.h"
#include "common/base/text.h"

#define FLOATS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The fuzzer's findings must stop it also where assertions are off. */
static void must(bool is_true, const char *what)
{
    if (is_true)
        return;
    (void)fprintf(stderr, "broken: %s\n", what);
    abort();
}

/* Deepest nesting that the brackets outside of strings make; the text is valid JSON. */
static size_t nesting(const char *data, size_t size)
{
    size_t depth = 0, deepest = 0;
    bool in_string = false;

    for (size_t i = 0; i < size; i++) {
        if (in_string && data[i] == '\\')
            i++;
        else if (data[i] == '"')
            in_string = !in_string;
        else if (!in_string && (data[i] == '[' || data[i] == '{'))
            deepest = ++depth > deepest ? depth : deepest;
        else if (!in_string && (data[i] == ']' || data[i] == '}'))
            depth--;
    }
    return deepest;
}

static bool has_long_number(const char *data, size_t size)
{
    size_t run = 0;

    for (size_t i = 0; i < size; i++) {
        run = strchr("0123456789.eE+-", data[i]) != NULL && data[i] != '\0' ? run + 1 : 0;
        if (run > JSON_NUMBER_BYTES_MAX)
            return true;
    }
    return false;
}

static void compare(struct json_reader *r, const json_t *theirs);

static void compare_object(struct json_reader *r, const json_t *theirs)
{
    struct json_reader ahead = *r;
    struct json_text key;
    size_t count = 0;
    bool more;

    must(json_object_begin(&ahead) == ERR_OK, "object begins");
    while (json_object_next(&ahead, &key, &more) == ERR_OK && more) {
        must(json_skip(&ahead, NULL, NULL) == ERR_OK, "member is skipped");
        count++;
    }
    must(ahead.depth == r->depth, "depth after an object");
    if (count != json_object_size(theirs)) {
        must(count > json_object_size(theirs), "a member was lost");
        must(json_skip(r, NULL, NULL) == ERR_OK, "object with equal keys is skipped");
        return;
    }
    must(json_object_begin(r) == ERR_OK, "object begins again");
    while (json_object_next(r, &key, &more) == ERR_OK && more) {
        char *name = strndup(key.data, key.len);
        const json_t *member = json_object_get(theirs, name);

        must(member != NULL, "key");
        free(name);
        compare(r, member);
    }
}

static void compare(struct json_reader *r, const json_t *theirs)
{
    struct json_text text;
    enum json_kind type;
    double number;
    size_t count = 0;
    bool more, flag;

    must(json_peek(r, &type) == ERR_OK, "peek");
    switch (type) {
    case JSON_KIND_NULL:
        must(json_read_null(r) == ERR_OK && json_typeof(theirs) == JSON_NULL, "null");
        break;
    case JSON_KIND_BOOL:
        must(json_read_bool(r, &flag) == ERR_OK, "boolean");
        must(json_typeof(theirs) == (flag ? JSON_TRUE : JSON_FALSE), "boolean value");
        break;
    case JSON_KIND_NUMBER:
        must(json_read_double(r, &number) == ERR_OK, "number");
        must(json_typeof(theirs) == JSON_REAL && json_real_value(theirs) == number, "its value");
        break;
    case JSON_KIND_STRING:
        must(json_read_string(r, &text) == ERR_OK, "string");
        must(json_typeof(theirs) == JSON_STRING && json_string_length(theirs) == text.len,
             "string length");
        must(memcmp(json_string_value(theirs), text.data, text.len) == 0, "string bytes");
        break;
    case JSON_KIND_ARRAY:
        must(json_array_begin(r) == ERR_OK && json_typeof(theirs) == JSON_ARRAY, "array");
        while (json_array_next(r, &more) == ERR_OK && more)
            compare(r, json_array_get(theirs, count++));
        must(count == json_array_size(theirs), "array size");
        break;
    case JSON_KIND_OBJECT:
        must(json_typeof(theirs) == JSON_OBJECT, "object");
        compare_object(r, theirs);
        break;
    }
}

static void check_values(const char *data, size_t size)
{
    const size_t flags = JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL;
    struct arena arena = {0};
    struct json_reader r;
    struct json_text raw;
    struct err err;
    uint32_t depth;
    json_t *theirs = json_loadb(data, size, flags, NULL);
    bool is_ours;

    json_reader_init(&r, data, size, &arena, &err);
    is_ours = json_skip(&r, &raw, &depth) == ERR_OK && json_end(&r) == ERR_OK;
    if (is_ours) {
        must(theirs != NULL, "accepted what jansson refuses");
        must(depth == nesting(data, size), "depth");
        json_reader_init(&r, data, size, &arena, &err);
        compare(&r, theirs);
        must(json_end(&r) == ERR_OK, "end");
    } else if (theirs != NULL) {
        must(nesting(data, size) > JSON_DEPTH_MAX || has_long_number(data, size) ||
                 memchr(data, '\0', size) != NULL,
             "refused what jansson accepts");
    }
    json_decref(theirs);
    arena_free(&arena);
}

static void check_floats(const char *data, size_t size)
{
    float floats[FLOATS_MAX];
    struct json_reader r, slow;
    struct json_text raw;
    size_t count, bad, i = 0;
    struct err err;
    bool more;

    json_reader_init(&r, data, size, NULL, &err);
    if (json_read_floats(&r, floats, FLOATS_MAX, &count, &bad) != ERR_OK)
        return;
    json_reader_init(&slow, data, size, NULL, &err);
    must(json_array_begin(&slow) == ERR_OK, "array of floats begins");
    while (json_array_next(&slow, &more) == ERR_OK && more) {
        char *text;
        float value;

        must(json_skip(&slow, &raw, NULL) == ERR_OK, "float is a value");
        text = strndup(raw.data, raw.len);
        value = strtof(text, NULL);
        free(text);
        if (i < FLOATS_MAX)
            must(memcmp(&value, &floats[i], sizeof(value)) == 0, "float is the nearest one");
        i++;
    }
    must(i == count, "count of floats");
    must(slow.at == r.at, "place after the floats");
}

static void check_writing(const char *data, size_t size)
{
    struct buffer out = {0};
    struct arena arena = {0};
    struct json_writer w;
    struct json_reader r;
    struct json_text text;
    struct err err;
    double number = 0, again;
    bool more;

    memcpy(&number, data, size < sizeof(number) ? size : sizeof(number));
    if (!isfinite(number))
        number = 0;
    json_writer_init(&w, &out);
    json_begin_array(&w);
    json_put_string(&w, data, size);
    json_double(&w, number);
    json_end_array(&w);
    must(!out.failed, "memory");
    json_reader_init(&r, out.data, out.len, &arena, &err);
    must(json_array_begin(&r) == ERR_OK && json_array_next(&r, &more) == ERR_OK, "written array");
    must(json_read_string(&r, &text) == ERR_OK, "written string");
    if (text_is_utf8(data, size) && memchr(data, '\0', size) == NULL)
        must(text.len == size && memcmp(text.data, data, size) == 0, "written string is the same");
    must(json_array_next(&r, &more) == ERR_OK && more, "written number is there");
    must(json_read_double(&r, &again) == ERR_OK && again == number, "written number is the same");
    arena_free(&arena);
    buffer_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_values((const char *)data, size);
    check_floats((const char *)data, size);
    check_writing((const char *)data, size);
    return 0;
}
