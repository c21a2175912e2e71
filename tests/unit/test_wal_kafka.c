/* The log on Kafka when things go wrong, against a broker of our own (tests/lib/kafka_broker.py)
 * that is killed, paused, and given topics that are not as they should be.  What holds without
 * faults is in test_wal.c.
 * pace: long */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/wal/wal.h"
#include "tests/unit/resolver_rig.h"

#define PARTITIONS 2u
#define WAIT_NS    (60 * NS_PER_S)

/* --- the broker ------------------------------------------------------------------------------ */

static struct {
    pid_t process;
    FILE *commands, *answers;
    char url[64];
    char last[200]; /* what it said last */
} broker;

static unsigned topic_number;

static void broker_answer(void)
{
    if (fgets(broker.last, sizeof(broker.last), broker.answers) == NULL)
        fail_msg("the broker's keeper is gone");
    broker.last[strcspn(broker.last, "\n")] = '\0';
    if (strncmp(broker.last, "ok", 2) != 0)
        fail_msg("the broker's keeper: %s", broker.last);
}

static void broker_send(const char *command)
{
    fprintf(broker.commands, "%s\n", command);
    fflush(broker.commands);
}

static void broker_tell(const char *command)
{
    broker_send(command);
    broker_answer();
}

static int broker_start(void **state)
{
    int to[2], from[2];

    (void)state;
    if (pipe(to) != 0 || pipe(from) != 0)
        return -1;
    broker.process = fork();
    if (broker.process == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        close(to[1]);
        close(from[0]);
        execlp("python3", "python3", "tests/lib/kafka_broker.py", (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    broker.commands = fdopen(to[1], "w");
    broker.answers = fdopen(from[0], "r");
    if (fgets(broker.url, sizeof(broker.url), broker.answers) == NULL)
        return -1;
    broker.url[strcspn(broker.url, "\n")] = '\0';
    return 0;
}

static int broker_end(void **state)
{
    (void)state;
    fclose(broker.commands);
    fclose(broker.answers);
    return waitpid(broker.process, NULL, 0) == broker.process ? 0 : -1;
}

/* --- logs ------------------------------------------------------------------------------------ */

struct log {
    char topic[64]; /* without ".log" */
    char url[200];
    struct wal *wal;
};

static uint64_t soon(uint64_t ns)
{
    return env_boot_ns(env_real()) + ns;
}

static enum err_code log_open(struct wal **out, const char *url, bool writer, struct err *err)
{
    struct wal_options options = {.url = url, .env = env_real(), .writer = writer};

    options.partitions = writer ? PARTITIONS : 0;
    return wal_open(out, &options, err);
}

static struct wal *must_open(const char *url, bool writer)
{
    struct wal *wal;
    struct err err;

    if (log_open(&wal, url, writer, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return wal;
}

static int name_setup(void **state)
{
    struct log *log = calloc(1, sizeof(*log));

    assert_non_null(log);
    snprintf(log->topic, sizeof(log->topic), "faults-%u", topic_number++);
    snprintf(log->url, sizeof(log->url), "%s/%s", broker.url, log->topic);
    *state = log;
    return 0;
}

static int log_setup(void **state)
{
    struct log *log;

    (void)name_setup(state);
    log = *state;
    log->wal = must_open(log->url, true);
    return 0;
}

static int log_teardown(void **state)
{
    struct log *log = *state;

    wal_close(log->wal);
    free(log);
    return 0;
}

static enum err_code append(struct wal *wal, unsigned number, uint64_t wait_ns, uint64_t *offset,
                            struct err *err)
{
    char text[32];
    struct wal_entry entry = {.partition = 1, .data = text};

    entry.len = (size_t)snprintf(text, sizeof(text), "entry %u", number);
    return wal_append(wal, &entry, 1, soon(wait_ns), offset, err);
}

static void must_append(struct wal *wal, unsigned number)
{
    uint64_t offset;
    struct err err;

    if (append(wal, number, WAIT_NS, &offset, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_int_equal(offset, number);
}

static void must_recover(struct wal *wal)
{
    struct err err = {0};
    uint64_t deadline_ns = soon(WAIT_NS);

    while (wal_recover(wal, &err) != ERR_OK)
        if (env_boot_ns(env_real()) >= deadline_ns)
            fail_msg("%s", err.message);
}

static uint64_t end_of(struct wal *wal)
{
    uint32_t partition = 1;
    uint64_t end;
    struct err err;

    if (wal_ends(wal, &partition, 1, soon(WAIT_NS), &end, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return end;
}

static struct wal_reader *reader_at(struct wal *wal, uint64_t position)
{
    struct wal_reader *reader;
    uint32_t partition = 1;
    struct err err;

    if (wal_reader_open(&reader, wal, &partition, &position, 1, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return reader;
}

/* Entries from .. to - 1 come next, each as it was written. */
static void must_read(struct wal_reader *reader, uint64_t from, uint64_t to)
{
    struct wal_item items[7];
    size_t count;
    struct err err;

    while (from < to) {
        if (wal_reader_next(reader, items, to - from < 7 ? to - from : 7, &count, soon(WAIT_NS),
                            &err) != ERR_OK)
            fail_msg("%s", err.message);
        assert_true(count > 0);
        for (size_t i = 0; i < count; i++, from++) {
            char text[32];
            int len = snprintf(text, sizeof(text), "entry %u", (unsigned)from);

            assert_int_equal(items[i].offset, from);
            assert_int_equal(items[i].len, len);
            assert_memory_equal(items[i].data, text, (size_t)len);
        }
    }
}

static void must_be_refused(const char *url, enum err_code code, const char *says)
{
    struct wal *wal;
    struct err err;

    assert_int_equal(log_open(&wal, url, true, &err), code);
    if (strstr(err.message, says) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, says);
}

/* --- brokers that fail ----------------------------------------------------------------------- */

static void a_killed_broker_loses_nothing_acknowledged(void **state)
{
    struct log *log = *state;
    struct wal_reader *reader = reader_at(log->wal, 0);
    uint64_t offset, end;
    struct wal_item item;
    struct err err;
    size_t count;

    for (unsigned i = 0; i < 50; i++)
        must_append(log->wal, i);
    must_read(reader, 0, 30);
    broker_tell("kill");
    assert_int_equal(append(log->wal, 50, 300 * NS_PER_MS, &offset, &err), ERR_TIMEOUT);
    assert_int_equal(append(log->wal, 50, 300 * NS_PER_MS, &offset, &err), ERR_READ_ONLY);
    assert_int_not_equal(wal_recover(log->wal, &err), ERR_OK);
    assert_int_equal(wal_ends(log->wal, &(uint32_t){1}, 1, soon(200 * NS_PER_MS), &end, &err),
                     ERR_TIMEOUT);
    broker_tell("start");
    must_recover(log->wal);
    end = end_of(log->wal);
    assert_in_range(end, 50, 51);
    must_append(log->wal, (unsigned)end);
    must_read(reader, 30, end + 1);
    assert_int_equal(wal_reader_next(reader, &item, 1, &count, 0, &err), ERR_OK);
    assert_int_equal(count, 0);
    wal_reader_close(reader);
}

static void an_append_waits_for_a_broker_that_restarts(void **state)
{
    struct log *log = *state;

    must_append(log->wal, 0);
    broker_tell("kill");
    broker_send("start");
    must_append(log->wal, 1);
    broker_answer();
    assert_int_equal(end_of(log->wal), 2);
}

static void what_a_paused_broker_takes_late_is_found(void **state)
{
    struct log *log = *state;
    struct wal_reader *reader = reader_at(log->wal, 0);
    struct wal_item item;
    uint64_t offset, end;
    size_t count;
    struct err err;

    must_append(log->wal, 0);
    must_read(reader, 0, 1);
    broker_tell("pause");
    assert_int_equal(append(log->wal, 1, 300 * NS_PER_MS, &offset, &err), ERR_TIMEOUT);
    assert_int_equal(wal_ends(log->wal, &(uint32_t){1}, 1, soon(200 * NS_PER_MS), &end, &err),
                     ERR_TIMEOUT);
    assert_int_equal(wal_reader_next(reader, &item, 1, &count, soon(200 * NS_PER_MS), &err),
                     ERR_OK);
    assert_int_equal(count, 0);
    broker_tell("resume");
    must_recover(log->wal);
    /* It has landed or it never will, or it lands just now: the next append's offset tells. */
    if (append(log->wal, 1, WAIT_NS, &offset, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_in_range(offset, 1, 2);
    print_message("the entry of the append that timed out %s\n",
                  offset == 2 ? "landed" : "was lost");
    assert_true(end_of(log->wal) > offset);
    for (uint64_t next = 1; next <= offset; next++) {
        assert_int_equal(wal_reader_next(reader, &item, 1, &count, soon(WAIT_NS), &err), ERR_OK);
        assert_int_equal(count, 1);
        assert_int_equal(item.offset, next);
        assert_memory_equal(item.data, "entry 1", 7);
    }
    wal_reader_close(reader);
}

static void nothing_hangs_on_a_paused_broker(void **state)
{
    struct log *log = *state;
    struct wal_reader *reader = reader_at(log->wal, 0);
    uint64_t offset;
    struct wal *late;
    struct err err;

    must_append(log->wal, 0);
    must_read(reader, 0, 1);
    wal_hint_set(log->wal, 0, 1);
    broker_tell("pause");
    assert_int_not_equal(log_open(&late, log->url, true, &err), ERR_OK);
    assert_int_equal(append(log->wal, 1, 100 * NS_PER_MS, &offset, &err), ERR_TIMEOUT);
    assert_int_not_equal(wal_recover(log->wal, &err), ERR_OK);
    wal_reader_close(reader);
    wal_close(log->wal);
    log->wal = NULL;
    broker_tell("resume");
}

/* --- topics that are not as they should be --------------------------------------------------- */

static void unsafe_settings_are_refused(void **state)
{
    static const char *const unsafe[][2] = {
        {"retention.ms=86400000", "retention.ms=86400000 (should be -1)"},
        {"retention.bytes=1000000000", "retention.bytes=1000000000 (should be -1)"},
        {"unclean.leader.election.enable=true", "unclean.leader.election.enable=true"},
        {"max.message.bytes=100000", "max.message.bytes=100000 (should be 1048588)"},
    };
    const char *safe = "retention.ms=-1 cleanup.policy=delete";

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(unsafe); i++) {
        unsigned number = topic_number++;
        char text[300], url[200];

        snprintf(text, sizeof(text), "create unsafe-%u.log %u %s %s", number, PARTITIONS + 1,
                 i == 0 ? "" : safe, unsafe[i][0]);
        broker_tell(text);
        snprintf(url, sizeof(url), "%s/unsafe-%u", broker.url, number);
        must_be_refused(url, ERR_CONFIG, unsafe[i][1]);
        must_be_refused(url, ERR_CONFIG, "allow_unsafe=true");
        snprintf(url, sizeof(url), "%s/unsafe-%u?allow_unsafe=true", broker.url, number);
        wal_close(must_open(url, true));
    }
}

static void a_compacted_topic_is_no_log_at_all(void **state)
{
    struct log *log = *state;
    char text[200], url[230];

    snprintf(text, sizeof(text), "create %s.log %u cleanup.policy=compact,delete", log->topic,
             PARTITIONS + 1);
    broker_tell(text);
    snprintf(url, sizeof(url), "%s?allow_unsafe=true", log->url);
    must_be_refused(url, ERR_CONFIG, "compaction");
}

static void a_topic_made_beforehand_becomes_a_log(void **state)
{
    struct log *log = *state;
    char text[200];
    struct wal *wal;
    struct err err;

    snprintf(text, sizeof(text), "create %s.log %u retention.ms=-1", log->topic, PARTITIONS + 1);
    broker_tell(text);
    assert_int_equal(log_open(&wal, log->url, false, &err), ERR_NOT_FOUND);
    log->wal = must_open(log->url, true);
    must_append(log->wal, 0);
    wal = must_open(log->url, false);
    assert_int_equal(wal_region(wal), wal_region(log->wal));
    wal_close(wal);
}

static void another_number_of_partitions_is_refused(void **state)
{
    struct log *log = *state;
    char text[200];

    snprintf(text, sizeof(text), "create %s.log 7 retention.ms=-1", log->topic);
    broker_tell(text);
    must_be_refused(log->url, ERR_CONFIG, "start with --partitions 6");
}

static void a_topic_made_again_is_another_log(void **state)
{
    struct log *log = *state;
    uint64_t deadline_ns = soon(WAIT_NS);
    enum err_code code = ERR_OK;
    struct wal_reader *reader;
    struct wal_item item;
    struct wal *again;
    char text[100];
    struct err err;
    size_t count;

    for (unsigned i = 0; i < 5; i++)
        must_append(log->wal, i);
    reader = reader_at(log->wal, 0);
    must_read(reader, 0, 5);
    snprintf(text, sizeof(text), "delete %s.log", log->topic);
    broker_tell(text);
    again = must_open(log->url, true);
    assert_int_not_equal(wal_region(again), wal_region(log->wal));
    assert_int_equal(end_of(again), 0);
    while (code == ERR_OK && env_boot_ns(env_real()) < deadline_ns) {
        uint64_t end;

        (void)!wal_ends(log->wal, &(uint32_t){1}, 1, soon(NS_PER_S), &end, NULL);
        code = wal_reader_next(reader, &item, 1, &count, soon(50 * NS_PER_MS), &err);
        assert_int_equal(count, 0);
    }
    assert_int_equal(code, ERR_CONFLICT);
    wal_reader_close(reader);
    assert_int_equal(wal_reader_open(&reader, log->wal, &(uint32_t){1}, &(uint64_t){0}, 1, &err),
                     ERR_CONFLICT);
    wal_close(again);
}

static void what_is_no_longer_kept_is_not_found(void **state)
{
    struct log *log = *state;
    struct wal_reader *reader;
    uint64_t first;
    char text[100];
    struct err err;

    for (unsigned i = 0; i < 8; i++)
        must_append(log->wal, i);
    snprintf(text, sizeof(text), "trim %s.log 1 5", log->topic);
    broker_tell(text);
    assert_int_equal(wal_first(log->wal, 1, &first, &err), ERR_OK);
    assert_int_equal(first, 5);
    assert_int_equal(wal_first(log->wal, 0, &first, &err), ERR_OK);
    assert_int_equal(first, 0);
    assert_int_equal(wal_reader_open(&reader, log->wal, &(uint32_t){1}, &(uint64_t){4}, 1, &err),
                     ERR_NOT_FOUND);
    reader = reader_at(log->wal, 5);
    must_read(reader, 5, 8);
    wal_reader_close(reader);
}

static void trimmed_to(struct wal *wal, uint64_t expected)
{
    uint64_t first = UINT64_MAX;
    struct err err;

    assert_int_equal(wal_first(wal, 0, &first, &err), ERR_OK);
    assert_int_equal(first, 0);
    assert_int_equal(wal_first(wal, 1, &first, &err), ERR_OK);
    assert_int_equal(first, expected);
}

static void the_log_is_trimmed_to_where_it_is_told(void **state)
{
    struct log *log = *state;
    struct wal_reader *reader;
    struct err err = {0};

    for (unsigned i = 0; i < 8; i++)
        must_append(log->wal, i);
    assert_int_equal(wal_trim(log->wal, (uint64_t[]){0, 9}, &err), ERR_CONFLICT);
    trimmed_to(log->wal, 0);
    if (wal_trim(log->wal, (uint64_t[]){0, 5}, &err) != ERR_OK)
        fail_msg("%s", err.message);
    trimmed_to(log->wal, 5);
    assert_int_equal(wal_trim(log->wal, (uint64_t[]){0, 3}, &err), ERR_OK);
    trimmed_to(log->wal, 5);
    assert_int_equal(wal_reader_open(&reader, log->wal, &(uint32_t){1}, &(uint64_t){4}, 1, &err),
                     ERR_NOT_FOUND);
    reader = reader_at(log->wal, 5);
    must_read(reader, 5, 8);
    wal_reader_close(reader);
    /* A broker that died may have forgotten it: then all of it is still there, and it is told
     * again. */
    broker_tell("kill");
    broker_tell("start");
    wal_close(log->wal);
    log->wal = must_open(log->url, true);
    reader = reader_at(log->wal, 5);
    must_read(reader, 5, 8);
    wal_reader_close(reader);
    assert_int_equal(wal_trim(log->wal, (uint64_t[]){0, 5}, &err), ERR_OK);
    trimmed_to(log->wal, 5);
    must_append(log->wal, 8);
    reader = reader_at(log->wal, 5);
    must_read(reader, 5, 9);
    wal_reader_close(reader);
    /* To the very end. */
    assert_int_equal(wal_trim(log->wal, (uint64_t[]){0, 9}, &err), ERR_OK);
    trimmed_to(log->wal, 9);
    must_append(log->wal, 9);
}

/* Entries from the first on, as they were written, all four or until an error or nothing more comes
 * in that time; how many. */
static uint64_t read_what_can_be(struct wal *wal, uint64_t wait_ns, struct err *err)
{
    struct wal_reader *reader = reader_at(wal, 0);
    struct wal_item item;
    uint64_t read = 0;
    size_t count = 1;

    *err = (struct err){0};
    while (read < 4 && count > 0 &&
           wal_reader_next(reader, &item, 1, &count, soon(wait_ns), err) == ERR_OK) {
        char text[32];
        int len = snprintf(text, sizeof(text), "entry %u", (unsigned)read);

        if (count == 0)
            break;
        assert_int_equal(item.offset, read++);
        assert_int_equal(item.len, len);
        assert_memory_equal(item.data, text, (size_t)len);
    }
    if (err->code != ERR_OK) {
        struct err again = {0};

        assert_int_equal(wal_reader_next(reader, &item, 1, &count, soon(0), &again), err->code);
        assert_string_equal(again.message, err->message);
    }
    wal_reader_close(reader);
    return read;
}

/* How entries are packed is the writer's to choose, and every reader's to read. */
static void packed_entries_are_read_as_others(void **state)
{
    static const char *const ways[] = {"lz4", "zstd", "snappy", "gzip", "none"};
    const struct log *log = *state;
    struct wal *plain = must_open(log->url, true);
    struct wal_reader *reader;

    for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        char url[240];
        struct wal *wal;

        snprintf(url, sizeof(url), "%s?compression=%s&linger_ms=5", log->url, ways[i]);
        wal = must_open(url, true);
        for (unsigned n = 0; n < 3; n++)
            must_append(wal, 3 * i + n);
        wal_close(wal);
    }
    reader = reader_at(plain, 0);
    must_read(reader, 0, 15);
    wal_reader_close(reader);
    wal_close(plain);
}

/* The broker's disk gives back other bytes.  No entry is passed over, none comes as another; where
 * the bytes have a checksum, it is told which one cannot be had. */
static void a_damaged_entry_is_told_with_its_place(void **state)
{
    struct log *log = *state;
    char place[60], text[100];
    struct err err;
    unsigned told = 0;

    for (unsigned i = 0; i < 4; i++)
        must_append(log->wal, i);
    for (unsigned before_end = 1; before_end <= 150; before_end += 4) {
        uint64_t read;

        snprintf(text, sizeof(text), "damage %s.log 1 %u", log->topic, before_end);
        broker_tell(text);
        /* With some bytes the broker says nothing at all: not for long, but on a busy machine. */
        read = read_what_can_be(log->wal, 5 * NS_PER_S, &err);
        broker_tell(text); /* as it was */
        if (err.code == ERR_OK)
            continue;
        assert_in_range(read, 2, 3);
        assert_true(err.code == ERR_CORRUPT || err.code == ERR_IO);
        assert_non_null(strstr(err.message, "partition 1"));
        snprintf(place, sizeof(place), "partition 1, offset %u", (unsigned)read);
        told += strstr(err.message, place) != NULL;
    }
    assert_in_range(told, 15, 40);
    assert_int_equal(read_what_can_be(log->wal, WAIT_NS, &err), 4);
    assert_int_equal(err.code, ERR_OK);
}

/* --- several writers, hints ------------------------------------------------------------------ */

struct opening {
    const char *url;
    struct wal *wal;
};

static void open_run(void *argument)
{
    struct opening *opening = argument;

    (void)!log_open(&opening->wal, opening->url, true, NULL);
}

static void two_writers_make_one_log_and_both_append(void **state)
{
    struct log *log = *state;
    struct opening openings[2] = {{.url = log->url}, {.url = log->url}};
    struct env_thread *threads[2];
    struct err err;

    for (size_t i = 0; i < 2; i++)
        assert_int_equal(
            env_thread_start(env_real(), &threads[i], "opening", open_run, &openings[i], &err),
            ERR_OK);
    for (size_t i = 0; i < 2; i++)
        env_thread_join(threads[i]);
    assert_non_null(openings[0].wal);
    assert_non_null(openings[1].wal);
    assert_int_equal(wal_region(openings[0].wal), wal_region(openings[1].wal));
    for (unsigned i = 0; i < 20; i++)
        must_append(openings[i % 2].wal, i);
    wal_close(openings[0].wal);
    wal_close(openings[1].wal);
}

static void hints_are_there_for_the_next_holder(void **state)
{
    struct log *log = *state;
    struct wal *other;

    wal_hint_set(log->wal, 0, 7);
    wal_hint_set(log->wal, 1, 9);
    must_append(log->wal, 0); /* takes them along */
    for (unsigned i = 0; i < 100; i++)
        wal_hint_set(log->wal, 1, 10 + i);
    must_append(log->wal, 1); /* not again so soon */
    wal_close(log->wal);      /* but now */
    log->wal = NULL;
    other = must_open(log->url, true);
    assert_int_equal(wal_hint(other, 0), 7);
    assert_int_equal(wal_hint(other, 1), 109);
    wal_close(other);
}

/* --- URLs ------------------------------------------------------------------------------------ */

static void wrong_urls_are_refused_with_a_right_one(void **state)
{
    static const char *const wrong[] = {
        "kafka:",
        "kafka://",
        "kafka:///prefix",
        "kafka://host:9092",
        "kafka://host:9092/",
        "kafka://host:9092/a/b",
        "kafka://user:secret@host:9092/prefix",
        "kafka://host:9092/prefix?linger_ms=-1",
        "kafka://host:9092/prefix?linger_ms=5000",
        "kafka://host:9092/prefix?compression=best",
        "kafka://host:9092/prefix?acks=0",
        "kafka://host:9092/prefix?allow_unsafe=1",
        "kafka://host:9092/prefix?linger_ms",
        "kafka://host:9092/prefix?config=%zz",
    };
    static const char *const right[] = {
        "kafka://host/prefix",
        "kafka://host:9092,other:9092/pre-fix_1.2",
        "kafka://[::1]:9092/prefix",
        "kafka://host:9092/prefix?linger_ms=5&compression=zstd&allow_unsafe=true&config=%2fx",
        "kafka://host:9092/prefix?",
    };
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++)
        if (wal_check_url(wrong[i], &err) != ERR_CONFIG)
            fail_msg("taken: %s", wrong[i]);
    for (size_t i = 0; i < ARRAY_COUNT(right); i++)
        if (wal_check_url(right[i], &err) != ERR_OK)
            fail_msg("%s: %s", right[i], err.message);
    assert_int_equal(wal_check_url(wrong[6], &err), ERR_CONFIG);
    assert_null(strstr(err.message, "secret"));
}

static void brokers_out_of_reach_are_told(void **state)
{
    (void)state;
    must_be_refused("kafka://127.0.0.1:1/prefix", ERR_UNAVAILABLE, "refused");
    if (resolver_denies("host.invalid", 2 * NS_PER_S))
        must_be_refused("kafka://host.invalid:9092/prefix", ERR_UNAVAILABLE,
                        "check the host names");
}

static void with_password(char *url, size_t size, const char *file, const char *password)
{
    FILE *out = fopen(file, "w");

    assert_non_null(out);
    fprintf(out,
            "# for tests\nsecurity.protocol = sasl_plaintext\nsasl.mechanism=PLAIN\n"
            "sasl.username=reader\n\nsasl.password=%s\nacks=1\n",
            password);
    assert_int_equal(fclose(out), 0);
    broker_tell("address");
    snprintf(url, size, "kafka://%.60s/faults-password?config=%.90s", broker.last + 3, file);
}

static void passwords_come_from_a_file(void **state)
{
    char file[] = "/tmp/vicinal-properties-XXXXXX", url[200];
    int fd = mkstemp(file);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    with_password(url, sizeof(url), file, "right");
    wal_close(must_open(url, true));
    with_password(url, sizeof(url), file, "wrong");
    must_be_refused(url, ERR_CONFIG, "check the user, the password");
    assert_int_equal(unlink(file), 0);
    must_be_refused(url, ERR_CONFIG, "No such file");
}

#define LOG_TEST(f)  cmocka_unit_test_setup_teardown(f, log_setup, log_teardown)
#define NAME_TEST(f) cmocka_unit_test_setup_teardown(f, name_setup, log_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_urls_are_refused_with_a_right_one),
        cmocka_unit_test(brokers_out_of_reach_are_told),
        cmocka_unit_test(passwords_come_from_a_file),
        cmocka_unit_test(unsafe_settings_are_refused),
        NAME_TEST(a_compacted_topic_is_no_log_at_all),
        NAME_TEST(a_topic_made_beforehand_becomes_a_log),
        NAME_TEST(another_number_of_partitions_is_refused),
        LOG_TEST(a_topic_made_again_is_another_log),
        LOG_TEST(a_damaged_entry_is_told_with_its_place),
        NAME_TEST(packed_entries_are_read_as_others),
        LOG_TEST(what_is_no_longer_kept_is_not_found),
        LOG_TEST(the_log_is_trimmed_to_where_it_is_told),
        NAME_TEST(two_writers_make_one_log_and_both_append),
        LOG_TEST(hints_are_there_for_the_next_holder),
        LOG_TEST(a_killed_broker_loses_nothing_acknowledged),
        LOG_TEST(an_append_waits_for_a_broker_that_restarts),
        LOG_TEST(what_a_paused_broker_takes_late_is_found),
        LOG_TEST(nothing_hangs_on_a_paused_broker),
    };

    return cmocka_run_group_tests(tests, broker_start, broker_end);
}
