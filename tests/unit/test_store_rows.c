/* A store holds what was put into it, whatever the order and whoever reads: rows behind the last
 * one, which LMDB is told of, rows between, replaced and removed ones, commits and aborts, beside
 * an array that is right by its simplicity.  VICINAL_SEED repeats a run. */
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

enum {
    ROWS = 3000,
    ROUNDS = 120,
    VALUE_MAX = 6000,
    VECTOR_BYTES = 1536, /* two fit on a page */
    VECTORS = 4000,
};

/* What the store should hold: the version of each key, 0 for none. */
struct model {
    struct store *store;
    uint64_t chance;
    uint32_t version;
    uint32_t next; /* keys below were put once */
    uint32_t versions[ROWS];
    uint32_t saved[ROWS];
};

static uint32_t draw(struct model *model, uint32_t below)
{
    model->chance = model->chance * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(model->chance >> 33) % below;
}

static uint32_t value_len(uint32_t number, uint32_t version)
{
    static const uint32_t lens[] = {0, 24, 300, VECTOR_BYTES, 3072, VALUE_MAX};

    return lens[(number + version / 3) % ARRAY_COUNT(lens)];
}

static void fill_value(uint8_t *value, uint32_t len, uint32_t number, uint32_t version)
{
    for (uint32_t i = 0; i < len; i++)
        value[i] = (uint8_t)(number * 31 + version * 7 + i);
}

/* Keys of two collections, as a shard has them, the second one behind the first. */
static struct store_value key_of(uint8_t *bytes, uint32_t number)
{
    store_be32(bytes, number * 2 / ROWS);
    store_be32(bytes + 4, number);
    return (struct store_value){bytes, 8};
}

static void change(struct model *model, struct store_txn *txn, uint32_t number, bool is_removed)
{
    uint8_t key[8], value[VALUE_MAX];
    struct err err = {0};

    if (is_removed) {
        must(store_delete(txn, STORE_VECTORS, key_of(key, number), &err), &err);
        model->versions[number] = 0;
        return;
    }
    model->versions[number] = ++model->version;
    uint32_t len = value_len(number, model->version);
    fill_value(value, len, number, model->version);
    must(store_put(txn, STORE_VECTORS, key_of(key, number), (struct store_value){value, len}, &err),
         &err);
}

static void change_some(struct model *model, struct store_txn *txn)
{
    for (uint32_t left = 1 + draw(model, 60); left > 0; left--) {
        uint32_t kind = draw(model, 8);

        if (kind < 5 && model->next < ROWS)
            change(model, txn, model->next++, false);
        else
            change(model, txn, draw(model, ROWS), kind == 7);
    }
}

static void check_all(const struct model *model, bool reads_ahead)
{
    struct store_txn *txn = begin(model->store, false);
    struct store_cursor *cursor;
    struct store_value key, value;
    uint8_t expected[VALUE_MAX], name[8];
    struct err err = {0};
    bool more;

    must(store_cursor_open(&cursor, txn, STORE_VECTORS, (struct store_value){.data = ""}, &err),
         &err);
    if (reads_ahead)
        store_cursor_read_ahead(cursor);
    for (uint32_t number = 0; number < ROWS; number++) {
        uint32_t len = value_len(number, model->versions[number]);

        if (model->versions[number] == 0)
            continue;
        must(store_cursor_next(cursor, &key, &value, &more, &err), &err);
        assert_true(more);
        assert_memory_equal(key.data, key_of(name, number).data, 8);
        fill_value(expected, len, number, model->versions[number]);
        assert_int_equal(value.len, len);
        assert_memory_equal(value.data, expected, len);
    }
    must(store_cursor_next(cursor, &key, &value, &more, &err), &err);
    assert_false(more);
    store_cursor_close(cursor);
    store_abort(txn);
}

static void a_store_holds_what_was_put_in_any_order(void **state)
{
    const char *wanted = getenv("VICINAL_SEED");
    struct model *model = array_alloc(1, sizeof(*model));

    (void)state;
    assert_non_null(model);
    model->chance = wanted == NULL ? 20260 : strtoull(wanted, NULL, 10);
    print_message("VICINAL_SEED=%llu\n", (unsigned long long)model->chance);
    model->store = open_store();
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct store_txn *txn = begin(model->store, true);

        memcpy(model->saved, model->versions, sizeof(model->saved));
        change_some(model, txn);
        if (draw(model, 5) == 0) {
            store_abort(txn);
            memcpy(model->versions, model->saved, sizeof(model->saved));
        } else {
            must_commit(txn);
        }
        check_all(model, round % 2 == 0);
    }
    store_close(model->store);
    free(model);
}

/* In the order of their keys, a thousand a commit. */
static void vectors_that_come_in_order_fill_their_pages(void **state)
{
    struct store *store = open_store();
    uint8_t vector[VECTOR_BYTES] = {1}, key[8];
    struct err err = {0};

    (void)state;
    for (uint32_t first = 0; first < VECTORS; first += 1000) {
        struct store_txn *txn = begin(store, true);

        for (uint32_t i = first; i < first + 1000; i++)
            must(store_put(txn, STORE_VECTORS, key_of(key, i),
                           (struct store_value){vector, sizeof(vector)}, &err),
                 &err);
        must_commit(txn);
    }
    assert_true(store_bytes(store) < (uint64_t)VECTORS * VECTOR_BYTES * 3 / 2);
    store_close(store);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest both[] = {
        CASE(a_store_holds_what_was_put_in_any_order),
        CASE(vectors_that_come_in_order_fill_their_pages),
    };
    int failed = cmocka_run_group_tests_name("lmdb", both, choose_lmdb, NULL);

    return failed + cmocka_run_group_tests_name("memory", both, choose_memory, NULL);
}
