/* The writers: they change a few ids through the router, each value once, and compare every answer
 * with the log. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/http/json_doc.h"
#include "tests/sim/sim.h"

#define REFUSED_NS (100 * NS_PER_MS) /* before another attempt */
#define REPLY_MAX  MIB(4)
#define BATCH_MAX  3
#define THINK_NS   (120 * NS_PER_MS)
#define SETTLED_NS (120 * NS_PER_S) /* longer than any request is under way */

void sim_call_router(struct sim_node *from, const struct sim_ask *ask, struct sim_reply *reply)
{
    char base[48];
    struct http_call call = {.method = ask->method,
                             .base = base,
                             .path = ask->path,
                             .content_type = ask->body == NULL           ? NULL
                                             : ask->content_type != NULL ? ask->content_type
                                                                         : MEDIA_JSON,
                             .if_match = ask->if_match,
                             .idempotency = ask->key,
                             .body = ask->body,
                             .body_len = ask->body == NULL ? 0 : strlen(ask->body),
                             .once = true,
                             .reply_max = REPLY_MAX};
    struct env *env = &from->life->env;

    (void)snprintf(base, sizeof(base), "http://%srouter", from->region->prefix);

    *reply = (struct sim_reply){.sent_ns = from->sim->now_ns};
    reply->rc = http_call_one(&from->client, &call, env_boot_ns(env) + ask->timeout_ns);
    reply->left_ns = from->sim->left_ns;
    reply->status = call.status;
    reply->body = call.reply;
    memcpy(reply->etag, call.etag, sizeof(reply->etag));
    sim_note(from->sim, "%s: %s %s %s -> %d %.*s", from->name, ask->method, ask->path,
             ask->body == NULL ? "" : ask->body, reply->rc == ERR_OK ? reply->status : -1,
             (int)(reply->rc == ERR_OK && reply->status != 200 ? reply->body.len : 0),
             (const char *)reply->body.data);
    if (reply->rc == ERR_UNAVAILABLE)
        sim_world_sleep(from->sim, REFUSED_NS);
    while (from->sim->quiet)
        sim_world_sleep(from->sim, REFUSED_NS);
    if (reply->rc == ERR_OK && reply->status == 500)
        sim_fail(from->sim, "%s %s: 500 %.*s", ask->method, ask->path, (int)reply->body.len,
                 (const char *)reply->body.data);
}

void sim_reply_free(struct sim_reply *reply)
{
    buffer_free(&reply->body);
}

json_t *sim_reply_json(struct sim *sim, const struct sim_reply *reply)
{
    json_t *document = NULL;
    struct err err = {0};

    if (json_doc_parse(&document, reply->body.data, reply->body.len, &err) != ERR_OK)
        sim_fail(sim, "an answer is no JSON: %s", err.message);
    return document;
}

bool sim_reply_token(struct sim *sim, json_t *object, struct token *token)
{
    const char *text = json_string_value(json_object_get(object, "read_token"));
    struct err err = {0};

    if (text == NULL)
        return false;
    if (token_from_text(token, text, strlen(text), &err) != ERR_OK)
        sim_fail(sim, "a token cannot be read: %s", err.message);
    (void)snprintf(sim->tokens[sim_below(sim, SIM_TOKENS)], SIM_TOKEN_BYTES, "%s", text);
    return true;
}

/* --- how a write ended -------------------------------------------------------------------------
 */

/* The answer says for certain that nothing was written. */
static bool says_not_written(json_t *problem, int status)
{
    const char *code = json_string_value(json_object_get(problem, "code"));
    const char *detail = json_string_value(json_object_get(problem, "detail"));

    if (code == NULL || detail == NULL)
        return false;
    if (status < 500)
        return true;
    return strcmp(code, "read_only") == 0 || strstr(detail, "nothing was written") != NULL ||
           strstr(detail, "the append failed: 0 of") != NULL || strstr(detail, "try again") != NULL;
}

static bool is_listed(json_t *errors, const char *id)
{
    json_t *entry;
    size_t i;

    json_array_foreach(errors, i, entry)
    {
        const char *listed = json_string_value(json_object_get(entry, "id"));

        if (listed != NULL && strcmp(listed, id) == 0)
            return true;
    }
    return false;
}

