/* Threads, time, chance and the trace.
 *
 * Every simulated thread is a real one that waits for its baton.  Who gives the baton away picks
 * the next among those that can run, by chance from the seed.  When nobody can run, time jumps to
 * the next deadline.  What a node's threads see of all this is in sim_env.c. */
#include <assert.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/hash.h"
#include "tests/sim/sim.h"

static __thread struct sim_thread *self;

/* --- chance ---------------------------------------------------------------------------------- */

uint64_t sim_random(struct sim *sim)
{
    /* xorshift128+ */
    uint64_t x = sim->random[0], y = sim->random[1];

    sim->random[0] = y;
    x ^= x << 23;
    sim->random[1] = x ^ y ^ (x >> 17) ^ (y >> 26);
    return sim->random[1] + y;
}

uint64_t sim_below(struct sim *sim, uint64_t bound)
{
    return bound == 0 ? 0 : sim_random(sim) % bound;
}

bool sim_percent(struct sim *sim, uint32_t percent)
{
    return percent > 0 && sim_below(sim, 100) < percent;
}

uint64_t sim_delay(struct sim *sim, uint64_t low, uint64_t high)
{
    uint64_t span = high > low ? high - low : 0;

    if (sim_below(sim, 8) != 0)
        span /= 16;
    return low + sim_below(sim, span + 1);
}

/* --- the trace ------------------------------------------------------------------------------- */

static void mix(struct sim *sim, uint64_t value)
{
    sim->hash = (sim->hash ^ value) * 0x9e3779b97f4a7c15ull;
    sim->hash ^= sim->hash >> 29;
}

void sim_note(struct sim *sim, const char *format, ...)
{
    char *line = sim->trace[sim->trace_count++ % SIM_TRACE_LINES];
    int used = snprintf(line, SIM_TRACE_BYTES, "%10.6f ", (double)sim->now_ns / 1e9);
    va_list args;

    va_start(args, format);
    (void)vsnprintf(line + used, SIM_TRACE_BYTES - (size_t)used, format, args);
    va_end(args);
    mix(sim, hash_xxh64(line, strlen(line), 0));
    if (sim->options.verbose)
        printf("%s\n", line);
}

void sim_fail(struct sim *sim, const char *format, ...)
{
    uint64_t first = sim->trace_count > SIM_TRACE_LINES ? sim->trace_count - SIM_TRACE_LINES : 0;
    va_list args;

    printf("seed %llu failed at %.6f s: ", (unsigned long long)sim->options.seed,
           (double)sim->now_ns / 1e9);
    va_start(args, format);
    (void)vprintf(format, args);
    va_end(args);
    printf("\n");
    for (uint64_t i = first; i < sim->trace_count; i++)
        printf("  %s\n", sim->trace[i % SIM_TRACE_LINES]);
    (void)fflush(stdout);
    _exit(1);
}

/* --- the baton ------------------------------------------------------------------------------- */

void sim_ready(struct sim_thread *thread, enum err_code woken)
{
    struct sim *sim = thread->sim;

    assert(thread->state == SIM_BLOCKED);
    thread->state = SIM_READY;
    thread->woken = woken;
    thread->channel = NULL;
    assert(sim->ready_count < sizeof(sim->ready) / sizeof(sim->ready[0]));
    sim->ready[sim->ready_count++] = thread;
}

static bool stands_still(const struct sim_thread *thread)
{
    return thread->node != NULL && thread->node->paused;
}

/* One of those that can run; NULL: none can. */
static struct sim_thread *pick(struct sim *sim)
{
    size_t able = 0, chosen;

    for (size_t i = 0; i < sim->ready_count; i++)
        able += !stands_still(sim->ready[i]);
    if (able == 0)
        return NULL;
    chosen = (size_t)sim_below(sim, able);
    for (size_t i = 0; i < sim->ready_count; i++) {
        struct sim_thread *thread = sim->ready[i];

        if (stands_still(thread) || chosen-- > 0)
            continue;
        sim->ready[i] = sim->ready[--sim->ready_count];
        return thread;
    }
    return NULL;
}

