/* Which shard serves which partition, and which replicas a shard has.  Pure data, swapped whole.
 *
 * Partitions are placed by a consistent-hash ring of weighted virtual nodes with bounded loads: no
 * shard gets more than 1.25 times its weighted mean.  Source: Mirrokni, Thorup, Zadimoghaddam,
 * "Consistent hashing with bounded loads", arXiv 1608.01350. */
#ifndef VICINAL_MODEL_SHARD_MAP_H
#define VICINAL_MODEL_SHARD_MAP_H

#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/model/position.h"

#define SHARD_WEIGHT_MAX 100

struct shard_map {
    uint64_t version;    /* rises with each change */
    uint32_t partitions; /* of the deployment, fixed */
    uint32_t shards;
    uint32_t replicas;                      /* of each shard; named 0, 1, … */
    uint32_t weights[SHARDS_MAX];           /* ring weight, 1..SHARD_WEIGHT_MAX */
    uint32_t replica_weights[REPLICAS_MAX]; /* of replica 0, 1, … of every shard; likewise */
    uint16_t shard_of[PARTITIONS_MAX];      /* partition -> shard */
};

/* Place all partitions anew by the ring; equal inputs give equal maps.  partitions, shards and
 * weights are set and within their limits.  Aborts without memory. */
void shard_map_place(struct shard_map *map);

/* The most partitions that a shard may get: 1.25 times its weighted mean, rounded up. */
uint32_t shard_map_room(const struct shard_map *map, uint32_t shard);

/* The partitions that a shard serves. */
void shard_map_partitions(const struct shard_map *map, uint32_t shard, struct partition_set *out);

/* How much a replica of a shard draws the questions with this key to itself; the highest is asked
 * first.  Each replica gets keys in proportion to its weight, and a replica that comes or goes
 * moves its own keys only (weighted rendezvous hashing). */
double shard_map_pull(const struct shard_map *map, uint64_t key, uint32_t shard, uint32_t replica);

void shard_map_encode(const struct shard_map *map, struct buffer *out); /* JSON */
/* Unknown members are ignored; without replica_weights all are 1.  Errors: ERR_CORRUPT,
 * ERR_NO_MEMORY. */
MUST_CHECK enum err_code shard_map_decode(struct shard_map *out, const void *data, size_t len,
                                          struct err *err);

#endif
