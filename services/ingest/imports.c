/* The routes of imports: see imports.h.
 *
 * Answers tell what is acknowledged only: a part that is pending is not there yet, and will be
 * asked for again by whoever goes by the offset; the request that brings it finds it done. */
#include "services/ingest/imports.h"

#include <stdio.h>
#include <string.h>

#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "common/http/json_doc.h"

#define TURN_NS (5 * NS_PER_S)
#define LOOK_NS (2 * NS_PER_MS)

/* --- answers --------------------------------------------------------------------------------- */

static void number(struct json_writer *w, const char *key, uint64_t value)
{
    json_key(w, key);
    json_u64(w, value);
}

static void word(struct json_writer *w, const char *key, const char *value)
{
    json_key(w, key);
    json_text(w, value);
}

static void write_errors(const struct import_job *job, struct json_writer *w)
{
    json_key(w, "errors");
    json_begin_array(w);
    for (size_t i = 0; i < job->error_count; i++) {
        const struct import_error *error = &job->errors[i];

        if (error->at >= job->done.offset)
            continue; /* of a part that is pending */
        json_begin_object(w);
        number(w, "row", error->row);
        number(w, "offset", error->at);
        word(w, "code", err_word(error->code));
        word(w, "detail", error->detail);
        json_end_object(w);
    }
    json_end_array(w);
}

static void write_pace(const struct import_job *job, uint64_t now_us, struct json_writer *w)
{
    uint64_t passed_us = now_us > job->created_us ? now_us - job->created_us : 0;
    uint64_t offset = job->done.offset;

    if (job->busy_us > 0) {
        json_key(w, "rows_per_second");
        json_double(w, (double)job->done.rows * 1e6 / (double)job->busy_us);
    }
    if (job->state == IMPORT_RUNNING && offset > 0 && job->bytes_total >= offset) {
        json_key(w, "eta_seconds");
        json_double(w,
                    (double)passed_us / 1e6 * (double)(job->bytes_total - offset) / (double)offset);
    }
}

static void answer(struct request *req, const struct import_job *job)
{
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    word(&w, "id", job->id);
    word(&w, "collection", job->collection);
    word(&w, "format", import_format_name(job->format));
    word(&w, "state", import_state_name(job->is_pending ? IMPORT_RUNNING : job->state));
    number(&w, "offset", job->done.offset);
    if (job->bytes_total > 0)
        number(&w, "bytes_total", job->bytes_total);
    number(&w, "rows_done", job->done.rows);
    number(&w, "rows_refused", job->done.refused);
    write_pace(job, env_wall_us(req->env), &w);
    write_errors(job, &w);
    if (job->token != NULL)
        word(&w, "read_token", job->token);
    json_end_object(&w);
}

/* --- create ---------------------------------------------------------------------------------- */

static enum err_code read_settings(struct request *req, struct import_job *job)
{
    static const char *const NAMES[] = {"format", "bytes_total", "max_errors", "id_prefix", NULL};
    const char *format = NULL, *prefix = "";
    struct err *err = &req->err;
    json_t *body = NULL;
    enum err_code rc = json_doc_parse(&body, req->body, req->body_len, err);

    job->errors_max = INT64_MAX;
    if (rc == ERR_OK)
        rc = json_doc_only(body, NAMES, err);
    if (rc == ERR_OK)
        rc = json_doc_text(body, "format", &format, err);
    if (rc == ERR_OK && (format == NULL || !import_format_from_name(format, &job->format)))
        rc = err_set_at(err, ERR_INVALID_ARGUMENT, "/format",
                        "format has to be \"ndjson\", \"binary\" or \"npy\"");
    if (rc == ERR_OK)
        rc = json_doc_u64(body, "bytes_total", 1, INT64_MAX, &job->bytes_total, err);
    if (rc == ERR_OK)
        rc = json_doc_u64(body, "max_errors", 0, INT64_MAX, &job->errors_max, err);
    if (rc == ERR_OK)
        rc = json_doc_text(body, "id_prefix", &prefix, err);
    if (rc == ERR_OK && (strlen(prefix) >= sizeof(job->id_prefix) ||
                         (prefix[0] != '\0' && job->format != IMPORT_NPY)))
        rc = err_set_at(err, ERR_INVALID_ARGUMENT, "/id_prefix",
                        "id_prefix is for npy and has at most %zu bytes",
                        sizeof(job->id_prefix) - 1);
    if (rc == ERR_OK)
        memcpy(job->id_prefix, prefix, strlen(prefix) + 1);
    json_decref(body);
    return rc;
}

