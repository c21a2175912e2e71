/* Measure a log alone: appends of one record, one after the other, and appends of many.
 *
 *   wal-bench --wal URL [--record-bytes N] [--singles N] [--batch N] [--batches N]
 *
 * The log is made when it is missing, with 64 partitions, and grows.  Prints one JSON object:
 * p50 and p99 of a single append in milliseconds, records a second in batches.  This is what a
 * write over REST is compared with: the log's own share. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/wal/wal.h"
#include "common/base/checked.h"

#define WAIT_NS    (30 * NS_PER_S)
#define PARTITIONS 64
#define COUNT_MAX  1000000

struct options {
    const char *wal;
    size_t record_bytes, singles, batch, batches;
};

static void fail(const struct err *err)
{
    (void)fprintf(stderr, "wal-bench: %s\n", err->message);
    exit(1);
}

static int compare_u64(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return a < b ? -1 : a > b;
}

static void append(struct wal *wal, const struct wal_entry *entries, size_t count,
                   uint64_t *offsets)
{
    struct err err = {0};

    if (wal_append(wal, entries, count, env_boot_ns(env_real()) + WAIT_NS, offsets, &err) != ERR_OK)
        fail(&err);
}

/* Milliseconds: p50 and p99. */
static void measure_singles(struct wal *wal, const struct options *options,
                            struct wal_entry *entries, double ms[2])
{
    uint64_t *took = array_alloc(options->singles, sizeof(*took)), offset;

    if (took == NULL)
        exit(1);
    for (size_t i = 0; i < options->singles; i++) {
        uint64_t began_ns = env_boot_ns(env_real());

        append(wal, &entries[i % options->batch], 1, &offset);
        took[i] = env_boot_ns(env_real()) - began_ns;
    }
    qsort(took, options->singles, sizeof(*took), compare_u64);
    ms[0] = (double)took[options->singles / 2] / 1e6;
    ms[1] = (double)took[options->singles * 99 / 100] / 1e6;
    free(took);
}

static double measure_batches(struct wal *wal, const struct options *options,
                              struct wal_entry *entries)
{
    uint64_t *offsets = array_alloc(options->batch, sizeof(*offsets));
    uint64_t began_ns = env_boot_ns(env_real());

    if (offsets == NULL)
        exit(1);
    for (size_t i = 0; i < options->batches; i++)
        append(wal, entries, options->batch, offsets);
    free(offsets);
    return (double)(options->batch * options->batches) * 1e9 /
           (double)(env_boot_ns(env_real()) - began_ns);
}

static size_t number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*end != '\0' || value < 1 || value > COUNT_MAX) {
        (void)fprintf(stderr, "wal-bench: numbers are 1 to %d\n", COUNT_MAX);
        exit(2);
    }
    return value;
}

static void parse(struct options *options, int argc, char **argv)
{
    static const struct option LONG[] = {
        {"wal", required_argument, NULL, 'w'},     {"record-bytes", required_argument, NULL, 'r'},
        {"singles", required_argument, NULL, 's'}, {"batch", required_argument, NULL, 'b'},
        {"batches", required_argument, NULL, 'n'}, {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        switch (c) {
        case 'w':
            options->wal = optarg;
            break;
        case 'r':
            options->record_bytes = number(optarg);
            break;
        case 's':
            options->singles = number(optarg);
            break;
        case 'b':
            options->batch = number(optarg);
            break;
        case 'n':
            options->batches = number(optarg);
            break;
        default:
            exit(2);
        }
    }
    if (options->wal == NULL || options->record_bytes > RECORD_BYTES_MAX) {
        (void)fprintf(stderr, "usage: wal-bench --wal URL [--record-bytes N] [--singles N] "
                              "[--batch N] [--batches N]\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct options options = {.record_bytes = 1600, .singles = 2000, .batch = 1000, .batches = 50};
    struct wal_entry *entries;
    struct err err = {0};
    struct wal *wal;
    char *record;
    double ms[2], rate;

    parse(&options, argc, argv);
    record = malloc(options.record_bytes);
    entries = array_alloc(options.batch, sizeof(*entries));
    if (record == NULL || entries == NULL)
        return 1;
    memset(record, 'r', options.record_bytes);
    for (size_t i = 0; i < options.batch; i++)
        entries[i] = (struct wal_entry){
            .partition = (uint32_t)(i % PARTITIONS), .data = record, .len = options.record_bytes};
    if (wal_open(
            &wal,
            &(struct wal_options){
                .url = options.wal, .env = env_real(), .writer = true, .partitions = PARTITIONS},
            &err) != ERR_OK)
        fail(&err);
    measure_singles(wal, &options, entries, ms);
    rate = measure_batches(wal, &options, entries);
    wal_close(wal);
    (void)printf("{\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"records_per_s\":%.0f}\n", ms[0], ms[1], rate);
    free(entries);
    free(record);
    return 0;
}
