/* Asking who needs the log: see trim_holders.h.
 *
 * Which replicas there are say the map and the rows of the nodes: those that the map wants have to
 * answer; one beyond it counts while it answers, for it may be about to join.  How far the other
 * regions are says our replicator, which reads their logs (replicator/held.c). */
#include "services/ingest/trim_holders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/cluster.h"
#include "cluster/regions.h"
#include "common/base/checked.h"
#include "common/http/json_doc.h"
#include "common/model/shard_map.h"

#define STATUS_NS        (2 * NS_PER_S)
#define STATUS_BYTES_MAX MIB(64)
#define URL_BYTES        256
#define HOLDERS_MAX      10000

void holders_free(struct holders *holders)
{
    for (size_t i = 0; i < holders->count; i++) {
        free(holders->items[i].passed);
        snapshot_free(&holders->items[i].snapshot);
    }
    free(holders->items);
    *holders = (struct holders){0};
}

/* NULL: no memory.  Until the next one is added. */
static struct holder *add_holder(struct holders *holders, enum holder_kind kind)
{
    if (holders->count == holders->size) {
        size_t size = MAX_OF(2 * holders->size, (size_t)8);
        void *grown =
            size > HOLDERS_MAX ? NULL : array_resize(holders->items, size, sizeof(*holders->items));

        if (grown == NULL)
            return NULL;
        holders->items = grown;
        holders->size = size;
    }
    holders->items[holders->count] = (struct holder){.kind = kind};
    return &holders->items[holders->count++];
}

/* What is not said of a partition holds nothing back. */
static uint64_t *new_positions(const struct holders_setup *setup)
{
    uint64_t *positions = array_alloc(setup->partitions, sizeof(*positions));

    for (uint32_t p = 0; positions != NULL && p < setup->partitions; p++)
        positions[p] = UINT64_MAX;
    return positions;
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to ask who needs the log");
}

/* --- asking ------------------------------------------------------------------------------------
 */

/* A row's "url", or "". */
static void url_of(const struct meta_row *row, char out[URL_BYTES])
{
    json_t *document = NULL;
    const char *url = NULL;

    out[0] = '\0';
    if (json_doc_parse(&document, row->value, row->value_len, NULL) == ERR_OK)
        url = json_string_value(json_object_get(document, "url"));
    if (url != NULL && strlen(url) < URL_BYTES)
        (void)snprintf(out, URL_BYTES, "%s", url);
    json_decref(document);
}

/* The status of a node; *out is owned. */
static enum err_code ask_status(const struct holders_setup *setup, const char *url, json_t **out,
                                struct err *err)
{
    struct http_call call = {
        .method = "GET", .base = url, .path = "/internal/v1/status", .reply_max = STATUS_BYTES_MAX};
    enum err_code code;

    *out = NULL;
    if (setup->client == NULL)
        return err_set(err, ERR_UNAVAILABLE, "nobody can be asked");
    (void)http_call_one(setup->client, &call, env_boot_ns(setup->env) + STATUS_NS);
    code = http_call_expect(&call, err);
    if (code == ERR_OK)
        code = json_doc_parse(out, call.reply.data, call.reply.len, err);
    http_call_free(&call);
    return code;
}

/* A list of {"partition":p, KEY:n} into the positions.  False: it says not enough.  served: NULL:
 * all partitions have to be there. */
static bool read_positions(const struct holders_setup *setup, const json_t *list, const char *key,
                           const struct partition_set *served, uint64_t *positions)
{
    struct partition_set seen = {0};
    bool is_all = true;

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i), *value = json_object_get(entry, key);
        json_int_t p = json_integer_value(json_object_get(entry, "partition"));

        if (p < 0 || p >= (json_int_t)setup->partitions || !json_is_integer(value) ||
            json_integer_value(value) < 0)
            return false;
        positions[p] = (uint64_t)json_integer_value(value);
        partition_set_add(&seen, (uint32_t)p);
    }
    for (uint32_t p = 0; p < setup->partitions; p++)
        is_all = is_all &&
                 (partition_set_has(&seen, p) || (served != NULL && !partition_set_has(served, p)));
    return is_all;
}

/* --- replicas ----------------------------------------------------------------------------------
 */

static enum err_code ask_replica(const struct holders_setup *setup, const char *url,
                                 const struct partition_set *served, uint64_t *positions,
                                 struct err *why)
{
    json_t *status = NULL;
    enum err_code code = ask_status(setup, url, &status, why);

