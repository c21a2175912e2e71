/* Threads, time, chance and the trace.
 *
 * Every simulated thread has a flow of control of its own (sim_flow.h).  Who gives the baton away
 * picks the next among those that can run, by chance from the seed.  When nobody can run, time
 * jumps to the next deadline.  What a node's threads see of all this is in sim_env.c. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/hash.h"
#include "tests/sim/sim.h"

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

/* --- who waits for what ------------------------------------------------------------------------
 *
 * By the channel, in buckets whose order is that of arrival: where a channel lies in memory changes
 * nothing.  By time, in a heap over the world's time. */

static struct sim_waiters *waiters_of(struct sim *sim, const void *channel)
{
    return &sim->waiters[(uint64_t)(uintptr_t)channel * 0x9e3779b97f4a7c15ull >>
                         (64 - SIM_WAITERS_BITS)];
}

static void enter_channel(struct sim_thread *thread)
{
    struct sim_waiters *waiters = waiters_of(thread->sim, thread->channel);

    thread->after = NULL;
    thread->before = waiters->last;
    *(waiters->last == NULL ? &waiters->first : &waiters->last->after) = thread;
    waiters->last = thread;
}

static void leave_channel(struct sim_thread *thread)
{
    struct sim_waiters *waiters = waiters_of(thread->sim, thread->channel);

    *(thread->before == NULL ? &waiters->first : &thread->before->after) = thread->after;
    *(thread->after == NULL ? &waiters->last : &thread->after->before) = thread->before;
    thread->channel = NULL;
}

static void put_due(struct sim *sim, size_t at, struct sim_thread *thread)
{
    sim->due[at] = thread;
    thread->due_at = at + 1;
}

static void sift_up(struct sim *sim, size_t at, struct sim_thread *thread)
{
    for (; at > 0 && sim->due[(at - 1) / 2]->due_ns > thread->due_ns; at = (at - 1) / 2)
        put_due(sim, at, sim->due[(at - 1) / 2]);
    put_due(sim, at, thread);
}

static void sift_down(struct sim *sim, size_t at, struct sim_thread *thread)
{
    for (size_t child; (child = 2 * at + 1) < sim->due_count; at = child) {
        if (child + 1 < sim->due_count && sim->due[child + 1]->due_ns < sim->due[child]->due_ns)
            child++;
        if (sim->due[child]->due_ns >= thread->due_ns)
            break;
        put_due(sim, at, sim->due[child]);
    }
    put_due(sim, at, thread);
}

static void leave_due(struct sim_thread *thread)
{
    struct sim *sim = thread->sim;
    size_t at = thread->due_at - 1;
    struct sim_thread *last;

    if (thread->due_at == 0)
        return;
    thread->due_at = 0;
    last = sim->due[--sim->due_count];
    if (last == thread)
        return;
    if (at > 0 && sim->due[(at - 1) / 2]->due_ns > last->due_ns)
        sift_up(sim, at, last);
    else
        sift_down(sim, at, last);
}

/* The judge's clock says when; one that stands still says nothing. */
static void enter_due(struct sim_thread *thread)
{
    struct sim *sim = thread->sim;

    thread->due_ns =
        thread->judge->freezing ? NEVER_NS : sim_world_time_of(thread->judge, thread->until_ns);
    if (thread->due_ns == NEVER_NS)
        return;
    assert(sim->due_count < ARRAY_COUNT(sim->due));
    sift_up(sim, sim->due_count++, thread);
}

void sim_retime(struct sim_node *judge)
{
    for (struct sim_thread *thread = judge->sim->threads; thread != NULL; thread = thread->next) {
        if (thread->state != SIM_BLOCKED || thread->judge != judge)
            continue;
        leave_due(thread);
        enter_due(thread);
    }
}

bool sim_is_awaited(struct sim *sim, const void *channel)
{
    const struct sim_thread *thread = waiters_of(sim, channel)->first;

    while (thread != NULL && thread->channel != channel)
        thread = thread->after;
    return thread != NULL;
}

/* --- the baton ------------------------------------------------------------------------------- */

static void add_ready(struct sim_thread *thread)
{
    struct sim *sim = thread->sim;

    assert(sim->ready_count < ARRAY_COUNT(sim->ready));
    sim->ready[sim->ready_count++] = thread;
}

