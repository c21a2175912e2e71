/* The cache in Redis is slower, never wrong: a server that answers nonsense, drips, hangs, closes
 * half-way, is full, killed, paused or emptied costs misses, no wrong value, and no call that does
 * not end.  A fake server plays the bad ones; the real ones are private (server_rig.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/cache/cache.h"
#include "common/base/limits.h"
#include "tests/unit/server_rig.h"

#define WAIT_NS  (20 * NS_PER_S)
#define FAKE_MAX 64 /* connections at once */
#define ENDLESS  400000000u

/* --- a fake server --------------------------------------------------------------------------- */

struct fake {
    int listener;
    uint16_t port;
    _Atomic bool stopping;
    const char *answer;       /* to GET */
    size_t endless;           /* so many bytes more behind it */
    unsigned drip_ms;         /* those one at a time */
    bool closes;              /* after it */
    bool swallows_sets;       /* reads nothing behind a first SET */
    nfds_t clients_max;       /* more are refused; 0: FAKE_MAX */
    _Atomic unsigned refused; /* clients */
    _Atomic unsigned gets;    /* seen */
    _Atomic unsigned gave_up; /* the client closed before the endless end */
    struct env_thread *thread;
};

static bool say(int fd, const void *data, size_t len)
{
    return send(fd, data, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool is_closed(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* The answer to a GET; false: the connection is done with. */
static bool answer_get(struct fake *fake, int fd)
{
    static const char filler[65536];

    atomic_fetch_add(&fake->gets, 1);
    if (fake->answer != NULL && !say(fd, fake->answer, strlen(fake->answer)))
        return false;
    for (size_t sent = 0; sent < fake->endless && !fake->stopping;) {
        size_t len = fake->drip_ms != 0 ? 1 : sizeof(filler);

        if (fake->drip_ms != 0)
            (void)poll(NULL, 0, (int)fake->drip_ms);
        if (is_closed(fd) || !say(fd, filler, len)) {
            atomic_fetch_add(&fake->gave_up, 1);
            return false;
        }
        sent += len;
    }
    return !fake->closes;
}

/* The client's commands come whole enough on one machine to be told by their names. */
static bool obey(struct fake *fake, int fd)
{
    static char bytes[2 * 1024 * 1024];
    ssize_t len = recv(fd, bytes, sizeof(bytes) - 1, 0);

    if (len <= 0)
        return false;
    bytes[len] = '\0';
    if (strstr(bytes, "\r\nPING\r\n") != NULL && !say(fd, "+PONG\r\n", 7))
        return false;
    if (strstr(bytes, "\r\nSET\r\n") != NULL && !fake->swallows_sets && !say(fd, "+OK\r\n", 5))
        return false;
    return strstr(bytes, "\r\nGET\r\n") == NULL && strstr(bytes, "\r\nGETRANGE\r\n") == NULL
               ? true
               : answer_get(fake, fd);
}

static void fake_run(void *argument)
{
    struct fake *fake = argument;
    struct pollfd fds[FAKE_MAX] = {{.fd = fake->listener, .events = POLLIN}};
    nfds_t count = 1;

    while (!fake->stopping) {
        if (poll(fds, count, 5) <= 0)
            continue;
        for (nfds_t i = 1; i < count; i++)
            if (fds[i].revents != 0 && !obey(fake, fds[i].fd)) {
                (void)close(fds[i].fd);
                fds[i--] = fds[--count];
            }
        if (fds[0].revents != 0 && count < FAKE_MAX) {
            int fd = accept(fake->listener, NULL, NULL);

            if (fd >= 0 && fake->clients_max != 0 && count > fake->clients_max) {
                (void)say(fd, "-ERR max number of clients reached\r\n", 36);
                (void)close(fd);
                atomic_fetch_add(&fake->refused, 1);
            } else if (fd >= 0) {
                fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
            }
        }
    }
    while (count > 1)
        (void)close(fds[--count].fd);
}

static void fake_start(struct fake *fake)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    struct err err;

    fake->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fake->listener >= 0);
    assert_int_equal(bind(fake->listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(fake->listener, (struct sockaddr *)&at, &len), 0);
    assert_int_equal(listen(fake->listener, 16), 0);
    fake->port = ntohs(at.sin_port);
    assert_int_equal(env_thread_start(env_real(), &fake->thread, "fake", fake_run, fake, &err),
                     ERR_OK);
}

static void fake_stop(struct fake *fake)
{
    fake->stopping = true;
    env_thread_join(fake->thread);
    (void)close(fake->listener);
}

/* The fake's thread may come to it later than the client has given up. */
static void await_some(const _Atomic unsigned *counted)
{
    for (int i = 0; i < 1000 && atomic_load(counted) == 0; i++)
        (void)poll(NULL, 0, 5);
    assert_true(atomic_load(counted) > 0);
}

static struct cache *open_cache(const char *url)
{
    struct cache *cache;
    struct err err = {0};

    if (cache_open(&cache, url, env_real(), &err) != ERR_OK)
        fail_msg("%s", err.message);
    return cache;
}

static struct cache *open_fake(const struct fake *fake)
{
    char url[64];

    snprintf(url, sizeof(url), "redis://127.0.0.1:%u", fake->port);
    return open_cache(url);
}

static struct hash128 key_of(uint64_t number)
{
    return hash_xxh128(&number, sizeof(number));
}

static bool get(struct cache *cache, uint64_t number, const char *expected)
{
    struct buffer out = {0};
    bool hit = cache_get(cache, key_of(number), &out);

    if (hit) {
        assert_int_equal(out.len, strlen(expected));
        assert_memory_equal(out.data, expected, out.len);
    } else {
        assert_int_equal(out.len, 0);
    }
    buffer_free(&out);
    return hit;
}

/* Put and get until it is a hit: after a failure the cache is left alone for a while. */
static void await_hit(struct cache *cache, uint64_t number, const char *value)
{
    uint64_t until_ns = env_boot_ns(env_real()) + WAIT_NS;

    do {
        assert_true(env_boot_ns(env_real()) < until_ns);
        cache_put(cache, key_of(number), value, strlen(value), 60000);
    } while (!get(cache, number, value));
}

/* It is there: on a busy machine a call may run out of its time, and the cache rest for a while. */
static void await_get(struct cache *cache, uint64_t number, const char *value)
{
    uint64_t until_ns = env_boot_ns(env_real()) + WAIT_NS;

    while (!get(cache, number, value))
        assert_true(env_boot_ns(env_real()) < until_ns);
}

/* --- bad servers ----------------------------------------------------------------------------- */

static void what_is_no_answer_is_a_miss(void **state)
{
    static const char *const answers[] = {
        "hello\r\n",
        "\r\n",
        "$\r\n",
        "$-5\r\n",
        "$-1\r\n",
        "$3\r\nabc\r\n",
        "$0\r\n\r\n",
        ":7\r\n",
        "+OK\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*-7\r\n",
        "*2\r\n$1\r\na\r\n:1\r\n",
        "*1000000000\r\n",
        "*2147483647\r\n",
        "*9223372036854775807\r\n",
        "$99999999999999999999\r\n",
        "%1\r\n+a\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        "-READONLY You can't write against a read only replica.\r\n",
        "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
        "-\r\n"};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(answers); i++)
        for (int closes = 0; closes < 2; closes++) {
            struct fake fake = {.answer = answers[i], .closes = closes != 0};
            struct cache *cache;

            fake_start(&fake);
            cache = open_fake(&fake);
            assert_false(get(cache, 1, ""));
            cache_put(cache, key_of(1), "x", 1, 1000);
            assert_false(get(cache, 1, ""));
            await_some(&fake.gets);
            cache_close(cache);
            fake_stop(&fake);
        }
}

static void a_server_that_closes_half_way_is_a_miss(void **state)
{
    struct fake fake = {.answer = "$100\r\nonly this", .closes = true};
    struct cache *cache;

    (void)state;
    fake_start(&fake);
    cache = open_fake(&fake);
    for (int i = 0; i < 5; i++)
        assert_false(get(cache, 1, ""));
    cache_close(cache);
    fake_stop(&fake);
}

/* Each byte comes in time, the answer never: what counts is the whole call. */
static void a_server_that_drips_is_left(void **state)
{
    struct fake fake = {.answer = "$1000000\r\n", .endless = 600, .drip_ms = 5};
    struct cache *cache;

    (void)state;
    fake_start(&fake);
    cache = open_fake(&fake);
    assert_false(get(cache, 1, ""));
    /* 3 s of dripping lie before it; whoever had waited for them all would not have given up. */
    cache_close(cache);
    await_some(&fake.gave_up);
    fake_stop(&fake);
}

/* Somebody else's value under our key may have 512 MiB. */
static void an_endless_value_costs_no_memory(void **state)
{
    struct fake fake = {.answer = "$400000000\r\n", .endless = ENDLESS};
    struct rusage before, after;
    struct cache *cache;

    (void)state;
    fake_start(&fake);
    cache = open_fake(&fake);
    assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
    assert_false(get(cache, 1, ""));
    assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
    assert_true(after.ru_maxrss - before.ru_maxrss < 64 * 1024);
    cache_close(cache);
    fake_stop(&fake);
}

/* The first caller pays; then nobody asks for a while. */
static void a_server_that_hangs_costs_one_caller(void **state)
{
    struct fake fake = {.answer = NULL};
    struct cache *cache;

    (void)state;
    fake_start(&fake);
    cache = open_fake(&fake);
    for (int i = 0; i < 1000; i++)
        assert_false(get(cache, 1, ""));
    await_some(&fake.gets);
    assert_true(fake.gets < 20);
    cache_close(cache);
    fake_stop(&fake);
}

/* A large value to a server that does not read: a put that cannot be written is dropped. */
static void a_server_that_reads_nothing_stops_no_put(void **state)
{
    struct fake fake = {.answer = "$-1\r\n", .swallows_sets = true};
    struct cache *cache;
    char *value = calloc(1, MIB(1));

    (void)state;
    assert_non_null(value);
    fake_start(&fake);
    cache = open_fake(&fake);
    for (int i = 0; i < 200; i++)
        cache_put(cache, key_of((uint64_t)i), value, MIB(1), 1000);
    assert_false(get(cache, 1, ""));
    cache_close(cache);
    fake_stop(&fake);
    free(value);
}

static void a_server_that_went_away_is_no_signal(void **state)
{
    struct fake fake = {.answer = "$-1\r\n"};
    struct cache *cache;
    struct sigaction usual = {.sa_handler = SIG_DFL}, before;

    (void)state;
    assert_int_equal(sigaction(SIGPIPE, &usual, &before), 0);
    fake_start(&fake);
    cache = open_fake(&fake);
    cache_put(cache, key_of(1), "x", 1, 1000);
    fake_stop(&fake);
    for (int i = 0; i < 10; i++)
        cache_put(cache, key_of(1), "x", 1, 1000);
    assert_false(get(cache, 1, ""));
    cache_close(cache);
    assert_int_equal(sigaction(SIGPIPE, &before, NULL), 0);
}

/* --- the URL -----------------------------------------------------------------------------------
 */

static void a_url_is_checked_whole_and_its_password_is_told_to_nobody(void **state)
{
    static const char *const bad[] = {"redis:",
                                      "redis://",
                                      "redis://:hunter2@",
                                      "redis://host",
                                      "redis://host:0",
                                      "redis://host:65536",
                                      "redis://host:12x",
                                      "redis://u:hunter2@host:1/x",
                                      "redis://hunter2@host:1",
                                      "redis://u:hunter2%0@host:1",
                                      "redis://u:hunter2%00@host:1",
                                      "rediss://u:hunter2@host:1",
                                      "redis:/u:hunter2@host:1",
                                      "redis://u:hunter2@host:1/-1",
                                      "redis://u:hunter2@host:1/99999999999999999999",
                                      "Redis://u:hunter2@host:1"};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct cache *cache = NULL;
        struct err err = {0};

        if (cache_open(&cache, bad[i], env_real(), &err) != ERR_CONFIG)
            fail_msg("%s is taken", bad[i]);
        assert_null(cache);
        if (strstr(err.message, "hunter2") != NULL)
            fail_msg("the password is told: %s", err.message);
    }
}

