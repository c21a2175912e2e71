/* The bytes of the file log: segment headers and frames, little-endian, format 1.
 *
 * A segment file is a header and frames, one after the other, then whatever was preallocated:
 *
 *   header   0 magic 8 | 8 version u32 | 12 crc u32 | 16 region u32 | 20 partitions u32
 *            24 segment u64 | 32 epoch u64 | 40 previous_end u64 | 48 oldest u64 | 56 zero u64
 *            64 start offset u64 of each partition
 *   frame    0 magic u32 | 4 crc u32 | 8 len u32 | 12 partition u32 | 16 offset u64
 *            24 epoch u64 | 32 batch u32 | 36 zero u32 | 40 payload, zeros up to a multiple of 8
 *
 * The header's CRC32C is over all of it but itself; later versions keep the first 64 bytes and the
 * place of the checksum, so that a newer format is told from damage.  A frame's CRC32C is over all
 * of it but magic and checksum, padding too, and starts from the region and segment number: a
 * frame of another file is never taken for one of this.
 *
 * previous_end says where the segment before ends, which was synced before this one was made: it
 * is a position known as committed.  batch is the byte at which the append that wrote the frame
 * began; everything before it was committed by then.  So a good frame behind a bad one, of a batch
 * that begins behind the bad one, proves that the bad one is damage and not a torn tail.
 */
#ifndef VICINAL_BACKENDS_WAL_FILE_FORMAT_H
#define VICINAL_BACKENDS_WAL_FILE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"

#define WAL_SEGMENT_FIXED      64u
#define WAL_SEGMENT_HEADER_MAX (WAL_SEGMENT_FIXED + 8u * PARTITIONS_MAX)
#define WAL_FRAME_HEADER       40u
#define WAL_FRAME_MAX          (WAL_FRAME_HEADER + RECORD_BYTES_MAX)
#define WAL_FILE_VERSION       1u

struct wal_segment_header {
    uint32_t region;
    uint32_t partitions;   /* 1..PARTITIONS_MAX */
    uint64_t segment;      /* number of this file, from 1, without gaps */
    uint64_t epoch;        /* take-overs of the log before and with this file; never falls */
    uint64_t previous_end; /* byte at which the segment before ends; 0 for the first */
    uint64_t oldest;       /* the first segment kept when this one was made */
    uint64_t start[PARTITIONS_MAX]; /* offset of the first entry of each partition behind here */
};

struct wal_frame {
    uint32_t partition;
    uint64_t offset;
    uint64_t epoch;
    uint32_t batch;      /* byte at which the frame's append began */
    const uint8_t *data; /* into the bytes that were decoded */
    size_t len;
    size_t size; /* of the whole frame, padding too */
};

enum wal_frame_state {
    WAL_FRAME_GOOD,
    WAL_FRAME_SHORT, /* more bytes are needed: frame->size says how many (at least the header) */
    WAL_FRAME_BAD,
};

/* Bytes of a segment's header, which is where its first frame stands. */
static inline size_t wal_segment_header_size(uint32_t partitions)
{
    return WAL_SEGMENT_FIXED + 8u * (size_t)partitions;
}

/* Bytes of a frame with a payload of len. */
static inline size_t wal_frame_size(size_t len)
{
    return (WAL_FRAME_HEADER + len + 7) & ~(size_t)7;
}

/* out has room for wal_segment_header_size(header->partitions). */
void wal_segment_header_encode(const struct wal_segment_header *header, uint8_t *out);

/* Errors: ERR_CORRUPT (damaged, or too short), ERR_CONFIG (a newer format). */
MUST_CHECK enum err_code wal_segment_header_decode(struct wal_segment_header *out,
                                                   const uint8_t *data, size_t len,
                                                   struct err *err);

/* What the checksums of a segment's frames start from. */
uint32_t wal_frame_seed(uint32_t region, uint64_t segment);

/* out has room for wal_frame_size(frame->len). */
void wal_frame_encode(const struct wal_frame *frame, uint32_t seed, uint8_t *out);

/* Decode the frame at data, of which len bytes are at hand.  The checksum is verified; whether
 * partition, offset and epoch fit is the caller's to judge. */
enum wal_frame_state wal_frame_decode(struct wal_frame *out, const uint8_t *data, size_t len,
                                      uint32_t seed);

#endif
