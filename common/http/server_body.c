/* Request bodies: framing, limits, patience, decompression.
 *
 * Happy path: a Content-Length within the limit, read in pieces into one buffer.  Chunked bodies
 * are counted while they come; gzip is inflated into a second buffer with the same limit, so a bomb
 * costs no more than a large body.  Each piece may take read_timeout: a client slower than that is
 * answered 408.  Civetweb reads headers leniently (it takes "12x" for 12, and the first of two
 * Content-Length headers); what two readers could understand differently is refused here. */
#include "common/http/server_body.h"

#include <assert.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/base/text.h"

#define PIECE_BYTES       KIB(16)
#define DISCARD_BYTES_MAX (BODY_BYTES_MAX + MIB(8))
#define DISCARD_NS_MAX    (2 * NS_PER_S)
#define GZIP_WINDOW       (16 + MAX_WBITS) /* zlib: a gzip header is expected */

static enum err_code check_encoding(const char *encoding, bool *is_gzip, struct err *err)
{
    *is_gzip = strcasecmp(encoding, "gzip") == 0 || strcasecmp(encoding, "x-gzip") == 0;
    if (*is_gzip || encoding[0] == '\0' || strcasecmp(encoding, "identity") == 0)
        return ERR_OK;
    return err_set(err, ERR_UNSUPPORTED_MEDIA_TYPE, "Content-Encoding may be gzip or identity");
}

bool body_keeps_connection(const struct mg_connection *conn)
{
    const char *value = mg_get_header(conn, "Connection");
    const char *version = mg_get_request_info(conn)->http_version;

    if (value != NULL)
        return strcasestr(value, "keep-alive") != NULL;
    return version != NULL && strcmp(version, "1.1") == 0;
}

enum err_code body_frame_read(struct mg_connection *conn, struct body_frame *frame, struct err *err)
{
    const struct mg_request_info *info = mg_get_request_info(conn);
    const char *encoding = "";
    size_t lengths = 0, codings = 0;

    *frame = (struct body_frame){0};
    /* Civetweb stops at this many and does not say whether there were more. */
    if (info->num_headers >= MG_MAX_HEADERS)
        return err_set(err, ERR_INVALID_ARGUMENT, "too many header lines");
    for (int i = 0; i < info->num_headers; i++) {
        const char *name = info->http_headers[i].name;
        const char *value = info->http_headers[i].value;

        if (strcasecmp(name, "Content-Length") == 0) {
            lengths++;
            if (!text_to_u64(value, strlen(value), &frame->length))
                return err_set(err, ERR_INVALID_ARGUMENT, "Content-Length is not a number");
        } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
            codings++;
            frame->is_chunked = strcasecmp(value, "chunked") == 0;
            if (!frame->is_chunked)
                return err_set(err, ERR_INVALID_ARGUMENT, "Transfer-Encoding may be chunked");
        } else if (strcasecmp(name, "Content-Encoding") == 0) {
            encoding = value;
        } else if (strcasecmp(name, "Expect") == 0) {
            frame->expects_continue = strcasecmp(value, "100-continue") == 0;
            if (!frame->expects_continue)
                return err_set(err, ERR_INVALID_ARGUMENT, "Expect may be 100-continue");
        }
    }
    if (lengths + codings > 1)
        return err_set(err, ERR_INVALID_ARGUMENT, "the length of the body is said twice");
    return check_encoding(encoding, &frame->is_gzip, err);
}

/* Why a read gave nothing: a silent client has used up its time, a closed connection has not. */
static enum err_code explain_end(const struct body_reader *reader, uint64_t begun_ns,
                                 struct err *err)
{
    if (env_boot_ns(reader->env) - begun_ns >= reader->read_timeout_ns / 10 * 9)
        return err_set(err, ERR_REQUEST_TIMEOUT, "the body came too slowly");
    return err_set(err, ERR_INVALID_ARGUMENT, "the body is malformed or ended early");
}

/* A piece has come; it may not have taken longer than read_timeout, however it dribbled. */
static enum err_code check_pace(const struct body_reader *reader, uint64_t begun_ns,
                                struct err *err)
{
    if (env_boot_ns(reader->env) - begun_ns > reader->read_timeout_ns)
        return err_set(err, ERR_REQUEST_TIMEOUT, "the body came too slowly");
    return ERR_OK;
}

static enum err_code read_known(struct body_reader *reader, struct buffer *to, uint64_t length,
                                struct err *err)
{
    uint64_t begun_ns = env_boot_ns(reader->env);
    enum err_code rc;
    int got;

