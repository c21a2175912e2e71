/* Duplicate keys: a walk without recursion that hashes every key together with the number of the
 * object it is in; two equal hashes are a key given twice.  64 bits: that two different keys of one
 * request meet by chance does not happen, and who makes them meet has only his own request refused.
 */
#include "services/ingest/metadata_check.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/hash.h"
#include "common/base/json_reader.h"
#include "common/base/limits.h"

#define FEW_KEYS 32 /* kept on the stack and compared pair by pair */

struct walk {
    struct json_reader reader;
    bool is_object[METADATA_DEPTH_MAX];
    uint64_t object[METADATA_DEPTH_MAX]; /* number of each open object */
    uint32_t depth;
    uint64_t objects;
    uint64_t few[FEW_KEYS];
    uint64_t *hashes;
    size_t count, size;
};

static enum err_code open_container(struct walk *w, enum json_kind type)
{
    assert(w->depth < METADATA_DEPTH_MAX);
    w->is_object[w->depth] = type == JSON_KIND_OBJECT;
    w->object[w->depth++] = ++w->objects;
    return type == JSON_KIND_OBJECT ? json_object_begin(&w->reader) : json_array_begin(&w->reader);
}

static enum err_code note_key(struct walk *w, struct json_text key, struct err *err)
{
    uint64_t hash = hash_xxh64(key.len == 0 ? "" : key.data, key.len, w->object[w->depth - 1]);
    uint64_t *grown;

    if (w->count < FEW_KEYS) {
        for (size_t i = 0; i < w->count; i++)
            if (w->few[i] == hash)
                return err_set(err, ERR_INVALID_ARGUMENT, "a key of the metadata is given twice");
        w->few[w->count] = hash;
    }
    if (w->count == w->size) {
        size_t size = w->size * 2;

        grown = w->hashes == w->few ? malloc(size * sizeof(*grown))
                                    : realloc(w->hashes, size * sizeof(*grown));
        if (grown == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory to check metadata");
        if (w->hashes == w->few)
            memcpy(grown, w->few, sizeof(w->few));
        w->hashes = grown;
        w->size = size;
    }
    w->hashes[w->count++] = hash;
    return ERR_OK;
}

static int hash_compare(const void *left, const void *right)
{
    uint64_t a, b;

    memcpy(&a, left, sizeof(a));
    memcpy(&b, right, sizeof(b));
    return a < b ? -1 : a > b;
}

static enum err_code find_twice(struct walk *w, struct err *err)
{
    if (w->count <= FEW_KEYS)
        return ERR_OK;
    qsort(w->hashes, w->count, sizeof(*w->hashes), hash_compare);
    for (size_t i = 1; i < w->count; i++)
        if (w->hashes[i - 1] == w->hashes[i])
            return err_set(err, ERR_INVALID_ARGUMENT, "a key of the metadata is given twice");
    return ERR_OK;
}

/* One step: the next member or element of the innermost container. */
static enum err_code step(struct walk *w, struct err *err)
{
    bool in_object = w->is_object[w->depth - 1], more = false;
    struct json_text key;
    enum json_kind type;
    enum err_code rc =
        in_object ? json_object_next(&w->reader, &key, &more) : json_array_next(&w->reader, &more);

    if (rc != ERR_OK)
        return rc;
    if (!more) {
        w->depth--;
        return ERR_OK;
    }
    if (in_object)
        rc = note_key(w, key, err);
    if (rc == ERR_OK)
        rc = json_peek(&w->reader, &type);
    if (rc != ERR_OK)
        return rc;
    if (type == JSON_KIND_OBJECT || type == JSON_KIND_ARRAY)
        return open_container(w, type);
    return json_skip(&w->reader, NULL, NULL);
}

enum err_code metadata_check_keys(const char *data, size_t len, struct arena *arena,
                                  struct err *err)
{
    struct walk w = {.size = FEW_KEYS};
    enum err_code rc;

    w.hashes = w.few;
    json_reader_init(&w.reader, data, len, arena, err);
    rc = open_container(&w, JSON_KIND_OBJECT);
    while (rc == ERR_OK && w.depth > 0)
        rc = step(&w, err);
    if (rc == ERR_OK)
        rc = find_twice(&w, err);
    if (w.hashes != w.few)
        free(w.hashes);
    return rc;
}
