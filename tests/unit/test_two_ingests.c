/* Two sequencers over one log that has no lock: the lease keeps them from fighting, epochs decide.
 * Whatever happens, exactly what was answered 200 is valid in the log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/checked.h"
#include "services/ingest/sequencer.h"

#define PARTITIONS 3
#define WAIT_NS    (60 * NS_PER_S)
#define REGION     4242u

/* --- time that can be skipped --------------------------------------------------------------------
 */

static struct env env;
static struct env_ops ops;
static atomic_uint_fast64_t skipped_ns;

static uint64_t skipping_boot_ns(struct env *self)
{
    (void)self;
    return env_boot_ns(env_real()) + atomic_load(&skipped_ns);
}

static uint64_t to_real(uint64_t boot_ns)
{
    uint64_t skipped = atomic_load(&skipped_ns);

    return boot_ns == NEVER_NS ? NEVER_NS : boot_ns > skipped ? boot_ns - skipped : 0;
}

static enum err_code skipping_wait(struct env_cond *cond, pthread_mutex_t *mutex, uint64_t boot_ns)
{
    uint64_t until = to_real(boot_ns), soon = env_boot_ns(env_real()) + 5 * NS_PER_MS;
    enum err_code rc = env_real()->ops->cond_wait(cond, mutex, until < soon ? until : soon);

    if (rc == ERR_TIMEOUT && skipping_boot_ns(NULL) < boot_ns)
        return ERR_OK; /* woken early: time may have been skipped */
    return rc;
}

static enum err_code skipping_sleep(struct env *self, uint64_t boot_ns)
{
    (void)self;
    return env_sleep_until(env_real(), to_real(boot_ns));
}

/* --- a log in memory, with as many writers as want
 * ------------------------------------------------- */

struct cell {
    void *data;
    size_t len;
};

static struct {
    pthread_mutex_t lock;
    struct cell *cells[PARTITIONS];
    size_t counts[PARTITIONS], sizes[PARTITIONS];
} memory = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct handle {
    struct wal wal;
    atomic_bool paused; /* appends stand still, then land */
    atomic_bool lost;   /* the answer of the next append is lost on the way */
    atomic_uint waiting;
};

struct memory_reader {
    struct wal_reader reader;
    uint64_t next[PARTITIONS];
    bool wanted[PARTITIONS];
};

static uint64_t put_locked(uint32_t p, const void *data, size_t len)
{
    struct cell *grown;

    if (memory.counts[p] == memory.sizes[p]) {
        memory.sizes[p] = memory.sizes[p] == 0 ? 256 : memory.sizes[p] * 2;
        grown = array_resize(memory.cells[p], memory.sizes[p], sizeof(*grown));
        assert_non_null(grown);
        memory.cells[p] = grown;
    }
    grown = &memory.cells[p][memory.counts[p]];
    grown->data = malloc(len);
    grown->len = len;
    assert_non_null(grown->data);
    memcpy(grown->data, data, len);
    return memory.counts[p]++;
}

static enum err_code memory_append(struct wal *wal, const struct wal_entry *entries, size_t count,
                                   uint64_t deadline_ns, uint64_t *offsets, struct err *err)
{
    struct handle *handle = (struct handle *)wal;

    (void)deadline_ns;
    atomic_fetch_add(&handle->waiting, 1);
    while (atomic_load(&handle->paused))
        if (env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS) != ERR_OK)
            break;
    atomic_fetch_sub(&handle->waiting, 1);
    for (size_t i = 0; i < count; i++) { /* others' appends may come in between */
        pthread_mutex_lock(&memory.lock);
        offsets[i] = put_locked(entries[i].partition, entries[i].data, entries[i].len);
        pthread_mutex_unlock(&memory.lock);
    }
    if (atomic_exchange(&handle->lost, false))
        return err_set(err, ERR_TIMEOUT, "ordered: the answer was lost");
    return ERR_OK;
}

static enum err_code memory_recover(struct wal *wal, struct err *err)
{
    (void)wal, (void)err;
    return ERR_OK;
}

