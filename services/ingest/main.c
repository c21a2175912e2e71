/* vicinal-ingest: options, back ends, the service's life.
 *
 * Threads: the server's workers run the handlers; "appender" owns the log, "lease" renews the row
 * (sequencer.h), "settle" ends what failed half-way (settle.h), "trim" trims the log (trim.h); the
 * cluster's two follow the metadata store and the replicas. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "services/ingest/ingest.h"

#define SPOOL_URL_BYTES 4096

static const struct option OPTIONS[] = {
    SERVICE_OPTION_ROWS(struct ingest),
    {.name = "wal",
     .type = OPTION_TEXT,
     .fallback = "file:data/wal",
     .help = "The log: file:DIR or kafka://HOST:PORT,…/PREFIX.",
     .offset = offsetof(struct ingest, options.wal)},
    {.name = "meta",
     .type = OPTION_TEXT,
     .fallback = "sqlite:data/meta.db",
     .help = "The metadata store: sqlite:FILE or postgres://….",
     .offset = offsetof(struct ingest, options.meta)},
    {.name = "blob",
     .type = OPTION_TEXT,
     .help = "Where imports are kept: file:DIR or s3://BUCKET/PREFIX?endpoint=URL&region=NAME.",
     .offset = offsetof(struct ingest, options.blob)},
    {.name = "name",
     .type = OPTION_TEXT,
     .fallback = "0",
     .help = "Name of this node among the ingests.",
     .offset = offsetof(struct ingest, options.name)},
    {.name = "partitions",
     .type = OPTION_U64,
     .fallback = "64",
     .min = 1,
     .max = PARTITIONS_MAX,
     .help = "Partitions of a log that is created; fixed for its life.",
     .offset = offsetof(struct ingest, options.partitions)},
    {.name = "reserve",
     .type = OPTION_U64,
     .fallback = "16MiB",
     .max = UINT64_MAX,
     .unit = "bytes",
     .help = "Writes are refused (507) when the log's disk has less left.",
     .offset = offsetof(struct ingest, options.reserve)},
    {.name = "spool",
     .type = OPTION_TEXT,
     .fallback = "",
     .help = "Folder for writes while a kafka: log is away; none: they are refused then.",
     .offset = offsetof(struct ingest, options.spool)},
    {.name = "spool-bytes",
     .type = OPTION_U64,
     .fallback = "256MiB",
     .min = MIB(1),
     .max = 1ull << 40,
     .unit = "bytes",
     .help = "What the spool may hold; when it is full, writes are refused.",
     .offset = offsetof(struct ingest, options.spool_bytes)},
    EMBEDDERS_OPTION_ROWS(struct ingest, options.embedders, options.embedders_cache),
    {.name = "trim-every",
     .type = OPTION_U64,
     .fallback = "30",
     .max = 366 * 86400,
     .unit = "s",
     .help = "How often it is looked whether the log may be trimmed: below all replicas, verified "
             "snapshots and other regions; 0: it never is.",
     .offset = offsetof(struct ingest, options.trim_every)},
    {.name = "trim-records",
     .type = OPTION_U64,
     .fallback = "100000",
     .min = 1,
     .max = INT64_MAX,
     .unit = "records",
     .help = "From one place that the log may be trimmed to to the next.",
     .offset = offsetof(struct ingest, options.trim_records)},
    {.name = "region-retention",
     .type = OPTION_U64,
     .fallback = "0",
     .max = 366 * 86400,
     .unit = "s",
     .help = "A region that is farther behind no longer keeps the log from being trimmed, and has "
             "to be made anew then; 0: all are waited for.",
     .offset = offsetof(struct ingest, options.region_retention)},
    {.name = "repair",
     .type = OPTION_BOOL,
     .fallback = "false",
     .help = "Cut a damaged log at the damage instead of refusing to open it.",
     .offset = offsetof(struct ingest, options.repair)},
    {.name = NULL},
};

static enum err_code open_log(void *context, struct wal **out, struct err *err)
{
    const struct ingest *ingest = context;
    struct wal_options options = {.url = ingest->options.wal,
                                  .env = ingest->base.env,
                                  .writer = true,
                                  .partitions = (uint32_t)ingest->options.partitions,
                                  .repair = ingest->options.repair};
    enum err_code rc = wal_open(out, &options, err);
    struct err why;

    if (rc == ERR_CONFIG) {
        why = *err;
        (void)err_wrap(&why, "--wal");
        service_give_up(&why);
    }
    return rc;
}

/* The spool's store, or NULL: a file log is on the disk that a spool would be on. */
static enum err_code spool_url(const struct ingest *ingest, char *out, size_t size,
                               const char **url, struct err *err)
{
    const char *folder = ingest->options.spool;

    *url = NULL;
    if (folder[0] == '\0')
        return ERR_OK;
    if (strncmp(ingest->options.wal, "file:", 5) == 0)
        return err_set(err, ERR_CONFIG, "--spool: a file: log needs none");
    if ((size_t)snprintf(out, size, "lmdb:%s", folder) >= size)
        return err_set(err, ERR_CONFIG, "--spool is too long");
    *url = out;
    return ERR_OK;
}

