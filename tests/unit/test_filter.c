/* Filters mean what the API says, and what is no filter is refused by its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/buffer.h"
#include "common/base/json_reader.h"
#include "common/base/limits.h"
#include "common/model/filter.h"

static bool matches_id(const char *text, const char *id, const char *metadata)
{
    struct filter_scratch scratch = {0};
    const struct filter *filter = NULL;
    struct arena arena = {0};
    struct err err = {0};
    enum err_code rc = filter_parse(&filter, text, strlen(text), &arena, &err);
    bool result;

    if (rc != ERR_OK)
        print_message("%s: %s %s\n", text, err.pointer, err.message);
    assert_int_equal(rc, ERR_OK);
    result = filter_matches(filter, id, strlen(id), metadata, strlen(metadata), &scratch);
    assert_false(scratch.failed);
    filter_scratch_free(&scratch);
    arena_free(&arena);
    return result;
}

static bool matches(const char *text, const char *metadata)
{
    return matches_id(text, "id-1", metadata);
}

struct row {
    const char *filter, *metadata;
    bool expected;
};

static void check_rows(const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bool got = matches(rows[i].filter, rows[i].metadata);

        if (got != rows[i].expected)
            print_message("%s on %s: %d\n", rows[i].filter, rows[i].metadata, got);
        assert_int_equal(got, rows[i].expected);
    }
}

static void equality_is_type_strict(void **state)
{
    static const struct row rows[] = {
        {"{\"a\":1}", "{\"a\":1}", true},
        {"{\"a\":1}", "{\"a\":1.0}", true},
        {"{\"a\":1}", "{\"a\":10e-1}", true},
        {"{\"a\":1}", "{\"a\":true}", false},
        {"{\"a\":1}", "{\"a\":\"1\"}", false},
        {"{\"a\":true}", "{\"a\":1}", false},
        {"{\"a\":true}", "{\"a\":true}", true},
        {"{\"a\":false}", "{\"a\":true}", false},
        {"{\"a\":\"1\"}", "{\"a\":1}", false},
        {"{\"a\":\"x\"}", "{\"a\":\"x\"}", true},
        {"{\"a\":\"x\"}", "{\"a\":\"\\u0078\"}", true},
        {"{\"a\":\"\\u0078\"}", "{\"a\":\"x\"}", true},
        {"{\"a\":0}", "{\"a\":-0.0}", true},
        {"{\"a\":{\"$eq\":2}}", "{\"a\":2}", true},
        {"{\"a\":9007199254740993}", "{\"a\":9007199254740992}", false},
        {"{\"a\":9007199254740993}", "{\"a\":9007199254740993}", true},
        {"{\"a\":18446744073709551615}", "{\"a\":18446744073709551614}", false},
        {"{\"a\":-9007199254740993}", "{\"a\":-9007199254740992}", false},
        {"{\"a\":1e30}", "{\"a\":1000000000000000000000000000000}", true},
        {"{\"a\":0.1}", "{\"a\":0.10}", true},
    };

    (void)state;
    check_rows(rows, ARRAY_COUNT(rows));
}

static void missing_and_null_are_the_same(void **state)
{
    static const struct row rows[] = {
        {"{\"a\":null}", "{}", true},
        {"{\"a\":null}", "", true},
        {"{\"a\":null}", "{\"a\":null}", true},
        {"{\"a\":null}", "{\"a\":0}", false},
        {"{\"a\":null}", "{\"a\":[null]}", false},
        {"{\"a\":{\"$ne\":null}}", "{\"a\":0}", true},
        {"{\"a\":{\"$ne\":null}}", "{}", false},
        {"{\"a\":{\"$ne\":1}}", "{}", true},
        {"{\"a\":{\"$ne\":1}}", "{\"a\":null}", true},
        {"{\"a\":{\"$ne\":1}}", "{\"a\":1}", false},
        {"{\"a\":{\"$nin\":[1,2]}}", "{}", true},
        {"{\"a\":{\"$nin\":[1,2]}}", "{\"a\":3}", true},
        {"{\"a\":{\"$nin\":[1,2]}}", "{\"a\":2}", false},
        {"{\"a\":{\"$in\":[null,2]}}", "{}", true},
        {"{\"a\":{\"$in\":[null,2]}}", "{\"a\":3}", false},
        {"{\"a\":{\"$nin\":[null,2]}}", "{}", false},
        {"{\"a\":{\"$in\":[]}}", "{\"a\":3}", false},
        {"{\"a\":{\"$nin\":[]}}", "{\"a\":3}", true},
        {"{\"$not\":{\"a\":1}}", "{}", true},
        {"{\"a\":{\"$exists\":true}}", "{\"a\":[]}", true},
        {"{\"a\":{\"$exists\":true}}", "{\"a\":null}", false},
        {"{\"a\":{\"$exists\":false}}", "{}", true},
        {"{\"a\":{\"$exists\":false}}", "{\"a\":false}", false},
        {"{\"a\":{\"$is_empty\":true}}", "{\"a\":[]}", true},
        {"{\"a\":{\"$is_empty\":true}}", "{\"a\":[ ]}", true},
        {"{\"a\":{\"$is_empty\":true}}", "{\"a\":null}", true},
        {"{\"a\":{\"$is_empty\":true}}", "{}", true},
        {"{\"a\":{\"$is_empty\":true}}", "{\"a\":[0]}", false},
        {"{\"a\":{\"$is_empty\":true}}", "{\"a\":\"\"}", false},
        {"{\"a\":{\"$is_empty\":false}}", "{\"a\":\"\"}", true},
        {"{\"a\":{\"$is_empty\":false}}", "{\"a\":[]}", false},
    };

    (void)state;
    check_rows(rows, ARRAY_COUNT(rows));
}

static void order_compares_like_with_like(void **state)
{
    static const struct row rows[] = {
        {"{\"a\":{\"$gt\":1}}", "{\"a\":1.5}", true},
        {"{\"a\":{\"$gt\":1}}", "{\"a\":1}", false},
        {"{\"a\":{\"$gte\":1}}", "{\"a\":1.0}", true},
        {"{\"a\":{\"$lt\":-1}}", "{\"a\":-2}", true},
        {"{\"a\":{\"$lte\":-1}}", "{\"a\":-0.5}", false},
        {"{\"a\":{\"$gt\":1,\"$lt\":3}}", "{\"a\":2}", true},
        {"{\"a\":{\"$gt\":1,\"$lt\":3}}", "{\"a\":3}", false},
        {"{\"a\":{\"$gt\":1}}", "{\"a\":\"2\"}", false},
        {"{\"a\":{\"$gt\":0}}", "{\"a\":true}", false},
        {"{\"a\":{\"$gt\":1}}", "{}", false},
        {"{\"a\":{\"$gt\":9007199254740992}}", "{\"a\":9007199254740993}", true},
        {"{\"a\":{\"$lt\":18446744073709551616}}", "{\"a\":18446744073709551615}", true},
        {"{\"a\":{\"$gte\":\"2024-01-31\"}}", "{\"a\":\"2024-01-31T00:00:00Z\"}", true},
        {"{\"a\":{\"$gt\":\"2024-01-31\"}}", "{\"a\":\"2024-01-31T01:00:00+02:00\"}", false},
        {"{\"a\":{\"$lt\":\"2024-01-31\"}}", "{\"a\":\"2024-01-31T01:00:00+02:00\"}", true},
        {"{\"a\":{\"$lt\":\"2024-01-31\"}}", "{\"a\":\"yesterday\"}", false},
        {"{\"a\":{\"$lt\":\"2024-01-31\"}}", "{\"a\":5}", false},
        {"{\"a\":{\"$gt\":5}}", "{\"a\":\"2024-01-31\"}", false},
    };

    (void)state;
    check_rows(rows, ARRAY_COUNT(rows));
}

static void arrays_match_by_their_elements(void **state)
{
    static const struct row rows[] = {
        {"{\"a\":2}", "{\"a\":[1,2]}", true},
        {"{\"a\":2}", "{\"a\":[[2]]}", false},
        {"{\"a\":{\"$ne\":2}}", "{\"a\":[1,2]}", false},
        {"{\"a\":{\"$gt\":5}}", "{\"a\":[1,9]}", true},
        {"{\"a\":{\"$contains\":\"x\"}}", "{\"a\":[\"y\",\"x\"]}", true},
        {"{\"a\":{\"$contains\":\"x\"}}", "{\"a\":\"x\"}", false},
        {"{\"a\":{\"$contains\":null}}", "{\"a\":[null]}", true},
        {"{\"a\":{\"$contains\":null}}", "{\"a\":[]}", false},
        {"{\"a\":{\"$contains_any\":[1,\"z\"]}}", "{\"a\":[2,\"z\"]}", true},
        {"{\"a\":{\"$contains_any\":[]}}", "{\"a\":[2]}", false},
        {"{\"a\":{\"$contains_all\":[1,\"z\",1]}}", "{\"a\":[\"z\",2,1.0]}", true},
        {"{\"a\":{\"$contains_all\":[1,\"z\",true]}}", "{\"a\":[\"z\",2,1]}", false},
        {"{\"a\":{\"$contains_all\":[]}}", "{\"a\":[]}", true},
        {"{\"a\":{\"$contains_all\":[]}}", "{\"a\":1}", false},
        {"{\"a.b\":1}", "{\"a\":{\"b\":1}}", true},
        {"{\"a.b\":1}", "{\"a.b\":1}", false},
        {"{\"a\\\\.b\":1}", "{\"a.b\":1}", true},
        {"{\"a\\\\\\\\.b\":1}", "{\"a\\\\\":{\"b\":1}}", true},
        {"{\"a.b\":2}", "{\"a\":[{\"b\":1},3,{\"b\":2}]}", true},
        {"{\"a.b\":2}", "{\"a\":[[{\"b\":2}]]}", false},
        {"{\"a.b.c\":2}", "{\"a\":[{\"b\":[{\"c\":2}]}]}", true},
        {"{\"a.b\":null}", "{\"a\":[{\"b\":1},{}]}", false},
        {"{\"a.b\":{\"$exists\":false}}", "{\"a\":7}", true},
        {"{\"a\":1}", "{\"a\":2,\"a\":1}", true},
        {"{\"a\":2}", "{\"a\":2,\"a\":1}", false},
        {"{\"a.b\":1}", "{\"a\":{\"b\":2,\"b\":1}}", true},
    };

    (void)state;
    check_rows(rows, ARRAY_COUNT(rows));
}

static void words_and_patterns_are_found(void **state)
{
    static const struct row rows[] = {
        {"{\"a\":{\"$text\":\"fox quick\"}}", "{\"a\":\"the quick, brown fox\"}", true},
        {"{\"a\":{\"$text\":\"fox\"}}", "{\"a\":\"foxes\"}", false},
        {"{\"a\":{\"$text\":\"Fox\"}}", "{\"a\":\"fox\"}", false},
        {"{\"a\":{\"$itext\":\"Fox \\u00c9TUDE\"}}", "{\"a\":\"une \\u00e9tude: FOX\"}", true},
        {"{\"a\":{\"$itext\":\"\\u0139\\u0178\"}}", "{\"a\":\"\\u013a\\u00ff\"}", true},
        {"{\"a\":{\"$text\":\"a\\u2014b\"}}", "{\"a\":\"b a\"}", true},
        {"{\"a\":{\"$text\":\"!\"}}", "{\"a\":\"x\"}", true},
        {"{\"a\":{\"$text\":\"x\"}}", "{\"a\":[1,\"x y\"]}", true},
        {"{\"a\":{\"$text\":\"x\"}}", "{\"a\":5}", false},
        {"{\"a\":{\"$like\":\"a%c\"}}", "{\"a\":\"abcabc\"}", true},
        {"{\"a\":{\"$like\":\"a%c\"}}", "{\"a\":\"abcab\"}", false},
        {"{\"a\":{\"$like\":\"a_c\"}}", "{\"a\":\"a\\u00e9c\"}", true},
        {"{\"a\":{\"$like\":\"a_c\"}}", "{\"a\":\"ac\"}", false},
        {"{\"a\":{\"$like\":\"100\\\\%\"}}", "{\"a\":\"100%\"}", true},
        {"{\"a\":{\"$like\":\"100\\\\%\"}}", "{\"a\":\"1000\"}", false},
        {"{\"a\":{\"$like\":\"%\"}}", "{\"a\":\"\"}", true},
        {"{\"a\":{\"$like\":\"\"}}", "{\"a\":\"\"}", true},
        {"{\"a\":{\"$like\":\"\"}}", "{\"a\":\"x\"}", false},
        {"{\"a\":{\"$like\":\"%a%b%\"}}", "{\"a\":\"xxaxxb\"}", true},
        {"{\"a\":{\"$like\":\"A%\"}}", "{\"a\":\"ab\"}", false},
        {"{\"a\":{\"$ilike\":\"A%\\u00d6\"}}", "{\"a\":\"ab\\u00f6\"}", true},
    };

    (void)state;
    check_rows(rows, ARRAY_COUNT(rows));
}

static void conditions_combine(void **state)
{
    static const struct row rows[] = {
        {"{}", "{}", true},
        {" { } ", "{\"a\":1}", true},
        {"{\"a\":1,\"b\":2}", "{\"a\":1,\"b\":2}", true},
        {"{\"a\":1,\"b\":2}", "{\"a\":1,\"b\":3}", false},
        {"{\"$or\":[{\"a\":1},{\"b\":2}]}", "{\"b\":2}", true},
        {"{\"$or\":[{\"a\":1},{\"b\":2}]}", "{}", false},
        {"{\"$nor\":[{\"a\":1},{\"b\":2}]}", "{}", true},
        {"{\"$nor\":[{\"a\":1},{\"b\":2}]}", "{\"a\":1}", false},
        {"{\"$and\":[{\"a\":1},{\"$or\":[{\"b\":1},{\"c\":1}]}]}", "{\"a\":1,\"c\":1}", true},
        {"{\"$not\":{\"$and\":[{\"a\":1},{\"b\":1}]}}", "{\"a\":1}", true},
        {"{\"$not\":{\"$and\":[{\"a\":1},{\"b\":1}]}}", "{\"a\":1,\"b\":1}", false},
        {"{\"$not\":{}}", "{}", false},
        {"{\"$and\":[{}]}", "{}", true},
        {"{\"$or\":[{\"a\":1},{}]}", "{}", true},
        {"{\"$not\":{\"$not\":{\"$not\":{\"a\":1}}}}", "{\"a\":1}", false},
        {"{\"$or\":[{\"$nor\":[{\"a\":1}]},{\"a\":1,\"b\":1}],\"c\":1}",
         "{\"a\":1,\"b\":1,\"c\":1}", true},
    };

    (void)state;
    check_rows(rows, ARRAY_COUNT(rows));
}

static void ids_restrict(void **state)
{
    static const char *const restricted =
        "{\"a\":1,\"$and\":[{\"$id\":{\"$in\":[\"z\",\"b\",\"z\"]}},"
        "{\"$or\":[{\"$id\":\"q\"},{\"a\":1}]}]}";
    const struct filter *filter = NULL;
    struct arena arena = {0};
    struct err err = {0};
    const struct json_text *ids;
    size_t count;

    (void)state;
    assert_true(matches_id("{\"$id\":\"b\"}", "b", "{}"));
    assert_false(matches_id("{\"$id\":\"b\"}", "a", "{}"));
    assert_true(matches_id("{\"$id\":{\"$nin\":[\"b\"]}}", "a", ""));
    assert_true(matches_id("{\"$id\":{\"$ne\":\"b\"}}", "a", ""));
    assert_true(matches_id(restricted, "z", "{\"a\":1}"));
    assert_false(matches_id(restricted, "q", "{\"a\":1}"));
    assert_int_equal(filter_parse(&filter, restricted, strlen(restricted), &arena, &err), ERR_OK);
    ids = filter_ids(filter, &count);
    assert_non_null(ids);
    assert_int_equal(count, 2);
    assert_true(json_text_is(ids[0], "b"));
    assert_true(json_text_is(ids[1], "z"));
    assert_int_equal(filter_parse(&filter, "{\"$id\":{\"$in\":[]}}", 18, &arena, &err), ERR_OK);
    assert_non_null(filter_ids(filter, &count));
    assert_int_equal(count, 0);
    assert_int_equal(filter_parse(&filter, "{\"$not\":{\"$id\":\"b\"}}", 20, &arena, &err), ERR_OK);
    assert_null(filter_ids(filter, &count));
    assert_int_equal(filter_parse(&filter, "", 0, &arena, &err), ERR_OK);
    assert_null(filter);
    assert_null(filter_ids(filter, &count));
    arena_free(&arena);
}

struct bad_row {
    const char *filter, *pointer;
    enum err_code code;
};

static void what_is_no_filter_is_refused_by_its_place(void **state)
{
    static const struct bad_row rows[] = {
        {"[]", "", ERR_INVALID_FILTER},
        {"5", "", ERR_INVALID_FILTER},
        {"null", "", ERR_INVALID_FILTER},
        {"{", "", ERR_INVALID_JSON},
        {"{\"a\":}", "", ERR_INVALID_JSON},
        {"{\"a\":1}x", "", ERR_INVALID_JSON},
        {"{\"a\":{\"$gte\":}}", "", ERR_INVALID_JSON},
        {"{\"year\":{\"$gte\":[1]}}", "/year/$gte", ERR_INVALID_FILTER},
        {"{\"year\":{\"$gte\":\"soon\"}}", "/year/$gte", ERR_INVALID_FILTER},
        {"{\"year\":{\"$gte\":null}}", "/year/$gte", ERR_INVALID_FILTER},
        {"{\"year\":{\"$gt\":true}}", "/year/$gt", ERR_INVALID_FILTER},
        {"{\"year\":{\"$gt\":1e400}}", "/year/$gt", ERR_INVALID_FILTER},
        {"{\"year\":{\"$gt\":NaN}}", "/year/$gt", ERR_INVALID_FILTER},
        {"{\"a\":{\"$frob\":1}}", "/a/$frob", ERR_INVALID_FILTER},
        {"{\"$frob\":1}", "/$frob", ERR_INVALID_FILTER},
        {"{\"$eq\":1}", "/$eq", ERR_INVALID_FILTER},
        {"{\"a\":{\"b\":1}}", "/a/b", ERR_INVALID_FILTER},
        {"{\"a\":{\"$gt\":1,\"b\":1}}", "/a/b", ERR_INVALID_FILTER},
        {"{\"a\":{}}", "/a", ERR_INVALID_FILTER},
        {"{\"a\":[1]}", "/a", ERR_INVALID_FILTER},
        {"{\"a\":{\"$eq\":[1]}}", "/a/$eq", ERR_INVALID_FILTER},
        {"{\"a\":{\"$ne\":{}}}", "/a/$ne", ERR_INVALID_FILTER},
        {"{\"a\":{\"$in\":1}}", "/a/$in", ERR_INVALID_FILTER},
        {"{\"a\":{\"$in\":[1,[2]]}}", "/a/$in/1", ERR_INVALID_FILTER},
        {"{\"a\":{\"$nin\":[{}]}}", "/a/$nin/0", ERR_INVALID_FILTER},
        {"{\"a\":{\"$contains\":[1]}}", "/a/$contains", ERR_INVALID_FILTER},
        {"{\"a\":{\"$contains_any\":1}}", "/a/$contains_any", ERR_INVALID_FILTER},
        {"{\"a\":{\"$exists\":1}}", "/a/$exists", ERR_INVALID_FILTER},
        {"{\"a\":{\"$is_empty\":\"x\"}}", "/a/$is_empty", ERR_INVALID_FILTER},
        {"{\"a\":{\"$text\":1}}", "/a/$text", ERR_INVALID_FILTER},
        {"{\"a\":{\"$like\":null}}", "/a/$like", ERR_INVALID_FILTER},
        {"{\"a\":{\"$like\":\"x\\\\\"}}", "/a/$like", ERR_INVALID_FILTER},
        {"{\"$and\":[]}", "/$and", ERR_INVALID_FILTER},
        {"{\"$or\":{}}", "/$or", ERR_INVALID_FILTER},
        {"{\"$or\":[{\"a\":1},1]}", "/$or/1", ERR_INVALID_FILTER},
        {"{\"$not\":[]}", "/$not", ERR_INVALID_FILTER},
        {"{\"$and\":[{\"x/y~\":{\"$in\":[[]]}}]}", "/$and/0/x~1y~0/$in/0", ERR_INVALID_FILTER},
        {"{\"$id\":1}", "/$id", ERR_INVALID_FILTER},
        {"{\"$id\":{\"$gt\":1}}", "/$id/$gt", ERR_INVALID_FILTER},
        {"{\"$id\":{\"$in\":[\"a\",1]}}", "/$id/$in", ERR_INVALID_FILTER},
        {"{\"\":1}", "/", ERR_INVALID_FILTER},
        {"{\"a..b\":1}", "/a..b", ERR_INVALID_FILTER},
        {"{\"a.\":1}", "/a.", ERR_INVALID_FILTER},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        const struct filter *filter = NULL;
        struct arena arena = {0};
        struct err err = {0};
        enum err_code rc =
            filter_parse(&filter, rows[i].filter, strlen(rows[i].filter), &arena, &err);

        if (rc != rows[i].code || strcmp(err.pointer, rows[i].pointer) != 0)
            print_message("%s: %d %s %s\n", rows[i].filter, (int)rc, err.pointer, err.message);
        assert_int_equal(rc, rows[i].code);
        assert_int_equal(err.code, rows[i].code);
        assert_string_equal(err.pointer, rows[i].pointer);
        assert_null(filter);
        arena_free(&arena);
    }
}

/* before, count times middle with commas between, after */
static enum err_code parse_repeated(const char *before, const char *middle, size_t count,
                                    const char *after)
{
    const struct filter *filter = NULL;
    struct buffer text = {0};
    struct arena arena = {0};
    struct err err = {0};
    enum err_code rc;

    buffer_append_text(&text, before);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            buffer_append_byte(&text, ',');
        buffer_append_text(&text, middle);
    }
    buffer_append_text(&text, after);
    rc = filter_parse(&filter, text.data, text.len, &arena, &err);
    buffer_free(&text);
    arena_free(&arena);
    return rc;
}

