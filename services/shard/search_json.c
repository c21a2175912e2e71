/* The JSON twin of a binary search, for people and tests: the same question, the same answer.
 *
 *   {"incarnation":"32 hex digits","partitions":[0,3],"vector":[…],"k":10,"ef":0,"recall":0,
 *    "exact":false,"bound":1.5,"filter":{…},"include":["text","metadata","vector"],
 *    "read_token":"rt1.…","fresh":false,"serve_stale":false,"max_staleness_ms":100,
 *    "wait_ms":1000,"explain":true}
 *
 * Only incarnation, partitions, vector and k must be there.  The answer:
 *
 *   {"region":7,"served":[[0,12],[3,9]],"staleness_ms":3.5,"stale":false,"seen":"rt1.…",
 *    "map_version":1,"rows":[{"id":"a","version":"clock-region","partition":0,"distance":0.25,
 *    "text":"…","metadata":{…},"vector":[…]}],"explain":{…}} */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "services/shard/ask.h"

#define MILLISECONDS_MAX 1e12

enum given { GIVEN_INCARNATION = 1, GIVEN_PARTITIONS = 2, GIVEN_VECTOR = 4, GIVEN_K = 8 };

struct decoding {
    struct json_reader reader;
    struct request *req;
    struct wire_question *question;
    uint32_t given; /* enum given */
};

typedef enum err_code member_fn(struct decoding *d);

static enum err_code read_incarnation(struct decoding *d)
{
    struct json_text text;
    enum err_code code = json_read_string(&d->reader, &text);

    if (code != ERR_OK)
        return code;
    d->given |= GIVEN_INCARNATION;
    if (text.len != 2 * INCARNATION_BYTES ||
        !text_hex_decode(d->question->incarnation, INCARNATION_BYTES, text.data, text.len))
        return err_set(&d->req->err, ERR_INVALID_ARGUMENT, "not 32 hexadecimal digits");
    return ERR_OK;
}

static enum err_code read_partitions(struct decoding *d)
{
    enum err_code code = json_array_begin(&d->reader);
    bool more = false;

    d->given |= GIVEN_PARTITIONS;
    while (code == ERR_OK && (code = json_array_next(&d->reader, &more)) == ERR_OK && more) {
        uint64_t partition;

        code = json_read_u64(&d->reader, 0, PARTITIONS_MAX - 1, &partition);
        if (code == ERR_OK)
            partition_set_add(&d->question->partitions, (uint32_t)partition);
    }
    return code;
}

static enum err_code read_vector(struct decoding *d)
{
    float *vector;
    size_t count = 0, bad = 0;
    enum err_code code;

    /* A body of many would take 32 KiB for each. */
    if ((d->given & GIVEN_VECTOR) != 0)
        return err_set(&d->req->err, ERR_INVALID_ARGUMENT, "given twice");
    vector = arena_alloc(&d->req->arena, DIMENSION_MAX, sizeof(float));
    if (vector == NULL)
        return err_set(&d->req->err, ERR_NO_MEMORY, "no memory for a vector");
    code = json_read_floats(&d->reader, vector, DIMENSION_MAX, &count, &bad);
    if (code != ERR_OK)
        return code;
    if (count < 1 || count > DIMENSION_MAX)
        return err_set(&d->req->err, ERR_INVALID_ARGUMENT, "%zu numbers, not 1..%d", count,
                       DIMENSION_MAX);
    d->given |= GIVEN_VECTOR;
    d->question->vector = vector;
    d->question->dim = (uint32_t)count;
    return ERR_OK;
}

static enum err_code read_number(struct decoding *d, uint64_t min, uint64_t max, uint32_t *out)
{
    uint64_t value;
    enum err_code code = json_read_u64(&d->reader, min, max, &value);

    if (code == ERR_OK)
        *out = (uint32_t)value;
    return code;
}

static enum err_code read_k(struct decoding *d)
{
    d->given |= GIVEN_K;
    return read_number(d, 1, TOP_K_MAX, &d->question->k);
}

static enum err_code read_ef(struct decoding *d)
{
    return read_number(d, 0, SEARCH_EF_MAX, &d->question->ef);
}

static enum err_code read_recall(struct decoding *d)
{
    double recall;
    enum err_code code = json_read_double(&d->reader, &recall);

