/* Disks after a crash.  While it records, every call that changes files below a folder is kept:
 * names that are made, renamed, removed, bytes that are written, files that are cut or grow, and
 * syncs. Then the folder is built again as a crash at any moment may leave it:
 *
 *   the process died   all that was called is there, the call under way perhaps in part
 *   the machine died   what was synced is there (bytes by a sync of the file, names by one of the
 *                      folder); of the rest, any part: none, all, all but one, only one, first ones
 *                      only, some by chance; a write torn at any sector; its length without its
 * bytes
 *
 * Memory that is shared with a file is looked at with every call and note: what has changed there
 * is a write that was not synced.  One such file at a time, and not LMDB's locks, which mean
 * nothing later.
 *
 * This program has its own open, openat, write, pwrite, ftruncate, fallocate, fsync, fdatasync,
 * rename, renameat, unlinkat, mkdir and mmap: so what libraries call is seen too.  While nothing is
 * recorded, syncs do nothing: there are many images.  Included by unit tests, once; one thread. */
#ifndef VICINAL_TESTS_CRASH_TRACE_H
#define VICINAL_TESTS_CRASH_TRACE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/sanitized.h"
#include "tests/lib/scratch.h"

#define TRACE_STRIDE (IS_SANITIZED ? 5 : 1) /* sanitizers take long: fewer moments */

enum {
    TRACE_NAME = 128,
    TRACE_OPS_MAX = 20000,
    TRACE_FILES_MAX = 400,
    TRACE_LOOSE_MAX = 16, /* unsynced operations that may be there or not; older ones are */
    TRACE_SECTOR = 512,
    TRACE_PAGE = 4096,
    TRACE_CHANCES = 3, /* random parts of each moment */
};

enum trace_kind {
    TRACE_CREATE,   /* name; a folder's if is_folder */
    TRACE_RENAME,   /* name, to */
    TRACE_REMOVE,   /* name */
    TRACE_WRITE,    /* file, at, len, data */
    TRACE_SIZE,     /* file, len: cut there, or grown with zeros */
    TRACE_GROW,     /* file, len: at least so long */
    TRACE_SYNC,     /* file */
    TRACE_SYNC_DIR, /* name: of the folder */
    TRACE_NOTE,     /* len: the test's number, such as "this is acknowledged" */
};

struct trace_op {
    enum trace_kind kind;
    uint32_t file;
    bool is_folder;
    char name[TRACE_NAME], to[TRACE_NAME]; /* below the root; "": the root */
    uint64_t at, len;
    uint8_t *data;
};

static struct trace {
    bool is_on;
    char root[160]; /* the folder that is recorded, without a slash at the end */
    struct trace_op ops[TRACE_OPS_MAX];
    size_t count;
    ino_t inodes[TRACE_FILES_MAX]; /* of each file that was made; numbers may come again */
    bool is_lock[TRACE_FILES_MAX];
    uint32_t files;
    /* memory that is shared with a file */
    const uint8_t *shared;
    size_t shared_len;
    uint32_t shared_file;
    uint8_t *shared_last;
} trace;

/* --- recording ------------------------------------------------------------------------------- */

/* Where a path lies below the root; false: elsewhere. */
static bool trace_place(int dir_fd, const char *path, char out[TRACE_NAME])
{
    char full[PATH_MAX], link[64];
    size_t root = strlen(trace.root);
    ssize_t len = 0;

    if (path[0] != '/' && dir_fd != AT_FDCWD) {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", dir_fd);
        len = readlink(link, full, sizeof(full) - 1);
        if (len < 0)
            return false;
        full[len++] = '/';
    }
    if (strcmp(path, ".") == 0)
        len--;
    else
        len += snprintf(full + len, sizeof(full) - (size_t)len, "%s", path);
    full[len] = '\0';
    if (strncmp(full, trace.root, root) != 0 || (full[root] != '/' && full[root] != '\0'))
        return false;
    assert_true(strlen(full + root) < TRACE_NAME);
    snprintf(out, TRACE_NAME, "%.127s", full[root] == '/' ? full + root + 1 : "");
    return true;
}

