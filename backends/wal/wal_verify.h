/* Verifying a log kept in files: every header, every frame below what is known as committed, the
 * rules by which segments and offsets follow one another, and the control page.  Nothing is
 * changed, and no writer is let in meanwhile; what a writer would cut is left out, not counted as
 * damage: behind the committed place nothing was acknowledged. */
#ifndef VICINAL_BACKENDS_WAL_VERIFY_H
#define VICINAL_BACKENDS_WAL_VERIFY_H

#include "backends/wal/wal.h"
#include "common/base/limits.h"
#include "common/base/scrub.h"

struct wal_verified {
    uint32_t region;     /* number of the log */
    uint32_t partitions; /* 0: no segment could be read */
    uint64_t segments, frames, bytes;
    uint64_t first[PARTITIONS_MAX]; /* of each partition: what was below has been trimmed */
    uint64_t end[PARTITIONS_MAX];   /* of each partition, as far as it could be read */
    bool is_whole;                  /* no frame is missing: all below the ends were given */
};

/* An item that is whole and not trimmed.  log: what is known so far, region, partitions and firsts
 * in any case; file and
 * byte: where the item's frame begins.  An error ends the verification with it. */
typedef enum err_code wal_verify_fn(void *state, const struct wal_verified *log,
                                    const struct wal_item *item, const struct scrub_finding *place,
                                    struct err *err);

struct wal_verify_request {
    const char *folder;
    wal_verify_fn *each; /* in the order of the log; NULL: nobody wants them */
    void *state;
    struct scrub *scrub;
};

/* Damage is told to the scrub and does not end the verification: it goes on in the next segment.
 * Errors: ERR_NOT_FOUND (there is no log), ERR_CONFLICT (a service writes it), ERR_CONFIG (a newer
 * format), ERR_IO, ERR_NO_MEMORY, ERR_DEAD (told to stop), those of each. */
MUST_CHECK enum err_code wal_verify(const struct wal_verify_request *request,
                                    struct wal_verified *out, struct err *err);

#endif
