/* The door for records: every row of the table of bad input at both edges, with its pointer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/buffer.h"
#include "services/ingest/upsert_parse.h"

static const struct upsert_schema SCHEMA = {.collection = "docs", .dimension = 3};

/* What parse says of a body; out and arena are the caller's to look at. */
static enum err_code parse(struct upsert *out, struct arena *arena, const void *body, size_t len,
                           struct err *err)
{
    void *copy = malloc(len == 0 ? 1 : len); /* exactly as long: a sanitizer sees the end */
    struct upsert kept;
    enum err_code rc;

    assert_non_null(copy);
    if (len > 0)
        memcpy(copy, body, len);
    *err = (struct err){0};
    rc = upsert_parse(&kept, &SCHEMA, copy, len, arena, err);
    if (out != NULL) {
        assert_int_equal(upsert_parse(out, &SCHEMA, body, len, arena, err), rc);
    }
    free(copy);
    return rc;
}

static void assert_refused(const char *body, size_t len, enum err_code rc, const char *pointer)
{
    struct arena arena = {0};
    struct err err;

    if (parse(NULL, &arena, body, len, &err) != rc || strcmp(err.pointer, pointer) != 0)
        fail_msg("%.80s: %s at '%s' (%s), not %s at '%s'", body, err_word(err.code), err.pointer,
                 err.message, err_word(rc), pointer);
    arena_free(&arena);
}

static void assert_taken(const char *body, size_t len)
{
    struct arena arena = {0};
    struct err err;

    if (parse(NULL, &arena, body, len, &err) != ERR_OK)
        fail_msg("%.80s: %s at '%s'", body, err.message, err.pointer);
    arena_free(&arena);
}

static void what_is_right_is_read_right(void **state)
{
    static const char BODY[] =
        " {\"timeout_ms\": 60000, \"wait\":\"searchable\",\"on_conflict\":\"skip\",\"records\":["
        "{\"id\":\"kb/42#3\",\"vector\":[0.5,-3e2,1],\"text\":\"a\\u00e9\\n\","
        "\"metadata\":{ \"lang\":\"en\",\"a\":[1,{\"b\":null}]}},"
        "{\"vector_base64\":\"AACAPwAAAEAAAEBA\",\"vector\":null,\"text\":null,\"metadata\":null,"
        "\"id\":null},{}]} ";
    struct arena arena = {0};
    struct upsert got;
    struct err err;

    (void)state;
    assert_int_equal(parse(&got, &arena, BODY, strlen(BODY), &err), ERR_OK);
    assert_int_equal(got.count, 3);
    assert_int_equal(got.on_conflict, CONFLICT_SKIP);
    assert_true(got.wait_searchable);
    assert_int_equal(got.timeout_ms, 60000);
    assert_int_equal(got.records[0].id_len, 7);
    assert_memory_equal(got.records[0].id, "kb/42#3", 7);
    assert_true(got.records[0].vector[0] == 0.5f && got.records[0].vector[1] == -300.0f);
    assert_int_equal(got.records[0].text_len, 4);
    assert_memory_equal(got.records[0].text, "a\xc3\xa9\n", 4);
    assert_memory_equal(got.records[0].metadata, "{ \"lang\"", 8);
    assert_null(got.records[1].id);
    assert_true(got.records[1].vector[0] == 1.0f && got.records[1].vector[1] == 2.0f &&
                got.records[1].vector[2] == 3.0f);
    assert_null(got.records[2].vector);
    assert_null(got.records[2].text);
    arena_free(&arena);
}

