/* Fetching a copy: see seed_fetch.h.
 *
 * Happy path: have one made, ask until it is ready, write its files chunk by chunk (copy_write.h).
 * A chunk that does not come is asked for again, TRIES times; a copy that is gone (its maker has
 * died or forgotten it) ends the fetch, and the caller begins again. */
#include "services/shard/seed_fetch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/http/json_doc.h"
#include "services/shard/copy_write.h"

#define CALL_NS        (30 * NS_PER_S)
#define STUCK_NS       (60 * NS_PER_S) /* a copy that does not grow for so long */
#define PAUSE_NS       (100 * NS_PER_MS)
#define LIST_BYTES_MAX MIB(64)
#define TRIES          3
#define ID_DIGITS      16

static enum err_code go_on(const struct seed_fetch *fetch, struct err *err)
{
    if (fetch->is_stopping != NULL && fetch->is_stopping())
        return err_set(err, ERR_DEAD, "shutting down");
    return ERR_OK;
}

/* What the other says of its copy; *out is owned. */
static enum err_code ask(const struct seed_fetch *fetch, const char *method, json_t **out,
                         struct err *err)
{
    struct http_call call = {.method = method,
                             .base = fetch->url,
                             .path = "/internal/v1/copy",
                             .reply_max = LIST_BYTES_MAX};
    enum err_code code;

    *out = NULL;
    (void)http_call_one(fetch->client, &call, env_boot_ns(fetch->env) + CALL_NS);
    code = http_call_expect(&call, err);
    if (code == ERR_OK)
        code = json_doc_parse(out, call.reply.data, call.reply.len, err);
    http_call_free(&call);
    return code;
}

/* Until the copy is ready.  *out is what is said of it then, owned. */
static enum err_code await_copy(const struct seed_fetch *fetch, json_t **out, struct err *err)
{
    uint64_t grown_ns = env_boot_ns(fetch->env), bytes = 0;
    enum err_code code = ask(fetch, "POST", out, err);

    while (code == ERR_OK) {
        const char *state = json_string_value(json_object_get(*out, "state"));
        uint64_t made = (uint64_t)json_integer_value(json_object_get(*out, "made_bytes"));

        if (state != NULL && strcmp(state, "ready") == 0)
            return ERR_OK;
        if (state == NULL || strcmp(state, "making") != 0)
            return err_set(err, ERR_UNAVAILABLE, "the copy is not made: %.200s",
                           json_string_value(json_object_get(*out, "detail")) == NULL
                               ? "?"
                               : json_string_value(json_object_get(*out, "detail")));
        if (made != bytes)
            grown_ns = env_boot_ns(fetch->env);
        bytes = made;
        if (env_boot_ns(fetch->env) - grown_ns > STUCK_NS)
            return err_set(err, ERR_TIMEOUT, "the copy does not get on");
        json_decref(*out);
        *out = NULL;
        if ((code = go_on(fetch, err)) == ERR_OK &&
            env_sleep_until(fetch->env, env_boot_ns(fetch->env) + PAUSE_NS) != ERR_OK)
            code = err_set(err, ERR_DEAD, "shutting down");
        if (code == ERR_OK)
            code = ask(fetch, "GET", out, err);
    }
    return code;
}

/* --- the list ----------------------------------------------------------------------------------
 */

/* One entry of "files". */
static enum err_code read_file(const json_t *entry, struct copy_file *out, struct err *err)
{
    const char *name = json_string_value(json_object_get(entry, "name"));
    const char *digest = json_string_value(json_object_get(entry, "digest"));
    json_int_t bytes = json_integer_value(json_object_get(entry, "bytes"));
    struct hash128 hash;

    if (name == NULL || digest == NULL || bytes < 0 || !copy_name_is_valid(name) ||
        !hash128_from_text(&hash, digest, strlen(digest)))
        return err_set(err, ERR_CORRUPT, "the copy has a file that cannot be one");
    *out = (struct copy_file){.bytes = (uint64_t)bytes, .digest = hash};
    (void)snprintf(out->name, sizeof(out->name), "%s", name);
    return ERR_OK;
}

/* *out is owned: free. */
static enum err_code read_list(const json_t *files, struct copy_file **out, size_t *count,
                               struct err *err)
{
    enum err_code code = ERR_OK;

    *count = json_array_size(files);
    if (*count > COPY_FILES_MAX)
        return err_set(err, ERR_CORRUPT, "the copy has too many files");
    *out = array_alloc(*count, sizeof(**out));
    if (*out == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the files of a copy");
    for (size_t i = 0; code == ERR_OK && i < *count; i++)
        code = read_file(json_array_get(files, i), &(*out)[i], err);
    return code;
}

/* --- a chunk -----------------------------------------------------------------------------------
 */

/* Which copy. */
struct source {
    const struct seed_fetch *fetch;
    const char *id;
};

static enum err_code fetch_chunk(void *context, const struct copy_chunk *chunk, struct buffer *out,
                                 struct err *err)
{
    const struct source *source = context;
    char path[128];
    struct http_call call = {
        .method = "GET", .base = source->fetch->url, .path = path, .reply_max = COPY_CHUNK_BYTES};
    enum err_code code = ERR_OK;

    (void)snprintf(path, sizeof(path), "/internal/v1/copy/chunk?id=%s&file=%zu&offset=%" PRIu64,
                   source->id, chunk->file, chunk->at);
    for (uint32_t i = 0; i < TRIES; i++) {
        if ((code = go_on(source->fetch, err)) != ERR_OK)
            break;
        (void)http_call_one(source->fetch->client, &call,
                            env_boot_ns(source->fetch->env) + CALL_NS);
        code = http_call_expect(&call, err);
        if (code == ERR_OK || !err_is_retriable(code))
            break;
    }
    if (code == ERR_OK) {
        buffer_append(out, call.reply.data, call.reply.len);
        code = buffer_check(out, err);
    }
    http_call_free(&call);
    return code;
}

enum err_code seed_fetch_run(struct seed_fetch *fetch, struct err *err)
{
    struct source source = {.fetch = fetch};
    struct copy_writing writing = {
        .folder = fetch->folder, .read = fetch_chunk, .context = &source};
    struct copy_file *files = NULL;
    json_t *copy = NULL;
    enum err_code code = await_copy(fetch, &copy, err);

    source.id = json_string_value(json_object_get(copy, "id"));
    if (code == ERR_OK &&
        (source.id == NULL || strspn(source.id, "0123456789abcdef") != ID_DIGITS ||
         strlen(source.id) != ID_DIGITS))
        code = err_set(err, ERR_CORRUPT, "the copy has no name");
    if (code == ERR_OK)
        code = read_list(json_object_get(copy, "files"), &files, &writing.count, err);
    writing.files = files;
    if (code == ERR_OK)
        code = copy_write(&writing, err);
    fetch->bytes = writing.bytes;
    free(files);
    json_decref(copy);
    return code;
}
