/* vicinal-shard: one replica of a shard as a process.
 *
 * Options → the metadata store is opened → the port is known → a new replica fetches a copy of
 * another one, or a snapshot (begin.h) → the store is opened, the node is registered and the
 * threads start (see shard.h) → ready when it has caught up with the log. */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/blob/blob.h"
#include "cluster/cluster.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/http/service.h"
#include "services/shard/ask.h"
#include "services/shard/begin.h"
#include "services/shard/sound.h"

#define URL_BYTES_MAX    4096
#define PATH_BYTES_MAX   4096
#define READERS_SPARE    64 /* read transactions beside those of the workers */
#define ROUTES_MAX       8
#define LINK_THREADS_MAX 64
#define COLD_ABOVE_LEAST 10000 /* of half as many a graph is still made, kept and measured */

struct process {
    struct service_base base; /* first */
    struct shard shard;
    const char *data;
    char segments[PATH_BYTES_MAX], copies[PATH_BYTES_MAX], snapshots[PATH_BYTES_MAX];
    const char *wal_url;
    const char *meta_url;
    const char *blob_url;
    const char *simd;
    uint64_t shard_number;
    uint64_t replica_number;
    uint64_t memory_bytes;
    uint64_t link_threads;
    uint64_t cold_above;
    uint64_t copy_rate;
    uint64_t snapshot_every, snapshot_records, snapshot_keep;
    bool seed;
    struct meta *meta;
    struct store *store;
    struct blob *blob;
};

static enum err_code process_open(void *state, struct err *err)
{
    struct process *process = state;
    enum err_code code;

    if (process->cold_above > 0 && process->cold_above < COLD_ABOVE_LEAST)
        return err_set(err, ERR_CONFIG, "--cold-above is below %d, and not 0", COLD_ABOVE_LEAST);
    if (mkdir(process->data, 0777) != 0 && errno != EEXIST)
        return err_set_errno(err, errno, "--data %s", process->data);
    if ((code = sound_watch(process->data, err)) != ERR_OK)
        return code;
    if (snprintf(process->segments, sizeof(process->segments), "%s/segments", process->data) >=
            (int)sizeof(process->segments) ||
        snprintf(process->copies, sizeof(process->copies), "%s/copies", process->data) >=
            (int)sizeof(process->copies) ||
        snprintf(process->snapshots, sizeof(process->snapshots), "%s/snapshot", process->data) >=
            (int)sizeof(process->snapshots))
        return err_set(err, ERR_CONFIG, "--data is too long");
    if ((code = wal_check_url(process->wal_url, err)) != ERR_OK)
        return err_wrap(err, "--wal");
    if ((code = meta_open(&process->meta, process->meta_url, process->base.env, err)) != ERR_OK)
        return err_wrap(err, "--meta");
    if (process->blob_url != NULL &&
        (code = blob_open(&process->blob, process->blob_url, process->base.env, err)) != ERR_OK)
        return err_wrap(err, "--blob");
    return ERR_OK;
}

/* While the service starts, signals wait until it is up. */
static bool is_asked_to_end(void)
{
    sigset_t waiting;

    return sigpending(&waiting) == 0 &&
           (sigismember(&waiting, SIGTERM) == 1 || sigismember(&waiting, SIGINT) == 1);
}

/* *bytes: how much of another replica, or of a snapshot, this one begins with. */
static enum err_code begin(struct process *process, const struct err *damage,
                           struct shard_setup *setup, struct err *err)
{
    struct begin begin = {.env = process->base.env,
                          .meta = process->meta,
                          .blob = process->blob,
                          .wal_url = process->wal_url,
                          .data = process->data,
                          .shard = (uint32_t)process->shard_number,
                          .replica = (uint32_t)process->replica_number,
                          .seed = process->seed,
                          .damage = damage,
                          .is_stopping = is_asked_to_end};
    enum err_code code = begin_run(&begin, err);

    setup->copied_bytes = begin.bytes;
    setup->was_set_aside = begin.was_set_aside;
    return code;
}

/* The shard cannot go on from its store, and the log does not reach back: whoever supervises the
 * process starts it again, and it begins from elsewhere. */
