/* See selection.h. */
#include "services/ingest/selection.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/model/hits.h"
#include "services/ingest/upsert_parse.h"

static int id_compare(const void *left, const void *right)
{
    const struct wire_id *a = left, *b = right;
    int order = memcmp(a->data, b->data, MIN_OF(a->len, b->len));

    if (order != 0)
        return order;
    return a->len < b->len ? -1 : a->len > b->len;
}

static void sort_ids(struct selection *selection)
{
    size_t kept = 0;

    qsort(selection->ids, selection->id_count, sizeof(*selection->ids), id_compare);
    for (size_t i = 0; i < selection->id_count; i++)
        if (kept == 0 || id_compare(&selection->ids[kept - 1], &selection->ids[i]) != 0)
            selection->ids[kept++] = selection->ids[i];
    selection->id_count = kept;
}

static enum err_code read_ids(struct selection *selection, json_t *ids)
{
    struct request *req = selection->write->req;
    size_t count = json_array_size(ids);
    char pointer[48];

    if (!json_is_array(ids) || count == 0 || count > IDS_PER_REQUEST_MAX)
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/ids", "ids has to be 1 to %d ids",
                          IDS_PER_REQUEST_MAX);
    selection->ids = arena_alloc(&req->arena, count, sizeof(*selection->ids));
    if (selection->ids == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for ids");
    for (size_t i = 0; i < count; i++) {
        json_t *id = json_array_get(ids, i);
        enum err_code rc =
            json_is_string(id)
                ? upsert_check_id(json_string_value(id), json_string_length(id), &req->err)
                : err_set(&req->err, ERR_INVALID_ARGUMENT, "an id is a string");

        if (rc != ERR_OK) {
            (void)snprintf(pointer, sizeof(pointer), "/ids/%zu", i);
            err_prefix_pointer(&req->err, pointer);
            return rc;
        }
        selection->ids[i] =
            (struct wire_id){.data = json_string_value(id), .len = json_string_length(id)};
    }
    selection->id_count = count;
    sort_ids(selection);
    return ERR_OK;
}

static enum err_code read_filter(struct selection *selection, json_t *filter)
{
    struct request *req = selection->write->req;
    enum err_code rc;

    if (!json_is_object(filter))
        return err_set_at(&req->err, ERR_INVALID_FILTER, "/filter", "a filter is an object");
    json_doc_dump(filter, &selection->filter);
    rc = buffer_check(&selection->filter, &req->err);
    if (rc == ERR_OK)
        rc = filter_parse(&selection->parsed, selection->filter.data, selection->filter.len,
                          &req->arena, &req->err);
    if (rc == ERR_INVALID_FILTER)
        err_prefix_pointer(&req->err, "/filter");
    return rc;
}

enum err_code selection_read(struct selection *selection, struct write *write, json_t *body)
{
    json_t *ids = json_object_get(body, "ids"), *filter = json_object_get(body, "filter");

    ids = json_is_null(ids) ? NULL : ids;
    filter = json_is_null(filter) ? NULL : filter;
    selection->write = write;
    if (ids != NULL && filter != NULL)
        return err_set(&write->req->err, ERR_INVALID_ARGUMENT, "give ids or a filter, not both");
    if (ids != NULL)
        return read_ids(selection, ids);
    return filter == NULL ? ERR_OK : read_filter(selection, filter);
}

void selection_free(struct selection *selection)
{
    buffer_free(&selection->filter);
    filter_scratch_free(&selection->scratch);
    arena_free(&selection->page);
}

enum err_code selection_read_options(struct write *write, json_t *body)
{
    struct err *err = &write->req->err;
    uint64_t timeout_ms = WRITE_DEADLINE_MS_DEFAULT;
    const char *wait = NULL;
    enum err_code rc = json_doc_u64(body, "timeout_ms", 1, DEADLINE_MS_MAX, &timeout_ms, err);

    if (rc == ERR_OK)
        rc = json_doc_text(body, "wait", &wait, err);
    if (rc == ERR_OK && wait != NULL)
        rc = write_check_wait(wait, strlen(wait), &write->wait_searchable, err);
    if (rc == ERR_OK)
        rc = json_doc_u64(body, "write_quorum", 1, REGIONS_MAX + 1, &write->quorum, err);
    if (rc == ERR_OK)
        rc = write_check_quorum(write);
    write_set_timeout(write, timeout_ms);
    return rc;
}

/* Copies: the answer that they are in goes. */
static enum err_code keep_page(struct selection *selection, const struct wire_row *rows,
                               size_t count, struct wire_id *ids)
{
    for (size_t i = 0; i < count; i++) {
        ids[i] =
            (struct wire_id){.data = arena_copy_text(&selection->page, rows[i].id, rows[i].id_len),
                             .len = rows[i].id_len};
        if (ids[i].data == NULL)
            return err_set(&selection->write->req->err, ERR_NO_MEMORY, "no memory for a page");
    }
    if (count > 0)
        selection->after = ids[count - 1];
    return ERR_OK;
}

enum err_code selection_next(struct selection *selection, struct wire_id *ids, size_t *count)
{
    struct request *req = selection->write->req;
    struct cluster_answer answer = {0};
    struct wire_row *rows = array_alloc(SELECTION_PAGE, sizeof(*rows));
    struct hit_list *lists = NULL;
    enum err_code rc = rows == NULL
                           ? err_set(&req->err, ERR_NO_MEMORY, "no memory for a page")
                           : decide_scroll(selection->write, (const char *)selection->filter.data,
                                           selection->filter.len, selection->after, &answer);

    *count = 0;
    arena_reset(&selection->page); /* `after` was in it, and is not needed any more */
    if (rc == ERR_OK && (lists = array_alloc(answer.count, sizeof(*lists))) == NULL)
        rc = err_set(&req->err, ERR_NO_MEMORY, "no memory for a page");
    if (rc == ERR_OK) {
        for (size_t i = 0; i < answer.count; i++)
            lists[i] = (struct hit_list){.rows = answer.parts[i].answer.rows,
                                         .count = answer.parts[i].answer.row_count};
        *count = hits_merge_by_id(lists, answer.count, SELECTION_PAGE, rows);
        rc = keep_page(selection, rows, *count, ids);
    }
    cluster_answer_free(&answer);
    free(lists);
    free(rows);
    return rc;
}

enum err_code selection_matches(struct selection *selection, const struct wire_row *row,
                                bool *matches)
{
    *matches = selection->filter.len == 0 ||
               filter_matches(selection->parsed, row->id, row->id_len, row->metadata,
                              row->metadata_len, &selection->scratch);
    if (selection->scratch.failed)
        return err_set(&selection->write->req->err, ERR_NO_MEMORY,
                       "no memory to evaluate the filter");
    return ERR_OK;
}
