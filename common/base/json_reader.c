/* Reading JSON: see json_reader.h.
 *
 * One pass, no recursion: containers that the caller walks are counted in `depth`, those that
 * json_skip walks are bits of one word.  Strings are looked at once to find their end and whether
 * there is anything to decode; only those with escapes are copied.  Arrays of floats have a loop
 * of their own (json_read_floats), which takes eight digits at a time.
 */
#include "common/base/json_reader.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/json_number.h"
#include "common/base/limits.h"
#include "common/base/text.h"

#define EACH_BYTE(b) ((uint64_t)(b)*0x0101010101010101u)

static_assert(JSON_DEPTH_MAX <= 64, "json_skip keeps one bit for each open container");

void json_reader_init(struct json_reader *r, const void *data, size_t len, struct arena *arena,
                      struct err *err)
{
    assert(data != NULL || len == 0);
    *r = (struct json_reader){.data = len == 0 ? "" : data, .len = len, .arena = arena, .err = err};
}

static enum err_code malformed(struct json_reader *r, const char *what)
{
    return err_set(r->err, ERR_INVALID_JSON, "byte %zu: %s", r->at, what);
}

static void skip_space(struct json_reader *r)
{
    while (r->at < r->len) {
        char c = r->data[r->at];

        if (c != ' ' && c != '\n' && c != '\t' && c != '\r')
            break;
        r->at++;
    }
}

/* The next byte that is no white space stays unread; NUL at the end of the input. */
static char next_byte(struct json_reader *r)
{
    skip_space(r);
    return r->at < r->len ? r->data[r->at] : '\0';
}

static bool take_literal(struct json_reader *r, const char *literal)
{
    size_t len = strlen(literal);

    if (r->len - r->at < len || memcmp(r->data + r->at, literal, len) != 0)
        return false;
    r->at += len;
    return true;
}

enum err_code json_peek(struct json_reader *r, enum json_kind *type)
{
    switch (next_byte(r)) {
    case '{':
        *type = JSON_KIND_OBJECT;
        return ERR_OK;
    case '[':
        *type = JSON_KIND_ARRAY;
        return ERR_OK;
    case '"':
        *type = JSON_KIND_STRING;
        return ERR_OK;
    case 't':
    case 'f':
        *type = JSON_KIND_BOOL;
        return ERR_OK;
    case 'n':
        *type = JSON_KIND_NULL;
        return ERR_OK;
    case '-':
    case 'N': /* NaN and Infinity are numbers, if not allowed ones */
    case 'I':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        *type = JSON_KIND_NUMBER;
        return ERR_OK;
    default:
        return malformed(r, r->at == r->len ? "the text ends early" : "expected a value");
    }
}

/* The value that comes is of another type than wanted: malformed, or just that? */
static enum err_code refuse_type(struct json_reader *r, const char *wanted)
{
    static const char *const names[] = {"null",     "a boolean", "a number",
                                        "a string", "an array",  "an object"};
    enum json_kind type;
    enum err_code code = json_peek(r, &type);

    if (code == ERR_OK)
        code = json_skip(r, NULL, NULL);
    if (code != ERR_OK)
        return code;
    return err_set(r->err, ERR_INVALID_ARGUMENT, "expected %s, got %s", wanted, names[type]);
}

static enum err_code open_container(struct json_reader *r, char bracket, const char *wanted)
{
    if (next_byte(r) != bracket)
        return refuse_type(r, wanted);
    if (r->depth >= JSON_DEPTH_MAX)
        return malformed(r, "nested too deep");
    r->at++;
    r->depth++;
    r->fresh = true;
    return ERR_OK;
}

/* Go to the next element, or leave the container. */
static enum err_code next_element(struct json_reader *r, char bracket, bool *more)
{
    char c = next_byte(r);
    bool is_first = r->fresh;

    assert(r->depth > 0);
    r->fresh = false;
    *more = c != bracket;
    if (c == bracket) {
        r->at++;
        r->depth--;
        return ERR_OK;
    }
    if (is_first)
        return ERR_OK;
    if (c != ',')
        return malformed(r, "expected a comma or the end of the container");
    r->at++;
    return ERR_OK;
}

enum err_code json_object_begin(struct json_reader *r)
{
    return open_container(r, '{', "an object");
}

