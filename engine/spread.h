/* Work in equal shares over borrowed threads, or on the caller's own. */
#ifndef VICINAL_ENGINE_SPREAD_H
#define VICINAL_ENGINE_SPREAD_H

#include "engine/engine.h"

static inline void spread(const struct engine_executor *executor,
                          void (*job)(void *argument, size_t index), void *argument, size_t count)
{
    if (executor != NULL && executor->run != NULL && count > 1) {
        executor->run(executor->state, job, argument, count);
        return;
    }
    for (size_t i = 0; i < count; i++)
        job(argument, i);
}

#endif
