/* Page tokens: where the page before ended, and of what.  Opaque to clients: base64url of version,
 * incarnation, filter hash, last id, and a checksum that tells a mistyped token from an old one. */
#include "services/router/router.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/text.h"

#define PAGE_TOKEN_VERSION  1
#define PAGE_TOKEN_HEAD     (1 + INCARNATION_BYTES + 8)
#define PAGE_TOKEN_TEXT_MAX 4096

uint64_t page_filter_hash(struct filter_text filter)
{
    uint64_t hash = 0;

    if (filter.data != NULL)
        hash = hash_xxh64(filter.data, filter.len, 0);
    /* 0 says that there is none. */
    return filter.data != NULL && hash == 0 ? 1 : hash;
}

void page_token_encode(const struct page_token *token, struct buffer *out)
{
    struct buffer plain = {0};

    assert(token->last_len <= ID_BYTES_MAX);
    buffer_append_byte(&plain, PAGE_TOKEN_VERSION);
    buffer_append(&plain, token->incarnation, INCARNATION_BYTES);
    buffer_append_u64(&plain, token->filter_hash);
    buffer_append(&plain, token->last, token->last_len);
    buffer_append_u32(&plain, hash_crc32c(0, plain.data, plain.len));
    if (plain.failed)
        out->failed = true;
    else
        text_base64url_encode(out, plain.data, plain.len);
    buffer_free(&plain);
}

/* The plain bytes are whole and of this version. */
static bool is_sound(const struct buffer *plain)
{
    size_t body;

    if (plain->len < PAGE_TOKEN_HEAD + 4 || plain->len > PAGE_TOKEN_HEAD + 4 + ID_BYTES_MAX)
        return false;
    body = plain->len - 4;
    return plain->data[0] == PAGE_TOKEN_VERSION &&
           load_u32(plain->data + body) == hash_crc32c(0, plain->data, body);
}

enum err_code page_token_decode(struct page_token *out, struct json_text text, struct arena *arena,
                                struct err *err)
{
    struct buffer plain = {0};
    enum err_code rc = ERR_OK;

    if (text.len > PAGE_TOKEN_TEXT_MAX || !text_base64url_decode(&plain, text.data, text.len) ||
        !is_sound(&plain)) {
        rc = plain.failed ? err_set(err, ERR_NO_MEMORY, "no memory for a page token")
                          : err_set_at(err, ERR_INVALID_ARGUMENT, "/page_token", "is malformed");
    } else {
        size_t last_len = plain.len - 4 - PAGE_TOKEN_HEAD;
        char *last = arena_copy_text(arena, (const char *)plain.data + PAGE_TOKEN_HEAD, last_len);

        if (last == NULL) {
            rc = err_set(err, ERR_NO_MEMORY, "no memory for a page token");
        } else {
            *out = (struct page_token){
                .filter_hash = load_u64(plain.data + 1 + INCARNATION_BYTES),
                .last = last,
                .last_len = last_len,
            };
            memcpy(out->incarnation, plain.data + 1, INCARNATION_BYTES);
        }
    }
    buffer_free(&plain);
    return rc;
}

enum err_code page_token_check(const struct page_token *token, const struct page_token *now,
                               struct err *err)
{
    if (memcmp(token->incarnation, now->incarnation, INCARNATION_BYTES) != 0)
        return err_set_at(err, ERR_PAGE_TOKEN_EXPIRED, "/page_token",
                          "is of a collection that is no more");
    if (token->filter_hash != now->filter_hash)
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/page_token", "is of another filter");
    return ERR_OK;
}
