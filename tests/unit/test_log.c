/* Logs: one JSON object a line, in one piece, and no flood. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/arena.h"
#include "common/base/env.h"
#include "common/base/json_reader.h"
#include "common/base/log.h"

#define TEXT_BYTES (1 << 20)

static FILE *target;
static char text[TEXT_BYTES];

static int open_target(void **state)
{
    (void)state;
    target = tmpfile();
    if (target == NULL)
        return -1;
    log_redirect(fileno(target));
    return 0;
}

static int close_target(void **state)
{
    (void)state;
    log_redirect(STDERR_FILENO);
    return fclose(target);
}

/* Everything written so far goes to text; every line must be a JSON object. */
static size_t read_lines(void)
{
    ssize_t len = pread(fileno(target), text, sizeof(text) - 1, 0);
    size_t count = 0;

    assert_true(len >= 0);
    text[len] = '\0';
    for (char *line = text; *line != '\0'; count++) {
        char *end = strchr(line, '\n');
        struct json_reader r;
        struct err err;

        assert_non_null(end);
        assert_true(end - line < LOG_LINE_MAX + 100);
        json_reader_init(&r, line, (size_t)(end - line), NULL, &err);
        assert_int_equal(json_skip(&r, NULL, NULL), ERR_OK);
        assert_int_equal(json_end(&r), ERR_OK);
        line = end + 1;
    }
    return count;
}

static void a_line_holds_what_was_said(void **state)
{
    (void)state;
    log_info(&((struct log_context){.request_id = "r1", .operation = "search"}), "served \"x\"",
             LOG_U64("latency_us", 17), LOG_TEXT("name", "a\nb"), LOG_F64("ratio", 0.5),
             LOG_F64("nan", 0.0 / 0.0), LOG_TEXT("none", NULL));
    log_debug(NULL, "not shown");
    log_warn(NULL, "short");
    assert_int_equal(read_lines(), 2);
    assert_memory_equal(text, "{\"time\":\"20", 11);
    assert_non_null(strstr(text, "Z\",\"level\":\"info\",\"service\":\"test\",\"message\":"
                                 "\"served \\\"x\\\"\",\"request_id\":\"r1\","
                                 "\"operation\":\"search\",\"latency_us\":17,\"name\":\"a\\nb\","
                                 "\"ratio\":0.5,\"nan\":\"not finite\"}\n"));
    assert_non_null(
        strstr(text, "\"level\":\"warn\",\"service\":\"test\",\"message\":\"short\"}\n"));
}

static void an_error_has_its_word(void **state)
{
    struct err err;

    (void)state;
    (void)err_set_at(&err, ERR_INVALID_ARGUMENT, "/vector", "too long");
    log_err(LOG_ERROR, NULL, "refused", &err);
    log_err(LOG_DEBUG, NULL, "refused", &err);
    assert_int_equal(read_lines(), 1);
    assert_non_null(strstr(text, "\"error_code\":\"invalid_argument\",\"error\":\"too long\","
                                 "\"pointer\":\"/vector\"}"));
}

static void hostile_texts_are_cut_and_repaired(void **state)
{
    char *huge = malloc(100001);

    (void)state;
    assert_non_null(huge);
    memset(huge, '\x01', 100000);
    huge[100000] = '\0';
    log_error(&((struct log_context){.collection = huge, .tenant = "\xff\xfe"}), huge,
              LOG_TEXT("more", huge), LOG_U64("last", 1));
    free(huge);
    assert_int_equal(read_lines(), 1);
    assert_non_null(strstr(text, "\"last\":1"));
    assert_non_null(strstr(text, "\"cut\":true}"));
}

/* One round of a flood; false when a second ended on the way, which starts a new count. */
static bool flood(unsigned lines)
{
    uint64_t before = env_boot_ns(env_real());

    assert_int_equal(ftruncate(fileno(target), 0), 0);
    assert_int_equal(lseek(fileno(target), 0, SEEK_SET), 0);
    for (unsigned i = 0; i < lines; i++)
        log_warn(NULL, "disk is full", LOG_U64("n", i));
    return env_boot_ns(env_real()) - before < NS_PER_S;
}

static void a_flood_is_counted(void **state)
{
    unsigned rounds = 0;

    (void)state;
    while (!flood(LOG_REPEAT_MAX + 30)) {
        log_flush();
        assert_true(++rounds < 20);
    }
    log_info(NULL, "something else");
    assert_int_equal(read_lines(), LOG_REPEAT_MAX + 1);
    log_flush();
    assert_int_equal(read_lines(), LOG_REPEAT_MAX + 2);
    assert_non_null(strstr(text, "\"message\":\"disk is full\",\"repeated\":30}"));
    log_flush();
    assert_int_equal(read_lines(), LOG_REPEAT_MAX + 2);
}

static void chatter(void *argument)
{
    const char *name = argument;

    for (unsigned i = 0; i < 200; i++) {
        char message[32];

        (void)snprintf(message, sizeof(message), "%s says %u", name, i % 20);
        log_info(NULL, message, LOG_TEXT("name", name));
    }
}

static void threads_do_not_mix_their_lines(void **state)
{
    static char names[4][2] = {"a", "b", "c", "d"};
    struct env_thread *threads[4];
    struct err err;

    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(
            env_thread_start(env_real(), &threads[i], names[i], chatter, names[i], &err), ERR_OK);
    for (size_t i = 0; i < 4; i++)
        env_thread_join(threads[i]);
    log_flush();
    assert_in_range(read_lines(), 80, 4 * 200 + 80);
}

static void levels_have_names(void **state)
{
    (void)state;
    assert_int_equal(log_level_from_text("debug", LOG_INFO), LOG_DEBUG);
    assert_int_equal(log_level_from_text("off", LOG_INFO), LOG_OFF);
    assert_int_equal(log_level_from_text("loud", LOG_WARN), LOG_WARN);
    assert_int_equal(log_level_from_text(NULL, LOG_WARN), LOG_WARN);
    assert_int_equal(log_threshold(), LOG_INFO);
}

#define LOG_TEST(f) cmocka_unit_test_setup_teardown(f, open_target, close_target)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOG_TEST(a_line_holds_what_was_said),         LOG_TEST(an_error_has_its_word),
        LOG_TEST(hostile_texts_are_cut_and_repaired), LOG_TEST(a_flood_is_counted),
        LOG_TEST(threads_do_not_mix_their_lines),     LOG_TEST(levels_have_names),
    };

    log_start("test", LOG_INFO);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
