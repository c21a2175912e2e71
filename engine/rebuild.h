/* A new graph without the dead, in place of the old one. */
#ifndef VICINAL_ENGINE_REBUILD_H
#define VICINAL_ENGINE_REBUILD_H

#include "engine/internal.h"

/* Are so many dead that it is worth it? */
bool rebuild_is_due(const struct graph *graph);

/* See engine_maintain(). */
MUST_CHECK enum err_code rebuild(struct engine *engine, const struct engine_hooks *hooks,
                                 struct err *err);

#endif
