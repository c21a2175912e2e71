/* Large immutable objects: whole byte strings under names, put at once, read in parts.
 *
 *   url                kept in
 *   file:DIR           files; a put is synced under another name and renamed
 *   s3://BUCKET/PREFIX any S3-compatible store, requests signed (SigV4)
 *
 * Options of s3: endpoint=URL (its address, buckets in the path; default that of AWS), region=NAME
 * (default us-east-1).  Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the
 * environment.
 *
 * An object is there whole or not at all, at every moment and after every crash.  A put that has
 * returned survives a power cut.  Who refers to an object keeps its size and a hash of its bytes:
 * what is read is checked by the reader, for only that one knows what it wants.
 *
 * All calls are thread safe, and bounded in time (a remote store: BLOB_CALL_NS a call).
 * Errors of all: ERR_IO and ERR_UNAVAILABLE (the store is away), ERR_INSUFFICIENT_STORAGE,
 * ERR_FORBIDDEN (credentials), ERR_NO_MEMORY, ERR_DEAD.
 */
#ifndef VICINAL_BACKENDS_BLOB_H
#define VICINAL_BACKENDS_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/base/limits.h"

/* Of a name: [a-z0-9._-] in parts with '/' between; no part begins with '.'. */
#define BLOB_NAME_BYTES_MAX 200
#define BLOB_BYTES_MAX      MIB(64)
#define BLOB_CALL_NS        (30 * NS_PER_S)

struct blob;

/* Errors: ERR_CONFIG (URL, missing credentials), ERR_IO.  A remote store is not asked yet. */
MUST_CHECK enum err_code blob_open(struct blob **out, const char *url, struct env *env,
                                   struct err *err);
/* The same for who only reads: nothing is made or tidied up.  Errors: ERR_NOT_FOUND (no folder). */
MUST_CHECK enum err_code blob_open_to_read(struct blob **out, const char *url, struct env *env,
                                           struct err *err);
void blob_close(struct blob *blob); /* NULL is fine */

/* Is it a URL that blob_open takes?  Errors: ERR_CONFIG. */
MUST_CHECK enum err_code blob_check_url(const char *url, struct err *err);

/* 1..BLOB_NAME_BYTES_MAX bytes as above.  Errors: ERR_INVALID_ARGUMENT. */
MUST_CHECK enum err_code blob_check_name(const char *name, struct err *err);

/* Put 1..BLOB_BYTES_MAX bytes; an object of this name is replaced as a whole. */
MUST_CHECK enum err_code blob_put(struct blob *blob, const char *name, const void *data, size_t len,
                                  struct err *err);

struct blob_range {
    const char *name;
    uint64_t at;
    size_t len; /* at least 1 */
};

/* Append exactly those bytes; out is as it was after an error.
 * Errors: ERR_NOT_FOUND (no such object), ERR_CORRUPT (it ends before). */
MUST_CHECK enum err_code blob_get(struct blob *blob, const struct blob_range *range,
                                  struct buffer *out, struct err *err);

/* Errors: ERR_NOT_FOUND. */
MUST_CHECK enum err_code blob_size(struct blob *blob, const char *name, uint64_t *bytes,
                                   struct err *err);

/* What is not there is fine. */
MUST_CHECK enum err_code blob_remove(struct blob *blob, const char *name, struct err *err);

/* Names that begin with prefix ("": all), each once, in no order.  seen returns false to end it. */
typedef bool blob_seen_fn(void *context, const char *name);
MUST_CHECK enum err_code blob_list(struct blob *blob, const char *prefix, blob_seen_fn *seen,
                                   void *context, struct err *err);

/* --- for back ends only -------------------------------------------------------------------- */

struct blob_options {
    const char *url;
    struct env *env;
    bool read_only;
};

struct blob_ops {
    const char *scheme;
    enum err_code (*check_url)(const char *url, struct err *err);
    enum err_code (*open)(struct blob **out, const struct blob_options *options, struct err *err);
    void (*close)(struct blob *blob);
    enum err_code (*put)(struct blob *blob, const char *name, const void *data, size_t len,
                         struct err *err);
    enum err_code (*get)(struct blob *blob, const struct blob_range *range, struct buffer *out,
                         struct err *err);
    enum err_code (*size)(struct blob *blob, const char *name, uint64_t *bytes, struct err *err);
    enum err_code (*remove)(struct blob *blob, const char *name, struct err *err);
    enum err_code (*list)(struct blob *blob, const char *prefix, blob_seen_fn *seen, void *context,
                          struct err *err);
};

struct blob {
    const struct blob_ops *ops;
    struct env *env;
};

extern const struct blob_ops blob_file_ops, blob_s3_ops;

#endif
