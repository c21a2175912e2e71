/* The real world's env with clocks that run faster than ours, by a factor, and can be put forward:
 * what takes an hour ends in seconds.  Everything that waits is given the same time. */
#ifndef VICINAL_TESTS_FAST_ENV_H
#define VICINAL_TESTS_FAST_ENV_H

#include <stdatomic.h>

#include "common/base/env.h"

static struct {
    struct env env;
    struct env_ops ops;
    uint64_t speed;
    uint64_t began_ns, wall_us; /* of ours */
    _Atomic uint64_t skipped_ns;
} fast;

static uint64_t fast_boot_ns(struct env *env)
{
    (void)env;
    return fast.began_ns + (env_boot_ns(env_real()) - fast.began_ns) * fast.speed +
           atomic_load(&fast.skipped_ns);
}

static uint64_t fast_wall_us(struct env *env)
{
    return fast.wall_us + (fast_boot_ns(env) - fast.began_ns) / NS_PER_US;
}

static uint64_t fast_to_real(uint64_t boot_ns)
{
    uint64_t now = fast_boot_ns(NULL), real = env_boot_ns(env_real());

    if (boot_ns == NEVER_NS)
        return NEVER_NS;
    return boot_ns <= now ? real : real + (boot_ns - now) / fast.speed + 1;
}

static enum err_code fast_wait(struct env_cond *cond, pthread_mutex_t *mutex, uint64_t boot_ns)
{
    enum err_code rc = env_real()->ops->cond_wait(cond, mutex, fast_to_real(boot_ns));

    return rc == ERR_TIMEOUT && fast_boot_ns(NULL) < boot_ns ? ERR_OK : rc;
}

static enum err_code fast_sleep(struct env *env, uint64_t boot_ns)
{
    (void)env;
    return env_sleep_until(env_real(), fast_to_real(boot_ns));
}

static inline void fast_begin(unsigned speed)
{
    fast.ops = *env_real()->ops;
    fast.ops.boot_ns = fast_boot_ns;
    fast.ops.wall_us = fast_wall_us;
    fast.ops.cond_wait = fast_wait;
    fast.ops.sleep_until = fast_sleep;
    fast.env.ops = &fast.ops;
    fast.speed = speed;
    fast.began_ns = env_boot_ns(env_real());
    fast.wall_us = env_wall_us(env_real());
}

/* Both clocks at once. */
static inline void fast_skip(uint64_t ns)
{
    atomic_fetch_add(&fast.skipped_ns, ns);
}

#endif
