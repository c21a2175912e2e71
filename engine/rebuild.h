/* A new graph without the dead, or without what becomes cold, in place of the old one. */
#ifndef VICINAL_ENGINE_REBUILD_H
#define VICINAL_ENGINE_REBUILD_H

#include "engine/cold.h"
#include "engine/internal.h"

/* Are so many dead that it is worth it? */
bool rebuild_is_due(const struct graph *graph);

/* See engine_maintain().  colds: NULL, or the parts of the new graph, which are those of the old
 * one and one more that holds what lived below its end: the new graph begins there.  After ERR_OK
 * they are the graph's, and the list that was there before is gone. */
MUST_CHECK enum err_code rebuild(struct engine *engine, struct colds *colds,
                                 const struct engine_hooks *hooks, struct err *err);

#endif
