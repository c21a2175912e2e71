/* What stands behind a field: plain values and operators.  See filter_internal.h.  Everything is
 * copied into the arena; what is of the wrong type, too long or unknown is refused by its place. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/text.h"
#include "common/model/filter_internal.h"

#define LIST_SIZE_MIN 8

enum err_code filter_bad(struct filter_parser *p, const char *format, ...)
{
    char message[ERR_MESSAGE_BYTES];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    return err_set(p->err, ERR_INVALID_FILTER, "%s", message);
}

enum err_code filter_no_memory(struct filter_parser *p)
{
    return err_set(p->err, ERR_NO_MEMORY, "no memory for the filter");
}

/* Only what is wrong with the filter has a place in it; broken JSON is broken as a whole. */
static bool has_place(enum err_code rc)
{
    return rc != ERR_OK && rc != ERR_INVALID_JSON && rc != ERR_NO_MEMORY;
}

enum err_code filter_at_key(struct filter_parser *p, enum err_code rc, struct json_text key)
{
    char prefix[ERR_POINTER_BYTES] = "/";
    size_t at = 1;

    if (!has_place(rc))
        return rc;
    for (size_t i = 0; i < key.len && at < sizeof(prefix) - 2; i++) {
        if (key.data[i] == '~' || key.data[i] == '/') {
            prefix[at++] = '~';
            prefix[at++] = key.data[i] == '~' ? '0' : '1';
        } else {
            prefix[at++] = key.data[i];
        }
    }
    prefix[at] = '\0';
    err_prefix_pointer(p->err, prefix);
    return rc;
}

enum err_code filter_at_index(struct filter_parser *p, enum err_code rc, size_t index)
{
    char prefix[32];

    if (!has_place(rc))
        return rc;
    (void)snprintf(prefix, sizeof(prefix), "/%zu", index);
    err_prefix_pointer(p->err, prefix);
    return rc;
}

/* --- sets ------------------------------------------------------------------------------------ */

/* A set that is being filled, and the room in its two arrays. */
struct list {
    struct filter_set *set;
    size_t number_size, string_size;
    size_t count;
};

/* Room for one more element: an array of twice the size, when the old one is full. */
static void *list_room(struct filter_parser *p, void *array, size_t count, size_t *size,
                       size_t element)
{
    size_t grown = *size == 0 ? LIST_SIZE_MIN : *size * 2;
    void *larger;

    if (count < *size)
        return array;
    larger = arena_alloc(p->arena, grown, element);
    if (larger == NULL)
        return NULL;
    if (count > 0)
        memcpy(larger, array, count * element);
    *size = grown;
    return larger;
}

static enum err_code read_number(struct filter_parser *p, struct filter_number *out)
{
    struct json_reader ahead = p->reader;
    struct json_text raw = {0};
    enum err_code rc;
    double real;

    /* For its errors: the reader tells what is out of range from what is malformed. */
    if ((rc = json_read_double(&ahead, &real)) != ERR_OK)
        return rc;
    if ((rc = json_skip(&p->reader, &raw, NULL)) != ERR_OK)
        return rc;
    if (!filter_number_parse(out, raw.data, raw.len))
        return filter_bad(p, "the number is out of range");
    return ERR_OK;
}

/* A string that lives in the arena. */
static enum err_code read_text(struct filter_parser *p, struct json_text *out)
{
    struct json_text text = {0};
    enum err_code rc = json_read_string(&p->reader, &text);

    if (rc != ERR_OK)
        return rc;
    out->data = arena_copy_text(p->arena, text.data, text.len);
    out->len = text.len;
    return out->data == NULL ? filter_no_memory(p) : ERR_OK;
}

static enum err_code list_add_number(struct filter_parser *p, struct list *list)
{
    struct filter_set *set = list->set;

    set->numbers =
        list_room(p, set->numbers, set->number_count, &list->number_size, sizeof(set->numbers[0]));
    if (set->numbers == NULL)
        return filter_no_memory(p);
    return read_number(p, &set->numbers[set->number_count++]);
}

static enum err_code list_add_text(struct filter_parser *p, struct list *list)
{
    struct filter_set *set = list->set;

    set->strings =
        list_room(p, set->strings, set->string_count, &list->string_size, sizeof(set->strings[0]));
    if (set->strings == NULL)
        return filter_no_memory(p);
    return read_text(p, &set->strings[set->string_count++]);
}

