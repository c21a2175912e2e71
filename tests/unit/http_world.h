/* A server with a few routes, a client, and a raw socket for what no client would send: what the
 * tests of HTTP share.  Every wait is bounded by PATIENCE_S. */
#ifndef VICINAL_TESTS_HTTP_WORLD_H
#define VICINAL_TESTS_HTTP_WORLD_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/http/age.h"
#include "common/http/client.h"
#include "common/http/server.h"

#define ECHO_MAX   ((size_t)65536)
#define PATIENCE_S 20

struct world {
    struct http_server *server;
    struct http_client *client;
    struct metrics *metrics;
    char url[64];
    uint16_t port;
    _Atomic int inside;    /* requests in the slow handler */
    _Atomic bool released; /* the slow handler may return */
};

static inline enum err_code echo(struct request *req)
{
    buffer_append(&req->reply.body, req->body, req->body_len);
    req->reply.content_type = "application/octet-stream";
    return ERR_OK;
}

static inline enum err_code show(struct request *req)
{
    const char *wanted = request_query(req, "q", NULL);

    reply_header(&req->reply, "ETag", "\"7\"");
    buffer_append_format(&req->reply.body, "{\"id\":\"%s\",\"q\":\"%s\"}", req->params[0],
                         wanted == NULL ? "" : wanted);
    return ERR_OK;
}

/* Tells the boot time, waits, and tells the age of that moment behind much else, as an item of a
 * batch and for itself. */
static inline enum err_code aged(struct request *req)
{
    struct buffer item = {0};
    struct json_writer w, inner;
    int64_t then = (int64_t)env_boot_ns(req->env);

    json_writer_init(&inner, &item);
    age_put(req, &inner, then);
    json_writer_init(&w, &req->reply.body);
    json_begin_array(&w);
    json_i64(&w, then);
    json_raw(&w, item.data, item.len);
    ages_move(&req->reply, NULL, req->reply.body.len - item.len);
    age_put(req, &w, AGE_UNKNOWN);
    age_put(req, &w, then);
    json_end_array(&w);
    buffer_free(&item);
    return env_sleep_until(req->env, (uint64_t)then + 20 * NS_PER_MS);
}

static inline enum err_code slow(struct request *req)
{
    struct world *world = req->state;
    uint64_t until = env_boot_ns(req->env) + PATIENCE_S * NS_PER_S;

    atomic_fetch_add(&world->inside, 1);
    while (!atomic_load(&world->released) && env_boot_ns(req->env) < until)
        if (env_sleep_until(req->env, env_boot_ns(req->env) + NS_PER_MS) != ERR_OK)
            break;
    buffer_append_text(&req->reply.body, "{}");
    return ERR_OK;
}

static inline enum err_code damaged(struct request *req)
{
    return err_set(&req->err, ERR_CORRUPT, "secret/path is damaged");
}

static inline enum err_code picky(struct request *req)
{
    return err_set_at(&req->err, ERR_DIMENSION_MISMATCH, "/records/0/vector", "length 3, not 4");
}

static const struct route routes[] = {
    {"POST", "/echo", echo, ECHO_MAX, "echo"},
    {"GET", "/things/*", show, 0, "show"},
    {"GET", "/slow", slow, 0, "slow"},
    {"GET", "/damaged", damaged, 0, "damaged"},
    {"POST", "/picky", picky, 1000, "picky"},
    {"GET", "/aged", aged, 0, "aged"},
    {0},
};

static inline int open_world_with(void **state, uint32_t read_timeout_ms)
{
    struct world *world = calloc(1, sizeof(*world));
    struct http_server_options options = {
        .listen = "127.0.0.1:0",
        .workers = 40,
        .read_timeout_ms = read_timeout_ms,
        .keep_alive_ms = 30000,
        .routes = routes,
        .env = env_real(),
        .service = "test",
    };
    struct http_client_options client_options = {.env = env_real()};
    struct err err = {0};

    if (world == NULL)
        return -1;
    world->metrics = metrics_new();
    options.metrics = world->metrics;
    options.state = world;
    if (http_server_open(&world->server, &options, &err) != ERR_OK ||
        http_client_open(&world->client, &client_options, &err) != ERR_OK)
        return -1;
    world->port = http_server_port(world->server);
    (void)snprintf(world->url, sizeof(world->url), "http://127.0.0.1:%u", world->port);
    *state = world;
    return 0;
}

static inline int open_world(void **state)
{
    return open_world_with(state, PATIENCE_S * 1000);
}

/* Whose server has little patience with its clients. */
static inline int open_hasty_world(void **state)
{
    return open_world_with(state, 300);
}

static inline int close_world(void **state)
{
    struct world *world = *state;

    atomic_store(&world->released, true);
    http_client_close(world->client);
    http_server_close(world->server, 5000);
    metrics_free(world->metrics);
    free(world);
    return 0;
}

static inline uint64_t soon(void)
{
    return env_boot_ns(env_real()) + PATIENCE_S * NS_PER_S;
}

static inline struct http_call make_call(const struct world *world, const char *method,
                                         const char *path)
{
    return (struct http_call){
        .method = method, .base = world->url, .path = path, .reply_max = MIB(1)};
}

/* ---- raw sockets ---- */

static inline int dial(const struct world *world)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(world->port)};
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static inline void say(int fd, const void *data, size_t len)
{
    const char *at = data;

    while (len > 0) {
        ssize_t sent = send(fd, at, len, MSG_NOSIGNAL);

        if (sent <= 0)
            return; /* the server may have hung up already: the answer is what counts */
        at += sent;
        len -= (size_t)sent;
    }
}

/* Everything until the server closes, or until enough contains what is awaited (may be NULL). */
static inline void hear(int fd, struct buffer *heard, const char *awaited)
{
    char piece[4096];
    ssize_t got;

    while ((got = recv(fd, piece, sizeof(piece), 0)) > 0) {
        buffer_append(heard, piece, (size_t)got);
        if (awaited != NULL && memmem(heard->data, heard->len, awaited, strlen(awaited)) != NULL)
            break;
    }
    buffer_append_byte(heard, '\0');
}

#define TEST(f)       cmocka_unit_test_setup_teardown(f, open_world, close_world)
#define HASTY_TEST(f) cmocka_unit_test_setup_teardown(f, open_hasty_world, close_world)

#endif
