/* jansson with our errors: see json_doc.h.
 *
 * jansson checks UTF-8, NUL, duplicate keys and trailing bytes.  Its own limit of nesting is 2048
 * and fixed, so the depth is counted before it sees the text. */
#include "common/http/json_doc.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/base/limits.h"

/* Deepest nesting of brackets outside strings; stops counting beyond the limit. */
static bool is_too_deep(const char *text, size_t len)
{
    bool in_string = false;
    uint32_t depth = 0;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_DEPTH_MAX)
                return true;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return false;
}

enum err_code json_doc_parse(json_t **out, const void *data, size_t len, struct err *err)
{
    json_error_t error;
    json_t *doc;

    *out = NULL;
    if (data == NULL || len == 0)
        return err_set(err, ERR_INVALID_JSON, "the body is empty");
    if (is_too_deep(data, len))
        return err_set(err, ERR_INVALID_JSON, "more than %d levels of nesting", JSON_DEPTH_MAX);
    doc = json_loadb(data, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (doc == NULL && json_error_code(&error) == json_error_out_of_memory)
        return err_set(err, ERR_NO_MEMORY, "no memory for a JSON document");
    if (doc == NULL && json_error_code(&error) == json_error_numeric_overflow)
        return err_set(err, ERR_INVALID_ARGUMENT, "a number is out of range (line %d)", error.line);
    if (doc == NULL)
        return err_set(err, ERR_INVALID_JSON, "line %d, column %d: %s", error.line, error.column,
                       error.text);
    if (!json_is_object(doc)) {
        json_decref(doc);
        return err_set(err, ERR_INVALID_ARGUMENT, "the body has to be a JSON object");
    }
    *out = doc;
    return ERR_OK;
}

/* "/name" with ~ and / escaped (RFC 6901), cut to size. */
static void pointer_of(char out[ERR_POINTER_BYTES], const char *name)
{
    size_t used = 0;

    out[used++] = '/';
    for (; *name != '\0' && used + 3 <= ERR_POINTER_BYTES; name++) {
        if (*name == '~' || *name == '/') {
            out[used++] = '~';
            out[used++] = *name == '~' ? '0' : '1';
        } else {
            out[used++] = *name;
        }
    }
    out[used] = '\0';
}

enum err_code json_doc_only(json_t *object, const char *const *names, struct err *err)
{
    const char *key;
    json_t *value;

    assert(json_is_object(object));
    json_object_foreach(object, key, value)
    {
        char pointer[ERR_POINTER_BYTES];
        bool known = false;

        for (size_t i = 0; !known && names[i] != NULL; i++)
            known = strcmp(names[i], key) == 0;
        if (known)
            continue;
        pointer_of(pointer, key);
        return err_set_at(err, ERR_UNKNOWN_FIELD, pointer, "'%.64s' is no field of this request",
                          key);
    }
    return ERR_OK;
}

/* The member, or NULL when it is absent or null. */
static json_t *member(json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);

    return json_is_null(value) ? NULL : value;
}

static enum err_code refuse(const char *name, const char *want, struct err *err)
{
    char pointer[ERR_POINTER_BYTES];

    pointer_of(pointer, name);
    return err_set_at(err, ERR_INVALID_ARGUMENT, pointer, "has to be %s", want);
}

enum err_code json_doc_text(json_t *object, const char *name, const char **out, struct err *err)
{
    json_t *value = member(object, name);

    if (value == NULL)
        return ERR_OK;
    if (!json_is_string(value))
        return refuse(name, "a string", err);
    *out = json_string_value(value);
    return ERR_OK;
}

enum err_code json_doc_u64(json_t *object, const char *name, uint64_t min, uint64_t max,
                           uint64_t *out, struct err *err)
{
    json_t *value = member(object, name);
    char want[80];

    if (value == NULL)
        return ERR_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) < min || (uint64_t)json_integer_value(value) > max) {
        (void)snprintf(want, sizeof(want), "an integer from %llu to %llu", (unsigned long long)min,
                       (unsigned long long)max);
        return refuse(name, want, err);
    }
    *out = (uint64_t)json_integer_value(value);
    return ERR_OK;
}

enum err_code json_doc_bool(json_t *object, const char *name, bool *out, struct err *err)
{
    json_t *value = member(object, name);

    if (value == NULL)
        return ERR_OK;
    if (!json_is_boolean(value))
        return refuse(name, "true or false", err);
    *out = json_is_true(value);
    return ERR_OK;
}

static int dump_to_buffer(const char *data, size_t len, void *context)
{
    buffer_append(context, data, len);
    return 0;
}

void json_doc_dump(json_t *value, struct buffer *out)
{
    if (json_dump_callback(value, dump_to_buffer, out, JSON_COMPACT | JSON_ENCODE_ANY) != 0)
        out->failed = true;
}
