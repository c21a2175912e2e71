/* Arenas: see arena.h.
 *
 * Blocks form a list, the one in use first.  New blocks double in size up to BLOCK_BYTES_MAX;
 * an allocation larger than that gets a block of its own size.  Bytes are zeroed when they are
 * handed out, because a block that outlives a reset holds old content.
 */
#include "common/base/arena.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"

#define ARENA_ALIGN     ((size_t)16)
#define BLOCK_BYTES_MIN ((size_t)4096)
#define BLOCK_BYTES_MAX ((size_t)1 << 20)

struct arena_block {
    struct arena_block *next;
    size_t size; /* bytes of data */
    size_t used;
    size_t padding; /* keeps data aligned */
    uint8_t data[];
};

static_assert(offsetof(struct arena_block, data) % 16 == 0, "data is aligned as malloc is");

static struct arena_block *block_new(const struct arena *arena, size_t need)
{
    size_t size = BLOCK_BYTES_MIN;
    struct arena_block *block;
    size_t total;

    if (arena->blocks != NULL && arena->blocks->size < BLOCK_BYTES_MAX)
        size = arena->blocks->size * 2;
    else if (arena->blocks != NULL)
        size = BLOCK_BYTES_MAX;
    size = MAX_OF(MIN_OF(size, BLOCK_BYTES_MAX), need);
    if (!checked_add(size, sizeof(*block), &total))
        return NULL;
    block = malloc(total);
    if (block == NULL)
        return NULL;
    *block = (struct arena_block){.size = size};
    return block;
}

void *arena_alloc(struct arena *arena, size_t count, size_t size)
{
    struct arena_block *block = arena->blocks;
    size_t bytes;
    void *out;

    if (!checked_mul(count, size, &bytes) || !checked_add(bytes, ARENA_ALIGN - 1, &bytes))
        return NULL;
    bytes &= ~(ARENA_ALIGN - 1);
    if (bytes == 0)
        bytes = ARENA_ALIGN;
    if (block == NULL || block->size - block->used < bytes) {
        block = block_new(arena, bytes);
        if (block == NULL)
            return NULL;
        block->next = arena->blocks;
        arena->blocks = block;
    }
    out = block->data + block->used;
    assert((uintptr_t)out % ARENA_ALIGN == 0);
    memset(out, 0, bytes);
    block->used += bytes;
    arena->used_bytes += bytes;
    return out;
}

char *arena_copy_text(struct arena *arena, const char *text, size_t len)
{
    size_t bytes;
    char *out;

    if (!checked_add(len, (size_t)1, &bytes))
        return NULL;
    out = arena_alloc(arena, bytes, 1);
    if (out != NULL && len > 0)
        memcpy(out, text, len);
    return out;
}

void arena_reset(struct arena *arena)
{
    struct arena_block *largest = NULL;
    struct arena_block *block = arena->blocks;

    while (block != NULL) {
        struct arena_block *next = block->next;

        if (largest == NULL || block->size > largest->size) {
            free(largest);
            largest = block;
        } else {
            free(block);
        }
        block = next;
    }
    if (largest != NULL) {
        largest->next = NULL;
        largest->used = 0;
    }
    arena->blocks = largest;
    arena->used_bytes = 0;
}

void arena_free(struct arena *arena)
{
    struct arena_block *block = arena->blocks;

    while (block != NULL) {
        struct arena_block *next = block->next;

        free(block);
        block = next;
    }
    *arena = (struct arena){0};
}
