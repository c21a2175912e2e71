/* A calibration as a file beside the segment of its graph, so that a restart need not measure
 * again.
 *
 * The file names its graph by what makes one: the options, the centre of the codes, and ordinals
 * and codes of the first slots, which never change while a graph grows, and are others in any other
 * graph.  What follows them may differ, as it may after the measuring: until the graph has doubled.
 *
 * Little-endian: magic 8, format version u32, size of the file u32, slots that name the graph u32,
 * slots that were linked when it was measured u32, XXH3 of the name u64, for each k: steps u32 and
 * CALIBRATED_STEPS recalls f32, those behind the steps zero; CRC32C of all that u32.  The version
 * rises also when efforts come to mean something else. */
#ifndef VICINAL_ENGINE_CALIBRATE_FILE_H
#define VICINAL_ENGINE_CALIBRATE_FILE_H

#include "engine/calibrate.h"

#define CALIBRATE_MAGIC "vicnlCAL"

enum {
    CALIBRATE_VERSION = 1,
    CALIBRATE_VERSION_AT = 8,
    CALIBRATE_NAMED_AT = 16,
    CALIBRATE_LINKED_AT = 20,
    CALIBRATE_NAME_AT = 24,
    CALIBRATE_TABLES_AT = 32,
    CALIBRATE_TABLE_BYTES = 4 + 4 * CALIBRATED_STEPS,
    CALIBRATE_CHECKSUM_AT = CALIBRATE_TABLES_AT + CALIBRATED_KS * CALIBRATE_TABLE_BYTES,
    CALIBRATE_FILE_BYTES = CALIBRATE_CHECKSUM_AT + 4,
};

/* Write what the graph knows, as new_file.h does.  named: so many slots say which graph it is; they
 * are linked.  Caller is the maintainer.
 * Errors: ERR_INVALID_ARGUMENT (the path), ERR_INSUFFICIENT_STORAGE, ERR_IO. */
MUST_CHECK enum err_code calibrate_write(const char *path, const struct graph *graph,
                                         uint32_t named, struct err *err);

/* Of this graph, which nobody links.
 * Errors: ERR_NOT_FOUND, ERR_CORRUPT (damaged or cut), ERR_CONFIG (a newer format), ERR_CONFLICT
 * (of another graph), ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code calibrate_read(struct calibration **out, const char *path,
                                        const struct graph *graph, struct err *err);

#endif
