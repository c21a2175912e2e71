/* The body of a search: a streaming decoder, for this is the hot path.
 *
 * Happy path: one pass over the body, vectors into the arena, everything else slices of it.  Each
 * wrong value is refused with its pointer; a member that is known and not built yet is told from
 * one that nobody knows. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "services/router/search.h"

#define FETCH_TIMES      4 /* candidates of MMR for each result, unless told */
#define FETCH_LEAST      20
#define MMR_WORK_MAX     4e9 /* multiplications: seconds of one core */
#define BASE64_BYTES_MAX ((size_t)DIMENSION_MAX * sizeof(float) / 3 * 4 + 8)

static enum err_code wrong_length(struct json_reader *reader, const char *pointer, uint64_t length,
                                  uint32_t dimension)
{
    return err_set_at(reader->err, ERR_DIMENSION_MISMATCH, pointer, "length %llu, expected %u",
                      (unsigned long long)length, dimension);
}

static enum err_code take_kind(struct search_request *out, struct json_reader *reader,
                               enum query_kind kind, const char *name)
{
    char pointer[32];

    (void)snprintf(pointer, sizeof(pointer), "/%s", name);
    if (out->kind != QUERY_NONE)
        return err_set_at(reader->err, ERR_NOT_SUPPORTED, pointer,
                          "several queries in one search are not supported yet");
    out->kind = kind;
    return ERR_OK;
}

static enum err_code read_vector(struct search_request *out, struct json_reader *reader)
{
    float *vector = arena_alloc(reader->arena, out->dim, sizeof(*vector));
    size_t count = 0, bad = SIZE_MAX;
    char pointer[48] = "/vector";
    enum err_code rc;

    if (vector == NULL)
        return err_set(reader->err, ERR_NO_MEMORY, "no memory for a vector");
    rc = json_read_floats(reader, vector, out->dim, &count, &bad);
    if (rc == ERR_INVALID_ARGUMENT && bad != SIZE_MAX)
        (void)snprintf(pointer, sizeof(pointer), "/vector/%zu", bad);
    if (rc != ERR_OK)
        return member_failed(reader->err, rc, pointer + 1);
    if (count != out->dim)
        return wrong_length(reader, "/vector", count, out->dim);
    out->vector = vector;
    return take_kind(out, reader, QUERY_VECTOR, "vector");
}

static enum err_code read_vector_base64(struct search_request *out, struct json_reader *reader)
{
    struct json_text text;
    size_t len = 0;
    float *vector;
    enum err_code rc = json_read_string(reader, &text);

    if (rc != ERR_OK)
        return member_failed(reader->err, rc, "vector_base64");
    if (text.len > BASE64_BYTES_MAX)
        return wrong_length(reader, "/vector_base64", text.len / 4 * 3 / sizeof(float), out->dim);
    vector = arena_alloc(reader->arena, text.len / 4 * 3 + sizeof(float), 1);
    if (vector == NULL)
        return err_set(reader->err, ERR_NO_MEMORY, "no memory for a vector");
    if (!text_base64_decode(vector, &len, text.data, text.len))
        return member_wrong(reader, "vector_base64", "is not standard base64 with padding");
    if (len != (size_t)out->dim * sizeof(float))
        return err_set_at(reader->err, ERR_DIMENSION_MISMATCH, "/vector_base64",
                          "%zu bytes, expected %zu", len, (size_t)out->dim * sizeof(float));
    for (uint32_t i = 0; i < out->dim; i++)
        if (!isfinite(vector[i]))
            return member_wrong(reader, "vector_base64", "holds a number that is not finite");
    out->vector = vector;
    return take_kind(out, reader, QUERY_VECTOR, "vector_base64");
}

static enum err_code read_embed(struct search_request *out, struct json_reader *reader)
{
    enum err_code rc = json_read_string(reader, &out->embed);

    if (rc != ERR_OK)
        return member_failed(reader->err, rc, "embed");
    if (out->embed.len == 0 || out->embed.len > TEXT_BYTES_MAX)
        return member_wrong(reader, "embed", "must have from 1 byte to 512 KiB");
    return take_kind(out, reader, QUERY_EMBED, "embed");
}

static enum err_code read_query_id(struct search_request *out, struct json_reader *reader)
{
    enum err_code rc = id_read(reader, &out->id);

    return rc == ERR_OK ? take_kind(out, reader, QUERY_ID, "id")
                        : member_failed(reader->err, rc, "id");
}

static enum err_code read_top_k(struct search_request *out, struct json_reader *reader)
{
    return member_failed(reader->err, json_read_u64(reader, 1, TOP_K_MAX, &out->top_k), "top_k");
}

static enum err_code read_offset(struct search_request *out, struct json_reader *reader)
{
    return member_failed(reader->err, json_read_u64(reader, 0, TOP_K_MAX - 1, &out->offset),
                         "offset");
}

static enum err_code read_filter(struct search_request *out, struct json_reader *reader)
{
    return filter_read(reader, &out->filter);
}

static enum err_code read_include(struct search_request *out, struct json_reader *reader)
{
    return include_read(reader, &out->include);
}

static enum err_code read_threshold(struct search_request *out, struct json_reader *reader)
{
    out->has_threshold = true;
    return member_failed(reader->err, json_read_double(reader, &out->threshold), "score_threshold");
}