/* --- real servers ------------------------------------------------------------------------------
 */

static void a_killed_server_costs_misses_and_comes_back(void **state)
{
    struct server server;
    struct cache *cache;

    (void)state;
    server_start(&server, "redis", NULL, NULL);
    cache = open_cache(server.url);
    await_hit(cache, 1, "one");
    (void)server_tell(&server, "kill");
    for (int i = 0; i < 100; i++) {
        cache_put(cache, key_of(2), "two", 3, 60000);
        assert_false(get(cache, 1, ""));
    }
    (void)server_tell(&server, "start");
    await_hit(cache, 2, "two");
    assert_false(get(cache, 1, "")); /* it was in memory only */
    cache_close(cache);
    server_stop(&server);
}

static void a_paused_server_costs_misses_and_gives_no_old_answer(void **state)
{
    struct server server;
    struct cache *cache;

    (void)state;
    server_start(&server, "redis", NULL, NULL);
    cache = open_cache(server.url);
    await_hit(cache, 1, "one");
    await_hit(cache, 2, "two");
    (void)server_tell(&server, "pause");
    for (int i = 0; i < 200; i++)
        assert_false(get(cache, 1 + (uint64_t)i % 2, ""));
    (void)server_tell(&server, "resume");
    /* Answers to the questions that were given up are nobody's. */
    for (int i = 0; i < 50; i++) {
        await_hit(cache, 1, "one");
        await_hit(cache, 2, "two");
    }
    cache_close(cache);
    server_stop(&server);
}

