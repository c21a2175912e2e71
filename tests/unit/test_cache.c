/* Every cache: what it returns was put, whole and young enough.  The memory cache: what it holds
 * fits its room; what leaves is what was used longest ago.
 * needs: redis */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/cache/cache.h"
#include "common/base/limits.h"

static uint64_t fake_now_ns;

static uint64_t fake_boot_ns(struct env *env)
{
    (void)env;
    return fake_now_ns;
}

static struct env_ops fake_ops;
static struct env fake = {.ops = &fake_ops};

static struct cache *open_cache(const char *url)
{
    struct cache *cache;
    struct err err = {0};

    fake_ops = *env_real()->ops;
    fake_ops.boot_ns = fake_boot_ns;
    fake_now_ns = 1000;
    if (cache_open(&cache, url, &fake, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return cache;
}

/* All of one part of the cache: the order of use is kept in each part by itself.  No two runs share
 * keys: a server outlives them. */
static struct hash128 key_of(uint64_t number)
{
    return (struct hash128){.low = number ^ (uint64_t)getpid() << 32, .high = 8 * number};
}

static const char *contract_url; /* of the back end under test */

/* In a server a value may be missed at any time: a call has run out of its time on a busy machine.
 * Then the value is put, or asked for, once more. */
static bool may_miss(void)
{
    return contract_url != NULL && strncmp(contract_url, "redis:", strlen("redis:")) == 0;
}

static bool is_kept(struct cache *cache, uint64_t number, const char *value)
{
    struct buffer out = {0};
    bool kept = cache_get(cache, key_of(number), &out) && out.len == strlen(value) &&
                (out.len == 0 || memcmp(out.data, value, out.len) == 0);

    buffer_free(&out);
    return kept;
}

static void put_text(struct cache *cache, uint64_t number, const char *value, uint32_t ttl_ms)
{
    uint64_t end = env_boot_ns(env_real()) + 20 * NS_PER_S;

    cache_put(cache, key_of(number), value, strlen(value), ttl_ms);
    while (may_miss() && ttl_ms >= 1000 && !is_kept(cache, number, value)) {
        assert_true(env_boot_ns(env_real()) < end);
        cache_put(cache, key_of(number), value, strlen(value), ttl_ms);
    }
}

/* value NULL: a miss. */
static void expect(struct cache *cache, uint64_t number, const char *value)
{
    uint64_t end = env_boot_ns(env_real()) + 20 * NS_PER_S;
    struct buffer out = {0};

    buffer_append_text(&out, "before ");
    while (!cache_get(cache, key_of(number), &out) && value != NULL)
        assert_true(may_miss() && env_boot_ns(env_real()) < end);
    if (value == NULL)
        assert_int_equal(out.len, 7);
    buffer_append_byte(&out, '\0');
    assert_memory_equal(out.data, "before ", 7);
    assert_string_equal((const char *)out.data + 7, value == NULL ? "" : value);
    buffer_free(&out);
}

static void a_value_comes_back_until_it_is_replaced(void **state)
{
    struct cache *cache = open_cache(contract_url);
    struct cache_stats stats;

    (void)state;
    expect(cache, 1, NULL);
    put_text(cache, 1, "one", 60000);
    put_text(cache, 2, "", 60000);
    expect(cache, 1, "one");
    expect(cache, 2, "");
    put_text(cache, 1, "another and longer", 60000);
    expect(cache, 1, "another and longer");
    /* One half of the key is not the key. */
    cache_put(cache, (struct hash128){.low = key_of(1).low, .high = 16}, "x", 1, 60000);
    expect(cache, 1, "another and longer");
    cache_stats(cache, &stats);
    assert_true(stats.hits == 4 || (may_miss() && stats.hits > 4));
    assert_true(stats.misses == 1 || (may_miss() && stats.misses > 1));
    assert_int_equal(stats.evictions, 0);
    cache_close(cache);
}

static void a_value_is_gone_when_its_time_is_over(void **state)
{
    struct cache *cache = open_cache("memory:1MiB");
    struct cache_stats stats;

    (void)state;
    put_text(cache, 1, "short", 10);
    put_text(cache, 2, "long", UINT32_MAX);
    put_text(cache, 3, "never", 0);
    expect(cache, 3, NULL);
    fake_now_ns += 10 * NS_PER_MS - 1;
    expect(cache, 1, "short");
    fake_now_ns += 1;
    expect(cache, 1, NULL);
    expect(cache, 2, "long");
    cache_stats(cache, &stats);
    assert_int_equal(stats.entries, 1);
    put_text(cache, 1, "again", 10);
    expect(cache, 1, "again");
    cache_close(cache);
}

static void what_was_used_longest_ago_leaves_first(void **state)
{
    struct cache *cache = open_cache("memory:64KiB"); /* parts of 8 KiB */
    char value[1001];
    struct cache_stats stats;

    (void)state;
    memset(value, 'v', 1000);
    value[1000] = '\0';
    for (uint64_t i = 0; i < 7; i++)
        put_text(cache, i, value, 1000);
    expect(cache, 0, value);
    put_text(cache, 7, value, 1000);
    expect(cache, 1, NULL);
    expect(cache, 0, value);
    expect(cache, 2, value);
    put_text(cache, 8, value, 1000);
    expect(cache, 3, NULL);
    expect(cache, 2, value);
    cache_stats(cache, &stats);
    assert_int_equal(stats.evictions, 2);
    cache_close(cache);
}

static void the_room_is_kept_and_large_values_are_not(void **state)
{
    struct cache *cache = open_cache("memory:1048576");
    static char value[KIB(64) + 1];
    struct buffer out = {0};
    struct cache_stats stats;

    (void)state;
    memset(value, 'v', sizeof(value));
    cache_put(cache, key_of(1), value, KIB(64) + 1, 1000);
    assert_false(cache_get(cache, key_of(1), &out));
    cache_put(cache, key_of(1), value, KIB(64), 1000);
    assert_true(cache_get(cache, key_of(1), &out));
    assert_int_equal(out.len, KIB(64));
    for (uint64_t i = 0; i < 50000; i++) {
        struct hash128 key = hash_xxh128(&i, sizeof(i));

        cache_put(cache, key, value, (size_t)(i * 37 % 700), 1000);
        if (i % 1000 == 0) {
            cache_stats(cache, &stats);
            assert_true(stats.bytes <= MIB(1));
        }
    }
    cache_stats(cache, &stats);
    assert_true(stats.bytes <= MIB(1) && stats.bytes > KIB(900));
    assert_true(stats.evictions > 40000);
    assert_int_equal(stats.entries + stats.evictions, 50001);
    buffer_free(&out);
    cache_close(cache);
}

#define USES 20000

struct user {
    struct cache *cache;
    uint64_t seed;
    unsigned wrong;
};

/* Every value says its own key. */
static void use(void *argument)
{
    struct user *user = argument;
    struct buffer out = {0};

    for (uint64_t i = 0; i < USES; i++) {
        /* A few are asked for often enough to stay, whoever runs when. */
        uint64_t number = (user->seed + i * 7919) % (i % 2 == 0 ? 600 : 16), value[32];
        struct hash128 key = hash_xxh128(&number, sizeof(number));

        for (size_t j = 0; j < 32; j++)
            value[j] = number;
        buffer_reset(&out);
        if (!cache_get(user->cache, key, &out))
            cache_put(user->cache, key, value, 8 + number % 31 * 8, 1000);
        else if (out.len != 8 + number % 31 * 8 || memcmp(out.data, value, out.len) != 0)
            user->wrong++;
    }
    buffer_free(&out);
}

static void threads_get_whole_values_of_the_right_key(void **state)
{
    struct cache *cache =
        open_cache(strncmp(contract_url, "redis", 5) == 0 ? contract_url : "memory:64KiB");
    struct env_thread *threads[4];
    struct user users[4];
    struct cache_stats stats;
    struct err err;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        users[i] = (struct user){.cache = cache, .seed = i * 131};
        assert_int_equal(env_thread_start(env_real(), &threads[i], "user", use, &users[i], &err),
                         ERR_OK);
    }
    for (size_t i = 0; i < 4; i++) {
        env_thread_join(threads[i]);
        assert_int_equal(users[i].wrong, 0);
    }
    cache_stats(cache, &stats);
    assert_int_equal(stats.hits + stats.misses, 4 * USES);
    assert_true(stats.hits > 0);
    cache_close(cache);
}

static void none_holds_nothing(void **state)
{
    struct cache *cache = open_cache("none:");
    struct cache_stats stats;

    (void)state;
    put_text(cache, 1, "one", 1000);
    expect(cache, 1, NULL);
    cache_stats(cache, &stats);
    assert_int_equal(stats.entries + stats.bytes + stats.hits, 0);
    cache_close(cache);
    cache_close(NULL);
}

static void urls_are_checked_whole(void **state)
{
    static const char *const bad[] = {"",
                                      "memory",
                                      "memory:",
                                      "memory:64KiBx",
                                      "memory:65535",
                                      "memory:-1MiB",
                                      "memory: 64MiB",
                                      "memory:64mib",
                                      "memory:99999999999999999999",
                                      "memory:18446744073709551615GiB",
                                      "memoryx:64MiB",
                                      "redis:",
                                      "redis://",
                                      "redis://host",
                                      "redis://host:0",
                                      "redis://host:65536",
                                      "redis://host:1/x",
                                      "redis://user@host:1",
                                      "redis://:1",
                                      "redis:host:1",
                                      "mem:64MiB",
                                      "none",
                                      "none:x",
                                      "nonex:"};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct cache *cache = (struct cache *)&fake;
        struct err err = {0};

        assert_int_equal(cache_open(&cache, bad[i], &fake, &err), ERR_CONFIG);
        assert_null(cache);
    }
    cache_close(open_cache("memory:65536"));
    cache_close(open_cache("memory:64KiB"));
    cache_close(open_cache("memory:2GiB"));
}

