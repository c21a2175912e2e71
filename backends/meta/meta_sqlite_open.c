/* Opening the SQLite file of meta_sqlite.c: is it ours, of a schema that we know, and on a disk of
 * this host?  Then it is brought up to the newest schema, step by step in one transaction, and the
 * statements are prepared.  Several processes may do all this at once: who finds the file busy
 * starts over. */
#include "backends/meta/meta_sqlite_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/vfs.h>

#define BUSY_SLICE_MS 20

static const char *const statement_sql[STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [GET] = "SELECT key, value, version FROM row WHERE key = ?1",
    [LIST] = "SELECT key, value, version FROM row WHERE key >= ?1 ORDER BY key",
    [ROW_VERSION] = "SELECT version FROM row WHERE key = ?1",
    [NEXT_VERSION] = "UPDATE counter SET version = version + 1 RETURNING version",
    [VERSION] = "SELECT version FROM counter",
    [PUT] = ("INSERT INTO row (key, value, version) VALUES (?1, ?2, ?3) "
             "ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version"),
    [DELETE] = "DELETE FROM row WHERE key = ?1",
    [LAG_PUT] =
        "INSERT OR REPLACE INTO replication_lag VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    [LAG_LIST] = "SELECT * FROM replication_lag ORDER BY region, origin, partition",
    [LAG_REMOVE] = "DELETE FROM replication_lag WHERE origin = ?1",
};

/* Step i brings a file from schema i to i + 1; steps are only ever added. */
static const char *const schema_steps[] = {
    "CREATE TABLE row (key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL,"
    " version INTEGER NOT NULL);"
    "CREATE TABLE counter (version INTEGER NOT NULL);"
    "INSERT INTO counter (version) VALUES (0);"
    "PRAGMA application_id = 1449747310;"
    "PRAGMA user_version = 1;",
    "CREATE TABLE replication_lag (region TEXT NOT NULL, origin TEXT NOT NULL,"
    " origin_number INTEGER NOT NULL, partition INTEGER NOT NULL, origin_end INTEGER NOT NULL,"
    " applied INTEGER NOT NULL, lag_records INTEGER NOT NULL, lag_ms INTEGER,"
    " seen_us INTEGER NOT NULL, PRIMARY KEY (region, origin, partition));"
    "PRAGMA user_version = 2;",
};
static_assert(META_SQLITE_APPLICATION == 1449747310, "the schema writes the number in decimal");

int meta_sqlite_schemas(void)
{
    return (int)ARRAY_COUNT(schema_steps);
}

bool meta_sqlite_is_network(uint64_t file_system_type)
{
    /* The magic numbers of Linux.  9P and FUSE are not among them: those are mostly a folder of
     * this host behind a sandbox. */
    static const uint32_t network_types[] = {
        0x6969,     /* NFS */
        0x517b,     /* SMB */
        0xff534d42, /* CIFS */
        0xfe534d42, /* SMB 2 */
        0x5346414f, /* AFS */
        0x6b414653, /* AFS of the kernel */
        0x73757245, /* Coda */
        0x564c,     /* NCP */
        0x00c36400, /* Ceph */
        0x0bd00bd0, /* Lustre */
        0x01161970, /* GFS2 */
        0x7461636f, /* OCFS2 */
        0x47504653, /* GPFS */
        0x19830326, /* BeeGFS */
    };

    for (size_t i = 0; i < ARRAY_COUNT(network_types); i++) {
        /* f_type is signed on some machines: only its 32 bits count. */
        if ((uint32_t)file_system_type == network_types[i])
            return true;
    }
    return false;
}

enum err_code meta_sqlite_fail(const struct sqlite_meta *sqlite, const char *what, struct err *err)
{
    int result = sqlite->db == NULL ? SQLITE_NOMEM : sqlite3_extended_errcode(sqlite->db);
    const char *text = sqlite->db == NULL ? "no memory" : sqlite3_errmsg(sqlite->db);
    enum err_code code;