void sim_ready(struct sim_thread *thread, enum err_code woken)
{
    assert(thread->state == SIM_BLOCKED);
    thread->state = SIM_READY;
    thread->woken = woken;
    leave_due(thread);
    if (thread->channel != NULL)
        leave_channel(thread);
    add_ready(thread);
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

/* Nobody can run: on to the next moment at which someone can. */
static void advance(struct sim *sim)
{
    uint64_t next = sim->due_count == 0 ? NEVER_NS : sim->due[0]->due_ns;

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
    while (sim->due_count > 0 && sim->due[0]->due_ns <= sim->now_ns)
        sim_ready(sim->due[0], ERR_TIMEOUT);
}

/* Give the baton to the next; returns when it has come back to this flow: to the caller, who is
 * ready or blocked, or, when that has ended, to another thread that begins on its flow. */
static void hand_on(struct sim *sim, struct sim_flow *flow)
{
    struct sim_thread *next;

    while ((next = pick(sim)) == NULL)
        advance(sim);
    sim->counts.switches++;
    mix(sim, sim->now_ns ^ next->number);
    sim->current = next;
    if (next->flow != flow)
        sim_flow_pass(flow, next->flow);
}

void sim_switch(struct sim *sim)
{
    add_ready(sim->current);
    hand_on(sim, sim->current->flow);
}

enum err_code sim_block(struct sim_node *judge, const void *channel, uint64_t until_ns)
{
    struct sim_thread *me = judge->sim->current;

    me->state = SIM_BLOCKED;
    me->judge = judge;
    me->channel = channel;
    me->until_ns = until_ns;
    enter_due(me);
    if (channel != NULL)
        enter_channel(me);
    hand_on(me->sim, me->flow);
    assert(me->state == SIM_READY);
    return me->woken;
}

void sim_wake(struct sim *sim, const void *channel, bool all)
{
    struct sim_thread *waiting[64], *next;
    size_t count = 0;

    for (struct sim_thread *thread = waiters_of(sim, channel)->first; thread != NULL;
         thread = next) {
        next = thread->after;
        if (thread->channel != channel)
            continue;
        if (all)
            sim_ready(thread, ERR_OK);
        else if (count < ARRAY_COUNT(waiting))
            waiting[count++] = thread;
    }
    if (count > 0)
        sim_ready(waiting[sim_below(sim, count)], ERR_OK);
}

/* --- threads --------------------------------------------------------------------------------- */

void sim_thread_free(struct sim_thread *thread)
{
    struct sim *sim = thread->sim;

    *(thread->previous == NULL ? &sim->threads : &thread->previous->next) = thread->next;
    *(thread->next == NULL ? &sim->last_thread : &thread->next->previous) = thread->previous;
    free(thread);
}

/* A thread's life.  When it has ended its flow may soon be another's. */
static void live(struct sim_flow *flow, void *argument)
{
    struct sim_thread *thread = argument;
    struct sim *sim = thread->sim;

    thread->fn(thread->argument);
    if (thread->detached) {
        sim_thread_free(thread);
    } else {
        thread->state = SIM_ENDED;
        sim_wake(sim, thread, true);
    }
    sim_flow_put(flow);
    hand_on(sim, flow);
}

struct sim_thread *sim_thread_new(struct sim *sim, struct sim_node *node, const char *name,
                                  env_thread_fn *fn, void *argument)
{
    struct sim_thread *thread = calloc(1, sizeof(*thread));

    if (thread == NULL)
        abort();
    thread->sim = sim;
    thread->node = node;
    thread->number = ++sim->thread_numbers;
    thread->fn = fn;
    thread->argument = argument;
    thread->judge = &sim->world_node;
    (void)snprintf(thread->name, sizeof(thread->name), "%s", name);
    thread->previous = sim->last_thread;
    sim->last_thread->next = thread;
    sim->last_thread = thread;
    thread->state = SIM_READY;
    thread->flow = sim_flow_get(live, thread);
    add_ready(thread);
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
    *me = (struct sim_thread){
        .sim = sim, .state = SIM_READY, .judge = &sim->world_node, .flow = sim_flow_own()};
    (void)snprintf(me->name, sizeof(me->name), "main");
    sim->threads = sim->last_thread = me;
    sim->current = me;
}

void sim_end(struct sim *sim, struct sim_thread *me)
{
    if (sim->threads != me || me->next != NULL)
        sim_fail(sim, "thread %s is still there at the end",
                 sim->threads != me ? sim->threads->name : me->next->name);
    sim->threads = sim->last_thread = NULL;
}