enum err_code json_array_begin(struct json_reader *r)
{
    return open_container(r, '[', "an array");
}

enum err_code json_array_next(struct json_reader *r, bool *more)
{
    return next_element(r, ']', more);
}

enum err_code json_object_next(struct json_reader *r, struct json_text *key, bool *more)
{
    enum err_code code = next_element(r, '}', more);

    if (code != ERR_OK || !*more)
        return code;
    if (next_byte(r) != '"')
        return malformed(r, "expected the name of a member");
    code = json_read_string(r, key);
    if (code != ERR_OK)
        return code;
    if (next_byte(r) != ':')
        return malformed(r, "expected a colon");
    r->at++;
    return ERR_OK;
}

/* Four hexadecimal digits; -1 when they are not. */
static int32_t hex4(const char *p, size_t len)
{
    uint8_t bytes[2];

    if (len < 4 || !text_hex_decode(bytes, sizeof(bytes), p, 4))
        return -1;
    return bytes[0] << 8 | bytes[1];
}

/* The code point of the escape "\uXXXX" (or a pair of them) at p; *size gets its bytes.  -1 when
 * it is malformed, NUL, or half a pair. */
static int32_t unicode_escape(const char *p, size_t len, size_t *size)
{
    int32_t high, low;

    assert(len >= 2);
    high = hex4(p + 2, len - 2);
    *size = 6;
    if (high <= 0 || (high >= 0xdc00 && high <= 0xdfff))
        return -1;
    if (high < 0xd800 || high > 0xdbff)
        return high;
    if (len < 12 || p[6] != '\\' || p[7] != 'u')
        return -1;
    low = hex4(p + 8, len - 8);
    if (low < 0xdc00 || low > 0xdfff)
        return -1;
    *size = 12;
    return 0x10000 + (high - 0xd800) * 0x400 + (low - 0xdc00);
}

/* Eight bytes of printable ASCII without quote and backslash. */
static bool are_plain(uint64_t word)
{
    uint64_t bad = word;

    bad |= word - EACH_BYTE(0x20);
    bad |= (word ^ EACH_BYTE('"')) - EACH_BYTE(1);
    bad |= (word ^ EACH_BYTE('\\')) - EACH_BYTE(1);
    return (bad & EACH_BYTE(0x80)) == 0;
}

/* One step over the content of a string at r->at.  0 when it is malformed there. */
static size_t string_step(const struct json_reader *r)
{
    const char *p = r->data + r->at;
    size_t left = r->len - r->at, size;

    if ((uint8_t)*p < 0x20)
        return 0;
    if (*p != '\\')
        return text_utf8_sequence(p, left);
    if (left < 2)
        return 0;
    if (p[1] == 'u')
        return unicode_escape(p, left, &size) < 0 ? 0 : size;
    return p[1] != '\0' && strchr("\"\\/bfnrt", p[1]) != NULL ? 2 : 0;
}

/* Check the string that begins at r->at and go behind it.  *raw: what stands between the quotes. */
static enum err_code scan_string(struct json_reader *r, struct json_text *raw, bool *has_escapes)
{
    size_t start = ++r->at;

    *has_escapes = false;
    while (r->at < r->len && r->data[r->at] != '"') {
        size_t step;

        if (r->len - r->at >= 8 && are_plain(load_u64(r->data + r->at))) {
            r->at += 8;
            continue;
        }
        step = string_step(r);
        if (step == 0)
            return malformed(r, "not allowed in a string");
        if (r->data[r->at] == '\\')
            *has_escapes = true;
        r->at += step;
    }
    if (r->at >= r->len)
        return malformed(r, "the text ends inside a string");
    *raw = (struct json_text){.data = r->data + start, .len = r->at - start};
    r->at++;
    return ERR_OK;
}

static size_t put_utf8(char *out, uint32_t point)
{
    uint8_t *p = (uint8_t *)out;

    assert(point <= 0x10ffff);
    if (point < 0x80) {
        p[0] = (uint8_t)point;
        return 1;
    }
    if (point < 0x800) {
        p[0] = (uint8_t)(0xc0 | point >> 6);
        p[1] = (uint8_t)(0x80 | (point & 0x3f));
        return 2;
    }
    if (point < 0x10000) {
        p[0] = (uint8_t)(0xe0 | point >> 12);
        p[1] = (uint8_t)(0x80 | (point >> 6 & 0x3f));
        p[2] = (uint8_t)(0x80 | (point & 0x3f));
        return 3;
    }
    p[0] = (uint8_t)(0xf0 | point >> 18);
    p[1] = (uint8_t)(0x80 | (point >> 12 & 0x3f));
    p[2] = (uint8_t)(0x80 | (point >> 6 & 0x3f));
    p[3] = (uint8_t)(0x80 | (point & 0x3f));
    return 4;
}

