/* Whatever call fails on the way to the disk, once or from then on: of the log, of a shard's store
 * and of the spool nothing acknowledged is lost, every failure is told with a code and a reason,
 * and what is opened afterwards goes on.
 *
 * Each subject does its work with the first call of a kind failing, then the second, until there is
 * none left (failing_calls.h).
 *
 * link-flags: -Wl,--wrap=malloc -Wl,--wrap=calloc -Wl,--wrap=realloc -Wl,--wrap=strdup */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/failing_calls.h"
#include "tests/unit/verify_rig.h"

/* --- the loop -------------------------------------------------------------------------------- */

#define CALLS_MAX 3000u

struct subject {
    unsigned sync_at;    /* see fault */
    void (*begin)(void); /* nothing is there */
    void (*work)(void);  /* ends in time whatever fails, with everything closed */
    void (*check)(void); /* nothing fails any more */
};

static char base_folder[120], folder[160];
static struct rig rig; /* whose log a shard applies */

/* A failure is told. */
static bool went(enum err_code code, const struct err *err)
{
    if (code == ERR_OK)
        return true;
    if (err->code != code || err->message[0] == '\0')
        fail_msg("%s %u: code %d (%s) and the error says %d, \"%s\"", kind_names[fault.kind],
                 fault.at, code, err_word(code), err->code, err->message);
    return false;
}

static void make_folder(void)
{
    assert_true(scratch_remove(folder) == 0 || errno == ENOENT);
    assert_int_equal(mkdir(folder, 0755), 0);
}

static void try_one(const struct subject *subject, unsigned at, bool stays)
{
    make_folder();
    subject->begin();
    fault.at = at;
    fault.stays = stays;
    fault.calls = fault.syncs = 0;
    fault.sync_at = subject->sync_at;
    fault.is_on = true;
    subject->work();
    fault.is_on = false;
    subject->check();
}

static void try_all(const struct subject *subject)
{
    for (fault.kind = 0; fault.kind < KIND_COUNT; fault.kind++) {
        unsigned at = 1, step = 1;

        do {
            try_one(subject, at, false);
            try_one(subject, at, true);
            at += step;
            /* Far behind, they are like those before. */
            step = at < 60 ? 1 : IS_SANITIZED ? at / 4 : at / 20;
        } while (fault.calls >= fault.at && at < CALLS_MAX);
        print_message("%s: %u\n", kind_names[fault.kind], fault.calls);
        assert_true(at < CALLS_MAX);
    }
}

/* --- the log --------------------------------------------------------------------------------- */

#define WAL_PARTITIONS 2u
#define SERIALS        400u

/* Entries have a serial number each; where it was acknowledged, it is there. */
static struct {
    uint32_t given; /* serials 1..given */
    struct {
        uint32_t partition;
        uint64_t offset;
        bool is_kept;
    } serials[SERIALS];
    uint64_t trimmed[WAL_PARTITIONS]; /* what was asked for, whatever became of it */
} logged;

static enum err_code log_open(struct wal **out, struct err *err)
{
    char url[200];
    struct wal_options options = {.url = url,
                                  .env = env_real(),
                                  .writer = true,
                                  .partitions = WAL_PARTITIONS,
                                  .segment_bytes = 1024};

    snprintf(url, sizeof(url), "file:%s/wal", folder);
    return wal_open(out, &options, err);
}

static enum err_code log_append(struct wal *wal, size_t count, struct err *err)
{
    uint32_t serials[16][40];
    struct wal_entry entries[16] = {0};
    uint64_t offsets[16];
    uint32_t first = logged.given + 1;
    enum err_code code;

    for (size_t i = 0; i < count; i++) {
        uint32_t serial = ++logged.given;

        assert_true(serial < SERIALS);
        for (size_t j = 0; j < ARRAY_COUNT(serials[i]); j++)
            serials[i][j] = serial;
        entries[i] = (struct wal_entry){.partition = serial % WAL_PARTITIONS,
                                        .data = serials[i],
                                        .len = sizeof(serials[i]) - serial % 100};
    }
    code = wal_append(wal, entries, count, NEVER_NS, offsets, err);
    for (size_t i = 0; i < count && code == ERR_OK; i++) {
        logged.serials[first + i].partition = entries[i].partition;
        logged.serials[first + i].offset = offsets[i];
        logged.serials[first + i].is_kept = true;
    }
    return code;
}

