/* Blobs as files of one folder: see blob.h.
 *
 * A put writes ".put-…" in the folder, syncs it, renames it into its place and syncs the folder of
 * that place; folders on the way are made, and their entries synced, first.  So a file under an
 * object's name is whole and durable.  What a crash leaves is a ".put-…" that nobody names: an open
 * removes those that are over an hour old, for another process may be writing younger ones. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backends/blob/blob.h"
#include "common/base/bytes.h"
#include "common/base/text.h"

#define PUT_PREFIX   ".put-"
#define PUT_SECONDS  3600
#define DEPTH_MAX    16 /* of folders */
#define SCHEME_BYTES 5  /* "file:" */

struct file_blob {
    struct blob base; /* first */
    int fd;           /* of the folder */
};

static struct file_blob *file_of(struct blob *blob)
{
    assert(blob->ops == &blob_file_ops);
    return (struct file_blob *)blob;
}

/* --- open and close -------------------------------------------------------------------------- */

static enum err_code file_check_url(const char *url, struct err *err)
{
    size_t len = strlen(url);

    if (len <= SCHEME_BYTES || len - SCHEME_BYTES >= PATH_MAX - BLOB_NAME_BYTES_MAX - 1)
        return err_set(err, ERR_CONFIG, "blob URL: want file:DIR");
    return ERR_OK;
}

/* A crash of long ago has left it. */
static void sweep(int fd)
{
    DIR *dir;
    struct dirent *entry;
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (copy < 0)
        return;
    if ((dir = fdopendir(copy)) == NULL) {
        (void)close(copy);
        return;
    }
    while ((entry = readdir(dir)) != NULL) {
        struct stat about;

        if (strncmp(entry->d_name, PUT_PREFIX, strlen(PUT_PREFIX)) == 0 &&
            fstatat(fd, entry->d_name, &about, AT_SYMLINK_NOFOLLOW) == 0 &&
            time(NULL) - about.st_mtim.tv_sec > PUT_SECONDS)
            (void)unlinkat(fd, entry->d_name, 0);
    }
    (void)closedir(dir);
}

static enum err_code sync_parent(const char *path, struct err *err)
{
    char parent[PATH_MAX + 4];
    enum err_code code = ERR_OK;
    int fd;

    (void)snprintf(parent, sizeof(parent), "%s/..", path);
    fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        code = err_set_errno(err, errno, "blob folder %.200s", parent);
    if (fd >= 0)
        (void)close(fd);
    return code;
}

static enum err_code make_folder(const char *path, struct err *err)
{
    if (mkdir(path, 0777) == 0)
        return sync_parent(path, err);
    return errno == EEXIST ? ERR_OK : err_set_errno(err, errno, "blob folder %.200s", path);
}

static enum err_code file_open(struct blob **out, const struct blob_options *options,
                               struct err *err)
{
    const char *path = options->url + SCHEME_BYTES;
    struct file_blob *file;
    enum err_code code = file_check_url(options->url, err);

    if (code == ERR_OK && !options->read_only)
        code = make_folder(path, err);
    if (code != ERR_OK)
        return code;
    file = calloc(1, sizeof(*file));
    if (file == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a blob store");
    file->base = (struct blob){.ops = &blob_file_ops, .env = options->env};
    file->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file->fd < 0) {
        code = err_set_errno(err, errno, "blob folder %.200s", path);
        free(file);
        return code;
    }
    if (!options->read_only)
        sweep(file->fd);
    *out = &file->base;
    return ERR_OK;
}

static void file_close(struct blob *blob)
{
    struct file_blob *file = file_of(blob);

    (void)close(file->fd);
    free(file);
}

/* --- writing --------------------------------------------------------------------------------- */

static enum err_code write_all(int fd, const void *data, size_t len, struct err *err)
{
    const uint8_t *from = data;

    while (len > 0) {
        ssize_t done = write(fd, from, len);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return err_set_errno(err, done == 0 ? ENOSPC : errno, "write");
        from += done;
        len -= (size_t)done;
    }
    return ERR_OK;
}

/* The folder of a name, opened, made with all above it.  *leaf is what the object is called in it;
 * the caller closes *out. */
