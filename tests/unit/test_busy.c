/* The busy-id table: who shares, who waits, who goes first, and that nothing is left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "services/ingest/busy.h"

#define WAIT_NS (30 * NS_PER_S)

static const uint8_t ONE[INCARNATION_BYTES] = {1}, TWO[INCARNATION_BYTES] = {2};
static struct busy *busy;

static int set_up(void **state)
{
    struct err err;

    (void)state;
    return busy_open(&busy, env_real(), &err) == ERR_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    assert_int_equal(busy_count(busy), 0);
    busy_close(busy);
    return 0;
}

static uint64_t soon(uint64_t ns)
{
    return env_boot_ns(env_real()) + ns;
}

static struct busy_key key_of(const uint8_t *incarnation, const char *id, enum busy_mode mode)
{
    return (struct busy_key){.incarnation = incarnation, .id = id, .len = strlen(id), .mode = mode};
}

/* Take one id at once, or not. */
static enum err_code try_take(struct busy_claim *claim, const uint8_t *incarnation, const char *id,
                              enum busy_mode mode)
{
    struct busy_key key = key_of(incarnation, id, mode);
    struct err err;

    return busy_take(busy, claim, &key, 1, soon(NS_PER_MS), &err);
}

static void sharers_share_and_loners_do_not(void **state)
{
    struct busy_claim a, b, c;

    (void)state;
    assert_int_equal(try_take(&a, ONE, "x", BUSY_SHARED), ERR_OK);
    assert_int_equal(try_take(&b, ONE, "x", BUSY_SHARED), ERR_OK);
    assert_int_equal(try_take(&c, ONE, "x", BUSY_ALONE), ERR_TIMEOUT);
    busy_release(&a);
    assert_int_equal(try_take(&c, ONE, "x", BUSY_ALONE), ERR_TIMEOUT);
    busy_release(&b);
    assert_int_equal(try_take(&c, ONE, "x", BUSY_ALONE), ERR_OK);
    assert_int_equal(try_take(&a, ONE, "x", BUSY_SHARED), ERR_TIMEOUT);
    assert_int_equal(try_take(&a, ONE, "x", BUSY_ALONE), ERR_TIMEOUT);
    /* Another id, and the same id of another collection, are others. */
    assert_int_equal(try_take(&a, ONE, "y", BUSY_ALONE), ERR_OK);
    assert_int_equal(try_take(&b, TWO, "x", BUSY_ALONE), ERR_OK);
    assert_int_equal(busy_count(busy), 3);
    assert_true(busy_validate(busy));
    busy_release(&a);
    busy_release(&b);
    busy_release(&c);
    busy_release(&c); /* zeroed: nothing happens */
}

static void the_gate_is_a_key_of_its_own(void **state)
{
    struct busy_claim write, all;
    struct busy_key keys[] = {key_of(ONE, "a", BUSY_ALONE), key_of(ONE, "", BUSY_SHARED)};
    struct err err;

    (void)state;
    assert_int_equal(busy_take(busy, &write, keys, 2, soon(NS_PER_MS), &err), ERR_OK);
    assert_int_equal(try_take(&all, ONE, "", BUSY_ALONE), ERR_TIMEOUT);
    assert_int_equal(try_take(&all, TWO, "", BUSY_ALONE), ERR_OK);
    busy_release(&all);
    busy_release(&write);
    assert_int_equal(try_take(&all, ONE, "", BUSY_ALONE), ERR_OK);
    busy_release(&all);
}

static void equal_keys_count_once_and_the_stronger_mode_wins(void **state)
{
    struct busy_claim claim, other;
    struct busy_key keys[] = {key_of(ONE, "a", BUSY_SHARED), key_of(ONE, "b", BUSY_SHARED),
                              key_of(ONE, "a", BUSY_ALONE), key_of(ONE, "a", BUSY_SHARED)};
    struct err err;

    (void)state;
    assert_int_equal(busy_take(busy, &claim, keys, 4, soon(NS_PER_MS), &err), ERR_OK);
    assert_int_equal(busy_count(busy), 2);
    assert_int_equal(try_take(&other, ONE, "a", BUSY_SHARED), ERR_TIMEOUT);
    assert_int_equal(try_take(&other, ONE, "b", BUSY_SHARED), ERR_OK);
    busy_release(&other);
    busy_release(&claim);
}

