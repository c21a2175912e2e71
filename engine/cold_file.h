/* The bytes of a cold part's file, for the cold_*.c files only (and their tests).
 *
 *   0      header, 4 KiB, its last 4 bytes the CRC32C of the others
 *   4096   the sections: the parts of the index in the order of enum ivf_part, the vectors, the
 *          checksums; on a page each, vectors of 2 MiB and more on a multiple of 2 MiB
 *
 * Header, little-endian: magic 8, format version u32, endian tag u32, size of the header u32,
 * number of sections u32, size of the file u64, dim u32, metric u32, kind u32, lists u32, code_dims
 * u32, seed u64, count u32, blocks u32, from u32, to u32, radius f32; at 128 the section table, as
 * a segment has it (segment_file.h).  The rest is zero.
 *
 * Blocks of 64 KiB, their checksums, and what they vouch for are a segment's too, and so is what no
 * version changes.  All places follow from the numbers of the header. */
#ifndef VICINAL_ENGINE_COLD_FILE_H
#define VICINAL_ENGINE_COLD_FILE_H

#include "engine/ivf_parts.h"
#include "engine/segment_file.h"

#define COLD_MAGIC "vicnlCLD"

enum {
    COLD_VERSION = 1,
    COLD_VECTORS = IVF_PARTS, /* dim floats a row, and padding */
    COLD_CHECKS,              /* CRC32C of each block of the others */
    COLD_SECTIONS,
};

struct cold_numbers {
    struct ivf_shape shape;
    uint32_t from, to;
};

struct cold_layout {
    struct segment_place places[COLD_SECTIONS];
    uint64_t blocks; /* of all sections but COLD_CHECKS */
    uint64_t bytes;  /* of the file */
};

const char *cold_section_name(unsigned section);

/* Where everything stands; the checksums are left 0. */
struct cold_layout cold_layout_of(const struct cold_numbers *numbers);

void cold_header_encode(const struct cold_numbers *numbers, const struct cold_layout *layout,
                        uint8_t out[SEGMENT_HEADER_BYTES]);

/* The numbers are within the limits, so that the layout cannot overflow, and the table agrees with
 * it.  Errors: ERR_CORRUPT, ERR_CONFIG (newer format). */
MUST_CHECK enum err_code cold_header_decode(struct cold_numbers *numbers,
                                            struct cold_layout *layout,
                                            const uint8_t bytes[SEGMENT_HEADER_BYTES],
                                            struct err *err);

/* The header of the file at the path, its size checked; *fd is open after ERR_OK.
 * Errors: those of cold_open(). */
MUST_CHECK enum err_code cold_header_read(int *fd, const char *path, struct cold_numbers *numbers,
                                          struct cold_layout *layout, struct err *err);

#endif
