/* The front of every environment: see env.h.  Contracts are checked here, once for the real world
 * and for the simulation. */
#include "common/base/env.h"

#include <assert.h>

uint64_t env_wall_us(struct env *env)
{
    return env->ops->wall_us(env);
}

uint64_t env_boot_ns(struct env *env)
{
    return env->ops->boot_ns(env);
}

enum err_code env_sleep_until(struct env *env, uint64_t boot_ns)
{
    enum err_code code = env->ops->sleep_until(env, boot_ns);

    assert(code == ERR_OK || code == ERR_DEAD);
    return code;
}

void env_random(struct env *env, void *data, size_t len)
{
    if (len > 0)
        env->ops->random(env, data, len);
}

enum err_code env_yield(struct env *env)
{
    enum err_code code = env->ops->yield(env);

    assert(code == ERR_OK || code == ERR_DEAD);
    return code;
}

void env_cond_init(struct env *env, struct env_cond *cond)
{
    assert(env != NULL);
    *cond = (struct env_cond){.env = env};
    env->ops->cond_init(env, cond);
}

void env_cond_free(struct env_cond *cond)
{
    if (cond->env == NULL)
        return;
    cond->env->ops->cond_free(cond);
    cond->env = NULL;
}

enum err_code env_cond_wait(struct env_cond *cond, pthread_mutex_t *mutex, uint64_t boot_ns)
{
    enum err_code code;

    assert(cond->env != NULL);
    code = cond->env->ops->cond_wait(cond, mutex, boot_ns);
    assert(code == ERR_OK || code == ERR_TIMEOUT || code == ERR_DEAD);
    return code;
}

void env_cond_signal(struct env_cond *cond)
{
    assert(cond->env != NULL);
    cond->env->ops->cond_wake(cond, false);
}

void env_cond_broadcast(struct env_cond *cond)
{
    assert(cond->env != NULL);
    cond->env->ops->cond_wake(cond, true);
}

enum err_code env_thread_start(struct env *env, struct env_thread **out, const char *name,
                               env_thread_fn *fn, void *argument, struct err *err)
{
    enum err_code code;

    assert(name != NULL);
    assert(fn != NULL);
    *out = NULL;
    code = env->ops->thread_start(env, out, name, fn, argument, err);
    assert((code == ERR_OK) == (*out != NULL));
    if (code == ERR_OK)
        (*out)->env = env;
    return code;
}

void env_thread_join(struct env_thread *thread)
{
    if (thread == NULL)
        return;
    assert(thread->env != NULL);
    thread->env->ops->thread_join(thread);
}
