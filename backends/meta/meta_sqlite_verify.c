/* Looking at a metadata file: see meta_verify.h.
 *
 * Copy, open the copy, which carries out what SQLite's own log holds, ask SQLite, remove the copy.
 */
#include "backends/meta/meta_verify.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/meta/meta_sqlite_internal.h"

#define COPY_BYTES ((size_t)64 << 10)

static const char *const suffixes[] = {"", "-wal"};
static const char *const leftovers[] = {"", "-wal", "-shm", "-journal"};

struct look {
    const char *file;
    struct scrub *scrub;
    struct meta_verified *out;
    sqlite3 *db;
    char folder[PATH_MAX - 32]; /* temporary; "": not made */
    char copy[PATH_MAX];
};

/* --- the copy -------------------------------------------------------------------------------- */

static enum err_code copy_bytes(struct look *look, int from, int to, struct err *err)
{
    uint8_t *bytes = malloc(COPY_BYTES);
    enum err_code code = ERR_OK;
    ssize_t got = 1;

    if (bytes == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to copy %.200s", look->file);
    while (code == ERR_OK && got > 0) {
        got = read(from, bytes, COPY_BYTES);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got < 0)
            code = err_set_errno(err, errno, "%.200s", look->file);
        else if (got > 0 && write(to, bytes, (size_t)got) != got)
            code = err_set_errno(err, errno == 0 ? ENOSPC : errno, "%.200s", look->folder);
        else
            code = scrub_go_on(look->scrub, (uint64_t)got, err);
        if (code == ERR_OK && got > 0)
            look->out->bytes += (uint64_t)got;
    }
    free(bytes);
    return code;
}

/* One of the files.  Errors: ERR_NOT_FOUND (err untouched: it is not there), … */
static enum err_code copy_file(struct look *look, const char *suffix, struct err *err)
{
    char from_path[PATH_MAX], to_path[PATH_MAX + 16];
    enum err_code code;
    int from, to;

