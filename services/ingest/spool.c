/* Opening the spool, its door, who waits for rows, mending: see spool.h. */
#include "services/ingest/spool_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backends/store/store_verify.h"
#include "common/base/checked.h"

#define FORMAT         1u
#define MAP_BYTES_MORE MIB(64)

static const char FORMAT_KEY[] = "spool";

/* --- what the files share ------------------------------------------------------------------------
 */

struct spool_key spool_key_of(bool parked, uint64_t number)
{
    struct spool_key key = {.bytes = {parked}};

    store_u64(key.bytes + 1, __builtin_bswap64(number)); /* sorts as numbers do */
    return key;
}

uint64_t spool_key_number(struct store_value key)
{
    return __builtin_bswap64(load_u64((const uint8_t *)key.data + 1));
}

struct store_value spool_key_value(const struct spool_key *key)
{
    return (struct store_value){.data = key->bytes, .len = SPOOL_KEY_BYTES};
}

struct hash128 spool_id_hash(const struct spool_row *row)
{
    uint8_t bytes[INCARNATION_BYTES + ID_BYTES_MAX];

    assert(row->id_len <= ID_BYTES_MAX);
    memcpy(bytes, row->incarnation, INCARNATION_BYTES);
    memcpy(bytes + INCARNATION_BYTES, row->id, row->id_len);
    return hash_xxh128(bytes, INCARNATION_BYTES + row->id_len);
}

struct store_value spool_hash_value(const struct hash128 *hash)
{
    return (struct store_value){.data = hash, .len = sizeof(*hash)};
}

bool spool_key_is_parked(struct store_value key)
{
    return *(const uint8_t *)key.data != 0;
}

enum err_code spool_begin(struct spool *spool, bool write, struct store_txn **txn, struct err *err)
{
    if (spool->store == NULL)
        return err_set(err, ERR_IO, "the spool's disk has failed");
    return store_begin(txn, spool->store, write, err);
}

enum err_code spool_become_writer_locked(struct spool *spool)
{
    while (spool->writing)
        if (env_cond_wait(&spool->turn, &spool->lock, NEVER_NS) == ERR_DEAD)
            return ERR_DEAD;
    spool->writing = true;
    return ERR_OK;
}

void spool_leave_writer_locked(struct spool *spool)
{
    spool->writing = false;
    env_cond_broadcast(&spool->turn);
}

enum err_code spool_remove_row(struct store_txn *txn, uint64_t number, const struct hash128 *hash,
                               struct err *err)
{
    struct spool_key key = spool_key_of(false, number);
    enum err_code rc = store_delete(txn, STORE_ROWS, spool_key_value(&key), err);

    return rc == ERR_OK ? store_delete(txn, STORE_IDS, spool_hash_value(hash), err) : rc;
}

void spool_count_out(struct spool_status *status, size_t len)
{
    status->waiting--;
    status->waiting_bytes -= len + SPOOL_ROW_OVERHEAD;
}

enum err_code spool_park_row(struct spool *spool, struct store_txn *txn, uint64_t number,
                             struct store_value value, struct spool_status *status, struct err *err)
{
    struct spool_key key = spool_key_of(true, number);
    enum err_code rc;

    buffer_reset(&spool->scratch); /* a value is gone after a change */
    buffer_append(&spool->scratch, value.data, value.len);
    rc = buffer_check(&spool->scratch, err);
    value.data = spool->scratch.data;
    if (rc == ERR_OK)
        rc = store_put(txn, STORE_ROWS, spool_key_value(&key), value, err);
    status->parked++;
    status->parked_bytes += value.len + SPOOL_ROW_OVERHEAD;
    return rc;
}

enum err_code spool_note_oldest(struct store_txn *txn, struct spool_status *status, struct err *err)
{
    struct spool_key from = spool_key_of(false, 0);
    struct store_cursor *cursor = NULL;
    struct store_value key, value;
    struct spool_row row = {0};
    bool more = false;
    enum err_code rc = store_cursor_open(&cursor, txn, STORE_ROWS, spool_key_value(&from), err);

    if (rc == ERR_OK)
        rc = store_cursor_next(cursor, &key, &value, &more, err);
    status->oldest_wall_us = 0;
    if (rc == ERR_OK && more && !spool_key_is_parked(key) &&
        spool_row_decode(&row, value.data, value.len, NULL) == ERR_OK)
        status->oldest_wall_us = row.wall_us;
    if (cursor != NULL)
        store_cursor_close(cursor);
    return rc;
}

/* --- opening ------------------------------------------------------------------------------------
 */

/* What is there: counts, the oldest, the next number. */
static enum err_code take_stock(struct spool *spool, struct store_txn *txn,
                                struct spool_status *out, struct err *err)
{
    struct spool_status status = {0};
    struct store_cursor *cursor = NULL;
    struct store_value key, value;
    bool more = true;
    enum err_code rc = store_cursor_open(&cursor, txn, STORE_ROWS, (struct store_value){0}, err);