/* A problem that says what was committed and what not. */
static void settle_half(struct sim *sim, json_t *problem, const uint32_t *values, size_t count)
{
    json_t *errors = json_object_get(problem, "errors");
    struct token token = {0};

    if (!sim_reply_token(sim, problem, &token))
        sim_fail(sim, "an answer about a part that was committed has no token");
    for (size_t i = 0; i < count; i++) {
        if (is_listed(errors, sim_ids[sim->truth.ops[values[i]].id]))
            truth_failed(sim, values[i], "listed as not written");
        else
            truth_acked(sim, values[i], &token);
    }
    token_free(&token);
}

/* What the answer to a write of values means. */
void sim_settle(struct sim *sim, struct sim_reply *reply, const uint32_t *values, size_t count)
{
    struct token token = {0};
    json_t *document;

    if (reply->rc == ERR_UNAVAILABLE) {
        for (size_t i = 0; i < count; i++)
            truth_failed(sim, values[i], "no connection");
        return;
    }
    if (reply->rc != ERR_OK) {
        for (size_t i = 0; i < count; i++)
            sim->truth.ops[values[i]].state = OP_UNKNOWN;
        sim->counts.undecided++;
        return;
    }
    document = sim_reply_json(sim, reply);
    if (reply->status == 202) {
        for (size_t i = 0; i < count; i++)
            truth_spooled(sim, values[i]);
    } else if (reply->status == 200 || reply->status == 201) {
        if (!sim_reply_token(sim, document, &token) && count > 0)
            sim_fail(sim, "a write's answer has no token");
        for (size_t i = 0; i < count; i++)
            truth_acked(sim, values[i], &token);
        token_free(&token);
    } else if (json_is_true(json_object_get(document, "committed"))) {
        settle_half(sim, document, values, count);
    } else if (says_not_written(document, reply->status)) {
        for (size_t i = 0; i < count; i++)
            truth_failed(sim, values[i], "the answer");
    } else {
        for (size_t i = 0; i < count; i++)
            sim->truth.ops[values[i]].state = OP_UNKNOWN;
        sim->counts.undecided++;
    }
    json_decref(document);
}

void sim_expect(struct sim *sim, const struct sim_reply *reply, const char *allowed)
{
    char text[16];

    if (reply->rc != ERR_OK || reply->status >= 500)
        return;
    (void)snprintf(text, sizeof(text), "%d", reply->status);
    if (strstr(allowed, text) == NULL)
        sim_fail(sim, "status %d was not to be expected: %.*s", reply->status, (int)reply->body.len,
                 (const char *)reply->body.data);
}

/* --- the kinds of writes -----------------------------------------------------------------------
 */

void sim_append_record(struct buffer *body, uint32_t id, uint32_t value, bool with_id)
{
    if (with_id)
        buffer_append_format(body, "{\"id\":\"%s\",", sim_ids[id]);
    else
        buffer_append_text(body, "{");
    buffer_append_format(body, "\"vector\":[%u,%u,%u,%u],\"metadata\":{\"v\":%u,\"w\":%u}}",
                         value % 7, value % 5, id, value, value, value);
}

/* One to BATCH_MAX different ids. */
static size_t choose_ids(struct sim *sim, uint32_t *ids)
{
    size_t count = sim_below(sim, 3) == 0 ? 1 + sim_below(sim, BATCH_MAX) : 1;
    uint32_t first = (uint32_t)sim_below(sim, SIM_IDS);

    for (size_t i = 0; i < count; i++)
        ids[i] = (first + (uint32_t)i * 3) % SIM_IDS;
    return count;
}

/* Of how many regions the write waits for the logs. */
static uint32_t choose_quorum(struct sim *sim)
{
    if (sim->region_count == 1 || sim_below(sim, 4) != 0)
        return 1;
    return 2 + (uint32_t)sim_below(sim, sim->region_count - 1);
}

