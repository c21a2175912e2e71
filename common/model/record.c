/* Records of the log: see record.h for the format, which is frozen.
 *
 * Encoding writes the header with the places of length and CRC left open, then id and fields, and
 * fills both in at the end.  Decoding checks the CRC before it believes anything else, then every
 * count and length.  A CRC tells damage, not malice: bytes with a right CRC are checked as closely.
 * Version vectors and the void rule are in record_log.c. */
#include "common/model/record.h"

#include <assert.h>
#include <string.h>

#include <zstd.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/text.h"

/* Where things stand in the header. */
enum {
    AT_FORMAT = 0,
    AT_OP = 1,
    AT_FLAGS = 2,
    AT_LENGTH = 4,
    AT_EPOCH = 8,
    AT_INCARNATION = 16,
    AT_SCHEMA_CLOCK = 32,
    AT_STAMP_CLOCK = 40,
    AT_ORIGIN_OFFSET = 48,
    AT_SCHEMA_REGION = 56,
    AT_STAMP_REGION = 60,
    AT_ORIGIN_REGION = 64,
    AT_ID_LENGTH = 68,
    AT_CENTROIDS = 70,
    AT_ZERO = 71,
};

#define CRC_BYTES          4
#define CENTROID_BYTES     8
#define CENTROIDS_MAX      2
#define FIELD_HEADER_BYTES 8
#define FIELD_SKIPPABLE    1
#define ZSTD_LEVEL         3
#define PARTITION_SEED     0x76696331u

static_assert(AT_ZERO + 1 == RECORD_HEADER_BYTES, "the header is what the table says");
static_assert(ID_BYTES_MAX <= UINT16_MAX, "an id's length fits its place");
static_assert(RECORD_BYTES_MAX <= UINT32_MAX, "a record's length fits its place");

/* --- what a record may be, for both directions --------------------------------------------- */

static enum err_code check_id(const struct record *record, enum err_code code, struct err *err)
{
    bool wants = record->op == RECORD_UPSERT || record->op == RECORD_DELETE;

    if (!wants && record->id_len != 0)
        return err_set(err, code, "a record of op %d has no id", (int)record->op);
    if (!wants)
        return ERR_OK;
    if (record->id_len < 1 || record->id_len > ID_BYTES_MAX)
        return err_set(err, code, "an id of %zu bytes", record->id_len);
    if (memchr(record->id, 0, record->id_len) != NULL || !text_is_utf8(record->id, record->id_len))
        return err_set(err, code, "an id that is not UTF-8 without NUL");
    return ERR_OK;
}

bool record_is_finite(const void *vector, size_t bytes)
{
    const uint8_t *p = vector;
    uint32_t bad = 0;

    for (size_t i = 0; i < bytes; i += 4)
        bad |= (uint32_t)((load_u32(p + i) & 0x7f800000u) == 0x7f800000u);
    return bad == 0;
}

static bool is_finite_f16(const void *vector, size_t bytes)
{
    const uint8_t *p = vector;
    uint32_t bad = 0;

    for (size_t i = 0; i < bytes; i += 2)
        bad |= (uint32_t)((load_u16(p + i) & 0x7c00u) == 0x7c00u);
    return bad == 0;
}

static enum err_code check_vector(const struct record *record, enum err_code code, struct err *err)
{
    size_t element = record->vector_is_f16 ? 2 : 4;
    bool finite;

    if (record->vector_bytes == 0 || record->vector_bytes % element != 0)
        return err_set(err, code, "a vector of %zu bytes", record->vector_bytes);
    finite = record->vector_is_f16 ? is_finite_f16(record->vector, record->vector_bytes)
                                   : record_is_finite(record->vector, record->vector_bytes);
    if (!finite)
        return err_set(err, code, "a vector with an element that is not finite");
    return ERR_OK;
}

