/* Routes and dispatch without a server: requests are filled by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/log.h"
#include "common/base/text.h"
#include "common/http/age.h"
#include "common/http/json_doc.h"
#include "common/http/route.h"

/* What the handler under test does next. */
static enum err_code next_code;
static const char *next_message;
static const char *next_pointer;

static enum err_code handle(struct request *req)
{
    buffer_append_text(&req->reply.body, "{\"half\":");
    if (next_code == ERR_OK) {
        buffer_append_text(&req->reply.body, "1}");
        return ERR_OK;
    }
    reply_header(&req->reply, "X-Kept", "yes");
    if (next_message == NULL)
        return next_code;
    return err_set_at(&req->err, next_code, next_pointer, "%s", next_message);
}

static enum err_code handle_none(struct request *req)
{
    req->reply.status = 204;
    return ERR_OK;
}

static const struct route routes[] = {
    {"GET", "/v1/collections", handle, 0, "list"},
    {"PUT", "/v1/collections/*", handle, 100, "put"},
    {"GET", "/v1/collections/*", handle, 0, "get"},
    {"DELETE", "/v1/collections/*", handle_none, 0, "delete"},
    {"POST", "/v1/collections/*/records/get", handle, 100, "records"},
    {"GET", "/v1/collections/*/records/*", handle, 0, "record"},
    {0},
};

struct headers {
    const char *names[4];
    const char *values[4];
};

static const char *header_of(const struct request *req, const char *name)
{
    const struct headers *headers = req->transport;

    for (size_t i = 0; i < 4 && headers->names[i] != NULL; i++)
        if (strcasecmp(headers->names[i], name) == 0)
            return headers->values[i];
    return NULL;
}

static struct request make(const char *method, const char *path)
{
    static struct headers none;

    return (struct request){.env = env_real(),
                            .method = method,
                            .path = path,
                            .query = "",
                            .header = header_of,
                            .transport = &none};
}

static const char *reply_header_of(const struct request *req, const char *name)
{
    for (size_t i = 0; i < req->reply.header_count; i++)
        if (strcmp(req->reply.headers[i].name, name) == 0)
            return req->reply.headers[i].value;
    return NULL;
}

static int reset(void **state)
{
    (void)state;
    next_code = ERR_OK;
    next_message = NULL;
    next_pointer = "";
    return 0;
}

static void expect_status(const char *method, const char *path, int status)
{
    struct request req = make(method, path);

    route_dispatch(routes, &req);
    if (req.reply.status != status)
        fail_msg("%s %s: %d, wanted %d", method, path, req.reply.status, status);
    request_free(&req);
}

static void paths_match_segment_by_segment(void **state)
{
    (void)state;
    expect_status("GET", "/v1/collections", 200);
    expect_status("HEAD", "/v1/collections", 200);
    expect_status("GET", "/v1/collections/", 404);
    expect_status("GET", "/v1/collections/a", 200);
    expect_status("GET", "/v1/collections/a/", 404);
    expect_status("GET", "/v1/collections//records/x", 404);
    expect_status("GET", "/v1//collections", 404);
    expect_status("GET", "/v1", 404);
    expect_status("GET", "/", 404);
    expect_status("GET", "", 404);
    expect_status("GET", "v1/collections", 404);
    expect_status("GET", "/V1/collections", 404);
    expect_status("GET", "/v1/collectionsx", 404);
    expect_status("GET", "/v1/collections/a/records/b/c", 404);
    expect_status("DELETE", "/v1/collections/a", 204);
    expect_status("PATCH", "/v1/collections/a", 405);
    expect_status("TRACE", "/v1/collections/a", 405);
    expect_status("OPTIONS", "/v1/collections/a", 204);
    expect_status("OPTIONS", "/v2", 404);
}

static void a_literal_row_and_a_wildcard_share_a_path(void **state)
{
    struct request post = make("POST", "/v1/collections/c/records/get");
    struct request get = make("GET", "/v1/collections/c/records/get");

    (void)state;
    route_dispatch(routes, &post);
    assert_string_equal(post.route->operation, "records");
    assert_null(post.params[1]);
    route_dispatch(routes, &get);
    assert_string_equal(get.route->operation, "record");
    assert_string_equal(get.params[1], "get");
    request_free(&post);
    request_free(&get);
}

