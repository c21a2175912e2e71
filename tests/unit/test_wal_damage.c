/* Damage to the log in files: every bit flipped, every byte another, every file cut at every
 * length. Opening either finds everything that is known as committed, or refuses, says where, and
 * which entries repair would lose; repair then cuts there and loses these.
 *
 * The log is made once and kept in memory; each case writes it anew and changes it.  Syncs do
 * nothing in this program: it is about bytes, and there are many cases.
 * pace: long */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/wal/wal.h"
#include "backends/wal/wal_file_format.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/base/sanitized.h"
#include "tests/lib/scratch.h"

#define ENTRIES       20u /* 2 a batch, partitions in turn; 5 to a segment */
#define FILES_MAX     12u
#define SEGMENT_BYTES 400u
#define STRIDE        (IS_SANITIZED ? 7u : 1u) /* sanitizers take long: fewer places of each file */
#define CONTROL_BOOT  64                       /* where the control page keeps the boot's word */

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

/* Only the log that is made once has preallocated segments: that is the dearest call. */
static bool is_made;

int fallocate(int fd, int mode, off_t at, off_t len)
{
    if (is_made) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, at, len);
}

struct image {
    char name[40];
    uint8_t *data;
    size_t len;
};

static char base_folder[160];
static char folder[200];
static struct image images[FILES_MAX];
static size_t image_count;
static size_t control_index;
static size_t last_index; /* of the last segment */

enum machine { SAME_BOOT, OTHER_BOOT, NO_CONTROL, MACHINES };

static enum err_code log_open(struct wal **out, bool repair, struct err *err)
{
    char url[240];
    struct wal_options options = {
        .url = url,
        .env = env_real(),
        .writer = true,
        .partitions = 2,
        .repair = repair,
        .segment_bytes = SEGMENT_BYTES,
    };

    snprintf(url, sizeof(url), "file:%s", folder);
    return wal_open(out, &options, err);
}

/* Read everything; the entries must be those that were written, from the first on.  How many. */
static size_t read_log(struct wal *wal)
{
    uint32_t partitions[2] = {0, 1};
    uint64_t positions[2] = {0, 0};
    struct wal_reader *reader;
    struct wal_item items[8];
    size_t total = 0;
    size_t count;
    char text[40];
    struct err err;

    if (wal_reader_open(&reader, wal, partitions, positions, 2, &err) != ERR_OK)
        fail_msg("%s", err.message);
    do {
        if (wal_reader_next(reader, items, 8, &count, 0, &err) != ERR_OK)
            fail_msg("%s", err.message);
        for (size_t i = 0; i < count; i++, total++) {
            int len = snprintf(text, sizeof(text), "number %zu of this log", total);

            assert_int_equal(items[i].partition, total % 2);
            assert_int_equal(items[i].offset, total / 2);
            assert_int_equal(items[i].len, len);
            assert_memory_equal(items[i].data, text, (size_t)len);
        }
    } while (count > 0);
    wal_reader_close(reader);
    return total;
}

/* Batches of two until `to` is reached. */
static void append_to(struct wal *wal, size_t from, size_t to)
{
    for (size_t i = from; i < to; i += 2) {
        struct wal_entry entries[2];
        uint64_t offsets[2];
        char text[2][40];
        struct err err;

        for (size_t j = 0; j < 2; j++) {
            int len = snprintf(text[j], sizeof(text[j]), "number %zu of this log", i + j);

            entries[j] = (struct wal_entry){
                .partition = (uint32_t)(i + j) % 2, .data = text[j], .len = (size_t)len};
        }
        assert_int_equal(wal_append(wal, entries, 2, NEVER_NS, offsets, &err), ERR_OK);
    }
}

static void load_image(const char *name)
{
    struct image *image = &images[image_count++];
    char path[300];
    struct stat info;
    int fd;

    assert_true(image_count <= FILES_MAX);
    snprintf(image->name, sizeof(image->name), "%s", name);
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &info), 0);
    image->len = (size_t)info.st_size;
    image->data = malloc(image->len);
    assert_non_null(image->data);
    assert_int_equal(read(fd, image->data, image->len), image->len);
    close(fd);
}