    spool->next = 1;
    while (rc == ERR_OK) {
        struct spool_row row = {0};
        bool parked;

        rc = store_cursor_next(cursor, &key, &value, &more, err);
        if (rc != ERR_OK || !more)
            break;
        if (key.len != SPOOL_KEY_BYTES) {
            rc = err_set(err, ERR_CORRUPT, "the spool has a key that is none");
            break;
        }
        parked = spool_key_is_parked(key);
        *(parked ? &status.parked : &status.waiting) += 1;
        *(parked ? &status.parked_bytes : &status.waiting_bytes) += value.len + SPOOL_ROW_OVERHEAD;
        spool->next = MAX_OF(spool->next, spool_key_number(key) + 1);
        /* A damaged row is parked when it is read. */
        if (!parked && status.oldest_wall_us == 0 &&
            spool_row_decode(&row, value.data, value.len, NULL) == ERR_OK)
            status.oldest_wall_us = row.wall_us;
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    *out = status;
    return rc;
}

enum err_code spool_check_format(struct store_txn *txn, struct err *err)
{
    struct store_value key = {.data = FORMAT_KEY, .len = sizeof(FORMAT_KEY) - 1}, value;
    uint32_t format;
    enum err_code rc = store_get(txn, STORE_META, key, &value, err);

    if (rc != ERR_OK)
        return rc;
    if (value.len != sizeof(format))
        return err_set(err, ERR_CORRUPT, "this is no spool");
    format = load_u32(value.data);
    if (format != FORMAT)
        return err_set(err, ERR_CONFIG, "the spool has format %u; this release knows %u", format,
                       FORMAT);
    return ERR_OK;
}

/* A store without a format becomes a spool's. */
static enum err_code take_format(struct store_txn *txn, struct err *err)
{
    struct store_value key = {.data = FORMAT_KEY, .len = sizeof(FORMAT_KEY) - 1};
    uint32_t format = FORMAT;
    enum err_code rc = spool_check_format(txn, err);

    if (rc != ERR_NOT_FOUND)
        return rc;
    return store_put(txn, STORE_META, key,
                     (struct store_value){.data = &format, .len = sizeof(format)}, err);
}

/* The first thing that is wrong. */
static void note_finding(void *state, const struct scrub_finding *finding)
{
    struct err *first = state;

    if (first->code == ERR_OK)
        (void)err_set(first, ERR_CORRUPT, "%.100s, byte %llu: %.100s", finding->file,
                      (unsigned long long)finding->byte, finding->text);
}

static bool go_on(void *state, uint64_t bytes)
{
    (void)state, (void)bytes;
    return true;
}

/* LMDB believes its pages, and what waits here stands nowhere else: so they are looked at first. */
static enum err_code check_pages(const char *url, struct err *err)
{
    static const char SCHEME[] = "lmdb:";
    struct err first = {0}, why = {0};
    struct scrub scrub = {.find = note_finding, .go_on = go_on, .state = &first};
    struct store_verified found;
    enum err_code rc;

    if (strncmp(url, SCHEME, sizeof(SCHEME) - 1) != 0)
        return ERR_OK;
    rc = store_verify(url + sizeof(SCHEME) - 1, &scrub, &found, &why);
    store_verified_end(&found);
    if (first.code != ERR_OK)
        return err_set(
            err, ERR_CORRUPT,
            "%s; records that were acknowledged may be lost: `vicinal verify` says more; "
            "to start without them move the folder away",
            first.message);
    /* Who has it is told by opening it. */
    if (rc == ERR_OK || rc == ERR_NOT_FOUND || rc == ERR_CONFLICT)
        return ERR_OK;
    *err = why;
    return rc;
}

static enum err_code open_store(struct spool *spool, struct spool_status *status, struct err *err)
{
    struct store_options options = {.url = spool->url,
                                    .env = spool->env,
                                    .map_bytes = spool->setup.bytes_max * 2 + MAP_BYTES_MORE,
                                    .readers_max = 8};
    struct store_txn *txn = NULL;
    enum err_code rc;

    if (spool->setup.open_store != NULL) {
        rc = spool->setup.open_store(spool->setup.context, &spool->store, err);
    } else {
        rc = check_pages(spool->url, err);
        if (rc == ERR_OK)
            rc = store_open(&spool->store, &options, err);
    }
    if (rc != ERR_OK) {
        spool->store = NULL;
        return rc;
    }
    rc = store_begin(&txn, spool->store, true, err);
    if (rc == ERR_OK)
        rc = take_format(txn, err);
    if (rc == ERR_OK)
        rc = take_stock(spool, txn, status, err);
    if (rc == ERR_OK)
        rc = store_commit(txn, err);
    else
        store_abort(txn);
    if (rc == ERR_OK)
        rc = store_sync(spool->store, err);
    if (rc != ERR_OK) {
        store_close(spool->store);
        spool->store = NULL;
    }
    return rc;
}

enum err_code spool_open(struct spool **out, const struct spool_setup *setup, struct err *err)
{
    size_t url_size = strlen(setup->url) + 1;
    struct spool *spool = calloc(1, sizeof(*spool) + url_size);
    enum err_code rc;

