/* One seed: a cluster is started, clients work while things go wrong, everything heals, and the
 * last checks are made: equal digests, every answered write readable, nothing more in the stores
 * than the log says. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/cluster.h"
#include "common/http/json_doc.h"
#include "tests/sim/sim.h"

#define WRITERS  3
#define READERS  3
#define CHECK_NS (200 * NS_PER_MS)
#define HEAL_NS  (120 * NS_PER_S) /* of the world's time, until everything has to be well */

static void start_service(struct sim *sim, const struct sim_service *service, const char *name)
{
    sim_spawn(sim, name, sim_supervise, sim_add_node(sim, service, name));
}

static void place_map(struct sim *sim)
{
    struct err err = {0};

    sim_meta_attach(&sim->world_node);
    for (int i = 0; i < 300; i++) {
        if (cluster_place(&sim->world_node.meta, SIM_SHARDS, SIM_REPLICAS, &err) == ERR_OK)
            return;
        sim_world_sleep(sim, CHECK_NS);
    }
    sim_fail(sim, "no ingest took the log at the start: %s", err.message);
}

static void start_shards(struct sim *sim)
{
    for (uint32_t shard = 0; shard < SIM_SHARDS; shard++)
        for (uint32_t replica = 0; replica < SIM_REPLICAS; replica++) {
            struct sim_node *node;
            char name[24];

            (void)snprintf(name, sizeof(name), "shard-%u.%u", shard, replica);
            node = sim_add_node(sim, &sim_shard_service, name);
            node->shard = shard;
            node->replica = replica;
            sim_spawn(sim, name, sim_supervise, node);
        }
}

static void make_collection(struct sim *sim, struct sim_node *client)
{
    const struct sim_ask ask = {.method = "PUT",
                                .path = "/v1/collections/" SIM_COLLECTION,
                                .body = "{\"vector\":{\"dimension\":4,\"metric\":\"l2\"}}",
                                .timeout_ns = 5 * NS_PER_S};

    for (int i = 0; i < 200; i++) {
        struct sim_reply reply;
        bool made;

        sim_call_router(client, &ask, &reply);
        made = reply.rc == ERR_OK && (reply.status == 200 || reply.status == 201);
        sim_reply_free(&reply);
        if (made)
            return;
        sim_world_sleep(sim, CHECK_NS);
    }
    sim_fail(sim, "the collection could not be made at the start");
}

/* --- at the end ----------------------------------------------------------------------------------
 */

struct seen_partition {
    bool is_seen;
    uint64_t position, live;
    char digest[40];
};

/* The status of a replica into seen[replica]; false: it is not well yet. */
static bool look_at(struct sim *sim, struct sim_node *from, struct sim_node *node,
                    struct seen_partition seen[SIM_REPLICAS][SIM_PARTITIONS])
{
    struct http_call call = {.method = "GET", .path = "/internal/v1/status", .reply_max = MIB(1)};
    char url[64];
    json_t *document = NULL, *entry;
    bool is_well;
    size_t i;

    (void)snprintf(url, sizeof(url), "http://%s", node->name);
    call.base = url;
    (void)http_call_one(&from->client, &call, env_boot_ns(&from->life->env) + NS_PER_S);
    is_well = call.rc == ERR_OK && call.status == 200 &&
              json_doc_parse(&document, call.reply.data, call.reply.len, NULL) == ERR_OK;
    http_call_free(&call);
    if (!is_well)
        return false;
    is_well = strcmp(json_string_value(json_object_get(document, "state")), "ready") == 0;
    json_array_foreach(json_object_get(document, "partitions"), i, entry)
    {
        json_int_t p = json_integer_value(json_object_get(entry, "partition"));
        struct seen_partition *to = &seen[node->replica][p];

        to->is_seen = true;
        to->position = (uint64_t)json_integer_value(json_object_get(entry, "position"));
        to->live = (uint64_t)json_integer_value(json_object_get(entry, "live"));
        (void)snprintf(to->digest, sizeof(to->digest), "%s",
                       json_string_value(json_object_get(entry, "digest")));
        is_well = is_well && to->position == sim->log.partitions[p].count;
    }
    json_decref(document);
    return is_well;
}

static uint64_t live_of(struct sim *sim, uint32_t partition)
{
    uint64_t live = 0;

    for (uint32_t id = 0; id < SIM_IDS; id++)
        live += truth_partition(id) == partition && truth_last(sim, id) != VALUE_ABSENT;
    return live;
}