static void wal_begin(void)
{
    memset(&logged, 0, sizeof(logged));
}

static void wal_work_life(void)
{
    static const size_t counts[] = {1, 5, 12, 2, 7};
    struct wal *wal = NULL;
    struct err err = {0};
    enum err_code code = ERR_IO;

    for (int i = 0; i < 3 && code != ERR_OK; i++)
        if (!went(code = log_open(&wal, &err), &err))
            assert_null(wal);
    for (size_t i = 0; i < ARRAY_COUNT(counts) && code == ERR_OK; i++) {
        if (went(log_append(wal, counts[i], &err), &err))
            continue;
        assert_int_equal(log_append(wal, 1, &err), ERR_READ_ONLY);
        code = ERR_IO;
        for (int j = 0; j < 3 && code != ERR_OK; j++)
            (void)went(code = wal_recover(wal, &err), &err);
    }
    wal_close(wal);
}

static void wal_work(void)
{
    wal_work_life();
    wal_work_life();
}

/* What was acknowledged of the first life goes. */
static void wal_work_trim(void)
{
    struct wal *wal = NULL;
    struct err err = {0};
    enum err_code code;

    wal_work_life();
    for (uint32_t serial = 1; serial <= logged.given; serial++)
        if (logged.serials[serial].is_kept)
            logged.trimmed[logged.serials[serial].partition] = logged.serials[serial].offset;
    if (went(log_open(&wal, &err), &err)) {
        code = wal_trim(wal, logged.trimmed, &err);
        (void)went(code, &err);
        if (code != ERR_OK)
            (void)went(wal_trim(wal, logged.trimmed, &err), &err);
        (void)went(log_append(wal, 2, &err), &err);
    }
    wal_close(wal);
    wal_work_life();
}

static void wal_check_items(struct wal *wal)
{
    uint32_t partitions[WAL_PARTITIONS] = {0, 1}, seen[SERIALS] = {0};
    uint64_t positions[WAL_PARTITIONS] = {0, 0};
    struct wal_reader *reader;
    struct wal_item items[16];
    size_t count;
    struct err err = {0};

    for (uint32_t p = 0; p < WAL_PARTITIONS; p++) {
        must(wal_first(wal, p, &positions[p], &err), &err);
        assert_true(positions[p] == 0 || positions[p] == logged.trimmed[p]);
    }
    must(wal_reader_open(&reader, wal, partitions, positions, WAL_PARTITIONS, &err), &err);
    do {
        must(wal_reader_next(reader, items, 16, &count, 0, &err), &err);
        for (size_t i = 0; i < count; i++) {
            uint32_t serial;

            memcpy(&serial, items[i].data, sizeof(serial));
            assert_in_range(serial, 1, logged.given);
            assert_int_equal(seen[serial]++, 0);
            assert_int_equal(items[i].partition, serial % WAL_PARTITIONS);
            assert_true(!logged.serials[serial].is_kept ||
                        logged.serials[serial].offset == items[i].offset);
        }
    } while (count > 0);
    wal_reader_close(reader);
    for (uint32_t serial = 1; serial <= logged.given; serial++)
        if (logged.serials[serial].is_kept && seen[serial] != 1 &&
            logged.serials[serial].offset >= positions[logged.serials[serial].partition])
            fail_msg("%s %u%s: entry %u is lost", kind_names[fault.kind], fault.at,
                     fault.stays ? " and on" : "", serial);
}

static void wal_check(void)
{
    struct wal *wal;
    struct err err = {0};

    must(log_open(&wal, &err), &err);
    wal_check_items(wal);
    must(log_append(wal, 3, &err), &err);
    wal_close(wal);
    must(log_open(&wal, &err), &err);
    wal_check_items(wal);
    wal_close(wal);
}

static void nothing_acknowledged_by_the_log_is_lost(void **state)
{
    static const struct subject subject = {0, wal_begin, wal_work, wal_check};

    (void)state;
    try_all(&subject);
}

/* What goes, goes whole: it is all there, or the log begins where it was told to. */
static void a_trimming_that_fails_loses_nothing_else(void **state)
{
    static const struct subject subject = {0, wal_begin, wal_work_trim, wal_check};

    (void)state;
    try_all(&subject);
}

/* A sync in the midst of an append, behind a segment that it began, fails first. */
static void nothing_is_lost_when_the_recovery_of_the_log_fails(void **state)
{
    static const struct subject subject = {12, wal_begin, wal_work, wal_check};

    (void)state;
    try_all(&subject);
}