/* Some segments that are full, one that a reopening ended, and one with several appends. */
static int make_log(void **state)
{
    struct wal *wal;
    struct err err;

    (void)state;
    snprintf(folder, sizeof(folder), "%s/made", base_folder);
    assert_int_equal(log_open(&wal, false, &err), ERR_OK);
    append_to(wal, 0, 6);
    wal_close(wal);
    assert_int_equal(log_open(&wal, false, &err), ERR_OK);
    append_to(wal, 6, ENTRIES);
    assert_int_equal(read_log(wal), ENTRIES);
    wal_close(wal);
    for (unsigned number = 1; number < FILES_MAX; number++) {
        char name[40];
        char path[300];

        snprintf(name, sizeof(name), "%016x.wal", number);
        snprintf(path, sizeof(path), "%s/%s", folder, name);
        if (access(path, F_OK) == 0)
            load_image(name);
    }
    last_index = image_count - 1;
    assert_int_equal(last_index, 4);
    is_made = true;
    control_index = image_count;
    load_image("control");
    snprintf(folder, sizeof(folder), "%s/case", base_folder);
    assert_int_equal(mkdir(folder, 0755), 0);
    return 0;
}

static int free_log(void **state)
{
    (void)state;
    for (size_t i = 0; i < image_count; i++)
        free(images[i].data);
    return 0;
}

/* Put the log into the folder of the case, as that machine would find it. */
static void lay_out(enum machine machine)
{
    char path[300];

    for (unsigned number = (unsigned)control_index + 1; number < 3 * FILES_MAX; number++) {
        snprintf(path, sizeof(path), "%s/%016x.wal", folder, number);
        if (unlink(path) != 0)
            break;
    }
    for (size_t i = 0; i < image_count; i++) {
        const struct image *image = &images[i];
        int fd;

        snprintf(path, sizeof(path), "%.199s/%.39s", folder, image->name);
        if (i == control_index && machine == NO_CONTROL) {
            (void)unlink(path);
            continue;
        }
        fd = open(path, O_WRONLY | O_CREAT, 0644);
        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, image->data, image->len, 0), image->len);
        assert_int_equal(ftruncate(fd, (off_t)image->len), 0);
        if (i == control_index && machine == OTHER_BOOT)
            assert_int_equal(pwrite(fd, "otherone", 8, CONTROL_BOOT), 8);
        close(fd);
    }
}

static int open_image(size_t index)
{
    char path[300];
    int fd;

    snprintf(path, sizeof(path), "%.199s/%.39s", folder, images[index].name);
    fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    return fd;
}

