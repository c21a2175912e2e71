/* The sequencer over a log that fails to order: what is answered is what the log holds.
 * pace: waits */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "services/ingest/sequencer.h"
#include "tests/lib/scratch.h"
#include "tests/lib/wal_faulty.h"

#define PARTITIONS 3
#define WAIT_NS    (30 * NS_PER_S)
#define FOREIGN    77u

static const uint8_t INCARNATION[INCARNATION_BYTES] = {1, 2, 3};

/* --- a world: a folder, a clock that tests can step, a sequencer ---------------------------------
 */

struct world {
    struct env env; /* the real one, with a wall clock of ours */
    struct env_ops ops;
    _Atomic int64_t skew_us;
    char dir[64];
    char url[96];
    struct wal *log; /* the faulty one, while a sequencer is open */
    struct sequencer s;
    struct meta *meta;
};

static struct world world;

static uint64_t skewed_wall_us(struct env *env)
{
    (void)env;
    return (uint64_t)((int64_t)env_wall_us(env_real()) + world.skew_us);
}

static enum err_code open_wal(void *context, struct wal **out, struct err *err)
{
    struct world *w = context;
    struct wal_options options = {
        .url = w->url, .env = &w->env, .writer = true, .partitions = PARTITIONS};
    enum err_code rc = wal_open(out, &options, err);

    if (rc == ERR_OK)
        *out = w->log = wal_faulty_wrap(*out);
    return rc;
}

static void wait_for(enum sequencer_state state)
{
    uint64_t end = env_boot_ns(env_real()) + WAIT_NS;

    for (;;) {
        enum sequencer_state now;

        pthread_mutex_lock(&world.s.lock);
        now = world.s.state;
        pthread_mutex_unlock(&world.s.lock);
        if (now == state)
            return;
        assert_true(env_boot_ns(env_real()) < end);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
    }
}

static void begin(void)
{
    struct sequencer_setup setup = {.env = &world.env,
                                    .meta = world.meta,
                                    .url = "http://test",
                                    .open_wal = open_wal,
                                    .open_wal_context = &world,
                                    .log_locks = true};
    struct err err = {0};

    assert_int_equal(sequencer_open(&world.s, &setup, &err), ERR_OK);
    assert_int_equal(sequencer_start(&world.s, &err), ERR_OK);
    wait_for(SEQUENCER_HOLDER);
}

static void end(void)
{
    sequencer_close(&world.s);
    world.log = NULL;
}

static int set_up(void **state)
{
    struct err err = {0};

    (void)state;
    memset(&world, 0, sizeof(world));
    world.ops = *env_real()->ops;
    world.ops.wall_us = skewed_wall_us;
    world.env.ops = &world.ops;
    assert_true(scratch_make(world.dir, sizeof(world.dir), "sequencer"));
    (void)snprintf(world.url, sizeof(world.url), "file:%s/wal", world.dir);
    assert_int_equal(meta_open(&world.meta, "memory:", &world.env, &err), ERR_OK);
    begin();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (world.s.env != NULL)
        end();
    meta_close(world.meta);
    (void)scratch_remove(world.dir);
    return 0;
}

/* --- writing -------------------------------------------------------------------------------------
 */

static struct sequence_batch *batch_of(uint32_t partition, size_t count, const char *prefix)
{
    struct sequence_batch *batch;
    struct err err = {0};
    char id[64];

    assert_int_equal(sequence_batch_new(&batch, &world.s, &err), ERR_OK);
    for (size_t i = 0; i < count; i++) {
        struct record record = {.op = RECORD_UPSERT, .id = id, .text = "x", .text_len = 1};

        record.id_len = (size_t)snprintf(id, sizeof(id), "%s-%zu", prefix, i);
        memcpy(record.incarnation, INCARNATION, sizeof(INCARNATION));
        assert_int_equal(sequence_batch_add(batch, partition, &record, &err), ERR_OK);
    }
    return batch;
}

static enum err_code commit(struct sequence_batch *batch, struct err *err)
{
    return sequencer_commit(&world.s, batch, env_boot_ns(&world.env) + WAIT_NS, err);
}

static void write_some(uint32_t partition, size_t count, const char *prefix)
{
    struct sequence_batch *batch = batch_of(partition, count, prefix);
    struct err err = {0};

    assert_int_equal(commit(batch, &err), ERR_OK);
    sequence_batch_put(&world.s, batch);
}

/* --- reading what the log holds ------------------------------------------------------------------
 */

