/* Findings and locks of a verification: see scrub.h. */
#include "common/base/scrub.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

void scrub_find(struct scrub *scrub, const char *file, uint64_t byte, const char *format, ...)
{
    char text[SCRUB_TEXT_BYTES];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    scrub->findings++;
    scrub->find(scrub->state, &(struct scrub_finding){.file = file, .byte = byte, .text = text});
}

enum err_code scrub_go_on(struct scrub *scrub, uint64_t bytes, struct err *err)
{
    return scrub->go_on(scrub->state, bytes) ? ERR_OK : err_set(err, ERR_DEAD, "stopped");
}

enum err_code scrub_lock(int *fd, const char *folder, const char *name, struct err *err)
{
    char path[PATH_MAX];
    int len = snprintf(path, sizeof(path), "%s/%s", folder, name);
    int lock, failed;

    *fd = -1;
    if (len < 0 || (size_t)len >= sizeof(path))
        return err_set(err, ERR_CONFIG, "the path %.200s is too long", folder);
    lock = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (lock < 0 && errno == ENOENT)
        return ERR_OK;
    if (lock < 0)
        return err_set_errno(err, errno, "%.200s", path);
    if (flock(lock, LOCK_SH | LOCK_NB) == 0) {
        *fd = lock;
        return ERR_OK;
    }
    failed = errno;
    (void)close(lock);
    if (failed == EWOULDBLOCK)
        return err_set(err, ERR_CONFLICT, "%.200s is in use by a service: stop it first", folder);
    return err_set_errno(err, failed, "%.200s", path);
}
