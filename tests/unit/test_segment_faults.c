/* Segments under faults: any call that fails, any allocation, a writer that is stopped or killed.
 * What stood under the name is then what it was, and nothing else is left.
 * link-flags: -Wl,--wrap=open,--wrap=openat,--wrap=fallocate,--wrap=pwrite,--wrap=fdatasync
 * link-flags: -Wl,--wrap=fsync,--wrap=renameat,--wrap=pread,--wrap=mmap,--wrap=fstat */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/scratch.h"
#include "tests/lib/segment_data.h"

/* --- calls that fail ------------------------------------------------------------------------- */

static const char kinds[] = "oafwsdrpmt"; /* the letter of each wrapped call, in a trace */

enum kind {
    KIND_OPEN,
    KIND_OPENAT,
    KIND_RESERVE,
    KIND_WRITE,
    KIND_SYNC,
    KIND_FOLDER_SYNC,
    KIND_RENAME,
    KIND_READ,
    KIND_MAP,
    KIND_STAT
};

static unsigned calls;      /* so far, of all kinds */
static unsigned fail_at;    /* this call fails, from 1; 0: none */
static unsigned kill_at;    /* the process ends just before this one */
static enum kind failed;    /* which one it was */
static int reserve_errno;   /* every reservation fails with it; 0: none */
static bool is_slow;        /* reads and writes are interrupted, and do a part */
static char trace[1 << 16]; /* a letter for each call */

static void faults_clear(void)
{
    calls = 0;
    fail_at = 0;
    kill_at = 0;
    reserve_errno = 0;
    is_slow = false;
}

static bool fails(enum kind kind)
{
    if (calls < sizeof(trace) - 1) {
        trace[calls] = kinds[kind];
        trace[calls + 1] = '\0';
    }
    calls++;
    if (calls == kill_at)
        _exit(77);
    if (calls != fail_at)
        return false;
    failed = kind;
    errno = kind == KIND_MAP ? ENOMEM : EIO;
    return true;
}

/* Every second call is interrupted. */
static bool is_interrupted(void)
{
    if (!is_slow || calls % 2 == 0)
        return false;
    errno = EINTR;
    return true;
}

static size_t slowed(size_t len)
{
    return is_slow && len > 10000 ? 10000 : len;
}

int __real_open(const char *name, int flags, ...);
int __real_openat(int dir, const char *name, int flags, ...);
int __real_fallocate(int fd, int mode, off_t at, off_t len);
ssize_t __real_pwrite(int fd, const void *data, size_t len, off_t at);
int __real_fdatasync(int fd);
int __real_fsync(int fd);
int __real_renameat(int old_dir, const char *old_name, int new_dir, const char *new_name);
ssize_t __real_pread(int fd, void *data, size_t len, off_t at);
void *__real_mmap(void *address, size_t len, int protection, int flags, int fd, off_t at);
int __real_fstat(int fd, struct stat *about);

int __wrap_open(const char *name, int flags, ...);
int __wrap_openat(int dir, const char *name, int flags, ...);
int __wrap_fallocate(int fd, int mode, off_t at, off_t len);
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t at);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __wrap_renameat(int old_dir, const char *old_name, int new_dir, const char *new_name);
ssize_t __wrap_pread(int fd, void *data, size_t len, off_t at);
void *__wrap_mmap(void *address, size_t len, int protection, int flags, int fd, off_t at);
int __wrap_fstat(int fd, struct stat *about);

int __wrap_open(const char *name, int flags, ...)
{
    return fails(KIND_OPEN) ? -1 : __real_open(name, flags);
}

int __wrap_openat(int dir, const char *name, int flags, ...)
{
    return fails(KIND_OPENAT) ? -1 : __real_openat(dir, name, flags, 0644);
}

int __wrap_fallocate(int fd, int mode, off_t at, off_t len)
{
    if (fails(KIND_RESERVE) || is_interrupted())
        return -1;
    if (reserve_errno != 0) {
        errno = reserve_errno;
        return -1;
    }
    return __real_fallocate(fd, mode, at, len);
}

/* Half of it may have come through before the disk is full. */
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t at)
{
    if (fails(KIND_WRITE)) {
        (void)!__real_pwrite(fd, data, len / 2, at);
        errno = ENOSPC;
        return -1;
    }
    return is_interrupted() ? -1 : __real_pwrite(fd, data, slowed(len), at);
}