struct seen {
    char ids[64][32]; /* of valid upserts, the first of them */
    uint64_t offsets[64];
    size_t valid, all, epochs, vectors;
    uint64_t gap_max; /* most records between two version vector records */
    uint64_t clock;
    bool clocks_rise;
    struct epoch_state epoch;
    struct version_vector vector;
};

static void see(struct seen *seen, const struct wal_item *item, uint64_t *gap)
{
    struct record record;
    struct buffer scratch = {0};
    struct err err = {0};

    assert_int_equal(record_decode(&record, item->data, item->len, &scratch, &err), ERR_OK);
    seen->all++;
    if (++*gap > seen->gap_max)
        seen->gap_max = *gap;
    if (epoch_admit(&seen->epoch, &record, item->offset)) {
        if (record.stamp.region == world.s.region && record.stamp.clock <= seen->clock)
            seen->clocks_rise = false;
        if (record.stamp.clock > seen->clock)
            seen->clock = record.stamp.clock;
        seen->epochs += record.op == RECORD_EPOCH;
        if (record.op == RECORD_VERSION_VECTOR) {
            seen->vectors++;
            *gap = 0;
            assert_int_equal(
                version_vector_decode(&seen->vector, record.payload, record.payload_len, &err),
                ERR_OK);
        }
        if (record.op == RECORD_UPSERT && seen->valid < 64) {
            (void)snprintf(seen->ids[seen->valid], sizeof(seen->ids[0]), "%.*s", (int)record.id_len,
                           record.id);
            seen->offsets[seen->valid] = item->offset;
        }
        seen->valid += record.op == RECORD_UPSERT;
    }
    buffer_free(&scratch);
}

static void see_all(uint32_t partition, struct seen *seen)
{
    struct wal_reader *reader;
    struct wal_item items[256];
    struct err err = {0};
    uint64_t position = 0, end_offset, gap = 0;
    size_t count;

    *seen = (struct seen){.clocks_rise = true};
    assert_int_equal(wal_ends(world.log, &partition, 1, NEVER_NS, &end_offset, &err), ERR_OK);
    assert_int_equal(wal_reader_open(&reader, world.log, &partition, &position, 1, &err), ERR_OK);
    while (position < end_offset) {
        assert_int_equal(
            wal_reader_next(reader, items, 256, &count, env_boot_ns(&world.env) + WAIT_NS, &err),
            ERR_OK);
        assert_true(count > 0);
        for (size_t i = 0; i < count; i++) {
            see(seen, &items[i], &gap);
            position = items[i].offset + 1;
        }
    }
    wal_reader_close(reader);
}

static bool has(const struct seen *seen, const char *id, uint64_t offset)
{
    for (size_t i = 0; i < seen->valid && i < 64; i++)
        if (strcmp(seen->ids[i], id) == 0)
            return offset == UINT64_MAX || seen->offsets[i] == offset;
    return false;
}

/* The answer says exactly what the log holds: every item, every offset. */
static void assert_told_right(struct sequence_batch *batch, enum err_code rc)
{
    struct seen seen[PARTITIONS];
    size_t committed = 0;

    for (uint32_t i = 0; i < PARTITIONS; i++) {
        see_all(i, &seen[i]);
        assert_true(seen[i].clocks_rise);
    }
    for (size_t i = 0; i < batch->count; i++) {
        const struct sequence_item *item = &batch->items[i];
        struct record record;
        char id[64];

        assert_int_equal(record_peek(&record, batch->bytes.data + item->at, item->len, NULL),
                         ERR_OK);
        (void)snprintf(id, sizeof(id), "%.*s", (int)record.id_len, record.id);
        assert_int_equal(has(&seen[item->partition], id, UINT64_MAX), item->committed);
        if (item->committed)
            assert_true(has(&seen[item->partition], id, item->offset));
        committed += item->committed;
    }
    assert_int_equal(rc == ERR_OK, committed == batch->count);
}

/* --- promises ------------------------------------------------------------------------------------
 */

static void a_commit_is_at_the_expected_offset(void **state)
{
    struct sequence_batch *batch = batch_of(1, 5, "a");
    struct err err = {0};

    (void)state;
    assert_int_equal(commit(batch, &err), ERR_OK);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(batch->items[i].offset, 1 + i); /* behind the epoch record */
    assert_told_right(batch, ERR_OK);
    sequence_batch_put(&world.s, batch);
    assert_int_equal(sequencer_end(&world.s, 1), 6);
}

