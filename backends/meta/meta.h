/* Metadata that services share: small named rows with versions, changed by compare-and-swap.
 *
 *   url             kept in
 *   sqlite:FILE     one host only (a network file system is refused)
 *   postgres://…    shared by many hosts: any URL of libpq's (also postgresql://); schema=NAME
 *                   among its options says where in the database, default vicinal
 *   memory:         this process only, for tests; the simulation wraps it
 *
 * Rows and who writes them:
 *   deployment                      {"partitions":P,"region":N}           ingest, once per log life
 *   map                             shard_map_encode                      vicinal up
 *   node/SERVICE/NAME               {"url":…,"started_us":…}              each service at its start
 *   collection/TENANT/NAME          {"state":"pending"|"active"|"dropped","definition":{…}}  ingest
 *   lease                           {"holder":hex,"url":…,"epochs":[…]}   ingest
 *   catalogue                       {"region":N,"position":…}             ingest
 *   import/ID                       see services/ingest/import_job.h      ingest
 *   region/NAME                     see cluster/regions.h                 vicinal up, region add
 *   role                            likewise                              router, by command
 *
 * Losing all rows loses nothing that was written: they are rebuilt from the log and from the
 * services' start, but for the places of imports under way.
 */
#ifndef VICINAL_BACKENDS_META_H
#define VICINAL_BACKENDS_META_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/base/limits.h"

#define META_KEY_BYTES_MAX   512
#define META_VALUE_BYTES_MAX MIB(4)
#define META_ANY             UINT64_MAX /* write whatever the version is */
#define META_ABSENT          0          /* write only if there is no such row */

struct meta;

struct meta_row {
    char *key;
    void *value; /* NUL-terminated behind value_len bytes */
    size_t value_len;
    uint64_t version; /* from 1, rises with each change of any row of the store */
};

/* Errors: ERR_CONFIG (URL, newer schema, another program's file, network file system), ERR_CORRUPT,
 * ERR_UNAVAILABLE (busy for seconds), ERR_IO. */
MUST_CHECK enum err_code meta_open(struct meta **out, const char *url, struct env *env,
                                   struct err *err);
void meta_close(struct meta *meta);

/* All calls below: thread safe, bounded in time (seconds), and ERR_IO / ERR_UNAVAILABLE when the
 * store is away, ERR_INSUFFICIENT_STORAGE, ERR_NO_MEMORY, ERR_CORRUPT, ERR_DEAD. */

/* Errors: ERR_NOT_FOUND.  The row is owned: meta_row_free. */
MUST_CHECK enum err_code meta_get(struct meta *meta, const char *key, struct meta_row *row,
                                  struct err *err);
/* For who cannot wait for seconds: ERR_UNAVAILABLE at until_ns, if a remote store has not answered.
 */
MUST_CHECK enum err_code meta_get_until(struct meta *meta, const char *key, uint64_t until_ns,
                                        struct meta_row *row, struct err *err);
void meta_row_free(struct meta_row *row);

/* expected: the version read, META_ABSENT or META_ANY.  *version (may be NULL) is the new one.
 * Errors: ERR_CONFLICT (someone else was first), ERR_INVALID_ARGUMENT (sizes). */
struct meta_put {
    const char *key;
    const void *value;
    size_t value_len;
    uint64_t expected;
};
MUST_CHECK enum err_code meta_put(struct meta *meta, const struct meta_put *put, uint64_t *version,
                                  struct err *err);

/* Deleting what is not there is fine (and no change) unless a version is expected.
 * Errors: ERR_CONFLICT. */
MUST_CHECK enum err_code meta_delete(struct meta *meta, const char *key, uint64_t expected,
                                     struct err *err);

/* All rows whose key begins with prefix, in key order.  Free with meta_rows_free. */
MUST_CHECK enum err_code meta_list(struct meta *meta, const char *prefix, struct meta_row **rows,
                                   size_t *count, struct err *err);
void meta_rows_free(struct meta_row *rows, size_t count);

/* The version of the newest change (deletions count). */
MUST_CHECK enum err_code meta_version(struct meta *meta, uint64_t *version, struct err *err);

/* Wait until the version is above `seen` or deadline_ns; *version is the present one. */
MUST_CHECK enum err_code meta_wait(struct meta *meta, uint64_t seen, uint64_t deadline_ns,
                                   uint64_t *version, struct err *err);

