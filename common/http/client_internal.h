/* What the files of the libcurl client share; nobody else includes this.
 *
 *   client.c           the client, its pool of connections, one transfer
 *   client_request.c   a call as libcurl is to send it
 *   client_gather.c    many at a time */
#ifndef VICINAL_HTTP_CLIENT_INTERNAL_H
#define VICINAL_HTTP_CLIENT_INTERNAL_H

#include <curl/curl.h>
#include <pthread.h>

#include "common/http/client.h"

struct transfer {
    CURL *easy;
    struct http_call *call;
    struct curl_slist *headers;
    long idle_s; /* a connection that was idle for longer is not used again */
    bool is_running;
    bool is_held;    /* until the call's time has come */
    bool is_retry;   /* sent a second time, on a fresh connection */
    bool has_reply;  /* something of it came */
    bool is_too_big; /* the reply passed reply_max */
    size_t body_at;  /* of a call that may be sent once: handed out so far */
};

struct bundle {
    struct bundle *next; /* below in the pool */
    CURLM *multi;
    struct transfer *transfers;
    size_t transfer_count;
    size_t running, held;
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

/* A bundle with at least count transfers; NULL: no memory.  Back to the pool with bundle_put. */
struct bundle *bundle_take(struct curl_client *client, size_t count);
void bundle_put(struct curl_client *client, struct bundle *bundle);

/* False: the call could not be started and has its error. */
bool transfer_start(struct bundle *bundle, struct transfer *transfer);
void transfer_stop(struct bundle *bundle, struct transfer *transfer);

/* Broken on a kept connection, before anything came: the peer had closed it. */
bool transfer_is_stale(const struct transfer *transfer, CURLcode code);

/* Fill the answer of a transfer that libcurl has done with. */
void transfer_conclude(struct transfer *transfer, CURLcode code);

void call_forget_answer(struct http_call *call);

/* client_request.c: headers and signature of the transfer's call; transfer->headers is owned by the
 * transfer. False: one of them cannot be sent, or there is no memory. */
bool request_set_headers(struct transfer *transfer);

/* Method and body. */
void request_set_method(struct transfer *transfer);

/* client_gather.c: http_client_ops.gather. */
void client_gather(struct http_client *client, struct http_call *calls, size_t count,
                   uint64_t deadline_ns, const struct http_watcher *watcher);

#endif
