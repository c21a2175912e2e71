/* Vectors that become cold are found as before, by one search over graph and inverted files; they
 * come back when the engine is opened again.
 * pace: long */
#include "tests/unit/engine_cold_rig.h"

/* --- searching ------------------------------------------------------------------------------- */

static void the_oldest_become_cold_and_are_found(void **state)
{
    struct engine *engine = filled(COUNT);
    struct engine *expected = never_cold(COUNT);
    struct engine_query query = {.vector = data_at(&data, 1), .k = K, .bound = INFINITY};
    struct engine_hit hits[K];
    struct engine_counters counters;

    (void)state;
    assert_true(engine_is_due(engine));
    maintain(engine);
    assert_int_equal(colds_of(engine)->count, 1);
    assert_int_equal(colds_rows(colds_of(engine)), COUNT - ABOVE / 2);
    assert_int_equal(engine_count(engine), COUNT);
    assert_true(engine_linked(engine) + 64 > COUNT);
    assert_valid(engine);
    assert_equal(engine, expected, NULL, INFINITY);
    assert_int_equal(ask(engine, &query, hits, &counters), K);
    assert_string_equal(counters.plan, "hnsw+ivf");
    assert_true(counters.lists > 0 && counters.linked + 64 > COUNT);
    assert_int_equal(hits[0].ordinal, 1);
    assert_true(hits[0].distance < 1e-6f);
    assert_true(data_recall(engine, &data, 0.0f, NULL, "hnsw+ivf") >= 0.95);
    engine_close(engine);
    engine_close(expected);
}

static void every_metric_and_kind_finds_as_much(void **state)
{
    (void)state;
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++)
        for (enum ivf_kind kind = IVF_PQ; kind <= IVF_RABITQ; kind++) {
            struct engine_options of = options;

            of.metric = metric;
            of.cold_kind = kind;
            struct engine *engine = open_with(&of, folder);
            data_insert(engine, &data, 0, COUNT);
            data_link(engine);
            maintain(engine);
            double recall = data_recall(engine, &data, 0.0f, NULL, "hnsw+ivf");
            printf("metric %d, kind %d: recall %.3f\n", (int)metric, (int)kind, recall);
            assert_true(recall >= 0.95);
            engine_close(engine);
            engine = open_with(&of, folder);
            assert_string_equal(engine_notice(engine), "");
            assert_true(data_recall(engine, &data, 0.0f, NULL, "hnsw+ivf") >= 0.95);
            engine_close(engine);
            empty_folder();
        }
}

static void filters_and_bounds_reach_both(void **state)
{
    struct engine *engine = half_cold();
    struct engine *expected = never_cold(COUNT);
    static uint64_t words[COUNT / 64 + 1];
    static const struct {
        uint32_t from, to, every;
    } names[] = {{0, COUNT, 3},  {0, 500, 1},     {2500, COUNT, 1},      {1900, 2100, 1},
                 {0, COUNT, 97}, {0, COUNT, 900}, {COUNT - 1, COUNT, 1}, {0, 0, 1}};

    (void)state;
    for (size_t f = 0; f < ARRAY_COUNT(names); f++) {
        struct engine_bitmap filter = {.words = words, .word_count = ARRAY_COUNT(words)};

        memset(words, 0, sizeof(words));
        for (uint32_t i = names[f].from; i < names[f].to; i += names[f].every) {
            words[i / 64] |= UINT64_C(1) << i % 64;
            filter.cardinality++;
        }
        assert_equal(engine, expected, &filter, INFINITY);
        assert_equal(engine, expected, &filter, 0.4f);
        double recall = data_recall(engine, &data, 0.0f, &filter, NULL);
        printf("filter %zu: recall %.3f\n", f, recall);
        assert_true(recall >= 0.95);
    }
    assert_equal(engine, expected, NULL, 0.3f);
    engine_close(engine);
    engine_close(expected);
}

