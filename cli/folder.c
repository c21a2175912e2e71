/* The text files below a folder: see folder.h.  A stack of folders that are still to be read takes
 * the place of recursion. */
#include "cli/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"

#define FILES_MAX    5000000u
#define PATTERNS_MAX 200u
#define NAME_MAX_OUT 4000u

struct pattern {
    const char *glob;
    bool is_folder;   /* "name/" */
    bool is_anchored; /* "/name", "a/b" */
};

struct walk {
    struct folder *folder;
    const char **todo; /* folders, below the root; "" is the root */
    size_t todo_count, todo_room;
    struct pattern patterns[PATTERNS_MAX];
    size_t pattern_count;
};

/* Room for one more of `size` bytes. */
static bool grow(void *array, size_t count, size_t *room, size_t size)
{
    void *old, *grown;

    if (count < *room)
        return true;
    memcpy(&old, array, sizeof(old));
    grown = array_resize(old, *room == 0 ? 64 : *room * 2, size);
    if (grown == NULL)
        return false;
    memcpy(array, &grown, sizeof(grown));
    *room = *room == 0 ? 64 : *room * 2;
    return true;
}

static void add_pattern(struct walk *walk, char *line)
{
    struct pattern pattern = {0};
    size_t len = strcspn(line, "\r\n");

    while (len > 0 && line[len - 1] == ' ')
        len--;
    if (len == 0 || line[0] == '#' || line[0] == '!' || walk->pattern_count == PATTERNS_MAX)
        return;
    if (line[len - 1] == '/') {
        pattern.is_folder = true;
        len--;
    }
    if (len > 0 && line[0] == '/') {
        pattern.is_anchored = true;
        line++;
        len--;
    }
    pattern.is_anchored = pattern.is_anchored || memchr(line, '/', len) != NULL;
    pattern.glob = arena_copy_text(&walk->folder->arena, line, len);
    if (len > 0 && pattern.glob != NULL)
        walk->patterns[walk->pattern_count++] = pattern;
}

static void read_patterns(struct walk *walk)
{
    char path[PATH_MAX], line[1024];
    int len = snprintf(path, sizeof(path), "%s/.gitignore", walk->folder->root);
    FILE *in;

    if (len < 0 || (size_t)len >= sizeof(path) || (in = fopen(path, "re")) == NULL)
        return;
    while (fgets(line, sizeof(line), in) != NULL)
        add_pattern(walk, line);
    (void)fclose(in);
}

static bool is_ignored(const struct walk *walk, const char *path, const char *name, bool is_folder)
{
    static const char *const always[] = {"node_modules", "__pycache__"};

    for (size_t i = 0; i < ARRAY_COUNT(always); i++)
        if (strcmp(name, always[i]) == 0)
            return true;
    for (size_t i = 0; i < walk->pattern_count; i++) {
        const struct pattern *pattern = &walk->patterns[i];

        if (pattern->is_folder && !is_folder)
            continue;
        if (fnmatch(pattern->glob, pattern->is_anchored ? path : name, FNM_PATHNAME) == 0)
            return true;
    }
    return false;
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory for the list of files");
}

static enum err_code add_file(struct walk *walk, const char *path, const struct stat *info,
                              struct err *err)
{
    struct folder *folder = walk->folder;
    struct folder_file file = {.size = (uint64_t)info->st_size,
                               .mtime_ns = (int64_t)info->st_mtim.tv_sec * 1000000000 +
                                           info->st_mtim.tv_nsec};

    if (file.size == 0)
        return ERR_OK;
    if (file.size > FOLDER_FILE_MAX) {
        folder->too_large++;
        return ERR_OK;
    }
    if (folder->count >= FILES_MAX)
        return err_set(err, ERR_CONFIG, "%s holds more than %u files", folder->root, FILES_MAX);
    file.path = arena_copy_text(&folder->arena, path, strlen(path));
    if (file.path == NULL || !grow(&folder->files, folder->count, &folder->room, sizeof(file)))
        return no_memory(err);
    folder->files[folder->count++] = file;
    folder->bytes += file.size;
    return ERR_OK;
}

