/* One seed: the regions are started, clients work while things go wrong, everything heals, and the
 * last checks are made (sim_end.c). */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/cluster.h"
#include "cluster/regions.h"
#include "tests/sim/sim.h"

#define WRITERS  3
#define READERS  3
#define CHECK_NS (200 * NS_PER_MS)

#define UNTRIMMED_ONE_IN 5

static void start_service(struct sim_region *region, const struct sim_service *service,
                          const char *name)
{
    sim_spawn(region->sim, name, sim_supervise, sim_add_node(region, service, name));
}

static void place_map(struct sim_region *region)
{
    struct sim *sim = region->sim;
    struct err err = {0};

    sim->world_node.region = region;
    sim_meta_attach(&sim->world_node);
    for (int i = 0; i < 300; i++) {
        if (cluster_place(&sim->world_node.meta, SIM_SHARDS, region->replicas, &err) == ERR_OK)
            return;
        sim_world_sleep(sim, CHECK_NS);
    }
    sim_fail(sim, "no ingest took the log of region %s at the start: %s", region->name,
             err.message);
}

static void start_shards(struct sim_region *region)
{
    for (uint32_t shard = 0; shard < SIM_SHARDS; shard++)
        for (uint32_t replica = 0; replica < region->replicas; replica++) {
            struct sim_node *node;
            char name[24];

            (void)snprintf(name, sizeof(name), "shard-%u.%u", shard, replica);
            node = sim_add_node(region, &sim_shard_service, name);
            node->shard = shard;
            node->replica = replica;
            sim_spawn(region->sim, name, sim_supervise, node);
        }
}

static void ask_until_done(struct sim_node *client, const struct sim_ask *ask)
{
    struct sim *sim = client->sim;

    for (int i = 0; i < 200; i++) {
        struct sim_reply reply;
        bool done;

        sim_call_router(client, ask, &reply);
        done = reply.rc == ERR_OK && (reply.status == 200 || reply.status == 201);
        sim_reply_free(&reply);
        if (done)
            return;
        sim_world_sleep(sim, CHECK_NS);
    }
    sim_fail(sim, "the collection could not be made at the start");
}

/* Made in the first region; the others learn of it. */
static void make_collection(struct sim *sim)
{
    struct sim_ask ask = {.method = "PUT",
                          .path = "/v1/collections/" SIM_COLLECTION,
                          .body = "{\"vector\":{\"dimension\":4,\"metric\":\"l2\"}}",
                          .timeout_ns = 5 * NS_PER_S};

    ask_until_done(sim->regions[0].clients, &ask);
    ask.method = "GET";
    ask.body = NULL;
    for (uint32_t i = 1; i < sim->region_count; i++)
        ask_until_done(sim->regions[i].clients, &ask);
}

/* Which regions there are, as each one's own store has to say. */
static void place_regions(struct sim_region *region)
{
    struct sim *sim = region->sim;

    sim->world_node.region = region;
    for (uint32_t i = 0; i < sim->region_count; i++) {
        struct region_row row = {.is_self = i == region->index};
        struct err err = {0};

        (void)snprintf(row.name, sizeof(row.name), "%s", sim->regions[i].name);
        (void)snprintf(row.wal_url, sizeof(row.wal_url), "sim:%u", i);
        if (region_write(&sim->world_node.meta, &row, &err) != ERR_OK)
            sim_fail(sim, "the rows about regions cannot be written: %s", err.message);
    }
}

static void start_region(struct sim_region *region)
{
    sim_log_start(region);
    start_service(region, &sim_ingest_service, "ingest-0");
    if (region->index == 0)
        start_service(region, &sim_ingest_service, "ingest-1");
    place_map(region);
    start_shards(region);
    start_service(region, &sim_router_service, "router");
    if (region->sim->region_count > 1) {
        place_regions(region);
        start_service(region, &sim_replicator_service, "replicator");
    }
    region->clients = sim_add_node(region, NULL, "clients");
}

