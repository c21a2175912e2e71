/* The data folders of vicinal up: see up.h.
 *
 * A second `up` on a folder is refused; the lock is inherited by the services, so it also holds
 * while those of a killed `up` are still ending (they are told by the kernel), which is waited for.
 * Regions have folders of their own inside, each locked too, and a file says so: a folder of one
 * kind is never taken for one of the other, whose records would seem to be gone. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/up.h"
#include "common/base/text.h"

#define LOCK_WAIT_NS (6 * NS_PER_S) /* for the services of an `up` that was killed */
#define MARK         "regions"      /* a file with their names */

static enum err_code path_in(char out[PATH_MAX], const char *folder, const char *name,
                             struct err *err)
{
    int len = snprintf(out, PATH_MAX, "%s/%s", folder, name);

    if (len < 0 || len >= PATH_MAX)
        return err_set(err, ERR_CONFIG, "--data is too long");
    return ERR_OK;
}

/* What is acknowledged in a new folder is there after a power cut only if the folder is. */
static enum err_code sync_above(const char *path, struct err *err)
{
    char above[PATH_MAX];
    enum err_code rc = path_in(above, path, "..", err);
    int fd;

    if (rc != ERR_OK)
        return rc;
    fd = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        rc = err_set_errno(err, errno, "%s", above);
    if (fd >= 0)
        (void)close(fd); /* nothing was written through it */
    return rc;
}

static enum err_code make_folder(const char *path, struct err *err)
{
    struct stat info;

    if (mkdir(path, 0755) == 0)
        return sync_above(path, err);
    if (errno != EEXIST)
        return err_set(err, ERR_CONFIG, "--data %s: %s", path, strerror(errno));
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return err_set(err, ERR_CONFIG, "--data %s is not a folder", path);
    return ERR_OK;
}

static pid_t read_owner(int fd)
{
    char text[32];
    ssize_t len = pread(fd, text, sizeof(text), 0);
    uint64_t pid;

    while (len > 0 && text[len - 1] == '\n')
        len--;
    if (len <= 0 || !text_to_u64(text, (size_t)len, &pid) || pid == 0 || pid > INT32_MAX)
        return 0;
    return (pid_t)pid;
}

/* Take the lock; where its owner has died, wait for its services to end. */
static enum err_code take_lock(const char *folder, int fd, struct err *err)
{
    uint64_t deadline = env_boot_ns(env_real()) + LOCK_WAIT_NS;

    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        pid_t owner = read_owner(fd);
        bool is_alive = owner != 0 && (kill(owner, 0) == 0 || errno == EPERM);

        if (is_alive)
            return err_set(err, ERR_CONFIG, "--data %s is in use by another vicinal up (pid %ld)",
                           folder, (long)owner);
        if (env_boot_ns(env_real()) >= deadline)
            return err_set(err, ERR_CONFIG,
                           "--data %s is in use by services of an earlier vicinal up", folder);
        if (env_sleep_until(env_real(), env_boot_ns(env_real()) + UP_STEP_NS) != ERR_OK)
            return err_set(err, ERR_DEAD, "stopped");
    }
    return ERR_OK;
}

static enum err_code lock_folder(const char *folder, int *lock, struct err *err)
{
    char path[PATH_MAX], text[32];
    int len;
    enum err_code rc = path_in(path, folder, "lock", err);

    if (rc == ERR_OK)
        rc = make_folder(folder, err);
    if (rc != ERR_OK)
        return rc;
    *lock = open(path, O_RDWR | O_CREAT, 0644); /* inherited by the services, on purpose */
    if (*lock < 0)
        return err_set(err, ERR_CONFIG, "%s: %s", path, strerror(errno));
    rc = take_lock(folder, *lock, err);
    if (rc != ERR_OK)
        return rc;
    len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(*lock, 0) != 0 || pwrite(*lock, text, (size_t)len, 0) != len)
        return err_set_errno(err, errno, "%s", path);
    return ERR_OK;
}

static bool is_there(const char *folder, const char *name)
{
    char path[PATH_MAX];

    return path_in(path, folder, name, NULL) == ERR_OK && access(path, F_OK) == 0;
}

static enum err_code write_mark(const struct up *up, struct err *err)
{
    char path[PATH_MAX];
    size_t len = strlen(up->region_names);
    enum err_code rc = path_in(path, up->data, MARK, err);
    int fd;

    if (rc != ERR_OK)
        return rc;
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, up->region_names, len) != (ssize_t)len || write(fd, "\n", 1) != 1)
        rc = err_set_errno(err, errno, "%s", path);
    if (fd >= 0 && close(fd) != 0 && rc == ERR_OK)
        rc = err_set_errno(err, errno, "%s", path);
    return rc;
}

/* One region's things and many regions' are not taken for each other. */
static enum err_code check_kind(const struct up *up, struct err *err)
{
    if (up->region_names == NULL && is_there(up->data, MARK))
        return err_set(err, ERR_CONFIG,
                       "--data %s holds regions (%s/" MARK " names them): give --regions, or "
                       "another folder",
                       up->data, up->data);
    if (up->region_names != NULL && !is_there(up->data, MARK) &&
        (is_there(up->data, "wal") || is_there(up->data, "meta.db") ||
         is_there(up->data, "shard-0.0")))
        return err_set(err, ERR_CONFIG,
                       "--data %s holds a suite without regions: leave --regions out, or give "
                       "another folder",
                       up->data);
    return up->region_names == NULL ? ERR_OK : write_mark(up, err);
}

enum err_code up_lock_folders(struct up *up, struct err *err)
{
    enum err_code rc = lock_folder(up->data, &up->lock, err);

    if (rc == ERR_OK)
        rc = check_kind(up, err);
    for (size_t i = 0; i < up->region_count && up->region_names != NULL && rc == ERR_OK; i++)
        rc = lock_folder(up->regions[i].data, &up->regions[i].lock, err);
    return rc;
}
