/* Rows out of a part of an upload, in its three formats:
 *
 *   ndjson   a record as in POST …/records on each line
 *   binary   rows as common/model/bulk.h has them
 *   npy      one .npy file, float32 or float16; the id of a row is a prefix and its number
 *
 * A row that the end of the part cuts is left for the next part. */
#ifndef VICINAL_INGEST_IMPORT_PARSE_H
#define VICINAL_INGEST_IMPORT_PARSE_H

#include "common/base/arena.h"
#include "services/ingest/import_job.h"

struct env;

struct import_part {
    struct env *env;
    struct import_job *job;
    const struct collection *collection;
    const uint8_t *body;
    size_t len;
    bool is_final; /* the upload ends with it */
    size_t at;     /* behind the row that was read last */
    size_t row_at; /* where that one begins */
    uint64_t row;  /* its number in the upload */
    uint64_t next_row;
    struct arena arena; /* of the row that was read last */
    float *vector;      /* room for one, of float16; NULL until needed */
};

enum import_read {
    IMPORT_READ_ROW,
    IMPORT_READ_REFUSED, /* err says why */
    IMPORT_READ_END,     /* there is no whole row any more */
    IMPORT_READ_FAILED,  /* what follows cannot be read at all: err */
};

/* The next row; borrowed until the next call. */
enum import_read import_part_next(struct import_part *part, struct bulk_row *row, struct err *err);

/* All has been read: what is left is no row, and, at the end of the upload, none is missing.
 * Errors: ERR_INVALID_ARGUMENT. */
MUST_CHECK enum err_code import_part_check_end(const struct import_part *part, struct err *err);

void import_part_free(struct import_part *part);

#endif
