/* GET /internal/v1/status: what this replica serves and how far it is, all of one moment.  Router
 * and ingest ask for it every 100 ms. */
#include <stdio.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "services/shard/ask.h"

static const char *state_name(enum shard_state state)
{
    switch (state) {
    case SHARD_STARTING:
        return "starting";
    case SHARD_READY:
        return "ready";
    case SHARD_FAILED:
        return "failed";
    }
    return "failed";
}

static void write_digest(struct json_writer *w, struct hash128 digest)
{
    char text[33];

    snprintf(text, sizeof(text), "%016llx%016llx", (unsigned long long)digest.high,
             (unsigned long long)digest.low);
    json_text(w, text);
}

static void write_partition_locked(const struct shard *shard, struct json_writer *w, uint32_t slot,
                                   uint64_t now_ns)
{
    const struct shard_partition *partition = &shard->partitions[slot];
    uint64_t staleness_ns = freshness_of_locked(shard, slot, now_ns);

    json_begin_object(w);
    json_key(w, "partition");
    json_u64(w, shard->partition_of[slot]);
    json_key(w, "position");
    json_u64(w, partition->position);
    json_key(w, "data");
    json_u64(w, partition->data);
    json_key(w, "staleness_ms");
    if (staleness_ns == NEVER_NS)
        json_put_null(w);
    else
        json_double(w, (double)(staleness_ns / NS_PER_US) / 1000.0);
    json_key(w, "epoch");
    json_u64(w, partition->epoch);
    json_key(w, "digest");
    write_digest(w, partition->counts.digest);
    json_key(w, "live");
    json_u64(w, partition->counts.live);
    json_key(w, "tombstones");
    json_u64(w, partition->counts.tombstones);
    json_end_object(w);
}

static void write_collection_locked(const struct shard *shard, struct json_writer *w,
                                    const struct shard_collection *entry)
{
    char incarnation[2 * INCARNATION_BYTES + 1];
    uint64_t count = 0;

    for (uint32_t slot = 0; slot < shard->served_count; slot++)
        count += entry->parts[slot].live;
    text_hex_encode(incarnation, entry->definition.incarnation, INCARNATION_BYTES);
    json_begin_object(w);
    json_key(w, "incarnation");
    json_text(w, incarnation);
    json_key(w, "count");
    json_u64(w, count);
    json_key(w, "linked");
    json_u64(w, engine_linked(entry->engine));
    json_key(w, "cold");
    json_u64(w, engine_cold(entry->engine));
    json_key(w, "covered");
    json_u64(w, engine_covered(entry->engine));
    json_key(w, "maintaining");
    json_bool(w, entry->is_maintained);
    json_key(w, "memory_bytes");
    json_u64(w, engine_memory_used(entry->engine));
    json_key(w, "changes");
    json_begin_array(w);
    for (uint32_t slot = 0; slot < shard->served_count; slot++) {
        if (entry->parts[slot].changed == 0)
            continue;
        json_begin_array(w);
        json_u64(w, shard->partition_of[slot]);
        json_u64(w, entry->parts[slot].changed);
        json_end_array(w);
    }
    json_end_array(w);
    json_end_object(w);
}

/* Caller holds the lock.  Only memory is written to. */
static void write_status_locked(const struct shard *shard, struct json_writer *w, uint64_t now_ns)
{
    json_begin_object(w);
    json_key(w, "shard");
    json_u64(w, shard->setup.shard);
    json_key(w, "replica");
    json_u64(w, shard->setup.replica);
    json_key(w, "region");
    json_u64(w, shard->region);
    json_key(w, "map_version");
    json_u64(w, shard->map_version);
    json_key(w, "state");
    json_text(w, state_name(shard->state));
    json_key(w, "detail");
    json_text(w, shard->detail);
    json_key(w, "partitions");
    json_begin_array(w);
    for (uint32_t slot = 0; slot < shard->served_count; slot++)
        write_partition_locked(shard, w, slot, now_ns);
    json_end_array(w);
    json_key(w, "collections");
    json_begin_array(w);
    for (uint32_t i = 0; shard->served_count > 0 && i < shard->collection_count; i++) {
        const struct shard_collection *entry = shard->collections[i];

        if (entry->is_published && entry->engine != NULL)
            write_collection_locked(shard, w, entry);
    }
    json_end_array(w);
    json_end_object(w);
}

enum err_code status_handle(struct request *req)
{
    struct shard *shard = req->state;
    uint64_t now_ns = env_boot_ns(shard->env);
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    pthread_mutex_lock(&shard->lock);
    write_status_locked(shard, &w, now_ns);
    pthread_mutex_unlock(&shard->lock);
    return buffer_check(&req->reply.body, &req->err);
}