/* One entry of a folder: remember the file, or the folder for later. */
static enum err_code take_entry(struct walk *walk, const char *below, const char *name,
                                struct err *err)
{
    char full[PATH_MAX], path[NAME_MAX_OUT];
    struct stat info;
    int len = snprintf(path, sizeof(path), "%s%s%s", below, below[0] == '\0' ? "" : "/", name);
    const char *kept;

    if (name[0] == '.' || len < 0 || (size_t)len >= sizeof(path))
        return ERR_OK;
    len = snprintf(full, sizeof(full), "%s/%s", walk->folder->root, path);
    if (len < 0 || (size_t)len >= sizeof(full) || lstat(full, &info) != 0)
        return ERR_OK; /* gone meanwhile, or not for us */
    if (is_ignored(walk, path, name, S_ISDIR(info.st_mode)))
        return ERR_OK;
    if (S_ISREG(info.st_mode))
        return add_file(walk, path, &info, err);
    if (!S_ISDIR(info.st_mode))
        return ERR_OK;
    kept = arena_copy_text(&walk->folder->arena, path, strlen(path));
    if (kept == NULL || !grow(&walk->todo, walk->todo_count, &walk->todo_room, sizeof(kept)))
        return no_memory(err);
    walk->todo[walk->todo_count++] = kept;
    return ERR_OK;
}

/* A folder that says of itself that it can be made again. */
static bool is_marked(const char *full)
{
    static const char *const marks[] = {"CACHEDIR.TAG", "pyvenv.cfg"};
    char path[PATH_MAX];

    for (size_t i = 0; i < ARRAY_COUNT(marks); i++) {
        int len = snprintf(path, sizeof(path), "%s/%s", full, marks[i]);

        if (len > 0 && (size_t)len < sizeof(path) && access(path, F_OK) == 0)
            return true;
    }
    return false;
}

static enum err_code read_one(struct walk *walk, const char *below, struct err *err)
{
    char full[PATH_MAX];
    int len = snprintf(full, sizeof(full), "%s%s%s", walk->folder->root,
                       below[0] == '\0' ? "" : "/", below);
    enum err_code rc = ERR_OK;
    struct dirent *entry;
    DIR *dir;

    if (len < 0 || (size_t)len >= sizeof(full))
        return ERR_OK;
    if (below[0] != '\0' && is_marked(full))
        return ERR_OK;
    dir = opendir(full);
    if (dir == NULL && below[0] == '\0')
        return err_set(err, ERR_CONFIG, "%s: %s", full, strerror(errno));
    if (dir == NULL)
        return ERR_OK;
    while (rc == ERR_OK && (entry = readdir(dir)) != NULL)
        rc = take_entry(walk, below, entry->d_name, err);
    (void)closedir(dir);
    return rc;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct folder_file *)a)->path, ((const struct folder_file *)b)->path);
}

enum err_code folder_read(struct folder *folder, const char *root, struct err *err)
{
    struct walk walk = {.folder = folder};
    enum err_code rc = ERR_OK;

    *folder = (struct folder){.root = root};
    walk.todo = NULL;
    if (!grow(&walk.todo, 0, &walk.todo_room, sizeof(*walk.todo)))
        return no_memory(err);
    walk.todo[walk.todo_count++] = "";
    read_patterns(&walk);
    while (rc == ERR_OK && walk.todo_count > 0)
        rc = read_one(&walk, walk.todo[--walk.todo_count], err);
    free(walk.todo);
    if (folder->count > 1)
        qsort(folder->files, folder->count, sizeof(folder->files[0]), by_path);
    return rc;
}

void folder_free(struct folder *folder)
{
    free(folder->files);
    arena_free(&folder->arena);
    *folder = (struct folder){0};
}
