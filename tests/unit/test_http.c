/* Server and client in one process, over loopback.  Nothing is asserted about speed. */
#include "tests/unit/http_world.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

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

/* The handler waited after it had put them. */
static void ages_are_those_of_the_sending(void **state)
{
    struct world *world = *state;
    struct http_call call = make_call(world, "GET", "/aged");
    double then, item, unknown, age, now;

    assert_int_equal(http_call_one(world->client, &call, soon()), ERR_OK);
    now = (double)env_boot_ns(env_real()) / 1e9;
    buffer_append(&call.reply, "", 1);
    assert_int_equal(
        sscanf((const char *)call.reply.data, "[%lf,%lf,%lf,%lf]", &then, &item, &unknown, &age),
        4);
    then /= 1e9;
    assert_true(age >= 0.02 && then + age <= now);
    assert_true(item >= 0.02 && item <= age + 1e-3);
    assert_true(unknown == 1e9);
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
        http_gather(world->client, calls, 8, soon(), NULL);
        for (size_t i = 0; i < 8; i++) {
            assert_int_equal(calls[i].rc, ERR_OK);
            assert_int_equal(calls[i].reply.len, calls[i].body_len);
            assert_memory_equal(calls[i].reply.data, bodies[i], calls[i].body_len);
            http_call_free(&calls[i]);
        }
    }
}

/* A port on which nobody listens, as long as the socket that is returned is open. */
static int dead_url(char *url, size_t size)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    (void)snprintf(url, size, "http://127.0.0.1:%u", ntohs(at.sin_port));
    return fd;
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
    int fd = dead_url(dead, sizeof(dead));

    for (size_t i = 0; i < 3; i++)
        calls[i] = make_call(world, "GET", "/things/1");
    calls[1].base = dead;
    http_gather(world->client, calls, 3, soon(),
                &(struct http_watcher){.ended = aim_again, .context = &chance});
    close(fd);
    assert_int_equal(chance.ended, 4);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(calls[i].rc, ERR_OK);
        assert_int_equal(calls[i].status, 200);
        http_call_free(&calls[i]);
    }
}

struct race {
    struct http_call *calls; /* the second one is held back */
    int ended, due;
    bool is_wanted; /* the second one, when its time has come */
};

static bool one_has_ended(void *context, struct http_call *call)
{
    struct race *race = context;

    race->ended++;
    race->calls[call == &race->calls[0] ? 1 : 0].is_dropped = true;
    return false;
}

static bool second_is_due(void *context, struct http_call *call)
{
    struct race *race = context;

    assert_ptr_equal(call, &race->calls[1]);
    race->due++;
    return race->is_wanted;
}

static void run_race(const struct world *world, struct race *race, struct http_call calls[2],
                     uint64_t deadline_ns)
{
    const struct http_watcher watcher = {
        .ended = one_has_ended, .due = second_is_due, .context = race};

    race->calls = calls;
    http_gather(world->client, calls, 2, deadline_ns, &watcher);
    for (size_t i = 0; i < 2; i++)
        if (calls[i].is_dropped) {
            assert_int_equal(calls[i].rc, ERR_OK);
            assert_int_equal(calls[i].status, 0);
            assert_int_equal(calls[i].reply.len, 0);
        }
}

static void a_call_held_back_overtakes_a_slow_one(void **state)
{
    struct world *world = *state;
    struct race race = {.is_wanted = true};
    struct http_call calls[2] = {make_call(world, "GET", "/slow"),
                                 make_call(world, "GET", "/things/1")};

    calls[1].after_ns = env_boot_ns(env_real()) + 20 * NS_PER_MS;
    run_race(world, &race, calls, soon());
    assert_true(env_boot_ns(env_real()) >= calls[1].after_ns);
    assert_int_equal(race.ended, 1);
    assert_int_equal(race.due, 1);
    assert_true(calls[0].is_dropped && !calls[1].is_dropped);
    assert_int_equal(calls[1].status, 200);
    http_call_free(&calls[0]);
    http_call_free(&calls[1]);
}

static void a_call_held_back_is_not_sent_when_it_is_not_needed(void **state)
{
    struct world *world = *state;
    struct race race = {.is_wanted = true};
    struct http_call calls[2] = {make_call(world, "GET", "/things/1"),
                                 make_call(world, "GET", "/slow")};

    calls[1].after_ns = soon();
    run_race(world, &race, calls, soon() + NS_PER_S);
    assert_int_equal(race.ended, 1);
    assert_int_equal(race.due, 0);
    assert_int_equal(calls[0].status, 200);
    assert_int_equal(atomic_load(&world->inside), 0);
    http_call_free(&calls[0]);
    /* Nor when its time has come and nobody wants it; the first goes on to its end. */
    race = (struct race){.is_wanted = false};
    calls[0] = make_call(world, "GET", "/slow");
    calls[1] = make_call(world, "GET", "/things/1");
    calls[1].after_ns = 1;
    run_race(world, &race, calls, env_boot_ns(env_real()) + 2 * NS_PER_S);
    assert_int_equal(race.due, 1);
    assert_int_equal(calls[0].rc, ERR_TIMEOUT);
    assert_int_equal(race.ended, 1);
}