/* The tag of the payload that an op carries; 0: it has none. */
static uint8_t payload_tag(enum record_op op)
{
    switch (op) {
    case RECORD_COLLECTION:
        return FIELD_DEFINITION;
    case RECORD_VERSION_VECTOR:
        return FIELD_VERSION_VECTOR;
    case RECORD_EPOCH:
        return FIELD_HOLDER;
    case RECORD_BULK_MANIFEST:
        return FIELD_MANIFEST;
    case RECORD_UPSERT:
    case RECORD_DELETE:
    case RECORD_TRUNCATE:
        break;
    }
    return 0;
}

static enum err_code check_fields(const struct record *record, enum err_code code, struct err *err)
{
    bool has_content = record->vector != NULL || record->text != NULL || record->metadata != NULL;
    uint8_t tag = payload_tag(record->op);

    if (has_content && record->op != RECORD_UPSERT)
        return err_set(err, code, "content in a record of op %d", (int)record->op);
    if ((record->payload != NULL) != (tag != 0))
        return err_set(err, code, "a record of op %d with the wrong fields", (int)record->op);
    if (record->op == RECORD_EPOCH && record->payload_len != HOLDER_BYTES)
        return err_set(err, code, "a holder of %zu bytes", record->payload_len);
    if (record->vector != NULL)
        return check_vector(record, code, err);
    return ERR_OK;
}

static bool is_op(unsigned op)
{
    return op >= RECORD_UPSERT && op <= RECORD_BULK_MANIFEST;
}

/* What is well-formed and yet not for this version. */
static enum err_code check_supported(const struct record *record, struct err *err)
{
    if ((record->flags & RECORD_ENCRYPTED) != 0)
        return err_set(err, ERR_NOT_SUPPORTED, "an encrypted record");
    return ERR_OK;
}

/* --- encoding ------------------------------------------------------------------------------ */

static void append_field(struct buffer *out, uint8_t tag, const void *data, size_t len)
{
    if (data == NULL)
        return;
    assert(len <= RECORD_BYTES_MAX);
    buffer_append_byte(out, tag);
    buffer_append_byte(out, 0);
    buffer_append_u16(out, 0);
    buffer_append_u32(out, (uint32_t)len);
    buffer_append(out, data, len);
}

static void append_fields(const struct record *record, struct buffer *out)
{
    append_field(out, record->vector_is_f16 ? FIELD_VECTOR_F16 : FIELD_VECTOR_F32, record->vector,
                 record->vector_bytes);
    append_field(out, FIELD_TEXT, record->text, record->text_len);
    append_field(out, FIELD_METADATA, record->metadata, record->metadata_len);
    append_field(out, payload_tag(record->op), record->payload, record->payload_len);
}

static void append_header(const struct record *record, struct buffer *out)
{
    uint8_t header[RECORD_HEADER_BYTES] = {0};

    header[AT_FORMAT] = RECORD_FORMAT;
    header[AT_OP] = (uint8_t)record->op;
    store_u64(header + AT_EPOCH, record->epoch);
    memcpy(header + AT_INCARNATION, record->incarnation, INCARNATION_BYTES);
    store_u64(header + AT_SCHEMA_CLOCK, record->schema.clock);
    store_u32(header + AT_SCHEMA_REGION, record->schema.region);
    store_u64(header + AT_STAMP_CLOCK, record->stamp.clock);
    store_u32(header + AT_STAMP_REGION, record->stamp.region);
    store_u64(header + AT_ORIGIN_OFFSET, record->origin_offset);
    store_u32(header + AT_ORIGIN_REGION, record->origin_region);
    store_u16(header + AT_ID_LENGTH, (uint16_t)record->id_len);
    header[AT_CENTROIDS] = record->centroid_count;
    buffer_append(out, header, sizeof(header));
    for (unsigned i = 0; i < record->centroid_count; i++) {
        buffer_append_u32(out, record->centroids[i].version);
        buffer_append_u32(out, record->centroids[i].centroid);
    }
    buffer_append(out, record->id, record->id_len);
}

