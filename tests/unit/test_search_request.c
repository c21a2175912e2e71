/* The body of a search: what is taken, and what is refused with which code at which place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/limits.h"
#include "services/router/search.h"

#define DIM 3

struct decoded {
    struct arena arena;
    struct err err;
    struct search_request request;
    enum err_code rc;
};

static void decode(struct decoded *out, const char *body, size_t len)
{
    struct json_reader reader;

    memset(out, 0, sizeof(*out));
    json_reader_init(&reader, body, len, &out->arena, &out->err);
    out->rc = search_request_decode(&out->request, &reader, DIM);
}

static void forget(struct decoded *decoded)
{
    search_request_free(&decoded->request);
    arena_free(&decoded->arena);
}

static void refuses(const char *body, enum err_code code, const char *pointer)
{
    struct decoded decoded;

    decode(&decoded, body, strlen(body));
    if (decoded.rc != code || strcmp(decoded.err.pointer, pointer) != 0)
        print_error("%s\n  -> %d at '%s': %s\n", body, decoded.rc, decoded.err.pointer,
                    decoded.err.message);
    assert_int_equal(decoded.rc, code);
    assert_int_equal(decoded.err.code, code);
    assert_string_equal(decoded.err.pointer, pointer);
    forget(&decoded);
}

static void takes(const char *body)
{
    struct decoded decoded;

    decode(&decoded, body, strlen(body));
    if (decoded.rc != ERR_OK)
        print_error("%s\n  -> %d at '%s': %s\n", body, decoded.rc, decoded.err.pointer,
                    decoded.err.message);
    assert_int_equal(decoded.rc, ERR_OK);
    forget(&decoded);
}

static void defaults_are_those_of_the_api(void **state)
{
    static const char body[] = "{\"vector\":[1,-2.5,3e2]}";
    struct decoded d;

    (void)state;
    decode(&d, body, sizeof(body) - 1);
    assert_int_equal(d.rc, ERR_OK);
    assert_int_equal(d.request.kind, QUERY_VECTOR);
    assert_true(d.request.vector[0] == 1 && d.request.vector[1] == -2.5F);
    assert_true(d.request.vector[2] == 300);
    assert_int_equal(d.request.top_k, TOP_K_DEFAULT);
    assert_int_equal(d.request.offset, 0);
    assert_int_equal(d.request.include, INCLUDE_TEXT | INCLUDE_METADATA);
    assert_int_equal(d.request.ef, 0);
    assert_false(d.request.exact || d.request.explain || d.request.mmr.wanted);
    assert_false(d.request.has_threshold);
    assert_null(d.request.filter.data);
    assert_int_equal(d.request.consistency.timeout_ms, DEADLINE_MS_DEFAULT);
    assert_true(d.request.consistency.max_staleness_ns == NEVER_NS);
    forget(&d);
}

static void every_member_arrives(void **state)
{
    static const char body[] =
        "{\"vector_base64\":\"AACAPwAAAEAAAEBA\",\"top_k\":7,\"offset\":2,"
        "\"filter\":{\"lang\":\"en\"},\"include\":[\"vector\"],\"score_threshold\":0.25,"
        "\"mmr\":{\"lambda\":0.75,\"fetch_k\":40},\"params\":{\"exact\":true,\"ef\":99,\"recall\":"
        "0.96},"
        "\"fresh\":true,\"max_staleness_seconds\":1.5,\"on_stale\":\"serve\",\"read_token\":\"\","
        "\"explain\":true,\"timeout_ms\":60000,\"allow_partial\":true}";
    struct decoded d;

    (void)state;
    decode(&d, body, sizeof(body) - 1);
    assert_int_equal(d.rc, ERR_OK);
    assert_true(d.request.vector[0] == 1 && d.request.vector[1] == 2 && d.request.vector[2] == 3);
    assert_int_equal(d.request.top_k, 7);
    assert_int_equal(d.request.offset, 2);
    assert_int_equal(d.request.filter.len, strlen("{\"lang\":\"en\"}"));
    assert_int_equal(d.request.include, INCLUDE_VECTOR);
    assert_true(d.request.has_threshold && d.request.threshold == 0.25);
    assert_true(d.request.mmr.wanted && d.request.mmr.lambda == 0.75);
    assert_int_equal(search_request_fetch(&d.request), 40);
    assert_true(d.request.exact && d.request.ef == 99);
    assert_true(d.request.recall == 0.96);
    assert_true(d.request.consistency.fresh && d.request.consistency.serve_stale);
    assert_true(d.request.consistency.max_staleness_ns == 3 * NS_PER_S / 2);
    assert_true(d.request.consistency.allow_partial && d.request.explain);
    forget(&d);
}

static void broken_json_is_refused(void **state)
{
    static char deep[100000];
    struct decoded d;

    (void)state;
    refuses("", ERR_INVALID_JSON, "");
    refuses("{", ERR_INVALID_JSON, "");
    refuses("{\"vector\":[1,2,3]}x", ERR_INVALID_JSON, "");
    refuses("{\"vector\":[1,2,3],}", ERR_INVALID_JSON, "");
    refuses("{\"embed\":\"\xff\"}", ERR_INVALID_JSON, "");
    refuses("{\"embed\":\"a\\u0000\"}", ERR_INVALID_JSON, "");
    refuses("[]", ERR_INVALID_ARGUMENT, "");
    memset(deep, '[', sizeof(deep));
    decode(&d, deep, sizeof(deep));
    assert_int_not_equal(d.rc, ERR_OK);
    forget(&d);
    memcpy(deep, "{\"filter\":", 10);
    decode(&d, deep, sizeof(deep));
    assert_int_equal(d.rc, ERR_INVALID_JSON);
    forget(&d);
    decode(&d, "{\"embed\":\"\0\"}", 13);
    assert_int_equal(d.rc, ERR_INVALID_JSON);
    forget(&d);
}

static void numbers_that_are_none_are_refused_where_they_stand(void **state)
{
    (void)state;
    refuses("{\"vector\":[NaN,2,3]}", ERR_INVALID_ARGUMENT, "/vector/0");
    refuses("{\"vector\":[1,Infinity,3]}", ERR_INVALID_ARGUMENT, "/vector/1");
    refuses("{\"vector\":[1,2,1e400]}", ERR_INVALID_ARGUMENT, "/vector/2");
    refuses("{\"vector\":[1,2,1e39]}", ERR_INVALID_ARGUMENT, "/vector/2");
    refuses("{\"vector\":[1,\"2\",3]}", ERR_INVALID_ARGUMENT, "/vector/1");
    refuses("{\"vector\":[1,true,3]}", ERR_INVALID_ARGUMENT, "/vector/1");
    refuses("{\"vector\":[1,null,3]}", ERR_INVALID_ARGUMENT, "/vector/1");
    refuses("{\"vector\":5}", ERR_INVALID_ARGUMENT, "/vector");
    refuses("{\"vector_base64\":\"AACAPwAAAEAAAMB/\"}", ERR_INVALID_ARGUMENT, "/vector_base64");
    refuses("{\"vector_base64\":\"AACAPwAAAEAAAEB\"}", ERR_INVALID_ARGUMENT, "/vector_base64");
    refuses("{\"vector_base64\":7}", ERR_INVALID_ARGUMENT, "/vector_base64");
}

static void a_wrong_length_is_a_dimension_mismatch(void **state)
{
    (void)state;
    refuses("{\"vector\":[]}", ERR_DIMENSION_MISMATCH, "/vector");
    refuses("{\"vector\":[1,2]}", ERR_DIMENSION_MISMATCH, "/vector");
    refuses("{\"vector\":[1,2,3,4]}", ERR_DIMENSION_MISMATCH, "/vector");
    refuses("{\"vector_base64\":\"\"}", ERR_DIMENSION_MISMATCH, "/vector_base64");
    refuses("{\"vector_base64\":\"AACAPwAAAEA=\"}", ERR_DIMENSION_MISMATCH, "/vector_base64");
    refuses("{\"vector_base64\":\"AACAPwAAAEAAAEBAAAA=\"}", ERR_DIMENSION_MISMATCH,
            "/vector_base64");
}

#define V "\"vector\":[1,2,3]"

static void limits_hold_at_both_edges(void **state)
{
    char id[ID_BYTES_MAX + 32];

    (void)state;
    refuses("{" V ",\"top_k\":0}", ERR_INVALID_ARGUMENT, "/top_k");
    takes("{" V ",\"top_k\":1}");
    takes("{" V ",\"top_k\":10000}");
    refuses("{" V ",\"top_k\":10001}", ERR_INVALID_ARGUMENT, "/top_k");
    refuses("{" V ",\"top_k\":1.5}", ERR_INVALID_ARGUMENT, "/top_k");
    refuses("{" V ",\"top_k\":\"5\"}", ERR_INVALID_ARGUMENT, "/top_k");
    refuses("{" V ",\"offset\":-1}", ERR_INVALID_ARGUMENT, "/offset");
    takes("{" V ",\"offset\":9990}");
    refuses("{" V ",\"offset\":9991}", ERR_INVALID_ARGUMENT, "/offset");
    refuses("{" V ",\"timeout_ms\":0}", ERR_INVALID_ARGUMENT, "/timeout_ms");
    takes("{" V ",\"timeout_ms\":1}");
    refuses("{" V ",\"timeout_ms\":60001}", ERR_INVALID_ARGUMENT, "/timeout_ms");
    refuses("{" V ",\"params\":{\"ef\":0}}", ERR_INVALID_ARGUMENT, "/params/ef");
    takes("{" V ",\"params\":{\"ef\":10000}}");
    refuses("{" V ",\"params\":{\"recall\":0.79}}", ERR_INVALID_ARGUMENT, "/params/recall");
    takes("{" V ",\"params\":{\"recall\":0.8}}");
    takes("{" V ",\"params\":{\"recall\":0.999}}");
    refuses("{" V ",\"params\":{\"recall\":1}}", ERR_INVALID_ARGUMENT, "/params/recall");
    refuses("{" V ",\"params\":{\"recall\":\"0.9\"}}", ERR_INVALID_ARGUMENT, "/params/recall");
    refuses("{" V ",\"params\":{\"ef\":10001}}", ERR_INVALID_ARGUMENT, "/params/ef");
    refuses("{" V ",\"mmr\":{\"lambda\":-0.01}}", ERR_INVALID_ARGUMENT, "/mmr/lambda");
    takes("{" V ",\"mmr\":{\"lambda\":0}}");
    takes("{" V ",\"mmr\":{\"lambda\":1}}");
    refuses("{" V ",\"mmr\":{\"lambda\":1.01}}", ERR_INVALID_ARGUMENT, "/mmr/lambda");
    refuses("{" V ",\"mmr\":{\"fetch_k\":0}}", ERR_INVALID_ARGUMENT, "/mmr/fetch_k");
    refuses("{" V ",\"mmr\":{\"fetch_k\":10001}}", ERR_INVALID_ARGUMENT, "/mmr/fetch_k");
    refuses("{" V ",\"max_staleness_seconds\":-1}", ERR_INVALID_ARGUMENT, "/max_staleness_seconds");
    takes("{" V ",\"max_staleness_seconds\":0}");
    refuses("{\"embed\":\"\"}", ERR_INVALID_ARGUMENT, "/embed");
    takes("{\"embed\":\"a\"}");
    refuses("{\"id\":\"\"}", ERR_INVALID_ARGUMENT, "/id");
    refuses("{\"id\":7}", ERR_INVALID_ARGUMENT, "/id");
    memset(id, 'x', sizeof(id));
    memcpy(id, "{\"id\":\"", 7);
    memcpy(id + 7 + ID_BYTES_MAX, "\"}", 3);
    takes(id);
    id[7 + ID_BYTES_MAX] = 'x';
    memcpy(id + 8 + ID_BYTES_MAX, "\"}", 3);
    refuses(id, ERR_INVALID_ARGUMENT, "/id");
}

static void what_is_not_built_is_told_from_what_nobody_knows(void **state)
{
    (void)state;
    refuses("{" V ",\"text\":\"a\"}", ERR_NOT_SUPPORTED, "/text");
    refuses("{" V ",\"sparse_vector\":{}}", ERR_NOT_SUPPORTED, "/sparse_vector");
    refuses("{" V ",\"fusion\":{}}", ERR_NOT_SUPPORTED, "/fusion");
    refuses("{" V ",\"embed\":\"a\"}", ERR_NOT_SUPPORTED, "/embed");
    refuses("{\"id\":\"a\"," V "}", ERR_NOT_SUPPORTED, "/vector");
    refuses("{" V ",\"write_quorum\":2}", ERR_UNKNOWN_FIELD, "/write_quorum");
    refuses("{" V ",\"topk\":5}", ERR_UNKNOWN_FIELD, "/topk");
    refuses("{" V ",\"params\":{\"efs\":5}}", ERR_UNKNOWN_FIELD, "/params/efs");
    refuses("{" V ",\"mmr\":{\"k\":5}}", ERR_UNKNOWN_FIELD, "/mmr/k");
    refuses("{\"top_k\":5}", ERR_INVALID_ARGUMENT, "");
    refuses("{" V ",\"top_k\":5,\"top_k\":6}", ERR_INVALID_ARGUMENT, "/top_k");
}

static void other_members_are_checked(void **state)
{
    (void)state;
    refuses("{" V ",\"fresh\":1}", ERR_INVALID_ARGUMENT, "/fresh");
    refuses("{" V ",\"fresh\":\"yes\"}", ERR_INVALID_ARGUMENT, "/fresh");
    takes("{" V ",\"fresh\":\"global\"}");
    refuses("{" V ",\"on_stale\":\"maybe\"}", ERR_INVALID_ARGUMENT, "/on_stale");
    refuses("{" V ",\"read_token\":\"rt1.x\"}", ERR_INVALID_ARGUMENT, "/read_token");
    refuses("{" V ",\"include\":[\"id\"]}", ERR_INVALID_ARGUMENT, "/include");
    refuses("{" V ",\"include\":\"text\"}", ERR_INVALID_ARGUMENT, "/include");
    refuses("{" V ",\"explain\":0}", ERR_INVALID_ARGUMENT, "/explain");
    refuses("{" V ",\"filter\":[]}", ERR_INVALID_FILTER, "/filter");
    refuses("{" V ",\"filter\":{\"a\":{\"$huh\":1}}}", ERR_INVALID_FILTER, "/filter/a/$huh");
    refuses("{" V ",\"filter\":{\"a\":{\"$in\":1}}}", ERR_INVALID_FILTER, "/filter/a/$in");
    takes("{" V ",\"filter\":null}");
    takes("{" V ",\"filter\":{}}");
    takes("{" V ",\"include\":[]}");
}

static void candidates_of_mmr_are_bounded(void **state)
{
    struct decoded d;

    (void)state;
    decode(&d, "{" V ",\"mmr\":{}}", strlen("{" V ",\"mmr\":{}}"));
    assert_int_equal(d.rc, ERR_OK);
    assert_int_equal(search_request_fetch(&d.request), 40);
    d.request.top_k = 4;
    assert_int_equal(search_request_fetch(&d.request), 20);
    d.request.top_k = 9000;
    assert_int_equal(search_request_fetch(&d.request), TOP_K_MAX);
    forget(&d);
    takes("{" V ",\"top_k\":10000,\"mmr\":{\"fetch_k\":10000}}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_api),
        cmocka_unit_test(every_member_arrives),
        cmocka_unit_test(broken_json_is_refused),
        cmocka_unit_test(numbers_that_are_none_are_refused_where_they_stand),
        cmocka_unit_test(a_wrong_length_is_a_dimension_mismatch),
        cmocka_unit_test(limits_hold_at_both_edges),
        cmocka_unit_test(what_is_not_built_is_told_from_what_nobody_knows),
        cmocka_unit_test(other_members_are_checked),
        cmocka_unit_test(candidates_of_mmr_are_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
