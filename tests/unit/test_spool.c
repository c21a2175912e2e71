/* The spool's store: what was acknowledged is there, once, whatever fails and whoever dies; nothing
 * that was refused is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "services/ingest/spool_internal.h"
#include "tests/lib/scratch.h"
#include "tests/unit/faulty_store.h"

#define WAIT_NS  (30 * NS_PER_S)
#define ROWS_MAX 4096

static const uint8_t ONE[INCARNATION_BYTES] = {1}, TWO[INCARNATION_BYTES] = {2};

static struct {
    char dir[64], url[96];
    struct spool *spool;
    struct store *kept;   /* of the tests that open it themselves */
    struct faulty *front; /* before it, while the spool is open */
} world;

static uint64_t soon(uint64_t ns)
{
    return env_boot_ns(env_real()) + ns;
}

/* --- life ----------------------------------------------------------------------------------------
 */

static enum err_code try_open(struct spool **out, uint64_t bytes_max, struct err *err)
{
    struct spool_setup setup = {.env = env_real(), .url = world.url, .bytes_max = bytes_max};

    return spool_open(out, &setup, err);
}

static void begin_with(uint64_t bytes_max)
{
    struct err err = {0};

    must(try_open(&world.spool, bytes_max, &err), &err);
}

static void begin(void)
{
    begin_with(0);
}

static void end(void)
{
    spool_close(world.spool);
    world.spool = NULL;
}

