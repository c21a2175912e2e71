/* The HTTP client over libcurl: see client.h.
 *
 * A gather takes a bundle from the pool: a multi handle with its connection cache and easy handles
 * that are used again.  Bundles are taken last in, first out, so that as few connections as
 * possible are kept warm; a bundle that nobody needed for idle_ms is closed. */
#include "common/http/client_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/checked.h"
#include "common/base/text.h"

#define CONNECTIONS_MAX     512L /* idle ones of a bundle */
#define CONNECT_MS_FALLBACK 1000u
#define IDLE_MS_FALLBACK    30000u

static void bundle_free(struct bundle *bundle)
{
    if (bundle == NULL)
        return;
    for (size_t i = 0; i < bundle->transfer_count; i++) {
        curl_slist_free_all(bundle->transfers[i].headers);
        curl_easy_cleanup(bundle->transfers[i].easy);
    }
    free(bundle->transfers);
    if (bundle->multi != NULL)
        curl_multi_cleanup(bundle->multi);
    free(bundle);
}

static size_t on_body(char *data, size_t one, size_t len, void *context)
{
    struct transfer *transfer = context;
    struct http_call *call = transfer->call;

    assert(one == 1);
    transfer->has_reply = true;
    if (call->reply_max - call->reply.len < len) {
        transfer->is_too_big = true;
        return CURL_WRITEFUNC_ERROR;
    }
    buffer_append(&call->reply, data, len);
    return call->reply.failed ? CURL_WRITEFUNC_ERROR : len;
}

/* Value of a header line when it has this name ("etag:"), without blanks around it. */
static bool header_value(const char *line, size_t len, const char *name, const char **value,
                         size_t *value_len)
{
    size_t name_len = strlen(name);

    if (len < name_len || strncasecmp(line, name, name_len) != 0)
        return false;
    line += name_len;
    len -= name_len;
    while (len > 0 && (*line == ' ' || *line == '\t')) {
        line++;
        len--;
    }
    while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == '\n' || line[len - 1] == ' '))
        len--;
    *value = line;
    *value_len = len;
    return true;
}

/* A value that does not fit is dropped: half an ETag is none. */
static void keep_text(char *out, size_t size, const char *value, size_t len)
{
    out[0] = '\0';
    if (len < size) {
        memcpy(out, value, len);
        out[len] = '\0';
    }
}

static size_t on_header(char *line, size_t one, size_t len, void *context)
{
    struct transfer *transfer = context;
    struct http_call *call = transfer->call;
    const char *value;
    size_t value_len;
    uint64_t number;

    (void)one;
    transfer->has_reply = true;
    if (header_value(line, len, "content-type:", &value, &value_len)) {
        const char *end = memchr(value, ';', value_len);

        keep_text(call->reply_type, sizeof(call->reply_type), value,
                  end == NULL ? value_len : (size_t)(end - value));
    } else if (header_value(line, len, "etag:", &value, &value_len)) {
        keep_text(call->etag, sizeof(call->etag), value, value_len);
    } else if (header_value(line, len, "retry-after:", &value, &value_len)) {
        if (text_to_u64(value, value_len, &number) && number <= UINT32_MAX)
            call->retry_after_s = (uint32_t)number;
    } else if (header_value(line, len, "content-length:", &value, &value_len)) {
        if (!text_to_u64(value, value_len, &number))
            return len;
        call->length = number;
        if (number <= call->reply_max)
            (void)buffer_reserve(&call->reply, (size_t)number);
    }
    return len;
}

static CURL *easy_new(const struct curl_client *client)
{
    CURL *easy = curl_easy_init();

    if (easy == NULL)
        return NULL;
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, client->connect_timeout_ms);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    return easy;
}

struct bundle *bundle_take(struct curl_client *client, size_t count)
{
    struct transfer *transfers;
    struct bundle *bundle;

    pthread_mutex_lock(&client->lock);
    bundle = client->pool;
    if (bundle != NULL)
        client->pool = bundle->next;
    pthread_mutex_unlock(&client->lock);
    if (bundle == NULL && (bundle = calloc(1, sizeof(*bundle))) == NULL)
        return NULL;
    if (bundle->multi == NULL) {
        bundle->multi = curl_multi_init();
        if (bundle->multi == NULL)
            goto fail;
        curl_multi_setopt(bundle->multi, CURLMOPT_MAXCONNECTS, CONNECTIONS_MAX);
    }
    if (count > bundle->transfer_count) {
        transfers = array_resize(bundle->transfers, count, sizeof(*transfers));
        if (transfers == NULL)
            goto fail;
        bundle->transfers = transfers;
        while (bundle->transfer_count < count) {
            CURL *easy = easy_new(client);

            if (easy == NULL)
                goto fail;
            transfers[bundle->transfer_count++] = (struct transfer){
                .easy = easy, .idle_s = (long)MAX_OF(client->idle_ns / NS_PER_S, 1u)};
        }
    }
    return bundle;
fail:
    bundle_free(bundle);
    return NULL;
}

/* The lowest one goes when it has been idle for long. */
void bundle_put(struct curl_client *client, struct bundle *bundle)
{
    struct bundle *idle = NULL;
    struct bundle **at;

    assert(bundle->running == 0 && bundle->held == 0);
    bundle->used_ns = env_boot_ns(client->env);
    pthread_mutex_lock(&client->lock);
    bundle->next = client->pool;
    client->pool = bundle;
    for (at = &bundle->next; *at != NULL; at = &(*at)->next)
        if ((*at)->next == NULL && bundle->used_ns - (*at)->used_ns > client->idle_ns) {
            idle = *at;
            *at = NULL;
            break;
        }
    pthread_mutex_unlock(&client->lock);
    bundle_free(idle);
}

