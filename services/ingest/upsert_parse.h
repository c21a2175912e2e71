/* The body of POST …/records, read in one pass; see upsert_parse.c. */
#ifndef VICINAL_INGEST_UPSERT_PARSE_H
#define VICINAL_INGEST_UPSERT_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/base/limits.h"

struct upsert_record {
    const char *id; /* NULL: none was given */
    size_t id_len;
    const float *vector; /* dimension floats, or NULL */
    const char *text;    /* or NULL */
    size_t text_len;
    const char *metadata; /* a JSON object as it came, or NULL */
    size_t metadata_len;
};

enum on_conflict { CONFLICT_REPLACE, CONFLICT_SKIP, CONFLICT_FAIL };

struct upsert {
    struct upsert_record *records;
    size_t count;
    enum on_conflict on_conflict;
    bool wait_searchable;
    uint64_t write_quorum; /* regions; 0: none was given */
    uint64_t timeout_ms;
};

struct upsert_schema {
    const char *collection; /* its name, for messages */
    uint32_t dimension;
};

/* Everything is checked; what is in out leads into body and arena.  Errors carry the pointer of
 * what is wrong: ERR_INVALID_JSON, ERR_INVALID_ARGUMENT, ERR_UNKNOWN_FIELD, ERR_NOT_SUPPORTED,
 * ERR_DIMENSION_MISMATCH, ERR_PAYLOAD_TOO_LARGE (text, metadata), ERR_NO_MEMORY. */
MUST_CHECK enum err_code upsert_parse(struct upsert *out, const struct upsert_schema *schema,
                                      const void *body, size_t len, struct arena *arena,
                                      struct err *err);

/* One record object alone, without an id or with that one: the body of PUT …/records/{id}. */
MUST_CHECK enum err_code upsert_parse_record(struct upsert_record *out,
                                             const struct upsert_schema *schema, const void *body,
                                             size_t len, struct arena *arena, struct err *err);

/* One object of metadata, within its limits.  Errors: as of upsert_parse. */
MUST_CHECK enum err_code upsert_check_metadata(const char *data, size_t len, struct arena *arena,
                                               struct err *err);

/* 1..ID_BYTES_MAX bytes of UTF-8 without NUL.  Errors: ERR_INVALID_ARGUMENT. */
MUST_CHECK enum err_code upsert_check_id(const char *id, size_t len, struct err *err);

#endif
