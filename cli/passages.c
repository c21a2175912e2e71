/* Cuts a text into passages: see passages.h.  Nothing is allocated; every call takes at least one
 * word or line, so it ends. */
#include "cli/passages.h"

#include <assert.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "common/base/err.h"
#include "common/base/text.h"

#define WORDS_MIN   60u
#define WORDS_MAX   120u
#define HEADING_MIN 30u /* words before a heading that make a passage of their own */
#define WORDS_TAIL  20u /* fewer are not left over for a last passage */
#define OVERLAP     12u
#define LINES_MIN   25u
#define LINES_MAX   40u
#define LINES_TAIL  8u
#define LINES_BACK  3u

void passages_init(struct passages *passages, const char *text, size_t len, enum passage_kind kind)
{
    *passages = (struct passages){.text = text, .len = len, .kind = kind, .line = 1};
}

enum passage_kind passage_kind_of(const char *path)
{
    static const char *const prose[] = {".txt", ".text", ".rst", ".adoc", ".tex", ".org", ".log"};
    static const char *const markdown[] = {".md", ".markdown"};
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot != NULL && i < ARRAY_COUNT(markdown); i++)
        if (strcasecmp(dot, markdown[i]) == 0)
            return PASSAGE_MARKDOWN;
    for (size_t i = 0; dot != NULL && i < ARRAY_COUNT(prose); i++)
        if (strcasecmp(dot, prose[i]) == 0)
            return PASSAGE_PROSE;
    if (dot == NULL && strncasecmp(name, "makefile", 8) != 0 &&
        strncasecmp(name, "dockerfile", 10) != 0)
        return PASSAGE_PROSE;
    return PASSAGE_CODE;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

/* Behind the newline of the line at `at`, or the end. */
static size_t line_end(const struct passages *p, size_t at)
{
    const char *newline = memchr(p->text + at, '\n', p->len - at);

    return newline == NULL ? p->len : (size_t)(newline - p->text) + 1;
}

static bool is_fence(const struct passages *p, size_t at)
{
    return p->kind == PASSAGE_MARKDOWN && p->len - at >= 3 && memcmp(p->text + at, "```", 3) == 0;
}

/* The line at `at` is a Markdown heading: its text. */
static bool is_heading(const struct passages *p, size_t at, const char **title, size_t *title_len)
{
    size_t end, marks = 0;

    if (p->kind != PASSAGE_MARKDOWN)
        return false;
    end = line_end(p, at);
    while (at < end && p->text[at] == '#' && marks < 7) {
        at++;
        marks++;
    }
    if (marks == 0 || marks > 6 || at >= end || p->text[at] != ' ')
        return false;
    while (at < end && is_blank(p->text[at]))
        at++;
    while (end > at && (is_blank(p->text[end - 1]) || p->text[end - 1] == '#'))
        end--;
    *title = p->text + at;
    *title_len = text_utf8_cut(p->text + at, end - at, 200);
    return end > at;
}

/* Go to `to`: count lines, and remember the heading that is in force there. */
static void advance(struct passages *p, size_t to)
{
    bool is_start = p->at == 0 || p->text[p->at - 1] == '\n';

    for (size_t at = p->at; at < to;) {
        size_t end = line_end(p, at);

        if (is_start && is_fence(p, at))
            p->is_fenced = !p->is_fenced;
        else if (is_start && !p->is_fenced)
            (void)is_heading(p, at, &p->title, &p->title_len);
        is_start = true;
        if (end > to || p->text[end - 1] != '\n')
            break;
        p->line++;
        at = end;
    }
    p->at = to;
}

static void skip_blanks(struct passages *p)
{
    size_t at = p->at;

    while (at < p->len && is_blank(p->text[at]))
        at++;
    advance(p, at);
}

static bool is_worth_it(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (isalnum((unsigned char)text[i]) || (unsigned char)text[i] >= 0x80)
            return true;
    return false;
}

