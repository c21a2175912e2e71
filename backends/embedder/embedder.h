/* Text into vectors.
 *
 *   hash:DIM   built in: hashed words and character n-grams, signed, weighted, normalised.  Honest
 *              about being lexical: it finds shared words, not shared meaning.  Deterministic for
 *              ever: the same text gives the same vector in every version.
 *   a name     what an operator configured under it: an OpenAI-compatible /v1/embeddings
 *              (embedders.h).  A URL is never taken from a client.
 */
#ifndef VICINAL_BACKENDS_EMBEDDER_H
#define VICINAL_BACKENDS_EMBEDDER_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/env.h"
#include "common/base/err.h"

struct embedder;

/* hash:DIM.  Errors: ERR_CONFIG. */
MUST_CHECK enum err_code embedder_open(struct embedder **out, const char *url, struct env *env,
                                       struct err *err);
void embedder_close(struct embedder *embedder);
uint32_t embedder_dimension(const struct embedder *embedder);

struct embedder_text {
    const char *data; /* UTF-8 */
    size_t len;
};

/* count texts into count * dimension floats, unit norm whatever a server gives (a text without a
 * word, for a server one of blanks only: a fixed unit vector).  Thread safe; may wait for a server,
 * so nothing is held across it.
 * Errors: ERR_EMBEDDING_FAILED, ERR_TIMEOUT, ERR_NO_MEMORY, ERR_DEAD. */
MUST_CHECK enum err_code embedder_embed(struct embedder *embedder,
                                        const struct embedder_text *texts, size_t count,
                                        uint64_t deadline_ns, float *out, struct err *err);

/* --- for back ends only -------------------------------------------------------------------- */

struct embedder_ops {
    const char *scheme;
    enum err_code (*open)(struct embedder **out, const char *url, struct env *env, struct err *err);
    void (*close)(struct embedder *embedder);
    enum err_code (*embed)(struct embedder *embedder, const struct embedder_text *texts,
                           size_t count, uint64_t deadline_ns, float *out, struct err *err);
};

struct embedder {
    const struct embedder_ops *ops;
    uint32_t dimension;
};

extern const struct embedder_ops embedder_hash_ops;

#endif
