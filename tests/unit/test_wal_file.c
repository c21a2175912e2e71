/* The log in files under faults: calls that fail, disks that are full, writers that are killed.
 *
 * This program has its own fdatasync, fsync, pwrite and renameat, which make the n-th call fail
 * when told to, and otherwise do what the libc's do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/wal/wal.h"
#include "backends/wal/wal_file_format.h"
#include "common/base/bytes.h"
#include "tests/lib/child.h"
#include "tests/lib/scratch.h"

#define WAIT_NS     (20 * NS_PER_S)
#define ENTRIES_MAX 8000u

/* --- calls that fail ------------------------------------------------------------------------- */

enum fault { FAULT_NONE, FAULT_SYNC, FAULT_WRITE, FAULT_FOLDER_SYNC, FAULT_RENAME, FAULT_COUNT };

static enum fault fault_kind;
static unsigned fault_at;    /* the call that fails, from 1; 0: none */
static unsigned fault_calls; /* of that kind so far */
static bool fault_stays;     /* later ones fail too */
static void (*before_sync)(void);

static bool fails(enum fault kind)
{
    if (kind != fault_kind)
        return false;
    fault_calls++;
    return fault_stays ? fault_calls >= fault_at : fault_calls == fault_at;
}

static void fault_set(enum fault kind, unsigned at, bool stays)
{
    fault_kind = kind;
    fault_at = at;
    fault_calls = 0;
    fault_stays = stays;
}

int fdatasync(int fd)
{
    if (before_sync != NULL)
        before_sync();
    if (fails(FAULT_SYNC)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    if (fails(FAULT_FOLDER_SYNC)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
    if (fails(FAULT_WRITE)) {
        /* Half of it may have come through. */
        if (len > 1 && syscall(SYS_pwrite64, fd, data, len / 2, at) < 0)
            return -1;
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, data, len, at);
}

int renameat(int old_dir, const char *old_name, int new_dir, const char *new_name)
{
    if (fails(FAULT_RENAME)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_renameat2, old_dir, old_name, new_dir, new_name, 0);
}

/* --- a log of its own for each test ---------------------------------------------------------- */

static char base_folder[160];
static unsigned folder_number;
static char folder[200];

static int folder_setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "%s/%u", base_folder, folder_number++);
    fault_set(FAULT_NONE, 0, false);
    before_sync = NULL;
    return 0;
}

static enum err_code log_open(struct wal **out, bool writer, uint64_t segment_bytes,
                              struct err *err)
{
    char url[240];
    struct wal_options options = {
        .url = url,
        .env = env_real(),
        .writer = writer,
        .partitions = writer ? 2 : 0,
        .segment_bytes = segment_bytes,
    };

    snprintf(url, sizeof(url), "file:%s", folder);
    return wal_open(out, &options, err);
}

static struct wal *must_open(bool writer)
{
    struct wal *wal;
    struct err err;

