/* A store that nobody damaged is found sound, whatever was put and removed before it was closed.
 *
 * LMDB does not write a page that was made and given up within one transaction; where such pages
 * were the last ones, the file is shorter than its head says.  So transactions of every kind are
 * drawn: rows put and removed again in one go, rows of several pages, all of them removed, and an
 * old snapshot kept by a reader meanwhile, which keeps the free pages from being used.
 * VICINAL_SEED repeats a run. */
#include <sys/stat.h>

#include "backends/store/store_verify.h"
#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "tests/lib/store_rig.h"

enum { ROWS = 400, STORES = 100, LIVES = 4, BIG = 9000 };

static const char *const dir = lmdb_url + 5; /* behind "lmdb:" */

static uint64_t chance;

static uint32_t draw(uint32_t below)
{
    chance = chance * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(chance >> 33) % below;
}

static void change(struct store_txn *txn, uint32_t number, bool is_removed)
{
    static const uint8_t bytes[BIG];
    uint8_t name[4];
    struct store_value key = {name, sizeof(name)};
    struct store_value value = {bytes, number % 29 == 0 ? BIG : 10 + number * 7 % 600};
    enum store_table table = (enum store_table)(number % STORE_TABLES);
    struct err err = {0};

    store_be32(name, number);
    if (is_removed)
        must(store_delete(txn, table, key, &err), &err);
    else
        must(store_put(txn, table, key, value, &err), &err);
}

static void change_some(struct store_txn *txn)
{
    uint32_t first = draw(ROWS), count = draw(ROWS - first), kind = draw(6);

    if (kind == 0)
        first = 0, count = ROWS;
    for (uint32_t i = first; kind != 5 && kind != 0 && i < first + count; i++)
        change(txn, i, kind == 1);
    /* What was just put, and all. */
    for (uint32_t i = first; (kind == 4 || kind == 0) && i < first + count; i++)
        change(txn, i, true);
    for (uint32_t left = draw(20); left > 0; left--)
        change(txn, draw(ROWS), draw(2) == 0);
}

static void live(void)
{
    struct store *store = open_store();
    struct store_txn *old = NULL;

    for (uint32_t left = 1 + draw(4); left > 0; left--) {
        struct store_txn *txn;

        if (old == NULL && draw(3) == 0)
            old = begin(store, false);
        txn = begin(store, true);
        change_some(txn);
        must_commit(txn);
    }
    if (old != NULL)
        store_abort(old);
    store_close(store);
}

static void find(void *state, const struct scrub_finding *finding)
{
    (void)state;
    print_error("%s, byte %llu: %s\n", finding->file, (unsigned long long)finding->byte,
                finding->text);
}

static bool go_on(void *state, uint64_t bytes)
{
    (void)state, (void)bytes;
    return true;
}

/* Returns whether the file ends before the last page that its head tells of. */
static bool is_short(void)
{
    char path[512];
    uint8_t heads[2 * 4096];
    struct stat info;
    FILE *file;
    uint64_t newest, last;

    (void)snprintf(path, sizeof(path), "%s/data.mdb", dir);
    file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(heads, 1, sizeof(heads), file), sizeof(heads));
    assert_int_equal(fclose(file), 0);
    assert_int_equal(stat(path, &info), 0);
    newest = load_u64(heads + 144) > load_u64(heads + 4096 + 144) ? 0 : 4096;
    last = load_u64(heads + newest + 136);
    return last >= (uint64_t)info.st_size / 4096;
}

static void look(void)
{
    struct scrub scrub = {.find = find, .go_on = go_on};
    struct store_verified found;
    struct err err = {0};

    must(store_verify(dir, &scrub, &found, &err), &err);
    store_verified_end(&found);
    assert_true(found.is_sound);
}

static void what_nobody_damaged_is_found_sound(void **state)
{
    const char *wanted = getenv("VICINAL_SEED");
    uint32_t shorter = 0;

    chance = wanted == NULL ? 20261122 : strtoull(wanted, NULL, 10);
    print_message("VICINAL_SEED=%llu\n", (unsigned long long)chance);
    /* Young ones: what has grown ends with a page that was written. */
    for (uint32_t i = 0; i < STORES; i++) {
        for (uint32_t left = LIVES; left > 0; left--) {
            live();
            look();
            shorter += is_short();
        }
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
    }
    assert_true(shorter > 0); /* it was tried */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_nobody_damaged_is_found_sound, setup, teardown),
    };

    return cmocka_run_group_tests_name("lmdb", tests, choose_lmdb, NULL);
}