static enum err_code open_service(void *state, struct err *err)
{
    struct ingest *ingest = state;
    char spool[SPOOL_URL_BYTES];
    struct http_client_options client = {.env = ingest->base.env};
    struct cluster_options cluster = {.env = ingest->base.env, .metrics = ingest->base.metrics};
    struct ingest_setup setup = {
        .env = ingest->base.env,
        .metrics = ingest->base.metrics,
        .name = ingest->options.name,
        .embedders = ingest->options.embedders,
        .embedders_cache = ingest->options.embedders_cache,
        .open_wal = open_log,
        .open_wal_context = ingest,
        .log_locks = strncmp(ingest->options.wal, "file:", 5) == 0,
        .reserve_bytes = ingest->options.reserve,
        .spool_bytes = ingest->options.spool_bytes,
        .trim = {.every_ns = ingest->options.trim_every * NS_PER_S,
                 .records = ingest->options.trim_records,
                 .region_retention_ns = ingest->options.region_retention * NS_PER_S}};
    enum err_code rc;

    if ((rc = wal_check_url(ingest->options.wal, err)) != ERR_OK)
        return err_wrap(err, "--wal");
    rc = spool_url(ingest, spool, sizeof(spool), &setup.spool, err);
    if (rc != ERR_OK)
        return rc;
    rc = meta_open(&ingest->meta, ingest->options.meta, ingest->base.env, err);
    if (rc != ERR_OK)
        return err_wrap(err, "--meta");
    if (ingest->options.blob != NULL &&
        (rc = blob_open(&ingest->blob, ingest->options.blob, ingest->base.env, err)) != ERR_OK)
        return err_wrap(err, "--blob");
    rc = http_client_open(&ingest->client, &client, err);
    if (rc != ERR_OK)
        return rc;
    cluster.meta = ingest->meta;
    cluster.client = ingest->client;
    rc = cluster_open(&ingest->cluster, &cluster, err);
    if (rc != ERR_OK)
        return rc;
    setup.meta = ingest->meta;
    setup.blob = ingest->blob;
    setup.cluster = ingest->cluster;
    setup.client = ingest->client;
    return ingest_open(ingest, &setup, err);
}

static enum err_code start_service(void *state, struct err *err)
{
    struct ingest *ingest = state;

    return ingest_start(ingest, ingest->base.url, err);
}

static bool service_ready(void *state, struct buffer *why)
{
    return ingest_ready(state, why);
}

static void stop_service(void *state)
{
    struct ingest *ingest = state;

    if (ingest->cluster != NULL)
        cluster_stop(ingest->cluster);
    ingest_stop(ingest);
}

static void close_service(void *state)
{
    struct ingest *ingest = state;

    stop_service(ingest);
    ingest_close(ingest);
    if (ingest->cluster != NULL)
        cluster_close(ingest->cluster);
    if (ingest->client != NULL)
        http_client_close(ingest->client);
    blob_close(ingest->blob);
    if (ingest->meta != NULL)
        meta_close(ingest->meta);
}

static void measure_service(void *state)
{
    ingest_measure(state);
}

int main(int argc, char **argv)
{
    static struct ingest ingest;
    const struct service service = {
        .name = "ingest",
        .about = "Takes writes, orders them, and appends them to the log.",
        .options = OPTIONS,
        .routes = ingest_routes,
        .is_inner = true,
        .open = open_service,
        .start = start_service,
        .ready = service_ready,
        .stop = stop_service,
        .close = close_service,
        .measure = measure_service,
    };

    return service_run(&service, &ingest, argc, argv);
}
