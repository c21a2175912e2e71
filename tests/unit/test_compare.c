/* Replicas must be equal at equal positions: what is compared, what is said where they differ, and
 * that it is seen and told by itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cluster/compare.h"
#include "common/base/log.h"
#include "tests/lib/fake_shards.h"

#define PATIENCE_NS (20 * NS_PER_S)

#define A "0000000000000000000000000000000a"
#define B "0000000000000000000000000000000b"
#define C "0000000000000000000000000000000c"

static struct report *parse(const char *partitions)
{
    struct report *report = NULL;
    struct buffer text = {0};
    struct err err = {0};
    bool ready;

    buffer_append_format(&text, "{\"state\":\"ready\",\"region\":7,\"partitions\":[%s]}",
                         partitions);
    assert_int_equal(report_parse(&report, text.data, text.len, 1, &ready, &err), ERR_OK);
    buffer_free(&text);
    return report;
}

static enum verdict compare(const char *one, const char *other, uint64_t *position)
{
    struct report *left = parse(one), *right = parse(other);
    enum verdict verdict = compare_reports(left, right, 3, position);
    uint64_t again;

    assert_int_equal(compare_reports(right, left, 3, &again), verdict);
    assert_int_equal(again, *position);
    report_put(left);
    report_put(right);
    return verdict;
}

static void only_equal_positions_are_compared(void **state)
{
    uint64_t position;

    (void)state;
    assert_int_equal(compare("{\"partition\":3,\"position\":5,\"digest\":\"" A "\"}",
                             "{\"partition\":3,\"position\":6,\"digest\":\"" B "\"}", &position),
                     VERDICT_UNKNOWN);
    assert_int_equal(compare("{\"partition\":3,\"position\":5,\"digest\":\"" A "\"}",
                             "{\"partition\":3,\"position\":5,\"digest\":\"" A "\"}", &position),
                     VERDICT_EQUAL);
    assert_int_equal(position, 5);
    assert_int_equal(compare("{\"partition\":3,\"position\":5,\"digest\":\"" A "\"}",
                             "{\"partition\":3,\"position\":5,\"digest\":\"" B "\"}", &position),
                     VERDICT_DIFFERENT);
    assert_int_equal(compare("{\"partition\":2,\"position\":5,\"digest\":\"" A "\"}",
                             "{\"partition\":3,\"position\":5,\"digest\":\"" B "\"}", &position),
                     VERDICT_UNKNOWN);
    /* Nor what cannot be read. */
    assert_int_equal(compare("{\"partition\":3,\"position\":5,\"digest\":\"xy\"}",
                             "{\"partition\":3,\"position\":5,\"digest\":\"" B "\"}", &position),
                     VERDICT_UNKNOWN);
}

/* One is a little behind: they have a mark in common, and the newest one counts. */
static void marks_are_positions_in_common(void **state)
{
    uint64_t position;

    (void)state;
    assert_int_equal(compare("{\"partition\":3,\"position\":2500,\"digest\":\"" A
                             "\",\"marks\":[[2048,\"" B "\"],[1024,\"" A "\"]]}",
                             "{\"partition\":3,\"position\":2300,\"digest\":\"" A
                             "\",\"marks\":[[2048,\"" C "\"],[1024,\"" A "\"]]}",
                             &position),
                     VERDICT_DIFFERENT);
    assert_int_equal(position, 2048);
    assert_int_equal(compare("{\"partition\":3,\"position\":2500,\"digest\":\"" A
                             "\",\"marks\":[[2048,\"" B "\"],[1024,\"" A "\"]]}",
                             "{\"partition\":3,\"position\":1500,\"digest\":\"" C
                             "\",\"marks\":[[1024,\"" A "\"]]}",
                             &position),
                     VERDICT_EQUAL);
    assert_int_equal(position, 1024);
    /* Foreign bytes that are no marks. */
    assert_int_equal(compare("{\"partition\":3,\"position\":1,\"digest\":\"" A
                             "\",\"marks\":[[-5,\"" B "\"],[],7,{}]}",
                             "{\"partition\":3,\"position\":2,\"digest\":\"" A
                             "\",\"marks\":\"none\"}",
                             &position),
                     VERDICT_UNKNOWN);
}

static void add_collection(json_t *answer, const char *incarnation, const char *kept,
                           const char *third)
{
    json_t *ranges = json_array();

    for (size_t i = 0; i < 16; i++)
        json_array_append_new(ranges, json_string(i == 3 || i == 10 ? third : A));
    json_array_append_new(json_object_get(answer, "collections"),
                          json_pack("{s:s, s:s, s:s, s:s, s:o}", "incarnation", incarnation, "name",
                                    incarnation, "kept", kept, "found", third, "ranges", ranges));
}