static struct trace_op *trace_push(enum trace_kind kind)
{
    struct trace_op *op = &trace.ops[trace.count++];

    assert_true(trace.count < TRACE_OPS_MAX);
    *op = (struct trace_op){.kind = kind};
    return op;
}

static void trace_push_write(uint32_t file, uint64_t at, const void *data, size_t len)
{
    struct trace_op *op = trace_push(TRACE_WRITE);

    op->file = file;
    op->at = at;
    op->len = len;
    op->data = malloc(len);
    assert_non_null(op->data);
    memcpy(op->data, data, len);
}

/* Has the shared memory changed since it was last seen?  Then that is a write. */
static void trace_look(void)
{
    if (trace.shared == NULL || memcmp(trace.shared, trace.shared_last, trace.shared_len) == 0)
        return;
    memcpy(trace.shared_last, trace.shared, trace.shared_len);
    trace_push_write(trace.shared_file, 0, trace.shared_last, trace.shared_len);
}

/* From now on that memory is a part of that file.  NULL: no more. */
static void trace_share(const void *memory, size_t len, uint32_t file)
{
    trace_look();
    free(trace.shared_last);
    trace.shared_last = NULL;
    trace.shared = memory;
    trace.shared_len = len;
    trace.shared_file = file;
    if (memory == NULL)
        return;
    trace.shared_last = malloc(len);
    assert_non_null(trace.shared_last);
    memcpy(trace.shared_last, memory, len);
}