/* Resolve the escapes of a scanned string; out has room for raw.len bytes, which is enough because
 * every escape is longer than what it stands for. */
static size_t decode_string(char *out, struct json_text raw)
{
    static const char letters[] = "bfnrt";
    static const char meanings[] = "\b\f\n\r\t";
    size_t len = 0, at = 0;

    while (at < raw.len) {
        const char *backslash = memchr(raw.data + at, '\\', raw.len - at);
        size_t plain = backslash == NULL ? raw.len - at : (size_t)(backslash - raw.data) - at;
        const char *letter;
        size_t size;

        memcpy(out + len, raw.data + at, plain);
        len += plain;
        at += plain;
        if (at == raw.len)
            break;
        if (raw.data[at + 1] == 'u') {
            int32_t point = unicode_escape(raw.data + at, raw.len - at, &size);

            assert(point > 0);
            len += put_utf8(out + len, (uint32_t)point);
            at += size;
            continue;
        }
        letter = strchr(letters, raw.data[at + 1]);
        out[len++] = letter == NULL ? raw.data[at + 1] : meanings[letter - letters];
        at += 2;
    }
    assert(len <= raw.len);
    return len;
}

enum err_code json_read_string(struct json_reader *r, struct json_text *out)
{
    struct json_text raw;
    enum err_code code;
    bool has_escapes;
    char *copy;

    if (next_byte(r) != '"')
        return refuse_type(r, "a string");
    code = scan_string(r, &raw, &has_escapes);
    if (code != ERR_OK)
        return code;
    if (!has_escapes) {
        *out = raw;
        return ERR_OK;
    }
    assert(r->arena != NULL);
    copy = arena_alloc(r->arena, raw.len + 1, 1);
    if (copy == NULL)
        return err_set(r->err, ERR_NO_MEMORY, "no memory for a string of %zu bytes", raw.len);
    *out = (struct json_text){.data = copy, .len = decode_string(copy, raw)};
    return ERR_OK;
}

enum err_code json_take_number(struct json_reader *r, struct json_number *number)
{
    enum json_kind type;
    enum err_code code = json_peek(r, &type);

    if (code != ERR_OK)
        return code;
    if (type != JSON_KIND_NUMBER)
        return refuse_type(r, "a number");
    if (take_literal(r, "NaN") || take_literal(r, "Infinity") || take_literal(r, "-Infinity"))
        return err_set(r->err, ERR_INVALID_ARGUMENT, "the number is not finite");
    if (!json_number_scan(number, r->data + r->at, r->len - r->at))
        return malformed(r, "not a number");
    r->at += number->len;
    return ERR_OK;
}

enum err_code json_read_double(struct json_reader *r, double *out)
{
    struct json_number number;
    enum err_code code = json_take_number(r, &number);

    if (code != ERR_OK)
        return code;
    if (!json_number_to_double(&number, out))
        return err_set(r->err, ERR_INVALID_ARGUMENT, "the number is out of range");
    return ERR_OK;
}

enum err_code json_read_u64(struct json_reader *r, uint64_t min, uint64_t max, uint64_t *out)
{
    struct json_number number;
    enum err_code code = json_take_number(r, &number);
    uint64_t value;

    assert(min <= max);
    if (code != ERR_OK)
        return code;
    if (!number.is_integer)
        return err_set(r->err, ERR_INVALID_ARGUMENT, "expected a whole number");
    if (!text_to_u64(number.text, number.len, &value) || value < min || value > max)
        return err_set(r->err, ERR_INVALID_ARGUMENT, "not between %llu and %llu",
                       (unsigned long long)min, (unsigned long long)max);
    *out = value;
    return ERR_OK;
}

