/* All snapshots of a blob store are looked at: see snapshots_verify.h.
 *
 * Happy path: list the objects, by snapshot; of each that is marked load the manifest, see that its
 * parts are there and as long as they have to be, read them and compare the files' digests; hold
 * its positions against its log; then see where the logs begin.
 *
 * A file has one digest for all of its parts: of one that is damaged it is told which file. */
#include "cluster/snapshots_verify.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/snapshots.h"
#include "cluster/snapshots_internal.h"
#include "common/base/checked.h"

#define MISSING_MAX 1000 /* of one snapshot; a manifest may name any number of objects */

/* A snapshot, as its objects' names tell of it. */
struct seen_snapshot {
    uint32_t region, shard;
    char id[SNAPSHOT_ID_BYTES];
    bool is_published, is_marked;
    uint64_t objects;
};

struct scan {
    const struct snapshots_verify_setup *setup;
    struct snapshots_verified *out;
    struct seen_snapshot *seen;
    size_t count, size;
    bool failed;                   /* too many, or no memory */
    struct partition_set *covered; /* of each log: partitions of snapshots that reach to it */
    struct err newer;              /* what could not be read; zeroed: everything could */
    struct buffer part;            /* that is read */
};

/* One that is looked at. */
struct looking {
    struct scan *scan;
    const struct seen_snapshot *seen;
    struct snapshot snapshot;
    uint64_t parts, missing; /* of those that its manifest names */
    bool is_damaged;
};

/* --- what there is ----------------------------------------------------------------------------
 */

static struct seen_snapshot *seen_of(struct scan *scan, const struct snapshot_object *object)
{
    struct seen_snapshot *seen;

    /* What belongs together mostly comes together. */
    for (size_t at = scan->count; at > 0; at--) {
        seen = &scan->seen[at - 1];
        if (seen->region == object->region && seen->shard == object->shard &&
            strcmp(seen->id, object->id) == 0)
            return seen;
    }
    if (scan->count == scan->size) {
        size_t size = scan->size == 0 ? 16 : 2 * scan->size;
        void *grown =
            size > SNAPSHOTS_MAX ? NULL : array_resize(scan->seen, size, sizeof(*scan->seen));

        if (grown == NULL)
            return NULL;
        scan->seen = grown;
        scan->size = size;
    }
    seen = &scan->seen[scan->count++];
    *seen = (struct seen_snapshot){.region = object->region, .shard = object->shard};
    memcpy(seen->id, object->id, sizeof(seen->id));
    return seen;
}

static bool see(void *context, const char *name)
{
    struct scan *scan = context;
    struct snapshot_object object;
    struct seen_snapshot *seen;

    scan->out->objects++;
    if (!snapshot_object_parse(&object, name)) {
        scan->out->unnamed++;
        return true;
    }
    seen = seen_of(scan, &object);
    scan->failed = seen == NULL;
    if (scan->failed)
        return false;
    seen->objects++;
    seen->is_published = seen->is_published || strcmp(object.name, SNAPSHOT_MANIFEST_NAME) == 0;
    seen->is_marked = seen->is_marked || strcmp(object.name, SNAPSHOT_VERIFIED_NAME) == 0;
    return true;
}

static int in_order(const void *left, const void *right)
{
    const struct seen_snapshot *a = left, *b = right;

    if (a->region != b->region)
        return a->region < b->region ? -1 : 1;
    if (a->shard != b->shard)
        return a->shard < b->shard ? -1 : 1;
    return strcmp(a->id, b->id);
}

static enum err_code list_all(struct scan *scan, struct err *err)
{
    enum err_code code = blob_list(scan->setup->blob, SNAPSHOTS_PREFIX, see, scan, err);

    if (code == ERR_OK && scan->failed)
        code = err_set(err, ERR_NO_MEMORY, "too many snapshots to look at");
    if (code == ERR_OK && scan->count > 1)
        qsort(scan->seen, scan->count, sizeof(*scan->seen), in_order);
    return code;
}

/* --- damage -----------------------------------------------------------------------------------
 */

static void object_name(const struct looking *looking, const char *what,
                        char out[BLOB_NAME_BYTES_MAX + 1])
{
    const struct seen_snapshot *seen = looking->seen;

    snapshot_place_name(out, &(struct snapshot_place){seen->region, seen->shard, seen->id, what});
}

/* The mark is what goes first of one that somebody removes. */
static bool is_removed(const struct looking *looking)
{
    char mark[BLOB_NAME_BYTES_MAX + 1];
    struct err ignored = {0};
    uint64_t bytes;

    object_name(looking, SNAPSHOT_VERIFIED_NAME, mark);
    return blob_size(looking->scan->setup->blob, mark, &bytes, &ignored) == ERR_NOT_FOUND;
}

static void PRINTF_LIKE(3, 4)
    tell(struct looking *looking, const char *name, const char *format, ...)
{
    char text[SCRUB_TEXT_BYTES];
    va_list args;

    looking->is_damaged = true;
    if (is_removed(looking))
        return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    scrub_find(looking->scan->setup->scrub, name, SCRUB_NO_BYTE, "%s", text);
}

