/* When a replica is asked and when it is left alone: the state machine under a clock of this test's
 * own, and when a question is asked twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/health.h"
#include "cluster/hedge.h"

#define MS NS_PER_MS

static void hear(struct health *health, uint64_t asked_ns, enum health_lag lag)
{
    health_heard(health,
                 &(struct health_status){.asked_ns = asked_ns, .is_ready = true, .lag = lag});
}

static struct health healthy(uint64_t now)
{
    struct health health = {0};

    hear(&health, now, LAG_NONE);
    assert_int_equal(health.state, HEALTH_IN);
    return health;
}

static void nobody_is_asked_before_it_was_heard(void **state)
{
    struct health health = {0};

    (void)state;
    assert_int_equal(health_rank(&health), 2);
    health_heard(&health, &(struct health_status){.asked_ns = MS, .is_ready = false});
    assert_int_equal(health.state, HEALTH_OUT);
    hear(&health, 2 * MS, LAG_SOME);
    assert_int_equal(health.state, HEALTH_OUT);
    hear(&health, 3 * MS, LAG_NONE);
    assert_int_equal(health_rank(&health), 0);
}

static void a_broken_connection_takes_it_out_at_once(void **state)
{
    struct health health = healthy(1000 * MS);

    (void)state;
    health_asked(&health);
    health_broke(&health, 1001 * MS);
    assert_int_equal(health.state, HEALTH_OUT);
    health = healthy(1000 * MS);
    health_unheard(&health, 1100 * MS, true);
    assert_int_equal(health.state, HEALTH_OUT);
}

static void silence_takes_it_out_within_two_seconds(void **state)
{
    struct health health = healthy(1000 * MS);
    uint64_t now = 1000 * MS;

    (void)state;
    /* Every status call takes half a second to fail. */
    while (health.state == HEALTH_IN) {
        now += 500 * MS;
        health_unheard(&health, now, false);
        assert_true(now <= 3000 * MS);
    }
    assert_true(now > 2000 * MS); /* one or two lost calls do not */
    hear(&health, now + MS, LAG_NONE);
    assert_int_equal(health.state, HEALTH_IN);
}

static void it_comes_back_on_trial_and_longer_each_time(void **state)
{
    struct health health = healthy(1000 * MS);
    uint64_t now = 1000 * MS, pause = HEALTH_PAUSE_NS;

    (void)state;
    for (int i = 0; i < 10; i++) {
        health_asked(&health);
        health_broke(&health, now);
        hear(&health, now + pause - 1, LAG_NONE);
        assert_int_equal(health.state, HEALTH_OUT);
        now += pause;
        hear(&health, now, LAG_NONE);
        assert_int_equal(health.state, HEALTH_TRIAL);
        pause = 2 * pause < HEALTH_PAUSE_MAX_NS ? 2 * pause : HEALTH_PAUSE_MAX_NS;
    }
    assert_int_equal(health_rank(&health), 0);
    health_asked(&health);
    assert_int_equal(health_rank(&health), 1); /* one question at a time */
    health_answered(&health);
    assert_int_equal(health.state, HEALTH_IN);
    assert_int_equal(health.failures, 0);
}

static void many_questions_that_break_at_once_count_as_one(void **state)
{
    struct health health = healthy(1000 * MS);

    (void)state;
    for (int i = 0; i < 50; i++)
        health_asked(&health);
    for (int i = 0; i < 50; i++)
        health_broke(&health, 1001 * MS);
    assert_int_equal(health.failures, 1);
    assert_int_equal(health.in_flight, 0);
}

static void who_is_far_behind_waits_until_it_has_caught_up(void **state)
{
    struct health health = healthy(1000 * MS);

    (void)state;
    hear(&health, 1100 * MS, LAG_SOME);
    assert_int_equal(health.state, HEALTH_IN);
    hear(&health, 1200 * MS, LAG_MUCH);
    assert_int_equal(health.state, HEALTH_OUT);
    hear(&health, 1300 * MS, LAG_SOME);
    assert_int_equal(health.state, HEALTH_OUT);
    hear(&health, 1400 * MS, LAG_NONE);
    assert_int_equal(health.state, HEALTH_IN);
}

static void who_keeps_questions_waiting_is_in_doubt_until_it_speaks(void **state)
{
    struct health health = healthy(1000 * MS);

    (void)state;
    for (int i = 0; i < HEALTH_OVERDUE_MAX; i++) {
        assert_int_equal(health_rank(&health), 0);
        health_asked(&health);
        health_overdue(&health, 1050 * MS);
    }
    assert_int_equal(health_rank(&health), 1);
    hear(&health, 1040 * MS, LAG_NONE); /* asked before the doubt */
    assert_int_equal(health_rank(&health), 1);
    hear(&health, 1060 * MS, LAG_NONE);
    assert_int_equal(health_rank(&health), 0);
    health_asked(&health);
    health_overdue(&health, 1070 * MS);
    health_asked(&health);
    health_dropped(&health);
    health_asked(&health);
    health_answered(&health);
    assert_int_equal(health.overdue, 0);
}

static void old_news_change_nothing(void **state)
{
    struct health health = healthy(1000 * MS);

    (void)state;
    health_heard(&health, &(struct health_status){.asked_ns = 900 * MS, .is_ready = false});
    assert_int_equal(health.state, HEALTH_IN);
}

/* --- hedging --------------------------------------------------------------------------------- */

static void the_p95_of_recent_answers_is_waited_for(void **state)
{
    struct hedge hedge;

    (void)state;
    hedge_init(&hedge);
    assert_int_equal(hedge_after_ns(&hedge, 2), HEDGE_GUESS_NS);
    for (uint64_t i = 1; i <= 100; i++)
        hedge_learn(&hedge, 2, i * MS);
    assert_in_range(hedge_after_ns(&hedge, 2), 88 * MS, 97 * MS);
    assert_int_equal(hedge_after_ns(&hedge, 3), HEDGE_GUESS_NS); /* another kind */
    /* Only what is recent counts, and never less than the floor. */
    for (int i = 0; i < HEDGE_SAMPLES; i++)
        hedge_learn(&hedge, 2, 100 * NS_PER_US);
    assert_int_equal(hedge_after_ns(&hedge, 2), HEDGE_FLOOR_NS);
}

static void hedges_are_a_small_share_of_the_questions(void **state)
{
    uint32_t taken = 0;
    struct hedge hedge;

    (void)state;
    hedge_init(&hedge);
    for (int i = 0; i < 10000; i++) {
        (void)hedge_after_ns(&hedge, 2);
        taken += hedge_take(&hedge);
    }
    assert_in_range(taken, 10000 * HEDGE_PERCENT / 100, 10000 * HEDGE_PERCENT / 100 + HEDGE_BURST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_is_asked_before_it_was_heard),
        cmocka_unit_test(a_broken_connection_takes_it_out_at_once),
        cmocka_unit_test(silence_takes_it_out_within_two_seconds),
        cmocka_unit_test(it_comes_back_on_trial_and_longer_each_time),
        cmocka_unit_test(many_questions_that_break_at_once_count_as_one),
        cmocka_unit_test(who_is_far_behind_waits_until_it_has_caught_up),
        cmocka_unit_test(who_keeps_questions_waiting_is_in_doubt_until_it_speaks),
        cmocka_unit_test(old_news_change_nothing),
        cmocka_unit_test(the_p95_of_recent_answers_is_waited_for),
        cmocka_unit_test(hedges_are_a_small_share_of_the_questions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