static void the_deadline_cuts_off_what_still_runs(void **state)
{
    struct world *world = *state;
    struct http_call calls[2] = {make_call(world, "GET", "/slow"),
                                 make_call(world, "GET", "/things/1")};

    http_gather(world->client, calls, 2, env_boot_ns(env_real()) + 2 * NS_PER_S, NULL);
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
        .read_timeout_ms = PATIENCE_S * 1000,
        .keep_alive_ms = 30000,
        .routes = routes,
        .env = env_real(),
        .state = world,
    };

    for (int round = 0; round < 3; round++) {
        struct http_call call = make_call(world, "POST", "/echo");
        uint64_t until_ns = soon();
        struct err err;

        call.body = "x";
        call.body_len = 1;
        assert_int_equal(http_call_one(world->client, &call, soon()), ERR_OK);
        assert_int_equal(call.status, 200);
        http_call_free(&call);
        http_server_close(world->server, 1000);
        /* While there is no listener any connection of the machine may be given its port. */
        while (http_server_open(&world->server, &options, &err) != ERR_OK) {
            if (env_boot_ns(env_real()) > until_ns)
                fail_msg("%s", err.message);
            usleep(10000);
        }
    }
}

/* ---- sent once ---- */

/* A peer that answers each connection's first request, and ends the connection when it has the
 * whole of the second. */
struct rude_peer {
    int listener;
    uint16_t port;
    atomic_uint requests;
    pthread_t thread;
};

/* Read one request with a body of three bytes; false: the end. */
static bool read_request(int fd)
{
    char text[4096];
    size_t len = 0;

    while (len < sizeof(text) - 1) {
        ssize_t got = recv(fd, text + len, sizeof(text) - 1 - len, 0);
        const char *end;

        if (got <= 0)
            return false;
        len += (size_t)got;
        text[len] = '\0';
        end = strstr(text, "\r\n\r\n");
        if (end != NULL && len == (size_t)(end + 4 - text) + 3)
            return true;
    }
    return false;
}

static void *be_rude(void *argument)
{
    struct rude_peer *peer = argument;
    int fd;

    while ((fd = accept(peer->listener, NULL, NULL)) >= 0) {
        static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

        if (read_request(fd)) {
            atomic_fetch_add(&peer->requests, 1);
            (void)!send(fd, ANSWER, sizeof(ANSWER) - 1, MSG_NOSIGNAL);
            if (read_request(fd))
                atomic_fetch_add(&peer->requests, 1);
        }
        (void)close(fd);
    }
    return NULL;
}

static void rude_peer_start(struct rude_peer *peer)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);

    *peer = (struct rude_peer){.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    assert_true(peer->listener >= 0);
    assert_int_equal(bind(peer->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(peer->listener, 16), 0);
    assert_int_equal(getsockname(peer->listener, (struct sockaddr *)&address, &size), 0);
    peer->port = ntohs(address.sin_port);
    assert_int_equal(pthread_create(&peer->thread, NULL, be_rude, peer), 0);
}

static void rude_peer_end(struct rude_peer *peer)
{
    (void)shutdown(peer->listener, SHUT_RDWR);
    assert_int_equal(pthread_join(peer->thread, NULL), 0);
    (void)close(peer->listener);
}

/* The kept connection is used, and when it breaks behind the request nothing is sent again. */
static void what_may_be_sent_once_is_sent_once(void **state)
{
    struct world *world = *state;
    struct rude_peer peer;
    char base[64];

    rude_peer_start(&peer);
    (void)snprintf(base, sizeof(base), "http://127.0.0.1:%u", peer.port);
    for (unsigned round = 0; round < 8; round++) {
        struct http_call call = make_call(world, round % 4 < 2 ? "POST" : "PUT", "/x");
        enum err_code rc;

        call.base = base;
        call.body = "abc";
        call.body_len = 3;
        call.once = true;
        rc = http_call_one(world->client, &call, soon());
        assert_int_equal(rc, round % 2 == 0 ? ERR_OK : ERR_IO);
        assert_int_equal(atomic_load(&peer.requests), round + 1);
        http_call_free(&call);
    }
    rude_peer_end(&peer);
}

/* Sockets of this process that are connected to that port. */
static size_t count_sockets_to(uint16_t port)
{
    size_t count = 0;

    for (int fd = 0; fd < 1024; fd++) {
        struct sockaddr_in peer = {0};
        socklen_t len = sizeof(peer);

        count += getpeername(fd, (struct sockaddr *)&peer, &len) == 0 &&
                 peer.sin_family == AF_INET && ntohs(peer.sin_port) == port;
    }
    return count;
}

/* A call without a body that may be sent once needs a fresh connection; kept ones would pile up. */
static void what_is_sent_alone_leaves_no_connection(void **state)
{
    struct world *world = *state;

    for (int i = 0; i < 100; i++) {
        struct http_call call = make_call(world, "GET", "/things/1");

        call.once = true;
        assert_int_equal(http_call_one(world->client, &call, soon()), ERR_OK);
        assert_int_equal(call.status, 200);
        http_call_free(&call);
        assert_int_equal(count_sockets_to(world->port), 0);
    }
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
    /* A request is counted behind its answer. */
    http_server_close(world->server, PATIENCE_S * 1000);
    world->server = NULL;
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
    for (int i = 0; i < PATIENCE_S * 1000 && atomic_load(&world->inside) < 4; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&world->inside), 4);
    assert_int_equal(pthread_create(&release, NULL, release_later, world), 0);
    http_server_close(world->server, PATIENCE_S * 1000);
    world->server = NULL;
    pthread_join(release, NULL);
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], &status);
        assert_int_equal((intptr_t)status, 200);
    }
}

