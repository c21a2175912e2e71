/* The folders in which the engines of a shard keep their segments: ROOT/LIFE/INCARNATION.
 *
 * A segment speaks of ordinals, which mean something only to the store that gave them.  So LIFE is
 * the store's (apply_take_life) and INCARNATION the collection's, both in hexadecimal: another
 * store, or another collection of the same name, looks elsewhere.
 *
 * A folder that goes is renamed first, and the renaming synced, before anything in it is removed:
 * what a crash leaves of it stands under a name that nobody opens, until the next sweep.
 *
 * Any thread; of one folder, one caller at a time. */
#ifndef VICINAL_SHARD_SEGMENTS_H
#define VICINAL_SHARD_SEGMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/collection.h"
#include "common/model/record.h"
#include "engine/engine.h"

#define SEGMENTS_PATH_BYTES 4096

struct segments_place {
    const char *root;
    uint64_t life;
    const uint8_t *incarnation; /* INCARNATION_BYTES */
};

/* The path of a collection's folder.  Errors: ERR_CONFIG (the root's path is too long). */
MUST_CHECK enum err_code segments_folder(char path[SEGMENTS_PATH_BYTES],
                                         const struct segments_place *place, struct err *err);

/* What of a collection's engine follows from its definition: with other options a segment that is
 * there cannot be used. */
struct engine_options segments_engine_options(const struct collection *definition);

/* Make ROOT and ROOT/LIFE where they are not there.
 * Errors: ERR_CONFIG, ERR_IO, ERR_INSUFFICIENT_STORAGE. */
MUST_CHECK enum err_code segments_make(const char *root, uint64_t life, struct err *err);

/* Remove a folder with everything in it; one that is not there is fine.
 * Errors: ERR_CONFIG, ERR_IO, ERR_INSUFFICIENT_STORAGE. */
MUST_CHECK enum err_code segments_remove(const char *path, struct err *err);

/* Sync a folder: names that were made, changed or removed in it stay so.  Errors: ERR_IO. */
MUST_CHECK enum err_code segments_sync(const char *path, struct err *err);

struct segments_sweep {
    const char *root; /* and ROOT/LIFE are there */
    uint64_t life;
    bool (*is_known)(void *state, const uint8_t incarnation[INCARNATION_BYTES]);
    void *state;
    uint64_t removed; /* told */
};

/* Remove the folders of other lives, and in this one whatever is not of a known collection.  Goes
 * on after a failure and tells of the last one.  Errors: those of segments_remove. */
MUST_CHECK enum err_code segments_sweep(struct segments_sweep *sweep, struct err *err);

#endif
