/* The HTTP server over Civetweb: see server.h.
 *
 * Civetweb accepts, parses request lines and headers, and runs one worker thread for each
 * connection; its begin_request callback hands every request to serve().  Happy path: find the
 * route, judge the framing, read the body, run the handler, send head and body in one write.
 *
 * Failure modes: what Civetweb refuses by itself (malformed or too long headers) is answered in
 * http_error with a problem, then the connection is closed.  Whenever bytes of a request may be
 * left unread the connection is closed too, after the answer. */
#include "common/http/server.h"

#include <arpa/inet.h>
#include <assert.h>
#include <civetweb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/stack.h"
#include "common/base/text.h"
#include "common/http/age.h"
#include "common/http/server_body.h"
#include "common/http/server_idle.h"

#define HEAD_BYTES_MAX     "16384"
#define CONNECTION_QUEUE   "1024"
#define LISTEN_BACKLOG     "1024"
#define KEEP_SCRATCH_BYTES MIB(1)  /* larger buffers are given back after the request */
#define SKIP_BYTES_MAX     KIB(64) /* an unwanted body up to this is read, to keep the connection */
#define STACK_BYTES_LEAST  KIB(72)
#define STATUS_CLASSES     6 /* 0xx … 5xx */
#define DRAIN_STEP_NS      (2 * NS_PER_MS)

/* What belongs to one Civetweb thread; used by no other. */
struct worker {
    struct http_server *server;
    struct idle_slot *slot;
    struct arena arena;
    struct buffer body;
    struct buffer packed;
    struct buffer reply;
    struct buffer out;
    time_t date_s; /* of date */
    char date[40];
};

struct operation_metrics {
    _Atomic(struct metric *) seconds;
    _Atomic(struct metric *) totals[STATUS_CLASSES];
};

struct http_server {
    struct http_server_options options;
    struct idle_watch idle;
    struct mg_context *context;
    uint16_t port;
    _Atomic bool is_started; /* start_error is written no more */
    _Atomic bool is_draining;
    _Atomic uint32_t running;             /* requests between begin and sent */
    struct operation_metrics *operations; /* one for each route, then one for none */
    size_t route_count;
    char start_error[160]; /* what Civetweb said while it started */
};

static const char *header_of(const struct request *req, const char *name)
{
    return mg_get_header(req->transport, name);
}

