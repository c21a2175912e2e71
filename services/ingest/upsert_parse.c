/* The hot reader of records: one pass over the body, nothing allocated but vectors and what has
 * escapes in it.  All or nothing: the first fault ends it, with the JSON pointer of where it is. */
#include "services/ingest/upsert_parse.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cluster/regions.h"
#include "common/base/checked.h"
#include "common/base/json_reader.h"
#include "common/base/text.h"
#include "services/ingest/metadata_check.h"

/* Fields that later issues bring: known, and refused as such. */
static const char *const LATER_RECORD[] = {"sparse_vector", "vectors", "text_fields", NULL};
static const char *const LATER_BODY[] = {"idempotency_key", NULL};

struct parse {
    struct json_reader reader;
    const struct upsert_schema *schema;
    struct arena *arena;
    struct err *err;
};

static bool is_one_of(struct json_text key, const char *const *names)
{
    for (; *names != NULL; names++)
        if (json_text_is(key, *names))
            return true;
    return false;
}

/* Put "/key" before the pointer of an error. */
static enum err_code at_key(struct parse *p, enum err_code rc, const char *key)
{
    char prefix[64];

    if (rc == ERR_OK)
        return ERR_OK;
    (void)snprintf(prefix, sizeof(prefix), "/%s", key);
    err_prefix_pointer(p->err, prefix);
    return rc;
}

static enum err_code unknown_key(struct parse *p, struct json_text key, const char *const *later)
{
    char pointer[ERR_POINTER_BYTES];
    int len = (int)MIN_OF(text_utf8_cut(key.data, key.len, 64), 64u);

    (void)snprintf(pointer, sizeof(pointer), "/%.*s", len, key.data);
    if (is_one_of(key, later))
        return err_set_at(p->err, ERR_NOT_SUPPORTED, pointer, "'%.*s' is not supported yet", len,
                          key.data);
    return err_set_at(p->err, ERR_UNKNOWN_FIELD, pointer, "unknown field '%.*s'", len, key.data);
}

enum err_code upsert_check_id(const char *id, size_t len, struct err *err)
{
    if (len == 0 || len > ID_BYTES_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "an id has 1 to %d bytes, got %zu", ID_BYTES_MAX,
                       len);
    if (memchr(id, '\0', len) != NULL || !text_is_utf8(id, len))
        return err_set(err, ERR_INVALID_ARGUMENT, "an id is UTF-8 without NUL");
    return ERR_OK;
}

/* A null counts as absent; *absent then. */
static enum err_code skip_null(struct parse *p, bool *absent)
{
    enum json_kind type;
    enum err_code rc = json_peek(&p->reader, &type);

    *absent = rc == ERR_OK && type == JSON_KIND_NULL;
    return *absent ? json_read_null(&p->reader) : rc;
}

static enum err_code parse_id(struct parse *p, struct upsert_record *record)
{
    struct json_text text;
    bool absent;
    enum err_code rc = skip_null(p, &absent);

    if (rc != ERR_OK || absent)
        return rc;
    rc = json_read_string(&p->reader, &text);
    if (rc == ERR_OK)
        rc = upsert_check_id(text.data, text.len, p->err);
    if (rc != ERR_OK)
        return rc;
    record->id = text.data;
    record->id_len = text.len;
    return ERR_OK;
}

static enum err_code wrong_dimension(struct parse *p, size_t got)
{
    return err_set(p->err, ERR_DIMENSION_MISMATCH, "collection '%s' has dimension %u, got %zu",
                   p->schema->collection, p->schema->dimension, got);
}

static enum err_code parse_vector(struct parse *p, struct upsert_record *record)
{
    size_t count = 0, bad = SIZE_MAX;
    char prefix[32];
    float *vector;
    bool absent;
    enum err_code rc = skip_null(p, &absent);

