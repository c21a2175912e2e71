/* What the shards have room for: the newest reports, kept while somebody reckons with them. */
#include "cluster/internal.h"

#include "common/base/checked.h"

/* Longer than HEARD_NS: what has come since the report is reckoned beside it, so an old one only
 * says too little room; without any, a shard that is slow to report would be filled to the brim. */
#define ROOM_HEARD_NS (10 * NS_PER_S)

static void add_room(struct cluster_rooms *out, struct report *report, uint32_t shard,
                     const uint8_t incarnation[INCARNATION_BYTES])
{
    const struct report_collection *collection = report_collection(report, incarnation);

    out->rooms[out->count++] =
        (struct cluster_room){.shard = shard,
                              .limit_bytes = report->memory_limit,
                              .wanted_bytes = report->memory_wanted,
                              .vectors = collection == NULL ? UINT64_MAX : collection->room,
                              .positions = report->position,
                              .report = report};
}

enum err_code cluster_rooms_get(struct cluster *cluster,
                                const uint8_t incarnation[INCARNATION_BYTES],
                                struct cluster_rooms *out, struct err *err)
{
    uint64_t now = env_boot_ns(cluster->env);
    uint32_t total;

    *out = (struct cluster_rooms){0};
    if (!atomic_load_explicit(&cluster->has_limits, memory_order_relaxed))
        return ERR_OK;
    out->view = view_get(cluster);
    out->map = &out->view->map;
    total = out->view->has_map ? out->map->shards * out->map->replicas : 0;
    out->rooms = array_alloc(MAX_OF(total, 1u), sizeof(*out->rooms));
    if (out->rooms == NULL) {
        cluster_rooms_free(out);
        return err_set(err, ERR_NO_MEMORY, "no memory to look for room");
    }
    for (uint32_t i = 0; i < total; i++) {
        uint32_t shard = i / out->map->replicas, replica = i % out->map->replicas;
        struct report *report = report_get(cluster, shard, replica);

        if (report == NULL || report->memory_limit == 0 || now - report->asked_ns > ROOM_HEARD_NS) {
            report_put(report);
            continue;
        }
        add_room(out, report, shard, incarnation);
        out->rooms[out->count - 1].replica = replica;
    }
    return ERR_OK;
}

void cluster_rooms_free(struct cluster_rooms *rooms)
{
    for (size_t i = 0; i < rooms->count; i++)
        report_put(rooms->rooms[i].report);
    free(rooms->rooms);
    if (rooms->view != NULL)
        view_put(rooms->view);
    *rooms = (struct cluster_rooms){0};
}
