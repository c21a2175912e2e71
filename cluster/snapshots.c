/* Finding, reading and removing snapshots: see snapshots.h.  What a manifest says is written and
 * read by snapshot_manifest.c. */
#include "cluster/snapshots.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/snapshot_manifest.h"
#include "cluster/snapshots_internal.h"
#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/base/text.h"

#define OBJECTS_MAX 10000000 /* of one snapshot */
#define TIME_DIGITS 16

void snapshot_free(struct snapshot *snapshot)
{
    free(snapshot->partitions);
    free(snapshot->files);
    *snapshot = (struct snapshot){0};
}

/* --- names ------------------------------------------------------------------------------------
 */

void snapshot_id(char out[SNAPSHOT_ID_BYTES], uint64_t wall_us, uint32_t replica)
{
    (void)snprintf(out, SNAPSHOT_ID_BYTES, "%016" PRIx64 "-%u", wall_us, replica);
}

bool snapshot_id_replica(const char *id, uint64_t *wall_us, uint32_t *replica)
{
    char again[SNAPSHOT_ID_BYTES];
    uint64_t time = 0, number;

    if (strspn(id, "0123456789abcdef") != TIME_DIGITS || id[TIME_DIGITS] != '-')
        return false;
    for (size_t i = 0; i < TIME_DIGITS; i++)
        time = time << 4 | (uint64_t)(id[i] <= '9' ? id[i] - '0' : id[i] - 'a' + 10);
    if (!text_to_u64(id + TIME_DIGITS + 1, strlen(id + TIME_DIGITS + 1), &number) ||
        number >= REPLICAS_MAX)
        return false;
    snapshot_id(again, time, (uint32_t)number);
    *wall_us = time;
    *replica = (uint32_t)number;
    return strcmp(again, id) == 0;
}

void snapshot_place_name(char out[BLOB_NAME_BYTES_MAX + 1], const struct snapshot_place *place)
{
    int len =
        snprintf(out, BLOB_NAME_BYTES_MAX + 1, SNAPSHOTS_PREFIX "%08x/%u/%s%s%s", place->region,
                 place->shard, place->id, place->id[0] == '\0' ? "" : "/", place->name);

    assert(len > 0 && len <= BLOB_NAME_BYTES_MAX);
}

void snapshot_part_name(char out[BLOB_NAME_BYTES_MAX + 1], const struct snapshot *snapshot,
                        size_t file, uint64_t part)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "%05zu.%07" PRIu64, file, part);
    snapshot_place_name(
        out, &(struct snapshot_place){snapshot->region, snapshot->shard, snapshot->id, name});
}

/* Up to the next '/', of len bytes at most; *at goes behind it. */
static bool take_word(const char **at, char *out, size_t size)
{
    size_t len = strcspn(*at, "/");

    if (len == 0 || len >= size || (*at)[len] != '/')
        return false;
    memcpy(out, *at, len);
    out[len] = '\0';
    *at += len + 1;
    return true;
}