/* Replace the fields, which begin at start, by one frame, unless that is no gain.  True: packed. */
static bool pack_fields(struct buffer *out, size_t start)
{
    size_t len = out->len - start;
    struct buffer frame = {0};
    bool packed = false;
    size_t size;

    if (len == 0 || !buffer_reserve(&frame, ZSTD_compressBound(len)))
        goto out;
    size = ZSTD_compress(frame.data, frame.size, out->data + start, len, ZSTD_LEVEL);
    if (ZSTD_isError(size) || size + sizeof(uint32_t) >= len)
        goto out;
    store_u32(out->data + start, (uint32_t)len);
    memcpy(out->data + start + sizeof(uint32_t), frame.data, size);
    out->len = start + sizeof(uint32_t) + size;
    packed = true;
out:
    buffer_free(&frame);
    return packed;
}

/* Upper bound of the encoded length; false: over any limit. */
static bool record_bound(const struct record *record, size_t *out)
{
    size_t sum = RECORD_HEADER_BYTES + CENTROIDS_MAX * CENTROID_BYTES + 4 * FIELD_HEADER_BYTES;

    return checked_add(sum, record->id_len, &sum) && checked_add(sum, record->vector_bytes, &sum) &&
           checked_add(sum, record->text_len, &sum) &&
           checked_add(sum, record->metadata_len, &sum) &&
           checked_add(sum, record->payload_len, &sum) && checked_add(sum, CRC_BYTES, out) &&
           *out <= 2 * RECORD_BYTES_MAX;
}

static enum err_code check_encodable(const struct record *record, size_t *bound, struct err *err)
{
    enum err_code rc;

    if (!is_op((unsigned)record->op))
        return err_set(err, ERR_INVALID_ARGUMENT, "op %d is not known", (int)record->op);
    if ((record->flags & ~(RECORD_ZSTD | RECORD_ENCRYPTED)) != 0)
        return err_set(err, ERR_INVALID_ARGUMENT, "unknown flags %#x", record->flags);
    if (record->centroid_count > CENTROIDS_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "%u centroid tags", record->centroid_count);
    if ((rc = check_supported(record, err)) != ERR_OK)
        return rc;
    if ((rc = check_id(record, ERR_INVALID_ARGUMENT, err)) != ERR_OK)
        return rc;
    if ((rc = check_fields(record, ERR_INVALID_ARGUMENT, err)) != ERR_OK)
        return rc;
    if (!record_bound(record, bound))
        return err_set(err, ERR_PAYLOAD_TOO_LARGE, "the record has more than %zu bytes",
                       RECORD_BYTES_MAX);
    return ERR_OK;
}

enum err_code record_encode(const struct record *record, struct buffer *out, struct err *err)
{
    size_t start = out->len;
    size_t bound = 0;
    size_t fields, len;
    enum err_code rc;

    if ((rc = check_encodable(record, &bound, err)) != ERR_OK)
        return rc;
    if (!buffer_reserve(out, bound))
        return buffer_check(out, err);
    append_header(record, out);
    fields = out->len;
    append_fields(record, out);
    if (out->len - start + CRC_BYTES > RECORD_BYTES_MAX) {
        out->len = start;
        return err_set(err, ERR_PAYLOAD_TOO_LARGE, "the record has more than %zu bytes",
                       RECORD_BYTES_MAX);
    }
    if ((record->flags & RECORD_ZSTD) != 0 && pack_fields(out, fields))
        store_u16(out->data + start + AT_FLAGS, RECORD_ZSTD);
    len = out->len - start + CRC_BYTES;
    store_u32(out->data + start + AT_LENGTH, (uint32_t)len);
    buffer_append_u32(out, hash_crc32c(0, out->data + start, len - CRC_BYTES));
    assert(!out->failed);
    assert(out->len - start == len);
    return ERR_OK;
}

void record_set_turn(void *data, size_t len, const struct record_turn *turn)
{
    uint8_t *p = data;

    assert(len >= RECORD_HEADER_BYTES + CRC_BYTES);
    assert(p[AT_FORMAT] == RECORD_FORMAT);
    assert(load_u32(p + AT_LENGTH) == len);
    store_u64(p + AT_EPOCH, turn->epoch);
    store_u64(p + AT_STAMP_CLOCK, turn->stamp.clock);
    store_u32(p + AT_STAMP_REGION, turn->stamp.region);
    store_u64(p + AT_ORIGIN_OFFSET, turn->origin_offset);
    store_u32(p + AT_ORIGIN_REGION, turn->origin_region);
    store_u32(p + len - CRC_BYTES, hash_crc32c(0, p, len - CRC_BYTES));
}