static void give_up(void *context, const struct err *why)
{
    const struct process *process = context;
    struct err err = {0};

    if (begin_again(process->data, &err) != ERR_OK)
        log_err(LOG_ERROR, NULL, "the store cannot be marked as one to be set aside", &err);
    service_give_up(why);
}

static enum err_code open_store(struct process *process, struct err *err)
{
    char url[URL_BYTES_MAX];
    struct store_options options = {
        .url = url,
        .env = process->base.env,
        .readers_max = (uint32_t)process->base.workers + READERS_SPARE,
    };

    if (snprintf(url, sizeof(url), "lmdb:%s/store", process->data) >= (int)sizeof(url))
        return err_set(err, ERR_CONFIG, "--data is too long");
    return store_open(&process->store, &options, err);
}

/* Beside the index thread: by default as many that every processor has one. */
static uint32_t link_threads(const struct process *process)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);

    if (process->link_threads > 0)
        return (uint32_t)process->link_threads - 1;
    return processors > 1 ? (uint32_t)MIN_OF(processors, LINK_THREADS_MAX) - 1 : 0;
}

/* The next process looks at the store, and sets it aside. */
static void on_damage(void *context, const struct err *why)
{
    (void)context;
    sound_suspect();
    service_give_up(why);
}

/* A store that is damaged is set aside; the replica is a new one then. */
static enum err_code begin_with_store(struct process *process, struct shard_setup *setup,
                                      struct err *err)
{
    struct err damage = {0};
    enum err_code code = begin(process, NULL, setup, err);

    if (code == ERR_OK)
        code = open_store(process, err);
    if (code != ERR_CORRUPT)
        return code;
    damage = *err;
    err_clear(err);
    code = begin(process, &damage, setup, err);
    return code == ERR_OK ? open_store(process, err) : code;
}

static enum err_code process_start(void *state, struct err *err)
{
    struct process *process = state;
    struct shard_setup setup = {
        .env = process->base.env,
        .meta = process->meta,
        .blob = process->blob,
        .wal_url = process->wal_url,
        .segments = process->segments,
        .copies = process->copies,
        .copy_rate = process->copy_rate,
        .snapshots = process->snapshots,
        .snapshot_every_ns = process->snapshot_every * NS_PER_S,
        .snapshot_records = process->snapshot_records,
        .snapshot_keep = (uint32_t)process->snapshot_keep,
        .begin_again = give_up,
        .process = process,
        .metrics = process->base.metrics,
        .shard = (uint32_t)process->shard_number,
        .replica = (uint32_t)process->replica_number,
        .simd = process->simd,
        .memory_bytes = process->memory_bytes,
        .cold_above = (uint32_t)process->cold_above,
        .link_threads = link_threads(process),
        .on_damage = on_damage,
    };
    char name[32];
    enum err_code code;

    code = begin_with_store(process, &setup, err);
    setup.store = process->store;
    cluster_replica_name(name, setup.shard, setup.replica);
    if (code == ERR_OK)
        code = cluster_register(process->meta, process->base.env, "shard", name, process->base.url,
                                err);
    return code == ERR_OK ? shard_open(&process->shard, &setup, err) : code;
}

static bool process_ready(void *state, struct buffer *why)
{
    struct process *process = state;

    return shard_ready(&process->shard, why);
}

static void process_stop(void *state)
{
    struct process *process = state;

    shard_stop(&process->shard);
}

static void process_close(void *state)
{
    struct process *process = state;

    shard_stop(&process->shard);
    shard_close(&process->shard);
    store_close(process->store);
    blob_close(process->blob);
    meta_close(process->meta);
}

static void process_measure(void *state)
{
    struct process *process = state;

    shard_measure(&process->shard);
}

/* Not const: the default of --workers is above that of other services, because a keep-alive
 * connection of every router and of the ingest holds one. */
