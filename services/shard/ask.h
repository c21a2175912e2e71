/* A question on its way: from the demand over the snapshot to the answer. */
#ifndef VICINAL_SHARD_ASK_H
#define VICINAL_SHARD_ASK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/model/filter.h"
#include "common/model/wire.h"
#include "services/shard/rows.h"
#include "services/shard/shard.h"

/* For "explain". */
struct ask_costs {
    struct engine_counters counters;
    bool has_filter;
    uint64_t matched; /* ordinals that the filter let through */
    uint64_t scanned; /* rows looked at for it */
    uint64_t wait_ns;
    uint64_t filter_ns;
    uint64_t search_ns;
    uint64_t rows_ns;
};

struct ask {
    struct shard *shard;
    struct request *req; /* its arena holds what the answer is made of */
    struct wire_question question;
    struct wire_answer answer;
    uint64_t deadline_ns;
    uint64_t noted_ns;          /* boot time at which the answer's staleness was that */
    struct partition_set asked; /* those asked that are served */
    bool asks_all;              /* that is all that are served */
    uint32_t partitions_all;
    uint64_t generation;
    struct shard_collection *collection; /* NULL: not known here */
    int grace_slot;                      /* -1: none */
    struct store_txn *txn;
    const struct filter *filter; /* NULL: everything matches */
    uint64_t bytes;              /* of the answer's texts, metadata and vectors */
    struct ask_costs costs;
    struct buffer explain;
};

/* question, shard and req are set, all else is zero.  Runs the question: the answer is filled and
 * valid until ask_close, whatever the code.  Errors: those of the question's kind. */
MUST_CHECK enum err_code ask_run(struct ask *ask, struct err *err);
void ask_close(struct ask *ask);

/* One row of the answer, with what is included.
 * Errors: ERR_PAYLOAD_TOO_LARGE (the answer as a whole), ERR_CORRUPT, ERR_IO. */
MUST_CHECK enum err_code ask_fill_row(struct ask *ask, struct wire_row *out, const struct row *row,
                                      uint32_t ordinal, struct err *err);

/* The live row of an id, of whatever partition asked.  *ordinal is its.
 * Errors: ERR_NOT_FOUND (err untouched). */
MUST_CHECK enum err_code ask_find(struct ask *ask, struct row *out, uint32_t *ordinal,
                                  const struct wire_id *id, struct err *err);

/* Room for the answer's rows.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code ask_make_rows(struct ask *ask, size_t count, struct err *err);

/* Errors: ERR_TIMEOUT. */
MUST_CHECK enum err_code ask_check_deadline(const struct ask *ask, struct err *err);

/* The kinds of questions; the collection is known and has an engine. */
MUST_CHECK enum err_code search_run(struct ask *ask, struct err *err);
MUST_CHECK enum err_code fetch_get(struct ask *ask, struct err *err);
MUST_CHECK enum err_code fetch_scroll(struct ask *ask, struct err *err);
MUST_CHECK enum err_code fetch_count(struct ask *ask, struct err *err);

/* Of the ids by the first four bits of their hashes. */
#define DIGEST_RANGES 16

/* As text: 32 digits. */
struct json_writer;
void digest_write(struct json_writer *w, struct hash128 digest);

/* The digest of a partition, made anew from the ids of the snapshot.
 * Errors: ERR_CORRUPT, ERR_IO, ERR_DEAD (stopping). */
MUST_CHECK enum err_code digest_count(struct store_txn *txn, uint32_t partition,
                                      const atomic_bool *is_stopping, struct hash128 *out,
                                      struct err *err);

/* The handlers. */
enum err_code ask_handle(struct request *req);         /* POST /internal/v1/ask */
enum err_code search_json_handle(struct request *req); /* POST /internal/v1/search */
enum err_code status_handle(struct request *req);      /* GET /internal/v1/status */
enum err_code digest_handle(struct request *req);      /* GET /internal/v1/digest */

#endif
