/* The shard map: see shard_map.h.
 *
 * Every shard stands on the ring as 64 points per unit of weight; a partition goes clockwise from
 * its own point to the first shard that still has room, where room is 1.25 times the weighted mean,
 * rounded up.  The room of all together is more than there are partitions, so each finds a place.
 * Points depend on shard and partition numbers alone: adding a shard leaves all other points where
 * they are, and moves about its share of the partitions and few others. */
#include "common/model/shard_map.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"

#define POINTS_PER_WEIGHT 64
#define POINT_SEED        0x706f696e74ull
#define PARTITION_SEED    0x70617274ull
#define PULL_SEED         0x70756c6cull

struct ring_point {
    uint64_t at;
    uint32_t shard;
};

static int ring_point_compare(const void *a, const void *b)
{
    const struct ring_point *x = a;
    const struct ring_point *y = b;

    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return (x->shard > y->shard) - (x->shard < y->shard);
}

static uint64_t total_weight(const struct shard_map *map)
{
    uint64_t weight = 0;

    for (uint32_t i = 0; i < map->shards; i++) {
        assert(map->weights[i] >= 1);
        assert(map->weights[i] <= SHARD_WEIGHT_MAX);
        weight += map->weights[i];
    }
    return weight;
}

/* All points of all shards, sorted.  Placing happens at start and by operators: without the few
 * bytes for it there is nothing to go on with. */
static struct ring_point *ring_new(const struct shard_map *map, size_t count)
{
    struct ring_point *ring = array_alloc(count, sizeof(*ring));
    size_t at = 0;

    assert(ring != NULL);
    for (uint32_t shard = 0; shard < map->shards; shard++) {
        for (uint32_t i = 0; i < map->weights[shard] * POINTS_PER_WEIGHT; i++) {
            uint8_t key[8];

            store_u32(key, shard);
            store_u32(key + 4, i);
            ring[at].at = hash_xxh64(key, sizeof(key), POINT_SEED);
            ring[at++].shard = shard;
        }
    }
    assert(at == count);
    qsort(ring, count, sizeof(*ring), ring_point_compare);
    return ring;
}

/* Index of the first point at or behind a place on the ring. */
static size_t ring_find(const struct ring_point *ring, size_t count, uint64_t place)
{
    size_t low = 0;
    size_t high = count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (ring[middle].at < place)
            low = middle + 1;
        else
            high = middle;
    }
    return low == count ? 0 : low;
}

uint32_t shard_map_room(const struct shard_map *map, uint32_t shard)
{
    uint64_t weight = total_weight(map);
    uint64_t share = 5ull * map->partitions * map->weights[shard];

    /* ceil(1.25 * partitions * own weight / all weight) */
    return (uint32_t)((share + 4 * weight - 1) / (4 * weight));
}

void shard_map_place(struct shard_map *map)
{
    uint32_t room[SHARDS_MAX];
    size_t count;
    struct ring_point *ring;

    assert(map->shards >= 1 && map->shards <= SHARDS_MAX);
    assert(map->partitions >= 1 && map->partitions <= PARTITIONS_MAX);
    count = (size_t)total_weight(map) * POINTS_PER_WEIGHT;
    for (uint32_t i = 0; i < map->shards; i++)
        room[i] = shard_map_room(map, i);
    ring = ring_new(map, count);
    for (uint32_t partition = 0; partition < map->partitions; partition++) {
        uint8_t key[4];
        size_t at, steps = 0;

        store_u32(key, partition);
        at = ring_find(ring, count, hash_xxh64(key, sizeof(key), PARTITION_SEED));
        while (room[ring[at].shard] == 0) {
            at = at + 1 == count ? 0 : at + 1;
            steps++;
            assert(steps < count);
        }
        room[ring[at].shard]--;
        map->shard_of[partition] = (uint16_t)ring[at].shard;
    }
    free(ring);
}

void shard_map_partitions(const struct shard_map *map, uint32_t shard, struct partition_set *out)
{
    assert(shard < map->shards);
    *out = (struct partition_set){0};
    for (uint32_t i = 0; i < map->partitions; i++) {
        if (map->shard_of[i] == shard)
            partition_set_add(out, i);
    }
}

double shard_map_pull(const struct shard_map *map, uint64_t key, uint32_t shard, uint32_t replica)
{
    uint8_t bytes[16];
    uint64_t hash;

    assert(shard < map->shards && replica < map->replicas);
    assert(map->replica_weights[replica] >= 1);
    store_u64(bytes, key);
    store_u32(bytes + 8, shard);
    store_u32(bytes + 12, replica);
    hash = hash_xxh64(bytes, sizeof(bytes), PULL_SEED);
    /* A number between 0 and 1, neither included. */
    return -(double)map->replica_weights[replica] / log(((double)(hash >> 12) + 0.5) * 0x1p-52);
}

/* --- JSON ---------------------------------------------------------------------------------- */

static void write_number(struct json_writer *w, const char *key, uint64_t number)
{
    json_key(w, key);
    json_u64(w, number);
}

