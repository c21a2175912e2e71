/* One keep-alive connection: see raw_http.h. */
#include "cli/raw_http.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/base/limits.h"
#include "common/base/text.h"

#define TIMEOUT_S  30
#define READ_BYTES KIB(16)
#define REPLY_MAX  MIB(64)
#define HEAD_MAX   KIB(64)

enum err_code raw_http_open(struct raw_http *raw, const char *base, struct err *err)
{
    static const char scheme[] = "http://";
    const char *host = base + sizeof(scheme) - 1, *colon;
    size_t host_len;
    uint64_t port = 80;

    *raw = (struct raw_http){.fd = -1};
    if (strncmp(base, scheme, sizeof(scheme) - 1) != 0 || strchr(host, '/') != NULL)
        return err_set(err, ERR_CONFIG, "--url has to be http://HOST:PORT here");
    colon = strrchr(host, ':');
    host_len = colon == NULL ? strlen(host) : (size_t)(colon - host);
    if (host_len == 0 || host_len >= sizeof(raw->host) ||
        (colon != NULL && (!text_to_u64(colon + 1, strlen(colon + 1), &port) || port > UINT16_MAX)))
        return err_set(err, ERR_CONFIG, "--url has to be http://HOST:PORT here");
    memcpy(raw->host, host, host_len);
    (void)snprintf(raw->port, sizeof(raw->port), "%u", (unsigned)port);
    return ERR_OK;
}

void raw_http_close(struct raw_http *raw)
{
    if (raw->fd >= 0)
        (void)close(raw->fd);
    raw->fd = -1;
    buffer_free(&raw->in);
}

static enum err_code connect_it(struct raw_http *raw, struct err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    const struct timeval timeout = {.tv_sec = TIMEOUT_S};
    struct addrinfo *found = NULL;
    const int on = 1;
    int rc = getaddrinfo(raw->host, raw->port, &hints, &found);

    if (rc != 0)
        return err_set(err, ERR_UNAVAILABLE, "%s: %s", raw->host, gai_strerror(rc));
    for (struct addrinfo *at = found; at != NULL && raw->fd < 0; at = at->ai_next) {
        raw->fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
        if (raw->fd >= 0 && connect(raw->fd, at->ai_addr, at->ai_addrlen) != 0) {
            (void)close(raw->fd);
            raw->fd = -1;
        }
    }
    freeaddrinfo(found);
    if (raw->fd < 0)
        return err_set(err, ERR_UNAVAILABLE, "cannot connect to %s:%s: %s", raw->host, raw->port,
                       strerror(errno));
    (void)setsockopt(raw->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(raw->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    (void)setsockopt(raw->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    return ERR_OK;
}

static enum err_code send_all(struct raw_http *raw, const char *data, size_t len, struct err *err)
{
    while (len > 0) {
        ssize_t sent = send(raw->fd, data, len, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return err_set_errno(err, errno, "sending");
        data += sent;
        len -= (size_t)sent;
    }
    return ERR_OK;
}

static enum err_code receive(struct raw_http *raw, struct err *err)
{
    ssize_t got;

    if (raw->in.len > REPLY_MAX || !buffer_reserve(&raw->in, READ_BYTES))
        return err_set(err, ERR_NO_MEMORY, "the reply is too long");
    do {
        got = recv(raw->fd, raw->in.data + raw->in.len, raw->in.size - raw->in.len, 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return err_set(err, ERR_TIMEOUT, "no reply within %d s", TIMEOUT_S);
    if (got < 0)
        return err_set_errno(err, errno, "receiving");
    if (got == 0)
        return err_set(err, ERR_IO, "the connection was closed");
    raw->in.len += (size_t)got;
    return ERR_OK;
}

/* Status and length out of a complete head.  False: it is not one of ours. */
static bool read_head(const char *head, size_t len, int *status, uint64_t *body_len)
{
    static const char name[] = "\r\ncontent-length:";
    size_t name_len = sizeof(name) - 1;
    uint64_t number;

    if (len < 13 || memcmp(head, "HTTP/1.1 ", 9) != 0 || !text_to_u64(head + 9, 3, &number))
        return false;
    *status = (int)number;
    *body_len = 0;
    for (size_t at = 0; at + name_len < len; at++) {
        if (head[at] != '\r' || strncasecmp(head + at, name, name_len) != 0)
            continue;
        at += name_len;
        while (at < len && head[at] == ' ')
            at++;
        return text_to_u64(head + at, strspn(head + at, "0123456789"), body_len) &&
               *body_len <= REPLY_MAX;
    }
    return *status == 204 || *status == 304;
}

static enum err_code read_reply(struct raw_http *raw, struct raw_reply *reply, struct err *err)
{
    const char *end = NULL;
    uint64_t body_len = 0;
    size_t head_len = 0;
    enum err_code rc;

    raw->in.len = 0;
    while (end == NULL) {
        if ((rc = receive(raw, err)) != ERR_OK)
            return rc;
        end = memmem(raw->in.data, raw->in.len, "\r\n\r\n", 4);
        if (end == NULL && raw->in.len > HEAD_MAX)
            return err_set(err, ERR_IO, "the reply's head does not end");
    }
    head_len = (size_t)(end - (const char *)raw->in.data) + 4;
    if (!read_head((const char *)raw->in.data, head_len, &reply->status, &body_len))
        return err_set(err, ERR_IO, "the reply is not understood");
    while (raw->in.len - head_len < body_len)
        if ((rc = receive(raw, err)) != ERR_OK)
            return rc;
    reply->body = (const char *)raw->in.data + head_len;
    reply->body_len = (size_t)body_len;
    return ERR_OK;
}

enum err_code raw_http_ask(struct raw_http *raw, const void *request, size_t len,
                           struct raw_reply *reply, struct err *err)
{
    enum err_code rc = ERR_OK;

    *reply = (struct raw_reply){0};
    if (raw->fd < 0)
        rc = connect_it(raw, err);
    if (rc == ERR_OK)
        rc = send_all(raw, request, len, err);
    if (rc == ERR_OK)
        rc = read_reply(raw, reply, err);
    if (rc != ERR_OK && raw->fd >= 0) {
        (void)close(raw->fd);
        raw->fd = -1;
    }
    return rc;
}
