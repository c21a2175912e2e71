/* The row of an import: see import_job.h.
 *
 * Written and read as JSON, whole.  What is read is checked like foreign bytes: a row that makes no
 * sense is ERR_CORRUPT, and nothing is done by it. */
#include "services/ingest/import_job.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "common/http/json_doc.h"

#define KEY_PREFIX "import/"

static const char *const FORMATS[] = {"ndjson", "binary", "npy"};
static const char *const STATES[] = {"running", "succeeded", "failed", "cancelled"};

const char *import_format_name(enum import_format format)
{
    return FORMATS[format];
}

const char *import_state_name(enum import_state state)
{
    return STATES[state];
}

static bool find_name(const char *const *names, size_t count, const char *name, int *out)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) != 0)
            continue;
        *out = (int)i;
        return true;
    }
    return false;
}

bool import_format_from_name(const char *name, enum import_format *out)
{
    int found = 0;

    if (!find_name(FORMATS, ARRAY_COUNT(FORMATS), name, &found))
        return false;
    *out = (enum import_format)found;
    return true;
}

enum err_code import_job_new(struct import_job **out, struct err *err)
{
    *out = calloc(1, sizeof(**out));
    return *out != NULL ? ERR_OK : err_set(err, ERR_NO_MEMORY, "no memory for an import");
}

void import_job_free(struct import_job *job)
{
    if (job == NULL)
        return;
    free(job->token);
    free(job);
}

void import_job_refuse(struct import_job *job, uint64_t row, uint64_t at, const struct err *why)
{
    struct import_error *error;

    job->next.refused++;
    if (job->error_count == IMPORT_ERRORS_MAX)
        return;
    error = &job->errors[job->error_count++];
    *error = (struct import_error){.row = row, .at = at, .code = why->code};
    (void)snprintf(error->detail, sizeof(error->detail), "%.*s%s%.*s", 100, why->message,
                   why->pointer[0] == '\0' ? "" : " at ", 50, why->pointer);
}

void import_job_merge(struct import_job *job, const struct import_job *ahead, uint64_t base)
{
    job->next.rows += ahead->next.rows;
    job->next.refused += ahead->next.refused;
    for (size_t i = 0; i < ahead->error_count && job->error_count < IMPORT_ERRORS_MAX; i++) {
        job->errors[job->error_count] = ahead->errors[i];
        job->errors[job->error_count++].row += base;
    }
    memcpy(job->objects, ahead->objects, ahead->object_count * sizeof(job->objects[0]));
    job->object_count = ahead->object_count;
    job->npy_data_at = ahead->npy_data_at;
    job->npy_rows = ahead->npy_rows;
    job->npy_is_f16 = ahead->npy_is_f16;
}

/* --- writing --------------------------------------------------------------------------------- */

static void write_progress(struct json_writer *w, const char *key,
                           const struct import_progress *progress)
{
    json_key(w, key);
    json_begin_array(w);
    json_u64(w, progress->offset);
    json_u64(w, progress->rows);
    json_u64(w, progress->refused);
    json_end_array(w);
}

static void write_number(struct json_writer *w, const char *key, uint64_t value)
{
    json_key(w, key);
    json_u64(w, value);
}

static void write_word(struct json_writer *w, const char *key, const char *value)
{
    json_key(w, key);
    json_text(w, value);
}

static void write_lists(const struct import_job *job, struct json_writer *w)
{
    json_key(w, "objects");
    json_begin_array(w);
    for (size_t i = 0; i < job->object_count; i++) {
        json_begin_array(w);
        json_text(w, job->objects[i].name);
        json_u64(w, job->objects[i].stamp.clock);
        json_u64(w, job->objects[i].stamp.region);
        json_end_array(w);
    }
    json_end_array(w);
    json_key(w, "errors");
    json_begin_array(w);
    for (size_t i = 0; i < job->error_count; i++) {
        json_begin_array(w);
        json_u64(w, job->errors[i].row);
        json_u64(w, job->errors[i].at);
        json_text(w, err_word(job->errors[i].code));
        json_text(w, job->errors[i].detail);
        json_end_array(w);
    }
    json_end_array(w);
}