static enum err_code memory_ends(struct wal *wal, const uint32_t *partitions, size_t count,
                                 uint64_t deadline_ns, uint64_t *ends, struct err *err)
{
    (void)wal, (void)deadline_ns, (void)err;
    pthread_mutex_lock(&memory.lock);
    for (size_t i = 0; i < count; i++)
        ends[i] = memory.counts[partitions[i]];
    pthread_mutex_unlock(&memory.lock);
    return ERR_OK;
}

static enum err_code memory_first(struct wal *wal, uint32_t partition, uint64_t *first,
                                  struct err *err)
{
    (void)wal, (void)partition, (void)err;
    *first = 0;
    return ERR_OK;
}

static void memory_hint_set(struct wal *wal, uint32_t partition, uint64_t position)
{
    (void)wal, (void)partition, (void)position;
}

static uint64_t memory_hint(struct wal *wal, uint32_t partition)
{
    (void)wal, (void)partition;
    return 0;
}

static void memory_space(struct wal *wal, uint64_t *used_bytes, uint64_t *free_bytes)
{
    (void)wal;
    *used_bytes = *free_bytes = 0;
}

static enum err_code memory_reader_open(struct wal_reader **out, struct wal *wal,
                                        const uint32_t *partitions, const uint64_t *positions,
                                        size_t count, struct err *err)
{
    struct memory_reader *reader = calloc(1, sizeof(*reader));

    (void)err;
    assert_non_null(reader);
    reader->reader.ops = wal->ops;
    for (size_t i = 0; i < count; i++) {
        reader->wanted[partitions[i]] = true;
        reader->next[partitions[i]] = positions[i];
    }
    *out = &reader->reader;
    return ERR_OK;
}

static enum err_code memory_reader_next(struct wal_reader *wal_reader, struct wal_item *items,
                                        size_t max, size_t *count, uint64_t deadline_ns,
                                        struct err *err)
{
    struct memory_reader *reader = (struct memory_reader *)wal_reader;

    (void)err;
    while (*count == 0 && skipping_boot_ns(NULL) < deadline_ns) {
        pthread_mutex_lock(&memory.lock);
        for (uint32_t p = 0; p < PARTITIONS; p++)
            while (reader->wanted[p] && *count < max && reader->next[p] < memory.counts[p]) {
                const struct cell *cell = &memory.cells[p][reader->next[p]];

                items[(*count)++] = (struct wal_item){.partition = p,
                                                      .offset = reader->next[p]++,
                                                      .data = cell->data,
                                                      .len = cell->len};
            }
        pthread_mutex_unlock(&memory.lock);
        if (*count == 0 &&
            env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS) != ERR_OK)
            break;
    }
    return ERR_OK;
}

static void memory_reader_close(struct wal_reader *reader)
{
    free(reader);
}

static void memory_close(struct wal *wal)
{
    (void)wal; /* the world's */
}

static const struct wal_ops MEMORY_OPS = {
    .scheme = "memory",
    .close = memory_close,
    .append = memory_append,
    .recover = memory_recover,
    .ends = memory_ends,
    .first = memory_first,
    .hint_set = memory_hint_set,
    .hint = memory_hint,
    .space = memory_space,
    .reader_open = memory_reader_open,
    .reader_next = memory_reader_next,
    .reader_close = memory_reader_close,
};

/* --- the world -----------------------------------------------------------------------------------
 */

static struct handle handles[2];
static struct sequencer ingests[2];
static struct meta *meta;

/* The ingests' ways to the metadata store, which may be away, for reading and for writing; what B
 * reads, and would have written then, is counted. */
static struct meta doors[2];
static atomic_bool reads_fail, writes_fail;
static atomic_uint fails_of_b, reads_of_b, takes_of_b;

static enum err_code failing_get(struct meta *door, const char *key, uint64_t until_ns,
                                 struct meta_row *row, struct err *err)
{
    (void)until_ns;
    if (atomic_load(&reads_fail)) {
        atomic_fetch_add(&fails_of_b, door == &doors[1]);
        return err_set(err, ERR_UNAVAILABLE, "away");
    }
    atomic_fetch_add(&reads_of_b, door == &doors[1]);
    return meta_get(meta, key, row, err);
}

