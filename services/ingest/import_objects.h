/* Rows of an upload into objects of the blob store: sorted by partition and id, each section with
 * its hash; see common/model/bulk.h. */
#ifndef VICINAL_INGEST_IMPORT_OBJECTS_H
#define VICINAL_INGEST_IMPORT_OBJECTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/model/bulk.h"

#define IMPORT_OBJECT_ROWS  BULK_ROWS_MAX
#define IMPORT_OBJECT_BYTES MIB(24) /* from so many on an object is full */

/* Where a row is. */
struct placed_row {
    uint64_t first; /* of its id the first 8 bytes, big-endian: rows are far apart in memory */
    uint32_t partition;
    uint32_t order; /* of arrival */
    size_t at;      /* in the bytes that the rows are in */
    uint32_t len;
    uint32_t id_at; /* in the row */
    uint32_t id_len;
};

/* Zeroed but for partitions and dimension.  Rows are either added as they are in borrowed bytes, or
 * encoded into bytes of its own, not both. */
struct import_rows {
    uint32_t partitions;
    uint32_t dimension;
    const uint8_t *borrowed; /* NULL: own */
    struct buffer own;
    struct placed_row *placed;
    size_t count, size;
    size_t bytes;
};

void import_rows_free(struct import_rows *rows);
void import_rows_reset(struct import_rows *rows); /* keeps the memory */
bool import_rows_are_full(const struct import_rows *rows);

/* Encode a row that was checked.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code import_rows_add(struct import_rows *rows, const struct bulk_row *row,
                                         struct err *err);

/* A row that stands encoded at rows->borrowed + at; row is what it was decoded to. */
MUST_CHECK enum err_code import_rows_borrow(struct import_rows *rows, size_t at, size_t len,
                                            const struct bulk_row *row, struct err *err);

/* The object of all rows (at least one), the last of each id; sections has room for one of each
 * partition.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code import_rows_build(struct import_rows *rows, struct buffer *object,
                                           struct bulk_section *sections, uint32_t *count,
                                           struct err *err);

#endif
