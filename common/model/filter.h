/* Metadata filters: the Mongo-like grammar of the API, parsed once, evaluated per record.
 *
 *   {"field": value} is $eq; several fields are ANDed; dotted paths a.b, "a\\.b" escapes a dot.
 *   $eq $ne $gt $gte $lt $lte $in $nin $contains $contains_any $contains_all $exists $is_empty
 *   $text $itext $like $ilike · $and $or $nor (lists) $not (one object) · top level "$id".
 *
 * Type-strict: 1, true and "1" differ (1 equals 1.0).  A missing field and null are the same.
 * $eq on an array field matches any element.  $ne, $nin and $not include records that lack the
 * field.  $gt… compare numbers with numbers, and RFC 3339 / ISO dates with dates (both strings);
 * a string operand that is no date is refused.  A path through an array visits its elements.
 * $text: every token (letters and digits) of the operand is a token of the field; $itext folds
 * ASCII and Latin case; $like: % and _ as in SQL, \ escapes; $ilike folds case.
 *
 * In detail:
 * - Whole numbers below 2^64 are compared exactly, not as doubles.
 * - All tests of a value ($eq $in $gt… $text $like) hold for an array if they hold for one of its
 *   elements (not of its elements' elements).  A field counts as missing when every value that its
 *   path leads to is null, or there is none; $eq null is that, whatever elements an array has.
 *   $contains… want an array; null among their operands is a null element.
 * - $contains_all [] holds for every array, $contains_any [] and $in [] for nothing.
 * - Of members that stand twice in the metadata, the last one counts.
 * - Objects are no operands, arrays only of $in $nin $contains_any $contains_all, and of scalars.
 * - $id has $eq $ne $in $nin with strings, and may stand wherever a field may.
 * - Depth counts objects of conditions, the outermost one included; conditions are what the 256
 *   are of (an empty object is one).  Paths have at most 16 names, none empty; $text at most 64
 *   words, $like at most 512 bytes.
 */
#ifndef VICINAL_MODEL_FILTER_H
#define VICINAL_MODEL_FILTER_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/arena.h"
#include "common/base/err.h"

struct filter;

/* Parse one JSON object.  The filter lives in arena and borrows nothing else.  An empty object (or
 * len 0) matches everything: *out is NULL then.
 * Errors: ERR_INVALID_FILTER with the pointer inside the filter ("/year/$gte"; the caller puts
 * "/filter" before it), ERR_INVALID_JSON, ERR_NO_MEMORY. */
MUST_CHECK enum err_code filter_parse(const struct filter **out, const void *data, size_t len,
                                      struct arena *arena, struct err *err);

/* Scratch for evaluating; one per thread, zeroed at first; filter_scratch_free at the end. */
struct filter_scratch {
    struct arena arena;
    bool failed; /* memory ran out: an answer since it was last cleared may be wrong */
};
void filter_scratch_free(struct filter_scratch *scratch);

/* Does the record match?  metadata: a well-formed JSON object, or len 0 for none.  Does not call
 * back, does not block, needs no more than some KiB of stack.  A NULL filter matches. */
bool filter_matches(const struct filter *filter, const char *id, size_t id_len,
                    const char *metadata, size_t metadata_len, struct filter_scratch *scratch);

/* The ids that a top-level $id {"$in"} or {"$eq"} (or an $and of it) restricts to, or NULL: for
 * plans that fetch instead of scan. */
struct json_text;
const struct json_text *filter_ids(const struct filter *filter, size_t *count);

#endif
