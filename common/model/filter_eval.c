/* Evaluating filters: see filter.h.
 *
 * One pass over the metadata finds where the value of each field that the filter names begins and
 * ends; then the clauses are walked, each looking at its value's bytes.  Nothing is allocated but
 * for strings with escapes.  The metadata was checked when it was taken in; if it is damaged all
 * the same, values behind the damage count as missing.
 *
 * The recursion of walk_path is bounded by the names of a path: each level takes one at least. */
#include "common/model/filter_internal.h"

#include <assert.h>
#include <string.h>

#include "common/base/text.h"

struct view {
    const struct filter *filter;
    struct json_text id;
    struct json_text metadata;
    struct filter_scratch *scratch;
    bool is_scanned;
    struct json_text values[FILTER_CLAUSES_MAX]; /* by slot; data NULL: missing */
};

/* What a clause has met on its way. */
struct visit {
    const struct clause *clause;
    struct filter_scratch *scratch;
    bool present; /* a value that is not null */
};

static void note_failure(struct filter_scratch *scratch, enum err_code rc)
{
    if (rc == ERR_NO_MEMORY)
        scratch->failed = true;
}

static void scan_metadata(struct view *view)
{
    const struct filter *filter = view->filter;
    struct json_text key, raw;
    struct json_reader r;
    enum err_code rc;
    bool more;

    view->is_scanned = true;
    for (size_t i = 0; i < filter->slot_count; i++)
        view->values[i].data = NULL;
    if (view->metadata.len == 0)
        return;
    json_reader_init(&r, view->metadata.data, view->metadata.len, &view->scratch->arena, NULL);
    rc = json_object_begin(&r);
    while (rc == ERR_OK && (rc = json_object_next(&r, &key, &more)) == ERR_OK && more) {
        rc = json_skip(&r, &raw, NULL);
        for (size_t i = 0; rc == ERR_OK && i < filter->slot_count; i++) {
            if (filter->slots[i].len == key.len &&
                memcmp(filter->slots[i].data, key.data, key.len) == 0) {
                view->values[i] = raw;
                break;
            }
        }
    }
    note_failure(view->scratch, rc);
}

/* The value of the last member of that name; data NULL: none. */
static struct json_text find_member(struct visit *visit, struct json_text object,
                                    struct json_text name)
{
    struct json_text found = {0};
    struct json_text key, raw;
    struct json_reader r;
    enum err_code rc;
    bool more;

    json_reader_init(&r, object.data, object.len, &visit->scratch->arena, NULL);
    rc = json_object_begin(&r);
    while (rc == ERR_OK && (rc = json_object_next(&r, &key, &more)) == ERR_OK && more) {
        rc = json_skip(&r, &raw, NULL);
        if (rc == ERR_OK && key.len == name.len && memcmp(key.data, name.data, name.len) == 0)
            found = raw;
    }
    note_failure(visit->scratch, rc);
    return found;
}

/* The content of a string's bytes, which begin with a quote. */
static bool read_string(struct visit *visit, struct json_text raw, struct json_text *out)
{
    struct json_reader r;
    enum err_code rc;

    if (raw.len >= 2 && memchr(raw.data, '\\', raw.len) == NULL) {
        *out = (struct json_text){.data = raw.data + 1, .len = raw.len - 2};
        return true;
    }
    json_reader_init(&r, raw.data, raw.len, &visit->scratch->arena, NULL);
    rc = json_read_string(&r, out);
    note_failure(visit->scratch, rc);
    return rc == ERR_OK;
}

/* --- scalars -----------------------------------------------------------------------------------
 */

/* The index of a scalar in a set, or -1; arrays and objects are in no set. */
static int32_t find_in_set(struct visit *visit, const struct filter_set *set, struct json_text raw)
{
    struct filter_number number;
    struct json_text text;

    switch (raw.data[0]) {
    case '"':
        if (set->string_count == 0 || !read_string(visit, raw, &text))
            return -1;
        return filter_set_find_string(set, text);
    case 't':
    case 'f':
        return filter_set_find_bool(set, raw.data[0] == 't');
    case 'n':
        return filter_set_find_null(set);
    case '[':
    case '{':
        return -1;
    default:
        if (set->number_count == 0 || !filter_number_parse(&number, raw.data, raw.len))
            return -1;
        return filter_set_find_number(set, &number);
    }
}