/* --- one snapshot -----------------------------------------------------------------------------
 */

/* *is_there: as long as it has to be; else that was told.  Errors: the blob's. */
static enum err_code check_size(struct looking *looking, const char *name, uint64_t wanted,
                                bool *is_there, struct err *err)
{
    uint64_t bytes = 0;
    struct err why = {0};
    enum err_code code = blob_size(looking->scan->setup->blob, name, &bytes, &why);

    *is_there = code == ERR_OK && bytes == wanted;
    looking->missing += !*is_there;
    if (code == ERR_NOT_FOUND)
        tell(looking, name, "the manifest names it, and there is no such object");
    else if (code == ERR_OK && !*is_there)
        tell(looking, name, "it has %" PRIu64 " bytes, the manifest says %" PRIu64, bytes, wanted);
    else if (code != ERR_OK)
        *err = why;
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

/* A part of a file that is whole so far. */
static enum err_code read_part(struct looking *looking, const struct snapshot_range *range,
                               struct hash128 *digest, bool *is_there, struct err *err)
{
    struct scan *scan = looking->scan;
    struct err why = {0};
    enum err_code code;

    buffer_reset(&scan->part);
    code = snapshot_read(scan->setup->blob, &looking->snapshot, range, &scan->part, &why);
    if (code == ERR_NOT_FOUND || code == ERR_CORRUPT) { /* it was there a moment ago */
        char name[BLOB_NAME_BYTES_MAX + 1];

        *is_there = false;
        snapshot_part_name(name, &looking->snapshot, range->file, range->at / SNAPSHOT_PART_BYTES);
        tell(looking, name, "%s", why.message);
        return ERR_OK;
    }
    if (code != ERR_OK) {
        *err = why;
        return code;
    }
    for (size_t at = 0; at < scan->part.len; at += COPY_CHUNK_BYTES)
        copy_chain(digest, scan->part.data + at, MIN_OF(COPY_CHUNK_BYTES, scan->part.len - at));
    scan->out->bytes += range->len;
    return scrub_go_on(scan->setup->scrub, range->len, err);
}

static enum err_code check_file(struct looking *looking, size_t index, struct err *err)
{
    const struct copy_file *file = &looking->snapshot.files[index];
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct hash128 digest = {0};
    enum err_code code = ERR_OK;
    bool is_sound = true;

    for (uint64_t at = 0; code == ERR_OK && at < file->bytes && looking->missing < MISSING_MAX;
         at += SNAPSHOT_PART_BYTES) {
        struct snapshot_range range = {
            .file = index, .at = at, .len = MIN_OF(SNAPSHOT_PART_BYTES, file->bytes - at)};
        bool is_there;

        snapshot_part_name(name, &looking->snapshot, index, at / SNAPSHOT_PART_BYTES);
        looking->parts++;
        code = check_size(looking, name, range.len, &is_there, err);
        is_sound = is_sound && is_there;
        if (code == ERR_OK && is_sound)
            code = read_part(looking, &range, &digest, &is_sound, err);
    }
    if (code != ERR_OK || !is_sound || hash128_equal(digest, file->digest))
        return code;
    snapshot_part_name(name, &looking->snapshot, index, 0);
    if (file->bytes <= SNAPSHOT_PART_BYTES)
        tell(looking, name, "%.100s is damaged", file->name);
    else
        tell(looking, name, "%.100s is damaged: this part or one of the %" PRIu64 " that follow",
             file->name, (file->bytes - 1) / SNAPSHOT_PART_BYTES);
    return ERR_OK;
}

/* The log that it is of, or log_count. */
static size_t log_of(const struct looking *looking)
{
    const struct snapshots_verify_setup *setup = looking->scan->setup;
    size_t at = 0;

    while (at < setup->log_count && setup->logs[at]->region != looking->seen->region)
        at++;
    return at;
}

/* As services/shard/seed.c asks: the record before its position proves that the log is its. */
static bool reaches(const struct snapshot *snapshot, const struct wal_verified *log)
{
    for (size_t i = 0; i < snapshot->partition_count; i++) {
        const struct snapshot_partition *partition = &snapshot->partitions[i];
        uint64_t first = log->first[partition->partition];

        if (first > 0 && partition->position <= first)
            return false;
    }
    return true;
}

static void check_positions(struct looking *looking, const struct wal_verified *log)
{
    const struct snapshot *snapshot = &looking->snapshot;
    char name[BLOB_NAME_BYTES_MAX + 1];

    object_name(looking, SNAPSHOT_MANIFEST_NAME, name);
    for (size_t i = 0; i < snapshot->partition_count; i++) {
        const struct snapshot_partition *partition = &snapshot->partitions[i];

        if (partition->partition >= log->partitions)
            tell(looking, name, "it has partition %u, the log has only %u", partition->partition,
                 log->partitions);
        else if (partition->position > log->end[partition->partition])
            tell(looking, name, "it has partition %u up to %" PRIu64 ", the log ends at %" PRIu64,
                 partition->partition, partition->position, log->end[partition->partition]);
    }
}

/* It is whole but for what was told. */
static void conclude(struct looking *looking)
{
    struct scan *scan = looking->scan;
    const struct snapshot *snapshot = &looking->snapshot;
    size_t log = log_of(looking);

    if (log < scan->setup->log_count)
        check_positions(looking, scan->setup->logs[log]);
    if (looking->is_damaged)
        return;
    scan->out->whole++;
    scan->out->others += log == scan->setup->log_count;
    /* With its manifest and its mark. */
    if (looking->seen->objects > looking->parts + 2)
        scan->out->unnamed += looking->seen->objects - looking->parts - 2;
    if (log == scan->setup->log_count || !reaches(snapshot, scan->setup->logs[log]))
        return;
    for (size_t i = 0; i < snapshot->partition_count; i++)
        partition_set_add(&scan->covered[log], snapshot->partitions[i].partition);
}

/* Its manifest and its mark.  *is_loaded: there is something to hold its objects against. */
static enum err_code load(struct looking *looking, bool *is_loaded, struct err *err)
{
    const struct seen_snapshot *seen = looking->seen;
    struct snapshot_list list = {.region = seen->region, .shard = seen->shard};
    struct scan *scan = looking->scan;
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct err why = {0};
    bool is_verified = false;
    enum err_code code =
        snapshot_load(scan->setup->blob, &list, seen->id, &looking->snapshot, &is_verified, &why);

    *is_loaded = code == ERR_OK;
    object_name(looking, code == ERR_OK ? SNAPSHOT_VERIFIED_NAME : SNAPSHOT_MANIFEST_NAME, name);
    if (code == ERR_OK && !is_verified)
        tell(looking, name, "it is not the mark of the manifest that it lies beside");
    else if (code == ERR_NOT_FOUND)
        tell(looking, name, "the snapshot is marked as verified, and has no manifest");
    else if (code == ERR_CORRUPT)
        tell(looking, name, "%s", why.message);
    else if (code == ERR_CONFIG && scan->newer.code == ERR_OK)
        scan->newer = why;
    if (code == ERR_OK || code == ERR_NOT_FOUND || code == ERR_CORRUPT || code == ERR_CONFIG)
        return ERR_OK;
    *err = why;
    return code;
}

static enum err_code look_at(struct scan *scan, const struct seen_snapshot *seen, struct err *err)
{
    struct looking looking = {.scan = scan, .seen = seen};
    bool is_loaded;
    enum err_code code;

    if (!seen->is_marked) {
        scan->out->unfinished++;
        return ERR_OK;
    }
    code = load(&looking, &is_loaded, err);
    for (size_t i = 0; code == ERR_OK && i < looking.snapshot.file_count; i++)
        code = looking.missing < MISSING_MAX ? check_file(&looking, i, err) : ERR_OK;
    if (code == ERR_OK && is_loaded)
        conclude(&looking);
    snapshot_free(&looking.snapshot);
    return code;
}

/* --- all --------------------------------------------------------------------------------------
 */

/* Where a trimmed log begins, a shard has to be able to begin. */
static void check_beginning(struct scan *scan, size_t index)
{
    const struct wal_verified *log = scan->setup->logs[index];
    char name[BLOB_NAME_BYTES_MAX + 1];
    uint32_t uncovered = 0, least = 0;

    for (uint32_t p = 0; p < log->partitions; p++) {
        if (log->first[p] == 0 || partition_set_has(&scan->covered[index], p))
            continue;
        least = uncovered++ == 0 ? p : least;
    }
    if (uncovered == 0)
        return;
    (void)snprintf(name, sizeof(name), SNAPSHOTS_PREFIX "%08x", log->region);
    scrub_find(scan->setup->scrub, name, SCRUB_NO_BYTE,
               "the log begins at %" PRIu64 " in partition %u, and no whole snapshot reaches to "
               "there: so in %u of its %u partitions",
               log->first[least], least, uncovered, log->partitions);
}

enum err_code snapshots_verify(const struct snapshots_verify_setup *setup,
                               struct snapshots_verified *out, struct err *err)
{
    struct scan scan = {.setup = setup, .out = out};
    enum err_code code = ERR_OK;

    *out = (struct snapshots_verified){0};
    scan.covered = array_alloc(setup->log_count, sizeof(*scan.covered));
    if (scan.covered == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory to look at snapshots");
    if (code == ERR_OK)
        code = list_all(&scan, err);
    for (size_t i = 0; code == ERR_OK && i < scan.count; i++)
        code = look_at(&scan, &scan.seen[i], err);
    /* One that could not be read may be the one that is wanted. */
    for (size_t i = 0; code == ERR_OK && scan.newer.code == ERR_OK && i < setup->log_count; i++)
        check_beginning(&scan, i);
    if (code == ERR_OK && scan.newer.code != ERR_OK) {
        *err = scan.newer;
        code = err->code;
    }
    buffer_free(&scan.part);
    free(scan.covered);
    free(scan.seen);
    return code;
}
