/* The HTTP server: Civetweb behind one file.  A keep-alive connection holds one worker thread, so
 * workers bound the connections that are served at a time.  While all are held, connections that
 * are idle for a second (idle_ms) are closed, and busy ones after a second: others get their turn.
 */
#ifndef VICINAL_HTTP_SERVER_H
#define VICINAL_HTTP_SERVER_H

#include "common/base/env.h"
#include "common/http/route.h"
#include "common/observe/metrics.h"

struct http_server;

struct http_server_options {
    const char *listen; /* "127.0.0.1:8080", port 0: any free one */
    uint32_t workers;
    uint32_t read_timeout_ms; /* a client that sends nothing for so long: 408, closed */
    uint32_t keep_alive_ms;   /* idle connections are closed after this */
    uint32_t idle_ms;         /* … and after this while all workers are held; 0: a second */
    const struct route *routes;
    void *state;
    struct env *env;
    struct metrics *metrics; /* http_requests_total{service,operation,status="2xx"} and
                              * http_request_seconds{operation}; may be NULL */
    const char *service;     /* the label of the former; NULL: "" */
    bool access_log;         /* one info line a request */
};

/* Limits: headers 16 KiB and 63 lines, bodies per route (Content-Length is looked at first, chunked
 * bodies are counted), Content-Encoding gzip and identity (the decompressed size is limited),
 * Expect: 100-continue answered, 405 with Allow for every other method (TRACE too), HEAD without a
 * body. One write per reply. Errors: ERR_CONFIG (address, in use). */
MUST_CHECK enum err_code http_server_open(struct http_server **out,
                                          const struct http_server_options *options,
                                          struct err *err);
uint16_t http_server_port(const struct http_server *server);

/* Answer new requests 503, wait for running ones (at most drain_ms), close all connections. Replies
 * that are still being written then are cut off; a handler that never returns is waited for. */
void http_server_close(struct http_server *server, uint32_t drain_ms);

#endif
