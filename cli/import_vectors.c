/* A source of an import: vectors in an .npy file, and a JSON object a row in a records file.
 *
 * Of a row's fields, id (a text, or a whole number as text; absent: the row's number from 0) and
 * text are the record's; the members of metadata, if it is an object, and all other fields become
 * its metadata.  Without a records file there are ids and vectors only. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/base64.h"
#include "cli/import.h"
#include "cli/lines.h"
#include "common/base/arena.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"
#include "common/base/npy.h"

struct vectors {
    struct npy npy;
    struct lines lines;
    bool has_records;
    float *row;
    struct arena arena;
    struct buffer metadata; /* members of the present row's, without braces */
};

/* The parts of a row, as JSON; data NULL: absent. */
struct row {
    struct json_text id; /* a JSON string, or digits */
    struct json_text text;
};

static void add_member(struct buffer *metadata, struct json_text key, struct json_text value)
{
    if (metadata->len > 0)
        buffer_append_byte(metadata, ',');
    json_escape(metadata, key.data, key.len);
    buffer_append_byte(metadata, ':');
    buffer_append(metadata, value.data, value.len);
}

/* The members of an object, as they stand. */
static void add_members(struct buffer *metadata, struct json_text object)
{
    size_t start = 1, end = object.len - 1;

    while (start < end && strchr(" \t\r\n", object.data[start]) != NULL)
        start++;
    if (start == end)
        return;
    if (metadata->len > 0)
        buffer_append_byte(metadata, ',');
    buffer_append(metadata, object.data + start, end - start);
}

static enum err_code check_id(enum json_kind kind, struct json_text id, struct err *err)
{
    size_t digits = id.len > 0 && id.data[0] == '-';

    if (kind == JSON_KIND_STRING)
        return ERR_OK;
    for (; kind == JSON_KIND_NUMBER && digits < id.len; digits++)
        if (id.data[digits] < '0' || id.data[digits] > '9')
            break;
    if (kind != JSON_KIND_NUMBER || digits < id.len)
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/id", "an id is a text or a whole number");
    return ERR_OK;
}

static enum err_code take_field(struct vectors *vectors, struct json_reader *reader,
                                struct json_text key, struct row *row)
{
    enum json_kind kind;
    struct json_text value;
    enum err_code rc = json_peek(reader, &kind);

    if (rc == ERR_OK)
        rc = json_skip(reader, &value, NULL);
    if (rc != ERR_OK || kind == JSON_KIND_NULL)
        return rc;
    if (json_text_is(key, "id")) {
        row->id = value;
        return check_id(kind, value, reader->err);
    }
    if (json_text_is(key, "text")) {
        row->text = value;
        if (kind != JSON_KIND_STRING)
            return err_set_at(reader->err, ERR_INVALID_ARGUMENT, "/text", "text has to be a text");
    } else if (json_text_is(key, "metadata") && kind == JSON_KIND_OBJECT) {
        add_members(&vectors->metadata, value);
    } else {
        add_member(&vectors->metadata, key, value);
    }
    return ERR_OK;
}

static enum err_code read_row(struct vectors *vectors, const char *data, size_t len,
                              struct row *row, struct err *err)
{
    struct json_reader reader;
    struct json_text key;
    bool more = true;
    enum err_code rc;

    *row = (struct row){0};
    buffer_reset(&vectors->metadata);
    arena_reset(&vectors->arena);
    json_reader_init(&reader, data, len, &vectors->arena, err);
    rc = json_object_begin(&reader);
    while (rc == ERR_OK) {
        rc = json_object_next(&reader, &key, &more);
        if (rc != ERR_OK || !more)
            break;
        rc = take_field(vectors, &reader, key, row);
    }
    return rc == ERR_OK ? json_end(&reader) : rc;
}

static void write_record(struct vectors *vectors, uint64_t number, const struct row *row,
                         struct buffer *out)
{
    bool is_text = row->id.data != NULL && row->id.data[0] == '"';

    if (row->id.data == NULL)
        buffer_append_format(out, "{\"id\":\"%" PRIu64 "\"", number);
    else if (is_text)
        buffer_append_text(out, "{\"id\":");
    else
        buffer_append_text(out, "{\"id\":\"");
    if (row->id.data != NULL)
        buffer_append(out, row->id.data, row->id.len);
    if (row->id.data != NULL && !is_text)
        buffer_append_byte(out, '"');
    npy_row_f32(&vectors->npy, number, vectors->row);
    buffer_append_text(out, ",\"vector_base64\":\"");
    base64_append(out, vectors->row, vectors->npy.cols * sizeof(float));
    buffer_append_byte(out, '"');
    if (row->text.data != NULL) {
        buffer_append_text(out, ",\"text\":");
        buffer_append(out, row->text.data, row->text.len);
    }
    if (vectors->metadata.len > 0) {
        buffer_append_text(out, ",\"metadata\":{");
        buffer_append(out, vectors->metadata.data, vectors->metadata.len);
        buffer_append_byte(out, '}');
    }
    buffer_append_byte(out, '}');
}