static uint64_t due_of(const struct sim_thread *thread)
{
    if (thread->state != SIM_BLOCKED || thread->judge->freezing)
        return NEVER_NS;
    return sim_world_time_of(thread->judge, thread->until_ns);
}

/* Nobody can run: on to the next moment at which someone can. */
static void advance(struct sim *sim)
{
    uint64_t next = NEVER_NS;

    for (struct sim_thread *thread = sim->threads; thread != NULL; thread = thread->next) {
        uint64_t due = due_of(thread);

        next = due < next ? due : next;
    }
    for (uint32_t i = 0; i < sim->node_count; i++)
        if (sim->nodes[i].paused && sim->nodes[i].resume_ns < next)
            next = sim->nodes[i].resume_ns;
    if (next == NEVER_NS)
        sim_fail(sim, "nobody can run, and nothing is to come");
    if (next > sim->now_ns)
        sim->now_ns = next;
    for (uint32_t i = 0; i < sim->node_count; i++)
        if (sim->nodes[i].paused && sim->nodes[i].resume_ns <= sim->now_ns)
            sim_resume(&sim->nodes[i]);
    for (struct sim_thread *thread = sim->threads; thread != NULL; thread = thread->next)
        if (due_of(thread) <= sim->now_ns)
            sim_ready(thread, ERR_TIMEOUT);
}

/* Give the baton to the next; returns when it has come back.  The caller is ready or blocked, or
 * has ended and does not come back. */
static void hand_on(struct sim *sim)
{
    struct sim_thread *me = self, *next;
    bool ended = me->state == SIM_ENDED; /* then its memory may be gone soon */

    while ((next = pick(sim)) == NULL)
        advance(sim);
    sim->counts.switches++;
    mix(sim, sim->now_ns ^ next->number);
    sim->current = next;
    if (next == me)
        return;
    sem_post(&next->baton);
    if (ended)
        return;
    while (sem_wait(&me->baton) != 0)
        continue;
}

void sim_switch(struct sim *sim)
{
    struct sim_thread *me = self;

    assert(me->sim == sim && sim->current == me);
    assert(sim->ready_count < sizeof(sim->ready) / sizeof(sim->ready[0]));
    sim->ready[sim->ready_count++] = me;
    hand_on(sim);
}

enum err_code sim_block(struct sim_node *judge, const void *channel, uint64_t until_ns)
{
    struct sim_thread *me = self;

    me->state = SIM_BLOCKED;
    me->judge = judge;
    me->channel = channel;
    me->until_ns = until_ns;
    hand_on(me->sim);
    assert(me->state == SIM_READY);
    return me->woken;
}

void sim_wake(struct sim *sim, const void *channel, bool all)
{
    struct sim_thread *waiting[64];
    size_t count = 0;

    for (struct sim_thread *thread = sim->threads; thread != NULL; thread = thread->next) {
        if (thread->state != SIM_BLOCKED || thread->channel != channel)
            continue;
        if (all)
            sim_ready(thread, ERR_OK);
        else if (count < sizeof(waiting) / sizeof(waiting[0]))
            waiting[count++] = thread;
    }
    if (count > 0)
        sim_ready(waiting[sim_below(sim, count)], ERR_OK);
}

/* --- threads --------------------------------------------------------------------------------- */

static void unlink_thread(struct sim_thread *thread)
{
    struct sim_thread **at = &thread->sim->threads;

    while (*at != thread)
        at = &(*at)->next;
    *at = thread->next;
}

void sim_thread_free(struct sim_thread *thread)
{
    unlink_thread(thread);
    sem_destroy(&thread->baton);
    free(thread);
}

/* Real threads are kept for the next simulated one: starting one is dear. */
struct worker {
    sem_t start;
    struct sim_thread *thread;
    struct worker *next;
};
static struct worker *idle_workers;

