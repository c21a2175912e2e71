/* Server and client in one process, over loopback, and a raw socket for what no client would send.
 * Every wait is bounded by socket time-outs; nothing is asserted about speed. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "common/base/limits.h"
#include "common/base/log.h"
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

static enum err_code echo(struct request *req)
{
    buffer_append(&req->reply.body, req->body, req->body_len);
    req->reply.content_type = "application/octet-stream";
    return ERR_OK;
}

static enum err_code show(struct request *req)
{
    const char *wanted = request_query(req, "q", NULL);

    reply_header(&req->reply, "ETag", "\"7\"");
    buffer_append_format(&req->reply.body, "{\"id\":\"%s\",\"q\":\"%s\"}", req->params[0],
                         wanted == NULL ? "" : wanted);
    return ERR_OK;
}

static enum err_code slow(struct request *req)
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

static enum err_code damaged(struct request *req)
{
    return err_set(&req->err, ERR_CORRUPT, "secret/path is damaged");
}

static enum err_code picky(struct request *req)
{
    return err_set_at(&req->err, ERR_DIMENSION_MISMATCH, "/records/0/vector", "length 3, not 4");
}

static const struct route routes[] = {
    {"POST", "/echo", echo, ECHO_MAX, "echo"}, {"GET", "/things/*", show, 0, "show"},
    {"GET", "/slow", slow, 0, "slow"},         {"GET", "/damaged", damaged, 0, "damaged"},
    {"POST", "/picky", picky, 1000, "picky"},  {0},
};

static int open_world(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    struct http_server_options options = {
        .listen = "127.0.0.1:0",
        .workers = 40,
        .read_timeout_ms = 300,
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

static int close_world(void **state)
{
    struct world *world = *state;

    atomic_store(&world->released, true);
    http_client_close(world->client);
    http_server_close(world->server, 5000);
    metrics_free(world->metrics);
    free(world);
    return 0;
}

static uint64_t soon(void)
{
    return env_boot_ns(env_real()) + PATIENCE_S * NS_PER_S;
}

static struct http_call make_call(const struct world *world, const char *method, const char *path)
{
    return (struct http_call){
        .method = method, .base = world->url, .path = path, .reply_max = MIB(1)};
}

/* ---- raw sockets ---- */

static int dial(const struct world *world)
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

static void say(int fd, const void *data, size_t len)
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
static void hear(int fd, struct buffer *heard, const char *awaited)
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

/* Send, then read to the end of the connection; the answer has to contain each text. */
static void exchange(const struct world *world, const char *text, const char *want,
                     const char *want_too)
{
    struct buffer heard = {0};
    int fd = dial(world);

    say(fd, text, strlen(text));
    hear(fd, &heard, NULL);
    if (strstr((char *)heard.data, want) == NULL || strstr((char *)heard.data, want_too) == NULL)
        fail_msg("asked:\n%.200s\nheard:\n%s\nwanted: %s and %s", text, heard.data, want, want_too);
    buffer_free(&heard);
    close(fd);
}

/* ---- the client and the server ---- */

static void a_call_gets_its_answer(void **state)
{
    struct world *world = *state;
    struct http_call call = make_call(world, "GET", "/things/a%2Fb%20%C3%A4?q=x+y%26z");

    call.request_id = "my-id.1";
    assert_int_equal(http_call_one(world->client, &call, soon()), ERR_OK);
    assert_int_equal(call.status, 200);
    assert_string_equal(call.reply_type, "application/json");
    assert_string_equal(call.etag, "\"7\"");
    assert_int_equal(call.reply.len, strlen("{\"id\":\"a/b ä\",\"q\":\"x y&z\"}"));
    assert_memory_equal(call.reply.data, "{\"id\":\"a/b ä\",\"q\":\"x y&z\"}", call.reply.len);
    assert_int_equal(http_call_expect(&call, NULL), ERR_OK);
    http_call_free(&call);
}