static enum err_code open_parent(const struct file_blob *file, const char *name, bool make,
                                 int *out, const char **leaf, struct err *err)
{
    int fd = openat(file->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    unsigned depth = 0;

    for (const char *slash; fd >= 0 && (slash = strchr(name, '/')) != NULL; name = slash + 1) {
        char part[BLOB_NAME_BYTES_MAX + 1];
        int next;

        if (++depth > DEPTH_MAX) {
            (void)close(fd);
            return err_set(err, ERR_INVALID_ARGUMENT, "more than %d folders deep", DEPTH_MAX);
        }
        (void)snprintf(part, sizeof(part), "%.*s", (int)(slash - name), name);
        if (make && mkdirat(fd, part, 0777) == 0 && fsync(fd) != 0)
            next = -1;
        else
            next = openat(fd, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)close(fd);
        fd = next;
    }
    if (fd < 0 && errno == ENOENT && !make)
        return err_set(err, ERR_NOT_FOUND, "there is no such object");
    if (fd < 0)
        return err_set_errno(err, errno, "folder");
    *out = fd;
    *leaf = name;
    return ERR_OK;
}

static enum err_code put_as(const struct file_blob *file, const char *temporary, const void *data,
                            size_t len, struct err *err)
{
    int fd = openat(file->fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    enum err_code code;
    int result;

    if (fd < 0)
        return err_set_errno(err, errno, "create");
    /* A full disk is known before a byte is written; where this is not supported, by the writes. */
    result = posix_fallocate(fd, 0, (off_t)len);
    if (result == ENOSPC || result == EDQUOT || result == EFBIG)
        code = err_set_errno(err, ENOSPC, "no room");
    else
        code = write_all(fd, data, len, err);
    if (code == ERR_OK && fsync(fd) != 0)
        code = err_set_errno(err, errno, "sync");
    if (close(fd) != 0 && code == ERR_OK)
        code = err_set_errno(err, errno, "close");
    return code;
}

static enum err_code file_put(struct blob *blob, const char *name, const void *data, size_t len,
                              struct err *err)
{
    struct file_blob *file = file_of(blob);
    char temporary[sizeof(PUT_PREFIX) + 32];
    uint64_t random;
    const char *leaf;
    int parent = -1;
    enum err_code code = open_parent(file, name, true, &parent, &leaf, err);

    if (code != ERR_OK)
        return code;
    env_random(blob->env, &random, sizeof(random));
    (void)snprintf(temporary, sizeof(temporary), PUT_PREFIX "%016llx", (unsigned long long)random);
    code = put_as(file, temporary, data, len, err);
    if (code == ERR_OK && renameat(file->fd, temporary, parent, leaf) != 0)
        code = err_set_errno(err, errno, "rename");
    if (code != ERR_OK)
        (void)unlinkat(file->fd, temporary, 0);
    else if (fsync(parent) != 0)
        code = err_set_errno(err, errno, "sync of the folder");
    (void)close(parent);
    return code;
}

static enum err_code file_remove(struct blob *blob, const char *name, struct err *err)
{
    const char *leaf;
    int parent = -1;
    enum err_code code = open_parent(file_of(blob), name, false, &parent, &leaf, err);

    if (code == ERR_NOT_FOUND) {
        err_clear(err);
        return ERR_OK;
    }
    if (code != ERR_OK)
        return code;
    if (unlinkat(parent, leaf, 0) != 0 && errno != ENOENT)
        code = err_set_errno(err, errno, "remove");
    else if (fsync(parent) != 0)
        code = err_set_errno(err, errno, "sync of the folder");
    (void)close(parent);
    return code;
}

/* --- reading --------------------------------------------------------------------------------- */

static enum err_code open_object(const struct file_blob *file, const char *name, int *fd,
                                 struct stat *about, struct err *err)
{
    enum err_code code = ERR_OK;

    *fd = openat(file->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (*fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return err_set(err, ERR_NOT_FOUND, "there is no such object");
    if (*fd < 0)
        return err_set_errno(err, errno, "open");
    if (fstat(*fd, about) != 0)
        code = err_set_errno(err, errno, "look at");
    else if (!S_ISREG(about->st_mode))
        code = err_set(err, ERR_NOT_FOUND, "there is no such object");
    if (code != ERR_OK)
        (void)close(*fd);
    return code;
}

static enum err_code file_get(struct blob *blob, const struct blob_range *range, struct buffer *out,
                              struct err *err)
{
    struct stat about;
    size_t done = 0;
    int fd;
    enum err_code code = open_object(file_of(blob), range->name, &fd, &about, err);

    if (code != ERR_OK)
        return code;
    while (code == ERR_OK && done < range->len) {
        ssize_t got = pread(fd, out->data + out->len, range->len - done, (off_t)(range->at + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            code = err_set_errno(err, errno, "read");
        else if (got == 0)
            code = err_set(err, ERR_CORRUPT, "it has %lld bytes, %llu are wanted",
                           (long long)about.st_size, (unsigned long long)(range->at + range->len));
        done += got > 0 ? (size_t)got : 0;
        out->len += got > 0 ? (size_t)got : 0;
    }
    (void)close(fd);
    return code;
}

static enum err_code file_size(struct blob *blob, const char *name, uint64_t *bytes,
                               struct err *err)
{
    struct stat about;
    int fd;
    enum err_code code = open_object(file_of(blob), name, &fd, &about, err);

    if (code != ERR_OK)
        return code;
    (void)close(fd);
    *bytes = (uint64_t)about.st_size;
    return ERR_OK;
}

/* --- listing --------------------------------------------------------------------------------- */

/* Folders are walked with a stack of our own, in a bounded depth. */
struct walk {
    DIR *dirs[DEPTH_MAX + 1];
    size_t lens[DEPTH_MAX + 1]; /* of path, at each depth */
    unsigned depth;
    char path[BLOB_NAME_BYTES_MAX + 2];
};

static enum err_code enter(struct walk *walk, int at, const char *name, struct err *err)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (dir == NULL) {
        enum err_code code = err_set_errno(err, errno, "list");

        if (fd >= 0)
            (void)close(fd);
        return code;
    }
    walk->dirs[walk->depth] = dir;
    walk->lens[walk->depth++] = strlen(walk->path);
    return ERR_OK;
}

/* One entry of the innermost folder: told, entered or passed over. */
static enum err_code visit(struct walk *walk, const char *name, const char *prefix, bool *is_object,
                           struct err *err)
{
    int at = dirfd(walk->dirs[walk->depth - 1]);
    size_t len = walk->lens[walk->depth - 1];
    struct stat about;

    *is_object = false;
    walk->path[len] = '\0';
    if (name[0] == '.' || len + strlen(name) > BLOB_NAME_BYTES_MAX ||
        fstatat(at, name, &about, AT_SYMLINK_NOFOLLOW) != 0)
        return ERR_OK;
    (void)snprintf(walk->path + len, sizeof(walk->path) - len, "%s%s", name,
                   S_ISDIR(about.st_mode) ? "/" : "");
    if (S_ISDIR(about.st_mode)) {
        size_t both = strlen(walk->path) < strlen(prefix) ? strlen(walk->path) : strlen(prefix);

        if (walk->depth > DEPTH_MAX || memcmp(walk->path, prefix, both) != 0)
            return ERR_OK;
        return enter(walk, at, name, err);
    }
    *is_object = S_ISREG(about.st_mode) && strncmp(walk->path, prefix, strlen(prefix)) == 0 &&
                 blob_check_name(walk->path, NULL) == ERR_OK;
    return ERR_OK;
}

static enum err_code file_list(struct blob *blob, const char *prefix, blob_seen_fn *seen,
                               void *context, struct err *err)
{
    struct walk walk = {.depth = 0};
    enum err_code code = enter(&walk, file_of(blob)->fd, ".", err);
    bool is_object, more = true;

    while (code == ERR_OK && more && walk.depth > 0) {
        struct dirent *entry = readdir(walk.dirs[walk.depth - 1]);

        if (entry == NULL) {
            (void)closedir(walk.dirs[--walk.depth]);
            continue;
        }
        code = visit(&walk, entry->d_name, prefix, &is_object, err);
        if (code == ERR_OK && is_object)
            more = seen(context, walk.path);
    }
    while (walk.depth > 0)
        (void)closedir(walk.dirs[--walk.depth]);
    return code;
}

const struct blob_ops blob_file_ops = {
    .scheme = "file",
    .check_url = file_check_url,
    .open = file_open,
    .close = file_close,
    .put = file_put,
    .get = file_get,
    .size = file_size,
    .remove = file_remove,
    .list = file_list,
};
