/* What a parsed filter is made of; shared by the filter_*.c files alone.
 *
 * The boolean tree is gone after parsing: each clause (a test of one field) knows which clause
 * comes next when it holds and which when it does not; the walk ends at filter_accept or
 * filter_reject. So evaluation is one loop without recursion, and no clause is looked at twice. */
#ifndef VICINAL_MODEL_FILTER_INTERNAL_H
#define VICINAL_MODEL_FILTER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/json_reader.h"
#include "common/base/limits.h"
#include "common/model/filter.h"

#define FILTER_SEGMENTS_MAX 16  /* of one path */
#define FILTER_TOKENS_MAX   64  /* of one $text operand */
#define FILTER_PATTERN_MAX  512 /* bytes of one $like operand: matching costs pattern times text */

enum clause_kind {
    CLAUSE_IN,           /* $eq, $ne, $in, $nin: the value, or an element of it, is in the set */
    CLAUSE_CONTAINS_ANY, /* an element of the array is in the set; $contains too */
    CLAUSE_CONTAINS_ALL, /* each of the set is an element of the array */
    CLAUSE_ORDER,        /* $gt, $gte, $lt, $lte */
    CLAUSE_EXISTS,       /* present and not null */
    CLAUSE_FILLED,       /* present, neither null nor []: the contrary of $is_empty */
    CLAUSE_TEXT,         /* $text, $itext */
    CLAUSE_LIKE,         /* $like, $ilike */
    CLAUSE_ID,           /* $id: the record's id is in the set */
};

/* A number, to the last digit for integers: whole numbers below 2^64 are magnitude and sign. */
struct filter_number {
    bool is_whole;
    bool is_negative;   /* of whole numbers; 0 is not */
    uint64_t magnitude; /* of whole numbers */
    double real;        /* of all others */
};

/* Different scalars, each with an index below count: null, true and false first, as far as they are
 * there, then numbers and strings, sorted. */
struct filter_set {
    bool has_null, has_true, has_false;
    struct filter_number *numbers;
    size_t number_count;
    struct json_text *strings;
    size_t string_count;
    size_t count; /* of all */
};

struct clause {
    enum clause_kind kind;
    bool negated;                  /* $ne, $nin, $exists: false, $is_empty: true */
    bool folds;                    /* $itext, $ilike */
    bool wants_above, wants_equal; /* order: above ($gt, $gte) or below; $gte, $lte: or equal */
    bool is_date;                  /* order: the operand is a date, else a number */
    uint32_t slot;                 /* of the path's first segment, in filter.slots */
    uint32_t segment_count;        /* of the rest of the path */
    const struct json_text *segments;
    struct filter_number number; /* order */
    double seconds;              /* order of dates */
    struct filter_set set;
    const struct json_text *tokens; /* text; folded if it folds */
    size_t token_count;
    struct json_text pattern;     /* like */
    const struct clause *on_true; /* where to go on */
    const struct clause *on_false;
};

struct filter {
    const struct clause *entry;
    const struct json_text *slots; /* the different first segments of all paths */
    size_t slot_count;
    const struct json_text *ids; /* filter_ids; NULL: not restricted */
    size_t id_count;
};

extern const struct clause filter_accept, filter_reject;

/* --- operands: filter_operand.c -------------------------------------------------------------- */

struct filter_parser {
    struct json_reader reader;
    struct arena *arena;
    struct err *err;
    uint32_t clauses;
    struct json_text *slots; /* room for FILTER_CLAUSES_MAX */
    size_t slot_count;
};

/* Bad filters: ERR_INVALID_FILTER at the place that callers put before it. */
enum err_code filter_bad(struct filter_parser *p, const char *format, ...) PRINTF_LIKE(2, 3);
enum err_code filter_no_memory(struct filter_parser *p);

/* Put "/key" or "/index" before the pointer of an error; returns rc. */
enum err_code filter_at_key(struct filter_parser *p, enum err_code rc, struct json_text key);
enum err_code filter_at_index(struct filter_parser *p, enum err_code rc, size_t index);

/* The value of a field's operator ("$gte") into the clause. */
MUST_CHECK enum err_code filter_read_operand(struct filter_parser *p, struct json_text op,
                                             struct clause *clause);

/* The plain value of a field: $eq. */
MUST_CHECK enum err_code filter_read_equal(struct filter_parser *p, struct clause *clause);

/* --- values: filter_value.c ------------------------------------------------------------------ */

/* A JSON number's text.  False: not a number that a double holds. */
bool filter_number_parse(struct filter_number *out, const char *text, size_t len);
int filter_number_compare(const struct filter_number *a, const struct filter_number *b);
int filter_text_compare(struct json_text a, struct json_text b);

/* Sort, and drop what is there twice. */
void filter_set_finish(struct filter_set *set);

/* The index of a value, or -1. */
int32_t filter_set_find_number(const struct filter_set *set, const struct filter_number *number);
int32_t filter_set_find_string(const struct filter_set *set, struct json_text text);
int32_t filter_set_find_bool(const struct filter_set *set, bool value);
int32_t filter_set_find_null(const struct filter_set *set);

/* --- texts: filter_text.c -------------------------------------------------------------------- */

/* The code point at *at, which moves behind it; well-formed UTF-8. */
uint32_t filter_next_code(struct json_text text, size_t *at);

/* Lower case of ASCII, Latin, Greek and Cyrillic letters; everything else as it is. */
uint32_t filter_fold(uint32_t code);

/* The next token (run of letters and digits) from *at on, which moves behind it. */
bool filter_next_token(struct json_text text, size_t *at, struct json_text *token);

bool filter_has_tokens(const struct clause *clause, struct json_text text);
bool filter_is_like(const struct clause *clause, struct json_text text);

#endif
