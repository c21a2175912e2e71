/* Text into words.
 *
 * A word is a run of letters and digits, case-folded (simple folding of Latin, Greek and Cyrillic).
 * Names of programs are taken apart: hnsw_prepare_insert and hnswPrepareInsert give hnsw, prepare,
 * insert, and then the compound hnswprepareinsert, so that either way of writing finds the other.
 * An apostrophe inside a word is left out (don't: dont).  Scripts without spaces (Chinese,
 * Japanese, and Korean by syllables) give each character as a word.
 *
 * The tables are frozen: a change would make stored vectors and new ones strangers.
 */
#include "backends/embedder/embedder_words.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/text.h"

enum letter_class { OTHER, LOWER, UPPER, DIGIT, SINGLE, JOINT, APOSTROPHE };

struct range {
    uint32_t first, last;
    enum letter_class class;
};

/* Above ASCII, in order; what stands in no range is OTHER.  LOWER becomes UPPER where folding
 * changes the letter. */
static const struct range ranges[] = {
    {0xaa, 0xaa, LOWER},      {0xb5, 0xb5, LOWER},          {0xba, 0xba, LOWER},
    {0xc0, 0xd6, LOWER},      {0xd8, 0xf6, LOWER},          {0xf8, 0x36f, LOWER},
    {0x370, 0x37d, LOWER},    {0x37f, 0x386, LOWER},        {0x388, 0x481, LOWER},
    {0x483, 0x556, LOWER},    {0x559, 0x559, LOWER},        {0x560, 0x588, LOWER},
    {0x591, 0x5bd, LOWER},    {0x5bf, 0x5bf, LOWER},        {0x5c1, 0x5c2, LOWER},
    {0x5c4, 0x5c5, LOWER},    {0x5c7, 0x5f2, LOWER},        {0x610, 0x61a, LOWER},
    {0x620, 0x65f, LOWER},    {0x660, 0x669, DIGIT},        {0x66e, 0x6d3, LOWER},
    {0x6d5, 0x6ef, LOWER},    {0x6f0, 0x6f9, DIGIT},        {0x6fa, 0x6ff, LOWER},
    {0x710, 0x963, LOWER},    {0x966, 0x96f, DIGIT},        {0x971, 0x167f, LOWER},
    {0x1681, 0x1fff, LOWER},  {0x2019, 0x2019, APOSTROPHE}, {0x2c00, 0x2dff, LOWER},
    {0x2e80, 0x2fdf, SINGLE}, {0x3005, 0x3007, SINGLE},     {0x3041, 0x30fa, SINGLE},
    {0x30fc, 0x31ff, SINGLE}, {0x3400, 0x4dbf, SINGLE},     {0x4e00, 0x9fff, SINGLE},
    {0xa000, 0xabff, LOWER},  {0xac00, 0xd7a3, SINGLE},     {0xd7b0, 0xd7ff, LOWER},
    {0xf900, 0xfaff, SINGLE}, {0xfb00, 0xfdff, LOWER},      {0xfe70, 0xfefc, LOWER},
    {0xff66, 0xffdc, SINGLE}, {0x10000, 0x1efff, LOWER},    {0x20000, 0x3ffff, SINGLE},
};

/* In order of bytes. */
static const char *const common_words[] = {
    "a",     "about",  "after", "all",   "also",  "an",    "and",  "any",   "are",   "as",   "at",
    "be",    "been",   "but",   "by",    "can",   "could", "did",  "do",    "does",  "dont", "each",
    "for",   "from",   "had",   "has",   "have",  "he",    "her",  "him",   "his",   "how",  "i",
    "if",    "in",     "into",  "is",    "it",    "its",   "may",  "me",    "more",  "most", "my",
    "no",    "not",    "of",    "on",    "one",   "only",  "or",   "other", "our",   "out",  "over",
    "she",   "should", "so",    "some",  "such",  "than",  "that", "the",   "their", "them", "then",
    "there", "these",  "they",  "this",  "those", "to",    "up",   "us",    "was",   "we",   "were",
    "what",  "when",   "where", "which", "who",   "why",   "will", "with",  "would", "you",  "your",
};

