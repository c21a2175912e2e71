/* jansson behind our errors: what is refused, and with which code. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/http/json_doc.h"

static enum err_code parse(const char *text, json_t **doc, struct err *err)
{
    return json_doc_parse(doc, text, strlen(text), err);
}

static void refuses(const char *text, enum err_code code)
{
    struct err err = {0};
    json_t *doc;

    if (parse(text, &doc, &err) != code)
        fail_msg("%s: %s, wanted %s", text, err_word(err.code), err_word(code));
    assert_null(doc);
    assert_int_equal(err.code, code);
}

static void what_is_no_object_is_refused(void **state)
{
    json_t *doc;

    (void)state;
    refuses("", ERR_INVALID_JSON);
    refuses("{", ERR_INVALID_JSON);
    refuses("{} x", ERR_INVALID_JSON);
    refuses("{\"a\":1,\"a\":2}", ERR_INVALID_JSON);
    refuses("{\"a\":\"\\u0000\"}", ERR_INVALID_JSON);
    refuses("{\"a\":\"\xff\"}", ERR_INVALID_JSON);
    refuses("{\"a\":NaN}", ERR_INVALID_JSON);
    refuses("{\"a\":1e400}", ERR_INVALID_ARGUMENT);
    refuses("{\"a\":99999999999999999999}", ERR_INVALID_ARGUMENT);
    refuses("[]", ERR_INVALID_ARGUMENT);
    refuses("7", ERR_INVALID_ARGUMENT);
    assert_int_equal(json_doc_parse(&doc, "{\0}", 3, NULL), ERR_INVALID_JSON);
    assert_int_equal(json_doc_parse(&doc, "\0", 1, NULL), ERR_INVALID_JSON);
    assert_int_equal(json_doc_parse(&doc, NULL, 0, NULL), ERR_INVALID_JSON);
}

static void nest(struct buffer *out, size_t depth)
{
    buffer_reset(out);
    buffer_append_text(out, "{\"a]]\\\"\":");
    for (size_t i = 1; i < depth; i++)
        buffer_append_byte(out, '[');
    for (size_t i = 1; i < depth; i++)
        buffer_append_byte(out, ']');
    buffer_append_text(out, depth == 1 ? "1}" : "}");
}

static void nesting_is_allowed_up_to_the_limit(void **state)
{
    struct buffer text = {0};
    json_t *doc;

    (void)state;
    nest(&text, 1);
    assert_int_equal(json_doc_parse(&doc, text.data, text.len, NULL), ERR_OK);
    json_decref(doc);
    nest(&text, JSON_DEPTH_MAX);
    assert_int_equal(json_doc_parse(&doc, text.data, text.len, NULL), ERR_OK);
    json_decref(doc);
    nest(&text, JSON_DEPTH_MAX + 1);
    assert_int_equal(json_doc_parse(&doc, text.data, text.len, NULL), ERR_INVALID_JSON);
    nest(&text, 100000);
    assert_int_equal(json_doc_parse(&doc, text.data, text.len, NULL), ERR_INVALID_JSON);
    buffer_free(&text);
}

static void an_unknown_field_is_named(void **state)
{
    static const char *const names[] = {"a", "b", NULL};
    struct err err = {0};
    json_t *doc;

    (void)state;
    assert_int_equal(parse("{\"a\":1,\"b\":2}", &doc, &err), ERR_OK);
    assert_int_equal(json_doc_only(doc, names, &err), ERR_OK);
    json_decref(doc);
    assert_int_equal(parse("{\"a\":1,\"x/y~\":2}", &doc, &err), ERR_OK);
    assert_int_equal(json_doc_only(doc, names, &err), ERR_UNKNOWN_FIELD);
    assert_string_equal(err.pointer, "/x~1y~0");
    json_decref(doc);
}

static void members_are_read_by_type(void **state)
{
    const char *text = "before";
    uint64_t number = 42;
    bool flag = false;
    struct err err = {0};
    json_t *doc;

    (void)state;
    assert_int_equal(
        parse("{\"t\":\"x\",\"n\":7,\"b\":true,\"null\":null,\"neg\":-1,\"real\":7.0}", &doc, &err),
        ERR_OK);
    assert_int_equal(json_doc_text(doc, "absent", &text, &err), ERR_OK);
    assert_int_equal(json_doc_text(doc, "null", &text, &err), ERR_OK);
    assert_string_equal(text, "before");
    assert_int_equal(json_doc_u64(doc, "absent", 0, 9, &number, &err), ERR_OK);
    assert_int_equal(number, 42);
    assert_int_equal(json_doc_text(doc, "t", &text, &err), ERR_OK);
    assert_string_equal(text, "x");
    assert_int_equal(json_doc_u64(doc, "n", 7, 7, &number, &err), ERR_OK);
    assert_int_equal(number, 7);
    assert_int_equal(json_doc_bool(doc, "b", &flag, &err), ERR_OK);
    assert_true(flag);

    assert_int_equal(json_doc_u64(doc, "n", 8, 9, &number, &err), ERR_INVALID_ARGUMENT);
    assert_string_equal(err.pointer, "/n");
    assert_int_equal(json_doc_u64(doc, "n", 0, 6, &number, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(json_doc_u64(doc, "neg", 0, UINT64_MAX, &number, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(json_doc_u64(doc, "real", 0, 9, &number, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(json_doc_u64(doc, "t", 0, 9, &number, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(json_doc_u64(doc, "b", 0, 9, &number, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(json_doc_text(doc, "n", &text, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(json_doc_bool(doc, "n", &flag, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(number, 7);
    json_decref(doc);
}

static void a_document_is_dumped_compactly(void **state)
{
    struct buffer out = {0};
    json_t *doc;

    (void)state;
    assert_int_equal(parse("{ \"a\" : [ 1, \"\xc3\xa4\" ] }", &doc, NULL), ERR_OK);
    json_doc_dump(doc, &out);
    assert_int_equal(out.len, strlen("{\"a\":[1,\"\xc3\xa4\"]}"));
    assert_memory_equal(out.data, "{\"a\":[1,\"\xc3\xa4\"]}", out.len);
    buffer_free(&out);
    json_decref(doc);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_object_is_refused),
        cmocka_unit_test(nesting_is_allowed_up_to_the_limit),
        cmocka_unit_test(an_unknown_field_is_named),
        cmocka_unit_test(members_are_read_by_type),
        cmocka_unit_test(a_document_is_dumped_compactly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