static int set_up(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    (void)snprintf(world.dir, sizeof(world.dir), "/tmp/vicinal-spool-XXXXXX");
    assert_non_null(mkdtemp(world.dir));
    (void)snprintf(world.url, sizeof(world.url), "lmdb:%s/spool", world.dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    end();
    if (world.kept != NULL)
        store_close(world.kept);
    (void)scratch_remove(world.dir);
    return 0;
}

/* --- a store that outlives the spool's use of it, with faults in front
 * -----------------------------
 */

static struct store_ops front_ops;

/* What the next sync of the kept store says, once; ERR_OK: the truth. */
static enum err_code next_sync;

static enum err_code front_sync(struct store *store, struct err *err)
{
    enum err_code code = next_sync;

    next_sync = ERR_OK;
    return code == ERR_OK ? faulty_sync(store, err) : err_set(err, code, "the sync fails");
}

static void front_close(struct store *store)
{
    free(store);
    world.front = NULL;
}

static enum err_code open_front(void *context, struct store **out, struct err *err)
{
    (void)context, (void)err;
    front_ops = faulty_ops;
    front_ops.close = front_close;
    front_ops.sync = front_sync;
    world.front = calloc(1, sizeof(*world.front));
    assert_non_null(world.front);
    world.front->base.ops = &front_ops;
    world.front->base.env = env_real();
    world.front->inner = world.kept;
    world.front->syncs = true;
    *out = &world.front->base;
    return ERR_OK;
}

static void begin_kept(void)
{
    struct spool_setup setup = {.env = env_real(), .url = "kept", .open_store = open_front};
    struct store_options options = {.url = "memory:", .env = env_real()};
    struct err err = {0};

    if (world.kept == NULL)
        must(store_open(&world.kept, &options, &err), &err);
    must(spool_open(&world.spool, &setup, &err), &err);
}

static void begin_kept_anew(void)
{
    end();
    if (world.kept != NULL)
        store_close(world.kept);
    world.kept = NULL;
    begin_kept();
}

/* --- rows ----------------------------------------------------------------------------------------
 */

#define BATCH_MAX 64

/* Rows with what they point to. */
struct sample {
    struct spool_row rows[BATCH_MAX];
    struct buffer bytes[BATCH_MAX];
    char ids[BATCH_MAX][32];
    size_t count;
};

/* value NULL: a delete. */
static void sample_add(struct sample *sample, const uint8_t *incarnation, const char *id,
                       const char *value)
{
    size_t at = sample->count++;
    struct spool_row *row = &sample->rows[at];
    struct record record = {.op = value == NULL ? RECORD_DELETE : RECORD_UPSERT,
                            .id = sample->ids[at],
                            .id_len = strlen(id),
                            .text = value,
                            .text_len = value == NULL ? 0 : strlen(value)};
    struct err err = {0};

    assert_true(at < BATCH_MAX);
    (void)snprintf(sample->ids[at], sizeof(sample->ids[at]), "%s", id);
    memcpy(record.incarnation, incarnation, INCARNATION_BYTES);
    sample->bytes[at] = (struct buffer){0};
    must(record_encode(&record, &sample->bytes[at], &err), &err);
    *row = (struct spool_row){.wall_us = 1000 + at,
                              .stamp = {.clock = 77, .region = 5},
                              .life = {3, 1, 4},
                              .term = 9,
                              .id = record.id,
                              .id_len = record.id_len,
                              .record = sample->bytes[at].data,
                              .record_len = sample->bytes[at].len};
    memcpy(row->incarnation, incarnation, INCARNATION_BYTES);
    (void)snprintf(row->tenant, sizeof(row->tenant), "default");
    (void)snprintf(row->collection, sizeof(row->collection), "c%u", incarnation[0]);
}

static void sample_free(struct sample *sample)
{
    for (size_t i = 0; i < sample->count; i++)
        buffer_free(&sample->bytes[i]);
    sample->count = 0;
}

static enum err_code put_sample(struct sample *sample, struct err *err)
{
    return spool_put(world.spool, sample->rows, sample->count, err);
}

/* One row; its number. */
static uint64_t put(const uint8_t *incarnation, const char *id, const char *value)
{
    struct sample sample = {0};
    struct err err = {0};
    uint64_t number;

    sample_add(&sample, incarnation, id, value);
    must(put_sample(&sample, &err), &err);
    number = sample.rows[0].number;
    sample_free(&sample);
    return number;
}

static enum err_code try_put(const uint8_t *incarnation, const char *id, const char *value)
{
    struct sample sample = {0};
    struct err err = {0};
    enum err_code rc;

    sample_add(&sample, incarnation, id, value);
    rc = put_sample(&sample, &err);
    sample_free(&sample);
    return rc;
}

/* Rows that were read. */
struct page {
    struct arena arena;
    struct spool_row *rows;
    size_t count;
};

static enum err_code try_read(struct page *page, size_t count_max, size_t bytes_max)
{
    struct err err = {0};

    *page = (struct page){0};
    return spool_read(world.spool, &page->arena, count_max, bytes_max, &page->rows, &page->count,
                      &err);
}

static void read_page(struct page *page, size_t count_max, size_t bytes_max)
{
    assert_int_equal(try_read(page, count_max, bytes_max), ERR_OK);
}

static bool row_has(const struct spool_row *row, const char *id, const char *value)
{
    struct record record;

    if (row->id_len != strlen(id) || memcmp(row->id, id, row->id_len) != 0)
        return false;
    assert_int_equal(record_decode(&record, row->record, row->record_len, NULL, NULL), ERR_OK);
    return value == NULL ? record.op == RECORD_DELETE
                         : record.op == RECORD_UPSERT && record.text_len == strlen(value) &&
                               memcmp(record.text, value, record.text_len) == 0;
}

static const struct spool_row *find(const struct page *page, const char *id, const char *value)
{
    const struct spool_row *found = NULL;

    for (size_t i = 0; i < page->count; i++)
        if (row_has(&page->rows[i], id, value)) {
            assert_null(found);
            found = &page->rows[i];
        }
    return found;
}

/* All rows of the page come to this end. */
static enum err_code settle(const struct page *page, enum spool_fate fate)
{
    enum spool_fate fates[ROWS_MAX];
    struct err err = {0};

    assert_true(page->count <= ROWS_MAX);
    for (size_t i = 0; i < page->count; i++)
        fates[i] = fate;
    return spool_settle(world.spool, page->rows, fates, page->count, &err);
}

static struct spool_status look(void)
{
    struct spool_status status;

    spool_status(world.spool, &status);
    return status;
}

/* The counts are those that a new life finds on the disk. */
static void expect_counts_of_disk(void (*reopen)(void))
{
    struct spool_status before = look(), after;

    end();
    reopen();
    after = look();
    assert_int_equal(before.waiting, after.waiting);
    assert_int_equal(before.waiting_bytes, after.waiting_bytes);
    assert_int_equal(before.parked, after.parked);
    assert_int_equal(before.parked_bytes, after.parked_bytes);
    assert_int_equal(before.oldest_wall_us, after.oldest_wall_us);
    assert_int_equal(before.broken, after.broken);
}

/* --- promises: what waits ------------------------------------------------------------------------
 */

static void what_was_put_is_there_in_the_next_life_whole(void **state)
{
    struct sample sample = {0};
    struct page page;
    struct err err = {0};

    (void)state;
    begin();
    assert_false(spool_waits(world.spool));
    sample_add(&sample, ONE, "a", "first");
    sample_add(&sample, ONE, "b", NULL);
    must(put_sample(&sample, &err), &err);
    assert_true(sample.rows[0].number < sample.rows[1].number);
    expect_counts_of_disk(begin);
    assert_true(spool_waits(world.spool));
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct spool_row *is = &page.rows[i], *was = &sample.rows[i];

        assert_int_equal(is->number, was->number);
        assert_int_equal(is->wall_us, was->wall_us);
        assert_int_equal(is->stamp.clock, was->stamp.clock);
        assert_int_equal(is->stamp.region, was->stamp.region);
        assert_memory_equal(is->life, was->life, SPOOL_LIFE_BYTES);
        assert_int_equal(is->term, was->term);
        assert_string_equal(is->tenant, was->tenant);
        assert_string_equal(is->collection, was->collection);
        assert_memory_equal(is->incarnation, was->incarnation, INCARNATION_BYTES);
        assert_int_equal(is->record_len, was->record_len);
        assert_memory_equal(is->record, was->record, was->record_len);
    }
    assert_true(row_has(&page.rows[0], "a", "first"));
    assert_true(row_has(&page.rows[1], "b", NULL));
    assert_int_equal(look().oldest_wall_us, 1000);
    arena_free(&page.arena);
    sample_free(&sample);
}

