/* A tiny service in a child process: its options, its first line, its health, its end.  Waits are
 * reads from pipes and waitpid; an alarm ends the test should one never come back.
 * pace: waits */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/http/client.h"
#include "common/http/service.h"

#define PATIENCE_S 60
#define ARGS_MAX   12

/* ---- the service ---- */

struct tiny {
    struct service_base base;
    const char *mode; /* what goes wrong */
    uint64_t size;
    _Atomic bool is_stopping;
    _Atomic bool is_ready;
};

static bool mode_is(const struct tiny *tiny, const char *mode)
{
    return tiny->mode != NULL && strcmp(tiny->mode, mode) == 0;
}

static enum err_code tiny_open(void *state, struct err *err)
{
    struct tiny *tiny = state;

    if (mode_is(tiny, "config"))
        return err_set(err, ERR_CONFIG, "the mode is wrong");
    if (mode_is(tiny, "io"))
        return err_set(err, ERR_IO, "the disk is broken");
    return ERR_OK;
}

static enum err_code tiny_start(void *state, struct err *err)
{
    struct tiny *tiny = state;

    if (mode_is(tiny, "start"))
        return err_set(err, ERR_UNAVAILABLE, "nobody is there");
    (void)fprintf(stderr, "url %s\n", tiny->base.url);
    return ERR_OK;
}

static bool tiny_ready(void *state, struct buffer *why)
{
    struct tiny *tiny = state;

    if (atomic_load(&tiny->is_ready))
        return true;
    buffer_append_text(why, "\"one\",\"two\"");
    return false;
}

static void tiny_stop(void *state)
{
    struct tiny *tiny = state;

    (void)fprintf(stderr, "stop\n");
    atomic_store(&tiny->is_stopping, true);
}

static void tiny_close(void *state)
{
    (void)state;
    (void)fprintf(stderr, "close\n");
}

static void tiny_measure(void *state)
{
    struct tiny *tiny = state;

    metric_set(metrics_gauge(tiny->base.metrics, "tiny_size", "", "Size."), (double)tiny->size);
}

static enum err_code post_ready(struct request *req)
{
    struct tiny *tiny = req->state;

    atomic_store(&tiny->is_ready, true);
    req->reply.status = 204;
    return ERR_OK;
}

/* Ends when the service stops; in mode "stuck" not even then. */
static enum err_code get_wait(struct request *req)
{
    struct tiny *tiny = req->state;

    (void)fprintf(stderr, "waiting\n");
    while (!atomic_load(&tiny->is_stopping) || mode_is(tiny, "stuck"))
        if (env_sleep_until(req->env, env_boot_ns(req->env) + NS_PER_MS) != ERR_OK)
            break;
    buffer_append_text(&req->reply.body, "{}");
    return ERR_OK;
}

static const struct route tiny_routes[] = {
    {"POST", "/ready", post_ready, 0, "ready"},
    {"GET", "/wait", get_wait, 0, "wait"},
    {0},
};

static const struct option tiny_options[] = {
    SERVICE_OPTION_ROWS(struct tiny),
    {.name = "mode", .type = OPTION_TEXT, .help = "Mode.", .offset = offsetof(struct tiny, mode)},
    {.name = "size",
     .type = OPTION_U64,
     .fallback = "7",
     .max = 9,
     .help = "Size.",
     .offset = offsetof(struct tiny, size)},
    {0},
};

static int tiny_main(int argc, char **argv)
{
    static struct tiny tiny;
    static const struct service service = {
        .name = "tiny",
        .about = "A service for tests.",
        .options = tiny_options,
        .routes = tiny_routes,
        .open = tiny_open,
        .start = tiny_start,
        .ready = tiny_ready,
        .stop = tiny_stop,
        .close = tiny_close,
        .measure = tiny_measure,
    };

    return service_run(&service, &tiny, argc, argv);
}

/* ---- the child ---- */

struct child {
    pid_t pid;
    FILE *out;
    FILE *err;
    unsigned port;
    char url[64];
};

static struct child start_child(const char *const *args)
{
    struct child child = {0};
    char *argv[ARGS_MAX + 2] = {"vicinal-tiny"};
    int out[2], err[2];
    int argc = 1;

