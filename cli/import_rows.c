/* A source of an import: NDJSON, one record of the API a line, plain or compressed with zstd.
 *
 * A line that is not a JSON object is refused here; what an object may hold is the server's
 * business.  A record without an id gets one that is made of its line and the line's number: what
 * is sent again, after a failure or by another run, is the same record. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/import.h"
#include "cli/lines.h"
#include "common/base/arena.h"
#include "common/base/hash.h"
#include "common/base/json_reader.h"
#include "common/base/text.h"

struct rows {
    struct lines lines;
    struct arena arena;
};

static enum err_code check_line(struct rows *rows, const char *data, size_t len, bool *has_id,
                                struct err *err)
{
    struct json_reader reader;
    struct json_text key;
    enum json_kind kind;
    bool more = true;
    enum err_code rc;

    *has_id = false;

    arena_reset(&rows->arena);
    json_reader_init(&reader, data, len, &rows->arena, err);
    rc = json_peek(&reader, &kind);
    if (rc == ERR_OK && kind != JSON_KIND_OBJECT)
        rc = err_set(err, ERR_INVALID_ARGUMENT, "a record is an object");
    if (rc == ERR_OK)
        rc = json_object_begin(&reader);
    while (rc == ERR_OK && (rc = json_object_next(&reader, &key, &more)) == ERR_OK && more) {
        *has_id = *has_id || json_text_is(key, "id");
        rc = json_skip(&reader, NULL, NULL);
    }
    return rc == ERR_OK ? json_end(&reader) : rc;
}

/* The object with an id before its other members. */
static void write_with_id(uint64_t number, const char *data, size_t len, struct buffer *out)
{
    struct buffer line = {0};
    struct hash128 hash;
    size_t at = 0;

    buffer_append_u64(&line, number);
    buffer_append(&line, data, len);
    hash = hash_xxh128(line.data, line.failed ? 0 : line.len);
    out->failed = out->failed || line.failed;
    buffer_free(&line);
    while (data[at] != '{')
        at++;
    at++;
    while (strchr(" \t\r\n", data[at]) != NULL)
        at++;
    buffer_append_format(out, "{\"id\":\"%016" PRIx64 "%016" PRIx64 "\"%s", hash.high, hash.low,
                         data[at] == '}' ? "" : ",");
    buffer_append(out, data + at, len - at);
}

static enum err_code run_rows(struct import_source *source, struct import_sink *sink,
                              struct err *err)
{
    struct rows *rows = source->state;
    enum err_code rc;
    const char *data;
    size_t len;
    bool more;

    while ((rc = lines_next(&rows->lines, &data, &len, &more, err)) == ERR_OK && more) {
        struct err why = {0};
        bool has_id = false;
        struct buffer *out;

        if (len == 0)
            continue;
        out = import_sink_begin(sink);
        if (out == NULL)
            return ERR_OK;
        import_sink_progress(sink, rows->lines.read_bytes);
        if (check_line(rows, data, len, &has_id, &why) != ERR_OK) {
            import_sink_refuse(sink, rows->lines.number, &why);
            continue;
        }
        if (has_id)
            buffer_append(out, data, len);
        else
            write_with_id(rows->lines.number, data, len, out);
        import_sink_end(sink, rows->lines.number);
    }
    return rc;
}

static void close_rows(struct import_source *source)
{
    struct rows *rows = source->state;

    if (rows == NULL)
        return;
    lines_close(&rows->lines);
    arena_free(&rows->arena);
    free(rows);
    source->state = NULL;
}

/* Dimension of the vector in the first record; 0: it has none. */
static uint64_t first_dimension(struct rows *rows, const char *data, size_t len)
{
    struct json_reader reader;
    struct json_text key, text;
    struct err err = {0};
    uint64_t dimension = 0;
    bool more = true;
    enum err_code rc;

    json_reader_init(&reader, data, len, &rows->arena, &err);
    rc = json_object_begin(&reader);
    while (rc == ERR_OK && (rc = json_object_next(&reader, &key, &more)) == ERR_OK && more) {
        size_t count = 0, bad;
        enum json_kind kind;

        rc = json_peek(&reader, &kind);
        if (rc == ERR_OK && json_text_is(key, "vector") && kind == JSON_KIND_ARRAY) {
            rc = json_read_floats(&reader, NULL, 0, &count, &bad);
            dimension = rc == ERR_OK ? count : 0;
        } else if (rc == ERR_OK && json_text_is(key, "vector_base64") && kind == JSON_KIND_STRING) {
            rc = json_read_string(&reader, &text);
            if (rc == ERR_OK && text.len >= 4)
                dimension = (text.len / 4 * 3 - (text.data[text.len - 1] == '=') -
                             (text.data[text.len - 2] == '=')) /
                            sizeof(float);
        } else if (rc == ERR_OK) {
            rc = json_skip(&reader, NULL, NULL);
        }
    }
    arena_reset(&rows->arena);
    return dimension;
}

/* Look at the first record, then begin anew. */
static enum err_code look_ahead(struct import_source *source, struct err *err)
{
    struct rows *rows = source->state;
    const char *path = source->import->path, *data;
    size_t len = 0;
    bool more = true;
    enum err_code rc = ERR_OK;

    while (rc == ERR_OK && more && len == 0)
        rc = lines_next(&rows->lines, &data, &len, &more, err);
    if (rc != ERR_OK)
        return rc;
    if (more)
        source->dimension = first_dimension(rows, data, len);
    lines_close(&rows->lines);
    return lines_open(&rows->lines, path, err);
}

enum err_code import_rows_open(struct import_source *source, struct err *err)
{
    struct rows *rows = calloc(1, sizeof(*rows));
    struct stat info = {0};
    enum err_code rc;

    if (rows == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    source->state = rows;
    source->run = run_rows;
    source->close = close_rows;
    rc = lines_open(&rows->lines, source->import->path, err);
    if (rc == ERR_OK)
        rc = look_ahead(source, err);
    if (rc != ERR_OK)
        return rc;
    (void)stat(source->import->path, &info);
    source->units_total = rows->lines.file_bytes;
    source->unit = "bytes";
    (void)snprintf(source->fingerprint, sizeof(source->fingerprint), "rows %lld %lld.%ld",
                   (long long)info.st_size, (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    return ERR_OK;
}
