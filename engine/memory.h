/* Where the engine gets its memory: zeroed arrays, and zeroed mappings on a huge page's boundary.
 * All allocations pass here, so that a test can make the n-th one fail. */
#ifndef VICINAL_ENGINE_MEMORY_H
#define VICINAL_ENGINE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define MEMORY_HUGE_BYTES ((size_t)2 << 20)
#define MEMORY_PAGE_BYTES ((size_t)4096)

/* Zeroed memory, aligned to 64 bytes; NULL when there is none.  Free with memory_free(). */
void *memory_alloc(size_t count, size_t size);
void memory_free(void *memory);

/* A zeroed mapping of bytes (rounded up to pages), aligned to MEMORY_HUGE_BYTES.  Pages are taken
 * from the system when they are first touched. */
void *memory_map(size_t bytes);

/* A file's first bytes, to be read only, shared with all who map it; aligned as above, so that what
 * stands on a huge page's boundary in the file does so in memory.  errno says why it is NULL. */
void *memory_map_file(int fd, size_t bytes);

/* Replace a part of a mapping, whole pages, by pages of a file that hold the same bytes, to be read
 * only, in no order.  The system does this at one blow: whoever reads there meanwhile reads the one
 * or the other.  False (errno): as it was. */
MUST_CHECK bool memory_lend(void *memory, int fd, uint64_t offset, size_t bytes);
void memory_unmap(void *memory, size_t bytes);

/* Let the system back this part of a mapping by huge pages (a wish, never an error). */
void memory_want_huge(void *memory, size_t bytes);

/* Of this part single pages are wanted, in no order: do not read ahead (a wish, never an error). */
void memory_want_random(void *memory, size_t bytes);

/* For tests: the n-th allocation from now on fails, once (1: the next); 0: none.  Returns how
 * many allocations there were since the last call. */
uint64_t memory_fail_at(uint64_t n);

#endif