int __wrap_fdatasync(int fd)
{
    return fails(KIND_SYNC) ? -1 : __real_fdatasync(fd);
}

int __wrap_fsync(int fd)
{
    return fails(KIND_FOLDER_SYNC) ? -1 : __real_fsync(fd);
}

int __wrap_renameat(int old_dir, const char *old_name, int new_dir, const char *new_name)
{
    return fails(KIND_RENAME) ? -1 : __real_renameat(old_dir, old_name, new_dir, new_name);
}

ssize_t __wrap_pread(int fd, void *data, size_t len, off_t at)
{
    if (fails(KIND_READ) || is_interrupted())
        return -1;
    return __real_pread(fd, data, slowed(len), at);
}

/* Only those of files: the others are counted by memory_fail_at(). */
void *__wrap_mmap(void *address, size_t len, int protection, int flags, int fd, off_t at)
{
    if (fd >= 0 && fails(KIND_MAP))
        return MAP_FAILED;
    return __real_mmap(address, len, protection, flags, fd, at);
}

int __wrap_fstat(int fd, struct stat *about)
{
    return fails(KIND_STAT) ? -1 : __real_fstat(fd, about);
}

/* --- two graphs, and the files that they make ------------------------------------------------ */

static char folder[160];
static char path[200];
static char unfinished[220];
static struct engine *engines[2];
static unsigned char *files[2]; /* bytes of their segments */
static size_t sizes[2];

static int make_two(void **state)
{
    (void)state;
    if (!scratch_make(folder, sizeof(folder), "segment"))
        return 1;
    snprintf(path, sizeof(path), "%s/one.segment", folder);
    snprintf(unfinished, sizeof(unfinished), "%s.tmp", path);
    for (unsigned i = 0; i < 2; i++) {
        struct segment_recipe recipe = {
            .count = 448 + i * 640, .dim = 300, .metric = ENGINE_L2, .twin_every = 50};
        struct err err;

        engines[i] = segment_engine(&recipe);
        struct segment_parts parts = segment_parts_of(graph_of(engines[i]));
        if (segment_write(path, &parts, NULL, &err) != ERR_OK)
            return 1;
        files[i] = segment_file_read(path, &sizes[i]);
    }
    return 0;
}

static int forget_two(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        engine_close(engines[i]);
        free(files[i]);
    }
    return scratch_remove(folder);
}

static int put_old(void **state)
{
    (void)state;
    faults_clear();
    (void)memory_fail_at(0);
    segment_file_write(path, files[0], sizes[0]);
    return 0;
}

static bool holds(unsigned which)
{
    size_t size;
    unsigned char *bytes = segment_file_read(path, &size);
    bool equal = size == sizes[which] && memcmp(bytes, files[which], size) == 0;

    free(bytes);
    return equal;
}

static bool is_there(const char *name)
{
    return access(name, F_OK) == 0;
}

static enum err_code write_new(const struct segment_progress *progress, struct err *err)
{
    struct segment_parts parts = segment_parts_of(graph_of(engines[1]));

    return segment_write(path, &parts, progress, err);
}

/* --- tests ----------------------------------------------------------------------------------- */

/* With an old segment there, and without. */
static void any_call_of_writing_may_fail(void **state)
{
    unsigned n = 1;

    (void)state;
    for (;; n++) {
        struct err err = {0};

        for (unsigned with_old = 0; with_old < 2; with_old++) {
            if (with_old != 0)
                (void)put_old(NULL);
            else
                (void)unlink(path);
            faults_clear();
            fail_at = n;
            enum err_code code = write_new(NULL, &err);
            if (calls < n) {
                assert_int_equal(code, ERR_OK);
                assert_true(holds(1));
                printf("%u calls failed one by one\n", n - 1);
                return;
            }
            assert_int_equal(code, failed == KIND_WRITE ? ERR_INSUFFICIENT_STORAGE : ERR_IO);
            assert_non_null(strstr(err.message, "one.segment"));
            assert_false(is_there(unfinished));
            if (failed == KIND_FOLDER_SYNC)
                assert_true(holds(1));
            else
                assert_true(with_old != 0 ? holds(0) : !is_there(path));
        }
    }
}

