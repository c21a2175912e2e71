/* Every blob store: an object is there whole or not at all, comes back as it was put, in any part,
 * and is gone when it is removed.
 * needs: blobs */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/blob/blob.h"
#include "tests/lib/child.h"
#include "tests/lib/scratch.h"

/* The caller removes and frees it. */
static char *scratch_folder(void)
{
    char *folder = strdup("/tmp/vicinal-blob-XXXXXX");

    assert_non_null(folder);
    assert_non_null(mkdtemp(folder));
    return folder;
}

static void scratch_end(char *folder)
{
    assert_int_equal(scratch_remove(folder), 0);
    free(folder);
}

static const char *contract_url; /* of the back end under test */

static struct blob *open_blob(const char *url)
{
    struct blob *blob;
    struct err err = {0};

    if (blob_open(&blob, url, env_real(), &err) != ERR_OK)
        fail_msg("%s", err.message);
    return blob;
}

/* No two runs share names: a server outlives them. */
static const char *name_of(const char *leaf)
{
    static char name[BLOB_NAME_BYTES_MAX + 1];

    (void)snprintf(name, sizeof(name), "run-%d/%s", (int)getpid(), leaf);
    return name;
}

static uint8_t *pattern(size_t len, unsigned seed)
{
    uint8_t *data = malloc(len);

    assert_non_null(data);
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(i * 31 + i / 256 * 7 + seed);
    return data;
}

