/* What outlives a process: the segment in the engine's folder, written now and then, what was
 * measured on its graph, and the files of the cold parts (cold.h). */
#ifndef VICINAL_ENGINE_KEEPER_H
#define VICINAL_ENGINE_KEEPER_H

#include "engine/internal.h"

/* Names of files. */
#define KEEPER_SEGMENT     "graph.seg"
#define KEEPER_CALIBRATION "graph.cal" /* not longer */

/* Make the folder, load the segment that is there into the engine's empty graph, and the cold parts
 * that come before it, or set it aside.
 * Errors: ERR_NO_MEMORY, ERR_IO, ERR_INSUFFICIENT_STORAGE (over the budget). */
MUST_CHECK enum err_code keeper_open(struct engine *engine, const char *dir, struct err *err);

/* All may be asked of NULL, an engine that keeps nothing. */
void keeper_close(struct keeper *keeper);
uint32_t keeper_covered(const struct keeper *keeper);
uint64_t keeper_bytes(const struct keeper *keeper); /* of memory */

/* Where the vectors begin that the segment stands for. */
uint32_t keeper_floor(const struct keeper *keeper);

/* A number for the file of a new cold part, which nobody else gets; and its name.  Not of NULL. */
uint32_t keeper_next_cold(struct keeper *keeper);
MUST_CHECK bool keeper_cold_path(const struct keeper *keeper, uint32_t number, char *out,
                                 size_t size);

/* Does the graph begin elsewhere than the segment? */
bool keeper_is_behind(const struct keeper *keeper, const struct graph *graph);

/* Has the graph grown so much that it should be written again, or is the segment behind? */
bool keeper_is_due(const struct keeper *keeper, const struct graph *graph);

/* See engine_rest(). */
void keeper_rest(struct keeper *keeper, const struct graph *graph);

/* Write it: see engine_maintain(). */
MUST_CHECK enum err_code keeper_seal(struct engine *engine, const struct engine_hooks *hooks,
                                     struct err *err);

/* Is there a calibration of the graph that is not in the folder, beside the segment? */
bool keeper_lacks_calibration(const struct keeper *keeper, const struct graph *graph);

/* Write it.  Errors: ERR_IO, ERR_INSUFFICIENT_STORAGE. */
MUST_CHECK enum err_code keeper_keep_calibration(struct engine *engine, struct err *err);

/* The graph is another one: nothing of it is written. */
void keeper_forget(struct keeper *keeper);

#endif
