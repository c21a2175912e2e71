/* Writing and reading manifests: see snapshot_manifest.h.
 *
 *   {"format":1,"region":n,"shard":n,"id":…,"made_us":n,
 *    "partitions":[{"partition":n,"position":n,"epoch":n,"live":n,"tombstones":n,"digest":…}],
 *    "files":[{"name":…,"bytes":n,"digest":…}]} */
#include "cluster/snapshot_manifest.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/http/json_doc.h"

static_assert(HASH128_TEXT_BYTES == SNAPSHOT_CHECKSUM_BYTES + 1, "a checksum as text");

/* --- writing ----------------------------------------------------------------------------------
 */

static void write_number(struct json_writer *w, const char *key, uint64_t value)
{
    json_key(w, key);
    json_u64(w, value);
}

static void write_digest(struct json_writer *w, struct hash128 digest)
{
    char text[HASH128_TEXT_BYTES];

    hash128_to_text(text, digest);
    json_key(w, "digest");
    json_text(w, text);
}

static void write_lists(struct json_writer *w, const struct snapshot *snapshot)
{
    json_key(w, "partitions");
    json_begin_array(w);
    for (size_t i = 0; i < snapshot->partition_count; i++) {
        const struct snapshot_partition *partition = &snapshot->partitions[i];

        json_begin_object(w);
        write_number(w, "partition", partition->partition);
        write_number(w, "position", partition->position);
        write_number(w, "epoch", partition->epoch);
        write_number(w, "live", partition->live);
        write_number(w, "tombstones", partition->tombstones);
        write_digest(w, partition->digest);
        json_end_object(w);
    }
    json_end_array(w);
    json_key(w, "files");
    json_begin_array(w);
    for (size_t i = 0; i < snapshot->file_count; i++) {
        json_begin_object(w);
        json_key(w, "name");
        json_text(w, snapshot->files[i].name);
        write_number(w, "bytes", snapshot->files[i].bytes);
        write_digest(w, snapshot->files[i].digest);
        json_end_object(w);
    }
    json_end_array(w);
}

enum err_code snapshot_manifest_encode(const struct snapshot *snapshot, struct buffer *out,
                                       struct err *err)
{
    struct buffer body = {0};
    struct json_writer w;
    char checksum[HASH128_TEXT_BYTES];
    enum err_code code;

    json_writer_init(&w, &body);
    json_begin_object(&w);
    write_number(&w, "format", SNAPSHOT_FORMAT);
    write_number(&w, "region", snapshot->region);
    write_number(&w, "shard", snapshot->shard);
    json_key(&w, "id");
    json_text(&w, snapshot->id);
    write_number(&w, "made_us", snapshot->made_us);
    write_lists(&w, snapshot);
    json_end_object(&w);
    code = buffer_check(&body, err);
    if (code == ERR_OK) {
        hash128_to_text(checksum, hash_xxh128(body.data, body.len));
        buffer_append(out, checksum, SNAPSHOT_CHECKSUM_BYTES);
        buffer_append_byte(out, '\n');
        buffer_append(out, body.data, body.len);
        code = buffer_check(out, err);
    }
    buffer_free(&body);
    return code;
}

/* --- reading ----------------------------------------------------------------------------------
 */

/* A number that has to be there. */
static bool read_number(const json_t *object, const char *key, uint64_t max, uint64_t *out)
{
    const json_t *value = json_object_get(object, key);
    json_int_t number = json_integer_value(value);

    *out = (uint64_t)number;
    return json_is_integer(value) && number >= 0 && *out <= max;
}

static bool read_digest(const json_t *object, struct hash128 *out)
{
    const char *text = json_string_value(json_object_get(object, "digest"));

    return text != NULL && hash128_from_text(out, text, strlen(text));
}

static bool read_partition(const json_t *from, struct snapshot_partition *out)
{
    uint64_t number;

    if (!read_number(from, "partition", PARTITIONS_MAX - 1, &number))
        return false;
    out->partition = (uint32_t)number;
    return read_number(from, "position", INT64_MAX, &out->position) &&
           read_number(from, "epoch", INT64_MAX, &out->epoch) &&
           read_number(from, "live", INT64_MAX, &out->live) &&
           read_number(from, "tombstones", INT64_MAX, &out->tombstones) &&
           read_digest(from, &out->digest);
}

