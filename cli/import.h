/* vicinal import: its settings, and the parts that it is made of.
 *
 *   a source (import_folder.c, import_rows.c, import_vectors.c) writes records into the sink;
 *   the sink (import_sink.c) cuts them into batches and keeps a few threads sending;
 *   import_post.c sends one batch: retries, drops what the server refuses;
 *   import_state.c remembers what was acknowledged; progress.c tells how far it is. */
#ifndef VICINAL_CLI_IMPORT_H
#define VICINAL_CLI_IMPORT_H

#include "cli/cli.h"
#include "cli/import_state.h"
#include "common/base/limits.h"

#define BATCH_HEAD        "{\"timeout_ms\":60000,\"records\":["
#define BATCH_TAIL        "]}"
#define REFUSALS_MAX      16 /* kinds that are counted apart */
#define REFUSAL_EXAMPLES  3
#define REFUSAL_TEXT_SIZE 200

struct import {
    /* settings */
    const char *url, *collection, *vectors, *records, *metric, *embedder, *state_path;
    uint64_t dimension, m, ef_construction, threads, batch, batch_bytes, retry_seconds;
    bool create, json;
    const char *path; /* the operand; NULL with --vectors */
    /* state */
    char base[512];
    char records_path[1024]; /* of the URL */
    struct http_client *client;
    char version[128]; /* of the collection */
    bool is_embedded;  /* the collection has an embedder */
};

struct refusal {
    char word[32]; /* the error's code */
    uint64_t count;
    char examples[REFUSAL_EXAMPLES][REFUSAL_TEXT_SIZE];
};

/* What became of the rows so far. */
struct import_counts {
    uint64_t imported, refused;
    uint64_t earlier; /* … of both, acknowledged in an earlier run */
    uint64_t earlier_refused;
    uint64_t units, units_total; /* of the source, for the progress: rows or bytes */
    struct refusal refusals[REFUSALS_MAX];
    size_t refusal_count;
    char waiting[ERR_MESSAGE_BYTES]; /* why nothing goes on just now; "": it does */
};

/* --- a batch --------------------------------------------------------------------------------- */

struct batch {
    uint64_t number;
    struct buffer body;                     /* BATCH_HEAD, records with commas, no tail yet */
    size_t ends[RECORDS_PER_REQUEST_MAX];   /* behind each record */
    uint64_t rows[RECORDS_PER_REQUEST_MAX]; /* of the source, for messages */
    size_t count;
    uint64_t units; /* of the source, consumed by it */
    struct batch *next;
};

/* Send all records of a batch; refused ones are passed to `refused` and left out.  *imported counts
 * the others.  Errors: ERR_UNAVAILABLE (retried for too long), ERR_DEAD (stopped), or what the
 * server says of the whole. */
struct import_sink;
MUST_CHECK enum err_code import_post(struct import_sink *sink, struct batch *batch,
                                     uint64_t *imported, uint64_t *refused, struct err *err);

/* --- the sink -------------------------------------------------------------------------------- */

struct import_sink_setup {
    struct import *import;
    struct import_state *state;
    uint64_t units_total;
};
MUST_CHECK enum err_code import_sink_open(struct import_sink **out,
                                          const struct import_sink_setup *setup, struct err *err);

/* Where the next record is to be written, as one JSON object; then import_sink_end (keep) or
 * import_sink_refuse.  NULL: the import has failed, or there is no memory; see import_sink_close.
 */
struct buffer *import_sink_begin(struct import_sink *sink);
void import_sink_end(struct import_sink *sink, uint64_t row);
void import_sink_refuse(struct import_sink *sink, uint64_t row, const struct err *why);

/* So many units of the source have been read in all. */
void import_sink_progress(struct import_sink *sink, uint64_t units);

/* Send what is left (unless `abandon`), wait for all, free.  Errors: those of the senders. */
MUST_CHECK enum err_code import_sink_close(struct import_sink *sink, bool abandon,
                                           struct import_counts *counts, struct err *err);

/* For import_post. */
const struct import *import_sink_import(const struct import_sink *sink);
void import_sink_count_refused(struct import_sink *sink, uint64_t row, const struct err *why);
/* Sleep; false: the import is stopping.  why: shown meanwhile, NULL: nothing. */
bool import_sink_pause(struct import_sink *sink, uint64_t until_ns, const char *why);

/* --- sources --------------------------------------------------------------------------------- */

/* What is to be read; made before the sink. */
struct import_source {
    char fingerprint[128]; /* changes when the source does */
    uint64_t units_total;
    const char *unit;   /* "rows", "bytes" */
    uint64_t dimension; /* that its records have; 0: text only, or not known */
    enum err_code (*run)(struct import_source *source, struct import_sink *sink, struct err *err);
    void (*close)(struct import_source *source);
    struct import *import;
    void *state;
    char note[256]; /* for the summary: files skipped */
};

MUST_CHECK enum err_code import_folder_open(struct import_source *source, struct err *err);
MUST_CHECK enum err_code import_rows_open(struct import_source *source, struct err *err);
MUST_CHECK enum err_code import_vectors_open(struct import_source *source, struct err *err);

#endif