static void dots_in_a_path_stay(void **state)
{
    struct world *world = *state;
    struct http_call call = make_call(world, "GET", "/things/..");

    assert_int_equal(http_call_one(world->client, &call, soon()), ERR_OK);
    assert_int_equal(call.status, 200);
    http_call_free(&call);
}

static void an_error_comes_back_as_it_was(void **state)
{
    struct world *world = *state;
    struct http_call call = make_call(world, "POST", "/picky");
    struct err err = {0};

    assert_int_equal(http_call_one(world->client, &call, soon()), ERR_OK);
    assert_int_equal(call.status, 422);
    assert_string_equal(call.reply_type, "application/problem+json");
    assert_int_equal(http_call_expect(&call, &err), ERR_DIMENSION_MISMATCH);
    assert_string_equal(err.pointer, "/records/0/vector");
    assert_string_equal(err.message, "length 3, not 4");
    http_call_free(&call);
}

static void a_500_does_not_say_what_is_inside(void **state)
{
    struct world *world = *state;
    struct http_call call = make_call(world, "GET", "/damaged");

    assert_int_equal(http_call_one(world->client, &call, soon()), ERR_OK);
    assert_int_equal(call.status, 500);
    assert_null(memmem(call.reply.data, call.reply.len, "secret", 6));
    assert_int_equal(http_call_expect(&call, NULL), ERR_INTERNAL);
    http_call_free(&call);
}

static void bodies_up_to_the_limit_and_not_one_more(void **state)
{
    struct world *world = *state;
    char *body = calloc(1, ECHO_MAX + 1);

    for (size_t over = 0; over < 2; over++) {
        struct http_call call = make_call(world, "POST", "/echo");

        call.body = body;
        call.body_len = ECHO_MAX + over;
        assert_int_equal(http_call_one(world->client, &call, soon()), ERR_OK);
        assert_int_equal(call.status, over ? 413 : 200);
        if (!over)
            assert_int_equal(call.reply.len, ECHO_MAX);
        http_call_free(&call);
    }
    free(body);
}

static void replies_up_to_the_limit_and_not_one_more(void **state)
{
    struct world *world = *state;

    for (size_t over = 0; over < 2; over++) {
        struct http_call call = make_call(world, "POST", "/echo");

        call.body = "0123456789";
        call.body_len = 10;
        call.reply_max = 10 - over;
        assert_int_equal(http_call_one(world->client, &call, soon()),
                         over ? ERR_PAYLOAD_TOO_LARGE : ERR_OK);
        http_call_free(&call);
    }
}

static void eight_calls_are_gathered(void **state)
{
    struct world *world = *state;
    struct http_call calls[8];
    char bodies[8][16];

    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 8; i++) {
            calls[i] = make_call(world, "POST", "/echo");
            calls[i].body = bodies[i];
            calls[i].body_len = (size_t)snprintf(bodies[i], sizeof(bodies[i]), "body %zu", i);
        }
        http_gather(world->client, calls, 8, soon(), NULL, NULL);
        for (size_t i = 0; i < 8; i++) {
            assert_int_equal(calls[i].rc, ERR_OK);
            assert_int_equal(calls[i].reply.len, calls[i].body_len);
            assert_memory_equal(calls[i].reply.data, bodies[i], calls[i].body_len);
            http_call_free(&calls[i]);
        }
    }
}

/* A port on which nobody listens. */
static void dead_url(char *url, size_t size)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    (void)snprintf(url, size, "http://127.0.0.1:%u", ntohs(at.sin_port));
    close(fd);
}

struct second_chance {
    const char *url;
    int ended;
};

static bool aim_again(void *context, struct http_call *call)
{
    struct second_chance *chance = context;

    chance->ended++;
    if (call->rc == ERR_OK)
        return false;
    assert_int_equal(call->rc, ERR_UNAVAILABLE);
    call->base = chance->url;
    return true;
}

