/* Counters, gauges and latencies, and their text form. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/observe/metrics.h"

static char *text_of(struct metrics *metrics, struct buffer *out)
{
    buffer_reset(out);
    metrics_write(metrics, out);
    buffer_append_byte(out, '\0');
    assert_false(out->failed);
    return (char *)out->data;
}

static void the_same_name_and_labels_are_one_metric(void **state)
{
    struct metrics *metrics = metrics_new();
    struct metric *one = metrics_counter(metrics, "a_total", "x=\"1\"", "A.");
    struct metric *same = metrics_counter(metrics, "a_total", "x=\"1\"", "A.");
    struct metric *other = metrics_counter(metrics, "a_total", "x=\"2\"", "A.");

    (void)state;
    assert_ptr_equal(one, same);
    assert_ptr_not_equal(one, other);
    metric_add(one, 2);
    metric_add(same, 3);
    assert_int_equal(metric_count(one), 5);
    assert_int_equal(metric_count(other), 0);
    metrics_free(metrics);
}

static void names_are_grouped_under_one_head(void **state)
{
    struct metrics *metrics = metrics_new();
    struct buffer out = {0};

    (void)state;
    metric_add(metrics_counter(metrics, "b_total", "x=\"2\"", "B."), 7);
    metric_set(metrics_gauge(metrics, "a_now", "", "A."), 0.25);
    metric_add(metrics_counter(metrics, "b_total", "x=\"1\"", "B."), 1);
    assert_string_equal(text_of(metrics, &out), "# HELP a_now A.\n"
                                                "# TYPE a_now gauge\n"
                                                "a_now 0.25\n"
                                                "# HELP b_total B.\n"
                                                "# TYPE b_total counter\n"
                                                "b_total{x=\"1\"} 1\n"
                                                "b_total{x=\"2\"} 7\n");
    buffer_free(&out);
    metrics_free(metrics);
}

static void latencies_fall_into_buckets_up_to_their_bound(void **state)
{
    struct metrics *metrics = metrics_new();
    struct metric *plain = metrics_latency(metrics, "t_seconds", "", "T.");
    struct metric *labelled = metrics_latency(metrics, "t_seconds", "x=\"1\"", "T.");
    struct buffer out = {0};
    const char *text;

    (void)state;
    metric_observe_ns(plain, 0);
    metric_observe_ns(plain, 50000);
    metric_observe_ns(plain, 50001);
    metric_observe_ns(plain, 1000000000000ull); /* beyond the last bucket */
    metric_observe_ns(labelled, 100000000000ull);
    text = text_of(metrics, &out);
    assert_non_null(strstr(text, "# TYPE t_seconds histogram\n"));
    assert_non_null(strstr(text, "t_seconds_bucket{le=\"5e-05\"} 2\n"));
    assert_non_null(strstr(text, "t_seconds_bucket{le=\"0.0001\"} 3\n"));
    assert_non_null(strstr(text, "t_seconds_bucket{le=\"104.8576\"} 3\n"));
    assert_non_null(strstr(text, "t_seconds_bucket{le=\"+Inf\"} 4\n"));
    assert_non_null(strstr(text, "t_seconds_count 4\n"));
    assert_non_null(strstr(text, "t_seconds_sum 1000.0001\n"));
    assert_non_null(strstr(text, "t_seconds_bucket{x=\"1\",le=\"52.4288\"} 0\n"));
    assert_non_null(strstr(text, "t_seconds_bucket{x=\"1\",le=\"104.8576\"} 1\n"));
    assert_non_null(strstr(text, "t_seconds_count{x=\"1\"} 1\n"));
    assert_non_null(strstr(text, "t_seconds_sum{x=\"1\"} 100\n"));
    buffer_free(&out);
    metrics_free(metrics);
}

static void beyond_ten_thousand_metrics_none_is_shown(void **state)
{
    struct metrics *metrics = metrics_new();
    struct buffer out = {0};
    struct metric *last = NULL;
    char labels[32];

    (void)state;
    for (int i = 0; i <= 10000; i++) {
        (void)snprintf(labels, sizeof(labels), "i=\"%d\"", i);
        last = metrics_counter(metrics, "many_total", labels, "Many.");
        metric_add(last, 1);
    }
    assert_ptr_equal(last, metrics_counter(metrics, "more_total", "", "More."));
    metric_observe_ns(metrics_latency(metrics, "more_seconds", "", "More."), 1);
    assert_non_null(strstr(text_of(metrics, &out), "i=\"9999\"} 1\n"));
    assert_null(strstr((char *)out.data, "i=\"10000\""));
    assert_null(strstr((char *)out.data, "more"));
    buffer_free(&out);
    metrics_free(metrics);
}

static void labels_are_escaped_and_cut_whole(void **state)
{
    char out[8];

    (void)state;
    metrics_label(out, sizeof(out), "a\"\\\n");
    assert_string_equal(out, "a\\\"\\\\\\n");
    metrics_label(out, sizeof(out), "abcdefghij");
    assert_string_equal(out, "abcdefg");
    metrics_label(out, sizeof(out), "abcdef\"");
    assert_string_equal(out, "abcdef");
    metrics_label(out, 1, "a");
    assert_string_equal(out, "");
}

static void *count_up(void *argument)
{
    struct metrics *metrics = argument;
    struct buffer out = {0};

    for (int i = 0; i < 2000; i++) {
        metric_add(metrics_counter(metrics, "shared_total", "", "Shared."), 1);
        metric_observe_ns(metrics_latency(metrics, "shared_seconds", "", "Shared."), 1000);
        if (i % 500 == 0)
            (void)text_of(metrics, &out);
    }
    buffer_free(&out);
    return NULL;
}

static void nothing_is_lost_between_threads(void **state)
{
    struct metrics *metrics = metrics_new();
    pthread_t threads[8];

    (void)state;
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_up, metrics), 0);
    for (size_t i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(metric_count(metrics_counter(metrics, "shared_total", "", "")), 16000);
    metrics_free(metrics);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_name_and_labels_are_one_metric),
        cmocka_unit_test(names_are_grouped_under_one_head),
        cmocka_unit_test(latencies_fall_into_buckets_up_to_their_bound),
        cmocka_unit_test(beyond_ten_thousand_metrics_none_is_shown),
        cmocka_unit_test(labels_are_escaped_and_cut_whole),
        cmocka_unit_test(nothing_is_lost_between_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
