/* A plane: rows of one size that never move, so that readers need no lock.
 *
 * Rows stand in chunks, each a mapping whose size is a multiple of a huge page; a directory of
 * chunk addresses, itself a mapping that is touched only as far as it is used, finds them.  One
 * thread grows a plane; a reader may use a row when it has learnt of it by an acquiring load that
 * follows the growth.  New rows are zero.  Failure: growing says false and changes nothing.
 *
 * A plane may also be borrowed: one array of somebody else's, of a fixed number of rows, which
 * looks like a single chunk.  Reading a row is the same code then. */
#ifndef VICINAL_ENGINE_PLANE_H
#define VICINAL_ENGINE_PLANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define PLANE_ROWS_MAX ((uint64_t)1 << 30)

struct plane {
    unsigned char **chunks; /* directory, NULL where no chunk is */
    size_t directory_bytes; /* size of that mapping; 0: the plane is borrowed */
    size_t stride;          /* bytes of a row */
    uint32_t shift;         /* a chunk has 1 << shift rows */
    uint32_t mask;          /* (1 << shift) - 1 */
    uint64_t capacity;      /* rows that have a chunk */
};

/* stride: a multiple of 4 bytes; rows stand on 64 bytes if it is a multiple of 64. */
MUST_CHECK bool plane_init(struct plane *plane, size_t stride);
void plane_free(struct plane *plane);

/* A plane over *base, an array of so many rows.  base itself, the pointer, is the directory: it and
 * the array stay the caller's and outlive the plane.  Cannot fail. */
void plane_borrow(struct plane *plane, unsigned char **base, size_t stride, uint64_t rows);

/* Make rows 0 .. rows-1 usable.  A borrowed plane does not grow: false beyond its rows. */
MUST_CHECK bool plane_reserve(struct plane *plane, uint64_t rows);

/* Rows that stand in a row: a mapping of plane_run_bytes() for bytes of rows becomes the memory of
 * a plane that has none. */
size_t plane_run_bytes(size_t stride, size_t bytes);
void plane_adopt(struct plane *plane, unsigned char *memory, size_t bytes);

/* Let whole pages of the first bytes of rows be those of a file from the offset on, which hold the
 * same; memory goes back.  offset: a multiple of a page.  Returns the bytes that are the file's:
 * fewer than whole pages if the system refused (errno). */
size_t plane_lend(struct plane *plane, int fd, uint64_t offset, size_t bytes);

/* Bytes that so many rows of this stride take from the system, page sizes considered. */
uint64_t plane_bytes(size_t stride, uint64_t rows);

static inline void *plane_row(const struct plane *plane, uint32_t row)
{
    return plane->chunks[row >> plane->shift] + (size_t)(row & plane->mask) * plane->stride;
}

#endif
