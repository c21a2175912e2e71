/* When many are dead, maintenance puts a graph of the living in the place of the old one: it is the
 * graph of a fresh build, memory and disk are given back, and whoever inserts, deletes, links or
 * searches meanwhile loses nothing. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/memory.h"
#include "tests/lib/engine_data.h"
#include "tests/lib/own_threads.h"
#include "tests/lib/scratch.h"

enum { COUNT = 4000, DIM = 12 };

static char folder[200];

static int make_folder(void **state)
{
    (void)state;
    return !scratch_make(folder, sizeof(folder), "rebuilt");
}

static int drop_folder(void **state)
{
    (void)state;
    (void)memory_fail_at(0);
    return scratch_remove(folder);
}

static struct engine *open_engine(const char *dir, enum engine_kind kind)
{
    struct engine_options options = {.dim = DIM,
                                     .metric = ENGINE_L2,
                                     .kind = kind,
                                     .m = 8,
                                     .ef_construction = 40,
                                     .flat_below = 1,
                                     .seed = 7};
    struct engine *engine;
    struct err err;

    assert_int_equal(engine_open(&engine, dir, &options, NULL, &err), ERR_OK);
    return engine;
}

static void maintain(struct engine *engine)
{
    struct err err = {0};

    if (engine_maintain(engine, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

static void assert_valid(struct engine *engine)
{
    struct err err = {0};

    if (engine_validate(engine, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

static bool is_left(uint32_t ordinal)
{
    return ordinal % 3 != 1;
}

/* Everything, then only what is left. */
static struct engine *thinned(const struct data *data, const char *dir, enum engine_kind kind)
{
    struct engine *engine = open_engine(dir, kind);

    data_insert(engine, data, 0, data->count);
    data_link(engine);
    for (uint32_t i = 0; i < data->count; i++)
        if (!is_left(i))
            engine_delete(engine, i);
    return engine;
}

static struct engine *fresh(const struct data *data, enum engine_kind kind)
{
    struct engine *engine = open_engine(NULL, kind);

    for (uint32_t i = 0; i < data->count; i++)
        if (is_left(i))
            data_insert(engine, data, i, i + 1);
    data_link(engine);
    return engine;
}

static void the_new_graph_is_that_of_a_fresh_build(void **state)
{
    struct data data = data_make(COUNT, DIM, 0.0f, 3);

    (void)state;
    for (enum engine_kind kind = ENGINE_HNSW; kind <= ENGINE_FLAT; kind++) {
        struct engine *expected = fresh(&data, kind);
        struct engine *engine = thinned(&data, NULL, kind);
        uint64_t memory = engine_memory_used(engine);

        assert_true(engine_is_due(engine));
        maintain(engine);
        data_link(engine);
        assert_false(engine_is_due(engine));
        assert_valid(engine);
        assert_int_equal(engine_count(engine), engine_count(expected));
        assert_true(engine_digest(engine) == engine_digest(expected));
        assert_true(engine_memory_used(engine) < memory);
        engine_close(engine);
        engine_close(expected);
    }
    data_free(&data);
}

static void few_dead_are_left_where_they_are(void **state)
{
    struct data data = data_make(COUNT, DIM, 0.0f, 3);
    struct engine *engine = open_engine(NULL, ENGINE_HNSW);

    (void)state;
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    for (uint32_t i = 0; i < COUNT / 5 - 1; i++)
        engine_delete(engine, i);
    assert_false(engine_is_due(engine));
    engine_delete(engine, COUNT / 5 - 1);
    assert_true(engine_is_due(engine));
    engine_close(engine);
    data_free(&data);
}

