/* Numbers about a running service, in Prometheus' text format (version 0.0.4).
 *
 * A metric is registered once, with its labels, and used through its handle: no look-up on a hot
 * path.  Registering the same (name, labels) again gives the same handle.  All calls are thread
 * safe; updates are relaxed atomics. */
#ifndef VICINAL_OBSERVE_METRICS_H
#define VICINAL_OBSERVE_METRICS_H

#include <stdint.h>

#include "common/base/buffer.h"

struct metrics;
struct metric;

struct metrics *metrics_new(void); /* NULL: no memory */
void metrics_free(struct metrics *metrics);

/* name: "search_qps_total"; labels: "shard=\"0\",operation=\"search\"" or "".  Never NULL: without
 * memory, or beyond 10,000 metrics, a shared metric that is not shown. */
struct metric *metrics_counter(struct metrics *metrics, const char *name, const char *labels,
                               const char *help);
struct metric *metrics_gauge(struct metrics *metrics, const char *name, const char *labels,
                             const char *help);

/* Buckets double from 50 us to 100 s. */
struct metric *metrics_latency(struct metrics *metrics, const char *name, const char *labels,
                               const char *help);

void metric_add(struct metric *metric, uint64_t count);     /* counters */
void metric_set(struct metric *metric, double value);       /* gauges */
void metric_observe_ns(struct metric *metric, uint64_t ns); /* latencies */
uint64_t metric_count(const struct metric *metric);         /* of a counter; for tests */

/* Append everything, grouped by name, with HELP and TYPE lines. */
void metrics_write(struct metrics *metrics, struct buffer *out);

/* Escape a label's value (\, ", newline) into out, cut to size. */
void metrics_label(char *out, size_t size, const char *value);

#endif
