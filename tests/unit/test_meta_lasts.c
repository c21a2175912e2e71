/* What the metadata stores that last promise beyond the contract: several processes and kills at
 * any moment lose nothing; what is no store of ours is refused, and an older one brought up to
 * date.
 *
 * needs: postgres */
#include <fcntl.h>
#include <signal.h>

#include <sqlite3.h>

#include "tests/lib/child.h"
#include "tests/unit/meta_rig.h"

/* --- processes ------------------------------------------------------------------------------ */

static void rows_and_versions_outlive_the_close(void **state)
{
    struct meta *meta = open_meta(), *second;
    uint64_t version;

    (void)state;
    (void)must_put(meta, "a", "one", META_ANY);
    (void)must_put(meta, "b", "two", META_ANY);
    version = must_put(meta, "a", "three", META_ANY);
    second = open_meta();
    expect_row(second, "a", "three", version);
    meta_close(second);
    meta_close(meta);
    meta = open_meta();
    expect_row(meta, "a", "three", version);
    assert_int_equal(must_put(meta, "c", "four", META_ABSENT), version + 1);
    meta_close(meta);
}

static void processes_that_race_lose_no_change(void **state)
{
    pid_t children[3];
    struct meta *meta;

    (void)state;
    /* The file is not there yet: they race for its creation too. */
    for (size_t i = 0; i < ARRAY_COUNT(children); i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) {
            struct err err;

            if (meta_open(&meta, url, env_real(), &err) != ERR_OK)
                _exit(2);
            if (!increment(meta, 100))
                _exit(3);
            meta_close(meta);
            _exit(0);
        }
    }
    for (size_t i = 0; i < ARRAY_COUNT(children); i++)
        child_must_end(children[i], 0);
    meta = open_meta();
    expect_row(meta, "number", "300", 300);
    meta_close(meta);
}

static void a_wait_sees_the_change_of_another_process(void **state)
{
    struct meta *meta = open_meta();
    uint64_t seen, version = 0;
    struct err err;
    pid_t child;

    (void)state;
    seen = must_put(meta, "a", "one", META_ANY);
    meta_close(meta); /* no connection is carried over a fork */
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (meta_open(&meta, url, env_real(), &err) != ERR_OK ||
            put(meta, "a", "two", META_ANY, NULL) != ERR_OK)
            _exit(2);
        meta_close(meta);
        _exit(0);
    }
    meta = open_meta();
    assert_int_equal(meta_wait(meta, seen, env_boot_ns(env_real()) + WAIT_NS, &version, &err),
                     ERR_OK);
    assert_int_equal(version, seen + 1);
    child_must_end(child, 0);
    meta_close(meta);
}

/* Write until killed, telling each acknowledged version. */
static void write_for_ever(int acknowledged)
{
    struct meta *meta;
    struct err err;

    if (meta_open(&meta, url, env_real(), &err) != ERR_OK)
        _exit(2);
    for (;;) {
        uint64_t version;

        if (put(meta, "a", "left", META_ANY, NULL) != ERR_OK ||
            put(meta, "b", "right", META_ANY, &version) != ERR_OK)
            _exit(3);
        if (write(acknowledged, &version, sizeof(version)) != sizeof(version))
            _exit(4);
    }
}

static void a_kill_loses_nothing_acknowledged(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 8; round++) {
        struct meta *meta;
        struct meta_row row;
        struct err err;
        uint64_t acknowledged = child_told_until_killed(write_for_ever, round * 5 + 1);

        meta = open_meta();
        assert_int_equal(meta_get(meta, "b", &row, &err), ERR_OK);
        assert_true(row.version >= acknowledged);
        assert_true(version_of(meta) >= row.version);
        assert_string_equal(row.value, "right");
        meta_row_free(&row);
        meta_close(meta);
    }
}

/* --- what is refused ---------------------------------------------------------------------------
 */

/* Overwrite a big-endian number in the header of the database file. */
static void patch_header(off_t at, uint32_t value)
{
    uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8),
                        (uint8_t)value};
    int fd = open(file, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, sizeof(bytes), at), sizeof(bytes));
    assert_int_equal(close(fd), 0);
}

static void expect_refusal(const char *bad_url, enum err_code expected, const char *part)
{
    struct meta *meta = (struct meta *)&expected;
    struct err err = {0};

    assert_int_equal(meta_open(&meta, bad_url, env_real(), &err), expected);
    assert_null(meta);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", err.message, part);
}

static void files_that_are_not_ours_are_refused(void **state)
{
    struct meta *meta = open_meta();

    (void)state;
    (void)must_put(meta, "a", "one", META_ANY);
    meta_close(meta);
    patch_header(60, 3); /* PRAGMA user_version */
    expect_refusal(url, ERR_CONFIG, "newer");
    patch_header(60, 2);
    patch_header(68, 1); /* PRAGMA application_id */
    expect_refusal(url, ERR_CONFIG, "another program");
    patch_header(68, 0x5669636e);
    meta = open_meta();
    expect_row(meta, "a", "one", 1);
    meta_close(meta);
    patch_header(0, 0x6e6f7065);
    expect_refusal(url, ERR_CORRUPT, "rebuilt from the log");
}

