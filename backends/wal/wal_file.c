/* The log kept in a folder: one physical log of segment files for all partitions, one writer, any
 * number of reading processes on the same machine.  The parts: see wal_file_internal.h.
 *
 * Every opening by a writer is a take-over: find the end of what is committed (wal_file_recover.c),
 * cut there, sync, start a new segment in a new file epoch, and only then publish.  A reading
 * process maps the control page and believes nothing beyond it.
 */
#include "backends/wal/wal_file_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/base/checked.h"

#define FOLDER_BYTES_MAX (PATH_MAX - 64)

static enum err_code open_folder(struct wal_file *file, const char *path, struct err *err)
{
    bool is_made = file->writer && mkdir(path, 0755) == 0;
    int parent;

    file->path = strdup(path);
    if (file->path == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the log");
    file->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file->dir_fd < 0 && errno == ENOENT && !file->writer)
        return err_set(err, ERR_NOT_FOUND, "there is no log in %.200s", path);
    if (file->dir_fd < 0)
        return err_set_errno(err, errno, "folder %.200s", path);
    if (!is_made)
        return ERR_OK;
    parent = openat(file->dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0 || fsync(parent) != 0) {
        enum err_code code = err_set_errno(err, errno, "folder above %.200s", path);

        if (parent >= 0)
            close(parent);
        return code;
    }
    close(parent);
    return ERR_OK;
}

