/* The rule of the result cache, as a table: when may what was computed at E answer a read, given
 * that a replica at K tells of the last change; and entries in a real cache. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/router/search.h"

#define REGION 7

/* One partition, one row.  demand 0: none. */
static const struct {
    const char *what;
    uint64_t computed, known, last_change, demand;
    uint64_t staleness_ms, max_staleness_ms; /* 0 of the latter: no demand */
    bool heard, fresh, serves;
} rows[] = {
    {"nothing has happened since", 50, 50, 40, 0, 5, 0, true, false, true},
    {"others wrote, this collection did not change", 50, 90, 50, 0, 5, 0, true, false, true},
    {"changed just behind E", 50, 90, 51, 0, 5, 0, true, false, false},
    {"changed just before E", 50, 90, 49, 0, 5, 0, true, false, true},
    {"E is newer than the report", 50, 30, 29, 0, 5, 0, true, false, true},
    {"E is at the report, which ends with a change", 50, 50, 50, 0, 5, 0, true, false, true},
    {"the replica does not know the collection", 50, 90, UINT64_MAX, 0, 5, 0, true, false, false},
    {"it does not, but E is newer", 50, 40, UINT64_MAX, 0, 5, 0, true, false, true},
    {"nothing was heard", 50, 50, 40, 0, 5, 0, false, false, false},
    {"the demand is below E", 50, 90, 40, 45, 5, 0, true, false, true},
    {"the demand is between E and K", 50, 90, 40, 90, 5, 0, true, false, true},
    {"the demand is beyond K", 50, 90, 40, 91, 5, 0, true, false, false},
    {"the demand is between K and E", 50, 30, 20, 50, 5, 0, true, false, true},
    {"the demand is beyond both", 50, 30, 20, 51, 5, 0, true, false, false},
    {"the report is fresh enough", 50, 50, 40, 0, 5, 5, true, false, true},
    {"the report is too stale", 50, 50, 40, 0, 6, 5, true, false, false},
    {"a fresh read goes past", 50, 50, 40, 0, 5, 0, true, true, false},
};

static struct cached_now *make_now(uint32_t partitions)
{
    struct cached_now *now = calloc(1, sizeof(*now));

    assert_non_null(now);
    now->region = REGION;
    now->partitions = partitions;
    now->map_version = 3;
    return now;
}

static void an_entry_serves_exactly_when_the_rule_says_so(void **state)
{
    struct cached_now *now = make_now(1);

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct token computed = {0}, seen = {0};
        struct consistency consistency;
        uint64_t staleness_ns = 0, higher;
        struct err err = {0};
        bool serves;

        consistency_init(&consistency);
        now->known[0] = (struct cluster_known){
            .position = rows[i].known,
            .data = rows[i].known,
            .last_change = rows[i].last_change,
            .staleness_ns = rows[i].staleness_ms * NS_PER_MS,
            .heard = rows[i].heard,
        };
        consistency.fresh = rows[i].fresh;
        if (rows[i].max_staleness_ms > 0)
            consistency.max_staleness_ns = rows[i].max_staleness_ms * NS_PER_MS;
        assert_int_equal(token_raise(&computed, REGION, 0, rows[i].computed, &err), ERR_OK);
        if (rows[i].demand > 0)
            assert_int_equal(token_raise(&consistency.demands, REGION, 0, rows[i].demand, &err),
                             ERR_OK);
        serves = cached_serves(now, &computed, &consistency, &staleness_ns, &seen);
        if (serves != rows[i].serves)
            print_error("%s\n", rows[i].what);
        assert_true(serves == rows[i].serves);
        higher = rows[i].computed > rows[i].known ? rows[i].computed : rows[i].known;
        if (serves) {
            assert_true(staleness_ns == rows[i].staleness_ms * NS_PER_MS);
            assert_true(token_position(&seen, REGION, 0) == higher);
        }
        token_free(&computed);
        token_free(&seen);
        consistency_free(&consistency);
    }
    free(now);
}

static void every_partition_has_to_hold(void **state)
{
    struct cached_now *now = make_now(3);
    struct token computed = {0};
    struct consistency consistency;
    struct err err = {0};

    (void)state;
    consistency_init(&consistency);
    for (uint32_t p = 0; p < 3; p++) {
        now->known[p] = (struct cluster_known){
            .position = 20 + p, .last_change = 10, .heard = true, .staleness_ns = p * NS_PER_MS};
        assert_int_equal(token_raise(&computed, REGION, p, 15, &err), ERR_OK);
    }
    for (int round = 0; round < 5; round++) {
        struct token seen = {0};
        uint64_t staleness_ns = 0;

        now->known[1].last_change = round == 1 ? 16 : 10;
        now->known[2].heard = round != 2;
        now->known[0].staleness_ns = round == 3 ? NEVER_NS : 0;
        now->region = round == 4 ? REGION + 1 : REGION;
        assert_true(cached_serves(now, &computed, &consistency, &staleness_ns, &seen) ==
                    (round == 0));
        if (round == 0)
            assert_true(staleness_ns == 2 * NS_PER_MS);
        token_free(&seen);
    }
    token_free(&computed);
    consistency_free(&consistency);
    free(now);
}

