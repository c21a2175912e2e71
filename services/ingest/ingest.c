/* Open, start, stop, close; routes; what runs between a take-over and the first write. */
#include "services/ingest/ingest.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "common/http/json_doc.h"
#include "services/ingest/imports.h"
#include "services/ingest/settle.h"

static const struct log_context CONTEXT = {.operation = "ingest"};

const struct route ingest_routes[] = {
    {"PUT", "/v1/collections/*", handle_put_collection, MIB(1), "putCollection"},
    {"DELETE", "/v1/collections/*", handle_delete_collection, 0, "deleteCollection"},
    {"POST", "/v1/collections/*/records", handle_upsert_records, BODY_BYTES_MAX, "upsertRecords"},
    {"PUT", "/v1/collections/*/records/*", handle_put_record, BODY_BYTES_MAX, "putRecord"},
    {"PATCH", "/v1/collections/*/records/*", handle_patch_record, MIB(1), "patchRecord"},
    {"DELETE", "/v1/collections/*/records/*", handle_delete_record, 0, "deleteRecord"},
    {"POST", "/v1/collections/*/records/delete", handle_delete_records, BODY_BYTES_MAX,
     "deleteRecords"},
    {"POST", "/v1/collections/*/records/update", handle_update_records, BODY_BYTES_MAX,
     "updateRecords"},
    {"POST", "/v1/collections/*/imports", handle_create_import, KIB(64), "createImport"},
    {"GET", "/v1/collections/*/imports/*", handle_get_import, 0, "getImport"},
    {"PUT", "/v1/collections/*/imports/*/data", handle_put_import_data, BODY_BYTES_MAX,
     "putImportData"},
    {"POST", "/v1/collections/*/imports/*/cancel", handle_cancel_import, 0, "cancelImport"},
    {"POST", "/internal/v1/append", handle_append, BODY_BYTES_MAX, "appendForeign"},
    {"POST", "/internal/v1/replay", handle_replay, BODY_BYTES_MAX, "replaySpool"},
    {"GET", "/internal/v1/status", handle_status, 0, "ingestStatus"},
    {"POST", "/internal/v1/trim", handle_trim, 0, "trimLog"},
    {NULL, NULL, NULL, 0, NULL},
};

static void open_metrics(struct ingest *ingest, struct metrics *m)
{
    static const char COUNT[] = "records_total", COUNT_HELP[] = "Records written, by operation.";

    if (m == NULL)
        return;
    ingest->metrics = (struct ingest_metrics){
        .latency = metrics_latency(m, "insert_latency_seconds", "",
                                   "From a write's arrival until it was committed."),
        .upserts = metrics_counter(m, COUNT, "op=\"upsert\"", COUNT_HELP),
        .deletes = metrics_counter(m, COUNT, "op=\"delete\"", COUNT_HELP),
        .truncates = metrics_counter(m, COUNT, "op=\"truncate\"", COUNT_HELP),
        .changes = metrics_counter(m, COUNT, "op=\"collection\"", COUNT_HELP),
        .foreign = metrics_counter(m, COUNT, "op=\"foreign\"", COUNT_HELP),
        .imported = metrics_counter(m, COUNT, "op=\"import\"", COUNT_HELP),
        .busy = metrics_gauge(m, "ingest_busy_ids", "", "Ids that writes hold or wait for."),
        .collections = metrics_gauge(m, "ingest_collections", "", "Active collections."),
        .wal_used = metrics_gauge(m, "wal_used_bytes", "", "Bytes of the log."),
        .wal_free = metrics_gauge(m, "wal_free_bytes", "", "Free bytes of the log's medium."),
        .holder = metrics_gauge(m, "ingest_holder", "", "1 while this ingest holds the log."),
        .spooled = metrics_counter(m, "spooled_records_total", "",
                                   "Records that the spool took while the log was away."),
        .replayed = metrics_counter(m, "spool_replayed_records_total", "",
                                    "Records of the spool that were appended to the log."),
        .replayed_older = metrics_counter(m, "spool_older_records_total", "",
                                          "Records of the spool that a newer one had overtaken."),
        .spool_records = metrics_gauge(m, "spool_records", "", "Records that wait in the spool."),
        .spool_bytes = metrics_gauge(m, "spool_bytes", "", "Bytes of the spool, parked ones too."),
        .spool_age = metrics_gauge(m, "spool_oldest_seconds", "",
                                   "Age of the oldest record that waits in the spool."),
        .spool_parked = metrics_gauge(m, "spool_parked_records", "",
                                      "Records of the spool that cannot be appended any more."),
    };
}