static void what_somebody_else_wrote_is_a_miss(void **state)
{
    struct server server;
    struct cache *cache;
    char name[64];

    (void)state;
    server_start(&server, "redis", NULL, NULL);
    cache = open_cache(server.url);
    await_hit(cache, 1, "one");
    snprintf(name, sizeof(name), "vicinal:1:%016llx%016llx",
             (unsigned long long)__builtin_bswap64(key_of(1).high),
             (unsigned long long)__builtin_bswap64(key_of(1).low));
    assert_string_equal(server_tell(&server, "command EXISTS %s", name), ":1");
    (void)server_tell(&server, "command APPEND %s x", name);
    assert_false(get(cache, 1, ""));
    (void)server_tell(&server, "command SET %s garbage", name);
    assert_false(get(cache, 1, ""));
    (void)server_tell(&server, "command DEL %s", name);
    (void)server_tell(&server, "command LPUSH %s a", name);
    assert_false(get(cache, 1, ""));
    /* The value of another key, whole and sound, is not this key's. */
    (void)server_tell(&server, "command DEL %s", name);
    await_hit(cache, 2, "two");
    {
        char other[64];

        snprintf(other, sizeof(other), "vicinal:1:%016llx%016llx",
                 (unsigned long long)__builtin_bswap64(key_of(2).high),
                 (unsigned long long)__builtin_bswap64(key_of(2).low));
        (void)server_tell(&server, "command RENAME %s %s", other, name);
    }
    assert_false(get(cache, 1, ""));
    (void)server_tell(&server, "command FLUSHALL");
    assert_false(get(cache, 1, ""));
    await_hit(cache, 1, "again");
    cache_close(cache);
    server_stop(&server);
}

