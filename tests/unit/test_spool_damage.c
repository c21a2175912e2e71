/* Damage to the spool's file, at its bytes and at its end: it opens with every row as it was put,
 * or one that is known as damaged, or it is refused and says where.  No row comes as another, and
 * nothing crashes.
 *
 * The file is made once and kept in memory; each case writes what it changes.  Syncs do nothing in
 * this program: it is about bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/base/sanitized.h"
#include "services/ingest/spool_internal.h"
#include "tests/lib/scratch.h"

#define ROWS      40u
#define BYTES_MAX (1u << 20)
#define PAGE      4096u
#define STRIDE    (IS_SANITIZED ? 151u : 17u) /* of a page's contents; its head: byte by byte */

int fdatasync(int fd)
{
    (void)fd;
    return 0;
}

int fsync(int fd)
{
    (void)fd;
    return 0;
}

static char folder[64], url[96], path[96];
static uint8_t sound[BYTES_MAX];
static size_t size;
static struct buffer records[ROWS];
static unsigned opened, refused, known_as_damaged;

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s: %s", err_word(code), err->message);
}

static enum err_code open_spool(struct spool **out, struct err *err)
{
    struct spool_setup setup = {.env = env_real(), .url = url};

    return spool_open(out, &setup, err);
}

/* Rows of all sizes: some have pages of their own. */
static void put_row(struct spool *spool, unsigned number)
{
    static char text[9000];
    char id[20];
    struct record record = {.op = number % 7 == 3 ? RECORD_DELETE : RECORD_UPSERT, .id = id};
    struct spool_row row = {
        .wall_us = 1000 + number, .stamp = {.clock = 77, .region = 5}, .term = 9};
    struct err err = {0};

    record.id_len = (size_t)snprintf(id, sizeof(id), "id %u", number);
    memset(text, 'a' + (int)(number % 26), sizeof(text));
    if (record.op == RECORD_UPSERT) {
        record.text = text;
        record.text_len = number % 9 == 4 ? sizeof(text) : 10 + number * 5;
    }
    must(record_encode(&record, &records[number], &err), &err);
    row.id = id;
    row.id_len = record.id_len;
    row.record = records[number].data;
    row.record_len = records[number].len;
    (void)snprintf(row.tenant, sizeof(row.tenant), "default");
    (void)snprintf(row.collection, sizeof(row.collection), "c");
    must(spool_put(spool, &row, 1, &err), &err);
    assert_int_equal(row.number, number + 1);
}

static int make(void **state)
{
    struct spool *spool;
    struct err err = {0};
    int fd;

    (void)state;
    assert_true(scratch_make(folder, sizeof(folder), "spool-damage"));
    (void)snprintf(url, sizeof(url), "lmdb:%s", folder);
    (void)snprintf(path, sizeof(path), "%s/data.mdb", folder);
    must(open_spool(&spool, &err), &err);
    for (unsigned i = 0; i < ROWS; i++)
        put_row(spool, i);
    spool_close(spool);
    fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    size = (size_t)read(fd, sound, sizeof(sound));
    assert_in_range(size, 4 * PAGE, sizeof(sound) - 1);
    close(fd);
    return 0;
}

static int clean_up(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ROWS; i++)
        buffer_free(&records[i]);
    return scratch_remove(folder);
}

/* --- a case ------------------------------------------------------------------------------------
 */

static void lay_out(void)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0644);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, sound, size, 0), size);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

