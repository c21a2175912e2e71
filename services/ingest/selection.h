/* Which records a write is about: those of a list of ids, or those that match a filter.
 *
 * By filter they come in pages: ids that match at the log's end, ascending.  The caller takes a
 * page's ids alone, reads them again and changes those that still match; what is written behind the
 * scan meanwhile is not met.  A failure on a later page leaves the pages before it done:
 * write_half_way tells how much that is. */
#ifndef VICINAL_INGEST_SELECTION_H
#define VICINAL_INGEST_SELECTION_H

#include "common/http/json_doc.h"
#include "common/model/filter.h"
#include "services/ingest/ingest.h"

struct selection {
    struct write *write;
    struct wire_id *ids; /* ascending, each once; into the body; NULL: by filter, or everything */
    size_t id_count;
    struct buffer filter; /* its text; len 0: not by filter */
    const struct filter *parsed;
    struct filter_scratch scratch;
    struct arena page; /* ids of one page */
    struct wire_id after;
};

/* The members ids and filter of a body, which lives as long as the selection.  Neither is there:
 * ids NULL, and no filter.  Errors: ERR_INVALID_ARGUMENT (also: both), ERR_INVALID_FILTER,
 * ERR_NO_MEMORY. */
MUST_CHECK enum err_code selection_read(struct selection *selection, struct write *write,
                                        json_t *body);
void selection_free(struct selection *selection); /* zeroed is fine */

/* wait, write_quorum and timeout_ms of a body, into the write.
 * Errors: ERR_INVALID_ARGUMENT, ERR_UNAVAILABLE (many wait for a quorum). */
MUST_CHECK enum err_code selection_read_options(struct write *write, json_t *body);

/* The next page of ids that match the filter; *count 0: none are left.  The page before it goes:
 * what a write holds does not grow with what it finds. ids has room for SELECTION_PAGE.
 * Errors: those of decide_scroll, ERR_NO_MEMORY. */
MUST_CHECK enum err_code selection_next(struct selection *selection, struct wire_id *ids,
                                        size_t *count);

/* Does a row with its metadata still match?  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code selection_matches(struct selection *selection, const struct wire_row *row,
                                           bool *matches);

#endif
