/* An engine's folder after a crash at any moment, of the process or of the machine, while vectors
 * become cold, parts are merged and segments written: nothing in it is damaged, what lives is where
 * it should be, it opens without setting anything aside, and what is inserted again makes it whole.
 * pace: long */
#include "tests/unit/crash_trace.h"

#include "engine/internal.h"
#include "engine/verify.h"
#include "tests/lib/engine_data.h"

enum { DIM = 8, ALL = 11200, ABOVE = 2000, STEP = 1400 };

static const struct engine_options options = {.dim = DIM,
                                              .metric = ENGINE_L2,
                                              .m = 4,
                                              .ef_construction = 20,
                                              .flat_below = 1,
                                              .cold_above = ABOVE,
                                              .seed = 7};
static char base_folder[120], image_folder_path[140];
static struct data data;
static uint64_t words[ALL / 64 + 2]; /* what lives in the end */
static struct engine_bitmap living = {.words = words, .word_count = ALL / 64 + 2};
static uint32_t merges;

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("moment %zu: %s: %s", image.moment, err_word(code), err->message);
}

static bool is_dead(uint32_t ordinal)
{
    return ordinal % 5 == 0;
}

/* Insert up to there; every fifth vector of what was inserted before dies. */
static void go_on_to(struct engine *engine, uint32_t from, uint32_t to)
{
    data_insert(engine, &data, from, to);
    for (uint32_t i = 0; i < to; i++)
        if (is_dead(i))
            engine_delete(engine, i);
    data_link(engine);
}

static void maintain(struct engine *engine)
{
    struct err err = {0};

    while (engine_is_due(engine))
        must(engine_maintain(engine, NULL, &err), &err);
}

static void find(void *state, const struct scrub_finding *finding)
{
    (void)state;
    fail_msg("moment %zu: %s: %s", image.moment, finding->file, finding->text);
}

static bool never_stop(void *state, uint64_t bytes)
{
    (void)state;
    (void)bytes;
    return true;
}

static void verify(void)
{
    struct scrub scrub = {.find = find, .go_on = never_stop};
    struct engine_verified out;
    char folder[300];
    struct stat info;
    struct err err = {0};

    snprintf(folder, sizeof(folder), "%s/engine", image.root);
    if (stat(folder, &info) == 0)
        must(engine_verify(folder, &options, &living, &scrub, &out, &err), &err);
}

static void check(bool is_reboot)
{
    struct engine *engine;
    char folder[300];
    struct err err = {0};

    (void)is_reboot;
    verify();
    if (image.count % 64 != 1)
        return; /* the rest takes longer */
    snprintf(folder, sizeof(folder), "%s/engine", image.root);
    must(engine_open(&engine, folder, &options, NULL, &err), &err);
    assert_string_equal(engine_notice(engine), "");
    engine_keep(engine, &living);
    go_on_to(engine, engine_covered(engine), ALL);
    assert_int_equal(engine_count(engine), living.cardinality);
    must(engine_validate(engine, &err), &err);
    engine_close(engine);
    verify();
}

static void a_migration_may_end_at_any_moment(void **state)
{
    struct engine *engine;
    char folder[200];
    struct err err = {0};

    (void)state;
    trace_begin(base_folder);
    snprintf(folder, sizeof(folder), "%s/engine", base_folder);
    must(engine_open(&engine, folder, &options, NULL, &err), &err);
    for (uint32_t from = 0; from < ALL; from += STEP) {
        go_on_to(engine, from, from + STEP);
        maintain(engine);
    }
    engine_close(engine);
    trace_end();
    for (size_t i = 0; i < trace.count; i++)
        merges += trace.ops[i].kind == TRACE_REMOVE && strstr(trace.ops[i].name, "cold-") != NULL;
    assert_int_not_equal(merges, 0);
    trace_crash_everywhere(image_folder_path, 5, check);
    trace_free();
}

static int make(void **state)
{
    (void)state;
    data = data_make(ALL, DIM, 0.0f, 78);
    for (uint32_t i = 0; i < ALL; i++)
        if (!is_dead(i)) {
            words[i / 64] |= UINT64_C(1) << i % 64;
            living.cardinality++;
        }
    assert_true(scratch_make(base_folder, sizeof(base_folder), "crash"));
    snprintf(image_folder_path, sizeof(image_folder_path), "%s-image", base_folder);
    return 0;
}

static int forget(void **state)
{
    (void)state;
    data_free(&data);
    (void)scratch_remove(image_folder_path);
    return scratch_remove(base_folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_migration_may_end_at_any_moment),
    };

    return cmocka_run_group_tests(tests, make, forget);
}
