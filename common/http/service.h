/* The life of a service process: options, open, listen, serve, drain, close.
 *
 *   load → options (flags, environment, file) → log → signals → open → listen ("listening on
 *   PORT" on stdout) → ready … SIGTERM or SIGINT → not ready → drain → close → exit code 0
 *
 * Every service has GET /livez, /readyz, /metrics, /version (and /healthz, alias of /livez) on its
 * listener; with --health-listen on one of their own as well. */
#ifndef VICINAL_HTTP_SERVICE_H
#define VICINAL_HTTP_SERVICE_H

#include "common/base/env.h"
#include "common/base/options.h"
#include "common/base/version.h"
#include "common/http/route.h"
#include "common/observe/metrics.h"

/* Members that every service's state begins with; filled before open. */
struct service_base {
    const char *listen;        /* --listen, default 127.0.0.1:0 */
    const char *health_listen; /* --health-listen, default none */
    const char *advertise;     /* --advertise: URL others reach us by; default http://listen */
    const char *log_level;
    const char *parent_pid; /* --parent-pid: end when this process has gone (0: none) */
    uint64_t workers;       /* --workers */
    uint64_t read_timeout_ms;
    bool access_log;
    struct env *env;
    struct metrics *metrics;
    uint16_t port; /* known once listening, before start() */
    char url[160]; /* advertise, with the true port; before start() */
};

/* The rows of those members, to stand at the head of each service's option table. */
#define SERVICE_OPTION_ROWS(owner)                                                                 \
    {.name = "listen",                                                                             \
     .type = OPTION_TEXT,                                                                          \
     .fallback = "127.0.0.1:0",                                                                    \
     .help = "Address to listen on; port 0 takes a free one.",                                     \
     .offset = offsetof(owner, base.listen)},                                                      \
        {.name = "health-listen",                                                                  \
         .type = OPTION_TEXT,                                                                      \
         .help = "A second address, for health and metrics only.",                                 \
         .offset = offsetof(owner, base.health_listen)},                                           \
        {.name = "advertise",                                                                      \
         .type = OPTION_TEXT,                                                                      \
         .help = "URL by which other services reach this one (default: the address listened on).", \
         .offset = offsetof(owner, base.advertise)},                                               \
        {.name = "log-level",                                                                      \
         .type = OPTION_TEXT,                                                                      \
         .fallback = "info",                                                                       \
         .help = "debug, info, warn, error or off.",                                               \
         .offset = offsetof(owner, base.log_level)},                                               \
        {.name = "parent-pid",                                                                     \
         .type = OPTION_TEXT,                                                                      \
         .help = "End when this process has gone.",                                                \
         .offset = offsetof(owner, base.parent_pid)},                                              \
        {.name = "workers",                                                                        \
         .type = OPTION_U64,                                                                       \
         .fallback = "64",                                                                         \
         .min = 2,                                                                                 \
         .max = 4096,                                                                              \
         .help = "Connections served at a time.",                                                  \
         .offset = offsetof(owner, base.workers)},                                                 \
        {.name = "read-timeout",                                                                   \
         .type = OPTION_U64,                                                                       \
         .fallback = "10000",                                                                      \
         .min = 10,                                                                                \
         .max = 600000,                                                                            \
         .unit = "ms",                                                                             \
         .help = "A client silent for so long in mid-request is answered 408.",                    \
         .offset = offsetof(owner, base.read_timeout_ms)},                                         \
    {                                                                                              \
        .name = "access-log", .type = OPTION_BOOL, .fallback = "false",                            \
        .help = "Write one line for each request.", .offset = offsetof(owner, base.access_log)     \
    }

struct service {
    const char *name;  /* "router" */
    const char *about; /* a sentence for --help */
    const struct option *options;
    const struct route *routes; /* without the health routes */
    size_t core_offset;         /* in state: what the handlers get as req->state */
    bool is_inner; /* its clients are our own, which send some calls once (HTTP_ONCE_IDLE_MS) */
    /* Before the port opens: back ends, files, threads that need no port. */
    enum err_code (*open)(void *state, struct err *err);
    /* After the port is known (base.url): register, begin to work.  May be NULL. */
    enum err_code (*start)(void *state, struct err *err);
    /* GET /readyz: true, or false with failing checks appended to why as JSON strings separated by
     * commas.  Must not block. */
    bool (*ready)(void *state, struct buffer *why);
    /* SIGTERM has come; called before the drain so that waiting requests end.  May be NULL. */
    void (*stop)(void *state);
    /* After the last request.  Called also when open or start has failed. */
    void (*close)(void *state);
    /* Before /metrics is written: set gauges.  May be NULL. */
    void (*measure)(void *state);
};

/* main() of a service; state begins with a struct service_base.  Returns the exit code.  With
 * --print-routes alone it prints "METHOD path operation" lines and does nothing else. */
int service_run(const struct service *service, void *state, int argc, char **argv);

/* From a thread of the service, behind start: it can never work as it is configured.  The process
 * ends in order, then as if start had failed with this.  The first one counts. */
void service_give_up(const struct err *why);

#endif
