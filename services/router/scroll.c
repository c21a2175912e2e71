/* POST …/records/scroll: everything that matches, in id order, page by page.
 *
 * Each shard gives the first `limit` rows behind the last id; the lowest of them all are the page.
 * The page token names the collection's incarnation and the filter, so that a page is never
 * continued in another collection or under another filter. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "services/router/router.h"

struct scroll_request {
    struct filter_text filter;
    uint64_t limit;
    uint32_t include;
    struct json_text page_token; /* data NULL: the first page */
    struct consistency consistency;
};

static enum err_code scroll_member(void *context, struct json_reader *reader, struct json_text key,
                                   bool *known)
{
    struct scroll_request *scroll = context;

    *known = true;
    if (json_text_is(key, "filter"))
        return filter_read(reader, &scroll->filter);
    if (json_text_is(key, "include"))
        return include_read(reader, &scroll->include);
    if (json_text_is(key, "limit"))
        return member_failed(reader->err,
                             json_read_u64(reader, 1, SCROLL_LIMIT_MAX, &scroll->limit), "limit");
    if (json_text_is(key, "page_token"))
        return member_failed(reader->err, json_read_string(reader, &scroll->page_token),
                             "page_token");
    return consistency_read(&scroll->consistency, reader, key, known);
}

/* Is the row behind the last one of a part? */
static bool is_behind(const struct wire_row *row, const struct wire_row *last)
{
    int order = memcmp(row->id, last->id, MIN_OF(row->id_len, last->id_len));

    return order != 0 ? order > 0 : row->id_len > last->id_len;
}

/* A shard ends its part early when it becomes too large, and then says nothing of the ids behind:
 * a page that went beyond them would skip them for good. */
static void cut_page(const struct cluster_answer *answer, struct hit_list *page)
{
    for (size_t i = 0; i < answer->count; i++) {
        const struct wire_answer *part = &answer->parts[i].answer;

        while (part->more && part->row_count > 0 && page->count > 0 &&
               is_behind(&page->rows[page->count - 1], &part->rows[part->row_count - 1]))
            page->count--;
    }
}

/* The page's rows, lowest ids first, into the arena. */
static enum err_code merge_page(struct request *req, const struct cluster_answer *answer,
                                size_t limit, struct hit_list *page, bool *more)
{
    struct hit_list *lists;
    size_t rows = 0;
    enum err_code rc = rows_lists(answer, &req->arena, &lists, &rows, &req->err);

    if (rc != ERR_OK)
        return rc;
    page->rows = arena_alloc(&req->arena, MIN_OF(rows, limit) + 1, sizeof(page->rows[0]));
    if (page->rows == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for the page");
    page->count = hits_merge_by_id(lists, answer->count, MIN_OF(rows, limit), page->rows);
    cut_page(answer, page);
    *more = rows > page->count;
    for (size_t i = 0; i < answer->count; i++)
        *more = *more || answer->parts[i].answer.more;
    return ERR_OK;
}

static enum err_code write_page(struct request *req, const struct hit_list *page,
                                const struct page_token *next, const struct read_info *info)
{
    struct buffer token = {0};
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "records");
    json_begin_array(&w);
    for (size_t i = 0; i < page->count; i++) {
        json_begin_object(&w);
        row_write(&page->rows[i], &w);
        json_end_object(&w);
    }
    json_end_array(&w);
    if (next != NULL) {
        page_token_encode(next, &token);
        json_key(&w, "next_page_token");
        json_put_string(&w, (const char *)token.data, token.len);
    }
    json_key(&w, "read");
    read_info_write(info, req, &w);
    json_end_object(&w);
    if (token.failed)
        req->reply.body.failed = true;
    buffer_free(&token);
    return ERR_OK;
}

/* Ask for the page behind `after` and write it. */
static enum err_code run_scroll(struct request *req, const struct scroll_request *scroll,
                                struct collection *collection, struct wire_id after)
{
    struct wire_question question = {
        .op = WIRE_SCROLL,
        .filter = scroll->filter.data,
        .filter_len = scroll->filter.len,
        .include = scroll->include,
        .after = after,
        .limit = (uint32_t)scroll->limit,
    };
    struct page_token next = {.filter_hash = page_filter_hash(scroll->filter)};
    struct cluster_answer answer = {0};
    struct cluster_ask ask;
    struct read_info info;
    struct hit_list page = {0};
    bool more = false;
    enum err_code rc;

    consistency_apply(&scroll->consistency, req, &question, &ask);
    if ((rc = router_ask(req, collection, &ask, &answer)) != ERR_OK ||
        (rc = merge_page(req, &answer, (size_t)scroll->limit, &page, &more)) != ERR_OK)
        goto out;
    memcpy(next.incarnation, collection->incarnation, INCARNATION_BYTES);
    if (page.count > 0) {
        next.last = page.rows[page.count - 1].id;
        next.last_len = page.rows[page.count - 1].id_len;
    }
    read_info_from(&info, &scroll->consistency, &answer);
    rc = write_page(req, &page, more && page.count > 0 ? &next : NULL, &info);
out:
    cluster_answer_free(&answer);
    return rc;
}

/* The token's page in this collection; expired when it was made anew. */
static enum err_code follow_token(struct request *req, const struct scroll_request *scroll,
                                  const struct collection *collection, struct wire_id *after)
{
    struct page_token now = {.filter_hash = page_filter_hash(scroll->filter)};
    struct page_token token;
    enum err_code rc;

    if (scroll->page_token.data == NULL)
        return ERR_OK;
    memcpy(now.incarnation, collection->incarnation, INCARNATION_BYTES);
    if ((rc = page_token_decode(&token, scroll->page_token, &req->arena, &req->err)) != ERR_OK ||
        (rc = page_token_check(&token, &now, &req->err)) != ERR_OK)
        return rc;
    *after = (struct wire_id){.data = token.last, .len = token.last_len};
    return ERR_OK;
}

enum err_code router_scroll(struct request *req)
{
    struct scroll_request scroll = {
        .limit = SCROLL_LIMIT_DEFAULT,
        .include = INCLUDE_TEXT | INCLUDE_METADATA,
    };
    uint8_t incarnation[INCARNATION_BYTES];
    struct collection collection;
    struct json_reader reader;
    struct wire_id after = {0};
    enum err_code rc;

    consistency_init(&scroll.consistency);
    json_reader_init(&reader, req->body, req->body_len, &req->arena, &req->err);
    if ((rc = request_expect_media(req, MEDIA_JSON)) != ERR_OK ||
        (rc = body_decode(&reader, scroll_member, &scroll)) != ERR_OK ||
        (rc = router_read_collection(req, &scroll.consistency, &collection)) != ERR_OK ||
        (rc = follow_token(req, &scroll, &collection, &after)) != ERR_OK)
        goto out;
    memcpy(incarnation, collection.incarnation, sizeof(incarnation));
    rc = run_scroll(req, &scroll, &collection, after);
    if (rc == ERR_OK && after.len > 0 &&
        memcmp(incarnation, collection.incarnation, sizeof(incarnation)) != 0)
        rc = err_set_at(&req->err, ERR_PAGE_TOKEN_EXPIRED, "/page_token",
                        "is of a collection that is no more");
out:
    consistency_free(&scroll.consistency);
    return rc;
}