static enum err_code begin(struct write *write, struct request *req)
{
    enum err_code rc = write_begin(write, req);

    if (rc == ERR_OK && write->idempotency_key != NULL)
        return err_set(&req->err, ERR_NOT_SUPPORTED,
                       "imports take no Idempotency-Key; their parts are repeated by offset");
    if (rc == ERR_OK && write->ingest->setup.blob == NULL)
        rc = err_set(&req->err, ERR_NOT_SUPPORTED, "no blob store is configured (--blob)");
    return rc;
}

static enum err_code create(struct write *write, struct import_job *job)
{
    struct request *req = write->req;
    struct ingest *ingest = write->ingest;
    enum err_code rc = read_settings(req, job);

    if (rc == ERR_OK)
        rc = import_jobs_sweep(ingest->setup.meta, env_wall_us(ingest->env), &req->err);
    if (rc != ERR_OK)
        return rc;
    text_uuid7(job->id, ingest->env);
    memcpy(job->collection, write->collection.name, sizeof(job->collection));
    memcpy(job->incarnation, write->collection.incarnation, INCARNATION_BYTES);
    job->created_us = env_wall_us(ingest->env);
    return import_job_save(job, ingest->setup.meta, job->created_us, &req->err);
}

enum err_code handle_create_import(struct request *req)
{
    struct write write;
    struct import_job *job = NULL;
    enum err_code rc = begin(&write, req);

    if (rc == ERR_OK)
        rc = write_expect_json(req);
    if (rc == ERR_OK)
        rc = import_job_new(&job, &req->err);
    if (rc == ERR_OK)
        rc = create(&write, job);
    if (rc == ERR_OK) {
        req->reply.status = 201;
        answer(req, job);
    }
    import_job_free(job);
    write_end(&write);
    return rc;
}

/* --- look ------------------------------------------------------------------------------------ */

enum err_code handle_get_import(struct request *req)
{
    struct ingest *ingest = req->state;
    struct import_job *job = NULL;
    enum err_code rc =
        import_job_load(&job, ingest->setup.meta, req->params[1], req->params[0], &req->err);

    req->collection = req->params[0];
    if (rc == ERR_OK)
        answer(req, job);
    import_job_free(job);
    return rc;
}

/* --- data ------------------------------------------------------------------------------------ */

static enum err_code read_query(struct request *req, uint64_t *offset, bool *is_final)
{
    static const char *const NAMES[] = {"offset", "final", NULL};
    const char *text, *final;
    bool has_final;
    enum err_code rc = request_query_only(req, NAMES);

    if (rc != ERR_OK)
        return rc;
    text = request_query(req, "offset", NULL);
    if (text == NULL || !text_to_u64(text, strlen(text), offset))
        return err_set(&req->err, ERR_INVALID_ARGUMENT,
                       "offset has to be where the part begins in the upload");
    final = request_query(req, "final", &has_final);
    *is_final = final != NULL && strcmp(final, "true") == 0;
    if (has_final && !*is_final && (final == NULL || strcmp(final, "false") != 0))
        return err_set(&req->err, ERR_INVALID_ARGUMENT, "final has to be true or false");
    return ERR_OK;
}

/* Has this part's turn come? */
static enum err_code check_turn(const struct import_job *job, uint64_t offset, struct err *err)
{
    if (job->state != IMPORT_RUNNING)
        return err_set(err, ERR_VERSION_CONFLICT, "the import has ended: %s",
                       import_state_name(job->state));
    if (offset != job->done.offset)
        return err_set(err, ERR_VERSION_CONFLICT,
                       "the upload stands at %llu, the part begins at %llu",
                       (unsigned long long)job->done.offset, (unsigned long long)offset);
    return ERR_OK;
}

