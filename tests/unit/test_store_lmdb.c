/* A store in LMDB: its folder has one owner, its rows outlive the close and every kill, and it is
 * copied as it was at one moment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "tests/lib/child.h"
#include "tests/lib/store_rig.h"

static void rows_outlive_the_close(void **state)
{
    struct store *store = open_store();

    (void)state;
    commit_row(store, "a", "1");
    store_close(store);
    store = open_store();
    expect(store, "a", "1");
    commit_row(store, "a", "2");
    store_close(store);
    store = open_limited(MIB(2));
    expect(store, "a", "2");
    store_close(store);
}

static void a_second_owner_is_refused(void **state)
{
    struct store *store = open_store();
    pid_t child;

    (void)state;
    expect_refusal(url, ERR_CONFIG, "in use by another process");
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct store_options options = {.url = url, .env = env_real()};
        struct store *second;
        struct err err;

        _exit(store_open(&second, &options, &err) == ERR_CONFIG ? 0 : 1);
    }
    child_must_end(child, 0);
    commit_row(store, "a", "1");
    store_close(store);
    store = open_store();
    expect(store, "a", "1");
    store_close(store);
}

static void write_for_ever(int acknowledged)
{
    struct store_options options = {.url = url, .env = env_real()};
    struct store_txn *reader;
    struct store *store;
    struct err err;

    if (store_open(&store, &options, &err) != ERR_OK ||
        store_begin(&reader, store, false, &err) != ERR_OK)
        _exit(2); /* the reader dies with the process, and must not hold pages for ever */
    for (uint64_t i = 1;; i++) {
        write_pair(store, (unsigned)i);
        if (write(acknowledged, &i, sizeof(i)) != sizeof(i))
            _exit(3);
    }
}

static void a_kill_loses_no_commit(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 6; round++) {
        struct reader reader = {.rounds = 1};
        struct store_value value;
        struct store_txn *txn;
        struct err err;
        char number[32];
        uint64_t acknowledged = child_told_until_killed(write_for_ever, round * 7 + 1);

        reader.store = open_store();
        read_pairs(&reader);
        assert_int_equal(reader.torn, 0);
        txn = begin(reader.store, false);
        assert_int_equal(store_get(txn, STORE_IDS, text("left"), &value, &err), ERR_OK);
        assert_true(value.len < sizeof(number));
        memcpy(number, value.data, value.len);
        number[value.len] = '\0';
        assert_true(strtoul(number, NULL, 10) >= acknowledged);
        store_abort(txn);
        store_close(reader.store);
    }
}

static void damaged_files_are_refused(void **state)
{
    char path[400], damaged_url[420];
    struct store *store = open_store();
    int fd;

    (void)state;
    commit_row(store, "a", "1");
    store_close(store);
    snprintf(path, sizeof(path), "%s/shard/data.mdb", folder);
    fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    /* Both roots. */
    assert_int_equal(pwrite(fd, "damage damage damage", 20, 10), 20);
    assert_int_equal(pwrite(fd, "damage damage damage", 20, 4096 + 10), 20);
    assert_int_equal(close(fd), 0);
    snprintf(damaged_url, sizeof(damaged_url), "lmdb:%s/shard", folder);
    expect_refusal(damaged_url, ERR_CORRUPT, "store");
}

static void many_readers_at_a_time(void **state)
{
    struct store_options options = {.url = url, .env = env_real(), .readers_max = 100};
    struct store_txn *readers[100], *extra;
    struct store *store;
    struct err err;
    unsigned extras = 0;

    (void)state;
    assert_int_equal(store_open(&store, &options, &err), ERR_OK);
    commit_row(store, "a", "1");
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_COUNT(readers); i++) {
            readers[i] = begin(store, false);
            expect_in(readers[i], STORE_IDS, "a", "1");
        }
        for (size_t i = 0; i < ARRAY_COUNT(readers); i++)
            store_abort(readers[i]);
    }
    /* Beyond the table: an answer, no crash. */
    for (size_t i = 0; i < ARRAY_COUNT(readers); i++)
        readers[i] = begin(store, false);
    struct store_txn *more[100];
    while (extras < ARRAY_COUNT(more)) {
        enum err_code code = store_begin(&extra, store, false, &err);

        if (code != ERR_OK) {
            assert_int_equal(code, ERR_UNAVAILABLE);
            break;
        }
        more[extras++] = extra;
    }
    assert_true(extras < ARRAY_COUNT(more));
    while (extras > 0)
        store_abort(more[--extras]);
    for (size_t i = 0; i < ARRAY_COUNT(readers); i++)
        store_abort(readers[i]);
    store_close(store);
}