static void a_call_to_a_dead_peer_is_aimed_again(void **state)
{
    struct world *world = *state;
    struct second_chance chance = {.url = world->url};
    struct http_call calls[3];
    char dead[64];

    dead_url(dead, sizeof(dead));
    for (size_t i = 0; i < 3; i++)
        calls[i] = make_call(world, "GET", "/things/1");
    calls[1].base = dead;
    http_gather(world->client, calls, 3, soon(), aim_again, &chance);
    assert_int_equal(chance.ended, 4);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(calls[i].rc, ERR_OK);
        assert_int_equal(calls[i].status, 200);
        http_call_free(&calls[i]);
    }
}

static void the_deadline_cuts_off_what_still_runs(void **state)
{
    struct world *world = *state;
    struct http_call calls[2] = {make_call(world, "GET", "/slow"),
                                 make_call(world, "GET", "/things/1")};

    http_gather(world->client, calls, 2, env_boot_ns(env_real()) + 200 * NS_PER_MS, NULL, NULL);
    assert_int_equal(calls[0].rc, ERR_TIMEOUT);
    assert_int_equal(calls[0].err.code, ERR_TIMEOUT);
    assert_int_equal(calls[1].rc, ERR_OK);
    atomic_store(&world->released, true);
    http_call_free(&calls[1]);
    calls[1] = make_call(world, "GET", "/things/1");
    assert_int_equal(http_call_one(world->client, &calls[1], 1), ERR_TIMEOUT);
    http_call_free(&calls[0]);
    http_call_free(&calls[1]);
}

static void what_cannot_be_sent_is_refused(void **state)
{
    struct world *world = *state;
    struct http_call call = make_call(world, "GET", "/things/1");
    char path[HTTP_URL_MAX + 1];

    call.request_id = "a\r\nX-Evil: 1";
    assert_int_equal(http_call_one(world->client, &call, soon()), ERR_INVALID_ARGUMENT);
    call.request_id = NULL;
    call.base = "file://";
    call.path = "/etc/passwd";
    assert_int_equal(http_call_one(world->client, &call, soon()), ERR_INVALID_ARGUMENT);
    memset(path, 'a', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    call.path = path;
    assert_int_equal(http_call_one(world->client, &call, soon()), ERR_INVALID_ARGUMENT);
    http_call_free(&call);
}

static void a_restarted_peer_costs_no_error(void **state)
{
    struct world *world = *state;
    struct http_server_options options = {
        .listen = world->url + strlen("http://"),
        .workers = 8,
        .read_timeout_ms = 300,
        .keep_alive_ms = 30000,
        .routes = routes,
        .env = env_real(),
        .state = world,
    };
    struct err err = {0};

    for (int round = 0; round < 3; round++) {
        struct http_call call = make_call(world, "POST", "/echo");

        call.body = "x";
        call.body_len = 1;
        assert_int_equal(http_call_one(world->client, &call, soon()), ERR_OK);
        assert_int_equal(call.status, 200);
        http_call_free(&call);
        http_server_close(world->server, 1000);
        assert_int_equal(http_server_open(&world->server, &options, &err), ERR_OK);
    }
}

/* ---- what clients send ---- */

static void two_requests_share_a_connection(void **state)
{
    exchange(*state,
             "GET /things/1 HTTP/1.1\r\nHost: a\r\n\r\n"
             "GET /things/2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
             "{\"id\":\"1\"", "{\"id\":\"2\"");
}

static void chunked_bodies_are_read(void **state)
{
    exchange(*state,
             "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
             "5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
             "GET /things/after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
             "hello, world", "{\"id\":\"after\"");
    exchange(*state,
             "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
             "zz\r\nhello\r\n0\r\n\r\n",
             "400 Bad Request", "invalid_argument");
}

static void a_chunked_body_over_the_limit_is_413(void **state)
{
    static const char head[] =
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    char chunk[8192 + 16];
    int len = snprintf(chunk, sizeof(chunk), "2000\r\n");
    struct buffer heard = {0};
    int fd = dial(*state);

    memset(chunk + len, 'x', 8192);
    memcpy(chunk + len + 8192, "\r\n", 2);
    say(fd, head, strlen(head));
    for (int i = 0; i < 9; i++) /* 72 KiB, limit 64 KiB */
        say(fd, chunk, (size_t)len + 8192 + 2);
    say(fd, "0\r\n\r\n", 5);
    hear(fd, &heard, NULL);
    assert_non_null(strstr((char *)heard.data, " 413 "));
    buffer_free(&heard);
    close(fd);
}

static void a_stalled_body_is_408(void **state)
{
    exchange(*state, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", " 408 ",
             "request_timeout");
    exchange(*state, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
             " 408 ", "Connection: close");
}

static void lengths_that_can_be_misread_are_400(void **state)
{
    static const char *const bad[] = {
        "Content-Length: 3x\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length: abc\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Expect: the-unexpected\r\nContent-Length: 3\r\n",
    };

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        char text[256];

        (void)snprintf(text, sizeof(text), "POST /echo HTTP/1.1\r\nHost: a\r\n%s\r\nabc", bad[i]);
        exchange(*state, text, " 400 ", "application/problem+json");
    }
}