    if (code == ERR_OK &&
        (json_integer_value(json_object_get(status, "region")) != (json_int_t)setup->region ||
         !read_positions(setup, json_object_get(status, "partitions"), "synced", served,
                         positions)))
        code = err_set(why, ERR_UNAVAILABLE, "it does not serve its partitions of this log yet");
    json_decref(status);
    return code;
}

/* is_wanted: by the map; one that is not holds back nothing when it does not answer. */
static enum err_code gather_replica(const struct holders_setup *setup, struct holders *out,
                                    const struct meta_row *row, const struct partition_set *served,
                                    bool is_wanted, struct err *err)
{
    uint64_t *positions = new_positions(setup);
    struct holder *holder;
    struct err why = {0};
    char url[URL_BYTES];
    enum err_code code;

    if (positions == NULL)
        return no_memory(err);
    url_of(row, url);
    code = ask_replica(setup, url, served, positions, &why);
    holder = code == ERR_OK || is_wanted ? add_holder(out, HOLDER_REPLICA) : NULL;
    if (holder == NULL) {
        free(positions);
        return code == ERR_OK || is_wanted ? no_memory(err) : ERR_OK;
    }
    (void)snprintf(holder->name, sizeof(holder->name), "replica %.60s",
                   row->key + strlen("node/shard/"));
    if (code == ERR_OK) {
        holder->passed = positions;
        return ERR_OK;
    }
    (void)snprintf(holder->why, sizeof(holder->why), "does not tell: %.200s", why.message);
    free(positions);
    return ERR_OK;
}

/* The map wants a replica that has never registered. */
static enum err_code add_missing(struct holders *out, const char *name, struct err *err)
{
    struct holder *holder = add_holder(out, HOLDER_REPLICA);

    if (holder == NULL)
        return no_memory(err);
    (void)snprintf(holder->name, sizeof(holder->name), "replica %s", name);
    (void)snprintf(holder->why, sizeof(holder->why), "is not registered");
    return ERR_OK;
}

static enum err_code gather_replicas(const struct holders_setup *setup, struct holders *out,
                                     const struct shard_map *map, struct err *err)
{
    enum err_code code = ERR_OK;

    for (uint32_t s = 0; code == ERR_OK && s < map->shards; s++) {
        struct partition_set served;

        shard_map_partitions(map, s, &served);
        for (uint32_t r = 0; code == ERR_OK && r < REPLICAS_MAX; r++) {
            char key[64], name[32];
            struct meta_row row = {0};

            if (setup->is_stopping(setup->context))
                return err_set(err, ERR_DEAD, "shutting down");
            cluster_replica_name(name, s, r);
            (void)snprintf(key, sizeof(key), "node/shard/%s", name);
            code = meta_get(setup->meta, key, &row, err);
            if (code == ERR_OK) {
                code = gather_replica(setup, out, &row, &served, r < map->replicas, err);
            } else if (code == ERR_NOT_FOUND) {
                err_clear(err);
                code = r < map->replicas ? add_missing(out, name, err) : ERR_OK;
            }
            meta_row_free(&row);
        }
    }
    return code;
}

/* --- snapshots ---------------------------------------------------------------------------------
 */

static enum err_code gather_snapshot(const struct holders_setup *setup, struct holders *out,
                                     uint32_t shard, const struct partition_set *served,
                                     struct err *err)
{
    struct snapshot_wanted wanted = {.region = setup->region, .shard = shard, .served = served};
    struct holder *holder = add_holder(out, HOLDER_SNAPSHOT);
    struct err why = {0};
    enum err_code code;

    if (holder == NULL)
        return no_memory(err);
    (void)snprintf(holder->name, sizeof(holder->name), "snapshot of shard %u", shard);
    if (setup->blob == NULL)
        code = err_set(&why, ERR_NOT_FOUND, "there is no blob store (--blob)");
    else
        code = snapshots_newest(setup->blob, &wanted, &holder->snapshot, &why);
    if (code != ERR_OK) {
        (void)snprintf(holder->why, sizeof(holder->why), "is not there: %.200s", why.message);
        return ERR_OK;
    }
    holder->passed = new_positions(setup);
    if (holder->passed == NULL)
        return no_memory(err);
    for (size_t i = 0; i < holder->snapshot.partition_count; i++) {
        const struct snapshot_partition *partition = &holder->snapshot.partitions[i];

        if (partition->partition < setup->partitions)
            holder->passed[partition->partition] = partition->position;
    }
    return ERR_OK;
}

/* --- regions -----------------------------------------------------------------------------------
 */

