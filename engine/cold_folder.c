/* Which cold files of a folder are the engine's: see cold.h.
 *
 * What a file says holds whatever else is in the folder: all that lived of a stretch of ordinals.
 * So any files whose stretches follow one another are a state that was, and the longest ones are
 * the latest: a file that was merged from others stands for all of them, and of two that stand for
 * the same the one with the larger number was made later.  Only the graph's segment knows more: it
 * holds what comes behind its floor, so a part that reaches beyond was not finished.
 * Failure: a file that cannot be used is set aside, and what remains is looked at again. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "engine/cold.h"
#include "engine/cold_file.h"
#include "engine/memory.h"
#include "engine/new_file.h"

#define ASIDE "cold.seg.damaged"

enum { FILES_MAX = 256 };

struct choice {
    const struct cold_folder *folder;
    struct cold_span files[FILES_MAX];
    struct cold *opened[FILES_MAX]; /* NULL: not yet */
    uint32_t count;
    uint32_t chain[COLD_PARTS_MAX]; /* places of files */
    uint32_t chained;
};

bool cold_path(char *out, size_t size, const char *dir, uint32_t number)
{
    int len = snprintf(out, size, "%s/cold-%u.seg", dir, number);

    return len >= 0 && (size_t)len < size;
}

/* Exactly "cold-N.seg", or that unfinished. */
bool cold_name_parse(const char *name, uint32_t *number, bool *is_finished)
{
    char whole[32], unfinished[sizeof(whole) + sizeof(NEW_FILE_SUFFIX)];

    if (sscanf(name, "cold-%10u.seg", number) != 1)
        return false;
    (void)snprintf(whole, sizeof(whole), "cold-%u.seg", *number);
    (void)snprintf(unfinished, sizeof(unfinished), "%s" NEW_FILE_SUFFIX, whole);
    *is_finished = strcmp(name, whole) == 0;
    return *is_finished || strcmp(name, unfinished) == 0;
}

static void drop(struct choice *choice, uint32_t at)
{
    cold_close(choice->opened[at]);
    choice->count--;
    choice->files[at] = choice->files[choice->count];
    choice->opened[at] = choice->opened[choice->count];
}

static enum err_code set_aside(struct choice *choice, uint32_t at, const struct err *why,
                               struct err *err)
{
    char path[PATH_MAX], aside[PATH_MAX];
    const char *dir = choice->folder->dir;

    if (!cold_path(path, sizeof(path), dir, choice->files[at].number) ||
        snprintf(aside, sizeof(aside), "%s/" ASIDE, dir) >= (int)sizeof(aside))
        return err_set(err, ERR_INVALID_ARGUMENT, "the folder's path is too long");
    if (rename(path, aside) != 0)
        return err_set_errno(err, errno, "setting a cold part aside (%.100s)", why->message);
    if (choice->folder->notice->message[0] == '\0')
        *choice->folder->notice = *why;
    drop(choice, at);
    return ERR_OK;
}

static bool is_damage(enum err_code code)
{
    return code == ERR_CORRUPT || code == ERR_CONFIG || code == ERR_IO;
}

/* Only the headers. */
static enum err_code add_file(struct choice *choice, uint32_t number, struct err *err)
{
    struct cold_numbers numbers;
    struct section_file file;
    struct err why = {0};
    char path[PATH_MAX];

    if (choice->count == FILES_MAX)
        return err_set(err, ERR_CONFIG, "there are more than %d cold parts", FILES_MAX);
    if (!cold_path(path, sizeof(path), choice->folder->dir, number))
        return err_set(err, ERR_INVALID_ARGUMENT, "the folder's path is too long");
    enum err_code code = cold_header_read(&file, path, &numbers, &why);
    if (code == ERR_OK) {
        sections_close(&file);
        choice->files[choice->count++] =
            (struct cold_span){.from = numbers.from, .to = numbers.to, .number = number};
        return ERR_OK;
    }
    if (!is_damage(code)) {
        *err = why;
        return code;
    }
    (void)err_wrap(&why, "cold part %.100s", file_name_of(path));
    choice->files[choice->count++] = (struct cold_span){.number = number};
    return set_aside(choice, choice->count - 1, &why, err);
}

static enum err_code list_files(struct choice *choice, struct err *err)
{
    DIR *dir = opendir(choice->folder->dir);
    enum err_code code = ERR_OK;
    const struct dirent *entry;

