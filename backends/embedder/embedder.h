/* Text into vectors.
 *
 *   hash:DIM   built in: hashed words and character n-grams, signed, weighted, normalised.  Honest
 *              about being lexical: it finds shared words, not shared meaning.  Deterministic for
 *              ever: the same text gives the same vector in every version.
 *   http(s)://… an OpenAI-compatible /v1/embeddings (a later issue)
 */
#ifndef VICINAL_BACKENDS_EMBEDDER_H
#define VICINAL_BACKENDS_EMBEDDER_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/env.h"
#include "common/base/err.h"

struct embedder;

/* Errors: ERR_CONFIG. */
MUST_CHECK enum err_code embedder_open(struct embedder **out, const char *url, struct env *env,
                                       struct err *err);
void embedder_close(struct embedder *embedder);
uint32_t embedder_dimension(const struct embedder *embedder);

struct embedder_text {
    const char *data; /* UTF-8 */
    size_t len;
};

/* count texts into count * dimension floats, unit norm (a text without a word: a fixed unit
 * vector).  Thread safe.  Errors: ERR_UNAVAILABLE, ERR_TIMEOUT, ERR_NO_MEMORY. */
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
