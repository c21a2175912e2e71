/* The embedders by name: see embedders.h.  The list is read once, at start; whatever is wrong with
 * it ends the start, told by the name that it stands under. */
#include "backends/embedder/embedders.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cache/cache.h"
#include "backends/embedder/embedder_http.h"
#include "common/base/arena.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/model/collection.h"

#define BUILT_IN      "hash:384"
#define EMBEDDERS_MAX 32
#define SEPARATORS    ", \t\r\n"

struct entry {
    char name[EMBEDDER_NAME_BYTES_MAX + 1];
    struct embedder *embedder;
};

struct embedders {
    struct cache *cache;
    struct entry entries[EMBEDDERS_MAX]; /* the built-in one is the first */
    size_t count;
    char names[EMBEDDERS_MAX * (EMBEDDER_NAME_BYTES_MAX + 2)];
};

/* "key=value" of an entry. */
static enum err_code read_setting(struct embedder_http_options *options, const char *text,
                                  struct err *err)
{
    const char *equals = strchr(text, '=');
    size_t len = equals == NULL ? 0 : (size_t)(equals - text);
    const char *value = equals == NULL ? "" : equals + 1;
    uint64_t number = 0;
    bool is_number = text_to_u64(value, strlen(value), &number);

    if (value[0] == '\0')
        return err_set(err, ERR_CONFIG, "\"%.60s\": want key=value", text);
    if (len == 5 && memcmp(text, "model", len) == 0) {
        options->model = value;
    } else if (len == 8 && memcmp(text, "key_file", len) == 0) {
        options->key_file = value;
    } else if (len == 9 && memcmp(text, "dimension", len) == 0) {
        if (!is_number || number < 1 || number > DIMENSION_MAX)
            return err_set(err, ERR_CONFIG, "want dimension=1 to %d", DIMENSION_MAX);
        options->dimension = (uint32_t)number;
    } else if (len == 10 && memcmp(text, "timeout_ms", len) == 0) {
        if (!is_number || number < 1 || number > DEADLINE_MS_MAX)
            return err_set(err, ERR_CONFIG, "want timeout_ms=1 to %d", DEADLINE_MS_MAX);
        options->timeout_ms = (uint32_t)number;
    } else {
        return err_set(err, ERR_CONFIG,
                       "\"%.60s\": want dimension=, model=, key_file= or timeout_ms=", text);
    }
    return ERR_OK;
}

/* One entry of the list, taken apart in place. */
static enum err_code add_entry(struct embedders *embedders, const struct embedders_setup *setup,
                               char *text, struct err *err)
{
    struct embedder_http_options options = {.name = text,
                                            .env = setup->env,
                                            .client = setup->client,
                                            .cache = embedders->cache,
                                            .metrics = setup->metrics};
    char *equals = strchr(text, '='), *at;
    struct entry *entry;
    enum err_code rc = ERR_OK;

    if (equals == NULL || !embedder_name_is_valid(text, (size_t)(equals - text)))
        return err_set(err, ERR_CONFIG,
                       "\"%.80s\": want NAME=URL;dimension=N, with a name of 1 to %d of a-z, 0-9, "
                       "., _ and -, other than none and hash",
                       text, EMBEDDER_NAME_BYTES_MAX);
    *equals = '\0';
    options.url = equals + 1;
    if (embedders_find(embedders, text) != NULL)
        return err_set(err, ERR_CONFIG, "\"%s\" stands there twice", text);
    if (embedders->count == EMBEDDERS_MAX)
        return err_set(err, ERR_CONFIG, "at most %d", EMBEDDERS_MAX - 1);
    for (at = strchr(equals + 1, ';'); at != NULL && rc == ERR_OK;) {
        char *next = strchr(at + 1, ';');

        *at = '\0';
        if (next != NULL)
            *next = '\0';
        rc = read_setting(&options, at + 1, err);
        at = next;
    }
    entry = &embedders->entries[embedders->count];
    if (rc == ERR_OK)
        rc = embedder_http_open(&entry->embedder, &options, err);
    if (rc != ERR_OK)
        return err_wrap(err, "%s", text);
    (void)snprintf(entry->name, sizeof(entry->name), "%s", text);
    embedders->count++;
    return ERR_OK;
}

static enum err_code read_list(struct embedders *embedders, const struct embedders_setup *setup,
                               struct err *err)
{
    const char *url = setup->cache_url == NULL ? EMBEDDERS_CACHE_DEFAULT : setup->cache_url;
    const char *list = setup->list == NULL ? "" : setup->list;
    struct arena arena = {0};
    enum err_code rc = ERR_OK;

    list += strspn(list, SEPARATORS);
    if (list[0] == '\0')
        return ERR_OK;
    assert(setup->client != NULL);
    rc = cache_open(&embedders->cache, url, setup->env, err);
    if (rc != ERR_OK)
        return err_wrap(err, "--embedders-cache");
    while (list[0] != '\0' && rc == ERR_OK) {
        size_t len = strcspn(list, SEPARATORS);
        char *text = arena_copy_text(&arena, list, len);

        rc = text == NULL ? err_set(err, ERR_NO_MEMORY, "no memory")
                          : add_entry(embedders, setup, text, err);
        list += len;
        list += strspn(list, SEPARATORS);
    }
    arena_free(&arena);
    return rc == ERR_OK ? ERR_OK : err_wrap(err, "--embedders");
}

static void list_names(struct embedders *embedders)
{
    size_t len = 0;

    (void)snprintf(embedders->names, sizeof(embedders->names), "none");
    for (size_t i = 1; i < embedders->count; i++)
        len += (size_t)snprintf(embedders->names + len, sizeof(embedders->names) - len, "%s%s",
                                i == 1 ? "" : ", ", embedders->entries[i].name);
}

enum err_code embedders_open(struct embedders **out, const struct embedders_setup *setup,
                             struct err *err)
{
    struct embedders *embedders = calloc(1, sizeof(*embedders));
    enum err_code rc;

    assert(setup->env != NULL);
    *out = NULL;
    if (embedders == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    rc = embedder_open(&embedders->entries[0].embedder, BUILT_IN, setup->env, err);
    if (rc == ERR_OK) {
        (void)snprintf(embedders->entries[0].name, sizeof(embedders->entries[0].name), BUILT_IN);
        embedders->count = 1;
        rc = read_list(embedders, setup, err);
    }
    if (rc != ERR_OK) {
        embedders_close(embedders);
        return rc;
    }
    list_names(embedders);
    *out = embedders;
    return ERR_OK;
}

void embedders_close(struct embedders *embedders)
{
    if (embedders == NULL)
        return;
    for (size_t i = 0; i < embedders->count; i++)
        embedder_close(embedders->entries[i].embedder);
    cache_close(embedders->cache);
    free(embedders);
}

struct embedder *embedders_find(const struct embedders *embedders, const char *name)
{
    for (size_t i = 0; i < embedders->count; i++)
        if (strcmp(embedders->entries[i].name, name) == 0)
            return embedders->entries[i].embedder;
    return NULL;
}

const char *embedders_names(const struct embedders *embedders)
{
    return embedders->names;
}