    if (rc != ERR_OK || absent)
        return rc;
    vector = arena_alloc(p->arena, p->schema->dimension, sizeof(float));
    if (vector == NULL)
        return err_set(p->err, ERR_NO_MEMORY, "no memory for a vector");
    rc = json_read_floats(&p->reader, vector, p->schema->dimension, &count, &bad);
    if (rc == ERR_INVALID_ARGUMENT && bad != SIZE_MAX) {
        (void)snprintf(prefix, sizeof(prefix), "/%zu", bad);
        err_prefix_pointer(p->err, prefix);
    }
    if (rc != ERR_OK)
        return rc;
    if (count != p->schema->dimension)
        return wrong_dimension(p, count);
    record->vector = vector;
    return ERR_OK;
}

static enum err_code parse_base64(struct parse *p, struct upsert_record *record)
{
    size_t wanted = p->schema->dimension * sizeof(float), got;
    struct json_text text;
    float *vector;
    bool absent;
    enum err_code rc = skip_null(p, &absent);

    if (rc != ERR_OK || absent)
        return rc;
    rc = json_read_string(&p->reader, &text);
    if (rc != ERR_OK)
        return rc;
    vector = arena_alloc(p->arena, text.len / 4 + 1, 3);
    if (vector == NULL)
        return err_set(p->err, ERR_NO_MEMORY, "no memory for a vector");
    if (!text_base64_decode(vector, &got, text.data, text.len))
        return err_set(p->err, ERR_INVALID_ARGUMENT, "this is not base64");
    if (got % sizeof(float) != 0)
        return err_set(p->err, ERR_DIMENSION_MISMATCH, "%zu bytes are no whole number of float32",
                       got);
    if (got != wanted)
        return wrong_dimension(p, got / sizeof(float));
    for (uint32_t i = 0; i < p->schema->dimension; i++)
        if (!isfinite(vector[i]))
            return err_set(p->err, ERR_INVALID_ARGUMENT, "number %u is not finite", i);
    record->vector = vector;
    return ERR_OK;
}

static enum err_code parse_text(struct parse *p, struct upsert_record *record)
{
    struct json_text text;
    bool absent;
    enum err_code rc = skip_null(p, &absent);

    if (rc != ERR_OK || absent)
        return rc;
    rc = json_read_string(&p->reader, &text);
    if (rc != ERR_OK)
        return rc;
    if (text.len > TEXT_BYTES_MAX)
        return err_set(p->err, ERR_PAYLOAD_TOO_LARGE, "a text has at most %zu bytes, got %zu",
                       TEXT_BYTES_MAX, text.len);
    record->text = text.data;
    record->text_len = text.len;
    return ERR_OK;
}

/* The object that comes next. */
static enum err_code read_metadata(struct parse *p, struct json_text *raw)
{
    enum json_kind type;
    uint32_t depth;
    enum err_code rc = json_peek(&p->reader, &type);

    if (rc == ERR_OK && type != JSON_KIND_OBJECT)
        rc = err_set(p->err, ERR_INVALID_ARGUMENT, "metadata has to be an object");
    if (rc == ERR_OK)
        rc = json_skip(&p->reader, raw, &depth);
    if (rc != ERR_OK)
        return rc;
    if (raw->len > METADATA_BYTES_MAX)
        return err_set(p->err, ERR_PAYLOAD_TOO_LARGE, "metadata has at most %zu bytes, got %zu",
                       METADATA_BYTES_MAX, raw->len);
    if (depth > METADATA_DEPTH_MAX)
        return err_set(p->err, ERR_INVALID_ARGUMENT, "metadata is nested %u deep, at most %d",
                       depth, METADATA_DEPTH_MAX);
    return metadata_check_keys(raw->data, raw->len, p->arena, p->err);
}

static enum err_code parse_metadata(struct parse *p, struct upsert_record *record)
{
    struct json_text raw;
    bool absent;
    enum err_code rc = skip_null(p, &absent);

    if (rc == ERR_OK && !absent)
        rc = read_metadata(p, &raw);
    if (rc != ERR_OK || absent)
        return rc;
    record->metadata = raw.data;
    record->metadata_len = raw.len;
    return ERR_OK;
}

enum err_code upsert_check_metadata(const char *data, size_t len, struct arena *arena,
                                    struct err *err)
{
    struct parse p = {.arena = arena, .err = err};
    struct json_text raw;
    enum err_code rc;