static void the_newest_row_of_an_id_alone_waits(void **state)
{
    struct sample twice = {0};
    struct page page;
    struct err err = {0};
    uint64_t first;

    (void)state;
    begin();
    first = put(ONE, "a", "old");
    assert_true(put(ONE, "b", "other") > first);
    assert_true(put(ONE, "a", "newer") > first);
    (void)put(ONE, "a", NULL);
    sample_add(&twice, ONE, "c", "one");
    sample_add(&twice, ONE, "c", "two");
    must(put_sample(&twice, &err), &err);
    sample_free(&twice);
    assert_int_equal(look().waiting, 3);
    expect_counts_of_disk(begin);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 3);
    assert_non_null(find(&page, "a", NULL));
    assert_non_null(find(&page, "b", "other"));
    assert_non_null(find(&page, "c", "two"));
    arena_free(&page.arena);
}

static void one_id_of_two_collections_waits_in_both(void **state)
{
    struct page page;

    (void)state;
    begin();
    (void)put(ONE, "a", "of one");
    (void)put(TWO, "a", "of two");
    assert_int_equal(look().waiting, 2);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 1);
    assert_true(row_has(&page.rows[0], "a", "of one"));
    assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
    arena_free(&page.arena);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 1);
    assert_true(row_has(&page.rows[0], "a", "of two"));
    arena_free(&page.arena);
}

static void rows_come_one_collection_at_a_time_in_order_and_within_limits(void **state)
{
    struct page page;
    uint64_t last = 0;
    size_t row_bytes, seen[2] = {0};
    char id[16];

    (void)state;
    begin();
    for (unsigned i = 0; i < 60; i++) {
        (void)snprintf(id, sizeof(id), "%03u", i);
        (void)put(i % 3 == 0 ? TWO : ONE, id, "v");
    }
    for (unsigned i = 0; i < 30; i += 6) { /* those go to the end of the line */
        (void)snprintf(id, sizeof(id), "%03u", i + 1);
        (void)put(ONE, id, "w");
    }
    row_bytes = (size_t)(look().waiting_bytes / look().waiting) - SPOOL_ROW_OVERHEAD;
    read_page(&page, 7, MIB(1));
    assert_int_equal(page.count, 7);
    arena_free(&page.arena);
    read_page(&page, 1000, row_bytes * 4 + row_bytes / 2);
    assert_int_equal(page.count, 4);
    arena_free(&page.arena);
    read_page(&page, 1000, 1); /* one there is always */
    assert_int_equal(page.count, 1);
    arena_free(&page.arena);
    while (spool_waits(world.spool)) {
        read_page(&page, 9, MIB(1));
        assert_true(page.count > 0);
        for (size_t i = 0; i < page.count; i++) {
            assert_memory_equal(page.rows[i].incarnation, page.rows[0].incarnation,
                                INCARNATION_BYTES);
            assert_true(i == 0 || page.rows[i].number > page.rows[i - 1].number);
            seen[page.rows[i].incarnation[0] - 1]++;
        }
        assert_true(page.rows[0].number > last); /* the oldest of all begins */
        last = page.rows[0].number;
        assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
        arena_free(&page.arena);
    }
    assert_int_equal(seen[0], 40);
    assert_int_equal(seen[1], 20);
    read_page(&page, 9, MIB(1));
    assert_int_equal(page.count, 0);
    arena_free(&page.arena);
}

/* --- promises: what has come to its end
 * -------------------------------------------------------------
 */

static void what_was_settled_is_gone_and_what_is_parked_stays(void **state)
{
    enum spool_fate fates[] = {SPOOL_APPENDED, SPOOL_OLDER, SPOOL_PARKED, SPOOL_WAITS};
    struct spool_status status;
    struct page page;
    struct err err = {0};

    (void)state;
    begin();
    (void)put(ONE, "appended", "1");
    (void)put(ONE, "older", "2");
    (void)put(ONE, "parked", "3");
    (void)put(ONE, "waits", "4");
    read_page(&page, 10, MIB(1));
    must(spool_settle(world.spool, page.rows, fates, 4, &err), &err);
    for (int again = 0; again < 2; again++) {
        struct page rest;

        status = look();
        assert_int_equal(status.waiting, 1);
        assert_int_equal(status.parked, 1);
        assert_true(status.parked_bytes > SPOOL_ROW_OVERHEAD);
        read_page(&rest, 10, MIB(1));
        assert_int_equal(rest.count, 1);
        assert_true(row_has(&rest.rows[0], "waits", "4"));
        arena_free(&rest.arena);
        expect_counts_of_disk(begin);
    }
    /* Settling what is gone does nothing; a parked id can wait anew, beside it. */
    must(spool_settle(world.spool, page.rows, fates, 3, &err), &err);
    assert_int_equal(look().parked, 1);
    arena_free(&page.arena);
    (void)put(ONE, "parked", "5");
    assert_int_equal(look().waiting, 2);
    read_page(&page, 10, MIB(1));
    assert_non_null(find(&page, "parked", "5"));
    assert_int_equal(settle(&page, SPOOL_PARKED), ERR_OK);
    arena_free(&page.arena);
    assert_int_equal(look().waiting, 0);
    assert_int_equal(look().parked, 3);
    assert_int_equal(look().oldest_wall_us, 0);
    expect_counts_of_disk(begin);
    assert_false(spool_waits(world.spool));
}