static void a_value_is_gone_when_its_time_is_over(void **state)
{
    struct server server;
    struct cache *cache;
    uint64_t until_ns = env_boot_ns(env_real()) + WAIT_NS;

    (void)state;
    server_start(&server, "redis", NULL, NULL);
    cache = open_cache(server.url);
    await_hit(cache, 1, "one");
    cache_put(cache, key_of(1), "two", 3, 20);
    while (get(cache, 1, "two"))
        assert_true(env_boot_ns(env_real()) < until_ns);
    while (strcmp(server_tell(&server, "command DBSIZE"), ":0") != 0)
        assert_true(env_boot_ns(env_real()) < until_ns);
    cache_close(cache);
    server_stop(&server);
}

/* Forty of the values fit into its memory. */
static void a_full_server_costs_misses_only(void **state)
{
    struct server server;
    struct cache *cache;
    char *value = malloc(KIB(100) + 1);
    unsigned hits = 0;

    (void)state;
    assert_non_null(value);
    memset(value, 'v', KIB(100));
    value[KIB(100)] = '\0';
    server_start(&server, "redis", "--maxmemory", "4mb");
    cache = open_cache(server.url);
    await_hit(cache, 1, "one");
    for (uint64_t i = 100; i < 300; i++)
        cache_put(cache, key_of(i), value, KIB(100), 60000);
    await_get(cache, 1, "one");
    for (uint64_t i = 100; i < 300; i++)
        hits += get(cache, i, value);
    assert_true(hits <= 40);
    await_get(cache, 1, "one");
    cache_close(cache);
    server_stop(&server);
    free(value);
}