static struct option options[] = {
    SERVICE_OPTION_ROWS(struct process),
    {.name = "shard",
     .type = OPTION_U64,
     .required = true,
     .max = SHARDS_MAX - 1,
     .help = "Number of this shard in the map.",
     .offset = offsetof(struct process, shard_number)},
    {.name = "replica",
     .type = OPTION_U64,
     .fallback = "0",
     .max = REPLICAS_MAX - 1,
     .help = "Number of this replica of the shard.",
     .offset = offsetof(struct process, replica_number)},
    {.name = "data",
     .type = OPTION_TEXT,
     .required = true,
     .help = "Folder of this replica; its store is in DATA/store, segments in DATA/segments.",
     .offset = offsetof(struct process, data)},
    {.name = "wal",
     .type = OPTION_TEXT,
     .required = true,
     .help = "URL of the log: file:DIR or kafka://HOST:PORT,…/PREFIX.",
     .offset = offsetof(struct process, wal_url)},
    {.name = "meta",
     .type = OPTION_TEXT,
     .required = true,
     .help = "URL of the metadata store: sqlite:FILE or postgres://….",
     .offset = offsetof(struct process, meta_url)},
    {.name = "blob",
     .type = OPTION_TEXT,
     .help = "Where imports are kept: file:DIR or s3://BUCKET/PREFIX?endpoint=URL&region=NAME.",
     .offset = offsetof(struct process, blob_url)},
    {.name = "simd",
     .type = OPTION_TEXT,
     .help = "Kernels to use: scalar, avx2 or avx512 (default: the best that this machine has).",
     .offset = offsetof(struct process, simd)},
    {.name = "memory",
     .type = OPTION_U64,
     .fallback = "0",
     .unit = "bytes",
     .help = "Bytes that the indexes may take; 0: no limit.",
     .offset = offsetof(struct process, memory_bytes)},
    {.name = "cold-above",
     .type = OPTION_U64,
     .fallback = "0",
     .max = UINT32_MAX,
     .unit = "vectors",
     .help = "Vectors that the graph of a collection may hold, 10000 or more: of more the oldest "
             "become cold, which take a quarter of the memory and longer to search; 0: all.",
     .offset = offsetof(struct process, cold_above)},
    {.name = "link-threads",
     .type = OPTION_U64,
     .fallback = "0",
     .max = LINK_THREADS_MAX,
     .help = "Threads that link vectors into the graphs; 0: one for each processor.",
     .offset = offsetof(struct process, link_threads)},
    {.name = "seed",
     .type = OPTION_BOOL,
     .fallback = "true",
     .help =
         "A replica without a store begins with a copy of another one, not with the log's start.",
     .offset = offsetof(struct process, seed)},
    {.name = "copy-rate",
     .type = OPTION_U64,
     .fallback = "134217728",
     .unit = "bytes/s",
     .help = "How fast copies for new replicas and snapshots are made, handed out and read back; "
             "0: no limit.",
     .offset = offsetof(struct process, copy_rate)},
    {.name = "snapshot-every",
     .type = OPTION_U64,
     .fallback = "86400",
     .max = 366 * 86400,
     .unit = "s",
     .help = "A snapshot goes into the blob store when the last one is so old and 10000 records "
             "have come since; 0: not because of its age.",
     .offset = offsetof(struct process, snapshot_every)},
    {.name = "snapshot-records",
     .type = OPTION_U64,
     .fallback = "5000000",
     .max = INT64_MAX,
     .unit = "records",
     .help = "... or when so many records of the log have come since; 0: however many.",
     .offset = offsetof(struct process, snapshot_records)},
    {.name = "snapshot-keep",
     .type = OPTION_U64,
     .fallback = "2",
     .min = 1,
     .max = 1000,
     .help = "Verified snapshots of the shard that are kept; older ones are removed.",
     .offset = offsetof(struct process, snapshot_keep)},
    {.name = NULL},
};

int main(int argc, char **argv)
{
    static struct process process;
    struct service service = {
        .name = "shard",
        .about = "Keeps the records of its partitions and answers searches.",
        .options = options,
        .routes = shard_routes,
        .core_offset = offsetof(struct process, shard),
        .open = process_open,
        .start = process_start,
        .ready = process_ready,
        .stop = process_stop,
        .close = process_close,
        .measure = process_measure,
    };

    for (struct option *option = options; option->name != NULL; option++) {
        if (strcmp(option->name, "workers") == 0)
            option->fallback = "128";
    }
    return service_run(&service, &process, argc, argv);
}