/* --- sockets that are shut ------------------------------------------------------------------- */

/* A client that hangs up in the moment in which the server shuts the socket of its connection. */
static struct {
    int fd;
    _Atomic uint16_t port; /* of fd; 0: none */
    _Atomic bool is_met, was_closed;
} hangs_up;

static uint16_t port_of(int fd, int (*name)(int, struct sockaddr *, socklen_t *))
{
    struct sockaddr_in at = {0};
    socklen_t len = sizeof(at);

    return name(fd, (struct sockaddr *)&at, &len) == 0 ? ntohs(at.sin_port) : 0;
}

/* In place of libc's: the worker of the connection has time to close it. */
int shutdown(int fd, int how)
{
    uint16_t port = atomic_load(&hangs_up.port);

    if (how == SHUT_RD && port != 0 && port_of(fd, getpeername) == port) {
        atomic_store(&hangs_up.port, 0);
        close(hangs_up.fd);
        for (int i = 0; i < 300 && fcntl(fd, F_GETFD) >= 0; i++)
            usleep(1000);
        atomic_store(&hangs_up.was_closed, fcntl(fd, F_GETFD) < 0);
        atomic_store(&hangs_up.is_met, true);
    }
    return (int)syscall(SYS_shutdown, fd, how);
}

/* Its number could be another's socket otherwise, which would be cut. */
static void a_socket_is_not_closed_while_it_is_shut(void **state)
{
    static const char ask[] = "GET /things/1 HTTP/1.1\r\nHost: a\r\n\r\n";
    struct world *world = *state;
    struct buffer heard = {0};

    hangs_up.fd = dial(world);
    say(hangs_up.fd, ask, strlen(ask));
    hear(hangs_up.fd, &heard, "{\"id\":\"1\"");
    buffer_free(&heard);
    atomic_store(&hangs_up.port, port_of(hangs_up.fd, getsockname));
    http_server_close(world->server, PATIENCE_S * 1000);
    world->server = NULL;
    assert_true(atomic_load(&hangs_up.is_met));
    assert_false(atomic_load(&hangs_up.was_closed));
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

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(a_call_gets_its_answer),
        TEST(ages_are_those_of_the_sending),
        TEST(dots_in_a_path_stay),
        TEST(an_error_comes_back_as_it_was),
        TEST(a_500_does_not_say_what_is_inside),
        TEST(bodies_up_to_the_limit_and_not_one_more),
        TEST(replies_up_to_the_limit_and_not_one_more),
        TEST(eight_calls_are_gathered),
        TEST(a_call_to_a_dead_peer_is_aimed_again),
        TEST(a_call_held_back_overtakes_a_slow_one),
        TEST(a_call_held_back_is_not_sent_when_it_is_not_needed),
        TEST(the_deadline_cuts_off_what_still_runs),
        TEST(what_cannot_be_sent_is_refused),
        TEST(a_restarted_peer_costs_no_error),
        TEST(what_may_be_sent_once_is_sent_once),
        TEST(what_is_sent_alone_leaves_no_connection),
        TEST(thirty_two_clients_at_once),
        TEST(running_requests_end_before_the_server_does),
        TEST(a_socket_is_not_closed_while_it_is_shut),
        TEST(addresses_that_cannot_be_listened_on_are_refused),
    };

    log_start("test", LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
