/* See new_file.h. */
#include "engine/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/checked.h"

const char *file_name_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

/* A file that may not grow (EFBIG) is no room as well. */
static enum err_code write_errno(struct err *err, const char *what)
{
    return err_set_errno(err, errno == EFBIG ? ENOSPC : errno, "%s", what);
}

/* The path's folder, open, and its last part, which is also the name of the unfinished file. */
static enum err_code open_folder(struct new_file *file, const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/');
    const char *name = file_name_of(path);
    char folder[PATH_MAX] = ".";

    if (slash != NULL && (size_t)(slash - path) + 2 > sizeof(folder))
        return err_set(err, ERR_INVALID_ARGUMENT, "the path is too long");
    if (slash != NULL)
        (void)snprintf(folder, sizeof(folder), "%.*s", (int)MAX_OF(slash - path, (ptrdiff_t)1),
                       path);
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
        strlen(name) + sizeof(NEW_FILE_SUFFIX) > sizeof(file->name))
        return err_set(err, ERR_INVALID_ARGUMENT, "\"%.40s\" cannot be the name of a file", name);
    (void)snprintf(file->name, sizeof(file->name), "%s", name);
    (void)snprintf(file->unfinished, sizeof(file->unfinished), "%s" NEW_FILE_SUFFIX, name);
    file->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file->dir_fd < 0)
        return err_set_errno(err, errno, "folder");
    return ERR_OK;
}

/* Where the file system cannot reserve room, the file grows as it is written. */
static enum err_code make_file(struct new_file *file, uint64_t bytes, struct err *err)
{
    int failed;

    file->fd = openat(file->dir_fd, file->unfinished,
                      O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (file->fd < 0)
        return write_errno(err, "create");
    file->is_made = true;
    do
        failed = fallocate(file->fd, 0, 0, (off_t)bytes);
    while (failed != 0 && errno == EINTR);
    if (failed != 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        return write_errno(err, "reserving room");
    return ERR_OK;
}

enum err_code new_file_open(struct new_file *file, const char *path, uint64_t bytes,
                            struct err *err)
{
    *file = (struct new_file){.dir_fd = -1, .fd = -1};
    enum err_code code = open_folder(file, path, err);
    return code == ERR_OK ? make_file(file, bytes, err) : code;
}

enum err_code new_file_write(const struct new_file *file, const void *data, size_t len, uint64_t at,
                             struct err *err)
{
    const unsigned char *from = data;
    uint64_t first = at;
    size_t whole = len;

    while (len > 0) {
        ssize_t done = pwrite(file->fd, from, len, (off_t)at);

        if (done < 0 && errno == EINTR)
            continue;
        if (done == 0)
            errno = ENOSPC;
        if (done <= 0)
            return write_errno(err, "write");
        from += done;
        at += (uint64_t)done;
        len -= (size_t)done;
    }
    /* Begin to write out now, so that the sync is no storm.  A wish: the sync reports. */
    (void)sync_file_range(file->fd, (off_t)first, (off_t)whole, SYNC_FILE_RANGE_WRITE);
    return ERR_OK;
}

enum err_code new_file_sync(const struct new_file *file, struct err *err)
{
    return fdatasync(file->fd) == 0 ? ERR_OK : write_errno(err, "sync");
}

enum err_code new_file_rename(struct new_file *file, struct err *err)
{
    if (renameat(file->dir_fd, file->unfinished, file->dir_fd, file->name) != 0)
        return write_errno(err, "rename");
    file->is_made = false;
    if (fsync(file->dir_fd) != 0)
        return write_errno(err, "sync of the folder");
    return ERR_OK;
}

void new_file_close(struct new_file *file)
{
    if (file->fd >= 0)
        (void)close(file->fd);
    if (file->is_made)
        (void)unlinkat(file->dir_fd, file->unfinished, 0);
    if (file->dir_fd >= 0)
        (void)close(file->dir_fd);
}