    json_reader_init(&p.reader, data, len, arena, err);
    rc = read_metadata(&p, &raw);
    return rc == ERR_OK ? json_end(&p.reader) : rc;
}

/* One bit per field, so that none is given twice. */
enum field { HAS_ID = 1, HAS_VECTOR = 2, HAS_BASE64 = 4, HAS_TEXT = 8, HAS_METADATA = 16 };

static enum err_code parse_field(struct parse *p, struct json_text key,
                                 struct upsert_record *record, uint32_t *seen)
{
    static const struct {
        const char *name;
        enum err_code (*parse)(struct parse *p, struct upsert_record *record);
        uint32_t bit;
    } FIELDS[] = {
        {"id", parse_id, HAS_ID},
        {"vector", parse_vector, HAS_VECTOR},
        {"text", parse_text, HAS_TEXT},
        {"metadata", parse_metadata, HAS_METADATA},
        {"vector_base64", parse_base64, HAS_BASE64},
    };
    const float *before = record->vector;
    enum err_code rc;

    for (size_t i = 0; i < ARRAY_COUNT(FIELDS); i++) {
        if (!json_text_is(key, FIELDS[i].name))
            continue;
        if ((*seen & FIELDS[i].bit) != 0)
            return at_key(p, err_set(p->err, ERR_INVALID_JSON, "a field is given twice"),
                          FIELDS[i].name);
        *seen |= FIELDS[i].bit;
        rc = FIELDS[i].parse(p, record);
        if (rc == ERR_OK && before != NULL && record->vector != before)
            rc = err_set(p->err, ERR_INVALID_ARGUMENT, "give vector or vector_base64, not both");
        return at_key(p, rc, FIELDS[i].name);
    }
    return unknown_key(p, key, LATER_RECORD);
}

static enum err_code parse_record(struct parse *p, struct upsert_record *record)
{
    struct json_text key;
    uint32_t seen = 0;
    bool more = true;
    enum err_code rc;

    *record = (struct upsert_record){0};
    rc = json_object_begin(&p->reader);
    while (rc == ERR_OK) {
        rc = json_object_next(&p->reader, &key, &more);
        if (rc != ERR_OK || !more)
            return rc;
        rc = parse_field(p, key, record, &seen);
    }
    return rc;
}

static enum err_code grow(struct parse *p, struct upsert *out, size_t *room)
{
    size_t size = *room == 0 ? 16 : *room * 2;
    struct upsert_record *records;

    if (out->count < *room)
        return ERR_OK;
    records = arena_alloc(p->arena, size, sizeof(*records));
    if (records == NULL)
        return err_set(p->err, ERR_NO_MEMORY, "no memory for records");
    if (out->count > 0)
        memcpy(records, out->records, out->count * sizeof(*records));
    out->records = records;
    *room = size;
    return ERR_OK;
}

static enum err_code parse_records(struct parse *p, struct upsert *out)
{
    enum err_code rc = json_array_begin(&p->reader);
    char prefix[32];
    size_t room = 0;
    bool more;

    while (rc == ERR_OK) {
        rc = json_array_next(&p->reader, &more);
        if (rc != ERR_OK || !more)
            break;
        if (out->count == RECORDS_PER_REQUEST_MAX)
            return err_set(p->err, ERR_INVALID_ARGUMENT, "at most %d records a request",
                           RECORDS_PER_REQUEST_MAX);
        rc = grow(p, out, &room);
        if (rc != ERR_OK)
            break;
        rc = parse_record(p, &out->records[out->count]);
        if (rc != ERR_OK) {
            (void)snprintf(prefix, sizeof(prefix), "/%zu", out->count);
            err_prefix_pointer(p->err, prefix);
            break;
        }
        out->count++;
    }
    if (rc == ERR_OK && out->count == 0)
        rc = err_set(p->err, ERR_INVALID_ARGUMENT, "at least one record is needed");
    return rc;
}

static enum err_code parse_conflict(struct parse *p, struct upsert *out)
{
    struct json_text text;
    enum err_code rc = json_read_string(&p->reader, &text);

