/* Text into words, for embedder_hash.c.  What comes out is frozen: stored vectors depend on it. */
#ifndef VICINAL_BACKENDS_EMBEDDER_WORDS_H
#define VICINAL_BACKENDS_EMBEDDER_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORD_BYTES_MAX     64  /* longer words come in pieces */
#define COMPOUND_BYTES_MAX 128 /* longer compounds do not come */

struct word {
    const uint8_t *data; /* case-folded UTF-8, valid during the call */
    size_t len;
    bool is_compound; /* the whole of the words before it: camelCase, snake_case */
};

/* False ends the walk. */
typedef bool word_fn(void *context, const struct word *word);

/* Give each word of the text, in order, to fn.  Bytes that are no UTF-8 part words.  False: fn
 * said so. */
bool words_each(const char *text, size_t len, word_fn *fn, void *context);

/* Is the folded word so common in English that it says little? */
bool word_is_common(const uint8_t *data, size_t len);

#endif