static void a_failed_take_leaves_nothing(void **state)
{
    struct busy_claim held, claim;
    struct busy_key keys[] = {key_of(ONE, "a", BUSY_ALONE), key_of(ONE, "m", BUSY_ALONE),
                              key_of(ONE, "z", BUSY_ALONE)};
    struct err err;

    (void)state;
    assert_int_equal(try_take(&held, ONE, "m", BUSY_SHARED), ERR_OK);
    assert_int_equal(busy_take(busy, &claim, keys, 3, soon(NS_PER_MS), &err), ERR_TIMEOUT);
    assert_int_equal(busy_count(busy), 1);
    assert_true(busy_validate(busy));
    busy_release(&held);
}

struct waiter {
    pthread_t thread;
    struct busy_claim claim;
    enum busy_mode mode;
    enum err_code rc;
    atomic_bool has;
};

static void *wait_for_x(void *argument)
{
    struct waiter *waiter = argument;
    struct busy_key key = key_of(ONE, "x", waiter->mode);
    struct err err;

    waiter->rc = busy_take(busy, &waiter->claim, &key, 1, soon(WAIT_NS), &err);
    atomic_store(&waiter->has, true);
    return NULL;
}

/* Until a sharer would have to wait: somebody wants x alone. */
static void until_wanted_alone(void)
{
    struct busy_claim claim;
    uint64_t end = soon(WAIT_NS);

    while (try_take(&claim, ONE, "x", BUSY_SHARED) == ERR_OK) {
        busy_release(&claim);
        assert_true(env_boot_ns(env_real()) < end);
    }
}

static void who_wants_it_alone_goes_before_later_sharers(void **state)
{
    struct waiter alone = {.mode = BUSY_ALONE}, sharer = {.mode = BUSY_SHARED};
    struct busy_claim held;

    (void)state;
    assert_int_equal(try_take(&held, ONE, "x", BUSY_SHARED), ERR_OK);
    assert_int_equal(pthread_create(&alone.thread, NULL, wait_for_x, &alone), 0);
    until_wanted_alone();
    assert_int_equal(pthread_create(&sharer.thread, NULL, wait_for_x, &sharer), 0);
    assert_false(atomic_load(&sharer.has));
    busy_release(&held);
    assert_int_equal(pthread_join(alone.thread, NULL), 0);
    assert_int_equal(alone.rc, ERR_OK);
    assert_false(atomic_load(&sharer.has));
    busy_release(&alone.claim);
    assert_int_equal(pthread_join(sharer.thread, NULL), 0);
    assert_int_equal(sharer.rc, ERR_OK);
    busy_release(&sharer.claim);
}

/* The order in which the key was handed on. */
struct place {
    pthread_t thread;
    enum busy_mode mode;
    int came, served;
};

static _Atomic int served_so_far;

static void *queue_for_x(void *argument)
{
    struct place *place = argument;
    struct busy_key key = key_of(ONE, "x", place->mode);
    struct busy_claim claim;
    struct err err;

    if (busy_take(busy, &claim, &key, 1, soon(WAIT_NS), &err) != ERR_OK)
        return NULL;
    place->served = atomic_fetch_add(&served_so_far, 1);
    busy_release(&claim);
    return NULL;
}

static void a_key_is_handed_on_in_the_order_of_arrival(void **state)
{
    enum { PLACES = 12 };
    struct place places[PLACES] = {0};
    struct busy_claim held, again;

    (void)state;
    atomic_store(&served_so_far, 0);
    assert_int_equal(try_take(&held, ONE, "x", BUSY_ALONE), ERR_OK);
    for (int i = 0; i < PLACES; i++) {
        places[i] =
            (struct place){.mode = i % 3 == 0 ? BUSY_SHARED : BUSY_ALONE, .came = i, .served = -1};
        assert_int_equal(pthread_create(&places[i].thread, NULL, queue_for_x, &places[i]), 0);
        while (busy_waiting(busy) != (size_t)i + 1)
            sched_yield();
    }
    /* Who comes back at once finds the key taken. */
    busy_release(&held);
    assert_int_equal(busy_take(busy, &again, &(struct busy_key){ONE, "x", 1, BUSY_ALONE}, 1,
                               soon(WAIT_NS), &(struct err){0}),
                     ERR_OK);
    assert_int_equal(atomic_load(&served_so_far), PLACES);
    busy_release(&again);
    for (int i = 0; i < PLACES; i++) {
        assert_int_equal(pthread_join(places[i].thread, NULL), 0);
        assert_int_equal(places[i].served, places[i].came);
    }
}

