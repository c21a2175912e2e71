/* vicinal verify, between its files.
 *
 *   verify.c          options, which folder is what, the order of things
 *   verify_log.c      the log, and the shards against it
 *   verify_blob.c     the blob store: snapshots against the logs, and what no log names
 *   verify_report.c   things, their counts and findings, for people and as JSON
 *
 * A thing is what gets a line of its own: a log, a shard, a spool, a metadata file.  Who owns a
 * format looks at it (…_verify.h below services/ and backends/); here is only the walk. */
#ifndef VICINAL_CLI_VERIFY_H
#define VICINAL_CLI_VERIFY_H

#include <limits.h>

#include "cli/cli.h"
#include "common/base/scrub.h"
#include "services/shard/verify.h"

#define VERIFY_COUNTS_MAX 11
#define VERIFY_TOLD_MAX   20 /* findings of a thing that are told one by one */
#define VERIFY_SHARDS_MAX 1024
#define VERIFY_LOGS_MAX   32

struct verify_told {
    char *file; /* owned */
    uint64_t byte;
    char text[SCRUB_TEXT_BYTES];
};

enum verify_state {
    VERIFY_OK,
    VERIFY_EMPTY,  /* there is nothing in it yet; err says what is missing */
    VERIFY_FAILED, /* it could not be looked at; err says why */
};

struct verify_thing {
    struct verify *verify;
    const char *kind;    /* "log", "shard", "spool", "metadata", "blobs" */
    char path[PATH_MAX]; /* what it is */
    struct scrub scrub;  /* its state is the thing */
    enum verify_state state;
    struct err err;
    struct {
        const char *name;
        uint64_t value;
    } counts[VERIFY_COUNTS_MAX];
    size_t count_count;
    struct verify_told told[VERIFY_TOLD_MAX]; /* the first of scrub.findings */
    size_t told_count;
};

/* Hashes of names. */
struct verify_names {
    struct hash128 *items;
    size_t count, size;
};

struct verify {
    const char *blob_url; /* a setting; NULL: what the folder has */
    bool json;            /* a setting */
    /* state */
    struct blob *blob;                          /* NULL: there is none */
    struct wal_verified *logs[VERIFY_LOGS_MAX]; /* owned: what the blob store is held against */
    size_t log_count;
    struct verify_names named; /* objects that these logs name */
    bool is_log_missing;       /* they are not all that the folder has, or not whole */
    struct env *env;
    struct buffer report; /* JSON */
    struct json_writer *writer;
    uint64_t looked_at; /* bytes */
    uint64_t shown_ns;  /* when progress was shown */
    bool is_terminal, is_shown;
    uint64_t things, findings, failures;
};

/* --- verify_report.c ------------------------------------------------------------------------- */

void verify_begin(struct verify *verify);
void verify_end(struct verify *verify); /* the last line, or all JSON */

/* A thing begins; *out is to be ended.  Errors: ERR_NO_MEMORY, ERR_CONFIG (the path is too long).
 */
MUST_CHECK enum err_code verify_thing_begin(struct verify_thing **out, struct verify *verify,
                                            const char *kind, const char *folder, const char *name,
                                            struct err *err);
void verify_count(struct verify_thing *thing, const char *name, uint64_t value);

/* What came of looking at it: err is its own unless code is ERR_OK. */
void verify_thing_note(struct verify_thing *thing, enum err_code code, const struct err *err);

/* Tell all about it; it is gone then. */
void verify_thing_end(struct verify_thing *thing);

/* Somebody has asked us to stop. */
bool verify_is_stopping(void);

/* --- verify_log.c ---------------------------------------------------------------------------- */

struct verify_shard {
    struct verify_thing *thing;
    struct shard_verify *look; /* NULL: it could not be looked at */
};

/* The log in folder/name, and what the shards have of it.  Its thing is
 * told; those of the shards are not ended.  Errors: ERR_NO_MEMORY, ERR_CONFIG. */
MUST_CHECK enum err_code verify_log(struct verify *verify, const char *folder, const char *name,
                                    struct verify_shard *shards, size_t shard_count,
                                    struct err *err);

/* --- verify_blob.c --------------------------------------------------------------------------- */

/* A record of a log may name an object.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code verify_note_named(struct verify *verify, const struct record *record,
                                           struct err *err);

/* What is known of a log is kept until the blob store is looked at; it is the verify's now.
 * is_whole: all of its records were noted.  NULL: a log could not be looked at. */
void verify_note_log(struct verify *verify, struct wal_verified *log, bool is_whole);

/* The blob store folder/name (name "": folder is its URL), after all logs; its thing is told.
 * Errors: ERR_NO_MEMORY, ERR_CONFIG. */
MUST_CHECK enum err_code verify_blob(struct verify *verify, const char *folder, const char *name,
                                     struct err *err);

void verify_forget_logs(struct verify *verify);

#endif
