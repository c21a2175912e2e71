/* Making a snapshot: see snapshot_make.h.
 *
 * What a crash leaves: a folder, which the next one empties, and parts in the blob store without a
 * manifest or without a mark, which count for nothing and go at the replica's next start. */
#include "services/shard/snapshot_make.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/shard/segments.h"
#include "services/shard/snapshot_store.h"

#define ABANDONED_US (24ull * 3600 * 1000000)

/* Before each chunk. */
static enum err_code go_on(void *context, size_t len, struct err *err)
{
    struct snapshot_making *making = context;

    if (atomic_load(making->is_stopping))
        return err_set(err, ERR_DEAD, "shutting down");
    atomic_fetch_add(&making->done_bytes, len);
    return copy_pace(making->pace, len, err);
}

static enum err_code empty_folder(const struct snapshot_making *making, struct err *err)
{
    enum err_code code = segments_remove(making->folder, err);

    if (code == ERR_OK && mkdir(making->folder, 0777) != 0)
        code = err_set_errno(err, errno, "snapshot: mkdir %.200s", making->folder);
    return code;
}

/* --- putting -----------------------------------------------------------------------------------
 */

/* One file on its way into the blob store. */
struct putting {
    struct snapshot_making *making;
    size_t number;
    int fd;
    uint8_t *part; /* SNAPSHOT_PART_BYTES */
    struct hash128 digest;
};

static enum err_code read_part(struct putting *putting, uint64_t at, size_t len, struct err *err)
{
    size_t done = 0;

