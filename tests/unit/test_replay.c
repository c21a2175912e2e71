/* What an ingest answers while its log is away, and what the log has when it is back.
 * pace: waits */
#include "tests/unit/replay_rig.h"

/* --- promises: what is kept ----------------------------------------------------------------------
 */

static void plain_writes_are_kept_while_the_log_is_away_and_appended_when_it_is_back(void **state)
{
    struct answer answer;

    (void)state;
    assert_int_equal(upsert_status("a", "before"), 200);
    assert_int_equal(upsert_status("gone", "before"), 200);
    log_goes_away();
    answer = upsert("a", "1");
    assert_int_equal(json_integer_value(json_object_get(answer.body, "upserted_count")), 1);
    expect_spooled(answer);
    expect_spooled(upsert("a", "2"));
    expect_spooled(ask_json("POST", RECORDS,
                            "{\"records\":[{\"id\":\"b\",\"text\":\"1\"},{\"id\":\"c\",\"text\":"
                            "\"1\"},{\"id\":\"b\",\"text\":\"2\"}],\"on_conflict\":\"replace\"}"));
    expect_spooled(ask_json("PUT", RECORDS "/d", "{\"text\":\"put\"}"));
    expect_spooled(
        ask_json("POST", RECORDS "/delete", "{\"ids\":[\"gone\",\"c\"],\"count\":false}"));
    /* a b c d gone; the write that found out comes when it has waited long enough. */
    assert_in_range(spool_number("records"), 5, 6);
    assert_true(spool_number("bytes") > 5 * SPOOL_ROW_OVERHEAD);
    log_comes_back();
    AWAIT(spool_is_empty());
    expect_newest("a", "2");
    expect_newest("b", "2");
    expect_newest("d", "put");
    assert_string_equal(history_of("gone", "").newest, "");
    assert_int_equal(history_of("gone", "").count, 2);
    /* What was replaced while it waited never comes. */
    assert_int_equal(history_of("a", "1").of_value, 0);
    assert_int_equal(history_of("c", "").count, 1);
    assert_int_equal(upsert_status("a", "after"), 200);
    expect_newest("a", "after");
    assert_int_equal(spool_number("records"), 0);
    assert_int_equal(spool_number("parked_records"), 0);
    AWAIT(busy_count(life.ingest.busy) == 0);
}

/* The outcome of what was on its way when the log went away is not awaited for ever. */
static void the_write_that_meets_the_failure_is_kept_within_seconds(void **state)
{
    uint64_t began = env_boot_ns(env_real());

    (void)state;
    wal_faulty_set(life.log, WAL_FAULT_BEFORE, 1, FOR_LONG);
    expect_spooled(upsert("a", "1"));
    assert_in_range(env_boot_ns(env_real()) - began, NS_PER_S, 10 * NS_PER_S);
    log_comes_back();
    AWAIT(spool_is_empty());
    expect_newest("a", "1");
}

