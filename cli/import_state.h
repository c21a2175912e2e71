/* Which batches of an import have been acknowledged: what a rerun after a kill goes on from.
 *
 * A text file: a head that names the import wholly (URL, collection and its version, source and its
 * size and time, batch size), then one line a batch.  Batches are cut alike on every run, so a
 * number is enough.  The file is removed when the import has been completed. */
#ifndef VICINAL_CLI_IMPORT_STATE_H
#define VICINAL_CLI_IMPORT_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

struct import_state {
    int fd; /* -1: nothing is kept */
    char path[4096];
    uint8_t *done; /* one bit a batch */
    uint64_t done_max;
    uint64_t batches, imported, refused; /* of earlier runs */
};

/* path NULL: $XDG_STATE_HOME/vicinal (or ~/.local/state/vicinal), in a file named by source, URL
 * and collection; without a home nothing is kept.  head: without a newline; another head than the
 * file's starts anew.  Errors: ERR_CONFIG (another import runs with this state; cannot be made). */
struct import_state_setup {
    const char *path;
    const char *name; /* of the file, in the default folder */
    const char *head;
};
MUST_CHECK enum err_code import_state_open(struct import_state *state,
                                           const struct import_state_setup *setup, struct err *err);

bool import_state_has(const struct import_state *state, uint64_t batch);

/* Thread safe (one write).  A failure only means that a rerun sends the batch again. */
void import_state_add(struct import_state *state, uint64_t batch, uint64_t imported,
                      uint64_t refused);

void import_state_close(struct import_state *state, bool is_complete);

#endif
