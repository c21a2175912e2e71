/* Many threads put into one spool, wait for its rows, and wait at its door. */
#include "tests/unit/spool_rig.h"

#include <pthread.h>
#include <stdatomic.h>

enum { CROWD = 8, CROWD_PUTS = 30 };

struct member {
    pthread_t thread;
    unsigned number;
    atomic_bool failed;
    uint64_t last_of_all; /* number of its last row of the id that all write */
};

static void *put_many(void *argument)
{
    struct member *member = argument;
    char id[32], value[32];

    for (unsigned i = 0; i < CROWD_PUTS; i++) {
        struct sample sample = {0};
        struct err err = {0};

        for (unsigned part = 0; part < 3; part++) {
            (void)snprintf(id, sizeof(id), "%u-%u-%u", member->number, i, part);
            sample_add(&sample, ONE, id, id);
        }
        (void)snprintf(value, sizeof(value), "%u/%u", member->number, i);
        sample_add(&sample, ONE, "everyone's", value);
        if (put_sample(&sample, &err) != ERR_OK)
            atomic_store(&member->failed, true);
        member->last_of_all = sample.rows[3].number;
        sample_free(&sample);
    }
    return NULL;
}

static void puts_of_many_threads_are_all_there_once(void **state)
{
    struct member crowd[CROWD] = {0};
    struct page page;
    uint64_t newest = 0;
    unsigned last = 0;
    char id[32], value[32];

    (void)state;
    begin();
    for (unsigned i = 0; i < CROWD; i++) {
        crowd[i].number = i;
        assert_int_equal(pthread_create(&crowd[i].thread, NULL, put_many, &crowd[i]), 0);
    }
    for (unsigned i = 0; i < CROWD; i++) {
        assert_int_equal(pthread_join(crowd[i].thread, NULL), 0);
        assert_false(atomic_load(&crowd[i].failed));
        if (crowd[i].last_of_all > newest) {
            newest = crowd[i].last_of_all;
            last = i;
        }
    }
    expect_counts_of_disk(begin);
    read_page(&page, ROWS_MAX - 1, MIB(16));
    assert_int_equal(page.count, CROWD * CROWD_PUTS * 3 + 1);
    for (unsigned i = 0; i < CROWD; i++)
        for (unsigned n = 0; n < CROWD_PUTS; n++)
            for (unsigned part = 0; part < 3; part++) {
                (void)snprintf(id, sizeof(id), "%u-%u-%u", i, n, part);
                assert_non_null(find(&page, id, id));
            }
    (void)snprintf(value, sizeof(value), "%u/%u", last, CROWD_PUTS - 1);
    assert_non_null(find(&page, "everyone's", value));
    arena_free(&page.arena);
}

struct passer {
    pthread_t thread;
    atomic_bool passed;
};

static void *pass(void *argument)
{
    struct passer *passer = argument;

    spool_pass_door(world.spool, soon(WAIT_NS));
    atomic_store(&passer->passed, true);
    return NULL;
}

static void await_passed(struct passer *passer)
{
    uint64_t began = env_boot_ns(env_real());

    assert_int_equal(pthread_join(passer->thread, NULL), 0);
    assert_true(atomic_load(&passer->passed));
    assert_true(env_boot_ns(env_real()) - began < WAIT_NS / 2);
}

static void the_door_holds_back_and_lets_go(void **state)
{
    struct passer passer = {0};
    struct page page;

    (void)state;
    begin();
    spool_close_door(world.spool);
    spool_pass_door(world.spool, NEVER_NS); /* nothing waits: it holds nobody back */
    (void)put(ONE, "a", "v");
    spool_open_door(world.spool);
    spool_pass_door(world.spool, NEVER_NS);

    spool_close_door(world.spool);
    spool_pass_door(world.spool, soon(NS_PER_MS)); /* the deadline */
    assert_true(spool_waits(world.spool));
    assert_int_equal(pthread_create(&passer.thread, NULL, pass, &passer), 0);
    assert_false(atomic_load(&passer.passed));
    spool_open_door(world.spool);
    await_passed(&passer);

    /* The last row's end opens it as well. */
    spool_close_door(world.spool);
    passer = (struct passer){0};
    assert_int_equal(pthread_create(&passer.thread, NULL, pass, &passer), 0);
    assert_false(atomic_load(&passer.passed));
    read_page(&page, 10, MIB(1));
    assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
    arena_free(&page.arena);
    await_passed(&passer);

    /* And so does the end of all. */
    (void)put(ONE, "a", "v");
    passer = (struct passer){0};
    assert_int_equal(pthread_create(&passer.thread, NULL, pass, &passer), 0);
    assert_false(atomic_load(&passer.passed));
    spool_stop(world.spool);
    await_passed(&passer);
}

struct sleeper {
    pthread_t thread;
    enum err_code rc;
};

static void *await_row(void *argument)
{
    struct sleeper *sleeper = argument;

    sleeper->rc = spool_await(world.spool, soon(WAIT_NS));
    return NULL;
}

static void who_waits_for_rows_wakes_at_the_first_or_at_the_end(void **state)
{
    struct sleeper sleeper;
    struct page page;

    (void)state;
    begin();
    assert_int_equal(spool_await(world.spool, soon(NS_PER_MS)), ERR_TIMEOUT);
    assert_int_equal(spool_pause(world.spool, soon(NS_PER_MS)), ERR_OK);
    assert_int_equal(pthread_create(&sleeper.thread, NULL, await_row, &sleeper), 0);
    (void)put(ONE, "a", "v");
    assert_int_equal(pthread_join(sleeper.thread, NULL), 0);
    assert_int_equal(sleeper.rc, ERR_OK);
    assert_int_equal(spool_await(world.spool, NEVER_NS), ERR_OK);
    assert_int_equal(spool_pause(world.spool, soon(NS_PER_MS)), ERR_OK); /* rows do not end it */
    read_page(&page, 10, MIB(1));
    assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
    arena_free(&page.arena);
    assert_int_equal(pthread_create(&sleeper.thread, NULL, await_row, &sleeper), 0);
    spool_stop(world.spool);
    assert_int_equal(pthread_join(sleeper.thread, NULL), 0);
    assert_int_equal(sleeper.rc, ERR_DEAD);
    assert_int_equal(spool_await(world.spool, NEVER_NS), ERR_DEAD);
    assert_int_equal(spool_pause(world.spool, NEVER_NS), ERR_DEAD);
    /* Who was under way is served still. */
    assert_int_equal(try_put(ONE, "b", "v"), ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(puts_of_many_threads_are_all_there_once),
        PROMISE(the_door_holds_back_and_lets_go),
        PROMISE(who_waits_for_rows_wakes_at_the_first_or_at_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
