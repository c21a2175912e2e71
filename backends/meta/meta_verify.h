/* Verifying a metadata store kept in a SQLite file: SQLite's own check of the whole structure, and
 * that the rows are as ours should be.  The file, and the log that SQLite keeps beside it, are
 * copied into a temporary folder first: after a crash even reading would change them.
 *
 * SQLite has no checksums: a changed byte of a value is not found.  What stands behind the first
 * bad frame of its log does not count, for SQLite as for us.  Losing rows loses nothing (meta.h).
 */
#ifndef VICINAL_BACKENDS_META_VERIFY_H
#define VICINAL_BACKENDS_META_VERIFY_H

#include "backends/meta/meta.h"
#include "common/base/scrub.h"

struct meta_verified {
    uint64_t bytes; /* of the files */
    uint64_t rows;
};

/* Nobody writes the file meanwhile: the caller sees to it.
 * Errors: ERR_NOT_FOUND (no such file), ERR_CONFIG (of another program, or newer), ERR_IO,
 * ERR_NO_MEMORY, ERR_INSUFFICIENT_STORAGE, ERR_DEAD (told to stop). */
MUST_CHECK enum err_code meta_verify(const char *file, struct scrub *scrub,
                                     struct meta_verified *out, struct err *err);

#endif
