/* A delete or an update that goes page by page and fails on a later one tells what it has done,
 * with a token for that; asked again it goes on. */
#include "tests/unit/replay_shard_rig.h"

enum { RECORD_COUNT = 2500, PER_REQUEST = 500 };

static void write_records(void)
{
    struct buffer body = {0};

    for (int from = 0; from < RECORD_COUNT; from += PER_REQUEST) {
        buffer_reset(&body);
        buffer_append_text(&body, "{\"records\":[");
        for (int i = from; i < from + PER_REQUEST; i++)
            buffer_append_format(&body,
                                 "%s{\"id\":\"%05d\",\"text\":\"t\",\"metadata\":{\"n\":%d,"
                                 "\"kind\":\"x\"}}",
                                 i == from ? "" : ",", i, i);
        media = MEDIA_JSON;
        buffer_append_text(&body, "]}");
        assert_int_equal(status_in(ask("POST", RECORDS, body.data, body.len)), 200);
    }
    buffer_free(&body);
}

static json_int_t number_of(struct answer answer, const char *name)
{
    json_t *number = json_object_get(answer.body, name);

    if (!json_is_integer(number))
        fail_msg("no %s in the answer (status %d)", name, answer.status);
    return json_integer_value(number);
}

/* 503 that says: so much stands in the log, and is seen with this token. */
static json_int_t expect_half_way(struct answer answer, const char *count)
{
    json_int_t done = number_of(answer, count);

    assert_int_equal(answer.status, 503);
    assert_string_equal(text_of(answer, "code"), "unavailable");
    assert_true(json_is_true(json_object_get(answer.body, "committed")));
    assert_true(strncmp(text_of(answer, "read_token"), "rt1.", 4) == 0);
    json_decref(answer.body);
    return done;
}

/* Asked until the log has recovered; what is written meanwhile is added to *done. */
static struct answer ask_again(const char *path, const char *body, const char *count,
                               json_int_t *done)
{
    uint64_t until_ns = env_boot_ns(env_real()) + WAIT_NS;

    for (;;) {
        struct answer answer = ask_json("POST", path, body);

        if (answer.status == 200)
            return answer;
        assert_int_equal(answer.status, 503);
        assert_true(env_boot_ns(env_real()) < until_ns);
        *done += json_integer_value(json_object_get(answer.body, count));
        json_decref(answer.body);
    }
}

static void a_delete_by_filter_tells_what_it_has_deleted(void **state)
{
    static const char BODY[] = "{\"filter\":{\"kind\":\"x\"},\"timeout_ms\":60000}";
    struct answer answer;
    json_int_t done;

    (void)state;
    write_records();
    wal_faulty_set(life.log, WAL_FAULT_BEFORE, 2, 1); /* the append of the second page */
    done = expect_half_way(ask_json("POST", RECORDS "/delete", BODY), "deleted_count");
    assert_int_equal(done, SELECTION_PAGE);
    answer = ask_again(RECORDS "/delete", BODY, "deleted_count", &done);
    assert_int_equal(number_of(answer, "deleted_count"), RECORD_COUNT - done);
    json_decref(answer.body);
    assert_int_equal(busy_count(life.ingest.busy), 0);
}

static void an_update_tells_what_it_has_updated(void **state)
{
    static const char BODY[] =
        "{\"filter\":{\"n\":{\"$lt\":1500}},\"metadata\":{\"done\":true},\"timeout_ms\":60000}";
    struct answer answer;
    json_int_t done;

    (void)state;
    write_records();
    wal_faulty_set(life.log, WAL_FAULT_BEFORE, 3, 1);
    done = expect_half_way(ask_json("POST", RECORDS "/update", BODY), "updated_count");
    assert_in_range(done, 1, 1499);
    answer = ask_again(RECORDS "/update", BODY, "updated_count", &done);
    assert_int_equal(number_of(answer, "matched_count"), 1500);
    assert_int_equal(number_of(answer, "updated_count"), 1500 - done);
    json_decref(answer.body);
    assert_int_equal(busy_count(life.ingest.busy), 0);
}

/* What is found only on the way: the page that it is in is not written, those before it are. */
static void an_update_that_does_not_fit_one_record_tells_what_it_has_updated(void **state)
{
    struct buffer body = {0};
    struct answer answer;

    (void)state;
    write_records();
    buffer_append_text(&body,
                       "{\"records\":[{\"id\":\"01000\",\"metadata\":{\"kind\":\"x\",\"big\":\"");
    while (body.len < METADATA_BYTES_MAX - 100)
        buffer_append_byte(&body, 'y');
    buffer_append_text(&body, "\"}}]}");
    media = MEDIA_JSON;
    assert_int_equal(status_in(ask("POST", RECORDS, body.data, body.len)), 200);
    buffer_reset(&body);
    buffer_append_text(
        &body, "{\"filter\":{\"kind\":\"x\"},\"timeout_ms\":60000,\"metadata\":{\"more\":\"");
    for (int i = 0; i < 300; i++)
        buffer_append_byte(&body, 'z');
    buffer_append_text(&body, "\"}}");
    answer = ask("POST", RECORDS "/update", body.data, body.len);
    assert_int_equal(answer.status, 413);
    assert_in_range(number_of(answer, "updated_count"), 1000 - 64, 1000);
    assert_true(strncmp(text_of(answer, "read_token"), "rt1.", 4) == 0);
    assert_non_null(strstr(text_of(answer, "detail"), "01000"));
    json_decref(answer.body);
    buffer_free(&body);
}

static void a_failure_on_the_first_page_is_a_plain_error(void **state)
{
    struct answer answer;

    (void)state;
    write_records();
    wal_faulty_set(life.log, WAL_FAULT_BEFORE, 1, 1);
    answer = ask_json("POST", RECORDS "/delete", "{\"filter\":{\"kind\":\"x\"}}");
    assert_null(json_object_get(answer.body, "committed"));
    expect_refused(answer);
    AWAIT(is_ready());
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up_with_shard, tear_down_with_shard)
    const struct CMUnitTest tests[] = {
        PROMISE(a_delete_by_filter_tells_what_it_has_deleted),
        PROMISE(an_update_tells_what_it_has_updated),
        PROMISE(an_update_that_does_not_fit_one_record_tells_what_it_has_updated),
        PROMISE(a_failure_on_the_first_page_is_a_plain_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