static void a_row_that_was_replaced_is_not_settled(void **state)
{
    struct page page, rest;
    struct err err = {0};
    bool still[2];

    (void)state;
    begin();
    (void)put(ONE, "a", "old");
    (void)put(ONE, "b", "same");
    read_page(&page, 10, MIB(1));
    (void)put(ONE, "a", "new");
    must(spool_still(world.spool, page.rows, 2, still, &err), &err);
    assert_false(still[0]);
    assert_true(still[1]);
    assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
    read_page(&rest, 10, MIB(1));
    assert_int_equal(rest.count, 1);
    assert_true(row_has(&rest.rows[0], "a", "new"));
    arena_free(&rest.arena);
    arena_free(&page.arena);
    expect_counts_of_disk(begin);
}

static void a_full_spool_takes_all_of_a_put_or_nothing(void **state)
{
    struct sample many = {0};
    struct page page;
    struct err err = {0};
    unsigned kept = 0;
    char id[16];

    (void)state;
    begin_with(KIB(8));
    for (;; kept++) {
        (void)snprintf(id, sizeof(id), "%u", kept);
        if (try_put(ONE, id, "v") != ERR_OK)
            break;
        assert_true(kept < 100);
    }
    assert_true(kept > 5);
    assert_int_equal(try_put(ONE, id, "v"), ERR_UNAVAILABLE);
    assert_false(look().broken);
    /* Parked ones take room as well. */
    read_page(&page, 100, MIB(1));
    assert_int_equal(page.count, kept);
    assert_int_equal(settle(&page, SPOOL_PARKED), ERR_OK);
    arena_free(&page.arena);
    assert_int_equal(try_put(ONE, id, "v"), ERR_UNAVAILABLE);
    end();
    begin_with(KIB(8));
    assert_int_equal(try_put(ONE, id, "v"), ERR_UNAVAILABLE);
    assert_int_equal(look().waiting, 0);
    /* With a little room, one row fits, and of many none is kept. */
    end();
    begin_with(KIB(8) + 1000);
    for (unsigned i = 0; i < 10; i++) {
        (void)snprintf(id, sizeof(id), "more%u", i);
        sample_add(&many, ONE, id, "v");
    }
    assert_int_equal(put_sample(&many, &err), ERR_UNAVAILABLE);
    sample_free(&many);
    assert_int_equal(look().waiting, 0);
    assert_int_equal(try_put(ONE, "more3", "v"), ERR_OK);
    assert_int_equal(look().waiting, 1);
}

/* --- promises: many threads ----------------------------------------------------------------------
 */

enum { CROWD = 8, CROWD_PUTS = 30 };

struct member {
    pthread_t thread;
    unsigned number;
    atomic_bool failed;
    uint64_t last_of_all; /* number of its last row of the id that all write */
};

static void *put_many(void *argument)
{
    struct member *member = argument;
    char id[32], value[32];

    for (unsigned i = 0; i < CROWD_PUTS; i++) {
        struct sample sample = {0};
        struct err err = {0};

        for (unsigned part = 0; part < 3; part++) {
            (void)snprintf(id, sizeof(id), "%u-%u-%u", member->number, i, part);
            sample_add(&sample, ONE, id, id);
        }
        (void)snprintf(value, sizeof(value), "%u/%u", member->number, i);
        sample_add(&sample, ONE, "everyone's", value);
        if (put_sample(&sample, &err) != ERR_OK)
            atomic_store(&member->failed, true);
        member->last_of_all = sample.rows[3].number;
        sample_free(&sample);
    }
    return NULL;
}

static void puts_of_many_threads_are_all_there_once(void **state)
{
    struct member crowd[CROWD] = {0};
    struct page page;
    uint64_t newest = 0;
    unsigned last = 0;
    char id[32], value[32];

    (void)state;
    begin();
    for (unsigned i = 0; i < CROWD; i++) {
        crowd[i].number = i;
        assert_int_equal(pthread_create(&crowd[i].thread, NULL, put_many, &crowd[i]), 0);
    }
    for (unsigned i = 0; i < CROWD; i++) {
        assert_int_equal(pthread_join(crowd[i].thread, NULL), 0);
        assert_false(atomic_load(&crowd[i].failed));
        if (crowd[i].last_of_all > newest) {
            newest = crowd[i].last_of_all;
            last = i;
        }
    }
    expect_counts_of_disk(begin);
    read_page(&page, ROWS_MAX - 1, MIB(16));
    assert_int_equal(page.count, CROWD * CROWD_PUTS * 3 + 1);
    for (unsigned i = 0; i < CROWD; i++)
        for (unsigned n = 0; n < CROWD_PUTS; n++)
            for (unsigned part = 0; part < 3; part++) {
                (void)snprintf(id, sizeof(id), "%u-%u-%u", i, n, part);
                assert_non_null(find(&page, id, id));
            }
    (void)snprintf(value, sizeof(value), "%u/%u", last, CROWD_PUTS - 1);
    assert_non_null(find(&page, "everyone's", value));
    arena_free(&page.arena);
}

struct passer {
    pthread_t thread;
    atomic_bool passed;
};

static void *pass(void *argument)
{
    struct passer *passer = argument;

    spool_pass_door(world.spool, soon(WAIT_NS));
    atomic_store(&passer->passed, true);
    return NULL;
}

