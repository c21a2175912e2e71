/* Rows out of a part of an upload: see import_parse.h. */
#include "services/ingest/import_parse.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/env.h"
#include "common/base/npy.h"
#include "common/base/text.h"
#include "services/ingest/upsert_parse.h"

static enum import_read refused(enum err_code rc)
{
    assert(rc != ERR_OK);
    /* No fault of the row's. */
    return rc == ERR_NO_MEMORY ? IMPORT_READ_FAILED : IMPORT_READ_REFUSED;
}

/* What all formats share: it fits, and nothing has to be made of it first. */
static enum import_read check_row(const struct import_part *part, const struct bulk_row *row,
                                  struct err *err)
{
    if (bulk_row_bytes(row, part->collection->dimension) > BULK_ROW_BYTES_MAX)
        return refused(err_set(err, ERR_PAYLOAD_TOO_LARGE, "a record has at most %zu bytes",
                               BULK_ROW_BYTES_MAX));
    if (row->vector == NULL && row->text != NULL && part->collection->embedder[0] != '\0')
        return refused(
            err_set(err, ERR_NOT_SUPPORTED, "a text without a vector: imports do not embed texts"));
    return IMPORT_READ_ROW;
}

/* --- ndjson ---------------------------------------------------------------------------------- */

static bool is_blank(const uint8_t *line, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

/* The next line that is not blank; false: there is none whole. */
static bool next_line(struct import_part *part, const uint8_t **line, size_t *len)
{
    while (part->at < part->len) {
        const uint8_t *begin = part->body + part->at;
        size_t left = part->len - part->at;
        const uint8_t *end = memchr(begin, '\n', left);

        if (end == NULL && !part->is_final)
            return false;
        part->row_at = part->at;
        *line = begin;
        *len = end == NULL ? left : (size_t)(end - begin);
        part->at += *len + (end != NULL);
        if (!is_blank(begin, *len))
            return true;
    }
    return false;
}

static enum import_read next_ndjson(struct import_part *part, struct bulk_row *row, struct err *err)
{
    struct upsert_schema schema = {.collection = part->collection->name,
                                   .dimension = part->collection->dimension};
    struct upsert_record record;
    const uint8_t *line;
    size_t len;
    char *id;
    enum err_code rc;

    if (!next_line(part, &line, &len))
        return IMPORT_READ_END;
    part->row = part->next_row++;
    rc = upsert_parse_record(&record, &schema, line, len, &part->arena, err);
    if (rc != ERR_OK)
        return refused(rc);
    *row = (struct bulk_row){.vector = record.vector,
                             .id = record.id,
                             .id_len = record.id_len,
                             .text = record.text,
                             .text_len = record.text_len,
                             .metadata = record.metadata,
                             .metadata_len = record.metadata_len};
    if (row->id == NULL) {
        if ((id = arena_alloc(&part->arena, 37, 1)) == NULL)
            return refused(err_set(err, ERR_NO_MEMORY, "no memory for an id"));
        text_uuid7(id, part->env);
        row->id = id;
        row->id_len = 36;
    }
    return check_row(part, row, err);
}

/* --- binary ---------------------------------------------------------------------------------- */

static enum err_code check_content(struct import_part *part, const struct bulk_row *row,
                                   struct err *err)
{
    enum err_code rc = upsert_check_id(row->id, row->id_len, err);

    if (rc == ERR_OK && row->vector != NULL &&
        !record_is_finite(row->vector, part->collection->dimension * sizeof(float)))
        rc = err_set(err, ERR_INVALID_ARGUMENT, "a vector with a number that is not finite");
    if (rc == ERR_OK && row->text_len > TEXT_BYTES_MAX)
        rc = err_set(err, ERR_PAYLOAD_TOO_LARGE, "a text has at most %zu bytes, got %zu",
                     TEXT_BYTES_MAX, row->text_len);
    if (rc == ERR_OK && row->text != NULL &&
        (memchr(row->text, 0, row->text_len) != NULL || !text_is_utf8(row->text, row->text_len)))
        rc = err_set(err, ERR_INVALID_ARGUMENT, "a text is UTF-8 without NUL");
    if (rc == ERR_OK && row->metadata != NULL)
        rc = upsert_check_metadata(row->metadata, row->metadata_len, &part->arena, err);
    return rc;
}

static enum import_read next_binary(struct import_part *part, struct bulk_row *row, struct err *err)
{
    const uint8_t *at = part->body + part->at;
    size_t left = part->len - part->at, len = bulk_row_length(at, left);
    enum err_code rc;

    if (left < sizeof(uint32_t))
        return IMPORT_READ_END;
    if (!bulk_row_length_is_possible(len)) {
        (void)err_set(err, ERR_INVALID_ARGUMENT, "byte %llu of the upload: a row of %zu bytes",
                      (unsigned long long)(part->job->done.offset + part->at), len);
        return IMPORT_READ_FAILED;
    }
    if (len > left)
        return IMPORT_READ_END;
    part->row_at = part->at;
    part->row = part->next_row++;
    part->at += len;
    rc = bulk_row_decode(row, part->collection->dimension, at, len, err);
    if (rc == ERR_CORRUPT)
        rc = err->code = ERR_INVALID_ARGUMENT;
    if (rc == ERR_OK)
        rc = check_content(part, row, err);
    return rc == ERR_OK ? check_row(part, row, err) : refused(rc);
}

/* --- npy ------------------------------------------------------------------------------------- */

static size_t npy_row_bytes(const struct import_part *part)
{
    return part->collection->dimension * (part->job->npy_is_f16 ? 2 : sizeof(float));
}

/* The header, with which the first part begins. */
static enum err_code read_npy_head(struct import_part *part, struct err *err)
{
    struct npy npy;
    enum err_code rc = npy_parse_head(part->body, part->len, &npy, err);

    if (rc == ERR_OK && npy.type == NPY_INT32)
        rc = err_set(err, ERR_INVALID_ARGUMENT, "npy: whole numbers are no vectors");
    if (rc == ERR_OK && npy.cols != part->collection->dimension)
        rc = err_set(err, ERR_DIMENSION_MISMATCH, "collection '%s' has dimension %u, got %u",
                     part->collection->name, part->collection->dimension, npy.cols);
    if (rc == ERR_OK && npy.rows > INT64_MAX)
        rc = err_set(err, ERR_INVALID_ARGUMENT, "npy: more rows than there can be");
    if (rc != ERR_OK)
        return rc;
    part->job->npy_data_at = (uint64_t)(npy.data - part->body);
    part->job->npy_rows = npy.rows;
    part->job->npy_is_f16 = npy.type == NPY_FLOAT16;
    part->at = (size_t)part->job->npy_data_at;
    return ERR_OK;
}

/* The row's numbers as float32. */
static const void *npy_vector(struct import_part *part, const uint8_t *at)
{
    uint32_t dim = part->collection->dimension;

    if (!part->job->npy_is_f16)
        return at;
    if (part->vector == NULL && (part->vector = array_alloc(dim, sizeof(float))) == NULL)
        return NULL;
    for (uint32_t i = 0; i < dim; i++)
        part->vector[i] = npy_half((uint16_t)(at[2 * i] | at[2 * i + 1] << 8));
    return part->vector;
}

static enum import_read next_npy(struct import_part *part, struct bulk_row *row, struct err *err)
{
    size_t bytes;
    char *id;

    if (part->job->npy_data_at == 0 && read_npy_head(part, err) != ERR_OK)
        return IMPORT_READ_FAILED;
    bytes = npy_row_bytes(part);
    if (part->next_row == part->job->npy_rows || part->len - part->at < bytes)
        return IMPORT_READ_END;
    part->row_at = part->at;
    part->row = part->next_row++;
    part->at += bytes;
    id = arena_alloc(&part->arena, IMPORT_PREFIX_BYTES + 24, 1);
    *row = (struct bulk_row){.vector = npy_vector(part, part->body + part->row_at), .id = id};
    if (id == NULL || row->vector == NULL)
        return refused(err_set(err, ERR_NO_MEMORY, "no memory for a row"));
    row->id_len = (size_t)snprintf(id, IMPORT_PREFIX_BYTES + 24, "%s%llu", part->job->id_prefix,
                                   (unsigned long long)part->row);
    if (!record_is_finite(row->vector, part->collection->dimension * sizeof(float)))
        return refused(
            err_set(err, ERR_INVALID_ARGUMENT, "a vector with a number that is not finite"));
    return check_row(part, row, err);
}

/* --- all ------------------------------------------------------------------------------------- */

enum import_read import_part_next(struct import_part *part, struct bulk_row *row, struct err *err)
{
    arena_reset(&part->arena);
    switch (part->job->format) {
    case IMPORT_NDJSON:
        return next_ndjson(part, row, err);
    case IMPORT_BINARY:
        return next_binary(part, row, err);
    case IMPORT_NPY:
        return next_npy(part, row, err);
    }
    return IMPORT_READ_END;
}

enum err_code import_part_check_end(const struct import_part *part, struct err *err)
{
    const struct import_job *job = part->job;

    if (part->is_final && part->at < part->len)
        return err_set(err, ERR_INVALID_ARGUMENT,
                       "the upload ends inside a row, or behind its last");
    if (part->is_final && job->format == IMPORT_NPY && job->npy_data_at > 0 &&
        part->next_row < job->npy_rows)
        return err_set(err, ERR_INVALID_ARGUMENT, "the upload ends with row %llu of %llu",
                       (unsigned long long)part->next_row, (unsigned long long)job->npy_rows);
    if (part->at == 0 && part->len > 0)
        return err_set(err, ERR_INVALID_ARGUMENT, "the part holds no whole row");
    return ERR_OK;
}

void import_part_free(struct import_part *part)
{
    arena_free(&part->arena);
    free(part->vector);
}
