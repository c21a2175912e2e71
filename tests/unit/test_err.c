/* Errors: codes, words, messages that are cut and never overrun. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "common/base/err.h"

static void a_code_has_status_word_and_title(void **state)
{
    (void)state;
    for (int code = 0; code < ERR_CODE_COUNT; code++) {
        assert_in_range(err_status((enum err_code)code), 200, 599);
        assert_true(strlen(err_word((enum err_code)code)) > 0);
        assert_true(strlen(err_title((enum err_code)code)) > 0);
    }
    assert_int_equal(err_status(ERR_DIMENSION_MISMATCH), 422);
    assert_true(err_is_retriable(ERR_UNAVAILABLE));
    assert_false(err_is_retriable(ERR_INVALID_JSON));
}

static void a_word_leads_back_to_its_code(void **state)
{
    (void)state;
    assert_int_equal(err_from_word("timeout", 7), ERR_TIMEOUT);
    assert_int_equal(err_from_word("unavailable", 11), ERR_NO_MEMORY);
    assert_int_equal(err_from_word("timeouts", 8), ERR_INTERNAL);
    assert_int_equal(err_from_word("", 0), ERR_INTERNAL);
}

static void context_is_put_in_front(void **state)
{
    struct err err;

    (void)state;
    assert_int_equal(err_set(&err, ERR_IO, "no room in %d", 7), ERR_IO);
    assert_int_equal(err_wrap(&err, "shard %d", 3), ERR_IO);
    assert_string_equal(err.message, "shard 3: no room in 7");
    assert_string_equal(err.pointer, "");
    assert_int_equal(err_set_at(&err, ERR_INVALID_ARGUMENT, "/vector", "bad"),
                     ERR_INVALID_ARGUMENT);
    err_prefix_pointer(&err, "/records/3");
    assert_string_equal(err.pointer, "/records/3/vector");
    err_clear(&err);
    assert_int_equal(err.code, ERR_OK);
    assert_string_equal(err.message, "");
}

static void long_messages_are_cut(void **state)
{
    char text[2 * ERR_MESSAGE_BYTES];
    struct err err;

    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    (void)err_set_at(&err, ERR_IO, text, "%s", text);
    assert_int_equal(strlen(err.message), ERR_MESSAGE_BYTES - 1);
    assert_int_equal(strlen(err.pointer), ERR_POINTER_BYTES - 1);
    (void)err_wrap(&err, "%s", text);
    err_prefix_pointer(&err, text);
    assert_int_equal(strlen(err.message), ERR_MESSAGE_BYTES - 1);
    assert_int_equal(strlen(err.pointer), ERR_POINTER_BYTES - 1);
}

static void errno_chooses_the_code(void **state)
{
    struct err err;

    (void)state;
    assert_int_equal(err_set_errno(&err, ENOSPC, "write"), ERR_INSUFFICIENT_STORAGE);
    assert_int_equal(err_set_errno(&err, ENOMEM, "write"), ERR_NO_MEMORY);
    assert_int_equal(err_set_errno(&err, EIO, "write"), ERR_IO);
    assert_string_equal(err.message, "write: Input/output error");
    assert_int_equal(err_set(NULL, ERR_IO, "nobody listens"), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_code_has_status_word_and_title),
        cmocka_unit_test(a_word_leads_back_to_its_code),
        cmocka_unit_test(context_is_put_in_front),
        cmocka_unit_test(long_messages_are_cut),
        cmocka_unit_test(errno_chooses_the_code),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