static enum err_code list_add(struct filter_parser *p, struct list *list)
{
    enum json_kind kind = JSON_KIND_NULL;
    enum err_code rc = json_peek(&p->reader, &kind);
    bool value = false;

    if (rc != ERR_OK)
        return rc;
    if (list->count == FILTER_VALUES_MAX)
        return filter_bad(p, "more than %d values", FILTER_VALUES_MAX);
    list->count++;
    switch (kind) {
    case JSON_KIND_NULL:
        list->set->has_null = true;
        return json_read_null(&p->reader);
    case JSON_KIND_BOOL:
        if ((rc = json_read_bool(&p->reader, &value)) != ERR_OK)
            return rc;
        list->set->has_true |= value;
        list->set->has_false |= !value;
        return ERR_OK;
    case JSON_KIND_NUMBER:
        return list_add_number(p, list);
    case JSON_KIND_STRING:
        return list_add_text(p, list);
    case JSON_KIND_ARRAY:
    case JSON_KIND_OBJECT:
        break;
    }
    return filter_bad(p, "expected a string, a number, a boolean or null");
}

static enum err_code read_scalar(struct filter_parser *p, struct clause *clause)
{
    struct list list = {.set = &clause->set};
    enum err_code rc = list_add(p, &list);

    if (rc == ERR_OK)
        filter_set_finish(&clause->set);
    return rc;
}

static enum err_code read_list(struct filter_parser *p, struct clause *clause)
{
    struct list list = {.set = &clause->set};
    bool more = false;
    enum err_code rc = json_array_begin(&p->reader);

    while (rc == ERR_OK && (rc = json_array_next(&p->reader, &more)) == ERR_OK && more) {
        size_t index = list.count;

        rc = filter_at_index(p, list_add(p, &list), index);
    }
    if (rc == ERR_OK)
        filter_set_finish(&clause->set);
    return rc;
}

/* --- the other operands ---------------------------------------------------------------------- */

static enum err_code read_limit(struct filter_parser *p, struct clause *clause)
{
    enum json_kind kind = JSON_KIND_NULL;
    struct json_text text = {0};
    enum err_code rc = json_peek(&p->reader, &kind);

    if (rc != ERR_OK)
        return rc;
    if (kind == JSON_KIND_NUMBER)
        return read_number(p, &clause->number);
    if (kind != JSON_KIND_STRING)
        return filter_bad(p, "expected a number or a date");
    if ((rc = json_read_string(&p->reader, &text)) != ERR_OK)
        return rc;
    if (!text_to_datetime(text.data, text.len, &clause->seconds))
        return filter_bad(p, "not a date (RFC 3339 or YYYY-MM-DD)");
    clause->is_date = true;
    return ERR_OK;
}

static enum err_code read_presence(struct filter_parser *p, struct clause *clause)
{
    bool value = false;
    enum err_code rc = json_read_bool(&p->reader, &value);

    /* $is_empty asks for the contrary of what its clause tests. */
    if (rc == ERR_OK)
        clause->negated = clause->kind == CLAUSE_EXISTS ? !value : value;
    return rc;
}

/* The token, folded into the arena. */
static enum err_code fold_token(struct filter_parser *p, struct json_text *token)
{
    struct buffer folded = {0};
    size_t at = 0;
    char *copy;

    while (at < token->len) {
        uint32_t code = filter_fold(filter_next_code(*token, &at));

        if (code < 0x80) {
            buffer_append_byte(&folded, (uint8_t)code);
        } else if (code < 0x800) {
            buffer_append_byte(&folded, (uint8_t)(0xc0 | code >> 6));
            buffer_append_byte(&folded, (uint8_t)(0x80 | (code & 0x3f)));
        } else {
            if (code < 0x10000) {
                buffer_append_byte(&folded, (uint8_t)(0xe0 | code >> 12));
            } else {
                buffer_append_byte(&folded, (uint8_t)(0xf0 | code >> 18));
                buffer_append_byte(&folded, (uint8_t)(0x80 | (code >> 12 & 0x3f)));
            }
            buffer_append_byte(&folded, (uint8_t)(0x80 | (code >> 6 & 0x3f)));
            buffer_append_byte(&folded, (uint8_t)(0x80 | (code & 0x3f)));
        }
    }
    copy = folded.failed ? NULL : arena_copy_text(p->arena, (const char *)folded.data, folded.len);
    *token = (struct json_text){.data = copy, .len = folded.len};
    buffer_free(&folded);
    return copy == NULL ? filter_no_memory(p) : ERR_OK;
}

