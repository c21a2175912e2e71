/* Parsing filters: see filter.h for the grammar, filter_internal.h for what comes out.
 *
 * The text becomes a tree of nodes, at most FILTER_DEPTH_MAX objects deep, so that the recursion of
 * this file is bounded by the same number (twice, where lists count too).  The tree is then folded
 * into the clauses: from the last to the first, each is told where to go when it holds and when it
 * does not. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/model/filter_internal.h"

#define NODE_DEPTH_MAX (2 * FILTER_DEPTH_MAX + 1)

static_assert(2 * FILTER_DEPTH_MAX + 2 < JSON_DEPTH_MAX, "our limit is met before the reader's");

enum node_kind { NODE_CLAUSE, NODE_ALL, NODE_ANY };

struct node {
    enum node_kind kind;
    bool negated;
    struct clause *clause; /* of NODE_CLAUSE */
    struct node *children; /* of the others: the last one first */
    struct node *next;     /* the sibling before this one */
};

const struct clause filter_accept = {0};
const struct clause filter_reject = {0};

static struct node *node_new(struct filter_parser *p, enum node_kind kind, struct node *parent)
{
    struct node *node = arena_alloc(p->arena, 1, sizeof(*node));

    if (node == NULL)
        return NULL;
    node->kind = kind;
    if (parent != NULL) {
        node->next = parent->children;
        parent->children = node;
    }
    return node;
}

static enum err_code count_clause(struct filter_parser *p)
{
    if (p->clauses == FILTER_CLAUSES_MAX)
        return filter_bad(p, "more than %d conditions", FILTER_CLAUSES_MAX);
    p->clauses++;
    return ERR_OK;
}

static enum err_code add_clause(struct filter_parser *p, struct node *parent,
                                const struct clause *clause)
{
    struct node *node = node_new(p, NODE_CLAUSE, parent);
    enum err_code rc;

    if (node == NULL)
        return filter_no_memory(p);
    node->clause = arena_alloc(p->arena, 1, sizeof(*node->clause));
    if (node->clause == NULL)
        return filter_no_memory(p);
    if ((rc = count_clause(p)) != ERR_OK)
        return rc;
    *node->clause = *clause;
    return ERR_OK;
}

/* --- paths ----------------------------------------------------------------------------------- */

struct path {
    uint32_t slot;
    uint32_t segment_count;
    const struct json_text *segments;
};

static enum err_code path_slot(struct filter_parser *p, struct json_text name, uint32_t *out)
{
    size_t slot = 0;

    while (slot < p->slot_count && filter_text_compare(p->slots[slot], name) != 0)
        slot++;
    if (slot == FILTER_CLAUSES_MAX)
        return filter_bad(p, "more than %d fields", FILTER_CLAUSES_MAX);
    if (slot == p->slot_count)
        p->slots[p->slot_count++] = name;
    *out = (uint32_t)slot;
    return ERR_OK;
}

/* Split at dots; \. is a dot and \\ a backslash inside a segment.  *count: all segments. */
static enum err_code split_path(struct filter_parser *p, struct json_text key,
                                struct json_text *segments, size_t *count)
{
    char *copy = arena_copy_text(p->arena, key.data, key.len);
    size_t start = 0;
    size_t end = 0;

    if (copy == NULL)
        return filter_no_memory(p);
    *count = 0;
    for (size_t i = 0; i <= key.len; i++) {
        bool escapes = i + 1 < key.len && key.data[i] == '\\' &&
                       (key.data[i + 1] == '.' || key.data[i + 1] == '\\');

        if (i < key.len && (escapes || key.data[i] != '.')) {
            i += escapes;
            copy[end++] = key.data[i];
            continue;
        }
        if (end == start)
            return filter_bad(p, "a field's name is empty");
        if (*count == FILTER_SEGMENTS_MAX)
            return filter_bad(p, "a path of more than %d names", FILTER_SEGMENTS_MAX);
        segments[*count] = (struct json_text){.data = copy + start, .len = end - start};
        *count += 1;
        start = end;
    }
    return ERR_OK;
}

static enum err_code parse_path(struct filter_parser *p, struct json_text key, struct path *out)
{
    struct json_text segments[FILTER_SEGMENTS_MAX];
    struct json_text *rest;
    size_t count = 0;
    enum err_code rc;

    if ((rc = split_path(p, key, segments, &count)) != ERR_OK)
        return rc;
    if ((rc = path_slot(p, segments[0], &out->slot)) != ERR_OK)
        return rc;
    out->segment_count = (uint32_t)count - 1;
    out->segments = NULL;
    if (count == 1)
        return ERR_OK;
    rest = arena_alloc(p->arena, count - 1, sizeof(*rest));
    if (rest == NULL)
        return filter_no_memory(p);
    memcpy(rest, segments + 1, (count - 1) * sizeof(*rest));
    out->segments = rest;
    return ERR_OK;
}

