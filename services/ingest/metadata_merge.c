/* See metadata_merge.h.
 *
 * The patch is read once into a tree, whose objects have their members in order; a target is walked
 * in one pass beside it, without recursion.  An object of the patch that meets no object has the
 * text that it would make of an empty one ready. */
#include "services/ingest/metadata_merge.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"
#include "common/base/limits.h"

struct patch_object;

struct patch_member {
    struct json_text key;
    struct json_text text;      /* what it becomes where there was nothing; NULL: it is removed */
    struct patch_object *inner; /* NULL: no object */
    uint64_t round;             /* of the last target in which the key was met */
};

struct patch_object {
    struct patch_member *members;
    size_t count, room;
};

struct merge_patch {
    struct patch_object root;
    uint64_t round;
};

static int text_compare(struct json_text a, struct json_text b)
{
    size_t len = MIN_OF(a.len, b.len);
    int order = len == 0 ? 0 : memcmp(a.data, b.data, len);

    return order != 0 ? order : a.len < b.len ? -1 : a.len > b.len;
}

static int member_compare(const void *left, const void *right)
{
    const struct patch_member *a = left, *b = right;

    return text_compare(a->key, b->key);
}

/* --- reading the patch -------------------------------------------------------------------------
 */

struct patch_parse {
    struct json_reader reader;
    struct patch_object *open[METADATA_DEPTH_MAX];
    uint32_t depth;
    struct arena *arena;
    struct err *err;
};

static enum err_code no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory for a patch");
}

static struct patch_member *add_member(struct patch_parse *p, struct patch_object *object)
{
    size_t room = object->room == 0 ? 8 : object->room * 2;
    struct patch_member *members;

    if (object->count == object->room) {
        members = arena_alloc(p->arena, room, sizeof(*members));
        if (members == NULL)
            return NULL;
        if (object->count > 0)
            memcpy(members, object->members, object->count * sizeof(*members));
        object->members = members;
        object->room = room;
    }
    return &object->members[object->count++];
}

static enum err_code open_object(struct patch_parse *p, struct patch_object *object)
{
    assert(p->depth < METADATA_DEPTH_MAX);
    p->open[p->depth++] = object;
    return json_object_begin(&p->reader);
}

/* What the object makes of an empty one. */
static enum err_code fresh_text(struct patch_parse *p, const struct patch_object *object,
                                struct json_text *out)
{
    struct buffer text = {0};
    struct json_writer w;
    enum err_code rc;

    json_writer_init(&w, &text);
    json_begin_object(&w);
    for (size_t i = 0; i < object->count; i++) {
        const struct patch_member *member = &object->members[i];

        if (member->text.data == NULL)
            continue;
        json_key_text(&w, member->key.data, member->key.len);
        json_raw(&w, member->text.data, member->text.len);
    }
    json_end_object(&w);
    rc = buffer_check(&text, p->err);
    if (rc == ERR_OK) {
        out->len = text.len;
        out->data = arena_copy_text(p->arena, (const char *)text.data, text.len);
        rc = out->data == NULL ? no_memory(p->err) : ERR_OK;
    }
    buffer_free(&text);
    return rc;
}

static enum err_code close_object(struct patch_parse *p)
{
    struct patch_object *object = p->open[--p->depth], *outer;
    enum err_code rc = ERR_OK;

    if (object->count > 0)
        qsort(object->members, object->count, sizeof(*object->members), member_compare);
    if (p->depth > 0) {
        outer = p->open[p->depth - 1];
        rc = fresh_text(p, object, &outer->members[outer->count - 1].text);
    }
    return rc;
}

/* The next member of the innermost object. */
static enum err_code parse_member(struct patch_parse *p)
{
    struct patch_member *member;
    struct json_text key;
    enum json_kind kind;
    bool more;
    enum err_code rc = json_object_next(&p->reader, &key, &more);

    if (rc != ERR_OK)
        return rc;
    if (!more)
        return close_object(p);
    member = add_member(p, p->open[p->depth - 1]);
    if (member == NULL)
        return no_memory(p->err);
    member->key = key;
    rc = json_peek(&p->reader, &kind);
    if (rc != ERR_OK)
        return rc;
    if (kind == JSON_KIND_NULL)
        return json_read_null(&p->reader);
    if (kind != JSON_KIND_OBJECT)
        return json_skip(&p->reader, &member->text, NULL);
    member->inner = arena_alloc(p->arena, 1, sizeof(*member->inner));
    return member->inner == NULL ? no_memory(p->err) : open_object(p, member->inner);
}