bool snapshot_object_parse(struct snapshot_object *out, const char *name)
{
    struct snapshot_place place = {.id = out->id};
    char again[BLOB_NAME_BYTES_MAX + 1], region[9], shard[8];
    uint8_t bytes[4];
    const char *at = name + strlen(SNAPSHOTS_PREFIX);
    uint64_t number, wall_us;
    uint32_t replica;

    if (strlen(name) > BLOB_NAME_BYTES_MAX ||
        strncmp(name, SNAPSHOTS_PREFIX, strlen(SNAPSHOTS_PREFIX)) != 0 ||
        !take_word(&at, region, sizeof(region)) || !take_word(&at, shard, sizeof(shard)) ||
        !take_word(&at, out->id, sizeof(out->id)) || at[0] == '\0' ||
        !text_hex_decode(bytes, sizeof(bytes), region, strlen(region)) ||
        !text_to_u64(shard, strlen(shard), &number) || number >= SHARDS_MAX ||
        !snapshot_id_replica(out->id, &wall_us, &replica))
        return false;
    out->region =
        (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
    out->shard = (uint32_t)number;
    out->name = place.name = at;
    place.region = out->region;
    place.shard = out->shard;
    snapshot_place_name(again, &place);
    return strcmp(again, name) == 0;
}

/* --- publishing -------------------------------------------------------------------------------
 */

enum err_code snapshot_publish(struct blob *blob, const struct snapshot *snapshot, struct err *err)
{
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct buffer bytes = {0};
    enum err_code code = snapshot_manifest_encode(snapshot, &bytes, err);

    snapshot_place_name(name, &(struct snapshot_place){snapshot->region, snapshot->shard,
                                                       snapshot->id, SNAPSHOT_MANIFEST_NAME});
    if (code == ERR_OK && bytes.len > BLOB_BYTES_MAX)
        code = err_set(err, ERR_IO, "the snapshot has too many files");
    if (code == ERR_OK)
        code = blob_put(blob, name, bytes.data, bytes.len, err);
    buffer_free(&bytes);
    return code;
}

enum err_code snapshot_mark_verified(struct blob *blob, const struct snapshot *snapshot,
                                     struct err *err)
{
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct buffer bytes = {0};
    enum err_code code = snapshot_manifest_encode(snapshot, &bytes, err);

    snapshot_place_name(name, &(struct snapshot_place){snapshot->region, snapshot->shard,
                                                       snapshot->id, SNAPSHOT_VERIFIED_NAME});
    if (code == ERR_OK)
        code = blob_put(blob, name, bytes.data, SNAPSHOT_CHECKSUM_BYTES, err);
    buffer_free(&bytes);
    return code;
}

/* --- finding ----------------------------------------------------------------------------------
 */

struct listing {
    struct snapshot_list *list;
    bool failed;
};

static struct snapshot_entry *entry_of(struct snapshot_list *list, const char *id)
{
    size_t at = 0;

    /* What belongs together mostly comes together. */
    for (at = list->count; at > 0; at--)
        if (strcmp(list->entries[at - 1].id, id) == 0)
            return &list->entries[at - 1];
    if (list->count == list->size) {
        size_t size = list->size == 0 ? 8 : 2 * list->size;
        void *grown =
            size > SNAPSHOTS_MAX ? NULL : array_resize(list->entries, size, sizeof(*list->entries));

        if (grown == NULL)
            return NULL;
        list->entries = grown;
        list->size = size;
    }
    list->entries[list->count] = (struct snapshot_entry){0};
    (void)snprintf(list->entries[list->count].id, SNAPSHOT_ID_BYTES, "%s", id);
    return &list->entries[list->count++];
}

static bool see(void *context, const char *name)
{
    struct listing *listing = context;
    struct snapshot_object object;
    struct snapshot_entry *entry;

    if (!snapshot_object_parse(&object, name))
        return true;
    entry = entry_of(listing->list, object.id);
    if (entry == NULL) {
        listing->failed = true;
        return false;
    }
    entry->is_published = entry->is_published || strcmp(object.name, SNAPSHOT_MANIFEST_NAME) == 0;
    entry->is_marked = entry->is_marked || strcmp(object.name, SNAPSHOT_VERIFIED_NAME) == 0;
    return true;
}

static int newest_first(const void *left, const void *right)
{
    const struct snapshot_entry *a = left, *b = right;

    return strcmp(b->id, a->id);
}

enum err_code snapshots_list(struct blob *blob, struct snapshot_list *list, struct err *err)
{
    char prefix[BLOB_NAME_BYTES_MAX + 1];
    struct listing listing = {.list = list};
    enum err_code code;

    snapshot_place_name(prefix, &(struct snapshot_place){list->region, list->shard, "", ""});
    list->entries = NULL;
    list->count = list->size = 0;
    code = blob_list(blob, prefix, see, &listing, err);
    if (code == ERR_OK && listing.failed)
        code = err_set(err, ERR_NO_MEMORY, "too many snapshots to list");
    if (code != ERR_OK)
        snapshots_list_free(list);
    else if (list->count > 1)
        qsort(list->entries, list->count, sizeof(*list->entries), newest_first);
    return code;
}

void snapshots_list_free(struct snapshot_list *list)
{
    free(list->entries);
    list->entries = NULL;
    list->count = list->size = 0;
}

/* --- loading ----------------------------------------------------------------------------------
 */

static enum err_code get_all(struct blob *blob, const char *name, struct buffer *out,
                             struct err *err)
{
    uint64_t bytes = 0;
    enum err_code code = blob_size(blob, name, &bytes, err);

    if (code == ERR_OK && (bytes == 0 || bytes > BLOB_BYTES_MAX))
        code = err_set(err, ERR_CORRUPT, "object %s has a size that it cannot have", name);
    if (code == ERR_OK)
        code = blob_get(blob, &(struct blob_range){.name = name, .len = (size_t)bytes}, out, err);
    return code;
}

/* Is the mark that of the manifest?  One that is missing is no error. */
static enum err_code check_mark(struct blob *blob, const struct snapshot_place *place,
                                const struct buffer *manifest, bool *is_verified, struct err *err)
{
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct buffer mark = {0};
    enum err_code code;

    snapshot_place_name(name, place);
    code = get_all(blob, name, &mark, err);
    *is_verified = code == ERR_OK && mark.len == SNAPSHOT_CHECKSUM_BYTES &&
                   memcmp(mark.data, manifest->data, mark.len) == 0;
    buffer_free(&mark);
    if (code == ERR_NOT_FOUND || code == ERR_CORRUPT) {
        err_clear(err);
        code = ERR_OK;
    }
    return code;
}

enum err_code snapshot_load(struct blob *blob, const struct snapshot_list *list, const char *id,
                            struct snapshot *out, bool *is_verified, struct err *err)
{
    struct snapshot_place place = {list->region, list->shard, id, SNAPSHOT_MANIFEST_NAME};
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct buffer bytes = {0};
    enum err_code code;

    *out = (struct snapshot){0};
    *is_verified = false;
    snapshot_place_name(name, &place);
    code = get_all(blob, name, &bytes, err);
    if (code == ERR_OK)
        code = snapshot_manifest_decode(out, bytes.data, bytes.len, err);
    if (code == ERR_OK &&
        (out->region != list->region || out->shard != list->shard || strcmp(out->id, id) != 0))
        code = err_set(err, ERR_CORRUPT, "the manifest of snapshot %s is that of another", id);
    place.name = SNAPSHOT_VERIFIED_NAME;
    if (code == ERR_OK)
        code = check_mark(blob, &place, &bytes, is_verified, err);
    buffer_free(&bytes);
    if (code != ERR_OK)
        snapshot_free(out);
    return code;
}

static bool is_of(const struct snapshot *snapshot, const struct partition_set *served)
{
    struct partition_set its = {0};

    for (size_t i = 0; i < snapshot->partition_count; i++)
        partition_set_add(&its, snapshot->partitions[i].partition);
    return memcmp(&its, served, sizeof(its)) == 0;
}

static void tell(const char *id, const struct err *err)
{
    char what[96];

    (void)snprintf(what, sizeof(what), "snapshot %s cannot be used", id);
    log_err(LOG_WARN, NULL, what, err);
}

enum err_code snapshots_newest(struct blob *blob, const struct snapshot_wanted *wanted,
                               struct snapshot *out, struct err *err)
{
    struct snapshot_list list = {.region = wanted->region, .shard = wanted->shard};
    enum err_code code = snapshots_list(blob, &list, err);
    bool is_found = false;

    *out = (struct snapshot){0};
    for (size_t i = 0; code == ERR_OK && !is_found && i < list.count; i++) {
        const struct snapshot_entry *entry = &list.entries[i];
        struct err why = {0};
        bool is_verified;

        if (!entry->is_published || !entry->is_marked ||
            (wanted->before != NULL && strcmp(entry->id, wanted->before) >= 0))
            continue;
        code = snapshot_load(blob, &list, entry->id, out, &is_verified, &why);
        is_found = code == ERR_OK && is_verified && is_of(out, wanted->served);
        if (code == ERR_OK && !is_found)
            snapshot_free(out);
        if (code == ERR_NOT_FOUND || code == ERR_CORRUPT || code == ERR_CONFIG) {
            tell(entry->id, &why);
            code = ERR_OK;
        }
        if (code != ERR_OK)
            *err = why;
    }
    snapshots_list_free(&list);
    if (code == ERR_OK && !is_found)
        code =
            err_set(err, ERR_NOT_FOUND, "there is no verified snapshot of shard %u", wanted->shard);
    return code;
}

/* --- reading ----------------------------------------------------------------------------------
 */

enum err_code snapshot_read(struct blob *blob, const struct snapshot *snapshot,
                            const struct snapshot_range *range, struct buffer *out, struct err *err)
{
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct blob_range part = {
        .name = name, .at = range->at % SNAPSHOT_PART_BYTES, .len = range->len};

    assert(range->file < snapshot->file_count);
    assert(part.at + range->len <= SNAPSHOT_PART_BYTES);
    snapshot_part_name(name, snapshot, range->file, range->at / SNAPSHOT_PART_BYTES);
    return blob_get(blob, &part, out, err);
}

/* The part at `at`, added to the digest in chunks. */
static enum err_code check_part(struct blob *blob, const struct snapshot *snapshot,
                                const struct snapshot_range *range, struct hash128 *digest,
                                struct err *err)
{
    struct buffer bytes = {0};
    enum err_code code = snapshot_read(blob, snapshot, range, &bytes, err);

    for (size_t at = 0; code == ERR_OK && at < bytes.len; at += COPY_CHUNK_BYTES)
        copy_chain(digest, bytes.data + at, MIN_OF(COPY_CHUNK_BYTES, bytes.len - at));
    buffer_free(&bytes);
    return code;
}

enum err_code snapshot_check(struct blob *blob, const struct snapshot *snapshot,
                             bool (*is_stopping)(void *), void *context, struct err *err)
{
    enum err_code code = ERR_OK;

    for (size_t i = 0; code == ERR_OK && i < snapshot->file_count; i++) {
        const struct copy_file *file = &snapshot->files[i];
        struct hash128 digest = {0};

        for (uint64_t at = 0; code == ERR_OK && at < file->bytes; at += SNAPSHOT_PART_BYTES) {
            struct snapshot_range range = {
                .file = i, .at = at, .len = MIN_OF(SNAPSHOT_PART_BYTES, file->bytes - at)};

            code = is_stopping != NULL && is_stopping(context)
                       ? err_set(err, ERR_DEAD, "shutting down")
                       : check_part(blob, snapshot, &range, &digest, err);
        }
        if (code == ERR_OK && !hash128_equal(digest, file->digest))
            code = err_set(err, ERR_CORRUPT, "%.100s is damaged", file->name);
    }
    return code == ERR_OK || code == ERR_DEAD ? code : err_wrap(err, "snapshot %s", snapshot->id);
}

/* --- removing ---------------------------------------------------------------------------------
 */

struct removing {
    char (*names)[BLOB_NAME_BYTES_MAX + 1];
    size_t count, size;
    bool failed;
};

static bool note(void *context, const char *name)
{
    struct removing *removing = context;

    if (removing->count == removing->size) {
        size_t size = removing->size == 0 ? 64 : 2 * removing->size;
        void *grown = size > OBJECTS_MAX
                          ? NULL
                          : array_resize(removing->names, size, sizeof(*removing->names));

        removing->failed = grown == NULL;
        if (removing->failed)
            return false;
        removing->names = grown;
        removing->size = size;
    }
    (void)snprintf(removing->names[removing->count++], BLOB_NAME_BYTES_MAX + 1, "%s", name);
    return true;
}

enum err_code snapshot_remove(struct blob *blob, const struct snapshot_list *list, const char *id,
                              struct err *err)
{
    static const char *const first[] = {SNAPSHOT_VERIFIED_NAME, SNAPSHOT_MANIFEST_NAME};
    struct removing removing = {0};
    char name[BLOB_NAME_BYTES_MAX + 1];
    enum err_code code = ERR_OK;

    /* From then on it counts for nothing, whatever is left of it. */
    for (size_t i = 0; code == ERR_OK && i < ARRAY_COUNT(first); i++) {
        snapshot_place_name(name,
                            &(struct snapshot_place){list->region, list->shard, id, first[i]});
        code = blob_remove(blob, name, err);
    }
    snapshot_place_name(name, &(struct snapshot_place){list->region, list->shard, id, ""});
    if (code == ERR_OK)
        code = blob_list(blob, name, note, &removing, err);
    /* Without memory for all names, those that are known go, and the others the next time. */
    for (size_t i = 0; code == ERR_OK && i < removing.count; i++)
        code = blob_remove(blob, removing.names[i], err);
    free(removing.names);
    return code;
}
