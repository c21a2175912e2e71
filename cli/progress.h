/* Tells how far a long job is: a bar that is redrawn on a terminal, else a plain line every two
 * seconds; on stderr. */
#ifndef VICINAL_CLI_PROGRESS_H
#define VICINAL_CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"

struct progress_state {
    uint64_t done, total; /* units of the source; total 0: not known */
    uint64_t skipped;     /* units that an earlier run had done: no part of the rate */
    uint64_t rows;        /* written or refused by this run */
    uint64_t elapsed_ns;
    const char *waiting; /* why nothing goes on; "": it does */
};

/* One line without its end, for a terminal of so many columns (0: plain). */
void progress_format(struct buffer *out, const struct progress_state *state, unsigned columns);

/* How often it is worth showing, and showing it; the last time with is_last. */
uint64_t progress_every_ns(void);
void progress_show(const struct progress_state *state, bool is_last);

/* "1:02" or "1:02:03". */
void progress_duration(char *out, size_t size, double seconds);

#endif