/* The number of a file of ours; false: it is not recorded. */
static bool trace_file(int fd, uint32_t *file)
{
    struct stat info;

    if (!trace.is_on || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    for (uint32_t i = trace.files; i > 0; i--)
        if (trace.inodes[i - 1] == info.st_ino) {
            *file = i - 1;
            trace_look();
            return true;
        }
    return false;
}

static void trace_opened(int fd, int dir_fd, const char *path, int flags, bool was_there)
{
    char name[TRACE_NAME];
    struct stat info;
    uint32_t file;

    if (!trace.is_on || fd < 0 || (flags & O_CREAT) == 0 || !trace_place(dir_fd, path, name))
        return;
    if (!was_there) {
        struct trace_op *op = trace_push(TRACE_CREATE);

        assert_true(trace.files < TRACE_FILES_MAX);
        assert_int_equal(fstat(fd, &info), 0);
        trace.inodes[trace.files] = info.st_ino;
        trace.is_lock[trace.files] = strstr(name, "lock.mdb") != NULL;
        op->file = trace.files++;
        snprintf(op->name, sizeof(op->name), "%s", name);
    } else if ((flags & O_TRUNC) != 0 && trace_file(fd, &file)) {
        trace_push(TRACE_SIZE)->file = file;
    }
}

static int trace_open(int dir_fd, const char *path, int flags, mode_t mode)
{
    struct stat info;
    bool was_there = trace.is_on && fstatat(dir_fd, path, &info, AT_SYMLINK_NOFOLLOW) == 0;
    int fd = (int)syscall(SYS_openat, dir_fd, path, flags, mode);

    trace_opened(fd, dir_fd, path, flags, was_there);
    return fd;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = va_arg(args, mode_t);
    va_end(args);
    return trace_open(AT_FDCWD, path, flags, mode);
}

int openat(int dir_fd, const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = va_arg(args, mode_t);
    va_end(args);
    return trace_open(dir_fd, path, flags, mode);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
    uint32_t file;

    if (trace_file(fd, &file))
        trace_push_write(file, (uint64_t)at, data, len);
    return syscall(SYS_pwrite64, fd, data, len, at);
}

ssize_t write(int fd, const void *data, size_t len)
{
    uint32_t file;

    if (trace_file(fd, &file))
        trace_push_write(file, (uint64_t)lseek(fd, 0, SEEK_CUR), data, len);
    return syscall(SYS_write, fd, data, len);
}

/* LMDB gathers neighbouring pages. */
ssize_t writev(int fd, const struct iovec *parts, int count)
{
    ssize_t done = 0;

    for (int i = 0; i < count; i++)
        done += write(fd, parts[i].iov_base, parts[i].iov_len);
    return done;
}

int ftruncate(int fd, off_t len)
{
    uint32_t file;

    if (trace_file(fd, &file)) {
        struct trace_op *op = trace_push(TRACE_SIZE);

        op->file = file;
        op->len = (uint64_t)len;
    }
    return (int)syscall(SYS_ftruncate, fd, len);
}

int fallocate(int fd, int mode, off_t at, off_t len)
{
    uint32_t file;

    if (trace_file(fd, &file)) {
        struct trace_op *op = trace_push(TRACE_GROW);

        op->file = file;
        op->len = (uint64_t)(at + len);
    }
    return (int)syscall(SYS_fallocate, fd, mode, at, len);
}

static int trace_sync(int fd)
{
    char link[64], path[PATH_MAX], name[TRACE_NAME];
    struct stat info;
    uint32_t file;
    ssize_t len;

    if (trace_file(fd, &file)) {
        trace_push(TRACE_SYNC)->file = file;
    } else if (trace.is_on && fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        len = readlink(link, path, sizeof(path) - 1);
        path[len < 0 ? 0 : len] = '\0';
        if (trace_place(AT_FDCWD, path, name))
            snprintf(trace_push(TRACE_SYNC_DIR)->name, TRACE_NAME, "%s", name);
    }
    return 0;
}

int fsync(int fd)
{
    return trace_sync(fd);
}

int fdatasync(int fd)
{
    return trace_sync(fd);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    char name[TRACE_NAME], other[TRACE_NAME];

    if (trace.is_on && trace_place(from_fd, from, name) && trace_place(to_fd, to, other)) {
        struct trace_op *op = trace_push(TRACE_RENAME);

        snprintf(op->name, sizeof(op->name), "%s", name);
        snprintf(op->to, sizeof(op->to), "%s", other);
    }
    return (int)syscall(SYS_renameat, from_fd, from, to_fd, to);
}

int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int unlinkat(int dir_fd, const char *path, int flags)
{
    char name[TRACE_NAME];
    int result = (int)syscall(SYS_unlinkat, dir_fd, path, flags);

    if (result == 0 && trace.is_on && trace_place(dir_fd, path, name))
        snprintf(trace_push(TRACE_REMOVE)->name, TRACE_NAME, "%s", name);
    return result;
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int mkdir(const char *path, mode_t mode)
{
    char name[TRACE_NAME];
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);

    if (result == 0 && trace.is_on && trace_place(AT_FDCWD, path, name)) {
        struct trace_op *op = trace_push(TRACE_CREATE);

        op->is_folder = true;
        snprintf(op->name, sizeof(op->name), "%s", name);
    }
    return result;
}

void *mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    void *memory = (void *)syscall(SYS_mmap, at, len, protection, flags, fd, offset);
    uint32_t file;

    if (memory != MAP_FAILED && (flags & MAP_SHARED) != 0 && (protection & PROT_WRITE) != 0 &&
        trace_file(fd, &file) && !trace.is_lock[file])
        trace_share(memory, len, file);
    return memory;
}

int munmap(void *memory, size_t len)
{
    if (memory == trace.shared)
        trace_share(NULL, 0, 0);
    return (int)syscall(SYS_munmap, memory, len);
}

/* --- for tests ------------------------------------------------------------------------------- */

/* The folder is there and empty. */
static void trace_begin(const char *root)
{
    trace.files = 0;
    trace.count = 0;
    snprintf(trace.root, sizeof(trace.root), "%s", root);
    trace.is_on = true;
}

static inline void trace_note(uint64_t number)
{
    trace_look();
    trace_push(TRACE_NOTE)->len = number;
}

static void trace_end(void)
{
    trace_share(NULL, 0, 0);
    trace.is_on = false;
}

static void trace_free(void)
{
    for (size_t i = 0; i < trace.count; i++)
        free(trace.ops[i].data);
    trace.count = 0;
}

/* --- images ---------------------------------------------------------------------------------- */