static void all_may_be_dead(void **state)
{
    struct data data = data_make(COUNT, DIM, 0.0f, 3);
    struct engine *engine = open_engine(folder, ENGINE_HNSW);
    struct engine_query query = {.vector = data_at(&data, 1), .k = 3, .bound = INFINITY};
    struct engine_hit hits[3];
    size_t count;
    struct err err;

    (void)state;
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    maintain(engine);
    for (uint32_t i = 0; i < COUNT; i++)
        engine_delete(engine, i);
    maintain(engine);
    assert_false(engine_is_due(engine));
    assert_int_equal(engine_count(engine), 0);
    assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_equal(count, 0);
    assert_int_equal(engine_insert(engine, COUNT - 1, data_at(&data, 0), &err),
                     ERR_INVALID_ARGUMENT);
    assert_int_equal(engine_insert(engine, COUNT, data_at(&data, 0), &err), ERR_OK);
    assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_equal(count, 1);
    engine_close(engine);
    data_free(&data);
}

static off_t segment_size(void)
{
    char path[240];
    struct stat about;

    snprintf(path, sizeof(path), "%s/graph.seg", folder);
    assert_int_equal(stat(path, &about), 0);
    return about.st_size;
}

static void the_disk_is_given_back_too(void **state)
{
    struct data data = data_make(COUNT, DIM, 0.0f, 3);
    struct engine *engine = open_engine(folder, ENGINE_HNSW);

    (void)state;
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    maintain(engine);
    off_t before = segment_size();
    for (uint32_t i = 0; i < COUNT; i += 2)
        engine_delete(engine, i);
    maintain(engine);
    assert_true(segment_size() < before * 6 / 10);
    uint64_t linked = engine_linked(engine);
    engine_close(engine);
    engine = open_engine(folder, ENGINE_HNSW);
    assert_int_equal(engine_count(engine), linked);
    assert_valid(engine);
    engine_close(engine);
    data_free(&data);
}

static void any_allocation_may_fail(void **state)
{
    struct data data = data_make(400, DIM, 0.0f, 3);
    struct engine *expected = fresh(&data, ENGINE_HNSW);
    uint64_t n = 1;

    (void)state;
    for (;; n++) {
        struct engine *engine = thinned(&data, folder, ENGINE_HNSW);
        uint64_t digest = engine_digest(engine);
        struct err err = {0};

        (void)memory_fail_at(n);
        enum err_code code = engine_maintain(engine, NULL, &err);
        uint64_t allocations = memory_fail_at(0);
        assert_true(code == ERR_OK || code == ERR_NO_MEMORY);
        assert_valid(engine);
        data_link(engine);
        /* The new graph may be there, and its segment not. */
        assert_true(engine_digest(engine) == digest ||
                    engine_digest(engine) == engine_digest(expected));
        assert_true(code != ERR_OK || engine_digest(engine) != digest);
        engine_close(engine);
        char path[240];
        snprintf(path, sizeof(path), "%s/graph.seg", folder);
        (void)unlink(path);
        if (n > allocations)
            break;
    }
    assert_true(n > 10);
    engine_close(expected);
    data_free(&data);
}

static void a_budget_without_room_for_two_keeps_the_old_one(void **state)
{
    struct data data = data_make(COUNT, DIM, 0.0f, 3);
    struct engine_options options = {
        .dim = DIM, .metric = ENGINE_L2, .m = 8, .ef_construction = 40, .flat_below = 1, .seed = 7};
    struct engine *engine;
    struct err err;

    (void)state;
    options.memory_budget = engine_predict(&options, COUNT, ENGINE_BUILD) * 11 / 10;
    assert_int_equal(engine_open(&engine, NULL, &options, NULL, &err), ERR_OK);
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    for (uint32_t i = 0; i < COUNT; i += 3)
        engine_delete(engine, i);
    uint64_t digest = engine_digest(engine);
    assert_int_equal(engine_maintain(engine, NULL, &err), ERR_INSUFFICIENT_STORAGE);
    assert_true(engine_digest(engine) == digest);
    engine_close(engine);
    data_free(&data);
}

/* --- meanwhile ------------------------------------------------------------------------------- */

enum { WINDOW = 1500, ROUND = 3000 }; /* a round leaves enough dead */

struct shared {
    struct engine *engine;
    struct data data;
    _Atomic uint32_t inserted; /* ordinals below are in */
    _Atomic uint32_t deleted;  /* ordinals below are out */
    _Atomic bool is_over;
    _Atomic uint32_t searches, maintained;
    _Atomic uint64_t seeds;
};