static enum err_code lock_folder(struct wal_file *file, struct err *err)
{
    file->lock_fd =
        openat(file->dir_fd, WAL_LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (file->lock_fd < 0)
        return err_set_errno(err, errno, "lock");
    if (flock(file->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return ERR_OK;
    if (errno == EWOULDBLOCK)
        return err_set(err, ERR_CONFLICT, "another process writes this log");
    return err_set_errno(err, errno, "lock");
}

/* --- opening --------------------------------------------------------------------------------- */

static enum err_code map_control(struct wal_file *file, struct err *err)
{
    struct stat identity = {0};
    enum err_code code =
        wal_control_map(&file->control, &identity, file->dir_fd, file->writer, err);

    file->control_dev = identity.st_dev;
    file->control_ino = identity.st_ino;
    return code;
}

static enum err_code open_reading(struct wal_file *file, uint32_t partitions, struct err *err)
{
    enum err_code code = map_control(file, err);
    uint64_t boot;

    if (code != ERR_OK)
        return code;
    if (file->control == NULL)
        return err_set(err, ERR_NOT_FOUND, "there is no log yet");
    /* Acquire: the page was filled before it was declared to hold for this boot. */
    boot = atomic_load_explicit(&file->control->boot, memory_order_acquire);
    if (boot == 0 || boot != wal_boot_word())
        return err_set(err, ERR_NOT_FOUND,
                       "no writer has opened the log since the machine started");
    file->wal.region = file->control->region;
    file->wal.partitions = file->control->partitions;
    if (partitions != 0 && partitions != file->wal.partitions)
        return err_set(err, ERR_CONFIG, "the log has %u partitions, not %u", file->wal.partitions,
                       partitions);
    return ERR_OK;
}

/* Give the control page what this take-over found; the boot's word comes last. */
static void declare(struct wal_file *file, uint64_t boot)
{
    struct wal_control *control = file->control;

    if (atomic_load_explicit(&control->boot, memory_order_relaxed) != boot)
        atomic_store_explicit(&control->boot, 0, memory_order_seq_cst);
    for (uint32_t p = 0; p < file->wal.partitions; p++) {
        if (wal_hint(&file->wal, p) > file->next[p])
            wal_hint_set(&file->wal, p, 0);
    }
    /* Before the place (release, there): who finds the new place knows of the take-over. */
    atomic_store_explicit(&control->generation, file->epoch, memory_order_relaxed);
    wal_file_publish(file);
    /* Release: who sees it finds the rest. */
    atomic_store_explicit(&control->boot, boot, memory_order_release);
}

static enum err_code make_fresh(struct wal_file *file, uint32_t partitions, struct err *err)
{
    enum err_code code;

    if (partitions == 0 && file->control != NULL)
        partitions = file->control->partitions; /* a repair that left nothing */
    if (partitions == 0)
        return err_set(err, ERR_NOT_FOUND, "there is no log yet");
    file->wal.partitions = partitions;
    while (file->wal.region == 0)
        env_random(file->wal.env, &file->wal.region, sizeof(file->wal.region));
    /* A page of another life of the log must not be taken for this one's. */
    wal_control_unmap(file->control);
    file->control = NULL;
    /* First: that segments were kept, and none is there, is damage that no repair mends. */
    code = wal_kept_forget(file->dir_fd, err);
    if (code == ERR_OK)
        code = wal_segment_remove_after(file->dir_fd, 0, err);
    atomic_store(&file->kept_segment, 1);
    return code;
}

static enum err_code open_writing(struct wal_file *file, const struct wal_options *options,
                                  struct err *err)
{
    enum err_code code = lock_folder(file, err);
    struct stat identity;
    bool fresh = false;

    file->segment_bytes =
        options->segment_bytes == 0 ? WAL_SEGMENT_BYTES_DEFAULT : options->segment_bytes;
    if (code == ERR_OK && file->segment_bytes > WAL_SEGMENT_BYTES_MAX)
        code = err_set(err, ERR_CONFIG, "segments are at most 1 GiB");
    file->chunk = array_alloc(WAL_WINDOW_BYTES, 1);
    if (code == ERR_OK && file->chunk == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory to write the log");
    if (code == ERR_OK && wal_boot_word() == 0)
        code = err_set(err, ERR_CONFIG, "the machine does not tell its boot id");
    if (code == ERR_OK)
        code = map_control(file, err);
    if (code == ERR_OK)
        code = wal_file_find_end(file, options, &fresh, err);
    if (code == ERR_OK && fresh)
        code = make_fresh(file, options->partitions, err);
    file->end = file->committed;
    if (code == ERR_OK)
        code = wal_file_start_segment(file, file->epoch + 1, err);
    if (code == ERR_OK && file->control == NULL) {
        code = wal_control_create(&file->control, &identity, file->dir_fd, &file->wal, err);
        if (code == ERR_OK) {
            file->control_dev = identity.st_dev;
            file->control_ino = identity.st_ino;
        }
    }
    if (code == ERR_OK)
        declare(file, wal_boot_word());
    return code;
}

static void wal_file_close(struct wal *wal)
{
    struct wal_file *file = (struct wal_file *)wal;

    wal_control_unmap(file->control);
    free(file->chunk);
    free(file->path);
    if (file->fd >= 0)
        close(file->fd);
    /* The lock goes last. */
    if (file->lock_fd >= 0)
        close(file->lock_fd);
    if (file->dir_fd >= 0)
        close(file->dir_fd);
    free(file);
}

static enum err_code path_of(const char *url, const char **path, struct err *err)
{
    *path = url + strlen("file:");
    if ((*path)[0] == '\0')
        return err_set(err, ERR_CONFIG, "file: names no folder");
    if (strlen(*path) > FOLDER_BYTES_MAX)
        return err_set(err, ERR_CONFIG, "the folder's name is too long");
    return ERR_OK;
}

static enum err_code wal_file_open(struct wal **out, const struct wal_options *options,
                                   struct err *err)
{
    const char *path;
    struct wal_file *file;
    enum err_code code = path_of(options->url, &path, err);

    if (code != ERR_OK)
        return code;
    file = array_alloc(1, sizeof(*file));
    if (file == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the log");
    file->wal.ops = &wal_file_ops;
    file->wal.env = options->env;
    file->writer = options->writer;
    file->dir_fd = -1;
    file->lock_fd = -1;
    file->fd = -1;
    code = open_folder(file, path, err);
    if (code == ERR_OK && file->writer)
        code = open_writing(file, options, err);
    else if (code == ERR_OK)
        code = open_reading(file, options->partitions, err);
    if (code != ERR_OK) {
        wal_file_close(&file->wal);
        return code;
    }
    *out = &file->wal;
    return ERR_OK;
}

/* The newest segment whose header can be read says it. */
static enum err_code look_at_segments(int dir_fd, uint32_t *partitions, struct err *err)
{
    struct wal_segment_list list;
    struct wal_segment_header header;
    enum err_code code = wal_segment_list(&list, dir_fd, err);
    size_t left = list.count;
    int fd;

    if (code != ERR_OK)
        return code;
    if (left == 0)
        code = err_set(err, ERR_NOT_FOUND, "there is no log yet");
    while (left > 0) {
        code = wal_segment_open(&fd, &header, dir_fd, list.numbers[--left], err);
        if (code != ERR_CORRUPT)
            break;
    }
    wal_segment_list_free(&list);
    if (code != ERR_OK)
        return code;
    close(fd);
    *partitions = header.partitions;
    if (err != NULL)
        err_clear(err); /* of a newer one that is damaged */
    return ERR_OK;
}

static enum err_code wal_file_look(const struct wal_options *options, uint32_t *partitions,
                                   struct err *err)
{
    const char *path;
    enum err_code code = path_of(options->url, &path, err);
    int dir_fd;

    if (code != ERR_OK)
        return code;
    dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0 && errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "there is no log in %.200s", path);
    if (dir_fd < 0)
        return err_set_errno(err, errno, "folder %.200s", path);
    code = look_at_segments(dir_fd, partitions, err);
    close(dir_fd);
    return code;
}

/* --- small operations ------------------------------------------------------------------------ */

enum err_code wal_file_check_current(const struct wal_file *file, struct err *err)
{
    char name[PATH_MAX];
    struct stat now;
    int len = snprintf(name, sizeof(name), "%s/" WAL_CONTROL_NAME, file->path);

    /* By the path and not by the descriptor: the whole folder may have been put aside.  The page
     * is mapped, so its number is not given to another file. */
    assert(len > 0 && (size_t)len < sizeof(name));
    if (stat(name, &now) == 0) {
        if (now.st_dev == file->control_dev && now.st_ino == file->control_ino)
            return ERR_OK;
    } else if (errno != ENOENT) {
        return err_set_errno(err, errno, "control page");
    }
    return err_set(err, ERR_CONFLICT, "the log was replaced by another");
}

static enum err_code wal_file_ends(struct wal *wal, const uint32_t *partitions, size_t count,
                                   uint64_t deadline_ns, uint64_t *ends, struct err *err)
{
    const struct wal_file *file = (const struct wal_file *)wal;

    (void)deadline_ns;
    if (wal_file_check_current(file, err) != ERR_OK)
        return err_set(err, ERR_IO, "the log was replaced by another");
    /* Acquire: a reader that is opened at an end finds it. */
    for (size_t i = 0; i < count; i++)
        ends[i] = atomic_load_explicit(&file->control->end[partitions[i]], memory_order_acquire);
    return ERR_OK;
}

static void wal_file_hint_set(struct wal *wal, uint32_t partition, uint64_t position)
{
    struct wal_file *file = (struct wal_file *)wal;

    assert(file->writer);
    /* A kill between the two leaves no hint, which is always right. */
    atomic_store_explicit(&file->control->hint[partition], position, memory_order_relaxed);
    atomic_store_explicit(&file->control->hint_check[partition], ~position, memory_order_relaxed);
}

static uint64_t wal_file_hint(struct wal *wal, uint32_t partition)
{
    const struct wal_file *file = (const struct wal_file *)wal;
    uint64_t hint = atomic_load_explicit(&file->control->hint[partition], memory_order_relaxed);
    uint64_t check =
        atomic_load_explicit(&file->control->hint_check[partition], memory_order_relaxed);

    return hint == ~check ? hint : 0;
}

static void wal_file_space(struct wal *wal, uint64_t *used_bytes, uint64_t *free_bytes)
{
    const struct wal_file *file = (const struct wal_file *)wal;
    struct statvfs medium;

    if (fstatvfs(file->dir_fd, &medium) != 0)
        return;
    *used_bytes = atomic_load_explicit(&file->control->used_bytes, memory_order_relaxed);
    *free_bytes = (uint64_t)medium.f_bavail * medium.f_frsize;
}

const struct wal_ops wal_file_ops = {
    .scheme = "file",
    .open = wal_file_open,
    .look = wal_file_look,
    .close = wal_file_close,
    .append = wal_file_append,
    .recover = wal_file_recover,
    .ends = wal_file_ends,
    .trim = wal_file_trim,
    .first = wal_file_first,
    .hint_set = wal_file_hint_set,
    .hint = wal_file_hint,
    .space = wal_file_space,
    .reader_open = wal_file_reader_open,
    .reader_next = wal_file_reader_next,
    .reader_close = wal_file_reader_close,
};
