/* An embedder behind an OpenAI-compatible POST …/v1/embeddings, and what its two files share.
 *
 *   embedder_http.c        life; cache, batches, retries
 *   embedder_http_wire.c   the request's body, and what an answer means
 *
 * It is opened by what an operator configured (embedders.h), never by anything a client wrote. */
#ifndef VICINAL_BACKENDS_EMBEDDER_HTTP_H
#define VICINAL_BACKENDS_EMBEDDER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/cache/cache.h"
#include "backends/embedder/embedder.h"
#include "common/base/buffer.h"
#include "common/http/client.h"
#include "common/model/collection.h"
#include "common/observe/metrics.h"

#define EMBEDDER_BATCH_TEXTS_MAX    96
#define EMBEDDER_BATCH_BYTES_MAX    ((size_t)256 << 10) /* of text; a longer one goes alone */
#define EMBEDDER_PARALLEL_MAX       4                   /* requests of one call at a time */
#define EMBEDDER_ATTEMPTS_MAX       6                   /* of one request */
#define EMBEDDER_TIMEOUT_MS_DEFAULT 5000
#define EMBEDDER_KEY_BYTES_MAX      4096

struct embedder_http_options {
    const char *name;     /* what collections call it */
    const char *url;      /* without a path: /v1/embeddings is meant */
    const char *model;    /* NULL: the name */
    const char *key_file; /* NULL: no Authorization header.  Read once */
    uint32_t dimension;
    uint32_t timeout_ms; /* of one attempt; 0: EMBEDDER_TIMEOUT_MS_DEFAULT */
    struct env *env;
    struct http_client *client; /* borrowed until close, as the next two */
    struct cache *cache;        /* NULL: nothing is kept */
    struct metrics *metrics;    /* NULL: nothing is counted */
};

/* The server is not called: it may come later.  Errors: ERR_CONFIG (URL, key file, dimension),
 * ERR_NO_MEMORY.  Its embed fails with ERR_EMBEDDING_FAILED (the server does not answer, refuses,
 * or answers with something else than vectors), ERR_TIMEOUT, ERR_NO_MEMORY, ERR_DEAD. */
MUST_CHECK enum err_code embedder_http_open(struct embedder **out,
                                            const struct embedder_http_options *options,
                                            struct err *err);

/* --- embedder_http_wire.c ----------------------------------------------------------------------
 */

/* {"model":…,"input":[…],"encoding_format":"float"}; buffer_check says whether there was memory. */
void embedding_request_write(struct buffer *out, const char *model,
                             const struct embedder_text *const *texts, size_t count);

/* The most bytes that an honest answer has. */
size_t embedding_answer_max(size_t count, uint32_t dimension);

/* Bring to unit norm.  False: it has no direction (zeros, or something that is not finite). */
bool embedding_normalise(float *vector, uint32_t dimension);

/* {"data":[{"index":i,"embedding":[…]},…],…} in any order, other members skipped, into count
 * vectors of unit norm.  Errors: ERR_EMBEDDING_FAILED (anything but one vector of the right length
 * for each text), ERR_NO_MEMORY. */
struct embedding_answer {
    const void *body;
    size_t len;
    size_t count;
    uint32_t dimension;
};
MUST_CHECK enum err_code embedding_answer_read(const struct embedding_answer *answer, float *out,
                                               struct err *err);

/* What became of a call.  ERR_OK: status 200; otherwise err says what, and *again whether it is
 * worth another attempt.  Errors: ERR_EMBEDDING_FAILED, ERR_NO_MEMORY, ERR_DEAD. */
MUST_CHECK enum err_code embedding_call_judge(const struct http_call *call, bool *again,
                                              struct err *err);

#endif
