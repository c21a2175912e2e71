/* Verifying what an engine keeps in its folder: its segment, its calibration and its cold parts,
 * every byte against the checksums and everything that a walk follows, and that together they hold
 * what the owner says lives.  Nothing is changed: what an engine would set aside or remove is told.
 */
#ifndef VICINAL_ENGINE_VERIFY_H
#define VICINAL_ENGINE_VERIFY_H

#include "common/base/scrub.h"
#include "engine/engine.h"

struct engine_verified {
    uint32_t covered; /* as engine_covered(): 0, nothing is kept */
    uint64_t vectors; /* in the files that an engine would open */
    uint32_t parts;   /* cold ones of them */
    uint64_t bytes;   /* of all files looked at */
};

/* options: those with which the engine is opened.  living: the ordinals that live and have a
 * vector, those below `covered` at least.
 * Errors: ERR_IO (the folder), ERR_NO_MEMORY, ERR_INVALID_ARGUMENT (the path), ERR_CONFIG (more
 * cold parts than there can be), ERR_DEAD (told to stop). */
MUST_CHECK enum err_code engine_verify(const char *dir, const struct engine_options *options,
                                       const struct engine_bitmap *living, struct scrub *scrub,
                                       struct engine_verified *out, struct err *err);

#endif
