/* POST /v1/collections/{c}/records/delete: by ids, by a filter, or everything; with an exact count,
 * or (count: false) without a read where none is needed.
 *
 * By filter: find a page of ids, take them alone, read them again, delete those that still match;
 * then the next page.  What is written behind the scan meanwhile is not deleted. */
#include "common/http/json_doc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/model/filter.h"
#include "common/model/hits.h"
#include "services/ingest/ingest.h"
#include "services/ingest/upsert_parse.h"

struct deletion {
    struct write write;
    json_t *body;
    struct wire_id *ids; /* into the body */
    size_t id_count;
    struct buffer filter; /* its text; len 0: not by filter */
    const struct filter *parsed;
    struct arena page; /* ids of one page of a delete by filter */
    bool all, count;
    uint64_t deleted;
    bool answered; /* a failure half-way */
};

static enum err_code read_ids(struct deletion *deletion, json_t *ids)
{
    struct request *req = deletion->write.req;
    size_t count = json_array_size(ids);
    char pointer[48];

    if (!json_is_array(ids) || count == 0 || count > IDS_PER_REQUEST_MAX)
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/ids", "ids has to be 1 to %d ids",
                          IDS_PER_REQUEST_MAX);
    deletion->ids = arena_alloc(&req->arena, count, sizeof(*deletion->ids));
    if (deletion->ids == NULL)
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
        deletion->ids[i] =
            (struct wire_id){.data = json_string_value(id), .len = json_string_length(id)};
    }
    deletion->id_count = count;
    return ERR_OK;
}

static enum err_code read_filter(struct deletion *deletion, json_t *filter)
{
    struct request *req = deletion->write.req;
    enum err_code rc;

    if (!json_is_object(filter))
        return err_set_at(&req->err, ERR_INVALID_FILTER, "/filter", "a filter is an object");
    json_doc_dump(filter, &deletion->filter);
    rc = buffer_check(&deletion->filter, &req->err);
    if (rc == ERR_OK)
        rc = filter_parse(&deletion->parsed, deletion->filter.data, deletion->filter.len,
                          &req->arena, &req->err);
    if (rc == ERR_INVALID_FILTER)
        err_prefix_pointer(&req->err, "/filter");
    return rc;
}

static enum err_code read_options(struct deletion *deletion)
{
    struct request *req = deletion->write.req;
    uint64_t timeout_ms = WRITE_DEADLINE_MS_DEFAULT;
    const char *wait = NULL;
    enum err_code rc = json_doc_bool(deletion->body, "count", &deletion->count, &req->err);

