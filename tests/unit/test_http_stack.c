/* A program whose libraries leave a server's workers too little stack refuses requests; it does not
 * die of them. */
#include "tests/unit/http_world.h"

/* As a library would have it: it comes out of every thread's stack. */
static _Thread_local volatile char wide[KIB(48)];

static size_t json_length(const struct buffer *heard)
{
    return strlen(strstr((const char *)heard->data, "\r\n\r\n") + 4);
}

static void workers_without_stack_refuse(void **state)
{
    static const char ask[] = "GET /things/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    struct buffer heard = {0};
    int fd = dial(*state);

    wide[0] = 1;
    say(fd, ask, strlen(ask));
    hear(fd, &heard, NULL);
    assert_non_null(strstr((char *)heard.data, " 503 "));
    assert_int_equal(json_length(&heard),
                     strtoul(strstr((char *)heard.data, "Length: ") + 8, NULL, 10));
    buffer_free(&heard);
    close(fd);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {TEST(workers_without_stack_refuse)};

    log_start("test", LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
