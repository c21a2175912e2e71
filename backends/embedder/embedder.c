/* The front of every embedder: see embedder.h.  The back end is chosen by the whole scheme of the
 * URL; that each vector has unit norm is asserted behind each call. */
#include "backends/embedder/embedder.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/text.h"

static const struct embedder_ops *const back_ends[] = {&embedder_hash_ops};

static const struct embedder_ops *find_back_end(const char *url)
{
    for (size_t i = 0; i < ARRAY_COUNT(back_ends); i++)
        if (text_has_scheme(url, back_ends[i]->scheme))
            return back_ends[i];
    return NULL;
}

enum err_code embedder_open(struct embedder **out, const char *url, struct env *env,
                            struct err *err)
{
    const struct embedder_ops *ops;
    enum err_code code;

    assert(url != NULL);
    assert(env != NULL);
    *out = NULL;
    ops = find_back_end(url);
    if (ops == NULL)
        return err_set(err, ERR_CONFIG, "embedder URL \"%s\": want hash:DIM", url);
    code = ops->open(out, url, env, err);
    assert((code == ERR_OK) == (*out != NULL));
    if (code != ERR_OK)
        return code;
    assert((*out)->ops == ops);
    assert((*out)->dimension >= 1 && (*out)->dimension <= DIMENSION_MAX);
    return ERR_OK;
}

void embedder_close(struct embedder *embedder)
{
    if (embedder != NULL)
        embedder->ops->close(embedder);
}

uint32_t embedder_dimension(const struct embedder *embedder)
{
    return embedder->dimension;
}

static bool is_unit(const float *vector, uint32_t dimension)
{
    double sum = 0;

    for (uint32_t i = 0; i < dimension; i++)
        sum += (double)vector[i] * (double)vector[i];
    return sum > 0.999 && sum < 1.001;
}

enum err_code embedder_embed(struct embedder *embedder, const struct embedder_text *texts,
                             size_t count, uint64_t deadline_ns, float *out, struct err *err)
{
    enum err_code code;

    for (size_t i = 0; i < count; i++)
        assert(texts[i].data != NULL || texts[i].len == 0);
    code = embedder->ops->embed(embedder, texts, count, deadline_ns, out, err);
    for (size_t i = 0; code == ERR_OK && i < count; i++)
        assert(is_unit(out + i * embedder->dimension, embedder->dimension));
    return code;
}