static enum err_code failing_put(struct meta *door, const struct meta_put *put, uint64_t *version,
                                 struct err *err)
{
    (void)door;
    if (!atomic_load(&writes_fail))
        return meta_put(meta, put, version, err);
    if (memmem(put->value, put->value_len, "http://b", 8) != NULL)
        atomic_fetch_add(&takes_of_b, 1);
    return err_set(err, ERR_UNAVAILABLE, "away");
}

static const struct meta_ops DOOR_OPS = {.get = failing_get, .put = failing_put};
static struct meta doors[2] = {{.ops = &DOOR_OPS, .env = &env}, {.ops = &DOOR_OPS, .env = &env}};

static enum err_code open_handle(void *context, struct wal **out, struct err *err)
{
    struct handle *handle = context;

    (void)err;
    handle->wal =
        (struct wal){.ops = &MEMORY_OPS, .env = &env, .partitions = PARTITIONS, .region = REGION};
    *out = &handle->wal;
    return ERR_OK;
}

static enum sequencer_state state_of(int i)
{
    enum sequencer_state state;

    pthread_mutex_lock(&ingests[i].lock);
    state = ingests[i].state;
    pthread_mutex_unlock(&ingests[i].lock);
    return state;
}

static void wait_for(int i, enum sequencer_state wanted)
{
    uint64_t end = env_boot_ns(env_real()) + WAIT_NS;

    while (state_of(i) != wanted) {
        assert_true(env_boot_ns(env_real()) < end);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
    }
}

static void begin(int i)
{
    struct sequencer_setup setup = {.env = &env,
                                    .meta = &doors[i],
                                    .url = i == 0 ? "http://a" : "http://b",
                                    .open_wal = open_handle,
                                    .open_wal_context = &handles[i]};
    struct err err = {0};

    assert_int_equal(sequencer_open(&ingests[i], &setup, &err), ERR_OK);
    assert_int_equal(sequencer_start(&ingests[i], &err), ERR_OK);
}

static int set_up(void **state)
{
    struct err err = {0};

    (void)state;
    ops = *env_real()->ops;
    ops.boot_ns = skipping_boot_ns;
    ops.cond_wait = skipping_wait;
    ops.sleep_until = skipping_sleep;
    env.ops = &ops;
    atomic_store(&skipped_ns, 0);
    memset(handles, 0, sizeof(handles));
    assert_int_equal(meta_open(&meta, "memory:", &env, &err), ERR_OK);
    begin(0);
    wait_for(0, SEQUENCER_HOLDER);
    begin(1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        atomic_store(&handles[i].paused, false);
        sequencer_close(&ingests[i]);
    }
    meta_close(meta);
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        for (size_t i = 0; i < memory.counts[p]; i++)
            free(memory.cells[p][i].data);
        free(memory.cells[p]);
        memory.cells[p] = NULL;
        memory.counts[p] = memory.sizes[p] = 0;
    }
    return 0;
}

static enum err_code write_until(int i, uint32_t partition, const char *id, uint64_t generation,
                                 uint64_t deadline_ns)
{
    struct record record = {.op = RECORD_UPSERT, .id = id, .id_len = strlen(id)};
    struct sequence_batch *batch;
    struct err err = {0};
    enum err_code rc;

    assert_int_equal(sequence_batch_new(&batch, &ingests[i], &err), ERR_OK);
    assert_int_equal(sequence_batch_add(batch, partition, &record, &err), ERR_OK);
    batch->generation = generation;
    rc = sequencer_commit(&ingests[i], batch, deadline_ns, &err);
    sequence_batch_put(&ingests[i], batch);
    return rc;
}

/* What depends on a decision that was made in that generation. */
static enum err_code write_decided(int i, uint32_t partition, const char *id, uint64_t generation)
{
    return write_until(i, partition, id, generation, skipping_boot_ns(NULL) + WAIT_NS);
}

static enum err_code write_one(int i, uint32_t partition, const char *id)
{
    return write_decided(i, partition, id, 0);
}