static const struct {
    const char *body;
    enum err_code rc;
    const char *pointer;
} CASES[] = {
    {"", ERR_INVALID_JSON, ""},
    {"{", ERR_INVALID_JSON, ""},
    {"{} x", ERR_INVALID_JSON, ""},
    {"[]", ERR_INVALID_ARGUMENT, ""},
    {"{}", ERR_INVALID_ARGUMENT, "/records"},
    {"{\"records\":[]}", ERR_INVALID_ARGUMENT, "/records"},
    {"{\"records\":null}", ERR_INVALID_ARGUMENT, "/records"},
    {"{\"records\":{}}", ERR_INVALID_ARGUMENT, "/records"},
    {"{\"records\":[{}],\"records\":[{}]}", ERR_INVALID_JSON, "/records"},
    {"{\"records\":[{}],\"foo\":1}", ERR_UNKNOWN_FIELD, "/foo"},
    {"{\"records\":[{}],\"write_quorum\":0}", ERR_INVALID_ARGUMENT, "/write_quorum"},
    {"{\"records\":[{}],\"write_quorum\":\"2\"}", ERR_INVALID_ARGUMENT, "/write_quorum"},
    {"{\"records\":[{}],\"write_quorum\":34}", ERR_INVALID_ARGUMENT, "/write_quorum"},
    {"{\"records\":[{}],\"on_conflict\":\"merge\"}", ERR_INVALID_ARGUMENT, "/on_conflict"},
    {"{\"records\":[{}],\"on_conflict\":1}", ERR_INVALID_ARGUMENT, "/on_conflict"},
    {"{\"records\":[{}],\"wait\":\"soon\"}", ERR_INVALID_ARGUMENT, "/wait"},
    {"{\"records\":[{}],\"timeout_ms\":0}", ERR_INVALID_ARGUMENT, "/timeout_ms"},
    {"{\"records\":[{}],\"timeout_ms\":60001}", ERR_INVALID_ARGUMENT, "/timeout_ms"},
    {"{\"records\":[{}],\"timeout_ms\":1.5}", ERR_INVALID_ARGUMENT, "/timeout_ms"},
    {"{\"records\":[7]}", ERR_INVALID_ARGUMENT, "/records/0"},
    {"{\"records\":[{},{\"id\":7}]}", ERR_INVALID_ARGUMENT, "/records/1/id"},
    {"{\"records\":[{\"id\":\"\"}]}", ERR_INVALID_ARGUMENT, "/records/0/id"},
    {"{\"records\":[{\"id\":\"a\\u0000b\"}]}", ERR_INVALID_JSON, "/records/0/id"},
    {"{\"records\":[{\"id\":\"\xff\"}]}", ERR_INVALID_JSON, "/records/0/id"},
    {"{\"records\":[{\"id\":\"a\",\"id\":\"b\"}]}", ERR_INVALID_JSON, "/records/0/id"},
    {"{\"records\":[{\"foo\":1}]}", ERR_UNKNOWN_FIELD, "/records/0/foo"},
    {"{\"records\":[{\"sparse_vector\":{}}]}", ERR_NOT_SUPPORTED, "/records/0/sparse_vector"},
    {"{\"records\":[{\"vector\":[1,2]}]}", ERR_DIMENSION_MISMATCH, "/records/0/vector"},
    {"{\"records\":[{\"vector\":[1,2,3,4]}]}", ERR_DIMENSION_MISMATCH, "/records/0/vector"},
    {"{\"records\":[{\"vector\":[]}]}", ERR_DIMENSION_MISMATCH, "/records/0/vector"},
    {"{\"records\":[{\"vector\":[1,\"2\",3]}]}", ERR_INVALID_ARGUMENT, "/records/0/vector/1"},
    {"{\"records\":[{\"vector\":[1,2,true]}]}", ERR_INVALID_ARGUMENT, "/records/0/vector/2"},
    {"{\"records\":[{\"vector\":[NaN,2,3]}]}", ERR_INVALID_ARGUMENT, "/records/0/vector/0"},
    {"{\"records\":[{\"vector\":[1,Infinity,3]}]}", ERR_INVALID_ARGUMENT, "/records/0/vector/1"},
    {"{\"records\":[{\"vector\":[1,1e400,3]}]}", ERR_INVALID_ARGUMENT, "/records/0/vector/1"},
    {"{\"records\":[{\"vector\":[1,1e39,3]}]}", ERR_INVALID_ARGUMENT, "/records/0/vector/1"},
    {"{\"records\":[{\"vector\":\"abc\"}]}", ERR_INVALID_ARGUMENT, "/records/0/vector"},
    {"{\"records\":[{\"vector_base64\":\"AACAPw==\"}]}", ERR_DIMENSION_MISMATCH,
     "/records/0/vector_base64"},
    {"{\"records\":[{\"vector_base64\":\"AACAPwAAAEAAAEA\"}]}", ERR_INVALID_ARGUMENT,
     "/records/0/vector_base64"},
    {"{\"records\":[{\"vector_base64\":\"AACAfwAAAEAAAEBA\"}]}", ERR_INVALID_ARGUMENT,
     "/records/0/vector_base64"},
    {"{\"records\":[{\"vector_base64\":7}]}", ERR_INVALID_ARGUMENT, "/records/0/vector_base64"},
    {"{\"records\":[{\"vector\":[1,2,3],\"vector_base64\":\"AACAPwAAAEAAAEBA\"}]}",
     ERR_INVALID_ARGUMENT, "/records/0/vector_base64"},
    {"{\"records\":[{\"text\":5}]}", ERR_INVALID_ARGUMENT, "/records/0/text"},
    {"{\"records\":[{\"metadata\":[]}]}", ERR_INVALID_ARGUMENT, "/records/0/metadata"},
    {"{\"records\":[{\"metadata\":\"x\"}]}", ERR_INVALID_ARGUMENT, "/records/0/metadata"},
    {"{\"records\":[{\"metadata\":{\"a\":1,\"b\":2,\"a\":3}}]}", ERR_INVALID_ARGUMENT,
     "/records/0/metadata"},
    {"{\"records\":[{\"metadata\":{\"x\":[{\"a\":1,\"a\":3}]}}]}", ERR_INVALID_ARGUMENT,
     "/records/0/metadata"},
    {"{\"records\":[{\"metadata\":{\"a\":tru}}]}", ERR_INVALID_JSON, "/records/0/metadata"},
};

static void every_fault_has_its_code_and_pointer(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++)
        assert_refused(CASES[i].body, strlen(CASES[i].body), CASES[i].rc, CASES[i].pointer);
}