static enum err_code read_tokens(struct filter_parser *p, struct clause *clause)
{
    struct json_text tokens[FILTER_TOKENS_MAX];
    struct json_text text = {0};
    struct json_text token = {0};
    struct json_text *copy;
    size_t at = 0;
    size_t count = 0;
    enum err_code rc = read_text(p, &text);

    if (rc != ERR_OK)
        return rc;
    while (filter_next_token(text, &at, &token)) {
        if (count == FILTER_TOKENS_MAX)
            return filter_bad(p, "more than %d words", FILTER_TOKENS_MAX);
        if (clause->folds && (rc = fold_token(p, &token)) != ERR_OK)
            return rc;
        tokens[count++] = token;
    }
    copy = arena_alloc(p->arena, MAX_OF(count, (size_t)1), sizeof(*copy));
    if (copy == NULL)
        return filter_no_memory(p);
    if (count > 0)
        memcpy(copy, tokens, count * sizeof(*copy));
    clause->tokens = copy;
    clause->token_count = count;
    return ERR_OK;
}

static enum err_code read_pattern(struct filter_parser *p, struct clause *clause)
{
    enum err_code rc = read_text(p, &clause->pattern);
    size_t at = 0;

    if (rc != ERR_OK)
        return rc;
    if (clause->pattern.len > FILTER_PATTERN_MAX)
        return filter_bad(p, "the pattern has more than %d bytes", FILTER_PATTERN_MAX);
    while (at < clause->pattern.len) {
        if (filter_next_code(clause->pattern, &at) != '\\')
            continue;
        if (at == clause->pattern.len)
            return filter_bad(p, "the pattern ends in a \\ that escapes nothing");
        (void)filter_next_code(clause->pattern, &at);
    }
    return ERR_OK;
}

typedef enum err_code operand_fn(struct filter_parser *p, struct clause *clause);

struct operator_row {
    const char *name;
    operand_fn *read;
    struct clause clause;
};

static const struct operator_row operators[] = {
    {"$eq", read_scalar, {.kind = CLAUSE_IN}},
    {"$ne", read_scalar, {.kind = CLAUSE_IN, .negated = true}},
    {"$in", read_list, {.kind = CLAUSE_IN}},
    {"$nin", read_list, {.kind = CLAUSE_IN, .negated = true}},
    {"$gt", read_limit, {.kind = CLAUSE_ORDER, .wants_above = true}},
    {"$gte", read_limit, {.kind = CLAUSE_ORDER, .wants_above = true, .wants_equal = true}},
    {"$lt", read_limit, {.kind = CLAUSE_ORDER}},
    {"$lte", read_limit, {.kind = CLAUSE_ORDER, .wants_equal = true}},
    {"$contains", read_scalar, {.kind = CLAUSE_CONTAINS_ANY}},
    {"$contains_any", read_list, {.kind = CLAUSE_CONTAINS_ANY}},
    {"$contains_all", read_list, {.kind = CLAUSE_CONTAINS_ALL}},
    {"$exists", read_presence, {.kind = CLAUSE_EXISTS}},
    {"$is_empty", read_presence, {.kind = CLAUSE_FILLED}},
    {"$text", read_tokens, {.kind = CLAUSE_TEXT}},
    {"$itext", read_tokens, {.kind = CLAUSE_TEXT, .folds = true}},
    {"$like", read_pattern, {.kind = CLAUSE_LIKE}},
    {"$ilike", read_pattern, {.kind = CLAUSE_LIKE, .folds = true}},
};

enum err_code filter_read_operand(struct filter_parser *p, struct json_text op,
                                  struct clause *clause)
{
    for (size_t i = 0; i < ARRAY_COUNT(operators); i++) {
        if (json_text_is(op, operators[i].name)) {
            *clause = operators[i].clause;
            return operators[i].read(p, clause);
        }
    }
    if (op.len > 0 && op.data[0] == '$')
        return filter_bad(p, "there is no such operator");
    return filter_bad(p, "expected an operator: fields cannot be compared with objects");
}

enum err_code filter_read_equal(struct filter_parser *p, struct clause *clause)
{
    *clause = (struct clause){.kind = CLAUSE_IN};
    return read_scalar(p, clause);
}
