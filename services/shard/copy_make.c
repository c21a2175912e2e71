/* Making a copy: see copy_make.h.
 *
 * Segments are immutable files that are replaced by renaming, so a hard link keeps one for nothing.
 * What belongs together may be replaced one after the other: a folder is listed again after its
 * files were linked, and linked anew when it has changed.  Where that does not succeed, or links
 * cannot be made, the copy is without those segments: the new replica links their vectors again.
 *
 * The store comes from one snapshot.  While it is copied the store grows by what commits replace.
 */
#include "services/shard/copy_make.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/log.h"

#define PATH_BYTES 4096
#define TRIES      5 /* to link a folder that changes */

enum err_code copy_pace(struct copy_pace *pace, size_t len, struct err *err)
{
    uint64_t at;

    if (pace->rate == 0)
        return ERR_OK;
    pthread_mutex_lock(&pace->lock);
    at = MAX_OF(pace->next_ns, env_boot_ns(pace->env));
    pace->next_ns = at + len * NS_PER_S / pace->rate;
    pthread_mutex_unlock(&pace->lock);
    if (env_sleep_until(pace->env, at) != ERR_OK)
        return err_set(err, ERR_DEAD, "shutting down");
    return ERR_OK;
}

/* Before each chunk. */
static enum err_code go_on(struct copy_making *making, size_t len, struct err *err)
{
    if (atomic_load(making->is_stopping))
        return err_set(err, ERR_DEAD, "shutting down");
    atomic_fetch_add(&making->made_bytes, len);
    return copy_pace(making->pace, len, err);
}

/* NULL: no memory, or too many. */
static struct copy_file *add_file(struct copy_making *making, const char *name)
{
    struct copy_file *file;

    if (making->count == making->size) {
        size_t size = MAX_OF(making->size * 2, (size_t)16);
        void *grown =
            size > COPY_FILES_MAX ? NULL : array_resize(making->files, size, sizeof(*file));

        if (grown == NULL)
            return NULL;
        making->files = grown;
        making->size = size;
    }
    file = &making->files[making->count++];
    *file = (struct copy_file){0};
    (void)snprintf(file->name, sizeof(file->name), "%s", name);
    return file;
}

/* --- segments ----------------------------------------------------------------------------------
 */

/* A folder of segments: where it is, where its links go, its name in the copy. */
struct place {
    char from[PATH_BYTES], to[PATH_BYTES];
    char name[COPY_NAME_BYTES];
};

static bool below(struct place *out, const struct place *place, const char *item)
{
    int a = snprintf(out->from, sizeof(out->from), "%s/%s", place->from, item);
    int b = snprintf(out->to, sizeof(out->to), "%s/%s", place->to, item);
    int c = snprintf(out->name, sizeof(out->name), "%s/%s", place->name, item);

    return a > 0 && (size_t)a < sizeof(out->from) && b > 0 && (size_t)b < sizeof(out->to) &&
           c > 0 && (size_t)c < sizeof(out->name) && copy_name_is_valid(out->name);
}

/* Unfinished, or set aside by the engine. */
static bool is_of_no_use(const char *name)
{
    const char *end = strrchr(name, '.');

    return end != NULL && (strcmp(end, ".tmp") == 0 || strcmp(end, ".damaged") == 0);
}