static void a_file_of_the_first_schema_is_brought_up_to_date(void **state)
{
    const struct meta_lag lag = lag_of("a", "b", 0, 1);
    struct meta *meta;
    sqlite3 *db;
    struct err err;

    (void)state;
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db,
                     "CREATE TABLE row (key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL,"
                     " version INTEGER NOT NULL);"
                     "CREATE TABLE counter (version INTEGER NOT NULL);"
                     "INSERT INTO counter (version) VALUES (7);"
                     "INSERT INTO row VALUES (CAST('map' AS BLOB), CAST('old' AS BLOB), 7);"
                     "PRAGMA application_id = 1449747310; PRAGMA user_version = 1;",
                     NULL, NULL, NULL),
        SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    for (int i = 0; i < 2; i++) {
        meta = open_meta();
        expect_row(meta, "map", "old", 7);
        assert_int_equal(meta_lag_put(meta, &lag, 1, &err), ERR_OK);
        meta_close(meta);
    }
    meta = open_meta();
    expect_lags(meta, &lag, 1);
    assert_int_equal(must_put(meta, "map", "new", 7), 8);
    meta_close(meta);
}

static void urls_are_checked_whole(void **state)
{
    char nowhere[400];

    (void)state;
    snprintf(nowhere, sizeof(nowhere), "sqlite:%s/no/such/meta.db", folder);
    expect_refusal(nowhere, ERR_CONFIG, "no folder");
    expect_refusal("sqlite:", ERR_CONFIG, "sqlite:FILE");
    expect_refusal("sqlite::memory:", ERR_CONFIG, "sqlite:FILE");
    expect_refusal("sqlit:x", ERR_CONFIG, "want sqlite:FILE");
    expect_refusal("sqlitex:x", ERR_CONFIG, "want sqlite:FILE");
    expect_refusal("memory", ERR_CONFIG, "want sqlite:FILE");
    expect_refusal("memory:x", ERR_CONFIG, "nothing may follow");
    expect_refusal("", ERR_CONFIG, "want sqlite:FILE");
    expect_refusal(":", ERR_CONFIG, "want sqlite:FILE");
}

/* Of Postgres: what will not pass by itself is wrong configuration, what may is not. */
static void wrong_addresses_and_names_are_told_apart(void **state)
{
    const char *server = getenv("VICINAL_TEST_POSTGRES");
    char bad[300];
    int host_len = (int)(strrchr(server, '/') - server);

    (void)state;
    snprintf(bad, sizeof(bad), "%.*s/nosuchdb", host_len, server);
    expect_refusal(bad, ERR_CONFIG, "check user, password and database");
    snprintf(bad, sizeof(bad), "postgres://nobody@%s", strchr(server, '@') + 1);
    expect_refusal(bad, ERR_CONFIG, "check user, password and database");
    expect_refusal("postgres://postgres@127.0.0.1:1/postgres", ERR_UNAVAILABLE, "postgres");
    snprintf(bad, sizeof(bad), "%s?schema=No", server);
    expect_refusal(bad, ERR_CONFIG, "schema=NAME");
    snprintf(bad, sizeof(bad), "%s?schema=", server);
    expect_refusal(bad, ERR_CONFIG, "schema=NAME");
    snprintf(bad, sizeof(bad), "%s?nonsense=1", server);
    expect_refusal(bad, ERR_CONFIG, "nonsense");
}

/* Our own option goes, whatever stands before and behind it. */
static void the_schema_is_cut_out_of_the_url(void **state)
{
    static const char *const queries[] = {"?application_name=x&schema=%s",
                                          "?schema=%s&application_name=x",
                                          "?application_name=x&schema=%s&connect_timeout=3"};
    const char *server = getenv("VICINAL_TEST_POSTGRES");
    char name[64], query[128], full[400];

    (void)state;
    snprintf(name, sizeof(name), "cut-%ld", (long)getpid());
    for (size_t i = 0; i < ARRAY_COUNT(queries); i++) {
        struct meta *meta;
        struct err err = {0};

        snprintf(query, sizeof(query), queries[i], name);
        snprintf(full, sizeof(full), "%s%s", server, query);
        if (meta_open(&meta, full, env_real(), &err) != ERR_OK)
            fail_msg("%s", err.message);
        if (i == 0)
            (void)must_put(meta, "same", "x", META_ABSENT);
        expect_row(meta, "same", "x", 1);
        meta_close(meta);
    }
}

static void network_file_systems_are_known(void **state)
{
    (void)state;
    assert_true(meta_sqlite_is_network(0x6969));
    assert_true(meta_sqlite_is_network(0xff534d42));
    assert_true(meta_sqlite_is_network(0xffffffffff534d42)); /* sign-extended */
    assert_false(meta_sqlite_is_network(0xef53));            /* ext4 */
    assert_false(meta_sqlite_is_network(0x01021994));        /* tmpfs */
}

int main(void)
{
    const struct CMUnitTest lasting[] = {
        CASE(rows_and_versions_outlive_the_close),
        CASE(processes_that_race_lose_no_change),
        CASE(a_wait_sees_the_change_of_another_process),
        CASE(a_kill_loses_nothing_acknowledged),
    };
    const struct CMUnitTest postgres_only[] = {
        CASE(wrong_addresses_and_names_are_told_apart),
        CASE(the_schema_is_cut_out_of_the_url),
    };
    const struct CMUnitTest sqlite_only[] = {
        CASE(files_that_are_not_ours_are_refused),
        CASE(a_file_of_the_first_schema_is_brought_up_to_date),
        CASE(urls_are_checked_whole),
        CASE(network_file_systems_are_known),
    };
    int failed;

    if (!is_served())
        return 2;
    failed = cmocka_run_group_tests_name("sqlite", lasting, choose_sqlite, NULL);
    failed += cmocka_run_group_tests_name("postgres", lasting, choose_postgres, NULL);
    failed += cmocka_run_group_tests_name("postgres only", postgres_only, choose_postgres, NULL);
    failed += cmocka_run_group_tests_name("sqlite only", sqlite_only, choose_sqlite, NULL);
    return failed;
}
