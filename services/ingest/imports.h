/* Imports: uploads that go into the blob store in parts, and into the log as bulk manifests.
 *
 *   POST …/imports: a row in the metadata store (import_job.h)
 *   PUT …/imports/{id}/data?offset=N: rows of the part are checked (import_parse.h) and put into
 *   objects of at most 10,000 (import_objects.h), each durable; parts are read side by side
 *   → in its turn, with the collection's gate: the row says "pending": objects, stamps
 *   → one manifest for each object and partition is appended, all in one append
 *   → the row says "done" → answer
 *
 * Who dies in between leaves a row that is pending, or objects that nobody names.  The next part,
 * or the end, of the import appends what is pending before anything else; GET tells only what is
 * done.  A part that is not taken, because its turn does not come, the import was cancelled, or
 * something failed, takes its objects with it, as long as no row can name them.  Objects that a row
 * or the log may name are kept for ever. */
#ifndef VICINAL_INGEST_IMPORTS_H
#define VICINAL_INGEST_IMPORTS_H

#include <pthread.h>

#include "services/ingest/import_job.h"
#include "services/ingest/import_objects.h"
#include "services/ingest/import_parse.h"
#include "services/ingest/ingest.h"

/* A section of an object on its way into the log. */
struct import_manifest {
    uint32_t partition;
    size_t object; /* index of the pending object, which has the stamp */
    struct bulk_manifest manifest;
};

#define IMPORT_SPARES_MAX 3

/* Memory of the part before, for the next one: tens of megabytes that would have to be touched for
 * the first time again. */
struct import_spare {
    pthread_mutex_t lock;
    /* below: guarded by lock */
    struct import_rows rows[IMPORT_SPARES_MAX]; /* empty; only their memory counts */
    struct buffer objects[IMPORT_SPARES_MAX];
    size_t count;
};

/* import_write.c.  Free is fine with NULL. */
MUST_CHECK enum err_code import_spare_new(struct import_spare **out, struct err *err);
void import_spare_free(struct import_spare *spare);

/* One request that changes an import. */
struct import_work {
    struct write *write;
    struct import_job *ahead; /* as it was when the part was read; what that has brought */
    bool is_read;
    uint64_t putter;         /* part of the names of its objects, and of no other request's */
    size_t put_count;        /* objects of `ahead` that may be in the blob store */
    bool is_offered;         /* the row may name them */
    struct import_job *job;  /* as it is, in its turn */
    struct busy_claim claim; /* of the import: one request at a time */
    struct import_manifest *manifests;
    size_t manifest_count, manifest_size;
    uint64_t vectors; /* of the part in hand */
    struct import_rows rows;
    struct buffer object;
    struct bulk_section *sections; /* one for each partition */
};

/* import_write.c: memory for the request.  import_end in every case. */
MUST_CHECK enum err_code import_open(struct import_work *work, struct write *write);

/* Read the part's rows and put them into objects, whoever's turn it is: parts may be read side by
 * side.  work->is_read false: that cannot be now; its turn will tell why.
 * Errors: ERR_NOT_FOUND, ERR_COLLECTION_NOT_FOUND (dropped since), ERR_INVALID_ARGUMENT …, the
 * stores'. */
MUST_CHECK enum err_code import_read_ahead(struct import_work *work, struct import_part *part,
                                           uint64_t offset);

/* Take the import of params[1] alone and load it; what is pending is appended.
 * Errors: ERR_NOT_FOUND, ERR_COLLECTION_NOT_FOUND, the log's, the stores'. */
MUST_CHECK enum err_code import_begin(struct import_work *work);

/* Let others have it. */
void import_leave(struct import_work *work);

/* In its turn: the row says pending, the manifests are appended, the row says done.
 * Errors: the log's, the stores'. */
MUST_CHECK enum err_code import_take_part(struct import_work *work, const struct import_part *part);

/* Objects that nobody can name are removed. */
void import_end(struct import_work *work);

#endif