/* A server that is at its limit of clients is busy, not ours to refuse to start over. */
static void a_busy_server_is_no_wrong_configuration(void **state)
{
    struct server server;
    struct cache *first, *second;

    (void)state;
    server_start(&server, "redis", "--maxclients", "1");
    first = open_cache(server.url);
    await_hit(first, 1, "one");
    second = open_cache(server.url);
    assert_false(get(second, 1, ""));
    await_get(first, 1, "one");
    cache_close(second);
    cache_close(first);
    server_stop(&server);
}

struct asker {
    struct cache *cache;
    struct fake *fake;
};

static void ask_until_one_is_refused(void *argument)
{
    struct asker *asker = argument;
    uint64_t until_ns = env_boot_ns(env_real()) + WAIT_NS;

    while (atomic_load(&asker->fake->refused) == 0 && env_boot_ns(env_real()) < until_ns)
        (void)get(asker->cache, 1, "");
}

/* Two callers, and a server that takes one connection: that one is used on. */
static void a_server_that_refuses_one_more_is_used_with_what_there_is(void **state)
{
    struct fake fake = {.answer = "$-1\r\n", .clients_max = 1};
    struct asker asker = {.fake = &fake};
    struct env_thread *thread;
    uint64_t until_ns;
    unsigned before;
    struct err err;

    (void)state;
    fake_start(&fake);
    asker.cache = open_fake(&fake);
    assert_int_equal(
        env_thread_start(env_real(), &thread, "asker", ask_until_one_is_refused, &asker, &err),
        ERR_OK);
    ask_until_one_is_refused(&asker);
    env_thread_join(thread);
    assert_true(atomic_load(&fake.refused) > 0);
    /* The refusal may be on its way still: what was asked then proves nothing. */
    (void)poll(NULL, 0, 200);
    before = atomic_load(&fake.gets);
    until_ns = env_boot_ns(env_real()) + WAIT_NS;
    while (atomic_load(&fake.gets) < before + 10) {
        assert_true(env_boot_ns(env_real()) < until_ns);
        (void)get(asker.cache, 1, "");
    }
    cache_close(asker.cache);
    fake_stop(&fake);
}

static void wrong_credentials_are_told_at_open(void **state)
{
    struct server server;
    struct cache *cache;
    struct err err = {0};
    const char *place;
    char url[300];

    (void)state;
    server_start(&server, "redis", "--requirepass", "se:cr@t");
    place = strstr(server.url, "//") + 2;
    assert_int_equal(cache_open(&cache, server.url, env_real(), &err), ERR_CONFIG);
    snprintf(url, sizeof(url), "redis://:wrong-hunter2@%s", place);
    assert_int_equal(cache_open(&cache, url, env_real(), &err), ERR_CONFIG);
    assert_null(strstr(err.message, "hunter2"));
    snprintf(url, sizeof(url), "redis://nobody:se%%3Acr%%40t@%s", place);
    assert_int_equal(cache_open(&cache, url, env_real(), &err), ERR_CONFIG);
    snprintf(url, sizeof(url), "redis://:se%%3Acr%%40t@%s/1000", place);
    assert_int_equal(cache_open(&cache, url, env_real(), &err), ERR_CONFIG);
    snprintf(url, sizeof(url), "redis://default:se%%3Acr%%40t@%s/3", place);
    cache = open_cache(url);
    await_hit(cache, 1, "one");
    cache_close(cache);
    server_stop(&server);
}

