/* While vectors become cold and parts of them are merged, others insert, delete, link and search
 * and lose nothing: who is there is found, who was deleted is not. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/cold.h"
#include "engine/internal.h"
#include "tests/lib/engine_data.h"
#include "tests/lib/scratch.h"

enum { COUNT = 9000, DIM = 12, ABOVE = 800, ROUND = 1200, BEHIND = 500, DEAD_EVERY = 4, K = 16 };

static char folder[200];

struct shared {
    struct engine *engine;
    struct data data;
    _Atomic uint32_t inserted; /* ordinals below are in */
    _Atomic uint32_t deleted;  /* of those below, each DEAD_EVERY-th is out */
    _Atomic bool is_over;
    _Atomic uint32_t searches, maintained;
    _Atomic uint64_t seeds;
};

static int make_folder(void **state)
{
    (void)state;
    return !scratch_make(folder, sizeof(folder), "cold");
}

static int drop_folder(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

static void *insert_and_delete(void *argument)
{
    struct shared *shared = argument;

    for (uint32_t i = 0; i < COUNT; i++) {
        while (i >= ROUND * (atomic_load(&shared->maintained) + 1))
            (void)sched_yield();
        data_insert(shared->engine, &shared->data, i, i + 1);
        atomic_store_explicit(&shared->inserted, i + 1, memory_order_release);
        if (i < BEHIND)
            continue;
        if ((i - BEHIND) % DEAD_EVERY == 0)
            engine_delete(shared->engine, i - BEHIND);
        atomic_store_explicit(&shared->deleted, i - BEHIND + 1, memory_order_release);
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
        (void)sched_yield();
    }
    return NULL;
}

static void *maintain_all_the_time(void *argument)
{
    struct shared *shared = argument;

    while (!atomic_load_explicit(&shared->is_over, memory_order_acquire)) {
        struct err err;

        if (!engine_is_due(shared->engine)) {
            (void)sched_yield();
            continue;
        }
        enum err_code code = engine_maintain(shared->engine, NULL, &err);
        assert(code == ERR_OK);
        atomic_fetch_add(&shared->maintained, 1);
    }
    return NULL;
}

static void look_for(struct shared *shared, uint64_t *random)
{
    uint32_t inserted = atomic_load_explicit(&shared->inserted, memory_order_acquire);
    uint32_t deleted = atomic_load_explicit(&shared->deleted, memory_order_acquire);
    uint32_t wanted = (uint32_t)(data_random(random) % inserted);
    struct engine_hit hits[K];
    size_t count;
    struct err err;
    struct engine_query query = {.vector = data_at(&shared->data, wanted),
                                 .k = K,
                                 .exact = data_random(random) % 4 == 0,
                                 .bound = INFINITY};
    enum err_code code = engine_search(shared->engine, &query, hits, &count, NULL, &err);

    assert(code == ERR_OK);
    assert(count == K || inserted < 2 * K);
    if (query.exact && wanted % DEAD_EVERY != 0)
        assert(hits[0].ordinal == wanted && hits[0].distance == 0.0f);
    for (size_t i = 0; i < count; i++) {
        assert(hits[i].ordinal >= deleted || hits[i].ordinal % DEAD_EVERY != 0);
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
        (void)engine_covered(shared->engine);
        (void)engine_memory_used(shared->engine);
    }
    return NULL;
}

static void nobody_notices(void **state)
{
    static struct shared shared;
    struct engine_options options = {.dim = DIM,
                                     .metric = ENGINE_L2,
                                     .m = 8,
                                     .ef_construction = 40,
                                     .flat_below = 1,
                                     .cold_above = ABOVE,
                                     .seed = 7};
    void *(*const all[])(void *) = {read_all_the_time, read_all_the_time, step,
                                    maintain_all_the_time};
    enum { ALL = sizeof(all) / sizeof(all[0]) };
    pthread_t threads[ALL], writer;
    struct err err = {0};

    (void)state;
    shared.data = data_make(COUNT, DIM, 0.0f, 43);
    assert_int_equal(engine_open(&shared.engine, folder, &options, NULL, &err), ERR_OK);
    for (int i = 0; i < ALL; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, all[i], &shared), 0);
    assert_int_equal(pthread_create(&writer, NULL, insert_and_delete, &shared), 0);
    assert_int_equal(pthread_join(writer, NULL), 0);
    while (engine_is_due(shared.engine))
        (void)sched_yield();
    atomic_store_explicit(&shared.is_over, true, memory_order_release);
    for (int i = 0; i < ALL; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(engine_count(shared.engine),
                     COUNT - (COUNT - BEHIND + DEAD_EVERY - 1) / DEAD_EVERY);
    if (engine_validate(shared.engine, &err) != ERR_OK)
        fail_msg("%s", err.message);
    printf("%u searches, %u times maintained, %u cold parts\n", shared.searches, shared.maintained,
           graph_cold(graph_of(shared.engine))->count);
    engine_close(shared.engine);
    data_free(&shared.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nobody_notices, make_folder, drop_folder),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