/* A window that moves: what is WINDOW old is deleted. */
static void *replace(void *argument)
{
    struct shared *shared = argument;

    for (uint32_t i = 0; i < shared->data.count; i++) {
        while (i >= ROUND * (atomic_load(&shared->maintained) + 1))
            (void)sched_yield();
        data_insert(shared->engine, &shared->data, i, i + 1);
        atomic_store_explicit(&shared->inserted, i + 1, memory_order_release);
        if (i >= WINDOW) {
            engine_delete(shared->engine, i - WINDOW);
            atomic_store_explicit(&shared->deleted, i - WINDOW + 1, memory_order_release);
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
        (void)sched_yield();
    }
    return NULL;
}

static void *maintain_all_the_time(void *argument)
{
    struct shared *shared = argument;

    while (!atomic_load_explicit(&shared->is_over, memory_order_acquire)) {
        if (!engine_is_due(shared->engine)) {
            (void)sched_yield();
            continue;
        }
        struct err err;
        enum err_code code = engine_maintain(shared->engine, NULL, &err);
        assert(code == ERR_OK);
        atomic_fetch_add(&shared->maintained, 1);
    }
    return NULL;
}

static void look_for(struct shared *shared, uint64_t *random)
{
    uint32_t deleted = atomic_load_explicit(&shared->deleted, memory_order_acquire);
    uint32_t inserted = atomic_load_explicit(&shared->inserted, memory_order_acquire);
    uint32_t wanted = deleted + (uint32_t)(data_random(random) % (inserted - deleted));
    struct engine_hit hits[16];
    size_t count;
    struct err err;
    struct engine_query query = {
        .vector = data_at(&shared->data, wanted), .k = 16, .ef = 200, .bound = INFINITY};
    enum err_code code = engine_search(shared->engine, &query, hits, &count, NULL, &err);

    assert(code == ERR_OK);
    /* It may have been deleted meanwhile. */
    bool is_out = wanted <= atomic_load_explicit(&shared->deleted, memory_order_acquire);
    assert(is_out || (count > 0 && hits[0].ordinal == wanted && hits[0].distance == 0.0f));
    for (size_t i = 0; i < count; i++)
        assert(hits[i].ordinal >= deleted);
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
        (void)engine_memory_used(shared->engine);
    }
    return NULL;
}

static void nobody_notices(void **state)
{
    static struct shared shared;
    void *(*const all[])(void *) = {read_all_the_time, read_all_the_time, step,
                                    maintain_all_the_time};
    enum { ALL = sizeof(all) / sizeof(all[0]) };
    pthread_t threads[ALL], writer;

    (void)state;
    shared.data = data_make(4 * ROUND, DIM, 0.0f, 41);
    shared.engine = open_engine(folder, ENGINE_HNSW);
    for (int i = 0; i < ALL; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, all[i], &shared), 0);
    assert_int_equal(pthread_create(&writer, NULL, replace, &shared), 0);
    assert_int_equal(pthread_join(writer, NULL), 0);
    while (engine_is_due(shared.engine))
        (void)sched_yield();
    atomic_store_explicit(&shared.is_over, true, memory_order_release);
    for (int i = 0; i < ALL; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(engine_count(shared.engine), WINDOW);
    assert_valid(shared.engine);
    printf("%u searches, %u times maintained\n", shared.searches, shared.maintained);
    engine_close(shared.engine);
    data_free(&shared.data);
}

int main(void)
{
#define KEPT(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_new_graph_is_that_of_a_fresh_build),
        cmocka_unit_test(few_dead_are_left_where_they_are),
        KEPT(all_may_be_dead),
        KEPT(the_disk_is_given_back_too),
        KEPT(any_allocation_may_fail),
        cmocka_unit_test(a_budget_without_room_for_two_keeps_the_old_one),
        KEPT(nobody_notices),
    };

    OWN_THREADS_ONLY_IN(tests, "nobody_notices");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
