/* Records in LMDB: one memory-mapped B+tree file, copied on write.
 *
 * A commit writes new pages, syncs them and then writes the root without a sync of its own
 * (MDB_NOMETASYNC): it survives the death of the process at once, and a power cut once store_sync
 * or the next commit has returned.  Readers take a snapshot without any lock; their transactions
 * are kept and renewed, which costs two atomic writes instead of a slot of the reader table.
 *
 * Failure modes.  A full map or disk fails the change or the commit with ERR_INSUFFICIENT_STORAGE;
 * the store stays usable, and what was committed stays.  After a failed write of the root LMDB
 * refuses everything (MDB_PANIC): ERR_IO until it is opened again.  The folder has an exclusive
 * lock file: two processes, or two opens of one process, would break LMDB's own locks.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "backends/store/store_lmdb.h"
#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/limits.h"

#define FORMAT_VERSION      1
#define MAP_BYTES_DEFAULT   (1ull << 40)
#define MAP_BYTES_MIN       (1ull << 20)
#define READERS_MAX_DEFAULT 512
#define IDLE_MAX            64 /* ended read transactions kept for renewal */
#define PATH_SIZE           4096
#define DISK_FULL_BYTES     MIB(1) /* less is left of it: a failed write failed for want of room */

static_assert(sizeof(size_t) == 8, "a map of 1 TiB needs 64-bit addresses");

struct lmdb_txn {
    struct store_txn base; /* first */
    MDB_txn *txn;
};

struct lmdb_store {
    struct store base; /* first */
    MDB_env *env;
    MDB_dbi tables[STORE_TABLES];
    int lock_fd; /* holds the exclusive lock of the folder */
    pthread_mutex_t lock;
    /* below: guarded by lock */
    size_t idle_count;
    struct lmdb_txn *idle[IDLE_MAX];
};

struct lmdb_cursor {
    struct store_cursor base; /* first */
    MDB_cursor *cursor;
    bool is_meta;   /* of STORE_META: ends before the reserved keys */
    bool is_placed; /* a row was given: go on behind it; else: at key */
    struct lmdb_ahead ahead;
    size_t key_len; /* of the start; in a write transaction of the row given last */
    uint8_t key[STORE_KEY_BYTES_MAX];
};

const char *const store_lmdb_tables[STORE_TABLES] = {
    [STORE_META] = "meta",
    [STORE_IDS] = "ids",
    [STORE_ROWS] = "rows",
    [STORE_VECTORS] = "vectors",
};

static const uint8_t format_key[] = {STORE_META_RESERVED, 'f', 'o', 'r', 'm', 'a', 't'};

static struct lmdb_store *lmdb_of(struct store *store)
{
    assert(store->ops == &store_lmdb_ops);
    return (struct lmdb_store *)store;
}

static MDB_val val_of(struct store_value value)
{
    /* LMDB does not write through what it is given to read. */
    return (MDB_val){.mv_size = value.len, .mv_data = (void *)(uintptr_t)value.data};
}

enum err_code lmdb_fail(int result, const char *what, struct err *err)
{
    enum err_code code = ERR_IO;

    assert(result != 0);
    switch (result) {
    case MDB_MAP_FULL:
        code = ERR_INSUFFICIENT_STORAGE;
        break;
    case MDB_READERS_FULL:
        code = ERR_UNAVAILABLE;
        break;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
        code = ERR_CORRUPT;
        break;
    default:
        if (result > 0)
            return err_set_errno(err, result, "store: %s", what);
    }
    return err_set(err, code, "store: %s: %s", what, mdb_strerror(result));
}

/* LMDB tells a write that the disk had no room to finish as EIO, like a broken disk: so the disk is
 * asked too. */
static enum err_code fail_commit(struct lmdb_store *lmdb, int result, struct err *err)
{
    struct statvfs about;
    mdb_filehandle_t fd;

