/* Arenas: zeroed, aligned, apart, and reusable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/arena.h"

static void allocations_are_zeroed_aligned_and_apart(void **state)
{
    struct arena arena = {0};
    uint8_t *pieces[300];

    (void)state;
    for (size_t i = 0; i < 300; i++) {
        pieces[i] = arena_alloc(&arena, i, 7);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        for (size_t j = 0; j < i * 7; j++)
            assert_int_equal(pieces[i][j], 0);
        memset(pieces[i], (int)i & 0xff, i * 7);
    }
    for (size_t i = 0; i < 300; i++)
        for (size_t j = 0; j < i * 7; j++)
            assert_int_equal(pieces[i][j], i & 0xff);
    assert_true(arena.used_bytes >= 300 * 299 / 2 * 7);
    arena_free(&arena);
    assert_null(arena.blocks);
    arena_free(&arena);
}

static void reset_memory_is_zeroed_again(void **state)
{
    struct arena arena = {0};

    (void)state;
    for (int round = 0; round < 3; round++) {
        uint8_t *big = arena_alloc(&arena, 1, 3 << 20);
        uint8_t *small = arena_alloc(&arena, 100, 1);

        assert_non_null(big);
        assert_non_null(small);
        assert_int_equal(big[0] | big[(3 << 20) - 1] | small[99], 0);
        memset(big, 0xff, 3 << 20);
        memset(small, 0xff, 100);
        arena_reset(&arena);
        assert_int_equal(arena.used_bytes, 0);
        assert_non_null(arena.blocks);
    }
    arena_free(&arena);
}

static void impossible_sizes_are_refused(void **state)
{
    struct arena arena = {0};

    (void)state;
    assert_null(arena_alloc(&arena, SIZE_MAX, 2));
    assert_null(arena_alloc(&arena, SIZE_MAX, 1));
    assert_null(arena_copy_text(&arena, "", SIZE_MAX));
    assert_non_null(arena_alloc(&arena, 0, 0));
    arena_free(&arena);
}

static void copied_text_ends_with_nul(void **state)
{
    struct arena arena = {0};
    char *copy = arena_copy_text(&arena, "abcdef", 3);

    (void)state;
    assert_string_equal(copy, "abc");
    assert_string_equal(arena_copy_text(&arena, NULL, 0), "");
    arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_zeroed_aligned_and_apart),
        cmocka_unit_test(reset_memory_is_zeroed_again),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(copied_text_ends_with_nul),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
