/* Making, removing and sweeping the folders of segments: see segments.h. */
#include "services/shard/segments.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/bytes.h"
#include "common/base/text.h"

#define GONE          ".gone"
#define DESCRIPTORS   8 /* that a walk over a folder may hold */
#define LIFE_DIGITS   16
#define FOLDER_DIGITS (2 * INCARNATION_BYTES)

static enum err_code join(char path[SEGMENTS_PATH_BYTES], const char *folder, const char *name,
                          struct err *err)
{
    int len = snprintf(path, SEGMENTS_PATH_BYTES, "%s/%s", folder, name);

    /* What goes is given a longer name. */
    if (len < 0 || (size_t)len + sizeof(GONE) > SEGMENTS_PATH_BYTES)
        return err_set(err, ERR_CONFIG, "segments: a path is too long");
    return ERR_OK;
}

static enum err_code life_folder(char path[SEGMENTS_PATH_BYTES], const char *root, uint64_t life,
                                 struct err *err)
{
    char name[LIFE_DIGITS + 1];

    (void)snprintf(name, sizeof(name), "%016llx", (unsigned long long)life);
    return join(path, root, name, err);
}

enum err_code segments_folder(char path[SEGMENTS_PATH_BYTES], const struct segments_place *place,
                              struct err *err)
{
    char parent[SEGMENTS_PATH_BYTES], name[FOLDER_DIGITS + 1];
    enum err_code code = life_folder(parent, place->root, place->life, err);

    text_hex_encode(name, place->incarnation, INCARNATION_BYTES);
    return code == ERR_OK ? join(path, parent, name, err) : code;
}

struct engine_options segments_engine_options(const struct collection *definition)
{
    static const enum engine_metric metrics[] = {
        [METRIC_COSINE] = ENGINE_COSINE,
        [METRIC_IP] = ENGINE_IP,
        [METRIC_L2] = ENGINE_L2,
    };

    return (struct engine_options){
        .dim = definition->dimension,
        .metric = metrics[definition->metric],
        .kind = definition->index == INDEX_FLAT ? ENGINE_FLAT : ENGINE_HNSW,
        .m = definition->m,
        .ef_construction = definition->ef_construction,
        .bits = definition->code_bits,
        .seed = load_u64(definition->incarnation),
    };
}

static enum err_code make(const char *path, struct err *err)
{
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return err_set_errno(err, errno, "segments: mkdir %.200s", path);
    return ERR_OK;
}

enum err_code segments_make(const char *root, uint64_t life, struct err *err)
{
    char path[SEGMENTS_PATH_BYTES];
    enum err_code code = life_folder(path, root, life, err);

    if (code == ERR_OK)
        code = make(root, err);
    return code == ERR_OK ? make(path, err) : code;
}

/* --- removing ---------------------------------------------------------------------------------
 */

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

static enum err_code remove_all(const char *path, struct err *err)
{
    if (nftw(path, remove_one, DESCRIPTORS, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
        return err_set_errno(err, errno, "segments: removing %.200s", path);
    return ERR_OK;
}

enum err_code segments_sync(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum err_code code = ERR_OK;

    if (fd < 0)
        return err_set_errno(err, errno, "segments: %.200s", path);
    if (fsync(fd) != 0)
        code = err_set_errno(err, errno, "segments: fsync %.200s", path);
    (void)close(fd); /* nothing was written through it */
    return code;
}

static enum err_code sync_parent(const char *path, struct err *err)
{
    char parent[SEGMENTS_PATH_BYTES];
    const char *end = strrchr(path, '/');

    (void)snprintf(parent, sizeof(parent), "%.*s", (int)(end - path), path);
    return segments_sync(parent, err);
}

enum err_code segments_remove(const char *path, struct err *err)
{
    char gone[SEGMENTS_PATH_BYTES];
    int len = snprintf(gone, sizeof(gone), "%s" GONE, path);
    enum err_code code;

    if (len < 0 || (size_t)len >= sizeof(gone) || strchr(path, '/') == NULL)
        return err_set(err, ERR_CONFIG, "segments: not the path of a folder");
    code = remove_all(gone, err);
    if (code != ERR_OK)
        return code;
    if (rename(path, gone) != 0)
        return errno == ENOENT ? ERR_OK
                               : err_set_errno(err, errno, "segments: renaming %.200s", path);
    code = sync_parent(path, err);
    return code == ERR_OK ? remove_all(gone, err) : code;
}

/* --- sweeping ---------------------------------------------------------------------------------
 */

static bool is_of_life(const struct segments_sweep *sweep, const char *name)
{
    char own[LIFE_DIGITS + 1];

    (void)snprintf(own, sizeof(own), "%016llx", (unsigned long long)sweep->life);
    return strcmp(name, own) == 0;
}

static bool is_of_collection(const struct segments_sweep *sweep, const char *name)
{
    uint8_t incarnation[INCARNATION_BYTES];

    return strlen(name) == FOLDER_DIGITS &&
           text_hex_decode(incarnation, sizeof(incarnation), name, FOLDER_DIGITS) &&
           sweep->is_known(sweep->state, incarnation);
}

typedef bool keeps_fn(const struct segments_sweep *sweep, const char *name);

static enum err_code sweep_folder(struct segments_sweep *sweep, const char *folder, keeps_fn *keeps,
                                  struct err *err)
{
    enum err_code code = ERR_OK;
    char path[SEGMENTS_PATH_BYTES];
    const struct dirent *item;
    DIR *dir = opendir(folder);

    if (dir == NULL)
        return err_set_errno(err, errno, "segments: %.200s", folder);
    while ((item = readdir(dir)) != NULL) {
        enum err_code failed;

        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0 ||
            keeps(sweep, item->d_name))
            continue;
        failed = join(path, folder, item->d_name, err);
        if (failed == ERR_OK)
            failed = segments_remove(path, err);
        if (failed == ERR_OK)
            sweep->removed++;
        else
            code = failed;
    }
    (void)closedir(dir); /* it was read only */
    return code;
}

enum err_code segments_sweep(struct segments_sweep *sweep, struct err *err)
{
    char path[SEGMENTS_PATH_BYTES];
    enum err_code code = life_folder(path, sweep->root, sweep->life, err);
    enum err_code others;

    if (code != ERR_OK)
        return code;
    others = sweep_folder(sweep, sweep->root, is_of_life, err);
    code = sweep_folder(sweep, path, is_of_collection, err);
    return code == ERR_OK ? others : code;
}