    if (result == EIO && mdb_env_get_fd(lmdb->env, &fd) == 0 && fstatvfs(fd, &about) == 0 &&
        (uint64_t)about.f_bavail * about.f_frsize < DISK_FULL_BYTES)
        return err_set(err, ERR_INSUFFICIENT_STORAGE, "store: commit: the disk is full");
    return lmdb_fail(result, "commit", err);
}

/* --- open ---------------------------------------------------------------------------------- */

static enum err_code lock_folder(struct lmdb_store *lmdb, const char *folder, struct err *err)
{
    char path[PATH_SIZE];
    int len = snprintf(path, sizeof(path), "%s/" STORE_LMDB_LOCK, folder);

    if (len < 0 || (size_t)len >= sizeof(path))
        return err_set(err, ERR_CONFIG, "store URL: path too long");
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return err_set_errno(err, errno, "store: mkdir %s", folder);
    lmdb->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lmdb->lock_fd < 0)
        return err_set_errno(err, errno, "store: %s", path);
    if (flock(lmdb->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return ERR_OK;
    if (errno == EWOULDBLOCK)
        return err_set(err, ERR_CONFIG, "store: %s is in use by another process", folder);
    return err_set_errno(err, errno, "store: lock %s", path);
}

/* One try with a map of map_bytes.  Returns LMDB's code. */
static int open_env_once(struct lmdb_store *lmdb, const char *folder, uint64_t map_bytes,
                         uint32_t readers_max, bool read_only)
{
    unsigned flags =
        MDB_NOTLS | MDB_NORDAHEAD | (read_only ? MDB_RDONLY | MDB_NOLOCK : MDB_NOMETASYNC);
    int result = mdb_env_create(&lmdb->env);

    if (result == 0)
        result = mdb_env_set_mapsize(lmdb->env, (size_t)map_bytes);
    if (result == 0)
        result = mdb_env_set_maxdbs(lmdb->env, STORE_TABLES);
    if (result == 0)
        result = mdb_env_set_maxreaders(lmdb->env, readers_max);
    if (result == 0)
        result = mdb_env_open(lmdb->env, folder, flags, 0666);
    if (result != 0 && lmdb->env != NULL) {
        mdb_env_close(lmdb->env);
        lmdb->env = NULL;
    }
    return result;
}

/* Address space may be scarce (limits, sanitizers): then the map is halved until it fits. */
static enum err_code open_env(struct lmdb_store *lmdb, const char *folder,
                              const struct store_options *options, struct err *err)
{
    uint64_t map_bytes = options->map_bytes == 0 ? MAP_BYTES_DEFAULT : options->map_bytes;
    uint32_t readers_max = options->readers_max == 0 ? READERS_MAX_DEFAULT : options->readers_max;
    uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    int result;

    map_bytes = MAX_OF(map_bytes, MAP_BYTES_MIN) / page_bytes * page_bytes;
    /* Idle transactions keep their slots, and are on top of those in use. */
    readers_max += IDLE_MAX;
    do {
        result = open_env_once(lmdb, folder, map_bytes, readers_max, options->read_only);
        map_bytes = map_bytes / 2 / page_bytes * page_bytes;
    } while ((result == ENOMEM || result == EINVAL || result == EOVERFLOW) &&
             map_bytes >= MAP_BYTES_MIN);
    if (result == 0 && !options->read_only)
        /* Nobody else has the folder: every reader still in the table is dead. */
        result = mdb_reader_check(lmdb->env, NULL);
    return result == 0 ? ERR_OK : lmdb_fail(result, folder, err);
}

/* The format must be ours.  Errors: ERR_NOT_FOUND (err untouched: there is none), … */
static enum err_code read_format(struct lmdb_store *lmdb, MDB_txn *txn, struct err *err)
{
    MDB_val key = {sizeof(format_key), (void *)(uintptr_t)format_key}, value;
    int result = mdb_get(txn, lmdb->tables[STORE_META], &key, &value);

    if (result == MDB_NOTFOUND)
        return ERR_NOT_FOUND;
    if (result != 0)
        return lmdb_fail(result, "format", err);
    if (value.mv_size != sizeof(uint32_t))
        return err_set(err, ERR_CORRUPT, "store: the format version is damaged");
    if (load_u32(value.mv_data) == FORMAT_VERSION)
        return ERR_OK;
    return err_set(err, ERR_CONFIG,
                   "store: format %u, but this version knows %d: run the version that wrote "
                   "it, or remove the folder: it is rebuilt from the log",
                   load_u32(value.mv_data), FORMAT_VERSION);
}

/* The format must be ours; an empty store becomes of ours. */
static enum err_code check_format(struct lmdb_store *lmdb, MDB_txn *txn, struct err *err)
{
    MDB_val key = {sizeof(format_key), (void *)(uintptr_t)format_key};
    uint8_t version[4];
    MDB_val value = {sizeof(version), version};
    MDB_stat stat = {0};
    size_t rows = 0;
    enum err_code code = read_format(lmdb, txn, err);
    int result;

    if (code != ERR_NOT_FOUND)
        return code;
    for (size_t i = 0; i < STORE_TABLES; i++) {
        result = mdb_stat(txn, lmdb->tables[i], &stat);
        if (result != 0)
            return lmdb_fail(result, "mdb_stat", err);
        rows += stat.ms_entries;
    }
    if (rows > 0)
        return err_set(err, ERR_CORRUPT, "store: rows without a format version");
    store_u32(version, FORMAT_VERSION);
    result = mdb_put(txn, lmdb->tables[STORE_META], &key, &value, 0);
    return result == 0 ? ERR_OK : lmdb_fail(result, "format", err);
}

/* read_only: they must be there, and what has no format is damaged. */
static enum err_code open_tables(struct lmdb_store *lmdb, bool read_only, struct err *err)
{
    MDB_txn *txn = NULL;
    enum err_code code = ERR_OK;
    int result = mdb_txn_begin(lmdb->env, NULL, read_only ? MDB_RDONLY : 0, &txn);

    if (result != 0)
        return lmdb_fail(result, "begin", err);
    for (size_t i = 0; code == ERR_OK && i < STORE_TABLES; i++) {
        result =
            mdb_dbi_open(txn, store_lmdb_tables[i], read_only ? 0 : MDB_CREATE, &lmdb->tables[i]);
        if (result == MDB_NOTFOUND)
            code = err_set(err, ERR_CORRUPT, "store: there is no table %s", store_lmdb_tables[i]);
        else if (result != 0)
            code = lmdb_fail(result, store_lmdb_tables[i], err);
    }
    if (code == ERR_OK && !read_only)
        code = check_format(lmdb, txn, err);
    else if (code == ERR_OK && (code = read_format(lmdb, txn, err)) == ERR_NOT_FOUND)
        code = err_set(err, ERR_CORRUPT, "store: there is no format version");
    if (code != ERR_OK) {
        mdb_txn_abort(txn);
        return code;
    }
    result = mdb_txn_commit(txn);
    return result == 0 ? ERR_OK : fail_commit(lmdb, result, err);
}

static void lmdb_close(struct store *store)
{
    struct lmdb_store *lmdb = lmdb_of(store);

    for (size_t i = 0; i < lmdb->idle_count; i++) {
        mdb_txn_abort(lmdb->idle[i]->txn);
        free(lmdb->idle[i]);
    }
    if (lmdb->env != NULL)
        mdb_env_close(lmdb->env);
    if (lmdb->lock_fd >= 0)
        (void)close(lmdb->lock_fd); /* nothing was written to it; this lets go of the lock */
    pthread_mutex_destroy(&lmdb->lock);
    free(lmdb);
}

static enum err_code lmdb_open(struct store **out, const struct store_options *options,
                               struct err *err)
{
    const char *folder = options->url + strlen("lmdb:");
    struct lmdb_store *lmdb;
    enum err_code code;

    if (folder[0] == '\0')
        return err_set(err, ERR_CONFIG, "store URL \"%s\": want lmdb:DIR", options->url);
    lmdb = calloc(1, sizeof(*lmdb));
    if (lmdb == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory");
    lmdb->base.ops = &store_lmdb_ops;
    lmdb->base.env = options->env;
    lmdb->lock_fd = -1;
    pthread_mutex_init(&lmdb->lock, NULL);
    code = options->read_only ? ERR_OK : lock_folder(lmdb, folder, err);
    if (code == ERR_OK && !options->read_only)
        code = store_lmdb_make(folder, err);
    if (code == ERR_OK)
        code = open_env(lmdb, folder, options, err);
    if (code == ERR_OK)
        code = open_tables(lmdb, options->read_only, err);
    if (code != ERR_OK) {
        lmdb_close(&lmdb->base);
        return code;
    }
    assert(mdb_env_get_maxkeysize(lmdb->env) >= STORE_KEY_BYTES_MAX);
    *out = &lmdb->base;
    return ERR_OK;
}

/* --- transactions -------------------------------------------------------------------------- */

static struct lmdb_txn *take_idle(struct lmdb_store *lmdb)
{
    struct lmdb_txn *txn = NULL;

    pthread_mutex_lock(&lmdb->lock);
    if (lmdb->idle_count > 0)
        txn = lmdb->idle[--lmdb->idle_count];
    pthread_mutex_unlock(&lmdb->lock);
    return txn;
}

static bool keep_idle(struct lmdb_store *lmdb, struct lmdb_txn *txn)
{
    bool kept = false;

    pthread_mutex_lock(&lmdb->lock);
    if (lmdb->idle_count < IDLE_MAX) {
        lmdb->idle[lmdb->idle_count++] = txn;
        kept = true;
    }
    pthread_mutex_unlock(&lmdb->lock);
    return kept;
}

static enum err_code lmdb_begin(struct store_txn **out, struct store *store, bool write,
                                struct err *err)
{
    struct lmdb_store *lmdb = lmdb_of(store);
    struct lmdb_txn *txn = write ? NULL : take_idle(lmdb);
    int result;

    if (txn != NULL) {
        result = mdb_txn_renew(txn->txn);
        if (result != 0)
            mdb_txn_abort(txn->txn);
    } else {
        txn = calloc(1, sizeof(*txn));
        if (txn == NULL)
            return err_set(err, ERR_NO_MEMORY, "store: no memory for a transaction");
        result = mdb_txn_begin(lmdb->env, NULL, write ? 0 : MDB_RDONLY, &txn->txn);
    }
    if (result != 0) {
        free(txn);
        return lmdb_fail(result, "begin", err);
    }
    *out = &txn->base;
    return ERR_OK;
}

static enum err_code lmdb_commit(struct store_txn *base, struct err *err)
{
    struct lmdb_txn *txn = (struct lmdb_txn *)base;
    struct lmdb_store *lmdb = lmdb_of(base->store);
    int result = mdb_txn_commit(txn->txn);

    free(txn);
    return result == 0 ? ERR_OK : fail_commit(lmdb, result, err);
}

static void lmdb_abort(struct store_txn *base)
{
    struct lmdb_txn *txn = (struct lmdb_txn *)base;

    if (!base->write) {
        mdb_txn_reset(txn->txn);
        if (keep_idle(lmdb_of(base->store), txn))
            return;
    }
    mdb_txn_abort(txn->txn);
    free(txn);
}

static enum err_code lmdb_get(struct store_txn *base, enum store_table table,
                              struct store_value key, struct store_value *value, struct err *err)
{
    struct lmdb_store *lmdb = (struct lmdb_store *)base->store;
    MDB_val key_val = val_of(key), got;
    int result = mdb_get(((struct lmdb_txn *)base)->txn, lmdb->tables[table], &key_val, &got);

    if (result == MDB_NOTFOUND)
        return ERR_NOT_FOUND;
    if (result != 0)
        return lmdb_fail(result, "get", err);
    *value = (struct store_value){got.mv_data, got.mv_size};
    return ERR_OK;
}

/* Is it filled in the order of its keys, mostly? */
static bool is_ascending(enum store_table table)
{
    return table == STORE_ROWS || table == STORE_VECTORS;
}

static enum err_code lmdb_put(struct store_txn *base, enum store_table table,
                              struct store_value key, struct store_value value, struct err *err)
{
    struct lmdb_store *lmdb = (struct lmdb_store *)base->store;
    MDB_txn *txn = ((struct lmdb_txn *)base)->txn;
    MDB_val key_val = val_of(key), value_val = val_of(value);
    int result = MDB_KEYEXIST;

    /* Behind the last row: a page that is full stays so.  Without the hint it is split, and a page
     * has one vector of 384 numbers where it has room for two. */
    if (is_ascending(table))
        result = mdb_put(txn, lmdb->tables[table], &key_val, &value_val, MDB_APPEND);
    if (result == MDB_KEYEXIST)
        result = mdb_put(txn, lmdb->tables[table], &key_val, &value_val, 0);
    return result == 0 ? ERR_OK : lmdb_fail(result, "put", err);
}

static enum err_code lmdb_remove(struct store_txn *base, enum store_table table,
                                 struct store_value key, struct err *err)
{
    struct lmdb_store *lmdb = (struct lmdb_store *)base->store;
    MDB_val key_val = val_of(key);
    int result = mdb_del(((struct lmdb_txn *)base)->txn, lmdb->tables[table], &key_val, NULL);

    return result == 0 || result == MDB_NOTFOUND ? ERR_OK : lmdb_fail(result, "delete", err);
}

/* --- cursors ------------------------------------------------------------------------------- */

static enum err_code lmdb_cursor_open(struct store_cursor **out, struct store_txn *txn,
                                      enum store_table table, struct store_value from,
                                      struct err *err)
{
    struct lmdb_store *lmdb = (struct lmdb_store *)txn->store;
    struct lmdb_cursor *cursor = calloc(1, sizeof(*cursor));
    int result;

    if (cursor == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory for a cursor");
    result = mdb_cursor_open(((struct lmdb_txn *)txn)->txn, lmdb->tables[table], &cursor->cursor);
    if (result != 0) {
        free(cursor);
        return lmdb_fail(result, "cursor", err);
    }
    cursor->is_meta = table == STORE_META;
    cursor->key_len = from.len;
    if (from.len > 0)
        memcpy(cursor->key, from.data, from.len);
    *out = &cursor->base;
    return ERR_OK;
}

static bool is_same_key(const struct lmdb_cursor *cursor, const MDB_val *key)
{
    return key->mv_size == cursor->key_len && memcmp(key->mv_data, cursor->key, key->mv_size) == 0;
}

/* A reader steps on; a writer, whose changes may have moved rows under the cursor, looks for the
 * key again. */
static int cursor_move(struct lmdb_cursor *cursor, MDB_val *key, MDB_val *value)
{
    int result;

    if (cursor->is_placed && !cursor->base.txn->write)
        return mdb_cursor_get(cursor->cursor, key, value, MDB_NEXT);
    if (cursor->key_len == 0)
        return mdb_cursor_get(cursor->cursor, key, value, MDB_FIRST);
    *key = (MDB_val){cursor->key_len, cursor->key};
    result = mdb_cursor_get(cursor->cursor, key, value, MDB_SET_RANGE);
    if (result == 0 && cursor->is_placed && is_same_key(cursor, key))
        result = mdb_cursor_get(cursor->cursor, key, value, MDB_NEXT);
    return result;
}

static enum err_code lmdb_cursor_next(struct store_cursor *base, struct store_value *key,
                                      struct store_value *value, bool *more, struct err *err)
{
    struct lmdb_cursor *cursor = (struct lmdb_cursor *)base;
    MDB_val key_val = {0}, value_val = {0};
    int result = cursor_move(cursor, &key_val, &value_val);

    *more = false;
    if (result == MDB_NOTFOUND)
        return ERR_OK;
    if (result != 0)
        return lmdb_fail(result, "cursor", err);
    if (key_val.mv_size < 1 || key_val.mv_size > STORE_KEY_BYTES_MAX)
        return err_set(err, ERR_CORRUPT, "store: a key of %zu bytes", key_val.mv_size);
    if (cursor->is_meta && *(const uint8_t *)key_val.mv_data == STORE_META_RESERVED)
        return ERR_OK;
    cursor->is_placed = true;
    if (base->txn->write) {
        memcpy(cursor->key, key_val.mv_data, key_val.mv_size);
        cursor->key_len = key_val.mv_size;
    }
    *key = (struct store_value){key_val.mv_data, key_val.mv_size};
    *value = (struct store_value){value_val.mv_data, value_val.mv_size};
    if (base->reads_ahead)
        lmdb_read_ahead(&cursor->ahead, value->data);
    *more = true;
    return ERR_OK;
}

static void lmdb_cursor_close(struct store_cursor *base)
{
    struct lmdb_cursor *cursor = (struct lmdb_cursor *)base;

    mdb_cursor_close(cursor->cursor);
    free(cursor);
}

/* --- the whole store ----------------------------------------------------------------------- */

static enum err_code lmdb_sync(struct store *store, struct err *err)
{
    int result = mdb_env_sync(lmdb_of(store)->env, 1);

    return result == 0 ? ERR_OK : lmdb_fail(result, "sync", err);
}

static enum err_code lmdb_clear(struct store *store, struct err *err)
{
    struct lmdb_store *lmdb = lmdb_of(store);
    MDB_txn *txn = NULL;
    enum err_code code = ERR_OK;
    int result = mdb_txn_begin(lmdb->env, NULL, 0, &txn);

    if (result != 0)
        return lmdb_fail(result, "begin", err);
    for (size_t i = 0; code == ERR_OK && i < STORE_TABLES; i++) {
        result = mdb_drop(txn, lmdb->tables[i], 0);
        if (result != 0)
            code = lmdb_fail(result, "clear", err);
    }
    if (code == ERR_OK)
        code = check_format(lmdb, txn, err); /* writes it anew */
    if (code != ERR_OK) {
        mdb_txn_abort(txn);
        return code;
    }
    result = mdb_txn_commit(txn);
    return result == 0 ? ERR_OK : fail_commit(lmdb, result, err);
}

static uint64_t lmdb_bytes(struct store *store)
{
    struct lmdb_store *lmdb = lmdb_of(store);
    MDB_envinfo info = {0};
    MDB_stat stat = {0};
    int result = mdb_env_info(lmdb->env, &info);

    assert(result == 0);
    result = mdb_env_stat(lmdb->env, &stat);
    assert(result == 0);
    return ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize;
}

static enum err_code lmdb_copy(struct store *store, store_take_fn *take, void *context,
                               struct err *err)
{
    return lmdb_copy_env(lmdb_of(store)->env, store->env,
                         &(struct lmdb_taker){.take = take, .context = context}, err);
}

const struct store_ops store_lmdb_ops = {
    .scheme = "lmdb",
    .open = lmdb_open,
    .close = lmdb_close,
    .begin = lmdb_begin,
    .commit = lmdb_commit,
    .abort = lmdb_abort,
    .get = lmdb_get,
    .put = lmdb_put,
    .remove = lmdb_remove,
    .cursor_open = lmdb_cursor_open,
    .cursor_next = lmdb_cursor_next,
    .cursor_close = lmdb_cursor_close,
    .sync = lmdb_sync,
    .clear = lmdb_clear,
    .bytes = lmdb_bytes,
    .copy = lmdb_copy,
};
