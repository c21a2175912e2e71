/* Routes: find the row of a request, run its handler, make every failure one problem and at most
 * one log line.
 *
 * Happy path: route_find compares the path segment by segment with each row and decodes the
 * wildcard segments; route_run gives the request an id, checks the body's size, calls the handler
 * and completes the reply.  Unknown paths are 404, known paths with another method 405 with Allow
 * (OPTIONS: 204 with Allow), undecodable parameters 400. */
#include "common/http/route.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/text.h"

struct slice {
    const char *data;
    size_t len;
};

/* Match one path with one pattern, both beginning with '/'; the wildcards' raw segments go to
 * params. */
static bool path_matches(const char *pattern, const char *path, struct slice *params)
{
    size_t count = 0;

    while (*pattern == '/' && *path == '/') {
        size_t want = strcspn(++pattern, "/");
        size_t have = strcspn(++path, "/");

        if (want == 1 && *pattern == '*') {
            assert(count < ROUTE_PARAMS_MAX);
            if (have == 0)
                return false;
            params[count++] = (struct slice){.data = path, .len = have};
        } else if (want != have || memcmp(pattern, path, want) != 0) {
            return false;
        }
        pattern += want;
        path += have;
    }
    return *pattern == '\0' && *path == '\0';
}

static void allow_add(struct route_match *match, const char *method)
{
    size_t len = strlen(method);
    size_t used = strlen(match->allow);

    for (const char *at = match->allow; *at != '\0'; at += strspn(at, ", ")) {
        size_t one = strcspn(at, ", ");

        if (one == len && memcmp(at, method, len) == 0)
            return;
        at += one;
    }
    if (used + len + 3 > sizeof(match->allow))
        return;
    (void)snprintf(match->allow + used, sizeof(match->allow) - used, "%s%s", used == 0 ? "" : ", ",
                   method);
}

static void decode_param(struct request *req, size_t index, struct slice raw)
{
    char *text = arena_copy_text(&req->arena, raw.data, raw.len);
    size_t len;

    if (text == NULL) {
        (void)err_set(&req->err, ERR_NO_MEMORY, "no memory for the path");
        return;
    }
    len = text_percent_decode(text, raw.len);
    if (len == SIZE_MAX || memchr(text, '\0', len) != NULL || !text_is_utf8(text, len)) {
        (void)err_set(&req->err, ERR_INVALID_ARGUMENT,
                      "a segment of the path is not percent-encoded UTF-8 without NUL");
        return;
    }
    text[len] = '\0';
    req->params[index] = text;
    req->param_lens[index] = len;
}

struct route_match route_find(const struct route *routes, struct request *req)
{
    const char *method = strcmp(req->method, "HEAD") == 0 ? "GET" : req->method;
    struct route_match match = {0};

    for (const struct route *route = routes; route->method != NULL; route++) {
        struct slice params[ROUTE_PARAMS_MAX] = {0};

        if (!path_matches(route->path, req->path, params))
            continue;
        if (strcmp(route->method, method) == 0) {
            match.route = route;
            match.allow[0] = '\0';
            for (size_t i = 0; i < ROUTE_PARAMS_MAX && params[i].data != NULL; i++)
                decode_param(req, i, params[i]);
            return match;
        }
        allow_add(&match, route->method);
        if (strcmp(route->method, "GET") == 0)
            allow_add(&match, "HEAD");
    }
    if (match.allow[0] != '\0')
        allow_add(&match, "OPTIONS");
    return match;
}

static const char *header_of(const struct request *req, const char *name)
{
    return req->header == NULL ? NULL : req->header(req, name);
}

/* 1..64 printable ASCII without quotes or backslash: safe in logs, headers and JSON. */
static bool is_request_id(const char *id)
{
    size_t len = 0;

    for (; id[len] != '\0'; len++)
        if (len >= REQUEST_ID_BYTES - 1 || id[len] < '!' || id[len] > '~' || id[len] == '"' ||
            id[len] == '\'' || id[len] == '\\')
            return false;
    return len > 0;
}

