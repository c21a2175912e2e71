/* One keep-alive connection and as little as possible around it: for measuring, where the client
 * must cost less than what it measures.  Only what our own server sends: HTTP/1.1 with
 * Content-Length. */
#ifndef VICINAL_CLI_RAW_HTTP_H
#define VICINAL_CLI_RAW_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"

struct raw_http {
    char host[128];
    char port[8];
    int fd; /* -1: not connected */
    struct buffer in;
};

struct raw_reply {
    int status;
    const char *body; /* valid until the next call */
    size_t body_len;
};

/* Take apart "http://HOST:PORT"; connects at the first request.  Errors: ERR_CONFIG. */
MUST_CHECK enum err_code raw_http_open(struct raw_http *raw, const char *base, struct err *err);

/* Send a whole request as it stands, wait for the reply.  After an error the next request connects
 * anew.  Errors: ERR_UNAVAILABLE, ERR_IO, ERR_TIMEOUT (30 s). */
MUST_CHECK enum err_code raw_http_ask(struct raw_http *raw, const void *request, size_t len,
                                      struct raw_reply *reply, struct err *err);

void raw_http_close(struct raw_http *raw);

#endif
