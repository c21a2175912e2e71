/* Migration under faults: any call to the system that fails, a process that is killed before any of
 * them.  Searches find everything afterwards, and so does who opens the folder.
 * link-flags: -Wl,--wrap=open,--wrap=openat,--wrap=fallocate,--wrap=pwrite,--wrap=fdatasync
 * link-flags: -Wl,--wrap=fsync,--wrap=renameat,--wrap=pread,--wrap=mmap,--wrap=fstat
 * link-flags: -Wl,--wrap=unlink,--wrap=rename */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/cold.h"
#include "engine/internal.h"
#include "tests/lib/engine_data.h"
#include "tests/lib/scratch.h"

enum { FIRST = 900, COUNT = 1500, DIM = 8, ABOVE = 600 };

/* --- calls that fail ------------------------------------------------------------------------- */

static unsigned calls;   /* so far, of all kinds */
static unsigned fail_at; /* this call fails, from 1; 0: none */
static unsigned kill_at; /* the process ends just before this one */

static bool fails(int error)
{
    calls++;
    if (calls == kill_at)
        _exit(77);
    if (calls != fail_at)
        return false;
    errno = error;
    return true;
}

static void faults_clear(void)
{
    calls = fail_at = kill_at = 0;
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
int __real_unlink(const char *name);
int __real_rename(const char *old_name, const char *new_name);

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
int __wrap_unlink(const char *name);
int __wrap_rename(const char *old_name, const char *new_name);

int __wrap_open(const char *name, int flags, ...)
{
    return fails(EIO) ? -1 : __real_open(name, flags);
}

int __wrap_openat(int dir, const char *name, int flags, ...)
{
    return fails(EIO) ? -1 : __real_openat(dir, name, flags, 0644);
}

int __wrap_fallocate(int fd, int mode, off_t at, off_t len)
{
    return fails(ENOSPC) ? -1 : __real_fallocate(fd, mode, at, len);
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t at)
{
    if (fails(ENOSPC)) {
        (void)!__real_pwrite(fd, data, len / 2, at);
        errno = ENOSPC;
        return -1;
    }
    return __real_pwrite(fd, data, len, at);
}

/* A test need not wait for the disk. */
int __wrap_fdatasync(int fd)
{
    (void)fd;
    return fails(EIO) ? -1 : 0;
}

int __wrap_fsync(int fd)
{
    (void)fd;
    return fails(EIO) ? -1 : 0;
}

int __wrap_renameat(int old_dir, const char *old_name, int new_dir, const char *new_name)
{
    return fails(EIO) ? -1 : __real_renameat(old_dir, old_name, new_dir, new_name);
}

ssize_t __wrap_pread(int fd, void *data, size_t len, off_t at)
{
    return fails(EIO) ? -1 : __real_pread(fd, data, len, at);
}

/* Only those of files. */
void *__wrap_mmap(void *address, size_t len, int protection, int flags, int fd, off_t at)
{
    if (fd >= 0 && fails(ENOMEM))
        return MAP_FAILED;
    return __real_mmap(address, len, protection, flags, fd, at);
}

int __wrap_fstat(int fd, struct stat *about)
{
    return fails(EIO) ? -1 : __real_fstat(fd, about);
}

int __wrap_unlink(const char *name)
{
    return fails(EIO) ? -1 : __real_unlink(name);
}

int __wrap_rename(const char *old_name, const char *new_name)
{
    return fails(EIO) ? -1 : __real_rename(old_name, new_name);
}

/* --- an engine with everything to do --------------------------------------------------------- */

static char folder[200];
static struct data data;

static const struct engine_options options = {.dim = DIM,
                                              .metric = ENGINE_L2,
                                              .m = 4,
                                              .ef_construction = 16,
                                              .flat_below = 1,
                                              .cold_above = ABOVE,
                                              .seed = 7};

static int make_data(void **state)
{
    (void)state;
    data = data_make(COUNT, DIM, 0.0f, 80);
    return 0;
}

static int free_data(void **state)
{
    (void)state;
    data_free(&data);
    return 0;
}

static void make_folder(void)
{
    assert_true(scratch_make(folder, sizeof(folder), "cold"));
}

static void drop_folder(void)
{
    faults_clear();
    assert_int_equal(scratch_remove(folder), 0);
}

static struct engine *open_engine(void)
{
    struct engine *engine;
    struct err err = {0};

    if (engine_open(&engine, folder, &options, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return engine;
}

/* One part is there, of which many have died; more are to become cold. */
static struct engine *with_work(void)
{
    struct engine *engine;
    struct err err;

    make_folder();
    engine = open_engine();
    data_insert(engine, &data, 0, FIRST);
    data_link(engine);
    assert_int_equal(engine_maintain(engine, NULL, &err), ERR_OK);
    data_insert(engine, &data, FIRST, COUNT);
    data_link(engine);
    for (uint32_t i = 0; i < ABOVE / 2; i++)
        engine_delete(engine, i);
    return engine;
}

/* Each of those from `from` on is found, once; `dead` may be there. */
static void assert_found(struct engine *engine, uint32_t from)
{
    static struct engine_hit hits[COUNT];
    struct engine_query query = {
        .vector = data_at(&data, 3), .k = COUNT, .exact = true, .bound = INFINITY};
    bool seen[COUNT] = {false};
    struct err err = {0};
    size_t count;

    if (engine_validate(engine, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_OK);
    for (size_t i = 0; i < count; i++) {
        assert_false(seen[hits[i].ordinal]);
        seen[hits[i].ordinal] = true;
    }
    for (uint32_t i = from; i < COUNT; i++)
        assert_true(seen[i]);
}

/* Also by who opens the folder. */
static void assert_kept(void)
{
    struct engine *engine = open_engine();

    data_insert(engine, &data, engine_covered(engine), COUNT);
    assert_found(engine, ABOVE / 2);
    engine_close(engine);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void any_call_may_fail(void **state)
{
    (void)state;
    for (unsigned n = 1;; n++) {
        struct engine *engine = with_work();
        struct err err = {0};

        faults_clear();
        fail_at = n;
        enum err_code code = engine_maintain(engine, NULL, &err);
        bool is_over = calls < n;
        faults_clear();
        assert_int_equal(engine_count(engine), COUNT - ABOVE / 2);
        assert_found(engine, ABOVE / 2);
        if (n % 2 == 0) { /* it ends here, or is done again */
            while (engine_is_due(engine))
                assert_int_equal(engine_maintain(engine, NULL, &err), ERR_OK);
            assert_found(engine, ABOVE / 2);
        }
        engine_close(engine);
        assert_kept();
        drop_folder();
        if (is_over) {
            assert_int_equal(code, ERR_OK);
            printf("%u calls failed one by one\n", n - 1);
            assert_true(n > 60);
            return;
        }
    }
}

static void it_may_be_killed_before_any_call(void **state)
{
    (void)state;
    for (unsigned n = 1;; n++) {
        struct engine *engine = with_work();
        pid_t child = fork();
        int status;

        assert_true(child >= 0);
        if (child == 0) {
            struct err err;

            faults_clear();
            kill_at = n;
            _exit(engine_maintain(engine, NULL, &err) == ERR_OK ? 0 : 1);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 1);
        engine_close(engine);
        assert_kept();
        drop_folder();
        if (WEXITSTATUS(status) == 0) {
            printf("killed %u times\n", n - 1);
            assert_true(n > 60);
            return;
        }
    }
}

/* What cannot be read is set aside, and inserted again. */
static void any_call_of_opening_may_fail(void **state)
{
    (void)state;
    for (unsigned n = 1;; n++) {
        struct engine *engine = with_work();
        struct err err = {0};

        while (engine_is_due(engine))
            assert_int_equal(engine_maintain(engine, NULL, &err), ERR_OK);
        engine_close(engine);
        faults_clear();
        fail_at = n;
        enum err_code code = engine_open(&engine, folder, &options, NULL, &err);
        bool is_over = calls < n;
        faults_clear();
        if (code == ERR_OK) {
            data_insert(engine, &data, engine_covered(engine), COUNT);
            assert_found(engine, ABOVE / 2);
            engine_close(engine);
        }
        assert_kept();
        drop_folder();
        if (is_over) {
            assert_int_equal(code, ERR_OK);
            assert_true(n > 20);
            return;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_call_may_fail),
        cmocka_unit_test(it_may_be_killed_before_any_call),
        cmocka_unit_test(any_call_of_opening_may_fail),
    };

    return cmocka_run_group_tests(tests, make_data, free_data);
}
