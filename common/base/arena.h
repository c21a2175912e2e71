/* One lifetime, many allocations: freed all at once.  Not thread safe. */
#ifndef VICINAL_BASE_ARENA_H
#define VICINAL_BASE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *blocks;
    size_t used_bytes; /* handed out in all */
};

/* Zeroed bytes, 16-aligned, valid until arena_free or arena_reset; NULL when there is no memory. */
void *arena_alloc(struct arena *arena, size_t count, size_t size);

/* A NUL-terminated copy. */
char *arena_copy_text(struct arena *arena, const char *text, size_t len);

void arena_reset(struct arena *arena); /* keeps the largest block */
void arena_free(struct arena *arena);  /* zeroed is fine; leaves it zeroed */

#endif
