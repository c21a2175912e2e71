/* Metrics: see metrics.h.
 *
 * Registration takes a lock and looks the metric up in a hash table of (name, labels); a handle
 * never moves and lives as long as the registry, so updates are relaxed atomics without a lock.
 * Out of memory or beyond METRICS_MAX the caller gets a metric of the right kind that is counted
 * but never shown: a service does not fail for want of a number about it. */
#include "common/observe/metrics.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METRICS_MAX     10000u
#define HASH_SLOTS      2048u
#define LATENCY_BUCKETS 22u /* 50 us * 2^21 = 104.9 s */
#define BUCKET_FIRST_NS 50000ull

enum metric_kind { KIND_COUNTER, KIND_GAUGE, KIND_LATENCY, KIND_COUNT };

struct metric {
    enum metric_kind kind;
    struct metric *chain; /* next in the hash slot */
    const char *name;
    const char *labels;
    const char *help;
    _Atomic uint64_t value;    /* count; bits of a double for a gauge; sum in ns for a latency */
    _Atomic uint64_t *buckets; /* LATENCY_BUCKETS + 1, of latencies; not cumulated */
};

struct metrics {
    pthread_mutex_t lock;
    /* guarded by lock */
    struct metric *slots[HASH_SLOTS];
    size_t count;
    /* never shown */
    struct metric hidden[KIND_COUNT];
    _Atomic uint64_t hidden_buckets[LATENCY_BUCKETS + 1];
};

struct metrics *metrics_new(void)
{
    struct metrics *metrics = calloc(1, sizeof(*metrics));

    if (metrics == NULL)
        return NULL;
    pthread_mutex_init(&metrics->lock, NULL);
    for (size_t i = 0; i < KIND_COUNT; i++)
        metrics->hidden[i].kind = (enum metric_kind)i;
    metrics->hidden[KIND_LATENCY].buckets = metrics->hidden_buckets;
    return metrics;
}

void metrics_free(struct metrics *metrics)
{
    if (metrics == NULL)
        return;
    for (size_t i = 0; i < HASH_SLOTS; i++) {
        struct metric *metric = metrics->slots[i];

        while (metric != NULL) {
            struct metric *next = metric->chain;

            free(metric);
            metric = next;
        }
    }
    pthread_mutex_destroy(&metrics->lock);
    free(metrics);
}

/* FNV-1a over both texts: few and trusted names, so its speed and simplicity suffice. */
static uint32_t slot_of(const char *name, const char *labels)
{
    uint32_t hash = 2166136261u;

    for (; *name != '\0'; name++)
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    hash *= 16777619u;
    for (; *labels != '\0'; labels++)
        hash = (hash ^ (uint8_t)*labels) * 16777619u;
    return hash % HASH_SLOTS;
}

/* One allocation: the struct, its buckets, then the three texts. */
static struct metric *metric_new(enum metric_kind kind, const char *name, const char *labels,
                                 const char *help)
{
    size_t name_size = strlen(name) + 1;
    size_t labels_size = strlen(labels) + 1;
    size_t help_size = strlen(help) + 1;
    size_t bucket_bytes = kind == KIND_LATENCY ? (LATENCY_BUCKETS + 1) * sizeof(uint64_t) : 0;
    struct metric *metric =
        calloc(1, sizeof(*metric) + bucket_bytes + name_size + labels_size + help_size);
    char *text;

    if (metric == NULL)
        return NULL;
    text = (char *)(metric + 1) + bucket_bytes;
    metric->kind = kind;
    if (kind == KIND_LATENCY)
        metric->buckets = (_Atomic uint64_t *)(void *)(metric + 1);
    metric->name = memcpy(text, name, name_size);
    metric->labels = memcpy(text + name_size, labels, labels_size);
    metric->help = memcpy(text + name_size + labels_size, help, help_size);
    return metric;
}

static struct metric *obtain(struct metrics *metrics, enum metric_kind kind, const char *name,
                             const char *labels, const char *help)
{
    uint32_t slot = slot_of(name, labels);
    struct metric *metric;

    pthread_mutex_lock(&metrics->lock);
    for (metric = metrics->slots[slot]; metric != NULL; metric = metric->chain)
        if (strcmp(metric->name, name) == 0 && strcmp(metric->labels, labels) == 0)
            break;
    if (metric == NULL && metrics->count < METRICS_MAX) {
        metric = metric_new(kind, name, labels, help);
        if (metric != NULL) {
            metric->chain = metrics->slots[slot];
            metrics->slots[slot] = metric;
            metrics->count++;
        }
    }
    pthread_mutex_unlock(&metrics->lock);
    if (metric == NULL)
        return &metrics->hidden[kind];
    assert(metric->kind == kind);
    return metric;
}

struct metric *metrics_counter(struct metrics *metrics, const char *name, const char *labels,
                               const char *help)
{
    return obtain(metrics, KIND_COUNTER, name, labels, help);
}

struct metric *metrics_gauge(struct metrics *metrics, const char *name, const char *labels,
                             const char *help)
{
    return obtain(metrics, KIND_GAUGE, name, labels, help);
}