static void end_thread(struct worker *worker, struct sim_thread *thread)
{
    struct sim *sim = thread->sim;

    thread->state = SIM_ENDED;
    sim_wake(sim, thread, true);
    worker->thread = NULL;
    worker->next = idle_workers;
    idle_workers = worker;
    hand_on(sim);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;

    for (;;) {
        struct sim_thread *thread;

        while (sem_wait(&worker->start) != 0)
            continue;
        thread = worker->thread;
        self = thread;
        while (sem_wait(&thread->baton) != 0)
            continue;
        thread->fn(thread->argument);
        if (thread->detached) {
            /* Its memory goes before the baton does. */
            static __thread struct sim_thread last;

            last = (struct sim_thread){.sim = thread->sim, .state = SIM_ENDED};
            self = &last;
            sim_thread_free(thread);
            worker->next = idle_workers;
            idle_workers = worker;
            hand_on(last.sim);
            continue;
        }
        end_thread(worker, thread);
    }
    return NULL;
}

static struct worker *get_worker(void)
{
    struct worker *worker = idle_workers;
    pthread_attr_t attr;
    pthread_t id;

    if (worker != NULL) {
        idle_workers = worker->next;
        return worker;
    }
    worker = calloc(1, sizeof(*worker));
    if (worker == NULL || sem_init(&worker->start, 0, 0) != 0 || pthread_attr_init(&attr) != 0 ||
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) != 0 ||
        pthread_create(&id, &attr, worker_main, worker) != 0)
        abort();
    pthread_attr_destroy(&attr);
    return worker;
}

struct sim_thread *sim_thread_new(struct sim *sim, struct sim_node *node, const char *name,
                                  env_thread_fn *fn, void *argument)
{
    struct sim_thread *thread = calloc(1, sizeof(*thread)), **at = &sim->threads;
    struct worker *worker;

    if (thread == NULL || sem_init(&thread->baton, 0, 0) != 0)
        abort();
    thread->sim = sim;
    thread->node = node;
    thread->number = ++sim->thread_numbers;
    thread->fn = fn;
    thread->argument = argument;
    thread->judge = &sim->world_node;
    (void)snprintf(thread->name, sizeof(thread->name), "%s", name);
    while (*at != NULL)
        at = &(*at)->next;
    *at = thread;
    thread->state = SIM_READY;
    assert(sim->ready_count < sizeof(sim->ready) / sizeof(sim->ready[0]));
    sim->ready[sim->ready_count++] = thread;
    worker = get_worker();
    worker->thread = thread;
    sem_post(&worker->start);
    return thread;
}

void sim_spawn(struct sim *sim, const char *name, env_thread_fn *fn, void *argument)
{
    sim_thread_new(sim, NULL, name, fn, argument)->detached = true;
}

/* --- begin and end --------------------------------------------------------------------------- */

void sim_begin(struct sim *sim, struct sim_thread *me)
{
    uint64_t x = sim->options.seed;

    for (int i = 0; i < 2; i++) {
        /* splitmix64 */
        uint64_t z = x += 0x9e3779b97f4a7c15ull;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        sim->random[i] = z ^ (z >> 31);
    }
    sim->now_ns = NS_PER_S;
    sim->world = (struct sim_life){.env.ops = &sim_env_ops, .node = &sim->world_node};
    sim->world_node.sim = sim;
    sim->world_node.life = &sim->world;
    (void)snprintf(sim->world_node.name, sizeof(sim->world_node.name), "world");
    *me = (struct sim_thread){.sim = sim, .state = SIM_READY, .judge = &sim->world_node};
    (void)snprintf(me->name, sizeof(me->name), "main");
    if (sem_init(&me->baton, 0, 0) != 0)
        abort();
    sim->threads = me;
    sim->current = me;
    self = me;
}

void sim_end(struct sim *sim, struct sim_thread *me)
{
    if (sim->threads != me || me->next != NULL)
        sim_fail(sim, "thread %s is still there at the end",
                 sim->threads != me ? sim->threads->name : me->next->name);
    sem_destroy(&me->baton);
    sim->threads = NULL;
}