/* W3C trace context: "00-" 32 hex "-" 16 hex "-" 2 hex, lower case. */
static bool is_traceparent(const char *text)
{
    if (strnlen(text, TRACEPARENT_BYTES) != TRACEPARENT_BYTES - 1)
        return false;
    for (size_t i = 0; i < TRACEPARENT_BYTES - 1; i++) {
        bool dash = i == 2 || i == 35 || i == 52;
        bool hex = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');

        if (dash ? text[i] != '-' : !hex)
            return false;
    }
    return memcmp(text, "ff", 2) != 0;
}

static void identify(struct request *req)
{
    const char *id = header_of(req, "X-Request-Id");
    const char *trace = header_of(req, "traceparent");

    if (req->request_id[0] == '\0') {
        if (id != NULL && is_request_id(id))
            (void)snprintf(req->request_id, sizeof(req->request_id), "%s", id);
        else
            text_uuid7(req->request_id, req->env);
    }
    if (req->traceparent[0] == '\0' && trace != NULL && is_traceparent(trace))
        memcpy(req->traceparent, trace, TRACEPARENT_BYTES);
}

static enum err_code call_handler(const struct route_match *match, struct request *req)
{
    const struct route *route = match->route;
    struct err *err = &req->err;

    if (err->code != ERR_OK)
        return err->code;
    if (route == NULL && match->allow[0] == '\0')
        return err_set(err, ERR_NOT_FOUND, "there is nothing at this path");
    if (route == NULL) {
        reply_header(&req->reply, "Allow", "%s", match->allow);
        if (strcmp(req->method, "OPTIONS") != 0)
            return err_set(err, ERR_METHOD_NOT_ALLOWED, "allowed here: %s", match->allow);
        req->reply.status = 204;
        return ERR_OK;
    }
    if (route->body_max == 0) {
        req->body = NULL;
        req->body_len = 0;
    }
    if (req->body_len > route->body_max)
        return err_set(err, ERR_PAYLOAD_TOO_LARGE, "at most %zu bytes are accepted here",
                       route->body_max);
    return route->handler(req);
}

static void log_failure(const struct request *req)
{
    enum err_code code = req->err.code;
    int status = err_status(code);
    enum log_level level = status < 500 ? LOG_DEBUG : status == 500 ? LOG_ERROR : LOG_WARN;
    char trace_id[33] = "";
    struct log_context context = {
        .request_id = req->request_id,
        .collection = req->collection,
        .operation = req->route == NULL ? NULL : req->route->operation,
        .error_code = err_word(code),
    };

    if (level < log_threshold())
        return;
    if (req->traceparent[0] != '\0') {
        memcpy(trace_id, req->traceparent + 3, 32);
        context.trace_id = trace_id;
    }
    LOG_AT(level, &context, "request failed", LOG_TEXT("error", req->err.message),
           LOG_U64("status", (uint64_t)status),
           LOG_F64("latency_ms", (double)(env_boot_ns(req->env) - req->received_ns) / 1e6));
}

void route_run(const struct route_match *match, struct request *req)
{
    enum err_code rc;

    identify(req);
    req->route = match->route;
    rc = call_handler(match, req);
    if (rc == ERR_OK)
        rc = buffer_check(&req->reply.body, &req->err);
    if (rc != ERR_OK) {
        /* A handler that returns a code without an error to it still gets an answer. */
        if (req->err.code != rc)
            (void)err_set(&req->err, rc, "%s", err_title(rc));
        reply_problem(req);
        log_failure(req);
    }
    if (req->reply.status == 0)
        req->reply.status = 200;
    if (req->reply.content_type == NULL && req->reply.body.len > 0)
        req->reply.content_type = MEDIA_JSON;
    reply_header(&req->reply, "X-Request-Id", "%s", req->request_id);
}

void route_dispatch(const struct route *routes, struct request *req)
{
    struct route_match match = route_find(routes, req);

    route_run(&match, req);
}

void request_free(struct request *req)
{
    arena_free(&req->arena);
    buffer_free(&req->reply.body);
}