/* --- decoding ------------------------------------------------------------------------------ */

static enum err_code corrupt(struct err *err, const char *what)
{
    return err_set(err, ERR_CORRUPT, "record: %s", what);
}

static void load_header(struct record *out, const uint8_t *p)
{
    out->op = (enum record_op)p[AT_OP];
    out->flags = load_u16(p + AT_FLAGS);
    out->epoch = load_u64(p + AT_EPOCH);
    memcpy(out->incarnation, p + AT_INCARNATION, INCARNATION_BYTES);
    out->schema = (struct stamp){load_u64(p + AT_SCHEMA_CLOCK), load_u32(p + AT_SCHEMA_REGION)};
    out->stamp = (struct stamp){load_u64(p + AT_STAMP_CLOCK), load_u32(p + AT_STAMP_REGION)};
    out->origin_offset = load_u64(p + AT_ORIGIN_OFFSET);
    out->origin_region = load_u32(p + AT_ORIGIN_REGION);
    out->id_len = load_u16(p + AT_ID_LENGTH);
    out->centroid_count = p[AT_CENTROIDS];
}

/* Header, centroid tags and id; *body is where the fields begin. */
static enum err_code decode_head(struct record *out, const uint8_t *p, size_t len, size_t *body,
                                 struct err *err)
{
    struct record record = {0};
    size_t at = RECORD_HEADER_BYTES;
    enum err_code rc;

    if (len < RECORD_HEADER_BYTES + CRC_BYTES || len > RECORD_BYTES_MAX)
        return corrupt(err, "its length is not possible");
    if (p[AT_FORMAT] != RECORD_FORMAT)
        return err_set(err, ERR_CORRUPT, "record: format %u is not known", p[AT_FORMAT]);
    if (load_u32(p + AT_LENGTH) != len)
        return corrupt(err, "its length is another than it says");
    if (!is_op(p[AT_OP]) || p[AT_ZERO] != 0 || p[AT_CENTROIDS] > CENTROIDS_MAX)
        return corrupt(err, "unknown op or malformed header");
    load_header(&record, p);
    if ((record.flags & ~(RECORD_ZSTD | RECORD_ENCRYPTED)) != 0)
        return corrupt(err, "unknown flags");
    if ((rc = check_supported(&record, err)) != ERR_OK)
        return rc;
    if (len - CRC_BYTES - at < record.centroid_count * (size_t)CENTROID_BYTES + record.id_len)
        return corrupt(err, "it ends inside its id");
    for (unsigned i = 0; i < record.centroid_count; i++, at += CENTROID_BYTES)
        record.centroids[i] = (struct centroid_tag){load_u32(p + at), load_u32(p + at + 4)};
    if (record.id_len != 0)
        record.id = (const char *)p + at;
    at += record.id_len;
    if ((rc = check_id(&record, ERR_CORRUPT, err)) != ERR_OK)
        return rc;
    *out = record;
    *body = at;
    return ERR_OK;
}

/* The field's place in the record, told by tag: false when it is already taken. */
static bool take_field(struct record *out, uint8_t tag, const void *data, size_t len)
{
    switch (tag) {
    case FIELD_VECTOR_F32:
    case FIELD_VECTOR_F16:
        if (out->vector != NULL)
            return false;
        out->vector = data;
        out->vector_bytes = len;
        out->vector_is_f16 = tag == FIELD_VECTOR_F16;
        return true;
    case FIELD_TEXT:
        if (out->text != NULL)
            return false;
        out->text = data;
        out->text_len = len;
        return true;
    case FIELD_METADATA:
        if (out->metadata != NULL)
            return false;
        out->metadata = data;
        out->metadata_len = len;
        return true;
    default:
        if (out->payload != NULL || tag != payload_tag(out->op))
            return false;
        out->payload = data;
        out->payload_len = len;
        return true;
    }
}

