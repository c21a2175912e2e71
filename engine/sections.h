/* Files of sections: arrays one behind the other, a header that says where they stand, and a
 * checksum for each 64 KiB.  A segment (segment_file.h) and a cold part (cold_file.h) are such.
 *
 *   sections.c         layout, header
 *   sections_read.c    opening, reading against the checksums, the scrub
 *   sections_write.c   making the file
 *
 *   0      header, 4 KiB, its last 4 bytes the CRC32C of the others
 *   4096   the sections, in the order of their numbers
 *
 * Sections stand on a page; those that are spacious, if they have 2 MiB and more, on a multiple of
 * 2 MiB, so that they can lie in huge pages.  One may have no bytes; it stands in the table all the
 * same.
 *
 * Header, little-endian: magic 8, format version u32, endian tag u32, size of the header u32,
 * number of sections u32, size of the file u64, then the numbers of the form; at 128 the section
 * table, 32 bytes each: id u32 (from 1), alignment u32, offset u64, length u64, checksum u32, 4
 * bytes zero.  The rest is zero.
 *
 * Each section is cut into blocks of 64 KiB, the last may be shorter.  The last section holds a
 * CRC32C of each block of the sections before it, in order, and a section's checksum in the table
 * is the CRC32C of its part of that.  So the header vouches for the table of blocks, and that for
 * everything.  (The checksum of the last section is the CRC32C of its bytes.)
 *
 * Magic, version, endian tag and the header's size and checksum stay where they are in every
 * version, so that a newer one is told from a damaged one.  All places follow from the numbers of
 * the header; the table is for the reader's convenience, and must agree. */
#ifndef VICINAL_ENGINE_SECTIONS_H
#define VICINAL_ENGINE_SECTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "engine/new_file.h"

#define SECTIONS_HEADER_BYTES ((size_t)4096)
#define SECTIONS_BLOCK_BYTES  ((size_t)64 << 10)
#define SECTIONS_CHUNK_BYTES  ((size_t)1 << 20) /* read and written at a time */

enum {
    SECTIONS_MAX = 16,
    SECTIONS_VERSION_AT = 8,
    SECTIONS_NUMBERS_AT = 32, /* those of the form */
    SECTIONS_TABLE_AT = 128,
    SECTIONS_TABLE_ROW = 32,
    SECTIONS_CHECKSUM_AT = 4092,
};

/* What files of one kind have in common. */
struct section_form {
    char magic[9];
    const char *kind; /* for errors */
    uint32_t version;
    uint32_t count;    /* of sections; the last one holds the checksums */
    uint32_t spacious; /* bits 1 << section, see above */
    const char *const *names;
};

struct section_place {
    uint64_t offset;
    uint64_t length;
    uint64_t first_block; /* number of its first block among the checksums */
    uint32_t alignment;
    uint32_t checksum;
};

struct section_layout {
    struct section_place places[SECTIONS_MAX];
    uint64_t blocks; /* of all sections but the last */
    uint64_t bytes;  /* of the file */
};

static inline uint64_t section_block_count(uint64_t length)
{
    return (length + SECTIONS_BLOCK_BYTES - 1) / SECTIONS_BLOCK_BYTES;
}

/* lengths: of all sections but the last.  The checksums are left 0. */
struct section_layout sections_place(const struct section_form *form, const uint64_t *lengths);

/* All of a header but the form's numbers, which the caller puts into its place then; the end is the
 * checksum. */
void sections_header_begin(const struct section_form *form, const struct section_layout *layout,
                           uint8_t out[SECTIONS_HEADER_BYTES]);
void sections_header_end(uint8_t out[SECTIONS_HEADER_BYTES]);

/* Is it a header of this form?  The numbers have not been looked at.
 * Errors: ERR_CORRUPT, ERR_CONFIG (newer format). */
MUST_CHECK enum err_code sections_header_check(const struct section_form *form,
                                               const uint8_t bytes[SECTIONS_HEADER_BYTES],
                                               struct err *err);

/* Take the checksums from the table; all else in it, and the file's size, must be as in the layout.
 * Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code sections_table_take(const struct section_form *form,
                                             struct section_layout *layout,
                                             const uint8_t bytes[SECTIONS_HEADER_BYTES],
                                             struct err *err);

/* --- reading --------------------------------------------------------------------------------- */

struct section_file {
    const struct section_form *form;
    struct section_layout layout; /* the owner's to set */
    int fd;                       /* -1: not open */
    uint64_t bytes;               /* that it has */
    uint32_t *checks;             /* layout.blocks of them; NULL: not read yet */
};

/* Closing is needed after an error as well.
 * Errors: ERR_NOT_FOUND, ERR_CORRUPT (no regular file, or shorter than a header), ERR_IO. */
MUST_CHECK enum err_code sections_open(struct section_file *file, const struct section_form *form,
                                       const char *path, uint8_t header[SECTIONS_HEADER_BYTES],
                                       struct err *err);
void sections_close(struct section_file *file);

/* Has the file as many bytes as its layout?  Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code sections_check_size(const struct section_file *file, struct err *err);

/* Read and check the table of checksums.  Errors: ERR_CORRUPT, ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code sections_read_checks(struct section_file *file, struct err *err);

/* Read `count` blocks of a section, from its block `first` on, and check them.  out: where the
 * section's first byte goes; NULL: they are only checked.  Errors: as above. */
MUST_CHECK enum err_code sections_read_blocks(const struct section_file *file, unsigned section,
                                              uint64_t first, uint64_t count, unsigned char *out,
                                              struct err *err);

/* Check `count` of the file's blocks, from the block `first` of layout.blocks on; those beyond are
 * left out.  Errors: as above. */
MUST_CHECK enum err_code sections_scrub(const struct section_file *file, uint64_t first,
                                        uint64_t count, struct err *err);

/* Exactly len bytes of any file.  Errors: ERR_CORRUPT (it ends before), ERR_IO. */
MUST_CHECK enum err_code file_read_at(int fd, void *out, size_t len, uint64_t at, struct err *err);

/* --- writing --------------------------------------------------------------------------------- */

/* form, layout, the functions and their state are the owner's to set. */
struct section_writer {
    const struct section_form *form;
    struct section_layout layout;
    /* Bytes of a section; never asked for those of the last one. */
    void (*copy)(void *state, unsigned section, uint64_t at, size_t len, unsigned char *out);
    /* Asked before each part of a megabyte. */
    enum err_code (*go_on)(void *state, struct err *err);
    /* Asked when all is on the disk, before the file gets its name. */
    enum err_code (*before_rename)(void *state, struct err *err);
    void *state;
    struct new_file file;
    unsigned char *chunk; /* SECTIONS_CHUNK_BYTES */
    uint32_t *checks;
    uint64_t bytes_done; /* of sections */
};

/* The whole room is asked for.  Closing is needed after an error as well; it removes what is not
 * published.  Errors: those of new_file.h, ERR_NO_MEMORY. */
MUST_CHECK enum err_code sections_write_open(struct section_writer *writer, const char *path,
                                             struct err *err);
void sections_write_close(struct section_writer *writer);

/* In the order of their numbers.  Errors: those of new_file.h, and of go_on. */
MUST_CHECK enum err_code sections_write(struct section_writer *writer, unsigned section,
                                        struct err *err);

/* The header, which the owner has put into writer->chunk; then the file gets its name.
 * Errors: those of new_file.h, and of the functions. */
MUST_CHECK enum err_code sections_publish(struct section_writer *writer, struct err *err);

#endif