struct splitter {
    word_fn *fn;
    void *context;
    bool stopped;
    enum letter_class previous; /* of the letter before, OTHER at the start of a run */
    uint32_t parts;             /* words of this run so far */
    size_t word_len;
    size_t compound_len;
    bool compound_is_cut;
    uint8_t word[WORD_BYTES_MAX];
    uint8_t compound[COMPOUND_BYTES_MAX];
};

static bool is_within(uint32_t letter, uint32_t first, uint32_t last)
{
    return letter >= first && letter <= last;
}

/* Simple case folding of Latin, Greek and Cyrillic; full-width ASCII becomes ASCII. */
static uint32_t fold(uint32_t c)
{
    if (c < 0x80)
        return is_within(c, 'A', 'Z') ? c + 32 : c;
    if (is_within(c, 0xc0, 0xde))
        return c == 0xd7 ? c : c + 32;
    if (is_within(c, 0x139, 0x148) || is_within(c, 0x179, 0x17e)) /* odd: capital */
        return c + (c & 1);
    if (c == 0x130 || c == 0x131 || c == 0x138 || c == 0x149)
        return c;
    if (c == 0x178)
        return 0xff;
    if (is_within(c, 0x100, 0x177) || is_within(c, 0x1e00, 0x1e95) ||
        is_within(c, 0x1ea0, 0x1eff) || is_within(c, 0x460, 0x481) || is_within(c, 0x48a, 0x4bf) ||
        is_within(c, 0x4d0, 0x52f)) /* even: capital */
        return c | 1;
    if (is_within(c, 0x391, 0x3ab))
        return c == 0x3a2 ? c : c + 32;
    if (c == 0x386)
        return 0x3ac;
    if (is_within(c, 0x388, 0x38a))
        return c + 37;
    if (c == 0x38c)
        return 0x3cc;
    if (c == 0x38e || c == 0x38f)
        return c + 63;
    if (c == 0x3c2) /* the sigma at a word's end */
        return 0x3c3;
    if (is_within(c, 0x400, 0x40f))
        return c + 80;
    if (is_within(c, 0x410, 0x42f))
        return c + 32;
    return c;
}

static enum letter_class class_of_ascii(uint32_t c)
{
    if (is_within(c, 'a', 'z'))
        return LOWER;
    if (is_within(c, 'A', 'Z'))
        return UPPER;
    if (is_within(c, '0', '9'))
        return DIGIT;
    if (c == '_')
        return JOINT;
    return c == '\'' ? APOSTROPHE : OTHER;
}

static enum letter_class class_of(uint32_t c)
{
    size_t low = 0, high = ARRAY_COUNT(ranges);