    for (; args[argc - 1] != NULL && argc <= ARGS_MAX; argc++)
        argv[argc] = (char *)(uintptr_t)args[argc - 1];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(pipe(err), 0);
    (void)fflush(NULL);
    child.pid = fork();
    assert_true(child.pid >= 0);
    if (child.pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)alarm(PATIENCE_S);
        (void)dup2(out[1], STDOUT_FILENO);
        (void)dup2(err[1], STDERR_FILENO);
        close(out[0]);
        close(out[1]);
        close(err[0]);
        close(err[1]);
        exit(tiny_main(argc, argv));
    }
    close(out[1]);
    close(err[1]);
    child.out = fdopen(out[0], "r");
    child.err = fdopen(err[0], "r");
    return child;
}

static void await_port(struct child *child)
{
    char line[80];

    assert_non_null(fgets(line, sizeof(line), child->out));
    assert_int_equal(sscanf(line, "listening on %u\n", &child->port), 1);
    (void)snprintf(child->url, sizeof(child->url), "http://127.0.0.1:%u", child->port);
}

/* Read on until a line of stderr contains the text; what stands behind it as a number. */
static unsigned await_line(struct child *child, const char *text)
{
    char line[1024];

    while (fgets(line, sizeof(line), child->err) != NULL) {
        const char *at = strstr(line, text);

        if (at != NULL)
            return (unsigned)strtoul(at + strlen(text), NULL, 10);
    }
    fail_msg("no line with '%s'", text);
    return 0;
}

static int end_child(struct child *child)
{
    int status = 0;

    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    (void)fclose(child->out);
    (void)fclose(child->err);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static uint64_t soon(void)
{
    return env_boot_ns(env_real()) + PATIENCE_S * NS_PER_S;
}

/* Ask and look: the status, and a text that the body contains.  False: not so; fails when must. */
static bool is_told(const char *base, const char *method, const char *path, int status,
                    const char *want, bool must)
{
    struct http_call call = {.method = method, .base = base, .path = path, .reply_max = 1 << 20};
    struct http_client_options options = {.env = env_real()};
    struct http_client *client;
    bool is_right;

    assert_int_equal(http_client_open(&client, &options, NULL), ERR_OK);
    assert_int_equal(http_call_one(client, &call, soon()), ERR_OK);
    buffer_append_byte(&call.reply, '\0');
    is_right = call.status == status && strstr((char *)call.reply.data, want) != NULL;
    if (!is_right && must)
        fail_msg("%s: %d %s", path, call.status, (char *)call.reply.data);
    http_call_free(&call);
    http_client_close(client);
    return is_right;
}

static void ask(const char *base, const char *method, const char *path, int status,
                const char *want)
{
    (void)is_told(base, method, path, status, want, true);
}

/* A request is counted behind its answer. */
static void await_metric(const char *base, const char *line)
{
    uint64_t until_ns = soon();

    while (!is_told(base, "GET", "/metrics", 200, line, env_boot_ns(env_real()) > until_ns))
        (void)usleep(1000);
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

/* ---- tests ---- */

static void health_is_told_from_start_to_end(void **state)
{
    struct child child = start_child(ARGS("--size", "8"));

    (void)state;
    await_port(&child);
    ask(child.url, "GET", "/livez", 200, "\"ok\"");
    ask(child.url, "GET", "/healthz", 200, "\"ok\"");
    ask(child.url, "GET", "/readyz", 503,
        "{\"status\":\"unavailable\",\"failing\":[\"one\",\"two\"]}");
    ask(child.url, "POST", "/ready", 204, "");
    ask(child.url, "GET", "/readyz", 200, "\"ok\"");
    ask(child.url, "GET", "/version", 200,
        "{\"name\":\"vicinal-tiny\",\"version\":\"" VICINAL_VERSION "\"}");
    ask(child.url, "GET", "/metrics", 200, "\ntiny_size 8\n");
    await_metric(
        child.url,
        "http_requests_total{service=\"tiny\",operation=\"getReadyz\",status=\"5xx\"} 1\n");
    ask(child.url, "DELETE", "/livez", 405, "method_not_allowed");
    assert_int_equal(kill(child.pid, SIGTERM), 0);
    await_line(&child, "stop");
    await_line(&child, "close");
    await_line(&child, "\"stopped\"");
    assert_int_equal(end_child(&child), 0);
}

static void running_requests_end_and_sigint_is_as_good(void **state)
{
    struct child child = start_child(ARGS("--advertise", "http://example.test:{port}/x"));
    pid_t asker;
    int status;

    (void)state;
    await_line(&child, "url http://example.test:");
    await_port(&child);
    asker = fork();
    if (asker == 0) {
        ask(child.url, "GET", "/wait", 200, "{}");
        _exit(0);
    }
    await_line(&child, "waiting");
    assert_int_equal(kill(child.pid, SIGINT), 0);
    assert_int_equal(waitpid(asker, &status, 0), asker);
    assert_int_equal(status, 0);
    assert_int_equal(end_child(&child), 0);
}

static void a_stop_that_does_not_end_is_ended(void **state)
{
    struct child child = start_child(ARGS("--mode", "stuck"));
    pid_t asker;
    int status;

    (void)state;
    await_port(&child);
    asker = fork();
    if (asker == 0) {
        struct http_client_options options = {.env = env_real()};
        struct http_call call = {.method = "GET", .base = child.url, .path = "/wait"};
        struct http_client *client;

        if (http_client_open(&client, &options, NULL) == ERR_OK)
            (void)http_call_one(client, &call, soon());
        _exit(0);
    }
    await_line(&child, "waiting");
    assert_int_equal(kill(child.pid, SIGTERM), 0);
    await_line(&child, "stopping took too long");
    assert_int_equal(end_child(&child), 1);
    assert_int_equal(waitpid(asker, &status, 0), asker);
}

static void a_second_listener_has_health_only(void **state)
{
    struct child child =
        start_child(ARGS("--health-listen", "127.0.0.1:0", "--log-level", "debug"));
    char url[64];

    (void)state;
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u", await_line(&child, "health_port\":"));
    await_port(&child);
    ask(child.url, "GET", "/livez", 200, "\"ok\"");
    ask(url, "GET", "/livez", 200, "\"ok\"");
    ask(url, "GET", "/readyz", 503, "\"one\"");
    ask(url, "GET", "/metrics", 200, "tiny_size 7");
    ask(url, "POST", "/ready", 404, "not_found");
    assert_int_equal(kill(child.pid, SIGTERM), 0);
    assert_int_equal(end_child(&child), 0);
}