static void garbage_behind_a_request_is_400(void **state)
{
    exchange(*state, "GET /things/1 HTTP/1.1\r\nHost: a\r\n\r\n\x01\x02garbage\r\n\r\n", " 200 ",
             " 400 ");
    exchange(*state, "\x16\x03\x01 hello\r\n\r\n", " 400 ", "application/problem+json");
    exchange(*state, "GET\r\n\r\n", " 400 ", "application/problem+json");
    exchange(*state, "GET / HTTP/9.9\r\n\r\n", " 400 ", "application/problem+json");
}

static void heads_that_are_too_large_are_400(void **state)
{
    char *text = malloc(20100);
    int len = snprintf(text, 20100, "GET /things/1 HTTP/1.1\r\nX: ");

    assert_non_null(text);
    memset(text + len, 'a', 20000);
    (void)snprintf(text + len + 20000, 20100 - 20000 - (size_t)len, "\r\n\r\n");
    exchange(*state, text, " 400 ", "application/problem+json");
    len = snprintf(text, 20100, "GET /things/1 HTTP/1.1\r\n");
    for (int i = 0; i < 70; i++)
        len += snprintf(text + len, 20100 - (size_t)len, "X-%d: y\r\n", i);
    (void)snprintf(text + len, 20100 - (size_t)len, "\r\n");
    exchange(*state, text, " 400 ", "application/problem+json");
    free(text);
}

static void other_methods_are_405_with_allow(void **state)
{
    exchange(*state, "DELETE /things/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", " 405 ",
             "Allow: GET, HEAD, OPTIONS\r\n");
    exchange(*state, "TRACE /things/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", " 405 ",
             "Allow: GET, HEAD, OPTIONS\r\n");
    exchange(*state, "BREW /echo?a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", " 405 ",
             "Allow: POST, OPTIONS\r\n");
    exchange(*state, "BREW /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", " 404 ", "not_found");
    exchange(*state, "OPTIONS /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", " 204 ",
             "Allow: POST, OPTIONS\r\n");
    exchange(*state, "GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", " 404 ",
             "not_found");
    exchange(*state, "GET /things/%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", " 400 ",
             "invalid_argument");
}

static void head_has_no_body(void **state)
{
    struct buffer heard = {0};
    int fd = dial(*state);

    say(fd, "HEAD /things/1 HTTP/1.1\r\nConnection: close\r\n\r\n", 49);
    hear(fd, &heard, NULL);
    assert_non_null(strstr((char *)heard.data, "Content-Length: 17\r\n"));
    assert_null(strstr((char *)heard.data, "{\"id\""));
    buffer_free(&heard);
    close(fd);
}

