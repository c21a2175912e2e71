/* Reading what waits, and taking away what has come to its end: see spool.h. */
#include "services/ingest/spool_internal.h"

#include <string.h>

#define READ_SCAN_MAX 20000 /* rows looked at for one collection's */

/* --- reading ------------------------------------------------------------------------------------
 */

/* A copy of the row in the arena.  A damaged one has no record, and no collection. */
static enum err_code copy_row(struct spool_row *out, struct arena *arena, uint64_t number,
                              struct store_value value, struct err *err)
{
    uint8_t *copy = arena_alloc(arena, value.len, 1);

    if (copy == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a row of the spool");
    memcpy(copy, value.data, value.len);
    *out = (struct spool_row){0};
    if (spool_row_decode(out, copy, value.len, NULL) != ERR_OK)
        *out = (struct spool_row){0};
    out->number = number;
    return ERR_OK;
}

static bool same_collection(const struct spool_row *a, const struct spool_row *b)
{
    return memcmp(a->incarnation, b->incarnation, INCARNATION_BYTES) == 0 &&
           strcmp(a->collection, b->collection) == 0 && strcmp(a->tenant, b->tenant) == 0;
}

/* A selection under way. */
struct selection {
    struct arena *arena;
    struct spool_row *rows;
    size_t count, count_max, bytes, bytes_max;
};

static enum err_code select_rows(struct selection *sel, struct store_cursor *cursor,
                                 struct err *err)
{
    struct store_value key, value;
    enum err_code rc = ERR_OK;
    bool more;

    for (size_t scanned = 0; rc == ERR_OK; scanned++) {
        struct spool_row *row = &sel->rows[sel->count];
        struct spool_row peeked = {0};

        rc = store_cursor_next(cursor, &key, &value, &more, err);
        if (rc != ERR_OK || !more || spool_key_is_parked(key))
            return rc;
        if (sel->count == sel->count_max || scanned == READ_SCAN_MAX ||
            (sel->count > 0 && sel->bytes + value.len > sel->bytes_max))
            return ERR_OK;
        if (spool_row_decode(&peeked, value.data, value.len, NULL) != ERR_OK)
            peeked = (struct spool_row){0};
        if (sel->count > 0 && !same_collection(&sel->rows[0], &peeked))
            continue;
        rc = copy_row(row, sel->arena, spool_key_number(key), value, err);
        sel->bytes += value.len;
        sel->count++;
    }
    return rc;
}

/* A disk that cannot be read is opened again, as one that cannot be written. */
static enum err_code end_read(struct spool *spool, struct store_txn *txn, enum err_code rc)
{
    store_abort(txn);
    if (rc != ERR_IO && rc != ERR_CORRUPT)
        return rc;
    pthread_mutex_lock(&spool->lock);
    spool->status.broken = true;
    pthread_mutex_unlock(&spool->lock);
    return rc;
}

enum err_code spool_read(struct spool *spool, struct arena *arena, size_t count_max,
                         size_t bytes_max, struct spool_row **rows, size_t *count, struct err *err)
{
    struct selection sel = {.arena = arena,
                            .rows = arena_alloc(arena, count_max + 1, sizeof(*sel.rows)),
                            .count_max = count_max,
                            .bytes_max = bytes_max};
    struct spool_key from = spool_key_of(false, 0);
    struct store_cursor *cursor = NULL;
    struct store_txn *txn = NULL;
    enum err_code rc = sel.rows == NULL ? err_set(err, ERR_NO_MEMORY, "no memory to read the spool")
                                        : spool_begin(spool, false, &txn, err);

    if (rc == ERR_OK)
        rc = store_cursor_open(&cursor, txn, STORE_ROWS, spool_key_value(&from), err);
    if (rc == ERR_OK)
        rc = select_rows(&sel, cursor, err);
    if (cursor != NULL)
        store_cursor_close(cursor);
    *rows = sel.rows;
    *count = sel.count;
    return end_read(spool, txn, rc);
}

enum err_code spool_still(struct spool *spool, const struct spool_row *rows, size_t count,
                          bool *still, struct err *err)
{
    struct store_txn *txn = NULL;
    enum err_code rc = spool_begin(spool, false, &txn, err);

    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        struct spool_key key = spool_key_of(false, rows[i].number);
        struct store_value value;

        rc = store_get(txn, STORE_ROWS, spool_key_value(&key), &value, err);
        still[i] = rc == ERR_OK;
        if (rc == ERR_NOT_FOUND)
            rc = ERR_OK;
    }
    return end_read(spool, txn, rc);
}

/* --- settling -----------------------------------------------------------------------------------
 */

static enum err_code settle_row(struct spool *spool, struct store_txn *txn,
                                const struct spool_row *row, enum spool_fate fate,
                                struct spool_status *status, struct err *err)
{
    struct spool_key key = spool_key_of(false, row->number);
    struct store_value value;
    struct hash128 hash;
    enum err_code rc = store_get(txn, STORE_ROWS, spool_key_value(&key), &value, err);

    if (rc == ERR_NOT_FOUND)
        return ERR_OK;
    if (rc != ERR_OK)
        return rc;
    spool_count_out(status, value.len);
    if (fate == SPOOL_PARKED)
        rc = spool_park_row(spool, txn, row->number, value, status, err);
    if (rc != ERR_OK)
        return rc;
    if (row->record == NULL) /* damaged: nobody knows its id, whose place is left (replace) */
        return store_delete(txn, STORE_ROWS, spool_key_value(&key), err);
    hash = spool_id_hash(row);
    return spool_remove_row(txn, row->number, &hash, err);
}

enum err_code spool_settle(struct spool *spool, const struct spool_row *rows,
                           const enum spool_fate *fates, size_t count, struct err *err)
{
    struct store_txn *txn = NULL;
    struct spool_status status;
    enum err_code rc;

    pthread_mutex_lock(&spool->lock);
    rc = spool_become_writer_locked(spool);
    status = spool->status;
    pthread_mutex_unlock(&spool->lock);
    if (rc != ERR_OK)
        return err_set(err, rc, "shutting down");
    rc = spool_begin(spool, true, &txn, err);
    for (size_t i = 0; i < count && rc == ERR_OK; i++)
        if (fates[i] != SPOOL_WAITS)
            rc = settle_row(spool, txn, &rows[i], fates[i], &status, err);
    if (rc == ERR_OK)
        rc = spool_note_oldest(txn, &status, err);
    if (rc == ERR_OK)
        rc = store_commit(txn, err);
    else
        store_abort(txn);
    pthread_mutex_lock(&spool->lock);
    if (rc == ERR_OK)
        spool->status = status;
    else if (rc != ERR_INSUFFICIENT_STORAGE && rc != ERR_NO_MEMORY && rc != ERR_DEAD)
        spool->status.broken = true;
    spool_leave_writer_locked(spool);
    env_cond_broadcast(&spool->door);
    pthread_mutex_unlock(&spool->lock);
    return rc;
}
