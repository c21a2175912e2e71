/* Records in bulk: many rows in one object of the blob store, and the manifest, a record of the log
 * (RECORD_BULK_MANIFEST), that makes those of one partition count.
 *
 * A row; all numbers little-endian, its length a multiple of 4:
 *   u32 bytes of the row, u16 bytes of the id, u16 flags (1 vector, 2 text, 4 metadata),
 *   u32 bytes of the text, u32 bytes of the metadata; the vector (float32, as many as the
 *   collection has dimensions), id, text, metadata (a JSON object), zeros up to the length
 *
 * This is also the form "binary" of an upload: rows, one behind the other.
 *
 * An object: u32 magic, u32 number of sections, then for each section, rising by partition, u32
 * partition, u32 rows, u64 where it begins, u64 its bytes, u128 hash (XXH3) of them; 16 bytes: hash
 * of everything before; then the sections: rows, rising by id, no id twice.
 *
 * The manifest of a section has its place, size and hash: whoever reads the section checks it
 * against the log.  All its rows are upserts with the manifest's stamp. */
#ifndef VICINAL_MODEL_BULK_H
#define VICINAL_MODEL_BULK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/limits.h"

#define BULK_ROWS_MAX         10000 /* of one object */
#define BULK_BYTES_MAX        MIB(48)
#define BULK_NAME_BYTES_MAX   200 /* of an object */
#define BULK_ROW_HEADER_BYTES 16
#define BULK_ROW_BYTES_MAX    (RECORD_BYTES_MAX - 256) /* it fits into a record of the log, too */

/* Borrowed. */
struct bulk_row {
    const void *vector; /* dimension float32, maybe unaligned; NULL: none */
    const char *id;
    size_t id_len;
    const char *text; /* NULL: none */
    size_t text_len;
    const char *metadata; /* NULL: none */
    size_t metadata_len;
};

/* Bytes of the row as it is encoded; SIZE_MAX: more than any row may have. */
size_t bulk_row_bytes(const struct bulk_row *row, uint32_t dimension);

/* Appends; row has been checked (bulk_row_bytes ≤ BULK_ROW_BYTES_MAX). */
void bulk_row_encode(struct buffer *out, const struct bulk_row *row, uint32_t dimension);

/* The length that a row says of itself; 0: fewer than its 4 bytes are there.  It is a multiple of 4
 * from BULK_ROW_HEADER_BYTES to BULK_ROW_BYTES_MAX in any row that can be one.  */
size_t bulk_row_length(const void *data, size_t len);
bool bulk_row_length_is_possible(size_t length);

/* One whole row of that length: lengths, flags, padding; not what texts and numbers are.
 * Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code bulk_row_decode(struct bulk_row *out, uint32_t dimension, const void *data,
                                         size_t len, struct err *err);

/* --- objects --------------------------------------------------------------------------------- */

struct bulk_section {
    uint32_t partition;
    uint32_t rows;  /* 1..BULK_ROWS_MAX */
    uint64_t at;    /* in the object */
    uint64_t bytes; /* 1..BULK_BYTES_MAX */
    struct hash128 hash;
};

size_t bulk_head_bytes(uint32_t sections);
void bulk_head_encode(struct buffer *out, const struct bulk_section *sections, uint32_t count);

/* How many sections an object has, by its first 8 bytes; its head may be read then.
 * Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code bulk_head_count(uint32_t *count, const void *data, size_t len,
                                         struct err *err);

/* sections has room for the count.  Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code bulk_head_decode(struct bulk_section *sections, uint32_t count,
                                          const void *data, size_t len, struct err *err);

/* --- manifests ------------------------------------------------------------------------------- */

struct bulk_manifest {
    char name[BULK_NAME_BYTES_MAX + 1]; /* of the object */
    struct bulk_section section;        /* but for its partition, which is the record's */
};

/* The payload of the record. */
void bulk_manifest_encode(const struct bulk_manifest *manifest, struct buffer *out);

/* Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code bulk_manifest_decode(struct bulk_manifest *out, const void *data,
                                              size_t len, struct err *err);

/* Are these the bytes that it names?  Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code bulk_manifest_check(const struct bulk_manifest *manifest, const void *data,
                                             size_t len, struct err *err);

#endif
