/* Records are written without a shard where none has to be asked, and a half-committed request says
 * which half. */
#include "tests/unit/foreign_rig.h"

static void a_half_committed_request_says_which_half(void **state)
{
    json_t *answer, *errors;

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    wal_faulty_set(life.log, WAL_FAULT_HALF, 1, 1);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records",
                              "{\"records\":[{\"id\":\"a\"},{\"id\":\"b\"},{\"id\":\"c\"},"
                              "{\"id\":\"d\"}]}",
                              &answer),
                     503);
    errors = json_object_get(answer, "errors");
    assert_int_equal(json_array_size(errors), 2);
    assert_non_null(json_object_get(json_array_get(errors, 0), "id"));
    assert_non_null(json_string_value(json_object_get(answer, "read_token")));
    assert_true(json_is_true(json_object_get(answer, "committed")));
    json_decref(answer);
    wal_faulty_set(life.log, WAL_FAULT_NO_SPACE, 1, 1);
    AWAIT(is_ready());
    assert_int_equal(
        ask_json("POST", "/v1/collections/docs/records", "{\"records\":[{\"id\":\"a\"}]}", &answer),
        507);
    assert_string_equal(json_string_value(json_object_get(answer, "code")), "insufficient_storage");
    json_decref(answer);
}

static void conditions_need_a_shard_and_plain_writes_do_not(void **state)
{
    static const char PATH[] = "/v1/collections/docs/records";
    json_t *answer;

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(ask_json("POST", PATH,
                              "{\"records\":[{\"id\":\"a\"},{\"id\":\"b\"},{\"id\":\"a\"}]}",
                              &answer),
                     200);
    assert_int_equal(json_integer_value(json_object_get(answer, "upserted_count")), 2);
    assert_int_equal(json_array_size(json_object_get(answer, "ids")), 3);
    json_decref(answer);
    assert_int_equal(
        ask_json("POST", PATH, "{\"records\":[{\"id\":\"a\"}],\"on_conflict\":\"fail\"}", &answer),
        503);
    assert_string_equal(json_string_value(json_object_get(answer, "code")), "shards_unavailable");
    json_decref(answer);
    assert_int_equal(ask_json("PUT", "/v1/collections/docs/records/a", "{\"text\":\"x\"}", NULL),
                     200);
    assert_int_equal(ask_json("DELETE", "/v1/collections/docs/records/a", "", NULL), 503);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records/delete",
                              "{\"ids\":[\"a\"],\"count\":false}", &answer),
                     200);
    assert_null(json_object_get(answer, "deleted_count"));
    json_decref(answer);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records/delete",
                              "{\"delete_all\":true,\"count\":false}", NULL),
                     200);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records/delete",
                              "{\"ids\":[\"a\"],\"delete_all\":true}", NULL),
                     400);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records/delete", "{}", NULL), 400);
    assert_int_equal(busy_count(life.ingest.busy), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(a_half_committed_request_says_which_half),
        PROMISE(conditions_need_a_shard_and_plain_writes_do_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