static void allow_names_every_method_of_the_path(void **state)
{
    struct request req = make("PATCH", "/v1/collections/a");

    (void)state;
    route_dispatch(routes, &req);
    assert_string_equal(reply_header_of(&req, "Allow"), "PUT, GET, HEAD, DELETE, OPTIONS");
    assert_int_equal(req.err.code, ERR_METHOD_NOT_ALLOWED);
    request_free(&req);
}

static void parameters_are_decoded(void **state)
{
    struct request req = make("GET", "/v1/collections/%2F/records/a%20%C3%A4+%25");

    (void)state;
    route_dispatch(routes, &req);
    assert_int_equal(req.reply.status, 200);
    assert_string_equal(req.params[0], "/");
    assert_int_equal(req.param_lens[0], 1);
    assert_string_equal(req.params[1], "a ä+%");
    assert_int_equal(req.param_lens[1], 6);
    request_free(&req);
    expect_status("GET", "/v1/collections/%", 400);
    expect_status("GET", "/v1/collections/%2", 400);
    expect_status("GET", "/v1/collections/%zz", 400);
    expect_status("GET", "/v1/collections/a%00b", 400);
    expect_status("GET", "/v1/collections/%ff", 400);
    expect_status("GET", "/v1/collections/%c0%80", 400);
    expect_status("GET", "/v1/collections/%ed%a0%80", 400);
}

static void bodies_are_limited_at_both_edges(void **state)
{
    static const uint8_t body[101];

    (void)state;
    for (size_t len = 100; len <= 101; len++) {
        struct request req = make("PUT", "/v1/collections/a");

        req.body = body;
        req.body_len = len;
        route_dispatch(routes, &req);
        assert_int_equal(req.reply.status, len == 100 ? 200 : 413);
        request_free(&req);
    }
    {
        struct request req = make("GET", "/v1/collections/a");

        req.body = body;
        req.body_len = 1;
        route_dispatch(routes, &req);
        assert_int_equal(req.reply.status, 200);
        assert_int_equal(req.body_len, 0);
        request_free(&req);
    }
}

static void request_ids_are_kept_or_made(void **state)
{
    static const char *const bad[] = {
        "",
        "has blank",
        "quote\"",
        "it's",
        "back\\slash",
        "new\nline",
        "\xc3\xa4",
        "12345678901234567890123456789012345678901234567890123456789012345"};
    struct headers headers = {.names = {"X-Request-Id"}};
    char first[REQUEST_ID_BYTES];

    (void)state;
    headers.values[0] = "1234567890123456789012345678901234567890123456789012345678901234";
    for (size_t i = 0; i <= ARRAY_COUNT(bad); i++) {
        struct request req = make("GET", "/v1/collections");

        req.transport = &headers;
        route_dispatch(routes, &req);
        assert_string_equal(reply_header_of(&req, "X-Request-Id"), req.request_id);
        if (i == 0) {
            assert_string_equal(req.request_id, headers.values[0]);
        } else {
            assert_int_equal(strlen(req.request_id), 36);
            assert_string_not_equal(req.request_id, first);
        }
        memcpy(first, req.request_id, sizeof(first));
        request_free(&req);
        if (i < ARRAY_COUNT(bad))
            headers.values[0] = bad[i];
    }
}

static void only_a_whole_traceparent_is_taken(void **state)
{
    static const char good[] = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
    const char *const bad[] = {"00-0123456789ABCDEF0123456789abcdef-0123456789abcdef-01",
                               "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01x",
                               "00-0123456789abcdef0123456789abcdef-0123456789abcdef-0",
                               "00_0123456789abcdef0123456789abcdef-0123456789abcdef-01",
                               "ff-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
                               ""};
    struct headers headers = {.names = {"traceparent"}, .values = {good}};

    (void)state;
    for (size_t i = 0; i <= ARRAY_COUNT(bad); i++) {
        struct request req = make("GET", "/v1/collections");

        req.transport = &headers;
        route_dispatch(routes, &req);
        assert_string_equal(req.traceparent, i == 0 ? good : "");
        request_free(&req);
        if (i < ARRAY_COUNT(bad))
            headers.values[0] = bad[i];
    }
}

/* Run the handler into a failure; the problem's document, to be freed by the caller. */
static json_t *problem_of(struct request *req, enum err_code code, const char *message,
                          const char *pointer)
{
    json_t *doc;

    next_code = code;
    next_message = message;
    next_pointer = pointer;
    route_dispatch(routes, req);
    assert_int_equal(req->reply.status, err_status(code));
    assert_string_equal(req->reply.content_type, MEDIA_PROBLEM);
    assert_int_equal(json_doc_parse(&doc, req->reply.body.data, req->reply.body.len, NULL), ERR_OK);
    return doc;
}

