/* Maximal marginal relevance: see hits.h.
 *
 * Greedy: each round takes the candidate with the highest lambda * similarity to the query -
 * (1 - lambda) * highest similarity to what is already taken.  The latter is kept per candidate and
 * raised after each pick, so k picks of n cost k * n similarities.  A zero vector is similar to
 * nothing (0).  Ties go to the nearer candidate. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/model/hits.h"

struct candidate {
    double relevance;  /* similarity to the query */
    double redundancy; /* highest similarity to a pick */
    double norm;
    bool taken;
};

/* Rows' vectors stand in received bytes, at any address. */
static double load_float(const void *vector, size_t index)
{
    float value;

    memcpy(&value, (const char *)vector + index * sizeof(value), sizeof(value));
    return value;
}

static double dot(const void *a, const void *b, size_t dim)
{
    double sums[4] = {0};
    size_t i = 0;

    for (; i + 4 <= dim; i += 4) {
        for (size_t j = 0; j < 4; j++)
            sums[j] += load_float(a, i + j) * load_float(b, i + j);
    }
    for (; i < dim; i++)
        sums[0] += load_float(a, i) * load_float(b, i);
    return sums[0] + sums[1] + sums[2] + sums[3];
}

static double cosine(double product, double norm_a, double norm_b)
{
    double norms = norm_a * norm_b;

    return norms > 0 ? product / norms : 0;
}

static enum err_code check_rows(const struct wire_row *rows, size_t count, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (rows[i].vector == NULL || rows[i].dim != rows[0].dim)
            return err_set(err, ERR_INVALID_ARGUMENT, "candidate %zu has no vector of dimension %u",
                           i, rows[0].dim);
    }
    return ERR_OK;
}

static size_t best_candidate(const struct candidate *candidates, size_t count, double lambda)
{
    size_t best = count;
    double best_score = 0;

    for (size_t i = 0; i < count; i++) {
        double score = lambda * candidates[i].relevance - (1 - lambda) * candidates[i].redundancy;

        if (candidates[i].taken || (best < count && score <= best_score))
            continue;
        best = i;
        best_score = score;
    }
    assert(best < count);
    return best;
}

static void take(struct candidate *candidates, const struct wire_row *rows, size_t count,
                 size_t pick, bool first)
{
    candidates[pick].taken = true;
    for (size_t i = 0; i < count; i++) {
        double similarity;

        if (candidates[i].taken)
            continue;
        similarity = cosine(dot(rows[i].vector, rows[pick].vector, rows[0].dim), candidates[i].norm,
                            candidates[pick].norm);
        if (first || similarity > candidates[i].redundancy)
            candidates[i].redundancy = similarity;
    }
}

enum err_code hits_mmr(const float *query, const struct wire_row *rows, size_t count, size_t k,
                       double lambda, size_t *out, size_t *out_count, struct err *err)
{
    size_t picks = MIN_OF(k, count);
    struct candidate *candidates;
    double query_norm;
    enum err_code rc;

    assert(lambda >= 0);
    assert(lambda <= 1);
    *out_count = 0;
    if (picks == 0)
        return ERR_OK;
    if ((rc = check_rows(rows, count, err)) != ERR_OK)
        return rc;
    candidates = array_alloc(count, sizeof(*candidates));
    if (candidates == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %zu candidates", count);
    query_norm = sqrt(dot(query, query, rows[0].dim));
    for (size_t i = 0; i < count; i++) {
        const void *vector = rows[i].vector;

        candidates[i].norm = sqrt(dot(vector, vector, rows[0].dim));
        candidates[i].relevance =
            cosine(dot(query, vector, rows[0].dim), query_norm, candidates[i].norm);
    }
    for (size_t i = 0; i < picks; i++) {
        out[i] = best_candidate(candidates, count, lambda);
        take(candidates, rows, count, out[i], i == 0);
    }
    *out_count = picks;
    free(candidates);
    return ERR_OK;
}
