/* PUT, PATCH and DELETE /v1/collections/{c}/records/{id}: one record, with If-Match. */
#include <stdio.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "common/http/json_doc.h"
#include "services/ingest/ingest.h"
#include "services/ingest/update.h"
#include "services/ingest/upsert_parse.h"
#include "services/ingest/upsert_record.h"

/* A number among the query parameters; absent: *out stays. */
static enum err_code query_number(struct request *req, const char *name, uint64_t max,
                                  uint64_t *out)
{
    bool present;
    const char *value = request_query(req, name, &present);
    char pointer[32];

    if (!present)
        return ERR_OK;
    (void)snprintf(pointer, sizeof(pointer), "/%s", name);
    if (value == NULL || !text_to_u64(value, strlen(value), out) || *out < 1 || *out > max)
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, pointer, "%s has to be 1 to %llu", name,
                          (unsigned long long)max);
    return ERR_OK;
}

/* wait, write_quorum and timeout_ms as query parameters. */
static enum err_code read_query(struct write *write)
{
    static const char *const NAMES[] = {"wait", "write_quorum", "timeout_ms", NULL};
    struct request *req = write->req;
    const char *value;
    bool present;
    uint64_t timeout_ms = WRITE_DEADLINE_MS_DEFAULT;
    enum err_code rc = request_query_only(req, NAMES);

    if (rc == ERR_OK)
        rc = query_number(req, "timeout_ms", DEADLINE_MS_MAX, &timeout_ms);
    if (rc == ERR_OK)
        rc = query_number(req, "write_quorum", REGIONS_MAX + 1, &write->quorum);
    if (rc == ERR_OK)
        rc = write_check_quorum(write);
    if (rc != ERR_OK)
        return rc;
    write_set_timeout(write, timeout_ms);
    value = request_query(req, "wait", &present);
    if (!present)
        return ERR_OK;
    return write_check_wait(value == NULL ? "" : value, value == NULL ? 0 : strlen(value),
                            &write->wait_searchable, &req->err);
}

/* Begin, with the id of the path checked and taken alone. */
static enum err_code begin_one(struct write *write, struct request *req, struct wire_id *id)
{
    enum err_code rc = write_begin(write, req);

    *id = (struct wire_id){.data = req->params[1], .len = req->param_lens[1]};
    if (rc == ERR_OK)
        rc = upsert_check_id(id->data, id->len, &req->err);
    return rc == ERR_OK ? read_query(write) : rc;
}

static const char *condition(const struct request *req)
{
    return req->header == NULL ? NULL : req->header(req, "If-Match");
}

struct present {
    bool known; /* it could be read */
    bool exists;
};

/* Read the record and check If-Match.  Without a condition a read that fails is no failure. */
static enum err_code look(struct write *write, const struct wire_id *id, bool needed,
                          struct present *out)
{
    struct ingest *ingest = write->ingest;
    struct request *req = write->req;
    const char *if_match = condition(req);
    uint64_t deadline_ns = write->deadline_ns;
    struct cluster_answer answer = {0};
    const struct wire_row *row;
    enum err_code rc;

    needed = needed || if_match != NULL;
    /* What waits in the spool no shard knows. */
    if (!needed &&
        (write->away.code != ERR_OK || (ingest->spool != NULL && spool_waits(ingest->spool))))
        return ERR_OK;
    if (!needed)
        write->deadline_ns = MIN_OF(deadline_ns, env_boot_ns(req->env) + PLAIN_READ_NS);
    rc = decide_get(write, id, 1, 0, &answer);
    write->deadline_ns = deadline_ns;
    if (rc != ERR_OK) {
        cluster_answer_free(&answer);
        if (needed || rc == ERR_DEAD)
            return rc;
        err_clear(&req->err);
        return ERR_OK;
    }
    row = decide_row(&answer, id->data, id->len);
    *out = (struct present){.known = true, .exists = row != NULL};
    if (if_match != NULL && !decide_if_match(if_match, row))
        rc = err_set(&req->err, ERR_PRECONDITION_FAILED, "the record is not at that version");
    cluster_answer_free(&answer);
    return rc;
}

static enum err_code parse_one(struct write *write, const struct wire_id *id,
                               struct upsert_record *record)
{
    struct request *req = write->req;
    struct upsert_schema schema = {.collection = write->collection.name,
                                   .dimension = write->collection.dimension};
    enum err_code rc =
        upsert_parse_record(record, &schema, req->body, req->body_len, &req->arena, &req->err);

    if (rc != ERR_OK)
        return rc;
    if (record->id != NULL &&
        (record->id_len != id->len || memcmp(record->id, id->data, id->len) != 0))
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/id", "not the id of the path");
    record->id = id->data;
    record->id_len = id->len;
    return upsert_embed(write, record, 1);
}

static void answer_put(struct write *write, const struct wire_id *id, const struct present *present)
{
    struct reply *reply = &write->req->reply;
    char version[STAMP_TEXT_BYTES];
    struct json_writer w;

    if (!write->spooled) { /* else there is no version yet */
        stamp_to_text(version, write->batch->items[0].stamp);
        reply->status = present->known && !present->exists ? 201 : 200;
        reply_header(reply, "ETag", "\"%s\"", version);
    }
    json_writer_init(&w, &reply->body);
    json_begin_object(&w);
    json_key(&w, "upserted_count");
    json_u64(&w, 1);
    json_key(&w, "skipped_count");
    json_u64(&w, 0);
    json_key(&w, "ids");
    json_begin_array(&w);
    json_put_string(&w, id->data, id->len);
    json_end_array(&w);
    if (!write->spooled) {
        json_key(&w, "version");
        json_text(&w, version);
    }
    write_token_member(write, &w);
    json_end_object(&w);
}