/* --- a shard's store ------------------------------------------------------------------------- */

#define ITEMS_MAX 400u
#define AT_ONCE   24u

static struct {
    struct wal_item items[ITEMS_MAX]; /* of the rig's log, their bytes owned */
    size_t count;
    struct apply_counts counts[RIG_PARTITIONS]; /* when all is applied */
} script;

static enum err_code store_open_here(struct store **out, struct err *err)
{
    char url[200];
    struct store_options options = {.url = url, .env = env_real(), .map_bytes = MIB(64)};

    snprintf(url, sizeof(url), "lmdb:%s/store", folder);
    return store_open(out, &options, err);
}

/* Load, or begin. */
static enum err_code load(struct apply *apply, struct store *store, struct err *err)
{
    struct apply_origin origin = {.region = rig.collection.created.region};
    enum err_code code = apply_load(apply, store, err);

    partition_set_fill(&origin.served, RIG_PARTITIONS);
    return code == ERR_NOT_FOUND ? apply_create(apply, store, &origin, err) : code;
}

/* The next records, in one commit.  Those that were applied before change nothing. */
static enum err_code commit_some(struct apply *apply, size_t from, struct err *err)
{
    struct apply_effects effects = {0};
    struct store_txn *txn = NULL;
    enum err_code code = store_begin(&txn, apply->store, true, err);

    for (size_t i = from; code == ERR_OK && i < from + AT_ONCE && i < script.count; i++) {
        struct apply_input input = rig_input(&rig, &script.items[i]);

        code = apply_record(apply, txn, &input, &effects, err);
    }
    if (code == ERR_OK)
        code = apply_flush(apply, txn, err);
    if (code == ERR_OK) {
        code = store_commit(txn, err);
        txn = NULL;
    }
    if (code == ERR_OK)
        apply_clean(apply);
    store_abort(txn);
    apply_effects_free(&effects);
    return code;
}

/* As far as it goes.  Returns whether all was applied. */
static bool apply_life(struct err *err)
{
    struct apply apply = {0};
    struct store *store = NULL;
    enum err_code code = store_open_here(&store, err);

    if (code == ERR_OK)
        code = load(&apply, store, err);
    for (size_t at = 0; code == ERR_OK && at < script.count; at += AT_ONCE)
        code = commit_some(&apply, at, err);
    if (code == ERR_OK)
        code = apply_take_life(&apply, err);
    if (code == ERR_OK)
        for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
            assert_memory_equal(&apply.partitions[p].counts, &script.counts[p],
                                sizeof(script.counts[p]));
    (void)went(code, err);
    apply_free(&apply);
    store_close(store);
    return code == ERR_OK;
}

static void shard_begin(void)
{
}

static void shard_work(void)
{
    struct err err = {0};

    for (int i = 0; i < 3 && !apply_life(&err); i++)
        continue;
}

static void look_find(void *state, const struct scrub_finding *finding)
{
    (void)state;
    fail_msg("%s %u%s: %s", kind_names[fault.kind], fault.at, fault.stays ? " and on" : "",
             finding->text);
}

static void shard_look(void)
{
    struct scrub scrub = {.find = look_find, .go_on = rig_go_on};
    struct shard_verify_setup setup = {.data = folder, .env = env_real(), .scrub = &scrub};
    struct shard_verify *verify = NULL;
    struct err err = {0};
    enum err_code code = shard_verify_open(&verify, &setup, &err);

    if (code != ERR_NOT_FOUND)
        must(code, &err);
    shard_verify_close(verify);
}

static void shard_check(void)
{
    struct err err = {0};

    shard_look();
    if (!apply_life(&err))
        fail_msg("%s %u: %s", kind_names[fault.kind], fault.at, err.message);
    shard_look();
}

static void a_shards_store_is_what_the_log_says_or_a_prefix(void **state)
{
    static const struct subject subject = {0, shard_begin, shard_work, shard_check};
    struct apply apply = {0};
    struct store *store;
    struct err err = {0};

    (void)state;
    make_folder();
    must(store_open_here(&store, &err), &err);
    must(load(&apply, store, &err), &err);
    for (size_t at = 0; at < script.count; at += AT_ONCE)
        must(commit_some(&apply, at, &err), &err);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        script.counts[p] = apply.partitions[p].counts;
    apply_free(&apply);
    store_close(store);
    try_all(&subject);
}