enum err_code merge_patch_parse(struct merge_patch **out, const char *data, size_t len,
                                struct arena *arena, struct err *err)
{
    struct patch_parse p = {.arena = arena, .err = err};
    struct merge_patch *patch = arena_alloc(arena, 1, sizeof(*patch));
    enum err_code rc;

    *out = NULL;
    if (patch == NULL)
        return no_memory(err);
    json_reader_init(&p.reader, data, len, arena, err);
    rc = open_object(&p, &patch->root);
    while (rc == ERR_OK && p.depth > 0)
        rc = parse_member(&p);
    if (rc == ERR_OK)
        rc = json_end(&p.reader);
    if (rc == ERR_OK)
        *out = patch;
    return rc;
}

/* --- applying it -------------------------------------------------------------------------------
 */

struct merge {
    struct json_reader reader;
    struct json_writer w;
    struct patch_object *open[METADATA_DEPTH_MAX];
    uint32_t depth;
    uint64_t round;
    bool changed;
};

static enum err_code enter(struct merge *m, struct patch_object *object)
{
    assert(m->depth < METADATA_DEPTH_MAX);
    m->open[m->depth++] = object;
    json_begin_object(&m->w);
    return json_object_begin(&m->reader);
}

/* What the target did not have; the object ends. */
static void leave(struct merge *m)
{
    const struct patch_object *object = m->open[--m->depth];

    for (size_t i = 0; i < object->count; i++) {
        const struct patch_member *member = &object->members[i];

        if (member->round == m->round || member->text.data == NULL)
            continue;
        m->changed = true;
        json_key_text(&m->w, member->key.data, member->key.len);
        json_raw(&m->w, member->text.data, member->text.len);
    }
    json_end_object(&m->w);
}

static struct patch_member *find_member(const struct patch_object *object, struct json_text key)
{
    struct patch_member wanted = {.key = key};

    return object->count == 0
               ? NULL
               : bsearch(&wanted, object->members, object->count, sizeof(wanted), member_compare);
}

/* The next member of the target's innermost object. */
static enum err_code merge_member(struct merge *m)
{
    struct patch_member *member;
    struct json_text key, text, value;
    enum json_kind kind;
    bool more;
    enum err_code rc = json_object_next(&m->reader, &key, &more);

    if (rc == ERR_OK && !more)
        leave(m);
    if (rc != ERR_OK || !more)
        return rc;
    rc = json_peek(&m->reader, &kind);
    if (rc != ERR_OK)
        return rc;
    member = find_member(m->open[m->depth - 1], key);
    if (member != NULL)
        member->round = m->round;
    if (member == NULL || member->text.data != NULL)
        json_key_text(&m->w, key.data, key.len);
    if (member != NULL && member->inner != NULL && kind == JSON_KIND_OBJECT)
        return enter(m, member->inner);
    rc = json_skip(&m->reader, &text, NULL);
    if (rc != ERR_OK)
        return rc;
    value = member == NULL ? text : member->text;
    m->changed = m->changed || value.data == NULL || text_compare(value, text) != 0;
    if (value.data != NULL)
        json_raw(&m->w, value.data, value.len);
    return ERR_OK;
}

enum err_code merge_patch_apply(struct merge_patch *patch, const char *target, size_t len,
                                struct arena *arena, struct buffer *out, bool *changed,
                                struct err *err)
{
    struct merge m = {.round = ++patch->round};
    struct err why = {0};
    enum err_code rc;

    buffer_reset(out);
    *changed = false;
    if (target == NULL) {
        target = "{}";
        len = 2;
    }
    json_reader_init(&m.reader, target, len, arena, &why);
    json_writer_init(&m.w, out);
    rc = enter(&m, &patch->root);
    while (rc == ERR_OK && m.depth > 0)
        rc = merge_member(&m);
    if (rc == ERR_OK)
        rc = json_end(&m.reader);
    if (rc == ERR_NO_MEMORY)
        return no_memory(err);
    if (rc != ERR_OK)
        return err_set(err, ERR_CORRUPT, "stored metadata is no object: %s", why.message);
    rc = buffer_check(out, err);
    if (rc == ERR_OK && out->len > METADATA_BYTES_MAX)
        rc = err_set(err, ERR_PAYLOAD_TOO_LARGE,
                     "metadata has at most %zu bytes, with the patch it has %zu",
                     METADATA_BYTES_MAX, out->len);
    if (rc == ERR_OK)
        *changed = m.changed;
    return rc;
}