enum err_code handle_put_record(struct request *req)
{
    struct write write;
    struct upsert_record record;
    struct present present = {0};
    struct wire_id id;
    bool answered = false;
    enum err_code rc = begin_one(&write, req, &id);

    if (rc == ERR_OK)
        rc = write_expect_json(req);
    if (rc == ERR_OK)
        rc = parse_one(&write, &id, &record);
    write.may_spool = !write.wait_searchable && !write.awaits_quorum && condition(req) == NULL;
    if (rc == ERR_OK)
        rc = write_take(&write, &id, 1, BUSY_ALONE);
    if (rc == ERR_OK)
        rc = look(&write, &id, false, &present);
    if (rc == ERR_OK)
        rc = upsert_add(&write, &record);
    if (rc == ERR_OK) {
        write.batch->generation = present.known ? write.generation : 0;
        rc = write_commit(&write, &answered);
    }
    if (rc == ERR_OK && !answered) {
        answer_put(&write, &id, &present);
        if (write.ingest->metrics.upserts != NULL)
            metric_add(write.ingest->metrics.upserts, 1);
    }
    write_end(&write);
    return rc;
}

enum err_code handle_delete_record(struct request *req)
{
    struct write write;
    struct present present = {0};
    struct json_writer w;
    struct wire_id id;
    bool answered = false;
    enum err_code rc = begin_one(&write, req, &id);

    if (rc == ERR_OK)
        rc = write_take(&write, &id, 1, BUSY_ALONE);
    if (rc == ERR_OK)
        rc = look(&write, &id, true, &present);
    if (rc == ERR_OK && !present.exists)
        rc = err_set(&req->err, ERR_RECORD_NOT_FOUND, "there is no such record");
    if (rc == ERR_OK)
        rc = write_add_delete(&write, id.data, id.len);
    if (rc == ERR_OK) {
        write.batch->generation = write.generation;
        rc = write_commit(&write, &answered);
    }
    if (rc == ERR_OK && !answered) {
        json_writer_init(&w, &req->reply.body);
        json_begin_object(&w);
        json_key(&w, "deleted_count");
        json_u64(&w, 1);
        write_token_member(&write, &w);
        json_end_object(&w);
        if (write.ingest->metrics.deletes != NULL)
            metric_add(write.ingest->metrics.deletes, 1);
    }
    write_end(&write);
    return rc;
}

/* --- a patch of one ----------------------------------------------------------------------------
 */

/* {"metadata": {…}} and nothing else. */
static enum err_code read_patch(struct request *req, struct metadata_update *update)
{
    static const char *const NAMES[] = {"metadata", NULL};
    json_t *body = NULL;
    enum err_code rc = json_doc_parse(&body, req->body, req->body_len, &req->err);

    if (rc == ERR_OK)
        rc = json_doc_only(body, NAMES, &req->err);
    json_decref(body);
    return rc == ERR_OK ? update_read(update, req) : rc;
}

/* Read the record, check If-Match, add what it becomes; *version is what it has now. */
static enum err_code patch_one(struct write *write, const struct wire_id *id,
                               struct metadata_update *update, struct stamp *version)
{
    struct request *req = write->req;
    const char *if_match = condition(req);
    struct cluster_answer answer = {0};
    const struct wire_row *row = NULL;
    bool changed;
    enum err_code rc = decide_get(write, id, 1, UPDATE_INCLUDE, &answer);

    if (rc == ERR_OK)
        row = decide_row(&answer, id->data, id->len);
    if (rc == ERR_OK && if_match != NULL && !decide_if_match(if_match, row))
        rc = err_set(&req->err, ERR_PRECONDITION_FAILED, "the record is not at that version");
    else if (rc == ERR_OK && row == NULL)
        rc = err_set(&req->err, ERR_RECORD_NOT_FOUND, "there is no such record");
    if (rc == ERR_OK) {
        *version = row->stamp;
        rc = update_add(update, write, row, &changed);
    }
    cluster_answer_free(&answer);
    return rc;
}

static void answer_patch(struct write *write, struct stamp stamp)
{
    struct reply *reply = &write->req->reply;
    char version[STAMP_TEXT_BYTES];
    struct json_writer w;

    stamp_to_text(version, stamp);
    reply_header(reply, "ETag", "\"%s\"", version);
    json_writer_init(&w, &reply->body);
    json_begin_object(&w);
    update_counts(&w, 1, write->committed);
    json_key(&w, "version");
    json_text(&w, version);
    write_token_member(write, &w);
    json_end_object(&w);
}

enum err_code handle_patch_record(struct request *req)
{
    struct write write;
    struct metadata_update update = {0};
    struct stamp version = {0};
    struct wire_id id;
    bool answered = false;
    enum err_code rc = begin_one(&write, req, &id);

    if (rc == ERR_OK)
        rc = write_expect_json(req);
    write.headroom = HEADROOM_PATCH;
    if (rc == ERR_OK)
        rc = read_patch(req, &update);
    if (rc == ERR_OK)
        rc = write_take(&write, &id, 1, BUSY_ALONE);
    if (rc == ERR_OK)
        rc = patch_one(&write, &id, &update, &version);
    if (rc == ERR_OK && write.batch != NULL)
        write.batch->generation = write.generation;
    if (rc == ERR_OK)
        rc = write_commit(&write, &answered);
    if (rc == ERR_OK && !answered)
        answer_patch(&write, write.batch != NULL ? write.batch->items[0].stamp : version);
    if (write.ingest->metrics.upserts != NULL)
        metric_add(write.ingest->metrics.upserts, write.committed);
    write_end(&write);
    update_free(&update);
    return rc;
}