static void wrong_configurations_end_with_2(void **state)
{
    static const char *const wrong[][3] = {
        {"--no-such-option", NULL},
        {"--size", "10", NULL},
        {"--listen", "nonsense", NULL},
        {"--listen", "192.0.2.1:0", NULL},
        {"--log-level", "loud", NULL},
        {"--parent-pid", "x", NULL},
        {"--advertise", "ftp://x", NULL},
        {"--mode", "config", NULL},
        {"operand", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        struct child child = start_child(wrong[i]);

        await_line(&child, "vicinal-tiny: ");
        assert_int_equal(end_child(&child), 2);
    }
}

static void other_failures_end_with_1_and_close(void **state)
{
    static const char *const modes[] = {"io", "start"};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(modes); i++) {
        struct child child = start_child(ARGS("--mode", modes[i]));

        await_line(&child, "vicinal-tiny: ");
        await_line(&child, "close");
        assert_int_equal(end_child(&child), 1);
    }
}

static void help_and_version_are_told(void **state)
{
    struct child child = start_child(ARGS("--help"));
    char text[4096];
    size_t len;

    (void)state;
    len = fread(text, 1, sizeof(text) - 1, child.out);
    text[len] = '\0';
    assert_non_null(strstr(text, "--health-listen"));
    assert_non_null(strstr(text, "A service for tests."));
    assert_int_equal(end_child(&child), 0);
    child = start_child(ARGS("--version"));
    assert_non_null(fgets(text, sizeof(text), child.out));
    assert_non_null(strstr(text, VICINAL_VERSION));
    assert_int_equal(end_child(&child), 0);
}

static void a_service_ends_with_its_parent(void **state)
{
    pid_t parent = fork();
    struct child child;
    char pid[16];

    (void)state;
    if (parent == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    (void)snprintf(pid, sizeof(pid), "%d", (int)parent);
    child = start_child(ARGS("--parent-pid", pid));
    await_port(&child);
    assert_int_equal(kill(parent, SIGKILL), 0);
    assert_int_equal(waitpid(parent, NULL, 0), parent);
    assert_int_equal(end_child(&child), 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(health_is_told_from_start_to_end),
        cmocka_unit_test(running_requests_end_and_sigint_is_as_good),
        cmocka_unit_test(a_stop_that_does_not_end_is_ended),
        cmocka_unit_test(a_second_listener_has_health_only),
        cmocka_unit_test(wrong_configurations_end_with_2),
        cmocka_unit_test(other_failures_end_with_1_and_close),
        cmocka_unit_test(help_and_version_are_told),
        cmocka_unit_test(a_service_ends_with_its_parent),
    };

    (void)alarm(2 * PATIENCE_S);
    log_start("test", LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
