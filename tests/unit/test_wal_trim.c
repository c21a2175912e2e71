/* A log in files that is trimmed forgets what it was told to, whole segments of it leave the disk,
 * and nobody reads over the gap without being told.
 * link-flags: -Wl,--wrap=unlinkat */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/wal/wal_file_internal.h"
#include "backends/wal/wal_verify.h"
#include "common/base/log.h"
#include "tests/lib/scratch.h"

#define PARTITIONS    2u
#define SEGMENT_BYTES 4096u
#define ENTRY_BYTES   900u /* four to a segment */

static char base_folder[120], folder[160];
static unsigned folder_number;

static unsigned removals_left; /* then they fail */

int __real_unlinkat(int dir, const char *name, int flags);
int __wrap_unlinkat(int dir, const char *name, int flags);
int __wrap_unlinkat(int dir, const char *name, int flags)
{
    if (removals_left > 0) {
        removals_left--;
        return __real_unlinkat(dir, name, flags);
    }
    errno = EIO;
    return -1;
}

static int folder_setup(void **state)
{
    (void)state;
    removals_left = UINT_MAX;
    snprintf(folder, sizeof(folder), "%s/%u", base_folder, folder_number++);
    return 0;
}

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s: %s", err_word(code), err->message);
}

static enum err_code try_open(struct wal **out, bool writer, bool repair, struct err *err)
{
    char url[200];
    struct wal_options options = {.url = url,
                                  .env = env_real(),
                                  .writer = writer,
                                  .partitions = PARTITIONS,
                                  .repair = repair,
                                  .segment_bytes = SEGMENT_BYTES};

    snprintf(url, sizeof(url), "file:%s", folder);
    return wal_open(out, &options, err);
}

static struct wal *log_open(bool writer)
{
    struct wal *wal;
    struct err err = {0};

    must(try_open(&wal, writer, false, &err), &err);
    return wal;
}

/* One entry, whose bytes say its partition and offset. */
static void append(struct wal *wal, uint32_t partition)
{
    uint8_t bytes[ENTRY_BYTES] = {0};
    uint64_t end, offset;
    struct wal_entry entry = {.partition = partition, .data = bytes, .len = sizeof(bytes)};
    struct err err = {0};

    must(wal_ends(wal, &partition, 1, NEVER_NS, &end, &err), &err);
    bytes[0] = (uint8_t)partition;
    bytes[1] = (uint8_t)end;
    must(wal_append(wal, &entry, 1, NEVER_NS, &offset, &err), &err);
    assert_int_equal(offset, end);
}

static void append_both(struct wal *wal, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        append(wal, 0);
        append(wal, 1);
    }
}

static void trim(struct wal *wal, uint64_t first, uint64_t second)
{
    struct err err = {0};

    must(wal_trim(wal, (uint64_t[]){first, second}, &err), &err);
}

static uint64_t first_of(struct wal *wal, uint32_t partition)
{
    uint64_t first = UINT64_MAX;
    struct err err = {0};

    must(wal_first(wal, partition, &first, &err), &err);
    return first;
}

static struct wal_reader *read_from(struct wal *wal, uint64_t first, uint64_t second)
{
    uint32_t partitions[PARTITIONS] = {0, 1};
    uint64_t positions[PARTITIONS] = {first, second};
    struct wal_reader *reader;
    struct err err = {0};

    must(wal_reader_open(&reader, wal, partitions, positions, PARTITIONS, &err), &err);
    return reader;
}

/* Everything from there is there, and nothing else. */
static void expect_all(struct wal *wal, uint64_t first, uint64_t second)
{
    uint64_t next[PARTITIONS] = {first, second}, ends[PARTITIONS];
    uint32_t partitions[PARTITIONS] = {0, 1};
    struct wal_reader *reader = read_from(wal, first, second);
    struct wal_item items[8];
    size_t count;
    struct err err = {0};

    do {
        must(wal_reader_next(reader, items, 8, &count, 0, &err), &err);
        for (size_t i = 0; i < count; i++) {
            const uint8_t *bytes = items[i].data;

            assert_int_equal(items[i].offset, next[items[i].partition]++);
            assert_int_equal(bytes[0], items[i].partition);
            assert_int_equal(bytes[1], (uint8_t)items[i].offset);
        }
    } while (count > 0);
    wal_reader_close(reader);
    must(wal_ends(wal, partitions, PARTITIONS, NEVER_NS, ends, &err), &err);
    assert_memory_equal(next, ends, sizeof(ends));
}

