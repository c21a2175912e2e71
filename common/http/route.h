/* Requests, replies, routes: what a handler sees of HTTP.  Nothing here knows of sockets: a server
 * (server.h) or a simulation fills a request and has it dispatched.
 *
 * A handler decodes, looks up, acts, encodes.  It returns a code; on ERR_OK the reply holds the
 * body, otherwise the dispatcher writes the problem (RFC 9457) from req->err.  A handler never
 * names the status of an error and never logs one. */
#ifndef VICINAL_HTTP_ROUTE_H
#define VICINAL_HTTP_ROUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/err.h"

#define ROUTE_PARAMS_MAX  2
#define REPLY_HEADERS_MAX 8
#define REQUEST_ID_BYTES  65
#define TRACEPARENT_BYTES 56

#define MEDIA_JSON    "application/json"
#define MEDIA_PROBLEM "application/problem+json"
#define MEDIA_BINARY  "application/x-vicinal" /* between services, see common/model/wire.h */

struct request;
struct reply_age;
typedef enum err_code handler_fn(struct request *req);

struct route {
    const char *method;
    const char *path; /* "/v1/things/{*}" without braces: one star is one whole segment */
    handler_fn *handler;
    size_t body_max;       /* bytes after decompression; 0: no body is read */
    const char *operation; /* the operationId of the OpenAPI file; label of logs and metrics */
};

struct reply_header {
    const char *name; /* literal */
    char value[128];
};

struct reply {
    int status;               /* 0: 200 */
    const char *content_type; /* NULL: application/json when there is a body */
    struct buffer body;
    struct reply_age *ages; /* in the body, see age.h; the server writes them when it sends */
    struct reply_header headers[REPLY_HEADERS_MAX];
    size_t header_count;
};

struct request {
    void *state; /* the service's own */
    struct env *env;
    const struct route *route;
    const char *method;
    const char *path;                     /* as it came, without the query */
    const char *query;                    /* after '?', as it came; "" */
    const char *params[ROUTE_PARAMS_MAX]; /* percent-decoded, UTF-8, without NUL; NUL-terminated */
    size_t param_lens[ROUTE_PARAMS_MAX];
    const uint8_t *body; /* not NUL-terminated */
    size_t body_len;
    uint64_t received_ns;                /* boot time */
    char request_id[REQUEST_ID_BYTES];   /* X-Request-Id or made here */
    char traceparent[TRACEPARENT_BYTES]; /* W3C, "" when none came */
    const char *(*header)(const struct request *req, const char *name); /* NULL: not there */
    void *transport;                                                    /* the server's */
    struct arena arena; /* freed after the reply is sent */
    struct err err;
    struct reply reply;
    const char *collection; /* for the log line; NULL or arena text */
};

/* Value of a query parameter ('+' is a blank), percent-decoded into the arena; NULL when absent, or
 * when it is malformed (bad escape, NUL, no UTF-8).  *present (may be NULL) is true for the latter:
 * a handler answers NULL with *present as ERR_INVALID_ARGUMENT.  The first of several counts. */
const char *request_query(struct request *req, const char *name, bool *present);

/* Every parameter of the query is one of names (NULL-terminated).  Errors: ERR_UNKNOWN_FIELD. */
MUST_CHECK enum err_code request_query_only(struct request *req, const char *const *names);

/* The body's Content-Type is this media type (parameters ignored; an absent header counts as
 * JSON, and so does the form type that curl -d sends).  Errors: ERR_UNSUPPORTED_MEDIA_TYPE. */
MUST_CHECK enum err_code request_expect_media(struct request *req, const char *media);

/* The header Idempotency-Key: 1 to IDEMPOTENCY_KEY_MAX visible characters of ASCII, as it came;
 * *key NULL: it is not there.  Errors: ERR_INVALID_ARGUMENT. */
MUST_CHECK enum err_code request_idempotency_key(struct request *req, const char **key);

/* Add a header, or replace the one of this name; control characters become '?'.  More than
 * REPLY_HEADERS_MAX is a bug (three are the dispatcher's). */
void reply_header(struct reply *reply, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);

struct route_match {
    const struct route *route; /* NULL: none */
    char allow[96];            /* of the path, when only the method is wrong; else "" */
};

/* Find the route (path percent-decoded per segment into req->params); routes end with a NULL
 * method.  HEAD matches GET; of several rows that match the first counts; '*' matches no empty
 * segment.  A parameter that cannot be decoded leaves ERR_INVALID_ARGUMENT in req->err. */
struct route_match route_find(const struct route *routes, struct request *req);

/* The second half of route_dispatch, for a server that looks at the route before it reads the
 * body.  An error that is in req->err already (body too large, too slow …) is answered instead of
 * calling the handler. */
void route_run(const struct route_match *match, struct request *req);

/* Run the request: find, check body_len, handler, problem.  The reply is complete afterwards
 * (status, body, X-Request-Id).  Errors below 500 are not logged above debug; others once.  The
 * body of a route with body_max 0 is ignored. */
void route_dispatch(const struct route *routes, struct request *req);

/* Put the problem for req->err into the reply (dispatch does it by itself).  What a 500, a failed
 * file or missing memory is about stays in the log: its detail is only the title.  Headers that the
 * handler has set are kept. */
void reply_problem(struct request *req);

/* Frees arena and reply; for who made the request. */
void request_free(struct request *req);

#endif
