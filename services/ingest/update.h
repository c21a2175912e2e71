/* Patches of metadata, for one record and for many; in update.c.  A patch is appended as a full
 * image of the record, its vector and text as they were: between regions the newest image wins
 * whole. */
#ifndef VICINAL_INGEST_UPDATE_H
#define VICINAL_INGEST_UPDATE_H

#include "services/ingest/ingest.h"
#include "services/ingest/metadata_merge.h"

#define UPDATE_INCLUDE (INCLUDE_TEXT | INCLUDE_METADATA | INCLUDE_VECTOR)

struct metadata_update {
    struct merge_patch *patch;
    struct arena scratch; /* of the rows of one batch */
    struct buffer merged;
};

/* The member "metadata" of the request's body, which is a well-formed object.
 * Errors: those of upsert_check_metadata; ERR_INVALID_ARGUMENT (there is none). */
MUST_CHECK enum err_code update_read(struct metadata_update *update, struct request *req);
void update_free(struct metadata_update *update); /* zeroed is fine */

/* The record of a row that was asked for with UPDATE_INCLUDE, patched, into the write's batch.
 * *changed false: the patch changes nothing, and nothing is added.
 * Errors: ERR_PAYLOAD_TOO_LARGE (metadata, or the record), ERR_CORRUPT, ERR_NO_MEMORY. */
MUST_CHECK enum err_code update_add(struct metadata_update *update, struct write *write,
                                    const struct wire_row *row, bool *changed);

/* matched_count and updated_count, as members of an open object. */
struct json_writer;
void update_counts(struct json_writer *w, uint64_t matched, uint64_t updated);

#endif
