/* The spool after a crash at any moment, of the process or of the machine: it opens, the newest
 * acknowledged row of every id waits or is newer still, what was settled may have come back,
 * nothing else is there, opening it again finds the same, it takes rows, and verification finds no
 * damage. */
#include "tests/unit/crash_trace.h"

#include "common/model/record.h"
#include "services/ingest/spool.h"
#include "services/ingest/spool_verify.h"

#define IDS    6u
#define ROUNDS 24u

/* Values rise; a note is: id, what happened, value. */
enum event { EVENT_PUT, EVENT_KEPT, EVENT_SETTLED };

static char base_folder[120], made_folder[140], image_folder_path[140];
static unsigned last_value;

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("moment %zu: %s: %s", image.moment, err_word(code), err->message);
}

static struct spool *open_spool(const char *folder)
{
    char url[300];
    struct spool_setup setup = {.env = env_real(), .url = url};
    struct spool *spool;
    struct err err = {0};

    snprintf(url, sizeof(url), "lmdb:%s/spool", folder);
    must(spool_open(&spool, &setup, &err), &err);
    return spool;
}

static void put(struct spool *spool, unsigned id, unsigned value)
{
    struct buffer bytes = {0};
    char name[16], text[3000];
    struct record record = {
        .op = RECORD_UPSERT, .id = name, .origin_offset = OFFSET_NONE, .text = text};
    struct spool_row row = {.wall_us = 5, .stamp = {.clock = value, .region = 1}};
    struct err err = {0};

    memset(text, 'x', sizeof(text));
    record.id_len = (size_t)snprintf(name, sizeof(name), "id%u", id);
    record.text_len = value * 389 % sizeof(text);
    must(record_encode(&record, &bytes, &err), &err);
    snprintf(row.tenant, sizeof(row.tenant), "default");
    snprintf(row.collection, sizeof(row.collection), "c");
    row.id = name;
    row.id_len = record.id_len;
    row.record = bytes.data;
    row.record_len = bytes.len;
    must(spool_put(spool, &row, 1, &err), &err);
    buffer_free(&bytes);
}

/* What waits: the value of each id; 0: nothing. */
static void read_all(struct spool *spool, unsigned values[IDS])
{
    struct arena arena = {0};
    struct spool_row *rows;
    size_t count;
    struct err err = {0};

    memset(values, 0, IDS * sizeof(values[0]));
    must(spool_read(spool, &arena, 100, MIB(1), &rows, &count, &err), &err);
    for (size_t i = 0; i < count; i++) {
        unsigned id;

        assert_non_null(rows[i].record);
        assert_int_equal(sscanf(rows[i].id, "id%u", &id), 1);
        assert_in_range(id, 0, IDS - 1);
        assert_int_equal(values[id], 0);
        values[id] = (unsigned)rows[i].stamp.clock;
    }
    arena_free(&arena);
}

/* --- recording ------------------------------------------------------------------------------- */

static void note(enum event event, unsigned id, unsigned value)
{
    trace_note((uint64_t)event << 56 | (uint64_t)id << 48 | value);
}

static void settle_oldest(struct spool *spool)
{
    static const enum spool_fate fates[2] = {SPOOL_APPENDED, SPOOL_APPENDED};
    struct arena arena = {0};
    struct spool_row *rows;
    size_t count;
    struct err err = {0};

    must(spool_read(spool, &arena, 2, MIB(1), &rows, &count, &err), &err);
    for (size_t i = 0; i < count; i++)
        note(EVENT_SETTLED, (unsigned)rows[i].id[2] - '0', (unsigned)rows[i].stamp.clock);
    must(spool_settle(spool, rows, fates, count, &err), &err);
    arena_free(&arena);
}

static void record_life(const char *folder, unsigned rounds)
{
    struct spool *spool = open_spool(folder);

    for (unsigned i = 0; i < rounds; i++) {
        unsigned id = i * 5 % IDS, value = ++last_value;

        note(EVENT_PUT, id, value);
        put(spool, id, value);
        note(EVENT_KEPT, id, value);
        if (i % 7 == 6)
            settle_oldest(spool);
    }
    spool_close(spool);
}

/* --- checking -------------------------------------------------------------------------------- */

static void find(void *state, const struct scrub_finding *finding)
{
    (void)state;
    fail_msg("moment %zu: %s: %s", image.moment, finding->file, finding->text);
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
    struct spool_verified found;
    char folder[300];
    struct err err = {0};
    enum err_code code;

    snprintf(folder, sizeof(folder), "%s/spool", image.root);
    code = spool_verify(folder, env_real(), &scrub, &found, &err);
    if (code != ERR_NOT_FOUND) /* it has not begun yet */
        must(code, &err);
}

/* Of each id: the newest that was acknowledged, the newest that was given, the newest that was
 * given to be settled. */
struct promise {
    unsigned kept[IDS], given[IDS], settled[IDS];
};

static struct promise promised(void)
{
    struct promise promise = {0};

    for (size_t i = 0; i < image.moment; i++) {
        const struct trace_op *op = &trace.ops[i];
        unsigned id = (unsigned)(op->len >> 48 & 255), value = (unsigned)(op->len & UINT32_MAX);

        if (op->kind != TRACE_NOTE)
            continue;
        if (op->len >> 56 == EVENT_PUT)
            promise.given[id] = value;
        else if (op->len >> 56 == EVENT_KEPT)
            promise.kept[id] = value;
        else
            promise.settled[id] = value;
    }
    return promise;
}

static void check(bool is_reboot)
{
    struct promise promise = promised();
    unsigned values[IDS], again[IDS];
    struct spool *spool;

    (void)is_reboot; /* the locks of a boot are LMDB's to know */
    verify();
    spool = open_spool(image.root);
    read_all(spool, values);
    for (unsigned id = 0; id < IDS; id++) {
        bool is_settled = promise.settled[id] >= promise.kept[id];

        if ((values[id] < promise.kept[id] && !(values[id] == 0 && is_settled)) ||
            values[id] > promise.given[id])
            fail_msg("moment %zu, id %u: value %u, %u was acknowledged, %u given, %u settled",
                     image.moment, id, values[id], promise.kept[id], promise.given[id],
                     promise.settled[id]);
    }
    spool_close(spool);
    spool = open_spool(image.root);
    read_all(spool, again);
    assert_memory_equal(values, again, sizeof(values));
    put(spool, 0, last_value + 1);
    read_all(spool, again);
    assert_int_equal(again[0], last_value + 1);
    spool_close(spool);
    verify();
}

/* --- promises -------------------------------------------------------------------------------- */

static void a_row_that_was_acknowledged_outlives_a_crash_at_any_moment(void **state)
{
    (void)state;
    trace_begin(base_folder);
    record_life(made_folder, ROUNDS);
    record_life(made_folder, 4);
    trace_end();
    trace_crash_everywhere(image_folder_path, 3, check);
    trace_free();
}

static int make(void **state)
{
    (void)state;
    assert_true(scratch_make(base_folder, sizeof(base_folder), "crash"));
    snprintf(image_folder_path, sizeof(image_folder_path), "%s-image", base_folder);
    snprintf(made_folder, sizeof(made_folder), "%s", base_folder);
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
        cmocka_unit_test(a_row_that_was_acknowledged_outlives_a_crash_at_any_moment),
    };

    return cmocka_run_group_tests(tests, make, forget);
}