static enum err_code try_read(struct wal *wal, uint32_t partition, uint64_t position)
{
    struct wal_reader *reader;
    struct err err = {0};
    enum err_code code = wal_reader_open(&reader, wal, &partition, &position, 1, &err);

    wal_reader_close(reader);
    return code;
}

static bool segment_exists(uint64_t number)
{
    char path[240], name[WAL_SEGMENT_NAME_BYTES];

    wal_segment_name(name, number);
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

static size_t count_segments(void)
{
    struct wal_segment_list list;
    struct err err = {0};
    int fd = open(folder, O_RDONLY | O_DIRECTORY);
    size_t count;

    must(wal_segment_list(&list, fd, &err), &err);
    count = list.count;
    wal_segment_list_free(&list);
    close(fd);
    return count;
}

static void find(void *state, const struct scrub_finding *finding)
{
    (void)finding;
    ++*(unsigned *)state;
}

static bool go_on(void *state, uint64_t bytes)
{
    (void)state;
    (void)bytes;
    return true;
}

static enum err_code seen(void *state, const struct wal_verified *log, const struct wal_item *item,
                          const struct scrub_finding *place, struct err *err)
{
    (void)place;
    (void)err;
    assert_true(item->offset >= log->first[item->partition]);
    ++*(unsigned *)state;
    return ERR_OK;
}

/* How many findings; *items: how many entries it handed out. */
static unsigned verify(unsigned *items, struct wal_verified *out)
{
    unsigned findings = 0;
    struct scrub scrub = {.find = find, .go_on = go_on, .state = &findings};
    struct wal_verify_request request = {
        .folder = folder, .each = seen, .state = items, .scrub = &scrub};
    struct err err = {0};

    *items = 0;
    must(wal_verify(&request, out, &err), &err);
    return findings;
}

/* --- promises -------------------------------------------------------------------------------- */

static void whole_segments_leave_the_disk_and_nothing_else_is_lost(void **state)
{
    struct wal *wal = log_open(true);
    uint64_t used, used_after, available;

    (void)state;
    append_both(wal, 10);
    wal_space(wal, &used, &available);
    assert_int_equal(count_segments(), 5);
    trim(wal, 5, 6);
    assert_int_equal(first_of(wal, 0), 5);
    assert_int_equal(first_of(wal, 1), 6);
    assert_false(segment_exists(2));
    assert_true(segment_exists(3)); /* it holds entry 5 of partition 0 */
    expect_all(wal, 5, 6);
    append(wal, 0);
    wal_space(wal, &used_after, &available);
    assert_true(used_after < used);
    wal_close(wal);
    /* The next holder knows it, too, and goes on behind. */
    wal = log_open(true);
    assert_int_equal(first_of(wal, 0), 5);
    expect_all(wal, 5, 6);
    append_both(wal, 3);
    expect_all(wal, 5, 6);
    wal_close(wal);
}

static void a_partition_of_which_something_is_kept_keeps_the_segment_for_all(void **state)
{
    struct wal *wal = log_open(true);

    (void)state;
    append(wal, 1);
    for (unsigned i = 0; i < 15; i++)
        append(wal, 0);
    trim(wal, 15, 0);
    assert_int_equal(count_segments(), 4);
    assert_int_equal(try_read(wal, 0, 14), ERR_NOT_FOUND);
    expect_all(wal, 15, 0);
    trim(wal, 15, 1);
    assert_int_equal(count_segments(), 1);
    expect_all(wal, 15, 1);
    wal_close(wal);
}

static void who_begins_below_is_told(void **state)
{
    struct wal *wal = log_open(true), *other = log_open(false);

    (void)state;
    append_both(wal, 10);
    expect_all(other, 0, 0);
    trim(wal, 5, 6);
    assert_int_equal(first_of(other, 0), 5);
    assert_int_equal(try_read(other, 0, 4), ERR_NOT_FOUND);
    assert_int_equal(try_read(other, 1, 5), ERR_NOT_FOUND); /* its segment is still there */
    assert_int_equal(try_read(other, 1, 6), ERR_OK);
    expect_all(other, 5, 6);
    wal_close(other);
    wal_close(wal);
}

static void who_reads_below_is_told_where_the_gap_begins(void **state)
{
    struct wal *wal = log_open(true), *other = log_open(false);
    struct wal_reader *reader;
    struct wal_item items[8];
    size_t count, total = 0;
    enum err_code code;
    struct err err = {0};

    (void)state;
    append_both(wal, 10);
    reader = read_from(other, 0, 0);
    must(wal_reader_next(reader, items, 1, &count, 0, &err), &err);
    trim(wal, 9, 9);
    do {
        code = wal_reader_next(reader, items, 8, &count, 0, &err);
        total += count;
    } while (code == ERR_OK && count > 0);
    assert_int_equal(code, ERR_NOT_FOUND);
    assert_int_equal(total, 3); /* of the segment that it had open */
    wal_reader_close(reader);
    wal_close(other);
    wal_close(wal);
}

static void what_is_lower_changes_nothing_and_beyond_the_end_is_refused(void **state)
{
    struct wal *wal = log_open(true);
    struct err err = {0};

    (void)state;
    append_both(wal, 10);
    trim(wal, 5, 5);
    trim(wal, 3, 7);
    assert_int_equal(first_of(wal, 0), 5);
    assert_int_equal(first_of(wal, 1), 7);
    assert_int_equal(wal_trim(wal, (uint64_t[]){11, 8}, &err), ERR_CONFLICT);
    assert_int_equal(first_of(wal, 1), 7);
    trim(wal, 10, 10);
    expect_all(wal, 10, 10);
    append_both(wal, 1);
    expect_all(wal, 10, 10);
    wal_close(wal);
    wal = log_open(true);
    expect_all(wal, 10, 10);
    wal_close(wal);
}

static void verification_knows_what_was_trimmed(void **state)
{
    struct wal *wal = log_open(true);
    static struct wal_verified found;
    unsigned items;

    (void)state;
    append_both(wal, 10);
    trim(wal, 5, 6);
    wal_close(wal);
    assert_int_equal(verify(&items, &found), 0);
    assert_true(found.is_whole);
    assert_int_equal(found.first[0], 5);
    assert_int_equal(items, 5 + 4);
}

/* What comes before the first segment was trimmed only if the file trim says so. */
static void a_missing_segment_is_no_trimming(void **state)
{
    struct wal *wal = log_open(true);
    static struct wal_verified found;
    char path[240];
    unsigned items;
    struct err err = {0};

    (void)state;
    append_both(wal, 10);
    trim(wal, 5, 6);
    wal_close(wal);
    snprintf(path, sizeof(path), "%s/%016x.wal", folder, 3);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(try_open(&wal, true, false, &err), ERR_CORRUPT);
    assert_true(verify(&items, &found) > 0);
    assert_false(found.is_whole);
}

static void a_damaged_note_of_what_is_kept_is_refused(void **state)
{
    struct wal *wal = log_open(true);
    static struct wal_verified found;
    char path[240];
    uint8_t byte;
    unsigned items;
    struct err err = {0};
    int fd;

    (void)state;
    append_both(wal, 10);
    trim(wal, 5, 6);
    wal_close(wal);
    snprintf(path, sizeof(path), "%s/trim", folder);
    fd = open(path, O_RDWR);
    for (off_t at = 0; at < 48; at++) {
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x40;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        /* Even a repair, which would cut everything behind. */
        assert_int_equal(try_open(&wal, true, true, &err), ERR_CORRUPT);
        assert_true(verify(&items, &found) > 0);
        byte ^= 0x40;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    assert_int_equal(ftruncate(fd, 40), 0);
    assert_int_equal(try_open(&wal, true, true, &err), ERR_CORRUPT);
    close(fd);
}

/* What an interrupted removal leaves over is none of the log's. */
static void leftovers_of_a_trimming_go_with_the_next_opening(void **state)
{
    struct wal *wal = log_open(true);
    static struct wal_verified found;
    char path[240];
    unsigned items;

    (void)state;
    append_both(wal, 10);
    trim(wal, 3, 3);
    assert_false(segment_exists(1));
    wal_close(wal);
    snprintf(path, sizeof(path), "%s/%016x.wal", folder, 1);
    close(open(path, O_CREAT | O_WRONLY, 0644));
    assert_int_equal(verify(&items, &found), 0);
    wal = log_open(true);
    assert_false(segment_exists(1));
    expect_all(wal, 3, 3);
    wal_close(wal);
}

/* Where damage makes a repair cut the log below what it had kept, it begins at its end. */
static void a_repair_may_cut_below_what_was_kept(void **state)
{
    struct wal *wal = log_open(true);
    char path[240];
    struct err err = {0};
    int fd;

    (void)state;
    append_both(wal, 10);
    trim(wal, 5, 6);
    wal_close(wal);
    snprintf(path, sizeof(path), "%s/%016x.wal", folder, 3);
    fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "damage", 6, 200), 6);
    close(fd);
    must(try_open(&wal, true, true, &err), &err);
    expect_all(wal, 4, 4);
    append_both(wal, 4);
    expect_all(wal, 4, 4);
    wal_close(wal);
}

