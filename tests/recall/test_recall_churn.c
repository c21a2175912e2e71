/* Recall holds while vectors come and go: during insertion by another thread, with half of all
 * deleted, after everything was deleted and replaced, and over rounds of replacing; with
 * maintenance neither recall nor work nor memory differ from those of a fresh build.
 * pace: long */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "engine/internal.h"
#include "tests/lib/engine_data.h"

enum { COUNT = 6000, DIM = 32 };

struct writer {
    struct engine *engine;
    const struct data *data;
    _Atomic bool is_done;
};

static void *write_all(void *argument)
{
    struct writer *writer = argument;

    for (uint32_t i = COUNT / 4; i < COUNT; i += 100) {
        data_insert(writer->engine, writer->data, i, i + 100);
        data_link(writer->engine);
    }
    atomic_store_explicit(&writer->is_done, true, memory_order_release);
    return NULL;
}

/* What was there before the search began is found: compared with an exact search made before. */
static double recall_under_writes(struct engine *engine, const struct data *data, uint64_t *random)
{
    struct engine_hit hits[10];
    struct engine_hit exact[10];
    struct engine_query query = {.k = 10, .bound = INFINITY, .exact = true};
    struct engine_counters counters;
    float vector[DIM];
    size_t count;
    size_t right = 0;
    struct err err;

    data_vector(data, (uint32_t)(data_random(random) % data->clusters), 0.0f, random, vector);
    query.vector = vector;
    assert_int_equal(engine_search(engine, &query, exact, &count, NULL, &err), ERR_OK);
    assert_int_equal(count, 10);
    query.exact = false;
    assert_int_equal(engine_search(engine, &query, hits, &count, &counters, &err), ERR_OK);
    assert_int_equal(count, 10);
    assert_string_equal(counters.plan, "hnsw");
    for (size_t i = 0; i < 10; i++) {
        right += hits[i].distance <= exact[9].distance;
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(hits[i].ordinal, hits[j].ordinal);
    }
    return (double)right / 10;
}

static void recall_holds_while_inserting(void **state)
{
    struct data data = data_make(COUNT, DIM, 0.0f, 21);
    struct writer writer = {.engine = data_open(DIM, ENGINE_L2), .data = &data};
    struct err err = {0};
    uint64_t random = 8;
    pthread_t thread;
    double sum = 0;
    uint32_t searches = 0;

    (void)state;
    data_insert(writer.engine, &data, 0, COUNT / 4);
    data_link(writer.engine);
    assert_int_equal(pthread_create(&thread, NULL, write_all, &writer), 0);
    do {
        sum += recall_under_writes(writer.engine, &data, &random);
        searches++;
    } while (!atomic_load_explicit(&writer.is_done, memory_order_acquire) || searches < 50);
    assert_int_equal(pthread_join(thread, NULL), 0);
    printf("while inserting: recall %.4f of %u searches\n", sum / searches, searches);
    assert_true(sum / searches >= 0.95);
    assert_int_equal(engine_validate(writer.engine, &err), ERR_OK);
    engine_close(writer.engine);
    data_free(&data);
}

static void recall_holds_after_deletes(void **state)
{
    struct data data = data_make(2 * COUNT, DIM, 0.0f, 22);
    struct engine *engine = data_open(DIM, ENGINE_COSINE);
    struct err err = {0};

    (void)state;
    engine->forced = PLAN_WALK; /* so few could as well be scanned */
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    for (uint32_t i = 0; i < COUNT; i += 2)
        engine_delete(engine, i);
    assert_int_equal(engine_count(engine), COUNT / 2);
    double half = data_recall(engine, &data, 0.0f, NULL, "hnsw");
    for (uint32_t i = 0; i < COUNT; i++)
        engine_delete(engine, i);
    assert_int_equal(engine_count(engine), 0);
    assert_true(data_recall(engine, &data, 0.0f, NULL, NULL) >= 1.0);
    data_insert(engine, &data, COUNT, 2 * COUNT);
    data_link(engine);
    double again = data_recall(engine, &data, 0.0f, NULL, "hnsw");
    printf("half deleted: recall %.4f; all deleted and replaced: %.4f\n", half, again);
    assert_true(half >= 0.95);
    assert_true(again >= 0.95);
    assert_int_equal(engine_validate(engine, &err), ERR_OK);
    engine_close(engine);
    data_free(&data);
}

