/* A spool that the first version with one has left (tests/upgrade/make.py): every row that was
 * acknowledged waits, as its newest form, and is settled as those of today are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/log.h"
#include "services/ingest/spool.h"
#include "tests/lib/scratch.h"

#define ARCHIVE "tests/upgrade/spool.tar.xz"
#define ROWS    41u /* kb/0 to kb/39, and `before` */

static char folder[64], url[96];
static bool met[ROWS];

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s: %s", err_word(code), err->message);
}

static int unpack(void **state)
{
    pid_t process;
    int status = -1;

    (void)state;
    assert_true(scratch_make(folder, sizeof(folder), "spool-upgrade"));
    snprintf(url, sizeof(url), "lmdb:%s/data", folder);
    process = fork();
    if (process == 0) {
        execlp("tar", "tar", "-xJf", ARCHIVE, "-C", folder, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(process, &status, 0), process);
    return status;
}

static int clean_up(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

static struct spool *open_spool(void)
{
    struct spool_setup setup = {.env = env_real(), .url = url};
    struct spool *spool;
    struct err err = {0};

    must(spool_open(&spool, &setup, &err), &err);
    return spool;
}

static void check_text(const struct record *record, const char *expected)
{
    assert_int_equal(record->op, RECORD_UPSERT);
    assert_int_equal(record->text_len, strlen(expected));
    assert_memory_equal(record->text, expected, record->text_len);
    assert_int_equal(record->vector_bytes, 8 * sizeof(float));
    assert_true(record->metadata_len > 0);
}

static void check_row(const struct spool_row *row)
{
    struct record record;
    struct err err = {0};
    char id[20], text[40];
    unsigned number = ROWS - 1;

    must(record_decode(&record, row->record, row->record_len, NULL, &err), &err);
    assert_string_equal(row->tenant, "default");
    assert_string_equal(row->collection, "kb");
    assert_true(row->wall_us > 0 && row->stamp.clock > 0 && row->stamp.region != 0);
    assert_in_range(row->id_len, 1, sizeof(id) - 1);
    memcpy(id, row->id, row->id_len);
    id[row->id_len] = '\0';
    if (strcmp(id, "before") != 0)
        assert_int_equal(sscanf(id, "kb/%u", &number), 1);
    assert_true(number < ROWS);
    assert_false(met[number]);
    met[number] = true;
    snprintf(text, sizeof(text), "waits %u", number);
    if (number == 6 || number == ROWS - 1)
        assert_int_equal(record.op, RECORD_DELETE);
    else
        check_text(&record, number == 5 ? "newer" : text);
}

static void every_row_that_was_acknowledged_waits(void **state)
{
    enum spool_fate fates[ROWS];
    struct spool *spool = open_spool();
    struct spool_status status;
    struct arena arena = {0};
    struct spool_row *rows;
    struct err err = {0};
    size_t count;

    (void)state;
    spool_status(spool, &status);
    assert_int_equal(status.waiting, ROWS);
    assert_int_equal(status.parked, 0);
    must(spool_read(spool, &arena, ROWS + 1, MIB(4), &rows, &count, &err), &err);
    assert_int_equal(count, ROWS);
    for (size_t i = 0; i < count; i++) {
        check_row(&rows[i]);
        fates[i] = i == 0 ? SPOOL_WAITS : SPOOL_APPENDED;
    }
    must(spool_settle(spool, rows, fates, count, &err), &err);
    arena_free(&arena);
    spool_close(spool);
    spool = open_spool();
    spool_status(spool, &status);
    assert_int_equal(status.waiting, 1);
    spool_close(spool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_that_was_acknowledged_waits),
    };

    log_start("test_spool_upgrade", LOG_OFF);
    return cmocka_run_group_tests(tests, unpack, clean_up);
}
