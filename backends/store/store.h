/* A shard's records: ordered tables of byte strings, changed in transactions, read in snapshots.
 *
 *   lmdb:DIR    LMDB, NOMETASYNC: a commit survives the death of the process at once, and a power
 *               cut once store_sync has returned; what is lost then is a suffix of the commits
 *   memory:     for tests and the simulation; store_memory_crash loses unsynced commits
 *
 * One write transaction at a time (the owner sees to it); any number of read transactions, each
 * seeing the state of the commit before it began.  Values are valid until their transaction ends
 * or, in a write transaction, the next change, and need not be aligned.  A read transaction is
 * short and used by one thread at a time; a write transaction begins and ends in one thread.
 */
#ifndef VICINAL_BACKENDS_STORE_H
#define VICINAL_BACKENDS_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/env.h"
#include "common/base/err.h"

enum store_table {
    STORE_META,    /* the shard's own state: positions, epochs, collections, counters */
    STORE_IDS,     /* u32be collection, id -> what is known of the id */
    STORE_ROWS,    /* u32be collection, u32be ordinal -> id, stamp, metadata, text */
    STORE_VECTORS, /* u32be collection, u32be ordinal -> floats */
    STORE_TABLES
};

/* Keys have at least 1 byte.  In STORE_META those that begin with STORE_META_RESERVED belong to the
 * back end. */
#define STORE_KEY_BYTES_MAX 511
#define STORE_META_RESERVED 0xff

struct store;
struct store_txn;
struct store_cursor;

struct store_value {
    const void *data;
    size_t len;
};

struct store_options {
    const char *url;
    struct env *env;
    uint64_t map_bytes;   /* lmdb: largest size; 0: 1 TiB of address space */
    uint32_t readers_max; /* read transactions at a time; 0: 512 */
    bool read_only;       /* lmdb: only to be looked at, and nothing made; see store_verify.h */
};

/* Errors: ERR_CONFIG (URL, in use by another process, newer format), ERR_CORRUPT, ERR_IO,
 * ERR_INSUFFICIENT_STORAGE, ERR_NO_MEMORY; read_only: ERR_NOT_FOUND.  read_only is for a store that
 * store_verify has found sound, while its lock is held: it takes read transactions only, and LMDB
 * believes every page. */
MUST_CHECK enum err_code store_open(struct store **out, const struct store_options *options,
                                    struct err *err);
void store_close(struct store *store);

/* Errors: ERR_UNAVAILABLE (too many readers), ERR_IO, ERR_NO_MEMORY, ERR_DEAD. */
MUST_CHECK enum err_code store_begin(struct store_txn **out, struct store *store, bool write,
                                     struct err *err);

/* Ends the transaction whatever the code; after an error nothing of it is kept.  After a put or
 * delete has failed, the commit fails with the same code.
 * Errors: ERR_INSUFFICIENT_STORAGE, ERR_IO, ERR_DEAD. */
MUST_CHECK enum err_code store_commit(struct store_txn *txn, struct err *err);
void store_abort(struct store_txn *txn); /* NULL is fine; for readers: the end */

/* Errors: ERR_NOT_FOUND (err stays untouched then: it is no failure), ERR_IO. */
MUST_CHECK enum err_code store_get(struct store_txn *txn, enum store_table table,
                                   struct store_value key, struct store_value *value,
                                   struct err *err);
MUST_CHECK enum err_code store_put(struct store_txn *txn, enum store_table table,
                                   struct store_value key, struct store_value value,
                                   struct err *err);
MUST_CHECK enum err_code store_delete(struct store_txn *txn, enum store_table table,
                                      struct store_value key, struct err *err); /* absent: fine */

/* Rows in key order from the first key >= from (no bytes: from the start).  A cursor ends before
 * its transaction does.  In a write transaction rows may be changed meanwhile: the cursor goes on
 * behind the key that it gave last. */
MUST_CHECK enum err_code store_cursor_open(struct store_cursor **out, struct store_txn *txn,
                                           enum store_table table, struct store_value from,
                                           struct err *err);

