/* The front of every blob store: see blob.h.
 *
 * The back end is chosen by the whole scheme of the URL; names, sizes and what a back end must
 * leave untouched are checked here, once for all. */
#include "backends/blob/blob.h"

#include <assert.h>
#include <string.h>

#include "common/base/text.h"

static const struct blob_ops *const back_ends[] = {&blob_file_ops, &blob_s3_ops};

static enum err_code find_back_end(const struct blob_ops **out, const char *url, struct err *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(back_ends); i++) {
        if (!text_has_scheme(url, back_ends[i]->scheme))
            continue;
        *out = back_ends[i];
        return ERR_OK;
    }
    return err_set(err, ERR_CONFIG, "blob URL \"%.*s…\": want file:DIR or s3://BUCKET/PREFIX",
                   (int)strcspn(url, ":/"), url);
}

enum err_code blob_check_url(const char *url, struct err *err)
{
    const struct blob_ops *ops;
    enum err_code code = find_back_end(&ops, url, err);

    return code == ERR_OK ? ops->check_url(url, err) : code;
}

static enum err_code open_back_end(struct blob **out, const struct blob_options *options,
                                   struct err *err)
{
    const struct blob_ops *ops;
    enum err_code code;

    assert(options->url != NULL);
    assert(options->env != NULL);
    *out = NULL;
    code = find_back_end(&ops, options->url, err);
    if (code == ERR_OK)
        code = ops->open(out, options, err);
    assert((code == ERR_OK) == (*out != NULL));
    assert(code != ERR_OK || (*out)->ops == ops);
    return code;
}

enum err_code blob_open(struct blob **out, const char *url, struct env *env, struct err *err)
{
    return open_back_end(out, &(struct blob_options){.url = url, .env = env}, err);
}

enum err_code blob_open_to_read(struct blob **out, const char *url, struct env *env,
                                struct err *err)
{
    return open_back_end(out, &(struct blob_options){.url = url, .env = env, .read_only = true},
                         err);
}

void blob_close(struct blob *blob)
{
    if (blob != NULL)
        blob->ops->close(blob);
}

static bool is_name(const char *name)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t len = strlen(name);

    if (len == 0 || len > BLOB_NAME_BYTES_MAX)
        return false;
    for (const char *part = name;; part++) {
        size_t part_len = strspn(part, letters);

        if (part_len == 0 || part[0] == '.')
            return false;
        part += part_len;
        if (*part != '/')
            return *part == '\0';
    }
}

enum err_code blob_check_name(const char *name, struct err *err)
{
    if (is_name(name))
        return ERR_OK;
    return err_set(err, ERR_INVALID_ARGUMENT, "this is no name of an object");
}

enum err_code blob_put(struct blob *blob, const char *name, const void *data, size_t len,
                       struct err *err)
{
    enum err_code code;

    assert(is_name(name));
    assert(len >= 1 && len <= BLOB_BYTES_MAX);
    code = blob->ops->put(blob, name, data, len, err);
    return code == ERR_OK ? ERR_OK : err_wrap(err, "object %s", name);
}

enum err_code blob_get(struct blob *blob, const struct blob_range *range, struct buffer *out,
                       struct err *err)
{
    size_t before = out->len;
    enum err_code code;

    assert(is_name(range->name));
    assert(range->len >= 1 && range->len <= BLOB_BYTES_MAX);
    if (range->at > BLOB_BYTES_MAX || !buffer_reserve(out, range->len))
        code = range->at > BLOB_BYTES_MAX ? err_set(err, ERR_CORRUPT, "no object is so long")
                                          : buffer_check(out, err);
    else
        code = blob->ops->get(blob, range, out, err);
    assert(code != ERR_OK || out->len == before + range->len);
    if (code == ERR_OK)
        return ERR_OK;
    out->len = before;
    return err_wrap(err, "object %s", range->name);
}

enum err_code blob_size(struct blob *blob, const char *name, uint64_t *bytes, struct err *err)
{
    enum err_code code;

    assert(is_name(name));
    code = blob->ops->size(blob, name, bytes, err);
    return code == ERR_OK ? ERR_OK : err_wrap(err, "object %s", name);
}

enum err_code blob_remove(struct blob *blob, const char *name, struct err *err)
{
    enum err_code code;

    assert(is_name(name));
    code = blob->ops->remove(blob, name, err);
    return code == ERR_OK ? ERR_OK : err_wrap(err, "object %s", name);
}

enum err_code blob_list(struct blob *blob, const char *prefix, blob_seen_fn *seen, void *context,
                        struct err *err)
{
    assert(strlen(prefix) <= BLOB_NAME_BYTES_MAX);
    return blob->ops->list(blob, prefix, seen, context, err);
}
