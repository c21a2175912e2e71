/* Changes of collections, of this region and of others: each stands in every partition, once, and
 * whatever cuts it off it is completed or leaves nothing. */
#include "tests/unit/foreign_rig.h"

static void a_change_stands_once_in_every_partition(void **state)
{
    json_t *answer;

    (void)state;
    assert_int_equal(ask_json("PUT", "/v1/collections/a", "{\"vector\":{\"dimension\":2}}", NULL),
                     201);
    assert_int_equal(ask_json("PUT", "/v1/collections/a", "{\"vector\":{\"dimension\":2}}", NULL),
                     200);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/a", "{\"vector\":{\"dimension\":3}}", &answer), 409);
    assert_string_equal(json_string_value(json_object_get(answer, "code")), "collection_exists");
    json_decref(answer);
    assert_int_equal(ask_json("DELETE", "/v1/collections/b", "", NULL), 404);
    assert_int_equal(ask_json("DELETE", "/v1/collections/a", "", NULL), 204);
    assert_int_equal(ask_json("DELETE", "/v1/collections/a", "", NULL), 404);
    assert_int_equal(ask_json("POST", "/v1/collections/a/records", "{\"records\":[{}]}", NULL),
                     404);
    assert_int_equal(ask_json("PUT", "/v1/collections/a", "{\"vector\":{\"dimension\":3}}", NULL),
                     201);
    assert_int_equal(ask_json("POST", "/v1/collections/a/records", "{\"records\":[{}]}", NULL),
                     200);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        struct tally tally = {0};

        look_at(i, count_record, &tally);
        assert_int_equal(tally.creates, 2);
        assert_int_equal(tally.drops, 1);
    }
}

static void the_catalogue_comes_back_from_the_log_alone(void **state)
{
    struct catalogue_entry before, after;
    struct err err = {0};

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/kept", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/gone", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(ask_json("DELETE", "/v1/collections/gone", "", NULL), 204);
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "kept", &before));
    for (int lost = 0; lost < 2; lost++) {
        life_end();
        if (lost) {
            meta_close(world.meta);
            assert_int_equal(meta_open(&world.meta, "memory:", env_real(), &err), ERR_OK);
        }
        begin();
        assert_true(catalogue_find(&life.ingest.catalogue, "default", "kept", &after));
        assert_memory_equal(&before.collection, &after.collection, sizeof(after.collection));
        assert_int_equal(after.state, COLLECTION_ACTIVE);
        assert_true(catalogue_find(&life.ingest.catalogue, "default", "gone", &after));
        assert_int_equal(after.state, COLLECTION_DROPPED);
        assert_int_equal(
            ask_json("POST", "/v1/collections/kept/records", "{\"records\":[{}]}", NULL), 200);
    }
    assert_int_equal(
        ask_json("PUT", "/v1/collections/gone", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "gone", &after));
    assert_int_equal(after.collection.generation, 1);
}

static void a_change_cut_off_is_completed_by_the_next_holder(void **state)
{
    (void)state;
    wal_faulty_set(life.log, WAL_FAULT_HALF, 1, 1);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/half", "{\"vector\":{\"dimension\":2}}", NULL), 503);
    life_end(); /* pending as a rule; completed already if the settler was quick */
    begin();
    assert_int_equal(
        ask_json("PUT", "/v1/collections/half", "{\"vector\":{\"dimension\":2}}", NULL), 200);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        struct tally tally = {0};

        look_at(i, count_record, &tally);
        assert_true(tally.creates >= 1);
    }
}

static void a_change_cut_off_is_completed_by_itself(void **state)
{
    static const char PATH[] = "/v1/collections/again/records", BODY[] = "{\"records\":[{}]}";
    uint64_t end_ns = env_boot_ns(env_real()) + WAIT_NS;

    (void)state;
    wal_faulty_set(life.log, WAL_FAULT_HALF, 1, 1);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/again", "{\"vector\":{\"dimension\":2}}", NULL), 503);
    while (ask_json("POST", PATH, BODY, NULL) != 200)
        assert_true(env_boot_ns(env_real()) < end_ns);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        struct tally tally = {0};

        look_at(i, count_record, &tally);
        assert_true(tally.creates >= 1);
    }
    assert_int_equal(
        ask_json("PUT", "/v1/collections/again", "{\"vector\":{\"dimension\":2}}", NULL), 200);
}

static void a_change_that_never_landed_leaves_nothing(void **state)
{
    static const char ROW[] = "collection/default/never";
    static const char PATH[] = "/v1/collections/never/records", BODY[] = "{\"records\":[{}]}";
    struct meta_row row;
    struct err err;

    (void)state;
    wal_faulty_set(life.log, WAL_FAULT_BEFORE, 1, 1);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/never", "{\"vector\":{\"dimension\":2}}", NULL), 503);
    assert_int_equal(meta_get(world.meta, ROW, &row, &err), ERR_NOT_FOUND);
    AWAIT(is_ready());
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 404);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/never", "{\"vector\":{\"dimension\":3}}", NULL), 201);
    wal_faulty_set(life.log, WAL_FAULT_BEFORE, 1, 1);
    assert_int_equal(ask_json("DELETE", "/v1/collections/never", "", NULL), 503);
    AWAIT(is_ready());
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 200);
    assert_int_equal(meta_get(world.meta, ROW, &row, &err), ERR_OK);
    assert_non_null(strstr(row.value, "\"active\""));
    meta_row_free(&row);
}