/* What a folder holds, as one number: names, files and sizes. */
static uint64_t look_at(const struct place *folder)
{
    uint64_t sum = 1;
    const struct dirent *item;
    DIR *dir = opendir(folder->from);

    while (dir != NULL && (item = readdir(dir)) != NULL) {
        struct stat about;
        uint64_t about_it[2];

        if (item->d_name[0] == '.' || is_of_no_use(item->d_name) ||
            fstatat(dirfd(dir), item->d_name, &about, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(about.st_mode))
            continue;
        about_it[0] = (uint64_t)about.st_ino;
        about_it[1] = (uint64_t)about.st_size;
        sum += hash_xxh64(about_it, sizeof(about_it),
                          hash_xxh64(item->d_name, strlen(item->d_name), 0));
    }
    if (dir != NULL)
        (void)closedir(dir); /* it was read only */
    return sum;
}

/* Forget the links of a folder again. */
static void unlink_all(struct copy_making *making, size_t count)
{
    char path[PATH_BYTES];

    while (making->count > count) {
        int len = snprintf(path, sizeof(path), "%s/%s", making->folder,
                           making->files[--making->count].name);

        if (len > 0 && (size_t)len < sizeof(path))
            (void)unlink(path);
    }
}

static bool link_files(struct copy_making *making, const struct place *folder)
{
    const struct dirent *item;
    DIR *dir = opendir(folder->from);
    bool good = dir != NULL && (mkdir(folder->to, 0777) == 0 || errno == EEXIST);

    while (good && (item = readdir(dir)) != NULL) {
        struct place file;
        struct stat about;

        if (item->d_name[0] == '.' || is_of_no_use(item->d_name) ||
            !below(&file, folder, item->d_name))
            continue;
        good = link(file.from, file.to) == 0 && stat(file.to, &about) == 0 &&
               add_file(making, file.name) != NULL;
        if (good)
            making->files[making->count - 1].bytes = (uint64_t)about.st_size;
        else
            (void)unlink(file.to);
    }
    if (dir != NULL)
        (void)closedir(dir); /* it was read only */
    return good;
}

/* The folder of one collection. */
static void link_folder(struct copy_making *making, const struct place *folder)
{
    size_t count = making->count;

    for (uint32_t i = 0; i < TRIES; i++) {
        uint64_t before = look_at(folder);

        if (link_files(making, folder) && look_at(folder) == before)
            return;
        unlink_all(making, count);
    }
    log_info(NULL, "a copy goes without the segments of a collection",
             LOG_TEXT("folder", folder->name));
}

/* All folders of a folder, depth levels down. */
static void link_below(struct copy_making *making, const struct place *folder, uint32_t depth)
{
    const struct dirent *item;
    DIR *dir = opendir(folder->from);

    if (dir != NULL)
        (void)mkdir(folder->to, 0777); /* what is not there is found missing when it is used */
    while (dir != NULL && (item = readdir(dir)) != NULL) {
        struct place *place;

        /* What goes has another name already (segments.h). */
        if (item->d_name[0] == '.' || strchr(item->d_name, '.') != NULL)
            continue;
        place = malloc(sizeof(*place));
        if (place != NULL && below(place, folder, item->d_name)) {
            if (depth > 0)
                link_below(making, place, depth - 1);
            else
                link_folder(making, place);
        }
        free(place);
    }
    if (dir != NULL)
        (void)closedir(dir); /* it was read only */
}

static void link_segments(struct copy_making *making)
{
    struct place *root = malloc(sizeof(*root));
    int from, to;

    if (root != NULL && making->segments != NULL) {
        from = snprintf(root->from, sizeof(root->from), "%s", making->segments);
        to = snprintf(root->to, sizeof(root->to), "%s/segments", making->folder);
        (void)snprintf(root->name, sizeof(root->name), "segments");
        if (from > 0 && (size_t)from < sizeof(root->from) && to > 0 &&
            (size_t)to < sizeof(root->to))
            link_below(making, root, 1);
    }
    free(root);
}

/* --- files -------------------------------------------------------------------------------------
 */

/* The digest of a file that stands in the folder. */
static enum err_code digest_file(struct copy_making *making, struct copy_file *file, int fd,
                                 uint8_t *chunk, struct err *err)
{
    uint64_t at = 0;

    while (at < file->bytes) {
        size_t len = MIN_OF(COPY_CHUNK_BYTES, file->bytes - at);
        enum err_code code = go_on(making, len, err);
        ssize_t got;

        if (code != ERR_OK)
            return code;
        got = pread(fd, chunk, len, (off_t)at);
        if (got < 0)
            return err_set_errno(err, errno, "copy: %.100s", file->name);
        if ((size_t)got < len)
            return err_set(err, ERR_IO, "copy: %.100s has become shorter", file->name);
        copy_chain(&file->digest, chunk, len);
        at += len;
    }
    return ERR_OK;
}

static enum err_code digest_segments(struct copy_making *making, struct err *err)
{
    uint8_t *chunk = malloc(COPY_CHUNK_BYTES);
    enum err_code code = ERR_OK;

    if (chunk == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a copy");
    for (size_t i = 0; code == ERR_OK && i < making->count; i++) {
        char path[PATH_BYTES];
        int fd;

        (void)snprintf(path, sizeof(path), "%s/%s", making->folder, making->files[i].name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            code = err_set_errno(err, errno, "copy: %.200s", path);
            break;
        }
        code = digest_file(making, &making->files[i], fd, chunk, err);
        (void)close(fd); /* nothing was written through it */
    }
    free(chunk);
    return code;
}

/* The store's bytes on their way into a file, chunk by chunk. */
struct sink {
    struct copy_making *making;
    struct copy_file *file;
    int fd;
    size_t used;
    uint8_t *chunk;
};

static enum err_code flush_chunk(struct sink *sink, struct err *err)
{
    enum err_code code = go_on(sink->making, sink->used, err);
    size_t done = 0;

    while (code == ERR_OK && done < sink->used) {
        ssize_t len = write(sink->fd, sink->chunk + done, sink->used - done);

        if (len < 0)
            return err_set_errno(err, errno, "copy: the store");
        done += (size_t)len;
    }
    if (code == ERR_OK && sink->used > 0)
        copy_chain(&sink->file->digest, sink->chunk, sink->used);
    sink->file->bytes += sink->used;
    sink->used = 0;
    return code;
}

static enum err_code take_piece(void *context, const void *data, size_t len, struct err *err)
{
    struct sink *sink = context;
    const uint8_t *bytes = data;
    enum err_code code = ERR_OK;

    while (code == ERR_OK && len > 0) {
        size_t part = MIN_OF(COPY_CHUNK_BYTES - sink->used, len);

        memcpy(sink->chunk + sink->used, bytes, part);
        sink->used += part;
        bytes += part;
        len -= part;
        if (sink->used == COPY_CHUNK_BYTES)
            code = flush_chunk(sink, err);
    }
    return code;
}

static enum err_code copy_store(struct copy_making *making, struct err *err)
{
    struct sink sink = {.making = making, .chunk = malloc(COPY_CHUNK_BYTES)};
    char path[PATH_BYTES];
    enum err_code code = ERR_OK;

    sink.file = add_file(making, COPY_STORE_NAME);
    (void)snprintf(path, sizeof(path), "%s/store", making->folder);
    if (sink.file == NULL || sink.chunk == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory for a copy");
    else if (mkdir(path, 0777) != 0)
        code = err_set_errno(err, errno, "copy: mkdir %.200s", path);
    (void)snprintf(path, sizeof(path), "%s/" COPY_STORE_NAME, making->folder);
    sink.fd = code == ERR_OK ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
    if (code == ERR_OK && sink.fd < 0)
        code = err_set_errno(err, errno, "copy: %.200s", path);
    if (code == ERR_OK)
        code = store_copy(making->store, take_piece, &sink, err);
    if (code == ERR_OK)
        code = flush_chunk(&sink, err);
    if (sink.fd >= 0 && close(sink.fd) != 0 && code == ERR_OK)
        code = err_set_errno(err, errno, "copy: the store");
    free(sink.chunk);
    return code;
}

enum err_code copy_make(struct copy_making *making, struct err *err)
{
    enum err_code code;

    link_segments(making);
    code = digest_segments(making, err);
    return code == ERR_OK ? copy_store(making, err) : code;
}