/* --- the spool ------------------------------------------------------------------------------- */

#define IDS 5u

static struct {
    unsigned value;                               /* given last */
    unsigned kept[IDS], given[IDS], settled[IDS]; /* the newest of each id */
} spooled;

static enum err_code open_spool(struct spool **out, struct err *err)
{
    char url[200];
    struct spool_setup setup = {.env = env_real(), .url = url, .bytes_max = MIB(1)};

    snprintf(url, sizeof(url), "lmdb:%s/spool", folder);
    return spool_open(out, &setup, err);
}

static enum err_code put(struct spool *spool, unsigned id, struct err *err)
{
    static const char text[700];
    uint8_t bytes[1024];
    struct buffer record_bytes = {.data = bytes, .size = sizeof(bytes)}; /* room enough */
    char name[16];
    struct record record = {.op = RECORD_UPSERT,
                            .id = name,
                            .origin_offset = OFFSET_NONE,
                            .text = text,
                            .text_len = sizeof(text)};
    unsigned value = ++spooled.value;
    struct spool_row row = {.wall_us = 5, .stamp = {.clock = value, .region = 1}};
    enum err_code code;

    record.id_len = (size_t)snprintf(name, sizeof(name), "id%u", id);
    assert_int_equal(record_encode(&record, &record_bytes, err), ERR_OK);
    assert_ptr_equal(record_bytes.data, bytes);
    snprintf(row.tenant, sizeof(row.tenant), "default");
    snprintf(row.collection, sizeof(row.collection), "c");
    row.id = name;
    row.id_len = record.id_len;
    row.record = bytes;
    row.record_len = record_bytes.len;
    code = spool_put(spool, &row, 1, err);
    if (code == ERR_OK)
        spooled.kept[id] = value;
    if (code == ERR_OK || code == ERR_UNKNOWN_OUTCOME)
        spooled.given[id] = value;
    return code;
}

static enum err_code settle(struct spool *spool, struct err *err)
{
    static const enum spool_fate fates[2] = {SPOOL_APPENDED, SPOOL_APPENDED};
    struct arena arena = {0};
    struct spool_row *rows;
    size_t count;
    enum err_code code = spool_read(spool, &arena, 2, MIB(1), &rows, &count, err);

    for (size_t i = 0; i < count && code == ERR_OK; i++)
        spooled.settled[rows[i].id[2] - '0'] = (unsigned)rows[i].stamp.clock;
    if (code == ERR_OK)
        code = spool_settle(spool, rows, fates, count, err);
    arena_free(&arena);
    return code;
}

static void spool_begin_one(void)
{
    memset(&spooled, 0, sizeof(spooled));
}

static void spool_work(void)
{
    struct spool *spool = NULL;
    struct err err = {0};
    enum err_code code = ERR_IO;

    for (int i = 0; i < 3 && code != ERR_OK; i++)
        if (!went(code = open_spool(&spool, &err), &err))
            assert_null(spool);
    for (unsigned i = 0; i < 16 && code == ERR_OK; i++) {
        if (!went(put(spool, i * 3 % IDS, &err), &err))
            (void)went(spool_mend(spool, &err), &err);
        if (i % 6 == 5 && !went(settle(spool, &err), &err))
            (void)went(spool_mend(spool, &err), &err);
    }
    spool_close(spool);
}

static void spool_check_rows(struct spool *spool)
{
    struct arena arena = {0};
    struct spool_row *rows;
    unsigned values[IDS] = {0};
    size_t count;
    struct err err = {0};

    must(spool_read(spool, &arena, 100, MIB(1), &rows, &count, &err), &err);
    for (size_t i = 0; i < count; i++) {
        assert_non_null(rows[i].record);
        values[rows[i].id[2] - '0'] = (unsigned)rows[i].stamp.clock;
    }
    for (unsigned id = 0; id < IDS; id++) {
        bool is_settled = spooled.settled[id] >= spooled.kept[id];

        if ((values[id] < spooled.kept[id] && !(values[id] == 0 && is_settled)) ||
            values[id] > spooled.given[id])
            fail_msg("%s %u%s, id %u: value %u, %u was acknowledged, %u given, %u settled",
                     kind_names[fault.kind], fault.at, fault.stays ? " and on" : "", id, values[id],
                     spooled.kept[id], spooled.given[id], spooled.settled[id]);
    }
    arena_free(&arena);
}