enum err_code json_read_bool(struct json_reader *r, bool *out)
{
    (void)next_byte(r);
    if (take_literal(r, "true"))
        *out = true;
    else if (take_literal(r, "false"))
        *out = false;
    else
        return refuse_type(r, "a boolean");
    return ERR_OK;
}

enum err_code json_read_null(struct json_reader *r)
{
    (void)next_byte(r);
    return take_literal(r, "null") ? ERR_OK : refuse_type(r, "null");
}

/* The containers that json_skip has open. */
struct skipped {
    uint64_t objects; /* bit d: the container of depth d + 1 is an object */
    uint32_t depth;
    uint32_t deepest;
};

static bool is_in_object(const struct skipped *s)
{
    return s->depth > 0 && (s->objects >> (s->depth - 1) & 1) != 0;
}

/* In an object: the name of a member and its colon. */
static enum err_code skip_key(struct json_reader *r, const struct skipped *s)
{
    struct json_text raw;
    enum err_code code;
    bool has_escapes;

    if (!is_in_object(s))
        return ERR_OK;
    if (next_byte(r) != '"')
        return malformed(r, "expected the name of a member");
    code = scan_string(r, &raw, &has_escapes);
    if (code != ERR_OK)
        return code;
    if (next_byte(r) != ':')
        return malformed(r, "expected a colon");
    r->at++;
    return ERR_OK;
}

static enum err_code skip_scalar(struct json_reader *r)
{
    struct json_number number;
    struct json_text raw;
    bool has_escapes;
    double value;

    switch (next_byte(r)) {
    case '"':
        return scan_string(r, &raw, &has_escapes);
    case 't':
    case 'f':
    case 'n':
        if (take_literal(r, "true") || take_literal(r, "false") || take_literal(r, "null"))
            return ERR_OK;
        return malformed(r, "expected a value");
    default:
        if (!json_number_scan(&number, r->data + r->at, r->len - r->at))
            return malformed(r, r->at == r->len ? "the text ends early" : "expected a value");
        r->at += number.len;
        if (!json_number_to_double(&number, &value))
            return err_set(r->err, ERR_INVALID_ARGUMENT, "byte %zu: the number is out of range",
                           r->at);
        return ERR_OK;
    }
}

/* A value is due: skip it if it is a scalar or empty, else its bracket; then go to where the next
 * value is due, or leave the outermost container. */
static enum err_code skip_element(struct json_reader *r, struct skipped *s)
{
    char c = next_byte(r);
    enum err_code code;

    if (c == '{' || c == '[') {
        if (s->depth >= JSON_DEPTH_MAX - r->depth)
            return malformed(r, "nested too deep");
        r->at++;
        s->objects &= ~(1ull << s->depth);
        s->objects |= (uint64_t)(c == '{') << s->depth;
        s->depth++;
        s->deepest = s->depth > s->deepest ? s->depth : s->deepest;
        if (next_byte(r) != (c == '{' ? '}' : ']'))
            return skip_key(r, s);
    } else {
        code = skip_scalar(r);
        if (code != ERR_OK)
            return code;
    }
    while (s->depth > 0) {
        c = next_byte(r);
        if (c != ',' && c != (is_in_object(s) ? '}' : ']'))
            return malformed(r, "expected a comma or the end of the container");
        r->at++;
        if (c == ',')
            return skip_key(r, s);
        s->depth--;
    }
    return ERR_OK;
}

enum err_code json_skip(struct json_reader *r, struct json_text *raw, uint32_t *depth_max)
{
    struct skipped s = {0};
    enum err_code code;
    size_t start;

    assert(r->depth <= JSON_DEPTH_MAX);
    skip_space(r);
    start = r->at;
    do
        code = skip_element(r, &s);
    while (code == ERR_OK && s.depth > 0);
    if (code != ERR_OK)
        return code;
    if (raw != NULL)
        *raw = (struct json_text){.data = r->data + start, .len = r->at - start};
    if (depth_max != NULL)
        *depth_max = s.deepest;
    return ERR_OK;
}

enum err_code json_end(struct json_reader *r)
{
    (void)next_byte(r);
    return r->at == r->len ? ERR_OK : malformed(r, "something follows the value");
}

bool json_text_is(struct json_text text, const char *literal)
{
    /* An empty text may have no address. */
    return strlen(literal) == text.len &&
           (text.len == 0 || memcmp(text.data, literal, text.len) == 0);
}