/* It was answered for that quorum: so many regions' logs have it. */
static void check_quorum(struct sim *sim, uint32_t value, uint32_t quorum)
{
    const struct sim_op *op = &sim->truth.ops[value];
    uint32_t count = 1;

    truth_follow(sim);
    for (uint32_t i = 0; i < sim->region_count; i++)
        count += i != op->region && op->is_shipped[i];
    if (count < quorum)
        sim_fail(sim, "value %u was answered for %u regions, and %u have it", value, quorum, count);
    sim->counts.checks[CHECK_QUORUM]++;
}

static void settle_quorum(struct sim *sim, const struct sim_reply *reply, const uint32_t *values,
                          size_t count, uint32_t quorum)
{
    if (reply->rc != ERR_OK || quorum == 1)
        return;
    if (reply->status == 202)
        sim_fail(sim, "a write with a quorum was spooled");
    sim->counts.quorums_missed += reply->status == 504;
    for (size_t i = 0; i < count && reply->status == 200; i++)
        check_quorum(sim, values[i], quorum);
}

static void write_records(struct sim_node *client, enum sim_op_kind kind)
{
    static const char *const CONFLICT[OP_KINDS] = {"replace", "fail", "skip", ""};
    struct sim *sim = client->sim;
    uint32_t ids[BATCH_MAX], values[BATCH_MAX];
    size_t count = kind == OP_UPSERT ? choose_ids(sim, ids) : 1;
    struct sim_ask ask = {.method = "POST",
                          .path = "/v1/collections/" SIM_COLLECTION "/records",
                          .timeout_ns = SIM_PATIENCE_NS};
    uint32_t quorum = choose_quorum(sim);
    bool searchable = sim_below(sim, 6) == 0;
    struct buffer body = {0};
    struct sim_reply reply;

    if (kind != OP_UPSERT)
        ids[0] = (uint32_t)sim_below(sim, SIM_IDS);
    buffer_append_format(&body, "{\"on_conflict\":\"%s\",%s", CONFLICT[kind],
                         searchable ? "\"wait\":\"searchable\"," : "");
    if (quorum > 1)
        buffer_append_format(&body, "\"write_quorum\":%u,\"timeout_ms\":%llu,", quorum,
                             (unsigned long long)(500 + sim_below(sim, 4000)));
    buffer_append_text(&body, "\"records\":[");
    for (size_t i = 0; i < count; i++) {
        values[i] = truth_new_op(client->region, kind, ids[i], NULL);
        buffer_append_text(&body, i == 0 ? "" : ",");
        sim_append_record(&body, ids[i], values[i], true);
    }
    buffer_append(&body, "]}", 3);
    ask.body = (const char *)body.data;
    sim_call_router(client, &ask, &reply);
    sim_expect(sim, &reply, kind == OP_CREATE ? "200 409" : kind == OP_UPSERT ? "200 202" : "200");
    if (reply.rc == ERR_OK && reply.status == 409) {
        sim->counts.losses++;
        truth_check_between(client->region, ids[0], reply.sent_ns, true, "409 record_exists");
    }
    if (kind == OP_SKIP && reply.rc == ERR_OK && reply.status == 200 &&
        memmem(reply.body.data, reply.body.len, "\"skipped_count\":1", 17) != NULL) {
        truth_failed(sim, values[0], "skipped");
        truth_check_between(client->region, ids[0], reply.sent_ns, true, "skipped");
    } else {
        sim_settle(sim, &reply, values, count);
        settle_quorum(sim, &reply, values, count, quorum);
        for (size_t i = 0; searchable && reply.rc == ERR_OK && reply.status == 200 && i < count;
             i++)
            sim_check_searchable(client->region, truth_partition(ids[i]),
                                 sim->truth.ops[values[i]].offset + 1, reply.sent_ns);
        sim->counts.wins += kind == OP_CREATE && sim->truth.ops[values[0]].state == OP_ACKED;
    }
    sim_reply_free(&reply);
    buffer_free(&body);
}

