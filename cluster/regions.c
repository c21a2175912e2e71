/* Rows about regions: see regions.h.  A row that cannot be read is left out and logged. */
#include "cluster/regions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/http/json_doc.h"

#define PREFIX "region/"

static const char *const ROLES[] = {
    [REGION_ACTIVE] = "active", [REGION_PRIMARY] = "primary", [REGION_PASSIVE] = "passive"};

bool region_name_is_valid(const char *name)
{
    size_t len = strnlen(name, REGION_NAME_BYTES);

    for (size_t i = 0; i < len; i++)
        if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') ||
              name[i] == '-'))
            return false;
    return len > 0 && len < REGION_NAME_BYTES;
}

/* --- rows --------------------------------------------------------------------------------------
 */

static bool copy_url(char out[REGION_URL_BYTES], const char *text)
{
    int len = snprintf(out, REGION_URL_BYTES, "%s", text);

    return len >= 0 && len < REGION_URL_BYTES;
}

static enum err_code decode(struct region_row *row, const struct meta_row *from, struct err *err)
{
    const char *name = from->key + strlen(PREFIX), *wal_url = "", *router_url = "";
    json_t *document = NULL;
    uint64_t number = 0;
    enum err_code rc = json_doc_parse(&document, from->value, from->value_len, err);

    *row = (struct region_row){0};
    if (rc == ERR_OK)
        rc = json_doc_bool(document, "self", &row->is_self, err);
    if (rc == ERR_OK)
        rc = json_doc_text(document, "wal_url", &wal_url, err);
    if (rc == ERR_OK)
        rc = json_doc_text(document, "router_url", &router_url, err);
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "number", 0, UINT32_MAX, &number, err);
    if (rc == ERR_OK && (!region_name_is_valid(name) || !copy_url(row->wal_url, wal_url) ||
                         !copy_url(row->router_url, router_url)))
        rc = err_set(err, ERR_CORRUPT, "a name or URL that is none");
    if (rc == ERR_OK) {
        (void)snprintf(row->name, sizeof(row->name), "%s", name);
        row->number = (uint32_t)number;
    }
    json_decref(document);
    return rc;
}

enum err_code regions_read(struct meta *meta, struct region_row **rows, size_t *count,
                           struct err *err)
{
    struct meta_row *list = NULL;
    struct region_row *found;
    size_t listed = 0, kept = 0;
    enum err_code rc = meta_list(meta, PREFIX, &list, &listed, err);

    *rows = NULL;
    *count = 0;
    if (rc != ERR_OK)
        return rc;
    found = array_alloc(MAX_OF(listed, (size_t)1), sizeof(*found));
    for (size_t i = 0; found != NULL && i < listed && kept < REGIONS_MAX; i++) {
        struct err bad = {0};

        if (decode(&found[kept], &list[i], &bad) == ERR_OK)
            kept++;
        else
            log_err(LOG_WARN, NULL, "a metadata row about a region cannot be read", &bad);
    }
    meta_rows_free(list, listed);
    if (found == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for regions");
    *rows = found;
    *count = kept;
    return ERR_OK;
}

static enum err_code put_json(struct meta *meta, const char *key, const struct buffer *json,
                              struct err *err)
{
    struct meta_put put = {
        .key = key, .value = json->data, .value_len = json->len, .expected = META_ANY};
    enum err_code rc = buffer_check(json, err);

    return rc == ERR_OK ? meta_put(meta, &put, NULL, err) : rc;
}

static void encode(const struct region_row *row, struct buffer *out)
{
    struct json_writer w;

    json_writer_init(&w, out);
    json_begin_object(&w);
    json_key(&w, "self");
    json_bool(&w, row->is_self);
    json_key(&w, "wal_url");
    json_text(&w, row->wal_url);
    json_key(&w, "router_url");
    json_text(&w, row->router_url);
    json_key(&w, "number");
    json_u64(&w, row->number);
    json_end_object(&w);
}

enum err_code region_write(struct meta *meta, const struct region_row *row, struct err *err)
{
    char key[sizeof(PREFIX) + REGION_NAME_BYTES];
    struct region_row written = *row, *rows = NULL;
    struct buffer json = {0};
    size_t count = 0, others = 0;
    enum err_code rc;