static void k_hits_are_found_whenever_there_are_k(void **state)
{
    struct engine *engine = half_cold();
    static struct engine_hit hits[COUNT + 10];

    (void)state;
    for (uint32_t k = 1; k <= COUNT + 10; k = k * 3 + 1) {
        struct engine_query query = {
            .vector = data_at(&data, k % COUNT), .k = k, .bound = INFINITY};
        size_t count = ask(engine, &query, hits, NULL);

        assert_int_equal(count, k < COUNT ? k : COUNT);
        for (size_t i = 1; i < count; i++)
            assert_true(hits[i - 1].distance < hits[i].distance ||
                        (hits[i - 1].distance == hits[i].distance &&
                         hits[i - 1].ordinal < hits[i].ordinal));
    }
    for (uint32_t i = 0; i < COUNT; i++) /* the graph's, and most of the cold */
        if (i % 700 != 3 || i >= ABOVE)
            engine_delete(engine, i);
    struct engine_query query = {.vector = data_at(&data, 5), .k = K, .bound = INFINITY};
    assert_int_equal(ask(engine, &query, hits, NULL), 3);
    assert_int_equal(engine_count(engine), 3);
    engine_close(engine);
}

static void a_deadline_is_kept(void **state)
{
    struct engine *engine = half_cold();
    struct engine_query query = {
        .vector = data_at(&data, 1), .k = K, .bound = INFINITY, .deadline_ns = 1};
    struct engine_hit hits[K];
    size_t count;
    struct err err;

    (void)state;
    assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_TIMEOUT);
    engine_close(engine);
}

/* --- coming and going ------------------------------------------------------------------------ */

static void what_was_cold_is_there_again(void **state)
{
    struct engine *engine = half_cold();
    struct engine *expected = never_cold(COUNT);

    (void)state;
    uint32_t covered = engine_covered(engine);
    uint64_t linked = engine_linked(engine);
    assert_true(covered > ABOVE);
    data_link(engine);
    engine_close(engine);
    engine = open_engine();
    assert_string_equal(engine_notice(engine), "");
    assert_int_equal(engine_covered(engine), covered);
    assert_true(engine_count(engine) <= linked);
    assert_int_equal(colds_rows(colds_of(engine)), COUNT - ABOVE / 2);
    struct err err;
    assert_int_equal(engine_insert(engine, 5, data_at(&data, 5), &err), ERR_INVALID_ARGUMENT);
    data_insert(engine, &data, covered, COUNT);
    data_link(engine);
    assert_equal(engine, expected, NULL, INFINITY);
    assert_valid(engine);
    engine_close(engine);
    engine_close(expected);
}

static void the_dead_are_not_found(void **state)
{
    struct engine *engine = half_cold();
    struct engine *expected = never_cold(COUNT);
    static uint64_t words[COUNT / 64 + 1];
    struct engine_bitmap living = {.words = words, .word_count = ARRAY_COUNT(words)};

    (void)state;
    for (uint32_t i = 0; i < COUNT; i++) {
        if (i % 7 == 0) {
            engine_delete(engine, i);
            engine_delete(engine, i);
            engine_delete(expected, i);
        } else {
            words[i / 64] |= UINT64_C(1) << i % 64;
            living.cardinality++;
        }
    }
    engine_delete(engine, COUNT + 5);
    assert_int_equal(engine_count(engine), living.cardinality);
    assert_equal(engine, expected, NULL, INFINITY);
    assert_true(data_recall(engine, &data, 0.0f, NULL, NULL) >= 0.95);
    engine_close(engine);
    engine = open_engine();
    data_insert(engine, &data, engine_covered(engine), COUNT);
    engine_keep(engine, &living);
    assert_int_equal(engine_count(engine), living.cardinality);
    assert_valid(engine);
    assert_equal(engine, expected, NULL, INFINITY);
    for (uint32_t i = 0; i < COUNT; i++) /* the owner changes its mind */
        words[i / 64] |= UINT64_C(1) << i % 64;
    engine_keep(engine, &living);
    assert_int_equal(engine_count(engine), COUNT);
    engine_close(engine);
    engine_close(expected);
}

