/* The metadata rows of collections: collection/TENANT/NAME and catalogue. */
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "common/http/json_doc.h"
#include "services/ingest/catalogue_row.h"

#define MARK_KEY "catalogue"

static const struct log_context CONTEXT = {.operation = "catalogue"};

static const char *const STATES[] = {
    [COLLECTION_ACTIVE] = "active",
    [COLLECTION_PENDING] = "pending",
    [COLLECTION_DROPPED] = "dropped",
};

static void row_key(char key[META_KEY_BYTES_MAX], const struct collection *collection)
{
    (void)snprintf(key, META_KEY_BYTES_MAX, "collection/%s/%s", collection->tenant,
                   collection->name);
}

static enum err_code row_write(struct catalogue *catalogue, const struct catalogue_entry *entry,
                               uint64_t expected, uint64_t *version, struct err *err)
{
    const struct collection *collection = &entry->collection;
    char key[META_KEY_BYTES_MAX];
    struct buffer value = {0};
    enum err_code rc;

    row_key(key, collection);
    buffer_append_format(&value, "{\"state\":\"%s\",\"definition\":", STATES[entry->state]);
    collection_encode(collection, collection->dropped ? COLLECTION_DROP : COLLECTION_CREATE,
                      &value);
    buffer_append_text(&value, "}");
    rc = buffer_check(&value, err);
    if (rc == ERR_OK)
        rc = meta_put(
            catalogue->meta,
            &(struct meta_put){
                .key = key, .value = value.data, .value_len = value.len, .expected = expected},
            version, err);
    buffer_free(&value);
    return rc;
}

enum err_code catalogue_row_parse(const void *data, size_t len, struct collection *out,
                                  enum collection_state *state, struct err *err)
{
    enum collection_change change;
    struct buffer definition = {0};
    const char *text = NULL;
    json_t *row = NULL, *member;
    enum err_code rc = json_doc_parse(&row, data, len, err);
    bool known = false;

    if (rc == ERR_OK)
        rc = json_doc_text(row, "state", &text, err);
    for (size_t i = 0; rc == ERR_OK && text != NULL && i < ARRAY_COUNT(STATES); i++)
        if (strcmp(text, STATES[i]) == 0) {
            *state = (enum collection_state)i;
            known = true;
        }
    member = row == NULL ? NULL : json_object_get(row, "definition");
    if (rc != ERR_NO_MEMORY && (rc != ERR_OK || !known || !json_is_object(member))) {
        rc = err_set(err, ERR_CORRUPT, "the metadata row of a collection makes no sense");
    } else if (rc == ERR_OK) {
        json_doc_dump(member, &definition);
        rc = buffer_check(&definition, err);
        if (rc == ERR_OK)
            rc = collection_decode(out, &change, definition.data, definition.len, err);
        if (rc == ERR_OK)
            out->dropped = change == COLLECTION_DROP;
    }
    buffer_free(&definition);
    json_decref(row);
    return rc;
}

/* Has the row gone on, by another holder's hand?  (Of one generation, two regions' definitions may
 * meet; which of them stays is the caller's to say.) */
static bool is_beyond(const struct collection *there, const struct collection *collection)
{
    if (memcmp(there->incarnation, collection->incarnation, INCARNATION_BYTES) == 0)
        return catalogue_is_news(collection, there);
    return there->generation > collection->generation;
}

enum err_code catalogue_row_put(struct catalogue *catalogue, const struct collection *collection,
                                enum collection_state state, uint64_t *version, struct err *err)
{
    struct catalogue_entry entry = {.collection = *collection, .state = state}, there;
    uint64_t expected = META_ABSENT, written = 0;
    struct meta_row row = {0};
    char key[META_KEY_BYTES_MAX];
    enum err_code rc;

    row_key(key, collection);
    rc = meta_get(catalogue->meta, key, &row, err);
    if (rc == ERR_OK) {
        expected = row.version;
        if (catalogue_row_parse(row.value, row.value_len, &there.collection, &there.state, NULL) ==
                ERR_OK &&
            is_beyond(&there.collection, collection))
            rc = err_set(err, ERR_CONFLICT, "collection '%s' was changed by another ingest",
                         collection->name);
        meta_row_free(&row);
    } else if (rc == ERR_NOT_FOUND) {
        err_clear(err);
        rc = ERR_OK;
    }
    if (rc == ERR_OK)
        rc = row_write(catalogue, &entry, expected, &written, err);
    if (rc == ERR_OK && version != NULL)
        *version = written;
    return rc;
}