/* Take the import; a part that is ahead of its turn waits while others are worked on.
 * Errors: ERR_VERSION_CONFLICT (it is not its turn) … */
static enum err_code await_turn(struct import_work *work, uint64_t offset)
{
    struct ingest *ingest = work->write->ingest;
    struct err *err = &work->write->req->err;
    uint64_t until_ns = env_boot_ns(ingest->env) + TURN_NS;
    enum err_code rc;

    for (;;) {
        rc = import_begin(work);
        if (rc != ERR_OK)
            return rc;
        if (work->job->state != IMPORT_RUNNING || work->job->done.offset >= offset ||
            atomic_load(&ingest->parts) < 2 || env_boot_ns(ingest->env) >= until_ns)
            break;
        import_leave(work);
        if (env_sleep_until(ingest->env, env_boot_ns(ingest->env) + LOOK_NS) != ERR_OK)
            return err_set(err, ERR_DEAD, "shutting down");
    }
    rc = check_turn(work->job, offset, err);
    /* Rows of npy can be told when the first part has been taken. */
    if (rc == ERR_OK && !work->is_read)
        rc = err_set(err, ERR_VERSION_CONFLICT,
                     "the upload has just come to this part; send it again");
    return rc;
}

/* A part takes its body's memory twice more. */
static enum err_code enter(struct ingest *ingest, bool *entered, struct err *err)
{
    *entered = atomic_fetch_add(&ingest->parts, 1) < IMPORT_PARTS_MAX;
    if (*entered)
        return ERR_OK;
    (void)atomic_fetch_sub(&ingest->parts, 1);
    return err_set(err, ERR_RATE_LIMITED, "%d parts of imports are worked on", IMPORT_PARTS_MAX);
}

enum err_code handle_put_import_data(struct request *req)
{
    struct ingest *ingest = req->state;
    struct write write;
    struct import_work work = {0};
    struct import_part part = {.env = req->env, .body = req->body, .len = req->body_len};
    uint64_t offset = 0;
    bool entered = false;
    enum err_code rc = begin(&write, req);

    if (rc == ERR_OK)
        rc = enter(ingest, &entered, &req->err);
    if (rc == ERR_OK)
        rc = read_query(req, &offset, &part.is_final);
    part.collection = &write.collection;
    if (rc == ERR_OK)
        rc = import_open(&work, &write);
    if (rc == ERR_OK)
        rc = import_read_ahead(&work, &part, offset);
    if (rc == ERR_OK)
        rc = await_turn(&work, offset);
    if (rc == ERR_OK)
        rc = import_take_part(&work, &part);
    if (rc == ERR_OK)
        answer(req, work.job);
    import_part_free(&part);
    import_end(&work);
    write_end(&write);
    if (entered)
        (void)atomic_fetch_sub(&ingest->parts, 1);
    return rc;
}

/* --- cancel ---------------------------------------------------------------------------------- */

enum err_code handle_cancel_import(struct request *req)
{
    struct write write;
    struct import_work work = {0};
    enum err_code rc = begin(&write, req);

    if (rc == ERR_OK)
        rc = import_open(&work, &write);
    if (rc == ERR_OK)
        rc = import_begin(&work);
    if (rc == ERR_OK && work.job->state != IMPORT_RUNNING)
        rc = err_set(&req->err, ERR_VERSION_CONFLICT, "the import has ended: %s",
                     import_state_name(work.job->state));
    if (rc == ERR_OK) {
        work.job->state = IMPORT_CANCELLED;
        rc = import_job_save(work.job, write.ingest->setup.meta, env_wall_us(req->env), &req->err);
    }
    if (rc == ERR_OK)
        answer(req, work.job);
    import_end(&work);
    write_end(&write);
    return rc;
}