void call_forget_answer(struct http_call *call)
{
    call->rc = ERR_OK;
    call->status = 0;
    call->reply_type[0] = '\0';
    call->etag[0] = '\0';
    call->retry_after_s = 0;
    call->length = 0;
    buffer_reset(&call->reply);
    err_clear(&call->err);
}

bool transfer_start(struct bundle *bundle, struct transfer *transfer)
{
    struct http_call *call = transfer->call;
    CURL *easy = transfer->easy;
    bool is_alone = call->once && call->body_len == 0;
    char url[HTTP_URL_MAX];
    int len = snprintf(url, sizeof(url), "%s%s", call->base, call->path);

    call_forget_answer(call);
    transfer->has_reply = false;
    transfer->is_too_big = false;
    if (len < 0 || (size_t)len >= sizeof(url)) {
        call->rc = err_set(&call->err, ERR_INVALID_ARGUMENT, "the URL is too long");
        return false;
    }
    if (!request_set_headers(transfer)) {
        call->rc = err_set(&call->err, ERR_INVALID_ARGUMENT, "a header cannot be sent");
        return false;
    }
    request_set_method(transfer);
    /* libcurl sends a request again by itself only on a connection that was kept: a call that may
     * be sent once, and has no body to stop that, gets a fresh one, which is not kept either: they
     * would pile up, and hold the peer's workers. */
    curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, transfer->is_retry || is_alone ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, is_alone ? 1L : 0L);
    /* libcurl counts whole seconds: 1.9 is not more than 1. */
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN,
                     call->once ? MIN_OF(HTTP_ONCE_IDLE_MS / 1000L - 1, transfer->idle_s)
                                : transfer->idle_s);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
    if (curl_easy_setopt(easy, CURLOPT_URL, url) != CURLE_OK ||
        curl_multi_add_handle(bundle->multi, easy) != CURLM_OK) {
        call->rc = err_set(&call->err, ERR_NO_MEMORY, "no memory for a request");
        return false;
    }
    transfer->is_running = true;
    bundle->running++;
    return true;
}

void transfer_stop(struct bundle *bundle, struct transfer *transfer)
{
    assert(transfer->is_running);
    curl_multi_remove_handle(bundle->multi, transfer->easy);
    transfer->is_running = false;
    bundle->running--;
}

static enum err_code code_of_curl(const struct transfer *transfer, CURLcode code)
{
    long sent_bytes = 0;

    if (transfer->is_too_big)
        return ERR_PAYLOAD_TOO_LARGE;
    if (transfer->call->reply.failed)
        return ERR_NO_MEMORY;
    switch (code) {
    case CURLE_OUT_OF_MEMORY:
        return ERR_NO_MEMORY;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return ERR_INVALID_ARGUMENT;
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_OPERATION_TIMEDOUT: /* only connecting has a time limit of its own */
        return ERR_UNAVAILABLE;
    default:
        (void)curl_easy_getinfo(transfer->easy, CURLINFO_REQUEST_SIZE, &sent_bytes);
        return sent_bytes > 0 ? ERR_IO : ERR_UNAVAILABLE;
    }
}

bool transfer_is_stale(const struct transfer *transfer, CURLcode code)
{
    long connects = 1;

    if (transfer->call->once ||
        (code != CURLE_SEND_ERROR && code != CURLE_RECV_ERROR && code != CURLE_GOT_NOTHING))
        return false;
    (void)curl_easy_getinfo(transfer->easy, CURLINFO_NUM_CONNECTS, &connects);
    return connects == 0 && !transfer->has_reply && !transfer->is_retry;
}

void transfer_conclude(struct transfer *transfer, CURLcode code)
{
    struct http_call *call = transfer->call;
    enum err_code rc;
    long status = 0;

    if (code == CURLE_OK) {
        (void)curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
        call->status = (int)status;
        call->rc = ERR_OK;
        return;
    }
    rc = code_of_curl(transfer, code);
    call->rc = err_set(&call->err, rc, "%s %s: %s", call->method, call->base,
                       transfer->is_too_big ? "the reply is too large" : curl_easy_strerror(code));
}

static void curl_client_close(struct http_client *base)
{
    struct curl_client *client = (struct curl_client *)base;

    while (client->pool != NULL) {
        struct bundle *bundle = client->pool;

        client->pool = bundle->next;
        bundle_free(bundle);
    }
    pthread_mutex_destroy(&client->lock);
    free(client);
}

static const struct http_client_ops curl_client_ops = {
    .gather = client_gather,
    .close = curl_client_close,
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void start_curl(void)
{
    CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);

    assert(code == CURLE_OK);
    (void)code;
}

enum err_code http_client_open(struct http_client **out, const struct http_client_options *options,
                               struct err *err)
{
    struct curl_client *client = calloc(1, sizeof(*client));

    *out = NULL;
    if (client == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the HTTP client");
    pthread_once(&curl_once, start_curl);
    client->client.ops = &curl_client_ops;
    client->env = options->env;
    client->connect_timeout_ms =
        (long)(options->connect_timeout_ms == 0 ? CONNECT_MS_FALLBACK
                                                : options->connect_timeout_ms);
    client->idle_ns = (options->idle_ms == 0 ? IDLE_MS_FALLBACK : options->idle_ms) * NS_PER_MS;
    pthread_mutex_init(&client->lock, NULL);
    *out = &client->client;
    return ERR_OK;
}
