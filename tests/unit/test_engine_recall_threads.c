/* Searches that ask for a recall, insertions, deletions and linking go on while it is found out
 * which effort that takes.
 * pace: long */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/unit/recall_rig.h"

struct crowd {
    struct world world;
    _Atomic bool is_over;
    _Atomic uint32_t searches;
};

static void *search_all_the_time(void *argument)
{
    struct crowd *crowd = argument;

    while (!atomic_load_explicit(&crowd->is_over, memory_order_acquire)) {
        assert(effort(crowd->world.engine, 0.95f, 0) > 0);
        (void)engine_is_due(crowd->world.engine);
        (void)engine_memory_used(crowd->world.engine);
        atomic_fetch_add_explicit(&crowd->searches, 1, memory_order_relaxed);
    }
    return NULL;
}

static void *grow_meanwhile(void *argument)
{
    struct crowd *crowd = argument;

    for (uint32_t i = COUNT; i < GROWN; i += 100) {
        data_insert(crowd->world.engine, &crowd->world.data, i, i + 100);
        engine_delete(crowd->world.engine, i - 50);
        data_link(crowd->world.engine);
    }
    return NULL;
}

static void searches_and_growth_go_on_meanwhile(void **state)
{
    struct crowd crowd = {.world = open_world()};
    pthread_t readers[2], writer;
    struct err err = {0};

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, search_all_the_time, &crowd), 0);
    assert_int_equal(pthread_create(&writer, NULL, grow_meanwhile, &crowd), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(calibrate(crowd.world.engine, NULL, &err), ERR_OK);
    assert_int_equal(pthread_join(writer, NULL), 0);
    atomic_store_explicit(&crowd.is_over, true, memory_order_release);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(readers[i], NULL), 0);
    printf("%u searches meanwhile\n", crowd.searches);
    assert_int_equal(engine_validate(crowd.world.engine, &err), ERR_OK);
    close_world(&crowd.world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(searches_and_growth_go_on_meanwhile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