static bool holds_order(const struct clause *clause, int order)
{
    if (order == 0)
        return clause->wants_equal;
    return (order > 0) == clause->wants_above;
}

static bool test_order(struct visit *visit, struct json_text raw)
{
    const struct clause *clause = visit->clause;
    struct filter_number number;
    struct json_text text;
    double seconds;

    if (clause->is_date) {
        if (raw.data[0] != '"' || !read_string(visit, raw, &text) ||
            !text_to_datetime(text.data, text.len, &seconds))
            return false;
        return holds_order(clause, (seconds > clause->seconds) - (seconds < clause->seconds));
    }
    if (raw.data[0] != '-' && (raw.data[0] < '0' || raw.data[0] > '9'))
        return false;
    if (!filter_number_parse(&number, raw.data, raw.len))
        return false;
    return holds_order(clause, filter_number_compare(&number, &clause->number));
}

static bool test_scalar(struct visit *visit, struct json_text raw)
{
    const struct clause *clause = visit->clause;
    struct json_text text;

    switch (clause->kind) {
    case CLAUSE_IN:
        return raw.data[0] != 'n' && find_in_set(visit, &clause->set, raw) >= 0;
    case CLAUSE_ORDER:
        return test_order(visit, raw);
    case CLAUSE_TEXT:
    case CLAUSE_LIKE:
        if (raw.data[0] != '"' || !read_string(visit, raw, &text))
            return false;
        return clause->kind == CLAUSE_TEXT ? filter_has_tokens(clause, text)
                                           : filter_is_like(clause, text);
    case CLAUSE_CONTAINS_ANY:
    case CLAUSE_CONTAINS_ALL:
    case CLAUSE_EXISTS:
    case CLAUSE_FILLED:
    case CLAUSE_ID:
        break;
    }
    assert(!"a clause of no scalar");
    return false;
}

/* --- values and arrays ----------------------------------------------------------------------- */

static bool test_elements(struct visit *visit, struct json_text array)
{
    struct json_text raw;
    struct json_reader r;
    enum err_code rc;
    bool more;

    json_reader_init(&r, array.data, array.len, &visit->scratch->arena, NULL);
    rc = json_array_begin(&r);
    while (rc == ERR_OK && (rc = json_array_next(&r, &more)) == ERR_OK && more) {
        rc = json_skip(&r, &raw, NULL);
        if (rc == ERR_OK && test_scalar(visit, raw))
            return true;
    }
    note_failure(visit->scratch, rc);
    return false;
}

static bool test_contains(struct visit *visit, struct json_text array)
{
    const struct filter_set *set = &visit->clause->set;
    bool wants_all = visit->clause->kind == CLAUSE_CONTAINS_ALL;
    uint64_t seen[FILTER_VALUES_MAX / 64 + 1];
    size_t missing = set->count;
    struct json_text raw;
    struct json_reader r;
    enum err_code rc;
    bool more;

    assert(set->count <= FILTER_VALUES_MAX);
    memset(seen, 0, (set->count / 64 + 1) * sizeof(seen[0]));
    json_reader_init(&r, array.data, array.len, &visit->scratch->arena, NULL);
    rc = json_array_begin(&r);
    while (missing > 0 && rc == ERR_OK && (rc = json_array_next(&r, &more)) == ERR_OK && more) {
        int32_t index;

        if ((rc = json_skip(&r, &raw, NULL)) != ERR_OK)
            break;
        index = find_in_set(visit, set, raw);
        if (index < 0 || (seen[index / 64] >> (index % 64) & 1) != 0)
            continue;
        if (!wants_all)
            return true;
        seen[index / 64] |= 1ull << (index % 64);
        missing--;
    }
    note_failure(visit->scratch, rc);
    return wants_all && missing == 0;
}

