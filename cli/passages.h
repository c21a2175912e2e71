/* Cuts a text into passages that are worth finding on their own.
 *
 * Prose: 60 to 120 words, ended at a paragraph where there is one, else at a sentence; a passage
 * that was cut inside a paragraph is overlapped by a few words with the next.  Code: windows of 25
 * to 40 lines, ended at blank lines, best before a line that is not indented.  Every passage is a
 * slice of the text, so that file and line are exact. */
#ifndef VICINAL_CLI_PASSAGES_H
#define VICINAL_CLI_PASSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum passage_kind { PASSAGE_PROSE, PASSAGE_MARKDOWN, PASSAGE_CODE };

#define PASSAGE_WORDS_MAX  140  /* the end of a text is not left alone */
#define PASSAGE_BYTES_MAX  6000 /* and a little: a word or line is not cut for it */
#define PASSAGE_WORD_BYTES 400  /* a longer word is cut */

struct passages {
    const char *text; /* borrowed; UTF-8 */
    size_t len;
    enum passage_kind kind;
    size_t at;     /* the next passage begins here or later */
    uint32_t line; /* of `at`, from 1 */
    bool is_fenced;
    const char *title; /* the heading in force at `at`; NULL: none */
    size_t title_len;
};

struct passage {
    const char *text; /* into the whole text */
    size_t len;
    uint32_t line, line_end; /* first and last, from 1 */
    const char *title;       /* Markdown heading it stands under; NULL: none */
    size_t title_len;
};

void passages_init(struct passages *passages, const char *text, size_t len, enum passage_kind kind);

/* The next one; false: there is none.  Passages without a letter or digit are left out. */
bool passages_next(struct passages *passages, struct passage *out);

/* By the file's name: what kind of text it holds. */
enum passage_kind passage_kind_of(const char *path);

#endif
