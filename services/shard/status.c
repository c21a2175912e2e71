/* GET /internal/v1/status: what this replica serves and how far it is, all of one moment.  Router
 * and ingest ask for it every 100 ms. */
#include "common/base/checked.h"
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
    json_key(w, "synced");
    json_u64(w, partition->synced);
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
    digest_write(w, partition->counts.digest);
    json_key(w, "live");
    json_u64(w, partition->counts.live);
    json_key(w, "tombstones");
    json_u64(w, partition->counts.tombstones);
    json_key(w, "marks");
    json_begin_array(w);
    for (size_t i = 0; i < APPLY_MARKS && partition->marks[i].position > 0; i++) {
        json_begin_array(w);
        json_u64(w, partition->marks[i].position);
        digest_write(w, partition->marks[i].digest);
        json_end_array(w);
    }
    json_end_array(w);
    json_end_object(w);
}

/* Bytes that all indexes want, and what is left below the limit.  Caller holds the lock. */
struct memory {
    uint64_t limit; /* 0: there is none */
    uint64_t wanted, left;
};

static struct memory memory_locked(const struct shard *shard)
{
    struct memory memory = {.limit = shard->setup.memory_bytes};

    if (memory.limit == 0)
        return memory;
    for (uint32_t i = 0; i < shard->collection_count; i++)
        if (shard->collections[i]->engine != NULL)
            memory.wanted += engine_memory_wanted(shard->collections[i]->engine);
    memory.left = memory.limit - MIN_OF(memory.limit, memory.wanted);
    return memory;
}

static void write_memory(struct json_writer *w, const struct memory *memory)
{
    json_key(w, "memory");
    json_begin_object(w);
    json_key(w, "limit_bytes");
    json_u64(w, memory->limit);
    json_key(w, "wanted_bytes");
    json_u64(w, memory->wanted);
    json_end_object(w);
}

static void write_collection_locked(const struct shard *shard, struct json_writer *w,
                                    const struct shard_collection *entry,
                                    const struct memory *memory)
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
    if (memory->limit > 0) {
        json_key(w, "room");
        json_u64(w, engine_room(entry->engine, memory->left));
    }
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
    struct memory memory = memory_locked(shard);

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
    if (memory.limit > 0)
        write_memory(w, &memory);
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
            write_collection_locked(shard, w, entry, &memory);
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