static void parts_that_pile_up_are_merged(void **state)
{
    struct engine_options of = options;
    uint32_t most = 0;

    (void)state;
    of.cold_above = 600;
    struct engine *engine = open_with(&of, folder);
    for (uint32_t i = 0; i < COUNT; i += 250) {
        data_insert(engine, &data, i, i + 250);
        data_link(engine);
        maintain(engine);
        uint32_t parts = colds_of(engine) == NULL ? 0 : colds_of(engine)->count;
        most = parts > most ? parts : most;
        assert_true(parts <= 4);
        assert_int_equal(count_files(), parts);
        assert_valid(engine);
    }
    assert_true(most > 2);
    struct engine *expected = never_cold(COUNT);
    assert_equal(engine, expected, NULL, INFINITY);
    engine_close(engine);
    engine = open_with(&of, folder);
    assert_complete(engine, COUNT);
    engine_close(engine);
    engine_close(expected);
}

static off_t cold_size(const struct engine *engine)
{
    char path[300];
    struct stat about;

    path_of(colds_of(engine)->parts[0]->number, path, sizeof(path));
    assert_int_equal(stat(path, &about), 0);
    return about.st_size;
}

static void the_dead_give_their_room_back(void **state)
{
    struct engine *engine = half_cold();

    (void)state;
    off_t before = cold_size(engine);
    for (uint32_t i = 0; i < 300; i++)
        engine_delete(engine, i);
    assert_false(engine_is_due(engine));
    for (uint32_t i = 300; i < ABOVE; i += 2)
        engine_delete(engine, i);
    assert_true(engine_is_due(engine));
    uint64_t count = engine_count(engine);
    maintain(engine);
    assert_int_equal(engine_count(engine), count);
    assert_true(cold_size(engine) < before * 6 / 10);
    assert_int_equal(count_files(), 1);
    assert_valid(engine);
    for (uint32_t i = 0; i < ABOVE; i++)
        engine_delete(engine, i);
    maintain(engine);
    assert_int_equal(engine_count(engine), COUNT - ABOVE);
    assert_int_equal(colds_of(engine)->parts[0]->ivf->rows.count, 0);
    engine_close(engine);
    engine = open_engine();
    assert_string_equal(engine_notice(engine), "");
    assert_int_equal(colds_of(engine)->count, 1);
    assert_true(engine_covered(engine) > ABOVE);
    engine_close(engine);
}

static void memory_is_foretold_and_small(void **state)
{
    struct engine_options of = options;
    struct engine *warm = never_cold(COUNT);
    struct engine *engine = half_cold();

    (void)state;
    assert_true(engine_memory_used(engine) < engine_memory_used(warm));
    engine_close(engine);
    of.cold_above = ABOVE / 2;
    engine = open_with(&of, folder);
    double predicted = (double)engine_predict(&of, engine_count(engine), ENGINE_LOAD);
    assert_true(data_recall(engine, &data, 0.0f, NULL, "hnsw+ivf") >= 0.95);
    double used = (double)engine_memory_used(engine);
    printf("predicted %.0f, used %.0f\n", predicted, used);
    assert_true(used <= predicted * 1.15 && used >= predicted * 0.85);
    engine_close(engine);
    engine_close(warm);
}

static void an_engine_that_keeps_nothing_has_nothing_cold(void **state)
{
    struct engine *engine = open_with(&options, NULL);

    (void)state;
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    assert_false(engine_is_due(engine));
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KEPT(the_oldest_become_cold_and_are_found),
        KEPT(every_metric_and_kind_finds_as_much),
        KEPT(filters_and_bounds_reach_both),
        KEPT(k_hits_are_found_whenever_there_are_k),
        KEPT(a_deadline_is_kept),
        KEPT(what_was_cold_is_there_again),
        KEPT(the_dead_are_not_found),
        KEPT(parts_that_pile_up_are_merged),
        KEPT(the_dead_give_their_room_back),
        KEPT(memory_is_foretold_and_small),
        cmocka_unit_test(an_engine_that_keeps_nothing_has_nothing_cold),
    };

    return cmocka_run_group_tests(tests, make_data, free_data);
}