/* --- fields ---------------------------------------------------------------------------------- */

static void set_path(struct clause *clause, const struct path *path)
{
    clause->slot = path->slot;
    clause->segment_count = path->segment_count;
    clause->segments = path->segments;
}

/* $id is compared with whole ids only. */
static enum err_code make_id_clause(struct filter_parser *p, struct clause *clause)
{
    const struct filter_set *set = &clause->set;

    if (clause->kind != CLAUSE_IN)
        return filter_bad(p, "ids have $eq, $ne, $in and $nin only");
    if (set->count != set->string_count)
        return filter_bad(p, "ids are strings");
    clause->kind = CLAUSE_ID;
    return ERR_OK;
}

/* path NULL: the record's id. */
static enum err_code parse_operator(struct filter_parser *p, struct json_text op,
                                    const struct path *path, struct node *parent)
{
    struct clause clause = {0};
    enum err_code rc = filter_read_operand(p, op, &clause);

    if (rc == ERR_OK && path == NULL)
        rc = make_id_clause(p, &clause);
    if (rc != ERR_OK)
        return rc;
    if (path != NULL)
        set_path(&clause, path);
    return add_clause(p, parent, &clause);
}

static enum err_code parse_operators(struct filter_parser *p, const struct path *path,
                                     struct node *parent)
{
    struct json_text key = {0};
    bool more = false;
    bool any = false;
    enum err_code rc = json_object_begin(&p->reader);

    while (rc == ERR_OK && (rc = json_object_next(&p->reader, &key, &more)) == ERR_OK && more) {
        rc = filter_at_key(p, parse_operator(p, key, path, parent), key);
        any = true;
    }
    if (rc == ERR_OK && !any)
        rc = filter_bad(p, "expected an operator: fields cannot be compared with objects");
    return rc;
}

/* What is behind a field, or behind $id (path NULL). */
static enum err_code parse_condition(struct filter_parser *p, const struct path *path,
                                     struct node *parent)
{
    enum json_kind kind = JSON_KIND_NULL;
    struct clause clause = {0};
    enum err_code rc = json_peek(&p->reader, &kind);

    if (rc != ERR_OK)
        return rc;
    if (kind == JSON_KIND_OBJECT)
        return parse_operators(p, path, parent);
    if (kind == JSON_KIND_ARRAY)
        return filter_bad(p, "fields cannot be compared with lists: use $in or $contains_all");
    rc = filter_read_equal(p, &clause);
    if (rc == ERR_OK && path == NULL)
        rc = make_id_clause(p, &clause);
    if (rc != ERR_OK)
        return rc;
    if (path != NULL)
        set_path(&clause, path);
    return add_clause(p, parent, &clause);
}

/* --- objects and lists ----------------------------------------------------------------------- */

static enum err_code parse_object(struct filter_parser *p, uint32_t depth, struct node *node);

/* $and, $or, $nor. */
static enum err_code parse_list(struct filter_parser *p, uint32_t depth, struct node *node)
{
    size_t count = 0;
    bool more = false;
    enum err_code rc = json_array_begin(&p->reader);

    while (rc == ERR_OK && (rc = json_array_next(&p->reader, &more)) == ERR_OK && more) {
        struct node *child = node_new(p, NODE_ALL, node);

        if (child == NULL)
            return filter_no_memory(p);
        rc = filter_at_index(p, parse_object(p, depth, child), count);
        count++;
    }
    if (rc == ERR_OK && count == 0)
        rc = filter_bad(p, "the list is empty");
    return rc;
}

static enum err_code parse_member(struct filter_parser *p, struct json_text key, uint32_t depth,
                                  struct node *parent)
{
    bool is_any = json_text_is(key, "$or") || json_text_is(key, "$nor");
    struct path path;
    enum err_code rc;

    if (json_text_is(key, "$id"))
        return parse_condition(p, NULL, parent);
    if (is_any || json_text_is(key, "$and") || json_text_is(key, "$not")) {
        struct node *node = node_new(p, is_any ? NODE_ANY : NODE_ALL, parent);

        if (node == NULL)
            return filter_no_memory(p);
        node->negated = json_text_is(key, "$nor") || json_text_is(key, "$not");
        if (json_text_is(key, "$not"))
            return parse_object(p, depth + 1, node);
        return parse_list(p, depth + 1, node);
    }
    if (key.len > 0 && key.data[0] == '$')
        return filter_bad(p, "there is no such operator here");
    if ((rc = parse_path(p, key, &path)) != ERR_OK)
        return rc;
    return parse_condition(p, &path, parent);
}

