/* The HTTP client over libcurl: see client.h.
 *
 * A gather takes a bundle from the pool: a multi handle with its connection cache and easy handles
 * that are used again.  Bundles are taken last in, first out, so that as few connections as
 * possible are kept warm; a bundle that nobody needed for idle_ms is closed.
 *
 * Happy path: each call is put on an easy handle, the multi handle is driven until all have ended,
 * the bundle goes back.  A call that breaks on a reused connection before anything of the reply
 * came is sent once more on a fresh one; libcurl does the same where it notices by itself.  A call
 * that may be sent once only hands its body out once: libcurl would have to ask for it again,
 * cannot, and gives up.  At the deadline what still runs is cut off, its connection closed, and
 * ends with ERR_TIMEOUT. */
#include "common/http/client_internal.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/checked.h"
#include "common/base/text.h"

#define POLL_MS_MAX         60000
#define CONNECTIONS_MAX     512L /* idle ones of a bundle */
#define CONNECT_MS_FALLBACK 1000u
#define IDLE_MS_FALLBACK    30000u

struct bundle {
    struct bundle *next; /* below in the pool */
    CURLM *multi;
    struct transfer *transfers;
    size_t transfer_count;
    size_t running;
    uint64_t used_ns; /* when it came back to the pool */
};

struct curl_client {
    struct http_client client;
    struct env *env;
    long connect_timeout_ms;
    uint64_t idle_ns;
    pthread_mutex_t lock;
    struct bundle *pool; /* guarded by lock; last used first */
};

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
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)MAX_OF(client->idle_ns / NS_PER_S, 1u));
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    return easy;
}

/* A bundle with at least count transfers; NULL: no memory. */
static struct bundle *bundle_take(struct curl_client *client, size_t count)
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
            transfers[bundle->transfer_count++] = (struct transfer){.easy = easy};
        }
    }
    return bundle;
fail:
    bundle_free(bundle);
    return NULL;
}

/* Back to the pool; the lowest one goes when it has been idle for long. */
static void bundle_put(struct curl_client *client, struct bundle *bundle)
{
    struct bundle *idle = NULL;
    struct bundle **at;

    assert(bundle->running == 0);
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

static void forget_answer(struct http_call *call)
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

/* False: the call could not be started and has its error. */
static bool transfer_start(struct bundle *bundle, struct transfer *transfer)
{
    struct http_call *call = transfer->call;
    CURL *easy = transfer->easy;
    char url[HTTP_URL_MAX];
    int len = snprintf(url, sizeof(url), "%s%s", call->base, call->path);

    forget_answer(call);
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
     * be sent once, and has no body to stop that, gets a fresh one. */
    curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT,
                     transfer->is_retry || (call->once && call->body_len == 0) ? 1L : 0L);
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

static void transfer_stop(struct bundle *bundle, struct transfer *transfer)
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

/* Broken on a kept connection, before anything came: the peer had closed it. */
static bool is_stale(const struct transfer *transfer, CURLcode code)
{
    long connects = 1;

    if (transfer->call->once ||
        (code != CURLE_SEND_ERROR && code != CURLE_RECV_ERROR && code != CURLE_GOT_NOTHING))
        return false;
    (void)curl_easy_getinfo(transfer->easy, CURLINFO_NUM_CONNECTS, &connects);
    return connects == 0 && !transfer->has_reply && !transfer->is_retry;
}

/* Fill the answer of a transfer that libcurl has done with. */
static void conclude(struct transfer *transfer, CURLcode code)
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

struct gather {
    struct env *env;
    struct bundle *bundle;
    http_ended_fn *ended;
    void *context;
    uint64_t deadline_ns;
};

/* Start; a call that cannot start ends at once, and may be aimed again. */
static void start_or_end(const struct gather *gather, struct transfer *transfer)
{
    struct http_call *call = transfer->call;

    while (!transfer_start(gather->bundle, transfer))
        if (gather->ended == NULL || !gather->ended(gather->context, call) ||
            env_boot_ns(gather->env) >= gather->deadline_ns)
            return;
}

static void take_ended(const struct gather *gather)
{
    struct bundle *bundle = gather->bundle;
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(bundle->multi, &left)) != NULL) {
        struct transfer *transfer = NULL;
        CURLcode code = message->data.result;

        assert(message->msg == CURLMSG_DONE);
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&transfer);
        assert(transfer != NULL);
        conclude(transfer, code);
        if (is_stale(transfer, code)) {
            transfer_stop(bundle, transfer);
            transfer->is_retry = true;
            start_or_end(gather, transfer);
            continue;
        }
        transfer_stop(bundle, transfer);
        if (gather->ended == NULL || !gather->ended(gather->context, transfer->call))
            continue;
        transfer->is_retry = false;
        start_or_end(gather, transfer);
    }
}

static void end_call_in_time(const struct gather *gather, struct http_call *call)
{
    forget_answer(call);
    call->rc =
        err_set(&call->err, ERR_TIMEOUT, "%s %s: no answer in time", call->method, call->base);
    if (gather->ended != NULL)
        (void)gather->ended(gather->context, call);
}

static void drive(struct curl_client *client, const struct gather *gather)
{
    struct bundle *bundle = gather->bundle;
    uint64_t now, ms;
    int running;

    while (bundle->running > 0) {
        (void)curl_multi_perform(bundle->multi, &running);
        take_ended(gather);
        now = env_boot_ns(client->env);
        if (bundle->running == 0 || now >= gather->deadline_ns)
            break;
        /* A transfer that has just been started is driven before anyone waits. */
        if (running != 0 && (size_t)running == bundle->running) {
            ms = (gather->deadline_ns - now) / NS_PER_MS + 1;
            (void)curl_multi_poll(bundle->multi, NULL, 0, (int)MIN_OF(ms, (uint64_t)POLL_MS_MAX),
                                  NULL);
        }
    }
    for (size_t i = 0; i < bundle->transfer_count; i++)
        if (bundle->transfers[i].is_running) {
            transfer_stop(bundle, &bundle->transfers[i]);
            end_call_in_time(gather, bundle->transfers[i].call);
        }
}

static void curl_client_gather(struct http_client *base, struct http_call *calls, size_t count,
                               uint64_t deadline_ns, http_ended_fn *ended, void *context)
{
    struct curl_client *client = (struct curl_client *)base;
    struct gather gather = {
        .env = client->env, .ended = ended, .context = context, .deadline_ns = deadline_ns};
    bool late = env_boot_ns(client->env) >= deadline_ns;

    if (!late)
        gather.bundle = bundle_take(client, count);
    for (size_t i = 0; i < count; i++) {
        forget_answer(&calls[i]);
        if (late)
            end_call_in_time(&gather, &calls[i]);
        else if (gather.bundle == NULL)
            calls[i].rc = err_set(&calls[i].err, ERR_NO_MEMORY, "no memory for a request");
    }
    if (gather.bundle == NULL)
        return;
    for (size_t i = 0; i < count; i++) {
        gather.bundle->transfers[i].call = &calls[i];
        gather.bundle->transfers[i].is_retry = false;
        start_or_end(&gather, &gather.bundle->transfers[i]);
    }
    drive(client, &gather);
    bundle_put(client, gather.bundle);
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
    .gather = curl_client_gather,
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