/* The regions of this seed: half of all seeds have one. */
static void make_regions(struct sim *sim)
{
    static const uint32_t COUNTS[6] = {1, 2, 1, 3, 1, 2};
    static const uint32_t REPLICAS[4] = {2, 3, 2, 1}; /* of the first one's shards */

    sim->region_count =
        sim->options.regions != 0 ? sim->options.regions : COUNTS[sim->options.seed % 6];
    sim->counts.regions += sim->region_count;
    sim->trims = sim->options.seed % UNTRIMMED_ONE_IN != 0;
    for (uint32_t i = 0; i < sim->region_count; i++) {
        struct sim_region *region = &sim->regions[i];
        struct err err = {0};

        *region = (struct sim_region){.sim = sim,
                                      .index = i,
                                      .replicas = i == 0 ? REPLICAS[sim->options.seed / 6 % 4] : 1,
                                      .name = {(char)('a' + i)}};
        if (i > 0)
            (void)snprintf(region->prefix, sizeof(region->prefix), "%c-", (char)('a' + i));
        region->log.region = 1 + (uint32_t)sim_below(sim, UINT32_MAX - 1);
        if (meta_open(&region->rows, "memory:", &sim->world.env, &err) != ERR_OK)
            abort();
    }
}

/* Spread over the regions. */
static void start_clients(struct sim *sim)
{
    uint32_t count = sim->region_count;

    sim->clients = WRITERS + READERS + count;
    for (uint32_t i = 0; i < WRITERS; i++)
        sim_spawn(sim, "writer", sim_writer, sim->regions[i % count].clients);
    for (uint32_t i = 0; i < READERS; i++)
        sim_spawn(sim, "reader", sim_reader, sim->regions[i % count].clients);
    for (uint32_t i = 0; i < count; i++)
        sim_spawn(sim, "changer", sim_changer, sim->regions[i].clients);
}

/* All nodes end in good order; then the log. */
static void stop_all(struct sim *sim)
{
    sim->stopping = true;
    for (uint32_t i = 0; i < sim->node_count; i++)
        sim_wake(sim, &sim->nodes[i], true);
    while (sim->supervisors > 0)
        (void)!sim_wait(&sim->world.env, &sim->supervisors, NEVER_NS);
    sim->log_stopping = true;
    for (int i = 0; i < 2000 && sim->threads->next != NULL; i++) {
        for (uint32_t r = 0; r < sim->region_count; r++)
            sim_wake(sim, &sim->regions[r].log.landings, true);
        sim_world_sleep(sim, 50 * NS_PER_MS);
    }
}

static void free_all(struct sim *sim)
{
    truth_free(sim);
    sim_blob_free(sim);
    for (uint32_t i = 0; i < sim->region_count; i++) {
        meta_close(sim->regions[i].rows);
        sim_log_free(&sim->regions[i].log);
    }
    for (uint32_t i = 0; i < sim->node_count; i++)
        while (sim->nodes[i].life != NULL) {
            struct sim_life *life = sim->nodes[i].life;

            sim->nodes[i].life = life->before;
            free(life);
        }
}

uint64_t sim_run(struct sim *sim)
{
    struct sim_thread me;
    uint64_t hash;

    sim_begin(sim, &me);
    make_regions(sim);
    for (uint32_t i = 0; i < sim->region_count; i++)
        start_region(&sim->regions[i]);
    make_collection(sim);
    start_clients(sim);
    sim_spawn(sim, "watch", sim_watch, sim);
    if (sim->trims)
        sim_spawn(sim, "operator", sim_operator, sim);
    if (sim->options.calm)
        sim->healed = true;
    else
        sim_spawn(sim, "faults", sim_faults, sim);
    while (sim->clients > 0)
        (void)!sim_wait(&sim->world.env, &sim->clients, NEVER_NS);
    sim->healing = true;
    sim_note(sim, "everything heals");
    sim_check_end(sim);
    stop_all(sim);
    hash = sim->hash;
    sim_end(sim, &me);
    free_all(sim);
    return hash;
}