static void what_depends_on_the_present_state_is_refused(void **state)
{
    static const struct {
        const char *method, *path, *body;
    } DEPENDENT[] = {
        {"POST", RECORDS, "{\"records\":[{\"id\":\"a\"}],\"on_conflict\":\"skip\"}"},
        {"POST", RECORDS, "{\"records\":[{\"id\":\"a\"}],\"on_conflict\":\"fail\"}"},
        {"POST", RECORDS, "{\"records\":[{\"id\":\"a\"}],\"wait\":\"searchable\"}"},
        {"POST", RECORDS "/delete", "{\"ids\":[\"a\"]}"},
        {"POST", RECORDS "/delete", "{\"ids\":[\"a\"],\"count\":false,\"wait\":\"searchable\"}"},
        {"POST", RECORDS "/delete", "{\"filter\":{\"x\":1},\"count\":false}"},
        {"POST", RECORDS "/delete", "{\"delete_all\":true,\"count\":false}"},
        {"POST", RECORDS "/update", "{\"ids\":[\"a\"],\"metadata\":{}}"},
        {"POST", RECORDS "/update", "{\"filter\":{\"x\":1},\"metadata\":{}}"},
        {"PATCH", RECORDS "/a", "{\"metadata\":{}}"},
        {"DELETE", RECORDS "/a", ""},
        {"PUT", "/v1/collections/new", "{\"vector\":{\"dimension\":2}}"},
        {"DELETE", "/v1/collections/docs", ""},
    };

    (void)state;
    log_goes_away();
    for (int row_waits = 0; row_waits < 2; row_waits++) {
        for (size_t i = 0; i < ARRAY_COUNT(DEPENDENT); i++) {
            struct answer answer =
                ask_json(DEPENDENT[i].method, DEPENDENT[i].path, DEPENDENT[i].body);

            if (answer.status != 503)
                fail_msg("%s %s %s: %d", DEPENDENT[i].method, DEPENDENT[i].path, DEPENDENT[i].body,
                         answer.status);
            expect_refused(answer);
        }
        if_match = "\"1-1\"";
        expect_refused(ask_json("PUT", RECORDS "/a", "{\"text\":\"x\"}"));
        if_match = NULL;
        expect_spooled(upsert("plain", "1"));
    }
    log_comes_back();
    AWAIT(spool_is_empty());
    assert_int_equal(history_of("a", NULL).count, 0);
    expect_newest("plain", "1");
    assert_int_equal(status_of("DELETE", "/v1/collections/docs", ""), 204);
}

static void foreign_runs_wait_behind_the_spool(void **state)
{
    struct buffer body = {0};

    (void)state;
    buffer_append_byte(&body, 2);
    buffer_append_u32(&body, 77);
    buffer_append_u32(&body, 1); /* run */
    buffer_append_u32(&body, 3);
    buffer_append_u64(&body, 0);
    buffer_append_u64(&body, 40);
    buffer_append_u32(&body, 0);
    log_goes_away();
    expect_spooled(upsert("a", "1"));
    media = MEDIA_BINARY;
    expect_refused(ask("POST", "/internal/v1/append", body.data, body.len));
    log_comes_back();
    AWAIT(spool_is_empty());
    media = MEDIA_BINARY;
    assert_int_equal(status_in(ask("POST", "/internal/v1/append", body.data, body.len)), 200);
    buffer_free(&body);
}

/* What another region writes during the outage is newer than what was spooled before it. */
static void what_waited_has_the_time_of_its_writing(void **state)
{
    uint64_t between;

    (void)state;
    log_goes_away();
    expect_spooled(upsert("a", "1"));
    between = env_wall_us(env_real()) + 100;
    AWAIT(env_wall_us(env_real()) > between);
    log_comes_back();
    AWAIT(spool_is_empty());
    expect_newest("a", "1");
    assert_true(history_of("a", NULL).stamp.clock < between);
    assert_int_equal(upsert_status("a", "2"), 200);
    assert_true(history_of("a", NULL).stamp.clock > between);
}

static void a_full_spool_refuses_whole_requests(void **state)
{
    char id[32];
    unsigned kept = 0;

    (void)state;
    end();
    world.spool_bytes = KIB(16);
    begin();
    log_goes_away();
    for (;; kept++) {
        struct answer answer;

        (void)snprintf(id, sizeof(id), "k%u", kept);
        answer = upsert(id, "v");
        if (answer.status == 503) {
            expect_refused(answer);
            break;
        }
        expect_spooled(answer);
        assert_true(kept < 200);
    }
    assert_true(kept > 10);
    log_comes_back();
    AWAIT(spool_is_empty());
    for (unsigned i = 0; i < kept; i++) {
        (void)snprintf(id, sizeof(id), "k%u", i);
        expect_newest(id, "v");
    }
    (void)snprintf(id, sizeof(id), "k%u", kept);
    assert_int_equal(history_of(id, NULL).count, 0);
    assert_int_equal(upsert_status(id, "v"), 200);
}

/* --- promises: appends that land late, half, or unheard
 * --------------------------------------------
 */

