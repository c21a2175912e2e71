/* An executor for engines (engine.h) of so many threads, started anew for each run of jobs: batches
 * take long.  State: a pointer to their number, at most CREW_MAX; fewer do the work if the system
 * gives no more. */
#ifndef VICINAL_BENCH_CREW_H
#define VICINAL_BENCH_CREW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { CREW_MAX = 64 };

struct crew {
    void (*job)(void *, size_t);
    void *argument;
    size_t count;
    _Atomic size_t next;
};

static inline void *crew_work(void *argument)
{
    struct crew *crew = argument;

    for (;;) {
        size_t index = atomic_fetch_add_explicit(&crew->next, 1, memory_order_relaxed);
        if (index >= crew->count)
            return NULL;
        crew->job(crew->argument, index);
    }
}

static inline void crew_run(void *state, void (*job)(void *, size_t), void *argument, size_t count)
{
    const uint32_t *wanted = state;
    struct crew crew = {.job = job, .argument = argument, .count = count};
    pthread_t threads[CREW_MAX];
    uint32_t started = 0;

    for (; started + 1 < *wanted && started + 1 < count; started++)
        if (pthread_create(&threads[started], NULL, crew_work, &crew) != 0)
            break;
    (void)crew_work(&crew);
    for (uint32_t i = 0; i < started; i++)
        (void)pthread_join(threads[i], NULL);
}

#endif
