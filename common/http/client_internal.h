/* Between client.c and client_request.c: a call on its way through libcurl. */
#ifndef VICINAL_HTTP_CLIENT_INTERNAL_H
#define VICINAL_HTTP_CLIENT_INTERNAL_H

#include <curl/curl.h>

#include "common/http/client.h"

struct transfer {
    CURL *easy;
    struct http_call *call;
    struct curl_slist *headers;
    bool is_running;
    bool is_retry;   /* sent a second time, on a fresh connection */
    bool has_reply;  /* something of it came */
    bool is_too_big; /* the reply passed reply_max */
    size_t body_at;  /* of a call that may be sent once: handed out so far */
};

/* Headers and signature of the transfer's call; transfer->headers is owned by the transfer.
 * False: one of them cannot be sent, or there is no memory. */
bool request_set_headers(struct transfer *transfer);

/* Method and body. */
void request_set_method(struct transfer *transfer);

#endif
