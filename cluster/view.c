/* What the metadata store says of the deployment, as one immutable view: map, nodes, collections.
 *
 * A row that cannot be read is left out and logged: one bad row must not blind the router. */
#include "cluster/internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/http/json_doc.h"

static void view_free(struct view *view)
{
    if (view == NULL)
        return;
    free(view->nodes);
    free(view->collections);
    free(view->urls);
    free(view);
}

struct view *view_get(struct cluster *cluster)
{
    struct view *view;

    pthread_mutex_lock(&cluster->mutex);
    view = cluster->view;
    /* Relaxed: the mutex orders the pointer's publication before this. */
    atomic_fetch_add_explicit(&view->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&cluster->mutex);
    return view;
}

void view_put(struct view *view)
{
    /* Acquire-release: the last holder frees after every other holder's reads. */
    if (view != NULL && atomic_fetch_sub_explicit(&view->references, 1, memory_order_acq_rel) == 1)
        view_free(view);
}

const char *view_url(const struct view *view, uint32_t shard, uint32_t replica)
{
    assert(view->has_map);
    assert(shard < view->map.shards && replica < view->map.replicas);
    return view->urls[shard * view->map.replicas + replica];
}

static enum err_code get_optional(struct meta *meta, const char *key, struct meta_row *row,
                                  bool *found, struct err *err)
{
    enum err_code rc = meta_get(meta, key, row, err);

    *found = rc == ERR_OK;
    return rc == ERR_NOT_FOUND ? ERR_OK : rc;
}

static enum err_code load_map(struct view *view, struct meta *meta, struct err *err)
{
    struct meta_row row = {0};
    bool found;
    enum err_code rc = get_optional(meta, "map", &row, &found, err);

    if (rc != ERR_OK || !found)
        return rc;
    rc = shard_map_decode(&view->map, row.value, row.value_len, err);
    meta_row_free(&row);
    if (rc != ERR_OK)
        return err_wrap(err, "metadata row map");
    view->urls = array_alloc((size_t)view->map.shards * view->map.replicas, URL_BYTES);
    if (view->urls == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the view");
    view->has_map = true;
    return ERR_OK;
}

static enum err_code load_lease(struct view *view, struct meta *meta, struct err *err)
{
    struct meta_row row = {0};
    const char *url = "";
    json_t *document = NULL;
    bool found;
    enum err_code rc = get_optional(meta, "lease", &row, &found, err);

    if (rc != ERR_OK || !found)
        return rc;
    if (json_doc_parse(&document, row.value, row.value_len, err) == ERR_OK &&
        json_doc_text(document, "url", &url, err) == ERR_OK)
        (void)snprintf(view->ingest_url, sizeof(view->ingest_url), "%s", url);
    else
        log_err(LOG_WARN, NULL, "metadata row lease cannot be read", err);
    json_decref(document);
    meta_row_free(&row);
    return ERR_OK;
}

/* The role, the other regions, and, for who is passive, their doors. */
static enum err_code load_regions(struct view *view, struct meta *meta, struct err *err)
{
    struct region_row *rows = NULL;
    size_t count = 0, at = 0;
    enum err_code rc = region_role_read(meta, &view->role, err);

    if (rc == ERR_OK)
        rc = regions_read(meta, &rows, &count, err);
    for (size_t i = 0; i < count; i++) {
        int len;

        if (rows[i].is_self)
            continue;
        memcpy(view->others[view->other_count++], rows[i].name, REGION_NAME_BYTES);
        if (view->role != REGION_PASSIVE || rows[i].router_url[0] == '\0' ||
            at >= sizeof(view->elsewhere))
            continue;
        len = snprintf(view->elsewhere + at, sizeof(view->elsewhere) - at, "%s%s at %s",
                       at == 0 ? ": " : ", or ", rows[i].name, rows[i].router_url);
        at += len > 0 ? (size_t)len : 0;
    }
    free(rows);
    return rc;
}

/* "node/SERVICE/NAME" and its JSON into a node; false: not one. */
static bool read_node(struct node *node, const struct meta_row *row)
{
    const char *service = row->key + strlen("node/");
    const char *slash = strchr(service, '/');
    const char *url = NULL;
    struct err err = {0};
    json_t *document = NULL;
    bool good = false;

    if (slash == NULL || (size_t)(slash - service) >= sizeof(node->service))
        return false;
    (void)snprintf(node->service, sizeof(node->service), "%.*s", (int)(slash - service), service);
    (void)snprintf(node->name, sizeof(node->name), "%s", slash + 1);
    if (json_doc_parse(&document, row->value, row->value_len, &err) == ERR_OK &&
        json_doc_text(document, "url", &url, &err) == ERR_OK && url != NULL &&
        strlen(url) < sizeof(node->url)) {
        (void)snprintf(node->url, sizeof(node->url), "%s", url);
        good = true;
    }
    json_decref(document);
    return good;
}

/* A shard's replica is named "SHARD.REPLICA". */
static void place_node(struct view *view, const struct node *node)
{
    const char *dot = strchr(node->name, '.');
    uint64_t shard, replica;

    if (!view->has_map || strcmp(node->service, "shard") != 0 || dot == NULL)
        return;
    if (!text_to_u64(node->name, (size_t)(dot - node->name), &shard) ||
        !text_to_u64(dot + 1, strlen(dot + 1), &replica))
        return;
    if (shard < view->map.shards && replica < view->map.replicas)
        memcpy(view->urls[shard * view->map.replicas + replica], node->url, URL_BYTES);
}

static enum err_code load_nodes(struct view *view, struct meta *meta, struct err *err)
{
    struct meta_row *rows = NULL;
    size_t count = 0;
    enum err_code rc = meta_list(meta, "node/", &rows, &count, err);

