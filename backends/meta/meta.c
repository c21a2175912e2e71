/* The front of every metadata store: see meta.h.
 *
 * Here the back end is chosen by the whole scheme of the URL, sizes are checked once for all back
 * ends, each call is a place where the simulation may stop the node, and what a back end promises
 * is asserted behind each call.
 */
#include "backends/meta/meta.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/text.h"

static const struct meta_ops *const back_ends[] = {&meta_sqlite_ops, &meta_postgres_ops,
                                                   &meta_memory_ops};

static const struct meta_ops *find_back_end(const char *url)
{
    for (size_t i = 0; i < ARRAY_COUNT(back_ends); i++)
        if (text_has_scheme(url, back_ends[i]->scheme) ||
            (back_ends[i]->scheme_too != NULL && text_has_scheme(url, back_ends[i]->scheme_too)))
            return back_ends[i];
    return NULL;
}

enum err_code meta_open(struct meta **out, const char *url, struct env *env, struct err *err)
{
    const struct meta_ops *ops;
    enum err_code code;

    assert(url != NULL);
    assert(env != NULL);
    *out = NULL;
    ops = find_back_end(url);
    if (ops == NULL)
        return err_set(err, ERR_CONFIG,
                       "metadata URL \"%.*s…\": want sqlite:FILE, postgres://… or memory:",
                       (int)strcspn(url, ":/"), url);
    code = ops->open(out, url, env, err);
    assert((code == ERR_OK) == (*out != NULL));
    if (code != ERR_OK)
        return code;
    assert((*out)->ops == ops);
    assert((*out)->env == env);
    return ERR_OK;
}

void meta_close(struct meta *meta)
{
    if (meta != NULL)
        meta->ops->close(meta);
}

static enum err_code check_key(const char *key, struct err *err)
{
    size_t len = strnlen(key, META_KEY_BYTES_MAX + 1);

    if (len == 0 || len > META_KEY_BYTES_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "metadata key: want 1 to %d bytes",
                       META_KEY_BYTES_MAX);
    return ERR_OK;
}

static enum err_code check_alive(struct meta *meta, struct err *err)
{
    if (env_yield(meta->env) != ERR_OK)
        return err_set(err, ERR_DEAD, "metadata: shutting down");
    return ERR_OK;
}

enum err_code meta_get(struct meta *meta, const char *key, struct meta_row *row, struct err *err)
{
    return meta_get_until(meta, key, NEVER_NS, row, err);
}

enum err_code meta_get_until(struct meta *meta, const char *key, uint64_t until_ns,
                             struct meta_row *row, struct err *err)
{
    struct meta_row got = {0};
    enum err_code code = check_key(key, err);

    if (code == ERR_OK)
        code = check_alive(meta, err);
    if (code == ERR_OK)
        code = meta->ops->get(meta, key, until_ns, &got, err);
    if (code != ERR_OK)
        return code;
    assert(strcmp(got.key, key) == 0);
    assert(got.version > 0);
    assert(((const char *)got.value)[got.value_len] == '\0');
    *row = got;
    return ERR_OK;
}

void meta_row_free(struct meta_row *row)
{
    free(row->key);
    free(row->value);
    *row = (struct meta_row){0};
}

enum err_code meta_put(struct meta *meta, const struct meta_put *put, uint64_t *version,
                       struct err *err)
{
    uint64_t written = 0;
    enum err_code code;

    assert(put->value != NULL || put->value_len == 0);
    code = check_key(put->key, err);
    if (code == ERR_OK && put->value_len > META_VALUE_BYTES_MAX)
        code = err_set(err, ERR_INVALID_ARGUMENT, "metadata %s: value over %zu bytes", put->key,
                       META_VALUE_BYTES_MAX);
    if (code == ERR_OK)
        code = check_alive(meta, err);
    if (code == ERR_OK)
        code = meta->ops->put(meta, put, &written, err);
    if (code != ERR_OK)
        return code;
    assert(written > 0);
    assert(put->expected == META_ANY || written > put->expected);
    if (version != NULL)
        *version = written;
    return ERR_OK;
}

enum err_code meta_delete(struct meta *meta, const char *key, uint64_t expected, struct err *err)
{
    enum err_code code = check_key(key, err);

    if (code == ERR_OK)
        code = check_alive(meta, err);
    if (code == ERR_OK)
        code = meta->ops->remove(meta, key, expected, err);
    assert(code != ERR_NOT_FOUND);
    return code;
}

enum err_code meta_list(struct meta *meta, const char *prefix, struct meta_row **rows,
                        size_t *count, struct err *err)
{
    struct meta_row *got = NULL;
    size_t got_count = 0;
    enum err_code code = ERR_OK;

    assert(prefix != NULL);
    *rows = NULL;
    if (strnlen(prefix, META_KEY_BYTES_MAX + 1) > META_KEY_BYTES_MAX)
        code = err_set(err, ERR_INVALID_ARGUMENT, "metadata prefix: over %d bytes",
                       META_KEY_BYTES_MAX);
    if (code == ERR_OK)
        code = check_alive(meta, err);
    if (code == ERR_OK)
        code = meta->ops->list(meta, prefix, &got, &got_count, err);
    if (code != ERR_OK)
        return code;
    for (size_t i = 0; i < got_count; i++) {
        assert(strncmp(got[i].key, prefix, strlen(prefix)) == 0);
        assert(i == 0 || strcmp(got[i - 1].key, got[i].key) < 0);
    }
    *rows = got;
    *count = got_count;
    return ERR_OK;
}

void meta_rows_free(struct meta_row *rows, size_t count)
{
    assert(rows != NULL || count == 0);
    for (size_t i = 0; i < count; i++)
        meta_row_free(&rows[i]);
    free(rows);
}

