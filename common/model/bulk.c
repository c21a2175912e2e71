/* Rows, objects and manifests of bulk loads: see bulk.h for the forms, which are frozen. */
#include "common/model/bulk.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"

#define OBJECT_MAGIC     0x316b6c62u /* "blk1" */
#define HASH_BYTES       16
#define SECTION_BYTES    40
#define HEAD_FIXED_BYTES 8
#define MANIFEST_FORM    1

enum row_flag { ROW_VECTOR = 1, ROW_TEXT = 2, ROW_METADATA = 4 };

static_assert(BULK_ROW_BYTES_MAX % 4 == 0, "the longest row has a possible length");

/* --- rows ------------------------------------------------------------------------------------ */

size_t bulk_row_bytes(const struct bulk_row *row, uint32_t dimension)
{
    size_t sum = BULK_ROW_HEADER_BYTES;

    if (row->vector != NULL)
        sum += (size_t)dimension * sizeof(float);
    if (!checked_add(sum, row->id_len, &sum) || !checked_add(sum, row->text_len, &sum) ||
        !checked_add(sum, row->metadata_len, &sum) || sum > BULK_ROW_BYTES_MAX)
        return SIZE_MAX;
    return (sum + 3) / 4 * 4;
}

void bulk_row_encode(struct buffer *out, const struct bulk_row *row, uint32_t dimension)
{
    static const uint8_t zeros[4];
    size_t bytes = bulk_row_bytes(row, dimension), start = out->len, used;

    assert(bytes <= BULK_ROW_BYTES_MAX);
    assert(row->id_len >= 1 && row->id_len <= ID_BYTES_MAX);
    if (!buffer_reserve(out, bytes))
        return;
    buffer_append_u32(out, (uint32_t)bytes);
    buffer_append_u16(out, (uint16_t)row->id_len);
    buffer_append_u16(out, (uint16_t)((row->vector != NULL ? ROW_VECTOR : 0) |
                                      (row->text != NULL ? ROW_TEXT : 0) |
                                      (row->metadata != NULL ? ROW_METADATA : 0)));
    buffer_append_u32(out, (uint32_t)row->text_len);
    buffer_append_u32(out, (uint32_t)row->metadata_len);
    if (row->vector != NULL)
        buffer_append(out, row->vector, (size_t)dimension * sizeof(float));
    buffer_append(out, row->id, row->id_len);
    if (row->text != NULL)
        buffer_append(out, row->text, row->text_len);
    if (row->metadata != NULL)
        buffer_append(out, row->metadata, row->metadata_len);
    used = out->len - start;
    buffer_append(out, zeros, bytes - used);
}

size_t bulk_row_length(const void *data, size_t len)
{
    return len < sizeof(uint32_t) ? 0 : load_u32(data);
}

bool bulk_row_length_is_possible(size_t length)
{
    return length >= BULK_ROW_HEADER_BYTES && length <= BULK_ROW_BYTES_MAX && length % 4 == 0;
}

static enum err_code malformed(struct err *err, const char *what)
{
    return err_set(err, ERR_CORRUPT, "bulk: %s", what);
}

enum err_code bulk_row_decode(struct bulk_row *out, uint32_t dimension, const void *data,
                              size_t len, struct err *err)
{
    struct bytes_reader r = {.data = data, .len = len};
    size_t length = read_u32(&r);
    struct bulk_row row = {0};
    uint16_t flags;
    const uint8_t *rest;

    row.id_len = read_u16(&r);
    flags = read_u16(&r);
    row.text_len = read_u32(&r);
    row.metadata_len = read_u32(&r);
    if (r.failed || length != len || len % 4 != 0)
        return malformed(err, "a row's length is another than it says");
    if ((flags & ~(ROW_VECTOR | ROW_TEXT | ROW_METADATA)) != 0)
        return malformed(err, "unknown flags of a row");
    if (((flags & ROW_TEXT) == 0 && row.text_len != 0) ||
        ((flags & ROW_METADATA) == 0 && row.metadata_len != 0))
        return malformed(err, "a row has lengths of what it has not");
    if ((flags & ROW_VECTOR) != 0)
        row.vector = read_bytes(&r, (size_t)dimension * sizeof(float));
    row.id = (const char *)read_bytes(&r, row.id_len);
    row.text = (const char *)read_bytes(&r, row.text_len);
    row.metadata = (const char *)read_bytes(&r, row.metadata_len);
    if (r.failed || len - r.at > 3)
        return malformed(err, "a row's parts do not make up its length");
    rest = read_bytes(&r, len - r.at);
    for (size_t i = 0; i < (size_t)(r.data + len - rest); i++)
        if (rest[i] != 0)
            return malformed(err, "a row does not end in zeros");
    if ((flags & ROW_TEXT) == 0)
        row.text = NULL;
    if ((flags & ROW_METADATA) == 0)
        row.metadata = NULL;
    *out = row;
    return ERR_OK;
}

/* --- objects --------------------------------------------------------------------------------- */

static void append_hash(struct buffer *out, struct hash128 hash)
{
    buffer_append_u64(out, hash.low);
    buffer_append_u64(out, hash.high);
}

