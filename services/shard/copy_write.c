/* Writing a copy's files: see copy_write.h. */
#include "services/shard/copy_write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/base/checked.h"

#define PATH_BYTES 4096

/* Is there room for all of them, and a store among them? */
static enum err_code check_files(struct copy_writing *writing, struct err *err)
{
    struct statvfs about;
    bool has_store = false;

    writing->bytes = 0;
    if (writing->count > COPY_FILES_MAX)
        return err_set(err, ERR_CORRUPT, "the copy has too many files");
    for (size_t i = 0; i < writing->count; i++) {
        const struct copy_file *file = &writing->files[i];

        if (!copy_name_is_valid(file->name))
            return err_set(err, ERR_CORRUPT, "the copy has a file that cannot be one");
        if (!checked_add(writing->bytes, file->bytes, &writing->bytes))
            return err_set(err, ERR_CORRUPT, "the copy is too large");
        has_store = has_store || strcmp(file->name, COPY_STORE_NAME) == 0;
    }
    if (!has_store)
        return err_set(err, ERR_CORRUPT, "the copy has no store");
    if (statvfs(writing->folder, &about) == 0 &&
        (uint64_t)about.f_bavail * about.f_frsize < writing->bytes)
        return err_set(err, ERR_INSUFFICIENT_STORAGE, "no room for a copy of %" PRIu64 " bytes",
                       writing->bytes);
    return ERR_OK;
}

/* The folders of a name; its parts are names of ours. */
static enum err_code make_folders(const char *folder, const char *name, struct err *err)
{
    char path[PATH_BYTES];

    for (const char *slash = strchr(name, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        int len = snprintf(path, sizeof(path), "%s/%.*s", folder, (int)(slash - name), name);

        if (len < 0 || (size_t)len >= sizeof(path))
            return err_set(err, ERR_CONFIG, "the path of a copy is too long");
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            return err_set_errno(err, errno, "copy: mkdir %.200s", path);
    }
    return ERR_OK;
}

static enum err_code write_all(int fd, const uint8_t *data, size_t len, struct err *err)
{
    while (len > 0) {
        ssize_t done = write(fd, data, len);

        if (done < 0)
            return err_set_errno(err, errno, "copy: writing");
        data += done;
        len -= (size_t)done;
    }
    return ERR_OK;
}

static enum err_code write_chunks(const struct copy_writing *writing, size_t number, int fd,
                                  struct err *err)
{
    const struct copy_file *file = &writing->files[number];
    struct hash128 digest = {0};
    struct buffer bytes = {0};
    enum err_code code = ERR_OK;

    for (uint64_t at = 0; code == ERR_OK && at < file->bytes; at += COPY_CHUNK_BYTES) {
        struct copy_chunk chunk = {
            .file = number, .at = at, .len = MIN_OF(COPY_CHUNK_BYTES, file->bytes - at)};

        buffer_reset(&bytes);
        code = writing->read(writing->context, &chunk, &bytes, err);
        if (code == ERR_OK && bytes.len != chunk.len)
            code = err_set(err, ERR_CORRUPT, "a chunk of a copy has another size");
        if (code == ERR_OK) {
            copy_chain(&digest, bytes.data, bytes.len);
            code = write_all(fd, bytes.data, bytes.len, err);
        }
    }
    buffer_free(&bytes);
    if (code == ERR_OK && !hash128_equal(digest, file->digest))
        code = err_set(err, ERR_CORRUPT, "%.100s has come damaged", file->name);
    if (code == ERR_OK && fsync(fd) != 0)
        code = err_set_errno(err, errno, "copy: fsync");
    return code;
}

static enum err_code write_file(const struct copy_writing *writing, size_t number, struct err *err)
{
    const char *name = writing->files[number].name;
    char path[PATH_BYTES];
    int len = snprintf(path, sizeof(path), "%s/%s", writing->folder, name);
    enum err_code code = make_folders(writing->folder, name, err);
    int fd;

    if (code == ERR_OK && (len < 0 || (size_t)len >= sizeof(path)))
        code = err_set(err, ERR_CONFIG, "the path of a copy is too long");
    if (code != ERR_OK)
        return code;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_set_errno(err, errno, "copy: %.200s", path);
    code = write_chunks(writing, number, fd, err);
    if (close(fd) != 0 && code == ERR_OK)
        code = err_set_errno(err, errno, "copy: %.200s", path);
    return code;
}

enum err_code copy_write(struct copy_writing *writing, struct err *err)
{
    enum err_code code = check_files(writing, err);

    for (size_t i = 0; code == ERR_OK && i < writing->count; i++)
        code = write_file(writing, i, err);
    return code;
}
