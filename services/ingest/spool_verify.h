/* Verifying the folder of a spool (spool.h): its store, every row in it, and that each id leads to
 * the row that waits for it.  Nothing is changed, and no ingest is let in meanwhile. */
#ifndef VICINAL_INGEST_SPOOL_VERIFY_H
#define VICINAL_INGEST_SPOOL_VERIFY_H

#include "common/base/env.h"
#include "common/base/scrub.h"

struct spool_verified {
    uint64_t bytes; /* of the store */
    uint64_t waiting, parked;
};

/* Errors: ERR_NOT_FOUND (no spool, or nothing in it yet), ERR_CONFLICT (an ingest has it),
 * ERR_CONFIG (a newer format), ERR_IO, ERR_NO_MEMORY, ERR_DEAD (told to stop). */
MUST_CHECK enum err_code spool_verify(const char *folder, struct env *env, struct scrub *scrub,
                                      struct spool_verified *out, struct err *err);

#endif
