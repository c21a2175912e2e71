/* The contract of the record store, the same for both back ends; then what memory alone has to
 * promise: its lost commits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "tests/lib/store_rig.h"

/* The keys from `from` on, joined by blanks. */
static void expect_keys(struct store_txn *txn, enum store_table table, const char *from,
                        const char *expected)
{
    char keys[512] = "";
    size_t len = 0;
    struct store_cursor *cursor;
    struct store_value key, value;
    struct err err;
    bool more;

    assert_int_equal(store_cursor_open(&cursor, txn, table, text(from), &err), ERR_OK);
    for (;;) {
        assert_int_equal(store_cursor_next(cursor, &key, &value, &more, &err), ERR_OK);
        if (!more)
            break;
        assert_true(sizeof(keys) - len > key.len + 1);
        if (len > 0)
            keys[len++] = ' ';
        memcpy(keys + len, key.data, key.len);
        len += key.len;
    }
    /* The end stays the end. */
    assert_int_equal(store_cursor_next(cursor, &key, &value, &more, &err), ERR_OK);
    assert_false(more);
    keys[len] = '\0';
    assert_string_equal(keys, expected);
    store_cursor_close(cursor);
}

/* --- both back ends ------------------------------------------------------------------------ */

static void rows_come_in_order_of_bytes_from_any_key(void **state)
{
    struct store *store = open_store();
    struct store_txn *txn = begin(store, true);

    (void)state;
    expect_keys(txn, STORE_IDS, "", "");
    must_put(txn, STORE_IDS, "b", "2");
    must_put(txn, STORE_IDS, "a", "1");
    must_put(txn, STORE_IDS, "ab", "12");
    must_put(txn, STORE_IDS, "\xff", "last");
    must_put(txn, STORE_ROWS, "other", "table");
    must_put(txn, STORE_META, "state", "x");
    expect_keys(txn, STORE_IDS, "", "a ab b \xff");
    must_commit(txn);
    txn = begin(store, false);
    expect_keys(txn, STORE_IDS, "", "a ab b \xff");
    expect_keys(txn, STORE_IDS, "aa", "ab b \xff");
    expect_keys(txn, STORE_IDS, "b", "b \xff");
    expect_keys(txn, STORE_IDS, "\xff\xff", "");
    expect_keys(txn, STORE_ROWS, "", "other");
    /* What the back end keeps for itself is not shown. */
    expect_keys(txn, STORE_META, "", "state");
    expect_keys(txn, STORE_META, "t", "");
    expect_in(txn, STORE_IDS, "a", "1");
    expect_in(txn, STORE_IDS, "aa", NULL);
    store_abort(txn);
    store_close(store);
}

static void a_snapshot_does_not_see_later_commits(void **state)
{
    struct store *store = open_store();
    struct store_txn *before, *between;

    (void)state;
    commit_row(store, "a", "1");
    before = begin(store, false);
    commit_row(store, "a", "2");
    commit_row(store, "b", "1");
    between = begin(store, false);
    commit_row(store, "a", "3");
    expect_in(before, STORE_IDS, "a", "1");
    expect_in(before, STORE_IDS, "b", NULL);
    expect_keys(before, STORE_IDS, "", "a");
    expect_in(between, STORE_IDS, "a", "2");
    expect_in(between, STORE_IDS, "b", "1");
    store_abort(before);
    expect(store, "a", "3");
    expect_in(between, STORE_IDS, "a", "2");
    store_abort(between);
    store_abort(NULL);
    store_close(store);
}

static void a_writer_sees_its_own_changes_and_an_abort_undoes_them(void **state)
{
    struct store *store = open_store();
    struct store_txn *txn;
    struct err err;

    (void)state;
    commit_row(store, "a", "1");
    txn = begin(store, true);
    must_put(txn, STORE_IDS, "a", "2");
    must_put(txn, STORE_IDS, "b", "2");
    expect_in(txn, STORE_IDS, "a", "2");
    expect(store, "a", "1");
    assert_int_equal(store_delete(txn, STORE_IDS, text("a"), &err), ERR_OK);
    assert_int_equal(store_delete(txn, STORE_IDS, text("never"), &err), ERR_OK);
    expect_in(txn, STORE_IDS, "a", NULL);
    expect_keys(txn, STORE_IDS, "", "b");
    store_abort(txn);
    expect(store, "a", "1");
    expect(store, "b", NULL);
    txn = begin(store, true);
    assert_int_equal(store_delete(txn, STORE_IDS, text("a"), &err), ERR_OK);
    must_put(txn, STORE_IDS, "empty", "");
    must_commit(txn);
    expect(store, "a", NULL);
    expect(store, "empty", "");
    store_close(store);
}