    switch (result & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        code = ERR_UNAVAILABLE;
        break;
    case SQLITE_FULL:
        code = ERR_INSUFFICIENT_STORAGE;
        break;
    case SQLITE_NOMEM:
        code = ERR_NO_MEMORY;
        break;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        return err_set(err, ERR_CORRUPT,
                       "metadata %s: %s: %s; stop all services and remove the file: it is rebuilt "
                       "from the log",
                       sqlite->file, what, text);
    default:
        code = ERR_IO;
    }
    return err_set(err, code, "metadata %s: %s: %s (%d)", sqlite->file, what, text, result);
}

static enum err_code fail_newer(const struct sqlite_meta *sqlite, int schema, struct err *err)
{
    return err_set(err, ERR_CONFIG,
                   "metadata %s: schema %d, but this version knows %zu at most: run the newer "
                   "version, or stop all services and remove the file: it is rebuilt from the log",
                   sqlite->file, schema, ARRAY_COUNT(schema_steps));
}

static enum err_code check_file_system(const struct sqlite_meta *sqlite, struct err *err)
{
    const char *slash = strrchr(sqlite->file, '/');
    char folder[4096] = ".";
    struct statfs about;

    if (slash != NULL) {
        size_t len = slash == sqlite->file ? 1 : (size_t)(slash - sqlite->file);

        if (len >= sizeof(folder))
            return err_set(err, ERR_CONFIG, "metadata URL: path too long");
        memcpy(folder, sqlite->file, len);
        folder[len] = '\0';
    }
    if (statfs(folder, &about) != 0)
        return err_set(err, ERR_CONFIG, "metadata %s: no folder %s (%s)", sqlite->file, folder,
                       strerrordesc_np(errno));
    if (meta_sqlite_is_network((uint64_t)about.f_type))
        return err_set(err, ERR_CONFIG,
                       "metadata %s: on a network file system, where SQLite is not safe: choose a "
                       "local folder",
                       sqlite->file);
    return ERR_OK;
}

/* One pragma's number. */
static enum err_code read_number(struct sqlite_meta *sqlite, const char *sql, int *number,
                                 struct err *err)
{
    sqlite3_stmt *statement = NULL;
    enum err_code code = ERR_OK;

