/* What the graph held when it was last written is there again when the engine is opened again, as
 * it was; what is damaged is set aside; any failure leaves the segment before it, whole. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/memory.h"
#include "tests/lib/engine_data.h"
#include "tests/lib/scratch.h"

enum { COUNT = 3000, MORE = 500, DIM = 40 };

static char folder[200];
static char segment[240];
static struct data data;

static const struct engine_options options = {
    .dim = DIM, .metric = ENGINE_COSINE, .m = 8, .ef_construction = 40, .flat_below = 1, .seed = 7};

static int make_data(void **state)
{
    (void)state;
    data = data_make(COUNT + MORE, DIM, 0.0f, 77);
    for (uint32_t i = 9; i < COUNT; i += 9) /* twins */
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
    if (!scratch_make(folder, sizeof(folder), "kept"))
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

static struct engine *open_engine(const char *dir)
{
    struct engine *engine;
    struct err err = {0};
    enum err_code code = engine_open(&engine, dir, &options, NULL, &err);

    if (code != ERR_OK)
        print_error("%s\n", err.message);
    assert_int_equal(code, ERR_OK);
    return engine;
}

static void maintain(struct engine *engine)
{
    struct err err = {0};

    assert_true(engine_is_due(engine));
    assert_int_equal(engine_maintain(engine, NULL, &err), ERR_OK);
    assert_false(engine_is_due(engine));
}

/* An engine whose segment holds all that is linked of the first count. */
static struct engine *kept_engine(uint32_t count)
{
    struct engine *engine = open_engine(folder);

