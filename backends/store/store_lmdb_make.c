/* The first bytes of an LMDB store.
 *
 * LMDB writes the two heads of a new file in place and does not sync them: a machine that dies then
 * may leave one that nobody can open, or none, after rows in it were acknowledged.  So a new file
 * is made in a folder of its own, synced, and renamed; then the folder and the one above are
 * synced. Failure: what is left of a try is made anew by the next. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lmdb.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/store/store_lmdb.h"

#define MAKING       "new"
#define FILE_NAME    "data.mdb"
#define FOLDER_BYTES 32 /* for the names behind a folder's */

/* Its two heads, on the disk. */
static int make_heads(const char *making)
{
    MDB_env *env = NULL;
    int result = mdb_env_create(&env);

    if (result == 0)
        result = mdb_env_open(env, making, MDB_NOLOCK, 0666);
    if (result == 0)
        result = mdb_env_sync(env, 1);
    if (env != NULL)
        mdb_env_close(env);
    return result;
}

static enum err_code sync_folder(const char *folder, const char *below, struct err *err)
{
    char path[PATH_MAX];
    enum err_code code = ERR_OK;
    int fd;

    (void)snprintf(path, sizeof(path), "%s%s", folder, below);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        code = err_set_errno(err, errno, "store: sync of %.200s", path);
    if (fd >= 0)
        (void)close(fd); /* nothing was written through it */
    return code;
}

static enum err_code put_in_place(const char *folder, const char *making, struct err *err)
{
    char from[PATH_MAX], to[PATH_MAX];
    enum err_code code;

    (void)snprintf(from, sizeof(from), "%s/" FILE_NAME, making);
    (void)snprintf(to, sizeof(to), "%s/" FILE_NAME, folder);
    if (rename(from, to) != 0)
        return err_set_errno(err, errno, "store: rename to %.200s", to);
    code = sync_folder(folder, "", err);
    if (code == ERR_OK)
        code = sync_folder(folder, "/..", err);
    return code;
}

enum err_code store_lmdb_make(const char *folder, struct err *err)
{
    char making[PATH_MAX - FOLDER_BYTES], path[PATH_MAX];
    struct stat info;
    int len = snprintf(making, sizeof(making), "%s/" MAKING, folder);
    enum err_code code;
    int result;

    if (len < 0 || (size_t)len >= sizeof(making))
        return err_set(err, ERR_CONFIG, "store URL: path too long");
    (void)snprintf(path, sizeof(path), "%s/" FILE_NAME, folder);
    if (stat(path, &info) == 0 && info.st_size > 0)
        return ERR_OK;
    (void)snprintf(path, sizeof(path), "%s/" FILE_NAME, making);
    if ((unlink(path) != 0 && errno != ENOENT && errno != ENOTDIR) ||
        (mkdir(making, 0777) != 0 && errno != EEXIST))
        return err_set_errno(err, errno, "store: %.200s", making);
    result = make_heads(making);
    if (result > 0)
        return err_set_errno(err, result, "store: %.200s", making);
    if (result != 0)
        return err_set(err, ERR_IO, "store: %.200s: %s", making, mdb_strerror(result));
    code = put_in_place(folder, making, err);
    (void)rmdir(making); /* an empty folder does no harm */
    return code;
}
