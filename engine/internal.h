/* The engine itself: one graph that is current, and what works on it. */
#ifndef VICINAL_ENGINE_INTERNAL_H
#define VICINAL_ENGINE_INTERNAL_H

#include <pthread.h>

#include "engine/graph.h"
#include "engine/scratch.h"

/* How a search finds its vectors; plan.c chooses. */
enum plan {
    PLAN_CHOOSE,
    PLAN_SCAN, /* all that may be returned, by codes, the nearest measured */
    PLAN_WALK, /* through all nodes; those that may not be returned are left out at the end */
};

struct batch; /* workspace of linking, hnsw_insert.c */

/* The graph changes places when a new one has been built without the dead (rebuild.c).  Whoever
 * follows the pointer holds one of these while it does:
 *   searches                  a scratch (scratch.h: the old graph waits until they end)
 *   insertions and deletions  write_lock
 *   linking                   link_lock
 * So it is with the cold parts that hang on it (cold.h), which linking does not look at.
 * The numbers of an old graph stay readable until the engine is closed. */
struct engine {
    struct engine_options options; /* defaults filled in; kernel: NULL */
    struct engine_executor executor;
    const struct kernels *kernels;
    enum plan forced; /* for tests and benches: how to search where there is a choice */
    _Atomic(struct graph *) graph;
    uint32_t next_ordinal; /* an insertion's is not below; by write_lock */
    struct scratches scratches;
    struct batch *batch; /* by link_lock */
    pthread_mutex_t write_lock;
    pthread_mutex_t link_lock;
    struct keeper *keeper; /* of the segment, keeper.c; NULL: nothing is kept */
};

static inline struct graph *graph_of(const struct engine *engine)
{
    return atomic_load_explicit(&((struct engine *)(uintptr_t)engine)->graph, memory_order_acquire);
}

/* Each option that is 0 and has a default becomes that. */
void engine_fill_defaults(struct engine_options *options);

/* Is there nobody who wants long work to end? */
static inline bool hooks_go_on(const struct engine_hooks *hooks)
{
    return hooks == NULL || hooks->go_on == NULL || hooks->go_on(hooks->state);
}

static inline enum err_code hooks_make_durable(const struct engine_hooks *hooks, struct err *err)
{
    if (hooks == NULL || hooks->make_durable == NULL)
        return ERR_OK;
    return hooks->make_durable(hooks->state, err);
}

/* hnsw_batch.c, hnsw_insert.c: the workspace, and linking with it. */
MUST_CHECK struct batch *batch_new(const struct engine_options *options,
                                   const struct engine_executor *executor,
                                   struct scratches *scratches);
void batch_free(struct batch *batch);
uint64_t batch_bytes(const struct engine_options *options);

/* As engine_step(). */
MUST_CHECK enum err_code batch_link(struct batch *batch, struct graph *graph, uint32_t budget,
                                    uint64_t *left, struct err *err);

#endif
