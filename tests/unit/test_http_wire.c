/* What a server has to stand from clients: framing, limits, stalls, garbage, compressed bodies. */
#include "tests/unit/http_world.h"

#include <zlib.h>

/* Send, then read to the end of the connection; the answer has to contain each text.  stalls: as if
 * there were more to come. */
static void exchange_until(const struct world *world, const char *text, bool stalls,
                           const char *want, const char *want_too)
{
    struct buffer heard = {0};
    int fd = dial(world);

    say(fd, text, strlen(text));
    if (!stalls)
        (void)shutdown(fd, SHUT_WR); /* the server may have hung up already */
    hear(fd, &heard, NULL);
    if (strstr((char *)heard.data, want) == NULL || strstr((char *)heard.data, want_too) == NULL)
        fail_msg("asked:\n%.200s\nheard:\n%s\nwanted: %s and %s", text, heard.data, want, want_too);
    buffer_free(&heard);
    close(fd);
}

static void exchange(const struct world *world, const char *text, const char *want,
                     const char *want_too)
{
    exchange_until(world, text, false, want, want_too);
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
    exchange_until(*state, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", true,
                   " 408 ", "request_timeout");
    exchange_until(*state,
                   "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
                   true, " 408 ", "Connection: close");
}

static void a_stalled_head_is_408(void **state)
{
    exchange_until(*state, "GET /things/1 HTTP/1.1\r\nHos", true, " 408 ", "request_timeout");
}

/* More clients than workers, each of which keeps its connection and says nothing more. */
static void idle_connections_make_room(void **state)
{
    static const char ask[] = "GET /things/1 HTTP/1.1\r\nHost: a\r\n\r\n";
    int fds[100];

    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        fds[i] = dial(*state);
        say(fds[i], ask, strlen(ask));
    }
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        struct buffer heard = {0};

        hear(fds[i], &heard, "{\"id\":\"1\"");
        assert_non_null(strstr((char *)heard.data, "{\"id\":\"1\""));
        buffer_free(&heard);
    }
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++)
        close(fds[i]);
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
    static const char head[] = "HEAD /things/1 HTTP/1.1\r\nConnection: close\r\n\r\n";
    struct buffer heard = {0};
    int fd = dial(*state);

    say(fd, head, strlen(head));
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

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(two_requests_share_a_connection),
        TEST(chunked_bodies_are_read),
        TEST(a_chunked_body_over_the_limit_is_413),
        HASTY_TEST(a_stalled_body_is_408),
        HASTY_TEST(a_stalled_head_is_408),
        TEST(idle_connections_make_room),
        TEST(lengths_that_can_be_misread_are_400),
        TEST(garbage_behind_a_request_is_400),
        TEST(heads_that_are_too_large_are_400),
        TEST(other_methods_are_405_with_allow),
        TEST(head_has_no_body),
        TEST(a_client_that_waits_is_told_to_go_on),
        TEST(gzip_bodies_are_inflated_within_the_limit),
    };

    log_start("test", LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
