/* The life of a service process: see service.h.
 *
 * Happy path: options, log, signals blocked (before any thread starts, so that only the main thread
 * takes them), open, listen, start, "listening on PORT", then wait for SIGTERM or SIGINT; not
 * ready, stop, drain, close.  Until start has come back every operation but health answers 503.
 *
 * Failure modes: a wrong configuration ends with exit code 2, also when it is found out later;
 * anything else that hinders the start with 1; both with one plain line on stderr.  A stop that
 * takes longer than STOP_S, or a second signal, ends the process at once with 1: durability never
 * depends on a clean stop. */
#include "common/http/service.h"

#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/http/client.h"
#include "common/http/server.h"

#define EXIT_CONFIG     2
#define DRAIN_MS        2000
#define STOP_S          4
#define KEEP_ALIVE_MS   60000 /* above the idle_ms of our clients */
#define HEALTH_WORKERS  4
#define PARENT_CHECK_MS 500
#define ECHO_SIGNAL_MS  300 /* one Ctrl-C may arrive from the terminal and from the parent */
#define TEXT_METRICS    "text/plain; version=0.0.4; charset=utf-8"

struct run {
    const struct service *service;
    struct service_base *base; /* the service's state */
    struct http_server *server;
    struct http_server *health_server;
    struct route *routes;  /* health, then the service's own behind the gate */
    handler_fn **handlers; /* what stands behind the gate, by index in routes */
    pid_t parent;          /* 0: none to watch */
    _Atomic bool is_started;
    _Atomic bool is_stopping;
    pthread_mutex_t lock; /* guards: */
    struct err failure;   /* of service_give_up */
};

/* The service of this process; handlers of health find it here. */
static struct run *running;

static enum err_code get_livez(struct request *req)
{
    buffer_append_text(&req->reply.body, "{\"status\":\"ok\"}");
    return ERR_OK;
}

static enum err_code get_readyz(struct request *req)
{
    struct buffer why = {0};
    bool is_ready = true;

    if (atomic_load(&running->is_stopping)) {
        buffer_append_text(&why, "\"stopping\"");
        is_ready = false;
    } else if (!atomic_load(&running->is_started)) {
        buffer_append_text(&why, "\"starting\"");
        is_ready = false;
    } else if (running->service->ready != NULL) {
        is_ready = running->service->ready(running->base, &why);
    }
    if (is_ready) {
        buffer_append_text(&req->reply.body, "{\"status\":\"ok\"}");
    } else {
        req->reply.status = 503;
        buffer_append_text(&req->reply.body, "{\"status\":\"unavailable\",\"failing\":[");
        buffer_append(&req->reply.body, why.data, why.len);
        buffer_append_text(&req->reply.body, "]}");
        reply_header(&req->reply, "Retry-After", "1");
    }
    buffer_free(&why);
    return ERR_OK;
}

static enum err_code get_metrics(struct request *req)
{
    if (running->service->measure != NULL && atomic_load(&running->is_started))
        running->service->measure(running->base);
    req->reply.content_type = TEXT_METRICS;
    metrics_write(running->base->metrics, &req->reply.body);
    return ERR_OK;
}

static enum err_code get_version(struct request *req)
{
    buffer_append_format(&req->reply.body, "{\"name\":\"vicinal-%s\",\"version\":\"%s\"}",
                         running->service->name, VICINAL_VERSION);
    return ERR_OK;
}

static const struct route health_routes[] = {
    {"GET", "/livez", get_livez, 0, "getLivez"},
    {"GET", "/healthz", get_livez, 0, "getHealthz"},
    {"GET", "/readyz", get_readyz, 0, "getReadyz"},
    {"GET", "/metrics", get_metrics, 0, "getMetrics"},
    {"GET", "/version", get_version, 0, "getVersion"},
    {0},
};

/* Stands before every operation of the service: its state may be used once start has come back. */
static enum err_code gate(struct request *req)
{
    if (!atomic_load(&running->is_started))
        return err_set(&req->err, ERR_UNAVAILABLE, "the service is starting");
    req->state = (char *)running->base + running->service->core_offset;
    return running->handlers[req->route - running->routes](req);
}

static enum err_code merge_routes(struct run *run, struct err *err)
{
    size_t health_count = ARRAY_COUNT(health_routes) - 1;
    size_t count = 0;

    while (run->service->routes != NULL && run->service->routes[count].method != NULL)
        count++;
    run->routes = calloc(health_count + count + 1, sizeof(*run->routes));
    run->handlers = calloc(health_count + count + 1, sizeof(*run->handlers));
    if (run->routes == NULL || run->handlers == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the routes");
    memcpy(run->routes, health_routes, health_count * sizeof(*run->routes));
    for (size_t i = 0; i < count; i++) {
        run->routes[health_count + i] = run->service->routes[i];
        run->routes[health_count + i].handler = gate;
        run->handlers[health_count + i] = run->service->routes[i].handler;
    }
    return ERR_OK;
}

static enum err_code listen_on(const struct run *run, const char *listen, bool health_only,
                               struct http_server **out, struct err *err)
{
    const struct service_base *base = run->base;
    struct http_server_options options = {
        .listen = listen,
        .workers = health_only ? HEALTH_WORKERS : (uint32_t)base->workers,
        .read_timeout_ms = (uint32_t)base->read_timeout_ms,
        .keep_alive_ms = KEEP_ALIVE_MS,
        .idle_ms = run->service->is_inner ? HTTP_ONCE_IDLE_MS + 1000 : 0,
        .routes = health_only ? health_routes : run->routes,
        .state = run->base,
        .env = base->env,
        .metrics = base->metrics,
        .service = run->service->name,
        .access_log = base->access_log && !health_only,
    };