    if (log_open(&wal, writer, 600, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return wal;
}

/* All of partition 0, whose entries are numbers, as a reader finds it. */
struct numbers {
    uint64_t number[ENTRIES_MAX];
    size_t count;
};

static void read_more(struct wal_reader *reader, struct numbers *numbers)
{
    struct wal_item items[64];
    size_t count;
    struct err err;

    do {
        if (wal_reader_next(reader, items, 64, &count, 0, &err) != ERR_OK)
            fail_msg("%s", err.message);
        for (size_t i = 0; i < count; i++) {
            assert_true(numbers->count < ENTRIES_MAX);
            assert_true(items[i].len >= 8);
            assert_int_equal(items[i].offset, numbers->count);
            numbers->number[numbers->count++] = load_u64(items[i].data);
        }
    } while (count > 0);
}

static struct wal_reader *reader_at_start(struct wal *wal)
{
    struct wal_reader *reader;
    uint32_t partition = 0;
    uint64_t position = 0;
    struct err err;

    if (wal_reader_open(&reader, wal, &partition, &position, 1, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return reader;
}

static void read_log(struct wal *wal, struct numbers *numbers)
{
    struct wal_reader *reader = reader_at_start(wal);

    numbers->count = 0;
    read_more(reader, numbers);
    wal_reader_close(reader);
}

/* Append a batch of count numbers from first on, each with bytes behind it. */
static enum err_code append_numbers(struct wal *wal, uint64_t first, size_t count, struct err *err)
{
    static uint64_t data[64][12];
    struct wal_entry entries[64];
    uint64_t offsets[64];

    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++) {
        data[i][0] = first + i;
        entries[i] =
            (struct wal_entry){.partition = 0, .data = data[i], .len = 8 + (first + i) % 80};
    }
    return wal_append(wal, entries, count, env_boot_ns(env_real()) + WAIT_NS, offsets, err);
}

/* --- failing calls --------------------------------------------------------------------------- */

#define STORY_BATCHES 8u
#define STORY_BATCH   9u

/* Everything in acked is in found, in order; what else is there was asked for between. */
static void check_kept(const struct numbers *found, const struct numbers *acked)
{
    size_t at = 0;

    for (size_t i = 0; i < found->count; i++) {
        assert_true(i == 0 || found->number[i] > found->number[i - 1]);
        if (at < acked->count && found->number[i] == acked->number[at])
            at++;
    }
    assert_int_equal(at, acked->count);
}

/* Open, append batches, recover and go on when something fails, reopen.  False when the fault did
 * not come to pass any more. */
static bool story(enum fault kind, unsigned at)
{
    static struct numbers acked, before, after;
    struct wal *wal = NULL;
    struct err err;
    bool is_met;

    acked.count = 0;
    fault_set(kind, at, false);
    if (log_open(&wal, true, 600, &err) != ERR_OK) {
        assert_true(err.code == ERR_IO || err.code == ERR_INSUFFICIENT_STORAGE);
        wal = must_open(true);
    }
    for (uint64_t b = 0; b < STORY_BATCHES; b++) {
        enum err_code code = append_numbers(wal, b * STORY_BATCH, STORY_BATCH, &err);

        if (code == ERR_OK) {
            for (uint64_t i = 0; i < STORY_BATCH; i++)
                acked.number[acked.count++] = b * STORY_BATCH + i;
            continue;
        }
        assert_int_equal(code, kind == FAULT_WRITE ? ERR_INSUFFICIENT_STORAGE : ERR_IO);
        assert_int_equal(append_numbers(wal, 9999, 1, &err), ERR_READ_ONLY);
        read_log(wal, &before);
        check_kept(&before, &acked);
        assert_int_equal(wal_recover(wal, &err), ERR_OK);
    }
    is_met = fault_calls >= fault_at;
    fault_set(FAULT_NONE, 0, false);
    read_log(wal, &before);
    check_kept(&before, &acked);
    wal_close(wal);
    wal = must_open(true);
    read_log(wal, &after);
    assert_int_equal(after.count, before.count);
    assert_memory_equal(after.number, before.number, before.count * sizeof(before.number[0]));
    wal_close(wal);
    return is_met;
}

static void any_call_may_fail_once(void **state)
{
    for (enum fault kind = FAULT_SYNC; kind < FAULT_COUNT; kind++) {
        unsigned at = 1;

        for (bool is_met = true; is_met; at++) {
            (void)folder_setup(state);
            is_met = story(kind, at);
        }
        assert_true(at > 6);
        print_message("fault %d: %u places\n", (int)kind, at - 2);
    }
}

static void the_log_stays_closed_while_syncs_fail(void **state)
{
    struct wal *wal = must_open(true);
    struct numbers *found = calloc(1, sizeof(*found));
    struct wal *other;
    struct err err;

    (void)state;
    assert_non_null(found);
    assert_int_equal(append_numbers(wal, 0, 5, &err), ERR_OK);
    fault_set(FAULT_SYNC, 1, true);
    assert_int_equal(append_numbers(wal, 5, 5, &err), ERR_IO);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(append_numbers(wal, 5, 5, &err), ERR_READ_ONLY);
        assert_int_equal(wal_recover(wal, &err), ERR_IO);
    }
    wal_close(wal);
    assert_int_equal(log_open(&other, true, 600, &err), ERR_IO);
    fault_set(FAULT_NONE, 0, false);
    wal = must_open(true);
    read_log(wal, found);
    assert_int_equal(found->count, 5);
    wal_close(wal);
    free(found);
}

/* --- what is not synced ---------------------------------------------------------------------- */

static struct wal *watched;
static struct wal_reader *watcher;
static uint64_t watched_end;
static unsigned watched_syncs;

static void nothing_new_is_seen(void)
{
    uint32_t partition = 0;
    uint64_t end;
    struct wal_item item;
    size_t count;
    struct err err;

    assert_int_equal(wal_ends(watched, &partition, 1, 0, &end, &err), ERR_OK);
    assert_int_equal(end, watched_end);
    assert_int_equal(wal_reader_next(watcher, &item, 1, &count, 0, &err), ERR_OK);
    assert_int_equal(count, 0);
    watched_syncs++;
}

static void bytes_that_are_not_synced_reach_no_reader(void **state)
{
    struct wal *wal = must_open(true);
    struct numbers *seen = calloc(1, sizeof(*seen));
    struct err err;

    (void)state;
    assert_non_null(seen);
    watched = must_open(false);
    watcher = reader_at_start(watched);
    for (uint64_t i = 0; i < 30; i++) {
        watched_end = i;
        before_sync = nothing_new_is_seen;
        fault_set(i % 5 == 4 ? FAULT_SYNC : FAULT_NONE, 1, false);
        while (append_numbers(wal, i, 1, &err) != ERR_OK)
            assert_int_equal(wal_recover(wal, &err), ERR_OK);
        before_sync = NULL;
        read_more(watcher, seen);
        assert_int_equal(seen->count, i + 1);
        assert_int_equal(seen->number[i], i);
    }
    assert_true(watched_syncs > 30);
    wal_reader_close(watcher);
    wal_close(watched);
    wal_close(wal);
    free(seen);
}

/* --- no room --------------------------------------------------------------------------------- */

/* Append until there is no room; then make room, recover, and find what was acknowledged. */
static void fill_and_go_on(void (*make_room)(void))
{
    struct numbers *acked = calloc(2, sizeof(*acked));
    struct numbers *found = acked + 1;
    enum err_code code;
    struct wal *wal;
    struct err err;

    assert_non_null(acked);
    assert_int_equal(log_open(&wal, true, MIB(64), &err), ERR_OK);
    while ((code = append_numbers(wal, acked->count, 1, &err)) == ERR_OK) {
        assert_true(acked->count < ENTRIES_MAX - 1);
        acked->number[acked->count] = acked->count;
        acked->count++;
    }
    assert_int_equal(code, ERR_INSUFFICIENT_STORAGE);
    assert_true(acked->count > 50);
    assert_int_equal(append_numbers(wal, 9999, 1, &err), ERR_READ_ONLY);
    make_room();
    assert_int_equal(wal_recover(wal, &err), ERR_OK);
    assert_int_equal(append_numbers(wal, 7777, 1, &err), ERR_OK);
    acked->number[acked->count++] = 7777;
    read_log(wal, found);
    assert_int_equal(found->count, acked->count);
    assert_memory_equal(found->number, acked->number, acked->count * sizeof(acked->number[0]));
    wal_close(wal);
    free(acked);
}

static struct rlimit file_limit;

static void lift_file_limit(void)
{
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &file_limit), 0);
}

