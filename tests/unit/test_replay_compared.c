/* Rows of the spool that somebody else may have overtaken are compared with what a real shard has:
 * they are appended only where they are the newest.  The shard, its server and the ingest live in
 * this process. */
#include "tests/unit/replay_shard_rig.h"

#include "services/ingest/spool_internal.h"

/* Another holder, that knows of no spool. */
static void begin_without_spool(void)
{
    end();
    world.without_spool = true;
    begin();
}

static void begin_with_spool(void)
{
    end();
    world.without_spool = false;
    begin();
}

/* --- promises ------------------------------------------------------------------------------------
 */

static void rows_of_an_earlier_life_are_appended_once(void **state)
{
    (void)state;
    assert_int_equal(upsert_status("a", "0"), 200);
    assert_int_equal(upsert_status("gone", "0"), 200);
    log_goes_away();
    expect_spooled(upsert("a", "1"));
    expect_spooled(upsert("b", "1"));
    assert_int_equal(delete_status("gone"), 202);
    end();
    begin();
    AWAIT(spool_is_empty());
    expect_newest("a", "1");
    expect_newest("b", "1");
    assert_string_equal(history_of("gone", NULL).newest, "");
    assert_int_equal(history_of("gone", NULL).count, 2);
    assert_int_equal(upsert_status("a", "2"), 200);
    assert_int_equal(spool_number("parked_records"), 0);
}

static void rows_that_others_have_overtaken_never_come_back(void **state)
{
    (void)state;
    log_goes_away();
    expect_spooled(upsert("rewritten", "old"));
    expect_spooled(upsert("deleted", "old"));
    expect_spooled(upsert("alone", "only"));
    assert_int_equal(delete_status("revived"), 202);
    begin_without_spool();
    assert_int_equal(upsert_status("rewritten", "new"), 200);
    assert_int_equal(upsert_status("revived", "new"), 200);
    assert_int_equal(delete_status("deleted"), 200);
    begin_with_spool();
    AWAIT(spool_is_empty());
    assert_string_equal(history_of("rewritten", NULL).newest, "new");
    assert_string_equal(history_of("revived", NULL).newest, "new");
    assert_string_equal(history_of("deleted", NULL).newest, "");
    assert_int_equal(history_of("rewritten", NULL).count, 1);
    assert_int_equal(history_of("deleted", NULL).count, 1);
    expect_newest("alone", "only");
    assert_int_equal(spool_number("parked_records"), 0);
}

static void what_was_truncated_since_stays_away(void **state)
{
    (void)state;
    assert_int_equal(upsert_status("there", "0"), 200);
    log_goes_away();
    expect_spooled(upsert("there", "1"));
    expect_spooled(upsert("never_there", "1"));
    begin_without_spool();
    assert_int_equal(status_of("POST", RECORDS "/delete", "{\"delete_all\":true,\"count\":false}"),
                     200);
    begin_with_spool();
    AWAIT(spool_is_empty());
    assert_int_equal(history_of("there", "1").of_value, 0);
    assert_int_equal(history_of("never_there", NULL).count, 0);
}

static void copy_spool(const char *from, const char *to)
{
    char command[256];

    (void)snprintf(command, sizeof(command), "rm -rf %s/%s && cp -r %s/%s %s/%s", world.dir, to,
                   world.dir, from, world.dir, to);
    assert_int_equal(system(command), 0);
}

static void a_spool_that_forgot_that_it_was_emptied_appends_nothing_twice(void **state)
{
    (void)state;
    assert_int_equal(upsert_status("a", "0"), 200);
    log_goes_away();
    expect_spooled(upsert("a", "1"));
    expect_spooled(upsert("b", "1"));
    assert_int_equal(delete_status("c"), 202);
    end();
    copy_spool("spool", "before");
    begin();
    AWAIT(spool_is_empty());
    assert_int_equal(upsert_status("b", "2"), 200);
    end();
    copy_spool("before", "spool");
    begin();
    AWAIT(spool_is_empty());
    expect_newest("a", "1");
    assert_int_equal(history_of("a", NULL).count, 2);
    expect_newest("b", "2");
    assert_int_equal(history_of("b", NULL).count, 2);
    assert_int_equal(history_of("c", NULL).count, 1);
}

/* Shards know nothing of what waits: an answer that nothing matched would be wrong. */
static void a_delete_by_filter_waits_behind_the_spool(void **state)
{
    static const char BY_FILTER[] = "{\"filter\":{\"kind\":\"x\"}}";

    (void)state;
    log_goes_away();
    expect_spooled(
        ask_json("POST", RECORDS, "{\"records\":[{\"id\":\"a\",\"metadata\":{\"kind\":\"x\"}}]}"));
    expect_refused(ask_json("POST", RECORDS "/delete", BY_FILTER));
    log_comes_back();
    AWAIT(spool_is_empty());
    assert_int_equal(status_of("POST", RECORDS "/delete", BY_FILTER), 200);
    assert_int_equal(history_of("a", NULL).count, 2);
}

