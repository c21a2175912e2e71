/* Vectors that become cold are found as before, by one search over graph and inverted files; they
 * come back when the engine is opened again; a process that ends anywhere, or a step that fails,
 * leaves a folder that opens; what is damaged is set aside and inserted again.
 * pace: long */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/cold.h"
#include "engine/internal.h"
#include "engine/memory.h"
#include "tests/lib/engine_data.h"
#include "tests/lib/scratch.h"

enum { COUNT = 3000, MORE = 3000, DIM = 24, ABOVE = 2000, K = 10 };

static char folder[200];
static char segment[240];
static struct data data;

static const struct engine_options options = {.dim = DIM,
                                              .metric = ENGINE_COSINE,
                                              .m = 8,
                                              .ef_construction = 40,
                                              .flat_below = 1,
                                              .cold_above = ABOVE,
                                              .seed = 7};

static int make_data(void **state)
{
    (void)state;
    data = data_make(COUNT + MORE, DIM, 0.0f, 78);
    for (uint32_t i = 9; i < COUNT; i += 9) /* twins, in the graph and in the cold parts */
        memcpy(data.vectors + (size_t)i * DIM, data.vectors, DIM * sizeof(float));
    return 0;
}

static int free_data(void **state)
{
    (void)state;
    data_free(&data);
    return 0;
}

static int make_folder(void **state)
{
    (void)state;
    if (!scratch_make(folder, sizeof(folder), "cold"))
        return 1;
    snprintf(segment, sizeof(segment), "%s/graph.seg", folder);
    return 0;
}

static int drop_folder(void **state)
{
    (void)state;
    (void)memory_fail_at(0);
    return scratch_remove(folder);
}

static void empty_folder(void)
{
    assert_int_equal(scratch_remove(folder), 0);
    assert_int_equal(mkdir(folder, 0755), 0);
}

static struct engine *open_with(const struct engine_options *of, const char *dir)
{
    struct engine *engine;
    struct err err = {0};