static void a_file_that_may_not_grow_is_no_room(void **state)
{
    struct rlimit limit;

    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &file_limit), 0);
    limit = file_limit;
    limit.rlim_cur = 64 << 10;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    fill_and_go_on(lift_file_limit);
}

static void enlarge_medium(void)
{
    assert_int_equal(mount("none", folder, "tmpfs", MS_REMOUNT, "size=2m"), 0);
}

static void a_full_medium_is_no_room(void **state)
{
    (void)state;
    assert_int_equal(mkdir(folder, 0755), 0);
    if (mount("none", folder, "tmpfs", 0, "size=200k") != 0) {
        print_message("may not mount a small file system here; the file limit stands for it\n");
        return;
    }
    fill_and_go_on(enlarge_medium);
    assert_int_equal(umount(folder), 0);
}

/* --- killed writers -------------------------------------------------------------------------- */

#define LIVES          25u
#define LIFE_BATCHES   12u
#define LIFE_BATCH_MAX 20u

static_assert(LIVES * LIFE_BATCHES * LIFE_BATCH_MAX < ENTRIES_MAX, "all of them fit");

/* Append, and tell what was acknowledged, until killed. */
static void writer_process(int tell, uint64_t first)
{
    struct wal *wal;
    uint64_t number = first;

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || log_open(&wal, true, 4096, NULL) != ERR_OK)
        _exit(2);
    for (unsigned batch = 0; batch < LIFE_BATCHES; batch++) {
        size_t count = 1 + number % LIFE_BATCH_MAX;

        if (append_numbers(wal, number, count, NULL) != ERR_OK)
            _exit(3);
        number += count;
        if (write(tell, &number, sizeof(number)) != sizeof(number))
            _exit(4);
    }
    for (;;)
        pause();
}