    if (c < 0x80)
        return class_of_ascii(c);
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (ranges[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == ARRAY_COUNT(ranges) || c < ranges[low].first)
        return OTHER;
    /* The final sigma folds, and is no capital. */
    if (ranges[low].class == LOWER && fold(c) != c && c != 0x3c2)
        return UPPER;
    return ranges[low].class;
}

/* The letter that the text (len >= 1) starts with and its length; 0 for bytes that are none. */
static uint32_t decode(const uint8_t *p, size_t len, size_t *used)
{
    size_t n = text_utf8_sequence(p, len);
    uint32_t c;

    *used = n == 0 ? 1 : n;
    switch (n) {
    case 1:
        return p[0];
    case 2:
        return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    case 3:
        c = (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
        return is_within(c, 0xff01, 0xff5e) ? c - 0xfee0 : c; /* full-width ASCII */
    case 4:
        return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
               (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
    default:
        return 0;
    }
}

static size_t encode(uint8_t out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (c & 0x3f));
    return 4;
}

static void emit(struct splitter *s, const uint8_t *data, size_t len, bool is_compound)
{
    struct word word = {.data = data, .len = len, .is_compound = is_compound};

    if (!s->stopped && !s->fn(s->context, &word))
        s->stopped = true;
}

static void end_word(struct splitter *s)
{
    if (s->word_len == 0)
        return;
    emit(s, s->word, s->word_len, false);
    s->word_len = 0;
    s->parts++;
}

static void end_run(struct splitter *s)
{
    end_word(s);
    if (s->parts > 1 && !s->compound_is_cut)
        emit(s, s->compound, s->compound_len, true);
    s->parts = 0;
    s->compound_len = 0;
    s->compound_is_cut = false;
    s->previous = OTHER;
}

static void add_letter(struct splitter *s, uint32_t c)
{
    uint8_t bytes[4];
    size_t len = encode(bytes, fold(c));

    if (WORD_BYTES_MAX - s->word_len < len)
        end_word(s);
    memcpy(s->word + s->word_len, bytes, len);
    s->word_len += len;
    if (COMPOUND_BYTES_MAX - s->compound_len < len) {
        s->compound_is_cut = true;
        return;
    }
    memcpy(s->compound + s->compound_len, bytes, len);
    s->compound_len += len;
}

/* The classes of the two letters behind the present one. */
static void look_ahead(const uint8_t *p, size_t len, enum letter_class next[2])
{
    next[0] = OTHER;
    next[1] = OTHER;
    for (size_t i = 0; i < 2 && len > 0; i++) {
        size_t used;

        next[i] = class_of(decode(p, len, &used));
        p += used;
        len -= used;
    }
}

/* Does a capital begin a new word here?  fooBar: foo Bar, HTTPServer: HTTP Server, URLs: one. */
static bool begins_word(const struct splitter *s, const enum letter_class next[2])
{
    if (s->previous == LOWER || s->previous == DIGIT)
        return true;
    return s->previous == UPPER && next[0] == LOWER && next[1] == LOWER;
}

static bool is_letter(enum letter_class class)
{
    return class == LOWER || class == UPPER;
}

/* rest, rest_len: the text behind this letter. */
static void step(struct splitter *s, uint32_t c, const uint8_t *rest, size_t rest_len)
{
    enum letter_class class = class_of(c), next[2];

    if (class == APOSTROPHE) {
        look_ahead(rest, rest_len, next);
        if (is_letter(s->previous) && is_letter(next[0]))
            return;
        class = OTHER;
    }
    if (class == OTHER) {
        end_run(s);
        return;
    }
    if (class == SINGLE) {
        end_run(s);
        add_letter(s, c);
        end_run(s);
        return;
    }
    if (class == JOINT) {
        end_word(s);
    } else {
        if (class == UPPER) {
            look_ahead(rest, rest_len, next);
            if (begins_word(s, next))
                end_word(s);
        }
        add_letter(s, c);
    }
    s->previous = class;
}

bool words_each(const char *text, size_t len, word_fn *fn, void *context)
{
    struct splitter s = {.fn = fn, .context = context};
    const uint8_t *p = (const uint8_t *)text;

    while (len > 0 && !s.stopped) {
        size_t used;
        uint32_t c = decode(p, len, &used);

        p += used;
        len -= used;
        step(&s, c, p, len);
    }
    end_run(&s);
    return !s.stopped;
}

struct common_key {
    const uint8_t *data;
    size_t len;
};

static int compare_common(const void *key_pointer, const void *element)
{
    const struct common_key *key = key_pointer;
    const char *word = *(const char *const *)element;
    size_t word_len = strlen(word);
    int order = memcmp(key->data, word, key->len < word_len ? key->len : word_len);

    if (order != 0)
        return order;
    return (key->len > word_len) - (key->len < word_len);
}

bool word_is_common(const uint8_t *data, size_t len)
{
    struct common_key key = {data, len};

    return bsearch(&key, common_words, ARRAY_COUNT(common_words), sizeof(common_words[0]),
                   compare_common) != NULL;
}
