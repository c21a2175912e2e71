/* The blob store is looked at when the logs have been read: see verify.h.
 *
 * Snapshots are held against the logs (cluster/snapshots_verify.h).  Objects of imports were held
 * against the manifests that name them, together with the shards' rows; here those are counted that
 * none names: they cost room, and are no damage. */
#include <stdlib.h>
#include <string.h>

#include "backends/blob/blob.h"
#include "cli/verify.h"
#include "cluster/snapshots.h"
#include "cluster/snapshots_verify.h"
#include "common/base/checked.h"
#include "common/model/bulk.h"

/* --- names ----------------------------------------------------------------------------------- */

static int compare_hashes(const void *left, const void *right)
{
    const struct hash128 *a = left, *b = right;

    if (a->high != b->high)
        return a->high < b->high ? -1 : 1;
    return (a->low > b->low) - (a->low < b->low);
}

static void sort_names(struct verify_names *names)
{
    size_t kept = 0;

    if (names->count > 1)
        qsort(names->items, names->count, sizeof(*names->items), compare_hashes);
    for (size_t i = 0; i < names->count; i++)
        if (i == 0 || !hash128_equal(names->items[i], names->items[kept - 1]))
            names->items[kept++] = names->items[i];
    names->count = kept;
}

/* An object has a manifest in each of its partitions: they are made one before there is room for
 * more. */
static enum err_code make_room(struct verify_names *names, struct err *err)
{
    size_t size = names->size == 0 ? 1024 : names->size;
    void *grown;

    sort_names(names);
    if (names->count > size / 2)
        size *= 2;
    if (size == names->size)
        return ERR_OK;
    grown = array_resize(names->items, size, sizeof(*names->items));
    if (grown == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the names of %zu objects", size);
    names->items = grown;
    names->size = size;
    return ERR_OK;
}

enum err_code verify_note_named(struct verify *verify, const struct record *record, struct err *err)
{
    struct verify_names *names = &verify->named;
    struct bulk_manifest manifest;
    struct err ignored = {0};
    enum err_code rc = ERR_OK;

    if (verify->blob == NULL || record->op != RECORD_BULK_MANIFEST ||
        bulk_manifest_decode(&manifest, record->payload, record->payload_len, &ignored) != ERR_OK)
        return ERR_OK; /* whose record it is tells */
    if (names->count == names->size)
        rc = make_room(names, err);
    if (rc == ERR_OK)
        names->items[names->count++] = hash_xxh128(manifest.name, strlen(manifest.name));
    return rc;
}

/* --- logs ------------------------------------------------------------------------------------ */

void verify_note_log(struct verify *verify, struct wal_verified *log, bool is_whole)
{
    bool is_kept = log != NULL && log->partitions > 0 && verify->log_count < VERIFY_LOGS_MAX;

    if (is_kept)
        verify->logs[verify->log_count++] = log;
    else
        free(log);
    if (!is_kept || !is_whole)
        verify->is_log_missing = true;
}

void verify_forget_logs(struct verify *verify)
{
    while (verify->log_count > 0)
        free(verify->logs[--verify->log_count]);
    free(verify->named.items);
    verify->named = (struct verify_names){0};
}

/* --- the store ------------------------------------------------------------------------------- */

struct counting {
    struct verify *verify;
    uint64_t named, unnamed; /* objects that are no snapshots' */
};

static bool count_object(void *context, const char *name)
{
    struct counting *counting = context;
    const struct verify_names *names = &counting->verify->named;
    struct hash128 hash = hash_xxh128(name, strlen(name));

    if (strncmp(name, SNAPSHOTS_PREFIX, strlen(SNAPSHOTS_PREFIX)) == 0)
        return true;
    if (names->count > 0 &&
        bsearch(&hash, names->items, names->count, sizeof(hash), compare_hashes) != NULL)
        counting->named++;
    else
        counting->unnamed++;
    return !verify_is_stopping();
}

static enum err_code look(struct verify_thing *thing, struct err *err)
{
    struct verify *verify = thing->verify;
    struct snapshots_verify_setup setup = {.blob = verify->blob,
                                           .scrub = &thing->scrub,
                                           .logs = (const struct wal_verified *const *)verify->logs,
                                           .log_count = verify->log_count};
    struct snapshots_verified found;
    struct counting counting = {.verify = verify};
    enum err_code rc = snapshots_verify(&setup, &found, err), listed;
    struct err why = {0};

    sort_names(&verify->named);
    listed = blob_list(verify->blob, "", count_object, &counting, &why);
    verify_count(thing, "snapshots", found.whole);
    if (found.others > 0)
        verify_count(thing, "of other logs", found.others);
    if (found.unfinished > 0)
        verify_count(thing, "unfinished", found.unfinished);
    verify_count(thing, "objects of snapshots", found.objects);
    verify_count(thing, "bytes", found.bytes);
    if (found.unnamed > 0)
        verify_count(thing, "objects that no snapshot names", found.unnamed);
    verify_count(thing, "other objects", counting.named + counting.unnamed);
    /* Without all logs that are here it cannot be said. */
    if (counting.unnamed > 0 && verify->log_count > 0 && !verify->is_log_missing)
        verify_count(thing, "that no log here names", counting.unnamed);
    if (rc == ERR_OK && listed != ERR_OK)
        *err = why;
    return rc == ERR_OK ? listed : rc;
}

enum err_code verify_blob(struct verify *verify, const char *folder, const char *name,
                          struct err *err)
{
    struct verify_thing *thing;
    struct err why = {0};
    enum err_code rc = verify_thing_begin(&thing, verify, "blobs", folder, name, err);

    if (rc != ERR_OK)
        return rc;
    verify_thing_note(thing, look(thing, &why), &why);
    verify_thing_end(thing);
    return ERR_OK;
}
