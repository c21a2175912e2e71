/* The row map of the metadata store: how many shards and replicas there are, and who serves what.
 *
 * Written by operators and by `vicinal up`, by compare and swap; followed by everybody else. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/cluster.h"
#include "common/http/json_doc.h"

/* P from the row deployment. */
static enum err_code read_partitions(struct meta *meta, uint32_t *partitions, struct err *err)
{
    struct meta_row row = {0};
    json_t *document = NULL;
    uint64_t count = 0;
    enum err_code rc = meta_get(meta, "deployment", &row, err);

    if (rc != ERR_OK)
        return rc;
    rc = json_doc_parse(&document, row.value, row.value_len, err);
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "partitions", 1, PARTITIONS_MAX, &count, err);
    if (rc == ERR_OK && count == 0)
        rc = err_set(err, ERR_CORRUPT, "metadata row deployment says no partitions");
    json_decref(document);
    meta_row_free(&row);
    *partitions = (uint32_t)count;
    return rc == ERR_OK ? ERR_OK : err_wrap(err, "metadata row deployment");
}

/* The map as it stands, and the version to put against; without one, zeroed. */
static enum err_code read_map(struct meta *meta, struct shard_map *map, uint64_t *expected,
                              struct err *err)
{
    struct meta_row row = {0};
    enum err_code rc = meta_get(meta, "map", &row, err);

    *expected = META_ABSENT;
    if (rc == ERR_NOT_FOUND)
        return ERR_OK;
    if (rc == ERR_OK) {
        rc = shard_map_decode(map, row.value, row.value_len, err);
        *expected = row.version;
    }
    meta_row_free(&row);
    return rc;
}

static enum err_code write_map(struct meta *meta, const struct shard_map *map, uint64_t expected,
                               struct err *err)
{
    struct buffer value = {0};
    enum err_code rc;

    shard_map_encode(map, &value);
    if ((rc = buffer_check(&value, err)) == ERR_OK)
        rc = meta_put(
            meta,
            &(struct meta_put){
                .key = "map", .value = value.data, .value_len = value.len, .expected = expected},
            NULL, err);
    buffer_free(&value);
    return rc;
}

/* Another shard would have to build its new partitions from the log's beginning, which is not there
 * any more. */
static enum err_code check_move(struct meta *meta, const struct shard_map *old,
                                const struct shard_map *map, struct err *err)
{
    struct meta_row row = {0};
    enum err_code rc;

    if (old->version == 0 || (old->partitions == map->partitions &&
                              memcmp(old->shard_of, map->shard_of, sizeof(map->shard_of)) == 0))
        return ERR_OK;
    rc = meta_get(meta, CLUSTER_TRIMMED_KEY, &row, err);
    meta_row_free(&row);
    if (rc == ERR_OK)
        return err_set(err, ERR_CONFIG,
                       "the log has been trimmed, so partitions cannot move between shards: there "
                       "are %u, and have to stay so many",
                       old->shards);
    if (rc == ERR_NOT_FOUND)
        err_clear(err);
    return rc == ERR_NOT_FOUND ? ERR_OK : rc;
}

enum err_code cluster_place(struct meta *meta, uint32_t shards, uint32_t replicas, struct err *err)
{
    struct shard_map *map = calloc(2, sizeof(*map));
    struct shard_map *old = map + 1;
    uint64_t expected = META_ABSENT;
    enum err_code rc;

    assert(shards >= 1 && shards <= SHARDS_MAX);
    assert(replicas >= 1 && replicas <= REPLICAS_MAX);
    if (map == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the map");
    rc = read_partitions(meta, &map->partitions, err);
    if (rc == ERR_OK)
        rc = read_map(meta, old, &expected, err);
    if (rc == ERR_OK) {
        map->shards = shards;
        map->replicas = replicas;
        map->version = old->version + 1;
        for (uint32_t i = 0; i < shards; i++)
            map->weights[i] = 1;
        for (uint32_t i = 0; i < replicas; i++)
            map->replica_weights[i] = i < old->replicas ? old->replica_weights[i] : 1;
        shard_map_place(map);
        rc = check_move(meta, old, map, err);
        if (rc != ERR_OK) {
            free(map);
            return rc;
        }
        if (old->version == 0 || old->shards != shards || old->replicas != replicas ||
            old->partitions != map->partitions ||
            memcmp(old->shard_of, map->shard_of, sizeof(map->shard_of)) != 0)
            rc = write_map(meta, map, expected, err);
    }
    free(map);
    return rc;
}

enum err_code cluster_weigh(struct meta *meta, const uint32_t *weights, uint32_t count,
                            struct err *err)
{
    struct shard_map *map = calloc(1, sizeof(*map));
    uint64_t expected = META_ABSENT;
    enum err_code rc;

    if (map == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the map");
    rc = read_map(meta, map, &expected, err);
    if (rc == ERR_OK && count != map->replicas)
        rc = err_set(err, ERR_CONFIG, "%u weights for %u replicas", count, map->replicas);
    if (rc == ERR_OK && memcmp(map->replica_weights, weights, count * sizeof(weights[0])) != 0) {
        memcpy(map->replica_weights, weights, count * sizeof(weights[0]));
        map->version++;
        rc = write_map(meta, map, expected, err);
    }
    free(map);
    return rc;
}
