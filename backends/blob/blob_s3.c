/* Blobs in an S3-compatible store: see blob.h.
 *
 * One request a call, signed by libcurl, buckets in the path.  A put is one PUT: such a store shows
 * an object whole or not at all, and answers when it is durable.  What passes (no connection, 5xx,
 * 429) is asked again a few times; every request may be sent twice.  Failure modes: the store away
 * (ERR_UNAVAILABLE, ERR_IO), credentials refused (ERR_FORBIDDEN). */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/blob/blob.h"
#include "common/base/checked.h"
#include "common/base/text.h"
#include "common/http/client.h"

#define ENDPOINT_BYTES 512
#define BUCKET_BYTES   64 /* with its NUL */
#define REGION_BYTES   48
#define USER_BYTES     256
#define PATH_BYTES     1024
#define REPLY_MIN      KIB(64) /* errors are told in XML */
#define LIST_MAX       MIB(4)
#define LISTS_MAX      100000 /* pages of 1,000 names */
#define ATTEMPTS       4
#define PAUSE_NS       (100 * NS_PER_MS)
#define REGION_DEFAULT "us-east-1"

struct s3_place {
    char endpoint[ENDPOINT_BYTES];
    char bucket[BUCKET_BYTES];
    char prefix[BLOB_NAME_BYTES_MAX + 2]; /* "" or with a '/' behind */
    char region[REGION_BYTES];
};

struct s3_blob {
    struct blob base; /* first */
    struct s3_place place;
    char user[USER_BYTES]; /* "KEY:SECRET" */
    struct http_client *client;
};

static struct s3_blob *s3_of(struct blob *blob)
{
    assert(blob->ops == &blob_s3_ops);
    return (struct s3_blob *)blob;
}

/* --- the URL --------------------------------------------------------------------------------- */

/* Copy len bytes of letters as a text; false: none, too many, or others. */
static bool copy_text(char *out, size_t size, const char *from, size_t len, const char *letters)
{
    if (len == 0 || len >= size || strspn(from, letters) < len)
        return false;
    memcpy(out, from, len);
    out[len] = '\0';
    return true;
}