static const char *text_at(json_t *doc, const char *name)
{
    return json_string_value(json_object_get(doc, name));
}

static void every_code_becomes_a_problem(void **state)
{
    (void)state;
    for (int code = ERR_OK + 1; code < ERR_CODE_COUNT; code++) {
        struct request req = make("GET", "/v1/collections");
        json_t *doc = problem_of(&req, (enum err_code)code, "the message", "/a/0");
        int status = err_status((enum err_code)code);
        bool is_hidden = status == 500 || code == ERR_INSUFFICIENT_STORAGE || code == ERR_IO ||
                         code == ERR_NO_MEMORY;
        bool wants_retry =
            err_is_retriable((enum err_code)code) && (status == 429 || status == 503);
        json_t *error = json_array_get(json_object_get(doc, "errors"), 0);

        assert_string_equal(text_at(doc, "code"), err_word((enum err_code)code));
        assert_string_equal(text_at(doc, "title"), err_title((enum err_code)code));
        assert_int_equal(json_integer_value(json_object_get(doc, "status")), status);
        assert_string_equal(text_at(doc, "request_id"), req.request_id);
        assert_string_equal(text_at(doc, "detail"),
                            is_hidden ? err_title((enum err_code)code) : "the message");
        assert_string_equal(text_at(error, "pointer"), "/a/0");
        assert_memory_equal(text_at(doc, "type"), "/problems/", 10);
        assert_null(strchr(text_at(doc, "type"), '_'));
        assert_int_equal(wants_retry, reply_header_of(&req, "Retry-After") != NULL);
        assert_string_equal(reply_header_of(&req, "X-Kept"), "yes");
        json_decref(doc);
        request_free(&req);
    }
}

static void a_code_without_a_message_is_answered_too(void **state)
{
    struct request req = make("GET", "/v1/collections");
    json_t *doc = problem_of(&req, ERR_RATE_LIMITED, NULL, "");

    (void)state;
    assert_string_equal(text_at(doc, "detail"), err_title(ERR_RATE_LIMITED));
    assert_null(json_object_get(doc, "errors"));
    json_decref(doc);
    request_free(&req);
}

static void a_message_that_is_no_utf8_is_still_json(void **state)
{
    struct request req = make("GET", "/v1/collections");
    char message[ERR_MESSAGE_BYTES + 8];
    json_t *doc;

    (void)state;
    memset(message, 'a', sizeof(message));
    memcpy(message + ERR_MESSAGE_BYTES - 2, "\xc3\xa4", 3); /* cut in its middle */
    doc = problem_of(&req, ERR_INVALID_ARGUMENT, message, "/\xff\"");
    assert_string_equal(text_at(json_array_get(json_object_get(doc, "errors"), 0), "pointer"),
                        "/?\"");
    assert_int_equal(strlen(text_at(doc, "detail")), ERR_MESSAGE_BYTES - 1);
    json_decref(doc);
    request_free(&req);
}

static void an_error_of_the_transport_keeps_the_handler_out(void **state)
{
    struct request req = make("PUT", "/v1/collections/a");
    struct route_match match = route_find(routes, &req);

    (void)state;
    (void)err_set(&req.err, ERR_REQUEST_TIMEOUT, "slow");
    route_run(&match, &req);
    assert_int_equal(req.reply.status, 408);
    assert_null(memmem(req.reply.body.data, req.reply.body.len, "half", 4));
    request_free(&req);
}

static void query_parameters(void **state)
{
    static const char *const names[] = {"limit", "page", NULL};
    struct request req = make("GET", "/v1/collections");
    bool present = true;

    (void)state;
    req.query = "&limit=1%200+x&empty=&flag&&limit=2&bad=%zz&nul=%00&a%26=";
    assert_string_equal(request_query(&req, "limit", &present), "1 0 x");
    assert_true(present);
    assert_string_equal(request_query(&req, "empty", &present), "");
    assert_true(present);
    assert_string_equal(request_query(&req, "flag", &present), "");
    assert_true(present);
    assert_null(request_query(&req, "absent", &present));
    assert_false(present);
    assert_null(request_query(&req, "lim", NULL));
    assert_null(request_query(&req, "bad", &present));
    assert_true(present);
    assert_null(request_query(&req, "nul", &present));
    assert_true(present);
    assert_int_equal(request_query_only(&req, names), ERR_UNKNOWN_FIELD);
    req.query = "page=&limit=3";
    assert_int_equal(request_query_only(&req, names), ERR_OK);
    req.query = "";
    assert_int_equal(request_query_only(&req, names), ERR_OK);
    request_free(&req);
}