static void a_demand_of_another_region_needs_it_to_have_been_seen(void **state)
{
    struct cached_now *now = make_now(1);
    struct token computed = {0}, seen = {0};
    struct consistency consistency;
    uint64_t staleness_ns = 0;
    struct err err = {0};

    (void)state;
    consistency_init(&consistency);
    now->known[0] = (struct cluster_known){.position = 20, .last_change = 10, .heard = true};
    assert_int_equal(token_raise(&computed, REGION, 0, 15, &err), ERR_OK);
    assert_int_equal(token_raise(&consistency.demands, 99, 0, 4, &err), ERR_OK);
    assert_false(cached_serves(now, &computed, &consistency, &staleness_ns, &seen));
    token_free(&seen);
    assert_int_equal(token_raise(&computed, 99, 0, 4, &err), ERR_OK);
    assert_true(cached_serves(now, &computed, &consistency, &staleness_ns, &seen));
    assert_true(token_position(&seen, 99, 0) == 4);
    token_free(&seen);
    token_free(&computed);
    consistency_free(&consistency);
    free(now);
}

static bool same_key(const struct search_request *a, const struct search_request *b,
                     const struct cached_now *now)
{
    struct collection collection = {.tenant = "default", .name = "docs"};
    struct hash128 left = cached_key(now, &collection, a), right = cached_key(now, &collection, b);

    return left.low == right.low && left.high == right.high;
}

static void keys_differ_in_whatever_changes_the_answer(void **state)
{
    static const float one[] = {1, 2}, other[] = {1, 3};
    struct search_request base = {.kind = QUERY_VECTOR, .vector = one, .dim = 2, .top_k = 10};
    struct cached_now *now = make_now(1);
    struct search_request changed[] = {base, base, base, base, base, base, base, base, base};

    (void)state;
    assert_true(same_key(&base, &base, now));
    changed[0].vector = other;
    changed[1].top_k = 11;
    changed[8].recall = 0.9;
    changed[2].offset = 1;
    changed[3].filter = (struct filter_text){.data = "{\"a\":1}", .len = 7};
    changed[4].include = INCLUDE_VECTOR;
    changed[5].has_threshold = true;
    changed[6].mmr.wanted = true;
    changed[7].exact = true;
    for (size_t i = 0; i < ARRAY_COUNT(changed); i++)
        assert_false(same_key(&base, &changed[i], now));
    changed[0] = base;
    changed[0].consistency.timeout_ms = 7;
    changed[0].explain = true;
    assert_true(same_key(&base, &changed[0], now));
    free(now);
}

static void an_entry_comes_back_out_of_the_cache(void **state)
{
    static const char matches[] = "[{\"id\":\"a\"}]";
    struct hash128 key = {.low = 1, .high = 2};
    struct cached_now *now = make_now(1);
    struct cached_answer answer = {0};
    struct consistency consistency;
    struct token computed = {0};
    struct cache *cache;
    struct err err = {0};

    (void)state;
    consistency_init(&consistency);
    now->known[0] = (struct cluster_known){.position = 20, .last_change = 10, .heard = true};
    assert_int_equal(cache_open(&cache, "memory:1MiB", env_real(), &err), ERR_OK);
    assert_false(cached_get(cache, key, now, &consistency, &answer));
    cached_answer_free(&answer);
    assert_int_equal(token_raise(&computed, REGION, 0, 15, &err), ERR_OK);
    cached_put(cache, key, &computed, matches, sizeof(matches) - 1);
    assert_true(cached_get(cache, key, now, &consistency, &answer));
    assert_int_equal(answer.matches_len, sizeof(matches) - 1);
    assert_memory_equal(answer.matches, matches, sizeof(matches) - 1);
    cached_answer_free(&answer);
    now->known[0].last_change = 16;
    assert_false(cached_get(cache, key, now, &consistency, &answer));
    cached_answer_free(&answer);
    token_free(&computed);
    consistency_free(&consistency);
    cache_close(cache);
    free(now);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_serves_exactly_when_the_rule_says_so),
        cmocka_unit_test(every_partition_has_to_hold),
        cmocka_unit_test(a_demand_of_another_region_needs_it_to_have_been_seen),
        cmocka_unit_test(keys_differ_in_whatever_changes_the_answer),
        cmocka_unit_test(an_entry_comes_back_out_of_the_cache),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
