/* Paths, queries and headers of a request: whatever comes, the answer is complete, and a problem is
 * valid JSON.  Input: method, path, query, request id, traceparent and content type, separated by
 * newlines. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/text.h"
#include "common/http/json_doc.h"
#include "common/http/route.h"

enum { METHOD, PATH, QUERY, REQUEST_ID, TRACEPARENT, CONTENT_TYPE, PARTS };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static enum err_code handle(struct request *req)
{
    static const char *const names[] = {"a", "limit", NULL};
    const char *value = request_query(req, "a", NULL);
    enum err_code rc;

    for (size_t i = 0; i < ROUTE_PARAMS_MAX && req->params[i] != NULL; i++) {
        assert(strlen(req->params[i]) == req->param_lens[i]);
        assert(text_is_utf8(req->params[i], req->param_lens[i]));
    }
    assert(value == NULL || text_is_utf8(value, strlen(value)));
    if ((rc = request_query_only(req, names)) != ERR_OK)
        return rc;
    if ((rc = request_expect_media(req, MEDIA_JSON)) != ERR_OK)
        return rc;
    return err_set_at(&req->err, ERR_INVALID_ARGUMENT, req->query, "%s", req->path);
}

static const struct route routes[] = {
    {"GET", "/v1/*", handle, 0, "one"},
    {"GET", "/v1/*/x/*", handle, 0, "two"},
    {"POST", "/v1/*/x/y", handle, 10, "three"},
    {0},
};

static const char *header_of(const struct request *req, const char *name)
{
    char *const *parts = req->transport;

    if (strcmp(name, "X-Request-Id") == 0)
        return parts[REQUEST_ID];
    if (strcmp(name, "traceparent") == 0)
        return parts[TRACEPARENT];
    return strcmp(name, "Content-Type") == 0 ? parts[CONTENT_TYPE] : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char *text = calloc(1, len + 1);
    char *parts[PARTS];
    struct request req = {.env = env_real(), .header = header_of, .transport = parts};
    char *at = text;
    json_t *doc;

    if (text == NULL)
        return 0;
    log_start("fuzz", LOG_OFF);
    memcpy(text, data, len);
    for (size_t i = 0; i < PARTS; i++) {
        parts[i] = at;
        at += strcspn(at, "\n");
        if (*at == '\n')
            *at++ = '\0';
    }
    req.method = parts[METHOD];
    req.path = parts[PATH];
    req.query = parts[QUERY];
    route_dispatch(routes, &req);
    assert(req.reply.status >= 200 && req.reply.status < 600);
    if (req.reply.body.len > 0) {
        assert(json_doc_parse(&doc, req.reply.body.data, req.reply.body.len, NULL) == ERR_OK);
        json_decref(doc);
    }
    request_free(&req);
    free(text);
    return 0;
}