/* The row `deployment`, once for each life of the log. */
static enum err_code write_deployment(struct ingest *ingest, struct err *err)
{
    const struct sequencer *s = &ingest->sequencer;
    uint64_t partitions = 0, region = 0;
    struct meta_row row = {0};
    json_t *there = NULL;
    char value[96];
    int len;
    enum err_code rc = meta_get(ingest->setup.meta, "deployment", &row, err);

    if (rc != ERR_OK && rc != ERR_NOT_FOUND)
        return rc;
    err_clear(err);
    if (rc == ERR_OK && json_doc_parse(&there, row.value, row.value_len, NULL) == ERR_OK) {
        if (json_doc_u64(there, "partitions", 0, UINT32_MAX, &partitions, NULL) != ERR_OK ||
            json_doc_u64(there, "region", 0, UINT32_MAX, &region, NULL) != ERR_OK)
            partitions = 0;
        json_decref(there);
    }
    meta_row_free(&row);
    if (partitions == s->partitions && region == s->region)
        return ERR_OK;
    len = snprintf(value, sizeof(value), "{\"partitions\":%u,\"region\":%u}", s->partitions,
                   s->region);
    return meta_put(
        ingest->setup.meta,
        &(struct meta_put){
            .key = "deployment", .value = value, .value_len = (size_t)len, .expected = META_ANY},
        NULL, err);
}

static enum err_code register_node(struct ingest *ingest, struct err *err)
{
    enum err_code rc = cluster_register(ingest->setup.meta, ingest->env, "ingest",
                                        ingest->setup.name, ingest->url, err);

    if (rc == ERR_OK)
        ingest->registered = true;
    return rc;
}

static enum err_code taken(void *context, struct err *err)
{
    struct ingest *ingest = context;
    enum err_code rc = ingest->registered ? ERR_OK : register_node(ingest, err);

    if (rc == ERR_OK)
        rc = write_deployment(ingest, err);
    /* Whether the region is passive is known before the first write. */
    if (rc == ERR_OK && ingest->setup.cluster != NULL)
        rc = cluster_refresh(ingest->setup.cluster, err);
    return rc == ERR_OK ? catalogue_load(&ingest->catalogue, err) : rc;
}

enum err_code ingest_open(struct ingest *ingest, const struct ingest_setup *setup, struct err *err)
{
    struct sequencer_setup sequencer = {.env = setup->env,
                                        .meta = setup->meta,
                                        .metrics = setup->metrics,
                                        .url = ingest->url,
                                        .open_wal = setup->open_wal,
                                        .open_wal_context = setup->open_wal_context,
                                        .log_locks = setup->log_locks,
                                        .queue_bytes_max = setup->queue_bytes_max,
                                        .taken = taken,
                                        .taken_context = ingest};
    struct embedders_setup embedders = {.list = setup->embedders,
                                        .cache_url = setup->embedders_cache,
                                        .env = setup->env,
                                        .client = setup->client,
                                        .metrics = setup->metrics};
    struct spool_setup spool = {.env = setup->env,
                                .url = setup->spool,
                                .open_store = setup->open_spool,
                                .context = setup->open_spool_context,
                                .bytes_max = setup->spool_bytes};
    enum err_code rc;

    assert(setup->env != NULL && setup->meta != NULL && setup->name != NULL);
    ingest->setup = *setup;
    ingest->env = setup->env;
    ingest->embedders = NULL;
    ingest->spool = NULL;
    ingest->spare = NULL;
    ingest->replayer = NULL;
    ingest->settler = NULL;
    ingest->trimmer = NULL;
    ingest->registered = false;
    open_metrics(ingest, setup->metrics);
    headroom_init(&ingest->headroom);
    rc = sequencer_open(&ingest->sequencer, &sequencer, err);
    catalogue_init(&ingest->catalogue, &ingest->sequencer, setup->meta, setup->env);
    if (rc == ERR_OK && setup->trim.every_ns > 0)
        rc = trimmer_open(&ingest->trimmer, ingest, &setup->trim, err);
    if (rc == ERR_OK)
        rc = busy_open(&ingest->busy, setup->env, err);
    if (rc == ERR_OK)
        rc = embedders_open(&ingest->embedders, &embedders, err);
    if (rc == ERR_OK && setup->blob != NULL)
        rc = import_spare_new(&ingest->spare, err);
    if (rc == ERR_OK && setup->spool != NULL)
        rc = spool_open(&ingest->spool, &spool, err);
    if (rc != ERR_OK)
        ingest_close(ingest);
    return rc;
}