/* PUT of one record, mostly with the ETag that a GET gave. */
static void put_record(struct sim_node *client)
{
    struct sim *sim = client->sim;
    uint32_t id = (uint32_t)sim_below(sim, SIM_IDS), value;
    bool plain = sim_below(sim, 3) == 0;
    struct sim_ask ask = {.method = "GET", .timeout_ns = 2 * NS_PER_S};
    struct buffer body = {0};
    struct sim_reply reply, got = {0};
    char path[128];

    (void)snprintf(path, sizeof(path), "/v1/collections/%s/records/%s", SIM_COLLECTION,
                   sim_ids[id]);
    ask.path = path;
    if (!plain) {
        sim_call_router(client, &ask, &got);
        sim_reply_free(&got);
        if (got.rc != ERR_OK || got.status != 200)
            return;
        if (got.etag[0] == '\0')
            sim_fail(sim, "a record came without an ETag");
        ask.if_match = got.etag;
    }
    value = truth_new_op(client->region, plain ? OP_UPSERT : OP_IF_MATCH, id, got.etag);
    sim_append_record(&body, id, value, false);
    buffer_append(&body, "", 1);
    ask.method = "PUT";
    ask.body = (const char *)body.data;
    ask.timeout_ns = SIM_PATIENCE_NS;
    sim_call_router(client, &ask, &reply);
    sim_expect(sim, &reply, plain ? "200 201 202" : "200 412");
    sim->counts.precondition_failed += reply.rc == ERR_OK && reply.status == 412;
    sim_settle(sim, &reply, &value, 1);
    sim_reply_free(&reply);
    buffer_free(&body);
}

static void delete_one(struct sim_node *client)
{
    struct sim *sim = client->sim;
    uint32_t id = (uint32_t)sim_below(sim, SIM_IDS);
    struct sim_ask ask = {.method = "DELETE", .timeout_ns = SIM_PATIENCE_NS};
    struct token token = {0};
    struct sim_reply reply;
    char path[128];
    json_t *document;

    (void)snprintf(path, sizeof(path), "/v1/collections/%s/records/%s", SIM_COLLECTION,
                   sim_ids[id]);
    ask.path = path;
    sim_call_router(client, &ask, &reply);
    sim_expect(sim, &reply, "200 404");
    if (reply.rc == ERR_OK && reply.status == 404) {
        if (memmem(reply.body.data, reply.body.len, "record_not_found", 16) == NULL)
            sim_fail(sim, "the collection was not found");
        truth_check_between(client->region, id, reply.sent_ns, false, "404 record_not_found");
    }
    if (reply.rc == ERR_OK && reply.status == 200) {
        document = sim_reply_json(sim, &reply);
        if (!sim_reply_token(sim, document, &token))
            sim_fail(sim, "a delete's answer has no token");
        truth_deleted(client->region, id, &token, 1);
        token_free(&token);
        json_decref(document);
    }
    sim_reply_free(&reply);
}

/* By ids with or without a count, by a filter, or everything. */
static void delete_some(struct sim_node *client)
{
    struct sim *sim = client->sim;
    uint32_t id = (uint32_t)sim_below(sim, SIM_IDS);
    uint64_t kind = sim_below(sim, 8);
    struct sim_ask ask = {.method = "POST",
                          .path = "/v1/collections/" SIM_COLLECTION "/records/delete",
                          .timeout_ns = SIM_PATIENCE_NS};
    struct token token = {0};
    struct sim_reply reply;
    char body[128];
    json_t *document;
    int64_t count;

    if (kind == 0)
        (void)snprintf(body, sizeof(body), "{\"delete_all\":true}");
    else if (kind == 1)
        (void)snprintf(body, sizeof(body), "{\"filter\":{\"v\":{\"$gt\":%u}}}",
                       sim->truth.op_count - (uint32_t)sim_below(sim, 8));
    else
        (void)snprintf(body, sizeof(body), "{\"ids\":[\"%s\"]%s}", sim_ids[id],
                       kind < 5 ? "" : ",\"count\":false");
    ask.body = body;
    sim_call_router(client, &ask, &reply);
    sim_expect(sim, &reply, kind < 5 ? "200" : "200 202");
    if (reply.rc == ERR_OK && reply.status == 200 && kind >= 2) {
        document = sim_reply_json(sim, &reply);
        count = kind < 5 ? json_integer_value(json_object_get(document, "deleted_count")) : -1;
        if (!sim_reply_token(sim, document, &token))
            sim_fail(sim, "a delete's answer has no token");
        if (count == 0)
            truth_check_between(client->region, id, reply.sent_ns, false, "deleted_count 0");
        else
            truth_deleted(client->region, id, &token, count);
        token_free(&token);
        json_decref(document);
    }
    sim_reply_free(&reply);
}