static void the_ranges_that_differ_are_named(void **state)
{
    json_t *one = json_pack("{s:[]}", "collections"), *other = json_pack("{s:[]}", "collections");
    char text[200];

    (void)state;
    add_collection(one, "same", A, A);
    add_collection(other, "same", A, A);
    compare_name_ranges(one, other, text, sizeof(text));
    assert_non_null(strstr(text, "the ids are equal"));
    add_collection(one, "docs", B, B);
    add_collection(other, "docs", B, C);
    add_collection(other, "more", B, B);
    compare_name_ranges(one, other, text, sizeof(text));
    assert_string_equal(text,
                        "collection docs: ids with hashes 3…, a…; collection more: ids with "
                        "hashes 0…, 1…, 2…, 3…, 4…, 5…, 6…, 7…, 8…, 9…, a…, b…, c…, d…, e…, f…");
    /* One alone: what it found against what it keeps. */
    compare_name_ranges(other, NULL, text, sizeof(text));
    assert_string_equal(text, "collection docs");
    json_decref(one);
    json_decref(other);
}

/* --- by itself ------------------------------------------------------------------------------- */

/* Until the metrics have this line. */
static void wait_line(struct metrics *metrics, const char *line)
{
    uint64_t until = env_boot_ns(env_real()) + PATIENCE_NS;
    bool found = false;

    while (!found) {
        struct buffer text = {0};

        assert_true(env_boot_ns(env_real()) < until);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
        metrics_write(metrics, &text);
        buffer_append_byte(&text, 0);
        found = strstr((const char *)text.data, line) != NULL;
        buffer_free(&text);
    }
}

/* A few rounds have passed: each fifth scrubs. */
static void wait_rounds(struct metrics *metrics)
{
    struct metric *scrubs = metrics_counter(metrics, "replica_scrubs_total", "", "");
    uint64_t until = env_boot_ns(env_real()) + PATIENCE_NS;
    uint64_t before = metric_count(scrubs);

    while (metric_count(scrubs) < before + 3) {
        assert_true(env_boot_ns(env_real()) < until);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
    }
}

static void put_deployment(struct meta *meta, struct fake *fakes)
{
    static const char deployment[] = "{\"partitions\":8,\"region\":7}";
    struct meta_put put = {.key = "deployment",
                           .value = deployment,
                           .value_len = strlen(deployment),
                           .expected = META_ANY};
    struct err err = {0};

    assert_int_equal(meta_put(meta, &put, NULL, &err), ERR_OK);
    assert_int_equal(cluster_place(meta, 1, 2, &err), ERR_OK);
    for (uint32_t i = 0; i < 2; i++) {
        char name[32];

        assert_true(fake_open(&fakes[i], 0, i));
        cluster_replica_name(name, 0, i);
        assert_int_equal(cluster_register(meta, env_real(), "shard", name, fakes[i].url, &err),
                         ERR_OK);
    }
}

static void a_divergence_is_seen_and_its_end_too(void **state)
{
    struct metrics *metrics = metrics_new();
    struct cluster_options options = {
        .env = env_real(), .metrics = metrics, .status_every_ms = 5, .compare_every_ms = 5};
    struct cluster *cluster = NULL;
    struct fake fakes[2];
    struct err err = {0};

    (void)state;
    log_start("test", LOG_OFF);
    assert_int_equal(meta_open(&options.meta, "memory:", env_real(), &err), ERR_OK);
    put_deployment(options.meta, fakes);
    assert_int_equal(
        http_client_open(&options.client, &(struct http_client_options){.env = env_real()}, &err),
        ERR_OK);
    assert_int_equal(cluster_open(&cluster, &options, &err), ERR_OK);
    wait_line(metrics, "\nreplica_divergent_partitions{shard=\"0\"} 0\n");
    /* They differ, but are not at one position. */
    atomic_store(&fakes[1].position, 11);
    wait_rounds(metrics);
    atomic_store(&fakes[1].digest, 9);
    atomic_store(&fakes[1].found, 9);
    wait_rounds(metrics);
    wait_line(metrics, "\nreplica_divergent_partitions{shard=\"0\"} 0\n");
    atomic_store(&fakes[0].position, 11);
    wait_line(metrics, "\nreplica_divergent_partitions{shard=\"0\"} 8\n");
    atomic_store(&fakes[0].digest, 9);
    atomic_store(&fakes[0].found, 9);
    wait_line(metrics, "\nreplica_divergent_partitions{shard=\"0\"} 0\n");
    /* A store whose ids are not those of its sums, whatever the others say. */
    atomic_store(&fakes[1].found, 10);
    wait_line(metrics, "\nreplica_divergent_partitions{shard=\"0\"} 8\n");
    atomic_store(&fakes[1].found, 9);
    wait_line(metrics, "\nreplica_divergent_partitions{shard=\"0\"} 0\n");
    cluster_stop(cluster);
    cluster_close(cluster);
    http_client_close(options.client);
    fake_close(&fakes[0]);
    fake_close(&fakes[1]);
    meta_close(options.meta);
    metrics_free(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_equal_positions_are_compared),
        cmocka_unit_test(marks_are_positions_in_common),
        cmocka_unit_test(the_ranges_that_differ_are_named),
        cmocka_unit_test(a_divergence_is_seen_and_its_end_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
