/* Merging: the nearest of all lists in order, one row per id, the newest; scores and bounds that
 * agree to the last bit; MMR. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/model/hits.h"

static uint64_t state_of_chance = 1;

static uint64_t chance(uint64_t below)
{
    state_of_chance ^= state_of_chance << 13;
    state_of_chance ^= state_of_chance >> 7;
    state_of_chance ^= state_of_chance << 17;
    return (state_of_chance >> 11) % below;
}

static int by_id(const void *a, const void *b)
{
    const struct wire_row *x = a;
    const struct wire_row *y = b;
    size_t len = x->id_len < y->id_len ? x->id_len : y->id_len;
    int order = memcmp(x->id, y->id, len);

    return order != 0 ? order : (x->id_len > y->id_len) - (x->id_len < y->id_len);
}

static int by_distance(const void *a, const void *b)
{
    const struct wire_row *x = a;
    const struct wire_row *y = b;

    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return by_id(a, b);
}

#define ID_COUNT 3000

static char id_texts[ID_COUNT][8];

/* Lists with few different distances and stamps, so that ties and doubles are frequent. */
static void make_lists(struct hit_list *lists, size_t count, size_t rows_max, size_t ids)
{
    for (size_t i = 0; i < count; i++) {
        lists[i].count = chance(rows_max + 1);
        lists[i].rows = calloc(lists[i].count + 1, sizeof(struct wire_row));
        assert_non_null(lists[i].rows);
        for (size_t j = 0; j < lists[i].count; j++) {
            size_t id = chance(ids);

            lists[i].rows[j] = (struct wire_row){.id = id_texts[id],
                                                 .id_len = strlen(id_texts[id]),
                                                 .stamp = {chance(4), 1},
                                                 .distance = (float)chance(50) / 8 - 2};
        }
    }
}

static void free_lists(struct hit_list *lists, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(lists[i].rows);
}

/* The simple way: all rows, newest per id (then nearest), sorted. */
static size_t oracle(const struct hit_list *lists, size_t count, struct wire_row *out,
                     int (*order)(const void *, const void *))
{
    size_t kept = 0;

    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < lists[i].count; j++) {
            const struct wire_row *row = &lists[i].rows[j];
            size_t at = 0;

            while (at < kept && by_id(&out[at], row) != 0)
                at++;
            if (at == kept)
                out[kept++] = *row;
            else if (stamp_compare(row->stamp, out[at].stamp) > 0 ||
                     (stamp_compare(row->stamp, out[at].stamp) == 0 &&
                      row->distance < out[at].distance))
                out[at] = *row;
        }
    }
    if (kept > 0)
        qsort(out, kept, sizeof(*out), order);
    return kept;
}

static void check_merge(size_t list_count, size_t rows_max, size_t ids, bool is_by_id)
{
    struct hit_list lists[SHARDS_MAX];
    struct wire_row *wanted = calloc(list_count * rows_max + 1, sizeof(*wanted));
    struct wire_row *got = calloc(list_count * rows_max + 1, sizeof(*got));
    size_t k = chance(rows_max * 2 + 1);
    size_t wanted_count, got_count;
    struct err err = {0};

    assert_non_null(wanted);
    assert_non_null(got);
    make_lists(lists, list_count, rows_max, ids);
    for (size_t i = 0; i < list_count; i++)
        qsort(lists[i].rows, lists[i].count, sizeof(struct wire_row),
              is_by_id ? by_id : by_distance);
    wanted_count = oracle(lists, list_count, wanted, is_by_id ? by_id : by_distance);
    if (wanted_count > k)
        wanted_count = k;
    if (k > list_count * rows_max)
        k = list_count * rows_max;
    got_count = is_by_id ? hits_merge_by_id(lists, list_count, k, got)
                         : hits_merge(lists, list_count, k, got, &err);
    assert_int_equal(got_count, wanted_count);
    for (size_t i = 0; i < got_count; i++) {
        assert_int_equal(by_id(&got[i], &wanted[i]), 0);
        assert_int_equal(stamp_compare(got[i].stamp, wanted[i].stamp), 0);
        assert_true(got[i].distance == wanted[i].distance);
    }
    free_lists(lists, list_count);
    free(wanted);
    free(got);
}