static enum err_code parse_nested(size_t depth)
{
    const struct filter *filter = NULL;
    struct buffer text = {0};
    struct arena arena = {0};
    struct err err = {0};
    enum err_code rc;

    for (size_t i = 1; i < depth; i++)
        buffer_append_text(&text, i % 2 == 0 ? "{\"$not\":" : "{\"$or\":[");
    buffer_append_text(&text, "{\"a\":1}");
    for (size_t i = depth - 1; i > 0; i--)
        buffer_append_text(&text, i % 2 == 0 ? "}" : "]}");
    rc = filter_parse(&filter, text.data, text.len, &arena, &err);
    buffer_free(&text);
    arena_free(&arena);
    return rc;
}

static void limits_hold_at_both_edges(void **state)
{
    (void)state;
    assert_int_equal(parse_repeated("{\"$and\":[", "{\"a\":1}", FILTER_CLAUSES_MAX, "]}"), ERR_OK);
    assert_int_equal(parse_repeated("{\"$and\":[", "{\"a\":1}", FILTER_CLAUSES_MAX + 1, "]}"),
                     ERR_INVALID_FILTER);
    assert_int_equal(parse_repeated("{\"$and\":[", "{}", FILTER_CLAUSES_MAX + 1, "]}"),
                     ERR_INVALID_FILTER);
    assert_int_equal(parse_repeated("{\"a\":{\"$in\":[", "7", FILTER_VALUES_MAX, "]}}"), ERR_OK);
    assert_int_equal(parse_repeated("{\"a\":{\"$in\":[", "7", FILTER_VALUES_MAX + 1, "]}}"),
                     ERR_INVALID_FILTER);
    assert_int_equal(parse_nested(FILTER_DEPTH_MAX), ERR_OK);
    assert_int_equal(parse_nested(FILTER_DEPTH_MAX + 1), ERR_INVALID_FILTER);
}

