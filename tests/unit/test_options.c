/* Options: precedence, bounds, and refusals that name what they refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/options.h"

struct settings {
    const char *listen;
    uint64_t port;
    uint64_t cache_bytes;
    bool verbose;
};

static const struct option table[] = {
    {.name = "listen",
     .fallback = "127.0.0.1",
     .help = "Where.",
     .offset = offsetof(struct settings, listen)},
    {.name = "port",
     .type = OPTION_U64,
     .fallback = "80",
     .min = 1,
     .max = 65535,
     .help = "Port.",
     .offset = offsetof(struct settings, port)},
    {.name = "cache-bytes",
     .type = OPTION_U64,
     .fallback = "1MiB",
     .unit = "bytes",
     .help = "Size.",
     .offset = offsetof(struct settings, cache_bytes)},
    {.name = "verbose",
     .type = OPTION_BOOL,
     .help = "Talk.",
     .offset = offsetof(struct settings, verbose)},
    {.name = NULL},
};

static struct err err;
static struct settings settings;
static bool wants_help;

/* Parse a NULL-terminated list of arguments. */
static enum err_code parse_with(const struct option *rows, char **argv)
{
    struct options_input input = {.table = rows, .argv = argv};

    while (argv[input.argc] != NULL)
        input.argc++;
    settings = (struct settings){0};
    return options_parse(&input, &settings, &wants_help, &err);
}

#define PARSE(...) parse_with(table, (char *[]){"program", __VA_ARGS__ __VA_OPT__(, ) NULL})

static void defaults_stand_where_nothing_is_said(void **state)
{
    (void)state;
    assert_int_equal(PARSE(), ERR_OK);
    assert_string_equal(settings.listen, "127.0.0.1");
    assert_int_equal(settings.port, 80);
    assert_int_equal(settings.cache_bytes, 1 << 20);
    assert_false(settings.verbose);
    assert_false(wants_help);
}

static void flags_have_two_forms(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--listen", "::1", "--port=8080", "--verbose", "--cache-bytes=2GiB"),
                     ERR_OK);
    assert_string_equal(settings.listen, "::1");
    assert_int_equal(settings.port, 8080);
    assert_true(settings.cache_bytes == 2ull << 30);
    assert_true(settings.verbose);
    assert_int_equal(PARSE("--verbose", "--no-verbose", "--port", "1", "--port", "2"), ERR_OK);
    assert_false(settings.verbose);
    assert_int_equal(settings.port, 2);
    assert_int_equal(PARSE("--verbose=yes", "--listen="), ERR_OK);
    assert_true(settings.verbose);
    assert_string_equal(settings.listen, "");
}

static void refuses(enum err_code code, const char *part)
{
    assert_int_equal(code, ERR_CONFIG);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", part, err.message);
}

static void wrong_values_are_refused_with_their_row(void **state)
{
    (void)state;
    refuses(PARSE("--port=0"), "--port");
    refuses(PARSE("--port=65536"), "65535");
    refuses(PARSE("--port=x"), "--port");
    refuses(PARSE("--port=1KiB"), "--port");
    refuses(PARSE("--port"), "needs a value");
    refuses(PARSE("--cache-bytes=1XiB"), "--cache-bytes");
    refuses(PARSE("--cache-bytes=17179869184GiB"), "--cache-bytes");
    refuses(PARSE("--verbose=maybe"), "--verbose");
    refuses(PARSE("--no-port"), "--no-port");
    refuses(PARSE("--prot=1"), "--prot");
    refuses(PARSE("-p"), "-p");
    refuses(PARSE("stray"), "stray");
    refuses(PARSE("--", "--port"), "--port");
}

