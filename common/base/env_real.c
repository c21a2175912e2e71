/* The real world: see env.h.
 *
 * Deadlines are CLOCK_BOOTTIME, which goes on while the machine is suspended; condition variables
 * know CLOCK_MONOTONIC only, which does not.  A wait is therefore cut into slices of at most
 * WAIT_SLICE_NS, after each of which the boot clock is asked again: a deadline that passes during
 * a suspension is noticed that late at most.
 */
#include "common/base/env.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#define THREAD_NAME_BYTES 16
#define WAIT_SLICE_NS     (10 * NS_PER_S)

struct real_thread {
    struct env_thread base; /* first */
    pthread_t id;
    char name[THREAD_NAME_BYTES];
    env_thread_fn *fn;
    void *argument;
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    int code = clock_gettime(clock, &now);

    assert(code == 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

static uint64_t real_wall_us(struct env *env)
{
    (void)env;
    return clock_ns(CLOCK_REALTIME) / NS_PER_US;
}

static uint64_t real_boot_ns(struct env *env)
{
    (void)env;
    return clock_ns(CLOCK_BOOTTIME);
}

static enum err_code real_sleep_until(struct env *env, uint64_t boot_ns)
{
    struct timespec deadline = timespec_of(boot_ns);
    int code;

    (void)env;
    do
        code = clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &deadline, NULL);
    while (code == EINTR);
    assert(code == 0);
    return ERR_OK;
}

static void real_random(struct env *env, void *data, size_t len)
{
    uint8_t *p = data;

    (void)env;
    while (len > 0) {
        ssize_t got = getrandom(p, len, 0);

        /* Blocks until the pool is ready, and has no other way to fail than a signal. */
        if (got < 0 && errno == EINTR)
            continue;
        assert(got > 0);
        p += got;
        len -= (size_t)got;
    }
}

static enum err_code real_yield(struct env *env)
{
    (void)env;
    return ERR_OK;
}

static void real_cond_init(struct env *env, struct env_cond *cond)
{
    pthread_condattr_t attr;
    int code = pthread_condattr_init(&attr);

    (void)env;
    assert(code == 0);
    code = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    assert(code == 0);
    code = pthread_cond_init(&cond->real, &attr);
    assert(code == 0);
    pthread_condattr_destroy(&attr);
}

static void real_cond_free(struct env_cond *cond)
{
    int code = pthread_cond_destroy(&cond->real);

    assert(code == 0);
}

static enum err_code real_cond_wait(struct env_cond *cond, pthread_mutex_t *mutex, uint64_t boot_ns)
{
    int code;

    if (boot_ns == NEVER_NS) {
        code = pthread_cond_wait(&cond->real, mutex);
        assert(code == 0);
        return ERR_OK;
    }
    do {
        uint64_t now = clock_ns(CLOCK_BOOTTIME);
        uint64_t left = boot_ns > now ? boot_ns - now : 0;
        struct timespec until;

        if (left == 0)
            return ERR_TIMEOUT;
        if (left > WAIT_SLICE_NS)
            left = WAIT_SLICE_NS;
        until = timespec_of(clock_ns(CLOCK_MONOTONIC) + left);
        code = pthread_cond_timedwait(&cond->real, mutex, &until);
    } while (code == ETIMEDOUT);
    assert(code == 0);
    return ERR_OK;
}

static void real_cond_wake(struct env_cond *cond, bool all)
{
    int code = all ? pthread_cond_broadcast(&cond->real) : pthread_cond_signal(&cond->real);

    assert(code == 0);
}

static void *real_thread_main(void *argument)
{
    struct real_thread *thread = argument;

    /* A name is for people who look at the process; without it all works. */
    (void)pthread_setname_np(pthread_self(), thread->name);
    thread->fn(thread->argument);
    return NULL;
}

static enum err_code real_thread_start(struct env *env, struct env_thread **out, const char *name,
                                       env_thread_fn *fn, void *argument, struct err *err)
{
    struct real_thread *thread = calloc(1, sizeof(*thread));
    int code;

    (void)env;
    if (thread == NULL)
        return err_set(err, ERR_NO_MEMORY, "thread %s: no memory", name);
    (void)snprintf(thread->name, sizeof(thread->name), "%s", name);
    thread->fn = fn;
    thread->argument = argument;
    code = pthread_create(&thread->id, NULL, real_thread_main, thread);
    if (code != 0) {
        free(thread);
        /* EAGAIN: too many threads, or no memory for the stack. */
        return err_set(err, ERR_NO_MEMORY, "thread %s: cannot be started (error %d)", name, code);
    }
    *out = &thread->base;
    return ERR_OK;
}

static void real_thread_join(struct env_thread *base)
{
    struct real_thread *thread = (struct real_thread *)base;
    int code = pthread_join(thread->id, NULL);

    assert(code == 0);
    free(thread);
}

static const struct env_ops real_ops = {
    .wall_us = real_wall_us,
    .boot_ns = real_boot_ns,
    .sleep_until = real_sleep_until,
    .random = real_random,
    .yield = real_yield,
    .cond_init = real_cond_init,
    .cond_free = real_cond_free,
    .cond_wait = real_cond_wait,
    .cond_wake = real_cond_wake,
    .thread_start = real_thread_start,
    .thread_join = real_thread_join,
};

struct env *env_real(void)
{
    static struct env real = {.ops = &real_ops};

    return &real;
}
