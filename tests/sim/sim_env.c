/* The env of a node: its clocks, its waits, its threads, its death.
 *
 * A node's boot clock is the world's time with a base and a drift of its own, less the time for
 * which its clocks stood still; its wall clock is skewed besides.  A node's death wakes all its
 * waits with ERR_DEAD; from then on its env calls return ERR_DEAD at once, yet hand the baton on,
 * so that a thread that waits for another one's end lets it end. */
#include <assert.h>
#include <stdlib.h>

#include "tests/sim/sim.h"

#define EPOCH_US   1700000000000000ull
#define FAR_NS     (1ull << 42) /* over an hour: as good as never */
#define DRIFT_UNIT 1000000

/* --- clocks ---------------------------------------------------------------------------------- */

static uint64_t boot_of(const struct sim_node *node)
{
    uint64_t now = node->freezing ? node->paused_at_ns : node->sim->now_ns;
    uint64_t lived = now - node->frozen_ns;

    return node->boot_base_ns + lived / DRIFT_UNIT * (uint64_t)(DRIFT_UNIT + node->drift_ppm) +
           lived % DRIFT_UNIT * (uint64_t)(DRIFT_UNIT + node->drift_ppm) / DRIFT_UNIT;
}

/* When the node's boot clock will show that, in the world's time; NEVER_NS: not to be seen. */
uint64_t sim_world_time_of(const struct sim_node *node, uint64_t boot_ns)
{
    uint64_t lived, rate = (uint64_t)(DRIFT_UNIT + node->drift_ppm);

    if (boot_ns == NEVER_NS || boot_ns > node->boot_base_ns + FAR_NS)
        return NEVER_NS;
    lived = boot_ns <= node->boot_base_ns ? 0 : boot_ns - node->boot_base_ns;
    lived = lived / rate * DRIFT_UNIT + (lived % rate * DRIFT_UNIT + rate - 1) / rate + 1;
    return lived + node->frozen_ns;
}

void sim_pause(struct sim_node *node, uint64_t ns, bool freezing)
{
    struct sim *sim = node->sim;

    if (node->paused)
        return;
    node->paused = true;
    node->paused_at_ns = sim->now_ns;
    node->resume_ns = sim->now_ns + ns;
    node->freezing = freezing;
    if (freezing)
        sim_retime(node);
    sim->counts.pauses++;
    sim->counts.frozen += freezing;
    sim_note(sim, "%s stands still for %.3f s%s", node->name, (double)ns / 1e9,
             freezing ? ", its clocks too" : "");
}

void sim_resume(struct sim_node *node)
{
    uint64_t lost = node->sim->now_ns - node->paused_at_ns;

    if (!node->paused)
        return;
    node->paused = false;
    if (!node->freezing)
        return;
    node->frozen_ns += lost;
    node->skew_us -= (int64_t)(lost / NS_PER_US);
    node->freezing = false;
    sim_retime(node);
}

/* --- the env --------------------------------------------------------------------------------- */

static struct sim_life *life_of(const struct env *env)
{
    return (struct sim_life *)env;
}

struct sim_node *sim_node_of(struct env *env)
{
    return life_of(env)->node;
}

bool sim_env_is_dead(const struct env *env)
{
    return life_of(env)->dead;
}

static uint64_t sim_wall_us(struct env *env)
{
    struct sim_node *node = sim_node_of(env);
    uint64_t now = node->freezing ? node->paused_at_ns : node->sim->now_ns;

    return (uint64_t)((int64_t)(EPOCH_US + now / NS_PER_US) + node->skew_us);
}

static uint64_t sim_boot_ns(struct env *env)
{
    return boot_of(sim_node_of(env));
}

static void sim_random_bytes(struct env *env, void *data, size_t len)
{
    struct sim *sim = sim_node_of(env)->sim;
    uint8_t *bytes = data;

    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(sim_random(sim) >> 24);
}

void sim_kill(struct sim_node *node)
{
    struct sim *sim = node->sim;

    if (node->life->dead)
        return;
    node->life->dead = true;
    node->serving = false;
    node->crash_in = 0;
    sim_resume(node);
    sim->counts.crashes++;
    sim_note(sim, "%s dies in thread %s", node->name, sim->current->name);
    for (struct sim_thread *thread = sim->threads; thread != NULL; thread = thread->next)
        if (thread->state == SIM_BLOCKED && thread->judge == node)
            sim_ready(thread, ERR_DEAD);
    sim_wake(sim, node, true); /* the supervisor */
}

enum err_code sim_touch(struct env *env)
{
    struct sim_life *life = life_of(env);
    struct sim_node *node = life->node;

