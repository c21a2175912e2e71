/* See sim_flow.h.  A flow's first lines are reached by makecontext, all further ones by _longjmp,
 * which leaves signals alone.  longjmp's check for a stack that has gone does not know of others.
 */
#undef _FORTIFY_SOURCE
#include "tests/sim/sim_flow.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/types.h>

#include "common/base/sanitized.h"

#if IS_SANITIZED
#include <pthread.h>
#include <semaphore.h>
#else
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#endif

#define STACK_BYTES (1u << 21)
#define GUARD_BYTES 4096

struct sim_flow {
    sim_flow_fn *fn;
    void *argument;
    struct sim_flow *next; /* of those that are not in use */
#if IS_SANITIZED
    sem_t turn;
#else
    jmp_buf place; /* where it goes on */
    bool has_begun;
    void *stack;
#endif
};

static struct sim_flow *spare;

static struct sim_flow *flow_new(void)
{
    struct sim_flow *flow = calloc(1, sizeof(*flow));

    if (flow == NULL)
        abort();
    return flow;
}

static void flow_main(struct sim_flow *flow)
{
    for (;;)
        flow->fn(flow, flow->argument);
}

#if IS_SANITIZED

static void await_turn(struct sim_flow *flow)
{
    while (sem_wait(&flow->turn) != 0)
        continue;
}

static void *thread_main(void *flow)
{
    await_turn(flow);
    flow_main(flow);
    return NULL;
}

static void flow_prepare(struct sim_flow *flow)
{
    if (sem_init(&flow->turn, 0, 0) != 0)
        abort();
}

static void flow_start(struct sim_flow *flow)
{
    pthread_attr_t attr;
    pthread_t id;

    if (pthread_attr_init(&attr) != 0 ||
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) != 0 ||
        pthread_create(&id, &attr, thread_main, flow) != 0)
        abort();
    (void)pthread_attr_destroy(&attr);
}

void sim_flow_pass(struct sim_flow *from, struct sim_flow *to)
{
    (void)sem_post(&to->turn);
    await_turn(from);
}

#else

static void flow_prepare(struct sim_flow *flow)
{
    (void)flow;
}

static void flow_start(struct sim_flow *flow)
{
    flow->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (flow->stack == MAP_FAILED || mprotect(flow->stack, GUARD_BYTES, PROT_NONE) != 0)
        abort();
}

/* makecontext passes ints only. */
static struct sim_flow *beginning;

static void context_main(void)
{
    flow_main(beginning);
}

static void begin(struct sim_flow *flow)
{
    ucontext_t context;

    flow->has_begun = true;
    beginning = flow;
    if (getcontext(&context) != 0)
        abort();
    context.uc_stack.ss_sp = flow->stack;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = NULL;
    makecontext(&context, context_main, 0);
    (void)setcontext(&context);
    abort();
}

void sim_flow_pass(struct sim_flow *from, struct sim_flow *to)
{
    if (_setjmp(from->place) != 0)
        return;
    if (!to->has_begun)
        begin(to);
    _longjmp(to->place, 1);
}

#endif

/* Linked in the place of setpriority: a service's thread that steps back would take all with it. */
int __wrap_setpriority(int which, id_t who, int priority);
int __wrap_setpriority(int which, id_t who, int priority)
{
    (void)which;
    (void)who;
    (void)priority;
    return 0;
}

struct sim_flow *sim_flow_own(void)
{
    static struct sim_flow own;

    flow_prepare(&own);
#if !IS_SANITIZED
    own.has_begun = true;
#endif
    return &own;
}

struct sim_flow *sim_flow_get(sim_flow_fn *fn, void *argument)
{
    struct sim_flow *flow = spare;

    if (flow != NULL) {
        spare = flow->next;
    } else {
        flow = flow_new();
        flow_prepare(flow);
        flow_start(flow);
    }
    flow->fn = fn;
    flow->argument = argument;
    return flow;
}

void sim_flow_put(struct sim_flow *flow)
{
    flow->next = spare;
    spare = flow;
}
