/* Errors: a code to branch on, an HTTP status, a word that clients may rely on, and a message.
 *
 * A leaf sets the error; each caller wraps it with what only it knows; nobody logs on the way;
 * the boundary (a handler's caller, a background loop) logs once.  No allocation: the message has
 * a fixed size and is cut, never overrun.
 */
#ifndef VICINAL_BASE_ERR_H
#define VICINAL_BASE_ERR_H

#include <stdbool.h>
#include <stddef.h>

#define MUST_CHECK        __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define ARRAY_COUNT(a)    (sizeof(a) / sizeof((a)[0]))

/* code, HTTP status, worth retrying, stable word of the API, title of the problem */
#define ERR_TABLE(X)                                                                               \
    X(ERR_OK, 200, false, "ok", "OK")                                                              \
    X(ERR_INVALID_JSON, 400, false, "invalid_json", "The body is not valid JSON")                  \
    X(ERR_INVALID_ARGUMENT, 400, false, "invalid_argument", "A value is not allowed")              \
    X(ERR_UNKNOWN_FIELD, 400, false, "unknown_field", "The request has an unknown field")          \
    X(ERR_INVALID_FILTER, 400, false, "invalid_filter", "The filter is not valid")                 \
    X(ERR_NOT_SUPPORTED, 400, false, "not_supported", "Not supported yet")                         \
    X(ERR_UNAUTHORIZED, 401, false, "unauthorized", "Credentials are missing or wrong")            \
    X(ERR_FORBIDDEN, 403, false, "forbidden", "Not allowed")                                       \
    X(ERR_NOT_FOUND, 404, false, "not_found", "There is nothing at this path")                     \
    X(ERR_COLLECTION_NOT_FOUND, 404, false, "collection_not_found", "No such collection")          \
    X(ERR_RECORD_NOT_FOUND, 404, false, "record_not_found", "No such record")                      \
    X(ERR_METHOD_NOT_ALLOWED, 405, false, "method_not_allowed", "Method not allowed here")         \
    X(ERR_REQUEST_TIMEOUT, 408, false, "request_timeout", "The request came too slowly")           \
    X(ERR_COLLECTION_EXISTS, 409, false, "collection_exists", "Exists with another definition")    \
    X(ERR_RECORD_EXISTS, 409, false, "record_exists", "The record exists already")                 \
    X(ERR_VERSION_CONFLICT, 409, false, "version_conflict", "Changed by someone else")             \
    X(ERR_TOKEN_LOG_GONE, 409, false, "token_log_gone", "The token names a log that is gone")      \
    X(ERR_WRONG_REGION, 409, false, "wrong_region", "Another region has to be asked")              \
    X(ERR_PAGE_TOKEN_EXPIRED, 410, false, "page_token_expired", "The page token has expired")      \
    X(ERR_MOVED, 410, true, "moved", "The partition is served elsewhere")                          \
    X(ERR_PRECONDITION_FAILED, 412, false, "precondition_failed", "The precondition failed")       \
    X(ERR_PAYLOAD_TOO_LARGE, 413, false, "payload_too_large", "The body is too large")             \
    X(ERR_UNSUPPORTED_MEDIA_TYPE, 415, false, "unsupported_media_type", "Unsupported media type")  \
    X(ERR_DIMENSION_MISMATCH, 422, false, "dimension_mismatch", "Vector has the wrong dimension")  \
    X(ERR_RATE_LIMITED, 429, true, "rate_limited", "Too many requests")                            \
    X(ERR_INTERNAL, 500, false, "internal", "Internal error")                                      \
    X(ERR_EMBEDDING_FAILED, 502, true, "embedding_failed", "The text could not be embedded")       \
    X(ERR_NO_MEMORY, 503, true, "unavailable", "Out of memory")                                    \
    X(ERR_IO, 503, true, "unavailable", "Input or output failed")                                  \
    X(ERR_CORRUPT, 500, false, "internal", "Damaged data")                                         \
    X(ERR_CONFIG, 500, false, "internal", "Wrong configuration")                                   \
    X(ERR_UNAVAILABLE, 503, true, "unavailable", "Not available at present")                       \
    X(ERR_BEHIND, 503, true, "staleness_unmet", "The replica is behind")                           \
    X(ERR_STALENESS_UNMET, 503, true, "staleness_unmet", "No replica is fresh enough")             \
    X(ERR_SHARDS_UNAVAILABLE, 503, true, "shards_unavailable", "Some shards do not answer")        \
    X(ERR_READ_ONLY, 503, true, "read_only", "Writes are not accepted at present")                 \
    X(ERR_PASSIVE, 403, false, "read_only", "This region takes no writes")                         \
    X(ERR_CONFLICT, 503, true, "unavailable", "Lost a race with another writer")                   \
    X(ERR_UNKNOWN_OUTCOME, 503, true, "unavailable", "The outcome of a write is not known")        \
    X(ERR_DEAD, 503, true, "unavailable", "Shutting down")                                         \
    X(ERR_TIMEOUT, 504, true, "timeout", "The deadline has passed")                                \
    X(ERR_QUORUM_UNMET, 504, true, "quorum_unmet", "Committed here, not in enough regions")        \
    X(ERR_INSUFFICIENT_STORAGE, 507, true, "insufficient_storage", "No room to store this")        \
    X(ERR_NO_HEADROOM, 507, true, "insufficient_storage", "A shard has no memory for this")

enum err_code {
#define ERR_ENUM(code, status, retry, word, title) code,
    ERR_TABLE(ERR_ENUM)
#undef ERR_ENUM
        ERR_CODE_COUNT
};

#define ERR_MESSAGE_BYTES 320
#define ERR_POINTER_BYTES 160

struct err {
    enum err_code code;
    char message[ERR_MESSAGE_BYTES]; /* for people: "shard 3: wal: no room" */
    char pointer[ERR_POINTER_BYTES]; /* JSON pointer into the request, "" where none applies */
};

/* Fill err (may be NULL) and return code, which must not be ERR_OK. */
enum err_code err_set(struct err *err, enum err_code code, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* As err_set, with the place in the request: "/records/0/vector". */
enum err_code err_set_at(struct err *err, enum err_code code, const char *pointer,
                         const char *format, ...) PRINTF_LIKE(4, 5);

/* As err_set, with errno's text appended.  ENOSPC and EDQUOT become ERR_INSUFFICIENT_STORAGE,
 * ENOMEM ERR_NO_MEMORY, everything else ERR_IO. */
enum err_code err_set_errno(struct err *err, int errnum, const char *format, ...) PRINTF_LIKE(3, 4);

/* Put context and ": " before the message; the code stays.  Returns err->code. */
enum err_code err_wrap(struct err *err, const char *format, ...) PRINTF_LIKE(2, 3);

/* Put prefix before the JSON pointer: "/records/3" + "/vector". */
void err_prefix_pointer(struct err *err, const char *prefix);

void err_clear(struct err *err);

/* Properties of a code; out-of-range codes are a bug. */
int err_status(enum err_code code);
bool err_is_retriable(enum err_code code);
const char *err_word(enum err_code code);
const char *err_title(enum err_code code);

/* The code whose word this is; ERR_INTERNAL for an unknown one.  Of several codes with one word,
 * the first of the table. */
enum err_code err_from_word(const char *word, size_t len);

#endif
