/* The log in files after a crash at any moment, of the process or of the machine: it opens, every
 * acknowledged record is there in its order, behind them at most first ones of the append that was
 * under way, opening it again finds the same, it takes appends, and verification finds no damage.
 *
 * A run is recorded (crash_trace.h), with the stores to the control page, and each disk that a
 * crash may leave is built and opened.
 * pace: long */
#include "tests/unit/crash_trace.h"

#include <linux/futex.h>

#include "backends/wal/wal_file_internal.h"
#include "backends/wal/wal_verify.h"
#include "common/base/log.h"

#define PARTITIONS    2u
#define SEGMENT_BYTES 2048u
#define BATCHES       14u
#define LENGTHS_MAX   900u
#define ENTRIES_MAX   200u

static char base_folder[120], made_folder[140], image_folder_path[140];

/* What was appended: entry i goes to partition i % 2, and its bytes follow from i. */
static size_t entry_count;             /* given to wal_append */
static size_t batch_ends[BATCHES * 4]; /* behind each batch */
static size_t batch_count;
static uint64_t trimmed_to; /* of each partition, at most */

static size_t entry_bytes(size_t number, uint8_t *out)
{
    size_t len = 1 + number * 131 % LENGTHS_MAX;

    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)(number * 7 + i);
    return len;
}

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("moment %zu: %s: %s", image.moment, err_word(code), err->message);
}

static struct wal *log_open(const char *folder)
{
    char url[200];
    struct wal_options options = {.url = url,
                                  .env = env_real(),
                                  .writer = true,
                                  .partitions = PARTITIONS,
                                  .segment_bytes = SEGMENT_BYTES};
    struct err err = {0};
    struct wal *wal;

    snprintf(url, sizeof(url), "file:%s", folder);
    must(wal_open(&wal, &options, &err), &err);
    return wal;
}

/* The next entries as one append. */
static void append(struct wal *wal, size_t count)
{
    static uint8_t bytes[32][LENGTHS_MAX];
    struct wal_entry entries[32];
    uint64_t offsets[32];
    struct err err = {0};

    assert_true(count <= 32);
    for (size_t i = 0; i < count; i++) {
        size_t number = entry_count + i;

        entries[i] = (struct wal_entry){.partition = (uint32_t)number % PARTITIONS,
                                        .data = bytes[i],
                                        .len = entry_bytes(number, bytes[i])};
    }
    entry_count += count;
    batch_ends[batch_count++] = entry_count;
    must(wal_append(wal, entries, count, NEVER_NS, offsets, &err), &err);
}

/* How many entries there are or were, read from the first that is kept: the same of each
 * partition. */
static size_t read_all(struct wal *wal)
{
    uint32_t partitions[PARTITIONS] = {0, 1};
    uint64_t positions[PARTITIONS] = {0, 0};
    struct wal_reader *reader;
    struct wal_item items[16];
    size_t total, count;
    uint8_t expected[LENGTHS_MAX];
    struct err err = {0};

    for (uint32_t p = 0; p < PARTITIONS; p++)
        must(wal_first(wal, p, &positions[p], &err), &err);
    if (positions[0] != positions[1] || (positions[0] != 0 && positions[0] != trimmed_to))
        fail_msg("moment %zu: the log begins at %llu and %llu", image.moment,
                 (unsigned long long)positions[0], (unsigned long long)positions[1]);
    total = (size_t)positions[0] * PARTITIONS;
    must(wal_reader_open(&reader, wal, partitions, positions, PARTITIONS, &err), &err);
    do {
        must(wal_reader_next(reader, items, 16, &count, 0, &err), &err);
        for (size_t i = 0; i < count; i++, total++) {
            assert_int_equal(items[i].partition, total % PARTITIONS);
            assert_int_equal(items[i].offset, total / PARTITIONS);
            assert_int_equal(items[i].len, entry_bytes(total, expected));
            assert_memory_equal(items[i].data, expected, items[i].len);
        }
    } while (count > 0);
    wal_reader_close(reader);
    return total;
}

/* --- recording ------------------------------------------------------------------------------- */

/* Batches that fill segments, end in the midst of one, or are larger than one. */
static void record_life(const char *folder, size_t batches)
{
    static const size_t counts[] = {1, 3, 2, 7, 1, 12, 4};
    struct wal *wal = log_open(folder);

    for (size_t i = 0; i < batches; i++) {
        append(wal, counts[i % ARRAY_COUNT(counts)]);
        trace_note(batch_count);
    }
    wal_close(wal);
}

static void trim(const char *folder)
{
    uint64_t positions[PARTITIONS];
    struct wal *wal = log_open(folder);
    struct err err = {0};

    trimmed_to = (entry_count - 3) / PARTITIONS;
    for (uint32_t p = 0; p < PARTITIONS; p++)
        positions[p] = trimmed_to;
    must(wal_trim(wal, positions, &err), &err);
    append(wal, 2);
    trace_note(batch_count);
    wal_close(wal);
}

/* --- checking -------------------------------------------------------------------------------- */

/* Batches that were acknowledged before the moment. */
static size_t acknowledged(void)
{
    size_t batches = 0;

    for (size_t i = 0; i < image.moment; i++)
        if (trace.ops[i].kind == TRACE_NOTE)
            batches = (size_t)trace.ops[i].len;
    return batches;
}

