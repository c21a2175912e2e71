/* A process that ends anywhere while vectors become cold, or a step that fails, leaves a folder
 * that opens and holds all of them; what is damaged is set aside and inserted again.
 *
 * pace: long */
#include <sys/wait.h>

#include "tests/unit/engine_cold_rig.h"

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
    const struct CMUnitTest tests[] = {
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
