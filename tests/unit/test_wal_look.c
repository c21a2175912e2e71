/* How many partitions a log of files has is known without a writer: after a restart of the machine,
 * and where a segment is damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/wal/wal_file_internal.h"
#include "tests/lib/scratch.h"

enum { PARTITIONS = 7 };

static char folder[256];
static char url[300];

static int setup(void **state)
{
    (void)state;
    assert_true(scratch_make(folder, sizeof(folder), "look"));
    snprintf(url, sizeof(url), "file:%s/wal", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

/* Two segments: every opening begins one. */
static void make_log(void)
{
    struct wal_options options = {
        .url = url, .env = env_real(), .writer = true, .partitions = PARTITIONS};
    struct wal *wal;
    struct err err = {0};

    for (int i = 0; i < 2; i++) {
        if (wal_open(&wal, &options, &err) != ERR_OK)
            fail_msg("%s", err.message);
        wal_close(wal);
    }
}

static void write_at(const char *name, uint64_t at, uint64_t word)
{
    char path[320];
    int fd;

    snprintf(path, sizeof(path), "%s/wal/%s", folder, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &word, sizeof(word), (off_t)at), sizeof(word));
    assert_int_equal(close(fd), 0);
}

static void damage_segment(uint64_t number)
{
    char name[WAL_SEGMENT_NAME_BYTES];

    wal_segment_name(name, number);
    write_at(name, 8, UINT64_MAX);
}

static void expect(enum err_code code, uint32_t partitions)
{
    struct wal_options options = {.url = url, .env = env_real()};
    uint32_t found = 0;
    struct err err = {0};

    assert_int_equal(wal_look(&options, &found, &err), code);
    assert_int_equal(err.code, code);
    assert_int_equal(found, partitions);
}

static void where_there_is_no_log_none_is_found(void **state)
{
    char path[320];

    (void)state;
    expect(ERR_NOT_FOUND, 0);
    snprintf(path, sizeof(path), "%s/wal", folder);
    assert_int_equal(mkdir(path, 0755), 0);
    expect(ERR_NOT_FOUND, 0);
}

static void a_url_without_a_folder_is_refused(void **state)
{
    (void)state;
    snprintf(url, sizeof(url), "file:");
    expect(ERR_CONFIG, 0);
}

static void a_restart_of_the_machine_does_not_hide_it(void **state)
{
    struct wal_options options = {.url = url, .env = env_real()};
    struct wal *wal;

    (void)state;
    make_log();
    expect(ERR_OK, PARTITIONS);
    write_at(WAL_CONTROL_NAME, offsetof(struct wal_control, boot), wal_boot_word() + 1);
    assert_int_equal(wal_open(&wal, &options, NULL), ERR_NOT_FOUND);
    expect(ERR_OK, PARTITIONS);
}

static void an_older_segment_says_it_where_the_newest_is_damaged(void **state)
{
    (void)state;
    make_log();
    damage_segment(2);
    expect(ERR_OK, PARTITIONS);
    damage_segment(1);
    expect(ERR_CORRUPT, 0);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(where_there_is_no_log_none_is_found),
        CASE(a_url_without_a_folder_is_refused),
        CASE(a_restart_of_the_machine_does_not_hide_it),
        CASE(an_older_segment_says_it_where_the_newest_is_damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
