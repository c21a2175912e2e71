/* What a search that asks for a recall may rely on besides getting it: the same calibration each
 * time, the old one until there is a new one, whatever stops or fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "engine/calibrate.h"
#include "engine/memory.h"
#include "tests/lib/engine_data.h"

enum { COUNT = 5200, GROWN = 10500, DIM = 8 };

struct world {
    struct data data;
    struct engine *engine;
};

static struct world open_world(void)
{
    struct world world = {.data = data_make(GROWN, DIM, 0.0f, 71),
                          .engine = data_open(DIM, ENGINE_L2)};

    data_insert(world.engine, &world.data, 0, COUNT);
    data_link(world.engine);
    return world;
}

static void close_world(struct world *world)
{
    engine_close(world->engine);
    data_free(&world->data);
}

static void grow(struct world *world)
{
    data_insert(world->engine, &world->data, COUNT, GROWN);
    data_link(world->engine);
}

static void maintain(struct engine *engine)
{
    struct err err = {0};

    assert_int_equal(engine_maintain(engine, NULL, &err), ERR_OK);
}

static const struct calibration *known_to(const struct engine *engine)
{
    return atomic_load_explicit(&graph_of(engine)->calibration, memory_order_acquire);
}

/* Effort that a search for this recall makes. */
static uint32_t effort(struct engine *engine, float recall, uint32_t ef)
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

static void more_is_done_when_more_is_asked(void **state)
{
    struct world world = open_world();
    uint32_t before = 0, plain = effort(world.engine, 0, 0);

    (void)state;
    for (int is_calibrated = 0; is_calibrated <= 1; is_calibrated++) {
        for (float recall = 0.5f; recall <= 1.0f; recall += 0.015625f) {
            uint32_t ef = effort(world.engine, recall, 0);

            assert_true(ef >= before);
            assert_int_equal(effort(world.engine, recall, 30), ef > 30 ? ef : 30);
            before = ef;
        }
        assert_int_equal(effort(world.engine, 0, 0), plain);
        assert_int_equal(effort(world.engine, 0, 77), 77);
        maintain(world.engine);
        before = 0;
    }
    close_world(&world);
}

static void nonsense_is_refused(void **state)
{
    static const float recalls[] = {-0.1f, 0.1f, 0.49f, 1.01f, 99.0f, NAN, INFINITY};
    struct world world = open_world();
    float vector[DIM] = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(recalls); i++) {
        struct engine_query query = {
            .vector = vector, .k = 10, .recall = recalls[i], .bound = INFINITY};
        struct engine_hit hits[10];
        struct err err = {0};
        size_t count;

        assert_int_equal(engine_search(world.engine, &query, hits, &count, NULL, &err),
                         ERR_INVALID_ARGUMENT);
    }
    close_world(&world);
}

static void it_is_due_when_the_graph_has_doubled(void **state)
{
    struct world world = open_world();

    (void)state;
    assert_true(engine_is_due(world.engine));
    maintain(world.engine);
    assert_false(engine_is_due(world.engine));
    uint32_t linked = known_to(world.engine)->linked;
    assert_int_equal(linked, engine_linked(world.engine));
    data_insert(world.engine, &world.data, COUNT, 2 * COUNT - 200);
    data_link(world.engine);
    assert_false(engine_is_due(world.engine));
    data_insert(world.engine, &world.data, 2 * COUNT - 200, GROWN);
    data_link(world.engine);
    assert_true(engine_is_due(world.engine));
    maintain(world.engine);
    assert_false(engine_is_due(world.engine));
    assert_true(known_to(world.engine)->linked >= 2 * linked);
    close_world(&world);
}

/* Also when others have died meanwhile, and beside another engine's. */
static void it_finds_the_same_each_time(void **state)
{
    struct world one = open_world(), two = open_world();
    struct err err = {0};

    (void)state;
    maintain(one.engine);
    struct calibration first = *known_to(one.engine);
    assert_int_equal(calibrate(one.engine, NULL, &err), ERR_OK);
    assert_memory_equal(known_to(one.engine), &first, sizeof(first));
    for (uint32_t i = 0; i < COUNT; i += 10)
        engine_delete(two.engine, i);
    maintain(two.engine);
    assert_memory_equal(known_to(two.engine), &first, sizeof(first));
    close_world(&one);
    close_world(&two);
}