/* From p->at to end, without blanks at the end; p->at stays. */
static void fill(const struct passages *p, size_t end, struct passage *out)
{
    *out = (struct passage){
        .text = p->text + p->at, .line = p->line, .title = p->title, .title_len = p->title_len};
    while (end > p->at && is_blank(p->text[end - 1]))
        end--;
    out->len = end - p->at;
    out->line_end = p->line;
    for (size_t at = p->at; at < end; at++)
        out->line_end += p->text[at] == '\n';
    if (!p->is_fenced)
        (void)is_heading(p, p->at, &out->title, &out->title_len);
}

/* --- prose ----------------------------------------------------------------------------------- */

/* Behind the word at `at`; a word that is too long ends early. */
static size_t word_end(const struct passages *p, size_t at)
{
    size_t end = at;

    while (end < p->len && !is_blank(p->text[end]) && end - at < PASSAGE_WORD_BYTES + 4)
        end++;
    if (end - at > PASSAGE_WORD_BYTES)
        end = at + text_utf8_cut(p->text + at, end - at, PASSAGE_WORD_BYTES);
    return end;
}

/* What lies between a word and the next. */
enum gap { GAP_NONE, GAP_SENTENCE, GAP_PARAGRAPH, GAP_HEADING, GAP_END };

/* The gap behind a word that ended at *at; *at goes to the next word. */
static enum gap take_gap(const struct passages *p, size_t *at, bool *is_fenced)
{
    char last = p->text[*at - 1];
    size_t newlines = 0, start = *at;
    const char *title;
    size_t title_len;

    while (*at < p->len && is_blank(p->text[*at]))
        newlines += p->text[(*at)++] == '\n';
    if (*at == p->len)
        return GAP_END;
    if (newlines > 0 && p->text[*at - 1] == '\n') {
        if (is_fence(p, *at))
            *is_fenced = !*is_fenced;
        else if (!*is_fenced && is_heading(p, *at, &title, &title_len))
            return GAP_HEADING;
    }
    if (newlines > 1)
        return GAP_PARAGRAPH;
    return *at > start && strchr(".!?:;", last) != NULL ? GAP_SENTENCE : GAP_NONE;
}

static bool has_words(const struct passages *p, size_t at, uint32_t count)
{
    while (count > 0 && at < p->len) {
        while (at < p->len && is_blank(p->text[at]))
            at++;
        if (at < p->len)
            count--;
        at = word_end(p, at);
    }
    return count == 0;
}

/* A place where the passage may end, best kind first. */
struct cut {
    size_t end;      /* byte offset behind the last word */
    size_t next;     /* where the next passage begins */
    uint32_t words;  /* 0: there is none */
    bool is_heading; /* what follows stands on its own, however short */
};

struct scan {
    size_t starts[PASSAGE_WORDS_MAX + 1]; /* of each word so far */
    uint32_t words;
    struct cut best[3]; /* paragraph, sentence, anywhere */
};

/* Note the gap behind the newest word.  True: the passage must end before the next word. */
static bool note_gap(struct scan *scan, enum gap gap, size_t end, size_t next)
{
    struct cut cut = {
        .end = end, .next = next, .words = scan->words, .is_heading = gap == GAP_HEADING};

    if ((gap == GAP_PARAGRAPH && scan->words >= WORDS_MIN) ||
        (gap == GAP_HEADING && scan->words >= HEADING_MIN)) {
        scan->best[0] = cut;
        return gap == GAP_HEADING || scan->words >= WORDS_MAX - WORDS_TAIL;
    }
    if (scan->words > OVERLAP)
        cut.next = scan->starts[scan->words - OVERLAP];
    if (gap == GAP_SENTENCE && scan->words >= WORDS_MIN)
        scan->best[1] = cut;
    scan->best[2] = cut;
    return scan->words >= WORDS_MAX;
}

