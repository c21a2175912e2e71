/* From the graph to the cold parts, and from many parts to one: steps of engine_maintain(). */
#ifndef VICINAL_ENGINE_MIGRATE_H
#define VICINAL_ENGINE_MIGRATE_H

#include "engine/cold.h"
#include "engine/internal.h"

/* Does the graph hold more than cold_above?  Caller holds the write_lock, or is the maintainer. */
bool migrate_is_due(const struct engine *engine, const struct graph *graph);

/* The oldest become a cold part; the graph is built again of the others.  See engine_maintain(). */
MUST_CHECK enum err_code migrate(struct engine *engine, const struct engine_hooks *hooks,
                                 struct err *err);

/* Are there too many parts, or too many dead in one, and does the segment on the disk know them
 * all?  As above. */
bool merge_is_due(const struct engine *engine, const struct graph *graph);

/* Make those anew, as one part without the dead.  See engine_maintain(). */
MUST_CHECK enum err_code merge(struct engine *engine, const struct engine_hooks *hooks,
                               struct err *err);

/* Bytes of memory that so many cold vectors take. */
uint64_t migrate_predict(const struct engine_options *options, uint64_t n);

#endif
