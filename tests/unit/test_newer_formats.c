/* What a newer version has written is refused by name, and stays as it is: segments and control
 * page of the log, records in it, a shard's store and the state in it.  (Graphs, cold parts,
 * calibrations, the spool and metadata stores have the same promise in tests of their own.) */
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

#include "backends/store/store_verify.h"
#include "backends/wal/wal.h"
#include "backends/wal/wal_file_internal.h"
#include "backends/wal/wal_verify.h"
#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/model/record.h"
#include "services/shard/apply.h"
#include "tests/lib/scratch.h"

#define PARTITIONS 3u
#define BYTES_MAX  (1u << 20)

static char folder[96], url[128];
static uint8_t bytes[BYTES_MAX], now[BYTES_MAX];

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s: %s", err_word(code), err->message);
}

static int set_up(void **state)
{
    (void)state;
    assert_true(scratch_make(folder, sizeof(folder), "newer"));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

static size_t read_file(const char *name, uint8_t *out)
{
    char path[200];
    ssize_t len;
    int fd;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    len = read(fd, out, BYTES_MAX);
    assert_true(len > 0 && (size_t)len < BYTES_MAX);
    close(fd);
    return (size_t)len;
}

static void write_file(const char *name, const uint8_t *data, size_t len)
{
    char path[200];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, len, 0), len);
    close(fd);
}

static void expect_refusal(enum err_code code, const struct err *err, const char *words)
{
    assert_int_equal(code, ERR_CONFIG);
    if (strstr(err->message, words) == NULL)
        fail_msg("it was told: %s", err->message);
}

/* --- the log -----------------------------------------------------------------------------------
 */

static enum err_code log_open(struct wal **out, bool writer, bool repair, struct err *err)
{
    struct wal_options options = {.url = url,
                                  .env = env_real(),
                                  .writer = writer,
                                  .repair = repair,
                                  .partitions = writer ? PARTITIONS : 0,
                                  .segment_bytes = 400};

    *out = NULL;
    snprintf(url, sizeof(url), "file:%s", folder);
    return wal_open(out, &options, err);
}

/* Three segments and a control page. */
static void make_log(void)
{
    struct wal_entry entry = {.data = "a record of sixty bytes, so that few of them fill a segment",
                              .len = 60};
    struct err err = {0};
    uint64_t offset;
    struct wal *wal;

    must(log_open(&wal, true, false, &err), &err);
    for (unsigned i = 0; i < 8; i++) {
        entry.partition = i % PARTITIONS;
        must(wal_append(wal, &entry, 1, NEVER_NS, &offset, &err), &err);
    }
    wal_close(wal);
}

static void expect_log_refused(const char *words)
{
    struct wal *wal;
    struct err err = {0};

    expect_refusal(log_open(&wal, true, false, &err), &err, words);
    assert_null(wal);
    expect_refusal(log_open(&wal, true, true, &err), &err, words);
}

static void find(void *state, const struct scrub_finding *finding)
{
    (void)state;
    fail_msg("%s: %s", finding->file, finding->text);
}

static bool go_on(void *state, uint64_t len)
{
    (void)state, (void)len;
    return true;
}

static void expect_verification_refused(const char *words)
{
    static struct wal_verified found;
    struct scrub scrub = {.find = find, .go_on = go_on};
    struct wal_verify_request request = {.folder = folder, .scrub = &scrub};
    struct err err = {0};

    expect_refusal(wal_verify(&request, &found, &err), &err, words);
}

static void seal_header(uint8_t *header)
{
    uint32_t crc = hash_crc32c(0, header, 12);

    store_u32(header + 12, hash_crc32c(crc, header + 16, wal_segment_header_size(PARTITIONS) - 16));
}

static void a_segment_of_the_log_is_refused_wherever_it_stands(void **state)
{
    (void)state;
    make_log();
    for (unsigned number = 1; number <= 3; number++) {
        char name[40];
        size_t len;

        snprintf(name, sizeof(name), "%016x.wal", number);
        len = read_file(name, bytes);
        store_u32(bytes + 8, WAL_FILE_VERSION + 1);
        seal_header(bytes);
        write_file(name, bytes, len);
        expect_log_refused("the log has format 2, this program knows 1");
        expect_verification_refused("the log has format 2");
        assert_int_equal(read_file(name, now), len);
        assert_memory_equal(now, bytes, len);
        store_u32(bytes + 8, WAL_FILE_VERSION);
        seal_header(bytes);
        write_file(name, bytes, len);
    }
    make_log(); /* it opens */
}