    if (!life->dead && node->life == life && node->crash_in > 0 && --node->crash_in == 0)
        sim_kill(node);
    return life->dead ? ERR_DEAD : ERR_OK;
}

enum err_code sim_wait(struct env *env, const void *channel, uint64_t until_ns)
{
    struct sim *sim = sim_node_of(env)->sim;
    enum err_code code = sim_touch(env);

    if (code != ERR_OK) {
        sim_switch(sim);
        return code;
    }
    /* The deadline of a dead env of the same node cannot come here: that wait ended above. */
    code = sim_block(sim_node_of(env), channel, until_ns);
    return life_of(env)->dead ? ERR_DEAD : code;
}

static enum err_code sim_sleep_until(struct env *env, uint64_t boot_ns)
{
    enum err_code code = sim_wait(env, NULL, boot_ns);

    return code == ERR_DEAD ? ERR_DEAD : ERR_OK;
}

enum err_code sim_pass(struct env *env, uint64_t ns)
{
    return sim_sleep_until(env, sim_boot_ns(env) + ns);
}

void sim_world_sleep(struct sim *sim, uint64_t ns)
{
    enum err_code code = sim_pass(&sim->world.env, ns);

    assert(code == ERR_OK);
}

static enum err_code sim_yield(struct env *env)
{
    struct sim *sim = sim_node_of(env)->sim;
    enum err_code code = sim_touch(env);
    uint64_t chance = sim_below(sim, 16);

    if (code == ERR_OK && chance == 0)
        return sim_pass(env, sim_below(sim, 100 * NS_PER_US));
    if (code != ERR_OK || chance < 8)
        sim_switch(sim);
    return life_of(env)->dead ? ERR_DEAD : ERR_OK;
}

static void sim_cond_init(struct env *env, struct env_cond *cond)
{
    (void)env;
    (void)cond;
}

static void sim_cond_free(struct env_cond *cond)
{
    assert(!sim_is_awaited(sim_node_of(cond->env)->sim, cond));
}

static enum err_code sim_cond_wait(struct env_cond *cond, pthread_mutex_t *mutex, uint64_t boot_ns)
{
    struct sim *sim = sim_node_of(cond->env)->sim;
    enum err_code code;

    pthread_mutex_unlock(mutex);
    if (sim_below(sim, 64) == 0 && sim_touch(cond->env) == ERR_OK) {
        sim_switch(sim); /* awake without a reason */
        code = sim_env_is_dead(cond->env) ? ERR_DEAD : ERR_OK;
    } else {
        code = sim_wait(cond->env, cond, boot_ns);
    }
    /* Who goes on waiting all the same, because another thread has what is its own, lets that end.
     */
    if (code == ERR_DEAD)
        sim_switch(sim);
    pthread_mutex_lock(mutex);
    return code;
}

static void sim_cond_wake(struct env_cond *cond, bool all)
{
    sim_wake(sim_node_of(cond->env)->sim, cond, all);
}

static enum err_code sim_thread_start(struct env *env, struct env_thread **out, const char *name,
                                      env_thread_fn *fn, void *argument, struct err *err)
{
    struct sim_node *node = sim_node_of(env);
    enum err_code code = sim_touch(env);

    if (code != ERR_OK)
        return err_set(err, ERR_DEAD, "thread %s: the node is dead", name);
    *out = &sim_thread_new(node->sim, node, name, fn, argument)->base;
    return ERR_OK;
}

static void sim_thread_join(struct env_thread *base)
{
    struct sim_thread *thread = (struct sim_thread *)base;
    struct sim *sim = thread->sim;

    while (thread->state != SIM_ENDED)
        (void)!sim_block(&sim->world_node, thread, NEVER_NS);
    sim_thread_free(thread);
}

const struct env_ops sim_env_ops = {
    .wall_us = sim_wall_us,
    .boot_ns = sim_boot_ns,
    .sleep_until = sim_sleep_until,
    .random = sim_random_bytes,
    .yield = sim_yield,
    .cond_init = sim_cond_init,
    .cond_free = sim_cond_free,
    .cond_wait = sim_cond_wait,
    .cond_wake = sim_cond_wake,
    .thread_start = sim_thread_start,
    .thread_join = sim_thread_join,
};

struct sim_life *sim_life_new(struct sim_node *node)
{
    struct sim_life *life = calloc(1, sizeof(*life));

    if (life == NULL)
        abort();
    *life = (struct sim_life){.env.ops = &sim_env_ops, .node = node, .before = node->life};
    node->life = life;
    return life;
}
