/* What log-bench measures: ways of making a group of records durable. */
#ifndef VICINAL_BENCH_LOG_BENCH_H
#define VICINAL_BENCH_LOG_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/record.h"

#define LOG_BENCH_PARTITIONS 64u

struct log_bench_options {
    const char *wal;
    const char *linger_ms; /* of the bare producer; ours has it in its URL */
    size_t group;          /* records of a commit */
    size_t vector_bytes;   /* in each record; 0: none */
    size_t writers;
    double seconds;
};

/* The records of one group; the same for every way, with ids that differ. */
struct log_bench_records {
    struct record *records; /* as they come from a parsed request */
    uint32_t *partitions;   /* of each */
    struct buffer bytes;    /* encoded, one behind the other … */
    size_t *at;             /* … where each begins; one more for the end */
    size_t count;
};

struct log_way {
    const char *name;
    MUST_CHECK enum err_code (*open)(void **out, const struct log_bench_options *options,
                                     struct err *err);
    /* Returns when all are durable.  Any number of threads. */
    MUST_CHECK enum err_code (*commit)(void *way, const struct log_bench_records *records,
                                       struct err *err);
    /* Hand records over without waiting, for so long; then wait for all: how many there were. NULL:
     * this way has no such thing. */
    MUST_CHECK enum err_code (*stream)(void *way, const struct log_bench_records *records,
                                       double seconds, uint64_t *total, struct err *err);
    void (*close)(void *way);
};

extern const struct log_way log_way_bare, log_way_append, log_way_ingest;

#endif
