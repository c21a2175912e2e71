/* Which replica of a shard is asked.
 *
 * Those that are as healthy as any and have what the question demands come first.  Among them the
 * map says whom the question belongs to (shard_map_pull): questions about one collection under one
 * filter go to one replica, whose caches know them.  That replica is passed over while it has more
 * than 1.25 times its share of what is under way, so one busy collection is served by all.  Source:
 * Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", arXiv 1608.01350.
 *
 * Nobody is excluded: a replica that is out is asked when all others have failed. */
#include "cluster/internal.h"

#include "common/base/hash.h"

enum rank {
    RANK_HEALTH = 1000, /* times health_rank */
    RANK_AVOIDED = 500,
    RANK_STALE = 200,
    RANK_BEHIND = 100,
    RANK_LOADED = 1
};

uint64_t pick_key(const struct wire_question *question)
{
    uint64_t key = hash_xxh64(question->incarnation, INCARNATION_BYTES, 0);

    if (question->filter_len > 0)
        key = hash_xxh64(question->filter, question->filter_len, key);
    return key;
}

/* What the question demands and the replica, as far as it told, cannot give at once. */
static uint32_t rank_of_demands_locked(const struct pick *pick, const struct report *report)
{
    const struct wire_question *question = pick->question;
    uint32_t rank = 0;

    for (size_t i = 0; report != NULL && i < question->demands.count; i++) {
        const struct token_entry *entry = &question->demands.entries[i];

        if (entry->region == report->region && entry->partition < PARTITIONS_MAX &&
            partition_set_has(&report->serves, entry->partition) &&
            report->position[entry->partition] < entry->position) {
            rank = RANK_BEHIND;
            break;
        }
    }
    if (report == NULL || question->max_staleness_ns == NEVER_NS)
        return rank;
    for (uint32_t p = 0; p < pick->view->map.partitions; p++)
        if (partition_set_has(&report->serves, p) &&
            report->staleness_ns[p] > question->max_staleness_ns)
            return rank + RANK_STALE;
    return rank;
}

/* Does the replica have more under way than 1.25 times its share, this question included? */
static bool is_loaded(const struct pick *pick, const struct replica_state *states, uint32_t replica)
{
    const struct shard_map *map = &pick->view->map;
    uint64_t total = 1, weight = 0;

    for (uint32_t i = 0; i < map->replicas; i++) {
        if (health_rank(&states[i].health) > 0)
            continue;
        total += states[i].health.in_flight;
        weight += map->replica_weights[i];
    }
    return 4 * states[replica].health.in_flight * weight >=
           5 * total * map->replica_weights[replica];
}

bool pick_replica(struct cluster *cluster, const struct pick *pick, uint32_t *tried, uint32_t *out)
{
    const struct shard_map *map = &pick->view->map;
    struct replica_state *states = &cluster->replicas[pick->shard * REPLICAS_MAX];
    uint32_t best = map->replicas, best_rank = UINT32_MAX;
    double best_pull = -1;

    pthread_mutex_lock(&cluster->mutex);
    for (uint32_t replica = 0; replica < map->replicas; replica++) {
        double pull = shard_map_pull(map, pick->key, pick->shard, replica);
        uint32_t rank = health_rank(&states[replica].health);

        if ((*tried >> replica & 1) != 0 || view_url(pick->view, pick->shard, replica)[0] == '\0' ||
            (pick->wants_healthy && rank > 0))
            continue;
        rank = rank * RANK_HEALTH + rank_of_demands_locked(pick, states[replica].report);
        if ((pick->avoided >> replica & 1) != 0)
            rank += RANK_AVOIDED;
        if (is_loaded(pick, states, replica))
            rank += RANK_LOADED;
        if (rank < best_rank || (rank == best_rank && pull > best_pull)) {
            best = replica;
            best_rank = rank;
            best_pull = pull;
        }
    }
    if (best < map->replicas)
        health_asked(&states[best].health);
    pthread_mutex_unlock(&cluster->mutex);
    if (best == map->replicas)
        return false;
    *tried |= 1u << best;
    *out = best;
    return true;
}

bool pick_is_left(const struct view *view, uint32_t shard, uint32_t tried)
{
    for (uint32_t replica = 0; replica < view->map.replicas; replica++)
        if ((tried >> replica & 1) == 0 && view_url(view, shard, replica)[0] != '\0')
            return true;
    return false;
}
