/* vicinal verify, between its files.
 *
 *   verify.c          options, which folder is what, the order of things
 *   verify_log.c      the log, and the shards against it
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
    const char *kind;    /* "log", "shard", "spool", "metadata" */
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

struct verify {
    const char *blob_url; /* a setting; NULL: what the folder has */
    bool json;            /* a setting */
    /* state */
    struct blob *blob; /* NULL: there is none */
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

#endif
