/* Snapshots, and the logs that are trimmed because of them: what has to hold whenever one is marked
 * or removed, and whenever a log is trimmed; and somebody who asks for both all the time.
 *
 * - A snapshot that is marked is whole, and holds what replicas held at its positions.
 * - A trimmed log begins with version vector records that count.
 * - What was trimmed has come to all other regions.
 * - Of a shard whose log was trimmed there is a verified snapshot that reaches to its beginning, as
 *   long as the log is there.
 *
 * - Every replica has what was trimmed, unless it has got another disk since it was asked; that no
 *   power cut takes it back is seen when they begin (sim_begin.c). */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/snapshots.h"
#include "common/model/shard_map.h"
#include "services/shard/apply.h"
#include "tests/sim/sim.h"

#define FOLDER      "snapshots/"
#define MARK        "/verified"
#define ASK_MIN_NS  (300 * NS_PER_MS)
#define ASK_MAX_NS  (8 * NS_PER_S)
#define LATE_MAX_NS (8 * NS_PER_S)
#define ROUND_NS    (30 * NS_PER_S) /* from the first who is asked until the log is trimmed */

#define LOST_PERCENT 5 /* of a partition's trimmings, besides those that the log loses */

/* --- what there is -----------------------------------------------------------------------------
 */

static bool is_mark(const char *name)
{
    size_t len = strlen(name), end = sizeof(MARK) - 1;

    return len >= end && strcmp(name + len - end, MARK) == 0;
}

/* Which snapshot the object is of; NULL: of none that is a region's. */
static struct sim_region *place_of(struct sim *sim, const char *name, struct snapshot_list *list,
                                   char id[SNAPSHOT_ID_BYTES])
{
    static_assert(SNAPSHOT_ID_BYTES == 24, "as below");
    if (sscanf(name, FOLDER "%8" SCNx32 "/%" SCNu32 "/%23[^/]/", &list->region, &list->shard, id) !=
        3)
        return NULL;
    for (uint32_t i = 0; i < sim->region_count; i++)
        if (sim->regions[i].log.region == list->region)
            return &sim->regions[i];
    return NULL;
}

static bool read_map(struct sim_region *region, struct shard_map *map)
{
    struct meta_row row = {0};
    struct err err = {0};
    bool is_read = meta_get(region->rows, "map", &row, &err) == ERR_OK &&
                   shard_map_decode(map, row.value, row.value_len, &err) == ERR_OK;

    meta_row_free(&row);
    return is_read;
}

/* What a reader proves begins one record before its position. */
static bool reaches(const struct sim_log *log, const struct snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->partition_count; i++) {
        uint64_t first = log->firsts[snapshot->partitions[i].partition];

        if (first > 0 && snapshot->partitions[i].position <= first)
            return false;
    }
    return true;
}

/* Is one of the verified ones whole, and does it reach to the log's beginning? */
static bool has_snapshot(struct sim_region *region, struct blob *blob,
                         const struct snapshot_wanted *which)
{
    struct snapshot_wanted wanted = *which;
    struct snapshot snapshot = {0};
    char id[SNAPSHOT_ID_BYTES];
    struct err err = {0};
    bool is_good = false;

    while (!is_good && snapshots_newest(blob, &wanted, &snapshot, &err) == ERR_OK) {
        (void)snprintf(id, sizeof(id), "%s", snapshot.id);
        wanted.before = id;
        is_good = reaches(&region->log, &snapshot) &&
                  snapshot_check(blob, &snapshot, NULL, NULL, &err) == ERR_OK;
        snapshot_free(&snapshot);
        err_clear(&err);
    }
    return is_good;
}

static void check_snapshots(struct sim_region *region)
{
    static struct shard_map map; /* nothing else runs meanwhile */
    struct sim *sim = region->sim;
    struct blob *blob;

    if (region->log.trimmed_ns == 0 || !read_map(region, &map))
        return;
    blob = sim_blob_open(&sim->world_node);
    for (uint32_t shard = 0; shard < map.shards; shard++) {
        struct partition_set served;
        struct snapshot_wanted wanted = {
            .region = region->log.region, .shard = shard, .served = &served};

        shard_map_partitions(&map, shard, &served);
        if (!has_snapshot(region, blob, &wanted))
            sim_fail(sim,
                     "the log of region %s was trimmed, and no snapshot of shard %u reaches to its "
                     "beginning",
                     region->name, shard);
        sim->counts.checks[CHECK_BEGINNING]++;
    }
    blob_close(blob);
}

/* --- snapshots ---------------------------------------------------------------------------------
 */