static void every_fault_is_told_right(void **state)
{
    static const struct {
        enum wal_fault fault;
        enum err_code rc;
    } CASES[] = {
        {WAL_FAULT_BEFORE, ERR_UNAVAILABLE},      {WAL_FAULT_AFTER, ERR_OK},
        {WAL_FAULT_HALF, ERR_UNAVAILABLE},        {WAL_FAULT_LATE_BEFORE, ERR_OK},
        {WAL_FAULT_LATE_BEHIND, ERR_UNAVAILABLE}, {WAL_FAULT_NO_SPACE, ERR_INSUFFICIENT_STORAGE},
        {WAL_FAULT_OTHER_EPOCH, ERR_UNAVAILABLE}, {WAL_FAULT_VOID_BEFORE, ERR_OK},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        struct sequence_batch *batch;
        struct err err = {0};
        char prefix[16];
        enum err_code rc;

        (void)snprintf(prefix, sizeof(prefix), "f%zu", i);
        batch = batch_of(2, 4, prefix);
        wal_faulty_set(world.log, CASES[i].fault, 1, 1);
        rc = commit(batch, &err);
        print_message("fault %d: %s\n", CASES[i].fault, err.message);
        assert_int_equal(rc, CASES[i].rc);
        wait_for(SEQUENCER_HOLDER);
        assert_told_right(batch, rc);
        sequence_batch_put(&world.s, batch);
        (void)snprintf(prefix, sizeof(prefix), "g%zu", i);
        write_some(2, 2, prefix);
    }
}

static void recovery_itself_may_fail(void **state)
{
    static const enum wal_fault FAULTS[] = {WAL_FAULT_BEFORE, WAL_FAULT_AFTER, WAL_FAULT_HALF,
                                            WAL_FAULT_LATE_BEHIND};

    (void)state;
    for (size_t i = 0; i < sizeof(FAULTS) / sizeof(FAULTS[0]); i++) {
        struct sequence_batch *batch;
        struct err err = {0};
        char prefix[16];
        enum err_code rc;

        (void)snprintf(prefix, sizeof(prefix), "r%zu", i);
        batch = batch_of(0, 6, prefix);
        wal_faulty_set(world.log, FAULTS[i], 1, 3);
        if (FAULTS[i] == WAL_FAULT_LATE_BEHIND)
            wal_faulty_set(world.log, FAULTS[i], 1, 1);
        rc = commit(batch, &err);
        wait_for(SEQUENCER_HOLDER);
        assert_told_right(batch, rc);
        sequence_batch_put(&world.s, batch);
    }
}

static void no_space_answers_fast_until_it_is_back(void **state)
{
    struct sequence_batch *batch = batch_of(0, 1, "full");
    struct err err = {0};

    (void)state;
    wal_faulty_set(world.log, WAL_FAULT_NO_SPACE, 1, 4);
    assert_int_equal(commit(batch, &err), ERR_INSUFFICIENT_STORAGE);
    assert_told_right(batch, ERR_INSUFFICIENT_STORAGE);
    sequence_batch_put(&world.s, batch);
    for (int tries = 0;; tries++) {
        enum err_code rc;

        batch = batch_of(0, 1, "again");
        rc = commit(batch, &err);
        sequence_batch_put(&world.s, batch);
        if (rc == ERR_OK)
            break;
        assert_int_equal(rc, ERR_INSUFFICIENT_STORAGE);
        assert_true(tries < 30000);
        assert_int_equal(env_sleep_until(&world.env, env_boot_ns(&world.env) + NS_PER_MS), ERR_OK);
    }
}

static void stamps_rise_when_the_clock_steps_back(void **state)
{
    struct seen seen;

    (void)state;
    write_some(1, 3, "now");
    world.skew_us = -3600 * (int64_t)1000000;
    write_some(1, 3, "back");
    end();
    begin();
    write_some(1, 3, "after");
    world.skew_us = 10 * (int64_t)1000000;
    write_some(1, 3, "ahead");
    see_all(1, &seen);
    assert_true(seen.clocks_rise);
    assert_int_equal(seen.valid, 12);
    assert_true(seen.clock > env_wall_us(env_real()));
}

static void a_version_vector_comes_at_least_every_10000_records(void **state)
{
    struct seen seen;
    char prefix[16];

    (void)state;
    for (int i = 0; i < 27; i++) {
        (void)snprintf(prefix, sizeof(prefix), "v%d", i);
        write_some(1, 999, prefix);
    }
    see_all(1, &seen);
    assert_int_equal(seen.valid, 27 * 999);
    assert_true(seen.vectors >= 2);
    assert_true(seen.gap_max <= VERSION_VECTOR_EVERY);
    assert_true(wal_hint(world.log, 1) > 10000);
}

