/* Whatever share of the vectors a filter names and wherever they lie, near the query or far from
 * it: recall is at least 95 %, and k hits are found whenever k match. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "common/base/limits.h"
#include "engine/internal.h"
#include "tests/lib/engine_data.h"

enum { COUNT = 20000, DIM = 48, WORDS = COUNT / 64 + 1, QUERIES = 20, K = 10 };

enum kind { UNCORRELATED, CORRELATED, ANTI, KINDS };

struct fixture {
    struct data data;
    struct engine *engine;
    float queries[QUERIES][DIM];
    struct engine_hit *orders[QUERIES]; /* all vectors, nearest first */
};

struct filter {
    struct engine_bitmap bitmap;
    uint64_t words[WORDS];
};

static size_t search(struct engine *engine, struct engine_query query, struct engine_hit *hits,
                     struct engine_counters *counters)
{
    struct err err = {0};
    size_t count;

    query.bound = INFINITY;
    if (engine_search(engine, &query, hits, &count, counters, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return count;
}

static struct engine *build(const struct data *data, uint32_t gap, uint32_t linked)
{
    struct engine_options options = {
        .dim = DIM, .metric = ENGINE_COSINE, .ef_construction = 100, .seed = 3};
    struct engine *engine;
    struct err err = {0};

    if (engine_open(&engine, NULL, &options, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
    for (uint32_t i = 0; i < data->count; i++) {
        if (i == linked)
            data_link(engine);
        assert_int_equal(engine_insert(engine, i * gap + gap / 2, data_at(data, i), &err), ERR_OK);
    }
    if (linked >= data->count)
        data_link(engine);
    return engine;
}

static int set_up(void **state)
{
    static struct fixture f;
    uint64_t random = 17;

    f.data = data_make(COUNT, DIM, 0.0f, 5);
    for (uint32_t i = 0; i < 50; i++) /* twins */
        memcpy(f.data.vectors + (size_t)(COUNT - 1 - i) * DIM, data_at(&f.data, 7 * i),
               DIM * sizeof(float));
    f.engine = build(&f.data, 1, COUNT);
    for (uint32_t q = 0; q < QUERIES; q++) {
        data_vector(&f.data, q % f.data.clusters, 0.0f, &random, f.queries[q]);
        f.orders[q] = calloc(COUNT, sizeof(*f.orders[q]));
        assert_non_null(f.orders[q]);
        assert_int_equal(
            search(f.engine,
                   (struct engine_query){.vector = f.queries[q], .k = COUNT, .exact = true},
                   f.orders[q], NULL),
            COUNT);
    }
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    for (uint32_t q = 0; q < QUERIES; q++)
        free(f->orders[q]);
    engine_close(f->engine);
    data_free(&f->data);
    return 0;
}

static void name(struct filter *filter, uint32_t ordinal)
{
    filter->bitmap.cardinality += (filter->words[ordinal / 64] >> ordinal % 64 & 1) == 0;
    filter->words[ordinal / 64] |= UINT64_C(1) << ordinal % 64;
}

/* Correlated: two in three of the nearest 3/2 share; anti: of the farthest. */
static void make_filter(const struct fixture *f, uint32_t q, double share, enum kind kind,
                        struct filter *filter)
{
    uint64_t random = q * 31 + 1;

    *filter = (struct filter){.bitmap = {.word_count = WORDS}};
    filter->bitmap.words = filter->words;
    for (uint32_t i = 0; i < COUNT; i++) {
        double chance = (double)(data_random(&random) >> 11) * 0x1p-53;
        double place = (double)i / COUNT;
        bool is_near = kind == CORRELATED ? place < 1.5 * share : place >= 1 - 1.5 * share;

        if (kind == UNCORRELATED ? chance < share : is_near && chance * 3 < 2)
            name(filter, f->orders[q][i].ordinal);
    }
}

/* Mean over the queries; hits must be admitted, ascending, and as many as there are, up to K. */
static double recall(struct fixture *f, double share, enum kind kind, uint32_t *walked)
{
    static struct filter filter;
    double sum = 0;

    *walked = 0;
    for (uint32_t q = 0; q < QUERIES; q++) {
        struct engine_query query = {
            .vector = f->queries[q], .k = K, .filter = &filter.bitmap, .bound = INFINITY};
        struct engine_counters counters;

        make_filter(f, q, share, kind, &filter);
        sum += data_recall_one(f->engine, query, &counters);
        *walked += strcmp(counters.plan, "hnsw_filter") == 0;
    }
    return sum / QUERIES;
}

static const double shares[] = {0.5, 0.1, 0.01, 0.001, 0.0001};
static const char *const names[KINDS] = {"uncorrelated", "correlated", "anti-correlated"};

static void every_share_and_place_keeps_recall(void **state)
{
    uint32_t walked;

    for (size_t i = 0; i < ARRAY_COUNT(shares); i++)
        for (enum kind kind = UNCORRELATED; kind < KINDS; kind++) {
            double found = recall(*state, shares[i], kind, &walked);

            printf("%s %.2f %%: recall %.4f, %u of %u walked\n", names[kind], 100 * shares[i],
                   found, walked, QUERIES);
            assert_true(found >= 0.95);
            assert_true(shares[i] > 0.001 || walked == 0);
        }
}

static void a_scan_by_codes_is_nearly_exact(void **state)
{
    struct fixture *f = *state;
    uint32_t walked;

    f->engine->forced = PLAN_SCAN;
    for (size_t i = 0; i < ARRAY_COUNT(shares); i++)
        for (enum kind kind = UNCORRELATED; kind < KINDS; kind++) {
            double found = recall(f, shares[i], kind, &walked);

            assert_int_equal(walked, 0);
            assert_true(found >= 0.995); /* one hit of 200 */
        }
    f->engine->forced = PLAN_CHOOSE;
}

/* Also of vectors of many lengths, and of the farther half, where many lie equally far. */
static void a_scan_by_codes_serves_every_metric(void **state)
{
    enum { SOME = 4000 };
    struct fixture *f = *state;
    struct data data = data_make(SOME, DIM, 0.5f, 6);
    struct engine_hit *order = calloc(SOME, sizeof(*order));

    assert_non_null(order);
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++) {
        struct engine *engine = data_open(DIM, metric);
        double sum = 0;

        data_insert(engine, &data, 0, SOME);
        data_link(engine);
        engine->forced = PLAN_SCAN;
        for (uint32_t q = 0; q < QUERIES; q++) {
            static struct filter filter;
            struct engine_query query = {.vector = f->queries[q], .k = SOME, .exact = true};

            assert_int_equal(search(engine, query, order, NULL), SOME);
            filter = (struct filter){.bitmap = {.words = filter.words, .word_count = WORDS}};
            for (uint32_t i = SOME / 2; i < SOME; i++)
                name(&filter, order[i].ordinal);
            query = (struct engine_query){
                .vector = f->queries[q], .k = K, .filter = &filter.bitmap, .bound = INFINITY};
            sum += data_recall_one(engine, query, NULL);
        }
        printf("metric %d: recall %.4f\n", (int)metric, sum / QUERIES);
        assert_true(sum / QUERIES >= 0.995);
        engine_close(engine);
    }
    free(order);
    data_free(&data);
}

/* The walk by itself, where it is meant for. */
static void a_walk_finds_what_lies_near(void **state)
{
    struct fixture *f = *state;
    uint32_t walked;

    f->engine->forced = PLAN_WALK;
    for (size_t i = 0; i < 2; i++)
        for (enum kind kind = UNCORRELATED; kind <= CORRELATED; kind++) {
            double found = recall(f, shares[i], kind, &walked);

            printf("walk, %s %.0f %%: recall %.4f\n", names[kind], 100 * shares[i], found);
            assert_int_equal(walked, QUERIES);
            assert_true(found >= 0.9);
        }
    /* Where it is not meant for, it must still find k. */
    (void)recall(f, 0.001, ANTI, &walked);
    f->engine->forced = PLAN_CHOOSE;
}

/* Where no slack says how far a walk goes. */
static void inner_products_of_uneven_lengths_are_walked_by_the_beam(void **state)
{
    enum { SOME = 8000 };
    struct fixture *f = *state;
    struct data data = data_make(SOME, DIM, 0.5f, 7);
    struct engine *engine = data_open(DIM, ENGINE_IP);

    data_insert(engine, &data, 0, SOME);
    data_link(engine);
    assert_true(graph_of(engine)->length == 0.0f);
    engine->forced = PLAN_WALK;
    for (uint32_t one_in = 2; one_in <= 8; one_in *= 2) {
        static struct filter filter;
        struct engine_query query = {.k = K, .filter = &filter.bitmap, .bound = INFINITY};
        struct engine_counters counters;
        double sum = 0;

        filter = (struct filter){.bitmap = {.words = filter.words, .word_count = WORDS}};
        for (uint32_t i = 1; i < SOME; i += one_in)
            name(&filter, i);
        for (uint32_t q = 0; q < QUERIES; q++) {
            query.vector = f->queries[q];
            sum += data_recall_one(engine, query, &counters);
            assert_string_equal(counters.plan, "hnsw_filter");
        }
        printf("one in %u: recall %.4f\n", one_in, sum / QUERIES);
        assert_true(sum / QUERIES >= 0.95);
    }
    engine_close(engine);
    data_free(&data);
}

static void foreign_and_empty_filters_find_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t words[WORDS + 100] = {0};
    struct engine_bitmap bitmap = {.words = words, .word_count = WORDS + 100};
    struct engine_query query = {.vector = f->queries[0], .k = K, .filter = &bitmap};
    struct engine_hit hits[K];

    assert_int_equal(search(f->engine, query, hits, NULL), 0);
    bitmap.cardinality = COUNT; /* a lie about the share must cost time only */
    assert_int_equal(search(f->engine, query, hits, NULL), 0);
    words[WORDS + 90] = ~UINT64_C(0);
    assert_int_equal(search(f->engine, query, hits, NULL), 0);
    bitmap = (struct engine_bitmap){.cardinality = COUNT};
    assert_int_equal(search(f->engine, query, hits, NULL), 0);
}

/* What lies beyond the last word is excluded. */
static void a_short_filter_ends_where_it_ends(void **state)
{
    struct fixture *f = *state;
    uint64_t words[WORDS];

    memset(words, 0xff, sizeof(words));
    for (size_t count = 1; count < WORDS; count += 60)
        for (uint32_t q = 0; q < 3; q++) {
            struct engine_bitmap bitmap = {
                .words = words, .word_count = count, .cardinality = count * 64};
            struct engine_query query = {
                .vector = f->queries[q], .k = K, .filter = &bitmap, .bound = INFINITY};
            struct engine_hit hits[K];

            assert_int_equal(search(f->engine, query, hits, NULL), K);
            for (size_t i = 0; i < K; i++)
                assert_true(hits[i].ordinal < count * 64);
        }
}

static void exact_is_the_true_scan(void **state)
{
    struct fixture *f = *state;
    static struct filter filter;

    for (uint32_t q = 0; q < QUERIES; q++)
        for (enum kind kind = UNCORRELATED; kind < KINDS; kind++) {
            struct engine_query query = {
                .vector = f->queries[q], .k = K, .filter = &filter.bitmap, .exact = true};
            struct engine_counters counters;
            struct engine_hit hits[K];
            size_t at = 0;

            make_filter(f, q, 0.1, kind, &filter);
            assert_int_equal(search(f->engine, query, hits, &counters), K);
            assert_int_equal(counters.scanned, filter.bitmap.cardinality);
            assert_int_equal(counters.distances, filter.bitmap.cardinality);
            for (size_t i = 0; i < COUNT && at < K; i++) {
                const struct engine_hit *hit = &f->orders[q][i];

                if ((filter.words[hit->ordinal / 64] >> hit->ordinal % 64 & 1) == 0)
                    continue;
                assert_int_equal(hits[at].ordinal, hit->ordinal);
                assert_true(hits[at++].distance == hit->distance);
            }
        }
}

/* The node is refused, its twin is not. */
static void a_twin_is_found_without_its_node(void **state)
{
    struct fixture *f = *state;

    for (uint32_t i = 0; i < 50; i += 7) {
        static struct filter filter;
        struct engine_query query = {
            .vector = data_at(&f->data, 7 * i), .k = K, .filter = &filter.bitmap};
        struct engine_hit hits[K];

        make_filter(f, 0, 0.5, UNCORRELATED, &filter);
        filter.words[7 * i / 64] &= ~(UINT64_C(1) << 7 * i % 64);
        name(&filter, COUNT - 1 - i);
        for (enum plan plan = PLAN_CHOOSE; plan <= PLAN_WALK; plan++) {
            f->engine->forced = plan;
            assert_int_equal(search(f->engine, query, hits, NULL), K);
            assert_int_equal(hits[0].ordinal, COUNT - 1 - i);
        }
        f->engine->forced = PLAN_CHOOSE;
    }
}

static void equal_questions_have_equal_answers(void **state)
{
    struct fixture *f = *state;
    static struct filter filter;

    for (size_t i = 0; i < ARRAY_COUNT(shares); i++)
        for (uint32_t q = 0; q < 5; q++) {
            struct engine_hit hits[2][K];
            struct engine_counters counters[2];

            make_filter(f, q, shares[i], CORRELATED, &filter);
            for (size_t turn = 0; turn < 2; turn++) {
                struct engine_query query = {
                    .vector = f->queries[q], .k = K, .filter = &filter.bitmap};
                size_t count = search(f->engine, query, hits[turn], &counters[turn]);

                memset(hits[turn] + count, 0, (K - count) * sizeof(hits[turn][0]));
                query.vector = f->queries[q + 1]; /* another one leaves its marks behind */
                struct engine_hit others[K];
                (void)search(f->engine, query, others, NULL);
            }
            assert_memory_equal(hits[0], hits[1], sizeof(hits[0]));
            assert_string_equal(counters[0].plan, counters[1].plan);
            assert_int_equal(counters[0].distances, counters[1].distances);
            assert_int_equal(counters[0].hops, counters[1].hops);
        }
}

/* Ordinals with gaps, a part that is not linked yet, and the dead: until but a few are left. */
static void gaps_tails_and_the_dead_make_no_difference(void **state)
{
    enum { FEW = 6000, GAP = 3, LINKED = 5000 };
    struct fixture *f = *state;
    struct data data = f->data;
    uint64_t words[(FEW * GAP) / 64 + 1];
    struct engine_bitmap bitmap = {.words = words, .word_count = ARRAY_COUNT(words)};

    data.count = FEW;
    struct engine *engine = build(&data, GAP, LINKED);
    for (uint32_t dying = FEW; dying >= 5; dying /= 2) {
        for (size_t i = 0; i < ARRAY_COUNT(words); i++)
            words[i] = UINT64_C(0x5b5b5b5b5b5b5b5b);
        bitmap.cardinality = (uint64_t)ARRAY_COUNT(words) * 40;
        double sums[2] = {0};
        for (uint32_t q = 0; q < QUERIES; q++)
            for (int is_filtered = 0; is_filtered <= 1; is_filtered++)
                sums[is_filtered] += data_recall_one(
                    engine,
                    (struct engine_query){.vector = f->queries[q],
                                          .k = K,
                                          .filter = is_filtered != 0 ? &bitmap : NULL,
                                          .bound = INFINITY},
                    NULL);
        printf("%u alive: recall %.4f, filtered %.4f\n", (uint32_t)engine_count(engine),
               sums[0] / QUERIES, sums[1] / QUERIES);
        assert_true(sums[0] / QUERIES >= 0.95 && sums[1] / QUERIES >= 0.95);
        for (uint32_t i = dying / 2; i < dying; i++)
            engine_delete(engine, i * GAP + GAP / 2);
    }
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_share_and_place_keeps_recall),
        cmocka_unit_test(a_scan_by_codes_is_nearly_exact),
        cmocka_unit_test(a_scan_by_codes_serves_every_metric),
        cmocka_unit_test(a_walk_finds_what_lies_near),
        cmocka_unit_test(inner_products_of_uneven_lengths_are_walked_by_the_beam),
        cmocka_unit_test(foreign_and_empty_filters_find_nothing),
        cmocka_unit_test(a_short_filter_ends_where_it_ends),
        cmocka_unit_test(exact_is_the_true_scan),
        cmocka_unit_test(a_twin_is_found_without_its_node),
        cmocka_unit_test(equal_questions_have_equal_answers),
        cmocka_unit_test(gaps_tails_and_the_dead_make_no_difference),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
