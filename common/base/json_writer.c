/* Writing JSON: see json_writer.h.
 *
 * The writer knows the kinds of the open containers, one bit each, and whether a comma or a value
 * is due; a caller that breaks the grammar meets an assertion.
 */
#include "common/base/json_writer.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/json_number.h"
#include "common/base/limits.h"
#include "common/base/text.h"

static_assert(JSON_DEPTH_MAX <= 64, "one bit for each open container");

void json_writer_init(struct json_writer *w, struct buffer *out)
{
    assert(out != NULL);
    *w = (struct json_writer){.out = out};
}

static bool in_object(const struct json_writer *w)
{
    return w->depth > 0 && (w->objects >> (w->depth - 1) & 1) != 0;
}

/* What stands before every value. */
static void before_value(struct json_writer *w)
{
    assert(in_object(w) == w->after_key);
    if (w->comma) {
        assert(w->depth > 0); /* one document has one value */
        buffer_append_byte(w->out, ',');
    }
    w->after_key = false;
    w->comma = true;
}

static void begin(struct json_writer *w, bool is_object)
{
    before_value(w);
    assert(w->depth < JSON_DEPTH_MAX);
    w->objects &= ~(1ull << w->depth);
    w->objects |= (uint64_t)is_object << w->depth;
    w->depth++;
    w->comma = false;
    buffer_append_byte(w->out, is_object ? '{' : '[');
}

static void end(struct json_writer *w, bool is_object)
{
    assert(w->depth > 0);
    assert(in_object(w) == is_object);
    assert(!w->after_key);
    w->depth--;
    w->comma = true;
    buffer_append_byte(w->out, is_object ? '}' : ']');
}

void json_begin_object(struct json_writer *w)
{
    begin(w, true);
}

void json_end_object(struct json_writer *w)
{
    end(w, true);
}

void json_begin_array(struct json_writer *w)
{
    begin(w, false);
}

void json_end_array(struct json_writer *w)
{
    end(w, false);
}

static void before_key(struct json_writer *w)
{
    assert(in_object(w));
    assert(!w->after_key);
    if (w->comma)
        buffer_append_byte(w->out, ',');
    w->comma = false;
    w->after_key = true;
}

void json_key(struct json_writer *w, const char *key)
{
    before_key(w);
    buffer_append_byte(w->out, '"');
    buffer_append_text(w->out, key);
    buffer_append(w->out, "\":", 2);
}

void json_key_text(struct json_writer *w, const char *data, size_t len)
{
    before_key(w);
    json_escape(w->out, data, len);
    buffer_append_byte(w->out, ':');
}

void json_put_string(struct json_writer *w, const char *data, size_t len)
{
    before_value(w);
    json_escape(w->out, data, len);
}

void json_text(struct json_writer *w, const char *text)
{
    json_put_string(w, text, strlen(text));
}

void json_u64(struct json_writer *w, uint64_t value)
{
    before_value(w);
    if (buffer_reserve(w->out, NUMBER_TEXT_MAX))
        w->out->len += json_number_print_u64((char *)w->out->data + w->out->len, value);
}

void json_i64(struct json_writer *w, int64_t value)
{
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;

    before_value(w);
    if (value < 0)
        buffer_append_byte(w->out, '-');
    if (buffer_reserve(w->out, NUMBER_TEXT_MAX))
        w->out->len += json_number_print_u64((char *)w->out->data + w->out->len, magnitude);
}

void json_double(struct json_writer *w, double value)
{
    before_value(w);
    if (buffer_reserve(w->out, NUMBER_TEXT_MAX))
        w->out->len += json_number_print_double((char *)w->out->data + w->out->len, value);
}

void json_float(struct json_writer *w, float value)
{
    before_value(w);
    if (buffer_reserve(w->out, NUMBER_TEXT_MAX))
        w->out->len += json_number_print_float((char *)w->out->data + w->out->len, value);
}

void json_bool(struct json_writer *w, bool value)
{
    before_value(w);
    buffer_append_text(w->out, value ? "true" : "false");
}

void json_put_null(struct json_writer *w)
{
    before_value(w);
    buffer_append_text(w->out, "null");
}

void json_raw(struct json_writer *w, const void *data, size_t len)
{
    assert(len > 0);
    before_value(w);
    buffer_append(w->out, data, len);
}

/* Bytes that stand for themselves: printable ASCII but quote and backslash. */
static bool is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

#define EACH_BYTE(b) ((uint64_t)(b)*0x0101010101010101u)

/* All eight bytes are plain.  The subtractions borrow from the next byte only where a lower byte
 * is not plain already, so the answer as a whole is right. */
static bool are_plain(uint64_t word)
{
    uint64_t quote = word ^ EACH_BYTE('"');
    uint64_t backslash = word ^ EACH_BYTE('\\');
    uint64_t bad = word;

    bad |= word - EACH_BYTE(0x20);
    bad |= quote - EACH_BYTE(1);
    bad |= backslash - EACH_BYTE(1);
    return (bad & EACH_BYTE(0x80)) == 0;
}

static void escape_byte(struct buffer *out, uint8_t byte)
{
    static const char names[] = "\"\\\b\f\n\r\t";
    static const char letters[] = "\"\\bfnrt";
    const char *name;

    assert(byte != 0 && byte < 0x80);
    name = strchr(names, byte);
    if (name != NULL) {
        buffer_append_byte(out, '\\');
        buffer_append_byte(out, (uint8_t)letters[name - names]);
    } else {
        buffer_append_format(out, "\\u%04x", byte);
    }
}

void json_escape(struct buffer *out, const char *data, size_t len)
{
    const uint8_t *p = (const uint8_t *)data;
    size_t start = 0, at = 0; /* start: bytes before it are written */

    buffer_append_byte(out, '"');
    while (at < len) {
        size_t size;

        if (len - at >= 8 && are_plain(load_u64(p + at))) {
            at += 8;
            continue;
        }
        size = is_plain(p[at]) ? 1 : p[at] < 0x80 ? 0 : text_utf8_sequence(p + at, len - at);
        if (size > 0) {
            at += size;
            continue;
        }
        buffer_append(out, p + start, at - start);
        if (p[at] != 0 && p[at] < 0x80)
            escape_byte(out, p[at]);
        else
            buffer_append(out, "\xef\xbf\xbd", 3); /* U+FFFD */
        start = ++at;
    }
    if (at > start)
        buffer_append(out, p + start, at - start);
    buffer_append_byte(out, '"');
}
