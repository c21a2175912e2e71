/* The spool's disk fails or is full while its rows are brought into the log: what the spool cannot
 * forget is appended once, however long that lasts.
 * pace: waits */
#include "tests/unit/replay_rig.h"

#include "tests/unit/faulty_store.h"

/* The spool's store, which outlives the spool's use of it.  Commits that take anything away may be
 * refused.
 */
static struct {
    struct store *kept;
    atomic_int cause; /* enum err_code; ERR_OK: they are not */
    atomic_uint refused;
} disk;

static __thread bool is_spared; /* this thread's are not */
static __thread bool takes_away;
static struct store_ops ops;

static enum err_code begin_front(struct store_txn **out, struct store *store, bool write,
                                 struct err *err)
{
    takes_away = false;
    return faulty_begin(out, store, write, err);
}

static enum err_code remove_front(struct store_txn *txn, enum store_table table,
                                  struct store_value key, struct err *err)
{
    takes_away = true;
    return faulty_remove(txn, table, key, err);
}

static enum err_code commit_or_not(struct store_txn *txn, struct err *err)
{
    enum err_code cause = (enum err_code)atomic_load(&disk.cause);

    if (!txn->write || !takes_away || is_spared || cause == ERR_OK)
        return faulty_commit(txn, err);
    atomic_fetch_add(&disk.refused, 1);
    faulty_abort(txn);
    return err_set(err, cause, "the disk of this test");
}

static void close_front(struct store *store)
{
    free(store);
}

static enum err_code open_front(void *context, struct store **out, struct err *err)
{
    struct faulty *front = calloc(1, sizeof(*front));

    (void)context, (void)err;
    assert_non_null(front);
    ops = faulty_ops;
    ops.begin = begin_front;
    ops.remove = remove_front;
    ops.commit = commit_or_not;
    ops.close = close_front;
    front->base.ops = &ops;
    front->base.env = env_real();
    front->inner = disk.kept;
    *out = &front->base;
    return ERR_OK;
}

static int set_up_with_disk(void **state)
{
    struct store_options options = {.url = "memory:", .env = env_real()};
    struct err err = {0};
    int result = set_up(state);

    end();
    must(store_open(&disk.kept, &options, &err), &err);
    atomic_store(&disk.cause, ERR_OK);
    world.open_spool = open_front;
    begin();
    return result;
}

static int tear_down_with_disk(void **state)
{
    int result = tear_down(state);

    store_close(disk.kept);
    return result;
}

/* --- promises ------------------------------------------------------------------------------------
 */

static void rows_that_the_spool_cannot_forget_are_appended_once(void **state)
{
    static const enum err_code CAUSES[] = {ERR_INSUFFICIENT_STORAGE, ERR_IO, ERR_NO_MEMORY};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(CAUSES); i++) {
        char value[16];

        (void)snprintf(value, sizeof(value), "%zu", i);
        log_goes_away();
        expect_spooled(upsert("a", value));
        expect_spooled(upsert("b", value));
        assert_int_equal(delete_status("c"), 202);
        atomic_store(&disk.refused, 0);
        atomic_store(&disk.cause, (int)CAUSES[i]);
        log_comes_back();
        AWAIT(atomic_load(&disk.refused) > 4); /* rounds */
        expect_newest("a", value);
        /* Whatever is new is refused, and nothing passes what waits. */
        expect_refused(upsert("a", "refused"));
        expect_refused(ask_json("POST", RECORDS "/delete", "{\"ids\":[\"b\"]}"));
        atomic_store(&disk.cause, ERR_OK);
        AWAIT(spool_is_empty());
        expect_newest("a", value);
        expect_newest("b", value);
        assert_int_equal(history_of("c", NULL).count, i + 1);
        assert_int_equal(spool_number("parked_records"), 0);
        assert_int_equal(upsert_status("b", "between"), 200);
    }
    assert_int_equal(history_of("a", "refused").of_value, 0);
    AWAIT(busy_count(life.ingest.busy) == 0);
}

/* The newer row of an id that was appended, and not forgotten, is appended too. */
static void what_replaces_a_row_that_was_appended_comes_after_it(void **state)
{
    (void)state;
    log_goes_away();
    expect_spooled(upsert("a", "1"));
    expect_spooled(upsert("b", "1"));
    atomic_store(&disk.refused, 0);
    atomic_store(&disk.cause, ERR_INSUFFICIENT_STORAGE);
    log_comes_back();
    AWAIT(atomic_load(&disk.refused) > 2);
    is_spared = true;
    expect_spooled(upsert("a", "2"));
    is_spared = false;
    atomic_store(&disk.cause, ERR_OK);
    AWAIT(spool_is_empty());
    expect_newest("a", "2");
    assert_int_equal(history_of("a", "1").of_value, 1);
    expect_newest("b", "1");
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up_with_disk, tear_down_with_disk)
    const struct CMUnitTest tests[] = {
        PROMISE(rows_that_the_spool_cannot_forget_are_appended_once),
        PROMISE(what_replaces_a_row_that_was_appended_comes_after_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