static void check_marked(struct sim_region *region, struct blob *blob,
                         const struct snapshot *snapshot)
{
    struct sim *sim = region->sim;
    struct err err = {0};

    if (snapshot_check(blob, snapshot, NULL, NULL, &err) != ERR_OK)
        sim_fail(sim, "a snapshot of shard %u is marked and not whole: %s", snapshot->shard,
                 err.message);
    for (size_t i = 0; i < snapshot->partition_count; i++) {
        const struct snapshot_partition *partition = &snapshot->partitions[i];

        sim_compare(region, "a snapshot",
                    &(struct sim_shown){.partition = partition->partition,
                                        .position = partition->position,
                                        .live = partition->live,
                                        .digest = partition->digest});
        sim->counts.checks[CHECK_SNAPSHOT]++;
    }
}

void sim_snapshot_put(struct sim *sim, const char *name)
{
    struct snapshot_list list = {0};
    char id[SNAPSHOT_ID_BYTES];
    struct snapshot snapshot = {0};
    struct sim_region *region;
    struct err err = {0};
    struct blob *blob;
    bool is_verified;

    region = is_mark(name) ? place_of(sim, name, &list, id) : NULL;
    if (region == NULL)
        return;
    blob = sim_blob_open(&sim->world_node);
    /* A mark may come late, when the rest has been removed. */
    if (snapshot_load(blob, &list, id, &snapshot, &is_verified, &err) == ERR_OK && is_verified) {
        sim->counts.snapshots++;
        check_marked(region, blob, &snapshot);
    }
    snapshot_free(&snapshot);
    blob_close(blob);
}

void sim_snapshot_removed(struct sim *sim, const char *name)
{
    struct snapshot_list list = {0};
    char id[SNAPSHOT_ID_BYTES];
    struct sim_region *region = is_mark(name) ? place_of(sim, name, &list, id) : NULL;

    if (region == NULL)
        return;
    sim->counts.snapshots_removed++;
    check_snapshots(region);
}

/* --- trimming ----------------------------------------------------------------------------------
 */

/* Whoever begins there learns which epoch is in force. */
static void check_beginning(struct sim_region *region, uint32_t partition, uint64_t position)
{
    struct sim *sim = region->sim;
    const struct sim_partition *log = &region->log.partitions[partition];
    struct record record;
    struct err err = {0};

    if (position == log->count ||
        record_decode(&record, log->entries[position].data, log->entries[position].len,
                      &sim->truth.scratch, &err) != ERR_OK ||
        record.op != RECORD_VERSION_VECTOR || log->entries[position].is_void)
        sim_fail(sim,
                 "the log of region %s is to begin at %llu of partition %u, where no version "
                 "vector that counts stands",
                 region->name, (unsigned long long)position, partition);
    for (uint32_t i = 0; i < sim->region_count; i++)
        if (&sim->regions[i] != region &&
            !truth_has_arrived(&sim->regions[i], region, partition, position))
            sim_fail(sim,
                     "the log of region %s is to begin at %llu of partition %u, and region %s has "
                     "not read what comes before",
                     region->name, (unsigned long long)position, partition, sim->regions[i].name);
    sim->counts.checks[CHECK_BEGINNING]++;
}

bool sim_had_other_disk(const struct sim_node *node, uint64_t trimmed_ns)
{
    return node->disk_ns != 0 && node->disk_ns + ROUND_NS >= trimmed_ns;
}

/* And what comes behind it, or it could not prove that the log is the one it has read. */
static bool has_beginning(const struct sim_node *node, const uint64_t *positions)
{
    struct apply apply = {0};
    struct err err = {0};
    bool has_all = apply_load(&apply, node->store, &err) == ERR_OK;

    for (uint32_t slot = 0; has_all && slot < apply.partition_count; slot++) {
        uint64_t first = positions[apply.partitions[slot].partition];

        has_all = first == 0 || apply.partitions[slot].position > first;
    }
    apply_free(&apply);
    return has_all;
}

static void check_replicas(struct sim_region *region, const uint64_t *positions)
{
    struct sim *sim = region->sim;

    for (uint32_t i = 0; i < sim->node_count; i++) {
        const struct sim_node *node = &sim->nodes[i];

        if (node->service != &sim_shard_service || node->region != region ||
            sim_had_other_disk(node, sim->now_ns))
            continue;
        if (node->store == NULL || !has_beginning(node, positions))
            sim_fail(sim, "the log of region %s is trimmed, and %s needs it still", region->name,
                     node->name);
        sim->counts.checks[CHECK_BEGINNING]++;
    }
}

