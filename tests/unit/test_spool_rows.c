/* A row of the spool that is damaged, or of a newer format: it is told, and costs no other row. */
#include "tests/unit/spool_rig.h"

static void store_raw(enum store_table table, struct store_value key, const void *data, size_t len)
{
    struct store_options options = {.url = world.url, .env = env_real()};
    struct store_txn *txn;
    struct store *store;
    struct err err = {0};

    must(store_open(&store, &options, &err), &err);
    must(store_begin(&txn, store, true, &err), &err);
    must(store_put(txn, table, key, (struct store_value){.data = data, .len = len}, &err), &err);
    must(store_commit(txn, &err), &err);
    store_close(store);
}

/* Between two lives. */
static void damage(uint64_t number)
{
    struct spool_key key = spool_key_of(false, number);

    end();
    store_raw(STORE_ROWS, spool_key_value(&key), "nonsense", 8);
    begin();
}

static void a_damaged_row_comes_without_a_record_and_can_be_parked(void **state)
{
    struct page page;
    uint64_t number;

    (void)state;
    begin();
    number = put(ONE, "a", "to be damaged");
    (void)put(ONE, "b", "whole");
    damage(number);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 1);
    assert_int_equal(page.rows[0].number, number);
    assert_null(page.rows[0].record);
    assert_int_equal(settle(&page, SPOOL_PARKED), ERR_OK);
    arena_free(&page.arena);
    assert_int_equal(look().parked, 1);
    assert_int_equal(look().waiting, 1);
    expect_counts_of_disk(begin);
    /* Its id can be written again. */
    assert_int_equal(try_put(ONE, "a", "anew"), ERR_OK);
    assert_false(look().broken);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 2);
    assert_non_null(find(&page, "a", "anew"));
    assert_non_null(find(&page, "b", "whole"));
    arena_free(&page.arena);
}

static void an_id_whose_row_is_damaged_can_be_written_while_that_waits(void **state)
{
    struct page page;
    uint64_t number;

    (void)state;
    begin();
    number = put(ONE, "a", "to be damaged");
    damage(number);
    assert_int_equal(try_put(ONE, "a", "anew"), ERR_OK);
    assert_false(look().broken);
    assert_int_equal(look().parked, 1);
    read_page(&page, 10, MIB(1));
    assert_int_equal(page.count, 1);
    assert_non_null(find(&page, "a", "anew"));
    arena_free(&page.arena);
    expect_counts_of_disk(begin);
}

static void a_newer_format_is_refused(void **state)
{
    static const struct store_value KEY = {.data = "spool", .len = 5};
    uint32_t format = 2;
    struct spool *other;
    struct err err = {0};

    (void)state;
    begin();
    (void)put(ONE, "a", "v");
    end();
    store_raw(STORE_META, KEY, &format, sizeof(format));
    assert_int_equal(try_open(&other, 0, &err), ERR_CONFIG);
    assert_non_null(strstr(err.message, "format 2"));
    format = 1;
    store_raw(STORE_META, KEY, &format, sizeof(format));
    begin();
    assert_int_equal(look().waiting, 1);
}

static void try_decode(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len == 0 ? 1 : len); /* so that a sanitizer sees a step beyond */
    struct spool_row row = {0};
    struct err err = {0};
    enum err_code rc;

    assert_non_null(copy);
    memcpy(copy, data, len);
    rc = spool_row_decode(&row, copy, len, &err);
    if (rc == ERR_OK) {
        struct record record;

        assert_true(row.id_len >= 1 && row.id_len <= ID_BYTES_MAX);
        assert_true((const uint8_t *)row.id >= copy &&
                    (const uint8_t *)row.id + row.id_len <= copy + len);
        assert_true(row.record >= copy && row.record + row.record_len == copy + len);
        assert_true(strlen(row.tenant) <= TENANT_BYTES_MAX);
        assert_true(strlen(row.collection) <= COLLECTION_NAME_BYTES_MAX);
        (void)spool_id_hash(&row);
        (void)(record_decode(&record, row.record, row.record_len, NULL, NULL) == ERR_OK);
    } else {
        assert_int_equal(rc, ERR_CORRUPT);
    }
    free(copy);
}

static void a_row_cut_or_changed_anywhere_decodes_or_is_corrupt(void **state)
{
    struct sample sample = {0};

    (void)state;
    sample_add(&sample, ONE, "some-id", "some text");
    sample_add(&sample, TWO, "x", NULL);
    for (size_t i = 0; i < sample.count; i++) {
        struct spool_row back = {0};
        struct buffer bytes = {0};
        struct err err = {0};

        spool_row_encode(&sample.rows[i], &bytes);
        assert_false(bytes.failed);
        must(spool_row_decode(&back, bytes.data, bytes.len, &err), &err);
        assert_int_equal(back.record_len, sample.rows[i].record_len);
        for (size_t len = 0; len <= bytes.len; len++)
            try_decode(bytes.data, len);
        for (size_t at = 0; at < bytes.len; at++) {
            uint8_t was = bytes.data[at];

            for (unsigned value = 0; value < 256; value++) {
                bytes.data[at] = (uint8_t)value;
                try_decode(bytes.data, bytes.len);
            }
            bytes.data[at] = was;
        }
        buffer_free(&bytes);
    }
    sample_free(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(a_damaged_row_comes_without_a_record_and_can_be_parked),
        PROMISE(an_id_whose_row_is_damaged_can_be_written_while_that_waits),
        PROMISE(a_newer_format_is_refused),
        PROMISE(a_row_cut_or_changed_anywhere_decodes_or_is_corrupt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
