/* Words and patterns of filters: see filter_internal.h.
 *
 * No Unicode tables: letters and digits are those of ASCII, and beyond it every code point that is
 * not in a block of spaces, punctuation, symbols or emoji.  Case is folded where a rule of one line
 * does it: Latin, Greek, Cyrillic.  Scripts without spaces make long tokens. */
#include <assert.h>
#include <string.h>

#include "common/model/filter_internal.h"

struct code_range {
    uint32_t first, last;
};

/* Beyond ASCII: what separates tokens. */
static const struct code_range separators[] = {
    {0x80, 0xa9},     {0xab, 0xb1},     {0xb4, 0xb4},     {0xb6, 0xb8},     {0xbb, 0xbb},
    {0xbf, 0xbf},     {0xd7, 0xd7},     {0xf7, 0xf7},     {0x2000, 0x206f}, {0x20a0, 0x20cf},
    {0x2190, 0x245f}, {0x2500, 0x2bff}, {0x2e00, 0x2e7f}, {0x3000, 0x3004}, {0x3008, 0x3020},
    {0x3030, 0x3030}, {0xe000, 0xf8ff}, {0xfe10, 0xfe1f}, {0xfe30, 0xfe6f}, {0xff01, 0xff0f},
    {0xff1a, 0xff20}, {0xff3b, 0xff40}, {0xff5b, 0xff65}, {0xfff0, 0xffff}, {0x1f000, 0x1faff},
};

/* Length of the sequence that a first byte announces. */
static size_t sequence_len(uint8_t first)
{
    if (first < 0x80)
        return 1;
    if (first < 0xe0)
        return 2;
    return first < 0xf0 ? 3 : 4;
}

uint32_t filter_next_code(struct json_text text, size_t *at)
{
    const uint8_t *p;
    uint32_t code;
    size_t len;

    assert(*at < text.len);
    p = (const uint8_t *)text.data + *at;
    len = sequence_len(p[0]);
    code = len == 1 ? p[0] : p[0] & (0xffu >> (len + 1));
    /* Texts are well-formed; if one is not, this still stays within its bytes. */
    if (len > text.len - *at)
        len = text.len - *at;
    for (size_t i = 1; i < len; i++)
        code = code << 6 | (p[i] & 0x3f);
    *at += len;
    return code;
}

uint32_t filter_fold(uint32_t code)
{
    if (code < 0x80)
        return code >= 'A' && code <= 'Z' ? code + 0x20 : code;
    if (code >= 0xc0 && code <= 0xde)
        return code == 0xd7 ? code : code + 0x20;
    if (code == 0x178)
        return 0xff;
    if ((code >= 0x139 && code <= 0x148) || (code >= 0x179 && code <= 0x17e))
        return code + (code & 1);
    if ((code >= 0x100 && code <= 0x177 && code != 0x130 && code != 0x138) ||
        (code >= 0x1e00 && code <= 0x1e95) || (code >= 0x1ea0 && code <= 0x1eff))
        return code | 1;
    if (code >= 0x391 && code <= 0x3a9)
        return code + 0x20;
    if (code >= 0x410 && code <= 0x42f)
        return code + 0x20;
    if (code >= 0x400 && code <= 0x40f)
        return code + 0x50;
    return code;
}

static bool is_word(uint32_t code)
{
    if (code < 0x80)
        return (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') ||
               (code >= 'a' && code <= 'z');
    for (size_t i = 0; i < ARRAY_COUNT(separators); i++) {
        if (code <= separators[i].last)
            return code < separators[i].first;
    }
    return true;
}

bool filter_next_token(struct json_text text, size_t *at, struct json_text *token)
{
    size_t start = *at;

    while (*at < text.len) {
        start = *at;
        if (is_word(filter_next_code(text, at)))
            break;
        start = *at;
    }
    if (start == text.len)
        return false;
    token->data = text.data + start;
    for (;;) {
        size_t end = *at;

        token->len = end - start;
        if (end == text.len || !is_word(filter_next_code(text, at)))
            return true;
    }
}

/* wanted is folded already, if it is to be. */
static bool is_token(struct json_text token, struct json_text wanted, bool folds)
{
    size_t at = 0;
    size_t wanted_at = 0;

    if (!folds)
        return filter_text_compare(token, wanted) == 0;
    while (at < token.len && wanted_at < wanted.len) {
        uint32_t code = filter_fold(filter_next_code(token, &at));

        if (code != filter_next_code(wanted, &wanted_at))
            return false;
    }
    return at == token.len && wanted_at == wanted.len;
}

bool filter_has_tokens(const struct clause *clause, struct json_text text)
{
    uint64_t missing = clause->token_count == 64 ? UINT64_MAX : (1ull << clause->token_count) - 1;
    struct json_text token;
    size_t at = 0;

    static_assert(FILTER_TOKENS_MAX <= 64, "a bit for each token");
    assert(clause->token_count <= FILTER_TOKENS_MAX);
    while (missing != 0 && filter_next_token(text, &at, &token)) {
        for (size_t i = 0; i < clause->token_count; i++) {
            if ((missing >> i & 1) != 0 && is_token(token, clause->tokens[i], clause->folds))
                missing &= ~(1ull << i);
        }
    }
    return missing == 0;
}

/* One step of a pattern against one code point; *next is behind the step. */
static bool step_matches(const struct clause *clause, size_t at, uint32_t code, size_t *next)
{
    uint32_t wanted = filter_next_code(clause->pattern, &at);

    if (wanted == '\\') {
        wanted = filter_next_code(clause->pattern, &at);
    } else if (wanted == '_') {
        *next = at;
        return true;
    }
    *next = at;
    if (clause->folds)
        return filter_fold(wanted) == filter_fold(code);
    return wanted == code;
}

/* Greedy: what follows the last % is tried from one code point further on each failure, and an
 * earlier % never needs to be gone back to. */
bool filter_is_like(const struct clause *clause, struct json_text text)
{
    struct json_text pattern = clause->pattern;
    size_t retry_pattern = SIZE_MAX;
    size_t retry_text = 0;
    size_t at = 0;
    size_t pattern_at = 0;

    for (;;) {
        if (pattern_at < pattern.len && pattern.data[pattern_at] == '%') {
            pattern_at++;
            retry_pattern = pattern_at;
            retry_text = at;
            continue;
        }
        if (at == text.len)
            return pattern_at == pattern.len;
        if (pattern_at < pattern.len) {
            size_t next_text = at;
            uint32_t code = filter_next_code(text, &next_text);

            if (step_matches(clause, pattern_at, code, &pattern_at)) {
                at = next_text;
                continue;
            }
        }
        if (retry_pattern == SIZE_MAX)
            return false;
        (void)filter_next_code(text, &retry_text);
        at = retry_text;
        pattern_at = retry_pattern;
    }
}