static void rows_of_another_ingest_are_appended_or_older(void **state)
{
    struct rows rows = {0};
    struct buffer record = {0};
    struct spool_row row;
    struct answer answer;

    (void)state;
    assert_int_equal(upsert_status("present", "newer"), 200);
    assert_int_equal(upsert_status("overtaken", "older"), 200);
    add(&rows, "docs", "present");
    row = row_of(&record, "docs", "overtaken");
    row.stamp.clock = history_of("overtaken", NULL).stamp.clock + 1;
    add_row(&rows, &row);
    add(&rows, "docs", "fresh");
    answer = send_rows(&rows);
    assert_int_equal(answer.status, 200);
    assert_string_equal(text_of(answer, "fates"), "oaa");
    json_decref(answer.body);
    assert_int_equal(history_of("present", NULL).count, 1);
    assert_int_equal(history_of("overtaken", NULL).count, 2);
    assert_int_equal(history_of("fresh", NULL).count, 1);
    /* Once more, as when the answer was lost. */
    row = row_of(&record, "docs", "overtaken");
    row.stamp.clock = history_of("overtaken", NULL).stamp.clock - 1;
    add_row(&rows, &row);
    add(&rows, "docs", "fresh");
    answer = send_rows(&rows);
    assert_string_equal(text_of(answer, "fates"), "oo");
    json_decref(answer.body);
    assert_int_equal(history_of("fresh", NULL).count, 1);
    buffer_free(&record);
}

/* The standby's spool, while it is not open. */
static struct spool *open_standby_spool(void)
{
    static char url[96];
    struct spool_setup setup = {.env = env_real(), .url = url};
    struct spool *spool;
    struct err err = {0};

    (void)snprintf(url, sizeof(url), "lmdb:%s/standby", world.dir);
    must(spool_open(&spool, &setup, &err), &err);
    return spool;
}

static uint64_t put_for_standby(const char *id, uint64_t clock)
{
    struct spool *spool = open_standby_spool();
    struct buffer record = {0};
    struct spool_row row = row_of(&record, "docs", id);
    struct err err = {0};

    row.stamp.clock = clock;
    must(spool_put(spool, &row, 1, &err), &err);
    buffer_free(&record);
    spool_close(spool);
    return row.number;
}

static void damage(uint64_t number)
{
    char url[96];
    struct store_options options = {.url = url, .env = env_real()};
    struct spool_key key = spool_key_of(false, number);
    struct store_value nonsense = {.data = "nonsense", .len = 8};
    struct store_txn *txn;
    struct store *store;
    struct err err = {0};

    (void)snprintf(url, sizeof(url), "lmdb:%s/standby", world.dir);
    must(store_open(&store, &options, &err), &err);
    must(store_begin(&txn, store, true, &err), &err);
    must(store_put(txn, STORE_ROWS, spool_key_value(&key), nonsense, &err), &err);
    must(store_commit(txn, &err), &err);
    store_close(store);
}

/* The log's lock is taken: it stands by for ever. */
static enum err_code open_no_wal(void *context, struct wal **out, struct err *err)
{
    (void)context, (void)out;
    return err_set(err, ERR_CONFLICT, "another one holds it");
}

static void begin_standby(void)
{
    static char url[96];
    struct ingest_setup setup = {.env = env_real(),
                                 .meta = world.meta,
                                 .cluster = world.cluster,
                                 .client = world.client,
                                 .name = "1",
                                 .url = "http://standby",
                                 .open_wal = open_no_wal,
                                 .log_locks = true,
                                 .spool = url};
    struct err err = {0};

    (void)snprintf(url, sizeof(url), "lmdb:%s/standby", world.dir);
    must(ingest_open(&side.standby, &setup, &err), &err);
    must(ingest_start(&side.standby, NULL, &err), &err);
}

static void a_standby_hands_its_rows_to_the_holder(void **state)
{
    struct spool_status status;

    (void)state;
    assert_int_equal(upsert_status("present", "newer"), 200);
    (void)put_for_standby("present", 5);
    (void)put_for_standby("fresh", 6);
    begin_standby();
    AWAIT(!spool_waits(side.standby.spool));
    assert_int_equal(history_of("present", NULL).count, 1);
    assert_int_equal(history_of("fresh", NULL).count, 1);
    spool_status(side.standby.spool, &status);
    assert_int_equal(status.parked, 0);
}

static void a_damaged_row_of_a_standby_stops_no_other(void **state)
{
    struct spool_status status;

    (void)state;
    damage(put_for_standby("damaged", 5));
    (void)put_for_standby("fresh", 6);
    begin_standby();
    AWAIT(!spool_waits(side.standby.spool));
    assert_int_equal(history_of("fresh", NULL).count, 1);
    spool_status(side.standby.spool, &status);
    assert_int_equal(status.parked, 1);
}

static void whoever_takes_the_log_in_between_the_last_acknowledged_write_wins(void **state)
{
    static const enum wal_fault FAULTS[] = {WAL_FAULT_BEFORE, WAL_FAULT_AFTER,
                                            WAL_FAULT_OTHER_EPOCH, WAL_FAULT_LATE_BEFORE};

    (void)state;
    write_through_faults(FAULTS, ARRAY_COUNT(FAULTS));
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up_with_shard, tear_down_with_shard)
    const struct CMUnitTest tests[] = {
        PROMISE(rows_of_an_earlier_life_are_appended_once),
        PROMISE(rows_that_others_have_overtaken_never_come_back),
        PROMISE(what_was_truncated_since_stays_away),
        PROMISE(a_spool_that_forgot_that_it_was_emptied_appends_nothing_twice),
        PROMISE(a_delete_by_filter_waits_behind_the_spool),
        PROMISE(rows_of_another_ingest_are_appended_or_older),
        PROMISE(a_standby_hands_its_rows_to_the_holder),
        PROMISE(a_damaged_row_of_a_standby_stops_no_other),
        PROMISE(whoever_takes_the_log_in_between_the_last_acknowledged_write_wins),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