static void move_first(struct sim_region *region, uint32_t partition, uint64_t position)
{
    struct sim *sim = region->sim;
    struct sim_log *log = &region->log;

    if (position <= log->firsts[partition])
        return;
    sim->counts.trimmed += position - log->firsts[partition];
    log->firsts[partition] = position;
    log->trimmed_ns = sim->now_ns;
    sim_note(sim, "log %s: partition %u begins at %llu", region->name, partition,
             (unsigned long long)position);
    sim_wake(sim, &log->changed, true);
}

/* A trimming on its way after its caller has given up. */
struct late_trim {
    struct sim_region *region;
    uint32_t partition;
    uint64_t position, ns;
};

static void trim_late(void *argument)
{
    struct late_trim *late = argument;

    sim_world_sleep(late->region->sim, late->ns);
    move_first(late->region, late->partition, late->position);
    check_snapshots(late->region);
    free(late);
}

static void send_late(struct sim_region *region, uint32_t partition, uint64_t position)
{
    struct late_trim *late = calloc(1, sizeof(*late));

    if (late == NULL)
        abort();
    *late = (struct late_trim){.region = region, .partition = partition, .position = position};
    late->ns = sim_delay(region->sim, NS_PER_MS, LATE_MAX_NS);
    sim_spawn(region->sim, "late trimming", trim_late, late);
}

/* Right after it was trimmed, what was kept of what is gone is needed. */
static void trouble_shard(struct sim_region *region)
{
    struct sim *sim = region->sim;
    uint32_t shard = (uint32_t)sim_below(sim, SIM_SHARDS);
    uint64_t kind = sim_below(sim, 5);

    if (sim->healing || sim->options.calm || kind > 2)
        return;
    sim->counts.shards_lost += kind == 0;
    for (uint32_t i = 0; i < sim->node_count; i++) {
        struct sim_node *node = &sim->nodes[i];

        if (node->service != &sim_shard_service || node->region != region || node->shard != shard)
            continue;
        node->loses_disk = kind == 0;
        node->loses_unsynced = kind > 0;
        node->crash_in = 1 + (uint32_t)sim_below(sim, 50);
    }
}

bool sim_trim(struct sim_region *region, const uint64_t *positions)
{
    struct sim *sim = region->sim;
    struct sim_log *log = &region->log;
    bool is_whole = true, is_news = false;

    truth_follow(sim);
    check_replicas(region, positions);
    for (uint32_t p = 0; p < SIM_PARTITIONS; p++) {
        if (positions[p] <= log->firsts[p])
            continue;
        check_beginning(region, p, positions[p]);
        is_news = true;
        if (!sim_percent(sim, sim->healing ? log->lose : log->lose + LOST_PERCENT)) {
            move_first(region, p, positions[p]);
            continue;
        }
        is_whole = false;
        if (sim_below(sim, 2) == 0)
            send_late(region, p, positions[p]);
    }
    sim->counts.trims += is_news && is_whole;
    sim->counts.trims_in_part += is_news && !is_whole;
    check_snapshots(region);
    if (is_news)
        trouble_shard(region);
    return is_whole;
}

/* --- who asks for it ---------------------------------------------------------------------------
 */

static void ask(struct sim_node *node, const char *path)
{
    struct sim_node *from = node->region->clients;
    struct http_call call = {.method = "POST", .path = path, .reply_max = MIB(1)};
    char url[64];

    (void)snprintf(url, sizeof(url), "http://%s", node->name);
    call.base = url;
    (void)http_call_one(&from->client, &call, env_boot_ns(&from->life->env) + NS_PER_S);
    http_call_free(&call);
}

/* All of a region's, or by chance some, of one service. */
static void ask_all(struct sim_region *region, const struct sim_service *service, const char *path)
{
    struct sim *sim = region->sim;

    for (uint32_t i = 0; i < sim->node_count; i++)
        if (sim->nodes[i].service == service && sim->nodes[i].region == region &&
            sim_below(sim, 3) != 0)
            ask(&sim->nodes[i], path);
}

/* Checkpoints, snapshots behind them, and trimming to them before the stores are synced again. */
void sim_operator(void *argument)
{
    struct sim *sim = argument;

    while (!sim->healing) {
        struct sim_region *region = &sim->regions[sim_below(sim, sim->region_count)];

        ask_all(region, &sim_ingest_service, "/internal/v1/trim");
        sim_world_sleep(sim, sim_delay(sim, 0, NS_PER_S));
        ask_all(region, &sim_shard_service, "/internal/v1/snapshot");
        sim_world_sleep(sim, sim_delay(sim, ASK_MIN_NS, ASK_MAX_NS / 2));
        ask_all(region, &sim_ingest_service, "/internal/v1/trim");
        sim_world_sleep(sim, sim_delay(sim, ASK_MIN_NS, ASK_MAX_NS));
    }
}
