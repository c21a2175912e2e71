/* Calls on the way to the disk, and allocations, that fail by number: the n-th, or from then on.
 *
 * A program that includes this has its own open, openat, pread, pwrite, write, writev, fsync,
 * fdatasync, ftruncate, fallocate, rename, renameat, unlink, unlinkat, mkdir and mmap, so that
 * LMDB's fail as well, and its allocations are wrapped: link-flags: -Wl,--wrap=malloc
 * -Wl,--wrap=calloc -Wl,--wrap=realloc -Wl,--wrap=strdup.  Syncs are not done.  Writes that fail
 * have done a half of it. */
#ifndef VICINAL_TESTS_FAILING_CALLS_H
#define VICINAL_TESTS_FAILING_CALLS_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    KIND_OPEN,
    KIND_READ,
    KIND_WRITE,
    KIND_SYNC,
    KIND_CUT,
    KIND_GROW,
    KIND_RENAME,
    KIND_REMOVE,
    KIND_MKDIR,
    KIND_MAP,
    KIND_MEMORY,
    KIND_COUNT,
};

static const char *const kind_names[KIND_COUNT] = {
    "open",   "read",   "write", "sync", "ftruncate",  "fallocate",
    "rename", "remove", "mkdir", "mmap", "allocation",
};

static struct {
    atomic_bool is_on; /* the rest but for the counts is set while it is not */
    bool stays;        /* later ones fail too: */
    unsigned most;     /* so many in all; 0: every one */
    enum kind kind;
    unsigned at; /* from 1 */
    atomic_uint calls;
    unsigned sync_at; /* this sync fails too, so that there is something to recover from; 0: none */
    atomic_uint syncs;
} fault;

static bool fails(enum kind kind)
{
    unsigned call;

    if (!atomic_load(&fault.is_on) || kind != fault.kind)
        return false;
    call = atomic_fetch_add(&fault.calls, 1) + 1;
    if (call < fault.at || (!fault.stays && call > fault.at) ||
        (fault.most > 0 && call - fault.at >= fault.most))
        return false;
    errno = kind == KIND_MEMORY || kind == KIND_MAP ? ENOMEM : EIO;
    return true;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = va_arg(args, mode_t);
    va_end(args);
    return fails(KIND_OPEN) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int openat(int dir_fd, const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = va_arg(args, mode_t);
    va_end(args);
    return fails(KIND_OPEN) ? -1 : (int)syscall(SYS_openat, dir_fd, path, flags, mode);
}

ssize_t pread(int fd, void *data, size_t len, off_t at)
{
    return fails(KIND_READ) ? -1 : syscall(SYS_pread64, fd, data, len, at);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
    if (!fails(KIND_WRITE))
        return syscall(SYS_pwrite64, fd, data, len, at);
    if (len > 1)
        (void)!syscall(SYS_pwrite64, fd, data, len / 2, at);
    errno = fault.at % 2 == 0 ? EIO : ENOSPC;
    return -1;
}

ssize_t write(int fd, const void *data, size_t len)
{
    return fails(KIND_WRITE) ? -1 : syscall(SYS_write, fd, data, len);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return fails(KIND_WRITE) ? -1 : syscall(SYS_writev, fd, parts, count);
}

static int sync_none(void)
{
    if (atomic_load(&fault.is_on) && atomic_fetch_add(&fault.syncs, 1) + 1 == fault.sync_at) {
        errno = EIO;
        return -1;
    }
    return fails(KIND_SYNC) ? -1 : 0;
}

int fsync(int fd)
{
    (void)fd;
    return sync_none();
}

int fdatasync(int fd)
{
    (void)fd;
    return sync_none();
}

int ftruncate(int fd, off_t len)
{
    return fails(KIND_CUT) ? -1 : (int)syscall(SYS_ftruncate, fd, len);
}

int fallocate(int fd, int mode, off_t at, off_t len)
{
    return fails(KIND_GROW) ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, len);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    return fails(KIND_RENAME) ? -1 : (int)syscall(SYS_renameat, from_fd, from, to_fd, to);
}

int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int unlinkat(int dir_fd, const char *path, int flags)
{
    return fails(KIND_REMOVE) ? -1 : (int)syscall(SYS_unlinkat, dir_fd, path, flags);
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int mkdir(const char *path, mode_t mode)
{
    return fails(KIND_MKDIR) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

void *mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    if (fails(KIND_MAP))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, len, protection, flags, fd, offset);
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t size)
{
    return fails(KIND_MEMORY) ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails(KIND_MEMORY) ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    return fails(KIND_MEMORY) ? NULL : __real_realloc(memory, size);
}

char *__wrap_strdup(const char *text)
{
    return fails(KIND_MEMORY) ? NULL : __real_strdup(text);
}

#endif