    data_insert(engine, &data, 0, count);
    data_link(engine);
    maintain(engine);
    return engine;
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static void assert_valid(struct engine *engine)
{
    struct err err = {0};

    if (engine_validate(engine, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void an_opened_engine_goes_on_as_if_it_had_never_been_closed(void **state)
{
    struct engine *always = open_engine(NULL);
    struct engine *engine = kept_engine(COUNT);

    (void)state;
    uint64_t linked = engine_linked(engine);
    assert_true(linked + 64 > COUNT);
    assert_int_equal(engine_covered(engine), linked);
    engine_close(engine);

    engine = open_engine(folder);
    assert_string_equal(engine_notice(engine), "");
    assert_int_equal(engine_covered(engine), linked);
    assert_int_equal(engine_count(engine), linked);
    assert_false(engine_is_due(engine));
    assert_valid(engine);
    data_insert(engine, &data, (uint32_t)linked, COUNT + MORE);
    data_link(engine);
    data_insert(always, &data, 0, COUNT + MORE);
    data_link(always);
    assert_true(engine_digest(engine) == engine_digest(always));
    assert_valid(engine);
    engine_close(engine);
    engine_close(always);
}

static void what_the_segment_covers_cannot_be_inserted_again(void **state)
{
    struct engine *engine = kept_engine(COUNT);
    struct err err = {0};

    (void)state;
    uint32_t covered = engine_covered(engine);
    engine_close(engine);
    engine = open_engine(folder);
    assert_int_equal(engine_insert(engine, covered - 1, data_at(&data, 0), &err),
                     ERR_INVALID_ARGUMENT);
    assert_int_equal(engine_insert(engine, covered, data_at(&data, 0), &err), ERR_OK);
    engine_close(engine);
}

static void what_searches_seldom_read_leaves_memory_for_the_file(void **state)
{
    struct engine *engine = open_engine(folder);
    const uint64_t filed = DIM * sizeof(float) + 64 + 16; /* vector, finer codes */

    (void)state;
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    uint64_t digest = engine_digest(engine);
    uint64_t before = engine_memory_used(engine);
    maintain(engine);
    assert_true(engine_memory_used(engine) <= before - COUNT * filed * 9 / 10);
    assert_true(engine_digest(engine) == digest);
    assert_true(data_recall(engine, &data, 0.0f, NULL, "hnsw") > 0.9);
    engine_close(engine);
    engine = open_engine(folder);
    assert_true(data_recall(engine, &data, 0.0f, NULL, "hnsw") > 0.9);
    double predicted = (double)engine_predict(&options, engine_count(engine), ENGINE_LOAD);
    double used = (double)engine_memory_used(engine);
    printf("%u vectors: predicted %.0f, used %.0f\n", COUNT, predicted, used);
    assert_true(used <= predicted * 1.1 && used >= predicted * 0.9);
    engine_close(engine);
}

static void the_dead_stay_dead_and_the_owner_has_the_last_word(void **state)
{
    struct engine *engine = open_engine(folder);
    uint64_t words[COUNT / 64 + 1] = {0};
    uint64_t living = 0;

    (void)state;
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    engine_delete(engine, 5);
    engine_delete(engine, 700);
    maintain(engine);
    uint64_t linked = engine_linked(engine);
    engine_close(engine);

    engine = open_engine(folder);
    assert_int_equal(engine_count(engine), linked - 2);
    for (uint32_t i = 0; i < linked; i++) {
        bool lives = i != 6 && i != 700 && i < COUNT - 200;

        words[i / 64] |= (uint64_t)lives << i % 64;
        living += lives;
    }
    struct engine_bitmap bitmap = {
        .words = words, .word_count = (COUNT - 200) / 64 + 1, .cardinality = living};
    engine_keep(engine, &bitmap);
    assert_int_equal(engine_count(engine), living);
    struct engine_hit hits[COUNT];
    size_t count;
    struct err err;
    struct engine_query query = {
        .vector = data_at(&data, 5), .k = COUNT, .exact = true, .bound = INFINITY};
    assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_equal(count, living);
    assert_int_equal(hits[0].ordinal, 5);
    for (size_t i = 0; i < count; i++)
        assert_true(hits[i].ordinal != 6 && hits[i].ordinal != 700);
    engine_close(engine);
}

static void one_that_rests_is_written_again_when_it_has_grown_by_a_sixteenth(void **state)
{
    struct engine *engine = kept_engine(2000);

    (void)state;
    engine_rest(engine);
    assert_false(engine_is_due(engine));
    data_insert(engine, &data, 2000, 2200);
    data_link(engine);
    assert_false(engine_is_due(engine)); /* it has not rested since */
    engine_rest(engine);
    maintain(engine);
    assert_int_equal(engine_covered(engine), engine_linked(engine));
    data_insert(engine, &data, 2200, 2300);
    data_link(engine);
    engine_rest(engine);
    assert_false(engine_is_due(engine));
    engine_close(engine);
    engine = open_engine(NULL);
    engine_rest(engine); /* nothing to write into */
    engine_close(engine);
}

static void it_is_written_again_when_it_has_grown_by_a_quarter(void **state)
{
    struct engine *engine = kept_engine(2000);

    (void)state;
    uint32_t covered = engine_covered(engine);
    data_insert(engine, &data, 2000, 2400);
    data_link(engine);
    assert_false(engine_is_due(engine));
    data_insert(engine, &data, 2400, 2600);
    data_link(engine);
    maintain(engine);
    assert_true(engine_covered(engine) > covered);
    uint64_t digest = engine_digest(engine);
    uint64_t linked = engine_linked(engine);
    assert_int_equal(engine_covered(engine), linked);
    engine_close(engine);
    engine = open_engine(folder);
    data_insert(engine, &data, (uint32_t)linked, 2600);
    assert_true(engine_digest(engine) == digest);
    engine_close(engine);
}

static void a_damaged_segment_is_set_aside(void **state)
{
    char aside[260];

    (void)state;
    snprintf(aside, sizeof(aside), "%s.damaged", segment);
    for (int round = 0; round < 2; round++) { /* the second replaces the first */
        engine_close(kept_engine(COUNT));
        FILE *file = fopen(segment, "r+b");
        assert_non_null(file);
        assert_int_equal(fseek(file, 4100 + round * 16000, SEEK_SET), 0);
        assert_true(fputs("damage", file) >= 0);
        fclose(file);
        struct engine *engine = open_engine(folder);
        assert_non_null(strstr(engine_notice(engine), "graph.seg"));
        assert_non_null(strstr(engine_notice(engine), "damaged"));
        assert_int_equal(engine_covered(engine), 0);
        assert_int_equal(engine_count(engine), 0);
        assert_true(is_there(aside) && !is_there(segment));
        engine_close(engine);
    }
}

static void a_segment_of_other_options_is_set_aside(void **state)
{
    struct engine_options other = options;
    struct engine *engine;
    struct err err;

    (void)state;
    engine_close(kept_engine(COUNT));
    other.m = 12;
    assert_int_equal(engine_open(&engine, folder, &other, NULL, &err), ERR_OK);
    assert_non_null(strstr(engine_notice(engine), "m 8 instead of 12"));
    assert_int_equal(engine_count(engine), 0);
    engine_close(engine);
}

static void what_a_crash_left_unfinished_is_removed(void **state)
{
    char unfinished[260];

    (void)state;
    engine_close(kept_engine(COUNT));
    snprintf(unfinished, sizeof(unfinished), "%s.tmp", segment);
    FILE *file = fopen(unfinished, "w");
    assert_non_null(file);
    fclose(file);
    struct engine *engine = open_engine(folder);
    assert_true(engine_covered(engine) > 0);
    assert_false(is_there(unfinished));
    engine_close(engine);
}

static void a_segment_above_the_budget_is_not_loaded(void **state)
{
    struct engine_options other = options;
    struct engine *engine;
    struct err err;

    (void)state;
    engine_close(kept_engine(COUNT));
    other.memory_budget = engine_predict(&options, COUNT / 2, ENGINE_LOAD);
    assert_int_equal(engine_open(&engine, folder, &other, NULL, &err), ERR_INSUFFICIENT_STORAGE);
    assert_null(engine);
    assert_true(is_there(segment));
}

static void a_folder_that_cannot_be_made_is_an_error(void **state)
{
    struct engine *engine;
    struct err err;

    (void)state;
    assert_int_equal(engine_open(&engine, "/proc/none/here", &options, NULL, &err), ERR_IO);
    assert_null(engine);
}

static void a_flat_engine_keeps_nothing(void **state)
{
    struct engine_options flat = options;
    struct engine *engine;
    struct err err;

    (void)state;
    flat.kind = ENGINE_FLAT;
    assert_int_equal(engine_open(&engine, folder, &flat, NULL, &err), ERR_OK);
    data_insert(engine, &data, 0, COUNT);
    assert_false(engine_is_due(engine));
    engine_close(engine);
    assert_false(is_there(segment));
}

/* --- hooks ----------------------------------------------------------------------------------- */

struct hooks {
    uint32_t asked, stop_at, synced;
    enum err_code answer;
    bool was_there; /* a segment, when make_durable was asked */
};

static bool hook_go_on(void *state)
{
    struct hooks *hooks = state;

    return ++hooks->asked != hooks->stop_at;
}

static enum err_code hook_make_durable(void *state, struct err *err)
{
    struct hooks *hooks = state;

    hooks->synced++;
    hooks->was_there = is_there(segment);
    return hooks->answer == ERR_OK ? ERR_OK : err_set(err, hooks->answer, "the store's disk");
}

static void the_owner_makes_durable_what_it_told_before_the_segment_is_there(void **state)
{
    struct engine *engine = open_engine(folder);
    struct hooks seen = {.answer = ERR_IO};
    struct engine_hooks hooks = {
        .go_on = hook_go_on, .make_durable = hook_make_durable, .state = &seen};
    struct err err = {0};

    (void)state;
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    assert_int_equal(engine_maintain(engine, &hooks, &err), ERR_IO);
    assert_non_null(strstr(err.message, "the store's disk"));
    assert_int_equal(seen.synced, 1);
    assert_false(is_there(segment));
    assert_int_equal(engine_covered(engine), 0);
    assert_true(engine_is_due(engine));
    seen.answer = ERR_OK;
    assert_int_equal(engine_maintain(engine, &hooks, &err), ERR_OK);
    assert_false(seen.was_there);
    assert_true(is_there(segment));
    engine_close(engine);
}

static void it_stops_whenever_it_is_told_to(void **state)
{
    struct engine *engine = open_engine(folder);
    uint32_t stops = 0;

    (void)state;
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    for (uint32_t i = 0; i < COUNT; i += 3)
        engine_delete(engine, i); /* a new graph is due as well */
    for (;; stops++) {
        struct hooks seen = {.stop_at = stops + 1};
        struct engine_hooks hooks = {.go_on = hook_go_on, .state = &seen};
        struct err err = {0};
        enum err_code code = engine_maintain(engine, &hooks, &err);

        if (code == ERR_OK)
            break;
        assert_int_equal(code, ERR_DEAD);
        assert_true(engine_is_due(engine));
        assert_false(is_there(segment));
    }
    assert_true(stops > 5);
    assert_valid(engine);
    engine_close(engine);
}

static void any_allocation_of_keeping_may_fail(void **state)
{
    uint64_t n = 1;

    (void)state;
    for (;; n++) {
        struct engine *engine = open_engine(NULL);
        struct err err = {0};

        engine_close(engine);
        engine = open_engine(folder);
        data_insert(engine, &data, 0, 400);
        data_link(engine);
        uint64_t digest = engine_digest(engine);
        (void)memory_fail_at(n);
        enum err_code code = engine_maintain(engine, NULL, &err);
        uint64_t allocations = memory_fail_at(0);
        assert_true(code == ERR_OK || code == ERR_NO_MEMORY);
        assert_true(engine_digest(engine) == digest);
        assert_valid(engine);
        assert_int_equal(engine_covered(engine) > 0, is_there(segment));
        engine_close(engine);
        (void)unlink(segment);
        if (n > allocations)
            break;
    }
    assert_true(n > 3);
}

static void any_allocation_of_opening_may_fail(void **state)
{
    uint64_t n = 1;

    (void)state;
    engine_close(kept_engine(400));
    for (;; n++) {
        struct engine *engine;
        struct err err = {0};

        (void)memory_fail_at(n);
        enum err_code code = engine_open(&engine, folder, &options, NULL, &err);
        uint64_t allocations = memory_fail_at(0);
        assert_true(is_there(segment));
        if (code != ERR_OK) {
            assert_int_equal(code, ERR_NO_MEMORY);
            assert_null(engine);
            continue;
        }
        assert_true(engine_covered(engine) > 0);
        assert_valid(engine);
        engine_close(engine);
        if (n > allocations)
            break;
    }
    assert_true(n > 10);
}

int main(void)
{
#define KEPT(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)
    const struct CMUnitTest tests[] = {
        KEPT(an_opened_engine_goes_on_as_if_it_had_never_been_closed),
        KEPT(what_the_segment_covers_cannot_be_inserted_again),
        KEPT(what_searches_seldom_read_leaves_memory_for_the_file),
        KEPT(the_dead_stay_dead_and_the_owner_has_the_last_word),
        KEPT(it_is_written_again_when_it_has_grown_by_a_quarter),
        KEPT(one_that_rests_is_written_again_when_it_has_grown_by_a_sixteenth),
        KEPT(a_damaged_segment_is_set_aside),
        KEPT(a_segment_of_other_options_is_set_aside),
        KEPT(what_a_crash_left_unfinished_is_removed),
        KEPT(a_segment_above_the_budget_is_not_loaded),
        KEPT(a_folder_that_cannot_be_made_is_an_error),
        KEPT(a_flat_engine_keeps_nothing),
        KEPT(the_owner_makes_durable_what_it_told_before_the_segment_is_there),
        KEPT(it_stops_whenever_it_is_told_to),
        KEPT(any_allocation_of_keeping_may_fail),
        KEPT(any_allocation_of_opening_may_fail),
    };

    return cmocka_run_group_tests(tests, make_data, free_data);
}
