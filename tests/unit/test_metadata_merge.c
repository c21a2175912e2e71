/* Merge patches of metadata: the examples of RFC 7396, and bytes that are not named stay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "services/ingest/metadata_merge.h"

struct outcome {
    enum err_code rc;
    bool changed;
    char text[512];
};

static struct outcome merge(const char *target, const char *patch_text)
{
    struct outcome outcome = {0};
    struct merge_patch *patch = NULL;
    struct arena arena = {0};
    struct buffer out = {0};
    struct err err = {0};

    assert_int_equal(merge_patch_parse(&patch, patch_text, strlen(patch_text), &arena, &err),
                     ERR_OK);
    for (int i = 0; i < 2; i++) { /* a patch serves for many targets */
        outcome.rc = merge_patch_apply(patch, target, target == NULL ? 0 : strlen(target), &arena,
                                       &out, &outcome.changed, &err);
        (void)snprintf(outcome.text, sizeof(outcome.text), "%.*s", (int)out.len,
                       out.data == NULL ? "" : (const char *)out.data);
    }
    assert_int_equal(outcome.rc, err.code);
    buffer_free(&out);
    arena_free(&arena);
    return outcome;
}

static void the_examples_of_the_rfc(void **state)
{
    static const char *const CASES[][3] = {
        {"{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"a\":null}", "{}"},
        {"{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}"},
        {"{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}"},
        {"{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}"},
        {"{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}"},
        {"{\"e\":null}", "{\"a\":1}", "{\"e\":null,\"a\":1}"},
        {"{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}"},
        {"{\"a\":\"foo\"}", "{\"a\":{\"bb\":{\"ccc\":null,\"d\":1}}}",
         "{\"a\":{\"bb\":{\"d\":1}}}"},
        {NULL, "{\"a\":{\"b\":null},\"c\":null}", "{\"a\":{}}"},
        {"{\"a\":{\"b\":{\"c\":1,\"d\":2}},\"z\":0}", "{\"a\":{\"b\":{\"c\":null,\"e\":3}}}",
         "{\"a\":{\"b\":{\"d\":2,\"e\":3}},\"z\":0}"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(CASES); i++) {
        struct outcome outcome = merge(CASES[i][0], CASES[i][1]);

        assert_int_equal(outcome.rc, ERR_OK);
        assert_true(outcome.changed);
        assert_string_equal(outcome.text, CASES[i][2]);
    }
}

static void what_is_not_named_keeps_its_bytes(void **state)
{
    (void)state;
    assert_string_equal(merge("{ \"n\": 12345678901234567890123, \"f\":1.10, \"o\":{ \"x\" : 0.1 },"
                              "\"gone\":[1, 2]}",
                              "{\"new\":9007199254740993,\"gone\":null}")
                            .text,
                        "{\"n\":12345678901234567890123,\"f\":1.10,\"o\":{ \"x\" : 0.1 },"
                        "\"new\":9007199254740993}");
}

static void a_patch_without_effect_changes_nothing(void **state)
{
    (void)state;
    assert_false(merge("{\"a\":1,\"o\":{\"b\":[2]}}", "{}").changed);
    assert_false(
        merge("{\"a\":1,\"o\":{\"b\":[2]}}", "{\"a\":1,\"o\":{\"b\":[2],\"c\":null}}").changed);
    assert_false(merge("{\"a\":1}", "{\"none\":null}").changed);
    assert_false(merge(NULL, "{\"none\":null}").changed);
    assert_true(merge("{\"a\":1}", "{\"a\":1.0}").changed);
    assert_true(merge("{\"a\":1}", "{\"o\":{}}").changed);
}

static void keys_are_compared_as_text_not_as_bytes(void **state)
{
    (void)state;
    assert_string_equal(merge("{\"\\u0061\":1,\"\":2}", "{\"a\":3,\"\":null}").text, "{\"a\":3}");
}

static void what_grows_too_large_is_refused(void **state)
{
    struct merge_patch *patch = NULL;
    struct arena arena = {0};
    struct buffer target = {0}, out = {0};
    struct err err = {0};
    bool changed;

    (void)state;
    buffer_append_text(&target, "{\"a\":\"");
    while (target.len < METADATA_BYTES_MAX - 10)
        buffer_append_byte(&target, 'x');
    buffer_append_text(&target, "\"}");
    assert_int_equal(merge_patch_parse(&patch, "{\"b\":12345}", 11, &arena, &err), ERR_OK);
    assert_int_equal(merge_patch_apply(patch, (const char *)target.data, target.len, &arena, &out,
                                       &changed, &err),
                     ERR_PAYLOAD_TOO_LARGE);
    buffer_free(&target);
    buffer_free(&out);
    arena_free(&arena);
}

static void a_damaged_target_is_told(void **state)
{
    (void)state;
    assert_int_equal(merge("{\"a\":", "{\"a\":1}").rc, ERR_CORRUPT);
    assert_int_equal(merge("[]", "{\"a\":1}").rc, ERR_CORRUPT);
}

/* --- against jansson and the rule of the RFC, word for word -------------------------------------
 */

static uint64_t seed;

static uint32_t draw(uint32_t below)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % below;
}

static json_t *random_object(int depth)
{
    static const char *const KEYS[] = {"a", "b", "c", "d"};
    json_t *object = json_object();

    for (uint32_t i = draw(4); i > 0; i--) {
        uint32_t kind = draw(4);
        json_t *value = kind == 0                ? json_null()
                        : kind == 1 && depth > 0 ? random_object(depth - 1)
                                                 : json_integer(draw(3));

        assert_int_equal(json_object_set_new(object, KEYS[draw(4)], value), 0);
    }
    return object;
}

static json_t *merge_by_the_rule(json_t *target, json_t *patch)
{
    const char *key;
    json_t *value;

    if (!json_is_object(patch))
        return json_deep_copy(patch);
    target = json_is_object(target) ? json_deep_copy(target) : json_object();
    json_object_foreach(patch, key, value)
    {
        if (json_is_null(value))
            (void)json_object_del(target, key);
        else
            assert_int_equal(
                json_object_set_new(target, key,
                                    merge_by_the_rule(json_object_get(target, key), value)),
                0);
    }
    return target;
}

static void random_patches_do_what_the_rule_says(void **state)
{
    (void)state;
    seed = 20261121;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 3000; i++) {
        json_t *target = random_object(4), *patch = random_object(4);
        json_t *wanted = merge_by_the_rule(target, patch);
        char *target_text = json_dumps(target, JSON_COMPACT);
        char *patch_text = json_dumps(patch, JSON_COMPACT);
        struct outcome outcome = merge(target_text, patch_text);
        json_t *got = json_loads(outcome.text, 0, NULL);

        if (!json_equal(got, wanted) || outcome.changed == json_equal(target, wanted))
            fail_msg("%s + %s = %s", target_text, patch_text, outcome.text);
        assert_false(merge(outcome.text, patch_text).changed); /* a second time is none */
        free(target_text);
        free(patch_text);
        json_decref(target);
        json_decref(patch);
        json_decref(wanted);
        json_decref(got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_examples_of_the_rfc),
        cmocka_unit_test(what_is_not_named_keeps_its_bytes),
        cmocka_unit_test(a_patch_without_effect_changes_nothing),
        cmocka_unit_test(keys_are_compared_as_text_not_as_bytes),
        cmocka_unit_test(what_grows_too_large_is_refused),
        cmocka_unit_test(a_damaged_target_is_told),
        cmocka_unit_test(random_patches_do_what_the_rule_says),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
