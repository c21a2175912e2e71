/* An import: what its row in the metadata store says of it.
 *
 *   import/ID   {"collection":…,"state":"running"|…,"offset":…, …}   ingest
 *
 * The row changes by compare-and-swap only, so that of two holders, or two requests, one is first.
 * A part of the upload is first noted as pending, with its objects and their stamps, then appended
 * to the log, then noted as done.  Whoever finds it pending appends it again: with the same stamps,
 * so that shards take what was appended already as the same records delivered twice. */
#ifndef VICINAL_INGEST_IMPORT_JOB_H
#define VICINAL_INGEST_IMPORT_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/meta/meta.h"
#include "common/model/bulk.h"
#include "common/model/collection.h"

#define IMPORT_ID_BYTES     37  /* with its NUL */
#define IMPORT_ERRORS_MAX   100 /* rows of which is told why they were refused; all are counted */
#define IMPORT_DETAIL_BYTES 161
#define IMPORT_OBJECTS_MAX  32  /* of one part */
#define IMPORT_JOBS_MAX     256 /* at a time */
#define IMPORT_PARTS_MAX    8   /* worked on, or waiting for their turn, at a time */
#define IMPORT_PREFIX_BYTES 65  /* of ids, with its NUL */
#define IMPORT_KEPT_US      (24ull * 3600 * 1000000) /* after its last change a row goes */

enum import_format { IMPORT_NDJSON, IMPORT_BINARY, IMPORT_NPY };
enum import_state { IMPORT_RUNNING, IMPORT_SUCCEEDED, IMPORT_FAILED, IMPORT_CANCELLED };

/* How far the upload is. */
struct import_progress {
    uint64_t offset;  /* bytes of it that have been taken */
    uint64_t rows;    /* in the log */
    uint64_t refused; /* rows that could not be */
};

struct import_error {
    uint64_t row, at; /* its number, from 0, and where it begins in the upload */
    enum err_code code;
    char detail[IMPORT_DETAIL_BYTES];
};

struct import_object {
    char name[BULK_NAME_BYTES_MAX + 1];
    struct stamp stamp;
};

struct import_job {
    char id[IMPORT_ID_BYTES];
    char collection[COLLECTION_NAME_BYTES_MAX + 1];
    uint8_t incarnation[INCARNATION_BYTES];
    enum import_format format;
    enum import_state state; /* that it has, or, while a part is pending, that it will have */
    char id_prefix[IMPORT_PREFIX_BYTES]; /* npy: ids are this and the number of the row */
    uint64_t bytes_total;                /* of the upload; 0: not known */
    uint64_t errors_max;                 /* more refused rows end it */
    struct import_progress done;         /* acknowledged */
    struct import_progress next;         /* with what is pending; else equal */
    struct import_object objects[IMPORT_OBJECTS_MAX];
    size_t object_count; /* pending; 0 with is_pending: only refused rows, or the end */
    bool is_pending;
    struct import_error errors[IMPORT_ERRORS_MAX];
    size_t error_count;
    uint64_t npy_data_at, npy_rows; /* npy, once its header was read: data_at above 0 */
    bool npy_is_f16;
    uint64_t created_us, changed_us, busy_us; /* wall clock; time in which parts were worked on */
    char *token;      /* owned: of everything that is in the log, as text; NULL: none */
    uint64_t version; /* of the row; 0: there is none yet */
};

void import_job_free(struct import_job *job); /* with it; NULL is fine */

/* A zeroed one.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code import_job_new(struct import_job **out, struct err *err);

/* Owned: import_job_free.  Errors: ERR_NOT_FOUND (none of that id and collection), ERR_CORRUPT, the
 * store's. */
MUST_CHECK enum err_code import_job_load(struct import_job **out, struct meta *meta, const char *id,
                                         const char *collection, struct err *err);

/* Write the row, if it is still as it was loaded; version is the new one.
 * Errors: ERR_VERSION_CONFLICT (somebody else was first), the store's. */
MUST_CHECK enum err_code import_job_save(struct import_job *job, struct meta *meta, uint64_t now_us,
                                         struct err *err);

/* Remove rows that have not changed for IMPORT_KEPT_US; then there is room for one more.
 * Errors: ERR_RATE_LIMITED (too many), the store's. */
MUST_CHECK enum err_code import_jobs_sweep(struct meta *meta, uint64_t now_us, struct err *err);

const char *import_format_name(enum import_format format);
bool import_format_from_name(const char *name, enum import_format *out);
const char *import_state_name(enum import_state state);

/* What a part that was read ahead has brought, of which the first row is number `base`. */
void import_job_merge(struct import_job *job, const struct import_job *ahead, uint64_t base);

/* Note a refused row; it is counted in next. */
void import_job_refuse(struct import_job *job, uint64_t row, uint64_t at, const struct err *why);

#endif