static void a_control_page_is_refused(void **state)
{
    struct wal_control *control = (struct wal_control *)(void *)bytes;
    struct wal *wal;
    struct err err = {0};
    size_t len;

    (void)state;
    make_log();
    len = read_file(WAL_CONTROL_NAME, bytes);
    control->version++;
    control->crc = hash_crc32c(0, control, offsetof(struct wal_control, crc));
    write_file(WAL_CONTROL_NAME, bytes, len);
    expect_log_refused("the control page has format 2, this program knows 1");
    expect_refusal(log_open(&wal, false, false, &err), &err, "format 2");
    expect_verification_refused("format 2");
    assert_int_equal(read_file(WAL_CONTROL_NAME, now), len);
    assert_memory_equal(now, bytes, len);
}

/* Whoever reads it stops there: it is neither guessed nor passed over. */
static void a_record_of_the_log_is_refused(void **state)
{
    struct record record = {.op = RECORD_DELETE, .epoch = 1, .id = "x", .id_len = 1}, out;
    struct buffer encoded = {0};
    struct err err = {0};

    (void)state;
    must(record_encode(&record, &encoded, &err), &err);
    encoded.data[0] = RECORD_FORMAT + 1;
    store_u32(encoded.data + encoded.len - 4, hash_crc32c(0, encoded.data, encoded.len - 4));
    assert_int_equal(record_decode(&out, encoded.data, encoded.len, NULL, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.message, "format 2 is not known"));
    assert_int_equal(record_peek(&out, encoded.data, encoded.len, &err), ERR_CORRUPT);
    buffer_free(&encoded);
}

/* --- a shard's store ---------------------------------------------------------------------------
 */

static enum err_code store_open_again(struct store **out, bool read_only, struct err *err)
{
    struct store_options options = {.url = url, .env = env_real(), .read_only = read_only};

    *out = NULL;
    snprintf(url, sizeof(url), "lmdb:%s", folder);
    return store_open(out, &options, err);
}

static void make_store(void)
{
    struct apply_origin origin = {.region = 7};
    struct apply apply = {0};
    struct err err = {0};
    struct store *store;

    partition_set_add(&origin.served, 0);
    must(store_open_again(&store, false, &err), &err);
    must(apply_create(&apply, store, &origin, &err), &err);
    apply_free(&apply);
    store_close(store);
}

static void a_store_is_refused(void **state)
{
    static const uint8_t key[] = {STORE_META_RESERVED, 'f', 'o', 'r', 'm', 'a', 't'};
    size_t len, found = 0;
    struct store *store;
    struct err err = {0};

    (void)state;
    make_store();
    len = read_file("data.mdb", bytes);
    for (size_t at = 0; at + sizeof(key) + 4 <= len; at++) {
        if (memcmp(bytes + at, key, sizeof(key)) != 0)
            continue;
        store_u32(bytes + at + sizeof(key), 2);
        found++;
    }
    assert_true(found > 0);
    write_file("data.mdb", bytes, len);
    expect_refusal(store_open_again(&store, false, &err), &err,
                   "format 2, but this version knows 1: run the version that wrote it");
    assert_null(store);
    expect_refusal(store_open_again(&store, true, &err), &err, "format 2");
    assert_int_equal(read_file("data.mdb", now), len);
    assert_memory_equal(now, bytes, len);
}

static void the_state_in_a_store_is_refused(void **state)
{
    struct store_value key = {.data = "s", .len = 1}, value;
    struct apply apply = {0};
    struct store_txn *txn;
    struct store *store;
    struct err err = {0};
    uint8_t row[400];
    size_t len;

    (void)state;
    make_store();
    must(store_open_again(&store, false, &err), &err);
    must(store_begin(&txn, store, true, &err), &err);
    must(store_get(txn, STORE_META, key, &value, &err), &err);
    len = value.len;
    assert_true(len <= sizeof(row));
    memcpy(row, value.data, len);
    store_u32(row, 2);
    must(store_put(txn, STORE_META, key, (struct store_value){.data = row, .len = len}, &err),
         &err);
    must(store_commit(txn, &err), &err);
    expect_refusal(apply_load(&apply, store, &err), &err,
                   "state has format 2, this version knows 1: run the version that wrote it");
    apply_free(&apply);
    store_close(store);
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(a_segment_of_the_log_is_refused_wherever_it_stands),
        PROMISE(a_control_page_is_refused),
        PROMISE(a_record_of_the_log_is_refused),
        PROMISE(a_store_is_refused),
        PROMISE(the_state_in_a_store_is_refused),
    };

    log_start("test_newer_formats", LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