/* Valid upserts, all partitions; id: only those of this id.  Local stamps must rise. */
static size_t count_valid(const char *id)
{
    size_t valid = 0;

    pthread_mutex_lock(&memory.lock);
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        struct epoch_state epochs = {0};
        uint64_t clock = 0;

        for (size_t i = 0; i < memory.counts[p]; i++) {
            struct record record;

            assert_int_equal(
                record_decode(&record, memory.cells[p][i].data, memory.cells[p][i].len, NULL, NULL),
                ERR_OK);
            if (!epoch_admit(&epochs, &record, i))
                continue;
            if (record.op == RECORD_EPOCH) /* stamped before what lands in front of it is known */
                continue;
            assert_true(record.stamp.clock > clock);
            clock = record.stamp.clock;
            valid += record.op == RECORD_UPSERT &&
                     (id == NULL ||
                      (strlen(id) == record.id_len && memcmp(id, record.id, record.id_len) == 0));
        }
    }
    pthread_mutex_unlock(&memory.lock);
    return valid;
}

/* --- promises ------------------------------------------------------------------------------------
 */

static void a_standby_waits_while_the_lease_is_renewed(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        struct err err = {0};
        uint64_t version, later, end = env_boot_ns(env_real()) + WAIT_NS;

        assert_int_equal(meta_version(meta, &version, &err), ERR_OK);
        atomic_fetch_add(&skipped_ns, NS_PER_S + NS_PER_S / 10);
        do { /* the holder renews */
            assert_true(env_boot_ns(env_real()) < end);
            assert_int_equal(meta_version(meta, &later, &err), ERR_OK);
        } while (later == version);
        assert_int_equal(state_of(1), SEQUENCER_STANDBY);
    }
    assert_int_equal(write_one(0, 0, "a"), ERR_OK);
    assert_int_equal(write_one(1, 0, "b"), ERR_READ_ONLY);
    assert_int_equal(count_valid(NULL), 1);
}

/* Until B has asked again, and has done what follows from the answer. */
static void wait_for_b(atomic_uint *count)
{
    uint64_t end = env_boot_ns(env_real()) + WAIT_NS;
    unsigned wanted = atomic_load(count) + 2; /* the second is asked behind the first */

    while (atomic_load(count) < wanted) {
        assert_true(env_boot_ns(env_real()) < end);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
    }
}

static void wait_for_version_above(uint64_t version)
{
    uint64_t end = env_boot_ns(env_real()) + WAIT_NS, later = version;
    struct err err = {0};

    while (later == version) {
        assert_true(env_boot_ns(env_real()) < end);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
        assert_int_equal(meta_version(meta, &later, &err), ERR_OK);
    }
}

/* Its holder could not renew it, and has to have the time to do so. */
static void an_outage_of_the_metadata_store_takes_the_lease_from_nobody(void **state)
{
    struct err err = {0};
    uint64_t version;

    (void)state;
    wait_for_b(&reads_of_b); /* it has seen the lease */
    atomic_store(&writes_fail, true);
    atomic_store(&reads_fail, true);
    wait_for_b(&fails_of_b);
    atomic_fetch_add(&skipped_ns, 10 * NS_PER_S);
    wait_for_b(&fails_of_b);
    atomic_store(&reads_fail, false);
    wait_for_b(&reads_of_b); /* and no longer: A's time has begun anew, and ends */
    assert_int_equal(atomic_load(&takes_of_b), 0);
    assert_int_equal(meta_version(meta, &version, &err), ERR_OK);
    atomic_store(&writes_fail, false);
    wait_for_version_above(version);
    assert_int_equal(state_of(0), SEQUENCER_HOLDER);
    assert_int_equal(state_of(1), SEQUENCER_STANDBY);
    assert_int_equal(write_one(0, 0, "a"), ERR_OK);
}

static void *write_paused(void *argument)
{
    *(enum err_code *)argument = write_one(0, 1, "paused");
    return NULL;
}

/* B takes the lease although A lives: as after a pause of A, or of its metadata store. */
static void steal_lease(void)
{
    struct err err = {0};

    assert_int_equal(meta_delete(meta, "lease", META_ANY, &err), ERR_OK);
}

/* The same, for that ingest; what it has already stays. */
static void steal_lease_for(int i)
{
    struct meta_row row = {0};
    struct err err = {0};
    enum err_code rc = meta_get(meta, "lease", &row, &err);

    if (rc == ERR_NOT_FOUND)
        return;
    assert_int_equal(rc, ERR_OK);
    if (strstr(row.value, i == 0 ? "http://a" : "http://b") == NULL) {
        rc = meta_delete(meta, "lease", row.version, &err);
        assert_true(rc == ERR_OK || rc == ERR_CONFLICT); /* renewed, or taken, meanwhile */
    }
    meta_row_free(&row);
}

