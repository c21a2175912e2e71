/* GET /v1/collections and /v1/collections/{c}: definitions out of the metadata store, and the size
 * out of the shards. */
#include <assert.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/text.h"
#include "services/router/router.h"

#define PAGE_DEFAULT 100

/* --- the list ----------------------------------------------------------------------------------
 */

/* limit and page_token of the query. */
static enum err_code read_page(struct request *req, uint64_t *limit, const char **after)
{
    static const char *const names[] = {"limit", "page_token", NULL};
    bool has_limit = false, has_token = false;
    struct page_token token;
    const char *text;
    enum err_code rc = request_query_only(req, names);

    if (rc != ERR_OK)
        return rc;
    text = request_query(req, "limit", &has_limit);
    if (has_limit && (text == NULL || !text_to_u64(text, strlen(text), limit) || *limit < 1 ||
                      *limit > COLLECTIONS_PER_PAGE_MAX))
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/limit", "must be from 1 to %d",
                          COLLECTIONS_PER_PAGE_MAX);
    text = request_query(req, "page_token", &has_token);
    if (!has_token)
        return ERR_OK;
    if (text == NULL)
        text = "?";
    rc = page_token_decode(&token, (struct json_text){.data = text, .len = strlen(text)},
                           &req->arena, &req->err);
    if (rc == ERR_OK)
        rc = page_token_check(&token, &(struct page_token){0}, &req->err);
    if (rc == ERR_OK)
        *after = token.last;
    return rc;
}

enum err_code router_list_collections(struct request *req)
{
    struct router *router = req->state;
    uint64_t limit = PAGE_DEFAULT;
    const char *after = "";
    struct collection *page;
    struct buffer token = {0};
    struct json_writer w;
    size_t count = 0;
    bool more = false;
    enum err_code rc = read_page(req, &limit, &after);

    if (rc != ERR_OK)
        return rc;
    page = arena_alloc(&req->arena, (size_t)limit, sizeof(*page));
    if (page == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for a page");
    rc = cluster_collections(router->cluster, TENANT_DEFAULT, after, page, (size_t)limit, &count,
                             &more, &req->err);
    if (rc != ERR_OK)
        return rc;
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "collections");
    json_begin_array(&w);
    for (size_t i = 0; i < count; i++) {
        json_begin_object(&w);
        collection_write(&page[i], &w);
        json_end_object(&w);
    }
    json_end_array(&w);
    if (more && count > 0) {
        page_token_encode(&(struct page_token){.last = page[count - 1].name,
                                               .last_len = strlen(page[count - 1].name)},
                          &token);
        json_key(&w, "next_page_token");
        json_put_string(&w, (const char *)token.data, token.len);
    }
    json_end_object(&w);
    if (token.failed)
        req->reply.body.failed = true;
    buffer_free(&token);
    return ERR_OK;
}

/* --- one ---------------------------------------------------------------------------------------
 */

/* The number of records, of an eventual read.  Not known (the shards do not answer) is no error:
 * the definition is.  Errors: ERR_COLLECTION_NOT_FOUND, ERR_NO_MEMORY. */
static enum err_code count_records(struct request *req, struct collection *collection,
                                   uint64_t *count, bool *known)
{
    struct wire_question question = {.op = WIRE_COUNT, .max_staleness_ns = NEVER_NS};
    struct cluster_answer answer = {0};
    struct consistency consistency;
    struct cluster_ask ask;
    enum err_code rc;

    consistency_init(&consistency);
    consistency_apply(&consistency, req, &question, &ask);
    rc = router_ask(req, collection, &ask, &answer);
    *known = rc == ERR_OK;
    *count = 0;
    for (size_t i = 0; i < answer.count; i++)
        *count += answer.parts[i].answer.count;
    cluster_answer_free(&answer);
    if (rc == ERR_SHARDS_UNAVAILABLE || rc == ERR_TIMEOUT) {
        err_clear(&req->err);
        rc = ERR_OK;
    }
    return rc;
}

enum err_code router_get_collection(struct request *req)
{
    static const char *const none[] = {NULL};
    struct collection collection;
    char etag[ETAG_BYTES];
    struct json_writer w;
    uint64_t count = 0;
    bool known = false;
    enum err_code rc;

    /* A definition is always the newest one. */
    if ((rc = request_query_only(req, none)) != ERR_OK ||
        (rc = router_collection(req, true, &collection)) != ERR_OK)
        return rc;
    etag_of(etag, collection.schema);
    if (etag_listed(req->header(req, "If-None-Match"), etag)) {
        reply_header(&req->reply, "ETag", "%s", etag);
        req->reply.status = 304;
        return ERR_OK;
    }
    if ((rc = count_records(req, &collection, &count, &known)) != ERR_OK)
        return rc;
    etag_of(etag, collection.schema);
    reply_header(&req->reply, "ETag", "%s", etag);
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    collection_write(&collection, &w);
    json_key(&w, "status");
    json_text(&w, known ? "ready" : "unavailable");
    if (known) {
        json_key(&w, "vector_count");
        json_u64(&w, count);
    }
    json_end_object(&w);
    return ERR_OK;
}