static struct sequence_batch *foreign_batch(uint64_t from, uint64_t to, uint64_t clock)
{
    struct sequence_batch *batch;
    struct err err = {0};
    char id[32];

    assert_int_equal(sequence_batch_new(&batch, &world.s, &err), ERR_OK);
    batch->foreign =
        (struct foreign_run){.region = FOREIGN, .partition = 2, .from = from, .to = to};
    for (uint64_t offset = from; offset < to; offset++) {
        struct record record = {.op = RECORD_UPSERT,
                                .stamp = {.clock = clock + offset, .region = FOREIGN},
                                .origin_region = FOREIGN,
                                .origin_offset = offset,
                                .id = id};
        struct buffer bytes = {0};

        record.id_len = (size_t)snprintf(id, sizeof(id), "foreign-%d", (int)offset);
        assert_int_equal(record_encode(&record, &bytes, &err), ERR_OK);
        assert_int_equal(sequence_batch_add_encoded(batch, 2, bytes.data, bytes.len, &record, &err),
                         ERR_OK);
        buffer_free(&bytes);
    }
    return batch;
}

static void a_take_over_restores_clock_and_vectors(void **state)
{
    uint64_t future = env_wall_us(env_real()) + 500 * (uint64_t)1000000;
    struct sequence_batch *batch = foreign_batch(0, 5, future);
    struct err err = {0};
    struct seen seen;

    (void)state;
    assert_int_equal(commit(batch, &err), ERR_OK);
    assert_int_equal(batch->foreign.position, 5);
    sequence_batch_put(&world.s, batch);
    write_some(2, 1, "local");
    end(); /* writes a version vector record and a hint */
    begin();
    see_all(2, &seen);
    assert_true(seen.vectors >= 1);
    batch = foreign_batch(3, 9, future);
    assert_int_equal(commit(batch, &err), ERR_OK);
    assert_int_equal(batch->foreign.position, 9);
    assert_true(batch->items[0].skipped && batch->items[1].skipped && !batch->items[2].skipped);
    sequence_batch_put(&world.s, batch);
    write_some(2, 1, "later");
    see_all(2, &seen);
    assert_int_equal(seen.valid, 11);
    assert_true(seen.clocks_rise);
    assert_true(seen.clock > future + 8);
    /* Without the hint as well: everything is read. */
    end();
    begin();
    wal_hint_set(world.log, 2, 0);
    batch = foreign_batch(12, 13, future);
    assert_int_equal(commit(batch, &err), ERR_VERSION_CONFLICT);
    assert_int_equal(batch->foreign.position, 9);
    assert_non_null(strstr(err.message, "position 9"));
    sequence_batch_put(&world.s, batch);
}

static void a_wrong_hint_costs_time_and_nothing_else(void **state)
{
    struct wal_options options = {
        .url = world.url, .env = &world.env, .writer = true, .partitions = PARTITIONS};
    struct sequence_batch *batch;
    struct err err = {0};
    struct seen seen;

    (void)state;
    for (uint64_t hint = 1; hint < 12; hint++) {
        struct wal *log;
        char prefix[16];

        (void)snprintf(prefix, sizeof(prefix), "h%d", (int)hint);
        batch = foreign_batch(2 * (hint - 1), 2 * hint, 1000);
        assert_int_equal(commit(batch, &err), ERR_OK);
        sequence_batch_put(&world.s, batch);
        write_some(2, 1, prefix);
        end();
        assert_int_equal(wal_open(&log, &options, &err), ERR_OK);
        wal_hint_set(log, 2, hint);
        wal_close(log);
        begin();
    }
    see_all(2, &seen);
    assert_int_equal(seen.valid, 33);
    assert_true(seen.clocks_rise);
}

static void a_foreign_run_in_doubt_moves_nothing_by_itself(void **state)
{
    static const enum wal_fault FAULTS[] = {WAL_FAULT_BEFORE, WAL_FAULT_AFTER, WAL_FAULT_HALF};
    struct seen seen;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct sequence_batch *batch = foreign_batch(10 * i, 10 * i + 10, 1000000);
        struct err err = {0};
        enum err_code rc;

        wal_faulty_set(world.log, FAULTS[i], 1, 1);
        rc = commit(batch, &err);
        assert_int_equal(rc == ERR_OK, FAULTS[i] == WAL_FAULT_AFTER);
        assert_told_right(batch, rc);
        sequence_batch_put(&world.s, batch);
        wait_for(SEQUENCER_HOLDER);
        batch = foreign_batch(10 * i, 10 * i + 10, 1000000); /* the replicator tries again */
        assert_int_equal(commit(batch, &err), ERR_OK);
        assert_int_equal(batch->foreign.position, 10 * i + 10);
        sequence_batch_put(&world.s, batch);
    }
    see_all(2, &seen);
    assert_int_equal(seen.valid, 30); /* each exactly once */
}

