/* The bytes of a segment file, for the segment_*.c files only (and their tests).
 *
 *   segment_file.c   layout, header
 *   segment_write.c  making the file
 *   segment_read.c   reading sections against their checksums; the scrub
 *   segment_open.c   mapping and copying
 *   segment_graph.c  a segment becomes a graph
 *   segment_check.c  whether a graph can be walked
 *
 *   0      header, 4 KiB, its last 4 bytes the CRC32C of the others
 *   4096   the sections, in the order of enum segment_section
 *
 * Sections of 2 MiB and more stand on a multiple of 2 MiB (so that they can lie in huge pages),
 * others on a page.  One may have no bytes (SEGMENT_UPPER, SEGMENT_FINE); it stands in
 * the table all the same.
 *
 * Header, little-endian: magic 8, format version u32, endian tag u32, size of the header u32,
 * number of sections u32, size of the file u64, dim u32, metric u32, m u32, bits u32,
 * ef_construction u32, flat_below u32, seed u64, count u32, upper_rows u32, live u64, entry u64,
 * length f32, floor u32; at 128 the section table, 32 bytes each: id u32 (from 1), alignment u32,
 * offset u64, length u64, checksum u32, 4 bytes zero.  The rest is zero.
 *
 * Each section is cut into blocks of 64 KiB, the last may be shorter.  SEGMENT_CHECKS holds a
 * CRC32C of each block of the sections before it, in order, and a section's checksum in the table
 * is the CRC32C of its part of that.  So the header vouches for the table of blocks, and that for
 * everything.  (The checksum of SEGMENT_CHECKS is the CRC32C of its bytes.)
 *
 * Magic, version, endian tag and the header's size and checksum stay where they are in every
 * version, so that a newer one is told from a damaged one.  All places follow from the numbers of
 * the header; the table is for the reader's convenience, and must agree. */
#ifndef VICINAL_ENGINE_SEGMENT_FILE_H
#define VICINAL_ENGINE_SEGMENT_FILE_H

#include <stddef.h>

#include "engine/segment.h"

#define SEGMENT_MAGIC        "vicnlSEG"
#define SEGMENT_HEADER_BYTES ((size_t)4096)
#define SEGMENT_BLOCK_BYTES  ((size_t)64 << 10)
#define SEGMENT_CHUNK_BYTES  ((size_t)1 << 20) /* read and written at a time */

enum {
    SEGMENT_VERSION = 1,
    SEGMENT_VERSION_AT = 8,
    SEGMENT_TABLE_AT = 128,
    SEGMENT_TABLE_ROW = 32,
    SEGMENT_CHECKSUM_AT = 4092,
};

struct segment_place {
    uint64_t offset;
    uint64_t length;
    uint64_t first_block; /* number of its first block in SEGMENT_CHECKS */
    uint32_t alignment;
    uint32_t checksum;
};

struct segment_layout {
    struct segment_place places[SEGMENT_SECTIONS];
    uint64_t blocks; /* of all sections but SEGMENT_CHECKS */
    uint64_t bytes;  /* of the file */
};

const char *segment_section_name(enum segment_section section);

/* The last part of a path: what errors name, so that a long path does not push the reason out. */
const char *segment_file_name(const char *path);

/* Bytes of a row of a section's array, and how many rows it has (not of SEGMENT_CHECKS). */
size_t segment_stride(const struct segment_parts *parts, enum segment_section section);
uint64_t segment_rows(const struct segment_parts *parts, enum segment_section section);

static inline uint64_t segment_block_count(uint64_t length)
{
    return (length + SEGMENT_BLOCK_BYTES - 1) / SEGMENT_BLOCK_BYTES;
}

/* Where everything stands; the checksums are left 0. */
struct segment_layout segment_layout_of(const struct segment_parts *parts);

void segment_header_encode(const struct segment_parts *parts, const struct segment_layout *layout,
                           uint8_t out[SEGMENT_HEADER_BYTES]);

/* Parts come without planes and centre.  Their numbers are within the limits, so that the layout
 * cannot overflow, and the table agrees with it.
 * Errors: ERR_CORRUPT, ERR_CONFIG (newer format). */
MUST_CHECK enum err_code segment_header_decode(struct segment_parts *parts,
                                               struct segment_layout *layout,
                                               const uint8_t bytes[SEGMENT_HEADER_BYTES],
                                               struct err *err);

struct segment {
    struct segment_parts parts;
    struct segment_layout layout;
    int fd;
    uint32_t *checks;                       /* layout.blocks of them */
    unsigned char *mapping;                 /* of the whole file; NULL: everything is copied */
    unsigned char *bases[SEGMENT_SECTIONS]; /* first byte of each; the directories of the planes */
    uint32_t copied;                        /* bits 1 << section: memory of our own */
};

/* Exactly len bytes.  Errors: ERR_CORRUPT (the file ends before), ERR_IO. */
MUST_CHECK enum err_code segment_read_bytes(int fd, void *out, size_t len, uint64_t at,
                                            struct err *err);

/* Read and check the table of checksums into segment->checks. */
MUST_CHECK enum err_code segment_read_checks(struct segment *segment, struct err *err);

/* Read `count` blocks of a section, from its block `first` on, and check them.  out: where the
 * section's first byte goes; NULL: they are only checked. */
MUST_CHECK enum err_code segment_read_blocks(const struct segment *segment,
                                             enum segment_section section, uint64_t first,
                                             uint64_t count, unsigned char *out, struct err *err);

#endif
