/* What a verification of data at rest says while it looks.
 *
 * Each part that owns a format verifies its own files (…_verify.h) and tells what it finds through
 * this; who called decides what is shown, and when to stop.  Nothing that is looked at is changed,
 * and lock files are held in common, so that no service begins to write meanwhile.
 *
 * One thread uses a scrub. */
#ifndef VICINAL_BASE_SCRUB_H
#define VICINAL_BASE_SCRUB_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

#define SCRUB_NO_BYTE    UINT64_MAX
#define SCRUB_TEXT_BYTES 400

struct scrub_finding {
    const char *file; /* a path; until the call returns */
    uint64_t byte;    /* SCRUB_NO_BYTE: the file has no such place, or it is not known */
    const char *text; /* what is wrong there */
};

struct scrub {
    void (*find)(void *state, const struct scrub_finding *finding);
    /* So many bytes more have been looked at; false ends the verification with ERR_DEAD. */
    bool (*go_on)(void *state, uint64_t bytes);
    void *state;
    uint64_t findings; /* told so far */
};

/* Tell one thing that is wrong. */
void scrub_find(struct scrub *scrub, const char *file, uint64_t byte, const char *format, ...)
    PRINTF_LIKE(4, 5);

/* Errors: ERR_DEAD (told to stop). */
MUST_CHECK enum err_code scrub_go_on(struct scrub *scrub, uint64_t bytes, struct err *err);

/* Hold the lock file `name` of a folder in common with others who only look.  *fd is what holds it,
 * to be closed; -1 where there is no such file.  Nothing is made.
 * Errors: ERR_CONFLICT (somebody has it for writing), ERR_IO. */
MUST_CHECK enum err_code scrub_lock(int *fd, const char *folder, const char *name, struct err *err);

#endif