static enum err_code decode_fields(struct record *out, const void *data, size_t len,
                                   struct err *err)
{
    struct bytes_reader reader = {.data = data, .len = len};

    while (!reader.failed && reader.at < reader.len) {
        uint8_t tag = read_u8(&reader);
        uint8_t flags = read_u8(&reader);
        uint16_t zero = read_u16(&reader);
        uint32_t bytes = read_u32(&reader);
        const uint8_t *content = read_bytes(&reader, bytes);

        if (reader.failed)
            break;
        if ((flags & ~FIELD_SKIPPABLE) != 0 || zero != 0)
            return corrupt(err, "unknown flags of a field");
        if (tag >= FIELD_VECTOR_F32 && tag <= FIELD_MANIFEST) {
            if (!take_field(out, tag, content, bytes))
                return corrupt(err, "a field twice, or one that the op has not");
        } else if ((flags & FIELD_SKIPPABLE) == 0) {
            return err_set(err, ERR_CORRUPT, "record: field %u is not known", tag);
        }
    }
    if (!read_done(&reader))
        return corrupt(err, "it ends inside a field");
    return check_fields(out, ERR_CORRUPT, err);
}

static enum err_code decode_packed(struct record *out, const uint8_t *data, size_t len,
                                   struct buffer *scratch, struct err *err)
{
    size_t size, frame_len;

    if (scratch == NULL)
        return corrupt(err, "packed fields where none may be");
    if (len < sizeof(uint32_t))
        return corrupt(err, "it ends inside its packed fields");
    size = load_u32(data);
    data += sizeof(uint32_t);
    len -= sizeof(uint32_t);
    if (size == 0 || size > RECORD_BYTES_MAX)
        return corrupt(err, "the length of its packed fields is not possible");
    frame_len = ZSTD_findFrameCompressedSize(data, len);
    if (ZSTD_isError(frame_len) || frame_len != len)
        return corrupt(err, "its packed fields are not one frame");
    buffer_reset(scratch);
    if (!buffer_reserve(scratch, size))
        return buffer_check(scratch, err);
    if (ZSTD_decompress(scratch->data, size, data, len) != size)
        return corrupt(err, "its packed fields cannot be unpacked");
    scratch->len = size;
    return decode_fields(out, scratch->data, size, err);
}

enum err_code record_decode(struct record *out, const void *data, size_t len,
                            struct buffer *scratch, struct err *err)
{
    const uint8_t *p = data;
    struct record record;
    enum err_code rc;
    size_t body = 0;

    if (len < RECORD_HEADER_BYTES + CRC_BYTES || len > RECORD_BYTES_MAX)
        return corrupt(err, "its length is not possible");
    if (record_crc(data, len) != hash_crc32c(0, data, len - CRC_BYTES))
        return corrupt(err, "its checksum is wrong");
    if ((rc = decode_head(&record, p, len, &body, err)) != ERR_OK)
        return rc;
    if ((record.flags & RECORD_ZSTD) != 0)
        rc = decode_packed(&record, p + body, len - CRC_BYTES - body, scratch, err);
    else
        rc = decode_fields(&record, p + body, len - CRC_BYTES - body, err);
    if (rc == ERR_OK)
        *out = record;
    return rc;
}

enum err_code record_peek(struct record *out, const void *data, size_t len, struct err *err)
{
    size_t body = 0;

    return decode_head(out, data, len, &body, err);
}

uint32_t record_crc(const void *data, size_t len)
{
    assert(len >= CRC_BYTES);
    return load_u32((const uint8_t *)data + len - CRC_BYTES);
}

uint32_t record_partition(const char *id, size_t id_len, uint32_t partitions)
{
    assert(partitions >= 1);
    assert(partitions <= PARTITIONS_MAX);
    return hash_murmur3_32(id, id_len, PARTITION_SEED) % partitions;
}