enum err_code ingest_start(struct ingest *ingest, const char *url, struct err *err)
{
    enum err_code rc;

    if (url == NULL)
        url = ingest->setup.url == NULL ? "" : ingest->setup.url;
    (void)snprintf(ingest->url, sizeof(ingest->url), "%s", url);
    rc = register_node(ingest, err);
    if (rc == ERR_DEAD)
        return rc;
    /* With the store away it stands by; the node is registered when it takes over. */
    if (rc != ERR_OK)
        log_err(LOG_WARN, &CONTEXT, "could not register", err);
    err_clear(err);
    rc = sequencer_start(&ingest->sequencer, err);
    if (rc == ERR_OK && ingest->spool != NULL)
        rc = env_thread_start(ingest->env, &ingest->replayer, "spool", replay_main, ingest, err);
    if (rc == ERR_OK)
        rc = env_thread_start(ingest->env, &ingest->settler, "settle", settle_thread, ingest, err);
    if (rc == ERR_OK && ingest->trimmer != NULL)
        rc = trimmer_start(ingest->trimmer, err);
    return rc;
}

void ingest_stop(struct ingest *ingest)
{
    if (ingest->env == NULL)
        return;
    sequencer_stop(&ingest->sequencer);
    trimmer_stop(ingest->trimmer);
    spool_stop(ingest->spool);
    settle_stop(&ingest->catalogue);
}

void ingest_close(struct ingest *ingest)
{
    if (ingest->env == NULL)
        return;
    ingest_stop(ingest);
    env_thread_join(ingest->replayer);
    ingest->replayer = NULL;
    env_thread_join(ingest->settler);
    ingest->settler = NULL;
    trimmer_close(ingest->trimmer);
    ingest->trimmer = NULL;
    sequencer_close(&ingest->sequencer);
    spool_close(ingest->spool);
    ingest->spool = NULL;
    catalogue_free(&ingest->catalogue);
    headroom_free(&ingest->headroom);
    busy_close(ingest->busy);
    ingest->busy = NULL;
    embedders_close(ingest->embedders);
    ingest->embedders = NULL;
    import_spare_free(ingest->spare);
    ingest->spare = NULL;
    ingest->env = NULL;
}

bool ingest_ready(struct ingest *ingest, struct buffer *why)
{
    struct sequencer *s = &ingest->sequencer;
    struct err refusal;
    bool is_away;

    pthread_mutex_lock(&s->lock);
    refusal = s->refusal;
    is_away = sequencer_is_away_locked(s);
    pthread_mutex_unlock(&s->lock);
    /* With a spool it takes plain writes while the log is away. */
    if (refusal.code == ERR_OK || (ingest->spool != NULL && is_away))
        return true;
    if (why->len > 0)
        buffer_append_text(why, ",");
    json_escape(why, refusal.message, strlen(refusal.message));
    return false;
}

static void measure_spool(struct ingest *ingest)
{
    struct spool_status status;
    uint64_t now_us = env_wall_us(ingest->env);
    double age_us = 0;

    if (ingest->spool == NULL)
        return;
    spool_status(ingest->spool, &status);
    if (status.oldest_wall_us != 0 && now_us > status.oldest_wall_us)
        age_us = (double)(now_us - status.oldest_wall_us);
    metric_set(ingest->metrics.spool_records, (double)status.waiting);
    metric_set(ingest->metrics.spool_bytes, (double)(status.waiting_bytes + status.parked_bytes));
    metric_set(ingest->metrics.spool_age, age_us / 1e6);
    metric_set(ingest->metrics.spool_parked, (double)status.parked);
}

void ingest_measure(struct ingest *ingest)
{
    struct sequencer *s = &ingest->sequencer;
    uint64_t used = 0, available = 0;
    size_t queued;
    struct wal *wal;
    bool holder;

    if (ingest->metrics.busy == NULL)
        return;
    trimmer_measure(ingest->trimmer);
    pthread_mutex_lock(&s->lock);
    wal = s->wal;
    holder = s->state == SEQUENCER_HOLDER;
    queued = s->queue.bytes;
    pthread_mutex_unlock(&s->lock);
    if (wal != NULL)
        wal_space(wal, &used, &available);
    metric_set(ingest->metrics.busy, (double)busy_count(ingest->busy));
    metric_set(ingest->metrics.collections, (double)catalogue_count(&ingest->catalogue));
    metric_set(ingest->metrics.wal_used, (double)used);
    metric_set(ingest->metrics.wal_free, (double)available);
    metric_set(ingest->metrics.holder, holder);
    metric_set(s->metrics.queue, (double)queued);
    measure_spool(ingest);
}
