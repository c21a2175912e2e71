/* The pieces that several bodies share: include lists, filters, ids, and how a wrong member is told
 * to the client. */
#include "services/router/router.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/model/filter.h"

/* Known to the API, built later; a client learns that it is not yet there. */
static const char *const later_fields[] = {
    "text", "sparse_vector", "fusion", "index_version", NULL,
};

enum err_code member_failed(struct err *err, enum err_code rc, const char *name)
{
    char prefix[ERR_POINTER_BYTES];

    if (rc == ERR_OK || rc == ERR_INVALID_JSON)
        return rc;
    (void)snprintf(prefix, sizeof(prefix), "/%s", name == NULL ? "" : name);
    err_prefix_pointer(err, prefix);
    return rc;
}

enum err_code member_wrong(struct json_reader *reader, const char *name, const char *detail)
{
    char pointer[ERR_POINTER_BYTES];

    (void)snprintf(pointer, sizeof(pointer), "/%s", name);
    return err_set_at(reader->err, ERR_INVALID_ARGUMENT, pointer, "%s", detail);
}

enum err_code member_unknown(struct err *err, struct json_text key)
{
    char pointer[ERR_POINTER_BYTES];
    int shown = key.len > 64 ? 64 : (int)key.len;

    (void)snprintf(pointer, sizeof(pointer), "/%.*s", shown, key.data);
    for (size_t i = 0; later_fields[i] != NULL; i++)
        if (json_text_is(key, later_fields[i]))
            return err_set_at(err, ERR_NOT_SUPPORTED, pointer, "not supported yet");
    return err_set_at(err, ERR_UNKNOWN_FIELD, pointer, "there is no such field");
}

#define MEMBERS_MAX 32 /* more than any body of ours has */

enum err_code object_read(struct json_reader *reader, member_fn *read, void *context)
{
    struct json_text seen[MEMBERS_MAX], key = {0};
    size_t count = 0;
    bool more = false, known = false;
    enum err_code rc = json_object_begin(reader);

    while (rc == ERR_OK && (rc = json_object_next(reader, &key, &more)) == ERR_OK && more) {
        for (size_t i = 0; i < count; i++)
            if (seen[i].len == key.len && memcmp(seen[i].data, key.data, key.len) == 0)
                return member_failed(
                    reader->err, err_set(reader->err, ERR_INVALID_ARGUMENT, "stands here twice"),
                    arena_copy_text(reader->arena, key.data, MIN_OF(key.len, 64)));
        if ((rc = read(context, reader, key, &known)) != ERR_OK)
            break;
        if (!known)
            return member_unknown(reader->err, key);
        assert(count < MEMBERS_MAX);
        seen[count++] = key;
    }
    return rc;
}

enum err_code body_decode(struct json_reader *reader, member_fn *read, void *context)
{
    enum err_code rc = object_read(reader, read, context);

    return rc == ERR_OK ? json_end(reader) : rc;
}

enum err_code include_read(struct json_reader *reader, uint32_t *include)
{
    struct json_text word;
    bool more = false;
    uint32_t bits = 0;
    enum err_code rc = json_array_begin(reader);

    while (rc == ERR_OK && (rc = json_array_next(reader, &more)) == ERR_OK && more) {
        if ((rc = json_read_string(reader, &word)) != ERR_OK)
            break;
        if (json_text_is(word, "metadata"))
            bits |= INCLUDE_METADATA;
        else if (json_text_is(word, "text"))
            bits |= INCLUDE_TEXT;
        else if (json_text_is(word, "vector"))
            bits |= INCLUDE_VECTOR;
        else
            return member_wrong(reader, "include", "may hold metadata, text and vector");
    }
    if (rc != ERR_OK)
        return member_failed(reader->err, rc, "include");
    *include = bits;
    return ERR_OK;
}

enum err_code filter_read(struct json_reader *reader, struct filter_text *out)
{
    const struct filter *filter;
    struct json_text raw;
    enum json_kind kind;
    enum err_code rc = json_peek(reader, &kind);

    if (rc != ERR_OK)
        return rc;
    if (kind == JSON_KIND_NULL)
        return json_read_null(reader);
    if ((rc = json_skip(reader, &raw, NULL)) != ERR_OK)
        return rc;
    rc = filter_parse(&filter, raw.data, raw.len, reader->arena, reader->err);
    if (rc != ERR_OK)
        return member_failed(reader->err, rc, "filter");
    if (filter != NULL)
        *out = (struct filter_text){.data = raw.data, .len = raw.len};
    return ERR_OK;
}

enum err_code id_read(struct json_reader *reader, struct wire_id *out)
{
    struct json_text text;
    enum err_code rc = json_read_string(reader, &text);

    if (rc != ERR_OK)
        return rc;
    if (text.len < 1 || text.len > ID_BYTES_MAX)
        return err_set(reader->err, ERR_INVALID_ARGUMENT, "an id has 1 to %d bytes, not %zu",
                       ID_BYTES_MAX, text.len);
    *out = (struct wire_id){.data = text.data, .len = text.len};
    return ERR_OK;
}