    if (!buffer_reserve(to, (size_t)length))
        return err_set(err, ERR_NO_MEMORY, "no memory for a body");
    while (to->len < length) {
        got = mg_read(reader->conn, to->data + to->len, MIN_OF(length - to->len, PIECE_BYTES));
        if (got <= 0)
            return explain_end(reader, begun_ns, err);
        to->len += (size_t)got;
        if (to->len == length)
            break;
        if ((size_t)got < PIECE_BYTES)
            return explain_end(reader, begun_ns, err);
        if ((rc = check_pace(reader, begun_ns, err)) != ERR_OK)
            return rc;
        begun_ns = env_boot_ns(reader->env);
    }
    reader->is_read = true;
    return ERR_OK;
}

static enum err_code read_chunked(struct body_reader *reader, struct buffer *to, size_t max,
                                  struct err *err)
{
    uint64_t begun_ns;
    enum err_code rc;
    int got;

    for (;;) {
        begun_ns = env_boot_ns(reader->env);
        if (!buffer_reserve(to, PIECE_BYTES))
            return err_set(err, ERR_NO_MEMORY, "no memory for a body");
        got = mg_read(reader->conn, to->data + to->len, PIECE_BYTES);
        if (got < 0)
            return explain_end(reader, begun_ns, err);
        if (got == 0)
            break;
        to->len += (size_t)got;
        if (to->len > max)
            return err_set(err, ERR_PAYLOAD_TOO_LARGE, "at most %zu bytes are accepted here", max);
        if ((rc = check_pace(reader, begun_ns, err)) != ERR_OK)
            return rc;
    }
    reader->is_read = true;
    return ERR_OK;
}

/* Inflate one gzip member, all of packed, into body. */
static enum err_code inflate_all(const struct buffer *packed, struct buffer *body, size_t max,
                                 struct err *err)
{
    z_stream stream = {.next_in = packed->data, .avail_in = (uInt)packed->len};
    enum err_code rc = ERR_OK;
    int state = Z_OK;

    assert(packed->len <= UINT32_MAX);
    if (inflateInit2(&stream, GZIP_WINDOW) != Z_OK)
        return err_set(err, ERR_NO_MEMORY, "no memory to decompress");
    while (state == Z_OK) {
        if (!buffer_reserve(body, PIECE_BYTES)) {
            rc = err_set(err, ERR_NO_MEMORY, "no memory for a body");
            goto out;
        }
        stream.next_out = body->data + body->len;
        stream.avail_out = PIECE_BYTES;
        state = inflate(&stream, Z_NO_FLUSH);
        body->len += PIECE_BYTES - stream.avail_out;
        if (body->len > max) {
            rc = err_set(err, ERR_PAYLOAD_TOO_LARGE,
                         "at most %zu bytes are accepted here after decompression", max);
            goto out;
        }
    }
    if (state != Z_STREAM_END || stream.avail_in != 0)
        rc = err_set(err, ERR_INVALID_ARGUMENT, "the body is not one whole gzip member");
out:
    (void)inflateEnd(&stream);
    return rc;
}

enum err_code body_read(struct body_reader *reader, const struct body_frame *frame, size_t max,
                        struct err *err)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct buffer *to = frame->is_gzip ? reader->packed : reader->body;
    enum err_code rc;

    buffer_reset(reader->body);
    buffer_reset(reader->packed);
    if (frame->length > max)
        return err_set(err, ERR_PAYLOAD_TOO_LARGE, "at most %zu bytes are accepted here", max);
    if (frame->expects_continue)
        (void)mg_write(reader->conn, go_on, sizeof(go_on) - 1);
    if (frame->is_chunked)
        rc = read_chunked(reader, to, max, err);
    else
        rc = read_known(reader, to, frame->length, err);
    if (rc == ERR_OK && frame->is_gzip && to->len > 0)
        rc = inflate_all(reader->packed, reader->body, max, err);
    return rc;
}

void body_discard(struct body_reader *reader, const struct body_frame *frame)
{
    uint64_t until_ns = env_boot_ns(reader->env) + DISCARD_NS_MAX;
    char piece[PIECE_BYTES];
    uint64_t left = DISCARD_BYTES_MAX;
    int got = 1;

    if (reader->is_read || (!frame->is_chunked && frame->length == 0))
        return;
    while (got > 0 && left > PIECE_BYTES && env_boot_ns(reader->env) < until_ns) {
        got = mg_read(reader->conn, piece, sizeof(piece));
        left -= PIECE_BYTES;
    }
}
