/* Tokens and stamps keep what they are told, in one form each, and refuse everything else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/bytes.h"
#include "common/model/position.h"
#include "common/model/stamp.h"

#define GOLDEN "rt1.AgUCAAoCrAIDAf8H____________AQyNTEc"
#define EMPTY  "rt1.AFFTfVI"

static void fill(struct token *token)
{
    struct err err = {0};

    assert_int_equal(token_raise(token, 9, 1023, UINT64_MAX, &err), ERR_OK);
    assert_int_equal(token_raise(token, 5, 3, 300, &err), ERR_OK);
    assert_int_equal(token_raise(token, 5, 0, 10, &err), ERR_OK);
}

static void positions_only_rise(void **state)
{
    struct token token = {0}, other = {0};
    struct err err = {0};

    (void)state;
    fill(&token);
    assert_int_equal(token_raise(&token, 5, 3, 299, &err), ERR_OK);
    assert_int_equal(token_position(&token, 5, 3), 300);
    assert_int_equal(token_raise(&token, 5, 3, 301, &err), ERR_OK);
    assert_int_equal(token_position(&token, 5, 3), 301);
    assert_int_equal(token_position(&token, 5, 4), 0);
    assert_int_equal(token_position(&token, 4, 3), 0);
    assert_int_equal(token_raise(&other, 5, 3, 999, &err), ERR_OK);
    assert_int_equal(token_raise(&other, 1, 1, 1, &err), ERR_OK);
    assert_int_equal(token_merge(&token, &other, &err), ERR_OK);
    assert_int_equal(token.count, 4);
    assert_int_equal(token_position(&token, 5, 3), 999);
    assert_int_equal(token_position(&token, 1, 1), 1);
    assert_int_equal(token_raise(&token, 1, PARTITIONS_MAX, 1, &err), ERR_INVALID_ARGUMENT);
    for (size_t i = 1; i < token.count; i++)
        assert_true(token.entries[i - 1].region <= token.entries[i].region);
    token_free(&token);
    token_free(&other);
}

static void check_text(const struct token *token, const char *text)
{
    struct buffer out = {0};
    struct token read = {0};
    struct err err = {0};

    token_to_text(token, &out);
    assert_int_equal(out.len, strlen(text));
    assert_memory_equal(out.data, text, out.len);
    assert_int_equal(token_from_text(&read, text, strlen(text), &err), ERR_OK);
    assert_int_equal(read.count, token->count);
    if (read.count > 0)
        assert_memory_equal(read.entries, token->entries, read.count * sizeof(read.entries[0]));
    token_free(&read);
    buffer_free(&out);
}

static void tokens_have_one_text(void **state)
{
    struct token token = {0};

    (void)state;
    check_text(&token, EMPTY);
    fill(&token);
    check_text(&token, GOLDEN);
    token_free(&token);
}

static void damaged_tokens_are_refused(void **state)
{
    static const char *const bad[] = {"",      "rt1", "rt1.",   "rt2.AFFTfVI", "rt1.AFFTfVI=",
                                      "rt1.!", "x",   "rt1.AA", "RT1.AFFTfVI", " rt1.AFFTfVI"};
    char text[] = GOLDEN;
    struct token token = {0};
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_int_equal(token_from_text(&token, bad[i], strlen(bad[i]), &err),
                         ERR_INVALID_ARGUMENT);
        assert_string_equal(err.pointer, "/read_token");
    }
    for (size_t i = 0; i < strlen(text); i++) {
        char kept = text[i];

        text[i] = kept == 'B' ? 'C' : 'B';
        assert_int_equal(token_from_text(&token, text, strlen(text), &err), ERR_INVALID_ARGUMENT);
        text[i] = kept;
        assert_int_equal(token_from_text(&token, text, i, &err), ERR_INVALID_ARGUMENT);
    }
    assert_null(token.entries);
}

static void too_many_entries_are_refused(void **state)
{
    struct token token = {0};
    struct err err = {0};

    (void)state;
    for (uint32_t i = 0; i < TOKEN_ENTRIES_MAX; i++)
        assert_int_equal(token_raise(&token, 1 + i / 1024, i % 1024, i, &err), ERR_OK);
    assert_int_equal(token_raise(&token, 99, 0, 1, &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(token_raise(&token, 1, 0, 5, &err), ERR_OK);
    token_free(&token);
}

/* Malformed content of the wire form: counts that lie, regions and partitions out of bounds. */
static void lying_content_is_refused(void **state)
{
    static const uint8_t bad[][12] = {
        {6, 0xff, 0xff, 0xff, 0xff, 0x7f, 0},          /* more regions than a token has */
        {3, 1, 5, 0},                                  /* a region without entries */
        {5, 1, 5, 2, 0, 1},                            /* one entry of two */
        {6, 1, 5, 1, 0x80, 0x08, 1},                   /* partition 1024 */
        {8, 1, 0x80, 0x80, 0x80, 0x80, 0x10, 1, 0},    /* region 2^32 */
        {9, 2, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0, 1}, /* nothing is above region 2^32 - 1 */
        {2, 1, 0x80},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct bytes_reader reader = {.data = bad[i] + 1, .len = bad[i][0]};
        struct token token = {0};
        struct err err = {0};

        assert_int_equal(token_decode(&token, &reader, &err), ERR_INVALID_ARGUMENT);
        assert_null(token.entries);
    }
}

static void sets_of_partitions_count(void **state)
{
    struct partition_set set;

    (void)state;
    partition_set_fill(&set, 0);
    assert_int_equal(partition_set_count(&set), 0);
    partition_set_fill(&set, 65);
    assert_int_equal(partition_set_count(&set), 65);
    assert_true(partition_set_has(&set, 64));
    assert_false(partition_set_has(&set, 65));
    partition_set_remove(&set, 64);
    assert_int_equal(partition_set_count(&set), 64);
    partition_set_fill(&set, PARTITIONS_MAX);
    assert_int_equal(partition_set_count(&set), PARTITIONS_MAX);
}

static void stamps_have_one_text(void **state)
{
    static const char *const bad[] = {"",
                                      "-",
                                      "1",
                                      "1-",
                                      "-1",
                                      "01-1",
                                      "1-01",
                                      "1-1 ",
                                      "+1-1",
                                      "1-4294967296",
                                      "18446744073709551616-1",
                                      "1--1",
                                      "a-1"};
    struct stamp stamp = {0};
    char text[STAMP_TEXT_BYTES];

    (void)state;
    stamp_to_text(text, (struct stamp){UINT64_MAX, UINT32_MAX});
    assert_string_equal(text, "18446744073709551615-4294967295");
    assert_true(stamp_from_text(&stamp, text, strlen(text)));
    assert_true(stamp.clock == UINT64_MAX && stamp.region == UINT32_MAX);
    assert_true(stamp_from_text(&stamp, "0-0", 3));
    assert_true(stamp_is_none(stamp));
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(stamp_from_text(&stamp, bad[i], strlen(bad[i])));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions_only_rise),
        cmocka_unit_test(tokens_have_one_text),
        cmocka_unit_test(damaged_tokens_are_refused),
        cmocka_unit_test(too_many_entries_are_refused),
        cmocka_unit_test(lying_content_is_refused),
        cmocka_unit_test(sets_of_partitions_count),
        cmocka_unit_test(stamps_have_one_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