    if (dir == NULL)
        return err_set_errno(err, errno, "folder of cold parts");
    while (code == ERR_OK && (entry = readdir(dir)) != NULL) {
        uint32_t number;
        bool is_finished;

        if (cold_name_parse(entry->d_name, &number, &is_finished) && is_finished)
            code = add_file(choice, number, err);
    }
    (void)closedir(dir);
    return code;
}

/* The longest that begins at this ordinal, the newest of such; false: there is none. */
static bool next_of(const struct cold_span *spans, uint32_t count, uint32_t from, uint32_t floor,
                    uint32_t *place)
{
    const struct cold_span *best = NULL;

    for (uint32_t i = 0; i < count; i++) {
        const struct cold_span *span = &spans[i];

        if (span->from != from || span->to > floor)
            continue;
        if (best == NULL || span->to > best->to ||
            (span->to == best->to && span->number > best->number)) {
            best = span;
            *place = i;
        }
    }
    return best != NULL;
}

uint32_t cold_chain(const struct cold_span *spans, uint32_t count, uint32_t floor,
                    uint32_t chain[COLD_PARTS_MAX])
{
    uint32_t end = 0, chained = 0;

    while (chained < COLD_PARTS_MAX && next_of(spans, count, end, floor, &chain[chained]))
        end = spans[chain[chained++]].to;
    return chained;
}

/* Sets *again when a file had to be set aside. */
static enum err_code open_chain(struct choice *choice, bool *again, struct err *err)
{
    *again = false;
    for (uint32_t i = 0; i < choice->chained; i++) {
        uint32_t at = choice->chain[i], number = choice->files[at].number;
        char path[PATH_MAX];
        struct err why = {0};

        if (choice->opened[at] != NULL)
            continue;
        if (!cold_path(path, sizeof(path), choice->folder->dir, number))
            return err_set(err, ERR_INVALID_ARGUMENT, "the folder's path is too long");
        enum err_code code = cold_open(&choice->opened[at], path, choice->folder->expected,
                                       choice->folder->kernels, &why);
        if (code == ERR_OK) {
            choice->opened[at]->number = number;
            continue;
        }
        if (!is_damage(code)) {
            *err = why;
            return code;
        }
        *again = true;
        return set_aside(choice, at, &why, err);
    }
    return ERR_OK;
}

/* Those of the chain become the list; others that were opened are closed. */
static enum err_code give(struct choice *choice, struct colds **out, struct err *err)
{
    struct colds *colds;

    if (choice->chained == 0)
        return ERR_OK;
    colds = memory_alloc(1, sizeof(*colds));
    if (colds == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for cold parts");
    for (uint32_t i = 0; i < choice->chained; i++) {
        uint32_t at = choice->chain[i];

        colds->parts[colds->count++] = choice->opened[at];
        choice->opened[at] = NULL;
    }
    *out = colds;
    return ERR_OK;
}

enum err_code colds_open(struct colds **out, const struct cold_folder *folder, struct err *err)
{
    struct choice *choice = memory_alloc(1, sizeof(*choice));
    bool again = true;
    enum err_code code;

    *out = NULL;
    if (choice == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look for cold parts");
    choice->folder = folder;
    code = list_files(choice, err);
    while (code == ERR_OK && again) {
        choice->chained = cold_chain(choice->files, choice->count, folder->floor, choice->chain);
        code = open_chain(choice, &again, err);
    }
    if (code == ERR_OK)
        code = give(choice, out, err);
    for (uint32_t i = 0; i < choice->count; i++)
        cold_close(choice->opened[i]);
    memory_free(choice);
    return code;
}

static bool is_part(const struct colds *colds, uint32_t number)
{
    for (uint32_t i = 0; colds != NULL && i < colds->count; i++)
        if (colds->parts[i]->number == number)
            return true;
    return false;
}

void colds_tidy(const struct colds *colds, const char *folder, uint32_t *next)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    uint32_t number;
    bool is_finished;

    *next = 1;
    for (uint32_t i = 0; colds != NULL && i < colds->count; i++)
        *next = MAX_OF(*next, colds->parts[i]->number + 1);
    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (cold_name_parse(entry->d_name, &number, &is_finished)) {
            *next = MAX_OF(*next, number + 1);
            if (!is_finished || !is_part(colds, number))
                (void)unlinkat(dirfd(dir), entry->d_name, 0);
        }
    if (dir != NULL)
        (void)closedir(dir);
}
