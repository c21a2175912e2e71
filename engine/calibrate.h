/* Which effort gives which recall: measured on each graph, so that a search may ask for a recall.
 * What was measured outlives the process as a file (calibrate_file.h).
 *
 * Effort is counted in units that mean about the same for every k: (ef - k) / sqrt(k), which is
 * what the slack of a walk is made of (plan.h). */
#ifndef VICINAL_ENGINE_CALIBRATE_H
#define VICINAL_ENGINE_CALIBRATE_H

#include "engine/internal.h"

enum {
    CALIBRATED_KS = 3, /* k = 1, 10, 100 */
    CALIBRATED_STEPS = 16,
};

/* Immutable once a graph points to it. */
struct calibration {
    uint32_t linked; /* slots that were in the graph */
    struct {
        uint32_t count;                 /* steps measured, at least 1 */
        float recall[CALIBRATED_STEPS]; /* ascending; of each step of the effort */
    } of[CALIBRATED_KS];
};

/* The graph has doubled since it was last measured, or never was and is no longer small. */
bool calibrate_is_due(const struct graph *graph);

uint64_t calibrate_bytes(const struct graph *graph); /* that its calibration takes */

/* Measure the engine's graph, and let searches know.  Seconds; on the thread that maintains, also
 * while others insert, delete, link and search.  Of one graph it finds the same each time.
 * Errors: ERR_DEAD (go_on), ERR_NO_MEMORY: what was known before is still there. */
MUST_CHECK enum err_code calibrate(struct engine *engine, const struct engine_hooks *hooks,
                                   struct err *err);

/* The ef that this recall, 0.5 to 1, needs; NULL: nothing is measured yet, a cautious guess. */
uint32_t calibrated_ef(const struct calibration *calibration, float recall, uint32_t k);

#endif