static enum err_code put_back(struct catalogue *catalogue, const struct collection *collection,
                              const struct catalogue_entry *before, uint64_t version,
                              struct err *err)
{
    char key[META_KEY_BYTES_MAX];

    row_key(key, collection);
    return before == NULL ? meta_delete(catalogue->meta, key, version, err)
                          : row_write(catalogue, before, version, NULL, err);
}

bool catalogue_row_restore(struct catalogue *catalogue, const struct collection *collection,
                           const struct catalogue_entry *before, uint64_t version)
{
    struct err err;
    enum err_code rc = put_back(catalogue, collection, before, version, &err);

    if (rc != ERR_OK)
        log_err(LOG_WARN, &CONTEXT, "the row of a change that failed stays pending", &err);
    return rc == ERR_OK;
}

enum err_code catalogue_row_settle(struct catalogue *catalogue, const struct collection *change,
                                   const struct catalogue_entry *before, struct err *err)
{
    struct meta_row row = {0};
    struct catalogue_entry there;
    char key[META_KEY_BYTES_MAX];
    bool is_left;
    enum err_code rc, parsed;

    row_key(key, change);
    rc = meta_get(catalogue->meta, key, &row, err);
    if (rc == ERR_NOT_FOUND) {
        err_clear(err);
        return ERR_OK;
    }
    if (rc != ERR_OK)
        return rc;
    parsed = catalogue_row_parse(row.value, row.value_len, &there.collection, &there.state, NULL);
    is_left = parsed == ERR_OK && there.state == COLLECTION_PENDING;
    if (parsed == ERR_OK && before != NULL && there.state == before->state)
        is_left = memcmp(there.collection.incarnation, before->collection.incarnation,
                         INCARNATION_BYTES) == 0 &&
                  stamp_compare(there.collection.schema, before->collection.schema) == 0;
    if (is_left)
        rc = put_back(catalogue, change, before, row.version, err);
    meta_row_free(&row);
    return rc;
}

enum err_code catalogue_mark_get(struct catalogue *catalogue, struct catalogue_mark *out,
                                 struct err *err)
{
    struct meta_row row = {0};
    json_t *mark = NULL;
    uint64_t region = 0, position = 0, epoch = 0;
    enum err_code rc = meta_get(catalogue->meta, MARK_KEY, &row, err);

    *out = (struct catalogue_mark){0};
    if (rc == ERR_NOT_FOUND) {
        err_clear(err);
        return ERR_OK;
    }
    if (rc != ERR_OK)
        return rc;
    /* A mark that cannot be read, or is another log's, is none: everything is read again. */
    if (json_doc_parse(&mark, row.value, row.value_len, NULL) == ERR_OK &&
        json_doc_u64(mark, "region", 0, UINT32_MAX, &region, NULL) == ERR_OK &&
        json_doc_u64(mark, "position", 0, INT64_MAX, &position, NULL) == ERR_OK &&
        json_doc_u64(mark, "epoch", 0, INT64_MAX, &epoch, NULL) == ERR_OK) {
        if (region == catalogue->sequencer->region)
            *out = (struct catalogue_mark){.position = position, .epoch = epoch};
        else
            out->other_log = true;
    }
    json_decref(mark);
    meta_row_free(&row);
    return ERR_OK;
}

void catalogue_note_position(struct catalogue *catalogue)
{
    struct sequencer *s = catalogue->sequencer;
    struct line_view view;
    struct err err;
    char value[128];
    int len;

    pthread_mutex_lock(&s->lock);
    view = s->views[0];
    pthread_mutex_unlock(&s->lock);
    len = snprintf(value, sizeof(value), "{\"region\":%u,\"position\":%llu,\"epoch\":%llu}",
                   s->region, (unsigned long long)view.end, (unsigned long long)view.epoch);
    if (meta_put(
            catalogue->meta,
            &(struct meta_put){
                .key = MARK_KEY, .value = value, .value_len = (size_t)len, .expected = META_ANY},
            NULL, &err) != ERR_OK)
        return; /* read again from the older mark */
}
