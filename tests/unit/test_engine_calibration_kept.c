/* What was measured on a graph is there again when the engine is opened again, so that searches
 * which ask for a recall use it at once and nothing is measured twice; a file that is damaged, cut
 * or of another graph is not believed; any call that fails leaves the file before it, or none.
 * link-flags: -Wl,--wrap=open,--wrap=openat,--wrap=fallocate,--wrap=pwrite,--wrap=fdatasync
 * link-flags: -Wl,--wrap=fsync,--wrap=renameat,--wrap=pread,--wrap=fstat */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "engine/calibrate_file.h"
#include "engine/keeper.h"
#include "engine/memory.h"
#include "engine/rebuild.h"
#include "tests/lib/scratch.h"
#include "tests/unit/recall_rig.h"

/* --- calls that fail ------------------------------------------------------------------------- */

static unsigned calls;   /* so far, of all kinds */
static unsigned fail_at; /* this call fails, from 1; 0: none */

static bool fails(int error)
{
    if (++calls != fail_at)
        return false;
    errno = error;
    return true;
}

int __real_open(const char *name, int flags, ...);
int __real_openat(int dir, const char *name, int flags, ...);
int __real_fallocate(int fd, int mode, off_t at, off_t len);
ssize_t __real_pwrite(int fd, const void *data, size_t len, off_t at);
int __real_renameat(int old_dir, const char *old_name, int new_dir, const char *new_name);
ssize_t __real_pread(int fd, void *data, size_t len, off_t at);
int __real_fstat(int fd, struct stat *about);

int __wrap_open(const char *name, int flags, ...);
int __wrap_openat(int dir, const char *name, int flags, ...);
int __wrap_fallocate(int fd, int mode, off_t at, off_t len);
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t at);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __wrap_renameat(int old_dir, const char *old_name, int new_dir, const char *new_name);
ssize_t __wrap_pread(int fd, void *data, size_t len, off_t at);
int __wrap_fstat(int fd, struct stat *about);

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
    return fails(ENOSPC) ? -1 : __real_pwrite(fd, data, len, at);
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

int __wrap_fstat(int fd, struct stat *about)
{
    return fails(EIO) ? -1 : __real_fstat(fd, about);
}

static void faults_clear(void)
{
    calls = fail_at = 0;
    (void)memory_fail_at(0);
}

/* --- an engine whose graph was measured ------------------------------------------------------ */

static char folder[200];
static char path[240]; /* of the calibration */
static struct data data;

static int make_data(void **state)
{
    (void)state;
    data = data_make(GROWN, DIM, 0.0f, 71);
    return 0;
}

static int free_data(void **state)
{
    (void)state;
    data_free(&data);
    return 0;
}

static int make_folder(void **state)
{
    (void)state;
    if (!scratch_make(folder, sizeof(folder), "calibration"))
        return 1;
    snprintf(path, sizeof(path), "%s/graph.cal", folder);
    return 0;
}

static int drop_folder(void **state)
{
    (void)state;
    faults_clear();
    return scratch_remove(folder);
}

static struct engine *open_engine(uint64_t seed)
{
    struct engine_options options = {.dim = DIM,
                                     .metric = ENGINE_L2,
                                     .m = 8,
                                     .ef_construction = 40,
                                     .flat_below = 1,
                                     .seed = seed};
    struct engine *engine;
    struct err err = {0};