enum trace_fate {
    FATE_GONE,
    FATE_THERE,
    FATE_HEAD, /* a write: its first sectors, … */
    FATE_TAIL, /* … its last ones, … */
    FATE_SOME, /* … some by chance, … */
    FATE_ZERO, /* … its length and no byte of it */
};

static struct image {
    size_t moment; /* operations that were called */
    uint8_t fates[TRACE_OPS_MAX];
    size_t loose[TRACE_LOOSE_MAX]; /* those that may be there or not */
    size_t loose_count;
    uint64_t chance;
    size_t count;   /* images so far */
    char root[200]; /* where it is built */
    struct {
        uint8_t *bytes;
        uint64_t len, room;
        char name[TRACE_NAME]; /* "": none */
        bool is_made;
    } files[TRACE_FILES_MAX];
} image;

static uint64_t trace_random(void)
{
    image.chance ^= image.chance << 13;
    image.chance ^= image.chance >> 7;
    image.chance ^= image.chance << 17;
    return image.chance;
}

static bool trace_is_name(const struct trace_op *op)
{
    return op->kind == TRACE_CREATE || op->kind == TRACE_RENAME || op->kind == TRACE_REMOVE;
}

static bool trace_is_data(const struct trace_op *op)
{
    return op->kind == TRACE_WRITE || op->kind == TRACE_SIZE || op->kind == TRACE_GROW;
}

static bool trace_is_in(const char *name, const char *folder)
{
    const char *slash = strrchr(name, '/');
    size_t len = slash == NULL ? 0 : (size_t)(slash - name);

    return strlen(folder) == len && strncmp(name, folder, len) == 0;
}

/* Whether operation i was made durable by what was called before the moment.  A renaming is one
 * thing, also between two folders: the one that it leads to has to be synced. */
static bool trace_is_synced(size_t i, size_t moment)
{
    const struct trace_op *op = &trace.ops[i];

    for (size_t j = i + 1; j < moment; j++) {
        const struct trace_op *sync = &trace.ops[j];

        if (trace_is_data(op) && sync->kind == TRACE_SYNC && sync->file == op->file)
            return true;
        if (trace_is_name(op) && sync->kind == TRACE_SYNC_DIR &&
            trace_is_in(op->kind == TRACE_RENAME ? op->to : op->name, sync->name))
            return true;
        /* What has another name for good has been made. */
        if (op->kind == TRACE_CREATE && sync->kind == TRACE_RENAME &&
            strcmp(sync->name, op->name) == 0 && trace_is_synced(j, moment))
            return true;
    }
    return false;
}

static void image_room(uint32_t file, uint64_t len)
{
    if (len > image.files[file].room) {
        image.files[file].bytes = realloc(image.files[file].bytes, len);
        assert_non_null(image.files[file].bytes);
        image.files[file].room = len;
    }
    if (len > image.files[file].len) {
        memset(image.files[file].bytes + image.files[file].len, 0, len - image.files[file].len);
        image.files[file].len = len;
    }
}

static bool image_has_sector(enum trace_fate fate, uint64_t sector, uint64_t count)
{
    switch (fate) {
    case FATE_HEAD:
        return sector < (count + 1) / 2 && sector + 1 < count;
    case FATE_TAIL:
        return sector >= count / 2 && sector > 0;
    case FATE_SOME:
        return trace_random() % 2 == 0;
    case FATE_ZERO:
        return false;
    default:
        return true;
    }
}

/* Sector by sector of the disk, of which the first and the last may be a part only. */
static void image_write(const struct trace_op *op, enum trace_fate fate)
{
    uint64_t first = op->at / TRACE_SECTOR;
    uint64_t count = (op->at + op->len + TRACE_SECTOR - 1) / TRACE_SECTOR - first;
    uint64_t end = op->at + op->len;

    for (uint64_t i = 0; i < count; i++) {
        uint64_t from = i == 0 ? op->at : (first + i) * TRACE_SECTOR;
        uint64_t to = (first + i + 1) * TRACE_SECTOR < end ? (first + i + 1) * TRACE_SECTOR : end;

        if (!image_has_sector(fate, i, count)) {
            if (fate != FATE_HEAD)
                image_room(op->file, to);
            continue;
        }
        image_room(op->file, to);
        memcpy(image.files[op->file].bytes + from, op->data + (from - op->at), to - from);
    }
}