static void a_write_that_lands_behind_the_next_holder_is_void(void **state)
{
    pthread_t thread;
    enum err_code rc = ERR_OK;

    (void)state;
    assert_int_equal(write_one(0, 1, "before"), ERR_OK);
    atomic_store(&handles[0].paused, true);
    assert_int_equal(pthread_create(&thread, NULL, write_paused, &rc), 0);
    while (atomic_load(&handles[0].waiting) == 0)
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
    /* A may take it back, when it was just about to renew it. */
    for (unsigned i = 0; state_of(1) != SEQUENCER_HOLDER; i++) {
        assert_true(i < 6000);
        if (i % 50 == 0)
            steal_lease_for(1);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + 10 * NS_PER_MS),
                         ERR_OK);
    }
    assert_int_equal(write_one(1, 1, "after"), ERR_OK);
    atomic_store(&handles[0].paused, false);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_not_equal(rc, ERR_OK);
    wait_for(0, SEQUENCER_STANDBY);
    assert_int_equal(count_valid("before"), 1);
    assert_int_equal(count_valid("paused"), 0);
    assert_int_equal(count_valid("after"), 1);
    assert_int_equal(write_one(1, 1, "more"), ERR_OK);
    assert_int_equal(count_valid(NULL), 3);
}

/* Steal the lease until that ingest has it and the other one stands by. */
static void hand_over_to(int i)
{
    uint64_t end = env_boot_ns(env_real()) + WAIT_NS;

    while (state_of(i) != SEQUENCER_HOLDER || state_of(1 - i) != SEQUENCER_STANDBY) {
        assert_true(env_boot_ns(env_real()) < end);
        if (state_of(i) != SEQUENCER_HOLDER)
            steal_lease_for(i);
        atomic_fetch_add(&skipped_ns, NS_PER_S / 4);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + 10 * NS_PER_MS),
                         ERR_OK);
    }
}

static uint64_t generation_of(int i)
{
    struct err err = {0};
    uint64_t generation;

    assert_int_equal(sequencer_check(&ingests[i], &generation, NULL, &err), ERR_OK);
    return generation;
}

static void a_decision_from_before_a_hand_over_and_back_is_refused(void **state)
{
    uint64_t before = generation_of(0);

    (void)state;
    /* A finds no "x".  B holds the log for a while, and makes it.  Then A does, as it decided. */
    hand_over_to(1);
    assert_int_equal(write_one(1, 0, "x"), ERR_OK);
    hand_over_to(0);
    assert_int_equal(write_decided(0, 0, "x", before), ERR_UNAVAILABLE);
    assert_int_equal(count_valid("x"), 1);
    /* What is decided now is taken, and so is what depends on nothing. */
    assert_int_equal(write_decided(0, 0, "y", generation_of(0)), ERR_OK);
    assert_int_equal(write_one(0, 0, "x"), ERR_OK);
    assert_int_equal(count_valid("x"), 2);
}

struct decided {
    pthread_t thread;
    const char *id;
    uint64_t generation, deadline_ns;
    enum err_code rc;
};

static void *write_decision(void *argument)
{
    struct decided *decided = argument;

    decided->rc = write_until(0, 0, decided->id, decided->generation, decided->deadline_ns);
    return NULL;
}

/* A thread of its own writes to ingest 0, until it stands in the log's door or in the queue. */
static void write_apart(struct decided *decided, bool queued)
{
    uint64_t end = env_boot_ns(env_real()) + WAIT_NS;
    bool there = false;

    assert_int_equal(pthread_create(&decided->thread, NULL, write_decision, decided), 0);
    while (!there) {
        assert_true(env_boot_ns(env_real()) < end);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
        pthread_mutex_lock(&ingests[0].lock);
        there = queued ? ingests[0].queue.count == 1 : atomic_load(&handles[0].waiting) > 0;
        pthread_mutex_unlock(&ingests[0].lock);
    }
}

