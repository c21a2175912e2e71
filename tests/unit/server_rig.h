/* A real server of a test's own (tests/lib/serve.py), which the test kills, pauses and restarts.
 * It ends when the test does, however that comes about. */
#ifndef VICINAL_TESTS_SERVER_RIG_H
#define VICINAL_TESTS_SERVER_RIG_H

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/err.h"

struct server {
    pid_t pid;
    FILE *commands, *answers;
    char url[256];
};

/* One line of the server's, without its end. */
static inline void server_line(struct server *server, char *line, size_t size)
{
    assert_non_null(fgets(line, (int)size, server->answers));
    line[strcspn(line, "\n")] = '\0';
}

static inline void server_start(struct server *server, const char *kind, const char *flag,
                                const char *value)
{
    const char *const argv[] = {"python3", "tests/lib/serve.py", kind, flag, value, NULL};
    int to[2], from[2];

    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    server->pid = fork();
    assert_true(server->pid >= 0);
    if (server->pid == 0) {
        if (dup2(to[0], STDIN_FILENO) >= 0 && dup2(from[1], STDOUT_FILENO) >= 0)
            execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    assert_int_equal(close(to[0]), 0);
    assert_int_equal(close(from[1]), 0);
    server->commands = fdopen(to[1], "w");
    server->answers = fdopen(from[0], "r");
    assert_non_null(server->commands);
    assert_non_null(server->answers);
    server_line(server, server->url, sizeof(server->url));
}

/* The server must say ok; what it says besides is returned, until the next call. */
PRINTF_LIKE(2, 3)
static inline const char *server_tell(struct server *server, const char *format, ...)
{
    static char line[4096];
    va_list values;

    va_start(values, format);
    assert_true(vfprintf(server->commands, format, values) >= 0);
    va_end(values);
    assert_true(fputc('\n', server->commands) != EOF);
    assert_int_equal(fflush(server->commands), 0);
    server_line(server, line, sizeof(line));
    if (strncmp(line, "ok ", 3) != 0)
        fail_msg("%s", line);
    return line + 3;
}

static inline void server_stop(struct server *server)
{
    int status;

    (void)fclose(server->commands);
    assert_int_equal(waitpid(server->pid, &status, 0), server->pid);
    (void)fclose(server->answers);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#endif