static void recall_holds_over_rounds_of_replacing(void **state)
{
    enum { ROUNDS = 15, PART = COUNT / 10 };
    struct data data = data_make(COUNT + ROUNDS * PART, DIM, 0.0f, 23);
    struct engine *engine = data_open(DIM, ENGINE_COSINE);
    struct err err = {0};

    (void)state;
    engine->forced = PLAN_WALK; /* so few could as well be scanned */
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        data_insert(engine, &data, COUNT + round * PART, COUNT + (round + 1) * PART);
        for (uint32_t i = 0; i < PART; i++)
            engine_delete(engine, round * PART + i);
        data_link(engine);
    }
    assert_int_equal(engine_count(engine), COUNT);
    double recall = data_recall(engine, &data, 0.0f, NULL, "hnsw");
    printf("after %d rounds: recall %.4f\n", ROUNDS, recall);
    assert_true(recall >= 0.95);
    assert_int_equal(engine_validate(engine, &err), ERR_OK);
    engine_close(engine);
    data_free(&data);
}

/* Mean work of a search and its recall. */
struct figures {
    double recall, distances;
};

static struct figures figures_of(struct engine *engine, const struct data *data)
{
    enum { QUERIES = 200 };
    float vector[DIM];
    uint64_t state = 99;
    struct figures sum = {0};

    engine->forced = PLAN_WALK;
    for (uint32_t i = 0; i < QUERIES; i++) {
        struct engine_query query = {.vector = vector, .k = 10, .ef = 60, .bound = INFINITY};
        struct engine_counters counters;

        data_vector(data, i % data->clusters, 0.0f, &state, vector);
        sum.recall += data_recall_one(engine, query, &counters) / QUERIES;
        sum.distances += (double)counters.distances / QUERIES;
    }
    return sum;
}

static void maintain_if_due(struct engine *engine)
{
    struct err err;

    if (engine_is_due(engine))
        assert_int_equal(engine_maintain(engine, NULL, &err), ERR_OK);
    data_link(engine);
}

/* The oldest make room for new ones; what is left is compared with an engine that never held
 * anything else. */
static void replace_and_compare(uint32_t rounds, uint32_t part)
{
    struct data data = data_make(COUNT + rounds * part, DIM, 0.0f, 29);
    struct engine *engine = data_open(DIM, ENGINE_COSINE);
    struct engine *fresh = data_open(DIM, ENGINE_COSINE);
    struct err err = {0};

    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    for (uint32_t round = 0; round < rounds; round++) {
        data_insert(engine, &data, COUNT + round * part, COUNT + (round + 1) * part);
        for (uint32_t i = 0; i < part; i++)
            engine_delete(engine, round * part + i);
        maintain_if_due(engine);
    }
    data_insert(fresh, &data, rounds * part, data.count);
    data_link(fresh);
    assert_int_equal(engine_count(engine), COUNT);
    struct figures now = figures_of(engine, &data), best = figures_of(fresh, &data);
    double memory = (double)engine_memory_used(engine) / (double)engine_memory_used(fresh);
    printf("%u rounds of %u: recall %.4f, fresh %.4f; distances %.0f, fresh %.0f; memory %.2f\n",
           rounds, part, now.recall, best.recall, now.distances, best.distances, memory);
    assert_true(now.recall >= best.recall - 0.005);
    assert_true(now.distances <= best.distances * 1.1);
    assert_true(memory <= 1.3); /* a fifth may be dead */
    assert_int_equal(engine_validate(engine, &err), ERR_OK);
    engine_close(engine);
    engine_close(fresh);
    data_free(&data);
}

static void with_maintenance_it_stays_as_good_as_a_fresh_build(void **state)
{
    (void)state;
    replace_and_compare(100, COUNT / 100);
    replace_and_compare(30, COUNT / 10);
    replace_and_compare(1, COUNT / 2);
    replace_and_compare(19, COUNT / 100); /* as many dead as there may be */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recall_holds_while_inserting),
        cmocka_unit_test(recall_holds_after_deletes),
        cmocka_unit_test(recall_holds_over_rounds_of_replacing),
        cmocka_unit_test(with_maintenance_it_stays_as_good_as_a_fresh_build),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