    *out = NULL;
    if (spool == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a spool");
    spool->url = (char *)(spool + 1);
    memcpy(spool->url, setup->url, url_size);
    spool->setup = *setup;
    spool->env = setup->env;
    if (spool->setup.bytes_max == 0)
        spool->setup.bytes_max = SPOOL_BYTES_DEFAULT;
    rc = open_store(spool, &spool->status, err);
    if (rc != ERR_OK) {
        free(spool);
        return err_wrap(err, "the spool %s", setup->url);
    }
    pthread_mutex_init(&spool->lock, NULL);
    env_cond_init(spool->env, &spool->turn);
    env_cond_init(spool->env, &spool->filled);
    env_cond_init(spool->env, &spool->door);
    spool->tail = &spool->head;
    *out = spool;
    return ERR_OK;
}

void spool_close(struct spool *spool)
{
    if (spool == NULL)
        return;
    assert(!spool->writing && spool->head == NULL);
    if (spool->store != NULL)
        store_close(spool->store);
    buffer_free(&spool->scratch);
    env_cond_free(&spool->turn);
    env_cond_free(&spool->filled);
    env_cond_free(&spool->door);
    pthread_mutex_destroy(&spool->lock);
    free(spool);
}

/* --- the door, and who waits for rows
 * --------------------------------------------------------------
 */

bool spool_waits(struct spool *spool)
{
    bool waits;

    pthread_mutex_lock(&spool->lock);
    waits = spool->status.waiting > 0;
    pthread_mutex_unlock(&spool->lock);
    return waits;
}

void spool_pass_door(struct spool *spool, uint64_t deadline_ns)
{
    enum err_code rc = ERR_OK;

    pthread_mutex_lock(&spool->lock);
    while (rc == ERR_OK && spool->door_closed && spool->status.waiting > 0)
        rc = env_cond_wait(&spool->door, &spool->lock, deadline_ns);
    pthread_mutex_unlock(&spool->lock);
}

static void set_door(struct spool *spool, bool closed)
{
    pthread_mutex_lock(&spool->lock);
    spool->door_closed = closed;
    env_cond_broadcast(&spool->door);
    pthread_mutex_unlock(&spool->lock);
}

void spool_close_door(struct spool *spool)
{
    set_door(spool, true);
}

void spool_open_door(struct spool *spool)
{
    set_door(spool, false);
}

/* Wait for a row, or only for the deadline. */
static enum err_code wait_for(struct spool *spool, bool row, uint64_t deadline_ns)
{
    enum err_code rc = ERR_OK;

    pthread_mutex_lock(&spool->lock);
    while (rc == ERR_OK && !spool->stopping &&
           !(row && (spool->status.waiting > 0 || spool->status.broken)))
        rc = env_cond_wait(&spool->filled, &spool->lock, deadline_ns);
    if (spool->stopping)
        rc = ERR_DEAD;
    pthread_mutex_unlock(&spool->lock);
    return rc;
}

enum err_code spool_await(struct spool *spool, uint64_t deadline_ns)
{
    return wait_for(spool, true, deadline_ns);
}

enum err_code spool_pause(struct spool *spool, uint64_t deadline_ns)
{
    enum err_code rc = wait_for(spool, false, deadline_ns);

    return rc == ERR_TIMEOUT ? ERR_OK : rc;
}

void spool_stop(struct spool *spool)
{
    if (spool == NULL)
        return;
    pthread_mutex_lock(&spool->lock);
    spool->stopping = true;
    spool->door_closed = false;
    env_cond_broadcast(&spool->filled);
    env_cond_broadcast(&spool->door);
    pthread_mutex_unlock(&spool->lock);
}

enum err_code spool_mend(struct spool *spool, struct err *err)
{
    struct spool_status status = {0};
    enum err_code rc;
    bool broken;

    pthread_mutex_lock(&spool->lock);
    rc = spool_become_writer_locked(spool);
    broken = spool->status.broken;
    pthread_mutex_unlock(&spool->lock);
    if (rc != ERR_OK)
        return err_set(err, rc, "shutting down");
    if (broken) {
        if (spool->store != NULL)
            store_close(spool->store);
        rc = open_store(spool, &status, err);
    }
    pthread_mutex_lock(&spool->lock);
    if (broken && rc == ERR_OK)
        spool->status = status;
    spool_leave_writer_locked(spool);
    env_cond_broadcast(&spool->filled);
    pthread_mutex_unlock(&spool->lock);
    return rc;
}

void spool_status(struct spool *spool, struct spool_status *out)
{
    pthread_mutex_lock(&spool->lock);
    *out = spool->status;
    pthread_mutex_unlock(&spool->lock);
}