/* prefix, then count times fill, then suffix. */
static struct buffer body_of(const char *prefix, const char *fill, size_t count, const char *suffix)
{
    struct buffer body = {0};

    buffer_append_text(&body, prefix);
    for (size_t i = 0; i < count; i++)
        buffer_append_text(&body, fill);
    buffer_append_text(&body, suffix);
    assert_false(body.failed);
    return body;
}

struct edge {
    const char *prefix, *fill, *suffix;
    size_t last; /* this many are taken, one more is not */
    enum err_code rc;
    const char *pointer;
};

static void limits_hold_at_both_edges(void **state)
{
    static const struct edge EDGES[] = {
        {"{\"records\":[{\"id\":\"", "x", "\"}]}", ID_BYTES_MAX, ERR_INVALID_ARGUMENT,
         "/records/0/id"},
        {"{\"records\":[{\"text\":\"", "x", "\"}]}", TEXT_BYTES_MAX, ERR_PAYLOAD_TOO_LARGE,
         "/records/0/text"},
        {"{\"records\":[{\"metadata\":{\"k\":\"", "x", "\"}}]}", METADATA_BYTES_MAX - 8,
         ERR_PAYLOAD_TOO_LARGE, "/records/0/metadata"},
        {"{\"records\":[{}", ",{}", "]}", RECORDS_PER_REQUEST_MAX - 1, ERR_INVALID_ARGUMENT,
         "/records"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(EDGES) / sizeof(EDGES[0]); i++) {
        const struct edge *edge = &EDGES[i];
        struct buffer body = body_of(edge->prefix, edge->fill, edge->last, edge->suffix);

        assert_taken((const char *)body.data, body.len);
        buffer_free(&body);
        body = body_of(edge->prefix, edge->fill, edge->last + 1, edge->suffix);
        assert_refused((const char *)body.data, body.len, edge->rc, edge->pointer);
        buffer_free(&body);
    }
}

static void nesting_is_bounded(void **state)
{
    struct buffer body = {0}, deep;

    (void)state;
    for (int depth = METADATA_DEPTH_MAX; depth <= METADATA_DEPTH_MAX + 1; depth++) {
        buffer_reset(&body);
        buffer_append_text(&body, "{\"records\":[{\"metadata\":");
        for (int i = 1; i < depth; i++)
            buffer_append_text(&body, "{\"a\":");
        buffer_append_text(&body, "{}");
        for (int i = 1; i < depth; i++)
            buffer_append_text(&body, "}");
        buffer_append_text(&body, "}]}");
        if (depth == METADATA_DEPTH_MAX)
            assert_taken((const char *)body.data, body.len);
        else
            assert_refused((const char *)body.data, body.len, ERR_INVALID_ARGUMENT,
                           "/records/0/metadata");
    }
    buffer_free(&body);
    deep = body_of("{\"records\":[{\"metadata\":{\"a\":", "[", 100000, "");
    assert_refused((const char *)deep.data, deep.len, ERR_INVALID_JSON, "/records/0/metadata");
    buffer_free(&deep);
    deep = body_of("", "[", 100000, "");
    assert_refused((const char *)deep.data, deep.len, ERR_INVALID_JSON, "");
    buffer_free(&deep);
}

/* Many keys, the last of them given twice or not. */
static void a_key_twice_is_found_among_many(void **state)
{
    (void)state;
    for (int twice = 0; twice < 2; twice++) {
        struct buffer body = {0};

        buffer_append_text(&body, "{\"records\":[{\"metadata\":{");
        for (int i = 0; i < 3000; i++)
            buffer_append_format(&body, "\"k%d\":{\"k\":%d},", i, i);
        buffer_append_format(&body, "\"k%d\":0}}]}", twice ? 1234 : 3000);
        if (twice)
            assert_refused((const char *)body.data, body.len, ERR_INVALID_ARGUMENT,
                           "/records/0/metadata");
        else
            assert_taken((const char *)body.data, body.len);
        buffer_free(&body);
    }
}

static void one_record_alone(void **state)
{
    static const char GOOD[] = "{\"id\":\"a\",\"vector\":[1,2,3]}", BAD[] = "{\"vector\":[1]} x";
    struct upsert_record record;
    struct arena arena = {0};
    struct err err = {0};

    (void)state;
    assert_int_equal(upsert_parse_record(&record, &SCHEMA, GOOD, strlen(GOOD), &arena, &err),
                     ERR_OK);
    assert_int_equal(record.id_len, 1);
    assert_int_equal(upsert_parse_record(&record, &SCHEMA, BAD, strlen(BAD), &arena, &err),
                     ERR_DIMENSION_MISMATCH);
    assert_string_equal(err.pointer, "/vector");
    assert_int_equal(upsert_parse_record(&record, &SCHEMA, "{}x", 3, &arena, &err),
                     ERR_INVALID_JSON);
    arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_right_is_read_right),
        cmocka_unit_test(every_fault_has_its_code_and_pointer),
        cmocka_unit_test(limits_hold_at_both_edges),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(a_key_twice_is_found_among_many),
        cmocka_unit_test(one_record_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
