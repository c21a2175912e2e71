/* Bytes of segment headers and frames: see wal_file_format.h.  Pure functions, no input/output. */
#include "backends/wal/wal_file_format.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/hash.h"

#define FRAME_MAGIC 0x4c577646u

static const uint8_t segment_magic[8] = {'V', 'i', 'c', 'W', 'a', 'l', '\r', '\n'};

static_assert(WAL_SEGMENT_FIXED % 8 == 0, "frames stand at multiples of 8");
static_assert(WAL_FRAME_HEADER % 8 == 0, "frames stand at multiples of 8");
static_assert(RECORD_BYTES_MAX <= UINT32_MAX, "a frame's length is 32 bits");

static uint32_t header_crc(const uint8_t *data, size_t len)
{
    uint32_t crc = hash_crc32c(0, data, 12);

    return hash_crc32c(crc, data + 16, len - 16);
}

void wal_segment_header_encode(const struct wal_segment_header *header, uint8_t *out)
{
    size_t size = wal_segment_header_size(header->partitions);

    assert(header->partitions >= 1 && header->partitions <= PARTITIONS_MAX);
    memset(out, 0, size);
    memcpy(out, segment_magic, sizeof(segment_magic));
    store_u32(out + 8, WAL_FILE_VERSION);
    store_u32(out + 16, header->region);
    store_u32(out + 20, header->partitions);
    store_u64(out + 24, header->segment);
    store_u64(out + 32, header->epoch);
    store_u64(out + 40, header->previous_end);
    store_u64(out + 48, header->oldest);
    for (uint32_t p = 0; p < header->partitions; p++)
        store_u64(out + WAL_SEGMENT_FIXED + 8 * (size_t)p, header->start[p]);
    store_u32(out + 12, header_crc(out, size));
}

enum err_code wal_segment_header_decode(struct wal_segment_header *out, const uint8_t *data,
                                        size_t len, struct err *err)
{
    uint32_t partitions;

    if (len < WAL_SEGMENT_FIXED)
        return err_set(err, ERR_CORRUPT, "the segment header is cut off");
    if (memcmp(data, segment_magic, sizeof(segment_magic)) != 0)
        return err_set(err, ERR_CORRUPT, "the segment header is not one");
    partitions = load_u32(data + 20);
    if (partitions < 1 || partitions > PARTITIONS_MAX || len < wal_segment_header_size(partitions))
        return err_set(err, ERR_CORRUPT, "the segment header is cut off or damaged");
    if (header_crc(data, wal_segment_header_size(partitions)) != load_u32(data + 12))
        return err_set(err, ERR_CORRUPT, "the segment header's checksum is wrong");
    if (load_u32(data + 8) != WAL_FILE_VERSION)
        return err_set(err, ERR_CONFIG, "the log has format %u, this program knows %u",
                       load_u32(data + 8), WAL_FILE_VERSION);
    out->region = load_u32(data + 16);
    out->partitions = partitions;
    out->segment = load_u64(data + 24);
    out->epoch = load_u64(data + 32);
    out->previous_end = load_u64(data + 40);
    out->oldest = load_u64(data + 48);
    for (uint32_t p = 0; p < partitions; p++)
        out->start[p] = load_u64(data + WAL_SEGMENT_FIXED + 8 * (size_t)p);
    return ERR_OK;
}

uint32_t wal_frame_seed(uint32_t region, uint64_t segment)
{
    uint8_t bytes[12];

    store_u32(bytes, region);
    store_u64(bytes + 4, segment);
    return hash_crc32c(0, bytes, sizeof(bytes));
}

void wal_frame_encode(const struct wal_frame *frame, uint32_t seed, uint8_t *out)
{
    size_t size = wal_frame_size(frame->len);

    assert(frame->len >= 1);
    assert(frame->len <= RECORD_BYTES_MAX);
    store_u32(out, FRAME_MAGIC);
    store_u32(out + 8, (uint32_t)frame->len);
    store_u32(out + 12, frame->partition);
    store_u64(out + 16, frame->offset);
    store_u64(out + 24, frame->epoch);
    store_u32(out + 32, frame->batch);
    store_u32(out + 36, 0);
    memcpy(out + WAL_FRAME_HEADER, frame->data, frame->len);
    memset(out + WAL_FRAME_HEADER + frame->len, 0, size - WAL_FRAME_HEADER - frame->len);
    store_u32(out + 4, hash_crc32c(seed, out + 8, size - 8));
}

enum wal_frame_state wal_frame_decode(struct wal_frame *out, const uint8_t *data, size_t len,
                                      uint32_t seed)
{
    out->size = WAL_FRAME_HEADER;
    if (len < WAL_FRAME_HEADER)
        return WAL_FRAME_SHORT;
    if (load_u32(data) != FRAME_MAGIC)
        return WAL_FRAME_BAD;
    out->len = load_u32(data + 8);
    if (out->len < 1 || out->len > RECORD_BYTES_MAX)
        return WAL_FRAME_BAD;
    out->size = wal_frame_size(out->len);
    if (len < out->size)
        return WAL_FRAME_SHORT;
    if (hash_crc32c(seed, data + 8, out->size - 8) != load_u32(data + 4))
        return WAL_FRAME_BAD;
    out->partition = load_u32(data + 12);
    out->offset = load_u64(data + 16);
    out->epoch = load_u64(data + 24);
    out->batch = load_u32(data + 32);
    out->data = data + WAL_FRAME_HEADER;
    return WAL_FRAME_GOOD;
}