void shard_map_encode(const struct shard_map *map, struct buffer *out)
{
    struct json_writer w;

    assert(map->shards <= SHARDS_MAX);
    assert(map->partitions <= PARTITIONS_MAX);
    json_writer_init(&w, out);
    json_begin_object(&w);
    write_number(&w, "version", map->version);
    write_number(&w, "partitions", map->partitions);
    write_number(&w, "shards", map->shards);
    write_number(&w, "replicas", map->replicas);
    json_key(&w, "weights");
    json_begin_array(&w);
    for (uint32_t i = 0; i < map->shards; i++)
        json_u64(&w, map->weights[i]);
    json_end_array(&w);
    json_key(&w, "replica_weights");
    json_begin_array(&w);
    for (uint32_t i = 0; i < map->replicas; i++)
        json_u64(&w, map->replica_weights[i]);
    json_end_array(&w);
    json_key(&w, "shard_of");
    json_begin_array(&w);
    for (uint32_t i = 0; i < map->partitions; i++)
        json_u64(&w, map->shard_of[i]);
    json_end_array(&w);
    json_end_object(&w);
}

/* What was read of a map, and how long its lists were. */
struct map_reader {
    struct json_reader json;
    struct shard_map map;
    uint32_t weights;
    uint32_t replica_weights;
    uint32_t placed;
};

static enum err_code read_number(struct json_reader *r, uint32_t max, uint32_t *out)
{
    uint64_t value = 0;
    enum err_code rc = json_read_u64(r, 1, max, &value);

    if (rc == ERR_OK)
        *out = (uint32_t)value;
    return rc;
}

static enum err_code read_weights(struct map_reader *reader, uint32_t *out, uint32_t max,
                                  uint32_t *count)
{
    struct json_reader *r = &reader->json;
    bool more = false;
    enum err_code rc = json_array_begin(r);

    *count = 0;
    while (rc == ERR_OK && (rc = json_array_next(r, &more)) == ERR_OK && more) {
        if (*count == max)
            return err_set(r->err, ERR_CORRUPT, "too many weights");
        rc = read_number(r, SHARD_WEIGHT_MAX, &out[(*count)++]);
    }
    return rc;
}

static enum err_code read_shard_of(struct map_reader *reader)
{
    struct json_reader *r = &reader->json;
    bool more = false;
    enum err_code rc = json_array_begin(r);

    reader->placed = 0;
    while (rc == ERR_OK && (rc = json_array_next(r, &more)) == ERR_OK && more) {
        uint64_t shard = 0;

        if (reader->placed == PARTITIONS_MAX)
            return err_set(r->err, ERR_CORRUPT, "too many partitions");
        rc = json_read_u64(r, 0, SHARDS_MAX - 1, &shard);
        reader->map.shard_of[reader->placed++] = (uint16_t)shard;
    }
    return rc;
}

static enum err_code read_map(struct map_reader *reader)
{
    struct json_reader *r = &reader->json;
    struct shard_map *map = &reader->map;
    struct json_text key = {0};
    bool more = false;
    enum err_code rc = json_object_begin(r);

    while (rc == ERR_OK && (rc = json_object_next(r, &key, &more)) == ERR_OK && more) {
        if (json_text_is(key, "version"))
            rc = json_read_u64(r, 0, UINT64_MAX, &map->version);
        else if (json_text_is(key, "partitions"))
            rc = read_number(r, PARTITIONS_MAX, &map->partitions);
        else if (json_text_is(key, "shards"))
            rc = read_number(r, SHARDS_MAX, &map->shards);
        else if (json_text_is(key, "replicas"))
            rc = read_number(r, REPLICAS_MAX, &map->replicas);
        else if (json_text_is(key, "weights"))
            rc = read_weights(reader, map->weights, SHARDS_MAX, &reader->weights);
        else if (json_text_is(key, "replica_weights"))
            rc = read_weights(reader, map->replica_weights, REPLICAS_MAX, &reader->replica_weights);
        else if (json_text_is(key, "shard_of"))
            rc = read_shard_of(reader);
        else
            rc = json_skip(r, NULL, NULL);
    }
    return rc == ERR_OK ? json_end(r) : rc;
}

static bool is_whole(const struct map_reader *reader)
{
    const struct shard_map *map = &reader->map;

    if (map->partitions == 0 || map->shards == 0 || map->replicas == 0)
        return false;
    if (reader->weights != map->shards || reader->placed != map->partitions ||
        (reader->replica_weights != 0 && reader->replica_weights != map->replicas))
        return false;
    for (uint32_t i = 0; i < map->partitions; i++) {
        if (map->shard_of[i] >= map->shards)
            return false;
    }
    return true;
}

enum err_code shard_map_decode(struct shard_map *out, const void *data, size_t len, struct err *err)
{
    struct map_reader reader = {0};
    struct arena arena = {0};
    struct err inner = {0};
    enum err_code rc;

    json_reader_init(&reader.json, data, len, &arena, &inner);
    rc = read_map(&reader);
    arena_free(&arena);
    if (rc != ERR_OK)
        return err_set(err, rc == ERR_NO_MEMORY ? rc : ERR_CORRUPT, "shard map: %s", inner.message);
    for (uint32_t i = 0; reader.replica_weights == 0 && i < reader.map.replicas; i++)
        reader.map.replica_weights[i] = 1;
    if (!is_whole(&reader))
        return err_set(err, ERR_CORRUPT, "shard map: its numbers do not agree");
    *out = reader.map;
    return ERR_OK;
}