void reply_header(struct reply *reply, const char *name, const char *format, ...)
{
    struct reply_header *header = NULL;
    va_list args;

    for (size_t i = 0; i < reply->header_count && header == NULL; i++)
        if (strcasecmp(reply->headers[i].name, name) == 0)
            header = &reply->headers[i];
    if (header == NULL) {
        assert(reply->header_count < REPLY_HEADERS_MAX);
        header = &reply->headers[reply->header_count++];
    }
    header->name = name;
    va_start(args, format);
    (void)vsnprintf(header->value, sizeof(header->value), format, args);
    va_end(args);
    for (char *at = header->value; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
}

/* The next "name=value" of a query; false at its end. */
static bool query_next(const char **at, struct slice *name, struct slice *value)
{
    const char *equals;
    size_t len;

    *at += strspn(*at, "&");
    len = strcspn(*at, "&");
    if (len == 0)
        return false;
    equals = memchr(*at, '=', len);
    *name = (struct slice){.data = *at, .len = equals == NULL ? len : (size_t)(equals - *at)};
    *value = (struct slice){.data = equals == NULL ? *at + len : equals + 1};
    value->len = (size_t)(*at + len - value->data);
    *at += len;
    return true;
}

static bool slice_is(struct slice slice, const char *text)
{
    return strlen(text) == slice.len && memcmp(slice.data, text, slice.len) == 0;
}

const char *request_query(struct request *req, const char *name, bool *present)
{
    const char *at = req->query == NULL ? "" : req->query;
    struct slice key, value;
    bool found = false;
    size_t len;
    char *text;

    while (!found && query_next(&at, &key, &value))
        found = slice_is(key, name);
    if (present != NULL)
        *present = found;
    if (!found || (text = arena_copy_text(&req->arena, value.data, value.len)) == NULL)
        return NULL;
    for (char *plus = text; *plus != '\0'; plus++)
        if (*plus == '+')
            *plus = ' ';
    len = text_percent_decode(text, value.len);
    if (len == SIZE_MAX || memchr(text, '\0', len) != NULL || !text_is_utf8(text, len))
        return NULL;
    text[len] = '\0';
    return text;
}

enum err_code request_query_only(struct request *req, const char *const *names)
{
    const char *at = req->query == NULL ? "" : req->query;
    struct slice key, value;

    while (query_next(&at, &key, &value)) {
        bool known = false;

        for (size_t i = 0; !known && names[i] != NULL; i++)
            known = slice_is(key, names[i]);
        if (!known)
            return err_set(&req->err, ERR_UNKNOWN_FIELD, "unknown query parameter '%.*s'",
                           (int)(key.len > 64 ? 64 : key.len), key.data);
    }
    return ERR_OK;
}

#define MEDIA_FORM "application/x-www-form-urlencoded"

enum err_code request_expect_media(struct request *req, const char *media)
{
    const char *type = header_of(req, "Content-Type");
    size_t len;

    if (type == NULL || *type == '\0')
        type = MEDIA_JSON;
    len = strcspn(type, "; \t");
    /* What curl -d sends when nothing is said: the body is JSON all the same. */
    if (len == strlen(MEDIA_FORM) && strncasecmp(type, MEDIA_FORM, len) == 0) {
        type = MEDIA_JSON;
        len = strlen(MEDIA_JSON);
    }
    if (len == strlen(media) && strncasecmp(type, media, len) == 0)
        return ERR_OK;
    return err_set(&req->err, ERR_UNSUPPORTED_MEDIA_TYPE, "the body has to be %s", media);
}

enum err_code request_idempotency_key(struct request *req, const char **key)
{
    const char *value = header_of(req, "Idempotency-Key");
    size_t len = value == NULL ? 0 : strlen(value);

    *key = value;
    for (size_t i = 0; i < len; i++)
        if (value[i] <= ' ' || value[i] >= 0x7f)
            return err_set(&req->err, ERR_INVALID_ARGUMENT,
                           "Idempotency-Key has to be of visible ASCII characters");
    if (value != NULL && (len == 0 || len > IDEMPOTENCY_KEY_MAX))
        return err_set(&req->err, ERR_INVALID_ARGUMENT,
                       "Idempotency-Key has 1 to %d characters, got %zu", IDEMPOTENCY_KEY_MAX, len);
    return ERR_OK;
}