    if (rc == ERR_OK)
        rc = json_doc_bool(deletion->body, "delete_all", &deletion->all, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_u64(deletion->body, "timeout_ms", 1, DEADLINE_MS_MAX, &timeout_ms, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_text(deletion->body, "wait", &wait, &req->err);
    if (rc == ERR_OK && wait != NULL)
        rc = write_check_wait(wait, strlen(wait), &deletion->write.wait_searchable, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_u64(deletion->body, "write_quorum", 1, REGIONS_MAX + 1,
                          &deletion->write.quorum, &req->err);
    if (rc == ERR_OK)
        rc = write_check_quorum(&deletion->write);
    write_set_timeout(&deletion->write, timeout_ms);
    return rc;
}

static enum err_code read_body(struct deletion *deletion)
{
    static const char *const NAMES[] = {"ids",  "filter",       "delete_all", "count",
                                        "wait", "write_quorum", "timeout_ms", NULL};
    struct request *req = deletion->write.req;
    json_t *ids, *filter;
    enum err_code rc = json_doc_parse(&deletion->body, req->body, req->body_len, &req->err);

    deletion->count = true;
    if (rc == ERR_OK)
        rc = json_doc_only(deletion->body, NAMES, &req->err);
    if (rc == ERR_OK)
        rc = read_options(deletion);
    if (rc != ERR_OK)
        return rc;
    ids = json_object_get(deletion->body, "ids");
    filter = json_object_get(deletion->body, "filter");
    ids = json_is_null(ids) ? NULL : ids;
    filter = json_is_null(filter) ? NULL : filter;
    if ((ids != NULL) + (filter != NULL) + deletion->all != 1)
        return err_set(&req->err, ERR_INVALID_ARGUMENT,
                       "give exactly one of ids, filter and \"delete_all\": true");
    if (ids != NULL)
        rc = read_ids(deletion, ids);
    if (filter != NULL)
        rc = read_filter(deletion, filter);
    return rc;
}

static int id_compare(const void *left, const void *right)
{
    const struct wire_id *a = left, *b = right;
    int order = memcmp(a->data, b->data, MIN_OF(a->len, b->len));

    if (order != 0)
        return order;
    return a->len < b->len ? -1 : a->len > b->len;
}

/* Every row of the answer once (two replicas never answer for one partition), if it matches. */
static enum err_code delete_rows(struct deletion *deletion, const struct cluster_answer *answer)
{
    struct filter_scratch scratch = {0};
    enum err_code rc = ERR_OK;

    for (size_t part = 0; part < answer->count && rc == ERR_OK; part++) {
        const struct wire_answer *from = &answer->parts[part].answer;

        for (size_t i = 0; i < from->row_count && rc == ERR_OK; i++) {
            const struct wire_row *row = &from->rows[i];

            if (deletion->filter.len > 0 &&
                !filter_matches(deletion->parsed, row->id, row->id_len, row->metadata,
                                row->metadata_len, &scratch))
                continue;
            rc = write_add_delete(&deletion->write, row->id, row->id_len);
            deletion->deleted++;
        }
    }
    filter_scratch_free(&scratch);
    return rc;
}

/* Take the ids alone, read them at the log's end, delete what is there and matches. */
static enum err_code delete_chunk(struct deletion *deletion, const struct wire_id *ids,
                                  size_t count)
{
    struct write *write = &deletion->write;
    uint32_t include = deletion->filter.len > 0 ? INCLUDE_METADATA : 0;
    struct cluster_answer answer = {0};
    enum err_code rc = write_take(write, ids, count, BUSY_ALONE);

    if (rc == ERR_OK)
        rc = decide_get(write, ids, count, include, &answer);
    if (rc == ERR_OK)
        rc = delete_rows(deletion, &answer);
    cluster_answer_free(&answer);
    if (rc == ERR_OK && write->batch != NULL)
        write->batch->generation = write->generation;
    return rc == ERR_OK ? write_commit(write, &deletion->answered) : rc;
}

static enum err_code delete_ids(struct deletion *deletion)
{
    struct write *write = &deletion->write;
    size_t kept = 0;
    enum err_code rc;

    qsort(deletion->ids, deletion->id_count, sizeof(*deletion->ids), id_compare);
    for (size_t i = 0; i < deletion->id_count; i++)
        if (kept == 0 || id_compare(&deletion->ids[kept - 1], &deletion->ids[i]) != 0)
            deletion->ids[kept++] = deletion->ids[i];
    if (deletion->count)
        return delete_chunk(deletion, deletion->ids, kept);
    write->may_spool = !write->wait_searchable && !write->awaits_quorum;
    rc = write_take(write, deletion->ids, kept, BUSY_SHARED);
    for (size_t i = 0; i < kept && rc == ERR_OK; i++)
        rc = write_add_delete(write, deletion->ids[i].data, deletion->ids[i].len);
    return rc == ERR_OK ? write_commit(write, &deletion->answered) : rc;
}

/* The next page of ids that match, ascending; *count 0: none are left.  The page before it goes:
 * what a delete holds does not grow with what it finds. */
static enum err_code find_page(struct deletion *deletion, struct wire_id *after,
                               struct wire_id *ids, size_t *count)
{
    struct request *req = deletion->write.req;
    struct cluster_answer answer = {0};
    struct wire_row *rows = array_alloc(DELETE_CHUNK, sizeof(*rows));
    struct hit_list *lists = NULL;
    enum err_code rc = rows == NULL
                           ? err_set(&req->err, ERR_NO_MEMORY, "no memory for a page")
                           : decide_scroll(&deletion->write, (const char *)deletion->filter.data,
                                           deletion->filter.len, *after, &answer);

    *count = 0;
    arena_reset(&deletion->page); /* `after` was in it, and is not needed any more */
    if (rc == ERR_OK && (lists = array_alloc(answer.count, sizeof(*lists))) == NULL)
        rc = err_set(&req->err, ERR_NO_MEMORY, "no memory for a page");
    if (rc == ERR_OK) {
        for (size_t i = 0; i < answer.count; i++)
            lists[i] = (struct hit_list){.rows = answer.parts[i].answer.rows,
                                         .count = answer.parts[i].answer.row_count};
        *count = hits_merge_by_id(lists, answer.count, DELETE_CHUNK, rows);
    }
    for (size_t i = 0; i < *count && rc == ERR_OK; i++) {
        ids[i] =
            (struct wire_id){.data = arena_copy_text(&deletion->page, rows[i].id, rows[i].id_len),
                             .len = rows[i].id_len};
        if (ids[i].data == NULL)
            rc = err_set(&req->err, ERR_NO_MEMORY, "no memory for a page");
    }
    if (rc == ERR_OK && *count > 0)
        *after = ids[*count - 1];
    cluster_answer_free(&answer);
    free(lists);
    free(rows);
    return rc;
}

static enum err_code delete_filtered(struct deletion *deletion)
{
    struct write *write = &deletion->write;
    struct request *req = write->req;
    struct wire_id after = {0}, *ids = arena_alloc(&req->arena, DELETE_CHUNK, sizeof(*ids));
    size_t count = 0;
    enum err_code rc =
        ids == NULL ? err_set(&req->err, ERR_NO_MEMORY, "no memory for a page") : ERR_OK;

    /* Shards do not know what waits in the spool: it could match. */
    if (rc == ERR_OK)
        rc = write_check_spool(write);
    write->holds_waits = true; /* once, at the end */
    while (rc == ERR_OK && !deletion->answered) {
        rc = find_page(deletion, &after, ids, &count);
        if (rc != ERR_OK || count == 0)
            break;
        sequence_batch_put(&write->ingest->sequencer, write->batch);
        write->batch = NULL;
        rc = delete_chunk(deletion, ids, count);
    }
    write->holds_waits = false;
    return rc == ERR_OK && !deletion->answered ? write_wait(write, &deletion->answered) : rc;
}

/* The gate alone: nothing of the collection is on its way. */
static enum err_code delete_everything(struct deletion *deletion)
{
    struct write *write = &deletion->write;
    enum err_code rc = write_take(write, NULL, 0, BUSY_ALONE);

    if (rc == ERR_OK && deletion->count)
        rc = decide_count(write, &deletion->deleted);
    for (uint32_t i = 0; i < write->ingest->sequencer.partitions && rc == ERR_OK; i++) {
        struct record record = {.op = RECORD_TRUNCATE};

        rc = write_add(write, i, &record);
    }
    if (rc == ERR_OK && deletion->count)
        write->batch->generation = write->generation;
    return rc == ERR_OK ? write_commit(write, &deletion->answered) : rc;
}

static void answer(struct deletion *deletion)
{
    struct ingest *ingest = deletion->write.ingest;
    struct json_writer w;

    json_writer_init(&w, &deletion->write.req->reply.body);
    json_begin_object(&w);
    if (deletion->count) {
        json_key(&w, "deleted_count");
        json_u64(&w, deletion->deleted);
    }
    write_token_member(&deletion->write, &w);
    json_end_object(&w);
    if (ingest->metrics.deletes != NULL)
        metric_add(deletion->all ? ingest->metrics.truncates : ingest->metrics.deletes,
                   deletion->all ? 1 : deletion->deleted);
}

enum err_code handle_delete_records(struct request *req)
{
    struct deletion deletion = {0};
    enum err_code rc = write_begin(&deletion.write, req);

    if (rc == ERR_OK)
        rc = write_expect_json(req);
    if (rc == ERR_OK)
        rc = read_body(&deletion);
    if (rc == ERR_OK)
        rc = deletion.all           ? delete_everything(&deletion)
             : deletion.ids != NULL ? delete_ids(&deletion)
                                    : delete_filtered(&deletion);
    if (rc == ERR_OK && !deletion.answered)
        answer(&deletion);
    write_end(&deletion.write);
    buffer_free(&deletion.filter);
    arena_free(&deletion.page);
    json_decref(deletion.body);
    return rc;
}
