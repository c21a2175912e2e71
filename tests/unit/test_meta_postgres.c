/* Metadata in Postgres through everything that happens to a server: killed, paused and restarted,
 * connections cut idle, in mid-transaction, and behind the commit but before its answer; made by
 * several at once, or by a newer program.  The server is private (server_rig.h); a proxy in front
 * of it loses answers.
 * pace: waits */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/meta/meta.h"
#include "tests/unit/resolver_rig.h"
#include "tests/unit/server_rig.h"

#define WAIT_NS (30 * NS_PER_S)
#define WRITERS 8

static struct server server; /* one for all; who kills it starts it again */
static unsigned schemas;
static char schema[64], url[400];

static int start_server(void **state)
{
    (void)state;
    server_start(&server, "postgres", NULL, NULL);
    return 0;
}

static int stop_server(void **state)
{
    (void)state;
    server_stop(&server);
    return 0;
}

/* A schema of its own for each test. */
static int setup(void **state)
{
    (void)state;
    snprintf(schema, sizeof(schema), "t%u", ++schemas);
    snprintf(url, sizeof(url), "%s?schema=%s", server.url, schema);
    return 0;
}

static struct meta *open_url(const char *at)
{
    struct meta *meta = NULL;
    struct err err = {0};

    if (meta_open(&meta, at, env_real(), &err) != ERR_OK)
        fail_msg("%s", err.message);
    return meta;
}

static enum err_code put(struct meta *meta, const char *key, const char *value, uint64_t expected,
                         uint64_t *version)
{
    struct meta_put change = {key, value, strlen(value), expected};
    struct err err;

    return meta_put(meta, &change, version, &err);
}

