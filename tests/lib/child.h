/* Processes that a test has forked. */
#ifndef VICINAL_TESTS_LIB_CHILD_H
#define VICINAL_TESTS_LIB_CHILD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/wait.h>

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

#endif