static void what_lands_late_never_passes_what_was_acknowledged_since(void **state)
{
    static const enum wal_fault FAULTS[] = {WAL_FAULT_AFTER, WAL_FAULT_HALF, WAL_FAULT_LATE_BEFORE,
                                            WAL_FAULT_LATE_BEHIND};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(FAULTS); i++) {
        char ids[4][16], body[256];

        for (unsigned n = 0; n < 4; n++)
            (void)snprintf(ids[n], sizeof(ids[n]), "%zu-%u", i, n);
        (void)snprintf(
            body, sizeof(body),
            "{\"records\":[{\"id\":\"%s\",\"text\":\"old\"},{\"id\":\"%s\",\"text\":"
            "\"old\"},{\"id\":\"%s\",\"text\":\"old\"},{\"id\":\"%s\",\"text\":\"old\"}]}",
            ids[0], ids[1], ids[2], ids[3]);
        wal_faulty_set(life.log, FAULTS[i], 1, 1);
        wal_faulty_then(life.log, WAL_FAULT_BEFORE, FOR_LONG);
        expect_spooled(ask_json("POST", RECORDS, body));
        expect_spooled(upsert(ids[0], "new"));
        assert_int_equal(delete_status(ids[1]), 202);
        log_comes_back();
        AWAIT(spool_is_empty());
        assert_string_equal(history_of(ids[0], NULL).newest, "new");
        assert_string_equal(history_of(ids[1], NULL).newest, "");
        assert_string_equal(history_of(ids[2], NULL).newest, "old");
        assert_string_equal(history_of(ids[3], NULL).newest, "old");
        assert_int_equal(history_of(ids[0], "new").of_value, 1);
        assert_int_equal(upsert_status(ids[0], "after"), 200);
        expect_newest(ids[0], "after");
    }
}

/* It may have landed: "try again" would be wrong. */
static void a_full_spool_does_not_call_a_doubtful_write_refused(void **state)
{
    struct answer answer;
    char body[4096], text[3000];

    (void)state;
    end();
    world.spool_bytes = KIB(2);
    begin();
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    (void)snprintf(body, sizeof(body), "{\"records\":[{\"id\":\"a\",\"text\":\"%s\"}]}", text);
    wal_faulty_set(life.log, WAL_FAULT_AFTER, 1, 1);
    wal_faulty_then(life.log, WAL_FAULT_BEFORE, FOR_LONG);
    answer = ask_json("POST", RECORDS, body);
    assert_int_equal(answer.status, 503);
    assert_string_equal(text_of(answer, "title"), "The outcome of a write is not known");
    json_decref(answer.body);
    log_comes_back();
    assert_int_equal(history_of("a", NULL).count, 1);
}

static void whatever_the_log_does_the_last_acknowledged_write_wins(void **state)
{
    static const enum wal_fault FAULTS[] = {WAL_FAULT_BEFORE,      WAL_FAULT_AFTER,
                                            WAL_FAULT_HALF,        WAL_FAULT_LATE_BEFORE,
                                            WAL_FAULT_LATE_BEHIND, WAL_FAULT_VOID_BEFORE};

    (void)state;
    write_through_faults(FAULTS, ARRAY_COUNT(FAULTS));
}

enum { CROWD = 16 };

struct member {
    pthread_t thread;
    unsigned number;
    const char *path;
};

static void *write_without_end(void *argument)
{
    struct member *member = argument;
    char body[64];

    for (unsigned i = 0; !atomic_load(&writers_end); i++) {
        int status;

        (void)snprintf(body, sizeof(body), "{\"records\":[{\"id\":\"%u-%u\"}]}", member->number,
                       i % 50);
        status = status_of("POST", member->path, body);
        if (status != 200 && status != 202 && status != 504) /* 504: a slow disk */
            atomic_store(&writers_failed, status);
    }
    return NULL;
}

