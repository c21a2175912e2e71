/* Fetching a copy: see seed_fetch.h.
 *
 * Happy path: have one made, ask until it is ready, make its folders, fetch each file chunk by
 * chunk. A chunk that does not come is asked for again, TRIES times; a copy that is gone (its maker
 * has died or forgotten it) ends the fetch, and the caller begins again. */
#include "services/shard/seed_fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/http/json_doc.h"
#include "services/shard/copy.h"

#define CALL_NS        (30 * NS_PER_S)
#define STUCK_NS       (60 * NS_PER_S) /* a copy that does not grow for so long */
#define PAUSE_NS       (100 * NS_PER_MS)
#define LIST_BYTES_MAX MIB(64)
#define PATH_BYTES     4096
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

/* Is there room for all of them, and a store among them? */
static enum err_code check_list(struct seed_fetch *fetch, const json_t *files, struct err *err)
{
    size_t count = json_array_size(files);
    struct statvfs about;
    bool has_store = false;

    fetch->bytes = 0;
    if (count > COPY_FILES_MAX)
        return err_set(err, ERR_CORRUPT, "the copy has too many files");
    for (size_t i = 0; i < count; i++) {
        struct copy_file file;
        enum err_code code = read_file(json_array_get(files, i), &file, err);

        if (code != ERR_OK)
            return code;
        if (!checked_add(fetch->bytes, file.bytes, &fetch->bytes))
            return err_set(err, ERR_CORRUPT, "the copy is too large");
        has_store = has_store || strcmp(file.name, COPY_STORE_NAME) == 0;
    }
    if (!has_store)
        return err_set(err, ERR_CORRUPT, "the copy has no store");
    if (statvfs(fetch->folder, &about) == 0 &&
        (uint64_t)about.f_bavail * about.f_frsize < fetch->bytes)
        return err_set(err, ERR_INSUFFICIENT_STORAGE, "no room for a copy of %" PRIu64 " bytes",
                       fetch->bytes);
    return ERR_OK;
}

/* --- a file ------------------------------------------------------------------------------------
 */

/* The folders of a name; its parts are names of ours. */
static enum err_code make_folders(const struct seed_fetch *fetch, const char *name, struct err *err)
{
    char path[PATH_BYTES];

    for (const char *slash = strchr(name, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        int len = snprintf(path, sizeof(path), "%s/%.*s", fetch->folder, (int)(slash - name), name);

        if (len < 0 || (size_t)len >= sizeof(path))
            return err_set(err, ERR_CONFIG, "the path of a copy is too long");
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            return err_set_errno(err, errno, "seed: mkdir %.200s", path);
    }
    return ERR_OK;
}

/* One chunk; call->reply is the caller's to free. */
static enum err_code fetch_chunk(const struct seed_fetch *fetch, struct http_call *call, size_t len,
                                 struct err *err)
{
    enum err_code code = ERR_OK;

    for (uint32_t i = 0; i < TRIES; i++) {
        if ((code = go_on(fetch, err)) != ERR_OK)
            return code;
        (void)http_call_one(fetch->client, call, env_boot_ns(fetch->env) + CALL_NS);
        code = http_call_expect(call, err);
        if (code == ERR_OK || !err_is_retriable(code))
            break;
    }
    if (code == ERR_OK && call->reply.len != len)
        code = err_set(err, ERR_CORRUPT, "a chunk of a copy has another size");
    return code;
}

static enum err_code write_all(int fd, const uint8_t *data, size_t len, struct err *err)
{
    while (len > 0) {
        ssize_t done = write(fd, data, len);

        if (done < 0)
            return err_set_errno(err, errno, "seed: writing");
        data += done;
        len -= (size_t)done;
    }
    return ERR_OK;
}

/* Which file of which copy. */
struct source {
    const char *id;
    size_t number;
    const struct copy_file *file;
};

static enum err_code fetch_into(const struct seed_fetch *fetch, const struct source *source, int fd,
                                struct err *err)
{
    struct hash128 digest = {0};
    enum err_code code = ERR_OK;

    for (uint64_t at = 0; code == ERR_OK && at < source->file->bytes; at += COPY_CHUNK_BYTES) {
        size_t len = MIN_OF(COPY_CHUNK_BYTES, source->file->bytes - at);
        char path[128];
        struct http_call call = {
            .method = "GET", .base = fetch->url, .path = path, .reply_max = COPY_CHUNK_BYTES};

        (void)snprintf(path, sizeof(path), "/internal/v1/copy/chunk?id=%s&file=%zu&offset=%" PRIu64,
                       source->id, source->number, at);
        code = fetch_chunk(fetch, &call, len, err);
        if (code == ERR_OK) {
            copy_chain(&digest, call.reply.data, len);
            code = write_all(fd, call.reply.data, len, err);
        }
        http_call_free(&call);
    }
    if (code == ERR_OK && !hash128_equal(digest, source->file->digest))
        code = err_set(err, ERR_CORRUPT, "%.100s has come damaged", source->file->name);
    if (code == ERR_OK && fsync(fd) != 0)
        code = err_set_errno(err, errno, "seed: fsync");
    return code;
}

static enum err_code fetch_file(const struct seed_fetch *fetch, const struct source *source,
                                struct err *err)
{
    char path[PATH_BYTES];
    int len = snprintf(path, sizeof(path), "%s/%s", fetch->folder, source->file->name);
    enum err_code code = make_folders(fetch, source->file->name, err);
    int fd;

    if (code == ERR_OK && (len < 0 || (size_t)len >= sizeof(path)))
        code = err_set(err, ERR_CONFIG, "the path of a copy is too long");
    if (code != ERR_OK)
        return code;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_set_errno(err, errno, "seed: %.200s", path);
    code = fetch_into(fetch, source, fd, err);
    if (close(fd) != 0 && code == ERR_OK)
        code = err_set_errno(err, errno, "seed: %.200s", path);
    return code;
}

enum err_code seed_fetch_run(struct seed_fetch *fetch, struct err *err)
{
    json_t *copy = NULL;
    const json_t *files;
    struct source source = {0};
    struct copy_file file;
    enum err_code code = await_copy(fetch, &copy, err);

    files = json_object_get(copy, "files");
    source.id = json_string_value(json_object_get(copy, "id"));
    if (code == ERR_OK &&
        (source.id == NULL || strspn(source.id, "0123456789abcdef") != ID_DIGITS ||
         strlen(source.id) != ID_DIGITS))
        code = err_set(err, ERR_CORRUPT, "the copy has no name");
    if (code == ERR_OK)
        code = check_list(fetch, files, err);
    source.file = &file;
    for (; code == ERR_OK && source.number < json_array_size(files); source.number++) {
        code = read_file(json_array_get(files, source.number), &file, err);
        if (code == ERR_OK)
            code = fetch_file(fetch, &source, err);
    }
    json_decref(copy);
    return code;
}