    return http_server_open(out, &options, err);
}

/* The URL that others reach us by: --advertise with its {port}, or the address listened on. */
static enum err_code set_url(struct service_base *base, struct err *err)
{
    static const char mark[] = "{port}";
    const char *text = base->advertise == NULL ? "" : base->advertise;
    const char *at = strstr(text, mark);
    const char *colon = strrchr(base->listen, ':');
    int len;

    assert(colon != NULL);
    if (text[0] == '\0' && strncmp(base->listen, "0.0.0.0:", 8) == 0)
        len = snprintf(base->url, sizeof(base->url), "http://127.0.0.1:%u", base->port);
    else if (text[0] == '\0')
        len = snprintf(base->url, sizeof(base->url), "http://%.*s:%u", (int)(colon - base->listen),
                       base->listen, base->port);
    else if (at != NULL)
        len = snprintf(base->url, sizeof(base->url), "%.*s%u%s", (int)(at - text), text, base->port,
                       at + strlen(mark));
    else
        len = snprintf(base->url, sizeof(base->url), "%s", text);
    if (len < 0 || (size_t)len >= sizeof(base->url))
        return err_set(err, ERR_CONFIG, "--advertise is too long");
    if (strncmp(base->url, "http://", 7) != 0 && strncmp(base->url, "https://", 8) != 0)
        return err_set(err, ERR_CONFIG, "--advertise '%s' is no http URL", text);
    return ERR_OK;
}

static enum err_code check_options(struct run *run, struct err *err)
{
    const struct service_base *base = run->base;
    uint64_t pid;