static void media_types_are_compared_without_parameters(void **state)
{
    struct headers headers = {.names = {"Content-Type"}};
    struct request req = make("PUT", "/v1/collections/a");

    (void)state;
    assert_int_equal(request_expect_media(&req, MEDIA_JSON), ERR_OK);
    req.transport = &headers;
    headers.values[0] = "Application/JSON; charset=utf-8";
    assert_int_equal(request_expect_media(&req, MEDIA_JSON), ERR_OK);
    headers.values[0] = "application/jsonx";
    assert_int_equal(request_expect_media(&req, MEDIA_JSON), ERR_UNSUPPORTED_MEDIA_TYPE);
    headers.values[0] = "application/x-vicinal";
    assert_int_equal(request_expect_media(&req, MEDIA_BINARY), ERR_OK);
    assert_int_equal(request_expect_media(&req, MEDIA_JSON), ERR_UNSUPPORTED_MEDIA_TYPE);
}

static void headers_are_replaced_and_cleaned(void **state)
{
    struct reply reply = {0};

    (void)state;
    reply_header(&reply, "ETag", "%d", 1);
    reply_header(&reply, "Location", "/a\r\nX-Evil: %s", "1");
    reply_header(&reply, "etag", "%d", 2);
    assert_int_equal(reply.header_count, 2);
    assert_string_equal(reply.headers[0].value, "2");
    assert_string_equal(reply.headers[1].value, "/a??X-Evil: 1");
}

/* Ten characters of a JSON number, whatever the age; never more than the truth. */
static void ages_have_one_width(void **state)
{
    static const struct {
        int64_t since;
        uint64_t now;
        const char *text;
    } ages[] = {
        {0, 0, "0.00000000"},
        {0, 19, "0.00000001"},
        {1000, 5, "0.00000000"},
        {-1, 9, "0.00000001"},
        {0, 1 * NS_PER_S, "1.00000000"},
        {0, 9999999999, "9.99999999"},
        {7, 12 * NS_PER_S + 7, "12.0000000"},
        {0, 123456 * NS_PER_S + 789999999, "123456.789"},
        {0, 9999999 * NS_PER_S + 999999999, "9999999.99"},
        {0, 10000000 * NS_PER_S, "1000000000"},
        {-INT64_MAX, UINT64_MAX / 4, "1000000000"},
        {AGE_UNKNOWN, 5, "1000000000"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(ages) / sizeof(ages[0]); i++) {
        char text[AGE_CHARS + 1] = {0};

        age_write(text, ages[i].since, ages[i].now);
        assert_string_equal(text, ages[i].text);
    }
}

/* They are of the body that was given up. */
static void a_problem_has_no_ages(void **state)
{
    struct request req = {.env = env_real(), .err = {.code = ERR_INTERNAL}};
    struct json_writer w;

    (void)state;
    json_writer_init(&w, &req.reply.body);
    age_put(&req, &w, 0);
    assert_non_null(req.reply.ages);
    reply_problem(&req);
    assert_null(req.reply.ages);
    request_free(&req);
}

#define TEST(f) cmocka_unit_test_setup(f, reset)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(paths_match_segment_by_segment),
        TEST(a_literal_row_and_a_wildcard_share_a_path),
        TEST(allow_names_every_method_of_the_path),
        TEST(parameters_are_decoded),
        TEST(bodies_are_limited_at_both_edges),
        TEST(request_ids_are_kept_or_made),
        TEST(only_a_whole_traceparent_is_taken),
        TEST(every_code_becomes_a_problem),
        TEST(a_code_without_a_message_is_answered_too),
        TEST(ages_have_one_width),
        TEST(a_problem_has_no_ages),
        TEST(a_message_that_is_no_utf8_is_still_json),
        TEST(an_error_of_the_transport_keeps_the_handler_out),
        TEST(query_parameters),
        TEST(media_types_are_compared_without_parameters),
        TEST(headers_are_replaced_and_cleaned),
    };

    log_start("test", LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