static bool read_option(struct s3_place *place, const char *option, size_t len)
{
    static const char address[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  ".-_:/[]";
    static const char region[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
    size_t key = strcspn(option, "=");

    if (key >= len)
        return false;
    if (key == strlen("endpoint") && memcmp(option, "endpoint", key) == 0)
        return copy_text(place->endpoint, sizeof(place->endpoint), option + key + 1, len - key - 1,
                         address) &&
               (text_has_scheme(place->endpoint, "http") ||
                text_has_scheme(place->endpoint, "https"));
    if (key == strlen("region") && memcmp(option, "region", key) == 0)
        return copy_text(place->region, sizeof(place->region), option + key + 1, len - key - 1,
                         region);
    return false;
}

static bool read_prefix(struct s3_place *place, const char *prefix, size_t len)
{
    while (len > 0 && prefix[len - 1] == '/')
        len--;
    if (len == 0)
        return true;
    if (len + 1 >= sizeof(place->prefix))
        return false;
    memcpy(place->prefix, prefix, len);
    place->prefix[len] = '\0';
    if (blob_check_name(place->prefix, NULL) != ERR_OK)
        return false;
    place->prefix[len] = '/';
    place->prefix[len + 1] = '\0';
    return true;
}

static enum err_code read_url(struct s3_place *place, const char *url, struct err *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789.-";
    const char *at = url + strlen("s3:");
    size_t len;
    bool good = strncmp(at, "//", 2) == 0;

    *place = (struct s3_place){.region = REGION_DEFAULT};
    at += good ? 2 : 0;
    len = strcspn(at, "/?");
    good = good && copy_text(place->bucket, sizeof(place->bucket), at, len, letters);
    at += len;
    at += strspn(at, "/");
    len = strcspn(at, "?");
    good = good && read_prefix(place, at, len);
    at += len;
    while (good && *at != '\0') {
        len = strcspn(++at, "&");
        good = read_option(place, at, len);
        at += len;
    }
    if (!good)
        return err_set(err, ERR_CONFIG,
                       "blob URL: want s3://BUCKET/PREFIX?endpoint=URL&region=NAME");
    if (place->endpoint[0] == '\0')
        (void)snprintf(place->endpoint, sizeof(place->endpoint), "https://s3.%s.amazonaws.com",
                       place->region);
    return ERR_OK;
}

static enum err_code s3_check_url(const char *url, struct err *err)
{
    struct s3_place place;

    return read_url(&place, url, err);
}

static enum err_code s3_open(struct blob **out, const struct blob_options *options, struct err *err)
{
    const char *key = getenv("AWS_ACCESS_KEY_ID"), *secret = getenv("AWS_SECRET_ACCESS_KEY");
    struct http_client_options client = {.env = options->env, .connect_timeout_ms = 3000};
    struct s3_blob *s3 = calloc(1, sizeof(*s3));
    enum err_code code;
    int len;

    if (s3 == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a blob store");
    s3->base = (struct blob){.ops = &blob_s3_ops, .env = options->env};
    code = read_url(&s3->place, options->url, err);
    if (code == ERR_OK && (key == NULL || secret == NULL))
        code = err_set(err, ERR_CONFIG,
                       "s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY have to be set");
    if (code == ERR_OK) {
        len = snprintf(s3->user, sizeof(s3->user), "%s:%s", key, secret);
        if (len < 0 || (size_t)len >= sizeof(s3->user))
            code = err_set(err, ERR_CONFIG, "s3: the credentials are too long");
    }
    if (code == ERR_OK)
        code = http_client_open(&s3->client, &client, err);
    if (code != ERR_OK) {
        free(s3);
        return code;
    }
    *out = &s3->base;
    return ERR_OK;
}

static void s3_close(struct blob *blob)
{
    struct s3_blob *s3 = s3_of(blob);

    http_client_close(s3->client);
    free(s3);
}

/* --- requests -------------------------------------------------------------------------------- */

static enum err_code code_of(const struct http_call *call)
{
    if (call->rc != ERR_OK)
        return call->rc;
    if (call->status >= 200 && call->status < 300)
        return ERR_OK;
    switch (call->status) {
    case 404:
        return ERR_NOT_FOUND;
    case 401:
    case 403:
        return ERR_FORBIDDEN;
    case 416: /* it begins behind the end */
        return ERR_CORRUPT;
    case 429:
        return ERR_UNAVAILABLE;
    case 507:
        return ERR_INSUFFICIENT_STORAGE;
    default:
        return call->status >= 500 ? ERR_UNAVAILABLE : ERR_IO;
    }
}

static bool may_pass(enum err_code code)
{
    return code == ERR_UNAVAILABLE || code == ERR_IO;
}

/* Send until it is answered for good; the call is to be freed in every case. */
static enum err_code ask(struct s3_blob *s3, struct http_call *call, struct err *err)
{
    uint64_t deadline_ns = env_boot_ns(s3->base.env) + BLOB_CALL_NS;
    uint64_t pause_ns = PAUSE_NS;
    enum err_code code;

    call->base = s3->place.endpoint;
    call->aws_region = s3->place.region;
    call->aws_user = s3->user;
    for (unsigned attempt = 1;; attempt++) {
        uint64_t until_ns;

        (void)http_call_one(s3->client, call, deadline_ns);
        code = code_of(call);
        until_ns = env_boot_ns(s3->base.env) + pause_ns;
        if (!may_pass(code) || attempt == ATTEMPTS || until_ns >= deadline_ns)
            break;
        if (env_sleep_until(s3->base.env, until_ns) != ERR_OK)
            return err_set(err, ERR_DEAD, "shutting down");
        pause_ns *= 2;
    }
    if (code == ERR_OK)
        return ERR_OK;
    if (call->rc != ERR_OK)
        return err_set(err, code, "%s", call->err.message);
    return err_set(err, code, "%s answered status %d", s3->place.endpoint, call->status);
}

static void object_path(const struct s3_blob *s3, const char *name, char path[PATH_BYTES])
{
    int len = snprintf(path, PATH_BYTES, "/%s/%s%s", s3->place.bucket, s3->place.prefix, name);

    assert(len > 0 && len < PATH_BYTES);
    (void)len;
}

static enum err_code s3_put(struct blob *blob, const char *name, const void *data, size_t len,
                            struct err *err)
{
    struct s3_blob *s3 = s3_of(blob);
    char path[PATH_BYTES];
    struct http_call call = {.method = "PUT",
                             .path = path,
                             .content_type = "application/octet-stream",
                             .body = data,
                             .body_len = len,
                             .reply_max = REPLY_MIN};
    enum err_code code;

    object_path(s3, name, path);
    code = ask(s3, &call, err);
    http_call_free(&call);
    if (code != ERR_NOT_FOUND)
        return code;
    return err_set(err, ERR_IO, "there is no bucket %s", s3->place.bucket);
}

static enum err_code s3_get(struct blob *blob, const struct blob_range *range, struct buffer *out,
                            struct err *err)
{
    struct s3_blob *s3 = s3_of(blob);
    char path[PATH_BYTES], bytes[64];
    struct http_call call = {
        .method = "GET", .path = path, .range = bytes, .reply_max = MAX_OF(range->len, REPLY_MIN)};
    enum err_code code;

    object_path(s3, range->name, path);
    (void)snprintf(bytes, sizeof(bytes), "bytes=%llu-%llu", (unsigned long long)range->at,
                   (unsigned long long)(range->at + range->len - 1));
    code = ask(s3, &call, err);
    if (code == ERR_OK && call.status != 206)
        code = err_set(err, ERR_IO, "%s does not give parts of objects", s3->place.endpoint);
    if (code == ERR_OK && call.reply.len != range->len)
        code = err_set(err, ERR_CORRUPT, "it ends before %llu",
                       (unsigned long long)(range->at + range->len));
    if (code == ERR_OK)
        buffer_append(out, call.reply.data, call.reply.len);
    http_call_free(&call);
    return code;
}

static enum err_code s3_size(struct blob *blob, const char *name, uint64_t *bytes, struct err *err)
{
    struct s3_blob *s3 = s3_of(blob);
    char path[PATH_BYTES];
    struct http_call call = {.method = "HEAD", .path = path, .reply_max = BLOB_BYTES_MAX};
    enum err_code code;

    object_path(s3, name, path);
    code = ask(s3, &call, err);
    if (code == ERR_OK)
        *bytes = call.length;
    http_call_free(&call);
    return code;
}

static enum err_code s3_remove(struct blob *blob, const char *name, struct err *err)
{
    struct s3_blob *s3 = s3_of(blob);
    char path[PATH_BYTES];
    struct http_call call = {.method = "DELETE", .path = path, .reply_max = REPLY_MIN};
    enum err_code code;

    object_path(s3, name, path);
    code = ask(s3, &call, err);
    http_call_free(&call);
    if (code != ERR_NOT_FOUND)
        return code;
    err_clear(err);
    return ERR_OK;
}

/* --- listing --------------------------------------------------------------------------------- */

/* The content of the next <tag>…</tag> from *at on; *at moves behind it. */
static bool next_element(const char **at, const char *tag, const char **text, size_t *len)
{
    char open[48], close[48];
    const char *begin, *end;

    (void)snprintf(open, sizeof(open), "<%s>", tag);
    (void)snprintf(close, sizeof(close), "</%s>", tag);
    if ((begin = strstr(*at, open)) == NULL)
        return false;
    begin += strlen(open);
    if ((end = strstr(begin, close)) == NULL)
        return false;
    *text = begin;
    *len = (size_t)(end - begin);
    *at = end + strlen(close);
    return true;
}

/* Parameters of a signed query stand in the order of their names. */
static enum err_code list_path(const struct s3_blob *s3, const char *prefix, const char *token,
                               size_t token_len, struct buffer *out, struct err *err)
{
    char both[2 * BLOB_NAME_BYTES_MAX + 4];

    (void)snprintf(both, sizeof(both), "%s%s", s3->place.prefix, prefix);
    buffer_reset(out);
    buffer_append_format(out, "/%s?", s3->place.bucket);
    if (token_len > 0) {
        buffer_append_text(out, "continuation-token=");
        text_percent_encode(out, token, token_len);
        buffer_append_text(out, "&");
    }
    buffer_append_text(out, "list-type=2&max-keys=1000&prefix=");
    text_percent_encode(out, both, strlen(both));
    buffer_append_byte(out, 0);
    return buffer_check(out, err);
}

/* Names of one page; false: whoever asked has seen enough. */
static bool tell_names(const struct s3_blob *s3, const char *page, blob_seen_fn *seen,
                       void *context)
{
    const char *text;
    size_t len, skip = strlen(s3->place.prefix);

    while (next_element(&page, "Key", &text, &len)) {
        char name[BLOB_NAME_BYTES_MAX + 1];

        if (len <= skip || len - skip > BLOB_NAME_BYTES_MAX)
            continue;
        memcpy(name, text + skip, len - skip);
        name[len - skip] = '\0';
        if (memcmp(text, s3->place.prefix, skip) == 0 && blob_check_name(name, NULL) == ERR_OK &&
            !seen(context, name))
            return false;
    }
    return true;
}

static enum err_code s3_list(struct blob *blob, const char *prefix, blob_seen_fn *seen,
                             void *context, struct err *err)
{
    struct s3_blob *s3 = s3_of(blob);
    struct http_call call = {.method = "GET", .reply_max = LIST_MAX};
    struct buffer path = {0};
    const char *token = "", *page;
    size_t token_len = 0;
    enum err_code code = ERR_OK;
    bool more = true;

    for (unsigned pages = 0; code == ERR_OK && more && pages < LISTS_MAX; pages++) {
        code = list_path(s3, prefix, token, token_len, &path, err);
        if (code != ERR_OK)
            break;
        call.path = (const char *)path.data;
        code = ask(s3, &call, err);
        buffer_append_byte(&call.reply, 0);
        if (code == ERR_OK)
            code = buffer_check(&call.reply, err);
        if (code != ERR_OK)
            break;
        page = (const char *)call.reply.data;
        more = tell_names(s3, page, seen, context) &&
               next_element(&page, "NextContinuationToken", &token, &token_len);
    }
    buffer_free(&path);
    http_call_free(&call);
    return code;
}

const struct blob_ops blob_s3_ops = {
    .scheme = "s3",
    .check_url = s3_check_url,
    .open = s3_open,
    .close = s3_close,
    .put = s3_put,
    .get = s3_get,
    .size = s3_size,
    .remove = s3_remove,
    .list = s3_list,
};
