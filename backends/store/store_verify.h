/* Verifying a store kept in LMDB, whose pages have no checksums and are believed by LMDB as they
 * are: so that they can be, every page that its trees reach is looked at first.  What the rows mean
 * is their owner's to verify, in a store that is opened to be looked at (store_options.read_only).
 */
#ifndef VICINAL_BACKENDS_STORE_VERIFY_H
#define VICINAL_BACKENDS_STORE_VERIFY_H

#include "backends/store/store.h"
#include "common/base/scrub.h"

struct store_verified {
    uint64_t bytes; /* of the file */
    uint64_t pages; /* that the trees reach */
    uint64_t rows[STORE_TABLES];
    bool is_sound; /* nothing was found: it may be opened */
    int lock_fd;   /* keeps writers away; -1: none */
};

/* Look at the store of a folder.  Damage is told to the scrub, up to the first in each tree.
 * Errors: ERR_NOT_FOUND (no store, or nothing in it yet), ERR_CONFLICT (a service has it),
 * ERR_CONFIG (a newer LMDB), ERR_IO, ERR_NO_MEMORY, ERR_DEAD (told to stop). */
MUST_CHECK enum err_code store_verify(const char *folder, struct scrub *scrub,
                                      struct store_verified *out, struct err *err);

/* Writers may come again; also after an error. */
void store_verified_end(struct store_verified *verified);

#endif