    while (done < len) {
        ssize_t got = pread(putting->fd, putting->part + done, len - done, (off_t)(at + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return err_set_errno(err, got == 0 ? EIO : errno, "snapshot: reading the copy");
        done += (size_t)got;
    }
    return ERR_OK;
}

static enum err_code put_part(struct putting *putting, uint64_t at, size_t len, struct err *err)
{
    struct snapshot_making *making = putting->making;
    char name[BLOB_NAME_BYTES_MAX + 1];
    enum err_code code = go_on(making, len, err);

    if (code == ERR_OK)
        code = read_part(putting, at, len, err);
    if (code != ERR_OK)
        return code;
    for (size_t i = 0; i < len; i += COPY_CHUNK_BYTES)
        copy_chain(&putting->digest, putting->part + i, MIN_OF(COPY_CHUNK_BYTES, len - i));
    snapshot_part_name(name, &making->made, putting->number, at / SNAPSHOT_PART_BYTES);
    return blob_put(making->blob, name, putting->part, len, err);
}

static enum err_code put_file(struct putting *putting, struct err *err)
{
    const struct copy_file *file = &putting->making->made.files[putting->number];
    char path[SEGMENTS_PATH_BYTES];
    enum err_code code = ERR_OK;

    if (snprintf(path, sizeof(path), "%s/%s", putting->making->folder, file->name) >=
        (int)sizeof(path))
        return err_set(err, ERR_CONFIG, "the path of a snapshot is too long");
    putting->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (putting->fd < 0)
        return err_set_errno(err, errno, "snapshot: %.200s", path);
    putting->digest = (struct hash128){0};
    for (uint64_t at = 0; code == ERR_OK && at < file->bytes; at += SNAPSHOT_PART_BYTES)
        code = put_part(putting, at, MIN_OF(SNAPSHOT_PART_BYTES, file->bytes - at), err);
    if (code == ERR_OK && !hash128_equal(putting->digest, file->digest))
        code = err_set(err, ERR_CORRUPT, "%.100s has changed since it was copied", file->name);
    (void)close(putting->fd); /* nothing was written through it */
    return code;
}

static enum err_code put_files(struct snapshot_making *making, struct err *err)
{
    struct putting putting = {.making = making, .part = malloc(SNAPSHOT_PART_BYTES)};
    enum err_code code =
        putting.part == NULL ? err_set(err, ERR_NO_MEMORY, "no memory for a snapshot") : ERR_OK;

    for (; code == ERR_OK && putting.number < making->made.file_count; putting.number++)
        code = put_file(&putting, err);
    free(putting.part);
    return code;
}

/* --- the whole ---------------------------------------------------------------------------------
 */

/* The files of the copy become the snapshot's. */
static enum err_code copy_files(struct snapshot_making *making, struct err *err)
{
    struct copy_making copy = {.store = making->store,
                               .segments = making->segments,
                               .folder = making->folder,
                               .pace = making->pace,
                               .is_stopping = making->is_stopping};
    enum err_code code = empty_folder(making, err);

    if (code == ERR_OK)
        code = copy_make(&copy, err);
    making->made.files = copy.files;
    making->made.file_count = copy.count;
    return code;
}

static enum err_code describe(struct snapshot_making *making, struct err *err)
{
    enum err_code code = snapshot_describe(making->env, making->folder, &making->made, err);

    if (code == ERR_OK && making->made.region != making->region) {
        making->made.region = making->region;
        code = err_set(err, ERR_CONFLICT, "the store is of another log now");
    }
    return code;
}

/* What was published, as whoever finds it will: its manifest, all files, the store's state. */
static enum err_code read_back(struct snapshot_making *making, struct err *err)
{
    struct snapshot_list place = {.region = making->region, .shard = making->shard};
    struct snapshot found = {0};
    struct snapshot_fetch fetch = {.blob = making->blob,
                                   .snapshot = &found,
                                   .folder = making->folder,
                                   .go_on = go_on,
                                   .context = making};
    bool is_verified;
    enum err_code code = empty_folder(making, err);

    if (code == ERR_OK)
        code = snapshot_load(making->blob, &place, making->made.id, &found, &is_verified, err);
    if (code == ERR_OK)
        code = snapshot_fetch(&fetch, err);
    if (code == ERR_OK)
        code =
            snapshot_compare(making->env, making->folder, &making->made, making->is_stopping, err);
    snapshot_free(&found);
    return code;
}

/* From then on it counts. */
static enum err_code mark(struct snapshot_making *making, struct err *err)
{
    struct snapshot_list place = {.region = making->region, .shard = making->shard};
    struct snapshot found = {0};
    bool is_verified = false;
    enum err_code code = snapshot_mark_verified(making->blob, &making->made, err);

    if (code == ERR_OK)
        code = snapshot_load(making->blob, &place, making->made.id, &found, &is_verified, err);
    if (code == ERR_OK && !is_verified)
        code = err_set(err, ERR_CORRUPT, "the mark of a verified snapshot is damaged");
    snapshot_free(&found);
    return code;
}

static void remove_rest(struct snapshot_making *making)
{
    struct snapshot_list list = {.region = making->region, .shard = making->shard};
    struct err err = {0};

    if (snapshot_remove(making->blob, &list, making->made.id, &err) != ERR_OK)
        log_err(LOG_WARN, NULL, "what is left of a snapshot goes at the next start", &err);
}

enum err_code snapshot_make(struct snapshot_making *making, struct err *err)
{
    struct err ignored = {0};
    enum err_code code;

    making->made = (struct snapshot){
        .region = making->region, .shard = making->shard, .made_us = env_wall_us(making->env)};
    snapshot_id(making->made.id, making->made.made_us, making->replica);
    atomic_store(&making->done_bytes, 0);
    code = copy_files(making, err);
    if (code == ERR_OK)
        code = put_files(making, err);
    /* Behind the last use of its bytes: who opens a store may write to it. */
    if (code == ERR_OK)
        code = describe(making, err);
    if (code == ERR_OK)
        code = snapshot_publish(making->blob, &making->made, err);
    if (code == ERR_OK)
        code = read_back(making, err);
    if (code == ERR_OK)
        code = mark(making, err);
    if (code != ERR_OK)
        remove_rest(making);
    (void)!segments_remove(making->folder, &ignored); /* or the next one does */
    return code;
}

/* --- tidying -----------------------------------------------------------------------------------
 */

/* Is it unfinished, and will nobody finish it? */
static bool is_abandoned(const struct snapshot_making *making, const struct snapshot_entry *entry,
                         const char *current)
{
    uint64_t wall_us, now_us = env_wall_us(making->env);
    uint32_t replica;

    if ((entry->is_published && entry->is_marked) ||
        !snapshot_id_replica(entry->id, &wall_us, &replica) ||
        (current != NULL && strcmp(entry->id, current) == 0))
        return false;
    return replica == making->replica || (now_us > wall_us && now_us - wall_us > ABANDONED_US);
}

static bool counts(const struct snapshot_entry *entry)
{
    return entry->is_published && entry->is_marked;
}

/* *is_sound: the entry is what it seems to be, and loaded. */
static enum err_code load_entry(const struct snapshot_making *making,
                                const struct snapshot_list *list, size_t at, struct snapshot *out,
                                bool *is_sound, struct err *err)
{
    enum err_code code =
        snapshot_load(making->blob, list, list->entries[at].id, out, is_sound, err);

    if (code == ERR_NOT_FOUND || code == ERR_CORRUPT || code == ERR_CONFIG) {
        err_clear(err);
        code = ERR_OK;
    }
    return code;
}

/* Is it as far everywhere?  One that is newer by its name may have been made of less. */
static bool covers(const struct snapshot *one, const struct snapshot *other)
{
    bool does = one->partition_count == other->partition_count;

    for (size_t i = 0; does && i < one->partition_count; i++)
        does = one->partitions[i].partition == other->partitions[i].partition &&
               one->partitions[i].position >= other->partitions[i].position;
    return does;
}

/* *goes: enough others hold all that it holds, or are newer than it is, when it is damaged. */
static enum err_code judge(const struct snapshot_making *making, const struct snapshot_list *list,
                           size_t at, bool *goes, struct err *err)
{
    struct snapshot snapshot = {0};
    uint32_t covering = 0, wanted = MAX_OF(making->keep, 1u);
    bool is_sound;
    enum err_code code = load_entry(making, list, at, &snapshot, &is_sound, err);

    for (size_t i = 0; code == ERR_OK && covering < wanted && i < list->count; i++) {
        struct snapshot other = {0};
        bool other_is_sound = false;

        if (i == at || !counts(&list->entries[i]))
            continue;
        code = load_entry(making, list, i, &other, &other_is_sound, err);
        if (other_is_sound && is_sound)
            covering += covers(&other, &snapshot) && (i < at || !covers(&snapshot, &other));
        else
            covering += other_is_sound && i < at;
        snapshot_free(&other);
    }
    snapshot_free(&snapshot);
    *goes = covering >= wanted;
    return code;
}

enum err_code snapshot_tidy(const struct snapshot_making *making, const char *current,
                            struct err *err)
{
    struct snapshot_list list = {.region = making->region, .shard = making->shard};
    enum err_code code = snapshots_list(making->blob, &list, err);
    size_t verified = 0;

    for (size_t i = 0; code == ERR_OK && i < list.count; i++)
        verified += counts(&list.entries[i]);
    /* The oldest first: what has gone covers nothing. */
    for (size_t i = list.count; code == ERR_OK && i > 0; i--) {
        struct snapshot_entry *entry = &list.entries[i - 1];
        bool goes = is_abandoned(making, entry, current);

        if (counts(entry) && verified > making->keep)
            code = judge(making, &list, i - 1, &goes, err);
        if (code == ERR_OK && goes)
            code = snapshot_remove(making->blob, &list, entry->id, err);
        entry->is_marked = entry->is_marked && !goes;
    }
    snapshots_list_free(&list);
    return code;
}