static void await_passed(struct passer *passer)
{
    uint64_t began = env_boot_ns(env_real());

    assert_int_equal(pthread_join(passer->thread, NULL), 0);
    assert_true(atomic_load(&passer->passed));
    assert_true(env_boot_ns(env_real()) - began < WAIT_NS / 2);
}

static void the_door_holds_back_and_lets_go(void **state)
{
    struct passer passer = {0};
    struct page page;

    (void)state;
    begin();
    spool_close_door(world.spool);
    spool_pass_door(world.spool, NEVER_NS); /* nothing waits: it holds nobody back */
    (void)put(ONE, "a", "v");
    spool_open_door(world.spool);
    spool_pass_door(world.spool, NEVER_NS);

    spool_close_door(world.spool);
    spool_pass_door(world.spool, soon(NS_PER_MS)); /* the deadline */
    assert_true(spool_waits(world.spool));
    assert_int_equal(pthread_create(&passer.thread, NULL, pass, &passer), 0);
    assert_false(atomic_load(&passer.passed));
    spool_open_door(world.spool);
    await_passed(&passer);

    /* The last row's end opens it as well. */
    spool_close_door(world.spool);
    passer = (struct passer){0};
    assert_int_equal(pthread_create(&passer.thread, NULL, pass, &passer), 0);
    assert_false(atomic_load(&passer.passed));
    read_page(&page, 10, MIB(1));
    assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
    arena_free(&page.arena);
    await_passed(&passer);

    /* And so does the end of all. */
    (void)put(ONE, "a", "v");
    passer = (struct passer){0};
    assert_int_equal(pthread_create(&passer.thread, NULL, pass, &passer), 0);
    assert_false(atomic_load(&passer.passed));
    spool_stop(world.spool);
    await_passed(&passer);
}

struct sleeper {
    pthread_t thread;
    enum err_code rc;
};

static void *await_row(void *argument)
{
    struct sleeper *sleeper = argument;

    sleeper->rc = spool_await(world.spool, soon(WAIT_NS));
    return NULL;
}

static void who_waits_for_rows_wakes_at_the_first_or_at_the_end(void **state)
{
    struct sleeper sleeper;
    struct page page;

    (void)state;
    begin();
    assert_int_equal(spool_await(world.spool, soon(NS_PER_MS)), ERR_TIMEOUT);
    assert_int_equal(spool_pause(world.spool, soon(NS_PER_MS)), ERR_OK);
    assert_int_equal(pthread_create(&sleeper.thread, NULL, await_row, &sleeper), 0);
    (void)put(ONE, "a", "v");
    assert_int_equal(pthread_join(sleeper.thread, NULL), 0);
    assert_int_equal(sleeper.rc, ERR_OK);
    assert_int_equal(spool_await(world.spool, NEVER_NS), ERR_OK);
    assert_int_equal(spool_pause(world.spool, soon(NS_PER_MS)), ERR_OK); /* rows do not end it */
    read_page(&page, 10, MIB(1));
    assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
    arena_free(&page.arena);
    assert_int_equal(pthread_create(&sleeper.thread, NULL, await_row, &sleeper), 0);
    spool_stop(world.spool);
    assert_int_equal(pthread_join(sleeper.thread, NULL), 0);
    assert_int_equal(sleeper.rc, ERR_DEAD);
    assert_int_equal(spool_await(world.spool, NEVER_NS), ERR_DEAD);
    assert_int_equal(spool_pause(world.spool, NEVER_NS), ERR_DEAD);
    /* Who was under way is served still. */
    assert_int_equal(try_put(ONE, "b", "v"), ERR_OK);
}

/* --- promises: disks that fail -------------------------------------------------------------------
 */

enum { IDS = 8, VALUES = 64 };

/* What may wait of each id: a set of values; 0 is nothing. */
struct model {
    uint64_t may[IDS];
    size_t parked_least, parked_most;
    unsigned serial; /* the value put last */
};

static void name_of(char *out, size_t size, unsigned value)
{
    (void)snprintf(out, size, "%u", value);
}

/* A failure of the disk: everything is refused until it is mended. */
static void expect_broken_and_mend(void)
{
    struct err err = {0};
    struct page page;

    assert_true(look().broken);
    assert_int_equal(try_put(TWO, "never", "never"), ERR_UNAVAILABLE);
    assert_int_equal(spool_await(world.spool, NEVER_NS), ERR_OK); /* to be mended */
    (void)try_read(&page, 1, 1);
    arena_free(&page.arena);
    must(spool_mend(world.spool, &err), &err);
    assert_false(look().broken);
}

static void model_put(struct model *model, unsigned first, unsigned count)
{
    struct sample sample = {0};
    struct err err = {0};
    char id[16], value[16];
    enum err_code rc;

    model->serial++;
    for (unsigned i = first; i < first + count; i++) {
        name_of(id, sizeof(id), i);
        name_of(value, sizeof(value), model->serial);
        sample_add(&sample, ONE, id, value);
    }
    rc = put_sample(&sample, &err);
    sample_free(&sample);
    for (unsigned i = first; i < first + count; i++)
        if (rc == ERR_OK)
            model->may[i] = 1ull << model->serial;
        else if (rc == ERR_UNKNOWN_OUTCOME)
            model->may[i] |= 1ull << model->serial;
        else
            assert_int_equal(rc, ERR_UNAVAILABLE);
    if (rc != ERR_OK)
        expect_broken_and_mend();
}