static void many_writers_of_two_collections_do_not_keep_the_spool_from_becoming_empty(void **state)
{
    struct member crowd[CROWD] = {0};

    (void)state;
    atomic_store(&writers_end, false);
    atomic_store(&writers_failed, 0);
    log_goes_away();
    for (unsigned i = 0; i < CROWD; i++) {
        crowd[i].number = i;
        crowd[i].path = i % 2 == 0 ? RECORDS : "/v1/collections/other/records";
        assert_int_equal(pthread_create(&crowd[i].thread, NULL, write_without_end, &crowd[i]), 0);
    }
    AWAIT(spool_number("records") > CROWD * 10);
    log_comes_back();
    AWAIT(spool_is_empty());
    atomic_store(&writers_end, true);
    for (unsigned i = 0; i < CROWD; i++)
        assert_int_equal(pthread_join(crowd[i].thread, NULL), 0);
    assert_int_equal(atomic_load(&writers_failed), 0);
}

/* --- promises: other lives -----------------------------------------------------------------------
 */

static void rows_of_a_collection_that_is_gone_are_parked_and_shown(void **state)
{
    (void)state;
    log_goes_away();
    expect_spooled(upsert("a", "1"));
    expect_spooled(upsert("b", "1"));
    end();
    world.without_spool = true;
    begin();
    assert_int_equal(status_of("DELETE", "/v1/collections/docs", ""), 204);
    assert_int_equal(status_of("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":3}}"),
                     201);
    end();
    world.without_spool = false;
    begin();
    AWAIT(spool_number("parked_records") >= 2);
    assert_true(spool_number("parked_bytes") > 2 * SPOOL_ROW_OVERHEAD);
    assert_int_equal(history_of("a", NULL).count, 0);
    end();
    begin();
    assert_true(spool_number("parked_records") >= 2);
}

/* Without a shard nobody knows what came in between. */
static void rows_of_an_earlier_life_wait_until_they_can_be_compared(void **state)
{
    (void)state;
    log_goes_away();
    expect_spooled(upsert("a", "1"));
    end();
    begin();
    assert_true(spool_number("records") >= 1);
    expect_spooled(upsert("b", "behind it"));
    expect_refused(ask_json("POST", RECORDS "/delete", "{\"delete_all\":true,\"count\":false}"));
    assert_int_equal(history_of("a", NULL).count, 0);
    assert_int_equal(spool_number("parked_records"), 0);
}

/* --- promises: another ingest's rows
 * ---------------------------------------------------------------
 */

static void expect_malformed(struct answer answer, const char *why)
{
    assert_int_equal(answer.status, 400);
    assert_non_null(strstr(text_of(answer, "detail"), why));
    json_decref(answer.body);
}

static void rows_that_are_malformed_are_refused_whole(void **state)
{
    struct rows rows = {0};
    struct buffer whole = {0}, record = {0};
    struct spool_row row;
    uint8_t *bytes;

    (void)state;
    media = MEDIA_BINARY;
    expect_malformed(ask("POST", "/internal/v1/replay", "", 0), "version");
    media = MEDIA_JSON;
    assert_int_equal(status_in(ask("POST", "/internal/v1/replay", "{}", 2)), 415);
    add(&rows, "docs", "a");
    expect_malformed(send_as(&rows, 2, 1, ""), "version");
    expect_malformed(send_as(&rows, 1, 0, ""), "none, or too many");
    add(&rows, "docs", "a");
    expect_malformed(send_as(&rows, 1, 1001, ""), "none, or too many");
    add(&rows, "docs", "a");
    expect_malformed(send_as(&rows, 1, UINT32_MAX, ""), "none, or too many");
    add(&rows, "docs", "a");
    expect_malformed(send_as(&rows, 1, 2, ""), "damaged");
    add(&rows, "docs", "a");
    expect_malformed(send_as(&rows, 1, 1, "x"), "behind the last one");
    add(&rows, "docs", "a");
    add(&rows, "other", "a");
    expect_malformed(send_rows(&rows), "more than one collection");
    add_bytes(&rows, "nonsense", 8);
    expect_malformed(send_rows(&rows), "damaged");
    row = row_of(&record, "docs", "a");
    row.record_len = 0;
    add_row(&rows, &row);
    expect_malformed(send_rows(&rows), "damaged");
    /* Every cut and every changed byte is answered, and nothing is appended for it. */
    row = row_of(&record, "docs", "a");
    spool_row_encode(&row, &whole);
    for (size_t len = 0; len < whole.len; len++) {
        struct answer answer;

        add_bytes(&rows, whole.data, len);
        answer = send_rows(&rows);
        /* Where only the record's end is missing its checksum tells, and it is parked. */
        assert_true(answer.status == 400 || strcmp(text_of(answer, "fates"), "p") == 0);
        json_decref(answer.body);
    }
    bytes = whole.data;
    for (size_t at = 0; at < whole.len; at++) {
        struct answer answer;

        bytes[at] ^= 0x55;
        add_bytes(&rows, bytes, whole.len);
        answer = send_rows(&rows);
        assert_true(answer.status == 400 || answer.status == 503 ||
                    strcmp(text_of(answer, "fates"), "p") == 0);
        json_decref(answer.body);
        bytes[at] ^= 0x55;
    }
    buffer_free(&whole);
    buffer_free(&record);
    assert_int_equal(history_of("a", NULL).count, 0);
    AWAIT(busy_count(life.ingest.busy) == 0);
}