static void foreign_depths_and_lengths_are_bounded(void **state)
{
    struct buffer text = {0};
    const struct filter *filter = NULL;
    struct arena arena = {0};
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < 100000; i++)
        buffer_append_text(&text, "{\"$not\":");
    assert_int_equal(filter_parse(&filter, text.data, text.len, &arena, &err), ERR_INVALID_FILTER);
    buffer_reset(&text);
    for (size_t i = 0; i < 100000; i++)
        buffer_append_byte(&text, '[');
    assert_int_not_equal(filter_parse(&filter, text.data, text.len, &arena, &err), ERR_OK);
    buffer_free(&text);
    arena_free(&arena);
}

/* Different fields, a value each: every slot is used, and each leads to its own. */
static void many_fields_are_kept_apart(void **state)
{
    struct buffer filter_text = {0}, metadata = {0};

    (void)state;
    for (int i = 0; i < FILTER_CLAUSES_MAX; i++) {
        buffer_append_format(&filter_text, "%c\"f%d\":%d", i == 0 ? '{' : ',', i, i);
        buffer_append_format(&metadata, "%c\"f%d\":%d", i == 0 ? '{' : ',', i, i);
    }
    buffer_append_text(&filter_text, "}");
    buffer_append_byte(&filter_text, 0);
    buffer_append_text(&metadata, "}");
    buffer_append_byte(&metadata, 0);
    assert_true(matches((const char *)filter_text.data, (const char *)metadata.data));
    metadata.data[metadata.len - 3] ^= 1;
    assert_false(matches((const char *)filter_text.data, (const char *)metadata.data));
    buffer_free(&filter_text);
    buffer_free(&metadata);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equality_is_type_strict),
        cmocka_unit_test(missing_and_null_are_the_same),
        cmocka_unit_test(order_compares_like_with_like),
        cmocka_unit_test(arrays_match_by_their_elements),
        cmocka_unit_test(words_and_patterns_are_found),
        cmocka_unit_test(conditions_combine),
        cmocka_unit_test(ids_restrict),
        cmocka_unit_test(what_is_no_filter_is_refused_by_its_place),
        cmocka_unit_test(limits_hold_at_both_edges),
        cmocka_unit_test(foreign_depths_and_lengths_are_bounded),
        cmocka_unit_test(many_fields_are_kept_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
