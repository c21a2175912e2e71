/* Rows of collections that make no sense: the log says what they were, and they are written again.
 */
#include "tests/unit/replay_rig.h"

#include "services/ingest/catalogue_row.h"

static const char KEY[] = "collection/default/docs";

static void put_row(const char *value)
{
    struct meta_put put = {
        .key = KEY, .value = value, .value_len = strlen(value), .expected = META_ANY};
    struct err err = {0};

    assert_int_equal(meta_put(world.meta, &put, NULL, &err), ERR_OK);
}

static void a_damaged_row_hides_no_collection(void **state)
{
    static const char *const DAMAGED[] = {"", "nonsense", "{}", "{\"state\":\"active\"}",
                                          "{\"state\":\"active\",\"definition\":{}}"};

    (void)state;
    assert_int_equal(upsert_status("a", "before"), 200);
    for (size_t i = 0; i < ARRAY_COUNT(DAMAGED); i++) {
        struct catalogue_entry before, after;
        struct meta_row row = {0};
        struct err err = {0};

        assert_true(catalogue_find(&life.ingest.catalogue, "default", "docs", &before));
        life_end();
        put_row(DAMAGED[i]);
        begin();
        assert_int_equal(upsert_status("a", "after"), 200);
        assert_int_equal(
            status_of("POST", "/v1/collections/other/records", "{\"records\":[{\"id\":\"b\"}]}"),
            200);
        assert_true(catalogue_find(&life.ingest.catalogue, "default", "docs", &after));
        assert_memory_equal(after.collection.incarnation, before.collection.incarnation,
                            INCARNATION_BYTES);
        assert_int_equal(meta_get(world.meta, KEY, &row, &err), ERR_OK);
        assert_int_equal(
            catalogue_row_parse(row.value, row.value_len, &after.collection, &after.state, &err),
            ERR_OK);
        assert_int_equal(after.state, COLLECTION_ACTIVE);
        meta_row_free(&row);
    }
}

/* … and brings none back. */
static void a_damaged_row_of_a_dropped_collection_stays_dropped(void **state)
{
    (void)state;
    assert_int_equal(status_of("DELETE", "/v1/collections/docs", ""), 204);
    life_end();
    put_row("nonsense");
    begin();
    assert_int_equal(upsert_status("a", "after"), 404);
    assert_int_equal(status_of("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":3}}"),
                     201);
    assert_int_equal(upsert_status("a", "anew"), 200);
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(a_damaged_row_hides_no_collection),
        PROMISE(a_damaged_row_of_a_dropped_collection_stays_dropped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
