/* The bytes of a segment file, a file of sections (sections.h), for the segment_*.c files only (and
 * their tests).
 *
 *   segment_file.c   layout, header
 *   segment_write.c  making the file
 *   segment_open.c   mapping and copying; the scrub
 *   segment_graph.c  a segment becomes a graph
 *   segment_check.c  whether a graph can be walked
 *
 * The sections are those of enum segment_section, all spacious.  SEGMENT_UPPER and SEGMENT_FINE may
 * have no bytes.  Numbers of the header: dim u32, metric u32, m u32, bits u32, ef_construction u32,
 * flat_below u32, seed u64, count u32, upper_rows u32, live u64, entry u64, length f32, floor u32.
 */
#ifndef VICINAL_ENGINE_SEGMENT_FILE_H
#define VICINAL_ENGINE_SEGMENT_FILE_H

#include <stddef.h>

#include "engine/sections.h"
#include "engine/segment.h"

enum { SEGMENT_VERSION = 1 };

extern const struct section_form segment_form;

/* Bytes of a row of a section's array, and how many rows it has (not of SEGMENT_CHECKS). */
size_t segment_stride(const struct segment_parts *parts, enum segment_section section);
uint64_t segment_rows(const struct segment_parts *parts, enum segment_section section);

/* Where everything stands; the checksums are left 0. */
struct section_layout segment_layout_of(const struct segment_parts *parts);

void segment_header_encode(const struct segment_parts *parts, const struct section_layout *layout,
                           uint8_t out[SECTIONS_HEADER_BYTES]);

/* Parts come without planes and centre.  Their numbers are within the limits, so that the layout
 * cannot overflow, and the table agrees with it.
 * Errors: ERR_CORRUPT, ERR_CONFIG (newer format). */
MUST_CHECK enum err_code segment_header_decode(struct segment_parts *parts,
                                               struct section_layout *layout,
                                               const uint8_t bytes[SECTIONS_HEADER_BYTES],
                                               struct err *err);

struct segment {
    struct segment_parts parts;
    struct section_file file;
    unsigned char *mapping;                 /* of the whole file; NULL: everything is copied */
    unsigned char *bases[SEGMENT_SECTIONS]; /* first byte of each; the directories of the planes */
    uint32_t copied;                        /* bits 1 << section: memory of our own */
};

#endif