static bool go_on_counted(void *state)
{
    uint32_t *left = state;

    return (*left)-- > 0;
}

static void whatever_stops_it_the_old_one_stays(void **state)
{
    struct world world = open_world();

    (void)state;
    maintain(world.engine);
    grow(&world);
    const struct calibration *before = known_to(world.engine);
    struct calibration copy = *before;
    for (uint32_t left = 0;; left = 2 * left + 1) {
        uint32_t asked = left;
        struct engine_hooks hooks = {.go_on = go_on_counted, .state = &asked};
        struct err err = {0};
        enum err_code code = engine_maintain(world.engine, &hooks, &err);

        if (code == ERR_OK)
            break;
        assert_int_equal(code, ERR_DEAD);
        assert_ptr_equal(known_to(world.engine), before);
        assert_memory_equal(before, &copy, sizeof(copy));
        assert_true(engine_is_due(world.engine));
    }
    assert_true(known_to(world.engine)->linked > copy.linked);
    close_world(&world);
}

static void any_allocation_may_fail(void **state)
{
    struct world world = open_world();
    uint32_t failures = 0;

    (void)state;
    maintain(world.engine);
    grow(&world);
    const struct calibration *before = known_to(world.engine);
    uint64_t used = engine_memory_used(world.engine);
    for (;; failures++) {
        struct err err = {0};

        (void)memory_fail_at(failures + 1);
        enum err_code code = engine_maintain(world.engine, NULL, &err);
        (void)memory_fail_at(0);
        if (code == ERR_OK)
            break;
        assert_int_equal(code, ERR_NO_MEMORY);
        assert_ptr_equal(known_to(world.engine), before);
        assert_true(effort(world.engine, 0.9f, 0) > 0);
    }
    assert_true(failures >= 3);
    assert_true(engine_memory_used(world.engine) >= used);
    close_world(&world);
}

/* Equal vectors are twins of one node; those of one length and direction lie nowhere. */
static void odd_data_does_no_harm(void **state)
{
    struct world world = {.data = data_make(COUNT, DIM, 0.0f, 72),
                          .engine = data_open(DIM, ENGINE_COSINE)};

    (void)state;
    for (uint32_t i = 0; i < COUNT; i++)
        memcpy(world.data.vectors + (size_t)i * DIM, world.data.vectors + i % 3 * (size_t)DIM,
               DIM * sizeof(float));
    memset(world.data.vectors + (size_t)50 * DIM, 0, DIM * sizeof(float));
    data_insert(world.engine, &world.data, 0, COUNT);
    data_link(world.engine);
    maintain(world.engine);
    assert_true(effort(world.engine, 0.99f, 0) >= 10);
    close_world(&world);
}

/* A rebuilt graph is another one: its calibration is made with it. */
static void a_new_graph_is_calibrated_at_once(void **state)
{
    struct world world = open_world();

    (void)state;
    grow(&world);
    maintain(world.engine);
    for (uint32_t i = 0; i < GROWN; i += 4)
        engine_delete(world.engine, i);
    assert_true(engine_is_due(world.engine));
    maintain(world.engine);
    assert_int_equal(known_to(world.engine)->linked, engine_linked(world.engine));
    assert_true(engine_linked(world.engine) < 8000);
    close_world(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_is_done_when_more_is_asked),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(it_is_due_when_the_graph_has_doubled),
        cmocka_unit_test(it_finds_the_same_each_time),
        cmocka_unit_test(whatever_stops_it_the_old_one_stays),
        cmocka_unit_test(any_allocation_may_fail),
        cmocka_unit_test(odd_data_does_no_harm),
        cmocka_unit_test(a_new_graph_is_calibrated_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
