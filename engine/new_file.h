/* A file that is there whole or not at all: it is made as PATH.tmp, which is replaced if it is
 * there (two writers of one path are a bug), synced, and renamed.  The whole room is asked for
 * first: a full disk is known before anything is written.
 * Failure: what stood under the name stays, and the unfinished file is removed. */
#ifndef VICINAL_ENGINE_NEW_FILE_H
#define VICINAL_ENGINE_NEW_FILE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define NEW_FILE_SUFFIX ".tmp"

struct new_file {
    int dir_fd;              /* -1: not open */
    int fd;                  /* -1: not open */
    bool is_made;            /* the unfinished file is there */
    char name[NAME_MAX + 1]; /* in the folder */
    char unfinished[NAME_MAX + sizeof(NEW_FILE_SUFFIX)];
};

/* The last part of a path: what errors name, so that a long path does not push the reason out. */
const char *file_name_of(const char *path);

/* Closing is needed after an error as well.
 * Errors: ERR_INVALID_ARGUMENT (the path), ERR_INSUFFICIENT_STORAGE, ERR_IO. */
MUST_CHECK enum err_code new_file_open(struct new_file *file, const char *path, uint64_t bytes,
                                       struct err *err);

/* Errors: ERR_INSUFFICIENT_STORAGE, ERR_IO. */
MUST_CHECK enum err_code new_file_write(const struct new_file *file, const void *data, size_t len,
                                        uint64_t at, struct err *err);

/* All that was written is on the disk, under the unfinished name.  Errors: as above. */
MUST_CHECK enum err_code new_file_sync(const struct new_file *file, struct err *err);

/* It gets its name, durably.  After an error the name is what it was; but when the folder cannot
 * be synced the name is the new file's, and a crash of the machine may bring the old one back.
 * Errors: as above. */
MUST_CHECK enum err_code new_file_rename(struct new_file *file, struct err *err);

/* Remove what is unfinished. */
void new_file_close(struct new_file *file);

#endif