static void put_byte(size_t at, uint8_t byte)
{
    int fd = open(path, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

/* A row that has a record has the one that was put under its id. */
static void check_row(const struct spool_row *row)
{
    struct record record;
    unsigned number;
    char id[20];

    if (row->record == NULL ||
        record_decode(&record, row->record, row->record_len, NULL, NULL) != ERR_OK) {
        known_as_damaged++;
        return;
    }
    assert_true(row->id_len < sizeof(id));
    memcpy(id, row->id, row->id_len);
    id[row->id_len] = '\0';
    assert_int_equal(sscanf(id, "id %u", &number), 1);
    assert_true(number < ROWS);
    assert_int_equal(row->record_len, records[number].len);
    assert_memory_equal(row->record, records[number].data, row->record_len);
}

/* All that waits, page by page; what was read is settled, so that the next comes. */
static size_t read_all(struct spool *spool)
{
    size_t total = 0, count = 1;

    while (count > 0) {
        struct arena arena = {0};
        struct spool_row *rows;
        enum spool_fate fates[ROWS];
        struct err err = {0};
        enum err_code code = spool_read(spool, &arena, ROWS, MIB(4), &rows, &count, &err);

        if (code != ERR_OK) {
            assert_int_equal(code, ERR_CORRUPT);
            count = 0;
        }
        assert_true(count <= ROWS);
        for (size_t i = 0; i < count; i++) {
            check_row(&rows[i]);
            fates[i] = SPOOL_PARKED;
        }
        total += count;
        if (count > 0 && spool_settle(spool, rows, fates, count, &err) != ERR_OK)
            count = 0; /* it is known as broken now */
        arena_free(&arena);
    }
    return total;
}

/* least: rows that must be there, waiting or parked. */
static void open_and_judge(unsigned least)
{
    struct spool_status status;
    struct spool *spool;
    struct err err = {0};
    enum err_code code = open_spool(&spool, &err);

    if (code != ERR_OK) {
        assert_true(code == ERR_CORRUPT || code == ERR_CONFIG);
        assert_non_null(strstr(err.message, "the spool"));
        refused++;
        return;
    }
    opened++;
    spool_status(spool, &status);
    if (status.waiting + status.parked < least || status.waiting + status.parked > ROWS)
        fail_msg("%u rows wait, %u are parked", (unsigned)status.waiting, (unsigned)status.parked);
    (void)read_all(spool);
    spool_close(spool);
}

/* --- promises ----------------------------------------------------------------------------------
 */

static void an_undamaged_spool_opens_with_everything(void **state)
{
    struct spool *spool;
    struct err err = {0};

    (void)state;
    lay_out();
    must(open_spool(&spool, &err), &err);
    assert_int_equal(read_all(spool), ROWS);
    assert_int_equal(known_as_damaged, 0);
    spool_close(spool);
}

/* LMDB has two pages that say which pages count, without checksums: a changed number of the newer
 * one's transaction makes the one before count, and the last row is not there. */
static unsigned least_kept(size_t at)
{
    return at < 2 * PAGE ? ROWS - 1 : ROWS;
}

static void a_changed_byte_is_found_or_harmless(void **state)
{
    (void)state;
    opened = refused = known_as_damaged = 0;
    for (size_t at = 0; at < size; at += at % PAGE < 120 && STRIDE < 100 ? 1 : STRIDE) {
        lay_out();
        put_byte(at, sound[at] ^ (uint8_t)(1u << at % 8));
        open_and_judge(least_kept(at));
        lay_out();
        put_byte(at, (uint8_t)~sound[at]);
        open_and_judge(least_kept(at));
    }
    print_message("opened %u, refused %u, rows known as damaged %u\n", opened, refused,
                  known_as_damaged);
    assert_true(refused > 0 && opened > 0 && known_as_damaged > 0);
}

static void a_shortened_file_is_found(void **state)
{
    (void)state;
    opened = refused = 0;
    for (size_t len = 1; len < size; len += 499) {
        lay_out();
        assert_int_equal(truncate(path, (off_t)len), 0);
        open_and_judge(ROWS);
    }
    print_message("opened %u, refused %u\n", opened, refused);
    assert_true(refused > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_undamaged_spool_opens_with_everything),
        cmocka_unit_test(a_changed_byte_is_found_or_harmless),
        cmocka_unit_test(a_shortened_file_is_found),
    };

    log_start("test_spool_damage", LOG_OFF);
    return cmocka_run_group_tests(tests, make, clean_up);
}
