/* Whatever call of its store fails, and whatever a power cut takes, a spool has every row that was
 * acknowledged, once. */
#include "tests/unit/spool_rig.h"

#include <stdatomic.h>

enum { IDS = 8, VALUES = 64 };

/* What may wait of each id: a set of values; 0 is nothing. */
struct model {
    uint64_t may[IDS];
    size_t parked_least, parked_most;
    unsigned serial; /* the value put last */
};

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(whatever_call_of_the_store_fails_the_acknowledged_wait),
        PROMISE(a_disk_that_fails_again_while_it_is_mended_loses_nothing),
        PROMISE(a_sync_without_room_is_no_refusal),
        PROMISE(a_power_cut_takes_nothing_that_was_acknowledged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
