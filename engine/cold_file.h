/* The bytes of a cold part's file, a file of sections (sections.h), for the cold_*.c files only
 * (and their tests).
 *
 * The sections are the parts of the index in the order of enum ivf_part, the vectors, which alone
 * are spacious, and the checksums.  Numbers of the header: dim u32, metric u32, kind u32, lists
 * u32, code_dims u32, seed u64, count u32, blocks u32, from u32, to u32, radius f32. */
#ifndef VICINAL_ENGINE_COLD_FILE_H
#define VICINAL_ENGINE_COLD_FILE_H

#include "engine/ivf_parts.h"
#include "engine/sections.h"

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

extern const struct section_form cold_form;

/* Where everything stands; the checksums are left 0. */
struct section_layout cold_layout_of(const struct cold_numbers *numbers);

void cold_header_encode(const struct cold_numbers *numbers, const struct section_layout *layout,
                        uint8_t out[SECTIONS_HEADER_BYTES]);

/* The numbers are within the limits, so that the layout cannot overflow, and the table agrees with
 * it.  Errors: ERR_CORRUPT, ERR_CONFIG (newer format). */
MUST_CHECK enum err_code cold_header_decode(struct cold_numbers *numbers,
                                            struct section_layout *layout,
                                            const uint8_t bytes[SECTIONS_HEADER_BYTES],
                                            struct err *err);

/* The header of the file at the path, its size checked; the file is open after ERR_OK.
 * Errors: those of cold_open(). */
MUST_CHECK enum err_code cold_header_read(struct section_file *file, const char *path,
                                          struct cold_numbers *numbers, struct err *err);

#endif