enum err_code meta_version(struct meta *meta, uint64_t *version, struct err *err)
{
    enum err_code code = check_alive(meta, err);

    return code == ERR_OK ? meta->ops->version(meta, version, err) : code;
}

enum err_code meta_wait(struct meta *meta, uint64_t seen, uint64_t deadline_ns, uint64_t *version,
                        struct err *err)
{
    uint64_t present = 0;
    enum err_code code = check_alive(meta, err);

    if (code == ERR_OK)
        code = meta->ops->wait(meta, seen, deadline_ns, &present, err);
    if (code == ERR_OK)
        *version = present;
    return code;
}

/* --- lag ---------------------------------------------------------------------------------------
 */

static bool is_region_name(const char *name)
{
    size_t len = strnlen(name, REGION_NAME_BYTES);

    for (size_t i = 0; i < len; i++) {
        char c = name[i];

        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'))
            return false;
    }
    return len > 0 && len < REGION_NAME_BYTES;
}

/* Databases have 63 bits. */
static bool has_lag_numbers(const struct meta_lag *lag)
{
    return lag->origin_end <= INT64_MAX && lag->applied <= INT64_MAX &&
           lag->lag_records <= INT64_MAX && lag->seen_us <= INT64_MAX &&
           (lag->lag_ms <= INT64_MAX || lag->lag_ms == LAG_NEVER);
}

enum err_code meta_lag_put(struct meta *meta, const struct meta_lag *lags, size_t count,
                           struct err *err)
{
    enum err_code code = check_alive(meta, err);

    if (code == ERR_OK && count > META_LAG_MAX)
        code = err_set(err, ERR_INVALID_ARGUMENT, "metadata: %zu rows of lag", count);
    for (size_t i = 0; code == ERR_OK && i < count; i++) {
        if (!is_region_name(lags[i].region) || !is_region_name(lags[i].origin))
            code = err_set(err, ERR_INVALID_ARGUMENT, "metadata: a region's name");
        else if (!has_lag_numbers(&lags[i]))
            code = err_set(err, ERR_INVALID_ARGUMENT, "metadata: a number of lag is over 63 bits");
    }
    return code == ERR_OK && count > 0 ? meta->ops->lag_put(meta, lags, count, err) : code;
}

int meta_lag_compare(const struct meta_lag *a, const struct meta_lag *b)
{
    int order = strcmp(a->region, b->region);

    if (order == 0)
        order = strcmp(a->origin, b->origin);
    if (order != 0)
        return order;
    return a->partition < b->partition ? -1 : a->partition > b->partition;
}

enum err_code meta_lag_list(struct meta *meta, struct meta_lag **lags, size_t *count,
                            struct err *err)
{
    struct meta_lag *got = NULL;
    size_t got_count = 0;
    enum err_code code = check_alive(meta, err);

    *lags = NULL;
    if (code == ERR_OK)
        code = meta->ops->lag_list(meta, &got, &got_count, err);
    if (code != ERR_OK)
        return code;
    for (size_t i = 1; i < got_count; i++)
        assert(meta_lag_compare(&got[i - 1], &got[i]) < 0);
    *lags = got;
    *count = got_count;
    return ERR_OK;
}

enum err_code meta_lag_remove(struct meta *meta, const char *origin, struct err *err)
{
    enum err_code code = check_alive(meta, err);

    if (code == ERR_OK && !is_region_name(origin))
        code = err_set(err, ERR_INVALID_ARGUMENT, "metadata: a region's name");
    return code == ERR_OK ? meta->ops->lag_remove(meta, origin, err) : code;
}

enum err_code meta_lags_push(struct meta_lags *lags, const struct meta_lag *lag, struct err *err)
{
    if (lags->count == lags->size) {
        size_t size = lags->size == 0 ? 64 : lags->size * 2;
        struct meta_lag *bigger = array_resize(lags->items, size, sizeof(*bigger));

        if (bigger == NULL)
            return err_set(err, ERR_NO_MEMORY, "metadata: no memory for %zu rows of lag", size);
        lags->items = bigger;
        lags->size = size;
    }
    lags->items[lags->count++] = *lag;
    return ERR_OK;
}

/* --- what back ends share ----------------------------------------------------------------------
 */

enum err_code meta_row_fill(struct meta_row *row, const struct meta_put *from, uint64_t version,
                            struct err *err)
{
    struct meta_row made = {.value_len = from->value_len, .version = version};

    made.key = strdup(from->key);
    made.value = malloc(from->value_len + 1);
    if (made.key == NULL || made.value == NULL) {
        meta_row_free(&made);
        return err_set(err, ERR_NO_MEMORY, "metadata %s: no memory", from->key);
    }
    if (from->value_len > 0)
        memcpy(made.value, from->value, from->value_len);
    ((char *)made.value)[from->value_len] = '\0';
    *row = made;
    return ERR_OK;
}

enum err_code meta_rows_push(struct meta_rows *rows, const struct meta_put *from, uint64_t version,
                             struct err *err)
{
    enum err_code code;

    if (rows->count == rows->size) {
        size_t size = rows->size == 0 ? 16 : rows->size * 2;
        struct meta_row *bigger = array_resize(rows->rows, size, sizeof(*bigger));

        if (bigger == NULL)
            return err_set(err, ERR_NO_MEMORY, "metadata: no memory for %zu rows", size);
        rows->rows = bigger;
        rows->size = size;
    }
    code = meta_row_fill(&rows->rows[rows->count], from, version, err);
    if (code == ERR_OK)
        rows->count++;
    return code;
}
