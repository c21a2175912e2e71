/* The outside world as the cores see it: clocks, chance, sleeping, waiting, threads.
 *
 * Everything that can block goes through here (or through a back end's interface), so that a
 * simulation can run many services in one process, hand out time, and make a node die at any of
 * these calls.  Plain pthread mutexes are used for short sections; none is held across a call that
 * can block, except that env_cond_wait gives up the mutex it is given while it waits.
 *
 * A dead node's calls return ERR_DEAD at once (in the real world: never); threads then unwind.
 */
#ifndef VICINAL_BASE_ENV_H
#define VICINAL_BASE_ENV_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull
#define NEVER_NS  UINT64_MAX /* a deadline that does not come */

struct env;

/* Every env's own thread struct starts with this one, so that env_thread_join finds the way back;
 * env_thread_start fills it. */
struct env_thread {
    struct env *env;
};

/* Condition: initialise with env_cond_init, use only with the env that made it. */
struct env_cond {
    struct env *env;
    pthread_cond_t real;
    uint64_t waiters; /* for the simulation */
    void *state;
};

typedef void env_thread_fn(void *argument);

struct env_ops {
    uint64_t (*wall_us)(struct env *env);
    uint64_t (*boot_ns)(struct env *env);
    enum err_code (*sleep_until)(struct env *env, uint64_t boot_ns);
    void (*random)(struct env *env, void *data, size_t len);
    enum err_code (*yield)(struct env *env);
    void (*cond_init)(struct env *env, struct env_cond *cond);
    void (*cond_free)(struct env_cond *cond);
    enum err_code (*cond_wait)(struct env_cond *cond, pthread_mutex_t *mutex, uint64_t boot_ns);
    void (*cond_wake)(struct env_cond *cond, bool all);
    enum err_code (*thread_start)(struct env *env, struct env_thread **out, const char *name,
                                  env_thread_fn *fn, void *argument, struct err *err);
    void (*thread_join)(struct env_thread *thread);
};

struct env {
    const struct env_ops *ops;
};

/* The real world; static, never freed. */
struct env *env_real(void);

/* CLOCK_REALTIME in microseconds: may step, for stamps only. */
uint64_t env_wall_us(struct env *env);

/* CLOCK_BOOTTIME in nanoseconds: for every deadline, interval and staleness. */
uint64_t env_boot_ns(struct env *env);

/* Sleep until that boot time.  Errors: ERR_DEAD. */
MUST_CHECK enum err_code env_sleep_until(struct env *env, uint64_t boot_ns);

/* Unpredictable bytes (in a simulation: seeded). */
void env_random(struct env *env, void *data, size_t len);

/* A place where another thread may run or the node may die; costs nothing in the real world.
 * Errors: ERR_DEAD. */
MUST_CHECK enum err_code env_yield(struct env *env);

void env_cond_init(struct env *env, struct env_cond *cond);
void env_cond_free(struct env_cond *cond);

/* Caller holds mutex; it is given up while waiting and held again at return, whatever the code.
 * May return ERR_OK without a wake: test the condition in a loop.
 * Errors: ERR_TIMEOUT (boot_ns has come), ERR_DEAD. */
MUST_CHECK enum err_code env_cond_wait(struct env_cond *cond, pthread_mutex_t *mutex,
                                       uint64_t boot_ns);
void env_cond_signal(struct env_cond *cond);
void env_cond_broadcast(struct env_cond *cond);

/* name: at most 15 bytes are shown.  The thread must be joined.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code env_thread_start(struct env *env, struct env_thread **out,
                                          const char *name, env_thread_fn *fn, void *argument,
                                          struct err *err);
void env_thread_join(struct env_thread *thread); /* frees it; NULL is fine */

#endif