    if (rc != ERR_OK)
        return rc;
    if (json_text_is(text, "replace"))
        out->on_conflict = CONFLICT_REPLACE;
    else if (json_text_is(text, "skip"))
        out->on_conflict = CONFLICT_SKIP;
    else if (json_text_is(text, "fail"))
        out->on_conflict = CONFLICT_FAIL;
    else
        return err_set(p->err, ERR_INVALID_ARGUMENT,
                       "on_conflict has to be \"replace\", \"skip\" or \"fail\"");
    return ERR_OK;
}

static enum err_code parse_wait(struct parse *p, struct upsert *out)
{
    struct json_text text;
    enum err_code rc = json_read_string(&p->reader, &text);

    if (rc != ERR_OK)
        return rc;
    out->wait_searchable = json_text_is(text, "searchable");
    if (!out->wait_searchable && !json_text_is(text, "committed"))
        return err_set(p->err, ERR_INVALID_ARGUMENT,
                       "wait has to be \"committed\" or \"searchable\"");
    return ERR_OK;
}

/* How many regions there are is looked at later. */
static enum err_code parse_quorum(struct parse *p, struct upsert *out)
{
    return json_read_u64(&p->reader, 1, REGIONS_MAX + 1, &out->write_quorum);
}

static enum err_code parse_timeout(struct parse *p, struct upsert *out)
{
    return json_read_u64(&p->reader, 1, DEADLINE_MS_MAX, &out->timeout_ms);
}

static enum err_code parse_member(struct parse *p, struct json_text key, struct upsert *out,
                                  uint32_t *seen)
{
    static const struct {
        const char *name;
        enum err_code (*parse)(struct parse *p, struct upsert *out);
        bool optional; /* null counts as absent */
    } MEMBERS[] = {
        {"records", parse_records, false},   {"on_conflict", parse_conflict, true},
        {"wait", parse_wait, true},          {"write_quorum", parse_quorum, true},
        {"timeout_ms", parse_timeout, true},
    };

    for (size_t i = 0; i < ARRAY_COUNT(MEMBERS); i++) {
        bool absent = false;
        enum err_code rc = ERR_OK;

        if (!json_text_is(key, MEMBERS[i].name))
            continue;
        if ((*seen & 1u << i) != 0)
            rc = err_set(p->err, ERR_INVALID_JSON, "a field is given twice");
        *seen |= 1u << i;
        if (rc == ERR_OK && MEMBERS[i].optional)
            rc = skip_null(p, &absent);
        if (rc == ERR_OK && !absent)
            rc = MEMBERS[i].parse(p, out);
        return at_key(p, rc, MEMBERS[i].name);
    }
    return unknown_key(p, key, LATER_BODY);
}

enum err_code upsert_parse(struct upsert *out, const struct upsert_schema *schema, const void *body,
                           size_t len, struct arena *arena, struct err *err)
{
    struct parse p = {.schema = schema, .arena = arena, .err = err};
    struct json_text key;
    uint32_t seen = 0;
    bool more = true;
    enum err_code rc;

    assert(schema->dimension >= 1 && schema->dimension <= DIMENSION_MAX);
    *out = (struct upsert){.timeout_ms = WRITE_DEADLINE_MS_DEFAULT};
    json_reader_init(&p.reader, body, len, arena, err);
    rc = json_object_begin(&p.reader);
    while (rc == ERR_OK && more) {
        rc = json_object_next(&p.reader, &key, &more);
        if (rc == ERR_OK && more)
            rc = parse_member(&p, key, out, &seen);
    }
    if (rc == ERR_OK)
        rc = json_end(&p.reader);
    if (rc == ERR_OK && out->count == 0)
        rc = err_set_at(err, ERR_INVALID_ARGUMENT, "/records", "records are missing");
    return rc;
}

enum err_code upsert_parse_record(struct upsert_record *out, const struct upsert_schema *schema,
                                  const void *body, size_t len, struct arena *arena,
                                  struct err *err)
{
    struct parse p = {.schema = schema, .arena = arena, .err = err};
    enum err_code rc;

    json_reader_init(&p.reader, body, len, arena, err);
    rc = parse_record(&p, out);
    return rc == ERR_OK ? json_end(&p.reader) : rc;
}
