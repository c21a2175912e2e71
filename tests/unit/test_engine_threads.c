/* Readers, an inserter that also deletes, and a stepper work on one engine at the same time:
 * a reader always finds what was there before it began, and never what was deleted before. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/lib/engine_data.h"

enum { COUNT = 4000, DIM = 12, READERS = 3, TWIN_EVERY = 9, AHEAD_MAX = 300 };

struct shared {
    struct engine *engine;
    struct data data;
    _Atomic uint32_t inserted; /* ordinals below are in */
    _Atomic uint32_t deleted;  /* even ordinals below are out */
    _Atomic bool is_over;
    _Atomic uint32_t searches;
    _Atomic uint64_t seeds; /* each reader takes the next */
};

static void *insert_and_delete(void *argument)
{
    struct shared *shared = argument;

    for (uint32_t i = 0; i < COUNT; i++) {
        while (i > engine_linked(shared->engine) + AHEAD_MAX)
            (void)sched_yield();
        data_insert(shared->engine, &shared->data, i, i + 1);
        atomic_store_explicit(&shared->inserted, i + 1, memory_order_release);
        if (i % 2 == 0 && i >= COUNT / 4) {
            engine_delete(shared->engine, i - COUNT / 4);
            atomic_store_explicit(&shared->deleted, i - COUNT / 4 + 1, memory_order_release);
        }
    }
    return NULL;
}

static void *step(void *argument)
{
    struct shared *shared = argument;

    while (!atomic_load_explicit(&shared->is_over, memory_order_acquire)) {
        struct err err;
        uint64_t left;
        enum err_code code = engine_step(shared->engine, 100, &left, &err);
        assert(code == ERR_OK);
    }
    data_link(shared->engine);
    return NULL;
}

static void look_for(struct shared *shared, uint64_t *random)
{
    uint32_t deleted = atomic_load_explicit(&shared->deleted, memory_order_acquire);
    uint32_t inserted = atomic_load_explicit(&shared->inserted, memory_order_acquire);
    uint32_t wanted = (uint32_t)(data_random(random) % inserted) | 1u; /* odd ones stay */
    struct engine_hit hits[16];
    size_t count;
    struct err err;

    if (wanted >= inserted)
        return;
    struct engine_query query = {
        .vector = data_at(&shared->data, wanted), .k = 16, .ef = 200, .bound = INFINITY};
    enum err_code code = engine_search(shared->engine, &query, hits, &count, NULL, &err);
    assert(code == ERR_OK);
    assert(count > 0 && hits[0].distance == 0.0f);
    for (size_t i = 0; i < count; i++) {
        assert(hits[i].ordinal % 2 == 1 || hits[i].ordinal >= deleted);
        for (size_t j = 0; j < i; j++)
            assert(hits[i].ordinal != hits[j].ordinal);
    }
    atomic_fetch_add_explicit(&shared->searches, 1, memory_order_relaxed);
}

static void *read_all_the_time(void *argument)
{
    struct shared *shared = argument;
    uint64_t random = atomic_fetch_add_explicit(&shared->seeds, 1, memory_order_relaxed);

    while (!atomic_load_explicit(&shared->is_over, memory_order_acquire)) {
        if (atomic_load_explicit(&shared->inserted, memory_order_acquire) > 0)
            look_for(shared, &random);
        (void)engine_count(shared->engine);
        (void)engine_linked(shared->engine);
        (void)engine_memory_used(shared->engine);
    }
    return NULL;
}

static void readers_writer_and_stepper_do_not_disturb_each_other(void **state)
{
    static struct shared shared;
    pthread_t readers[READERS];
    pthread_t writer;
    pthread_t stepper;
    struct err err = {0};

    (void)state;
    shared.data = data_make(COUNT, DIM, 0.0f, 41);
    for (uint32_t i = TWIN_EVERY; i < COUNT; i += TWIN_EVERY)
        memcpy(shared.data.vectors + (size_t)i * DIM, shared.data.vectors, DIM * sizeof(float));
    shared.engine = data_open(DIM, ENGINE_L2);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_all_the_time, &shared), 0);
    assert_int_equal(pthread_create(&stepper, NULL, step, &shared), 0);
    assert_int_equal(pthread_create(&writer, NULL, insert_and_delete, &shared), 0);
    assert_int_equal(pthread_join(writer, NULL), 0);
    uint64_t random = 1000;
    while (engine_linked(shared.engine) + 64 <= COUNT)
        look_for(&shared, &random);
    atomic_store_explicit(&shared.is_over, true, memory_order_release);
    assert_int_equal(pthread_join(stepper, NULL), 0);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(readers[i], NULL), 0);
    assert_int_equal(engine_validate(shared.engine, &err), ERR_OK);
    assert_true(engine_linked(shared.engine) + 64 > COUNT);
    printf("%u searches meanwhile\n", shared.searches);
    engine_close(shared.engine);
    data_free(&shared.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_writer_and_stepper_do_not_disturb_each_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