static void image_name(const struct trace_op *op)
{
    for (uint32_t i = 0; i < trace.files && op->kind != TRACE_CREATE; i++) {
        if (strcmp(image.files[i].name, op->name) != 0)
            continue;
        for (uint32_t j = 0; j < trace.files && op->kind == TRACE_RENAME; j++)
            if (strcmp(image.files[j].name, op->to) == 0)
                image.files[j].name[0] = '\0';
        snprintf(image.files[i].name, TRACE_NAME, "%s", op->kind == TRACE_RENAME ? op->to : "");
        return;
    }
    if (op->kind != TRACE_CREATE || op->is_folder)
        return;
    for (uint32_t i = 0; i < trace.files; i++)
        if (strcmp(image.files[i].name, op->name) == 0)
            image.files[i].name[0] = '\0';
    snprintf(image.files[op->file].name, TRACE_NAME, "%s", op->name);
}

static void image_apply(const struct trace_op *op, enum trace_fate fate)
{
    if (fate == FATE_GONE)
        return;
    if (trace_is_name(op))
        image_name(op);
    else if (op->kind == TRACE_WRITE)
        image_write(op, fate);
    else if (op->kind == TRACE_GROW)
        image_room(op->file, op->len);
    else if (op->kind == TRACE_SIZE && op->len > image.files[op->file].len)
        image_room(op->file, op->len);
    else if (op->kind == TRACE_SIZE)
        image.files[op->file].len = op->len;
}

static void image_folder(const char *below)
{
    char path[400];

    snprintf(path, sizeof(path), "%s%s%s", image.root, below[0] == '\0' ? "" : "/", below);
    if (mkdir(path, 0755) != 0)
        assert_int_equal(errno, EEXIST);
}

/* Is the folder of that name there, and those above it? */
static bool image_has_folder(const char *name)
{
    const char *slash = strrchr(name, '/');
    char folder[TRACE_NAME];

    if (slash == NULL)
        return true;
    snprintf(folder, sizeof(folder), "%.*s", (int)(slash - name), name);
    for (size_t i = 0; i < image.moment; i++)
        if (trace.ops[i].kind == TRACE_CREATE && trace.ops[i].is_folder &&
            strcmp(trace.ops[i].name, folder) == 0)
            return image.fates[i] != FATE_GONE && image_has_folder(folder);
    return false;
}

/* Build what the fates say below image.root, which is made empty first. */
static void image_build(void)
{
    char path[400];

    assert_true(scratch_remove(image.root) == 0 || errno == ENOENT);
    image_folder("");
    for (uint32_t i = 0; i < trace.files; i++) {
        image.files[i].len = 0;
        image.files[i].name[0] = '\0';
    }
    for (size_t i = 0; i < image.moment; i++)
        image_apply(&trace.ops[i], image.fates[i]);
    for (size_t i = 0; i < image.moment; i++)
        if (trace.ops[i].kind == TRACE_CREATE && trace.ops[i].is_folder &&
            image.fates[i] != FATE_GONE && image_has_folder(trace.ops[i].name))
            image_folder(trace.ops[i].name);
    for (uint32_t i = 0; i < trace.files; i++) {
        int fd;

        if (image.files[i].name[0] == '\0' || !image_has_folder(image.files[i].name))
            continue;
        snprintf(path, sizeof(path), "%.200s/%.127s", image.root, image.files[i].name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, image.files[i].bytes, image.files[i].len), image.files[i].len);
        close(fd);
    }
}

/* Is there a file of that name in the image that was built? */
static inline bool image_has(const char *name)
{
    for (uint32_t i = 0; i < trace.files; i++)
        if (strcmp(image.files[i].name, name) == 0)
            return true;
    return false;
}

/* Given each image in turn.  is_reboot: the machine died, not only the process. */
typedef void trace_check_fn(bool is_reboot);