static void damage_all_headers(void)
{
    char path[240];
    unsigned found = 0;

    for (unsigned number = 1; number < 10; number++) {
        int fd;

        snprintf(path, sizeof(path), "%s/%016x.wal", folder, number);
        fd = open(path, O_WRONLY);
        if (fd < 0)
            continue;
        assert_int_equal(pwrite(fd, "damage", 6, 0), 6);
        close(fd);
        found++;
    }
    assert_true(found > 1);
}

/* Of which nothing can be used, begins anew; whoever is stopped at any step of that does it again.
 */
static void a_repair_that_was_stopped_is_done_again(void **state)
{
    struct err err = {0};
    enum err_code code = ERR_IO;

    (void)state;
    for (unsigned removals = 0; code != ERR_OK; removals++) {
        struct wal *wal;

        assert_true(removals < 10);
        (void)folder_setup(NULL);
        wal = log_open(true);
        append_both(wal, 10);
        trim(wal, 5, 6);
        wal_close(wal);
        damage_all_headers();
        assert_int_equal(try_open(&wal, true, false, &err), ERR_CORRUPT);
        removals_left = removals;
        code = try_open(&wal, true, true, &err);
        removals_left = UINT_MAX;
        if (code != ERR_OK)
            must(try_open(&wal, true, true, &err), &err);
        append_both(wal, 4);
        expect_all(wal, 0, 0);
        wal_close(wal);
    }
}

static int make(void **state)
{
    (void)state;
    assert_true(scratch_make(base_folder, sizeof(base_folder), "trim"));
    log_start("test", LOG_OFF);
    return 0;
}

static int forget(void **state)
{
    (void)state;
    return scratch_remove(base_folder);
}

#define TEST(f) cmocka_unit_test_setup(f, folder_setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(whole_segments_leave_the_disk_and_nothing_else_is_lost),
        TEST(a_partition_of_which_something_is_kept_keeps_the_segment_for_all),
        TEST(who_begins_below_is_told),
        TEST(who_reads_below_is_told_where_the_gap_begins),
        TEST(what_is_lower_changes_nothing_and_beyond_the_end_is_refused),
        TEST(verification_knows_what_was_trimmed),
        TEST(a_missing_segment_is_no_trimming),
        TEST(a_damaged_note_of_what_is_kept_is_refused),
        TEST(leftovers_of_a_trimming_go_with_the_next_opening),
        TEST(a_repair_may_cut_below_what_was_kept),
        TEST(a_repair_that_was_stopped_is_done_again),
    };

    return cmocka_run_group_tests(tests, make, forget);
}