static struct hash128 read_hash(struct bytes_reader *r)
{
    struct hash128 hash;

    hash.low = read_u64(r);
    hash.high = read_u64(r);
    return hash;
}

static bool is_same(struct hash128 a, struct hash128 b)
{
    return a.low == b.low && a.high == b.high;
}

static bool section_is_possible(const struct bulk_section *section)
{
    return section->partition < PARTITIONS_MAX && section->rows >= 1 &&
           section->rows <= BULK_ROWS_MAX && section->bytes >= BULK_ROW_HEADER_BYTES &&
           section->bytes <= BULK_BYTES_MAX && section->at <= BULK_BYTES_MAX;
}

size_t bulk_head_bytes(uint32_t sections)
{
    return HEAD_FIXED_BYTES + (size_t)sections * SECTION_BYTES + HASH_BYTES;
}

void bulk_head_encode(struct buffer *out, const struct bulk_section *sections, uint32_t count)
{
    size_t start = out->len;

    assert(count >= 1 && count <= PARTITIONS_MAX);
    buffer_append_u32(out, OBJECT_MAGIC);
    buffer_append_u32(out, count);
    for (uint32_t i = 0; i < count; i++) {
        assert(section_is_possible(&sections[i]));
        buffer_append_u32(out, sections[i].partition);
        buffer_append_u32(out, sections[i].rows);
        buffer_append_u64(out, sections[i].at);
        buffer_append_u64(out, sections[i].bytes);
        append_hash(out, sections[i].hash);
    }
    if (!out->failed)
        append_hash(out, hash_xxh128(out->data + start, out->len - start));
}

enum err_code bulk_head_count(uint32_t *count, const void *data, size_t len, struct err *err)
{
    struct bytes_reader r = {.data = data, .len = len};
    uint32_t magic = read_u32(&r), sections = read_u32(&r);

    if (r.failed || magic != OBJECT_MAGIC || sections < 1 || sections > PARTITIONS_MAX)
        return malformed(err, "this is no object of rows");
    *count = sections;
    return ERR_OK;
}

enum err_code bulk_head_decode(struct bulk_section *sections, uint32_t count, const void *data,
                               size_t len, struct err *err)
{
    struct bytes_reader r = {.data = data, .len = len};
    struct hash128 hash;

    if (len != bulk_head_bytes(count))
        return malformed(err, "an object's head has another length");
    (void)read_bytes(&r, HEAD_FIXED_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        struct bulk_section *section = &sections[i];

        section->partition = read_u32(&r);
        section->rows = read_u32(&r);
        section->at = read_u64(&r);
        section->bytes = read_u64(&r);
        section->hash = read_hash(&r);
        if (!section_is_possible(section) || (i > 0 && section->partition <= section[-1].partition))
            return malformed(err, "an object's head is damaged");
    }
    hash = read_hash(&r);
    if (!read_done(&r) || !is_same(hash, hash_xxh128(data, len - HASH_BYTES)))
        return malformed(err, "an object's head is damaged");
    return ERR_OK;
}

/* --- manifests ------------------------------------------------------------------------------- */

void bulk_manifest_encode(const struct bulk_manifest *manifest, struct buffer *out)
{
    size_t len = strlen(manifest->name);

    assert(len >= 1 && len <= BULK_NAME_BYTES_MAX);
    buffer_append_byte(out, MANIFEST_FORM);
    buffer_append_u32(out, manifest->section.rows);
    buffer_append_u64(out, manifest->section.at);
    buffer_append_u64(out, manifest->section.bytes);
    append_hash(out, manifest->section.hash);
    buffer_append_u16(out, (uint16_t)len);
    buffer_append(out, manifest->name, len);
}

enum err_code bulk_manifest_decode(struct bulk_manifest *out, const void *data, size_t len,
                                   struct err *err)
{
    struct bytes_reader r = {.data = data, .len = len};
    struct bulk_manifest manifest = {0};
    uint8_t form = read_u8(&r);
    const uint8_t *name;
    size_t name_len;

    manifest.section.rows = read_u32(&r);
    manifest.section.at = read_u64(&r);
    manifest.section.bytes = read_u64(&r);
    manifest.section.hash = read_hash(&r);
    name_len = read_u16(&r);
    name = read_bytes(&r, name_len);
    if (!read_done(&r) || form != MANIFEST_FORM || name_len < 1 || name_len > BULK_NAME_BYTES_MAX ||
        memchr(name, 0, name_len) != NULL || !section_is_possible(&manifest.section))
        return malformed(err, "a manifest is malformed");
    memcpy(manifest.name, name, name_len);
    *out = manifest;
    return ERR_OK;
}

enum err_code bulk_manifest_check(const struct bulk_manifest *manifest, const void *data,
                                  size_t len, struct err *err)
{
    if (len == manifest->section.bytes && is_same(hash_xxh128(data, len), manifest->section.hash))
        return ERR_OK;
    return err_set(err, ERR_CORRUPT, "object %s is not what the log says of it", manifest->name);
}
