/* The place of a folder that a test makes for itself, and its end.  Included by unit tests. */
#ifndef VICINAL_TESTS_LIB_SCRATCH_H
#define VICINAL_TESTS_LIB_SCRATCH_H

#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* TMPDIR, where a path below it stays short. */
static inline const char *scratch_parent(void)
{
    const char *parent = getenv("TMPDIR");

    return parent == NULL || strlen(parent) > 32 ? P_tmpdir : parent;
}

/* A new folder; its path fits into 64 bytes if the name has at most 15.  False: there is none. */
static inline bool scratch_make(char *path, size_t size, const char *name)
{
    int len = snprintf(path, size, "%s/vicinal-%s-XXXXXX", scratch_parent(), name);

    return len >= 0 && (size_t)len < size && mkdtemp(path) != NULL;
}

static inline int scratch_remove_one(const char *path, const struct stat *about, int kind,
                                     struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

/* With everything in it.  0: done. */
static inline int scratch_remove(const char *folder)
{
    return nftw(folder, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