static void who_gives_up_waiting_lets_the_next_go_on(void **state)
{
    struct busy_claim held, alone;
    struct waiter sharer = {.mode = BUSY_SHARED};

    (void)state;
    assert_int_equal(try_take(&held, ONE, "x", BUSY_SHARED), ERR_OK);
    /* The sharer stands behind one that wants it alone, or comes when that one is gone. */
    assert_int_equal(pthread_create(&sharer.thread, NULL, wait_for_x, &sharer), 0);
    assert_int_equal(try_take(&alone, ONE, "x", BUSY_ALONE), ERR_TIMEOUT);
    assert_int_equal(pthread_join(sharer.thread, NULL), 0);
    assert_int_equal(sharer.rc, ERR_OK);
    assert_true(busy_validate(busy));
    busy_release(&sharer.claim);
    busy_release(&held);
}

/* Many threads with many ids in any order: nobody waits for ever, and who is alone is alone. */
struct crowd {
    pthread_t thread;
    uint64_t seed;
};

enum { CROWD_IDS = 12, CROWD_THREADS = 8, CROWD_ROUNDS = 400 };
static _Atomic int holders[CROWD_IDS]; /* -1000 for a loner, +1 per sharer */
static atomic_bool crowd_broken;

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

static void *mill_about(void *argument)
{
    struct crowd *crowd = argument;
    char names[CROWD_IDS][16];

    for (int i = 0; i < CROWD_IDS; i++)
        (void)snprintf(names[i], sizeof(names[i]), "k%d", i);
    for (int round = 0; round < CROWD_ROUNDS; round++) {
        enum busy_mode mode = next_random(&crowd->seed) % 3 == 0 ? BUSY_ALONE : BUSY_SHARED;
        int step = mode == BUSY_ALONE ? -1000 : 1, count = 0, picked[5];
        struct busy_key keys[5];
        struct busy_claim claim;
        uint32_t mask = 0;
        struct err err;

        for (int i = 0; i < 5; i++) {
            int pick = (int)(next_random(&crowd->seed) % CROWD_IDS);

            if ((mask >> pick & 1) != 0)
                continue;
            mask |= 1u << pick;
            picked[count] = pick;
            keys[count++] = key_of(ONE, names[pick], mode);
        }
        if (busy_take(busy, &claim, keys, (size_t)count, soon(WAIT_NS), &err) != ERR_OK) {
            atomic_store(&crowd_broken, true);
            return NULL;
        }
        for (int i = 0; i < count; i++) {
            int before = atomic_fetch_add(&holders[picked[i]], step);

            if (mode == BUSY_ALONE ? before != 0 : before < 0)
                atomic_store(&crowd_broken, true);
        }
        for (int i = 0; i < count; i++)
            atomic_fetch_sub(&holders[picked[i]], step);
        busy_release(&claim);
    }
    return NULL;
}

static void a_crowd_never_deadlocks_and_never_overlaps(void **state)
{
    struct crowd crowd[CROWD_THREADS];

    (void)state;
    for (int i = 0; i < CROWD_THREADS; i++) {
        crowd[i].seed = (uint64_t)i + 1;
        assert_int_equal(pthread_create(&crowd[i].thread, NULL, mill_about, &crowd[i]), 0);
    }
    for (int i = 0; i < CROWD_THREADS; i++)
        assert_int_equal(pthread_join(crowd[i].thread, NULL), 0);
    assert_false(atomic_load(&crowd_broken));
    assert_true(busy_validate(busy));
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(sharers_share_and_loners_do_not),
        PROMISE(the_gate_is_a_key_of_its_own),
        PROMISE(equal_keys_count_once_and_the_stronger_mode_wins),
        PROMISE(a_failed_take_leaves_nothing),
        PROMISE(who_wants_it_alone_goes_before_later_sharers),
        PROMISE(a_key_is_handed_on_in_the_order_of_arrival),
        PROMISE(who_gives_up_waiting_lets_the_next_go_on),
        PROMISE(a_crowd_never_deadlocks_and_never_overlaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