    (void)snprintf(from_path, sizeof(from_path), "%.4000s%s", look->file, suffix);
    (void)snprintf(to_path, sizeof(to_path), "%s%s", look->copy, suffix);
    from = open(from_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (from < 0 && errno == ENOENT)
        return ERR_NOT_FOUND;
    if (from < 0)
        return err_set_errno(err, errno, "%.200s", from_path);
    to = open(to_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (to < 0)
        code = err_set_errno(err, errno, "%.200s", to_path);
    else
        code = copy_bytes(look, from, to, err);
    if (to >= 0 && close(to) != 0 && code == ERR_OK)
        code = err_set_errno(err, errno, "%.200s", to_path);
    (void)close(from); /* it was read only */
    return code;
}

static enum err_code make_copy(struct look *look, struct err *err)
{
    const char *place = getenv("TMPDIR");
    enum err_code code = ERR_OK;

    if (access(look->file, F_OK) != 0 && errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "there is no file %.200s", look->file);
    (void)snprintf(look->folder, sizeof(look->folder), "%.3900s/vicinal-verify-XXXXXX",
                   place == NULL || place[0] == '\0' ? "/tmp" : place);
    if (mkdtemp(look->folder) == NULL) {
        code = err_set_errno(err, errno, "%.200s", look->folder);
        look->folder[0] = '\0';
        return code;
    }
    (void)snprintf(look->copy, sizeof(look->copy), "%.4040s/meta.db", look->folder);
    for (size_t i = 0; code == ERR_OK && i < ARRAY_COUNT(suffixes); i++) {
        code = copy_file(look, suffixes[i], err);
        if (code == ERR_NOT_FOUND)
            code = ERR_OK;
    }
    return code;
}

static void remove_copy(const struct look *look)
{
    char path[PATH_MAX + 16];

    if (look->folder[0] == '\0')
        return;
    for (size_t i = 0; i < ARRAY_COUNT(leftovers); i++) {
        (void)snprintf(path, sizeof(path), "%s%s", look->copy, leftovers[i]);
        (void)unlink(path); /* most are not there */
    }
    (void)rmdir(look->folder);
}

/* --- asking SQLite --------------------------------------------------------------------------- */

/* Damage is told; what else SQLite fails with is an error. */
static enum err_code fail(struct look *look, struct err *err)
{
    int result = look->db == NULL ? SQLITE_NOMEM : sqlite3_extended_errcode(look->db);
    const char *text = look->db == NULL ? "no memory" : sqlite3_errmsg(look->db);

    switch (result & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CANTOPEN:
    case SQLITE_ERROR: /* no such table, … */
        scrub_find(look->scrub, look->file, SCRUB_NO_BYTE, "%s", text);
        return ERR_OK;
    case SQLITE_NOMEM:
        return err_set(err, ERR_NO_MEMORY, "%.200s: %s", look->file, text);
    case SQLITE_FULL:
        return err_set(err, ERR_INSUFFICIENT_STORAGE, "%.200s: %s", look->folder, text);
    default:
        return err_set(err, ERR_IO, "%.200s: %s (%d)", look->file, text, result);
    }
}

typedef void row_fn(struct look *look, sqlite3_stmt *row);

static enum err_code ask(struct look *look, const char *sql, row_fn *each, struct err *err)
{
    sqlite3_stmt *statement = NULL;
    enum err_code code = ERR_OK;
    int result = sqlite3_prepare_v2(look->db, sql, -1, &statement, NULL);

    while (result == SQLITE_OK || result == SQLITE_ROW) {
        result = sqlite3_step(statement);
        if (result == SQLITE_ROW)
            each(look, statement);
    }
    if (result != SQLITE_DONE)
        code = fail(look, err);
    (void)sqlite3_finalize(statement);
    return code;
}

static void take_integrity(struct look *look, sqlite3_stmt *row)
{
    const char *text = (const char *)sqlite3_column_text(row, 0);

    if (text == NULL || strcmp(text, "ok") != 0)
        scrub_find(look->scrub, look->file, SCRUB_NO_BYTE, "%s", text == NULL ? "?" : text);
}

static void take_form(struct look *look, sqlite3_stmt *row)
{
    if (sqlite3_column_int(row, 0) == 0)
        scrub_find(look->scrub, look->file, SCRUB_NO_BYTE,
                   "it is of another program, or of a version that is not known here");
}

static void take_row(struct look *look, sqlite3_stmt *row)
{
    look->out->rows++;
    if (sqlite3_column_int(row, 0) == 0)
        scrub_find(look->scrub, look->file, SCRUB_NO_BYTE,
                   "row %llu has a key, a value or a version that none has",
                   (unsigned long long)look->out->rows);
}

static enum err_code look_at_copy(struct look *look, struct err *err)
{
    char form[160];
    enum err_code code;

    if (sqlite3_open_v2(look->copy, &look->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return fail(look, err);
    (void)snprintf(form, sizeof(form),
                   "SELECT (SELECT application_id FROM pragma_application_id) = %d AND (SELECT "
                   "user_version FROM pragma_user_version) BETWEEN 1 AND %d",
                   META_SQLITE_APPLICATION, meta_sqlite_schemas());
    code = ask(look, "PRAGMA integrity_check(20)", take_integrity, err);
    if (code == ERR_OK)
        code = ask(look, form, take_form, err);
    if (code == ERR_OK)
        code = ask(look,
                   "SELECT typeof(key) = 'blob' AND typeof(value) = 'blob' AND version BETWEEN 1 "
                   "AND (SELECT version FROM counter) FROM row",
                   take_row, err);
    return code;
}

enum err_code meta_verify(const char *file, struct scrub *scrub, struct meta_verified *out,
                          struct err *err)
{
    struct look look = {.file = file, .scrub = scrub, .out = out};
    enum err_code code;
    int closed;

    *out = (struct meta_verified){0};
    if (strlen(file) > PATH_MAX - 100)
        return err_set(err, ERR_CONFIG, "the path %.200s is too long", file);
    code = make_copy(&look, err);
    if (code == ERR_OK)
        code = look_at_copy(&look, err);
    closed = sqlite3_close(look.db);
    remove_copy(&look);
    if (code == ERR_OK && closed != SQLITE_OK)
        return err_set(err, ERR_IO, "%.200s: could not be closed", file);
    return code;
}