static uint64_t must_put(struct meta *meta, const char *key, const char *value, uint64_t expected)
{
    struct meta_put change = {key, value, strlen(value), expected};
    uint64_t version = 0;
    struct err err = {0};

    if (meta_put(meta, &change, &version, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return version;
}

static void expect_row(struct meta *meta, const char *key, const char *value, uint64_t version)
{
    struct meta_row row = {0};
    struct err err = {0};

    if (meta_get(meta, key, &row, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_string_equal(row.value, value);
    assert_int_equal(row.version, version);
    meta_row_free(&row);
}

static void await_up(struct meta *meta)
{
    uint64_t until_ns = env_boot_ns(env_real()) + WAIT_NS, version;
    struct err err = {0};

    while (meta_version(meta, &version, &err) != ERR_OK)
        if (env_boot_ns(env_real()) >= until_ns)
            fail_msg("%s", err.message);
}

static void expect_refusal(const char *at, enum err_code expected, const char *part)
{
    struct meta *meta = NULL;
    struct err err = {0};

    if (meta_open(&meta, at, env_real(), &err) != expected)
        fail_msg("%s: code %d, \"%s\"", at, (int)err.code, err.message);
    assert_null(meta);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", err.message, part);
    if (strstr(err.message, "hunter2") != NULL)
        fail_msg("the password is told: %s", err.message);
}

/* --- a proxy that loses answers -------------------------------------------------------------- */

struct proxy {
    int listener;
    uint16_t server_port, port;
    _Atomic bool stopping;
    _Atomic bool armed; /* the next answer of the server is swallowed, and all is cut */
    _Atomic unsigned cuts;
    struct env_thread *thread;
};

static int dial(uint16_t port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof(at)) != 0) {
        (void)close(fd);
        fd = -1;
    }
    return fd;
}

/* Bytes from one side to the other; false: this pair has ended. */
static bool carry(struct proxy *proxy, int from, int to, bool is_answer)
{
    char bytes[65536];
    ssize_t len = recv(from, bytes, sizeof(bytes), 0);
    bool expected = true;

    if (len <= 0)
        return false;
    if (is_answer && atomic_compare_exchange_strong(&proxy->armed, &expected, false)) {
        atomic_fetch_add(&proxy->cuts, 1);
        return false;
    }
    return send(to, bytes, (size_t)len, MSG_NOSIGNAL) == len;
}

/* Pairs stand side by side behind the listener: client, server, client, server, … */
static void proxy_run(void *argument)
{
    struct proxy *proxy = argument;
    struct pollfd fds[1 + 2 * 32] = {{.fd = proxy->listener, .events = POLLIN}};
    nfds_t count = 1;

    while (!proxy->stopping) {
        if (poll(fds, count, 5) <= 0)
            continue;
        for (nfds_t i = 1; i < count; i += 2)
            for (nfds_t side = 0; side < 2; side++)
                if (fds[i].fd >= 0 && fds[i + side].revents != 0 &&
                    !carry(proxy, fds[i + side].fd, fds[i + 1 - side].fd, side == 1)) {
                    (void)close(fds[i].fd);
                    (void)close(fds[i + 1].fd);
                    fds[i].fd = fds[i + 1].fd = -1;
                }
        if (fds[0].revents != 0 && count + 2 <= ARRAY_COUNT(fds)) {
            fds[count] = (struct pollfd){accept(proxy->listener, NULL, NULL), POLLIN, 0};
            fds[count + 1] = (struct pollfd){dial(proxy->server_port), POLLIN, 0};
            count += 2;
        }
    }
    for (nfds_t i = 1; i < count; i++)
        if (fds[i].fd >= 0)
            (void)close(fds[i].fd);
}

static void proxy_start(struct proxy *proxy)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    struct err err;

    *proxy =
        (struct proxy){.server_port = (uint16_t)strtoul(strrchr(server.url, ':') + 1, NULL, 10)};
    proxy->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(proxy->listener >= 0);
    assert_int_equal(bind(proxy->listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(getsockname(proxy->listener, (struct sockaddr *)&at, &len), 0);
    assert_int_equal(listen(proxy->listener, 16), 0);
    proxy->port = ntohs(at.sin_port);
    snprintf(url, sizeof(url), "postgres://postgres@127.0.0.1:%u/postgres?schema=%s", proxy->port,
             schema);
    assert_int_equal(env_thread_start(env_real(), &proxy->thread, "proxy", proxy_run, proxy, &err),
                     ERR_OK);
}

static void proxy_stop(struct proxy *proxy)
{
    proxy->stopping = true;
    env_thread_join(proxy->thread);
    (void)close(proxy->listener);
}

/* --- cuts --------------------------------------------------------------------------------------
 */

static void a_change_whose_answer_was_lost_is_made_once(void **state)
{
    struct proxy proxy;
    struct meta *meta;
    struct meta_row row;
    struct err err;
    uint64_t first, second, third, version;

    (void)state;
    proxy_start(&proxy);
    meta = open_url(url);
    (void)must_put(meta, "other", "x", META_ANY);
    proxy.armed = true;
    first = must_put(meta, "a", "one", META_ABSENT);
    expect_row(meta, "a", "one", first);
    proxy.armed = true;
    second = must_put(meta, "a", "two", first);
    assert_int_equal(second, first + 1);
    proxy.armed = true;
    third = must_put(meta, "a", "three", META_ANY);
    assert_int_equal(third, second + 1);
    expect_row(meta, "a", "three", third);
    /* What somebody else was first with stays his. */
    proxy.armed = true;
    assert_int_equal(put(meta, "a", "four", second, &version), ERR_CONFLICT);
    expect_row(meta, "a", "three", third);
    proxy.armed = true;
    assert_int_equal(meta_delete(meta, "a", third, &err), ERR_OK);
    assert_int_equal(meta_get(meta, "a", &row, &err), ERR_NOT_FOUND);
    assert_int_equal(meta_version(meta, &version, &err), ERR_OK);
    assert_int_equal(version, third + 1);
    assert_int_equal(proxy.cuts, 5);
    meta_close(meta);
    proxy_stop(&proxy);
}

/* The server ends our connection from inside the transaction, once. */
static void a_connection_cut_in_mid_transaction_leaves_all_or_nothing(void **state)
{
    struct meta *meta = open_url(url);
    uint64_t first = must_put(meta, "a", "one", META_ABSENT), second;

    (void)state;
    (void)server_tell(&server, "sql CREATE SEQUENCE %s.cuts", schema);
    (void)server_tell(&server,
                      "sql CREATE FUNCTION %s.cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                      " IF nextval('%s.cuts') = 1 THEN"
                      " PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10);"
                      " END IF; RETURN NULL; END $$",
                      schema, schema);
    (void)server_tell(&server,
                      "sql CREATE TRIGGER cut AFTER INSERT OR UPDATE ON %s.row"
                      " FOR EACH ROW EXECUTE FUNCTION %s.cut()",
                      schema, schema);
    second = must_put(meta, "a", "two", first);
    assert_int_equal(second, first + 1);
    expect_row(meta, "a", "two", second);
    assert_string_equal(server_tell(&server, "sql SELECT last_value FROM %s.cuts", schema), "2");
    meta_close(meta);
}

static void idle_connections_that_were_cut_are_no_error(void **state)
{
    struct meta *meta = open_url(url);
    uint64_t version = META_ABSENT;

    (void)state;
    for (int i = 0; i < 10; i++) {
        (void)server_tell(&server, "sql SELECT count(pg_terminate_backend(pid)) FROM"
                                   " pg_stat_activity WHERE pid <> pg_backend_pid() AND"
                                   " backend_type = 'client backend'");
        if (i % 2 == 0)
            version = must_put(meta, "a", "one", version);
        else
            expect_row(meta, "a", "one", version);
    }
    meta_close(meta);
}

/* --- the server goes and comes ------------------------------------------------------------------
 */

static void a_killed_server_is_an_error_that_passes(void **state)
{
    struct meta *meta = open_url(url), *second = NULL;
    struct meta_row row, *rows;
    uint64_t version = must_put(meta, "a", "one", META_ABSENT), got;
    struct err err = {0};
    size_t count;

    (void)state;
    (void)server_tell(&server, "kill");
    assert_int_equal(meta_get(meta, "a", &row, &err), ERR_UNAVAILABLE);
    assert_int_equal(put(meta, "a", "two", version, &got), ERR_UNAVAILABLE);
    assert_int_equal(meta_delete(meta, "a", version, &err), ERR_UNAVAILABLE);
    assert_int_equal(meta_list(meta, "", &rows, &count, &err), ERR_UNAVAILABLE);
    assert_int_equal(meta_wait(meta, version, NEVER_NS, &got, &err), ERR_UNAVAILABLE);
    assert_int_equal(meta_open(&second, url, env_real(), &err), ERR_UNAVAILABLE);
    assert_null(second);
    (void)server_tell(&server, "start");
    await_up(meta);
    expect_row(meta, "a", "one", version);
    assert_int_equal(must_put(meta, "a", "two", version), version + 1);
    meta_close(meta);
}

struct waiter {
    struct meta *meta;
    uint64_t seen, version;
    enum err_code code;
};

static void wait_for_ever(void *argument)
{
    struct waiter *waiter = argument;
    struct err err;

    waiter->code = meta_wait(waiter->meta, waiter->seen, NEVER_NS, &waiter->version, &err);
}

static void a_waiter_hears_that_the_server_has_gone(void **state)
{
    struct meta *meta = open_url(url);
    struct waiter waiter = {.meta = meta, .seen = must_put(meta, "a", "one", META_ANY)};
    struct env_thread *thread;
    struct err err;

    (void)state;
    assert_int_equal(env_thread_start(env_real(), &thread, "waiter", wait_for_ever, &waiter, &err),
                     ERR_OK);
    for (int polls = 0; polls < 2000; polls++) {
        if (strcmp(server_tell(&server, "sql SELECT count(*) FROM pg_stat_activity"
                                        " WHERE query LIKE '%%.counter' AND state = 'idle'"),
                   "0") != 0)
            break;
        (void)poll(NULL, 0, 5);
    }
    (void)server_tell(&server, "kill");
    env_thread_join(thread);
    assert_int_equal(waiter.code, ERR_UNAVAILABLE);
    (void)server_tell(&server, "start");
    await_up(meta);
    meta_close(meta);
}

/* Who cannot wait is told in time, whether a connection was there or has to be made; the others'
 * connections are kept. */
static void who_cannot_wait_does_not(void **state)
{
    struct meta *meta = open_url(url);
    uint64_t version = must_put(meta, "a", "one", META_ABSENT), began_ns;
    struct meta_row row = {0};
    struct err err = {0};

    (void)state;
    assert_int_equal(meta_get_until(meta, "a", env_boot_ns(env_real()) + WAIT_NS, &row, &err),
                     ERR_OK);
    meta_row_free(&row);
    (void)server_tell(&server, "pause");
    for (int i = 0; i < 3; i++) {
        began_ns = env_boot_ns(env_real());
        assert_int_equal(meta_get_until(meta, "a", began_ns + 100 * NS_PER_MS, &row, &err),
                         ERR_UNAVAILABLE);
        assert_in_range(env_boot_ns(env_real()) - began_ns, 0, 2 * NS_PER_S);
    }
    (void)server_tell(&server, "resume");
    await_up(meta);
    expect_row(meta, "a", "one", version);
    meta_close(meta);
}

static void a_paused_server_holds_nobody_for_ever(void **state)
{
    struct meta *meta = open_url(url);
    uint64_t version = must_put(meta, "a", "one", META_ABSENT), got = 0;
    enum err_code code;

    (void)state;
    (void)server_tell(&server, "pause");
    code = put(meta, "a", "two", version, &got);
    (void)server_tell(&server, "resume");
    assert_int_equal(code, ERR_UNAVAILABLE);
    await_up(meta);
    /* It may have been made after all, but not twice and not in part. */
    code = put(meta, "a", "three", version, &got);
    if (code == ERR_CONFLICT)
        expect_row(meta, "a", "two", version + 1);
    else
        assert_int_equal(code, ERR_OK);
    meta_close(meta);
}

/* --- several at once ----------------------------------------------------------------------------
 */

struct opener {
    struct meta *meta;
    struct err err;
    enum err_code code;
};

static void open_it(void *argument)
{
    struct opener *opener = argument;

    opener->code = meta_open(&opener->meta, url, env_real(), &opener->err);
}

static void many_that_open_a_new_store_make_it_once(void **state)
{
    for (int round = 0; round < 5; round++) {
        struct opener openers[WRITERS] = {0};
        struct env_thread *threads[WRITERS];
        struct err err;

        (void)setup(state);
        for (size_t i = 0; i < WRITERS; i++)
            assert_int_equal(
                env_thread_start(env_real(), &threads[i], "opener", open_it, &openers[i], &err),
                ERR_OK);
        for (size_t i = 0; i < WRITERS; i++)
            env_thread_join(threads[i]);
        for (size_t i = 0; i < WRITERS; i++) {
            if (openers[i].code != ERR_OK)
                fail_msg("%s", openers[i].err.message);
            assert_int_equal(must_put(openers[i].meta, "a", "x", META_ANY), i + 1);
        }
        for (size_t i = 0; i < WRITERS; i++)
            meta_close(openers[i].meta);
    }
}

struct writer {
    struct meta *meta;
    unsigned number;
    bool any; /* one key for all */
    _Atomic bool *done;
    enum err_code code;
};

static void write_rows(void *argument)
{
    struct writer *writer = argument;

    for (unsigned i = 0; i < 60 && writer->code == ERR_OK; i++) {
        char key[32];

        snprintf(key, sizeof(key), "%u/%u", writer->any ? 0 : writer->number, writer->any ? 0 : i);
        writer->code = put(writer->meta, key, "x", META_ANY, NULL);
    }
    *writer->done = true;
}

/* All rows as known at the version that was read before them: none below it may come later. */
static void check_order(struct meta *meta, uint64_t *floor, size_t *below)
{
    struct meta_row *rows;
    uint64_t version;
    size_t count, known = 0, now_below = 0;
    struct err err;

    assert_int_equal(meta_version(meta, &version, &err), ERR_OK);
    assert_int_equal(meta_list(meta, "", &rows, &count, &err), ERR_OK);
    for (size_t i = 0; i < count; i++) {
        known += rows[i].version <= *floor;
        now_below += rows[i].version <= version;
    }
    meta_rows_free(rows, count);
    assert_int_equal(known, *below);
    /* Keys are never written twice: each version up to this one is a row's. */
    assert_int_equal(now_below, version);
    *floor = version;
    *below = now_below;
}

static void run_writers(bool any, const char *at)
{
    struct writer writers[WRITERS];
    _Atomic bool done[WRITERS] = {false};
    struct env_thread *threads[WRITERS];
    struct meta *reader = open_url(at);
    uint64_t floor = 0;
    size_t below = 0, finished = 0;
    struct err err;

    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){open_url(at), i, any, &done[i], ERR_OK};
        assert_int_equal(
            env_thread_start(env_real(), &threads[i], "writer", write_rows, &writers[i], &err),
            ERR_OK);
    }
    while (finished < WRITERS) {
        finished = 0;
        for (size_t i = 0; i < WRITERS; i++)
            finished += done[i];
        if (!any)
            check_order(reader, &floor, &below);
    }
    for (size_t i = 0; i < WRITERS; i++) {
        env_thread_join(threads[i]);
        assert_int_equal(writers[i].code, ERR_OK);
        meta_close(writers[i].meta);
    }
    assert_int_equal(meta_version(reader, &floor, &err), ERR_OK);
    assert_int_equal(floor, 60 * WRITERS);
    meta_close(reader);
}

static void who_has_seen_a_version_has_seen_all_below(void **state)
{
    (void)state;
    run_writers(false, url);
}

/* A database whose transactions are stricter by default loses no write by it. */
static void the_isolation_of_the_database_does_not_matter(void **state)
{
    char at[400];

    (void)state;
    (void)server_tell(&server, "sql CREATE DATABASE strict");
    (void)server_tell(&server,
                      "sql ALTER DATABASE strict SET default_transaction_isolation = serializable");
    snprintf(at, sizeof(at), "%.*s/strict?schema=%s", (int)(strrchr(server.url, '/') - server.url),
             server.url, schema);
    run_writers(true, at);
}

/* With looking alone it would take a minute. */
static void a_notice_wakes_the_waiter(void **state)
{
    struct meta *meta = open_url(url), *other = open_url(url);
    uint64_t end_ns = env_boot_ns(env_real()) + WAIT_NS;
    uint64_t version = must_put(other, "a", "x", META_ANY);
    struct err err;

    (void)state;
    for (int i = 0; i < 60; i++) {
        struct waiter waiter = {.meta = meta, .seen = version};
        struct env_thread *thread;

        assert_int_equal(
            env_thread_start(env_real(), &thread, "waiter", wait_for_ever, &waiter, &err), ERR_OK);
        (void)poll(NULL, 0, 3); /* mostly it sleeps by then; right either way */
        version = must_put(other, "a", "x", META_ANY);
        env_thread_join(thread);
        assert_int_equal(waiter.code, ERR_OK);
        assert_int_equal(waiter.version, version);
    }
    assert_true(env_boot_ns(env_real()) < end_ns);
    meta_close(other);
    meta_close(meta);
}

/* --- what is refused, what is taken --------------------------------------------------------------
 */

static void a_newer_schema_is_refused_with_what_to_do(void **state)
{
    struct meta *meta = open_url(url);
    char at[400];

    (void)state;
    (void)must_put(meta, "a", "one", META_ANY);
    meta_close(meta);
    (void)server_tell(&server, "sql UPDATE %s.schema_version SET version = version + 98", schema);
    expect_refusal(url, ERR_CONFIG, "run the newer program");
    /* Also to one who may not create anything. */
    (void)server_tell(&server, "sql CREATE ROLE guest LOGIN");
    (void)server_tell(&server, "sql GRANT USAGE ON SCHEMA %s TO guest", schema);
    (void)server_tell(&server, "sql GRANT SELECT ON ALL TABLES IN SCHEMA %s TO guest", schema);
    snprintf(at, sizeof(at), "postgres://guest@%s?schema=%s", strchr(server.url, '@') + 1, schema);
    expect_refusal(at, ERR_CONFIG, "run the newer program");
    (void)server_tell(&server, "sql UPDATE %s.schema_version SET version = version - 98", schema);
    meta = open_url(url);
    expect_row(meta, "a", "one", 1);
    meta_close(meta);
}

static void what_is_wrong_is_told_apart_from_what_is_away(void **state)
{
    const char *place = strchr(server.url, '@') + 1;
    char at[400];

    (void)state;
    snprintf(at, sizeof(at), "postgres://nobody:hunter2@%s", place);
    expect_refusal(at, ERR_CONFIG, "check user, password and database");
    snprintf(at, sizeof(at), "postgres://postgres:hunter2@127.0.0.1:1/postgres");
    expect_refusal(at, ERR_UNAVAILABLE, "postgres");
    if (resolver_denies("no-such-host.invalid", 60 * NS_PER_S))
        expect_refusal("postgres://postgres:hunter2@no-such-host.invalid/postgres", ERR_CONFIG,
                       "host");
    expect_refusal("postgres://u:hunter2%@host/db", ERR_CONFIG, "metadata URL");
    expect_refusal("postgres://u:hunter2@host:port/db", ERR_CONFIG, "metadata URL");
    expect_refusal("postgres://u:hunter2@[::1/db", ERR_CONFIG, "metadata URL");
    expect_refusal("postgres://u:hunter2/db", ERR_CONFIG, "port");
    expect_refusal("postgres://u@host/db?sslmode=hunter2", ERR_CONFIG, "sslmode");
    expect_refusal("postgres://u:hunter2@host/db?nonsense=1", ERR_CONFIG, "nonsense");
    expect_refusal("postgres://u:hunter2@host/db?schema=a%20b", ERR_CONFIG, "schema=NAME");
    expect_refusal("postgresq://u:hunter2@host/db", ERR_CONFIG, "postgres://");
    expect_refusal("postgres:u:hunter2@host/db", ERR_CONFIG, "metadata URL");
}

/* After the open, what is wrong may pass: a new password, a name that is gone for a moment. */
static void what_was_right_once_is_only_away(void **state)
{
    struct meta *meta;
    struct meta_row row;
    struct err err;
    char at[400];

    (void)state;
    (void)server_tell(&server, "sql CREATE ROLE worker LOGIN SUPERUSER");
    snprintf(at, sizeof(at), "postgres://worker@%s?schema=%s", strchr(server.url, '@') + 1, schema);
    meta = open_url(at);
    (void)must_put(meta, "a", "one", META_ABSENT);
    (void)server_tell(&server, "sql ALTER ROLE worker NOLOGIN");
    (void)server_tell(&server, "sql SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                               " WHERE usename = 'worker'");
    assert_int_equal(meta_get(meta, "a", &row, &err), ERR_UNAVAILABLE);
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    (void)server_tell(&server, "sql ALTER ROLE worker LOGIN");
    expect_row(meta, "a", "one", 1);
    meta_close(meta);
}

/* Those that wait and those that call share the pool without listening on ever more of it. */
static void waiters_and_callers_share_the_connections(void **state)
{
    struct meta *meta = open_url(url);
    struct waiter waiters[WRITERS];
    struct env_thread *threads[WRITERS];
    uint64_t version = must_put(meta, "a", "x", META_ANY);
    struct err err;

    (void)state;
    for (int round = 0; round < 30; round++) {
        for (size_t i = 0; i < WRITERS; i++) {
            waiters[i] = (struct waiter){.meta = meta, .seen = version};
            assert_int_equal(env_thread_start(env_real(), &threads[i], "waiter", wait_for_ever,
                                              &waiters[i], &err),
                             ERR_OK);
        }
        for (int i = 0; i < 5; i++)
            expect_row(meta, "a", "x", version);
        version = must_put(meta, "a", "x", version);
        for (size_t i = 0; i < WRITERS; i++) {
            env_thread_join(threads[i]);
            assert_int_equal(waiters[i].code, ERR_OK);
            assert_int_equal(waiters[i].version, version);
        }
    }
    /* One for each waiter, and one for the caller. */
    assert_true(strtoul(server_tell(&server,
                                    "sql SELECT count(*) FROM pg_stat_activity WHERE backend_type ="
                                    " 'client backend' AND pid <> pg_backend_pid()"),
                        NULL, 10) <= WRITERS + 1);
    meta_close(meta);
}

static void the_longest_schema_works_like_any_other(void **state)
{
    struct meta *meta;
    char at[500], name[64];
    uint64_t version, got;
    struct err err;

    (void)state;
    memset(name, 's', 55);
    name[55] = '\0';
    snprintf(at, sizeof(at), "%s?schema=%s", server.url, name);
    meta = open_url(at);
    version = must_put(meta, "a", "one", META_ABSENT);
    assert_int_equal(meta_wait(meta, version - 1, NEVER_NS, &got, &err), ERR_OK);
    expect_row(meta, "a", "one", version);
    meta_close(meta);
    snprintf(at, sizeof(at), "%s?schema=%ss", server.url, name);
    expect_refusal(at, ERR_CONFIG, "schema=NAME");
}

static void both_names_of_the_scheme_are_one(void **state)
{
    struct meta *meta = open_url(url);
    char at[420];

    (void)state;
    (void)must_put(meta, "a", "one", META_ABSENT);
    meta_close(meta);
    snprintf(at, sizeof(at), "postgresql%s", url + strlen("postgres"));
    meta = open_url(at);
    expect_row(meta, "a", "one", 1);
    meta_close(meta);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup(test, setup)
    const struct CMUnitTest tests[] = {
        CASE(a_change_whose_answer_was_lost_is_made_once),
        CASE(a_connection_cut_in_mid_transaction_leaves_all_or_nothing),
        CASE(idle_connections_that_were_cut_are_no_error),
        CASE(a_killed_server_is_an_error_that_passes),
        CASE(a_waiter_hears_that_the_server_has_gone),
        CASE(who_cannot_wait_does_not),
        CASE(a_paused_server_holds_nobody_for_ever),
        CASE(many_that_open_a_new_store_make_it_once),
        CASE(who_has_seen_a_version_has_seen_all_below),
        CASE(the_isolation_of_the_database_does_not_matter),
        CASE(a_notice_wakes_the_waiter),
        CASE(a_newer_schema_is_refused_with_what_to_do),
        CASE(what_is_wrong_is_told_apart_from_what_is_away),
        CASE(what_was_right_once_is_only_away),
        CASE(waiters_and_callers_share_the_connections),
        CASE(the_longest_schema_works_like_any_other),
        CASE(both_names_of_the_scheme_are_one),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
