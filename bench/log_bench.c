/* Measure ways of making records durable in a log.
 *
 *   log-bench --way bare|append|ingest --wal URL [--group N] [--writers N] [--seconds S]
 *             [--linger MS] [--vector-bytes N] [--stream]
 *
 *   bare     librdkafka's producer alone (a log on Kafka; its topic must be there)
 *   append   the log's own append, one at a time
 *   ingest   the path of a write behind the parsing of its request: encoded, queued, appended
 *            together with what other writers brought
 *
 * Each writer commits groups of N records, one after the other, for so many seconds.  With --stream
 * (bare only) records are handed over without waiting for any: what the producer can do at most.
 * Prints one JSON object: records a second, p50 and p99 of a commit in milliseconds, and how much
 * processor time of this process a record cost. */
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench/log_bench.h"
#include "common/base/checked.h"
#include "common/base/env.h"
#include "common/base/limits.h"
#include "common/base/log.h"

#define WRITERS_MAX 256
#define GROUP_MAX   100000
#define TIMES_MAX   100000u /* of a writer */

struct writer {
    const struct log_way *way;
    void *opened;
    const struct log_bench_records *records;
    uint64_t from_ns, until_ns; /* what ends between them counts */
    uint64_t *took;
    size_t commits, all; /* within the time, and with those before it */
    pthread_t thread;
};

static void fail(const struct err *err)
{
    (void)fprintf(stderr, "log-bench: %s\n", err->message);
    exit(1);
}

/* --- records --------------------------------------------------------------------------------- */