static unsigned number_of(const char *text, size_t len)
{
    char copy[16];

    assert_true(len < sizeof(copy));
    memcpy(copy, text, len);
    copy[len] = '\0';
    return (unsigned)strtoul(copy, NULL, 10);
}

static unsigned value_of(const struct spool_row *row)
{
    struct record record;

    assert_int_equal(record_decode(&record, row->record, row->record_len, NULL, NULL), ERR_OK);
    return number_of(record.text, record.text_len);
}

/* Everything that waits comes to an end: one after the other of all fates. */
static void model_settle(struct model *model)
{
    static const enum spool_fate CYCLE[] = {SPOOL_APPENDED, SPOOL_WAITS, SPOOL_PARKED, SPOOL_OLDER};
    enum spool_fate fates[IDS];
    struct err err = {0};
    struct page page;
    enum err_code rc = try_read(&page, IDS, MIB(1));

    if (rc == ERR_OK) {
        for (size_t i = 0; i < page.count; i++)
            fates[i] = CYCLE[i % 4];
        rc = spool_settle(world.spool, page.rows, fates, page.count, &err);
        for (size_t i = 0; i < page.count; i++) {
            unsigned id = number_of(page.rows[i].id, page.rows[i].id_len);

            if (fates[i] == SPOOL_WAITS)
                continue;
            model->may[id] = rc == ERR_OK ? 1 : model->may[id] | 1;
            if (fates[i] == SPOOL_PARKED) {
                model->parked_least += rc == ERR_OK;
                model->parked_most++;
            }
        }
        if (rc != ERR_OK)
            expect_broken_and_mend();
    }
    arena_free(&page.arena);
}

static void model_compare(const struct model *model)
{
    struct page page;
    uint64_t is[IDS];

    for (unsigned i = 0; i < IDS; i++)
        is[i] = 1;
    read_page(&page, 100, MIB(1));
    assert_int_equal(page.count, look().waiting);
    for (size_t i = 0; i < page.count; i++) {
        unsigned id = number_of(page.rows[i].id, page.rows[i].id_len);

        assert_int_equal(page.rows[i].incarnation[0], 1);
        assert_int_equal(is[id], 1); /* once */
        is[id] = 1ull << value_of(&page.rows[i]);
    }
    for (unsigned i = 0; i < IDS; i++)
        assert_int_not_equal(is[i] & model->may[i], 0);
    assert_in_range(look().parked, model->parked_least, model->parked_most);
    arena_free(&page.arena);
}

/* Of the calls that a life makes, the n-th fails (0: none).  Returns how many there were. */
static unsigned live_with_fault(unsigned n)
{
    struct model model = {0};
    unsigned calls;

    for (unsigned i = 0; i < IDS; i++)
        model.may[i] = 1;
    begin_kept_anew();
    faulty_fail_at(world.front, n);
    model_put(&model, 0, 4);
    model_put(&model, 2, 1);
    model_settle(&model);
    model_put(&model, 0, IDS);
    model_put(&model, 3, 2);
    model_settle(&model);
    model_put(&model, 5, 1);
    calls = atomic_load(&world.front->calls);
    faulty_fail_at(world.front, 0);
    model_compare(&model);
    expect_counts_of_disk(begin_kept);
    model_compare(&model);
    return calls;
}

static void whatever_call_of_the_store_fails_the_acknowledged_wait(void **state)
{
    unsigned calls = live_with_fault(0);

    (void)state;
    assert_true(calls > 50);
    for (unsigned n = 1; n <= calls; n++)
        (void)live_with_fault(n);
}

static void a_disk_that_fails_again_while_it_is_mended_loses_nothing(void **state)
{
    struct err err = {0};
    struct page page;

    (void)state;
    begin_kept_anew();
    (void)put(ONE, "a", "kept");
    faulty_fail_at(world.front, 1);
    assert_int_equal(try_put(ONE, "b", "lost"), ERR_UNAVAILABLE);
    assert_true(look().broken);
    store_close(world.spool->store); /* as a failed attempt to mend leaves it */
    world.spool->store = NULL;
    assert_int_equal(try_put(ONE, "b", "lost"), ERR_UNAVAILABLE);
    assert_int_equal(try_read(&page, 1, 1), ERR_IO);
    arena_free(&page.arena);
    must(spool_mend(world.spool, &err), &err);
    assert_int_equal(try_put(ONE, "b", "there"), ERR_OK);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 2);
    assert_non_null(find(&page, "a", "kept"));
    assert_non_null(find(&page, "b", "there"));
    arena_free(&page.arena);
}

/* A file system may find out only then that there is no room.  The rows are in the store already.
 */