/* Every back end.  Ten milliseconds are for the clock of the test, or the server's. */
static void a_value_is_gone_when_its_time_is_over_anywhere(void **state)
{
    struct cache *cache = open_cache(contract_url);
    uint64_t end = env_boot_ns(env_real()) + 20 * NS_PER_S;
    struct buffer out = {0};

    (void)state;
    put_text(cache, 77, "short", 10);
    put_text(cache, 78, "never", 0);
    expect(cache, 78, NULL);
    while (cache_get(cache, key_of(77), &out)) {
        assert_true(env_boot_ns(env_real()) < end);
        fake_now_ns += NS_PER_MS;
    }
    buffer_free(&out);
    cache_close(cache);
}

static void large_values_come_back_or_are_missed(void **state)
{
    struct cache *cache = open_cache(contract_url);
    char *value = malloc(MIB(2));
    struct buffer out = {0};

    (void)state;
    assert_non_null(value);
    for (size_t i = 0; i < MIB(2); i++)
        value[i] = (char)(i * 31 + i / 256);
    for (size_t len = 0; len <= MIB(2); len = len * 2 + 1) {
        uint64_t end = env_boot_ns(env_real()) + 20 * NS_PER_S;
        bool hit;

        do {
            buffer_reset(&out);
            cache_put(cache, key_of(1000 + len), value, len, 10000);
            hit = cache_get(cache, key_of(1000 + len), &out);
        } while (!hit && len < KIB(60) && may_miss() && env_boot_ns(env_real()) < end);
        if (hit) {
            assert_int_equal(out.len, len);
            assert_true(len == 0 || memcmp(out.data, value, len) == 0);
        } else {
            assert_true(len >= KIB(60));
        }
    }
    free(value);
    buffer_free(&out);
    cache_close(cache);
}

static int run_contract(const char *name, const char *url)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_comes_back_until_it_is_replaced),
        cmocka_unit_test(a_value_is_gone_when_its_time_is_over_anywhere),
        cmocka_unit_test(large_values_come_back_or_are_missed),
        cmocka_unit_test(threads_get_whole_values_of_the_right_key),
    };

    contract_url = url;
    return _cmocka_run_group_tests(name, tests, ARRAY_COUNT(tests), NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_is_gone_when_its_time_is_over),
        cmocka_unit_test(what_was_used_longest_ago_leaves_first),
        cmocka_unit_test(the_room_is_kept_and_large_values_are_not),
        cmocka_unit_test(none_holds_nothing),
        cmocka_unit_test(urls_are_checked_whole),
    };
    const char *redis = getenv("VICINAL_TEST_REDIS");

    if (redis == NULL) {
        fprintf(stderr, "VICINAL_TEST_REDIS names no server: run by tests/run_programs.py\n");
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL) + run_contract("memory", "memory:1MiB") +
           run_contract("redis", redis);
}
