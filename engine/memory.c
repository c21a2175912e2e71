/* See memory.h.  Failure is always NULL; nothing here ends the process. */
#include "engine/memory.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/sanitized.h"

#define ALIGNMENT ((size_t)64)

/* Relaxed is enough: the test that sets these runs no allocation at the same time. */
static _Atomic uint64_t fail_at;
static _Atomic uint64_t allocations;

static bool must_fail(void)
{
    uint64_t n = atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed) + 1;

    return n == atomic_load_explicit(&fail_at, memory_order_relaxed);
}

uint64_t memory_fail_at(uint64_t n)
{
    atomic_store_explicit(&fail_at, n, memory_order_relaxed);
    return atomic_exchange_explicit(&allocations, 0, memory_order_relaxed);
}

void *memory_alloc(size_t count, size_t size)
{
    size_t bytes;

    if (!checked_mul(count == 0 ? 1 : count, size, &bytes))
        return NULL;
    if (!checked_add(bytes, ALIGNMENT - 1, &bytes) || must_fail())
        return NULL;
    bytes &= ~(ALIGNMENT - 1);
    void *memory = aligned_alloc(ALIGNMENT, bytes);
    if (memory != NULL)
        memset(memory, 0, bytes);
    return memory;
}

void memory_free(void *memory)
{
    free(memory);
}

static size_t page_round(size_t bytes)
{
    return (bytes + MEMORY_PAGE_BYTES - 1) & ~(MEMORY_PAGE_BYTES - 1);
}

/* The system aligns to small pages only: map one huge page more and give back what sticks out. */
void *memory_map(size_t bytes)
{
    size_t size = page_round(bytes);
    size_t padded;

    if (size == 0 || !checked_add(size, MEMORY_HUGE_BYTES, &padded) || must_fail())
        return NULL;
    unsigned char *raw = mmap(NULL, padded, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    size_t lead = (MEMORY_HUGE_BYTES - (uintptr_t)raw % MEMORY_HUGE_BYTES) % MEMORY_HUGE_BYTES;
    if (lead > 0)
        (void)munmap(raw, lead);
    if (padded - lead - size > 0)
        (void)munmap(raw + lead + size, padded - lead - size);
    return raw + lead;
}

/* The place is found by a mapping that is never touched.  When the file cannot take it, the place
 * is left: the system may have given it up, and another thread have got it, before it failed. */
void *memory_map_file(int fd, size_t bytes)
{
    void *place = memory_map(bytes);

    if (place == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    void *memory = mmap(place, page_round(bytes), PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void memory_want_random(void *memory, size_t bytes)
{
    uintptr_t from = ((uintptr_t)memory + MEMORY_PAGE_BYTES - 1) & ~(MEMORY_PAGE_BYTES - 1);
    uintptr_t to = ((uintptr_t)memory + bytes) & ~(MEMORY_PAGE_BYTES - 1);

    if (from < to)
        (void)madvise((unsigned char *)memory + (from - (uintptr_t)memory), to - from, MADV_RANDOM);
}

/* TSan takes a mapping that is put over another for a write of all its bytes, and readers for its
 * victims; but these are the same bytes, and the system changes them at one blow.  So it is not
 * told. */
static void *put_file_over(void *memory, int fd, uint64_t offset, size_t bytes)
{
#if IS_TSAN
    long place = syscall(SYS_mmap, memory, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, offset);

    return place == -1 ? MAP_FAILED : memory;
#else
    return mmap(memory, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, (off_t)offset);
#endif
}

bool memory_lend(void *memory, int fd, uint64_t offset, size_t bytes)
{
    if (must_fail()) {
        errno = ENOMEM;
        return false;
    }
    if (put_file_over(memory, fd, offset, bytes) == MAP_FAILED)
        return false;
    memory_want_random(memory, bytes);
    return true;
}

void memory_unmap(void *memory, size_t bytes)
{
    if (memory != NULL)
        (void)munmap(memory, page_round(bytes));
}

void memory_want_huge(void *memory, size_t bytes)
{
    if (bytes > 0)
        (void)madvise(memory, bytes, MADV_HUGEPAGE);
}
