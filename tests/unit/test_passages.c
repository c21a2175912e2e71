/* Passages: slices of the text with the right lines, of bearable size, that leave no word out. */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cli/passages.h"
#include "common/base/text.h"

#define MANY 200

struct cut {
    struct passage passages[MANY];
    size_t count;
};

static uint32_t line_of(const char *text, const char *at)
{
    uint32_t line = 1;

    for (; text < at; text++)
        line += *text == '\n';
    return line;
}

static size_t words_of(const char *text, size_t len)
{
    size_t words = 0;

    for (size_t i = 0; i < len; i++)
        words +=
            !isspace((unsigned char)text[i]) && (i == 0 || isspace((unsigned char)text[i - 1]));
    return words;
}

/* Cut, and check what holds for every passage: inside, in order, lines right, not empty, nothing
 * but blanks between one and the next. */
static struct cut cut(const char *text, size_t len, enum passage_kind kind)
{
    struct cut out = {0};
    struct passages passages;
    struct passage passage;
    size_t covered = 0, start = 0;

    passages_init(&passages, text, len, kind);
    while (passages_next(&passages, &passage)) {
        size_t from = (size_t)(passage.text - text);

        assert_true(out.count < MANY);
        assert_true(passage.text >= text && from + passage.len <= len && passage.len > 0);
        assert_true(passage.len <= PASSAGE_BYTES_MAX + 2 * PASSAGE_WORD_BYTES);
        assert_true(text_is_utf8(passage.text, passage.len) || !text_is_utf8(text, len));
        assert_int_equal(passage.line, line_of(text, passage.text));
        assert_int_equal(passage.line_end, line_of(text, passage.text + passage.len));
        assert_true(out.count == 0 || from > start);
        for (size_t i = covered; i < from; i++)
            assert_false(isalnum((unsigned char)text[i]));
        start = from;
        covered = from + passage.len > covered ? from + passage.len : covered;
        out.passages[out.count++] = passage;
    }
    for (size_t i = covered; i < len; i++)
        assert_false(isalnum((unsigned char)text[i]));
    return out;
}

static void append(char *text, size_t size, const char *more)
{
    size_t len = strlen(text);

    assert_true(strlen(more) < size - len);
    memcpy(text + len, more, strlen(more) + 1);
}

static void a_short_text_is_one_passage(void **state)
{
    static const char text[] = "\n  One line.\n\nAnother one.\n";
    struct cut got = cut(text, sizeof(text) - 1, PASSAGE_PROSE);

    (void)state;
    assert_int_equal(got.count, 1);
    assert_int_equal(got.passages[0].line, 2);
    assert_int_equal(got.passages[0].line_end, 4);
    assert_int_equal(got.passages[0].len, strlen("One line.\n\nAnother one."));
}

static void nothing_gives_nothing(void **state)
{
    (void)state;
    for (enum passage_kind kind = PASSAGE_PROSE; kind <= PASSAGE_CODE; kind++) {
        assert_int_equal(cut("", 0, kind).count, 0);
        assert_int_equal(cut(" \n\t\r\n", 5, kind).count, 0);
        assert_int_equal(cut("---\n===\n", 8, kind).count, 0);
    }
}

static void paragraphs_are_kept_whole(void **state)
{
    char text[20000] = "", line[64];
    struct cut got;

    (void)state;
    for (int paragraph = 0; paragraph < 10; paragraph++) {
        for (int word = 0; word < 35; word++) {
            (void)snprintf(line, sizeof(line), "p%dw%d%s", paragraph, word,
                           word % 7 == 6 ? ".\n" : " ");
            append(text, sizeof(text), line);
        }
        append(text, sizeof(text), "\n");
    }
    got = cut(text, strlen(text), PASSAGE_PROSE);
    assert_true(got.count >= 3 && got.count <= 5);
    for (size_t i = 0; i < got.count; i++) {
        size_t words = words_of(got.passages[i].text, got.passages[i].len);

        assert_int_equal(words % 35, 0);
        assert_true(words >= 60 || i + 1 == got.count);
        assert_memory_equal(got.passages[i].text + got.passages[i].len - 4, "w34.", 4);
    }
}

static void one_long_paragraph_is_cut_at_sentences_with_overlap(void **state)
{
    char text[20000] = "", word[32];
    struct cut got;

    (void)state;
    for (int i = 0; i < 1000; i++) {
        (void)snprintf(word, sizeof(word), "w%d%s ", i, i % 11 == 10 ? "." : "");
        append(text, sizeof(text), word);
    }
    got = cut(text, strlen(text), PASSAGE_PROSE);
    assert_true(got.count >= 8);
    for (size_t i = 0; i < got.count; i++) {
        size_t words = words_of(got.passages[i].text, got.passages[i].len);

        assert_true(words >= 40 && words <= PASSAGE_WORDS_MAX);
        if (i + 1 == got.count)
            break;
        assert_int_equal(got.passages[i].text[got.passages[i].len - 1], '.');
        assert_true(got.passages[i + 1].text < got.passages[i].text + got.passages[i].len);
    }
}