static void a_client_that_waits_is_told_to_go_on(void **state)
{
    static const char head[] = "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                               "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    struct buffer heard = {0};
    int fd = dial(*state);

    say(fd, head, strlen(head));
    hear(fd, &heard, "100 Continue\r\n\r\n");
    assert_non_null(strstr((char *)heard.data, "100 Continue"));
    buffer_reset(&heard);
    say(fd, "hello", 5);
    hear(fd, &heard, NULL);
    assert_non_null(strstr((char *)heard.data, "\r\n\r\nhello"));
    buffer_free(&heard);
    close(fd);
    exchange(
        *state,
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\nExpect: 100-continue\r\n\r\n",
        "HTTP/1.1 413 ", "Connection: close");
}

/* ---- gzip ---- */

static size_t gzip(void *out, size_t size, const void *data, size_t len)
{
    z_stream stream = {.next_in = (void *)(uintptr_t)data, .avail_in = (uInt)len};

    assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, 0), Z_OK);
    stream.next_out = out;
    stream.avail_out = (uInt)size;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    (void)deflateEnd(&stream);
    return size - stream.avail_out;
}

static void post_encoded(const struct world *world, const char *encoding, const void *body,
                         size_t len, const char *want)
{
    struct buffer heard = {0};
    char head[256];
    int fd = dial(world);
    int head_len = snprintf(head, sizeof(head),
                            "POST /echo HTTP/1.1\r\nContent-Encoding: %s\r\nConnection: close\r\n"
                            "Content-Length: %zu\r\n\r\n",
                            encoding, len);

    say(fd, head, (size_t)head_len);
    say(fd, body, len);
    hear(fd, &heard, NULL);
    if (strstr((char *)heard.data, want) == NULL)
        fail_msg("%s wanted, heard:\n%.400s", want, heard.data);
    buffer_free(&heard);
    close(fd);
}

static void gzip_bodies_are_inflated_within_the_limit(void **state)
{
    size_t size = 4 * ECHO_MAX;
    char *plain = calloc(1, 1024 * ECHO_MAX);
    char *packed = malloc(size);
    size_t len;

    assert_non_null(plain);
    assert_non_null(packed);
    len = gzip(packed, size, "hello, gzip", 11);
    post_encoded(*state, "gzip", packed, len, "\r\n\r\nhello, gzip");
    post_encoded(*state, "gzip", packed, len - 1, " 400 ");
    packed[len] = 'x';
    post_encoded(*state, "gzip", packed, len + 1, " 400 ");
    post_encoded(*state, "br", packed, len, " 415 ");
    post_encoded(*state, "identity", "plain", 5, "\r\n\r\nplain");
    len = gzip(packed, size, plain, ECHO_MAX);
    post_encoded(*state, "gzip", packed, len, " 200 ");
    len = gzip(packed, size, plain, ECHO_MAX + 1);
    post_encoded(*state, "gzip", packed, len, " 413 ");
    len = gzip(packed, size, plain, 1000 * ECHO_MAX); /* 64 MB of zeros in 64 KB */
    post_encoded(*state, "gzip", packed, len, " 413 ");
    free(plain);
    free(packed);
}

/* ---- many at once, and the end ---- */

static void *call_often(void *argument)
{
    struct world *world = argument;
    intptr_t wrong = 0;

    for (int i = 0; i < 50; i++) {
        struct http_call call = make_call(world, "POST", "/echo");
        char body[16];

        call.body = body;
        call.body_len = (size_t)snprintf(body, sizeof(body), "%d", i);
        if (http_call_one(world->client, &call, soon()) != ERR_OK || call.status != 200 ||
            call.reply.len != call.body_len || memcmp(call.reply.data, body, call.body_len) != 0)
            wrong++;
        http_call_free(&call);
    }
    return (void *)wrong;
}

