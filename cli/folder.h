/* The text files below a folder, in a fixed order.
 *
 * Left out: hidden files and folders, what the folder's .gitignore names (plain names and globs),
 * folders marked as caches or virtual environments, files above FOLDER_FILE_MAX, links. */
#ifndef VICINAL_CLI_FOLDER_H
#define VICINAL_CLI_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/err.h"

#define FOLDER_FILE_MAX (4ull << 20)

struct folder_file {
    const char *path; /* below the folder, without a slash before */
    uint64_t size;
    int64_t mtime_ns;
};

struct folder {
    const char *root; /* borrowed */
    struct folder_file *files;
    size_t count, room;
    uint64_t bytes;     /* of all files */
    uint64_t too_large; /* files left out for their size */
    struct arena arena;
};

/* Errors: ERR_CONFIG (cannot be read), ERR_NO_MEMORY. */
MUST_CHECK enum err_code folder_read(struct folder *folder, const char *root, struct err *err);
void folder_free(struct folder *folder);

#endif
