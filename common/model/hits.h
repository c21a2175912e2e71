/* Merging what the shards found: k-way over lists that are already in order. */
#ifndef VICINAL_MODEL_HITS_H
#define VICINAL_MODEL_HITS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/collection.h"
#include "common/model/wire.h"

struct hit_list {
    struct wire_row *rows;
    size_t count;
};

/* The k nearest of all lists, each ascending by (distance, id), into out (room for k); one row per
 * id, the newest stamp of those given (its own distance counts); ties by id.  Returns how many.
 * At most SHARDS_MAX lists.  Does not fail: without memory for its table it is only slower, and err
 * (may be NULL) stays as it is. */
size_t hits_merge(const struct hit_list *lists, size_t list_count, size_t k, struct wire_row *out,
                  struct err *err);

/* The k lowest ids of lists ascending by id, one row per id, newest stamp; for scrolls. */
size_t hits_merge_by_id(const struct hit_list *lists, size_t list_count, size_t k,
                        struct wire_row *out);

/* What clients see: higher is better.  cosine: the cosine; ip: the inner product; l2: minus the
 * Euclidean distance. */
double hits_score(enum distance_metric metric, float distance);

/* The distance that a score_threshold of that metric allows at most: the greatest whose score
 * reaches it.  Negative for an l2 threshold above 0, which nothing reaches. */
float hits_bound(enum distance_metric metric, double score_threshold);

/* Maximal marginal relevance: pick k of count candidates (rows with vectors, nearest first), lambda
 * 1 = relevance, 0 = diversity; the indices of the picks in order into out.  Cosine similarity of
 * the vectors throughout; *out_count is the lower of k and count.  Source: Carbonell, Goldstein,
 * SIGIR 1998.  Errors: ERR_INVALID_ARGUMENT (a row without a vector, or with another dimension than
 * the first one, which is that of the query), ERR_NO_MEMORY. */
MUST_CHECK enum err_code hits_mmr(const float *query, const struct wire_row *rows, size_t count,
                                  size_t k, double lambda, size_t *out, size_t *out_count,
                                  struct err *err);

#endif