static void thirty_two_clients_at_once(void **state)
{
    struct world *world = *state;
    struct buffer text = {0};
    pthread_t threads[32];
    void *wrong;

    for (size_t i = 0; i < 32; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, call_often, world), 0);
    for (size_t i = 0; i < 32; i++) {
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    metrics_write(world->metrics, &text);
    buffer_append_byte(&text, '\0');
    assert_non_null(
        strstr((char *)text.data,
               "http_requests_total{service=\"test\",operation=\"echo\",status=\"2xx\"} 1600\n"));
    buffer_free(&text);
}

static void *call_slow(void *argument)
{
    struct world *world = argument;
    struct http_call call = make_call(world, "GET", "/slow");
    intptr_t status = 0;

    if (http_call_one(world->client, &call, soon()) == ERR_OK)
        status = call.status;
    http_call_free(&call);
    return (void *)status;
}

static void *release_later(void *argument)
{
    struct world *world = argument;
    struct http_call call = make_call(world, "GET", "/things/1");

    /* While the server drains it says so. */
    do {
        (void)http_call_one(world->client, &call, soon());
    } while (call.rc == ERR_OK && call.status == 200);
    atomic_store(&world->released, true);
    http_call_free(&call);
    return NULL;
}

static void running_requests_end_before_the_server_does(void **state)
{
    struct world *world = *state;
    pthread_t threads[4], release;
    void *status;

    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, call_slow, world), 0);
    while (atomic_load(&world->inside) < 4)
        usleep(1000);
    assert_int_equal(pthread_create(&release, NULL, release_later, world), 0);
    http_server_close(world->server, PATIENCE_S * 1000);
    world->server = NULL;
    pthread_join(release, NULL);
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], &status);
        assert_int_equal((intptr_t)status, 200);
    }
}

static void addresses_that_cannot_be_listened_on_are_refused(void **state)
{
    struct world *world = *state;
    const char *bad[] = {world->url + strlen("http://"), /* in use */
                         "",
                         "8080",
                         ":8080",
                         "localhost:80",
                         "1.2.3:80",
                         "127.0.0.1:65536",
                         "127.0.0.1:0s",
                         "127.0.0.1:0,127.0.0.1:0",
                         "[::1]:0",
                         "192.0.2.1:0"};
    struct http_server_options options = {.workers = 1,
                                          .read_timeout_ms = 100,
                                          .keep_alive_ms = 100,
                                          .routes = routes,
                                          .env = env_real()};

    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct http_server *server = NULL;
        struct err err = {0};

        options.listen = bad[i];
        assert_int_equal(http_server_open(&server, &options, &err), ERR_CONFIG);
        assert_null(server);
        assert_true(err.message[0] != '\0');
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(a_call_gets_its_answer),
        TEST(dots_in_a_path_stay),
        TEST(an_error_comes_back_as_it_was),
        TEST(a_500_does_not_say_what_is_inside),
        TEST(bodies_up_to_the_limit_and_not_one_more),
        TEST(replies_up_to_the_limit_and_not_one_more),
        TEST(eight_calls_are_gathered),
        TEST(a_call_to_a_dead_peer_is_aimed_again),
        TEST(the_deadline_cuts_off_what_still_runs),
        TEST(what_cannot_be_sent_is_refused),
        TEST(a_restarted_peer_costs_no_error),
        TEST(two_requests_share_a_connection),
        TEST(chunked_bodies_are_read),
        TEST(a_chunked_body_over_the_limit_is_413),
        TEST(a_stalled_body_is_408),
        TEST(lengths_that_can_be_misread_are_400),
        TEST(garbage_behind_a_request_is_400),
        TEST(heads_that_are_too_large_are_400),
        TEST(other_methods_are_405_with_allow),
        TEST(head_has_no_body),
        TEST(a_client_that_waits_is_told_to_go_on),
        TEST(gzip_bodies_are_inflated_within_the_limit),
        TEST(thirty_two_clients_at_once),
        TEST(running_requests_end_before_the_server_does),
        TEST(addresses_that_cannot_be_listened_on_are_refused),
    };

    log_start("test", LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
