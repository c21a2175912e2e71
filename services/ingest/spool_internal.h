/* What the files of the spool share: spool.c opens and waits, spool_put.c puts, spool_read.c reads
 * and settles.
 *
 * One write transaction at a time: whoever finds nobody writing becomes the writer.  It works on a
 * copy of the status and installs it when the commit has been made; so the status is that of the
 * disk. */
#ifndef VICINAL_INGEST_SPOOL_INTERNAL_H
#define VICINAL_INGEST_SPOOL_INTERNAL_H

#include <pthread.h>

#include "backends/store/store.h"
#include "common/base/hash.h"
#include "services/ingest/spool.h"

#define SPOOL_KEY_BYTES 9

/* Who waits to have rows written. */
struct spool_put {
    struct spool_row *rows;
    size_t count, bytes;
    struct err err;
    bool done;
    struct spool_put *next;
};

struct spool {
    struct spool_setup setup;
    struct env *env;
    char *url;
    struct store *store;   /* the writer's and the reader's; NULL: the disk has failed */
    struct buffer scratch; /* the writer's */
    uint64_t next;         /* number of the next row; the writer's */

    pthread_mutex_t lock;
    struct env_cond turn, filled, door;
    /* below: guarded by lock */
    bool writing, stopping, door_closed;
    struct spool_put *head, **tail;
    size_t queued_bytes;
    struct spool_status status;
};

struct spool_key {
    uint8_t bytes[SPOOL_KEY_BYTES];
};

struct spool_key spool_key_of(bool parked, uint64_t number);
struct store_value spool_key_value(const struct spool_key *key);
uint64_t spool_key_number(struct store_value key);
bool spool_key_is_parked(struct store_value key);
struct hash128 spool_id_hash(const struct spool_row *row);
struct store_value spool_hash_value(const struct hash128 *hash);

/* Errors: ERR_NOT_FOUND (err untouched: the store has none yet), ERR_CORRUPT, ERR_CONFIG (newer).
 */
MUST_CHECK enum err_code spool_check_format(struct store_txn *txn, struct err *err);

/* Errors: ERR_IO (the disk has failed), those of store_begin. */
MUST_CHECK enum err_code spool_begin(struct spool *spool, bool write, struct store_txn **txn,
                                     struct err *err);

/* Caller holds the lock, and has it again.  Errors: ERR_DEAD. */
MUST_CHECK enum err_code spool_become_writer_locked(struct spool *spool);
void spool_leave_writer_locked(struct spool *spool);

/* The row goes, with its place under its id. */
MUST_CHECK enum err_code spool_remove_row(struct store_txn *txn, uint64_t number,
                                          const struct hash128 *hash, struct err *err);
void spool_count_out(struct spool_status *status, size_t len);

/* A copy of the row, among those that are parked. */
MUST_CHECK enum err_code spool_park_row(struct spool *spool, struct store_txn *txn, uint64_t number,
                                        struct store_value value, struct spool_status *status,
                                        struct err *err);

/* When the oldest row that waits was put. */
MUST_CHECK enum err_code spool_note_oldest(struct store_txn *txn, struct spool_status *status,
                                           struct err *err);

#endif