static void merging_agrees_with_sorting(void **state)
{
    const char *given = getenv("VICINAL_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);

    (void)state;
    print_message("VICINAL_SEED=%llu\n", (unsigned long long)seed);
    state_of_chance = seed * 0x9e3779b97f4a7c15ull + 1;
    for (size_t i = 0; i < ID_COUNT; i++)
        (void)snprintf(id_texts[i], sizeof(id_texts[i]), "%zu", i);
    for (size_t i = 0; i < 4000; i++)
        check_merge(chance(6), 1 + chance(12), 1 + chance(60), i % 2 == 0);
    check_merge(SHARDS_MAX, 20, 500, true);
    check_merge(SHARDS_MAX, 20, 500, false);
    check_merge(3, 900, ID_COUNT, false); /* more rows than the table on the stack takes */
}

static void the_newest_row_counts_with_its_own_distance(void **state)
{
    struct wire_row a[] = {{.id = "x", .id_len = 1, .stamp = {1, 1}, .distance = 0.1f},
                           {.id = "y", .id_len = 1, .stamp = {1, 1}, .distance = 0.2f}};
    struct wire_row b[] = {{.id = "z", .id_len = 1, .stamp = {1, 1}, .distance = 0.3f},
                           {.id = "x", .id_len = 1, .stamp = {2, 1}, .distance = 0.5f}};
    const struct hit_list lists[] = {{a, 2}, {b, 2}};
    struct wire_row out[3];

    (void)state;
    assert_int_equal(hits_merge(lists, 2, 2, out, NULL), 2);
    assert_memory_equal(out[0].id, "y", 1);
    assert_memory_equal(out[1].id, "z", 1);
    assert_int_equal(hits_merge(lists, 2, 3, out, NULL), 3);
    assert_memory_equal(out[2].id, "x", 1);
    assert_true(out[2].distance == 0.5f);
    assert_int_equal(hits_merge(lists, 0, 3, out, NULL), 0);
    assert_int_equal(hits_merge(lists, 2, 0, out, NULL), 0);
}

static void scores_are_what_people_expect(void **state)
{
    (void)state;
    assert_true(hits_score(METRIC_COSINE, 0.25f) == 0.75);
    assert_true(hits_score(METRIC_IP, -3.5f) == 3.5);
    assert_true(hits_score(METRIC_L2, 9.0f) == -3.0);
    assert_true(hits_score(METRIC_L2, -0.0f) == 0.0);
}

/* The bound lets through exactly the distances whose scores reach the threshold. */
static void bounds_are_exact(void **state)
{
    static const double thresholds[] = {0,    1,    -1,    0.5,   0.7,    0.3333333333333, -0.1,
                                        1e-9, 1e30, -1e30, 1e300, -1e300, 0.999999999999,  -2.5};

    (void)state;
    for (enum distance_metric metric = METRIC_COSINE; metric <= METRIC_L2; metric++) {
        for (size_t i = 0; i < ARRAY_COUNT(thresholds); i++) {
            float bound = hits_bound(metric, thresholds[i]);

            if (metric == METRIC_L2 && thresholds[i] > 0) {
                assert_true(bound < 0);
                continue;
            }
            assert_true(hits_score(metric, bound) >= thresholds[i]);
            if (bound < HUGE_VALF)
                assert_true(hits_score(metric, nextafterf(bound, HUGE_VALF)) < thresholds[i]);
        }
    }
}

static void mmr_trades_nearness_for_variety(void **state)
{
    static const float query[2] = {1, 0};
    static const float vectors[4][2] = {{1, 0.1f}, {1, 0.11f}, {0.7f, -0.7f}, {0, 0}};
    struct wire_row rows[4];
    size_t picks[4], count;
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < 4; i++)
        rows[i] = (struct wire_row){.vector = vectors[i], .dim = 2};
    assert_int_equal(hits_mmr(query, rows, 4, 2, 1.0, picks, &count, &err), ERR_OK);
    assert_int_equal(count, 2);
    assert_int_equal(picks[0], 0);
    assert_int_equal(picks[1], 1);
    assert_int_equal(hits_mmr(query, rows, 3, 2, 0.4, picks, &count, &err), ERR_OK);
    assert_int_equal(picks[0], 0);
    assert_int_equal(picks[1], 2);
    assert_int_equal(hits_mmr(query, rows, 4, 9, 0.0, picks, &count, &err), ERR_OK);
    assert_int_equal(count, 4);
    assert_int_equal(hits_mmr(query, rows, 0, 9, 0.0, picks, &count, &err), ERR_OK);
    assert_int_equal(count, 0);
    rows[2].dim = 1;
    assert_int_equal(hits_mmr(query, rows, 4, 2, 0.5, picks, &count, &err), ERR_INVALID_ARGUMENT);
    rows[2].vector = NULL;
    assert_int_equal(hits_mmr(query, rows, 4, 2, 0.5, picks, &count, &err), ERR_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merging_agrees_with_sorting),
        cmocka_unit_test(the_newest_row_counts_with_its_own_distance),
        cmocka_unit_test(scores_are_what_people_expect),
        cmocka_unit_test(bounds_are_exact),
        cmocka_unit_test(mmr_trades_nearness_for_variety),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
