/* A call as libcurl is to send it: headers, signature, method, body. */
#include <stdio.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/text.h"
#include "common/http/client_internal.h"

static bool add_header(struct transfer *transfer, const char *name, const char *value)
{
    char line[HTTP_URL_MAX];
    struct curl_slist *grown;
    int len;

    if (value == NULL || value[0] == '\0')
        return true;
    len = snprintf(line, sizeof(line), "%s: %s", name, value);
    if (len < 0 || (size_t)len >= sizeof(line) || strpbrk(value, "\r\n") != NULL)
        return false;
    grown = curl_slist_append(transfer->headers, line);
    if (grown == NULL)
        return false;
    transfer->headers = grown;
    return true;
}

/* What is signed.  This libcurl would sign headers without a value too, and not send them; the hash
 * of the content it leaves to us. */
static bool add_signed_headers(struct transfer *transfer)
{
    const struct http_call *call = transfer->call;
    uint8_t hash[32];
    char text[65];

    curl_slist_free_all(transfer->headers);
    transfer->headers = NULL;
    hash_sha256(hash, call->body_len == 0 ? "" : call->body, call->body_len);
    text_hex_encode(text, hash, sizeof(hash));
    return add_header(transfer, "x-amz-content-sha256", text) &&
           add_header(transfer, "Content-Type", call->content_type) &&
           add_header(transfer, "Range", call->range);
}

/* False: the region is no name of one. */
static bool set_signature(struct transfer *transfer)
{
    const struct http_call *call = transfer->call;
    char provider[96] = "";
    int len = 0;

    if (call->aws_region != NULL)
        len = snprintf(provider, sizeof(provider), "aws:amz:%s:s3", call->aws_region);
    if (len < 0 || (size_t)len >= sizeof(provider))
        return false;
    curl_easy_setopt(transfer->easy, CURLOPT_AWS_SIGV4, provider[0] == '\0' ? NULL : provider);
    curl_easy_setopt(transfer->easy, CURLOPT_USERPWD, provider[0] == '\0' ? NULL : call->aws_user);
    /* Such a call asks before a large body whether to go on; not every server answers. */
    curl_easy_setopt(transfer->easy, CURLOPT_EXPECT_100_TIMEOUT_MS, 1L);
    return true;
}

bool request_set_headers(struct transfer *transfer)
{
    const struct http_call *call = transfer->call;
    struct curl_slist *grown;

    if (!set_signature(transfer))
        return false;
    if (call->aws_region != NULL)
        return add_signed_headers(transfer);
    curl_slist_free_all(transfer->headers);
    /* Civetweb would let a client that expects 100-continue wait. */
    transfer->headers = curl_slist_append(NULL, "Expect:");
    if (transfer->headers == NULL)
        return false;
    if (call->content_type == NULL) {
        grown = curl_slist_append(transfer->headers, "Content-Type:");
        if (grown == NULL)
            return false;
        transfer->headers = grown;
    }
    return add_header(transfer, "Content-Type", call->content_type) &&
           add_header(transfer, "Accept", call->accept) &&
           add_header(transfer, "Authorization", call->authorization) &&
           add_header(transfer, "X-Request-Id", call->request_id) &&
           add_header(transfer, "traceparent", call->traceparent) &&
           add_header(transfer, "If-Match", call->if_match) &&
           add_header(transfer, "Idempotency-Key", call->idempotency) &&
           add_header(transfer, "Range", call->range);
}

/* Without a function to seek this body cannot be sent a second time.  Nobody asks beyond its end,
 * but a second attempt that libcurl makes when it believes that nothing of the first was sent: what
 * it has handed on already would be missing. */
static size_t on_read(char *out, size_t one, size_t room, void *context)
{
    struct transfer *transfer = context;
    const struct http_call *call = transfer->call;
    size_t len = MIN_OF(one * room, call->body_len - transfer->body_at);

    if (len == 0)
        return CURL_READFUNC_ABORT;
    memcpy(out, (const char *)call->body + transfer->body_at, len);
    transfer->body_at += len;
    return len;
}

static void set_body(struct transfer *transfer)
{
    const struct http_call *call = transfer->call;
    CURL *easy = transfer->easy;
    bool is_asked_for = call->once && call->body_len > 0;

    transfer->body_at = 0;
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body_len);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
                     is_asked_for ? NULL : (call->body_len == 0 ? "" : call->body));
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, is_asked_for ? on_read : NULL);
    curl_easy_setopt(easy, CURLOPT_READDATA, transfer);
}

void request_set_method(struct transfer *transfer)
{
    const struct http_call *call = transfer->call;
    CURL *easy = transfer->easy;
    const char *custom = NULL;

    if (call->body_len > 0 || strcmp(call->method, "POST") == 0) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        set_body(transfer);
        custom = strcmp(call->method, "POST") == 0 ? NULL : call->method;
    } else if (strcmp(call->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else {
        curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
        custom = strcmp(call->method, "GET") == 0 ? NULL : call->method;
    }
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, custom);
}
