/* The spool: what was acknowledged is there, once, in this life and the next, until it has come to
 * its end; nothing that was refused is. */
#include "tests/lib/child.h"
#include "tests/unit/spool_rig.h"

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

/* --- what has come to its end ---------------------------------------------------------------- */

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
    struct err err = {0};

    if (try_open(&spool, 0, &err) != ERR_OK) {
        (void)fprintf(stderr, "%s\n", err.message);
        _exit(1);
    }
    world.spool = spool;
    for (uint64_t i = 0;; i++) {
        char id[16];

        name_of(id, sizeof(id), (unsigned)(i % 500));
        if (try_put(ONE, id, id) != ERR_OK || write(out, &i, sizeof(i)) != sizeof(i))
            _exit(1);
    }
}

static void what_a_killed_process_told_is_there(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 4; round++) {
        uint64_t wanted = 20 + round * 37;
        uint64_t count = child_told_until_killed(put_and_tell, (unsigned)wanted) + 1;
        struct page page;
        char id[16];

        assert_true(count >= wanted);
        begin();
        read_page(&page, 1000, MIB(1));
        for (unsigned i = 0; i < count && i < 500; i++) {
            name_of(id, sizeof(id), i);
            assert_non_null(find(&page, id, id));
        }
        assert_int_equal(settle(&page, SPOOL_APPENDED), ERR_OK);
        arena_free(&page.arena);
        end();
    }
}

int main(void)
{
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
        PROMISE(a_folder_has_one_spool_at_a_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
