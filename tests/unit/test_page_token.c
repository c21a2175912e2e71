/* Page tokens: what was written is read again; what was changed is refused; what is of something
 * else is told apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/limits.h"
#include "services/router/router.h"

static const char filter_a[] = "{\"a\":1}";

static struct page_token make(const char *last, size_t len)
{
    struct page_token token = {.last = last, .last_len = len};

    memset(token.incarnation, 0x5a, sizeof(token.incarnation));
    token.filter_hash = page_filter_hash((struct filter_text){.data = filter_a, .len = 7});
    return token;
}

static void a_token_comes_back_as_it_was(void **state)
{
    static char longest[ID_BYTES_MAX];
    struct page_token out, tokens[3];

    (void)state;
    memset(longest, 'z', sizeof(longest));
    tokens[0] = make("", 0);
    tokens[1] = make("kb/42#3 \xc3\xa4", 10);
    tokens[2] = make(longest, sizeof(longest));
    for (size_t i = 0; i < 3; i++) {
        struct arena arena = {0};
        struct buffer text = {0};
        struct err err = {0};

        page_token_encode(&tokens[i], &text);
        assert_int_equal(page_token_decode(&out,
                                           (struct json_text){(const char *)text.data, text.len},
                                           &arena, &err),
                         ERR_OK);
        assert_int_equal(out.last_len, tokens[i].last_len);
        assert_memory_equal(out.last, tokens[i].last, out.last_len);
        assert_int_equal(page_token_check(&out, &tokens[i], &err), ERR_OK);
        buffer_free(&text);
        arena_free(&arena);
    }
}

static void a_changed_token_is_malformed(void **state)
{
    struct page_token token = make("last", 4), out;
    struct arena arena = {0};
    struct buffer text = {0};

    (void)state;
    page_token_encode(&token, &text);
    for (size_t i = 0; i < text.len; i++) {
        uint8_t kept = text.data[i];
        struct err err = {0};

        text.data[i] = kept == 'A' ? 'B' : 'A';
        assert_int_equal(page_token_decode(&out,
                                           (struct json_text){(const char *)text.data, text.len},
                                           &arena, &err),
                         ERR_INVALID_ARGUMENT);
        assert_string_equal(err.pointer, "/page_token");
        text.data[i] = kept;
    }
    for (size_t len = 0; len < text.len; len++) {
        struct err err = {0};

        assert_int_equal(
            page_token_decode(&out, (struct json_text){(const char *)text.data, len}, &arena, &err),
            ERR_INVALID_ARGUMENT);
    }
    buffer_free(&text);
    arena_free(&arena);
}

static void another_filter_and_another_incarnation_are_told_apart(void **state)
{
    struct page_token token = make("last", 4), now = token;
    struct err err = {0};

    (void)state;
    now.filter_hash = page_filter_hash((struct filter_text){0});
    assert_int_equal(now.filter_hash, 0);
    assert_int_equal(page_token_check(&token, &now, &err), ERR_INVALID_ARGUMENT);
    now = token;
    now.incarnation[3] ^= 1;
    assert_int_equal(page_token_check(&token, &now, &err), ERR_PAGE_TOKEN_EXPIRED);
}

static void an_if_none_match_names_its_etag(void **state)
{
    char etag[ETAG_BYTES];

    (void)state;
    etag_of(etag, (struct stamp){.clock = 17, .region = 3});
    assert_true(etag[0] == '"' && etag[strlen(etag) - 1] == '"');
    assert_false(etag_listed(NULL, etag));
    assert_false(etag_listed("", etag));
    assert_true(etag_listed("*", etag));
    assert_true(etag_listed(etag, etag));
    assert_false(etag_listed("\"1\", \"2\"", etag));
    {
        char list[3 * ETAG_BYTES] = "\"1\", W/";

        memcpy(list + strlen(list), etag, strlen(etag) + 1);
        assert_true(etag_listed(list, etag));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_comes_back_as_it_was),
        cmocka_unit_test(a_changed_token_is_malformed),
        cmocka_unit_test(another_filter_and_another_incarnation_are_told_apart),
        cmocka_unit_test(an_if_none_match_names_its_etag),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
