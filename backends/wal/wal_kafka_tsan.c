/* For builds with ThreadSanitizer only; in others this file does nothing.
 *
 * librdkafka's threads are those of <threads.h>, which that sanitizer does not know: one would
 * crash in the first function that is watched.  Here they are made as POSIX threads, which it
 * knows. */
#include <stdint.h>

#include "backends/wal/wal_kafka_internal.h"
#include "common/base/sanitized.h"

#if IS_TSAN

#include <assert.h>
#include <stdlib.h>
#include <threads.h>

static_assert(sizeof(thrd_t) == sizeof(pthread_t), "a thrd_t is a pthread_t");

/* librdkafka is not instrumented: its reference counts are atomics that the sanitizer does not see,
 * while it does see the frees and copies that they guard ("data race" of a free in a broker's
 * thread with our copy out of a message that we have given back since).  So what that library
 * itself calls is not watched; our callbacks are. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "called_from_lib:librdkafka.so\n";
}

struct beginning {
    thrd_start_t run;
    void *argument;
};

static void *begin(void *opaque)
{
    struct beginning beginning = *(struct beginning *)opaque;

    free(opaque);
    return (void *)(intptr_t)beginning.run(beginning.argument);
}

int thrd_create(thrd_t *thread, thrd_start_t run, void *argument)
{
    struct beginning *beginning = malloc(sizeof(*beginning));

    if (beginning == NULL)
        return thrd_nomem;
    *beginning = (struct beginning){.run = run, .argument = argument};
    if (pthread_create((pthread_t *)thread, NULL, begin, beginning) == 0)
        return thrd_success;
    free(beginning);
    return thrd_error;
}

int thrd_join(thrd_t thread, int *out)
{
    void *value;

    if (pthread_join((pthread_t)thread, &value) != 0)
        return thrd_error;
    if (out != NULL)
        *out = (int)(intptr_t)value;
    return thrd_success;
}

#endif

/* Being called brings this file into the program. */
void kafka_threads_known(void)
{
}
