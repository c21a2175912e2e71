/* A graph that is large enough to be calibrated, and what searches on it are told.  Included by
 * unit tests. */
#ifndef VICINAL_TESTS_UNIT_RECALL_RIG_H
#define VICINAL_TESTS_UNIT_RECALL_RIG_H

#include "engine/calibrate.h"
#include "tests/lib/engine_data.h"

enum { COUNT = 5200, GROWN = 10500, DIM = 8 };

struct world {
    struct data data;
    struct engine *engine;
};

static inline struct world open_world(void)
{
    struct world world = {.data = data_make(GROWN, DIM, 0.0f, 71),
                          .engine = data_open(DIM, ENGINE_L2)};

    data_insert(world.engine, &world.data, 0, COUNT);
    data_link(world.engine);
    return world;
}

static inline void close_world(struct world *world)
{
    engine_close(world->engine);
    data_free(&world->data);
}

/* Effort that a search for this recall makes. */
static inline uint32_t effort(struct engine *engine, float recall, uint32_t ef)
{
    float vector[DIM] = {0};
    struct engine_query query = {
        .vector = vector, .k = 10, .ef = ef, .recall = recall, .bound = INFINITY};
    struct engine_hit hits[10];
    struct engine_counters counters;
    struct err err = {0};
    size_t count;

    assert_int_equal(engine_search(engine, &query, hits, &count, &counters, &err), ERR_OK);
    assert_int_equal(count, 10);
    return counters.ef;
}

#endif