struct metric *metrics_latency(struct metrics *metrics, const char *name, const char *labels,
                               const char *help)
{
    return obtain(metrics, KIND_LATENCY, name, labels, help);
}

void metric_add(struct metric *metric, uint64_t count)
{
    assert(metric->kind == KIND_COUNTER);
    atomic_fetch_add_explicit(&metric->value, count, memory_order_relaxed);
}

void metric_set(struct metric *metric, double value)
{
    uint64_t bits;

    assert(metric->kind == KIND_GAUGE);
    memcpy(&bits, &value, sizeof(bits));
    atomic_store_explicit(&metric->value, bits, memory_order_relaxed);
}

void metric_observe_ns(struct metric *metric, uint64_t ns)
{
    size_t bucket = 0;

    assert(metric->kind == KIND_LATENCY);
    for (uint64_t bound = BUCKET_FIRST_NS; ns > bound && bucket < LATENCY_BUCKETS; bound *= 2)
        bucket++;
    atomic_fetch_add_explicit(&metric->buckets[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&metric->value, ns, memory_order_relaxed);
}

uint64_t metric_count(const struct metric *metric)
{
    assert(metric->kind == KIND_COUNTER);
    return atomic_load_explicit(&metric->value, memory_order_relaxed);
}

static int compare_metrics(const void *a, const void *b)
{
    const struct metric *one = *(struct metric *const *)a;
    const struct metric *other = *(struct metric *const *)b;
    int order = strcmp(one->name, other->name);

    return order != 0 ? order : strcmp(one->labels, other->labels);
}

static void write_latency(const struct metric *metric, struct buffer *out)
{
    const char *comma = metric->labels[0] == '\0' ? "" : ",";
    uint64_t total = 0;

    for (size_t i = 0; i < LATENCY_BUCKETS; i++) {
        total += atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
        buffer_append_format(out, "%s_bucket{%s%sle=\"%.9g\"} %llu\n", metric->name, metric->labels,
                             comma, (double)(BUCKET_FIRST_NS << i) / 1e9,
                             (unsigned long long)total);
    }
    total += atomic_load_explicit(&metric->buckets[LATENCY_BUCKETS], memory_order_relaxed);
    buffer_append_format(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", metric->name, metric->labels,
                         comma, (unsigned long long)total);
    buffer_append_format(out, "%s_sum%s%s%s %.9g\n", metric->name, *comma ? "{" : "",
                         metric->labels, *comma ? "}" : "",
                         (double)atomic_load_explicit(&metric->value, memory_order_relaxed) / 1e9);
    buffer_append_format(out, "%s_count%s%s%s %llu\n", metric->name, *comma ? "{" : "",
                         metric->labels, *comma ? "}" : "", (unsigned long long)total);
}

static void write_scalar(const struct metric *metric, struct buffer *out)
{
    uint64_t bits = atomic_load_explicit(&metric->value, memory_order_relaxed);
    const char *open = metric->labels[0] == '\0' ? "" : "{";
    const char *close = metric->labels[0] == '\0' ? "" : "}";
    double value;

    if (metric->kind == KIND_COUNTER) {
        buffer_append_format(out, "%s%s%s%s %llu\n", metric->name, open, metric->labels, close,
                             (unsigned long long)bits);
        return;
    }
    memcpy(&value, &bits, sizeof(value));
    buffer_append_format(out, "%s%s%s%s %.17g\n", metric->name, open, metric->labels, close, value);
}

void metrics_write(struct metrics *metrics, struct buffer *out)
{
    static const char *const types[KIND_COUNT] = {"counter", "gauge", "histogram"};
    struct metric **sorted;
    size_t count = 0;

    pthread_mutex_lock(&metrics->lock);
    sorted = calloc(metrics->count + 1, sizeof(struct metric *));
    for (size_t i = 0; sorted != NULL && i < HASH_SLOTS; i++)
        for (struct metric *m = metrics->slots[i]; m != NULL; m = m->chain)
            sorted[count++] = m;
    pthread_mutex_unlock(&metrics->lock);
    if (sorted == NULL) {
        out->failed = true;
        return;
    }
    /* Metrics are never removed: the snapshot of pointers stays good without the lock. */
    qsort(sorted, count, sizeof(struct metric *), compare_metrics);
    for (size_t i = 0; i < count; i++) {
        const struct metric *metric = sorted[i];

        if (i == 0 || strcmp(sorted[i - 1]->name, metric->name) != 0) {
            buffer_append_format(out, "# HELP %s %s\n", metric->name, metric->help);
            buffer_append_format(out, "# TYPE %s %s\n", metric->name, types[metric->kind]);
        }
        if (metric->kind == KIND_LATENCY)
            write_latency(metric, out);
        else
            write_scalar(metric, out);
    }
    free(sorted);
}

void metrics_label(char *out, size_t size, const char *value)
{
    size_t used = 0;

    assert(size > 0);
    for (; *value != '\0'; value++) {
        bool escape = *value == '\\' || *value == '"' || *value == '\n';

        if (size - used < (escape ? 3u : 2u))
            break;
        if (escape)
            out[used++] = '\\';
        out[used++] = *value == '\n' ? 'n' : *value;
    }
    out[used] = '\0';
}
