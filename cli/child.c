/* One service as a child process: see child.h.
 *
 * Between fork and exec only async-signal-safe calls are made, on memory prepared before. */
#include "cli/child.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/base/text.h"

#define EXIT_NO_EXEC 127

enum err_code child_listen_on(struct child *child, const char *listen, struct err *err)
{
    const char *colon = strrchr(listen, ':');
    size_t host_len = colon == NULL ? 0 : (size_t)(colon - listen);
    uint64_t port;

    if (host_len == 0 || host_len >= sizeof(child->host) ||
        !text_to_u64(colon + 1, strlen(colon + 1), &port) || port > UINT16_MAX)
        return err_set(err, ERR_CONFIG, "--listen \"%.100s\" is not of the form HOST:PORT", listen);
    memcpy(child->host, listen, host_len);
    child->host[host_len] = '\0';
    child->port = (uint16_t)port;
    child->is_port_fixed = port != 0;
    return ERR_OK;
}

enum err_code child_add_args(struct child *child, const char *const *args, struct err *err)
{
    for (; *args != NULL; args++) {
        assert(child->arg_count < CHILD_ARGS_MAX);
        child->args[child->arg_count] = strdup(*args);
        if (child->args[child->arg_count] == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory for %s", child->name);
        child->arg_count++;
    }
    return ERR_OK;
}

struct launch {
    char *argv[CHILD_ARGS_MAX + 6];
    int in, out;
    pid_t parent;
    sigset_t nothing;
};

/* In the child.  Does not return. */
static _Noreturn void become_service(const struct launch *launch)
{
    static const char failed[] = "vicinal up: a service could not be executed\n";

    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != launch->parent)
        _exit(EXIT_NO_EXEC); /* the parent died before it could be watched */
    if (dup2(launch->in, STDIN_FILENO) >= 0 && dup2(launch->out, STDOUT_FILENO) >= 0) {
        (void)sigprocmask(SIG_SETMASK, &launch->nothing, NULL);
        (void)execv(launch->argv[0], launch->argv);
    }
    (void)!write(STDERR_FILENO, failed, sizeof(failed) - 1);
    _exit(EXIT_NO_EXEC);
}

static enum err_code launch_it(struct child *child, struct launch *launch, struct err *err)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_set_errno(err, errno, "pipe for %s", child->name);
    launch->out = ends[1];
    pid = fork();
    if (pid == 0)
        become_service(launch);
    (void)close(ends[1]);
    if (pid < 0) {
        (void)close(ends[0]);
        return err_set_errno(err, errno, "cannot start %s", child->name);
    }
    (void)fcntl(ends[0], F_SETFL, O_NONBLOCK);
    child->pid = pid;
    child->out = ends[0];
    return ERR_OK;
}

enum err_code child_start(struct child *child, uint64_t now_ns, struct err *err)
{
    struct launch launch = {.parent = getpid()};
    char listen[96], parent[24];
    char listen_flag[] = "--listen", parent_flag[] = "--parent-pid";
    size_t count = 0;
    enum err_code rc;

    assert(child->pid == 0);
    if (access(child->program, X_OK) != 0)
        return err_set(err, ERR_CONFIG, "%s: %s", child->program, strerror(errno));
    (void)snprintf(listen, sizeof(listen), "%s:%u", child->host, child->port);
    (void)snprintf(parent, sizeof(parent), "%ld", (long)getpid());
    launch.argv[count++] = child->program;
    for (size_t i = 0; i < child->arg_count; i++)
        launch.argv[count++] = child->args[i];
    launch.argv[count++] = listen_flag;
    launch.argv[count++] = listen;
    launch.argv[count++] = parent_flag;
    launch.argv[count++] = parent;
    launch.argv[count] = NULL;
    (void)sigemptyset(&launch.nothing);
    launch.in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (launch.in < 0)
        return err_set_errno(err, errno, "/dev/null");
    rc = launch_it(child, &launch, err);
    (void)close(launch.in);
    child->is_listening = false;
    child->line_len = 0;
    child->started_ns = now_ns;
    return rc;
}

static void take_line(struct child *child)
{
    static const char said[] = "listening on ";
    size_t len = sizeof(said) - 1;
    uint64_t port;

    if (child->line_len > len && memcmp(child->line, said, len) == 0 &&
        text_to_u64(child->line + len, child->line_len - len, &port) && port <= UINT16_MAX) {
        child->port = (uint16_t)port;
        child->is_listening = true;
        child->has_listened = true;
    }
    child->line_len = 0;
}

void child_read(struct child *child)
{
    char bytes[512];
    ssize_t got = 0;

    while (child->out >= 0 && (got = read(child->out, bytes, sizeof(bytes))) > 0) {
        for (ssize_t i = 0; i < got; i++) {
            if (bytes[i] == '\n')
                take_line(child);
            else if (child->line_len < sizeof(child->line))
                child->line[child->line_len++] = bytes[i];
        }
    }
    if (child->out >= 0 && (got == 0 || (errno != EAGAIN && errno != EINTR))) {
        (void)close(child->out);
        child->out = -1;
    }
}

void child_ended(struct child *child)
{
    child_read(child);
    if (child->out >= 0)
        (void)close(child->out);
    child->out = -1;
    child->pid = 0;
    child->is_listening = false;
}

void child_free(struct child *child)
{
    for (size_t i = 0; i < child->arg_count; i++)
        free(child->args[i]);
    free(child->program);
    if (child->out > 0)
        (void)close(child->out);
    *child = (struct child){.out = -1};
}