/* All members of an object must hold; one without members holds. */
static enum err_code parse_object(struct filter_parser *p, uint32_t depth, struct node *node)
{
    struct json_text key = {0};
    bool more = false;
    enum err_code rc;

    if (depth > FILTER_DEPTH_MAX)
        return filter_bad(p, "nested more than %d deep", FILTER_DEPTH_MAX);
    rc = json_object_begin(&p->reader);
    while (rc == ERR_OK && (rc = json_object_next(&p->reader, &key, &more)) == ERR_OK && more)
        rc = filter_at_key(p, parse_member(p, key, depth, node), key);
    if (rc == ERR_OK && node->children == NULL)
        rc = count_clause(p);
    return rc;
}

/* --- from the tree to the clauses ------------------------------------------------------------ */

/* Where to begin, to come out at on_true or on_false. */
static const struct clause *link_node(const struct node *node, uint32_t depth,
                                      const struct clause *on_true, const struct clause *on_false)
{
    const struct clause *yes = node->negated ? on_false : on_true;
    const struct clause *no = node->negated ? on_true : on_false;
    const struct clause *entry = node->kind == NODE_ANY ? no : yes;

    assert(depth <= NODE_DEPTH_MAX);
    if (node->kind == NODE_CLAUSE) {
        node->clause->on_true = node->clause->negated ? no : yes;
        node->clause->on_false = node->clause->negated ? yes : no;
        return node->clause;
    }
    for (const struct node *child = node->children; child != NULL; child = child->next) {
        if (node->kind == NODE_ALL)
            entry = link_node(child, depth + 1, entry, no);
        else
            entry = link_node(child, depth + 1, yes, entry);
    }
    return entry;
}

/* The clause with the fewest ids of those that every match must be in; NULL: none. */
static const struct clause *find_ids(const struct node *node, uint32_t depth)
{
    const struct clause *best = NULL;

    assert(depth <= NODE_DEPTH_MAX);
    if (node->kind == NODE_CLAUSE) {
        bool restricts = node->clause->kind == CLAUSE_ID && !node->clause->negated;

        return restricts ? node->clause : NULL;
    }
    if (node->negated || (node->kind == NODE_ANY && node->children->next != NULL))
        return NULL;
    for (const struct node *child = node->children; child != NULL; child = child->next) {
        const struct clause *found = find_ids(child, depth + 1);

        if (found != NULL && (best == NULL || found->set.count < best->set.count))
            best = found;
    }
    return best;
}

static enum err_code filter_build(struct filter_parser *p, const struct node *root,
                                  const struct filter **out)
{
    static const struct json_text no_ids[1] = {{0}};
    struct filter *filter = arena_alloc(p->arena, 1, sizeof(*filter));
    const struct clause *ids = find_ids(root, 0);
    struct json_text *slots =
        arena_alloc(p->arena, MAX_OF(p->slot_count, (size_t)1), sizeof(*slots));

    if (filter == NULL || slots == NULL)
        return filter_no_memory(p);
    if (p->slot_count > 0)
        memcpy(slots, p->slots, p->slot_count * sizeof(*slots));
    filter->slots = slots;
    filter->slot_count = p->slot_count;
    filter->entry = link_node(root, 0, &filter_accept, &filter_reject);
    if (ids != NULL) {
        filter->ids = ids->set.count == 0 ? no_ids : ids->set.strings;
        filter->id_count = ids->set.count;
    }
    *out = filter;
    return ERR_OK;
}

enum err_code filter_parse(const struct filter **out, const void *data, size_t len,
                           struct arena *arena, struct err *err)
{
    struct json_text slots[FILTER_CLAUSES_MAX];
    struct err unwanted = {0};
    struct filter_parser p = {.arena = arena, .slots = slots};
    struct node root = {.kind = NODE_ALL};
    enum err_code rc;

    *out = NULL;
    if (len == 0)
        return ERR_OK;
    p.err = err == NULL ? &unwanted : err;
    json_reader_init(&p.reader, data, len, arena, p.err);
    rc = parse_object(&p, 1, &root);
    if (rc == ERR_OK)
        rc = json_end(&p.reader);
    if (rc == ERR_INVALID_ARGUMENT) {
        /* The reader's word for a value of another type, or out of range. */
        p.err->code = ERR_INVALID_FILTER;
        rc = ERR_INVALID_FILTER;
    }
    if (rc != ERR_OK || root.children == NULL)
        return rc;
    return filter_build(&p, &root, out);
}

const struct json_text *filter_ids(const struct filter *filter, size_t *count)
{
    if (filter == NULL || filter->ids == NULL) {
        *count = 0;
        return NULL;
    }
    *count = filter->id_count;
    return filter->ids;
}