static void write_once(struct sim_node *client)
{
    uint64_t chance = sim_below(client->sim, 100);

    if (chance < 34)
        write_records(client, OP_UPSERT);
    else if (chance < 46)
        write_records(client, OP_CREATE);
    else if (chance < 51)
        write_records(client, OP_SKIP);
    else if (chance < 60)
        put_record(client);
    else if (chance < 69)
        sim_write_keyed(client);
    else if (chance < 76)
        sim_patch_record(client);
    else if (chance < 80)
        sim_patch_some(client);
    else if (chance < 83)
        sim_import(client);
    else if (chance < 93)
        delete_one(client);
    else
        delete_some(client);
}

void sim_writer(void *argument)
{
    struct sim_node *client = argument;
    struct sim *sim = client->sim;

    for (uint32_t step = 0; step < sim->options.steps; step++) {
        write_once(client);
        if (sim_below(sim, 4) != 0)
            sim_world_sleep(sim, sim_delay(sim, 0, THINK_NS));
    }
    sim->clients--;
    sim_wake(sim, &sim->clients, true);
}

/* --- a collection that comes and goes ----------------------------------------------------------
 */

/* Make it, put a record in, drop it; a fresh one is empty, where nobody else makes it. */
static void change(struct sim_node *client, bool is_alone)
{
    static const char PATH[] = "/v1/collections/" SIM_CHANGING;
    struct sim *sim = client->sim;
    const struct sim_ask create = {.method = "PUT",
                                   .path = PATH,
                                   .body = "{\"vector\":{\"dimension\":4}}",
                                   .timeout_ns = SIM_PATIENCE_NS};
    const struct sim_ask put = {.method = "POST",
                                .path = "/v1/collections/" SIM_CHANGING "/records",
                                .body = "{\"records\":[{\"id\":\"x\",\"vector\":[1,2,3,4]}]}",
                                .timeout_ns = SIM_PATIENCE_NS};
    const struct sim_ask count = {.method = "POST",
                                  .path = "/v1/collections/" SIM_CHANGING "/records/count",
                                  .body = "{\"fresh\":true}",
                                  .timeout_ns = 3 * NS_PER_S};
    const struct sim_ask drop = {.method = "DELETE", .path = PATH, .timeout_ns = SIM_PATIENCE_NS};
    uint64_t certain_ns = 0; /* nothing of unknown outcome is under way from then on */
    bool is_dropped = true;

    for (uint32_t step = 0; step < sim->options.steps / 8; step++) {
        struct sim_reply reply;

        sim_call_router(client, &create, &reply);
        sim_reply_free(&reply);
        if (is_alone && is_dropped && sim->now_ns > certain_ns && reply.rc == ERR_OK &&
            reply.status < 300) {
            sim_call_router(client, &count, &reply);
            sim_expect(sim, &reply, "200");
            if (reply.rc == ERR_OK && reply.status == 200 &&
                memmem(reply.body.data, reply.body.len, "\"count\":0", 9) == NULL)
                sim_fail(sim, "a collection made anew is not empty");
            sim_reply_free(&reply);
        }
        sim_call_router(client, &put, &reply);
        if (reply.rc != ERR_OK || reply.status >= 500)
            certain_ns = sim->now_ns + SETTLED_NS;
        sim_reply_free(&reply);
        sim_call_router(client, &drop, &reply);
        if (reply.rc != ERR_OK || reply.status >= 500)
            certain_ns = sim->now_ns + SETTLED_NS;
        is_dropped = reply.rc == ERR_OK && reply.status < 300;
        sim->counts.drops += is_dropped;
        sim_reply_free(&reply);
        sim_world_sleep(sim, sim_delay(sim, 0, 8 * THINK_NS));
    }
    sim->clients--;
    sim_wake(sim, &sim->clients, true);
}

void sim_changer(void *argument)
{
    struct sim_node *client = argument;

    change(client, client->sim->region_count == 1);
}
