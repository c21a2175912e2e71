/* A filter of any selectivity, also one that is correlated with the query for or against it,
 * keeps recall at 95 %, and as many hits come back as there are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/lib/engine_data.h"

enum { COUNT = 12000, DIM = 32, WORDS = COUNT / 64 + 1 };

struct fixture {
    struct data data;
    struct engine *engine;
};

static int set_up(void **state)
{
    static struct fixture fixture;

    fixture.data = data_make(COUNT, DIM, 0.0f, 5);
    fixture.engine = data_open(DIM, ENGINE_COSINE);
    data_insert(fixture.engine, &fixture.data, 0, COUNT);
    data_link(fixture.engine);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    engine_close(fixture->engine);
    data_free(&fixture->data);
    return 0;
}

static void admit(struct engine_bitmap *bitmap, uint64_t *words, uint32_t ordinal)
{
    bitmap->cardinality += (words[ordinal / 64] >> ordinal % 64 & 1) == 0;
    words[ordinal / 64] |= UINT64_C(1) << ordinal % 64;
}

static void any_selectivity_keeps_recall(void **state)
{
    static const double shares[] = {0.9, 0.5, 0.3, 0.1, 0.01, 0.001, 0.0001};
    struct fixture *fixture = *state;

    for (size_t i = 0; i < ARRAY_COUNT(shares); i++) {
        uint64_t words[WORDS] = {0};
        struct engine_bitmap bitmap = {.words = words, .word_count = WORDS};
        uint64_t random = 99;

        for (uint32_t j = 0; j < COUNT; j++)
            if ((double)(data_random(&random) >> 11) * 0x1p-53 < shares[i])
                admit(&bitmap, words, j);
        const char *plan = shares[i] >= 0.5 ? "hnsw_filter" : NULL;
        double recall = data_recall(fixture->engine, &fixture->data, 0.0f, &bitmap,
                                    shares[i] <= 0.1 ? "flat_filter" : plan);
        printf("share %.4f (%llu): recall %.4f\n", shares[i],
               (unsigned long long)bitmap.cardinality, recall);
        assert_true(recall >= 0.95);
    }
}

/* The query's own cluster is all that is admitted, or all that is not. */
static void correlated_filters_keep_recall(void **state)
{
    struct fixture *fixture = *state;
    struct data *data = &fixture->data;
    float vector[DIM];
    uint64_t random = 3;

    for (int is_against = 0; is_against <= 1; is_against++) {
        double sum = 0;

        for (uint32_t i = 0; i < 60; i++) {
            uint64_t words[WORDS] = {0};
            struct engine_bitmap bitmap = {.words = words, .word_count = WORDS};

            for (uint32_t j = 0; j < COUNT; j++)
                if ((j % data->clusters % 2 == i % data->clusters % 2) == (is_against == 0))
                    admit(&bitmap, words, j);
            data_vector(data, i % data->clusters, 0.0f, &random, vector);
            sum += data_recall_one(
                fixture->engine,
                (struct engine_query){
                    .vector = vector, .k = 10, .filter = &bitmap, .bound = INFINITY},
                NULL);
        }
        printf("%s the query: recall %.4f\n", is_against != 0 ? "against" : "with", sum / 60);
        assert_true(sum / 60 >= 0.95);
    }
}

static void empty_and_foreign_filters_find_nothing(void **state)
{
    struct fixture *fixture = *state;
    uint64_t words[WORDS + 100] = {0};
    struct engine_bitmap bitmap = {.words = words, .word_count = WORDS + 100};
    struct engine_query query = {
        .vector = data_at(&fixture->data, 0), .k = 10, .filter = &bitmap, .bound = INFINITY};
    struct engine_hit hits[10];
    size_t count;
    struct err err;

    assert_int_equal(engine_search(fixture->engine, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_equal(count, 0);
    admit(&bitmap, words, COUNT + 4000);
    bitmap.cardinality = COUNT; /* a lie about the share must cost time only */
    assert_int_equal(engine_search(fixture->engine, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_equal(count, 0);
    admit(&bitmap, words, 17);
    assert_int_equal(engine_search(fixture->engine, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_equal(count, 1);
    assert_int_equal(hits[0].ordinal, 17);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_selectivity_keeps_recall),
        cmocka_unit_test(correlated_filters_keep_recall),
        cmocka_unit_test(empty_and_foreign_filters_find_nothing),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