static void a_writers_cursor_goes_on_while_rows_change(void **state)
{
    struct store *store = open_store();
    struct store_txn *txn = begin(store, true);
    struct store_cursor *cursor;
    struct store_value key, value;
    uint8_t seen[4];
    struct err err;
    uint32_t next = 0;
    bool more;

    (void)state;
    for (uint32_t i = 0; i < 3000; i++) {
        store_be32(seen, i);
        assert_int_equal(store_put(txn, STORE_ROWS, (struct store_value){seen, 4},
                                   text("some value that fills pages"), &err),
                         ERR_OK);
    }
    must_commit(txn);
    txn = begin(store, true);
    assert_int_equal(store_cursor_open(&cursor, txn, STORE_ROWS, text(""), &err), ERR_OK);
    for (;; next++) {
        assert_int_equal(store_cursor_next(cursor, &key, &value, &more, &err), ERR_OK);
        if (!more)
            break;
        assert_int_equal(key.len, 4);
        assert_int_equal(load_be32(key.data), next);
        memcpy(seen, key.data, 4);
        if (next % 3 == 0)
            assert_int_equal(store_put(txn, STORE_ROWS, (struct store_value){seen, 4},
                                       text("another value, which is longer than the first"), &err),
                             ERR_OK);
        else
            assert_int_equal(store_delete(txn, STORE_ROWS, (struct store_value){seen, 4}, &err),
                             ERR_OK);
    }
    assert_int_equal(next, 3000);
    store_cursor_close(cursor);
    must_commit(txn);
    txn = begin(store, false);
    assert_int_equal(store_cursor_open(&cursor, txn, STORE_ROWS, text(""), &err), ERR_OK);
    for (next = 0; next < 1000; next++) {
        assert_int_equal(store_cursor_next(cursor, &key, &value, &more, &err), ERR_OK);
        assert_true(more);
        assert_int_equal(load_be32(key.data), next * 3);
    }
    assert_int_equal(store_cursor_next(cursor, &key, &value, &more, &err), ERR_OK);
    assert_false(more);
    store_cursor_close(cursor);
    store_abort(txn);
    store_close(store);
}

static void keys_and_values_may_be_as_large_as_said(void **state)
{
    struct store *store = open_store();
    struct store_txn *txn = begin(store, true);
    uint8_t key_bytes[STORE_KEY_BYTES_MAX];
    struct store_value key = {key_bytes, sizeof(key_bytes)}, value = {.len = MIB(1)}, got;
    uint8_t *bytes = malloc(MIB(1));
    struct err err;

    (void)state;
    assert_non_null(bytes);
    for (size_t i = 0; i < MIB(1); i++)
        bytes[i] = (uint8_t)(i * 7 ^ i >> 9);
    memset(key_bytes, 'k', sizeof(key_bytes));
    value.data = bytes;
    assert_int_equal(store_put(txn, STORE_VECTORS, key, value, &err), ERR_OK);
    must_commit(txn);
    txn = begin(store, false);
    assert_int_equal(store_get(txn, STORE_VECTORS, key, &got, &err), ERR_OK);
    assert_int_equal(got.len, MIB(1));
    assert_memory_equal(got.data, bytes, MIB(1));
    store_abort(txn);
    assert_true(store_bytes(store) >= MIB(1));
    free(bytes);
    store_close(store);
}

