/* Putting rows: everything that waits goes in one transaction, then one sync.  See spool.h. */
#include "services/ingest/spool_internal.h"

#include <string.h>

/* The row of this number is none of those that wait: it was damaged and has been parked. */
static enum err_code expect_parked(struct store_txn *txn, uint64_t number, struct err *err)
{
    struct spool_key key = spool_key_of(true, number);
    struct store_value value;
    enum err_code rc = store_get(txn, STORE_ROWS, spool_key_value(&key), &value, err);

    return rc == ERR_NOT_FOUND ? err_set(err, ERR_CORRUPT, "the spool has lost a row") : rc;
}

/* The row that waits for this id goes; a damaged one is parked.  Two ids of one hash do not both
 * wait. */
static enum err_code replace(struct spool *spool, struct store_txn *txn,
                             const struct spool_row *row, const struct hash128 *hash,
                             struct spool_status *status, struct err *err)
{
    struct spool_row old = {0};
    struct store_value value;
    struct spool_key key;
    uint64_t number;
    enum err_code rc = store_get(txn, STORE_IDS, spool_hash_value(hash), &value, err);

    if (rc == ERR_NOT_FOUND)
        return ERR_OK;
    if (rc == ERR_OK && value.len != sizeof(number))
        rc = err_set(err, ERR_CORRUPT, "the spool has a number that is none");
    if (rc != ERR_OK)
        return rc;
    number = load_u64(value.data);
    key = spool_key_of(false, number);
    rc = store_get(txn, STORE_ROWS, spool_key_value(&key), &value, err);
    if (rc == ERR_NOT_FOUND)
        return expect_parked(txn, number, err);
    if (rc != ERR_OK)
        return rc;
    spool_count_out(status, value.len);
    if (spool_row_decode(&old, value.data, value.len, NULL) != ERR_OK)
        rc = spool_park_row(spool, txn, number, value, status, err);
    else if (old.id_len != row->id_len || memcmp(old.id, row->id, row->id_len) != 0 ||
             memcmp(old.incarnation, row->incarnation, INCARNATION_BYTES) != 0)
        rc = err_set(err, ERR_UNAVAILABLE, "another record has its place in the spool");
    return rc == ERR_OK ? spool_remove_row(txn, number, hash, err) : rc;
}

static enum err_code put_row(struct spool *spool, struct store_txn *txn, struct spool_row *row,
                             struct spool_status *status, struct err *err)
{
    struct hash128 hash = spool_id_hash(row);
    struct spool_key key = spool_key_of(false, row->number);
    enum err_code rc = replace(spool, txn, row, &hash, status, err);

    if (rc != ERR_OK)
        return rc;
    buffer_reset(&spool->scratch);
    spool_row_encode(row, &spool->scratch);
    rc = buffer_check(&spool->scratch, err);
    if (rc == ERR_OK)
        rc = store_put(txn, STORE_ROWS, spool_key_value(&key),
                       (struct store_value){.data = spool->scratch.data, .len = spool->scratch.len},
                       err);
    if (rc == ERR_OK)
        rc = store_put(txn, STORE_IDS, spool_hash_value(&hash),
                       (struct store_value){.data = &row->number, .len = sizeof(row->number)}, err);
    status->waiting++;
    status->waiting_bytes += spool->scratch.len + SPOOL_ROW_OVERHEAD;
    return rc;
}

/* The disk cannot be relied on. */
static enum err_code fail_disk(bool committing, struct spool_status *status, struct err *err)
{
    struct err cause = *err;

    status->broken = true;
    return err_set(err, committing ? ERR_UNKNOWN_OUTCOME : ERR_UNAVAILABLE,
                   "the spool's disk has failed: %s", cause.message);
}

/* What a failure means for who put: nothing was kept, or it is not known. */
static enum err_code put_failure(bool committing, struct spool_status *status, struct err *err)
{
    struct err cause = *err;

