/* Processes that a test has forked. */
#ifndef VICINAL_TESTS_LIB_CHILD_H
#define VICINAL_TESTS_LIB_CHILD_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* It was ended by the signal; 0: it has ended by itself, and well. */
static inline void child_must_end(pid_t child, int by_signal)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    if (by_signal != 0) {
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), by_signal);
    } else {
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

/* A child writes, and tells each number that is acknowledged, until it is killed: when so many have
 * come, or a few more.  Returns the last one.  write_for_ever does not return. */
static inline uint64_t child_told_until_killed(void (*write_for_ever)(int out), unsigned count)
{
    uint64_t told = 0;
    int ends[2];
    pid_t child;

    assert_int_equal(pipe(ends), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(ends[0]);
        write_for_ever(ends[1]);
        _exit(1);
    }
    assert_int_equal(close(ends[1]), 0);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(read(ends[0], &told, sizeof(told)), sizeof(told));
    assert_int_equal(kill(child, SIGKILL), 0);
    child_must_end(child, SIGKILL);
    while (read(ends[0], &told, sizeof(told)) == sizeof(told))
        continue;
    assert_int_equal(close(ends[0]), 0);
    return told;
}

#endif
