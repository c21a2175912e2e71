/* The HTTP client: libcurl behind one file, or a simulated network.  Connections are kept alive
 * and shared by all threads; as many are open to a peer as there are requests to it at a time.
 *
 * http_gather sends several calls at once and waits for all.  The caller learns of each that ends
 * and may aim it at another peer and have it sent again: how a dead replica costs no error.  A call
 * may be held back for a while, and one that is not needed any more may be dropped: how a slow
 * replica costs no time. */
#ifndef VICINAL_HTTP_CLIENT_H
#define VICINAL_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/err.h"

struct http_client;

#define HTTP_URL_MAX 4096 /* an id of 500 bytes, percent-encoded, fits */

struct http_call {
    /* the request; everything is borrowed until the gather returns */
    const char *method;        /* "GET", "POST", … */
    const char *base;          /* "http://127.0.0.1:8081" */
    const char *path;          /* "/internal/v1/search?x=1", already encoded */
    const char *content_type;  /* NULL: none */
    const char *accept;        /* NULL: any */
    const char *authorization; /* whole value, NULL: none */
    const char *request_id;    /* X-Request-Id; NULL: none */
    const char *traceparent;   /* NULL or "": none */
    const char *if_match;      /* If-Match; NULL: none */
    const char *idempotency;   /* Idempotency-Key; NULL: none */
    const char *range;         /* Range: "bytes=0-99"; NULL: none */
    const char *aws_region;    /* sign for an S3-compatible store there (SigV4); NULL: do not */
    const char *aws_user;      /* "KEY:SECRET", for that */
    const void *body;
    size_t body_len;
    bool once;         /* never send twice, not even on a fresh connection: for what is not
                        * idempotent */
    size_t reply_max;  /* longer replies fail with ERR_PAYLOAD_TOO_LARGE */
    void *user;        /* the caller's */
    uint64_t after_ns; /* boot time until which it is held back; 0: sent at once */
    bool is_dropped;   /* set by a watcher's function, for any call of the gather: it is not sent,
                        * or broken off, and ends without a word, rc ERR_OK and status 0 */

    /* the answer */
    enum err_code rc; /* ERR_OK: a reply with any status came; ERR_UNAVAILABLE: no
                       * connection, nothing was sent; ERR_IO: broke after sending;
                       * ERR_TIMEOUT; ERR_DEAD */
    int status;
    struct buffer reply; /* owned by the call: http_call_free */
    char reply_type[64]; /* media type without parameters */
    char etag[64];
    uint32_t retry_after_s; /* 0: none said */
    uint64_t length;        /* as Content-Length says, also of a HEAD; 0: it does not */
    struct err err;         /* for rc != ERR_OK */
};

void http_call_free(struct http_call *call); /* the reply only */

/* Who is told how a gather goes.  Its functions run on the thread that gathers, one at a time; each
 * may be NULL. */
struct http_watcher {
    /* As each call ends: true = the call has been re-aimed (base, path, body), send it again.  At
     * the deadline it is called too, but nothing is sent again. */
    bool (*ended)(void *context, struct http_call *call);
    /* The time of a call that was held back has come: true = send it (base and so on may be set
     * here), false = drop it. */
    bool (*due)(void *context, struct http_call *call);
    void *context;
};

struct http_client_ops {
    void (*gather)(struct http_client *client, struct http_call *calls, size_t count,
                   uint64_t deadline_ns, const struct http_watcher *watcher);
    void (*close)(struct http_client *client);
};

struct http_client {
    const struct http_client_ops *ops; /* first member of every kind */
};

struct http_client_options {
    struct env *env;
    uint32_t connect_timeout_ms; /* 0: 1000 */
    uint32_t idle_ms;            /* connections unused for so long are dropped; 0: 30000.  Below
                                  * the servers' keep-alive time, or a reused one may be closing */
};

MUST_CHECK enum err_code http_client_open(struct http_client **out,
                                          const struct http_client_options *options,
                                          struct err *err);
void http_client_close(struct http_client *client);

/* Send all, wait for all (each call's rc and err say what became of it: ERR_INVALID_ARGUMENT for a
 * URL or header that cannot be sent, ERR_NO_MEMORY, else as struct http_call says); calls that have
 * not ended at deadline_ns (boot time) end with ERR_TIMEOUT, those held back until then as if
 * dropped.  watcher may be NULL.  A reused
 * connection that the peer had closed is retried once on a fresh one when nothing of the reply has
 * come and the method is GET, or POST with idempotent semantics between our own services (all
 * internal calls are: the caller says so by using this client). */
void http_gather(struct http_client *client, struct http_call *calls, size_t count,
                 uint64_t deadline_ns, const struct http_watcher *watcher);

/* A call that may be sent once goes over connections that were idle for less than this: a server
 * that closes one just then costs it an error. */
#define HTTP_ONCE_IDLE_MS 2000

/* One call. Returns call->rc. */
enum err_code http_call_one(struct http_client *client, struct http_call *call,
                            uint64_t deadline_ns);

/* The reply's status is 2xx, or err is filled from its problem+json (code by its word, detail,
 * first pointer); a call that got no reply gives its own error. */
MUST_CHECK enum err_code http_call_expect(const struct http_call *call, struct err *err);

#endif