/* All replicas have read everything; false: not yet. */
static bool check_replicas(struct sim *sim, struct sim_node *client)
{
    struct seen_partition seen[SIM_REPLICAS][SIM_PARTITIONS] = {0};

    for (uint32_t i = 0; i < sim->node_count; i++)
        if (sim->nodes[i].service == &sim_shard_service &&
            !look_at(sim, client, &sim->nodes[i], seen))
            return false;
    for (uint32_t p = 0; p < SIM_PARTITIONS; p++) {
        for (uint32_t replica = 0; replica < SIM_REPLICAS; replica++) {
            if (!seen[replica][p].is_seen)
                sim_fail(sim, "partition %u is served by no replica %u", p, replica);
            if (seen[replica][p].position != seen[0][p].position)
                return false;
            if (strcmp(seen[replica][p].digest, seen[0][p].digest) != 0)
                sim_fail(sim, "partition %u: replicas differ at position %llu: %s and %s", p,
                         (unsigned long long)seen[0][p].position, seen[0][p].digest,
                         seen[replica][p].digest);
        }
        /* A record of the other collection may be there besides. */
        if (seen[0][p].live < live_of(sim, p) || seen[0][p].live > live_of(sim, p) + 1)
            sim_fail(sim, "partition %u: %llu records live, the log says %llu", p,
                     (unsigned long long)seen[0][p].live, (unsigned long long)live_of(sim, p));
    }
    return true;
}

/* A fresh read of one id; false: it was not answered. */
static bool read_last(struct sim *sim, struct sim_node *client, uint32_t id)
{
    struct sim_reply reply;
    struct sim_ask ask = {.method = "GET", .timeout_ns = 4 * NS_PER_S};
    char path[128];
    json_t *document;
    uint32_t value = VALUE_ABSENT;
    bool answered;

    (void)snprintf(path, sizeof(path), "/v1/collections/%s/records/%s?fresh=true", SIM_COLLECTION,
                   sim_ids[id]);
    ask.path = path;
    sim_call_router(client, &ask, &reply);
    answered = reply.rc == ERR_OK && (reply.status == 200 || reply.status == 404);
    if (answered && reply.status == 200) {
        document = sim_reply_json(sim, &reply);
        value = (uint32_t)json_integer_value(
            json_object_get(json_object_get(document, "metadata"), "v"));
        json_decref(document);
    }
    if (answered && value != truth_last(sim, id))
        sim_fail(sim, "at the end '%s' is value %u, the log says %u", sim_ids[id], value,
                 truth_last(sim, id));
    sim_reply_free(&reply);
    return answered;
}

/* Late entries have landed, and nothing has landed since. */
static void await_quiet(struct sim *sim)
{
    while (sim->log.landings != NULL || !sim->healed)
        sim_world_sleep(sim, CHECK_NS);
}

void sim_check_end(struct sim *sim, struct sim_node *client)
{
    uint64_t until = sim->now_ns + HEAL_NS;

    await_quiet(sim);
    for (uint32_t id = 0; id < SIM_IDS; id++)
        while (!read_last(sim, client, id)) {
            if (sim->now_ns > until)
                sim_fail(sim, "the cluster does not answer after everything has healed");
            sim_world_sleep(sim, CHECK_NS);
        }
    while (!check_replicas(sim, client)) {
        if (sim->now_ns > until)
            sim_fail(sim, "the replicas do not catch up after everything has healed");
        sim_world_sleep(sim, CHECK_NS);
    }
    truth_check_ops(sim);
}

/* --- the whole -----------------------------------------------------------------------------------
 */

static void start_clients(struct sim *sim, struct sim_node *client)
{
    sim->clients = WRITERS + READERS + 1;
    for (int i = 0; i < WRITERS; i++)
        sim_spawn(sim, "writer", sim_writer, client);
    for (int i = 0; i < READERS; i++)
        sim_spawn(sim, "reader", sim_reader, client);
    sim_spawn(sim, "changer", sim_changer, client);
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
        sim_wake(sim, &sim->log.landings, true);
        sim_world_sleep(sim, 50 * NS_PER_MS);
    }
}

static void free_all(struct sim *sim)
{
    meta_close(sim->rows);
    sim_log_free(&sim->log);
    truth_free(&sim->truth);
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
    struct sim_node *client;
    struct err err = {0};
    uint64_t hash;

    sim_begin(sim, &me);
    if (meta_open(&sim->rows, "memory:", &sim->world.env, &err) != ERR_OK)
        abort();
    sim->log.region = 1 + (uint32_t)sim_below(sim, UINT32_MAX - 1);
    sim_log_start(sim);
    start_service(sim, &sim_ingest_service, "ingest-0");
    start_service(sim, &sim_ingest_service, "ingest-1");
    place_map(sim);
    start_shards(sim);
    start_service(sim, &sim_router_service, "router");
    client = sim_add_node(sim, NULL, "clients");
    make_collection(sim, client);
    start_clients(sim, client);
    if (sim->options.calm)
        sim->healed = true;
    else
        sim_spawn(sim, "faults", sim_faults, sim);
    while (sim->clients > 0)
        (void)!sim_wait(&sim->world.env, &sim->clients, NEVER_NS);
    sim->healing = true;
    sim_note(sim, "everything heals");
    sim_check_end(sim, client);
    stop_all(sim);
    hash = sim->hash;
    sim_end(sim, &me);
    free_all(sim);
    return hash;
}