static void spool_check(void)
{
    struct scrub scrub = {.find = look_find, .go_on = rig_go_on};
    struct spool_verified found;
    struct spool *spool;
    char path[200];
    struct err err = {0};
    enum err_code code;

    snprintf(path, sizeof(path), "%s/spool", folder);
    code = spool_verify(path, env_real(), &scrub, &found, &err);
    if (code != ERR_NOT_FOUND)
        must(code, &err);
    must(open_spool(&spool, &err), &err);
    spool_check_rows(spool);
    must(put(spool, 1, &err), &err);
    spool_close(spool);
    must(open_spool(&spool, &err), &err);
    spool_check_rows(spool);
    spool_close(spool);
}

static void nothing_acknowledged_by_the_spool_is_lost(void **state)
{
    static const struct subject subject = {0, spool_begin_one, spool_work, spool_check};

    (void)state;
    try_all(&subject);
}

/* --- verification ---------------------------------------------------------------------------- */

/* It does not take what it could not look at for damage; but a segment that cannot be read is one
 * that an engine would set aside. */
static void verification_that_fails_says_so_and_finds_nothing(void **state)
{
    static const enum kind kinds[] = {KIND_OPEN, KIND_READ, KIND_MAP, KIND_MEMORY};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        fault.kind = kinds[i];
        fault.at = 1;
        do {
            enum err_code code;

            fault.stays = false;
            fault.calls = fault.sync_at = 0;
            fault.is_on = true;
            code = rig_verify(&rig);
            fault.is_on = false;
            if (code == ERR_OK && rig.findings > 0 &&
                strstr(rig.found, "Input/output error") == NULL)
                fail_msg("%s %u: %s", kind_names[fault.kind], fault.at, rig.found);
            fault.at += fault.at < 300 ? 1 : fault.at / 10;
        } while (fault.calls >= fault.at - 1 && fault.calls > 0);
        print_message("%s: %u\n", kind_names[fault.kind], fault.calls);
    }
    fault.at = 0;
    assert_int_equal(rig_verify(&rig), ERR_OK);
    assert_int_equal(rig.findings, 0);
}

/* --- the whole ------------------------------------------------------------------------------- */

/* The first records of the rig's log, in memory. */
static void read_script(void)
{
    char url[200];
    struct wal_options options = {.url = url, .env = env_real()};
    uint32_t partitions[RIG_PARTITIONS] = {0, 1};
    uint64_t positions[RIG_PARTITIONS] = {0, 0};
    struct wal_reader *reader;
    struct wal *wal;
    size_t count;
    struct err err = {0};

    snprintf(url, sizeof(url), "file:%s", rig.wal);
    must(wal_open(&wal, &options, &err), &err);
    must(wal_reader_open(&reader, wal, partitions, positions, RIG_PARTITIONS, &err), &err);
    while (script.count < ITEMS_MAX) {
        struct wal_item *item = &script.items[script.count];
        void *copy;

        must(wal_reader_next(reader, item, 1, &count, 0, &err), &err);
        assert_int_equal(count, 1);
        copy = malloc(item->len);
        assert_non_null(copy);
        memcpy(copy, item->data, item->len);
        item->data = copy;
        script.count++;
    }
    wal_reader_close(reader);
    wal_close(wal);
}

static int make(void **state)
{
    (void)state;
    rig_make(&rig);
    assert_true(scratch_make(base_folder, sizeof(base_folder), "faults"));
    snprintf(folder, sizeof(folder), "%s/case", base_folder);
    read_script();
    return 0;
}

static int forget(void **state)
{
    (void)state;
    for (size_t i = 0; i < script.count; i++)
        free((void *)(uintptr_t)script.items[i].data);
    rig_free(&rig);
    return scratch_remove(base_folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_acknowledged_by_the_log_is_lost),
        cmocka_unit_test(nothing_is_lost_when_the_recovery_of_the_log_fails),
        cmocka_unit_test(a_trimming_that_fails_loses_nothing_else),
        cmocka_unit_test(a_shards_store_is_what_the_log_says_or_a_prefix),
        cmocka_unit_test(nothing_acknowledged_by_the_spool_is_lost),
        cmocka_unit_test(verification_that_fails_says_so_and_finds_nothing),
    };

    return cmocka_run_group_tests(tests, make, forget);
}
