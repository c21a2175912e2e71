/* The contract of the log, the same for every back end; each test uses a log of its own.
 * needs: kafka */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/wal/wal.h"
#include "common/base/limits.h"
#include "tests/lib/child.h"
#include "tests/lib/scratch.h"

#define PARTITIONS 4u
#define BATCH_MAX  40u
#define WAIT_NS    (20 * NS_PER_S)

static char base_url[200]; /* each log's URL begins so */
static unsigned log_number;

struct log {
    char url[256];
    struct wal *wal;
};

static uint64_t soon(uint64_t ns)
{
    return env_boot_ns(env_real()) + ns;
}

static enum err_code log_open(struct wal **out, const char *url, bool writer, uint32_t partitions,
                              struct err *err)
{
    struct wal_options options = {
        .url = url,
        .env = env_real(),
        .writer = writer,
        .partitions = partitions,
        .segment_bytes = 4096,
    };

    return wal_open(out, &options, err);
}

static int log_setup(void **state)
{
    struct log *log = calloc(1, sizeof(*log));
    struct err err;

    assert_non_null(log);
    snprintf(log->url, sizeof(log->url), "%s-%u", base_url, log_number++);
    *state = log;
    if (log_open(&log->wal, log->url, true, PARTITIONS, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return 0;
}

static int log_teardown(void **state)
{
    struct log *log = *state;

    wal_close(log->wal);
    free(log);
    return 0;
}

static void reopen(struct log *log)
{
    struct err err;

    wal_close(log->wal);
    if (log_open(&log->wal, log->url, true, PARTITIONS, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

/* What an entry holds follows from where it is, so that every reader can tell. */
static size_t content(char *out, size_t size, uint32_t partition, uint64_t offset)
{
    int len = snprintf(out, size, "entry %u/%llu", partition, (unsigned long long)offset);
    size_t padding = offset * 37 % 500;

    memset(out + len, 'a' + (int)(offset % 26), padding);
    return (size_t)len + padding;
}

static void append_one(struct wal *wal, uint32_t partition, uint64_t offset)
{
    char text[600];
    struct wal_entry entry = {.partition = partition, .data = text};
    uint64_t got;
    struct err err;

    entry.len = content(text, sizeof(text), partition, offset);
    if (wal_append(wal, &entry, 1, soon(WAIT_NS), &got, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_int_equal(got, offset);
}

static void check_item(const struct wal_item *item, uint64_t offset)
{
    char text[600];
    size_t len = content(text, sizeof(text), item->partition, offset);

    assert_int_equal(item->offset, offset);
    assert_int_equal(item->len, len);
    assert_memory_equal(item->data, text, len);
}

/* Read from a position to the end known now; every item is checked. */
static void read_all(struct wal *wal, uint32_t partition, uint64_t from, uint64_t to)
{
    struct wal_reader *reader;
    struct wal_item items[7];
    struct err err;
    size_t count;

    if (wal_reader_open(&reader, wal, &partition, &from, 1, &err) != ERR_OK)
        fail_msg("%s", err.message);
    while (from < to) {
        if (wal_reader_next(reader, items, 7, &count, soon(WAIT_NS), &err) != ERR_OK)
            fail_msg("%s", err.message);
        assert_true(count > 0);
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(items[i].partition, partition);
            check_item(&items[i], from++);
        }
    }
    assert_int_equal(from, to);
    assert_int_equal(wal_reader_next(reader, items, 7, &count, 0, &err), ERR_OK);
    assert_int_equal(count, 0);
    wal_reader_close(reader);
}

static void the_scheme_must_be_known(void **state)
{
    struct wal *wal;
    struct err err;

    (void)state;
    assert_int_equal(log_open(&wal, "nats://x", true, 1, &err), ERR_CONFIG);
    assert_non_null(strstr(err.message, "file:"));
    assert_int_equal(log_open(&wal, "fil:x", true, 1, &err), ERR_CONFIG);
    assert_int_equal(log_open(&wal, "file", true, 1, &err), ERR_CONFIG);
    assert_int_equal(log_open(&wal, "", true, 1, &err), ERR_CONFIG);
    assert_null(wal);
}

static void a_new_log_is_empty(void **state)
{
    struct log *log = *state;
    uint32_t partitions[PARTITIONS] = {0, 1, 2, 3};
    uint64_t ends[PARTITIONS];
    uint64_t first;
    uint64_t used, available;
    struct err err;

    assert_int_equal(wal_partitions(log->wal), PARTITIONS);
    assert_int_not_equal(wal_region(log->wal), 0);
    assert_int_equal(wal_ends(log->wal, partitions, PARTITIONS, soon(WAIT_NS), ends, &err), ERR_OK);
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        assert_int_equal(ends[p], 0);
        assert_int_equal(wal_first(log->wal, p, &first, &err), ERR_OK);
        assert_int_equal(first, 0);
        assert_int_equal(wal_hint(log->wal, p), 0);
        read_all(log->wal, p, 0, 0);
    }
    wal_space(log->wal, &used, &available);
}

static void the_log_must_be_the_expected_one(void **state)
{
    struct log *log = *state;
    struct wal *wal;
    char url[300];
    struct err err;

    wal_close(log->wal);
    log->wal = NULL;
    assert_int_equal(log_open(&wal, log->url, true, PARTITIONS + 1, &err), ERR_CONFIG);
    assert_int_equal(log_open(&wal, log->url, true, PARTITIONS_MAX + 1, &err), ERR_CONFIG);
    assert_int_equal(log_open(&wal, log->url, false, PARTITIONS - 1, &err), ERR_CONFIG);
    assert_int_equal(log_open(&wal, log->url, false, 0, &err), ERR_OK);
    assert_int_equal(wal_partitions(wal), PARTITIONS);
    wal_close(wal);
    snprintf(url, sizeof(url), "%s-none", log->url);
    assert_int_equal(log_open(&wal, url, false, 0, &err), ERR_NOT_FOUND);
    assert_int_equal(log_open(&wal, url, true, 0, &err), ERR_NOT_FOUND);
}

static void each_partition_counts_its_own_entries(void **state)
{
    struct log *log = *state;
    uint32_t partitions[2] = {3, 1};
    uint64_t ends[2];
    struct err err;

    for (uint64_t i = 0; i < 30; i++) {
        append_one(log->wal, 1, i);
        append_one(log->wal, 3, 2 * i);
        append_one(log->wal, 3, 2 * i + 1);
    }
    assert_int_equal(wal_ends(log->wal, partitions, 2, soon(WAIT_NS), ends, &err), ERR_OK);
    assert_int_equal(ends[0], 60);
    assert_int_equal(ends[1], 30);
    for (uint64_t from = 0; from <= 30; from++) {
        read_all(log->wal, 1, from, 30);
        read_all(log->wal, 3, from + 30, 60);
    }
    read_all(log->wal, 0, 0, 0);
}

static void a_position_beyond_the_end_is_a_conflict(void **state)
{
    struct log *log = *state;
    struct wal_reader *reader;
    uint32_t partition = 2;
    uint64_t position = 2;
    struct err err;

    append_one(log->wal, 2, 0);
    assert_int_equal(wal_reader_open(&reader, log->wal, &partition, &position, 1, &err),
                     ERR_CONFLICT);
    assert_null(reader);
}

static void entries_of_every_length_come_back(void **state)
{
    static const size_t lengths[] = {1,
                                     2,
                                     7,
                                     8,
                                     9,
                                     4000,
                                     5000,
                                     RECORD_BYTES_MAX - 1,
                                     RECORD_BYTES_MAX,
                                     1,
                                     RECORD_BYTES_MAX,
                                     RECORD_BYTES_MAX};
    struct log *log = *state;
    char *data = malloc(RECORD_BYTES_MAX);
    struct wal_entry entries[ARRAY_COUNT(lengths)];
    uint64_t offsets[ARRAY_COUNT(lengths)];
    struct wal_item items[3];
    struct wal_reader *reader;
    uint32_t partition = 0;
    uint64_t position = 0;
    size_t count;
    struct err err;

    assert_non_null(data);
    for (size_t i = 0; i < RECORD_BYTES_MAX; i++)
        data[i] = (char)(i * 7 + i / 256);
    for (size_t i = 0; i < ARRAY_COUNT(lengths); i++)
        entries[i] = (struct wal_entry){.partition = 0, .data = data, .len = lengths[i]};
    assert_int_equal(
        wal_append(log->wal, entries, ARRAY_COUNT(lengths), soon(WAIT_NS), offsets, &err), ERR_OK);
    assert_int_equal(wal_reader_open(&reader, log->wal, &partition, &position, 1, &err), ERR_OK);
    while (position < ARRAY_COUNT(lengths)) {
        assert_int_equal(wal_reader_next(reader, items, 3, &count, soon(WAIT_NS), &err), ERR_OK);
        assert_true(count > 0);
        for (size_t i = 0; i < count; i++, position++) {
            assert_int_equal(items[i].offset, position);
            assert_int_equal(offsets[position], position);
            assert_int_equal(items[i].len, lengths[position]);
            assert_memory_equal(items[i].data, data, lengths[position]);
        }
    }
    wal_reader_close(reader);
    free(data);
}

static void reopening_keeps_everything(void **state)
{
    struct log *log = *state;
    uint32_t region = wal_region(log->wal);

    for (uint64_t i = 0; i < 20; i++) {
        append_one(log->wal, 0, 2 * i);
        wal_hint_set(log->wal, 0, i);
        if (i % 3 != 0)
            reopen(log);
        append_one(log->wal, 0, 2 * i + 1);
        assert_int_equal(wal_region(log->wal), region);
        assert_int_equal(wal_hint(log->wal, 0), i);
        assert_int_equal(wal_hint(log->wal, 1), 0);
    }
    reopen(log);
    read_all(log->wal, 0, 0, 40);
}

static void an_append_of_nothing_is_fine(void **state)
{
    struct log *log = *state;
    uint64_t offset;
    struct err err;

    assert_int_equal(wal_append(log->wal, NULL, 0, soon(WAIT_NS), &offset, &err), ERR_OK);
    assert_int_equal(wal_recover(log->wal, &err), ERR_OK);
    append_one(log->wal, 0, 0);
}

/* --- model ----------------------------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t random_below(uint64_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % n;
}

/* Two partitions, from positions of their own, read to the ends. */
static void read_two(struct wal *wal, const uint64_t *ends)
{
    uint32_t partitions[2] = {(uint32_t)random_below(2), 2 + (uint32_t)random_below(2)};
    uint64_t next[2] = {random_below(ends[partitions[0]] + 1),
                        random_below(ends[partitions[1]] + 1)};
    struct wal_reader *reader;
    struct wal_item items[9];
    size_t count;
    struct err err;

    assert_int_equal(wal_reader_open(&reader, wal, partitions, next, 2, &err), ERR_OK);
    while (next[0] < ends[partitions[0]] || next[1] < ends[partitions[1]]) {
        if (wal_reader_next(reader, items, 1 + random_below(9), &count, soon(WAIT_NS), &err) !=
            ERR_OK)
            fail_msg("%s", err.message);
        assert_true(count > 0);
        for (size_t i = 0; i < count; i++) {
            size_t which = items[i].partition == partitions[0] ? 0 : 1;

            assert_int_equal(items[i].partition, partitions[which]);
            check_item(&items[i], next[which]++);
        }
    }
    assert_int_equal(next[0], ends[partitions[0]]);
    assert_int_equal(next[1], ends[partitions[1]]);
    assert_int_equal(wal_reader_next(reader, items, 1, &count, 0, &err), ERR_OK);
    assert_int_equal(count, 0);
    wal_reader_close(reader);
}

static void batches_of_any_mixture_are_kept_in_order(void **state)
{
    static char texts[BATCH_MAX][600];
    struct log *log = *state;
    struct wal_entry entries[BATCH_MAX];
    uint64_t offsets[BATCH_MAX];
    uint64_t ends[PARTITIONS] = {0};
    struct err err;

    random_state = (uint64_t)time(NULL);
    print_message("seed %llu\n", (unsigned long long)random_state);
    for (unsigned round = 0; round < 60; round++) {
        size_t count = random_below(BATCH_MAX);
        uint64_t before[PARTITIONS];

        memcpy(before, ends, sizeof(ends));
        for (size_t i = 0; i < count; i++) {
            uint32_t p = (uint32_t)random_below(PARTITIONS);

            entries[i] = (struct wal_entry){.partition = p, .data = texts[i]};
            entries[i].len = content(texts[i], sizeof(texts[i]), p, ends[p]++);
        }
        assert_int_equal(wal_append(log->wal, entries, count, soon(WAIT_NS), offsets, &err),
                         ERR_OK);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(offsets[i], before[entries[i].partition]++);
        if (random_below(8) == 0)
            reopen(log);
        read_two(log->wal, ends);
    }
}

/* --- waiting --------------------------------------------------------------------------------- */

#define NEWS 200u

struct listener {
    struct wal *wal;
    bool is_right;
};

/* Read NEWS entries of partition 1 as they come, among those of partition 0. */
static bool listen_for_news(struct wal *wal)
{
    struct wal_reader *reader;
    struct wal_item items[16];
    uint32_t partition = 1;
    uint64_t next = 0;
    uint64_t deadline = soon(6 * WAIT_NS);
    char text[600];
    bool is_right = true;
    size_t count;

    if (wal_reader_open(&reader, wal, &partition, &next, 1, NULL) != ERR_OK)
        return false;
    while (is_right && next < NEWS) {
        uint64_t end = 0;

        is_right =
            wal_reader_next(reader, items, 16, &count, deadline, NULL) == ERR_OK && count > 0;
        for (size_t i = 0; is_right && i < count; i++, next++)
            is_right = items[i].offset == next && items[i].partition == 1 &&
                       items[i].len == content(text, sizeof(text), 1, next) &&
                       memcmp(items[i].data, text, items[i].len) == 0;
        is_right =
            is_right && wal_ends(wal, &partition, 1, deadline, &end, NULL) == ERR_OK && end >= next;
    }
    wal_reader_close(reader);
    return is_right;
}

static void listener_run(void *argument)
{
    struct listener *listener = argument;

    listener->is_right = listen_for_news(listener->wal);
}

static void tell_news(struct wal *wal)
{
    for (uint64_t i = 0; i < NEWS; i++) {
        append_one(wal, 0, i);
        append_one(wal, 1, i);
    }
}

static void waiting_readers_of_this_process_wake(void **state)
{
    struct log *log = *state;
    struct listener listeners[3] = {{0}};
    struct env_thread *threads[3];
    struct err err;

    for (size_t i = 0; i < 3; i++) {
        listeners[i].wal = log->wal;
        assert_int_equal(env_thread_start(env_real(), &threads[i], "listener", listener_run,
                                          &listeners[i], &err),
                         ERR_OK);
    }
    tell_news(log->wal);
    for (size_t i = 0; i < 3; i++) {
        env_thread_join(threads[i]);
        assert_true(listeners[i].is_right);
    }
}

/* In a process of its own: wait for the log to be there, then for news. */
static int listener_process(const char *url)
{
    uint64_t deadline = soon(6 * WAIT_NS);
    enum err_code code = ERR_NOT_FOUND;
    struct wal *wal = NULL;
    bool is_right;

    while (code == ERR_NOT_FOUND && env_boot_ns(env_real()) < deadline) {
        code = log_open(&wal, url, false, 0, NULL);
        if (code == ERR_NOT_FOUND && env_sleep_until(env_real(), soon(NS_PER_MS)) != ERR_OK)
            return 3;
    }
    if (code != ERR_OK)
        return 2;
    is_right = listen_for_news(wal);
    wal_close(wal);
    return is_right ? 0 : 1;
}

static void waiting_readers_of_other_processes_wake(void **state)
{
    char url[256];
    struct wal *wal;
    pid_t children[2];
    struct err err;

    (void)state;
    snprintf(url, sizeof(url), "%s-%u", base_url, log_number++);
    for (size_t i = 0; i < 2; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0)
            _exit(listener_process(url));
    }
    assert_int_equal(log_open(&wal, url, true, PARTITIONS, &err), ERR_OK);
    tell_news(wal);
    for (size_t i = 0; i < 2; i++)
        child_must_end(children[i], 0);
    wal_close(wal);
}

static void waiting_ends_at_the_deadline(void **state)
{
    struct log *log = *state;
    struct wal_reader *reader;
    struct wal_item item;
    uint32_t partition = 0;
    uint64_t position = 0;
    uint64_t deadline = soon(150 * NS_PER_MS);
    size_t count = 9;
    struct err err;

    append_one(log->wal, 1, 0); /* not what is waited for */
    assert_int_equal(wal_reader_open(&reader, log->wal, &partition, &position, 1, &err), ERR_OK);
    assert_int_equal(wal_reader_next(reader, &item, 1, &count, deadline, &err), ERR_OK);
    assert_int_equal(count, 0);
    assert_true(env_boot_ns(env_real()) >= deadline);
    wal_reader_close(reader);
}

#define LOG_TEST(f) cmocka_unit_test_setup_teardown(f, log_setup, log_teardown)

static int run_contract(const char *backend, const char *url)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_scheme_must_be_known),
        LOG_TEST(a_new_log_is_empty),
        LOG_TEST(the_log_must_be_the_expected_one),
        LOG_TEST(each_partition_counts_its_own_entries),
        LOG_TEST(a_position_beyond_the_end_is_a_conflict),
        LOG_TEST(entries_of_every_length_come_back),
        LOG_TEST(reopening_keeps_everything),
        LOG_TEST(an_append_of_nothing_is_fine),
        LOG_TEST(batches_of_any_mixture_are_kept_in_order),
        LOG_TEST(waiting_readers_of_this_process_wake),
        cmocka_unit_test(waiting_readers_of_other_processes_wake),
        LOG_TEST(waiting_ends_at_the_deadline),
    };

    print_message("the log on %s\n", backend);
    snprintf(base_url, sizeof(base_url), "%s", url);
    return cmocka_run_group_tests_name(backend, tests, NULL, NULL);
}

int main(void)
{
    const char *broker = getenv("VICINAL_TEST_KAFKA");
    char folder[128], url[200];
    int failed;

    if (broker == NULL) {
        print_error("no broker in VICINAL_TEST_KAFKA: tests/run_programs.py starts one\n");
        return 2;
    }
    if (!scratch_make(folder, sizeof(folder), "wal"))
        return 2;
    snprintf(url, sizeof(url), "file:%s/", folder);
    failed = run_contract("files", url);
    snprintf(url, sizeof(url), "%.100s/contract-%d-", broker, (int)getpid());
    failed += run_contract("Kafka", url);
    return scratch_remove(folder) == 0 ? failed : 2;
}