static bool is_empty_array(struct json_text raw)
{
    struct json_reader r;
    bool more = true;

    if (raw.data[0] != '[')
        return false;
    json_reader_init(&r, raw.data, raw.len, NULL, NULL);
    return json_array_begin(&r) == ERR_OK && json_array_next(&r, &more) == ERR_OK && !more;
}

/* A value at the end of the path: does the clause's test hold for it? */
static bool test_value(struct visit *visit, struct json_text raw)
{
    bool is_array = raw.data[0] == '[';

    if (raw.data[0] != 'n')
        visit->present = true;
    switch (visit->clause->kind) {
    case CLAUSE_EXISTS:
        return raw.data[0] != 'n';
    case CLAUSE_FILLED:
        return raw.data[0] != 'n' && !is_empty_array(raw);
    case CLAUSE_CONTAINS_ANY:
    case CLAUSE_CONTAINS_ALL:
        return is_array && test_contains(visit, raw);
    case CLAUSE_IN:
    case CLAUSE_ORDER:
    case CLAUSE_TEXT:
    case CLAUSE_LIKE:
    case CLAUSE_ID:
        break;
    }
    return is_array ? test_elements(visit, raw) : test_scalar(visit, raw);
}

static bool walk_path(struct visit *visit, struct json_text raw, uint32_t segment);

/* The path goes on in each element that is an object. */
static bool walk_elements(struct visit *visit, struct json_text array, uint32_t segment)
{
    struct json_text raw;
    struct json_reader r;
    enum err_code rc;
    bool more;

    json_reader_init(&r, array.data, array.len, &visit->scratch->arena, NULL);
    rc = json_array_begin(&r);
    while (rc == ERR_OK && (rc = json_array_next(&r, &more)) == ERR_OK && more) {
        rc = json_skip(&r, &raw, NULL);
        if (rc == ERR_OK && raw.data[0] == '{' && walk_path(visit, raw, segment))
            return true;
    }
    note_failure(visit->scratch, rc);
    return false;
}

/* True as soon as the test holds for a value that the path leads to. */
static bool walk_path(struct visit *visit, struct json_text raw, uint32_t segment)
{
    const struct clause *clause = visit->clause;

    assert(clause->segment_count < FILTER_SEGMENTS_MAX);
    while (segment < clause->segment_count) {
        if (raw.data[0] == '[')
            return walk_elements(visit, raw, segment);
        if (raw.data[0] != '{')
            return false;
        raw = find_member(visit, raw, clause->segments[segment]);
        if (raw.data == NULL)
            return false;
        segment++;
    }
    return test_value(visit, raw);
}

static bool clause_holds(struct view *view, const struct clause *clause)
{
    struct visit visit = {.clause = clause, .scratch = view->scratch};
    bool found = false;

    if (clause->kind == CLAUSE_ID)
        return filter_set_find_string(&clause->set, view->id) >= 0;
    if (!view->is_scanned)
        scan_metadata(view);
    if (view->values[clause->slot].data != NULL)
        found = walk_path(&visit, view->values[clause->slot], 0);
    if (clause->kind == CLAUSE_IN && clause->set.has_null && !visit.present)
        found = true;
    return found;
}

bool filter_matches(const struct filter *filter, const char *id, size_t id_len,
                    const char *metadata, size_t metadata_len, struct filter_scratch *scratch)
{
    const struct clause *clause;
    struct view view; /* not zeroed: its values are, as far as they are used */

    if (filter == NULL)
        return true;
    if (scratch->arena.used_bytes > 0)
        arena_reset(&scratch->arena);
    view.filter = filter;
    view.id = (struct json_text){.data = id, .len = id_len};
    view.metadata = (struct json_text){.data = metadata, .len = metadata_len};
    view.scratch = scratch;
    view.is_scanned = false;
    for (clause = filter->entry; clause != &filter_accept && clause != &filter_reject;)
        clause = clause_holds(&view, clause) ? clause->on_true : clause->on_false;
    return clause == &filter_accept;
}

void filter_scratch_free(struct filter_scratch *scratch)
{
    arena_free(&scratch->arena);
    scratch->failed = false;
}