    if (sqlite3_prepare_v2(sqlite->db, sql, -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW)
        code = meta_sqlite_fail(sqlite, sql, err);
    else
        *number = sqlite3_column_int(statement, 0);
    (void)sqlite3_finalize(statement);
    return code;
}

static enum err_code run_text(struct sqlite_meta *sqlite, const char *sql, struct err *err)
{
    if (sqlite3_exec(sqlite->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return meta_sqlite_fail(sqlite, sql, err);
    return ERR_OK;
}

/* The schema of our file, 0 for an empty one; other programs' and newer ones are refused. */
static enum err_code inspect(struct sqlite_meta *sqlite, int *schema, struct err *err)
{
    int application = 0, objects = 0;
    enum err_code code = read_number(sqlite, "PRAGMA user_version", schema, err);

    if (code == ERR_OK)
        code = read_number(sqlite, "PRAGMA application_id", &application, err);
    if (code == ERR_OK)
        code = read_number(sqlite, "SELECT count(*) FROM sqlite_master", &objects, err);
    if (code != ERR_OK)
        return code;
    if (application != META_SQLITE_APPLICATION && (*schema != 0 || objects != 0))
        return err_set(err, ERR_CONFIG, "metadata %s: a database of another program", sqlite->file);
    if (*schema < 0 || (size_t)*schema > ARRAY_COUNT(schema_steps))
        return fail_newer(sqlite, *schema, err);
    return ERR_OK;
}

/* The same in one snapshot: another process may be making the file at this moment. */
static enum err_code inspect_snapshot(struct sqlite_meta *sqlite, struct err *err)
{
    int schema = 0;
    enum err_code code = run_text(sqlite, "BEGIN", err);

    if (code == ERR_OK)
        code = inspect(sqlite, &schema, err);
    return code == ERR_OK ? run_text(sqlite, "COMMIT", err) : code;
}

/* Bring the schema up to date; the caller disconnects, which rolls back, when it fails. */
static enum err_code migrate(struct sqlite_meta *sqlite, struct err *err)
{
    int schema = 0;
    enum err_code code = run_text(sqlite, "BEGIN IMMEDIATE", err);

    if (code == ERR_OK)
        code = inspect(sqlite, &schema, err);
    for (size_t i = (size_t)schema; code == ERR_OK && i < ARRAY_COUNT(schema_steps); i++)
        code = run_text(sqlite, schema_steps[i], err);
    return code == ERR_OK ? run_text(sqlite, "COMMIT", err) : code;
}

/* Where a journal of that kind cannot be kept, SQLite says so by the mode it answers. */
static enum err_code choose_journal(struct sqlite_meta *sqlite, struct err *err)
{
    sqlite3_stmt *statement = NULL;
    enum err_code code = ERR_OK;

    if (sqlite3_prepare_v2(sqlite->db, "PRAGMA journal_mode = WAL", -1, &statement, NULL) !=
            SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW)
        code = meta_sqlite_fail(sqlite, "journal_mode", err);
    else if (strcmp((const char *)sqlite3_column_text(statement, 0), "wal") != 0)
        code = err_set(err, ERR_CONFIG, "metadata %s: no write-ahead mode in this place",
                       sqlite->file);
    (void)sqlite3_finalize(statement);
    return code;
}

static enum err_code prepare(struct sqlite_meta *sqlite, struct err *err)
{
    for (size_t i = 0; i < STATEMENTS; i++) {
        if (sqlite3_prepare_v3(sqlite->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &sqlite->statements[i], NULL) != SQLITE_OK)
            return meta_sqlite_fail(sqlite, statement_sql[i], err);
    }
    return ERR_OK;
}

void meta_sqlite_disconnect(struct sqlite_meta *sqlite)
{
    int result;

    for (size_t i = 0; i < STATEMENTS; i++) {
        (void)sqlite3_finalize(sqlite->statements[i]);
        sqlite->statements[i] = NULL;
    }
    /* The last connection's close moves the log into the file and removes it. */
    result = sqlite3_close(sqlite->db);
    assert(result == SQLITE_OK);
    sqlite->db = NULL;
}

static enum err_code connect_once(struct sqlite_meta *sqlite, struct err *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    enum err_code code = ERR_OK;

    if (sqlite3_open_v2(sqlite->file, &sqlite->db, flags, NULL) != SQLITE_OK)
        code = meta_sqlite_fail(sqlite, "open", err);
    if (code == ERR_OK && sqlite3_busy_timeout(sqlite->db, BUSY_SLICE_MS) != SQLITE_OK)
        code = meta_sqlite_fail(sqlite, "busy_timeout", err);
    if (code == ERR_OK)
        code = inspect_snapshot(sqlite, err);
    if (code == ERR_OK)
        code = choose_journal(sqlite, err);
    if (code == ERR_OK)
        code = run_text(sqlite, "PRAGMA synchronous = NORMAL", err);
    if (code == ERR_OK)
        code = migrate(sqlite, err);
    if (code == ERR_OK)
        code = prepare(sqlite, err);
    if (code != ERR_OK)
        meta_sqlite_disconnect(sqlite); /* rolls back */
    return code;
}

enum err_code meta_sqlite_connect(struct sqlite_meta *sqlite, struct err *err)
{
    struct env *env = sqlite->base.env;
    uint64_t give_up_ns = env_boot_ns(env) + META_SQLITE_BUSY_NS;
    enum err_code code = check_file_system(sqlite, err);

    if (code != ERR_OK)
        return code;
    for (;;) {
        uint64_t now_ns;

        code = connect_once(sqlite, err);
        now_ns = env_boot_ns(env);
        if (code != ERR_UNAVAILABLE || now_ns >= give_up_ns)
            return code;
        if (env_sleep_until(env, now_ns + META_SQLITE_PAUSE_NS) != ERR_OK)
            return err_set(err, ERR_DEAD, "metadata: shutting down");
    }
}
