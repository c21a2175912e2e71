/* POST /v1/collections/{c}/records/delete: by ids, by a filter, or everything; with an exact count,
 * or (count: false) without a read where none is needed.
 *
 * By filter: find a page of ids, take them alone, read them again, delete those that still match;
 * then the next page (selection.h). */
#include <string.h>

#include "common/base/json_writer.h"
#include "services/ingest/selection.h"

struct deletion {
    struct write write;
    struct selection selection;
    json_t *body;
    bool all, count;
    uint64_t truncated; /* how many there were */
    bool answered;      /* a failure half-way */
};

static enum err_code read_body(struct deletion *deletion)
{
    static const char *const NAMES[] = {"ids",  "filter",       "delete_all", "count",
                                        "wait", "write_quorum", "timeout_ms", NULL};
    struct request *req = deletion->write.req;
    const struct selection *selection = &deletion->selection;
    enum err_code rc = json_doc_parse(&deletion->body, req->body, req->body_len, &req->err);

    deletion->count = true;
    if (rc == ERR_OK)
        rc = json_doc_only(deletion->body, NAMES, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_bool(deletion->body, "count", &deletion->count, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_bool(deletion->body, "delete_all", &deletion->all, &req->err);
    if (rc == ERR_OK)
        rc = selection_read_options(&deletion->write, deletion->body);
    if (rc == ERR_OK)
        rc = selection_read(&deletion->selection, &deletion->write, deletion->body);
    if (rc == ERR_OK && (selection->ids != NULL || selection->filter.len > 0) == deletion->all)
        rc = err_set(&req->err, ERR_INVALID_ARGUMENT,
                     "give exactly one of ids, filter and \"delete_all\": true");
    return rc;
}

/* Every row of the answer once (two replicas never answer for one partition), if it matches. */
static enum err_code delete_rows(struct deletion *deletion, const struct cluster_answer *answer)
{
    enum err_code rc = ERR_OK;

    for (size_t part = 0; part < answer->count && rc == ERR_OK; part++) {
        const struct wire_answer *from = &answer->parts[part].answer;

        for (size_t i = 0; i < from->row_count && rc == ERR_OK; i++) {
            const struct wire_row *row = &from->rows[i];
            bool matches;

            rc = selection_matches(&deletion->selection, row, &matches);
            if (rc == ERR_OK && matches)
                rc = write_add_delete(&deletion->write, row->id, row->id_len);
        }
    }
    return rc;
}

/* Take the ids alone, read them at the log's end, delete what is there and matches. */
static enum err_code delete_chunk(struct deletion *deletion, const struct wire_id *ids,
                                  size_t count)
{
    struct write *write = &deletion->write;
    uint32_t include = deletion->selection.filter.len > 0 ? INCLUDE_METADATA : 0;
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
    const struct wire_id *ids = deletion->selection.ids;
    size_t count = deletion->selection.id_count;
    enum err_code rc;

    if (deletion->count)
        return delete_chunk(deletion, ids, count);
    write->may_spool = !write->wait_searchable && !write->awaits_quorum;
    rc = write_take(write, ids, count, BUSY_SHARED);
    for (size_t i = 0; i < count && rc == ERR_OK; i++)
        rc = write_add_delete(write, ids[i].data, ids[i].len);
    return rc == ERR_OK ? write_commit(write, &deletion->answered) : rc;
}

static enum err_code delete_filtered(struct deletion *deletion)
{
    struct write *write = &deletion->write;
    struct request *req = write->req;
    struct wire_id *ids = arena_alloc(&req->arena, SELECTION_PAGE, sizeof(*ids));
    size_t count = 0;
    enum err_code rc =
        ids == NULL ? err_set(&req->err, ERR_NO_MEMORY, "no memory for a page") : ERR_OK;

    /* Shards do not know what waits in the spool: it could match. */
    if (rc == ERR_OK)
        rc = write_check_spool(write);
    write->holds_waits = true; /* once, at the end */
    while (rc == ERR_OK && !deletion->answered) {
        rc = selection_next(&deletion->selection, ids, &count);
        if (rc != ERR_OK || count == 0)
            break;
        write_next_batch(write);
        rc = delete_chunk(deletion, ids, count);
    }
    write->holds_waits = false;
    if (rc == ERR_OK && !deletion->answered)
        rc = write_wait(write, &deletion->answered);
    return write_half_way(write, rc, &deletion->answered);
}

/* The gate alone: nothing of the collection is on its way. */
static enum err_code delete_everything(struct deletion *deletion)
{
    struct write *write = &deletion->write;
    enum err_code rc = write_take(write, NULL, 0, BUSY_ALONE);

    if (rc == ERR_OK && deletion->count)
        rc = decide_count(write, &deletion->truncated);
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
    struct json_writer w;

    json_writer_init(&w, &deletion->write.req->reply.body);
    json_begin_object(&w);
    if (deletion->count) {
        json_key(&w, "deleted_count");
        json_u64(&w, deletion->all ? deletion->truncated : deletion->write.committed);
    }
    write_token_member(&deletion->write, &w);
    json_end_object(&w);
}

static void measure(const struct deletion *deletion, enum err_code rc)
{
    const struct ingest_metrics *metrics = &deletion->write.ingest->metrics;

    if (metrics->deletes == NULL)
        return;
    if (!deletion->all)
        metric_add(metrics->deletes, deletion->write.committed);
    else if (rc == ERR_OK && !deletion->answered)
        metric_add(metrics->truncates, 1);
}

enum err_code handle_delete_records(struct request *req)
{
    struct deletion deletion = {0};
    enum err_code rc = write_begin(&deletion.write, req);

    if (rc == ERR_OK)
        rc = write_expect_json(req);
    if (rc == ERR_OK)
        rc = read_body(&deletion);
    if (!deletion.all)
        deletion.write.count_name = "deleted_count";
    if (rc == ERR_OK)
        rc = deletion.all                     ? delete_everything(&deletion)
             : deletion.selection.ids != NULL ? delete_ids(&deletion)
                                              : delete_filtered(&deletion);
    if (rc == ERR_OK && !deletion.answered)
        answer(&deletion);
    measure(&deletion, rc);
    write_end(&deletion.write);
    selection_free(&deletion.selection);
    json_decref(deletion.body);
    return rc;
}
