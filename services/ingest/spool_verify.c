/* Looking at a spool: see spool_verify.h.  A row that is parked may have been damaged when it was
 * put aside; that is told too: it was acknowledged, and nobody will ever read it. */
#include "services/ingest/spool_verify.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "backends/store/store_verify.h"
#include "services/ingest/spool_internal.h"

struct look {
    struct scrub *scrub;
    struct spool_verified *out;
    struct store *store;
    struct store_txn *txn;
    struct buffer unpacked;
    char file[PATH_MAX];
};

#define find(look, ...) scrub_find((look)->scrub, (look)->file, SCRUB_NO_BYTE, __VA_ARGS__)

typedef enum err_code row_fn(struct look *look, struct store_value key, struct store_value value,
                             struct err *err);

static enum err_code walk(struct look *look, enum store_table table, row_fn *each, struct err *err)
{
    struct store_cursor *cursor = NULL;
    enum err_code rc =
        store_cursor_open(&cursor, look->txn, table, (struct store_value){.data = ""}, err);

    while (rc == ERR_OK) {
        struct store_value key, value;
        bool more;

        rc = store_cursor_next(cursor, &key, &value, &more, err);
        if (rc != ERR_OK || !more)
            break;
        rc = each(look, key, value, err);
        if (rc == ERR_OK)
            rc = scrub_go_on(look->scrub, key.len + value.len, err);
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    return rc;
}

/* The number that stands under the id of a row; 0: none. */
static uint64_t number_of(struct look *look, const struct spool_row *row)
{
    struct hash128 hash = spool_id_hash(row);
    struct store_value value;
    struct err ignored;

    if (store_get(look->txn, STORE_IDS, spool_hash_value(&hash), &value, &ignored) != ERR_OK ||
        value.len != sizeof(uint64_t))
        return 0;
    return load_u64(value.data);
}

static enum err_code check_row(struct look *look, struct store_value key, struct store_value value,
                               struct err *err)
{
    const uint8_t *bytes = key.data;
    struct spool_row row = {0};
    struct record record;
    struct err why = {0};
    enum err_code rc;

    if (key.len != SPOOL_KEY_BYTES || bytes[0] > 1) {
        find(look, "a row has a key that is none");
        return ERR_OK;
    }
    row.number = spool_key_number(key);
    *(spool_key_is_parked(key) ? &look->out->parked : &look->out->waiting) += 1;
    rc = spool_row_decode(&row, value.data, value.len, &why);
    if (rc == ERR_OK)
        rc = record_decode(&record, row.record, row.record_len, &look->unpacked, &why);
    if (rc == ERR_NO_MEMORY) {
        *err = why;
        return rc;
    }
    if (rc != ERR_OK)
        find(look, "row %llu: %s", (unsigned long long)row.number, why.message);
    else if (!spool_key_is_parked(key) && number_of(look, &row) != row.number)
        find(look, "row %llu waits, and its id does not lead to it",
             (unsigned long long)row.number);
    return ERR_OK;
}

static bool has_row(struct look *look, uint64_t number)
{
    struct spool_key waiting = spool_key_of(false, number), parked = spool_key_of(true, number);
    struct store_value value;
    struct err ignored;

    return store_get(look->txn, STORE_ROWS, spool_key_value(&waiting), &value, &ignored) ==
               ERR_OK ||
           store_get(look->txn, STORE_ROWS, spool_key_value(&parked), &value, &ignored) == ERR_OK;
}

static enum err_code check_id(struct look *look, struct store_value key, struct store_value value,
                              struct err *err)
{
    (void)err;
    if (key.len != sizeof(struct hash128) || value.len != sizeof(uint64_t))
        find(look, "there is an id that is none");
    else if (!has_row(look, load_u64(value.data)))
        find(look, "there is an id without a row");
    return ERR_OK;
}

/* The rows of a store whose pages are sound. */
static enum err_code look_at_rows(struct look *look, struct err *err)
{
    enum err_code rc = store_begin(&look->txn, look->store, false, err);

    if (rc == ERR_OK)
        rc = spool_check_format(look->txn, err);
    if (rc == ERR_NOT_FOUND)
        return err_set(err, ERR_NOT_FOUND, "%.200s holds no spool yet", look->file);
    if (rc == ERR_OK)
        rc = walk(look, STORE_ROWS, check_row, err);
    return rc == ERR_OK ? walk(look, STORE_IDS, check_id, err) : rc;
}

static enum err_code look_at_all(struct look *look, const char *folder, struct env *env,
                                 struct err *err)
{
    char url[PATH_MAX + 8];
    struct store_options options = {.url = url, .env = env, .read_only = true};
    struct err why = {0};
    enum err_code rc;

    (void)snprintf(url, sizeof(url), "lmdb:%s", folder);
    rc = store_open(&look->store, &options, &why);
    if (rc == ERR_OK)
        rc = look_at_rows(look, &why);
    if (rc == ERR_CORRUPT) {
        find(look, "%s", why.message);
        return ERR_OK;
    }
    if (rc != ERR_OK)
        *err = why;
    return rc;
}

enum err_code spool_verify(const char *folder, struct env *env, struct scrub *scrub,
                           struct spool_verified *out, struct err *err)
{
    struct look look = {.scrub = scrub, .out = out};
    struct store_verified pages;
    int len = snprintf(look.file, sizeof(look.file), "%s/data.mdb", folder);
    enum err_code rc;

    *out = (struct spool_verified){0};
    if (len < 0 || (size_t)len >= sizeof(look.file))
        return err_set(err, ERR_CONFIG, "the path %.200s is too long", folder);
    rc = store_verify(folder, scrub, &pages, err);
    out->bytes = pages.bytes;
    if (rc == ERR_OK && pages.is_sound)
        rc = look_at_all(&look, folder, env, err);
    store_abort(look.txn);
    store_close(look.store);
    buffer_free(&look.unpacked);
    store_verified_end(&pages);
    return rc;
}
