/* POST /v1/collections/{c}/records/update: a merge patch for the metadata of the records of a list
 * of ids, or of those that match a filter.
 *
 * In pages: take some ids alone, read the records at the log's end, append the patched images of
 * those that change; then the next ones.  A page is committed whole or not at all; a failure tells
 * how many records the pages before it have updated. */
#include "services/ingest/update.h"

#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"
#include "services/ingest/selection.h"
#include "services/ingest/upsert_parse.h"
#include "services/ingest/upsert_record.h"

/* Records of a page: however large they are, an append takes them. */
#define UPDATE_PAGE 64

struct updating {
    struct write write;
    struct selection selection;
    struct metadata_update update;
    json_t *body;
    uint64_t matched;
    bool answered; /* a failure half-way */
};

/* --- the patch ---------------------------------------------------------------------------------
 */

/* The bytes of the member, as they came: jansson would round its numbers. */
static enum err_code find_metadata(struct request *req, struct json_text *out)
{
    struct json_reader reader;
    struct json_text key, value;
    bool more = true;
    enum err_code rc;

    *out = (struct json_text){0};
    json_reader_init(&reader, req->body, req->body_len, &req->arena, &req->err);
    rc = json_object_begin(&reader);
    while (rc == ERR_OK && more) {
        rc = json_object_next(&reader, &key, &more);
        if (rc == ERR_OK && more)
            rc = json_skip(&reader, &value, NULL);
        if (rc == ERR_OK && more && json_text_is(key, "metadata"))
            *out = value;
    }
    if (rc == ERR_OK && out->data == NULL)
        rc = err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/metadata", "metadata is missing");
    return rc;
}

enum err_code update_read(struct metadata_update *update, struct request *req)
{
    struct json_text text;
    enum err_code rc = find_metadata(req, &text);

    if (rc != ERR_OK)
        return rc;
    rc = upsert_check_metadata(text.data, text.len, &req->arena, &req->err);
    if (rc != ERR_OK)
        err_prefix_pointer(&req->err, "/metadata");
    return rc == ERR_OK
               ? merge_patch_parse(&update->patch, text.data, text.len, &req->arena, &req->err)
               : rc;
}

void update_free(struct metadata_update *update)
{
    arena_free(&update->scratch);
    buffer_free(&update->merged);
}

/* The text of a row, which is an encoded string there. */
static enum err_code decode_text(struct metadata_update *update, const struct wire_row *row,
                                 struct upsert_record *record, struct err *err)
{
    struct json_reader reader;
    struct json_text text;
    struct err why = {0};
    enum err_code rc;

    if (row->text == NULL)
        return ERR_OK;
    json_reader_init(&reader, row->text, row->text_len, &update->scratch, &why);
    rc = json_read_string(&reader, &text);
    if (rc != ERR_OK)
        return err_set(err, rc == ERR_NO_MEMORY ? rc : ERR_CORRUPT, "a stored text: %s",
                       why.message);
    record->text = text.len == 0 ? "" : text.data;
    record->text_len = text.len;
    return ERR_OK;
}

enum err_code update_add(struct metadata_update *update, struct write *write,
                         const struct wire_row *row, bool *changed)
{
    struct err *err = &write->req->err;
    struct upsert_record record = {.id = row->id, .id_len = row->id_len, .vector = row->vector};
    enum err_code rc;

    if (row->vector != NULL && row->dim != write->collection.dimension)
        return err_set(err, ERR_CORRUPT, "a stored vector has %u numbers, not %u", row->dim,
                       write->collection.dimension);
    rc = merge_patch_apply(update->patch, row->metadata, row->metadata_len, &update->scratch,
                           &update->merged, changed, err);
    if (rc == ERR_OK && *changed)
        rc = decode_text(update, row, &record, err);
    record.metadata = (const char *)update->merged.data;
    record.metadata_len = update->merged.len;
    if (rc == ERR_OK && *changed)
        rc = upsert_add(write, &record);
    return rc == ERR_OK ? ERR_OK
                        : err_wrap(err, "record '%.*s'", (int)MIN_OF(row->id_len, 64u), row->id);
}

void update_counts(struct json_writer *w, uint64_t matched, uint64_t updated)
{
    json_key(w, "matched_count");
    json_u64(w, matched);
    json_key(w, "updated_count");
    json_u64(w, updated);
}

/* --- many records ------------------------------------------------------------------------------
 */

static enum err_code read_body(struct updating *updating)
{
    static const char *const NAMES[] = {"ids",          "filter",     "metadata", "wait",
                                        "write_quorum", "timeout_ms", NULL};
    struct request *req = updating->write.req;
    const struct selection *selection = &updating->selection;
    enum err_code rc = json_doc_parse(&updating->body, req->body, req->body_len, &req->err);