static void environment_and_file_have_their_place(void **state)
{
    char path[] = "test_options_XXXXXX";
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");

    (void)state;
    assert_non_null(file);
    assert_true(fputs("# comment\n\n port = 7 \nlisten = from file\nverbose=on", file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(PARSE("--config", path), ERR_OK);
    assert_int_equal(settings.port, 7);
    assert_string_equal(settings.listen, "from file");
    assert_true(settings.verbose);
    assert_int_equal(setenv("VICINAL_PORT", "8", 1), 0);
    assert_int_equal(setenv("VICINAL_CACHE_BYTES", "5 KiB", 1), 0);
    assert_int_equal(PARSE("--config", path), ERR_OK);
    assert_int_equal(settings.port, 8);
    assert_int_equal(settings.cache_bytes, 5 << 10);
    assert_int_equal(PARSE("--config", path, "--port=9"), ERR_OK);
    assert_int_equal(settings.port, 9);
    assert_int_equal(setenv("VICINAL_PORT", "none", 1), 0);
    refuses(PARSE("--config", path), "VICINAL_PORT");
    assert_int_equal(unsetenv("VICINAL_PORT"), 0);
    assert_int_equal(unsetenv("VICINAL_CACHE_BYTES"), 0);
    assert_int_equal(setenv("VICINAL_CONFIG", path, 1), 0);
    assert_int_equal(PARSE(), ERR_OK);
    assert_int_equal(settings.port, 7);
    assert_int_equal(unsetenv("VICINAL_CONFIG"), 0);
    assert_int_equal(unlink(path), 0);
    refuses(PARSE("--config", path), path);
}

static void a_wrong_file_is_refused_with_its_line(void **state)
{
    static const char *const wrong[] = {"port=1\nprot=2\n", "port=1\nlisten\n",
                                        "listen=x\nport=70000\n"};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        char path[] = "test_options_XXXXXX";
        int fd = mkstemp(path);

        assert_true(write(fd, wrong[i], strlen(wrong[i])) == (ssize_t)strlen(wrong[i]));
        assert_int_equal(close(fd), 0);
        refuses(PARSE("--config", path), ":2:");
        assert_int_equal(unlink(path), 0);
    }
}

static void required_options_and_help(void **state)
{
    static const struct option rows[] = {
        {.name = "data",
         .required = true,
         .help = "Folder.",
         .offset = offsetof(struct settings, listen)},
        {.name = NULL},
    };
    char *none[] = {"program", NULL};
    char *help[] = {"program", "--help", NULL};
    char *version[] = {"program", "--version", NULL};
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    (void)state;
    refuses(parse_with(rows, none), "--data is required");
    assert_int_equal(parse_with(rows, help), ERR_OK);
    assert_true(wants_help);
    options_help(out, "program [OPTIONS]", "Does things.", rows);
    assert_int_equal(fflush(out), 0);
    assert_non_null(strstr(text, "Usage: program"));
    assert_non_null(strstr(text, "--data TEXT"));
    rewind(out);
    assert_int_equal(parse_with(rows, version), ERR_OK);
    assert_true(wants_help);
    options_help(out, "program [OPTIONS]", "Does things.", rows);
    assert_int_equal(fclose(out), 0);
    assert_memory_equal(text, "vicinal ", 8);
    free(text);
}

static void operands_are_counted(void **state)
{
    const char *operands[2];
    size_t count = 9;
    char *argv[] = {"program", "one", "--verbose", "-", "--", NULL};
    char *many[] = {"program", "one", "--", "--two", "three", NULL};
    struct options_input input = {.table = table,
                                  .argc = 5,
                                  .argv = argv,
                                  .operands = operands,
                                  .operand_max = 2,
                                  .operand_count = &count};

    (void)state;
    assert_int_equal(options_parse(&input, &settings, &wants_help, &err), ERR_OK);
    assert_int_equal(count, 2);
    assert_string_equal(operands[0], "one");
    assert_string_equal(operands[1], "-");
    input.argv = many;
    refuses(options_parse(&input, &settings, &wants_help, &err), "three");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_stand_where_nothing_is_said),
        cmocka_unit_test(flags_have_two_forms),
        cmocka_unit_test(wrong_values_are_refused_with_their_row),
        cmocka_unit_test(environment_and_file_have_their_place),
        cmocka_unit_test(a_wrong_file_is_refused_with_its_line),
        cmocka_unit_test(required_options_and_help),
        cmocka_unit_test(operands_are_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