/* The page is of this boot: a machine that died comes up with another. */
static void reboot(void)
{
    char path[300];
    uint64_t word = 0, own = wal_boot_word();
    int fd;

    snprintf(path, sizeof(path), "%s/control", image.root);
    fd = open(path, O_RDWR);
    if (fd < 0)
        return;
    if (pread(fd, &word, sizeof(word), offsetof(struct wal_control, boot)) == sizeof(word) &&
        word == own) {
        word ^= 0x1234567890abcdefu;
        assert_int_equal(pwrite(fd, &word, sizeof(word), offsetof(struct wal_control, boot)),
                         sizeof(word));
    }
    close(fd);
}

static void find(void *state, const struct scrub_finding *finding)
{
    (void)state;
    fail_msg("moment %zu: %s byte %llu: %s", image.moment, finding->file,
             (unsigned long long)finding->byte, finding->text);
}

static bool go_on(void *state, uint64_t bytes)
{
    (void)state;
    (void)bytes;
    return true;
}

static void verify(void)
{
    struct scrub scrub = {.find = find, .go_on = go_on};
    struct wal_verify_request request = {.folder = image.root, .scrub = &scrub};
    static struct wal_verified found;
    struct err err = {0};
    enum err_code code = wal_verify(&request, &found, &err);

    if (code != ERR_NOT_FOUND) /* it has not begun yet */
        must(code, &err);
}

static void check_image(bool is_reboot, bool is_page_whole)
{
    size_t batches = acknowledged();
    size_t least = batches == 0 ? 0 : batch_ends[batches - 1];
    size_t most = batches < batch_count ? batch_ends[batches] : least;
    size_t total, kept = entry_count, kept_batches = batch_count;
    struct wal *wal;

    if (is_reboot)
        reboot();
    if (is_page_whole)
        verify();
    wal = log_open(image.root);
    total = read_all(wal);
    if (total < least || total > most)
        fail_msg("moment %zu, %s: %zu entries, %zu were acknowledged, %zu given", image.moment,
                 is_reboot ? "the machine died" : "the process died", total, least, most);
    wal_close(wal);
    wal = log_open(image.root);
    assert_int_equal(read_all(wal), total);
    entry_count = total;
    append(wal, 3);
    assert_int_equal(read_all(wal), total + 3);
    wal_close(wal);
    entry_count = kept;
    batch_count = kept_batches;
    verify();
}

/* The first so many of the stores by which a place is published are in the image's page: after a
 * take-over its generation, then the check, then the place, then the ends, one by one. */
static void publish_part(const struct trace_op *page, unsigned stores)
{
    static const size_t order[] = {
        offsetof(struct wal_control, generation),
        offsetof(struct wal_control, position_check),
        offsetof(struct wal_control, position),
        offsetof(struct wal_control, end),
    };
    char path[300];
    int fd;

    snprintf(path, sizeof(path), "%s/control", image.root);
    fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < stores; i++)
        assert_int_equal(pwrite(fd, page->data + order[i], 8, (off_t)order[i]), 8);
    close(fd);
}

static void check(bool is_reboot)
{
    const struct trace_op *next = &trace.ops[image.moment];

    check_image(is_reboot, true);
    if (is_reboot || image.moment >= trace.count || next->kind != TRACE_WRITE ||
        next->len != sizeof(struct wal_control) || next->at != 0)
        return;
    /* Killed while it told of a place. */
    for (unsigned stores = 1; stores <= 4; stores++) {
        image_build();
        if (image_has("control")) {
            publish_part(next, stores);
            check_image(false, stores != 2);
        }
    }
}

/* --- promises -------------------------------------------------------------------------------- */

static void begin(void)
{
    entry_count = batch_count = 0;
    trimmed_to = 0;
    assert_true(scratch_remove(base_folder) == 0 || errno == ENOENT);
    assert_int_equal(mkdir(base_folder, 0755), 0);
    trace_begin(base_folder);
}

static void end(uint64_t seed)
{
    trace_end();
    trace_crash_everywhere(image_folder_path, seed, check);
    trace_free();
}

/* From the first folder on. */
static void what_was_acknowledged_outlives_a_crash_at_any_moment(void **state)
{
    (void)state;
    begin();
    snprintf(made_folder, sizeof(made_folder), "%s", base_folder);
    record_life(made_folder, BATCHES);
    end(1);
}

static void a_crash_while_the_log_is_opened_again_loses_nothing(void **state)
{
    (void)state;
    begin();
    record_life(made_folder, 5);
    record_life(made_folder, 2);
    record_life(made_folder, 0);
    record_life(made_folder, 3);
    end(2);
}

static void a_crash_while_the_log_is_trimmed_loses_nothing_else(void **state)
{
    (void)state;
    begin();
    record_life(made_folder, 6);
    trim(made_folder);
    record_life(made_folder, 2);
    end(3);
}

static int make(void **state)
{
    (void)state;
    assert_true(scratch_make(base_folder, sizeof(base_folder), "crash"));
    snprintf(image_folder_path, sizeof(image_folder_path), "%s-image", base_folder);
    snprintf(made_folder, sizeof(made_folder), "%s", base_folder);
    log_start("test", LOG_OFF);
    return 0;
}

static int forget(void **state)
{
    (void)state;
    (void)scratch_remove(image_folder_path);
    return scratch_remove(base_folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_acknowledged_outlives_a_crash_at_any_moment),
        cmocka_unit_test(a_crash_while_the_log_is_opened_again_loses_nothing),
        cmocka_unit_test(a_crash_while_the_log_is_trimmed_loses_nothing_else),
    };

    return cmocka_run_group_tests(tests, make, forget);
}