static void clear_drops_every_row_and_the_store_goes_on(void **state)
{
    struct store *store = open_store();
    struct store_txn *txn = begin(store, true), *before;
    struct err err;

    (void)state;
    must_put(txn, STORE_META, "m", "1");
    must_put(txn, STORE_IDS, "i", "1");
    must_put(txn, STORE_ROWS, "r", "1");
    must_put(txn, STORE_VECTORS, "v", "1");
    must_commit(txn);
    before = begin(store, false);
    assert_int_equal(store_clear(store, &err), ERR_OK);
    expect_in(before, STORE_ROWS, "r", "1");
    store_abort(before);
    txn = begin(store, false);
    for (enum store_table table = 0; table < STORE_TABLES; table++)
        expect_keys(txn, table, "", "");
    store_abort(txn);
    commit_row(store, "i", "2");
    expect(store, "i", "2");
    assert_int_equal(store_sync(store, &err), ERR_OK);
    store_close(store);
}

static void a_full_store_refuses_and_stays_usable(void **state)
{
    struct store *store = open_limited(MIB(4));
    enum err_code code = ERR_OK;
    struct store_txn *txn;
    char value[4000], key[16];
    struct err err;

    (void)state;
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    commit_row(store, "kept", "1");
    txn = begin(store, true);
    for (int i = 0; code == ERR_OK && i < 10000; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        code = store_put(txn, STORE_IDS, text(key), text(value), &err);
    }
    assert_int_equal(code, ERR_INSUFFICIENT_STORAGE);
    /* The transaction is lost as a whole, whatever comes after the failure. */
    assert_int_equal(store_put(txn, STORE_IDS, text("x"), text("y"), &err),
                     ERR_INSUFFICIENT_STORAGE);
    assert_int_equal(store_delete(txn, STORE_IDS, text("kept"), &err), ERR_INSUFFICIENT_STORAGE);
    assert_int_equal(store_commit(txn, &err), ERR_INSUFFICIENT_STORAGE);
    expect(store, "k0", NULL);
    expect(store, "kept", "1");
    commit_row(store, "small", "2");
    expect(store, "small", "2");
    assert_int_equal(store_clear(store, &err), ERR_OK);
    commit_row(store, "after", "3");
    expect(store, "after", "3");
    store_close(store);
}

static void readers_beside_a_writer_see_whole_commits(void **state)
{
    struct store *store = open_store();
    struct reader readers[3];
    struct env_thread *threads[3];
    struct err err;

    (void)state;
    write_pair(store, 0);
    for (size_t i = 0; i < ARRAY_COUNT(readers); i++) {
        readers[i] = (struct reader){.store = store, .rounds = 3000};
        assert_int_equal(
            env_thread_start(env_real(), &threads[i], "reader", read_pairs, &readers[i], &err),
            ERR_OK);
    }
    for (unsigned i = 1; i < 200; i++) {
        write_pair(store, i);
        if (i % 10 == 0)
            assert_int_equal(store_sync(store, &err), ERR_OK);
    }
    for (size_t i = 0; i < ARRAY_COUNT(readers); i++) {
        env_thread_join(threads[i]);
        assert_int_equal(readers[i].torn, 0);
    }
    store_close(store);
}

static bool is_dead;

static enum err_code mortal_yield(struct env *env)
{
    (void)env;
    return is_dead ? ERR_DEAD : ERR_OK;
}

static void a_dead_node_commits_nothing(void **state)
{
    struct env_ops ops = *env_real()->ops;
    struct env mortal = {.ops = &ops};
    struct store_options options = {.url = url, .env = &mortal};
    struct store *store;
    struct store_txn *txn;
    struct err err;

    (void)state;
    ops.yield = mortal_yield;
    is_dead = false;
    assert_int_equal(store_open(&store, &options, &err), ERR_OK);
    txn = begin(store, true);
    must_put(txn, STORE_IDS, "a", "1");
    is_dead = true;
    assert_int_equal(store_commit(txn, &err), ERR_DEAD);
    assert_int_equal(store_begin(&txn, store, false, &err), ERR_DEAD);
    assert_null(txn);
    assert_int_equal(store_begin(&txn, store, true, &err), ERR_DEAD);
    assert_int_equal(store_sync(store, &err), ERR_DEAD);
    assert_int_equal(store_clear(store, &err), ERR_DEAD);
    is_dead = false;
    expect(store, "a", NULL);
    commit_row(store, "a", "2");
    store_close(store);
}