/* --- copies ---------------------------------------------------------------------------------- */

/* A copy on its way into a file. */
struct taker {
    struct store *store; /* that is copied; gets a commit in the middle of it */
    FILE *file;
    size_t pieces;
    size_t pieces_max; /* 0: all */
};

static enum err_code take_piece(void *context, const void *data, size_t len, struct err *err)
{
    struct taker *taker = context;

    if (taker->pieces++ == taker->pieces_max && taker->pieces_max > 0)
        return err_set(err, ERR_DEAD, "enough");
    if (taker->pieces == 1)
        commit_row(taker->store, "late", "x");
    assert_int_equal(fwrite(data, 1, len, taker->file), len);
    return ERR_OK;
}

static void fill_megabytes(struct store *store)
{
    struct store_txn *txn = begin(store, true);
    char key[16], value[1001] = {0};

    memset(value, 'v', sizeof(value) - 1);
    for (int i = 0; i < 4000; i++) {
        snprintf(key, sizeof(key), "k%05d", i);
        must_put(txn, STORE_IDS, key, value);
    }
    must_commit(txn);
}

static void a_copy_is_the_store_of_one_moment(void **state)
{
    struct store *store = open_store(), *copy;
    struct taker taker = {.store = store};
    char path[400], copy_url[410], value[1001] = {0};
    struct err err = {0};

    (void)state;
    fill_megabytes(store);
    snprintf(path, sizeof(path), "%s/copy", folder);
    assert_int_equal(mkdir(path, 0777), 0);
    snprintf(copy_url, sizeof(copy_url), "lmdb:%s", path);
    snprintf(path, sizeof(path), "%s/copy/" STORE_COPY_NAME, folder);
    taker.file = fopen(path, "w");
    assert_non_null(taker.file);
    must(store_copy(store, take_piece, &taker, &err), &err);
    assert_int_equal(fclose(taker.file), 0);
    assert_true(taker.pieces > 10);
    url = copy_url;
    copy = open_store();
    memset(value, 'v', sizeof(value) - 1);
    expect(copy, "k03999", value);
    expect(copy, "late", NULL);
    expect(store, "late", "x");
    commit_row(copy, "own", "y");
    store_close(copy);
    url = lmdb_url;
    store_close(store);
}

/* Who takes it may have had enough at any piece; the store goes on. */
static void a_copy_ends_when_nobody_takes_it(void **state)
{
    struct store *store = open_store();
    char path[400];

    (void)state;
    fill_megabytes(store);
    snprintf(path, sizeof(path), "%s/half", folder);
    for (size_t pieces = 1; pieces < 60; pieces += 7) {
        struct taker taker = {.store = store, .pieces_max = pieces};
        struct err err = {0};

        taker.file = fopen(path, "w");
        assert_non_null(taker.file);
        assert_int_equal(store_copy(store, take_piece, &taker, &err), ERR_DEAD);
        assert_string_equal(err.message, "enough");
        assert_int_equal(fclose(taker.file), 0);
    }
    commit_row(store, "a", "1");
    store_close(store);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(rows_outlive_the_close),           CASE(a_second_owner_is_refused),
        CASE(a_kill_loses_no_commit),           CASE(damaged_files_are_refused),
        CASE(many_readers_at_a_time),           CASE(a_copy_is_the_store_of_one_moment),
        CASE(a_copy_ends_when_nobody_takes_it),
    };

    return cmocka_run_group_tests_name("lmdb", tests, choose_lmdb, NULL);
}