static void put(struct blob *blob, const char *name, const void *data, size_t len)
{
    struct err err = {0};

    if (blob_put(blob, name, data, len, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

static void expect_part(struct blob *blob, const char *name, const uint8_t *data, uint64_t at,
                        size_t len)
{
    struct blob_range range = {.name = name, .at = at, .len = len};
    struct buffer out = {0};
    struct err err = {0};

    buffer_append_text(&out, "before");
    if (blob_get(blob, &range, &out, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_int_equal(out.len, 6 + len);
    assert_memory_equal(out.data, "before", 6);
    assert_memory_equal(out.data + 6, data + at, len);
    buffer_free(&out);
}

static enum err_code get_fails(struct blob *blob, const char *name, uint64_t at, size_t len)
{
    struct blob_range range = {.name = name, .at = at, .len = len};
    struct buffer out = {0};
    struct err err = {0};
    enum err_code code;

    buffer_append_text(&out, "before");
    code = blob_get(blob, &range, &out, &err);
    assert_int_equal(out.len, 6);
    buffer_free(&out);
    return code;
}

static void an_object_comes_back_in_any_part(void **state)
{
    struct blob *blob = open_blob(contract_url);
    size_t len = MIB(3) + 17;
    uint8_t *data = pattern(len, 1);
    struct err err = {0};
    uint64_t size = 0;

    (void)state;
    put(blob, name_of("parts"), data, len);
    expect_part(blob, name_of("parts"), data, 0, len);
    expect_part(blob, name_of("parts"), data, 0, 1);
    expect_part(blob, name_of("parts"), data, len - 1, 1);
    expect_part(blob, name_of("parts"), data, 4095, 70000);
    assert_int_equal(blob_size(blob, name_of("parts"), &size, &err), ERR_OK);
    assert_int_equal(size, len);
    assert_int_equal(get_fails(blob, name_of("parts"), len - 5, 6), ERR_CORRUPT);
    assert_int_equal(get_fails(blob, name_of("parts"), len + 5, 6), ERR_CORRUPT);
    blob_close(blob);
    /* Opened again it is there still. */
    blob = open_blob(contract_url);
    expect_part(blob, name_of("parts"), data, 0, len);
    free(data);
    blob_close(blob);
}

static void what_was_never_put_is_not_found(void **state)
{
    struct blob *blob = open_blob(contract_url);
    struct err err = {0};
    uint64_t size;

    (void)state;
    assert_int_equal(get_fails(blob, name_of("never/a"), 0, 1), ERR_NOT_FOUND);
    assert_int_equal(get_fails(blob, name_of("never"), 0, 1), ERR_NOT_FOUND);
    assert_int_equal(blob_size(blob, name_of("never/a"), &size, &err), ERR_NOT_FOUND);
    err_clear(&err);
    assert_int_equal(blob_remove(blob, name_of("never/a"), &err), ERR_OK);
    blob_close(blob);
}

static void an_object_is_replaced_as_a_whole(void **state)
{
    struct blob *blob = open_blob(contract_url);
    uint8_t *one = pattern(100000, 1), *two = pattern(50, 2);

    (void)state;
    put(blob, name_of("replaced"), one, 100000);
    put(blob, name_of("replaced"), two, 50);
    expect_part(blob, name_of("replaced"), two, 0, 50);
    assert_int_equal(get_fails(blob, name_of("replaced"), 50, 1), ERR_CORRUPT);
    free(one);
    free(two);
    blob_close(blob);
}

struct seen {
    unsigned count, a, b, other;
    unsigned stop_at;
};

static bool note(void *context, const char *name)
{
    struct seen *seen = context;
    const char *leaf = strrchr(name, '/');

    assert_non_null(leaf);
    seen->count++;
    if (strcmp(leaf, "/a") == 0)
        seen->a++;
    else if (strcmp(leaf, "/b") == 0)
        seen->b++;
    else
        seen->other++;
    return seen->count != seen->stop_at;
}

static void names_are_listed_by_prefix_until_removed(void **state)
{
    struct blob *blob = open_blob(contract_url);
    struct seen seen = {0};
    struct err err = {0};

    (void)state;
    put(blob, name_of("list/x/a"), "a", 1);
    put(blob, name_of("list/x/b"), "b", 1);
    put(blob, name_of("list/y/a"), "a", 1);
    put(blob, name_of("listed"), "c", 1);
    assert_int_equal(blob_list(blob, name_of("list/x/"), note, &seen, &err), ERR_OK);
    assert_true(seen.count == 2 && seen.a == 1 && seen.b == 1);
    seen = (struct seen){0};
    assert_int_equal(blob_list(blob, name_of("list"), note, &seen, &err), ERR_OK);
    assert_true(seen.count == 4 && seen.a == 2 && seen.b == 1 && seen.other == 1);
    seen = (struct seen){.stop_at = 1};
    assert_int_equal(blob_list(blob, name_of("list"), note, &seen, &err), ERR_OK);
    assert_int_equal(seen.count, 1);
    assert_int_equal(blob_remove(blob, name_of("list/x/a"), &err), ERR_OK);
    assert_int_equal(get_fails(blob, name_of("list/x/a"), 0, 1), ERR_NOT_FOUND);
    seen = (struct seen){0};
    assert_int_equal(blob_list(blob, name_of("list/x/"), note, &seen, &err), ERR_OK);
    assert_true(seen.count == 1 && seen.b == 1);
    seen = (struct seen){0};
    assert_int_equal(blob_list(blob, name_of("nothing"), note, &seen, &err), ERR_OK);
    assert_int_equal(seen.count, 0);
    blob_close(blob);
}

struct putter {
    struct blob *blob;
    unsigned number;
};

static void *put_many(void *context)
{
    struct putter *putter = context;
    struct err err = {0};

    for (unsigned i = 0; i < 20; i++) {
        char leaf[32];
        uint8_t *data = pattern(10000, putter->number);
        char name[BLOB_NAME_BYTES_MAX + 1];

        (void)snprintf(leaf, sizeof(leaf), "%d/threads/%u", (int)getpid(), i % 3);
        (void)snprintf(name, sizeof(name), "run-%s", leaf);
        if (blob_put(putter->blob, name, data, 10000, &err) != ERR_OK)
            return "failed";
        free(data);
    }
    return NULL;
}

static void threads_leave_whole_objects(void **state)
{
    struct blob *blob = open_blob(contract_url);
    struct putter putters[4];
    pthread_t threads[4];
    void *result;

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        putters[i] = (struct putter){.blob = blob, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, put_many, &putters[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
    for (unsigned i = 0; i < 3; i++) {
        char leaf[32];
        struct buffer out = {0};
        struct err err = {0};
        struct blob_range range = {.len = 10000};
        uint8_t *data;

        (void)snprintf(leaf, sizeof(leaf), "threads/%u", i);
        range.name = name_of(leaf);
        assert_int_equal(blob_get(blob, &range, &out, &err), ERR_OK);
        data = pattern(10000, out.data[0]);
        assert_memory_equal(out.data, data, 10000);
        free(data);
        buffer_free(&out);
    }
    blob_close(blob);
}

/* --- one back end each ----------------------------------------------------------------------- */

static void names_and_urls_are_checked_whole(void **state)
{
    static const char *const bad_names[] = {"",     "/a", "a/",  "a//b", ".a", "a/.b",
                                            "a/..", "A",  "a b", "ä",    "a\n"};
    static const char *const bad_urls[] = {"file:",
                                           "s3:",
                                           "s3://",
                                           "ftp://a",
                                           "s3://B/c",
                                           "s3://b/c?x=y",
                                           "s3://b/../c",
                                           "s3://b/c?endpoint=ftp://x",
                                           "s3://b/c?region=",
                                           "s3://b/c?endpoint"};
    static const char *const good_urls[] = {
        "file:x", "s3://b", "s3://b/", "s3://b/c/d/",
        "s3://b/c?endpoint=http://127.0.0.1:1&region=eu-west-1"};
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad_names); i++)
        assert_int_equal(blob_check_name(bad_names[i], &err), ERR_INVALID_ARGUMENT);
    assert_int_equal(blob_check_name("a/b.c/0-f_", &err), ERR_OK);
    for (size_t i = 0; i < ARRAY_COUNT(bad_urls); i++)
        assert_int_equal(blob_check_url(bad_urls[i], &err), ERR_CONFIG);
    for (size_t i = 0; i < ARRAY_COUNT(good_urls); i++)
        assert_int_equal(blob_check_url(good_urls[i], &err), ERR_OK);
}

static unsigned count_files(const char *folder)
{
    DIR *dir = opendir(folder);
    unsigned count = 0;

    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    (void)closedir(dir);
    return count;
}

/* A file may not grow beyond 64 KiB in the child: as on a full disk. */
static void a_put_that_fails_leaves_the_object_as_it_was(void **state)
{
    char *folder = scratch_folder(), url[256];
    uint8_t *data = pattern(100000, 3);
    struct blob *blob;
    pid_t pid;

    (void)state;
    (void)snprintf(url, sizeof(url), "file:%s", folder);
    blob = open_blob(url);
    put(blob, "object", data, 50);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit limit = {.rlim_cur = KIB(64), .rlim_max = KIB(64)};
        struct err err = {0};

        (void)signal(SIGXFSZ, SIG_IGN);
        _exit(setrlimit(RLIMIT_FSIZE, &limit) != 0 ||
              blob_put(blob, "object", data, 100000, &err) != ERR_INSUFFICIENT_STORAGE);
    }
    child_must_end(pid, 0);
    expect_part(blob, "object", data, 0, 50);
    assert_int_equal(count_files(folder), 1);
    blob_close(blob);
    free(data);
    scratch_end(folder);
}

static void a_put_that_was_killed_is_swept_away_later(void **state)
{
    char *folder = scratch_folder(), url[256], old[512], young[512];
    struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};

    (void)state;
    (void)snprintf(url, sizeof(url), "file:%s", folder);
    (void)snprintf(old, sizeof(old), "%s/.put-0123456789abcdef", folder);
    (void)snprintf(young, sizeof(young), "%s/.put-fedcba9876543210", folder);
    (void)close(creat(old, 0600));
    (void)close(creat(young, 0600));
    assert_int_equal(utimensat(AT_FDCWD, old, times, 0), 0);
    blob_close(open_blob(url));
    assert_int_equal(access(young, F_OK), 0);
    assert_int_not_equal(access(old, F_OK), 0);
    scratch_end(folder);
}

static void wrong_credentials_are_refused(void **state)
{
    char *right = strdup(getenv("AWS_SECRET_ACCESS_KEY"));
    struct blob *blob;
    struct err err = {0};

    (void)state;
    assert_int_equal(setenv("AWS_SECRET_ACCESS_KEY", "wrong", 1), 0);
    blob = open_blob(getenv("VICINAL_TEST_S3"));
    assert_int_equal(blob_put(blob, name_of("refused"), "x", 1, &err), ERR_FORBIDDEN);
    blob_close(blob);
    assert_int_equal(unsetenv("AWS_SECRET_ACCESS_KEY"), 0);
    assert_int_equal(blob_open(&blob, getenv("VICINAL_TEST_S3"), env_real(), &err), ERR_CONFIG);
    assert_int_equal(setenv("AWS_SECRET_ACCESS_KEY", right, 1), 0);
    free(right);
}

static void a_store_that_is_away_is_told_in_time(void **state)
{
    struct blob *blob = open_blob("s3://bucket/x?endpoint=http://127.0.0.1:1");
    uint64_t began = env_boot_ns(env_real());
    struct err err = {0};

    (void)state;
    assert_int_equal(blob_put(blob, "a", "x", 1, &err), ERR_UNAVAILABLE);
    assert_true(env_boot_ns(env_real()) - began < BLOB_CALL_NS);
    blob_close(blob);
}

static int run_contract(const char *name, const char *url)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_object_comes_back_in_any_part),
        cmocka_unit_test(what_was_never_put_is_not_found),
        cmocka_unit_test(an_object_is_replaced_as_a_whole),
        cmocka_unit_test(names_are_listed_by_prefix_until_removed),
        cmocka_unit_test(threads_leave_whole_objects),
    };

    contract_url = url;
    return _cmocka_run_group_tests(name, tests, ARRAY_COUNT(tests), NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_urls_are_checked_whole),
        cmocka_unit_test(a_put_that_fails_leaves_the_object_as_it_was),
        cmocka_unit_test(a_put_that_was_killed_is_swept_away_later),
        cmocka_unit_test(wrong_credentials_are_refused),
        cmocka_unit_test(a_store_that_is_away_is_told_in_time),
    };
    const char *s3 = getenv("VICINAL_TEST_S3");
    char *folder, url[256];
    int failed;

    if (s3 == NULL) {
        fprintf(stderr, "VICINAL_TEST_S3 names no server: run by tests/run_programs.py\n");
        return 2;
    }
    folder = scratch_folder();
    (void)snprintf(url, sizeof(url), "file:%s/blobs", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL) + run_contract("file", url) +
             run_contract("s3", s3);
    scratch_end(folder);
    return failed;
}
