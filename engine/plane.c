/* See plane.h. */
#include "engine/plane.h"

#include <assert.h>

#include "common/base/checked.h"
#include "engine/memory.h"

#define CHUNK_BYTES_MIN (2 * MEMORY_HUGE_BYTES)

enum { BORROWED_SHIFT = 31 };

static_assert(PLANE_ROWS_MAX <= UINT64_C(1) << BORROWED_SHIFT, "a borrowed plane is one chunk");

/* The fewest rows, a power of two, that fill whole huge pages: a chunk then wastes nothing. */
static uint32_t chunk_shift(size_t stride)
{
    uint32_t shift = 0;

    while ((stride << shift) % MEMORY_HUGE_BYTES != 0 || (stride << shift) < CHUNK_BYTES_MIN)
        shift++;
    return shift;
}

bool plane_init(struct plane *plane, size_t stride)
{
    assert(stride > 0 && stride % 4 == 0);
    uint32_t shift = chunk_shift(stride);
    size_t bytes = (size_t)(PLANE_ROWS_MAX >> shift) * sizeof(plane->chunks[0]);
    unsigned char **chunks = memory_map(bytes);

    if (chunks == NULL)
        return false;
    *plane = (struct plane){.chunks = chunks,
                            .directory_bytes = bytes,
                            .stride = stride,
                            .shift = shift,
                            .mask = (uint32_t)(((uint64_t)1 << shift) - 1)};
    return true;
}

void plane_free(struct plane *plane)
{
    if (plane->directory_bytes == 0) {
        *plane = (struct plane){0};
        return;
    }
    for (uint64_t i = 0; i < plane->capacity >> plane->shift; i++)
        memory_unmap(plane->chunks[i], plane->stride << plane->shift);
    memory_unmap(plane->chunks, plane->directory_bytes);
    *plane = (struct plane){0};
}

/* A row's number has no bits above the shift, so that every row is found in the first chunk. */
void plane_borrow(struct plane *plane, unsigned char **base, size_t stride, uint64_t rows)
{
    assert(base != NULL && stride > 0 && stride % 4 == 0);
    assert(rows <= PLANE_ROWS_MAX);
    *plane = (struct plane){.chunks = base,
                            .stride = stride,
                            .shift = BORROWED_SHIFT,
                            .mask = (UINT32_C(1) << BORROWED_SHIFT) - 1,
                            .capacity = rows};
}

/* The first huge page of a plane stays in small pages, so that a small collection stays small. */
bool plane_reserve(struct plane *plane, uint64_t rows)
{
    assert(rows <= PLANE_ROWS_MAX);
    if (plane->directory_bytes == 0)
        return rows <= plane->capacity;
    while (plane->capacity < rows) {
        size_t bytes = plane->stride << plane->shift;
        unsigned char *chunk = memory_map(bytes);
        size_t small = plane->capacity == 0 ? MEMORY_HUGE_BYTES : 0;

        if (chunk == NULL)
            return false;
        memory_want_huge(chunk + small, bytes - small);
        plane->chunks[plane->capacity >> plane->shift] = chunk;
        plane->capacity += (uint64_t)1 << plane->shift;
    }
    return true;
}

size_t plane_run_bytes(size_t stride, size_t bytes)
{
    size_t chunk = stride << chunk_shift(stride);

    return (bytes + chunk - 1) / chunk * chunk;
}

void plane_adopt(struct plane *plane, unsigned char *memory, size_t bytes)
{
    size_t chunk = plane->stride << plane->shift;

    assert(plane->directory_bytes > 0 && plane->capacity == 0);
    for (size_t at = 0; at < bytes; at += chunk) {
        plane->chunks[plane->capacity >> plane->shift] = memory + at;
        plane->capacity += (uint64_t)1 << plane->shift;
    }
}

size_t plane_lend(struct plane *plane, int fd, uint64_t offset, size_t bytes)
{
    size_t chunk = plane->stride << plane->shift;
    size_t whole = bytes / MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;

    for (size_t at = 0; at < whole; at += chunk)
        if (!memory_lend(plane->chunks[at / chunk], fd, offset + at, MIN_OF(whole - at, chunk)))
            return at;
    return whole;
}

uint64_t plane_bytes(size_t stride, uint64_t rows)
{
    uint64_t bytes = stride * rows;
    uint64_t unit = bytes <= MEMORY_HUGE_BYTES ? MEMORY_PAGE_BYTES : MEMORY_HUGE_BYTES;

    return (bytes + unit - 1) / unit * unit;
}