static bool read_file(const json_t *from, struct copy_file *out)
{
    const char *name = json_string_value(json_object_get(from, "name"));

    if (name == NULL || !copy_name_is_valid(name))
        return false;
    (void)snprintf(out->name, sizeof(out->name), "%s", name);
    return read_number(from, "bytes", INT64_MAX, &out->bytes) && read_digest(from, &out->digest);
}

static bool read_lists(const json_t *partitions, const json_t *files, struct snapshot *out)
{
    bool has_store = false;

    for (size_t i = 0; i < out->partition_count; i++)
        if (!read_partition(json_array_get(partitions, i), &out->partitions[i]) ||
            (i > 0 && out->partitions[i - 1].partition >= out->partitions[i].partition))
            return false;
    for (size_t i = 0; i < out->file_count; i++) {
        if (!read_file(json_array_get(files, i), &out->files[i]))
            return false;
        has_store = has_store || strcmp(out->files[i].name, COPY_STORE_NAME) == 0;
    }
    return has_store;
}

static enum err_code damaged(struct err *err)
{
    return err_set(err, ERR_CORRUPT, "the manifest of a snapshot is damaged");
}

static enum err_code read_document(const json_t *document, struct snapshot *out, struct err *err)
{
    const json_t *partitions = json_object_get(document, "partitions");
    const json_t *files = json_object_get(document, "files");
    const char *id = json_string_value(json_object_get(document, "id"));
    uint64_t format, region, shard, wall_us;
    uint32_t replica;

    if (!read_number(document, "format", UINT32_MAX, &format))
        return damaged(err);
    if (format != SNAPSHOT_FORMAT)
        return err_set(err, ERR_CONFIG, "the snapshot has format %u, this program knows %u",
                       (unsigned)format, SNAPSHOT_FORMAT);
    if (!read_number(document, "region", UINT32_MAX, &region) ||
        !read_number(document, "shard", SHARDS_MAX - 1, &shard) ||
        !read_number(document, "made_us", INT64_MAX, &out->made_us) || id == NULL ||
        !snapshot_id_replica(id, &wall_us, &replica))
        return damaged(err);
    out->region = (uint32_t)region;
    out->shard = (uint32_t)shard;
    (void)snprintf(out->id, sizeof(out->id), "%s", id);
    out->partition_count = json_array_size(partitions);
    out->file_count = json_array_size(files);
    if (out->partition_count == 0 || out->partition_count > PARTITIONS_MAX ||
        out->file_count == 0 || out->file_count > COPY_FILES_MAX)
        return damaged(err);
    out->partitions = array_alloc(out->partition_count, sizeof(*out->partitions));
    out->files = array_alloc(out->file_count, sizeof(*out->files));
    if (out->partitions == NULL || out->files == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a manifest");
    return read_lists(partitions, files, out) ? ERR_OK : damaged(err);
}

enum err_code snapshot_manifest_decode(struct snapshot *out, const void *data, size_t len,
                                       struct err *err)
{
    const char *bytes = data;
    size_t head = SNAPSHOT_CHECKSUM_BYTES + 1;
    char checksum[HASH128_TEXT_BYTES];
    json_t *document = NULL;
    enum err_code code;

    *out = (struct snapshot){0};
    if (len <= head || bytes[SNAPSHOT_CHECKSUM_BYTES] != '\n')
        return damaged(err);
    hash128_to_text(checksum, hash_xxh128(bytes + head, len - head));
    if (memcmp(checksum, bytes, SNAPSHOT_CHECKSUM_BYTES) != 0 ||
        json_doc_parse(&document, bytes + head, len - head, NULL) != ERR_OK)
        return damaged(err);
    code = read_document(document, out, err);
    json_decref(document);
    if (code != ERR_OK)
        snapshot_free(out);
    return code;
}