static enum err_code mmr_member(void *context, struct json_reader *reader, struct json_text key,
                                bool *known)
{
    struct mmr_options *mmr = context;
    enum err_code rc;

    *known = true;
    if (json_text_is(key, "lambda")) {
        if ((rc = json_read_double(reader, &mmr->lambda)) != ERR_OK)
            return member_failed(reader->err, rc, "lambda");
        if (!(mmr->lambda >= 0 && mmr->lambda <= 1))
            return member_wrong(reader, "lambda", "must be from 0 to 1");
        return ERR_OK;
    }
    if (json_text_is(key, "fetch_k"))
        return member_failed(reader->err, json_read_u64(reader, 1, TOP_K_MAX, &mmr->fetch_k),
                             "fetch_k");
    *known = false;
    return ERR_OK;
}

static enum err_code read_mmr(struct search_request *out, struct json_reader *reader)
{
    out->mmr.wanted = true;
    return member_failed(reader->err, object_read(reader, mmr_member, &out->mmr), "mmr");
}

static enum err_code read_recall(struct search_request *out, struct json_reader *reader)
{
    enum err_code rc = json_read_double(reader, &out->recall);

    if (rc == ERR_OK && !(out->recall >= 0.8 && out->recall <= 0.999))
        return member_wrong(reader, "recall", "must be from 0.8 to 0.999");
    return member_failed(reader->err, rc, "recall");
}

static enum err_code params_member(void *context, struct json_reader *reader, struct json_text key,
                                   bool *known)
{
    struct search_request *out = context;

    *known = true;
    if (json_text_is(key, "exact"))
        return member_failed(reader->err, json_read_bool(reader, &out->exact), "exact");
    if (json_text_is(key, "ef"))
        return member_failed(reader->err, json_read_u64(reader, 1, SEARCH_EF_MAX, &out->ef), "ef");
    if (json_text_is(key, "recall"))
        return read_recall(out, reader);
    *known = false;
    return ERR_OK;
}

static enum err_code read_params(struct search_request *out, struct json_reader *reader)
{
    return member_failed(reader->err, object_read(reader, params_member, out), "params");
}

static enum err_code read_explain(struct search_request *out, struct json_reader *reader)
{
    return member_failed(reader->err, json_read_bool(reader, &out->explain), "explain");
}

typedef enum err_code read_member_fn(struct search_request *out, struct json_reader *reader);

static const struct {
    const char *name;
    read_member_fn *read;
} members[] = {
    {"vector", read_vector}, {"top_k", read_top_k},
    {"filter", read_filter}, {"include", read_include},
    {"params", read_params}, {"explain", read_explain},
    {"offset", read_offset}, {"score_threshold", read_threshold},
    {"mmr", read_mmr},       {"vector_base64", read_vector_base64},
    {"embed", read_embed},   {"id", read_query_id},
};

static enum err_code search_member(void *context, struct json_reader *reader, struct json_text key,
                                   bool *known)
{
    struct search_request *out = context;

    *known = true;
    for (size_t i = 0; i < ARRAY_COUNT(members); i++)
        if (json_text_is(key, members[i].name))
            return members[i].read(out, reader);
    return consistency_read(&out->consistency, reader, key, known);
}

/* What no single member can tell. */
static enum err_code check_whole(const struct search_request *out, struct json_reader *reader)
{
    if (out->kind == QUERY_NONE)
        return err_set(reader->err, ERR_INVALID_ARGUMENT,
                       "one of vector, vector_base64, embed and id is needed");
    if (out->top_k + out->offset > TOP_K_MAX)
        return member_wrong(reader, "offset", "top_k and offset may not be above 10000 together");
    if (out->mmr.wanted &&
        (double)search_request_fetch(out) * (double)(out->top_k + out->offset) * (double)out->dim >
            MMR_WORK_MAX)
        return err_set_at(reader->err, ERR_INVALID_ARGUMENT, "/mmr/fetch_k",
                          "is too high for this top_k and dimension");
    return ERR_OK;
}

enum err_code search_request_decode(struct search_request *out, struct json_reader *reader,
                                    uint32_t dimension)
{
    enum err_code rc;

    assert(dimension >= 1);
    assert(dimension <= DIMENSION_MAX);
    *out = (struct search_request){
        .dim = dimension,
        .top_k = TOP_K_DEFAULT,
        .include = INCLUDE_METADATA | INCLUDE_TEXT,
        .mmr = {.lambda = 0.5},
    };
    consistency_init(&out->consistency);
    if ((rc = body_decode(reader, search_member, out)) != ERR_OK)
        return rc;
    return check_whole(out, reader);
}

void search_request_free(struct search_request *request)
{
    consistency_free(&request->consistency);
}

uint32_t search_request_fetch(const struct search_request *request)
{
    uint64_t wanted = request->top_k + request->offset;
    uint64_t fetch = wanted;

    if (request->mmr.wanted)
        fetch = request->mmr.fetch_k == 0 ? MAX_OF(wanted * FETCH_TIMES, FETCH_LEAST)
                                          : MAX_OF(wanted, request->mmr.fetch_k);
    return (uint32_t)MIN_OF(fetch, (uint64_t)TOP_K_MAX);
}
