/* Writes and collection changes: the whole body to the ingest that holds the log, its reply back.
 *
 * Happy path: look the holder up in the view, send, copy status, body and ETag.  Nobody holds the
 * log, or nothing was sent (no connection), or the ingest says that it is not the holder: look
 * again until the deadline; nothing has been written then.  A connection that breaks after the
 * request was sent: 503, the outcome is not known to us, and nothing is sent twice. */
#include "services/router/router.h"

#include <stdio.h>
#include <string.h>

#include "common/base/limits.h"

#define PAUSE_NS        (20 * NS_PER_MS)
#define REPLY_BYTES_MAX MIB(64)
#define DEADLINE_NS     ((DEADLINE_MS_MAX + 5000) * NS_PER_MS)  /* a little over ingest's */
#define LOOK_NS         (WRITE_DEADLINE_MS_DEFAULT * NS_PER_MS) /* how long a holder is sought */

/* Did the write certainly not happen, so that another attempt is right? */
static bool may_send_again(const struct http_call *call)
{
    static const char word[] = "\"code\":\"read_only\"";

    if (call->rc == ERR_UNAVAILABLE)
        return true;
    return call->rc == ERR_OK && call->status == 503 &&
           memmem(call->reply.data, call->reply.len, word, sizeof(word) - 1) != NULL;
}

/* As it came, but for what would not reach ingest as it stands: behind a bare '#' a client cuts a
 * URL off, and the write would concern another record. */
static char *copy_encoded(char *to, const char *from)
{
    static const char hex[] = "0123456789ABCDEF";

    for (; *from != '\0'; from++) {
        unsigned char byte = (unsigned char)*from;

        if (byte > ' ' && byte < 0x7f && byte != '#') {
            *to++ = *from;
            continue;
        }
        *to++ = '%';
        *to++ = hex[byte >> 4];
        *to++ = hex[byte & 15];
    }
    *to = '\0';
    return to;
}

/* Path and query. */
static enum err_code full_path(struct request *req, char **out)
{
    char *end;

    *out = arena_alloc(&req->arena, strlen(req->path) + strlen(req->query) + 1, 3);
    if (*out == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for the path");
    end = copy_encoded(*out, req->path);
    if (req->query[0] != '\0') {
        *end++ = '?';
        (void)copy_encoded(end, req->query);
    }
    return ERR_OK;
}

/* The headers that say more of a write.  An empty one is not sent on: the write would have lost its
 * condition. */
static enum err_code check_headers(struct request *req)
{
    const char *if_match = req->header(req, "If-Match"), *key;

    if (if_match != NULL && if_match[0] == '\0')
        return err_set(&req->err, ERR_INVALID_ARGUMENT, "If-Match names no version");
    return request_idempotency_key(req, &key);
}

/* A call that ended without a reply, as an error of the request. */
static enum err_code explain(struct request *req, const struct http_call *call)
{
    switch (call->rc) {
    case ERR_OK:
        return ERR_OK;
    case ERR_UNAVAILABLE:
        return err_set(&req->err, ERR_READ_ONLY, "ingest cannot be reached; nothing was written");
    case ERR_INVALID_ARGUMENT: /* nothing was sent */
        return err_set(&req->err, call->rc, "the request cannot be handed on: %s",
                       call->err.message);
    default:
        return err_set(&req->err, call->rc == ERR_TIMEOUT ? ERR_TIMEOUT : ERR_UNKNOWN_OUTCOME,
                       "ingest did not answer; whether the write happened is not known: %s",
                       call->err.message);
    }
}

/* Find the holder and send; repeated while nothing can have been written. */
static enum err_code send_to_holder(struct request *req, struct http_call *call)
{
    struct router *router = req->state;
    char url[256];
    enum err_code rc = ERR_OK;

    for (bool again = false;; again = true) {
        uint64_t now;

        rc = cluster_ingest_url(router->cluster, again, url, sizeof(url), &req->err);
        if (rc == ERR_OK) {
            call->base = url;
            (void)http_call_one(router->client, call, req->received_ns + DEADLINE_NS);
            if (!may_send_again(call))
                return ERR_OK;
        } else if (rc != ERR_READ_ONLY) {
            return rc;
        }
        /* The call may have taken long: what its client has given up does not come after all. */
        now = env_boot_ns(router->env);
        if (now + PAUSE_NS > req->received_ns + LOOK_NS)
            return rc; /* with rc ERR_OK the last reply is handed on */
        if (env_sleep_until(router->env, now + PAUSE_NS) != ERR_OK)
            return err_set(&req->err, ERR_DEAD, "shutting down");
        if (rc == ERR_OK)
            http_call_free(call);
    }
}

static void copy_reply(struct request *req, struct http_call *call)
{
    struct reply *reply = &req->reply;

    reply->status = call->status;
    buffer_free(&reply->body); /* the server may have lent one with room in it */
    reply->body = call->reply;
    call->reply = (struct buffer){0};
    reply->content_type = arena_copy_text(&req->arena, call->reply_type, strlen(call->reply_type));
    if (call->etag[0] != '\0')
        reply_header(reply, "ETag", "%s", call->etag);
    if (call->retry_after_s > 0)
        reply_header(reply, "Retry-After", "%u", call->retry_after_s);
}

enum err_code router_forward(struct request *req)
{
    struct router *router = req->state;
    struct http_call call = {
        .method = req->method,
        .content_type = req->header(req, "Content-Type"),
        .if_match = req->header(req, "If-Match"),
        .idempotency = req->header(req, "Idempotency-Key"),
        .request_id = req->request_id,
        .traceparent = req->traceparent,
        .body = req->body,
        .body_len = req->body_len,
        .reply_max = REPLY_BYTES_MAX,
        .once = true,
    };
    char *path;
    enum err_code rc;

    req->collection = req->params[0];
    if ((rc = check_headers(req)) != ERR_OK || (rc = full_path(req, &path)) != ERR_OK)
        return rc;
    call.path = path;
    rc = send_to_holder(req, &call);
    if (rc == ERR_OK)
        rc = explain(req, &call);
    if (rc == ERR_OK)
        copy_reply(req, &call);
    if (router->metrics.forwarded != NULL)
        metric_add(router->metrics.forwarded, 1);
    http_call_free(&call);
    return rc;
}

enum err_code router_change_collection(struct request *req)
{
    struct router *router = req->state;
    struct err ignored = {0};
    enum err_code rc = router_forward(req);

    /* The next request here sees the change; when the metadata store is away the follower will. */
    if (rc == ERR_OK && req->reply.status < 300)
        (void)(cluster_refresh(router->cluster, &ignored) == ERR_OK);
    return rc;
}