/* What our replicator says; NULL, with why, when it does not. */
static json_t *ask_replicator(const struct holders_setup *setup, struct err *why)
{
    struct meta_row *rows = NULL;
    size_t count = 0;
    json_t *status = NULL;
    enum err_code code = meta_list(setup->meta, "node/replicator/", &rows, &count, why);

    if (code == ERR_OK && count == 0)
        (void)err_set(why, ERR_UNAVAILABLE, "there is no replicator");
    for (size_t i = 0; code == ERR_OK && i < count && status == NULL; i++) {
        char url[URL_BYTES];

        url_of(&rows[i], url);
        err_clear(why);
        (void)!ask_status(setup, url, &status, why); /* why says */
    }
    meta_rows_free(rows, count);
    return status;
}

static bool read_region(const struct holders_setup *setup, const json_t *status, const char *name,
                        uint64_t *positions)
{
    const json_t *peers = json_object_get(status, "peers");

    for (size_t i = 0; i < json_array_size(peers); i++) {
        const json_t *peer = json_array_get(peers, i);
        const char *its = json_string_value(json_object_get(peer, "name"));

        if (its != NULL && strcmp(its, name) == 0)
            return json_integer_value(json_object_get(peer, "own_number")) ==
                       (json_int_t)setup->region &&
                   read_positions(setup, json_object_get(peer, "partitions"), "held", NULL,
                                  positions);
    }
    return false;
}

static enum err_code add_region(const struct holders_setup *setup, struct holders *out,
                                const char *name, const json_t *status, const struct err *why,
                                struct err *err)
{
    struct holder *holder = add_holder(out, HOLDER_REGION);

    if (holder == NULL)
        return no_memory(err);
    (void)snprintf(holder->name, sizeof(holder->name), "region %s", name);
    holder->passed = new_positions(setup);
    if (holder->passed == NULL)
        return no_memory(err);
    if (read_region(setup, status, name, holder->passed)) {
        /* It needs what stands at its position, and no record before to prove anything. */
        for (uint32_t p = 0; p < setup->partitions; p++)
            holder->passed[p]++;
        return ERR_OK;
    }
    free(holder->passed);
    holder->passed = NULL;
    (void)snprintf(holder->why, sizeof(holder->why), "how far it is cannot be told: %.200s",
                   status == NULL ? why->message : "the replicator has not read its log yet");
    return ERR_OK;
}

static enum err_code gather_regions(const struct holders_setup *setup, struct holders *out,
                                    struct err *err)
{
    struct region_row *rows = NULL;
    size_t count = 0, others = 0;
    json_t *status = NULL;
    struct err why = {0};
    enum err_code code = regions_read(setup->meta, &rows, &count, err);

    for (size_t i = 0; code == ERR_OK && i < count; i++)
        others += !rows[i].is_self;
    if (code == ERR_OK && others > 0)
        status = ask_replicator(setup, &why);
    for (size_t i = 0; code == ERR_OK && i < count; i++)
        if (!rows[i].is_self)
            code = add_region(setup, out, rows[i].name, status, &why, err);
    json_decref(status);
    free(rows);
    return code;
}

/* --- all ---------------------------------------------------------------------------------------
 */

static enum err_code read_map(const struct holders_setup *setup, struct shard_map *map,
                              struct err *err)
{
    struct meta_row row = {0};
    enum err_code code = meta_get(setup->meta, "map", &row, err);

    if (code == ERR_OK)
        code = shard_map_decode(map, row.value, row.value_len, err);
    meta_row_free(&row);
    if (code == ERR_OK && map->partitions != setup->partitions)
        code = err_set(err, ERR_CONFIG, "the map has %u partitions, the log %u", map->partitions,
                       setup->partitions);
    return code;
}

enum err_code holders_gather(const struct holders_setup *setup, struct holders *out,
                             struct err *err)
{
    struct shard_map *map = array_alloc(1, sizeof(*map));
    enum err_code code = map == NULL ? no_memory(err) : read_map(setup, map, err);

    *out = (struct holders){0};
    if (code == ERR_OK)
        code = gather_replicas(setup, out, map, err);
    for (uint32_t s = 0; code == ERR_OK && s < map->shards; s++) {
        struct partition_set served;

        shard_map_partitions(map, s, &served);
        code = gather_snapshot(setup, out, s, &served, err);
    }
    if (code == ERR_OK)
        code = gather_regions(setup, out, err);
    free(map);
    if (code != ERR_OK)
        holders_free(out);
    return code;
}
