/* Our ways into a log: the log's own append, one at a time, and ingest's path: records of a parsed
 * request are encoded, queued, given their turn and appended together with those of other writers.
 */
#include <pthread.h>
#include <stdlib.h>

#include "backends/wal/wal.h"
#include "bench/log_bench.h"
#include "common/base/checked.h"
#include "services/ingest/sequencer.h"

#define WAIT_NS     (60 * NS_PER_S)
#define QUEUE_BYTES MIB(1024)

static enum err_code open_log(void *context, struct wal **out, struct err *err)
{
    const struct log_bench_options *options = context;
    struct wal_options how = {
        .url = options->wal, .env = env_real(), .writer = true, .partitions = LOG_BENCH_PARTITIONS};

    return wal_open(out, &how, err);
}

/* --- append ---------------------------------------------------------------------------------- */

struct appending {
    struct wal *wal;
    pthread_mutex_t lock; /* one call at a time */
    struct wal_entry *entries;
    uint64_t *offsets;
};

static void append_close(void *way)
{
    struct appending *appending = way;

    wal_close(appending->wal);
    free(appending->entries);
    free(appending->offsets);
    free(appending);
}

static enum err_code append_open(void **out, const struct log_bench_options *options,
                                 struct err *err)
{
    struct appending *appending = calloc(1, sizeof(*appending));
    enum err_code code;

    if (appending == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    pthread_mutex_init(&appending->lock, NULL);
    appending->entries = array_alloc(options->group, sizeof(*appending->entries));
    appending->offsets = array_alloc(options->group, sizeof(*appending->offsets));
    code = open_log((void *)(uintptr_t)options, &appending->wal, err);
    if (code != ERR_OK || appending->entries == NULL || appending->offsets == NULL) {
        free(appending);
        return code == ERR_OK ? err_set(err, ERR_NO_MEMORY, "no memory") : code;
    }
    *out = appending;
    return ERR_OK;
}

static enum err_code append_commit(void *way, const struct log_bench_records *records,
                                   struct err *err)
{
    struct appending *appending = way;
    enum err_code code;

    pthread_mutex_lock(&appending->lock);
    for (size_t i = 0; i < records->count; i++)
        appending->entries[i] = (struct wal_entry){.partition = records->partitions[i],
                                                   .data = records->bytes.data + records->at[i],
                                                   .len = records->at[i + 1] - records->at[i]};
    code = wal_append(appending->wal, appending->entries, records->count,
                      env_boot_ns(env_real()) + WAIT_NS, appending->offsets, err);
    pthread_mutex_unlock(&appending->lock);
    return code;
}

const struct log_way log_way_append = {
    .name = "append", .open = append_open, .commit = append_commit, .close = append_close};

/* --- ingest ---------------------------------------------------------------------------------- */

static void ingest_way_close(void *way)
{
    sequencer_close(way);
    free(way);
}

static enum err_code await_holder(struct sequencer *s, struct err *err)
{
    uint64_t until_ns = env_boot_ns(env_real()) + WAIT_NS, generation;
    enum err_code code;

    while ((code = sequencer_check(s, &generation, NULL, err)) != ERR_OK &&
           env_boot_ns(env_real()) < until_ns)
        (void)!env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS);
    return code;
}

static enum err_code ingest_way_open(void **out, const struct log_bench_options *options,
                                     struct err *err)
{
    struct sequencer *s = calloc(1, sizeof(*s));
    struct sequencer_setup setup = {.env = env_real(),
                                    .url = "",
                                    .open_wal = open_log,
                                    .open_wal_context = (void *)(uintptr_t)options,
                                    .log_locks = true,
                                    .queue_bytes_max = QUEUE_BYTES};
    enum err_code code;

    if (s == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    code = sequencer_open(s, &setup, err);
    if (code == ERR_OK)
        code = sequencer_start(s, err);
    if (code == ERR_OK)
        code = await_holder(s, err);
    if (code != ERR_OK) {
        ingest_way_close(s);
        return code;
    }
    *out = s;
    return ERR_OK;
}

static enum err_code ingest_way_commit(void *way, const struct log_bench_records *records,
                                       struct err *err)
{
    struct sequence_batch *batch;
    enum err_code code = sequence_batch_new(&batch, way, err);

    for (size_t i = 0; i < records->count && code == ERR_OK; i++)
        code = sequence_batch_add(batch, records->partitions[i], &records->records[i], err);
    if (code == ERR_OK)
        code = sequencer_commit(way, batch, env_boot_ns(env_real()) + WAIT_NS, err);
    sequence_batch_put(way, batch);
    return code;
}

const struct log_way log_way_ingest = {.name = "ingest",
                                       .open = ingest_way_open,
                                       .commit = ingest_way_commit,
                                       .close = ingest_way_close};
