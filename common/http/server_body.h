/* Reading of request bodies, for server.c only. */
#ifndef VICINAL_HTTP_SERVER_BODY_H
#define VICINAL_HTTP_SERVER_BODY_H

#include <civetweb.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/err.h"

/* How a request says its body comes. */
struct body_frame {
    bool is_chunked;
    uint64_t length; /* of a body that is not chunked; 0: none */
    bool is_gzip;
    bool expects_continue;
};

struct body_reader {
    struct mg_connection *conn;
    struct env *env;
    uint64_t read_timeout_ns;
    struct buffer *body;   /* gets the decoded body */
    struct buffer *packed; /* scratch for compressed ones */
    bool is_read;          /* nothing of the body is left on the connection */
};

/* Judge the headers.  Errors: ERR_INVALID_ARGUMENT (framing that two readers could understand
 * differently), ERR_UNSUPPORTED_MEDIA_TYPE (Content-Encoding). */
MUST_CHECK enum err_code body_frame_read(struct mg_connection *conn, struct body_frame *frame,
                                         struct err *err);

/* Wants the client the connection behind it?  As Civetweb decides; so that the reply says the same.
 */
bool body_keeps_connection(const struct mg_connection *conn);

/* Read the whole body, at most max bytes before and after decompression.
 * Errors: ERR_PAYLOAD_TOO_LARGE, ERR_REQUEST_TIMEOUT, ERR_INVALID_ARGUMENT (ended early, bad
 * chunks, bad gzip), ERR_NO_MEMORY. */
MUST_CHECK enum err_code body_read(struct body_reader *reader, const struct body_frame *frame,
                                   size_t max, struct err *err);

/* Read and forget what is left, for a bounded time and number of bytes, so that a client that is
 * still sending gets to read its answer instead of a reset. */
void body_discard(struct body_reader *reader, const struct body_frame *frame);

#endif
