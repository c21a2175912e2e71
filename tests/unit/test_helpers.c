/* Threads that are lent for linking: all work is done, once, whoever else has work at the same
 * time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "services/shard/helpers.h"

enum { CALLERS = 3, WORKS = 3000, INDICES = 40 };

static struct helpers *helpers;

struct caller {
    pthread_t thread;
    atomic_uint done[INDICES];
    unsigned wrong;
};

static void job(void *argument, size_t index)
{
    atomic_fetch_add(&((struct caller *)argument)->done[index], 1);
}

/* Works of every size; after each, each of its indices has been done and no other. */
static void *work(void *argument)
{
    struct caller *caller = argument;
    struct engine_executor executor = helpers_executor(helpers);

    for (unsigned n = 0; n < WORKS; n++) {
        size_t count = n % INDICES;

        memset(caller->done, 0, sizeof(caller->done));
        executor.run(executor.state, job, caller, count);
        for (size_t i = 0; i < INDICES; i++)
            caller->wrong += atomic_load(&caller->done[i]) != (i < count);
    }
    return NULL;
}

static void with_callers(uint32_t helper_count, unsigned caller_count)
{
    struct caller callers[CALLERS] = {0};
    struct err err = {0};

    assert_int_equal(helpers_open(&helpers, env_real(), helper_count, &err), ERR_OK);
    for (unsigned i = 0; i < caller_count; i++)
        assert_int_equal(pthread_create(&callers[i].thread, NULL, work, &callers[i]), 0);
    for (unsigned i = 0; i < caller_count; i++) {
        assert_int_equal(pthread_join(callers[i].thread, NULL), 0);
        assert_int_equal(callers[i].wrong, 0);
    }
    helpers_close(helpers);
}

static void all_work_is_done_once(void **state)
{
    (void)state;
    with_callers(0, 1);
    with_callers(1, 1);
    with_callers(3, 1);
}

static void two_may_have_work_at_a_time(void **state)
{
    (void)state;
    with_callers(0, CALLERS);
    with_callers(1, 2);
    with_callers(3, CALLERS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_work_is_done_once),
        cmocka_unit_test(two_may_have_work_at_a_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
