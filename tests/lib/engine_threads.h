/* An executor for the engine's tests: as many threads as its state says, started for each run of
 * jobs, which they take from the last one on, to mix the order. */
#ifndef VICINAL_TESTS_LIB_ENGINE_THREADS_H
#define VICINAL_TESTS_LIB_ENGINE_THREADS_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "engine/engine.h"

enum { THREADS_EXECUTOR_MAX = 8 };

struct threads_crew {
    void (*job)(void *argument, size_t index);
    void *argument;
    size_t count;
    _Atomic size_t next;
};

static inline void *threads_work(void *argument)
{
    struct threads_crew *crew = argument;

    for (;;) {
        size_t index = atomic_fetch_add_explicit(&crew->next, 1, memory_order_relaxed);

        if (index >= crew->count)
            return NULL;
        crew->job(crew->argument, crew->count - 1 - index);
    }
}

static inline void threads_run(void *state, void (*job)(void *argument, size_t index),
                               void *argument, size_t count)
{
    struct threads_crew crew = {.job = job, .argument = argument, .count = count};
    const uint32_t *threads = state;
    pthread_t started[THREADS_EXECUTOR_MAX];

    assert(*threads <= THREADS_EXECUTOR_MAX);
    for (uint32_t i = 0; i < *threads; i++)
        if (pthread_create(&started[i], NULL, threads_work, &crew) != 0)
            assert(!"a thread starts");
    for (uint32_t i = 0; i < *threads; i++)
        if (pthread_join(started[i], NULL) != 0)
            assert(!"a thread ends");
}

/* threads: 1..THREADS_EXECUTOR_MAX; borrowed. */
static inline struct engine_executor threads_executor(uint32_t *threads)
{
    return (struct engine_executor){.run = threads_run, .state = threads};
}

#endif