static void flip(size_t index, size_t at, uint8_t mask)
{
    uint8_t byte = images[index].data[at] ^ mask;
    int fd = open_image(index);

    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

static void shorten(size_t index, size_t len)
{
    int fd = open_image(index);

    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    close(fd);
}

#define REPAIR_STRIDE 3u /* of the refused cases, one in so many is repaired */

static unsigned refusals;

/* What was told of the loss is what is lost: all behind the first `found` entries. */
static void check_told(const char *message, size_t found)
{
    char expected[120];
    size_t first[2] = {(found + 1) / 2, found / 2};
    int len = snprintf(expected, sizeof(expected), "loses %zu entries: ", ENTRIES - found);

    for (unsigned p = 0; p < 2; p++) {
        if (first[p] < ENTRIES / 2)
            len += snprintf(
                expected + len, sizeof(expected) - (size_t)len, "%spartition %u: %zu to %u",
                p == 1 && first[0] < ENTRIES / 2 ? ", " : "", p, first[p], ENTRIES / 2 - 1);
    }
    if (found == ENTRIES)
        snprintf(expected, sizeof(expected), "loses no entry that anything tells of");
    if (strstr(message, expected) == NULL)
        fail_msg("%zu were left, and it was told: %s", found, message);
}

/* Open, judge, repair where it is refused.  least: entries that must be there when it is not; 0:
 * nothing else tells of what is lost. */
static bool open_and_judge(size_t least)
{
    struct wal *wal;
    struct err err = {0};
    enum err_code code = log_open(&wal, false, &err);
    char told[sizeof(err.message)];
    size_t found;

    if (code == ERR_OK) {
        found = read_log(wal);
        assert_in_range(found, least, ENTRIES);
        wal_close(wal);
        return true;
    }
    assert_int_equal(code, ERR_CORRUPT);
    assert_non_null(strstr(err.message, "segment"));
    assert_non_null(strstr(err.message, "at byte"));
    assert_non_null(strstr(err.message, "--repair"));
    if (refusals++ % REPAIR_STRIDE != 0)
        return false;
    memcpy(told, err.message, sizeof(told));
    if (log_open(&wal, true, &err) != ERR_OK)
        fail_msg("%s", err.message);
    found = read_log(wal);
    assert_in_range(found, 0, ENTRIES);
    wal_close(wal);
    if (least > 0)
        check_told(told, found);
    if (log_open(&wal, false, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_int_equal(read_log(wal), found);
    wal_close(wal);
    return false;
}

/* Without a control page, only the last append can be taken for one that was never finished. */
static size_t least_kept(enum machine machine, size_t index)
{
    return machine == NO_CONTROL && index == last_index ? ENTRIES - 2 : ENTRIES;
}

static void an_undamaged_log_opens_with_everything(void **state)
{
    (void)state;
    for (enum machine machine = SAME_BOOT; machine < MACHINES; machine++) {
        lay_out(machine);
        assert_true(open_and_judge(ENTRIES));
    }
}

static void a_changed_byte_is_found_or_harmless(void **state)
{
    static const uint8_t masks[] = {1, 2, 4, 8, 16, 32, 64, 128, 0xff};
    unsigned refused = 0;
    unsigned opened = 0;

    (void)state;
    for (enum machine machine = SAME_BOOT; machine < MACHINES; machine++) {
        for (size_t i = 0; i <= last_index; i++) {
            for (size_t at = i % STRIDE; at < images[i].len; at += STRIDE) {
                for (size_t m = 0; m < ARRAY_COUNT(masks); m++) {
                    /* Every bit of every byte, on one machine or another. */
                    if ((at + m) % MACHINES != machine)
                        continue;
                    lay_out(machine);
                    flip(i, at, masks[m]);
                    if (open_and_judge(least_kept(machine, i)))
                        opened++;
                    else
                        refused++;
                }
            }
        }
    }
    print_message("refused %u, opened %u\n", refused, opened);
    assert_true(refused > opened);
}

static void a_shortened_file_is_found_or_harmless(void **state)
{
    unsigned refused = 0;
    unsigned opened = 0;

    (void)state;
    for (enum machine machine = SAME_BOOT; machine < MACHINES; machine++) {
        for (size_t i = 0; i <= last_index; i++) {
            for (size_t len = i % STRIDE; len < images[i].len; len += STRIDE) {
                /* A last segment that ends with a whole append ends rightly. */
                size_t least = machine == NO_CONTROL && i == last_index ? 0 : ENTRIES;

                lay_out(machine);
                shorten(i, len);
                if (open_and_judge(least))
                    opened++;
                else
                    refused++;
            }
        }
    }
    print_message("refused %u, opened %u\n", refused, opened);
    assert_true(refused > opened);
}

static void a_missing_file_is_found(void **state)
{
    (void)state;
    for (enum machine machine = SAME_BOOT; machine < MACHINES; machine++) {
        for (size_t i = 0; i <= last_index; i++) {
            char path[300];
            bool is_tail = machine == NO_CONTROL && i == last_index;

            lay_out(machine);
            snprintf(path, sizeof(path), "%.199s/%.39s", folder, images[i].name);
            assert_int_equal(unlink(path), 0);
            assert_int_equal(open_and_judge(is_tail ? 0 : ENTRIES), is_tail);
        }
    }
}

static void a_damaged_control_page_loses_nothing(void **state)
{
    (void)state;
    for (size_t at = 0; at < images[control_index].len; at += at < 1200 ? 1 : 97) {
        for (unsigned bit = 0; bit < 8; bit += IS_SANITIZED ? 3 : 1) {
            lay_out(SAME_BOOT);
            flip(control_index, at, (uint8_t)(1u << (at + bit) % 8));
            assert_true(open_and_judge(ENTRIES));
        }
    }
    for (size_t len = 0; len < images[control_index].len; len += 101) {
        lay_out(SAME_BOOT);
        shorten(control_index, len);
        assert_true(open_and_judge(ENTRIES));
    }
}

/* Bytes behind the committed place, as a killed or crashed writer leaves them: whole frames. */
static void frames_behind_the_end_count_only_after_a_reboot(void **state)
{
    struct wal_segment_header header;
    struct wal_frame frame = {.partition = 0, .offset = ENTRIES / 2};
    uint8_t bytes[128];
    const struct image *last = &images[last_index];
    size_t end = last->len;
    struct wal *wal;
    struct err err;

    (void)state;
    assert_int_equal(wal_segment_header_decode(&header, last->data, last->len, &err), ERR_OK);
    while (end > 0 && last->data[end - 1] == 0)
        end--;
    end = (end + 7) / 8 * 8;
    frame.data = (const uint8_t *)"number 20 of this log";
    frame.len = 21;
    frame.epoch = header.epoch;
    frame.batch = (uint32_t)end;
    wal_frame_encode(&frame, wal_frame_seed(header.region, header.segment), bytes);
    for (enum machine machine = SAME_BOOT; machine < MACHINES; machine++) {
        int fd;

        lay_out(machine);
        fd = open_image(last_index);
        assert_int_equal(pwrite(fd, bytes, wal_frame_size(frame.len), (off_t)end),
                         wal_frame_size(frame.len));
        close(fd);
        assert_int_equal(log_open(&wal, false, &err), ERR_OK);
        assert_int_equal(read_log(wal), machine == SAME_BOOT ? ENTRIES : ENTRIES + 1);
        wal_close(wal);
    }
}

static void a_reader_finds_damage_and_says_where(void **state)
{
    uint32_t partition = 1;
    uint64_t position = 0;
    struct wal_reader *reader;
    struct wal_item item;
    struct wal *wal;
    struct err err;
    enum err_code code;
    size_t count = 1;

    (void)state;
    lay_out(SAME_BOOT);
    assert_int_equal(log_open(&wal, false, &err), ERR_OK);
    flip(2, images[2].len - 1 - SEGMENT_BYTES / 4, 0x10);
    flip(2, wal_segment_header_size(2) + 20, 0x10);
    assert_int_equal(wal_reader_open(&reader, wal, &partition, &position, 1, &err), ERR_OK);
    do
        code = wal_reader_next(reader, &item, 1, &count, 0, &err);
    while (code == ERR_OK && count > 0);
    assert_int_equal(code, ERR_CORRUPT);
    assert_non_null(strstr(err.message, "segment 3"));
    assert_int_equal(wal_reader_next(reader, &item, 1, &count, 0, &err), ERR_CORRUPT);
    wal_reader_close(reader);
    wal_close(wal);
}

/* What the program's log says while a damaged log is repaired. */
static void repair_and_read_what_is_told(char *told, size_t size)
{
    char path[240];
    int out, before = dup(STDERR_FILENO);
    struct wal *wal;
    struct err err;
    ssize_t len;

    snprintf(path, sizeof(path), "%s/told", base_folder);
    out = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    assert_true(out >= 0 && before >= 0 && dup2(out, STDERR_FILENO) >= 0);
    log_start("test_wal_damage", LOG_WARN);
    if (log_open(&wal, true, &err) != ERR_OK)
        fail_msg("%s", err.message);
    log_start("test_wal_damage", LOG_OFF);
    assert_true(dup2(before, STDERR_FILENO) >= 0);
    close(before);
    wal_close(wal);
    len = pread(out, told, size - 1, 0);
    close(out);
    assert_true(len > 0);
    told[len] = '\0';
}

static void a_repair_says_which_entries_are_lost(void **state)
{
    char told[2000];

    (void)state;
    lay_out(OTHER_BOOT);
    flip(1, wal_segment_header_size(2) + 50, 1);
    repair_and_read_what_is_told(told, sizeof(told));
    assert_non_null(strstr(told, "\"segment\":2"));
    assert_non_null(strstr(told, "\"entries_lost\":15"));
    assert_non_null(strstr(told, "partition 0: 3 to 9, partition 1: 2 to 9"));
}

/* A reader that has read what a repair then cut off must not go on as if nothing had been. */
static void a_reader_beyond_a_repair_is_told(void **state)
{
    uint32_t partitions[2] = {0, 1};
    uint64_t positions[2] = {0, 0};
    struct wal_reader *reader;
    struct wal_item items[64];
    struct wal *wal, *reading;
    struct wal_options options = {.env = env_real()};
    char url[240];
    size_t count;
    struct err err;

    (void)state;
    lay_out(SAME_BOOT);
    snprintf(url, sizeof(url), "file:%s", folder);
    options.url = url;
    assert_int_equal(wal_open(&reading, &options, &err), ERR_OK);
    assert_int_equal(wal_reader_open(&reader, reading, partitions, positions, 2, &err), ERR_OK);
    do
        assert_int_equal(wal_reader_next(reader, items, 64, &count, 0, &err), ERR_OK);
    while (count > 0);
    flip(1, wal_segment_header_size(2) + 50, 1);
    assert_int_equal(log_open(&wal, false, &err), ERR_CORRUPT);
    assert_int_equal(wal_reader_next(reader, items, 64, &count, 0, &err), ERR_OK);
    assert_int_equal(log_open(&wal, true, &err), ERR_OK);
    append_to(wal, read_log(wal) / 2 * 2, ENTRIES + 20);
    assert_int_equal(wal_reader_next(reader, items, 64, &count, 0, &err), ERR_CONFLICT);
    wal_reader_close(reader);
    wal_close(reading);
    wal_close(wal);
}

/* The folder put aside and another log made in its place: no reader mixes the two. */
static void a_replaced_log_is_a_conflict(void **state)
{
    uint32_t partition = 0;
    uint64_t position = 0;
    struct wal_reader *reader, *second;
    struct wal_item items[64];
    struct wal *wal, *reading;
    struct wal_options options = {.env = env_real()};
    char url[240], aside[240];
    size_t count;
    struct err err;

    (void)state;
    lay_out(SAME_BOOT);
    snprintf(url, sizeof(url), "file:%s", folder);
    options.url = url;
    assert_int_equal(wal_open(&reading, &options, &err), ERR_OK);
    assert_int_equal(wal_reader_open(&reader, reading, &partition, &position, 1, &err), ERR_OK);
    do
        assert_int_equal(wal_reader_next(reader, items, 64, &count, 0, &err), ERR_OK);
    while (count > 0);
    snprintf(aside, sizeof(aside), "%s-aside", folder);
    assert_int_equal(rename(folder, aside), 0);
    assert_int_equal(log_open(&wal, false, &err), ERR_OK);
    assert_int_not_equal(wal_region(wal), wal_region(reading));
    assert_int_equal(wal_reader_next(reader, items, 64, &count, 0, &err), ERR_CONFLICT);
    assert_int_equal(wal_reader_open(&second, reading, &partition, &position, 1, &err),
                     ERR_CONFLICT);
    assert_int_equal(wal_ends(reading, &partition, 1, 0, &position, &err), ERR_IO);
    wal_reader_close(reader);
    wal_close(reading);
    wal_close(wal);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_undamaged_log_opens_with_everything),
        cmocka_unit_test(a_changed_byte_is_found_or_harmless),
        cmocka_unit_test(a_shortened_file_is_found_or_harmless),
        cmocka_unit_test(a_missing_file_is_found),
        cmocka_unit_test(a_damaged_control_page_loses_nothing),
        cmocka_unit_test(frames_behind_the_end_count_only_after_a_reboot),
        cmocka_unit_test(a_reader_finds_damage_and_says_where),
        cmocka_unit_test(a_repair_says_which_entries_are_lost),
        cmocka_unit_test(a_reader_beyond_a_repair_is_told),
        cmocka_unit_test(a_replaced_log_is_a_conflict),
    };
    int failed;

    log_start("test_wal_damage", LOG_OFF);
    if (!scratch_make(base_folder, sizeof(base_folder), "wal-damage"))
        return 2;
    failed = cmocka_run_group_tests(tests, make_log, free_log);
    return scratch_remove(base_folder) == 0 ? failed : 2;
}