static void any_allocation_of_writing_may_fail(void **state)
{
    struct err err = {0};

    (void)state;
    for (uint64_t n = 1;; n++) {
        (void)memory_fail_at(n);
        enum err_code code = write_new(NULL, &err);
        uint64_t allocations = memory_fail_at(0);
        if (allocations < n) {
            assert_int_equal(code, ERR_OK);
            assert_true(n > 3);
            break;
        }
        assert_int_equal(code, ERR_NO_MEMORY);
        assert_true(holds(0));
        assert_false(is_there(unfinished));
    }
    assert_true(holds(1));
}

static void any_call_of_opening_may_fail(void **state)
{
    static const uint32_t ways[] = {0, SEGMENT_COPY_ALL, UINT32_C(1) << SEGMENT_CODES};

    (void)state;
    for (size_t w = 0; w < ARRAY_COUNT(ways); w++) {
        struct segment_how how = {.copied = ways[w]};
        struct segment *segment;
        struct err err = {0};

        for (unsigned n = 1;; n++) {
            faults_clear();
            fail_at = n;
            enum err_code code = segment_open(&segment, path, &how, &err);
            if (calls < n) {
                assert_int_equal(code, ERR_OK);
                segment_close(segment);
                break;
            }
            assert_int_equal(code, failed == KIND_MAP ? ERR_NO_MEMORY : ERR_IO);
            assert_null(segment);
        }
        for (uint64_t n = 1;; n++) {
            faults_clear();
            (void)memory_fail_at(n);
            enum err_code code = segment_open(&segment, path, &how, &err);
            if (memory_fail_at(0) < n) {
                assert_int_equal(code, ERR_OK);
                assert_true(n > 3);
                break;
            }
            assert_int_equal(code, ERR_NO_MEMORY);
            assert_null(segment);
        }
        faults_clear();
        fail_at = 2;
        assert_int_equal(segment_verify(segment, 0, UINT64_MAX, &err), ERR_IO);
        segment_close(segment);
    }
}

static void calls_may_be_interrupted_and_do_a_part(void **state)
{
    struct segment_how how = {.copied = UINT32_C(1) << SEGMENT_VECTORS};
    struct segment *segment;
    struct err err = {0};

    (void)state;
    is_slow = true;
    assert_int_equal(write_new(NULL, &err), ERR_OK);
    assert_true(holds(1));
    assert_int_equal(segment_open(&segment, path, &how, &err), ERR_OK);
    assert_int_equal(segment_verify(segment, 0, UINT64_MAX, &err), ERR_OK);
    segment_close(segment);
}

/* All is written, then synced, then named, then the name is synced. */
static void the_order_is_what_makes_it_durable(void **state)
{
    struct err err = {0};

    (void)state;
    assert_int_equal(write_new(NULL, &err), ERR_OK);
    assert_int_equal(strspn(trace, "oaf"), 3);
    assert_string_equal(trace + 3 + strspn(trace + 3, "w"), "srd");
}

static void a_full_disk_is_known_before_anything_is_written(void **state)
{
    struct err err = {0};

    (void)state;
    reserve_errno = ENOSPC;
    assert_int_equal(write_new(NULL, &err), ERR_INSUFFICIENT_STORAGE);
    assert_null(strchr(trace, 'w'));
    assert_true(holds(0));
    assert_false(is_there(unfinished));
}

static void a_file_system_that_reserves_nothing_will_do(void **state)
{
    struct err err = {0};

    (void)state;
    reserve_errno = EOPNOTSUPP;
    assert_int_equal(write_new(NULL, &err), ERR_OK);
    assert_true(holds(1));
}