static void a_sync_without_room_is_no_refusal(void **state)
{
    static const enum err_code CAUSES[] = {ERR_INSUFFICIENT_STORAGE, ERR_NO_MEMORY, ERR_IO};
    struct page page;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(CAUSES); i++) {
        begin_kept_anew();
        (void)put(ONE, "a", "kept");
        next_sync = CAUSES[i];
        assert_int_equal(try_put(ONE, "b", "perhaps"), ERR_UNKNOWN_OUTCOME);
        expect_broken_and_mend();
        assert_int_equal(look().waiting, 2);
        read_page(&page, 10, MIB(1));
        assert_non_null(find(&page, "a", "kept"));
        assert_non_null(find(&page, "b", "perhaps"));
        arena_free(&page.arena);
    }
}

static void a_power_cut_takes_nothing_that_was_acknowledged(void **state)
{
    struct page page;
    unsigned seed = 7;

    (void)state;
    printf("seed %u\n", seed);
    srand(seed);
    begin_kept_anew();
    for (unsigned round = 0; round < 40; round++) {
        unsigned newest[IDS] = {0};
        bool settled[IDS] = {0};
        char id[16], value[16];

        for (unsigned step = 1; step <= 12; step++) {
            unsigned pick = (unsigned)rand() % IDS;

            if (rand() % 4 != 0) {
                name_of(id, sizeof(id), pick);
                name_of(value, sizeof(value), step);
                (void)put(ONE, id, value);
                newest[pick] = step;
                settled[pick] = false;
                continue;
            }
            read_page(&page, 1, MIB(1));
            for (size_t i = 0; i < page.count; i++)
                settled[number_of(page.rows[i].id, page.rows[i].id_len)] = true;
            assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
            arena_free(&page.arena);
        }
        end();
        store_memory_crash(world.kept, (uint32_t)rand() % 20);
        begin_kept();
        read_page(&page, 100, MIB(1));
        for (unsigned i = 0; i < IDS; i++) {
            name_of(id, sizeof(id), i);
            name_of(value, sizeof(value), newest[i]);
            if (newest[i] != 0 && !settled[i])
                assert_non_null(find(&page, id, value));
        }
        assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
        arena_free(&page.arena);
    }
}

/* --- promises: what is damaged, or another's
 * ---------------------------------------------------------
 */

static void store_raw(enum store_table table, struct store_value key, const void *data, size_t len)
{
    struct store_options options = {.url = world.url, .env = env_real()};
    struct store_txn *txn;
    struct store *store;
    struct err err = {0};

    must(store_open(&store, &options, &err), &err);
    must(store_begin(&txn, store, true, &err), &err);
    must(store_put(txn, table, key, (struct store_value){.data = data, .len = len}, &err), &err);
    must(store_commit(txn, &err), &err);
    store_close(store);
}

/* Between two lives. */
static void damage(uint64_t number)
{
    struct spool_key key = spool_key_of(false, number);

    end();
    store_raw(STORE_ROWS, spool_key_value(&key), "nonsense", 8);
    begin();
}

static void a_damaged_row_comes_without_a_record_and_can_be_parked(void **state)
{
    struct page page;
    uint64_t number;

    (void)state;
    begin();
    number = put(ONE, "a", "to be damaged");
    (void)put(ONE, "b", "whole");
    damage(number);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 1);
    assert_int_equal(page.rows[0].number, number);
    assert_null(page.rows[0].record);
    assert_int_equal(settle(&page, SPOOL_PARKED), ERR_OK);
    arena_free(&page.arena);
    assert_int_equal(look().parked, 1);
    assert_int_equal(look().waiting, 1);
    expect_counts_of_disk(begin);
    /* Its id can be written again. */
    assert_int_equal(try_put(ONE, "a", "anew"), ERR_OK);
    assert_false(look().broken);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 2);
    assert_non_null(find(&page, "a", "anew"));
    assert_non_null(find(&page, "b", "whole"));
    arena_free(&page.arena);
}

static void an_id_whose_row_is_damaged_can_be_written_while_that_waits(void **state)
{
    struct page page;
    uint64_t number;

    (void)state;
    begin();
    number = put(ONE, "a", "to be damaged");
    damage(number);
    assert_int_equal(try_put(ONE, "a", "anew"), ERR_OK);
    assert_false(look().broken);
    assert_int_equal(look().parked, 1);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 1);
    assert_non_null(find(&page, "a", "anew"));
    arena_free(&page.arena);
    expect_counts_of_disk(begin);
}

static void a_newer_format_is_refused(void **state)
{
    static const struct store_value KEY = {.data = "spool", .len = 5};
    uint32_t format = 2;
    struct spool *other;
    struct err err = {0};

    (void)state;
    begin();
    (void)put(ONE, "a", "v");
    end();
    store_raw(STORE_META, KEY, &format, sizeof(format));
    assert_int_equal(try_open(&other, 0, &err), ERR_CONFIG);
    assert_non_null(strstr(err.message, "format 2"));
    format = 1;
    store_raw(STORE_META, KEY, &format, sizeof(format));
    begin();
    assert_int_equal(look().waiting, 1);
}

static void a_folder_has_one_spool_at_a_time(void **state)
{
    struct spool *other = NULL;
    struct err err = {0};

    (void)state;
    begin();
    (void)put(ONE, "a", "v");
    assert_int_equal(try_open(&other, 0, &err), ERR_CONFIG);
    assert_null(other);
    assert_int_equal(try_put(ONE, "b", "v"), ERR_OK);
    end();
    begin();
    assert_int_equal(look().waiting, 2);
}

