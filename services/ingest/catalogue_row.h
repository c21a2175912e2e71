/* Between catalogue.c, catalogue_row.c and catalogue_load.c. */
#ifndef VICINAL_INGEST_CATALOGUE_ROW_H
#define VICINAL_INGEST_CATALOGUE_ROW_H

#include "services/ingest/catalogue.h"

/* Write the row of a collection, unless the row there shows a newer change: then another holder has
 * written it.  *version (may be NULL) is the row's.  Errors: ERR_CONFLICT, the store's. */
MUST_CHECK enum err_code catalogue_row_put(struct catalogue *catalogue,
                                           const struct collection *collection,
                                           enum collection_state state, uint64_t *version,
                                           struct err *err);

/* Put back what was there before the row became `version`: an entry, or (NULL) nothing.  False: it
 * may stand as it is. */
bool catalogue_row_restore(struct catalogue *catalogue, const struct collection *collection,
                           const struct catalogue_entry *before, uint64_t version);

/* The same later, by the holder, when nothing of the name is pending in memory: whatever the row
 * says to be pending is void.  A row that is as it should be is written once more, so that a write
 * that the store has not finished yet, and that expects what was there, comes too late.  Errors:
 * the store's, ERR_CONFLICT (one has come just now). */
MUST_CHECK enum err_code catalogue_row_settle(struct catalogue *catalogue,
                                              const struct collection *change,
                                              const struct catalogue_entry *before,
                                              struct err *err);

/* Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code catalogue_row_parse(const void *data, size_t len, struct collection *out,
                                             enum collection_state *state, struct err *err);

/* The row `catalogue`: changes of partition 0 below this position are in the rows. */
struct catalogue_mark {
    uint64_t position, epoch;
    bool other_log; /* the row is of another life of the log */
};
MUST_CHECK enum err_code catalogue_mark_get(struct catalogue *catalogue, struct catalogue_mark *out,
                                            struct err *err);

/* As far as the log goes now; failing costs only time at the next take-over. */
void catalogue_note_position(struct catalogue *catalogue);

MUST_CHECK enum err_code catalogue_set(struct catalogue *catalogue,
                                       const struct collection *collection,
                                       enum collection_state state, struct err *err);
void catalogue_forget(struct catalogue *catalogue, const struct collection *collection);
void catalogue_clear(struct catalogue *catalogue);
bool catalogue_next_pending(struct catalogue *catalogue, struct collection *out);

/* Append to all partitions and settle the row; deadline_ns 0: on the appender's own thread.
 * *nothing (may be NULL): it failed, and for sure nothing of it is in the log. */
MUST_CHECK enum err_code catalogue_complete(struct catalogue *catalogue,
                                            const struct collection *collection,
                                            uint64_t deadline_ns, bool *nothing, struct err *err);

#endif