/* The system itself says that the file may not grow. */
static void a_file_that_may_not_grow_is_no_room(void **state)
{
    struct rlimit before;
    struct err err = {0};

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit small = {.rlim_cur = 100000, .rlim_max = before.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    for (int i = 0; i < 2; i++) {
        reserve_errno = i == 0 ? 0 : EOPNOTSUPP;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        enum err_code code = write_new(NULL, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(code, ERR_INSUFFICIENT_STORAGE);
        assert_true(holds(0));
        assert_false(is_there(unfinished));
    }
    (void)signal(SIGXFSZ, handler);
}

/* Graphs that could not be opened are not written. */
static void a_broken_graph_is_not_written(void **state)
{
    _Atomic uint32_t *link = links_of(graph_of(engines[1]), 5, 0);
    uint32_t before = *link;
    struct err err = {0};

    (void)state;
    *link = graph_of(engines[1])->linked + 1;
    assert_int_equal(write_new(NULL, &err), ERR_CORRUPT);
    *link = before;
    assert_true(holds(0));
    assert_int_equal(calls, 0);
}

struct patience {
    unsigned asked;
    unsigned ends_at; /* 0: never */
    uint64_t bytes_before;
};

static bool go_on(void *state, uint64_t bytes_done, uint64_t bytes)
{
    struct patience *patience = state;

    assert_true(bytes_done >= patience->bytes_before && bytes_done < bytes);
    assert_true(bytes == sizes[1]);
    patience->bytes_before = bytes_done;
    return ++patience->asked != patience->ends_at;
}

static void writing_can_be_stopped_at_any_time(void **state)
{
    unsigned n = 1;

    (void)state;
    for (;; n++) {
        struct patience patience = {.ends_at = n};
        struct segment_progress progress = {.go_on = go_on, .state = &patience};
        struct err err = {0};

        enum err_code code = write_new(&progress, &err);
        if (patience.asked < n) {
            assert_int_equal(code, ERR_OK);
            break;
        }
        assert_int_equal(code, ERR_DEAD);
        assert_true(holds(0));
        assert_false(is_there(unfinished));
    }
    assert_true(n > SEGMENT_SECTIONS);
    assert_true(holds(1));
}

/* Whenever it dies, the name means the old or the new one, and the next writer is not in its way.
 */
static void a_writer_may_be_killed_at_any_step(void **state)
{
    unsigned kept = 0;

    (void)state;
    for (unsigned n = 1;; n++) {
        struct err err = {0};
        int status;

        (void)put_old(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            kill_at = n;
            _exit(write_new(NULL, &err) == ERR_OK ? 0 : 1);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 0) {
            assert_true(kept > 5);
            assert_true(holds(1));
            break;
        }
        assert_int_equal(WEXITSTATUS(status), 77);
        assert_true(holds(0) || (holds(1) && !is_there(unfinished)));
        kept += holds(0);
        assert_int_equal(write_new(NULL, &err), ERR_OK);
        assert_true(holds(1));
        assert_false(is_there(unfinished));
    }
}

/* A segment that is open goes on when its file is replaced or removed. */
static void an_open_segment_outlives_its_name(void **state)
{
    struct segment *segment;
    struct err err = {0};

    (void)state;
    assert_int_equal(segment_open(&segment, path, NULL, &err), ERR_OK);
    assert_int_equal(write_new(NULL, &err), ERR_OK);
    assert_int_equal(unlink(path), 0);
    struct segment_parts parts = segment_parts_of(graph_of(engines[0]));
    for (uint32_t i = 0; i < parts.count; i++)
        assert_memory_equal(plane_row(&segment_parts(segment)->vectors, i),
                            plane_row(&parts.vectors, i), parts.vectors.stride);
    assert_int_equal(segment_verify(segment, 0, UINT64_MAX, &err), ERR_OK);
    segment_close(segment);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(any_call_of_writing_may_fail, put_old),
        cmocka_unit_test_setup(any_allocation_of_writing_may_fail, put_old),
        cmocka_unit_test_setup(any_call_of_opening_may_fail, put_old),
        cmocka_unit_test_setup(calls_may_be_interrupted_and_do_a_part, put_old),
        cmocka_unit_test_setup(the_order_is_what_makes_it_durable, put_old),
        cmocka_unit_test_setup(a_full_disk_is_known_before_anything_is_written, put_old),
        cmocka_unit_test_setup(a_file_system_that_reserves_nothing_will_do, put_old),
        cmocka_unit_test_setup(a_file_that_may_not_grow_is_no_room, put_old),
        cmocka_unit_test_setup(a_broken_graph_is_not_written, put_old),
        cmocka_unit_test_setup(writing_can_be_stopped_at_any_time, put_old),
        cmocka_unit_test_setup(a_writer_may_be_killed_at_any_step, put_old),
        cmocka_unit_test_setup(an_open_segment_outlives_its_name, put_old),
    };

    return cmocka_run_group_tests(tests, make_two, forget_two);
}