    if (!region_name_is_valid(row->name))
        return err_set(err, ERR_INVALID_ARGUMENT, "a region's name has 1 to %d of a-z, 0-9 and -",
                       REGION_NAME_BYTES - 1);
    rc = regions_read(meta, &rows, &count, err);
    for (size_t i = 0; i < count; i++) {
        bool same = strcmp(rows[i].name, row->name) == 0;

        others += !same;
        if (same && row->number == 0 && strcmp(rows[i].wal_url, row->wal_url) == 0)
            written.number = rows[i].number;
    }
    free(rows);
    if (rc == ERR_OK && others >= REGIONS_MAX)
        rc = err_set(err, ERR_INVALID_ARGUMENT, "more than %d regions", REGIONS_MAX);
    if (rc != ERR_OK)
        return rc;
    (void)snprintf(key, sizeof(key), PREFIX "%s", row->name);
    encode(&written, &json);
    rc = put_json(meta, key, &json, err);
    buffer_free(&json);
    return rc;
}

enum err_code region_remove(struct meta *meta, const char *name, struct err *err)
{
    char key[sizeof(PREFIX) + REGION_NAME_BYTES];

    if (!region_name_is_valid(name))
        return err_set(err, ERR_INVALID_ARGUMENT, "no region's name");
    (void)snprintf(key, sizeof(key), PREFIX "%s", name);
    return meta_delete(meta, key, META_ANY, err);
}

/* --- the role ----------------------------------------------------------------------------------
 */

const char *region_role_text(enum region_role role)
{
    return ROLES[role];
}

bool region_role_from_text(const char *text, enum region_role *role)
{
    for (size_t i = 0; i < ARRAY_COUNT(ROLES); i++)
        if (strcmp(text, ROLES[i]) == 0) {
            *role = (enum region_role)i;
            return true;
        }
    return false;
}

enum region_role region_role_decode(const void *value, size_t len)
{
    enum region_role role = REGION_ACTIVE;
    const char *text = "";
    json_t *document = NULL;
    struct err err = {0};

    if (json_doc_parse(&document, value, len, &err) != ERR_OK ||
        json_doc_text(document, "role", &text, &err) != ERR_OK ||
        !region_role_from_text(text, &role))
        log_warn(NULL, "the metadata row role cannot be read: the region counts as active");
    json_decref(document);
    return role;
}

enum err_code region_role_read(struct meta *meta, enum region_role *role, struct err *err)
{
    struct meta_row row = {0};
    enum err_code rc = meta_get(meta, "role", &row, err);

    *role = REGION_ACTIVE;
    if (rc == ERR_NOT_FOUND) {
        err_clear(err);
        return ERR_OK;
    }
    if (rc == ERR_OK)
        *role = region_role_decode(row.value, row.value_len);
    meta_row_free(&row);
    return rc;
}

enum err_code region_role_write(struct meta *meta, enum region_role role, struct err *err)
{
    struct buffer json = {0};
    enum err_code rc;

    buffer_append_format(&json, "{\"role\":\"%s\"}", region_role_text(role));
    rc = put_json(meta, "role", &json, err);
    buffer_free(&json);
    return rc;
}

/* --- the own stack -----------------------------------------------------------------------------
 */

enum err_code region_holder_url(struct meta *meta, char *out, size_t size, struct err *err)
{
    struct meta_row row = {0};
    json_t *document = NULL;
    const char *url = "";
    enum err_code rc = meta_get(meta, "lease", &row, err);

    if (rc == ERR_NOT_FOUND)
        return err_set(err, ERR_READ_ONLY, "no ingest holds the log");
    if (rc == ERR_OK)
        rc = json_doc_parse(&document, row.value, row.value_len, err);
    if (rc == ERR_OK)
        rc = json_doc_text(document, "url", &url, err);
    if (rc == ERR_OK && (url[0] == '\0' || strlen(url) >= size))
        rc = err_set(err, ERR_READ_ONLY, "no ingest holds the log");
    if (rc == ERR_OK)
        (void)snprintf(out, size, "%s", url);
    json_decref(document);
    meta_row_free(&row);
    return rc;
}

enum err_code region_deployment(struct meta *meta, uint32_t *partitions, uint32_t *number,
                                struct err *err)
{
    struct meta_row row = {0};
    json_t *document = NULL;
    uint64_t count = 0, region = 0;
    enum err_code rc = meta_get(meta, "deployment", &row, err);

    if (rc != ERR_OK)
        return rc;
    rc = json_doc_parse(&document, row.value, row.value_len, err);
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "partitions", 1, PARTITIONS_MAX, &count, err);
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "region", 0, UINT32_MAX, &region, err);
    if (rc != ERR_OK || count == 0)
        rc = err_set(err, ERR_CORRUPT, "the metadata row deployment cannot be read");
    *partitions = (uint32_t)count;
    *number = (uint32_t)region;
    json_decref(document);
    meta_row_free(&row);
    return rc;
}