static const char *date_now(struct worker *worker)
{
    time_t now = (time_t)(env_wall_us(worker->server->options.env) / 1000000u);
    struct tm tm;

    if (now != worker->date_s || worker->date[0] == '\0') {
        worker->date_s = now;
        gmtime_r(&now, &tm);
        strftime(worker->date, sizeof(worker->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
    }
    return worker->date;
}

/* Head and body in one write. */
static void send_reply(struct worker *worker, const struct request *req, bool keep)
{
    struct mg_connection *conn = req->transport;
    const struct reply *reply = &req->reply;
    struct buffer *out = &worker->out;
    bool is_bodyless = reply->status == 204 || reply->status == 304;
    bool has_body = !is_bodyless && strcmp(req->method, "HEAD") != 0;

    buffer_reset(out);
    buffer_append_format(out, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: %s\r\n", reply->status,
                         mg_get_response_code_text(conn, reply->status), date_now(worker),
                         keep ? "keep-alive" : "close");
    if (!is_bodyless)
        buffer_append_format(out, "Content-Length: %zu\r\n", reply->body.len);
    if (reply->content_type != NULL && !is_bodyless)
        buffer_append_format(out, "Content-Type: %s\r\n", reply->content_type);
    for (size_t i = 0; i < reply->header_count; i++) {
        buffer_append_text(out, reply->headers[i].name);
        buffer_append_text(out, ": ");
        buffer_append_text(out, reply->headers[i].value);
        buffer_append_text(out, "\r\n");
    }
    buffer_append_text(out, "\r\n");
    if (has_body)
        buffer_append(out, reply->body.data, reply->body.len);
    if (!keep)
        mg_disable_connection_keep_alive(conn);
    if (has_body && !out->failed) /* last: nothing but the write may come between */
        ages_refresh(reply, env_boot_ns(req->env), out->data + out->len - reply->body.len);
    if (out->failed || mg_write(conn, out->data, out->len) != (int)out->len)
        mg_disable_connection_keep_alive(conn);
}

static void measure(struct http_server *server, const struct request *req)
{
    struct metrics *metrics = server->options.metrics;
    const struct route *route = req->route;
    size_t index = route == NULL ? server->route_count : (size_t)(route - server->options.routes);
    struct operation_metrics *operation = &server->operations[index];
    const char *name = route == NULL ? "none" : route->operation;
    size_t class = (size_t)req->reply.status / 100 % STATUS_CLASSES;
    struct metric *seconds, *total;
    char labels[160];

    if (metrics == NULL)
        return;
    /* Registering twice gives the same metric, so two threads that race here agree. */
    seconds = atomic_load_explicit(&operation->seconds, memory_order_acquire);
    if (seconds == NULL) {
        (void)snprintf(labels, sizeof(labels), "operation=\"%s\"", name);
        seconds = metrics_latency(metrics, "http_request_seconds", labels,
                                  "Time from the request's head to its answer.");
        atomic_store_explicit(&operation->seconds, seconds, memory_order_release);
    }
    total = atomic_load_explicit(&operation->totals[class], memory_order_acquire);
    if (total == NULL) {
        (void)snprintf(labels, sizeof(labels), "service=\"%s\",operation=\"%s\",status=\"%zuxx\"",
                       server->options.service == NULL ? "" : server->options.service, name, class);
        total = metrics_counter(metrics, "http_requests_total", labels,
                                "Requests answered, by class of status.");
        atomic_store_explicit(&operation->totals[class], total, memory_order_release);
    }
    metric_observe_ns(seconds, env_boot_ns(req->env) - req->received_ns);
    metric_add(total, 1);
}

static void log_access(const struct request *req)
{
    struct log_context context = {
        .request_id = req->request_id,
        .collection = req->collection,
        .operation = req->route == NULL ? NULL : req->route->operation,
    };

    LOG_AT(LOG_INFO, &context, "served", LOG_TEXT("method", req->method),
           LOG_TEXT("path", req->path), LOG_U64("status", (uint64_t)req->reply.status),
           LOG_U64("bytes", req->reply.body.len),
           LOG_F64("latency_ms", (double)(env_boot_ns(req->env) - req->received_ns) / 1e6));
}

static void recycle(struct buffer *buffer)
{
    if (buffer->size > KEEP_SCRATCH_BYTES)
        buffer_free(buffer);
    else
        buffer_reset(buffer);
}

/* The arena and the reply's buffer are lent to the request and come back warm. */
static void take_back(struct worker *worker, struct request *req)
{
    worker->reply = req->reply.body;
    worker->arena = req->arena;
    if (worker->arena.used_bytes > KEEP_SCRATCH_BYTES)
        arena_free(&worker->arena);
    else
        arena_reset(&worker->arena);
    recycle(&worker->reply);
    recycle(&worker->body);
    recycle(&worker->packed);
    recycle(&worker->out);
}

/* Read the body, or as much as keeps the connection usable when nobody wants it.  An error that is
 * set already keeps the body from being read. */
static void obtain_body(struct body_reader *reader, const struct body_frame *frame,
                        struct request *req, const struct route *route)
{
    bool is_wanted = route != NULL && route->body_max > 0 && req->err.code == ERR_OK;
    bool has_body = frame->is_chunked || frame->length > 0;

    if (!has_body) {
        reader->is_read = true;
        return;
    }
    if (is_wanted) {
        (void)!body_read(reader, frame, route->body_max, &req->err);
        req->body = reader->body->data;
        req->body_len = reader->body->len;
    } else if (req->err.code == ERR_OK && !frame->expects_continue &&
               frame->length <= SKIP_BYTES_MAX) {
        struct body_frame plain = {.is_chunked = frame->is_chunked, .length = frame->length};

        (void)!body_read(reader, &plain, SKIP_BYTES_MAX, NULL);
    }
}

static void serve(struct worker *worker, struct mg_connection *conn, const char *path)
{
    struct http_server *server = worker->server;
    const struct mg_request_info *info = mg_get_request_info(conn);
    struct request req = {
        .state = server->options.state,
        .env = server->options.env,
        .method = info->request_method,
        .path = path,
        .query = info->query_string == NULL ? "" : info->query_string,
        .received_ns = env_boot_ns(server->options.env),
        .header = header_of,
        .transport = conn,
        .arena = worker->arena,
        .reply = {.body = worker->reply},
    };
    struct body_reader reader = {
        .conn = conn,
        .env = server->options.env,
        .read_timeout_ns = server->options.read_timeout_ms * NS_PER_MS,
        .body = &worker->body,
        .packed = &worker->packed,
    };
    struct body_frame frame;
    struct route_match match = route_find(server->options.routes, &req);
    bool keep = body_keeps_connection(conn);

    if (body_frame_read(conn, &frame, &req.err) != ERR_OK)
        keep = false;
    else if (atomic_load(&server->is_draining))
        (void)err_set(&req.err, ERR_DEAD, "the service is shutting down");
    obtain_body(&reader, &frame, &req, match.route);
    keep = keep && reader.is_read && !atomic_load(&server->is_draining) &&
           !idle_turn_is_over(&server->idle, worker->slot);
    route_run(&match, &req);
    send_reply(worker, &req, keep);
    measure(server, &req);
    if (server->options.access_log)
        log_access(&req);
    body_discard(&reader, &frame);
    take_back(worker, &req);
}

/* Where there is no worker, hence no memory to write an answer into. */
static void refuse_bare(struct mg_connection *conn)
{
    static const char answer[] =
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
        "Content-Type: application/problem+json\r\nContent-Length: 101\r\n\r\n"
        "{\"type\":\"/problems/unavailable\",\"title\":\"Not available at present\","
        "\"status\":503,\"code\":\"unavailable\"}";

    mg_disable_connection_keep_alive(conn);
    (void)mg_write(conn, answer, strlen(answer));
}

static int on_begin_request(struct mg_connection *conn)
{
    struct worker *worker = mg_get_thread_pointer(conn);
    const char *path = mg_get_request_info(conn)->local_uri_raw;

    if (worker == NULL || path == NULL) {
        refuse_bare(conn);
        return 503;
    }
    /* Counted before is_draining is looked at: close either waits for it or it sees the flag. */
    idle_busy(worker->slot, (uint16_t)mg_get_request_info(conn)->remote_port);
    atomic_fetch_add(&worker->server->running, 1);
    serve(worker, conn, path);
    idle_again(&worker->server->idle, worker->slot);
    atomic_fetch_sub(&worker->server->running, 1);
    return 200;
}

/* Civetweb knows a fixed list of methods (TRACE is not among them) and refuses others after it has
 * taken the request line apart; the API answers them as every method that a path does not have.
 * False: the head was refused for another reason. */
static bool is_strange_method(const struct mg_request_info *info)
{
    static const char *const known[] = {"GET",     "POST",      "PUT",    "DELETE",   "HEAD",
                                        "OPTIONS", "CONNECT",   "PATCH",  "PROPFIND", "MKCOL",
                                        "LOCK",    "PROPPATCH", "UNLOCK", "REPORT"};

    /* The version is set last, after the other two; "HTTP/" is taken off when it was there. */
    if (info->http_version == NULL || strncmp(info->http_version, "1.", 2) != 0)
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(known); i++)
        if (strcmp(info->request_method, known[i]) == 0)
            return false;
    return true;
}

static void refuse_method(const struct http_server *server, const struct mg_request_info *info,
                          struct request *req, struct route_match *match)
{
    char *path = arena_copy_text(&req->arena, info->request_uri, strcspn(info->request_uri, "?"));

    if (path == NULL) {
        (void)err_set(&req->err, ERR_NO_MEMORY, "no memory for the path");
        return;
    }
    req->method = info->request_method;
    req->path = path;
    *match = route_find(server->options.routes, req);
}

/* Civetweb says the same of a head that is malformed and of one that did not end in time. */
static bool is_head_late(const struct worker *worker, const struct mg_request_info *info)
{
    const struct http_server_options *options = &worker->server->options;
    uint64_t since_ns = atomic_load(&worker->slot->idle_since_ns);
    uint64_t limit_ms = worker->slot->is_fresh ? options->read_timeout_ms : options->keep_alive_ms;

    return info->request_method == NULL && since_ns != 0 &&
           env_boot_ns(options->env) - since_ns >= limit_ms * NS_PER_MS / 10 * 9;
}

/* Civetweb refuses a request by itself; the connection ends afterwards.  Headers may not be looked
 * at: they have not been parsed. */
static int on_http_error(struct mg_connection *conn, int status, const char *message)
{
    struct worker *worker = mg_get_thread_pointer(conn);
    struct route_match match = {0};
    struct request req = {.method = "GET", .path = "", .query = "", .transport = conn};

    (void)message;
    if (worker == NULL)
        return 1;
    req.env = worker->server->options.env;
    req.received_ns = env_boot_ns(req.env);
    req.arena = worker->arena;
    req.reply.body = worker->reply;
    if (status == 400 && is_head_late(worker, mg_get_request_info(conn)))
        (void)err_set(&req.err, ERR_REQUEST_TIMEOUT, "the request's head came too slowly");
    else if (status == 400 && is_strange_method(mg_get_request_info(conn)))
        refuse_method(worker->server, mg_get_request_info(conn), &req, &match);
    else if (status == 413)
        (void)err_set(&req.err, ERR_PAYLOAD_TOO_LARGE, "the headers are too long");
    else if (status >= 500 && status != 505)
        (void)err_set(&req.err, ERR_INTERNAL, "the HTTP server failed with status %d", status);
    else
        (void)err_set(&req.err, ERR_INVALID_ARGUMENT,
                      "the request's head is malformed, too long or ended early");
    route_run(&match, &req);
    send_reply(worker, &req, false);
    measure(worker->server, &req);
    take_back(worker, &req);
    return 0;
}

static struct http_server *server_of(const struct mg_connection *conn)
{
    return mg_get_user_data(mg_get_context(conn));
}

static int on_log_message(const struct mg_connection *conn, const char *message)
{
    struct http_server *server = server_of(conn);

    if (!atomic_load(&server->is_started))
        (void)snprintf(server->start_error, sizeof(server->start_error), "%s", message);
    else
        log_warn(NULL, "http server", LOG_TEXT("error", message));
    return 1;
}

static int on_init_connection(const struct mg_connection *conn, void **data)
{
    struct worker *worker = mg_get_thread_pointer(conn);

    (void)data;
    if (worker != NULL)
        idle_connected(&worker->server->idle, worker->slot);
    return 0;
}

static void on_connection_close(const struct mg_connection *conn)
{
    struct worker *worker = mg_get_thread_pointer(conn);

    if (worker != NULL)
        idle_disconnected(&worker->server->idle, worker->slot);
    idle_closing(&server_of(conn)->idle);
}

static void on_connection_closed(const struct mg_connection *conn)
{
    idle_closed(&server_of(conn)->idle);
}

/* Civetweb decides how large a worker's stack is, and the thread-local memory of all libraries that
 * the program is linked with comes out of it.  What handlers need must be left, or a request would
 * end the program. */
static bool has_stack(void)
{
    size_t left = stack_left();

    if (left >= STACK_BYTES_LEAST)
        return true;
    log_error(NULL, "a worker has too little stack: it refuses all requests",
              LOG_U64("bytes", left), LOG_U64("needed", STACK_BYTES_LEAST));
    return false;
}

static void *on_init_thread(const struct mg_context *context, int type)
{
    struct worker *worker;

    if (type != 1 || !has_stack())
        return NULL;
    worker = calloc(1, sizeof(*worker));
    if (worker == NULL)
        return NULL;
    worker->server = mg_get_user_data(context);
    worker->slot = idle_watch_claim(&worker->server->idle);
    return worker;
}

static void on_exit_thread(const struct mg_context *context, int type, void *thread)
{
    struct worker *worker = thread;

    (void)context;
    if (type != 1 || worker == NULL)
        return;
    arena_free(&worker->arena);
    buffer_free(&worker->body);
    buffer_free(&worker->packed);
    buffer_free(&worker->reply);
    buffer_free(&worker->out);
    free(worker);
}

/* "127.0.0.1:8080": Civetweb's own syntax allows lists, letters and more. */
static enum err_code check_listen(const char *listen, struct err *err)
{
    const char *colon = listen == NULL ? NULL : strrchr(listen, ':');
    char host[INET_ADDRSTRLEN] = "";
    struct in_addr address;
    uint64_t port;

    if (colon != NULL && (size_t)(colon - listen) < sizeof(host))
        memcpy(host, listen, (size_t)(colon - listen));
    if (host[0] == '\0' || inet_pton(AF_INET, host, &address) != 1 ||
        !text_to_u64(colon + 1, strlen(colon + 1), &port) || port > UINT16_MAX)
        return err_set(err, ERR_CONFIG, "listen: '%s' is not ADDRESS:PORT (IPv4)",
                       listen == NULL ? "" : listen);
    return ERR_OK;
}

static enum err_code start_civetweb(struct http_server *server, struct err *err)
{
    static const struct mg_callbacks callbacks = {
        .begin_request = on_begin_request,
        .log_message = on_log_message,
        .http_error = on_http_error,
        .init_connection = on_init_connection,
        .connection_close = on_connection_close,
        .connection_closed = on_connection_closed,
        .init_thread = on_init_thread,
        .exit_thread = on_exit_thread,
    };
    char workers[24], read_timeout[24], keep_alive[24];
    const char *options[] = {
        "listening_ports",
        server->options.listen,
        "num_threads",
        workers,
        "request_timeout_ms",
        read_timeout,
        "keep_alive_timeout_ms",
        keep_alive,
        "enable_keep_alive",
        "yes",
        "tcp_nodelay",
        "1",
        "max_request_size",
        HEAD_BYTES_MAX,
        "connection_queue",
        CONNECTION_QUEUE,
        "listen_backlog",
        LISTEN_BACKLOG,
        "decode_url",
        "no",
        "decode_query_string",
        "no",
        "enable_directory_listing",
        "no",
        NULL,
    };
    struct mg_server_port port = {0};

    (void)snprintf(workers, sizeof(workers), "%u", server->options.workers);
    (void)snprintf(read_timeout, sizeof(read_timeout), "%u", server->options.read_timeout_ms);
    (void)snprintf(keep_alive, sizeof(keep_alive), "%u", server->options.keep_alive_ms);
    server->context = mg_start(&callbacks, server, options);
    if (server->context == NULL)
        return err_set(err, ERR_CONFIG, "cannot listen on %s: %s", server->options.listen,
                       server->start_error[0] == '\0' ? "no reason given" : server->start_error);
    atomic_store(&server->is_started, true);
    if (mg_get_server_ports(server->context, 1, &port) == 1)
        server->port = (uint16_t)port.port;
    assert(server->port != 0);
    return idle_watch_start(&server->idle, server->port, err);
}

static pthread_once_t civetweb_once = PTHREAD_ONCE_INIT;

static void init_civetweb(void)
{
    (void)mg_init_library(0);
}

enum err_code http_server_open(struct http_server **out, const struct http_server_options *options,
                               struct err *err)
{
    struct http_server *server;
    enum err_code rc;

    assert(options->workers > 0);
    assert(options->read_timeout_ms > 0);
    *out = NULL;
    if ((rc = check_listen(options->listen, err)) != ERR_OK)
        return rc;
    server = calloc(1, sizeof(*server));
    if (server == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the HTTP server");
    server->options = *options;
    while (options->routes[server->route_count].method != NULL)
        server->route_count++;
    server->operations = calloc(server->route_count + 1, sizeof(*server->operations));
    if (server->operations == NULL) {
        rc = err_set(err, ERR_NO_MEMORY, "no memory for the HTTP server");
        goto fail;
    }
    pthread_once(&civetweb_once, init_civetweb);
    if ((rc = idle_watch_init(&server->idle, options->env, options->workers,
                              options->idle_ms == 0 ? NS_PER_S : options->idle_ms * NS_PER_MS,
                              err)) != ERR_OK ||
        (rc = start_civetweb(server, err)) != ERR_OK)
        goto fail;
    *out = server;
    return ERR_OK;
fail:
    if (server->context != NULL)
        mg_stop(server->context);
    idle_watch_free(&server->idle);
    free(server->operations);
    free(server);
    return rc;
}

uint16_t http_server_port(const struct http_server *server)
{
    return server->port;
}

void http_server_close(struct http_server *server, uint32_t drain_ms)
{
    struct env *env;
    uint64_t until_ns;

    if (server == NULL)
        return;
    env = server->options.env;
    until_ns = env_boot_ns(env) + drain_ms * NS_PER_MS;
    atomic_store(&server->is_draining, true);
    while (atomic_load(&server->running) > 0 && env_boot_ns(env) < until_ns)
        if (env_sleep_until(env, env_boot_ns(env) + DRAIN_STEP_NS) != ERR_OK)
            break;
    idle_watch_stop(&server->idle);
    /* Civetweb's threads look at its stop flag every two seconds when their sockets are quiet:
     * shutting the reading side of the listener and of its connections wakes them at once. */
    sockets_shut(&server->idle, 0);
    mg_stop(server->context);
    idle_watch_free(&server->idle);
    free(server->operations);
    free(server);
}