static float *make_vector(size_t bytes)
{
    size_t count = bytes / sizeof(float);
    float *vector = array_alloc(count, sizeof(*vector));
    uint32_t state = 7;

    for (size_t i = 0; vector != NULL && i < count; i++) {
        state = state * 1664525u + 1013904223u;
        vector[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
    }
    return vector;
}

static void make_records(struct log_bench_records *out, const struct log_bench_options *options)
{
    float *vector = make_vector(options->vector_bytes);
    char *ids = array_alloc(options->group, 16);
    struct err err = {0};

    *out = (struct log_bench_records){.count = options->group};
    out->records = array_alloc(options->group, sizeof(*out->records));
    out->partitions = array_alloc(options->group, sizeof(*out->partitions));
    out->at = array_alloc(options->group + 1, sizeof(*out->at));
    if (vector == NULL || ids == NULL || out->records == NULL || out->partitions == NULL ||
        out->at == NULL)
        exit(1);
    for (size_t i = 0; i < options->group; i++) {
        char *id = ids + 16 * i;
        int len = snprintf(id, 16, "%zu", i);

        out->records[i] = (struct record){.op = RECORD_UPSERT,
                                          .id = id,
                                          .id_len = (size_t)len,
                                          .vector = options->vector_bytes == 0 ? NULL : vector,
                                          .vector_bytes = options->vector_bytes};
        out->partitions[i] = record_partition(id, (size_t)len, LOG_BENCH_PARTITIONS);
        out->at[i] = out->bytes.len;
        if (record_encode(&out->records[i], &out->bytes, &err) != ERR_OK)
            fail(&err);
    }
    out->at[options->group] = out->bytes.len;
}

/* --- writers --------------------------------------------------------------------------------- */

static void *writer_run(void *argument)
{
    struct writer *writer = argument;
    struct err err = {0};

    for (;;) {
        uint64_t began_ns = env_boot_ns(env_real()), ended_ns;

        if (began_ns >= writer->until_ns)
            return NULL;
        if (writer->way->commit(writer->opened, writer->records, &err) != ERR_OK)
            fail(&err);
        ended_ns = env_boot_ns(env_real());
        writer->all++;
        if (ended_ns < writer->from_ns || ended_ns > writer->until_ns)
            continue;
        if (writer->commits < TIMES_MAX)
            writer->took[writer->commits] = ended_ns - began_ns;
        writer->commits++;
    }
}

static int compare_u64(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return (a > b) - (a < b);
}

static double cpu_seconds(void)
{
    struct rusage used;

    (void)getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void print(double rate, double cpu_s, uint64_t total, uint64_t *took, size_t count)
{
    if (count > 0)
        qsort(took, count, sizeof(*took), compare_u64);
    (void)printf("{\"records_per_s\":%.0f,\"records\":%llu,\"cpu_us\":%.2f,\"p50_ms\":%.3f,"
                 "\"p99_ms\":%.3f}\n",
                 rate, (unsigned long long)total, cpu_s * 1e6 / (double)MAX_OF(total, (uint64_t)1),
                 count == 0 ? 0.0 : (double)took[count / 2] / 1e6,
                 count == 0 ? 0.0 : (double)took[count * 99 / 100] / 1e6);
}

/* A quarter of the time is for warming up. */
static void measure(const struct log_way *way, void *opened,
                    const struct log_bench_options *options,
                    const struct log_bench_records *records)
{
    struct writer *writers = array_alloc(options->writers, sizeof(*writers));
    uint64_t now_ns = env_boot_ns(env_real()), length_ns = (uint64_t)(options->seconds * 1e9);
    uint64_t *took = array_alloc(options->writers * TIMES_MAX, sizeof(*took));
    double cpu = cpu_seconds();
    size_t commits = 0, all = 0, count = 0;

    if (writers == NULL || took == NULL)
        exit(1);
    for (size_t i = 0; i < options->writers; i++) {
        writers[i] = (struct writer){.way = way,
                                     .opened = opened,
                                     .records = records,
                                     .from_ns = now_ns + length_ns / 4,
                                     .until_ns = now_ns + length_ns / 4 + length_ns,
                                     .took = array_alloc(TIMES_MAX, sizeof(*took))};
        if (writers[i].took == NULL ||
            pthread_create(&writers[i].thread, NULL, writer_run, &writers[i]) != 0)
            exit(1);
    }
    for (size_t i = 0; i < options->writers; i++) {
        pthread_join(writers[i].thread, NULL);
        for (size_t j = 0; j < MIN_OF(writers[i].commits, TIMES_MAX); j++)
            took[count++] = writers[i].took[j];
        commits += writers[i].commits;
        all += writers[i].all;
        free(writers[i].took);
    }
    print((double)(commits * options->group) / options->seconds, cpu_seconds() - cpu,
          all * options->group, took, count);
    free(took);
    free(writers);
}

static void measure_stream(const struct log_way *way, void *opened,
                           const struct log_bench_options *options,
                           const struct log_bench_records *records)
{
    uint64_t total, began_ns;
    struct err err = {0};
    double cpu;

    if (way->stream == NULL) {
        (void)fprintf(stderr, "log-bench: --stream is for the bare producer\n");
        exit(2);
    }
    if (way->stream(opened, records, options->seconds / 4, &total, &err) != ERR_OK)
        fail(&err);
    cpu = cpu_seconds();
    began_ns = env_boot_ns(env_real());
    if (way->stream(opened, records, options->seconds, &total, &err) != ERR_OK)
        fail(&err);
    print((double)total * 1e9 / (double)(env_boot_ns(env_real()) - began_ns), cpu_seconds() - cpu,
          total, NULL, 0);
}

/* --- options --------------------------------------------------------------------------------- */

static size_t number(const char *text, size_t most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*end != '\0' || value < 1 || value > most) {
        (void)fprintf(stderr, "log-bench: %s is not 1 to %zu\n", text, most);
        exit(2);
    }
    return value;
}

static const struct log_way *way_named(const char *name)
{
    static const struct log_way *const ways[] = {&log_way_bare, &log_way_append, &log_way_ingest};

    for (size_t i = 0; i < ARRAY_COUNT(ways); i++)
        if (strcmp(ways[i]->name, name) == 0)
            return ways[i];
    return NULL;
}

static const struct log_way *parse(struct log_bench_options *options, bool *streams, int argc,
                                   char **argv)
{
    static const struct option LONG[] = {{"way", required_argument, NULL, 'y'},
                                         {"wal", required_argument, NULL, 'w'},
                                         {"group", required_argument, NULL, 'g'},
                                         {"writers", required_argument, NULL, 'n'},
                                         {"seconds", required_argument, NULL, 's'},
                                         {"linger", required_argument, NULL, 'l'},
                                         {"stream", no_argument, NULL, 'm'},
                                         {"vector-bytes", required_argument, NULL, 'b'},
                                         {NULL, 0, NULL, 0}};
    const struct log_way *way = NULL;
    int c;

    while ((c = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        switch (c) {
        case 'y':
            way = way_named(optarg);
            break;
        case 'w':
            options->wal = optarg;
            break;
        case 'g':
            options->group = number(optarg, GROUP_MAX);
            break;
        case 'n':
            options->writers = number(optarg, WRITERS_MAX);
            break;
        case 's':
            options->seconds = strtod(optarg, NULL);
            break;
        case 'l':
            options->linger_ms = optarg;
            break;
        case 'm':
            *streams = true;
            break;
        case 'b':
            options->vector_bytes = strcmp(optarg, "0") == 0 ? 0 : number(optarg, KIB(32)) / 4 * 4;
            break;
        default:
            exit(2);
        }
    }
    if (way == NULL || options->wal == NULL || !(options->seconds > 0)) {
        (void)fprintf(stderr, "usage: log-bench --way bare|append|ingest --wal URL [--group N] "
                              "[--writers N] [--seconds S] [--linger MS] [--vector-bytes N] "
                              "[--stream]\n");
        exit(2);
    }
    return way;
}

int main(int argc, char **argv)
{
    struct log_bench_options options = {
        .linger_ms = "0", .group = 1000, .vector_bytes = 1536, .writers = 4, .seconds = 1};
    struct log_bench_records records;
    const struct log_way *way;
    bool streams = false;
    struct err err = {0};
    void *opened;

    log_start("log-bench", LOG_ERROR);
    way = parse(&options, &streams, argc, argv);
    make_records(&records, &options);
    if (way->open(&opened, &options, &err) != ERR_OK)
        fail(&err);
    (streams ? measure_stream : measure)(way, opened, &options, &records);
    way->close(opened);
    return 0;
}