static void rows_that_can_never_be_appended_are_to_be_parked(void **state)
{
    struct rows rows = {0};
    struct buffer record = {0};
    struct spool_row row;
    struct answer answer;

    (void)state;
    row = row_of(&record, "docs", "old");
    row.wall_us -= 25ull * 3600 * 1000000;
    add_row(&rows, &row);
    row = row_of(&record, "docs", "elsewhere");
    row.stamp.region++;
    add_row(&rows, &row);
    row = row_of(&record, "docs", "damaged");
    record.data[record.len - 1] ^= 1;
    add_row(&rows, &row);
    answer = send_rows(&rows);
    assert_int_equal(answer.status, 200);
    assert_string_equal(text_of(answer, "fates"), "ppp");
    json_decref(answer.body);
    /* Its collection is gone. */
    add(&rows, "never", "a");
    add(&rows, "never", "b");
    answer = send_rows(&rows);
    assert_int_equal(answer.status, 200);
    assert_string_equal(text_of(answer, "fates"), "pp");
    json_decref(answer.body);
    /* What has to be compared waits for the shards. */
    add(&rows, "docs", "a");
    answer = send_rows(&rows);
    assert_int_equal(answer.status, 503);
    json_decref(answer.body);
    buffer_free(&record);
    assert_int_equal(history_of("a", NULL).count, 0);
}

static void rows_are_taken_neither_while_the_log_is_away_nor_after_the_end(void **state)
{
    struct rows rows = {0};

    (void)state;
    log_goes_away();
    add(&rows, "docs", "a");
    expect_refused(send_rows(&rows));
    log_comes_back();
    ingest_stop(&life.ingest);
    add(&rows, "docs", "a");
    assert_int_equal(status_in(send_rows(&rows)), 503);
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(plain_writes_are_kept_while_the_log_is_away_and_appended_when_it_is_back),
        PROMISE(the_write_that_meets_the_failure_is_kept_within_seconds),
        PROMISE(what_depends_on_the_present_state_is_refused),
        PROMISE(foreign_runs_wait_behind_the_spool),
        PROMISE(what_waited_has_the_time_of_its_writing),
        PROMISE(a_full_spool_refuses_whole_requests),
        PROMISE(what_lands_late_never_passes_what_was_acknowledged_since),
        PROMISE(a_full_spool_does_not_call_a_doubtful_write_refused),
        PROMISE(many_writers_of_two_collections_do_not_keep_the_spool_from_becoming_empty),
        PROMISE(whatever_the_log_does_the_last_acknowledged_write_wins),
        PROMISE(rows_of_a_collection_that_is_gone_are_parked_and_shown),
        PROMISE(rows_of_an_earlier_life_wait_until_they_can_be_compared),
        PROMISE(rows_that_are_malformed_are_refused_whole),
        PROMISE(rows_that_can_never_be_appended_are_to_be_parked),
        PROMISE(rows_are_taken_neither_while_the_log_is_away_nor_after_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