static bool next_prose(struct passages *p, struct passage *out)
{
    struct scan scan = {0};
    bool is_fenced = p->is_fenced;
    size_t at, end;
    const struct cut *cut;

    skip_blanks(p);
    if (p->at == p->len)
        return false;
    is_fenced = p->is_fenced != is_fence(p, p->at);
    for (at = p->at;;) {
        enum gap gap;

        scan.starts[scan.words++] = at;
        at = end = word_end(p, at);
        gap = take_gap(p, &at, &is_fenced);
        if (gap == GAP_END) {
            fill(p, end, out);
            advance(p, p->len);
            return true;
        }
        if (note_gap(&scan, gap, end, at) || end - p->at > PASSAGE_BYTES_MAX)
            break;
    }
    cut = scan.best[0].words > 0 ? &scan.best[0] : &scan.best[1];
    if (cut->words == 0)
        cut = &scan.best[2];
    assert(cut->words > 0);
    if (!cut->is_heading && !has_words(p, cut->end, WORDS_TAIL) &&
        p->len - p->at < PASSAGE_BYTES_MAX) {
        fill(p, p->len, out);
        advance(p, p->len);
        return true;
    }
    fill(p, cut->end, out);
    assert(cut->next > p->at);
    advance(p, cut->next);
    return true;
}

/* --- code ------------------------------------------------------------------------------------ */

static bool is_empty_line(const struct passages *p, size_t at, size_t end)
{
    for (; at < end; at++)
        if (!is_blank(p->text[at]))
            return false;
    return true;
}

/* Back from a line start by count lines, not before `floor`. */
static size_t lines_back(const struct passages *p, size_t at, uint32_t count, size_t floor)
{
    while (count > 0 && at > floor) {
        at--;
        while (at > floor && p->text[at - 1] != '\n')
            at--;
        count--;
    }
    return at;
}

static bool has_lines(const struct passages *p, size_t at, uint32_t count)
{
    for (; count > 0 && at < p->len; count--)
        at = line_end(p, at);
    return count == 0 && at < p->len;
}

static void skip_empty_lines(struct passages *p)
{
    while (p->at < p->len) {
        size_t end = line_end(p, p->at);

        if (!is_empty_line(p, p->at, end))
            return;
        advance(p, end);
    }
}

static bool next_code(struct passages *p, struct passage *out)
{
    size_t at, blank = 0, outer = 0, end, next;
    uint32_t lines = 0;

    skip_empty_lines(p);
    if (p->at == p->len)
        return false;
    for (at = p->at; at < p->len && lines < LINES_MAX && at - p->at < PASSAGE_BYTES_MAX; lines++) {
        size_t after = line_end(p, at);

        if (after - p->at > PASSAGE_BYTES_MAX && at > p->at)
            break;
        if (lines >= LINES_MIN && is_empty_line(p, at, after)) {
            blank = after;
            if (after < p->len && !is_blank(p->text[after]))
                outer = after;
        }
        at = after;
    }
    if (at - p->at > PASSAGE_BYTES_MAX) /* one line that is too long */
        at = p->at + text_utf8_cut(p->text + p->at, at - p->at, PASSAGE_BYTES_MAX);
    end = at;
    if (at < p->len && (outer > 0 || blank > 0))
        end = outer > 0 ? outer : blank;
    next = end;
    if (end < p->len && lines >= LINES_MAX && !has_lines(p, end, LINES_TAIL) &&
        p->len - p->at < PASSAGE_BYTES_MAX)
        end = next = p->len;
    else if (end == at && end < p->len && lines >= LINES_MAX)
        next = lines_back(p, end, LINES_BACK, p->at + 1);
    fill(p, end, out);
    assert(next > p->at);
    advance(p, next);
    return true;
}

bool passages_next(struct passages *passages, struct passage *out)
{
    while (passages->kind == PASSAGE_CODE ? next_code(passages, out) : next_prose(passages, out))
        if (is_worth_it(out->text, out->len))
            return true;
    return false;
}