    if (log_level_from_text(base->log_level, LOG_DEBUG) !=
        log_level_from_text(base->log_level, LOG_OFF))
        return err_set(err, ERR_CONFIG, "--log-level '%s' is not debug, info, warn, error or off",
                       base->log_level);
    if (base->parent_pid == NULL)
        return ERR_OK;
    if (!text_to_u64(base->parent_pid, strlen(base->parent_pid), &pid) || pid > INT32_MAX)
        return err_set(err, ERR_CONFIG, "--parent-pid '%s' is no process id", base->parent_pid);
    run->parent = (pid_t)pid;
    return ERR_OK;
}

static void block_signals(sigset_t *waited)
{
    sigemptyset(waited);
    sigaddset(waited, SIGTERM);
    sigaddset(waited, SIGINT);
    pthread_sigmask(SIG_BLOCK, waited, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

static bool parent_is_gone(const struct run *run)
{
    return run->parent != 0 && kill(run->parent, 0) != 0 && errno == ESRCH;
}

/* The kernel tells when our direct parent goes.  The named process may stand further up (a tracer
 * may be between), so it is looked at from time to time as well. */
static void watch_parent(const struct run *run)
{
    if (run->parent != 0 && getppid() == run->parent)
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
}

static void wait_for_end(const struct run *run, const sigset_t *waited)
{
    const struct timespec pause = {.tv_nsec = PARENT_CHECK_MS * 1000000l};

    while (!parent_is_gone(run)) {
        if (run->parent == 0) {
            if (sigwaitinfo(waited, NULL) > 0)
                return;
        } else if (sigtimedwait(waited, NULL, &pause) > 0) {
            return;
        }
    }
}

void service_give_up(const struct err *why)
{
    bool is_first;

    assert(running != NULL && why->code != ERR_OK);
    pthread_mutex_lock(&running->lock);
    is_first = running->failure.code == ERR_OK;
    if (is_first)
        running->failure = *why;
    pthread_mutex_unlock(&running->lock);
    if (is_first && !atomic_load(&running->is_stopping))
        (void)kill(getpid(), SIGTERM);
}

/* Did it end because somebody gave up? */
static bool has_given_up(struct run *run, struct err *why)
{
    pthread_mutex_lock(&run->lock);
    *why = run->failure;
    pthread_mutex_unlock(&run->lock);
    return why->code != ERR_OK;
}

static struct timespec stop_began;

/* Async-signal-safe: a second signal while stopping, or the time for it is up. */
static void end_at_once(int number)
{
    static const char late[] = "stopping took too long\n";
    struct timespec now;
    long ms;

    if (number == SIGALRM) {
        (void)!write(STDERR_FILENO, late, sizeof(late) - 1);
        _exit(EXIT_FAILURE);
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    ms = (long)(now.tv_sec - stop_began.tv_sec) * 1000 +
         (now.tv_nsec - stop_began.tv_nsec) / 1000000;
    if (ms > ECHO_SIGNAL_MS)
        _exit(EXIT_FAILURE);
}

static void limit_stop(const sigset_t *waited)
{
    struct sigaction action = {.sa_handler = end_at_once, .sa_flags = SA_RESTART};

    (void)clock_gettime(CLOCK_MONOTONIC, &stop_began);
    sigemptyset(&action.sa_mask);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGALRM, &action, NULL);
    (void)alarm(STOP_S);
    pthread_sigmask(SIG_UNBLOCK, waited, NULL);
}

/* From a filled struct to a served port. */
static enum err_code bring_up(struct run *run, struct err *err)
{
    const struct service *service = run->service;
    struct service_base *base = run->base;
    enum err_code rc;

    if ((rc = merge_routes(run, err)) != ERR_OK)
        return rc;
    if (service->open != NULL && (rc = service->open(base, err)) != ERR_OK)
        return rc;
    if ((rc = listen_on(run, base->listen, false, &run->server, err)) != ERR_OK)
        return rc;
    base->port = http_server_port(run->server);
    if (base->health_listen != NULL &&
        (rc = listen_on(run, base->health_listen, true, &run->health_server, err)) != ERR_OK)
        return rc;
    if ((rc = set_url(base, err)) != ERR_OK)
        return rc;
    if (service->start != NULL && (rc = service->start(base, err)) != ERR_OK)
        return rc;
    atomic_store(&run->is_started, true);
    (void)printf("listening on %u\n", base->port);
    (void)fflush(stdout);
    log_info(NULL, "listening", LOG_U64("port", base->port), LOG_TEXT("url", base->url),
             LOG_U64("health_port",
                     run->health_server == NULL ? 0 : http_server_port(run->health_server)));
    return ERR_OK;
}

static void bring_down(struct run *run)
{
    atomic_store(&run->is_stopping, true);
    if (run->service->stop != NULL && atomic_load(&run->is_started))
        run->service->stop(run->base);
    http_server_close(run->server, DRAIN_MS);
    http_server_close(run->health_server, 0);
    if (run->service->close != NULL)
        run->service->close(run->base);
    free(run->routes);
    free(run->handlers);
    metrics_free(run->base->metrics);
    log_info(NULL, "stopped");
}

static int fail(const struct run *run, const struct err *err)
{
    (void)fprintf(stderr, "vicinal-%s: %s\n", run->service->name, err->message);
    return err->code == ERR_CONFIG ? EXIT_CONFIG : EXIT_FAILURE;
}

static int serve(struct run *run)
{
    struct service_base *base = run->base;
    struct err err = {0};
    int exit_code = EXIT_SUCCESS;
    sigset_t waited;

    log_start(run->service->name, log_level_from_text(base->log_level, LOG_INFO));
    block_signals(&waited);
    watch_parent(run);
    base->env = env_real();
    base->metrics = metrics_new();
    if (base->metrics == NULL) {
        (void)err_set(&err, ERR_NO_MEMORY, "no memory for metrics");
        return fail(run, &err);
    }
    running = run;
    if (bring_up(run, &err) == ERR_OK) {
        wait_for_end(run, &waited);
        if (has_given_up(run, &err))
            exit_code = fail(run, &err);
    } else {
        exit_code = fail(run, &err);
    }
    limit_stop(&waited);
    log_info(NULL, "stopping");
    bring_down(run);
    (void)alarm(0);
    running = NULL;
    return exit_code;
}

/* For the test that compares routes and OpenAPI files. */
static int print_routes(const struct route *routes)
{
    for (const struct route *route = health_routes; route->method != NULL; route++)
        printf("%s %s %s\n", route->method, route->path, route->operation);
    for (const struct route *route = routes; route->method != NULL; route++)
        printf("%s %s %s\n", route->method, route->path, route->operation);
    return 0;
}

/* Bodies come and go by the megabyte on many threads: with glibc's defaults their memory stays in
 * per-thread arenas (measured: 155 MB after an import instead of 13). */
static void tame_malloc(void)
{
    (void)mallopt(M_ARENA_MAX, 4);
    (void)mallopt(M_MMAP_THRESHOLD, 256 << 10);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 20);
}

int service_run(const struct service *service, void *state, int argc, char **argv)
{
    struct run run = {.service = service, .base = state, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct options_input input = {.table = service->options, .argc = argc, .argv = argv};
    char synopsis[64];
    struct err err = {0};
    bool wants_help = false;

    assert(running == NULL);
    if (argc == 2 && strcmp(argv[1], "--print-routes") == 0)
        return print_routes(service->routes);
    tame_malloc();
    if (options_parse(&input, state, &wants_help, &err) != ERR_OK)
        return fail(&run, &err);
    if (wants_help) {
        (void)snprintf(synopsis, sizeof(synopsis), "vicinal-%s [options]", service->name);
        options_help(stdout, synopsis, service->about, service->options);
        return EXIT_SUCCESS;
    }
    if (check_options(&run, &err) != ERR_OK)
        return fail(&run, &err);
    return serve(&run);
}