/* One life of a writer; returns the number behind the last one acknowledged. */
static uint64_t live_and_die(uint64_t first, unsigned acks, struct wal_reader **reader,
                             struct numbers *seen)
{
    int pipe_fds[2];
    uint64_t behind = first;
    pid_t child;

    assert_int_equal(pipe(pipe_fds), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(pipe_fds[0]);
        writer_process(pipe_fds[1], first);
    }
    close(pipe_fds[1]);
    for (unsigned i = 0; i < acks; i++) {
        assert_int_equal(read(pipe_fds[0], &behind, sizeof(behind)), sizeof(behind));
        if (*reader == NULL) {
            watched = must_open(false);
            *reader = reader_at_start(watched);
        }
        read_more(*reader, seen);
        assert_true(seen->number[seen->count - 1] >= behind - 1);
    }
    assert_int_equal(kill(child, SIGKILL), 0);
    child_must_end(child, SIGKILL);
    while (read(pipe_fds[0], &behind, sizeof(behind)) == sizeof(behind))
        ;
    close(pipe_fds[0]);
    return behind;
}

static void killed_writers_lose_nothing_acknowledged(void **state)
{
    struct numbers *seen = calloc(2, sizeof(*seen));
    struct numbers *found = seen + 1;
    struct wal_reader *reader = NULL;
    unsigned seed = (unsigned)time(NULL);
    uint64_t acked = 0; /* numbers below are acknowledged, or were never to be */
    struct wal *wal;

    (void)state;
    assert_non_null(seen);
    print_message("seed %u\n", seed);
    srand(seed);
    for (unsigned round = 0; round < LIVES; round++) {
        uint64_t first = round * 100000ull;
        size_t before = seen->count;

        acked = live_and_die(first, 1 + (unsigned)rand() % (LIFE_BATCHES / 2), &reader, seen);
        read_more(reader, seen);
        /* Everything acknowledged in this round is there, from its first number without gaps. */
        assert_true(seen->count - before >= acked - first);
        for (size_t i = before; i < seen->count; i++)
            assert_int_equal(seen->number[i], first + (i - before));
    }
    wal = must_open(true);
    read_more(reader, seen);
    read_log(wal, found);
    assert_int_equal(found->count, seen->count);
    assert_memory_equal(found->number, seen->number, seen->count * sizeof(seen->number[0]));
    wal_reader_close(reader);
    wal_close(watched);
    wal_close(wal);
    free(seen);
}

/* --- one writer, one log --------------------------------------------------------------------- */

static void a_second_writer_is_refused(void **state)
{
    struct wal *wal = must_open(true);
    struct wal *second;
    struct err err;
    pid_t child;

    (void)state;
    assert_int_equal(log_open(&second, true, 600, &err), ERR_CONFLICT);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(log_open(&second, true, 600, &err) == ERR_CONFLICT ? 0 : 1);
    child_must_end(child, 0);
    assert_int_equal(append_numbers(wal, 0, 3, &err), ERR_OK);
    wal_close(wal);
    wal_close(must_open(true));
}

static uint64_t segment_epoch(unsigned number)
{
    uint8_t bytes[WAL_SEGMENT_HEADER_MAX];
    struct wal_segment_header header;
    char name[240];
    struct err err;
    FILE *file;
    size_t len;

    snprintf(name, sizeof(name), "%s/%016x.wal", folder, number);
    file = fopen(name, "r");
    assert_non_null(file);
    len = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    assert_int_equal(wal_segment_header_decode(&header, bytes, len, &err), ERR_OK);
    assert_int_equal(header.segment, number);
    return header.epoch;
}

static void every_opening_is_a_new_file_epoch(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= 6; i++) {
        struct wal *wal = must_open(true);

        assert_int_equal(segment_epoch(i), i);
        wal_close(wal);
    }
}

#define FILE_TEST(f) cmocka_unit_test_setup(f, folder_setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(any_call_may_fail_once),
        FILE_TEST(the_log_stays_closed_while_syncs_fail),
        FILE_TEST(bytes_that_are_not_synced_reach_no_reader),
        FILE_TEST(a_file_that_may_not_grow_is_no_room),
        FILE_TEST(a_full_medium_is_no_room),
        FILE_TEST(killed_writers_lose_nothing_acknowledged),
        FILE_TEST(a_second_writer_is_refused),
        FILE_TEST(every_opening_is_a_new_file_epoch),
    };
    int failed;

    if (!scratch_make(base_folder, sizeof(base_folder), "wal-file"))
        return 2;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    return scratch_remove(base_folder) == 0 ? failed : 2;
}
