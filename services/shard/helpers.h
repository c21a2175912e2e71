/* Threads that the indexer lends to the engines: see engine_executor.
 *
 * The caller takes part in the work itself, so that without helpers, without memory for them, or
 * while they are at another caller's work, everything still gets done.  Thread safe. */
#ifndef VICINAL_SHARD_HELPERS_H
#define VICINAL_SHARD_HELPERS_H

#include <stdint.h>

#include "common/base/env.h"
#include "common/base/err.h"
#include "engine/engine.h"

struct helpers;

/* count threads beside the caller's; 0 is fine.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code helpers_open(struct helpers **out, struct env *env, uint32_t count,
                                      struct err *err);
void helpers_close(struct helpers *helpers); /* while no work is under way; NULL is fine */

/* Borrowed until helpers_close. */
struct engine_executor helpers_executor(struct helpers *helpers);

#endif
