/* Segments: the sealed form of a graph, one immutable file that can be searched as soon as it is
 * mapped.
 *
 * A segment holds everything that a linked graph consists of: the options that define it, the
 * centre of its codes, and its planes as plain arrays (slots, links on the ground and above, codes,
 * finer codes, vectors).  Nothing in it depends on the machine that made it: equal graphs make
 * equal bytes.  Opened, its arrays are borrowed planes (plane.h), so the ordinary walk runs on
 * them; what else an engine derives from the centre is made again from it (frame_take()).
 *
 * What stands in a file is believed only after it has been checked.  Opening reads all but the
 * vectors, through the descriptor, against the checksums, and then looks at everything that a walk
 * follows; the vectors, which are most of the bytes, are looked at by segment_verify().
 *
 * A segment's file must not be changed or cut while it is open: a mapping answers that by a
 * signal.  Replacing it by another (as segment_write does) or removing it is harmless.
 *
 * Threads: an open segment is read by any number of them; open and close are the owner's. */
#ifndef VICINAL_ENGINE_SEGMENT_H
#define VICINAL_ENGINE_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/plane.h"

/* In the order in which they stand in the file. */
enum segment_section {
    SEGMENT_CENTRE,  /* dim floats */
    SEGMENT_SLOTS,   /* struct slot */
    SEGMENT_GROUND,  /* 2 m links a row */
    SEGMENT_UPPER,   /* m links a row */
    SEGMENT_CODES,   /* codes.h */
    SEGMENT_FINE,    /* the same of 8 bits; no rows where the codes are that already */
    SEGMENT_VECTORS, /* dim floats a row, and padding */
    SEGMENT_CHECKS,  /* CRC32C of each block of the others */
    SEGMENT_SECTIONS
};

/* A linked graph, as struct graph has it (graph.h).  The planes are borrowed: from a graph, or from
 * an open segment. */
struct segment_parts {
    struct engine_options options; /* defaults filled in; no kernel and no budget */
    float length;                  /* of the vectors, if all are about as long; else 0 */
    uint32_t count;                /* slots, all of them linked; at least 1 */
    uint32_t floor;                /* vectors with lower ordinals are elsewhere (cold.h) */
    uint32_t upper_rows;
    uint64_t live; /* slots that are not dead; told by segment_open, not asked by segment_write */
    uint64_t entry;
    const float *centre; /* dim floats */
    struct plane slots, ground, upper, codes, vectors;
    struct plane fine; /* zeroed where the codes have 8 bits */
};

/* The linked part of a graph.  Good until more is linked.  Where nothing is, the count is 0. */
struct graph;
struct segment_parts segment_parts_of(const struct graph *graph);

/* What the writer tells and asks; each may be NULL. */
struct segment_progress {
    /* Before each part of a megabyte or less, and before the sync; false ends the writing. */
    bool (*go_on)(void *state, uint64_t bytes_done, uint64_t bytes);
    /* Slots and links are written: from now on the graph may be linked again. */
    void (*links_written)(void *state);
    /* The file is whole and synced, and does not have its name yet; an error ends the writing. */
    enum err_code (*before_rename)(void *state, struct err *err);
    void *state;
};

/* Write a segment to `path`, durably, in place of what may be there; progress may be NULL.  Takes a
 * megabyte and 1/16384 of the file's bytes of memory.  The parts are checked first: what could not
 * be opened is not written.  Nothing is linked in the graph that the parts are of until
 * links_written; inserting and deleting are allowed, and each deletion is either in the segment or
 * not. The file is made as PATH.tmp, which is replaced if it is there (two writers of one path are
 * a bug), synced, and renamed.  After an error PATH is as it was and PATH.tmp is gone.  One error
 * is different: when the folder cannot be synced after the renaming, PATH is the new segment,
 * whole, and a crash of the machine may bring the old one back. Errors: ERR_INVALID_ARGUMENT (the
 * path, an empty graph), ERR_CORRUPT (the parts), ERR_INSUFFICIENT_STORAGE, ERR_IO, ERR_NO_MEMORY,
 * ERR_DEAD (stopped by go_on), those of before_rename. */
MUST_CHECK enum err_code segment_write(const char *path, const struct segment_parts *parts,
                                       const struct segment_progress *progress, struct err *err);

/* Everything that a walk follows: ordinals and chains of twins ascend, links lie in bounds and lead
 * to nodes of their level, level rows fill the upper plane, the entry is on top, states are known,
 * the numbers of centre and codes are numbers.  Sequential, apart from a byte a slot.
 * Not looked at: vectors, the order of links by distance, reachability (engine_validate()).
 * Errors: ERR_CORRUPT with what is wrong, ERR_NO_MEMORY. */
MUST_CHECK enum err_code segment_check(const struct segment_parts *parts, struct err *err);

struct segment;

/* How to open.  A mapped section lies in the page cache and is read only; opening has touched all
 * its pages, but those of the vectors.  A copied one lies in huge pages of the process' own:
 * searches are some percent faster, opening takes as long as the system takes to give the memory,
 * and the owner may write there: dead bits can be set in copied slots. */
struct segment_how {
    uint32_t copied; /* bits 1 << section; SEGMENT_COPY_ALL */
    /* Of these dim, metric, m (not 0), seed and bits (0: any) must agree; NULL: any will do. */
    const struct engine_options *expected;
};

#define SEGMENT_COPY_ALL ((UINT32_C(1) << SEGMENT_CHECKS) - 1)

/* how may be NULL: all mapped.  What is copied is checked in full, vectors too.  Beside what is
 * copied it takes 1/16384 of the file's bytes of memory, and a byte a slot until it returns.
 * Errors: ERR_NOT_FOUND, ERR_CORRUPT (damaged or cut, with what and where), ERR_CONFIG (a newer
 * format, or not the expected options), ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code segment_open(struct segment **out, const char *path,
                                      const struct segment_how *how, struct err *err);
void segment_close(struct segment *segment); /* NULL is fine */

/* Live until the segment is closed. */
const struct segment_parts *segment_parts(const struct segment *segment);

/* Which sections an engine of these options leaves in the file: bits as in segment_how. */
uint32_t segment_filed(const struct engine_options *options);

/* Into an empty graph of the expected options: memory of the copied sections, which are all but
 * segment_filed(), becomes the graph's, the others are read from the file.  Closing the segment
 * then is harmless.
 * Errors: ERR_NO_MEMORY, ERR_IO; the graph can only be freed then. */
MUST_CHECK enum err_code segment_give(struct segment *segment, struct graph *graph,
                                      struct err *err);

/* Let the rows of a graph that stand in the segment at path, and are to be left in the file, be
 * read from there; their memory goes back to the system.  Readers need not know: the bytes are the
 * same.
 * Errors: ERR_IO, ERR_NO_MEMORY; what has not been moved stays in memory. */
MUST_CHECK enum err_code segment_lend(const char *path, const struct segment_parts *parts,
                                      struct graph *graph, struct err *err);

/* Bytes of the file, and bytes of memory taken beside the page cache. */
uint64_t segment_bytes(const struct segment *segment);
uint64_t segment_memory(const struct segment *segment);

/* Check blocks of 64 KiB against their checksums, read again from the file: count of them, from
 * first on, at most up to segment_blocks().  A scrub is one call for all, or many small ones.
 * Errors: ERR_CORRUPT (names section and block), ERR_IO, ERR_NO_MEMORY. */
uint64_t segment_blocks(const struct segment *segment);
MUST_CHECK enum err_code segment_verify(const struct segment *segment, uint64_t first,
                                        uint64_t count, struct err *err);

#endif