static void write_job(const struct import_job *job, struct buffer *out)
{
    char incarnation[2 * INCARNATION_BYTES + 1];
    struct json_writer w;

    text_hex_encode(incarnation, job->incarnation, INCARNATION_BYTES);
    json_writer_init(&w, out);
    json_begin_object(&w);
    write_word(&w, "collection", job->collection);
    write_word(&w, "incarnation", incarnation);
    write_word(&w, "format", import_format_name(job->format));
    write_word(&w, "state", import_state_name(job->state));
    write_word(&w, "id_prefix", job->id_prefix);
    write_number(&w, "bytes_total", job->bytes_total);
    write_number(&w, "errors_max", job->errors_max);
    write_progress(&w, "done", &job->done);
    write_progress(&w, "next", &job->next);
    json_key(&w, "pending");
    json_bool(&w, job->is_pending);
    write_number(&w, "npy_data_at", job->npy_data_at);
    write_number(&w, "npy_rows", job->npy_rows);
    json_key(&w, "npy_f16");
    json_bool(&w, job->npy_is_f16);
    write_number(&w, "created_us", job->created_us);
    write_number(&w, "changed_us", job->changed_us);
    write_number(&w, "busy_us", job->busy_us);
    write_lists(job, &w);
    if (job->token != NULL)
        write_word(&w, "token", job->token);
    json_end_object(&w);
}

static void key_of(char key[META_KEY_BYTES_MAX], const char *id)
{
    (void)snprintf(key, META_KEY_BYTES_MAX, KEY_PREFIX "%s", id);
}

enum err_code import_job_save(struct import_job *job, struct meta *meta, uint64_t now_us,
                              struct err *err)
{
    char key[META_KEY_BYTES_MAX];
    struct buffer text = {0};
    struct meta_put put = {.key = key, .expected = job->version};
    enum err_code rc;

    job->changed_us = now_us;
    key_of(key, job->id);
    write_job(job, &text);
    rc = buffer_check(&text, err);
    put.value = text.data;
    put.value_len = text.len;
    if (rc == ERR_OK)
        rc = meta_put(meta, &put, &job->version, err);
    buffer_free(&text);
    if (rc == ERR_CONFLICT)
        return err_set(err, ERR_VERSION_CONFLICT, "the import was changed by another request");
    return rc;
}

/* --- reading --------------------------------------------------------------------------------- */

static bool read_text(json_t *row, const char *name, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(row, name));
    int len = text == NULL ? -1 : snprintf(out, size, "%s", text);

    return len >= 0 && (size_t)len < size;
}