/* The next line that is not empty.  *more false: there is none. */
static enum err_code next_line(struct lines *lines, const char **data, size_t *len, bool *more,
                               struct err *err)
{
    enum err_code rc;

    do {
        rc = lines_next(lines, data, len, more, err);
    } while (rc == ERR_OK && *more && *len == 0);
    return rc;
}

static enum err_code run_vectors(struct import_source *source, struct import_sink *sink,
                                 struct err *err)
{
    struct vectors *vectors = source->state;
    const char *data = "{}";
    size_t len = 2;
    bool more = true;

    for (uint64_t number = 0; number < vectors->npy.rows; number++) {
        struct err why = {0};
        struct buffer *out;
        struct row row;
        enum err_code rc = ERR_OK;

        if (vectors->has_records)
            rc = next_line(&vectors->lines, &data, &len, &more, err);
        if (rc == ERR_OK && !more)
            rc = err_set(err, ERR_CONFIG, "%s ends after %" PRIu64 " rows, %s has %" PRIu64,
                         source->import->records, number, source->import->vectors,
                         vectors->npy.rows);
        if (rc != ERR_OK)
            return rc;
        rc = read_row(vectors, data, len, &row, &why);
        out = import_sink_begin(sink);
        if (out == NULL)
            return ERR_OK;
        import_sink_progress(sink, number + 1);
        if (rc == ERR_OK) {
            write_record(vectors, number, &row, out);
            import_sink_end(sink, number);
        } else {
            import_sink_refuse(sink, number, &why);
        }
    }
    if (vectors->has_records && next_line(&vectors->lines, &data, &len, &more, err) == ERR_OK &&
        more)
        return err_set(err, ERR_CONFIG, "%s has more rows than %s (%" PRIu64 ")",
                       source->import->records, source->import->vectors, vectors->npy.rows);
    return ERR_OK;
}

static void close_vectors(struct import_source *source)
{
    struct vectors *vectors = source->state;

    if (vectors == NULL)
        return;
    npy_close(&vectors->npy);
    lines_close(&vectors->lines);
    arena_free(&vectors->arena);
    buffer_free(&vectors->metadata);
    free(vectors->row);
    free(vectors);
    source->state = NULL;
}

static void describe(struct import_source *source, const char *vectors, const char *records)
{
    struct stat first = {0}, second = {0};

    (void)stat(vectors, &first);
    if (records != NULL)
        (void)stat(records, &second);
    (void)snprintf(
        source->fingerprint, sizeof(source->fingerprint), "vectors %lld %lld.%ld %lld %lld.%ld",
        (long long)first.st_size, (long long)first.st_mtim.tv_sec, first.st_mtim.tv_nsec,
        (long long)second.st_size, (long long)second.st_mtim.tv_sec, second.st_mtim.tv_nsec);
}

enum err_code import_vectors_open(struct import_source *source, struct err *err)
{
    const struct import *import = source->import;
    struct vectors *vectors = calloc(1, sizeof(*vectors));
    enum err_code rc;

    if (vectors == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    source->state = vectors;
    source->run = run_vectors;
    source->close = close_vectors;
    vectors->lines.fd = -1;
    rc = npy_open(import->vectors, &vectors->npy, err);
    if (rc == ERR_OK && vectors->npy.type == NPY_INT32)
        rc = err_set(err, ERR_CONFIG, "%s holds whole numbers, not vectors", import->vectors);
    if (rc == ERR_OK && vectors->npy.cols > DIMENSION_MAX)
        rc = err_set(err, ERR_CONFIG, "%s: dimension %u is above %d", import->vectors,
                     vectors->npy.cols, DIMENSION_MAX);
    if (rc == ERR_OK && import->records != NULL)
        rc = lines_open(&vectors->lines, import->records, err);
    if (rc == ERR_OK) {
        vectors->has_records = import->records != NULL;
        vectors->row = malloc(vectors->npy.cols * sizeof(float));
        if (vectors->row == NULL)
            rc = err_set(err, ERR_NO_MEMORY, "no memory");
    }
    if (rc != ERR_OK)
        return rc;
    source->units_total = vectors->npy.rows;
    source->unit = "rows";
    source->dimension = vectors->npy.cols;
    describe(source, import->vectors, import->records);
    return ERR_OK;
}