    if (rc != ERR_OK)
        return rc;
    view->nodes = array_alloc(count, sizeof(view->nodes[0]));
    if (view->nodes == NULL)
        rc = err_set(err, ERR_NO_MEMORY, "no memory for %zu nodes", count);
    for (size_t i = 0; rc == ERR_OK && i < count; i++) {
        struct node *node = &view->nodes[view->node_count];

        if (!read_node(node, &rows[i]))
            continue;
        place_node(view, node);
        view->node_count++;
    }
    meta_rows_free(rows, count);
    return rc;
}

enum err_code view_collection_row(const void *value, size_t len, struct collection *out,
                                  bool *active, struct err *err)
{
    enum collection_change change;
    const char *state = "";
    struct buffer definition = {0};
    json_t *document = NULL;
    enum err_code rc = json_doc_parse(&document, value, len, err);

    *active = false;
    if (rc != ERR_OK)
        return rc;
    rc = json_doc_text(document, "state", &state, err);
    if (rc == ERR_OK) {
        *active = strcmp(state, "active") == 0;
        json_doc_dump(json_object_get(document, "definition"), &definition);
        rc = buffer_check(&definition, err);
    }
    if (rc == ERR_OK)
        rc = collection_decode(out, &change, definition.data, definition.len, err);
    buffer_free(&definition);
    json_decref(document);
    return rc;
}

static int compare_collections(const void *a, const void *b)
{
    const struct collection *left = a, *right = b;
    int order = strcmp(left->tenant, right->tenant);

    return order != 0 ? order : strcmp(left->name, right->name);
}

static enum err_code load_collections(struct view *view, struct meta *meta, struct err *err)
{
    struct meta_row *rows = NULL;
    size_t count = 0;
    enum err_code rc = meta_list(meta, "collection/", &rows, &count, err);

    if (rc != ERR_OK)
        return rc;
    view->collections = array_alloc(count, sizeof(view->collections[0]));
    if (view->collections == NULL)
        rc = err_set(err, ERR_NO_MEMORY, "no memory for %zu collections", count);
    for (size_t i = 0; rc == ERR_OK && i < count; i++) {
        struct collection *collection = &view->collections[view->collection_count];
        struct err row_err = {0};
        bool active;

        if (view_collection_row(rows[i].value, rows[i].value_len, collection, &active, &row_err) !=
            ERR_OK) {
            log_err(LOG_WARN, NULL, "metadata row of a collection cannot be read", &row_err);
            continue;
        }
        if (active)
            view->collection_count++;
    }
    if (rc == ERR_OK)
        qsort(view->collections, view->collection_count, sizeof(view->collections[0]),
              compare_collections);
    meta_rows_free(rows, count);
    return rc;
}

enum err_code view_load(struct view **out, struct meta *meta, struct err *err)
{
    struct view *view = calloc(1, sizeof(*view));
    enum err_code rc;

    *out = NULL;
    if (view == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the view");
    atomic_init(&view->references, 1);
    /* The version first: a change during the load is then seen as one more change. */
    if ((rc = meta_version(meta, &view->version, err)) != ERR_OK ||
        (rc = load_map(view, meta, err)) != ERR_OK ||
        (rc = load_lease(view, meta, err)) != ERR_OK ||
        (rc = load_regions(view, meta, err)) != ERR_OK ||
        (rc = load_nodes(view, meta, err)) != ERR_OK ||
        (rc = load_collections(view, meta, err)) != ERR_OK) {
        view_free(view);
        return rc;
    }
    *out = view;
    return ERR_OK;
}