static void headings_name_what_stands_below_them(void **state)
{
    char text[20000] = "# First\n\n";
    struct cut got;

    (void)state;
    for (int i = 0; i < 50; i++)
        append(text, sizeof(text), "one two three.\n");
    append(text, sizeof(text), "## Second ##\n");
    for (int i = 0; i < 20; i++)
        append(text, sizeof(text), "four five six.\n");
    append(text, sizeof(text), "```\n# no heading\n```\nseven.\n");
    got = cut(text, strlen(text), PASSAGE_MARKDOWN);
    assert_int_equal(got.count, 3);
    assert_int_equal(got.passages[0].title_len, 5);
    assert_memory_equal(got.passages[0].title, "First", 5);
    assert_memory_equal(got.passages[1].title, "First", 5);
    assert_int_equal(got.passages[2].title_len, 6);
    assert_memory_equal(got.passages[2].title, "Second", 6);
    assert_memory_equal(got.passages[2].text, "## Second", 9);
    got = cut(text, strlen(text), PASSAGE_PROSE);
    assert_null(got.passages[0].title);
}

static void code_is_cut_at_blank_lines(void **state)
{
    char text[20000] = "", line[64];
    struct cut got;

    (void)state;
    for (int function = 0; function < 20; function++) {
        (void)snprintf(line, sizeof(line), "void f%d(void)\n{\n", function);
        append(text, sizeof(text), line);
        for (int i = 0; i < 8; i++)
            append(text, sizeof(text), i == 4 ? "\n" : "    work();\n");
        append(text, sizeof(text), "}\n\n");
    }
    got = cut(text, strlen(text), PASSAGE_CODE);
    assert_true(got.count >= 5 && got.count <= 9);
    for (size_t i = 0; i < got.count; i++) {
        uint32_t lines = got.passages[i].line_end - got.passages[i].line + 1;

        assert_true(lines <= 48);
        assert_memory_equal(got.passages[i].text, "void f", 6);
        assert_int_equal(got.passages[i].text[got.passages[i].len - 1], '}');
    }
}

static void code_without_blank_lines_overlaps(void **state)
{
    char text[20000] = "", line[64];
    struct cut got;

    (void)state;
    for (int i = 1; i <= 200; i++) {
        (void)snprintf(line, sizeof(line), "line %d;\n", i);
        append(text, sizeof(text), line);
    }
    got = cut(text, strlen(text), PASSAGE_CODE);
    assert_int_equal(got.passages[0].line_end, 40);
    assert_int_equal(got.passages[1].line, 38);
}

static void a_line_without_end_is_cut(void **state)
{
    size_t len = 100000;
    char *text = malloc(len + 1);

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i + 1 < len; i += 2)
        memcpy(text + i, "\xc3\xa4", 2); /* ä: never cut in its middle */
    text[len] = '\0';
    for (enum passage_kind kind = PASSAGE_PROSE; kind <= PASSAGE_CODE; kind++)
        assert_true(cut(text, len, kind).count >= 10);
    free(text);
}

static void any_text_is_covered(void **state)
{
    static const char *const pieces[] = {"word", "\n",           "\n\n",
                                         " ",    "# head\n",     "```\n",
                                         ". ",   "\xe2\x82\xac", "long-long-long-word",
                                         "\t",   "\r\n"};
    unsigned seed = 7;
    char *text = malloc(8192);

    (void)state;
    assert_non_null(text);
    print_message("seed %u\n", seed);
    for (int round = 0; round < 300; round++) {
        size_t len = 0, pieces_count = (size_t)rand_r(&seed) % 900;

        for (size_t i = 0; i < pieces_count; i++) {
            const char *piece = pieces[(size_t)rand_r(&seed) % (sizeof(pieces) / sizeof(*pieces))];

            if (len + strlen(piece) > 8000)
                break;
            memcpy(text + len, piece, strlen(piece));
            len += strlen(piece);
        }
        for (enum passage_kind kind = PASSAGE_PROSE; kind <= PASSAGE_CODE; kind++)
            (void)cut(text, len, kind);
    }
    free(text);
}

static void kinds_are_told_by_names(void **state)
{
    (void)state;
    assert_int_equal(passage_kind_of("a/README.md"), PASSAGE_MARKDOWN);
    assert_int_equal(passage_kind_of("notes.TXT"), PASSAGE_PROSE);
    assert_int_equal(passage_kind_of("a.d/LICENSE"), PASSAGE_PROSE);
    assert_int_equal(passage_kind_of("src/main.c"), PASSAGE_CODE);
    assert_int_equal(passage_kind_of("Makefile"), PASSAGE_CODE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_text_is_one_passage),
        cmocka_unit_test(nothing_gives_nothing),
        cmocka_unit_test(paragraphs_are_kept_whole),
        cmocka_unit_test(one_long_paragraph_is_cut_at_sentences_with_overlap),
        cmocka_unit_test(headings_name_what_stands_below_them),
        cmocka_unit_test(code_is_cut_at_blank_lines),
        cmocka_unit_test(code_without_blank_lines_overlaps),
        cmocka_unit_test(a_line_without_end_is_cut),
        cmocka_unit_test(any_text_is_covered),
        cmocka_unit_test(kinds_are_told_by_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
