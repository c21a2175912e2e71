/* Tokens: see position.h.
 *
 * Entries are kept sorted, so that raising and looking up are binary searches and the encoded form
 * is one and the same for equal content.  The text form carries a CRC32C behind the content: a
 * token that was cut or mistyped is refused as malformed, and never taken for another position. */
#include "common/model/position.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/text.h"

#define TOKEN_PREFIX     "rt1."
#define TOKEN_PREFIX_LEN (sizeof(TOKEN_PREFIX) - 1)

void token_free(struct token *token)
{
    if (token == NULL)
        return;
    free(token->entries);
    *token = (struct token){0};
}

/* Index of the first entry that is not below (region, partition). */
static size_t token_find(const struct token *token, uint32_t region, uint32_t partition)
{
    size_t low = 0;
    size_t high = token->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct token_entry *entry = &token->entries[middle];

        if (entry->region < region || (entry->region == region && entry->partition < partition))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool token_has(const struct token *token, size_t index, uint32_t region, uint32_t partition)
{
    return index < token->count && token->entries[index].region == region &&
           token->entries[index].partition == partition;
}

static enum err_code token_grow(struct token *token, struct err *err)
{
    size_t size = token->size == 0 ? 8 : token->size * 2;
    struct token_entry *entries = array_resize(token->entries, size, sizeof(*entries));

    if (entries == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a token of %zu entries", size);
    token->entries = entries;
    token->size = size;
    return ERR_OK;
}

enum err_code token_raise(struct token *token, uint32_t region, uint32_t partition,
                          uint64_t position, struct err *err)
{
    size_t index = token_find(token, region, partition);
    enum err_code rc;

    if (token_has(token, index, region, partition)) {
        token->entries[index].position = MAX_OF(token->entries[index].position, position);
        return ERR_OK;
    }
    if (partition >= PARTITIONS_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "partition %u does not exist", partition);
    if (token->count >= TOKEN_ENTRIES_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "more than %d positions in a token",
                       TOKEN_ENTRIES_MAX);
    if (token->count == token->size && (rc = token_grow(token, err)) != ERR_OK)
        return rc;
    memmove(&token->entries[index + 1], &token->entries[index],
            (token->count - index) * sizeof(token->entries[0]));
    token->entries[index] =
        (struct token_entry){.region = region, .partition = partition, .position = position};
    token->count++;
    return ERR_OK;
}

enum err_code token_merge(struct token *token, const struct token *other, struct err *err)
{
    assert(token != other);
    for (size_t i = 0; i < other->count; i++) {
        const struct token_entry *entry = &other->entries[i];
        enum err_code rc =
            token_raise(token, entry->region, entry->partition, entry->position, err);

        if (rc != ERR_OK)
            return rc;
    }
    return ERR_OK;
}

uint64_t token_position(const struct token *token, uint32_t region, uint32_t partition)
{
    size_t index = token_find(token, region, partition);

    return token_has(token, index, region, partition) ? token->entries[index].position : 0;
}

/* How many entries from at on are of its region. */
static size_t token_run(const struct token *token, size_t at)
{
    size_t end = at;

    while (end < token->count && token->entries[end].region == token->entries[at].region)
        end++;
    return end - at;
}

void token_encode(const struct token *token, struct buffer *out)
{
    uint64_t regions = 0;
    uint64_t region_floor = 0;

    assert(token->count <= TOKEN_ENTRIES_MAX);
    for (size_t at = 0; at < token->count; at += token_run(token, at))
        regions++;
    buffer_append_varint(out, regions);
    for (size_t at = 0; at < token->count;) {
        size_t run = token_run(token, at);
        uint32_t partition_floor = 0;

        assert(token->entries[at].region >= region_floor);
        buffer_append_varint(out, token->entries[at].region - region_floor);
        buffer_append_varint(out, run);
        region_floor = (uint64_t)token->entries[at].region + 1;
        for (size_t end = at + run; at < end; at++) {
            const struct token_entry *entry = &token->entries[at];

            assert(entry->partition >= partition_floor);
            buffer_append_varint(out, entry->partition - partition_floor);
            buffer_append_varint(out, entry->position);
            partition_floor = entry->partition + 1;
        }
    }
}

/* A difference read from outside becomes floor + difference, if that is below end. */
static bool read_rising(struct bytes_reader *reader, uint64_t floor, uint64_t end, uint64_t *out)
{
    uint64_t difference = read_varint(reader);

    if (reader->failed || floor >= end || difference >= end - floor) {
        reader->failed = true;
        return false;
    }
    *out = floor + difference;
    return true;
}

/* Read the content into entries (room for size; NULL: only count).  False: malformed. */
static bool token_read(struct bytes_reader *reader, struct token_entry *entries, size_t size,
                       size_t *count_out)
{
    uint64_t regions = read_varint(reader);
    uint64_t region_floor = 0;
    size_t count = 0;

    if (reader->failed || regions > TOKEN_ENTRIES_MAX)
        return false;
    for (uint64_t i = 0; i < regions; i++) {
        uint64_t partition_floor = 0;
        uint64_t region, run;

        if (!read_rising(reader, region_floor, (uint64_t)UINT32_MAX + 1, &region))
            return false;
        run = read_varint(reader);
        if (reader->failed || run == 0 || run > TOKEN_ENTRIES_MAX - count)
            return false;
        region_floor = region + 1;
        for (uint64_t j = 0; j < run; j++, count++) {
            uint64_t partition, position;

            if (!read_rising(reader, partition_floor, PARTITIONS_MAX, &partition))
                return false;
            position = read_varint(reader);
            if (reader->failed)
                return false;
            partition_floor = partition + 1;
            if (entries == NULL)
                continue;
            assert(count < size);
            entries[count] = (struct token_entry){
                .region = (uint32_t)region, .partition = (uint32_t)partition, .position = position};
        }
    }
    *count_out = count;
    return true;
}

enum err_code token_decode_in(struct token *out, struct bytes_reader *reader, struct arena *arena,
                              struct err *err)
{
    struct bytes_reader ahead = *reader;
    struct token token = {0};
    bool again;

    if (!token_read(&ahead, NULL, 0, &token.count)) {
        reader->failed = true;
        return err_set(err, ERR_INVALID_ARGUMENT, "malformed positions");
    }
    if (token.count > 0) {
        token.size = token.count;
        token.entries = arena == NULL ? array_alloc(token.count, sizeof(token.entries[0]))
                                      : arena_alloc(arena, token.count, sizeof(token.entries[0]));
        if (token.entries == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory for %zu positions", token.count);
    }
    again = token_read(reader, token.entries, token.size, &token.count);
    assert(again);
    *out = token;
    return ERR_OK;
}

enum err_code token_decode(struct token *out, struct bytes_reader *reader, struct err *err)
{
    return token_decode_in(out, reader, NULL, err);
}

void token_to_text(const struct token *token, struct buffer *out)
{
    struct buffer content = {0};

    token_encode(token, &content);
    buffer_append_u32(&content, hash_crc32c(0, content.data, content.failed ? 0 : content.len));
    if (content.failed) {
        out->failed = true;
    } else {
        buffer_append_text(out, TOKEN_PREFIX);
        text_base64url_encode(out, content.data, content.len);
    }
    buffer_free(&content);
}

static enum err_code token_malformed(struct err *err)
{
    return err_set_at(err, ERR_INVALID_ARGUMENT, "/read_token", "not a read token");
}

enum err_code token_from_text(struct token *out, const char *text, size_t len, struct err *err)
{
    struct bytes_reader reader = {0};
    struct buffer content = {0};
    struct token token = {0};
    enum err_code rc;

    if (len > TOKEN_BYTES_MAX || len < TOKEN_PREFIX_LEN ||
        memcmp(text, TOKEN_PREFIX, TOKEN_PREFIX_LEN) != 0)
        return token_malformed(err);
    if (!text_base64url_decode(&content, text + TOKEN_PREFIX_LEN, len - TOKEN_PREFIX_LEN)) {
        rc = content.failed ? buffer_check(&content, err) : token_malformed(err);
        goto out;
    }
    if ((rc = buffer_check(&content, err)) != ERR_OK)
        goto out;
    if (content.len < sizeof(uint32_t) ||
        load_u32(content.data + content.len - 4) != hash_crc32c(0, content.data, content.len - 4)) {
        rc = token_malformed(err);
        goto out;
    }
    reader = (struct bytes_reader){.data = content.data, .len = content.len - 4};
    rc = token_decode(&token, &reader, err);
    if (rc == ERR_INVALID_ARGUMENT || (rc == ERR_OK && !read_done(&reader))) {
        token_free(&token);
        rc = token_malformed(err);
    }
    if (rc == ERR_OK)
        *out = token;
out:
    buffer_free(&content);
    return rc;
}

uint32_t partition_set_count(const struct partition_set *set)
{
    uint32_t count = 0;

    for (size_t i = 0; i < ARRAY_COUNT(set->words); i++)
        count += (uint32_t)__builtin_popcountll(set->words[i]);
    return count;
}

void partition_set_fill(struct partition_set *set, uint32_t partitions)
{
    assert(partitions <= PARTITIONS_MAX);
    *set = (struct partition_set){0};
    for (uint32_t i = 0; i < partitions; i++)
        partition_set_add(set, i);
}