/* --- how far regions are behind each other ---------------------------------------------------
 * A table of its own: it changes all the time, which is nobody's reason to read the rows again. */

#define REGION_NAME_BYTES 33 /* with its NUL; [a-z0-9-] */
#define META_LAG_MAX      65536
#define LAG_NEVER         UINT64_MAX

struct meta_lag {
    char region[REGION_NAME_BYTES]; /* that reads … */
    char origin[REGION_NAME_BYTES]; /* … this one's log */
    uint32_t origin_number;
    uint32_t partition;
    uint64_t origin_end, applied; /* positions */
    uint64_t lag_records;
    uint64_t lag_ms;  /* LAG_NEVER: it has never caught up */
    uint64_t seen_us; /* wall clock, when the origin last told its end */
};

/* Replace the rows of (region, origin, partition), all or none; of those that come twice the later
 * one stays.  meta_version stays.  Errors: ERR_INVALID_ARGUMENT (a name, a number over INT64_MAX,
 * more than META_LAG_MAX). */
MUST_CHECK enum err_code meta_lag_put(struct meta *meta, const struct meta_lag *lags, size_t count,
                                      struct err *err);

/* All rows, rising by (region, origin, partition).  Free with free(). */
MUST_CHECK enum err_code meta_lag_list(struct meta *meta, struct meta_lag **lags, size_t *count,
                                       struct err *err);

/* Forget the rows about an origin. */
MUST_CHECK enum err_code meta_lag_remove(struct meta *meta, const char *origin, struct err *err);

/* --- for back ends only -------------------------------------------------------------------- */

struct meta_ops {
    const char *scheme;
    const char *scheme_too; /* another name for it, or NULL */
    enum err_code (*open)(struct meta **out, const char *url, struct env *env, struct err *err);
    void (*close)(struct meta *meta);
    enum err_code (*get)(struct meta *meta, const char *key, uint64_t until_ns,
                         struct meta_row *row, struct err *err);
    enum err_code (*put)(struct meta *meta, const struct meta_put *put, uint64_t *version,
                         struct err *err);
    enum err_code (*remove)(struct meta *meta, const char *key, uint64_t expected, struct err *err);
    enum err_code (*list)(struct meta *meta, const char *prefix, struct meta_row **rows,
                          size_t *count, struct err *err);
    enum err_code (*version)(struct meta *meta, uint64_t *version, struct err *err);
    enum err_code (*wait)(struct meta *meta, uint64_t seen, uint64_t deadline_ns, uint64_t *version,
                          struct err *err);
    enum err_code (*lag_put)(struct meta *meta, const struct meta_lag *lags, size_t count,
                             struct err *err);
    enum err_code (*lag_list)(struct meta *meta, struct meta_lag **lags, size_t *count,
                              struct err *err);
    enum err_code (*lag_remove)(struct meta *meta, const char *origin, struct err *err);
};

struct meta {
    const struct meta_ops *ops;
    struct env *env;
};

extern const struct meta_ops meta_sqlite_ops, meta_postgres_ops, meta_memory_ops;

/* A row of its own from the key and value of `from`.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code meta_row_fill(struct meta_row *row, const struct meta_put *from,
                                       uint64_t version, struct err *err);

/* A growing list of rows.  Errors: ERR_NO_MEMORY; the caller frees what it has. */
struct meta_rows {
    struct meta_row *rows;
    size_t count;
    size_t size; /* rows allocated */
};
MUST_CHECK enum err_code meta_rows_push(struct meta_rows *rows, const struct meta_put *from,
                                        uint64_t version, struct err *err);

/* Room for one more at the end of a growing list.  Errors: ERR_NO_MEMORY. */
struct meta_lags {
    struct meta_lag *items;
    size_t count;
    size_t size;
};
MUST_CHECK enum err_code meta_lags_push(struct meta_lags *lags, const struct meta_lag *lag,
                                        struct err *err);

/* By (region, origin, partition). */
int meta_lag_compare(const struct meta_lag *a, const struct meta_lag *b);

/* Is a file system of this type (f_type of statfs) shared between hosts?  SQLite's locks and its
 * shared memory hold on one host only. */
bool meta_sqlite_is_network(uint64_t file_system_type);

#endif