static void a_foreign_change_reaches_every_partition_and_the_smaller_stamp_wins(void **state)
{
    uint64_t now = env_wall_us(env_real());
    struct collection theirs = foreign_collection("new", 5, now),
                      older = foreign_collection("clash", 7, 1000),
                      younger = foreign_collection("other", 7, now + 3600 * (uint64_t)1000000);
    struct catalogue_entry entry;

    (void)state;
    assert_int_equal(send_collection(&theirs, 0), 200);
    for (uint32_t i = 0; i < PARTITIONS; i++) {
        struct tally tally = {0};

        look_at(i, count_record, &tally);
        assert_int_equal(tally.creates, i == 1 ? 2 : 1);
    }
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "new", &entry));
    assert_int_equal(entry.state, COLLECTION_ACTIVE);
    assert_int_equal(entry.collection.dimension, 5);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/clash", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/other", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(send_collection(&older, 1), 200);
    assert_int_equal(send_collection(&younger, 2), 200);
    for (int again = 0; again < 2; again++) {
        assert_true(catalogue_find(&life.ingest.catalogue, "default", "clash", &entry));
        assert_int_equal(entry.collection.dimension, 7);
        assert_true(catalogue_find(&life.ingest.catalogue, "default", "other", &entry));
        assert_int_equal(entry.collection.dimension, 2);
        life_end();
        begin();
    }
}

/* Whoever meets a change appends it to all partitions, under its own name: so ours comes back. */
static void a_change_that_others_pass_on_is_taken(void **state)
{
    struct collection third = foreign_collection("third", 5, 1000);
    struct catalogue_entry entry;
    struct collection ours;

    (void)state;
    third.created.region = third.schema.region = REGION + 1;
    assert_int_equal(send_collection(&third, 0), 200);
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "third", &entry));
    assert_int_equal(entry.state, COLLECTION_ACTIVE);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/ours", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "ours", &entry));
    ours = entry.collection;
    assert_int_equal(send_collection(&ours, 1), 200);
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "ours", &entry));
    assert_int_equal(stamp_compare(entry.collection.schema, ours.schema), 0);
    assert_int_equal(entry.state, COLLECTION_ACTIVE);
}

/* Records that are written here must find the collection in a third region that does not hear from
 * the one that made it.  Regions that told each other again, each time, would never hear the end of
 * it. */
static void a_foreign_change_is_told_on_once(void **state)
{
    struct collection younger = foreign_collection("clash", 7, (uint64_t)1 << 60),
                      older = foreign_collection("clash", 9, 1000), ours;
    struct catalogue_entry entry;
    struct tally tally = {0};

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/clash", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "clash", &entry));
    ours = entry.collection;
    for (uint64_t offset = 0; offset < 5; offset++)
        assert_int_equal(send_collection(&younger, offset), 200);
    look_at(0, count_record, &tally);
    assert_int_equal(tally.creates, 2); /* ours and theirs */
    assert_int_equal(tally.own_creates, 2);
    assert_int_equal(send_collection(&older, 5), 200);
    /* Ours has lost now; it stands everywhere already, so nobody has to be told. */
    for (uint64_t offset = 6; offset < 10; offset++)
        assert_int_equal(send_collection(&ours, offset), 200);
    tally = (struct tally){0};
    look_at(0, count_record, &tally);
    assert_int_equal(tally.creates, 3);
    assert_int_equal(tally.own_creates, 3);
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "clash", &entry));
    assert_int_equal(entry.collection.dimension, 9);
}

/* Shards never take back a drop: a collection that ingest revived would swallow its records. */
static void a_drop_is_final_whatever_comes_later(void **state)
{
    static const char PATH[] = "/v1/collections/docs/records";
    static const char BODY[] = "{\"records\":[{\"id\":\"a\"}]}";
    struct catalogue_entry entry;
    struct collection again;

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "docs", &entry));
    again = entry.collection;
    assert_int_equal(ask_json("DELETE", "/v1/collections/docs", "", NULL), 204);
    again.schema.region = again.created.region = REGION;
    again.schema.clock = again.created.clock = again.schema.clock + (uint64_t)1000000000;
    assert_int_equal(send_collection(&again, 0), 200);
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 404);
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 200);
    /* One that is older than the newest change, too. */
    assert_true(catalogue_find(&life.ingest.catalogue, "default", "docs", &entry));
    again = entry.collection;
    again.dropped = true;
    again.schema = (struct stamp){.clock = 1000, .region = REGION};
    assert_int_equal(send_collection(&again, 1), 200);
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 404);
    life_end();
    begin();
    assert_int_equal(ask_json("POST", PATH, BODY, NULL), 404);
}

static void a_foreign_definition_of_an_older_generation_does_not_stop_the_run(void **state)
{
    struct collection older = foreign_collection("docs", 7, 1000);
    struct catalogue_entry entry;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
        assert_int_equal(ask_json("DELETE", "/v1/collections/docs", "", NULL), 204);
    }
    assert_int_equal(send_collection(&older, 0), 200);
    for (int again = 0; again < 2; again++) {
        assert_true(catalogue_find(&life.ingest.catalogue, "default", "docs", &entry));
        assert_int_equal(entry.state, COLLECTION_DROPPED);
        assert_int_equal(entry.collection.generation, 1);
        life_end();
        begin();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(a_change_stands_once_in_every_partition),
        PROMISE(the_catalogue_comes_back_from_the_log_alone),
        PROMISE(a_change_cut_off_is_completed_by_the_next_holder),
        PROMISE(a_change_cut_off_is_completed_by_itself),
        PROMISE(a_change_that_never_landed_leaves_nothing),
        PROMISE(a_foreign_change_reaches_every_partition_and_the_smaller_stamp_wins),
        PROMISE(a_change_that_others_pass_on_is_taken),
        PROMISE(a_foreign_change_is_told_on_once),
        PROMISE(a_drop_is_final_whatever_comes_later),
        PROMISE(a_foreign_definition_of_an_older_generation_does_not_stop_the_run),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
