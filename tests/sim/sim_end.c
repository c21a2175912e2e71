/* The last checks of a seed, when everything has healed: equal digests in all replicas of all
 * regions, every answered write readable, nothing more in the stores than the logs say, and, where
 * there is more than one region, logs that have stopped growing: nothing echoes.  At last all disks
 * of shards may be lost: snapshots and what the logs still have are the whole content. */
#include <stdio.h>
#include <string.h>

#include "common/http/json_doc.h"
#include "tests/sim/sim.h"

#define CHECK_NS    (200 * NS_PER_MS)
#define HEAL_NS     (120 * NS_PER_S) /* of the world's time, until everything has to be well */
#define ECHO_ONE_IN 4
#define LOSE_ONE_IN 3
#define REST_NS     (40 * NS_PER_S) /* after so long without writes a log grows no more */

/* One partition in one replica of one region. */
struct seen_partition {
    bool is_seen;
    uint64_t position, live;
    char digest[40];
};

struct seen_region {
    struct seen_partition parts[SIM_REPLICAS_MAX][SIM_PARTITIONS];
};

/* The status of a replica; false: it is not well yet. */
static bool look_at(struct sim_node *node, struct seen_region *seen)
{
    struct sim_node *from = node->region->clients;
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
        struct seen_partition *to = &seen->parts[node->replica][p];

        to->is_seen = true;
        to->position = (uint64_t)json_integer_value(json_object_get(entry, "position"));
        to->live = (uint64_t)json_integer_value(json_object_get(entry, "live"));
        (void)snprintf(to->digest, sizeof(to->digest), "%s",
                       json_string_value(json_object_get(entry, "digest")));
        is_well = is_well && to->position == node->region->log.partitions[p].count;
    }
    json_decref(document);
    return is_well;
}

static uint64_t live_of(struct sim_region *region, uint32_t partition)
{
    uint64_t live = 0;

    for (uint32_t id = 0; id < SIM_IDS; id++)
        live += truth_partition(id) == partition && truth_last(region, id) != VALUE_ABSENT;
    return live;
}

/* All replicas have read everything; false: not yet. */
static bool check_replicas(struct sim_region *region, struct seen_region *seen)
{
    struct sim *sim = region->sim;

    *seen = (struct seen_region){0};
    for (uint32_t i = 0; i < sim->node_count; i++)
        if (sim->nodes[i].service == &sim_shard_service && sim->nodes[i].region == region &&
            !look_at(&sim->nodes[i], seen))
            return false;
    sim->counts.checks[CHECK_END] += (uint64_t)SIM_PARTITIONS * region->replicas;
    for (uint32_t p = 0; p < SIM_PARTITIONS; p++) {
        const struct seen_partition *first = &seen->parts[0][p];

        for (uint32_t replica = 0; replica < region->replicas; replica++) {
            const struct seen_partition *part = &seen->parts[replica][p];

            if (!part->is_seen)
                sim_fail(sim, "partition %u is served by no replica %u", p, replica);
            if (part->position != first->position)
                return false;
            if (strcmp(part->digest, first->digest) != 0)
                sim_fail(sim, "partition %u: replicas differ at position %llu: %s and %s", p,
                         (unsigned long long)first->position, first->digest, part->digest);
        }
        /* A record of the other collection may be there besides. */
        if (first->live < live_of(region, p) || first->live > live_of(region, p) + 1)
            sim_fail(sim, "region %s, partition %u: %llu records live, the log says %llu",
                     region->name, p, (unsigned long long)first->live,
                     (unsigned long long)live_of(region, p));
    }
    return true;
}

/* Every region has the same content; false: not yet. */
static bool regions_are_equal(struct sim *sim, const struct seen_region *seen)
{
    for (uint32_t i = 1; i < sim->region_count; i++)
        for (uint32_t p = 0; p < SIM_PARTITIONS; p++)
            if (strcmp(seen[i].parts[0][p].digest, seen[0].parts[0][p].digest) != 0)
                return false;
    return true;
}

/* A fresh read of one id; false: it was not answered. */
static bool read_last(struct sim_node *client, uint32_t id)
{
    struct sim *sim = client->sim;
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
    if (answered && value != truth_last(client->region, id))
        sim_fail(sim, "region %s: at the end '%s' is value %u, the log says %u",
                 client->region->name, sim_ids[id], value, truth_last(client->region, id));
    sim_reply_free(&reply);
    return answered;
}

/* A token that was read in one region is honoured in another one, though nothing is written any
 * more; false: it was not answered. */