static void put_and_tell(int out)
{
    struct spool *spool;

    if (try_open(&spool, 0, NULL) != ERR_OK)
        _exit(1);
    world.spool = spool;
    for (uint32_t i = 0;; i++) {
        char id[16];

        name_of(id, sizeof(id), i % 500);
        if (try_put(ONE, id, id) != ERR_OK || write(out, &i, sizeof(i)) != sizeof(i))
            _exit(1);
    }
}

static void what_a_killed_process_told_is_there(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 4; round++) {
        uint32_t told, count = 0, wanted = 20 + round * 37;
        int ends[2], status;
        struct page page;
        pid_t child;
        char id[16];

        assert_int_equal(pipe(ends), 0);
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            (void)close(ends[0]);
            put_and_tell(ends[1]);
        }
        (void)close(ends[1]);
        while (read(ends[0], &told, sizeof(told)) == sizeof(told)) {
            if (++count == wanted)
                assert_int_equal(kill(child, SIGKILL), 0);
        }
        (void)close(ends[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_true(count >= wanted);
        begin();
        read_page(&page, 1000, MIB(1));
        for (uint32_t i = 0; i < count && i < 500; i++) {
            name_of(id, sizeof(id), i);
            assert_non_null(find(&page, id, id));
        }
        assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
        arena_free(&page.arena);
        end();
    }
}

/* --- promises: the form of a row -----------------------------------------------------------------
 */

static void try_decode(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len == 0 ? 1 : len); /* so that a sanitizer sees a step beyond */
    struct spool_row row = {0};
    struct err err = {0};
    enum err_code rc;

    assert_non_null(copy);
    memcpy(copy, data, len);
    rc = spool_row_decode(&row, copy, len, &err);
    if (rc == ERR_OK) {
        struct record record;

        assert_true(row.id_len >= 1 && row.id_len <= ID_BYTES_MAX);
        assert_true((const uint8_t *)row.id >= copy &&
                    (const uint8_t *)row.id + row.id_len <= copy + len);
        assert_true(row.record >= copy && row.record + row.record_len == copy + len);
        assert_true(strlen(row.tenant) <= TENANT_BYTES_MAX);
        assert_true(strlen(row.collection) <= COLLECTION_NAME_BYTES_MAX);
        (void)spool_id_hash(&row);
        (void)(record_decode(&record, row.record, row.record_len, NULL, NULL) == ERR_OK);
    } else {
        assert_int_equal(rc, ERR_CORRUPT);
    }
    free(copy);
}

static void a_row_cut_or_changed_anywhere_decodes_or_is_corrupt(void **state)
{
    struct sample sample = {0};

    (void)state;
    sample_add(&sample, ONE, "some-id", "some text");
    sample_add(&sample, TWO, "x", NULL);
    for (size_t i = 0; i < sample.count; i++) {
        struct spool_row back = {0};
        struct buffer bytes = {0};
        struct err err = {0};

        spool_row_encode(&sample.rows[i], &bytes);
        assert_false(bytes.failed);
        must(spool_row_decode(&back, bytes.data, bytes.len, &err), &err);
        assert_int_equal(back.record_len, sample.rows[i].record_len);
        for (size_t len = 0; len <= bytes.len; len++)
            try_decode(bytes.data, len);
        for (size_t at = 0; at < bytes.len; at++) {
            uint8_t was = bytes.data[at];

            for (unsigned value = 0; value < 256; value++) {
                bytes.data[at] = (uint8_t)value;
                try_decode(bytes.data, bytes.len);
            }
            bytes.data[at] = was;
        }
        buffer_free(&bytes);
    }
    sample_free(&sample);
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        /* Before any thread: it forks. */
        PROMISE(what_a_killed_process_told_is_there),
        PROMISE(what_was_put_is_there_in_the_next_life_whole),
        PROMISE(the_newest_row_of_an_id_alone_waits),
        PROMISE(one_id_of_two_collections_waits_in_both),
        PROMISE(rows_come_one_collection_at_a_time_in_order_and_within_limits),
        PROMISE(what_was_settled_is_gone_and_what_is_parked_stays),
        PROMISE(a_row_that_was_replaced_is_not_settled),
        PROMISE(a_full_spool_takes_all_of_a_put_or_nothing),
        PROMISE(puts_of_many_threads_are_all_there_once),
        PROMISE(the_door_holds_back_and_lets_go),
        PROMISE(who_waits_for_rows_wakes_at_the_first_or_at_the_end),
        PROMISE(whatever_call_of_the_store_fails_the_acknowledged_wait),
        PROMISE(a_disk_that_fails_again_while_it_is_mended_loses_nothing),
        PROMISE(a_sync_without_room_is_no_refusal),
        PROMISE(a_power_cut_takes_nothing_that_was_acknowledged),
        PROMISE(a_damaged_row_comes_without_a_record_and_can_be_parked),
        PROMISE(an_id_whose_row_is_damaged_can_be_written_while_that_waits),
        PROMISE(a_newer_format_is_refused),
        PROMISE(a_folder_has_one_spool_at_a_time),
        PROMISE(a_row_cut_or_changed_anywhere_decodes_or_is_corrupt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