    if (engine_open(&engine, dir, of, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return engine;
}

static struct engine *open_engine(void)
{
    return open_with(&options, folder);
}

static void maintain(struct engine *engine)
{
    struct err err = {0};

    while (engine_is_due(engine))
        if (engine_maintain(engine, NULL, &err) != ERR_OK)
            fail_msg("%s", err.message);
}

static void assert_valid(struct engine *engine)
{
    struct err err = {0};

    if (engine_validate(engine, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

static struct engine *filled(uint32_t count)
{
    struct engine *engine = open_engine();

    data_insert(engine, &data, 0, count);
    data_link(engine);
    return engine;
}

/* An engine of which more than half is cold. */
static struct engine *half_cold(void)
{
    struct engine *engine = filled(COUNT);

    maintain(engine);
    return engine;
}

static const struct colds *colds_of(const struct engine *engine)
{
    return graph_cold(graph_of(engine));
}

static void path_of(uint32_t number, char *path, size_t size)
{
    assert_true(cold_path(path, size, folder, number));
}

static uint32_t count_files(void)
{
    DIR *dir = opendir(folder);
    uint32_t count = 0;

    assert_non_null(dir);
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += strncmp(entry->d_name, "cold-", 5) == 0;
    closedir(dir);
    return count;
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static size_t ask(struct engine *engine, const struct engine_query *query, struct engine_hit *hits,
                  struct engine_counters *counters)
{
    struct err err = {0};
    size_t count;

    if (engine_search(engine, query, hits, &count, counters, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return count;
}

/* The exact answers of both are the same, to the bit. */
static void assert_equal(struct engine *engine, struct engine *expected,
                         const struct engine_bitmap *filter, float bound)
{
    static struct engine_hit hits[COUNT], wanted[COUNT];

    for (uint32_t q = 0; q < 20; q++) {
        struct engine_query query = {.vector = data_at(&data, q * 131),
                                     .k = q % 2 == 0 ? K : COUNT,
                                     .exact = true,
                                     .filter = filter,
                                     .bound = bound};
        size_t count = ask(engine, &query, hits, NULL);

        assert_int_equal(count, ask(expected, &query, wanted, NULL));
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(hits[i].ordinal, wanted[i].ordinal);
            assert_true(hits[i].distance == wanted[i].distance);
        }
    }
}

static struct engine *never_cold(uint32_t count)
{
    struct engine_options of = options;

    of.cold_above = 0;
    struct engine *engine = open_with(&of, NULL);
    data_insert(engine, &data, 0, count);
    data_link(engine);
    return engine;
}

/* Whatever the folder held: with what the engine does not cover it holds all, once. */
static void assert_complete(struct engine *engine, uint32_t count)
{
    struct engine *expected = never_cold(count);

    assert_valid(engine);
    data_insert(engine, &data, engine_covered(engine), count);
    data_link(engine);
    assert_int_equal(engine_count(engine), count);
    assert_equal(engine, expected, NULL, INFINITY);
    assert_valid(engine);
    engine_close(expected);
}

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

/* --- failures -------------------------------------------------------------------------------- */

struct hooks {
    uint32_t asked, stop_at;
    bool kills;           /* the process ends, instead */
    enum err_code answer; /* of make_durable */
};

static bool hook_go_on(void *state)
{
    struct hooks *hooks = state;

    if (++hooks->asked != hooks->stop_at)
        return true;
    if (hooks->kills)
        _exit(77);
    return false;
}

static enum err_code hook_make_durable(void *state, struct err *err)
{
    struct hooks *hooks = state;

    (void)hook_go_on(state);
    return hooks->answer == ERR_OK ? ERR_OK : err_set(err, hooks->answer, "the store's disk");
}

/* Everything that maintenance does: two parts are there, one is to be made anew, and more vectors
 * are to become cold. */
static struct engine *with_work(void)
{
    struct engine *engine = filled(COUNT);

    maintain(engine);
    data_insert(engine, &data, COUNT, COUNT + 1200);
    data_link(engine);
    maintain(engine);
    assert_int_equal(colds_of(engine)->count, 2);
    data_insert(engine, &data, COUNT + 1200, COUNT + 2400);
    data_link(engine);
    return engine;
}

static void it_stops_whenever_it_is_told_to(void **state)
{
    struct engine *engine = with_work();
    struct engine *expected = never_cold(COUNT + 2400);
    uint32_t stops = 0;

    (void)state;
    for (uint32_t i = 0; i < 600; i++) {
        engine_delete(engine, i);
        engine_delete(expected, i);
    }
    for (;; stops++) {
        struct hooks seen = {.stop_at = stops + 1};
        struct engine_hooks hooks = {.go_on = hook_go_on, .state = &seen};
        struct err err = {0};
        enum err_code code = engine_maintain(engine, &hooks, &err);

        assert_int_equal(engine_count(engine), COUNT + 2400 - 600);
        if (code == ERR_OK)
            break;
        assert_int_equal(code, ERR_DEAD);
        assert_true(engine_is_due(engine));
        if (stops % 16 == 0)
            assert_equal(engine, expected, NULL, INFINITY);
    }
    assert_true(stops > 50);
    assert_equal(engine, expected, NULL, INFINITY);
    assert_int_equal(count_files(), colds_of(engine)->count);
    assert_valid(engine);
    engine_close(engine);
    engine_close(expected);
}

static void a_process_may_end_anywhere(void **state)
{
    uint32_t kills = 0;

    (void)state;
    for (bool is_over = false; !is_over; kills++) {
        struct engine *engine = with_work();
        uint32_t covered = engine_covered(engine);
        pid_t child = fork();
        int status;

        assert_true(child >= 0);
        if (child == 0) {
            struct hooks seen = {.stop_at = kills * (kills < 8 ? 1 : 3) + 1, .kills = true};
            struct engine_hooks hooks = {
                .go_on = hook_go_on, .make_durable = hook_make_durable, .state = &seen};
            struct err err;

            for (uint32_t i = 0; i < 600; i++)
                engine_delete(engine, i);
            _exit(engine_maintain(engine, &hooks, &err) == ERR_OK ? 0 : 1);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 1);
        is_over = WEXITSTATUS(status) == 0;
        engine_close(engine);
        engine = open_engine();
        assert_string_equal(engine_notice(engine), "");
        assert_true(engine_covered(engine) >= covered - 64);
        assert_int_equal(count_files(), colds_of(engine)->count);
        if (is_over || kills % 8 == 0)
            for (uint32_t i = engine_covered(engine); i < COUNT + 2400; i++)
                data_insert(engine, &data, i, i + 1);
        assert_valid(engine);
        if (is_over) /* those that died are gone for good */
            assert_int_equal(engine_count(engine), COUNT + 2400 - 600);
        else if (kills % 8 == 0)
            assert_true(engine_count(engine) == COUNT + 2400 ||
                        engine_count(engine) == COUNT + 2400 - 600);
        engine_close(engine);
        empty_folder();
    }
    printf("killed %u times\n", kills - 1);
    assert_true(kills > 20);
}

static void what_cannot_be_made_durable_is_not_there(void **state)
{
    struct engine *engine = filled(COUNT);
    struct hooks seen = {.answer = ERR_IO};
    struct engine_hooks hooks = {.make_durable = hook_make_durable, .state = &seen};
    struct err err = {0};

    (void)state;
    uint64_t digest = engine_digest(engine);
    assert_int_equal(engine_maintain(engine, &hooks, &err), ERR_IO);
    assert_non_null(strstr(err.message, "the store's disk"));
    assert_true(engine_digest(engine) == digest);
    assert_int_equal(count_files(), 0);
    assert_true(engine_is_due(engine));
    seen.answer = ERR_OK;
    assert_int_equal(engine_maintain(engine, &hooks, &err), ERR_OK);
    assert_int_equal(count_files(), 1);
    engine_close(engine);
}

static void any_allocation_of_maintenance_may_fail(void **state)
{
    struct engine *engine = with_work();
    uint64_t n = 1;

    (void)state;
    for (;; n++) {
        struct err err = {0};

        (void)memory_fail_at(n);
        enum err_code code = engine_maintain(engine, NULL, &err);
        uint64_t allocations = memory_fail_at(0);
        assert_true(code == ERR_OK || code == ERR_NO_MEMORY);
        if (n % 8 == 0)
            assert_valid(engine);
        assert_int_equal(engine_count(engine), COUNT + 2400);
        assert_int_equal(count_files(), colds_of(engine)->count);
        if (n > allocations)
            break;
    }
    assert_true(n > 30);
    assert_false(engine_is_due(engine));
    engine_close(engine);
    engine = open_engine();
    assert_complete(engine, COUNT + 2400);
    engine_close(engine);
}

static void any_allocation_of_opening_and_searching_may_fail(void **state)
{
    struct engine_hit hits[K];
    uint64_t n = 1;

    (void)state;
    engine_close(half_cold());
    for (;; n++) {
        struct engine_query query = {.vector = data_at(&data, 1), .k = K, .bound = INFINITY};
        struct engine *engine;
        struct err err = {0};
        size_t count;

        (void)memory_fail_at(n);
        enum err_code code = engine_open(&engine, folder, &options, NULL, &err);
        if (code == ERR_OK) {
            code = engine_search(engine, &query, hits, &count, NULL, &err);
            assert_true(code != ERR_OK || count == K);
            engine_close(engine);
        } else {
            assert_null(engine);
        }
        uint64_t allocations = memory_fail_at(0);
        assert_true(code == ERR_OK || code == ERR_NO_MEMORY);
        assert_true(is_there(segment) && count_files() == 1);
        if (n > allocations)
            break;
    }
    assert_true(n > 30);
}

/* --- foreign folders ------------------------------------------------------------------------- */

static void spoil(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");

    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_true(fputs("damage", file) >= 0);
    fclose(file);
}

static void a_damaged_part_is_set_aside_with_what_comes_behind(void **state)
{
    char path[300], aside[300], graph_aside[300];

    (void)state;
    snprintf(aside, sizeof(aside), "%s/cold.seg.damaged", folder);
    snprintf(graph_aside, sizeof(graph_aside), "%s.damaged", segment);
    for (uint32_t which = 0; which < 4; which++) { /* first or second part; header or within */
        struct engine *engine = with_work();
        uint32_t end = colds_of(engine)->parts[0]->to;

        path_of(colds_of(engine)->parts[which % 2]->number, path, sizeof(path));
        engine_close(engine);
        spoil(path, which < 2 ? 100 : 9000);
        engine = open_engine();
        assert_non_null(strstr(engine_notice(engine), "cold-"));
        assert_int_equal(engine_covered(engine), which % 2 == 0 ? 0 : end);
        assert_true(is_there(aside) && is_there(graph_aside) && !is_there(segment));
        assert_int_equal(count_files(), which % 2);
        assert_complete(engine, COUNT);
        maintain(engine);
        engine_close(engine);
        engine = open_engine();
        assert_string_equal(engine_notice(engine), "");
        assert_complete(engine, COUNT);
        engine_close(engine);
        empty_folder();
    }
}

static void a_part_that_is_gone_is_noticed(void **state)
{
    struct engine *engine = half_cold();
    char path[300];

    (void)state;
    path_of(colds_of(engine)->parts[0]->number, path, sizeof(path));
    engine_close(engine);
    assert_int_equal(unlink(path), 0);
    engine = open_engine();
    assert_non_null(strstr(engine_notice(engine), "are not there"));
    assert_int_equal(engine_covered(engine), 0);
    assert_complete(engine, COUNT);
    engine_close(engine);
}

static void without_the_graph_the_cold_remain(void **state)
{
    struct engine *engine = half_cold();

    (void)state;
    engine_close(engine);
    spoil(segment, 9000);
    engine = open_engine();
    assert_non_null(strstr(engine_notice(engine), "graph.seg"));
    assert_int_equal(engine_covered(engine), COUNT - ABOVE / 2);
    assert_int_equal(engine_count(engine), COUNT - ABOVE / 2);
    assert_complete(engine, COUNT);
    engine_close(engine);
}

static void what_was_left_over_is_removed(void **state)
{
    struct engine *engine = half_cold();
    char path[300], other[300], command[700];

    (void)state;
    path_of(colds_of(engine)->parts[0]->number, path, sizeof(path));
    engine_close(engine);
    path_of(77, other, sizeof(other)); /* the same, made later: it is taken */
    assert_int_equal(link(path, other), 0);
    snprintf(command, sizeof(command), "%s/cold-90.seg.tmp", folder);
    assert_int_equal(link(path, command), 0);
    engine = open_engine();
    assert_string_equal(engine_notice(engine), "");
    assert_int_equal(count_files(), 1);
    assert_true(is_there(other));
    assert_complete(engine, COUNT);
    data_insert(engine, &data, COUNT, COUNT + 1500);
    data_link(engine);
    maintain(engine);
    path_of(91, path, sizeof(path));
    assert_true(is_there(path));
    engine_close(engine);
}

static void an_engine_of_other_options_begins_anew(void **state)
{
    struct engine_options other = options;

    (void)state;
    engine_close(half_cold());
    other.metric = ENGINE_L2;
    struct engine *engine = open_with(&other, folder);
    assert_int_equal(engine_covered(engine), 0);
    assert_int_equal(engine_count(engine), 0);
    assert_int_equal(count_files(), 0);
    engine_close(engine);
}

static void a_budget_is_kept(void **state)
{
    struct engine_options other = options;
    struct engine *engine;
    struct err err;

    (void)state;
    engine_close(half_cold());
    other.memory_budget = 150000;
    assert_int_equal(engine_open(&engine, folder, &other, NULL, &err), ERR_INSUFFICIENT_STORAGE);
    assert_null(engine);
    assert_int_equal(count_files(), 1);
}

int main(void)
{
#define KEPT(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)
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
        KEPT(it_stops_whenever_it_is_told_to),
        KEPT(a_process_may_end_anywhere),
        KEPT(what_cannot_be_made_durable_is_not_there),
        KEPT(any_allocation_of_maintenance_may_fail),
        KEPT(any_allocation_of_opening_and_searching_may_fail),
        KEPT(a_damaged_part_is_set_aside_with_what_comes_behind),
        KEPT(a_part_that_is_gone_is_noticed),
        KEPT(without_the_graph_the_cold_remain),
        KEPT(what_was_left_over_is_removed),
        KEPT(an_engine_of_other_options_begins_anew),
        KEPT(a_budget_is_kept),
    };

    return cmocka_run_group_tests(tests, make_data, free_data);
}