static bool token_travels(struct sim_region *from, struct sim_region *to)
{
    struct sim *sim = from->sim;
    struct sim_ask ask = {.method = "POST",
                          .path = "/v1/collections/" SIM_COLLECTION "/records/count",
                          .body = "{\"fresh\":true}",
                          .timeout_ns = 4 * NS_PER_S};
    struct sim_reply reply;
    struct token token = {0};
    struct buffer body = {0};
    json_t *document;
    bool answered;

    sim_call_router(from->clients, &ask, &reply);
    answered = reply.rc == ERR_OK && reply.status == 200;
    if (answered) {
        document = sim_reply_json(sim, &reply);
        if (!sim_reply_token(sim, json_object_get(document, "read"), &token))
            sim_fail(sim, "a read's answer has no token");
        buffer_append_format(
            &body, "{\"read_token\":\"%s\"}",
            json_string_value(json_object_get(json_object_get(document, "read"), "read_token")));
        buffer_append(&body, "", 1);
        json_decref(document);
        sim_reply_free(&reply);
        ask.body = (const char *)body.data;
        sim_call_router(to->clients, &ask, &reply);
        answered = reply.rc == ERR_OK && reply.status == 200;
    }
    sim_reply_free(&reply);
    token_free(&token);
    buffer_free(&body);
    return answered;
}

static void check_tokens(struct sim *sim, uint64_t until)
{
    for (uint32_t i = 0; i < sim->region_count; i++)
        for (uint32_t j = 0; j < sim->region_count; j++)
            while (i != j && !token_travels(&sim->regions[i], &sim->regions[j])) {
                if (sim->now_ns > until)
                    sim_fail(sim, "a token of region %s is not honoured in region %s",
                             sim->regions[i].name, sim->regions[j].name);
                sim_world_sleep(sim, CHECK_NS);
            }
}

static bool spools_are_empty(const struct sim *sim)
{
    for (uint32_t i = 0; i < sim->node_count; i++)
        if (sim->nodes[i].service == &sim_ingest_service &&
            truth_look_into_spool((struct sim_node *)&sim->nodes[i], NULL, 0) > 0)
            return false;
    return true;
}

static bool logs_are_quiet(const struct sim *sim)
{
    for (uint32_t i = 0; i < sim->region_count; i++)
        if (sim->regions[i].log.landings != NULL)
            return false;
    return sim->healed;
}

/* Late entries have landed, and nothing has landed since. */
static void await_quiet(struct sim *sim)
{
    while (!logs_are_quiet(sim))
        sim_world_sleep(sim, CHECK_NS);
}

static bool all_are_equal(struct sim *sim)
{
    struct seen_region seen[SIM_REGIONS_MAX];

    for (uint32_t i = 0; i < sim->region_count; i++)
        if (!check_replicas(&sim->regions[i], &seen[i]))
            return false;
    return regions_are_equal(sim, seen);
}

static uint64_t entries_of(const struct sim *sim)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < sim->region_count; i++)
        for (uint32_t p = 0; p < SIM_PARTITIONS; p++)
            count += sim->regions[i].log.partitions[p].count;
    return count;
}

/* Positions and version vectors are answered by nothing. */
static void check_echo(struct sim *sim)
{
    uint64_t before;

    sim_world_sleep(sim, REST_NS);
    before = entries_of(sim);
    sim_world_sleep(sim, REST_NS);
    if (entries_of(sim) != before)
        sim_fail(sim, "nobody writes, and the logs grow from %llu to %llu entries",
                 (unsigned long long)before, (unsigned long long)entries_of(sim));
}

static void check_content(struct sim *sim, uint64_t until)
{
    while (!all_are_equal(sim)) {
        if (sim->now_ns > until)
            sim_fail(sim, "replicas or regions differ after everything has healed");
        sim_world_sleep(sim, CHECK_NS);
    }
    for (uint32_t i = 0; i < sim->region_count; i++)
        for (uint32_t id = 0; id < SIM_IDS; id++)
            while (!read_last(sim->regions[i].clients, id)) {
                if (sim->now_ns > until)
                    sim_fail(sim, "the cluster does not answer after everything has healed");
                sim_world_sleep(sim, CHECK_NS);
            }
}

/* At once, of all regions whose log was trimmed; false: of none. */
static bool lose_all_disks(struct sim *sim)
{
    bool are_lost = false;

    for (uint32_t i = 0; i < sim->node_count; i++) {
        struct sim_node *node = &sim->nodes[i];

        if (node->service != &sim_shard_service || node->region->log.trimmed_ns == 0)
            continue;
        node->loses_disk = true;
        sim_kill(node);
        are_lost = true;
    }
    return are_lost;
}

void sim_check_end(struct sim *sim)
{
    uint64_t until = sim->now_ns + HEAL_NS;

    await_quiet(sim);
    while (!spools_are_empty(sim)) {
        if (sim->now_ns > until)
            sim_fail(sim, "a spool is not empty after everything has healed");
        sim_world_sleep(sim, CHECK_NS);
    }
    check_content(sim, until);
    check_tokens(sim, until);
    if (sim->region_count > 1 && sim->options.seed / 6 % ECHO_ONE_IN == 0) {
        check_echo(sim);
        check_tokens(sim, sim->now_ns + HEAL_NS); /* behind the version vectors of idle logs too */
    }
    if (sim->options.seed % LOSE_ONE_IN == 0 && lose_all_disks(sim))
        check_content(sim, sim->now_ns + HEAL_NS);
    truth_check_ops(sim);
}
