/* Lent threads: see helpers.h.
 *
 * A piece of work is a job and a number of indices.  The caller announces it, helpers and caller
 * take indices from a counter until there are none, and the caller waits for the helpers that are
 * still at theirs.  Waking a thread costs some microseconds: a single index is not announced.
 *
 * The indexer links one collection while the maintainer may link what is left of another: who comes
 * second does its work alone. */
#include "services/shard/helpers.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/base/checked.h"

#define HELPERS_MAX 63u

struct helpers {
    struct env *env;
    uint32_t thread_count;
    struct env_thread *threads[HELPERS_MAX];
    atomic_size_t next; /* index to be taken */
    pthread_mutex_t lock;
    struct env_cond announced; /* there is work, or the end */
    struct env_cond finished;  /* a helper has left the work */
    /* below: guarded by lock */
    bool is_stopping;
    bool is_lent;    /* to a caller whose work is under way */
    uint64_t works;  /* announced so far */
    uint32_t inside; /* helpers at the present work */
    void (*job)(void *argument, size_t index);
    void *argument;
    size_t count;
};

static void take_part(struct helpers *helpers, void (*job)(void *argument, size_t index),
                      void *argument, size_t count)
{
    for (;;) {
        /* Relaxed: the lock orders what the job reads and writes. */
        size_t index = atomic_fetch_add_explicit(&helpers->next, 1, memory_order_relaxed);

        if (index >= count)
            return;
        job(argument, index);
    }
}

static void help(void *state)
{
    struct helpers *helpers = state;
    uint64_t done = 0;

    pthread_mutex_lock(&helpers->lock);
    while (!helpers->is_stopping) {
        void (*job)(void *argument, size_t index) = helpers->job;
        void *argument = helpers->argument;
        size_t count = helpers->count;

        if (helpers->works == done || job == NULL) {
            done = helpers->works;
            if (env_cond_wait(&helpers->announced, &helpers->lock, NEVER_NS) == ERR_DEAD)
                break;
            continue;
        }
        done = helpers->works;
        helpers->inside++;
        pthread_mutex_unlock(&helpers->lock);
        take_part(helpers, job, argument, count);
        pthread_mutex_lock(&helpers->lock);
        if (--helpers->inside == 0)
            env_cond_signal(&helpers->finished);
    }
    pthread_mutex_unlock(&helpers->lock);
}

/* Are they the caller's until give_back? */
static bool borrow(struct helpers *helpers)
{
    bool is_ours;

    pthread_mutex_lock(&helpers->lock);
    is_ours = !helpers->is_lent;
    helpers->is_lent = true;
    pthread_mutex_unlock(&helpers->lock);
    return is_ours;
}

static void announce(struct helpers *helpers, void (*job)(void *argument, size_t index),
                     void *argument, size_t count)
{
    pthread_mutex_lock(&helpers->lock);
    assert(helpers->job == NULL && helpers->inside == 0);
    atomic_store_explicit(&helpers->next, 0, memory_order_relaxed);
    helpers->job = job;
    helpers->argument = argument;
    helpers->count = count;
    helpers->works++;
    env_cond_broadcast(&helpers->announced);
    pthread_mutex_unlock(&helpers->lock);
}

/* When all have left the work. */
static void give_back(struct helpers *helpers)
{
    pthread_mutex_lock(&helpers->lock);
    helpers->job = NULL;
    /* Jobs end by themselves, also on a dead node, where no wait blocks. */
    while (helpers->inside > 0)
        (void)!env_cond_wait(&helpers->finished, &helpers->lock, NEVER_NS);
    helpers->is_lent = false;
    pthread_mutex_unlock(&helpers->lock);
}

static void run(void *state, void (*job)(void *argument, size_t index), void *argument,
                size_t count)
{
    struct helpers *helpers = state;

    if (count < 2 || helpers->thread_count == 0 || !borrow(helpers)) {
        for (size_t i = 0; i < count; i++)
            job(argument, i);
        return;
    }
    announce(helpers, job, argument, count);
    take_part(helpers, job, argument, count);
    give_back(helpers);
}

struct engine_executor helpers_executor(struct helpers *helpers)
{
    return (struct engine_executor){.run = run, .state = helpers};
}

enum err_code helpers_open(struct helpers **out, struct env *env, uint32_t count, struct err *err)
{
    struct helpers *helpers = array_alloc(1, sizeof(*helpers));
    enum err_code code = ERR_OK;

    *out = NULL;
    if (helpers == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for helpers");
    helpers->env = env;
    pthread_mutex_init(&helpers->lock, NULL);
    env_cond_init(env, &helpers->announced);
    env_cond_init(env, &helpers->finished);
    atomic_init(&helpers->next, 0);
    while (code == ERR_OK && helpers->thread_count < MIN_OF(count, HELPERS_MAX)) {
        code = env_thread_start(env, &helpers->threads[helpers->thread_count], "link", help,
                                helpers, err);
        helpers->thread_count += code == ERR_OK;
    }
    if (code != ERR_OK) {
        helpers_close(helpers);
        return code;
    }
    *out = helpers;
    return ERR_OK;
}

void helpers_close(struct helpers *helpers)
{
    if (helpers == NULL)
        return;
    pthread_mutex_lock(&helpers->lock);
    helpers->is_stopping = true;
    env_cond_broadcast(&helpers->announced);
    pthread_mutex_unlock(&helpers->lock);
    for (uint32_t i = 0; i < helpers->thread_count; i++)
        env_thread_join(helpers->threads[i]);
    env_cond_free(&helpers->announced);
    env_cond_free(&helpers->finished);
    pthread_mutex_destroy(&helpers->lock);
    free(helpers);
}