static void image_try(trace_check_fn *check, bool is_reboot)
{
    image.count++;
    image_build();
    check(is_reboot);
}

/* What is synced is there; the last of what is not may be there or not. */
static void image_find_loose(void)
{
    image.loose_count = 0;
    for (size_t i = image.moment; i > 0; i--) {
        const struct trace_op *op = &trace.ops[i - 1];
        bool is_loose = (trace_is_name(op) || trace_is_data(op)) &&
                        image.loose_count < TRACE_LOOSE_MAX &&
                        !trace_is_synced(i - 1, image.moment);

        image.fates[i - 1] = FATE_THERE;
        if (is_loose)
            image.loose[image.loose_count++] = i - 1; /* the newest first */
    }
}

static void image_set_all(enum trace_fate fate)
{
    for (size_t i = 0; i < image.loose_count; i++)
        image.fates[image.loose[i]] = (uint8_t)fate;
}

static void trace_crash_machine(trace_check_fn *check)
{
    static const enum trace_fate torn[] = {FATE_HEAD, FATE_TAIL, FATE_SOME, FATE_ZERO};

    image_find_loose();
    image_try(check, true);
    /* First ones only: the newest go, one after the other, until none is left. */
    for (size_t i = 0; i < image.loose_count; i++) {
        image.fates[image.loose[i]] = FATE_GONE;
        image_try(check, true);
    }
    for (size_t i = 0; i < image.loose_count && image.loose_count > 1; i++) {
        image_set_all(FATE_THERE);
        image.fates[image.loose[i]] = FATE_GONE;
        image_try(check, true);
        image_set_all(FATE_GONE);
        image.fates[image.loose[i]] = FATE_THERE;
        image_try(check, true);
    }
    for (size_t i = 0; i < image.loose_count && i < 3; i++)
        for (size_t t = 0; t < 4 && trace.ops[image.loose[i]].kind == TRACE_WRITE; t++) {
            image_set_all(FATE_THERE);
            image.fates[image.loose[i]] = (uint8_t)torn[t];
            image_try(check, true);
        }
    for (size_t n = 0; n < TRACE_CHANCES && image.loose_count > 2; n++) {
        for (size_t i = 0; i < image.loose_count; i++)
            image.fates[image.loose[i]] = (uint8_t)(trace_random() % 3 == 0   ? FATE_SOME
                                                    : trace_random() % 2 == 0 ? FATE_THERE
                                                                              : FATE_GONE);
        image_try(check, true);
    }
}

/* All that was called is there; a write under way may have been done in part. */
static void trace_crash_process(trace_check_fn *check)
{
    size_t next = image.moment;

    for (size_t i = 0; i < next; i++)
        image.fates[i] = FATE_THERE;
    image_try(check, false);
    if (next >= trace.count || trace.ops[next].kind != TRACE_WRITE ||
        trace.ops[next].len <= TRACE_PAGE)
        return;
    image.fates[next] = FATE_HEAD;
    image.moment = next + 1;
    image_try(check, false);
    image.moment = next;
}

/* A crash at every moment.  The number of the moment is in image.moment. */
static void trace_crash_everywhere(const char *root, uint64_t seed, trace_check_fn *check)
{
    snprintf(image.root, sizeof(image.root), "%s", root);
    image.chance = seed * 2 + 1;
    image.count = 0;
    for (size_t moment = 0; moment <= trace.count; moment += TRACE_STRIDE) {
        if (moment < trace.count && trace.ops[moment].kind == TRACE_NOTE)
            continue; /* the next moment is the same disk, and more is promised */
        image.moment = moment;
        trace_crash_machine(check);
        trace_crash_process(check);
    }
    for (uint32_t i = 0; i < TRACE_FILES_MAX; i++) {
        free(image.files[i].bytes);
        image.files[i].bytes = NULL;
        image.files[i].room = image.files[i].len = 0;
    }
    print_message("%zu operations, %zu images, seed %llu\n", trace.count, image.count,
                  (unsigned long long)seed);
}

#endif
