/* A spool in a folder that is removed again, or in a kept store with faults in front; rows to put
 * into it, and what is read from it.  Included by the spool's unit tests: one spool at a time. */
#ifndef VICINAL_TESTS_SPOOL_RIG_H
#define VICINAL_TESTS_SPOOL_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static inline uint64_t soon(uint64_t ns)
{
    return env_boot_ns(env_real()) + ns;
}

/* --- life ------------------------------------------------------------------------------------ */

static inline enum err_code try_open(struct spool **out, uint64_t bytes_max, struct err *err)
{
    struct spool_setup setup = {.env = env_real(), .url = world.url, .bytes_max = bytes_max};

    return spool_open(out, &setup, err);
}

static inline void begin_with(uint64_t bytes_max)
{
    struct err err = {0};

    must(try_open(&world.spool, bytes_max, &err), &err);
}

static inline void begin(void)
{
    begin_with(0);
}

static inline void end(void)
{
    spool_close(world.spool);
    world.spool = NULL;
}

static inline int set_up(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    assert_true(scratch_make(world.dir, sizeof(world.dir), "spool"));
    (void)snprintf(world.url, sizeof(world.url), "lmdb:%s/spool", world.dir);
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    end();
    if (world.kept != NULL)
        store_close(world.kept);
    (void)scratch_remove(world.dir);
    return 0;
}

/* --- a store that outlives the spool's use of it, with faults in front ----------------------- */

static struct store_ops front_ops;

/* What the next sync of the kept store says, once; ERR_OK: the truth. */
static enum err_code next_sync;

static inline enum err_code front_sync(struct store *store, struct err *err)
{
    enum err_code code = next_sync;

    next_sync = ERR_OK;
    return code == ERR_OK ? faulty_sync(store, err) : err_set(err, code, "the sync fails");
}

static inline void front_close(struct store *store)
{
    free(store);
    world.front = NULL;
}

static inline enum err_code open_front(void *context, struct store **out, struct err *err)
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

static inline void begin_kept(void)
{
    struct spool_setup setup = {.env = env_real(), .url = "kept", .open_store = open_front};
    struct store_options options = {.url = "memory:", .env = env_real()};
    struct err err = {0};

    if (world.kept == NULL)
        must(store_open(&world.kept, &options, &err), &err);
    must(spool_open(&world.spool, &setup, &err), &err);
}

static inline void begin_kept_anew(void)
{
    end();
    if (world.kept != NULL)
        store_close(world.kept);
    world.kept = NULL;
    begin_kept();
}

/* --- rows ------------------------------------------------------------------------------------ */

#define BATCH_MAX 64

/* Rows with what they point to. */
struct sample {
    struct spool_row rows[BATCH_MAX];
    struct buffer bytes[BATCH_MAX];
    char ids[BATCH_MAX][32];
    size_t count;
};

/* value NULL: a delete. */
static inline void sample_add(struct sample *sample, const uint8_t *incarnation, const char *id,
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

static inline void sample_free(struct sample *sample)
{
    for (size_t i = 0; i < sample->count; i++)
        buffer_free(&sample->bytes[i]);
    sample->count = 0;
}

static inline enum err_code put_sample(struct sample *sample, struct err *err)
{
    return spool_put(world.spool, sample->rows, sample->count, err);
}

/* One row; its number. */
static inline uint64_t put(const uint8_t *incarnation, const char *id, const char *value)
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

static inline enum err_code try_put(const uint8_t *incarnation, const char *id, const char *value)
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

static inline enum err_code try_read(struct page *page, size_t count_max, size_t bytes_max)
{
    struct err err = {0};

    *page = (struct page){0};
    return spool_read(world.spool, &page->arena, count_max, bytes_max, &page->rows, &page->count,
                      &err);
}

static inline void read_page(struct page *page, size_t count_max, size_t bytes_max)
{
    assert_int_equal(try_read(page, count_max, bytes_max), ERR_OK);
}

static inline bool row_has(const struct spool_row *row, const char *id, const char *value)
{
    struct record record;

    if (row->id_len != strlen(id) || memcmp(row->id, id, row->id_len) != 0)
        return false;
    assert_int_equal(record_decode(&record, row->record, row->record_len, NULL, NULL), ERR_OK);
    return value == NULL ? record.op == RECORD_DELETE
                         : record.op == RECORD_UPSERT && record.text_len == strlen(value) &&
                               memcmp(record.text, value, record.text_len) == 0;
}

static inline const struct spool_row *find(const struct page *page, const char *id,
                                           const char *value)
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
static inline enum err_code settle(const struct page *page, enum spool_fate fate)
{
    enum spool_fate fates[ROWS_MAX];
    struct err err = {0};

    assert_true(page->count <= ROWS_MAX);
    for (size_t i = 0; i < page->count; i++)
        fates[i] = fate;
    return spool_settle(world.spool, page->rows, fates, page->count, &err);
}

static inline struct spool_status look(void)
{
    struct spool_status status;

    spool_status(world.spool, &status);
    return status;
}

/* The counts are those that a new life finds on the disk. */
static inline void expect_counts_of_disk(void (*reopen)(void))
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

static inline void name_of(char *out, size_t size, unsigned value)
{
    (void)snprintf(out, size, "%u", value);
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
