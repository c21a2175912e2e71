/* Tokens: whatever text a client brings, and whatever content stands behind a right checksum; what
 * is taken is sorted, bounded, and the same after another round.  Stamps alike. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "common/base/text.h"
#include "common/model/position.h"
#include "common/model/stamp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool is_true, const char *what)
{
    if (is_true)
        return;
    (void)fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void check_sorted(const struct token *token)
{
    must(token->count <= TOKEN_ENTRIES_MAX, "not too many entries");
    for (size_t i = 0; i < token->count; i++) {
        const struct token_entry *entry = &token->entries[i];

        must(entry->partition < PARTITIONS_MAX, "the partition exists");
        must(token_position(token, entry->region, entry->partition) == entry->position,
             "an entry is found");
        must(i == 0 || entry[-1].region < entry->region ||
                 (entry[-1].region == entry->region && entry[-1].partition < entry->partition),
             "entries rise");
    }
}

static void check_text(const char *text, size_t len)
{
    struct token token = {0}, again = {0};
    struct buffer out = {0};
    struct err err = {0};

    if (token_from_text(&token, text, len, &err) != ERR_OK) {
        must(err.code == ERR_INVALID_ARGUMENT, "a known code");
        return;
    }
    check_sorted(&token);
    token_to_text(&token, &out);
    must(token_from_text(&again, (const char *)out.data, out.len, &err) == ERR_OK,
         "what was written is read");
    must(again.count == token.count, "as many entries as before");
    for (size_t i = 0; i < token.count; i++)
        must(token.entries[i].region == again.entries[i].region &&
                 token.entries[i].partition == again.entries[i].partition &&
                 token.entries[i].position == again.entries[i].position,
             "an entry is as before");
    must(token_merge(&again, &token, &err) == ERR_OK && again.count == token.count,
         "merging with itself changes nothing");
    token_free(&token);
    token_free(&again);
    buffer_free(&out);
}

static void check_stamp(const char *text, size_t len)
{
    char again[STAMP_TEXT_BYTES];
    struct stamp stamp;

    if (!stamp_from_text(&stamp, text, len))
        return;
    stamp_to_text(again, stamp);
    must(strlen(again) == len && memcmp(again, text, len) == 0, "stamps have one text");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buffer content = {0}, text = {0};

    check_text((const char *)data, size);
    check_stamp((const char *)data, size);
    buffer_append(&content, data, size);
    buffer_append_u32(&content, hash_crc32c(0, data, size));
    buffer_append_text(&text, "rt1.");
    text_base64url_encode(&text, content.data, content.len);
    check_text((const char *)text.data, text.len);
    buffer_free(&content);
    buffer_free(&text);
    return 0;
}
