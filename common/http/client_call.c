/* What a call's answer means, and the front of the client: whatever kind of network stands behind
 * it, the contract is checked here. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/http/client.h"
#include "common/http/json_doc.h"
#include "common/http/route.h"

void http_call_free(struct http_call *call)
{
    buffer_free(&call->reply);
}

void http_client_close(struct http_client *client)
{
    if (client != NULL)
        client->ops->close(client);
}

void http_gather(struct http_client *client, struct http_call *calls, size_t count,
                 uint64_t deadline_ns, const struct http_watcher *watcher)
{
    static const struct http_watcher nobody = {0};

    assert(client != NULL);
    assert(calls != NULL || count == 0);
    if (count > 0)
        client->ops->gather(client, calls, count, deadline_ns, watcher == NULL ? &nobody : watcher);
}

enum err_code http_call_one(struct http_client *client, struct http_call *call,
                            uint64_t deadline_ns)
{
    http_gather(client, call, 1, deadline_ns, NULL);
    assert(call->rc == ERR_OK || call->err.code == call->rc);
    return call->rc;
}

/* The code for a status that came without a word of ours. */
static enum err_code code_of_status(int status)
{
    switch (status) {
    case 400:
        return ERR_INVALID_ARGUMENT;
    case 401:
        return ERR_UNAUTHORIZED;
    case 403:
        return ERR_FORBIDDEN;
    case 404:
        return ERR_NOT_FOUND;
    case 405:
        return ERR_METHOD_NOT_ALLOWED;
    case 408:
        return ERR_REQUEST_TIMEOUT;
    case 412:
        return ERR_PRECONDITION_FAILED;
    case 413:
        return ERR_PAYLOAD_TOO_LARGE;
    case 415:
        return ERR_UNSUPPORTED_MEDIA_TYPE;
    case 429:
        return ERR_RATE_LIMITED;
    case 502:
    case 503:
        return ERR_UNAVAILABLE;
    case 504:
        return ERR_TIMEOUT;
    case 507:
        return ERR_INSUFFICIENT_STORAGE;
    default:
        return ERR_INTERNAL;
    }
}

/* Several codes share a word; of those the one that says least is meant. */
static enum err_code code_of_word(const char *word)
{
    if (strcmp(word, err_word(ERR_UNAVAILABLE)) == 0)
        return ERR_UNAVAILABLE;
    if (strcmp(word, err_word(ERR_STALENESS_UNMET)) == 0)
        return ERR_STALENESS_UNMET;
    return err_from_word(word, strlen(word));
}

static enum err_code from_problem(json_t *doc, int status, struct err *err)
{
    json_t *error = json_array_get(json_object_get(doc, "errors"), 0);
    const char *word = json_string_value(json_object_get(doc, "code"));
    const char *detail = json_string_value(json_object_get(doc, "detail"));
    const char *pointer = json_string_value(json_object_get(error, "pointer"));
    enum err_code code = word == NULL ? code_of_status(status) : code_of_word(word);

    if (code == ERR_OK)
        code = code_of_status(status);
    return err_set_at(err, code, pointer == NULL ? "" : pointer, "%s",
                      detail == NULL ? err_title(code) : detail);
}

enum err_code http_call_expect(const struct http_call *call, struct err *err)
{
    json_t *doc = NULL;
    enum err_code rc;

    if (call->rc != ERR_OK) {
        if (err != NULL)
            *err = call->err;
        return call->rc;
    }
    if (call->status >= 200 && call->status < 300)
        return ERR_OK;
    if (strcmp(call->reply_type, MEDIA_PROBLEM) == 0 &&
        json_doc_parse(&doc, call->reply.data, call->reply.len, NULL) == ERR_OK) {
        rc = from_problem(doc, call->status, err);
        json_decref(doc);
        return rc;
    }
    return err_set(err, code_of_status(call->status), "%s answered status %d", call->base,
                   call->status);
}