static void a_server_that_is_not_there_is_waited_for(void **state)
{
    struct server server;
    struct cache *cache;

    (void)state;
    server_start(&server, "redis", NULL, NULL);
    (void)server_tell(&server, "kill");
    cache = open_cache(server.url);
    assert_false(get(cache, 1, ""));
    (void)server_tell(&server, "start");
    await_hit(cache, 1, "one");
    cache_close(cache);
    server_stop(&server);
}

struct user {
    struct cache *cache;
    uint64_t seed;
    _Atomic unsigned hits;
    _Atomic bool *stop;
};

static void use(void *argument)
{
    struct user *user = argument;

    for (uint64_t i = 0; !*user->stop; i++) {
        uint64_t number = (user->seed + i * 7919) % 50;
        char value[32];

        snprintf(value, sizeof(value), "value %llu", (unsigned long long)number);
        if (get(user->cache, number, value))
            user->hits++;
        else
            cache_put(user->cache, key_of(number), value, strlen(value), 60000);
    }
}

static void threads_get_right_values_from_a_server_that_comes_and_goes(void **state)
{
    struct server server;
    struct env_thread *threads[6];
    struct user users[6];
    _Atomic bool stop = false;
    struct err err;

    (void)state;
    server_start(&server, "redis", NULL, NULL);
    for (size_t i = 0; i < ARRAY_COUNT(users); i++)
        users[i] = (struct user){.seed = i * 13, .stop = &stop};
    users[0].cache = open_cache(server.url);
    for (size_t i = 0; i < ARRAY_COUNT(users); i++) {
        users[i].cache = users[0].cache;
        assert_int_equal(env_thread_start(env_real(), &threads[i], "user", use, &users[i], &err),
                         ERR_OK);
    }
    for (int round = 0; round < 4; round++) {
        await_hit(users[0].cache, 1000, "between");
        (void)server_tell(&server, round % 2 == 0 ? "kill" : "pause");
        (void)poll(NULL, 0, 50);
        (void)server_tell(&server, round % 2 == 0 ? "start" : "resume");
    }
    for (size_t i = 0; i < ARRAY_COUNT(users); i++) {
        unsigned before = users[i].hits;

        for (int polls = 0; users[i].hits == before && polls < 4000; polls++)
            (void)poll(NULL, 0, 5);
        assert_true(users[i].hits > before);
    }
    stop = true;
    for (size_t i = 0; i < ARRAY_COUNT(users); i++)
        env_thread_join(threads[i]);
    cache_close(users[0].cache);
    server_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_answer_is_a_miss),
        cmocka_unit_test(a_server_that_closes_half_way_is_a_miss),
        cmocka_unit_test(a_server_that_drips_is_left),
        cmocka_unit_test(an_endless_value_costs_no_memory),
        cmocka_unit_test(a_server_that_hangs_costs_one_caller),
        cmocka_unit_test(a_server_that_reads_nothing_stops_no_put),
        cmocka_unit_test(a_server_that_went_away_is_no_signal),
        cmocka_unit_test(a_url_is_checked_whole_and_its_password_is_told_to_nobody),
        cmocka_unit_test(a_killed_server_costs_misses_and_comes_back),
        cmocka_unit_test(a_paused_server_costs_misses_and_gives_no_old_answer),
        cmocka_unit_test(what_somebody_else_wrote_is_a_miss),
        cmocka_unit_test(a_value_is_gone_when_its_time_is_over),
        cmocka_unit_test(a_full_server_costs_misses_only),
        cmocka_unit_test(a_busy_server_is_no_wrong_configuration),
        cmocka_unit_test(a_server_that_refuses_one_more_is_used_with_what_there_is),
        cmocka_unit_test(wrong_credentials_are_told_at_open),
        cmocka_unit_test(a_server_that_is_not_there_is_waited_for),
        cmocka_unit_test(threads_get_right_values_from_a_server_that_comes_and_goes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