    if (rc == ERR_OK)
        rc = json_doc_only(updating->body, NAMES, &req->err);
    if (rc == ERR_OK)
        rc = selection_read_options(&updating->write, updating->body);
    if (rc == ERR_OK)
        rc = selection_read(&updating->selection, &updating->write, updating->body);
    if (rc == ERR_OK && selection->ids == NULL && selection->filter.len == 0)
        rc = err_set(&req->err, ERR_INVALID_ARGUMENT, "give ids or a filter");
    return rc == ERR_OK ? update_read(&updating->update, req) : rc;
}

static enum err_code update_rows(struct updating *updating, const struct cluster_answer *answer,
                                 uint64_t *matched)
{
    enum err_code rc = ERR_OK;

    *matched = 0;
    arena_reset(&updating->update.scratch);
    for (size_t part = 0; part < answer->count && rc == ERR_OK; part++) {
        const struct wire_answer *from = &answer->parts[part].answer;

        for (size_t i = 0; i < from->row_count && rc == ERR_OK; i++) {
            bool matches, changed;

            rc = selection_matches(&updating->selection, &from->rows[i], &matches);
            if (rc != ERR_OK || !matches)
                continue;
            (*matched)++;
            rc = update_add(&updating->update, &updating->write, &from->rows[i], &changed);
        }
    }
    return rc;
}

static enum err_code update_page(struct updating *updating, const struct wire_id *ids, size_t count)
{
    struct write *write = &updating->write;
    struct cluster_answer answer = {0};
    uint64_t matched = 0;
    enum err_code rc;

    write_next_batch(write);
    rc = write_take(write, ids, count, BUSY_ALONE);
    if (rc == ERR_OK)
        rc = decide_get(write, ids, count, UPDATE_INCLUDE, &answer);
    if (rc == ERR_OK)
        rc = update_rows(updating, &answer, &matched);
    cluster_answer_free(&answer);
    if (rc == ERR_OK && write->batch != NULL)
        write->batch->generation = write->generation;
    if (rc == ERR_OK)
        rc = write_commit(write, &updating->answered);
    if (rc == ERR_OK && !updating->answered)
        updating->matched += matched;
    return rc;
}

static enum err_code update_ids(struct updating *updating, const struct wire_id *ids, size_t count)
{
    enum err_code rc = ERR_OK;

    for (size_t at = 0; at < count && rc == ERR_OK && !updating->answered; at += UPDATE_PAGE)
        rc = update_page(updating, ids + at, MIN_OF(count - at, (size_t)UPDATE_PAGE));
    return rc;
}

static enum err_code update_filtered(struct updating *updating)
{
    struct request *req = updating->write.req;
    struct wire_id *ids = arena_alloc(&req->arena, SELECTION_PAGE, sizeof(*ids));
    size_t count = 0;
    enum err_code rc =
        ids == NULL ? err_set(&req->err, ERR_NO_MEMORY, "no memory for a page") : ERR_OK;

    while (rc == ERR_OK && !updating->answered) {
        rc = selection_next(&updating->selection, ids, &count);
        if (rc != ERR_OK || count == 0)
            break;
        rc = update_ids(updating, ids, count);
    }
    return rc;
}

static enum err_code update_all(struct updating *updating)
{
    struct write *write = &updating->write;
    const struct selection *selection = &updating->selection;
    enum err_code rc = write_check_spool(write); /* shards do not know what waits there */

    write->holds_waits = true; /* once, at the end */
    if (rc == ERR_OK)
        rc = selection->ids == NULL ? update_filtered(updating)
                                    : update_ids(updating, selection->ids, selection->id_count);
    write->holds_waits = false;
    if (rc == ERR_OK && !updating->answered)
        rc = write_wait(write, &updating->answered);
    return write_half_way(write, rc, &updating->answered);
}

static void answer(struct updating *updating)
{
    struct json_writer w;

    json_writer_init(&w, &updating->write.req->reply.body);
    json_begin_object(&w);
    update_counts(&w, updating->matched, updating->write.committed);
    if (updating->selection.ids != NULL) {
        json_key(&w, "missing_count");
        json_u64(&w, updating->selection.id_count - updating->matched);
    }
    write_token_member(&updating->write, &w);
    json_end_object(&w);
}

enum err_code handle_update_records(struct request *req)
{
    struct updating updating = {0};
    struct write *write = &updating.write;
    enum err_code rc = write_begin(write, req);

    if (rc == ERR_OK)
        rc = write_expect_json(req);
    if (rc == ERR_OK)
        rc = read_body(&updating);
    write->count_name = "updated_count";
    write->headroom = HEADROOM_PATCH;
    if (rc == ERR_OK)
        rc = update_all(&updating);
    if (rc == ERR_OK && !updating.answered)
        answer(&updating);
    if (write->ingest->metrics.upserts != NULL)
        metric_add(write->ingest->metrics.upserts, write->committed);
    write_end(write);
    update_free(&updating.update);
    selection_free(&updating.selection);
    json_decref(updating.body);
    return rc;
}
