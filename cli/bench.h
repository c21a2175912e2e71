/* vicinal bench: what is sent, and what came of it. */
#ifndef VICINAL_CLI_BENCH_H
#define VICINAL_CLI_BENCH_H

#include "cli/cli.h"

struct bench_requests {
    struct buffer *items; /* whole HTTP requests, one a query */
    size_t count;
};

/* Of one thread. */
struct bench_lap {
    uint32_t *latencies_us10; /* tenths of a microsecond, of the measured time only */
    size_t count, room;
    uint64_t errors;
    char error[ERR_MESSAGE_BYTES]; /* the first */
};

struct bench_run {
    const char *base;
    const struct bench_requests *requests;
    struct buffer *first_replies; /* body of the first answer to each query; query i belongs to
                                   * thread i % threads */
    uint32_t threads;
    uint64_t warm_until_ns, until_ns; /* boot time; filled by bench_measure */
    uint64_t warm_ms, seconds;
};

struct bench_result {
    uint64_t requests, errors;
    double seconds, qps, p50_ms, p99_ms, mean_ms, recall;
    double client_us; /* CPU of this process per request */
    uint64_t judged;  /* queries that the recall is over; 0: none */
    char error[ERR_MESSAGE_BYTES];
};

/* Closed loop: each thread sends its queries over one connection, one after the other, again and
 * again.  Every query is sent once even when the time is over before (so that the recall is over
 * all of them), unless errors come instead.  Errors: ERR_NO_MEMORY, ERR_CONFIG. */
MUST_CHECK enum err_code bench_measure(struct bench_run *run, struct bench_result *result,
                                       struct err *err);

/* The ids of an answer's matches, in order, at most max, hashed; how many. */
size_t bench_ids(const struct buffer *body, uint64_t *out, size_t max);
uint64_t bench_hash_id(const char *id, size_t len);

#endif