/* While an append's answer is lost, another holder may have come and gone. */
static void a_decision_that_is_queued_during_a_recovery_is_refused(void **state)
{
    struct decided first = {.id = "first", .deadline_ns = NEVER_NS}, decided = first, plain = first;

    (void)state;
    atomic_store(&handles[0].paused, true);
    write_apart(&first, false);
    decided.id = "decided";
    decided.generation = generation_of(0);
    write_apart(&decided, true);
    atomic_store(&handles[0].lost, true);
    atomic_store(&handles[0].paused, false);
    assert_int_equal(pthread_join(decided.thread, NULL), 0);
    assert_int_equal(pthread_join(first.thread, NULL), 0);
    plain.id = "plain";
    plain.rc = write_one(0, 0, plain.id);
    assert_int_equal(first.rc, ERR_OK);
    assert_int_equal(decided.rc, ERR_UNAVAILABLE);
    assert_int_equal(plain.rc, ERR_OK);
    assert_int_equal(count_valid("first"), 1);
    assert_int_equal(count_valid("decided"), 0);
    assert_int_equal(count_valid("plain"), 1);
}

/* A log that hangs: who wrote gives up, and with it the id.  The next one finds no "x". */
static void a_decision_made_behind_a_write_that_was_given_up_is_refused(void **state)
{
    struct decided first = {.id = "x"}, decided = {.id = "x", .deadline_ns = NEVER_NS};

    (void)state;
    sequencer_close(&ingests[1]);
    atomic_store(&handles[0].paused, true);
    first.deadline_ns = skipping_boot_ns(NULL) + NS_PER_S;
    write_apart(&first, false);
    atomic_fetch_add(&skipped_ns, OUTCOME_GRACE_NS + 2 * NS_PER_S);
    assert_int_equal(pthread_join(first.thread, NULL), 0);
    assert_int_equal(first.rc, ERR_UNKNOWN_OUTCOME);
    decided.generation = generation_of(0);
    write_apart(&decided, true);
    atomic_store(&handles[0].paused, false);
    assert_int_equal(pthread_join(decided.thread, NULL), 0);
    assert_int_equal(decided.rc, ERR_UNAVAILABLE);
    assert_int_equal(count_valid("x"), 1);
    assert_int_equal(write_decided(0, 0, "x", generation_of(0)), ERR_OK);
}

struct writer {
    pthread_t thread;
    unsigned number, acknowledged;
};

static void *write_many(void *argument)
{
    struct writer *writer = argument;

    for (unsigned i = 0; i < 150; i++) {
        char id[32];

        (void)snprintf(id, sizeof(id), "w%u-%u", writer->number, i);
        writer->acknowledged += write_one((int)(writer->number % 2), i % PARTITIONS, id) == ERR_OK;
        if (env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS) != ERR_OK)
            break;
    }
    return NULL;
}

static void two_that_fight_acknowledge_exactly_what_is_valid(void **state)
{
    struct writer writers[6] = {0};
    size_t acknowledged = 0;

    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        writers[i].number = i;
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_many, &writers[i]), 0);
    }
    for (unsigned i = 0; i < 25; i++) {
        steal_lease();
        if (i % 3 == 0)
            atomic_store(&handles[i / 3 % 2].lost, true);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + 8 * NS_PER_MS),
                         ERR_OK);
    }
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
        acknowledged += writers[i].acknowledged;
    }
    atomic_store(&handles[0].lost, false);
    atomic_store(&handles[1].lost, false);
    for (int i = 0; i < 2; i++)
        sequencer_close(&ingests[i]);
    print_message("%zu of 900 acknowledged\n", acknowledged);
    assert_true(acknowledged > 0);
    assert_int_equal(count_valid(NULL), acknowledged);
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(a_standby_waits_while_the_lease_is_renewed),
        PROMISE(an_outage_of_the_metadata_store_takes_the_lease_from_nobody),
        PROMISE(a_write_that_lands_behind_the_next_holder_is_void),
        PROMISE(a_decision_from_before_a_hand_over_and_back_is_refused),
        PROMISE(a_decision_that_is_queued_during_a_recovery_is_refused),
        PROMISE(a_decision_made_behind_a_write_that_was_given_up_is_refused),
        PROMISE(two_that_fight_acknowledge_exactly_what_is_valid),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