static void a_decision_of_another_generation_is_refused(void **state)
{
    struct sequence_batch *batch = batch_of(0, 1, "first");
    struct err err = {0};
    uint64_t generation;

    (void)state;
    assert_int_equal(sequencer_check(&world.s, &generation, NULL, &err), ERR_OK);
    wal_faulty_set(world.log, WAL_FAULT_BEFORE, 1, 1);
    assert_int_equal(commit(batch, &err), ERR_UNAVAILABLE);
    sequence_batch_put(&world.s, batch);
    wait_for(SEQUENCER_HOLDER);
    batch = batch_of(0, 1, "second");
    batch->generation = generation;
    assert_int_equal(commit(batch, &err), ERR_UNAVAILABLE);
    sequence_batch_put(&world.s, batch);
}

static void a_passed_deadline_writes_nothing(void **state)
{
    struct sequence_batch *batch = batch_of(0, 1, "late");
    struct err err = {0};
    struct seen seen;
    enum err_code rc = sequencer_commit(&world.s, batch, 0, &err);

    (void)state;
    /* The appender may have been faster; what was answered has to be true. */
    assert_true(rc == ERR_TIMEOUT || rc == ERR_OK);
    write_some(0, 1, "fence");
    see_all(0, &seen);
    assert_int_equal(has(&seen, "late-0", UINT64_MAX), rc == ERR_OK);
    sequence_batch_put(&world.s, batch);
}

struct writer {
    pthread_t thread;
    unsigned number;
    unsigned acknowledged, refused;
};

static void *write_many(void *argument)
{
    struct writer *writer = argument;

    for (unsigned i = 0; i < 60; i++) {
        struct sequence_batch *batch;
        struct err err = {0};
        char prefix[32];
        enum err_code rc;

        (void)snprintf(prefix, sizeof(prefix), "w%u-%u", writer->number, i);
        batch = batch_of(i % PARTITIONS, 1, prefix);
        rc = commit(batch, &err);
        writer->acknowledged += rc == ERR_OK;
        writer->refused += rc != ERR_OK;
        sequence_batch_put(&world.s, batch);
    }
    return NULL;
}

static void counts_hold_with_many_writers_and_faults(void **state)
{
    struct writer writers[6] = {0};
    struct seen seen;
    size_t acknowledged = 0, valid = 0;

    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        writers[i].number = i;
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_many, &writers[i]), 0);
    }
    for (unsigned i = 0; i < 12; i++) {
        wal_faulty_set(world.log, 1 + i % WAL_FAULT_NO_SPACE, 2, 1);
        assert_int_equal(env_sleep_until(&world.env, env_boot_ns(&world.env) + 5 * NS_PER_MS),
                         ERR_OK);
    }
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
        acknowledged += writers[i].acknowledged;
        assert_int_equal(writers[i].acknowledged + writers[i].refused, 60);
    }
    wait_for(SEQUENCER_HOLDER);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        see_all(i, &seen);
        assert_true(seen.clocks_rise);
        valid += seen.valid;
    }
    /* Exactly what was answered 200 is there: no answer was a perhaps. */
    assert_int_equal(valid, acknowledged);
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(a_commit_is_at_the_expected_offset),
        PROMISE(every_fault_is_told_right),
        PROMISE(recovery_itself_may_fail),
        PROMISE(no_space_answers_fast_until_it_is_back),
        PROMISE(stamps_rise_when_the_clock_steps_back),
        PROMISE(a_version_vector_comes_at_least_every_10000_records),
        PROMISE(a_take_over_restores_clock_and_vectors),
        PROMISE(a_wrong_hint_costs_time_and_nothing_else),
        PROMISE(a_foreign_run_in_doubt_moves_nothing_by_itself),
        PROMISE(a_decision_of_another_generation_is_refused),
        PROMISE(a_passed_deadline_writes_nothing),
        PROMISE(counts_hold_with_many_writers_and_faults),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
