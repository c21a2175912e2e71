/* GET /internal/v1/status: every peer, how far behind it we are, and why. */
#include "common/base/json_writer.h"
#include "services/replicator/replicator.h"

static void write_lag(struct json_writer *w, uint64_t lag_ms)
{
    json_key(w, "lag_ms");
    if (lag_ms == LAG_NEVER)
        json_put_null(w);
    else
        json_u64(w, lag_ms);
}

static void write_time(struct json_writer *w, const char *key, double ms)
{
    json_key(w, key);
    if (ms < 0)
        json_put_null(w);
    else
        json_double(w, ms);
}

static void write_partitions(struct json_writer *w, const struct peer *peer)
{
    json_key(w, "partitions");
    json_begin_array(w);
    for (uint32_t i = 0; i < peer->view_count; i++) {
        json_begin_object(w);
        json_key(w, "partition");
        json_u64(w, i);
        json_key(w, "end");
        json_u64(w, peer->views[i].end);
        json_key(w, "applied");
        json_u64(w, peer->views[i].applied);
        json_key(w, "held");
        json_u64(w, peer->views[i].held);
        json_end_object(w);
    }
    json_end_array(w);
}

static void write_peer(struct json_writer *w, const struct peer *peer)
{
    struct lag_summary summary;

    lag_summarise_locked(peer, &summary);
    json_begin_object(w);
    json_key(w, "name");
    json_text(w, peer->row.name);
    json_key(w, "number");
    json_u64(w, peer->view_number);
    json_key(w, "own_number");
    json_u64(w, peer->own_number);
    json_key(w, "state");
    json_text(w, peer_state_text(peer->state));
    json_key(w, "detail");
    json_text(w, peer->detail);
    write_lag(w, summary.lag_ms);
    json_key(w, "lag_records");
    json_u64(w, summary.lag_records);
    json_key(w, "propagation_ms");
    json_begin_object(w);
    write_time(w, "p50", summary.p50_ms);
    write_time(w, "p99", summary.p99_ms);
    json_end_object(w);
    write_partitions(w, peer);
    json_end_object(w);
}

enum err_code handle_replicator_status(struct request *req)
{
    struct replicator *replicator = req->state;
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "region");
    json_text(&w, replicator->setup.region);
    json_key(&w, "peers");
    json_begin_array(&w);
    pthread_mutex_lock(&replicator->lock);
    for (const struct peer *peer = replicator->peers; peer != NULL; peer = peer->next)
        write_peer(&w, peer);
    pthread_mutex_unlock(&replicator->lock);
    json_end_array(&w);
    json_end_object(&w);
    return ERR_OK;
}
