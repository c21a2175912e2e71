/* The spool: writes that the log cannot take at present, kept on this ingest's disk until it can.
 *
 *   spool_put → on disk → 202 … the log is back: spool_read → replay.c → spool_settle
 *
 * It holds the newest record of each id only: one that is put replaces the one that waits, so that
 * what is appended in the end, in whatever order, is the last that was acknowledged.  A row waits
 * until it was appended, or found to be older than what the log has, or parked: then it stays until
 * an operator takes the folder away, and is shown.
 *
 * Rows stand in a store of their own.  A put has returned only when a power cut cannot take it.
 * Puts that come together share one commit.  When the disk fails, the put that met it is of unknown
 * outcome, and everything is refused until the store has been opened again (spool_mend).
 *
 *   STORE_META   "spool"                                   u32 format
 *   STORE_IDS    xxh128 of (incarnation, id)               u64 number of the row that waits
 *   STORE_ROWS   u8 0 waiting or 1 parked, u64be number    see spool_row_encode
 *
 * Thread safe, but for what is said.
 */
#ifndef VICINAL_INGEST_SPOOL_H
#define VICINAL_INGEST_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buffer.h"
#include "common/base/bytes.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/model/collection.h"
#include "common/model/stamp.h"

#define SPOOL_BYTES_DEFAULT MIB(256)
#define SPOOL_ROW_OVERHEAD  256 /* counted for each row beside its bytes */
#define SPOOL_LIFE_BYTES    16

struct spool;
struct store;

/* One record that waits. */
struct spool_row {
    uint64_t number;                /* rising with every put */
    uint64_t wall_us;               /* when it was put */
    struct stamp stamp;             /* provisional: above all that the holder had committed then */
    uint8_t life[SPOOL_LIFE_BYTES]; /* of the holder that took it, … */
    uint64_t term;                  /* … and the take-over since which it held the log */
    char tenant[TENANT_BYTES_MAX + 1];
    char collection[COLLECTION_NAME_BYTES_MAX + 1];
    uint8_t incarnation[INCARNATION_BYTES];
    const char *id; /* into record */
    size_t id_len;
    const uint8_t *record; /* encoded; its turn (epoch, stamp, origin) means nothing */
    size_t record_len;
};

typedef enum err_code spool_open_store_fn(void *context, struct store **out, struct err *err);

struct spool_setup {
    struct env *env;
    const char *url;                 /* of the store: lmdb:DIR */
    spool_open_store_fn *open_store; /* instead; NULL: by the URL */
    void *context;
    uint64_t bytes_max; /* 0: SPOOL_BYTES_DEFAULT; parked rows count */
};

/* Looks at every page first.  Errors: those of store_open; ERR_CORRUPT (damage: says where);
 * ERR_CONFIG (a newer format, or another process has it). */
MUST_CHECK enum err_code spool_open(struct spool **out, const struct spool_setup *setup,
                                    struct err *err);
void spool_close(struct spool *spool); /* nobody calls any more; NULL is fine */

/* Keep all rows or none: number is filled in.  No row of these ids is being replayed meanwhile (the
 * busy-id table sees to it).
 * Errors: ERR_UNAVAILABLE (full, or no room on the disk), ERR_PAYLOAD_TOO_LARGE, ERR_NO_MEMORY;
 * ERR_UNKNOWN_OUTCOME, ERR_IO (the disk), ERR_DEAD. */
MUST_CHECK enum err_code spool_put(struct spool *spool, struct spool_row *rows, size_t count,
                                   struct err *err);

/* Does any row wait? */
bool spool_waits(struct spool *spool);

/* The door: closed while the last rows that wait are being appended.  Who finds it closed waits
 * until it opens, holding nothing, at most until the deadline; then spool_waits says where to go.
 */
void spool_pass_door(struct spool *spool, uint64_t deadline_ns);
void spool_close_door(struct spool *spool);
void spool_open_door(struct spool *spool);

/* Wait until a row waits, or the disk has failed.  Errors: ERR_TIMEOUT, ERR_DEAD (also after
 * spool_stop). */
MUST_CHECK enum err_code spool_await(struct spool *spool, uint64_t deadline_ns);
/* Wait until the deadline.  Errors: ERR_DEAD, likewise. */
MUST_CHECK enum err_code spool_pause(struct spool *spool, uint64_t deadline_ns);
void spool_stop(struct spool *spool); /* wakes all who wait, for good; NULL is fine */

/* The oldest row that waits and others of its collection, in the order of their numbers, into the
 * arena.  One thread at a time.  Errors: ERR_CORRUPT, ERR_IO … */
MUST_CHECK enum err_code spool_read(struct spool *spool, struct arena *arena, size_t count_max,
                                    size_t bytes_max, struct spool_row **rows, size_t *count,
                                    struct err *err);

enum spool_fate {
    SPOOL_WAITS,
    SPOOL_APPENDED, /* committed in the log */
    SPOOL_OLDER,    /* than what the log has: the newer one won */
    SPOOL_PARKED,   /* its collection is gone, or it is too old to be compared */
};

/* Which of them still wait?  The others have been replaced.  Errors: ERR_IO … */
MUST_CHECK enum err_code spool_still(struct spool *spool, const struct spool_row *rows,
                                     size_t count, bool *still, struct err *err);

/* Take away what has come to its end.  A crash before it loses nothing: the rows are found again
 * and seen to be in the log.  Errors: ERR_IO … */
MUST_CHECK enum err_code spool_settle(struct spool *spool, const struct spool_row *rows,
                                      const enum spool_fate *fates, size_t count, struct err *err);

/* After a failure of the disk: open the store again.  ERR_OK when nothing was wrong. */
MUST_CHECK enum err_code spool_mend(struct spool *spool, struct err *err);

struct spool_status {
    uint64_t waiting, waiting_bytes;
    uint64_t parked, parked_bytes;
    uint64_t oldest_wall_us; /* of the rows that wait; 0: none */
    bool broken;             /* the disk has failed */
};
void spool_status(struct spool *spool, struct spool_status *out);

/* Frozen, form 1: u8 form, u64 wall, u64 clock, u32 region, life, u64 term, u8 and bytes of the
 * tenant, u8 and bytes of the collection's name, the record.  Also the form in which a row goes to
 * another ingest. */
void spool_row_encode(const struct spool_row *row, struct buffer *out);
/* Pointers lead into data; number is left alone.  Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code spool_row_decode(struct spool_row *row, const void *data, size_t len,
                                          struct err *err);

#endif
