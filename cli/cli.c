/* What the verbs share: errors for people, and asking the router. */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/text.h"

#define REPLY_BYTES_MAX MIB(256)

int cli_fail(const char *verb, const struct err *err)
{
    (void)fflush(stdout);
    (void)fprintf(stderr, "vicinal %s: %s\n", verb,
                  err->message[0] != '\0' ? err->message : err_title(err->code));
    return err->code == ERR_CONFIG ? EXIT_CONFIG : EXIT_FAILED;
}

enum err_code cli_base_url(char *out, size_t size, const char *url, struct err *err)
{
    size_t len = strlen(url);

    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return err_set(err, ERR_CONFIG, "--url \"%.200s\" does not begin with http://", url);
    while (len > 0 && url[len - 1] == '/')
        len--;
    if (len >= size)
        return err_set(err, ERR_CONFIG, "--url is too long");
    memcpy(out, url, len);
    out[len] = '\0';
    return ERR_OK;
}

enum err_code cli_path(char *out, size_t size, const char *collection, const char *suffix,
                       struct err *err)
{
    struct buffer name = {0};
    int len = 0;
    enum err_code rc;

    text_percent_encode(&name, collection, strlen(collection));
    buffer_append_byte(&name, '\0');
    rc = buffer_check(&name, err);
    if (rc == ERR_OK)
        len = snprintf(out, size, "/v1/collections/%s%s", (const char *)name.data, suffix);
    if (rc == ERR_OK && (len < 0 || (size_t)len >= size))
        rc = err_set(err, ERR_CONFIG, "--collection is too long");
    buffer_free(&name);
    return rc;
}

enum err_code cli_ask(struct http_client *client, const char *base, const struct cli_call *ask,
                      json_t **out, int *status, struct err *err)
{
    struct http_call call = {
        .method = ask->method,
        .base = base,
        .path = ask->path,
        .content_type = ask->body == NULL ? NULL : "application/json",
        .body = ask->body,
        .body_len = ask->body_len,
        .reply_max = REPLY_BYTES_MAX,
    };
    uint64_t deadline_ns = env_boot_ns(env_real()) + ask->timeout_ms * NS_PER_MS;
    enum err_code rc;

    *out = NULL;
    (void)http_call_one(client, &call, deadline_ns);
    if (status != NULL)
        *status = call.rc == ERR_OK ? call.status : 0;
    rc = http_call_expect(&call, err);
    if (rc == ERR_OK && call.reply.len > 0)
        rc = json_doc_parse(out, call.reply.data, call.reply.len, err);
    http_call_free(&call);
    return rc;
}

const char *cli_text(json_t *object, const char *name, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text == NULL ? otherwise : text;
}
