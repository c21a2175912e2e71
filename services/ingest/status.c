/* GET /internal/v1/status: what `vicinal status` and tests look at. */
#include <stdlib.h>

#include "common/base/json_writer.h"
#include "services/ingest/ingest.h"

static enum region_role role_of(const struct ingest *ingest)
{
    return ingest->setup.cluster == NULL ? REGION_ACTIVE : cluster_role(ingest->setup.cluster);
}

enum err_code ingest_admit(struct ingest *ingest, bool *counted, struct err *err)
{
    atomic_fetch_add(&ingest->writes, 1);
    *counted = true;
    return ingest->setup.cluster == NULL ? ERR_OK : cluster_check_role(ingest->setup.cluster, err);
}

void ingest_leave(struct ingest *ingest, bool *counted)
{
    if (*counted)
        atomic_fetch_sub(&ingest->writes, 1);
    *counted = false;
}

static void write_partitions(struct sequencer *s, struct json_writer *w)
{
    uint32_t partitions;
    struct line_view *views = sequencer_views(s, &partitions);

    json_key(w, "partitions");
    json_begin_array(w);
    for (uint32_t i = 0; views != NULL && i < partitions; i++) {
        json_begin_object(w);
        json_key(w, "partition");
        json_u64(w, i);
        json_key(w, "epoch");
        json_u64(w, views[i].epoch);
        json_key(w, "end");
        json_u64(w, views[i].end);
        json_key(w, "clock");
        json_u64(w, views[i].clock);
        json_end_object(w);
    }
    json_end_array(w);
    free(views);
}

static void write_spool(struct ingest *ingest, const struct spool_status *spool,
                        struct json_writer *w)
{
    uint64_t now_us = env_wall_us(ingest->env), oldest_us = spool->oldest_wall_us;

    json_key(w, "spool");
    json_begin_object(w);
    json_key(w, "records");
    json_u64(w, spool->waiting);
    json_key(w, "bytes");
    json_u64(w, spool->waiting_bytes);
    json_key(w, "oldest_seconds");
    json_double(w, oldest_us == 0 || now_us < oldest_us ? 0 : (double)(now_us - oldest_us) / 1e6);
    json_key(w, "parked_records");
    json_u64(w, spool->parked);
    json_key(w, "parked_bytes");
    json_u64(w, spool->parked_bytes);
    json_key(w, "broken");
    json_bool(w, spool->broken);
    json_end_object(w);
}

enum err_code handle_status(struct request *req)
{
    static const char *const STATES[] = {"standby", "recovering", "holder"};
    struct ingest *ingest = req->state;
    struct sequencer *s = &ingest->sequencer;
    uint64_t used = 0, available = 0, queued, writes;
    enum sequencer_state state;
    struct spool_status spool = {0};
    struct err refusal;
    struct wal *wal;
    struct json_writer w;

    pthread_mutex_lock(&s->lock);
    state = s->state;
    refusal = s->refusal;
    queued = s->queue.count;
    wal = s->wal;
    pthread_mutex_unlock(&s->lock);
    if (wal != NULL)
        wal_space(wal, &used, &available);
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "holder");
    json_bool(&w, state == SEQUENCER_HOLDER);
    json_key(&w, "state");
    json_text(&w, STATES[state]);
    json_key(&w, "detail");
    json_text(&w, refusal.code == ERR_OK ? "" : refusal.message);
    json_key(&w, "region");
    json_u64(&w, wal == NULL ? 0 : s->region);
    /* In this order, and the partitions' ends after them: see ingest_admit. */
    json_key(&w, "role");
    json_text(&w, region_role_text(role_of(ingest)));
    json_key(&w, "writes");
    writes = atomic_load(&ingest->writes);
    if (ingest->spool != NULL)
        spool_status(ingest->spool, &spool);
    json_u64(&w, writes + spool.waiting); /* a write is in the spool before it is not under way */
    json_key(&w, "collections");
    json_u64(&w, catalogue_count(&ingest->catalogue));
    json_key(&w, "busy_ids");
    json_u64(&w, busy_count(ingest->busy));
    json_key(&w, "queued");
    json_u64(&w, queued);
    json_key(&w, "wal_used_bytes");
    json_u64(&w, used);
    json_key(&w, "wal_free_bytes");
    json_u64(&w, available);
    if (ingest->spool != NULL)
        write_spool(ingest, &spool, &w);
    if (ingest->trimmer != NULL)
        trimmer_write(ingest->trimmer, &w);
    write_partitions(s, &w);
    json_end_object(&w);
    return ERR_OK;
}