    if (engine_open(&engine, folder, &options, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return engine;
}

static void maintain(struct engine *engine)
{
    struct err err = {0};

    if (engine_maintain(engine, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_false(engine_is_due(engine));
}

static struct engine *measured_engine(uint64_t seed)
{
    struct engine *engine = open_engine(seed);

    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    maintain(engine);
    return engine;
}

static const struct calibration *known_to(const struct engine *engine)
{
    return atomic_load_explicit(&graph_of(engine)->calibration, memory_order_acquire);
}

static void read_bytes_of(const char *name, uint8_t out[CALIBRATE_FILE_BYTES])
{
    FILE *file = fopen(name, "re");

    assert_non_null(file);
    assert_int_equal(fread(out, 1, CALIBRATE_FILE_BYTES, file), CALIBRATE_FILE_BYTES);
    assert_int_equal(fgetc(file), EOF);
    assert_int_equal(fclose(file), 0);
}

static void write_bytes_of(const char *name, const void *bytes, size_t len)
{
    FILE *file = fopen(name, "we");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static enum err_code read_again(const struct engine *engine)
{
    struct calibration *found;
    struct err err;
    enum err_code code = calibrate_read(&found, path, graph_of(engine), &err);

    assert_true((code == ERR_OK) == (found != NULL));
    memory_free(found);
    return code;
}

static enum err_code read_these(const struct engine *engine, const void *bytes, size_t len)
{
    write_bytes_of(path, bytes, len);
    return read_again(engine);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void it_is_used_at_once_and_not_measured_again(void **state)
{
    struct engine *engine = measured_engine(7);
    struct calibration before = *known_to(engine);
    uint32_t efforts[50];

    (void)state;
    for (uint32_t i = 0; i < ARRAY_COUNT(efforts); i++)
        efforts[i] = effort(engine, 0.5f + (float)i / 100, 0);
    engine_close(engine);
    engine = open_engine(7);
    assert_false(engine_is_due(engine));
    assert_string_equal(engine_notice(engine), "");
    assert_memory_equal(known_to(engine), &before, sizeof(before));
    for (uint32_t i = 0; i < ARRAY_COUNT(efforts); i++)
        assert_int_equal(effort(engine, 0.5f + (float)i / 100, 0), efforts[i]);

    /* The graph grows on, is measured when it has doubled, and that is kept as well. */
    data_insert(engine, &data, engine_covered(engine), GROWN);
    data_link(engine);
    assert_true(engine_is_due(engine));
    maintain(engine);
    assert_true(known_to(engine)->linked >= 2 * before.linked);
    before = *known_to(engine);
    engine_close(engine);
    engine = open_engine(7);
    assert_false(engine_is_due(engine));
    assert_memory_equal(known_to(engine), &before, sizeof(before));
    engine_close(engine);
}

/* Vectors that were linked after the segment was written are not there after a restart. */
static void it_names_what_the_segment_holds(void **state)
{
    struct engine *engine = open_engine(7);
    struct err err = {0};

    (void)state;
    data_insert(engine, &data, 0, COUNT - 400);
    data_link(engine);
    assert_int_equal(keeper_seal(engine, NULL, &err), ERR_OK);
    data_insert(engine, &data, COUNT - 400, COUNT);
    data_link(engine);
    maintain(engine);
    struct calibration before = *known_to(engine);
    assert_int_equal(before.linked, engine_linked(engine));
    assert_true(engine_covered(engine) < before.linked);
    engine_close(engine);
    engine = open_engine(7);
    assert_memory_equal(known_to(engine), &before, sizeof(before));
    engine_close(engine);
}

static void a_damaged_one_is_not_believed(void **state)
{
    struct engine *engine = measured_engine(7);
    uint8_t good[CALIBRATE_FILE_BYTES], bad[CALIBRATE_FILE_BYTES + 1] = {0};

    (void)state;
    read_bytes_of(path, good);
    for (size_t i = 0; i < sizeof(good); i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            memcpy(bad, good, sizeof(good));
            bad[i] ^= (uint8_t)(1u << bit);
            assert_int_equal(read_these(engine, bad, sizeof(good)), ERR_CORRUPT);
        }
    memcpy(bad, good, sizeof(good));
    for (size_t len = 0; len <= sizeof(bad); len++)
        assert_int_equal(read_these(engine, bad, len), len == sizeof(good) ? ERR_OK : ERR_CORRUPT);

    /* The engine measures again. */
    good[CALIBRATE_TABLES_AT + 5] ^= 1;
    write_bytes_of(path, good, sizeof(good));
    struct calibration before = *known_to(engine);
    engine_close(engine);
    engine = open_engine(7);
    assert_string_equal(engine_notice(engine), "");
    assert_null(known_to(engine));
    assert_true(effort(engine, 0.9f, 0) > 0);
    assert_true(engine_is_due(engine));
    maintain(engine);
    assert_memory_equal(known_to(engine), &before, sizeof(before));
    assert_int_equal(read_again(engine), ERR_OK);
    engine_close(engine);
}

static enum err_code read_sealed(const struct engine *engine, uint8_t *bytes)
{
    store_u32(bytes + CALIBRATE_CHECKSUM_AT, hash_crc32c(0, bytes, CALIBRATE_CHECKSUM_AT));
    return read_these(engine, bytes, CALIBRATE_FILE_BYTES);
}

static void put_float(uint8_t *bytes, size_t step, float recall)
{
    memcpy(bytes + CALIBRATE_TABLES_AT + 4 + step * sizeof(recall), &recall, sizeof(recall));
}

/* With checksums that are right. */
static void lies_are_refused(void **state)
{
    static const float recalls[] = {NAN, INFINITY, -INFINITY, -0.5f, 1.001f, 1e30f};
    static const uint32_t counts[] = {0, 1, CALIBRATED_STEPS + 1, UINT32_MAX};
    struct engine *engine = measured_engine(7);
    uint8_t good[CALIBRATE_FILE_BYTES], bad[CALIBRATE_FILE_BYTES];
    uint32_t linked = known_to(engine)->linked;

    (void)state;
    read_bytes_of(path, good);
    for (size_t i = 0; i < ARRAY_COUNT(recalls); i++)
        for (size_t step = 0; step < 2; step++) {
            memcpy(bad, good, sizeof(good));
            put_float(bad, step, recalls[i]);
            assert_int_equal(read_sealed(engine, bad), ERR_CORRUPT);
        }
    memcpy(bad, good, sizeof(good));
    put_float(bad, 0, 0.9f);
    put_float(bad, 1, 0.8f);
    assert_int_equal(read_sealed(engine, bad), ERR_CORRUPT);
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        memcpy(bad, good, sizeof(good));
        store_u32(bad + CALIBRATE_TABLES_AT, counts[i]);
        assert_int_equal(read_sealed(engine, bad), ERR_CORRUPT);
    }
    memcpy(bad, good, sizeof(good));
    store_u32(bad + CALIBRATE_NAMED_AT, 0);
    assert_int_equal(read_sealed(engine, bad), ERR_CORRUPT);
    store_u32(bad + CALIBRATE_NAMED_AT, linked - 1);
    assert_int_equal(read_sealed(engine, bad), ERR_CONFLICT);
    store_u32(bad + CALIBRATE_NAMED_AT, linked + 1);
    assert_int_equal(read_sealed(engine, bad), ERR_CORRUPT);
    store_u32(bad + CALIBRATE_LINKED_AT, UINT32_MAX);
    assert_int_equal(read_sealed(engine, bad), ERR_CONFLICT);
    memcpy(bad, good, sizeof(good));
    store_u32(bad + CALIBRATE_VERSION_AT, CALIBRATE_VERSION + 1);
    assert_int_equal(read_sealed(engine, bad), ERR_CONFIG);
    store_u32(bad + CALIBRATE_VERSION_AT, 0);
    assert_int_equal(read_sealed(engine, bad), ERR_CORRUPT);
    assert_int_equal(read_sealed(engine, good), ERR_OK);
    engine_close(engine);
}

/* The same vectors under another seed, others under the same, and the graph without its dead. */
static void that_of_another_graph_is_not_believed(void **state)
{
    struct engine *engine = measured_engine(7);
    uint8_t first[CALIBRATE_FILE_BYTES], second[CALIBRATE_FILE_BYTES];

    (void)state;
    read_bytes_of(path, first);
    data_insert(engine, &data, COUNT, GROWN);
    for (uint32_t i = 0; i < GROWN; i += 4)
        engine_delete(engine, i);
    maintain(engine);
    read_bytes_of(path, second);
    assert_memory_not_equal(first, second, sizeof(first));
    assert_int_equal(read_again(engine), ERR_OK);
    assert_int_equal(read_these(engine, first, sizeof(first)), ERR_CONFLICT);
    engine_close(engine);
    assert_int_equal(drop_folder(NULL), 0);
    assert_int_equal(make_folder(NULL), 0);

    engine = measured_engine(8);
    assert_int_equal(read_these(engine, first, sizeof(first)), ERR_CONFLICT);
    engine_close(engine);
    engine = open_engine(8);
    assert_null(known_to(engine));
    assert_true(engine_is_due(engine));
    engine_close(engine);
    assert_int_equal(drop_folder(NULL), 0);
    assert_int_equal(make_folder(NULL), 0);

    data.vectors[(COUNT - 1000) * DIM] += 1.0f;
    engine = measured_engine(7);
    data.vectors[(COUNT - 1000) * DIM] -= 1.0f;
    assert_int_equal(read_these(engine, first, sizeof(first)), ERR_CONFLICT);
    engine_close(engine);
}

/* Each leaves no file, or a whole one, and the writing is still due; nothing is measured again. */
static void any_call_of_writing_may_fail(void **state)
{
    enum { WRITING = 7 }; /* calls, the last ones of the maintenance */
    struct err err = {0};
    uint32_t failures = 0;

    (void)state;
    faults_clear();
    struct engine *engine = measured_engine(7);
    unsigned all = calls;
    engine_close(engine);
    assert_int_equal(drop_folder(NULL), 0);
    assert_int_equal(make_folder(NULL), 0);

    engine = open_engine(7);
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    for (;; failures++) {
        const struct calibration *before = known_to(engine);

        fail_at = failures == 0 ? all - WRITING + 1 : failures;
        calls = 0;
        enum err_code code = engine_maintain(engine, NULL, &err);
        faults_clear();
        if (code == ERR_OK)
            break;
        assert_true(code == ERR_IO || code == ERR_INSUFFICIENT_STORAGE);
        assert_true(known_to(engine) != NULL && (before == NULL || known_to(engine) == before));
        assert_true(engine_is_due(engine));
        assert_int_equal(read_again(engine), failures == WRITING ? ERR_OK : ERR_NOT_FOUND);
    }
    assert_int_equal(failures, WRITING + 1);
    assert_false(engine_is_due(engine));
    assert_int_equal(read_again(engine), ERR_OK);
    engine_close(engine);
}

static void any_call_of_reading_may_fail(void **state)
{
    struct engine *engine = measured_engine(7);
    enum err_code code;

    (void)state;
    for (unsigned n = 1;; n++) {
        faults_clear();
        fail_at = n;
        code = read_again(engine);
        if (calls < n)
            break;
        assert_int_equal(code, ERR_IO);
    }
    assert_int_equal(code, ERR_OK);
    assert_int_equal(calls, 3);
    engine_close(engine);
}

static void any_allocation_of_opening_may_fail(void **state)
{
    struct engine_options options = {
        .dim = DIM, .metric = ENGINE_L2, .m = 8, .ef_construction = 40, .flat_below = 1, .seed = 7};
    struct engine *engine = measured_engine(7);
    enum err_code code = ERR_NO_MEMORY;
    struct err err;

    (void)state;
    engine_close(engine);
    for (uint64_t n = 1; code == ERR_NO_MEMORY; n++) {
        (void)memory_fail_at(n);
        code = engine_open(&engine, folder, &options, NULL, &err);
        (void)memory_fail_at(0);
    }
    assert_int_equal(code, ERR_OK);
    assert_non_null(known_to(engine));
    engine_close(engine);
}

/* The table of the old graph stands in until the new one is measured, and gives no less. */
static void a_new_graph_goes_by_the_old_table_until_it_is_measured(void **state)
{
    struct engine *engine = measured_engine(7);
    struct calibration before = *known_to(engine);
    struct err err = {0};

    (void)state;
    uint32_t ef = effort(engine, 0.95f, 0);
    for (uint32_t i = 0; i < COUNT; i += 4)
        engine_delete(engine, i);
    assert_int_equal(rebuild(engine, NULL, NULL, &err), ERR_OK);
    assert_memory_equal(known_to(engine), &before, sizeof(before));
    assert_int_equal(effort(engine, 0.95f, 0), ef);
    data_insert(engine, &data, COUNT, GROWN);
    data_link(engine);
    assert_true(engine_is_due(engine));
    maintain(engine);
    assert_int_equal(known_to(engine)->linked, engine_linked(engine));
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_is_used_at_once_and_not_measured_again, make_folder,
                                        drop_folder),
        cmocka_unit_test_setup_teardown(it_names_what_the_segment_holds, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(a_damaged_one_is_not_believed, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(lies_are_refused, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(that_of_another_graph_is_not_believed, make_folder,
                                        drop_folder),
        cmocka_unit_test_setup_teardown(any_call_of_writing_may_fail, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(any_call_of_reading_may_fail, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(any_allocation_of_opening_may_fail, make_folder,
                                        drop_folder),
        cmocka_unit_test_setup_teardown(a_new_graph_goes_by_the_old_table_until_it_is_measured,
                                        make_folder, drop_folder),
    };

    return cmocka_run_group_tests(tests, make_data, free_data);
}