static bool read_integer(json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static bool read_number(json_t *row, const char *name, uint64_t *out)
{
    return read_integer(json_object_get(row, name), out);
}

static bool read_progress(json_t *row, const char *name, struct import_progress *out)
{
    json_t *list = json_object_get(row, name);

    return json_array_size(list) == 3 && read_integer(json_array_get(list, 0), &out->offset) &&
           read_integer(json_array_get(list, 1), &out->rows) &&
           read_integer(json_array_get(list, 2), &out->refused);
}

static bool read_objects(json_t *row, struct import_job *job)
{
    json_t *list = json_object_get(row, "objects"), *item;
    size_t i;

    if (!json_is_array(list) || json_array_size(list) > IMPORT_OBJECTS_MAX)
        return false;
    json_array_foreach(list, i, item)
    {
        struct import_object *object = &job->objects[job->object_count++];
        const char *name = json_string_value(json_array_get(item, 0));
        uint64_t region = 0;

        if (name == NULL || strlen(name) >= sizeof(object->name) ||
            !read_integer(json_array_get(item, 1), &object->stamp.clock) ||
            !read_integer(json_array_get(item, 2), &region) || region > UINT32_MAX)
            return false;
        memcpy(object->name, name, strlen(name) + 1);
        object->stamp.region = (uint32_t)region;
    }
    return true;
}

static bool read_errors(json_t *row, struct import_job *job)
{
    json_t *list = json_object_get(row, "errors"), *item;
    size_t i;

    if (!json_is_array(list) || json_array_size(list) > IMPORT_ERRORS_MAX)
        return false;
    json_array_foreach(list, i, item)
    {
        struct import_error *error = &job->errors[job->error_count++];
        const char *word = json_string_value(json_array_get(item, 2));
        const char *detail = json_string_value(json_array_get(item, 3));

        if (word == NULL || detail == NULL || strlen(detail) >= sizeof(error->detail) ||
            !read_integer(json_array_get(item, 0), &error->row) ||
            !read_integer(json_array_get(item, 1), &error->at))
            return false;
        error->code = err_from_word(word, strlen(word));
        memcpy(error->detail, detail, strlen(detail) + 1);
    }
    return true;
}

static bool read_names(json_t *row, struct import_job *job)
{
    char incarnation[2 * INCARNATION_BYTES + 1], format[16], state[16];
    const char *token = json_string_value(json_object_get(row, "token"));
    int found = 0;

    if (!read_text(row, "collection", job->collection, sizeof(job->collection)) ||
        !read_text(row, "id_prefix", job->id_prefix, sizeof(job->id_prefix)) ||
        !read_text(row, "incarnation", incarnation, sizeof(incarnation)) ||
        !text_hex_decode(job->incarnation, INCARNATION_BYTES, incarnation, strlen(incarnation)) ||
        !read_text(row, "format", format, sizeof(format)) ||
        !import_format_from_name(format, &job->format) ||
        !read_text(row, "state", state, sizeof(state)) ||
        !find_name(STATES, ARRAY_COUNT(STATES), state, &found))
        return false;
    job->state = (enum import_state)found;
    if (token == NULL)
        return true;
    job->token = strdup(token);
    return job->token != NULL;
}

static bool read_job(json_t *row, struct import_job *job)
{
    job->is_pending = json_is_true(json_object_get(row, "pending"));
    job->npy_is_f16 = json_is_true(json_object_get(row, "npy_f16"));
    return read_names(row, job) && read_number(row, "bytes_total", &job->bytes_total) &&
           read_number(row, "errors_max", &job->errors_max) &&
           read_progress(row, "done", &job->done) && read_progress(row, "next", &job->next) &&
           read_number(row, "npy_data_at", &job->npy_data_at) &&
           read_number(row, "npy_rows", &job->npy_rows) &&
           read_number(row, "created_us", &job->created_us) &&
           read_number(row, "changed_us", &job->changed_us) &&
           read_number(row, "busy_us", &job->busy_us) && read_objects(row, job) &&
           read_errors(row, job);
}

static enum err_code read_row(struct import_job *job, const struct meta_row *row, struct err *err)
{
    json_t *document = NULL;
    struct err ignored = {0};
    bool is_good = json_doc_parse(&document, row->value, row->value_len, &ignored) == ERR_OK &&
                   read_job(document, job);

    json_decref(document);
    job->version = row->version;
    if (!is_good)
        return err_set(err, ERR_CORRUPT, "the row of import %s makes no sense", job->id);
    return ERR_OK;
}

enum err_code import_job_load(struct import_job **out, struct meta *meta, const char *id,
                              const char *collection, struct err *err)
{
    char key[META_KEY_BYTES_MAX];
    struct import_job *job = NULL;
    struct meta_row row = {0};
    enum err_code rc = ERR_NOT_FOUND;

    *out = NULL;
    if (strlen(id) == IMPORT_ID_BYTES - 1) {
        key_of(key, id);
        rc = meta_get(meta, key, &row, err);
    }
    if (rc == ERR_OK)
        rc = import_job_new(&job, err);
    if (rc == ERR_OK) {
        memcpy(job->id, id, IMPORT_ID_BYTES);
        rc = read_row(job, &row, err);
    }
    meta_row_free(&row);
    if (rc == ERR_OK && strcmp(job->collection, collection) != 0)
        rc = ERR_NOT_FOUND;
    if (rc == ERR_NOT_FOUND)
        rc = err_set(err, rc, "collection '%s' has no such import", collection);
    if (rc == ERR_OK)
        *out = job;
    else
        import_job_free(job);
    return rc;
}

/* --- all of them ----------------------------------------------------------------------------- */

/* When a row was changed last; 0: it cannot be told. */
static uint64_t changed_us_of(const struct meta_row *row)
{
    json_t *document = NULL;
    struct err ignored = {0};
    uint64_t changed_us = 0;

    if (json_doc_parse(&document, row->value, row->value_len, &ignored) == ERR_OK)
        (void)read_number(document, "changed_us", &changed_us);
    json_decref(document);
    return changed_us;
}

enum err_code import_jobs_sweep(struct meta *meta, uint64_t now_us, struct err *err)
{
    struct meta_row *rows = NULL;
    size_t count = 0, left = 0;
    enum err_code rc = meta_list(meta, KEY_PREFIX, &rows, &count, err);

    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        uint64_t changed_us = changed_us_of(&rows[i]);

        if (changed_us >= now_us || now_us - changed_us < IMPORT_KEPT_US) {
            left++;
            continue;
        }
        rc = meta_delete(meta, rows[i].key, rows[i].version, err);
        if (rc != ERR_CONFLICT)
            continue;
        err_clear(err); /* it has just been changed */
        rc = ERR_OK;
        left++;
    }
    meta_rows_free(rows, count);
    if (rc == ERR_OK && left >= IMPORT_JOBS_MAX)
        rc = err_set(err, ERR_RATE_LIMITED, "there are %zu imports; each is kept for a day", left);
    return rc;
}
