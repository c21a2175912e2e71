/* Keeps children alive until it is told to end: see supervise.h.
 *
 * Signals come through a descriptor, so there is no handler and nothing to interrupt.  Failure
 * modes: a wrong configuration (exit code 2) or START_FAILURES_MAX lives without ever listening,
 * before the start is over, give the whole thing up; later everything is tried again for ever. */
#include "cli/supervise.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/env.h"
#include "common/base/log.h"

#define LIFE_ENOUGH_NS     (1 * NS_PER_S)
#define PAUSE_MS_MAX       1000u
#define PAUSE_MS_FIRST     50u
#define START_FAILURES_MAX 5u
#define PORT_FAILURES_MAX  3u /* lives that did not listen on their old port */
#define EXIT_CODE_CONFIG   2
#define DOOR_MS            1500u /* the public door's time before the others are told */
#define KILL_MS            4000u
#define BURY_MS            900u
#define ECHO_MS            300u /* one Ctrl-C may come from the terminal and from a parent */

enum err_code supervisor_open(struct supervisor *supervisor, struct err *err)
{
    sigset_t watched;

    (void)sigemptyset(&watched);
    (void)sigaddset(&watched, SIGTERM);
    (void)sigaddset(&watched, SIGINT);
    (void)sigaddset(&watched, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &watched, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    supervisor->signals = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    if (supervisor->signals < 0)
        return err_set_errno(err, errno, "signalfd");
    return ERR_OK;
}

static uint64_t now(void)
{
    return env_boot_ns(env_real());
}

/* When to start a child again that has just ended: in so many milliseconds. */
static uint32_t plan_restart(struct child *child, bool was_listening)
{
    uint64_t at = now();
    uint32_t pause_ms = 0;

    if (was_listening && at - child->started_ns > LIFE_ENOUGH_NS)
        child->failures = 0;
    if (child->failures > 0)
        pause_ms = MIN_OF(PAUSE_MS_FIRST << MIN_OF(child->failures - 1, 8u), PAUSE_MS_MAX);
    child->failures++;
    child->restart_ns = at + pause_ms * NS_PER_MS;
    return pause_ms;
}

static void bury(struct supervisor *supervisor, struct child *child, int status)
{
    bool was_listening = child->is_listening;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    uint32_t pause_ms;

    child_ended(child);
    if (supervisor->is_ending || supervisor->failed != 0)
        return;
    pause_ms = plan_restart(child, was_listening);
    /* Its port may be taken.  One that was killed has said nothing of that. */
    if (WIFEXITED(status) && !was_listening && !child->is_port_fixed &&
        child->failures > PORT_FAILURES_MAX)
        child->port = 0;
    if (!supervisor->is_ready &&
        (code == EXIT_CODE_CONFIG ||
         (!child->has_listened && child->failures >= START_FAILURES_MAX))) {
        supervisor->failed = code == EXIT_CODE_CONFIG ? EXIT_CODE_CONFIG : 1;
        log_error(NULL, "a service could not be started", LOG_TEXT("name", child->name),
                  LOG_U64("exit_code", code < 0 ? 0 : (uint64_t)code),
                  LOG_U64("signal", WIFSIGNALED(status) ? (uint64_t)WTERMSIG(status) : 0));
        return;
    }
    log_warn(NULL, "a service has ended and is started again", LOG_TEXT("name", child->name),
             LOG_U64("exit_code", code < 0 ? 0 : (uint64_t)code),
             LOG_U64("signal", WIFSIGNALED(status) ? (uint64_t)WTERMSIG(status) : 0),
             LOG_U64("pause_ms", pause_ms));
}

/* Take every child that has ended. */
static void reap(struct supervisor *supervisor)
{
    for (size_t i = 0; i < supervisor->running; i++) {
        struct child *child = &supervisor->children[i];
        int status;

        if (child->pid != 0 && waitpid(child->pid, &status, WNOHANG) == child->pid)
            bury(supervisor, child, status);
    }
}

static void take_signals(struct supervisor *supervisor)
{
    struct signalfd_siginfo info;

    while (read(supervisor->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD)
            continue; /* reap looks at all of them anyway */
        if (!supervisor->is_ending)
            supervisor->ending_ns = now();
        supervisor->is_hasty = now() - supervisor->ending_ns > ECHO_MS * NS_PER_MS;
        supervisor->is_ending = true;
    }
}

static void start_due(struct supervisor *supervisor)
{
    struct err err = {0};

    for (size_t i = 0; i < supervisor->running; i++) {
        struct child *child = &supervisor->children[i];

        if (child->pid != 0 || child->restart_ns > now())
            continue;
        if (child_start(child, now(), &err) == ERR_OK)
            continue;
        log_err(LOG_ERROR, NULL, "a service could not be started", &err);
        (void)plan_restart(child, false);
        if (!supervisor->is_ready && err.code == ERR_CONFIG)
            supervisor->failed = EXIT_CODE_CONFIG;
    }
}

/* How long to wait: until the time given, or the next restart. */
static int patience_ms(const struct supervisor *supervisor, uint64_t until_ns)
{
    uint64_t at = now();

    for (size_t i = 0; i < supervisor->running && !supervisor->is_ending; i++)
        if (supervisor->children[i].pid == 0)
            until_ns = MIN_OF(until_ns, supervisor->children[i].restart_ns);
    if (until_ns <= at)
        return 0;
    return (int)MIN_OF((until_ns - at + NS_PER_MS - 1) / NS_PER_MS, 60000u);
}

void supervisor_step(struct supervisor *supervisor, uint64_t until_ns)
{
    struct pollfd polled[SUPERVISED_MAX + 1] = {{.fd = supervisor->signals, .events = POLLIN}};
    nfds_t count = 1;

    assert(supervisor->running <= SUPERVISED_MAX);
    for (size_t i = 0; i < supervisor->running; i++)
        if (supervisor->children[i].out >= 0)
            polled[count++] = (struct pollfd){.fd = supervisor->children[i].out, .events = POLLIN};
    (void)poll(polled, count, patience_ms(supervisor, until_ns));
    take_signals(supervisor);
    for (size_t i = 0; i < supervisor->running; i++)
        if (supervisor->children[i].out >= 0)
            child_read(&supervisor->children[i]);
    reap(supervisor);
    if (!supervisor->is_ending && supervisor->failed == 0)
        start_due(supervisor);
}

/* A stopped process takes the signal only when it goes on. */
static void tell(const struct child *child, int number)
{
    if (child->pid == 0)
        return;
    (void)kill(child->pid, number);
    (void)kill(child->pid, SIGCONT);
}

static bool any_runs_from(const struct supervisor *supervisor, size_t first)
{
    for (size_t i = first; i < supervisor->running; i++)
        if (supervisor->children[i].pid != 0)
            return true;
    return false;
}

void supervisor_end(struct supervisor *supervisor)
{
    uint64_t began = now();
    bool has_doors = supervisor->running > supervisor->doors;
    size_t first_door = supervisor->running - (has_doors ? supervisor->doors : 0);
    uint64_t kill_ns = began + KILL_MS * NS_PER_MS;

    if (!supervisor->is_ending)
        supervisor->ending_ns = began;
    supervisor->is_ending = true;
    for (size_t i = first_door; i < supervisor->running; i++)
        tell(&supervisor->children[i], SIGTERM);
    while (any_runs_from(supervisor, first_door) && !supervisor->is_hasty &&
           now() < began + DOOR_MS * NS_PER_MS)
        supervisor_step(supervisor, began + DOOR_MS * NS_PER_MS);
    for (size_t i = 0; i < first_door; i++)
        tell(&supervisor->children[i], SIGTERM);
    while (any_runs_from(supervisor, 0) && !supervisor->is_hasty && now() < kill_ns)
        supervisor_step(supervisor, kill_ns);
    for (size_t i = 0; i < supervisor->running; i++)
        tell(&supervisor->children[i], SIGKILL);
    while (any_runs_from(supervisor, 0) && now() < kill_ns + BURY_MS * NS_PER_MS)
        supervisor_step(supervisor, kill_ns + BURY_MS * NS_PER_MS);
}

void supervisor_close(struct supervisor *supervisor)
{
    if (supervisor->signals >= 0)
        (void)close(supervisor->signals);
    supervisor->signals = -1;
}