    switch (cause.code) {
    case ERR_DEAD:
    case ERR_NO_MEMORY:
    case ERR_UNAVAILABLE:
        return cause.code;
    case ERR_INSUFFICIENT_STORAGE:
        return err_set(err, ERR_UNAVAILABLE, "the spool has no room: %s", cause.message);
    default:
        return fail_disk(committing, status, err);
    }
}

/* One transaction for all puts of the list. */
static enum err_code write_group(struct spool *spool, struct spool_put *list,
                                 struct spool_status *status, struct err *err)
{
    struct store_txn *txn = NULL;
    enum err_code rc = spool_begin(spool, true, &txn, err);

    for (struct spool_put *put = list; put != NULL && rc == ERR_OK; put = put->next)
        for (size_t i = 0; i < put->count && rc == ERR_OK; i++) {
            put->rows[i].number = spool->next++;
            rc = put_row(spool, txn, &put->rows[i], status, err);
        }
    if (rc == ERR_OK)
        rc = spool_note_oldest(txn, status, err);
    if (rc != ERR_OK) {
        store_abort(txn);
        return put_failure(false, status, err);
    }
    rc = store_commit(txn, err);
    if (rc != ERR_OK)
        return put_failure(true, status, err);
    rc = store_sync(spool->store, err);
    /* The rows are there, and would be replayed: for whatever cause, that is no refusal. */
    return rc == ERR_OK || rc == ERR_DEAD ? rc : fail_disk(true, status, err);
}

/* Take all puts that wait, and write them.  Caller holds the lock, and has it again. */
static void lead_locked(struct spool *spool)
{
    struct spool_put *list = spool->head;
    struct spool_status status = spool->status;
    struct err err = {0};
    enum err_code rc;

    spool->head = NULL;
    spool->tail = &spool->head;
    spool->writing = true;
    pthread_mutex_unlock(&spool->lock);
    rc = write_group(spool, list, &status, &err);
    pthread_mutex_lock(&spool->lock);
    if (rc == ERR_OK)
        spool->status = status;
    spool->status.broken = status.broken;
    for (struct spool_put *put = list, *next; put != NULL; put = next) {
        next = put->next; /* it is its owner's once it is done */
        spool->queued_bytes -= put->bytes;
        put->err = err;
        put->done = true;
    }
    env_cond_broadcast(&spool->filled);
    spool_leave_writer_locked(spool);
}

/* Why a put is not taken.  Caller holds the lock. */
static enum err_code refuse_locked(const struct spool *spool, size_t bytes, struct err *err)
{
    const struct spool_status *status = &spool->status;
    uint64_t used = status->waiting_bytes + status->parked_bytes + spool->queued_bytes;

    if (status->broken)
        return err_set(err, ERR_UNAVAILABLE, "the spool's disk has failed");
    if (used + bytes > spool->setup.bytes_max)
        return err_set(err, ERR_UNAVAILABLE, "the log is away and the spool is full");
    return ERR_OK;
}

enum err_code spool_put(struct spool *spool, struct spool_row *rows, size_t count, struct err *err)
{
    struct spool_put put = {.rows = rows, .count = count};
    enum err_code rc;

    for (size_t i = 0; i < count; i++)
        put.bytes += rows[i].record_len + SPOOL_ROW_OVERHEAD;
    pthread_mutex_lock(&spool->lock);
    rc = refuse_locked(spool, put.bytes, err);
    if (rc == ERR_OK) {
        *spool->tail = &put;
        spool->tail = &put.next;
        spool->queued_bytes += put.bytes;
        while (!put.done) {
            if (!spool->writing)
                lead_locked(spool);
            else /* even when we are to end: whoever writes has our rows */
                (void)(env_cond_wait(&spool->turn, &spool->lock, NEVER_NS) == ERR_OK);
        }
        if (put.err.code != ERR_OK)
            *err = put.err;
        rc = put.err.code;
    }
    pthread_mutex_unlock(&spool->lock);
    return rc;
}