    if (code == ERR_OK && !wire_recall_is_valid((float)recall))
        return err_set(&d->req->err, ERR_INVALID_ARGUMENT, "%g is not in 0.5..1", recall);
    if (code == ERR_OK)
        d->question->recall = (float)recall;
    return code;
}

static enum err_code read_wait(struct decoding *d)
{
    return read_number(d, 1, DEADLINE_MS_MAX, &d->question->wait_ms);
}

static enum err_code read_exact(struct decoding *d)
{
    return json_read_bool(&d->reader, &d->question->exact);
}

static enum err_code read_fresh(struct decoding *d)
{
    return json_read_bool(&d->reader, &d->question->fresh);
}

static enum err_code read_serve_stale(struct decoding *d)
{
    return json_read_bool(&d->reader, &d->question->serve_stale);
}

static enum err_code read_explain(struct decoding *d)
{
    return json_read_bool(&d->reader, &d->question->explain);
}

static enum err_code read_bound(struct decoding *d)
{
    double bound;
    enum err_code code = json_read_double(&d->reader, &bound);

    if (code == ERR_OK)
        d->question->bound = (float)bound;
    return code;
}

static enum err_code read_staleness(struct decoding *d)
{
    double milliseconds;
    enum err_code code = json_read_double(&d->reader, &milliseconds);

    if (code != ERR_OK)
        return code;
    if (milliseconds < 0 || milliseconds > MILLISECONDS_MAX)
        return err_set(&d->req->err, ERR_INVALID_ARGUMENT, "not in 0..1e12");
    d->question->max_staleness_ns = (uint64_t)(milliseconds * (double)NS_PER_MS);
    return ERR_OK;
}

static enum err_code read_filter(struct decoding *d)
{
    struct json_text raw;
    enum err_code code = json_skip(&d->reader, &raw, NULL);

    if (code == ERR_OK) {
        d->question->filter = raw.data;
        d->question->filter_len = raw.len;
    }
    return code;
}

static enum err_code read_include(struct decoding *d)
{
    enum err_code code = json_array_begin(&d->reader);
    bool more = false;

    while (code == ERR_OK && (code = json_array_next(&d->reader, &more)) == ERR_OK && more) {
        struct json_text text;

        code = json_read_string(&d->reader, &text);
        if (code != ERR_OK)
            break;
        if (json_text_is(text, "text"))
            d->question->include |= INCLUDE_TEXT;
        else if (json_text_is(text, "metadata"))
            d->question->include |= INCLUDE_METADATA;
        else if (json_text_is(text, "vector"))
            d->question->include |= INCLUDE_VECTOR;
        else
            code = err_set(&d->req->err, ERR_INVALID_ARGUMENT, "not text, metadata or vector");
    }
    return code;
}

static enum err_code read_token(struct decoding *d)
{
    struct json_text text;
    struct token token = {0};
    struct token *out = &d->question->demands;
    enum err_code code = json_read_string(&d->reader, &text);

    if (code == ERR_OK)
        code = token_from_text(&token, text.data, text.len, &d->req->err);
    if (code == ERR_OK) {
        /* The question's token lives in the arena. */
        out->entries = arena_alloc(&d->req->arena, token.count, sizeof(*out->entries));
        if (out->entries == NULL)
            code = err_set(&d->req->err, ERR_NO_MEMORY, "no memory for a token");
        else if (token.count > 0)
            memcpy(out->entries, token.entries, token.count * sizeof(*out->entries));
        out->count = code == ERR_OK ? token.count : 0;
        out->size = out->count;
    }
    token_free(&token);
    return code;
}

static const struct member {
    const char *name;
    member_fn *read;
} members[] = {
    {"incarnation", read_incarnation},
    {"partitions", read_partitions},
    {"vector", read_vector},
    {"k", read_k},
    {"ef", read_ef},
    {"recall", read_recall},
    {"exact", read_exact},
    {"bound", read_bound},
    {"filter", read_filter},
    {"include", read_include},
    {"read_token", read_token},
    {"fresh", read_fresh},
    {"serve_stale", read_serve_stale},
    {"max_staleness_ms", read_staleness},
    {"wait_ms", read_wait},
    {"explain", read_explain},
};

static enum err_code read_member(struct decoding *d, struct json_text key)
{
    char pointer[32];

