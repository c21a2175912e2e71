/* Lines of a file, plain or compressed with zstd (told by its first bytes), one at a time. */
#ifndef VICINAL_CLI_LINES_H
#define VICINAL_CLI_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"

#define LINE_BYTES_MAX (8u << 20)

struct lines {
    int fd;
    const char *path; /* borrowed */
    void *zstd;       /* NULL: plain */
    uint8_t *in;      /* of the file */
    size_t in_len, in_at;
    struct buffer text; /* not given out yet, from `at` on */
    size_t at;
    size_t searched;   /* up to here there is no newline */
    bool is_over;      /* the file has ended */
    bool is_mid_frame; /* zstd: the frame has not ended */
    bool is_pending;   /* zstd: there may be more text without more input */
    bool is_started;
    uint64_t number;     /* of the line given out last, from 1 */
    uint64_t read_bytes; /* of the file, so far */
    uint64_t file_bytes;
};

/* Errors: ERR_CONFIG (cannot be opened), ERR_NO_MEMORY. */
MUST_CHECK enum err_code lines_open(struct lines *lines, const char *path, struct err *err);

/* The next line without its end; valid until the next call.  *more false: there is none.
 * Errors: ERR_IO, ERR_CORRUPT (zstd), ERR_PAYLOAD_TOO_LARGE (a line above LINE_BYTES_MAX). */
MUST_CHECK enum err_code lines_next(struct lines *lines, const char **data, size_t *len, bool *more,
                                    struct err *err);

void lines_close(struct lines *lines); /* zeroed or failed is fine */

#endif
