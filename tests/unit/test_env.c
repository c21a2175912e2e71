/* The real environment: clocks go forward, waits end, threads are joined. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/env.h"

struct gate {
    pthread_mutex_t mutex;
    struct env_cond cond;
    unsigned open; /* how many may pass */
    unsigned passed;
};

static void clocks_go_forward(void **state)
{
    struct env *env = env_real();
    uint64_t before = env_boot_ns(env);

    (void)state;
    assert_true(env_wall_us(env) > 1600000000ull * 1000000);
    assert_int_equal(env_sleep_until(env, before + NS_PER_MS), ERR_OK);
    assert_true(env_boot_ns(env) >= before + NS_PER_MS);
    assert_int_equal(env_sleep_until(env, 0), ERR_OK);
    assert_int_equal(env_yield(env), ERR_OK);
}

static void random_bytes_differ(void **state)
{
    uint8_t a[300] = {0}, b[300] = {0};

    (void)state;
    env_random(env_real(), a, sizeof(a));
    env_random(env_real(), b, sizeof(b));
    env_random(env_real(), NULL, 0);
    assert_memory_not_equal(a, b, sizeof(a));
}

static void a_wait_ends_at_its_deadline(void **state)
{
    struct env *env = env_real();
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    uint64_t deadline = env_boot_ns(env) + 2 * NS_PER_MS;
    struct env_cond cond;
    enum err_code code;

    (void)state;
    env_cond_init(env, &cond);
    pthread_mutex_lock(&mutex);
    do
        code = env_cond_wait(&cond, &mutex, deadline);
    while (code == ERR_OK);
    assert_int_equal(code, ERR_TIMEOUT);
    assert_true(env_boot_ns(env) >= deadline);
    assert_int_equal(env_cond_wait(&cond, &mutex, 0), ERR_TIMEOUT);
    pthread_mutex_unlock(&mutex);
    env_cond_free(&cond);
    env_cond_free(&cond);
}

static void pass_gate(void *argument)
{
    struct gate *gate = argument;

    pthread_mutex_lock(&gate->mutex);
    while (gate->open == 0) {
        enum err_code code = env_cond_wait(&gate->cond, &gate->mutex, NEVER_NS);

        if (code != ERR_OK)
            break;
    }
    gate->open--;
    gate->passed++;
    pthread_mutex_unlock(&gate->mutex);
}

static void waiters_are_woken(void **state)
{
    struct gate gate = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    struct env_thread *threads[4];
    struct err err;

    (void)state;
    env_cond_init(env_real(), &gate.cond);
    for (size_t i = 0; i < ARRAY_COUNT(threads); i++)
        assert_int_equal(env_thread_start(env_real(), &threads[i], "a name of many bytes",
                                          pass_gate, &gate, &err),
                         ERR_OK);
    pthread_mutex_lock(&gate.mutex);
    gate.open = 1;
    env_cond_signal(&gate.cond);
    pthread_mutex_unlock(&gate.mutex);
    pthread_mutex_lock(&gate.mutex);
    gate.open += 3;
    env_cond_broadcast(&gate.cond);
    pthread_mutex_unlock(&gate.mutex);
    for (size_t i = 0; i < ARRAY_COUNT(threads); i++)
        env_thread_join(threads[i]);
    env_thread_join(NULL);
    assert_int_equal(gate.passed, 4);
    env_cond_free(&gate.cond);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocks_go_forward),
        cmocka_unit_test(random_bytes_differ),
        cmocka_unit_test(a_wait_ends_at_its_deadline),
        cmocka_unit_test(waiters_are_woken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