static void urls_are_checked_whole(void **state)
{
    (void)state;
    expect_refusal("", ERR_CONFIG, "want lmdb:DIR");
    expect_refusal("lmdb", ERR_CONFIG, "want lmdb:DIR");
    expect_refusal("lmdb:", ERR_CONFIG, "want lmdb:DIR");
    expect_refusal("lmd:x", ERR_CONFIG, "want lmdb:DIR");
    expect_refusal("lmdbx:x", ERR_CONFIG, "want lmdb:DIR");
    expect_refusal("memory:x", ERR_CONFIG, "nothing may follow");
}

/* --- memory -------------------------------------------------------------------------------- */

static void a_power_cut_loses_the_newest_unsynced_commits(void **state)
{
    struct store *store = open_store();
    struct store_txn *txn;
    struct err err;

    (void)state;
    commit_row(store, "a", "1");
    assert_int_equal(store_sync(store, &err), ERR_OK);
    commit_row(store, "a", "2");
    commit_row(store, "a", "3");
    commit_row(store, "b", "4");
    txn = begin(store, true);
    must_commit(txn); /* without a change: no commit to lose */
    store_memory_crash(store, 0);
    expect(store, "b", "4");
    store_memory_crash(store, 1);
    expect(store, "b", NULL);
    expect(store, "a", "3");
    commit_row(store, "c", "5");
    store_memory_crash(store, 2);
    expect(store, "c", NULL);
    expect(store, "a", "2");
    store_memory_crash(store, 100);
    expect(store, "a", "1");
    assert_int_equal(store_clear(store, &err), ERR_OK);
    expect(store, "a", NULL);
    store_memory_crash(store, 1);
    expect(store, "a", "1");
    assert_int_equal(store_clear(store, &err), ERR_OK);
    assert_int_equal(store_sync(store, &err), ERR_OK);
    store_memory_crash(store, 5);
    expect(store, "a", NULL);
    store_close(store);
}

static enum err_code take_nothing(void *context, const void *data, size_t len, struct err *err)
{
    (void)context, (void)data, (void)len, (void)err;
    fail_msg("a piece was given");
    return ERR_OK;
}

static void memory_is_not_copied(void **state)
{
    struct store *store = open_store();
    struct err err = {0};

    (void)state;
    assert_int_equal(store_copy(store, take_nothing, NULL, &err), ERR_NOT_SUPPORTED);
    store_close(store);
}

static void a_long_unsynced_history_is_bounded(void **state)
{
    struct store *store = open_store();
    char value[16];

    (void)state;
    for (int i = 0; i < 3000; i++) {
        snprintf(value, sizeof(value), "%d", i);
        commit_row(store, "a", value);
    }
    store_memory_crash(store, 1000);
    expect(store, "a", "1999");
    assert_true(store_bytes(store) < KIB(1));
    store_close(store);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest contract[] = {
        CASE(rows_come_in_order_of_bytes_from_any_key),
        CASE(a_snapshot_does_not_see_later_commits),
        CASE(a_writer_sees_its_own_changes_and_an_abort_undoes_them),
        CASE(a_writers_cursor_goes_on_while_rows_change),
        CASE(keys_and_values_may_be_as_large_as_said),
        CASE(clear_drops_every_row_and_the_store_goes_on),
        CASE(a_full_store_refuses_and_stays_usable),
        CASE(readers_beside_a_writer_see_whole_commits),
        CASE(a_dead_node_commits_nothing),
        CASE(urls_are_checked_whole),
    };
    const struct CMUnitTest memory_only[] = {
        CASE(a_power_cut_loses_the_newest_unsynced_commits),
        CASE(a_long_unsynced_history_is_bounded),
        CASE(memory_is_not_copied),
    };
    int failed = cmocka_run_group_tests_name("lmdb", contract, choose_lmdb, NULL);

    failed += cmocka_run_group_tests_name("memory", contract, choose_memory, NULL);
    failed += cmocka_run_group_tests_name("memory only", memory_only, choose_memory, NULL);
    return failed;
}