    for (size_t i = 0; i < ARRAY_COUNT(members); i++) {
        enum err_code code;

        if (!json_text_is(key, members[i].name))
            continue;
        code = members[i].read(d);
        snprintf(pointer, sizeof(pointer), "/%s", members[i].name);
        if (code != ERR_OK && d->req->err.pointer[0] == '\0')
            err_prefix_pointer(&d->req->err, pointer);
        return code;
    }
    return err_set(&d->req->err, ERR_UNKNOWN_FIELD, "unknown field '%.*s'",
                   key.len > 64 ? 64 : (int)key.len, key.data);
}

static enum err_code decode(struct request *req, struct wire_question *question)
{
    static const uint32_t all = GIVEN_INCARNATION | GIVEN_PARTITIONS | GIVEN_VECTOR | GIVEN_K;
    struct decoding d = {.req = req, .question = question};
    struct json_text key;
    bool more = false;
    enum err_code code;

    question->op = WIRE_SEARCH;
    question->max_staleness_ns = NEVER_NS;
    question->bound = INFINITY;
    json_reader_init(&d.reader, req->body, req->body_len, &req->arena, &req->err);
    code = json_object_begin(&d.reader);
    while (code == ERR_OK) {
        code = json_object_next(&d.reader, &key, &more);
        if (code != ERR_OK || !more)
            break;
        code = read_member(&d, key);
    }
    if (code == ERR_OK)
        code = json_end(&d.reader);
    if (code == ERR_OK && d.given != all)
        code = err_set(&req->err, ERR_INVALID_ARGUMENT,
                       "incarnation, partitions, vector and k must be given");
    return code;
}

static void write_row(struct json_writer *w, const struct wire_row *row)
{
    char version[STAMP_TEXT_BYTES];

    stamp_to_text(version, row->stamp);
    json_begin_object(w);
    json_key(w, "id");
    json_put_string(w, row->id, row->id_len);
    json_key(w, "version");
    json_text(w, version);
    json_key(w, "partition");
    json_u64(w, row->partition);
    json_key(w, "distance");
    if (isfinite(row->distance))
        json_float(w, row->distance);
    else
        json_double(w, copysign(3.5e38, row->distance)); /* it left the range of floats */
    wire_row_write(row, w);
    json_end_object(w);
}

static void write_head(struct json_writer *w, const struct wire_answer *answer)
{
    struct buffer seen = {0};

    json_key(w, "region");
    json_u64(w, answer->region);
    json_key(w, "served");
    json_begin_array(w);
    for (size_t i = 0; i < answer->served_count; i++) {
        json_begin_array(w);
        json_u64(w, answer->served[i].partition);
        json_u64(w, answer->served[i].position);
        json_end_array(w);
    }
    json_end_array(w);
    json_key(w, "staleness_ms");
    if (answer->staleness_ns == NEVER_NS)
        json_put_null(w);
    else
        json_double(w, (double)answer->staleness_ns / (double)NS_PER_MS);
    json_key(w, "stale");
    json_bool(w, answer->stale);
    token_to_text(&answer->seen, &seen);
    json_key(w, "seen");
    json_put_string(w, (const char *)seen.data, seen.len);
    w->out->failed |= seen.failed;
    buffer_free(&seen);
    json_key(w, "map_version");
    json_u64(w, answer->map_version);
}

static void write_answer(struct buffer *out, const struct wire_answer *answer)
{
    struct json_writer w;

    json_writer_init(&w, out);
    json_begin_object(&w);
    write_head(&w, answer);
    json_key(&w, "rows");
    json_begin_array(&w);
    for (size_t i = 0; i < answer->row_count; i++)
        write_row(&w, &answer->rows[i]);
    json_end_array(&w);
    if (answer->explain != NULL) {
        json_key(&w, "explain");
        json_raw(&w, answer->explain, answer->explain_len);
    }
    json_end_object(&w);
}

enum err_code search_json_handle(struct request *req)
{
    struct ask ask = {.shard = req->state, .req = req, .grace_slot = -1};
    enum err_code code = request_expect_media(req, MEDIA_JSON);

    if (code == ERR_OK)
        code = decode(req, &ask.question);
    if (code == ERR_OK)
        code = ask_run(&ask, &req->err);
    if (code == ERR_OK) {
        write_answer(&req->reply.body, &ask.answer);
        code = buffer_check(&req->reply.body, &req->err);
    }
    ask_close(&ask);
    return code;
}