/* The cursor will go a long way, in the order in which its rows were written: a back end whose rows
 * may have to come from a disk asks for them ahead.  Before the first store_cursor_next. */
void store_cursor_read_ahead(struct store_cursor *cursor);

/* *more false: no further row. */
MUST_CHECK enum err_code store_cursor_next(struct store_cursor *cursor, struct store_value *key,
                                           struct store_value *value, bool *more, struct err *err);
void store_cursor_close(struct store_cursor *cursor);

/* Thread safe.  Everything committed before the call survives a power cut.  Errors: ERR_IO,
 * ERR_DEAD. */
MUST_CHECK enum err_code store_sync(struct store *store, struct err *err);

/* Hand out the store as it is at one moment, as the bytes of the one file (STORE_COPY_NAME) that
 * store_open finds it in again, in an empty folder, from the first byte to the last.  take gets
 * them piece by piece, may take its time, and ends the copy with an error of its own.  Commits go
 * on meanwhile, but what they replace is not reused: the store grows by it.  Thread safe. Errors:
 * those of take, ERR_NOT_SUPPORTED (memory:), ERR_IO, ERR_NO_MEMORY, ERR_DEAD. */
#define STORE_COPY_NAME "data.mdb"
typedef enum err_code store_take_fn(void *context, const void *data, size_t len, struct err *err);
MUST_CHECK enum err_code store_copy(struct store *store, store_take_fn *take, void *context,
                                    struct err *err);

/* Drop every row of every table, in one commit. */
MUST_CHECK enum err_code store_clear(struct store *store, struct err *err);

uint64_t store_bytes(struct store *store); /* on disk, or in memory */

/* Has any call since the store was opened found it damaged (ERR_CORRUPT)?  Any thread. */
bool store_is_damaged(const struct store *store);

/* memory: only: as after a power cut that loses the last `lost` unsynced commits (at most all
 * unsynced).  No transaction may be open. */
void store_memory_crash(struct store *store, uint32_t lost);

/* --- for back ends only -------------------------------------------------------------------- */

struct store_ops {
    const char *scheme;
    enum err_code (*open)(struct store **out, const struct store_options *options, struct err *err);
    void (*close)(struct store *store);
    enum err_code (*begin)(struct store_txn **out, struct store *store, bool write,
                           struct err *err);
    enum err_code (*commit)(struct store_txn *txn, struct err *err);
    void (*abort)(struct store_txn *txn);
    enum err_code (*get)(struct store_txn *txn, enum store_table table, struct store_value key,
                         struct store_value *value, struct err *err);
    enum err_code (*put)(struct store_txn *txn, enum store_table table, struct store_value key,
                         struct store_value value, struct err *err);
    enum err_code (*remove)(struct store_txn *txn, enum store_table table, struct store_value key,
                            struct err *err);
    enum err_code (*cursor_open)(struct store_cursor **out, struct store_txn *txn,
                                 enum store_table table, struct store_value from, struct err *err);
    enum err_code (*cursor_next)(struct store_cursor *cursor, struct store_value *key,
                                 struct store_value *value, bool *more, struct err *err);
    void (*cursor_close)(struct store_cursor *cursor);
    enum err_code (*sync)(struct store *store, struct err *err);
    enum err_code (*clear)(struct store *store, struct err *err);
    uint64_t (*bytes)(struct store *store);
    enum err_code (*copy)(struct store *store, store_take_fn *take, void *context,
                          struct err *err); /* NULL: not supported */
};

/* First members of every back end's own structs; the back end fills ops and env, the front the
 * rest. */
struct store {
    const struct store_ops *ops;
    struct env *env;
    atomic_bool is_writing; /* a write transaction is open */
    atomic_uint open_txns;  /* of both kinds */
    atomic_bool is_damaged; /* a call has said so */
};

struct store_txn {
    struct store *store;
    bool write;
    enum err_code failed; /* of the first change that failed */
    uint32_t open_cursors;
};

struct store_cursor {
    struct store_txn *txn;
    bool reads_ahead;
};

extern const struct store_ops store_lmdb_ops, store_memory_ops;

#endif
