/* Writes that are sent again with their key, and patches of what is there. */
#include <stdio.h>
#include <string.h>

#include "common/http/json_doc.h"
#include "tests/sim/sim.h"

/* --- with a key ----------------------------------------------------------------------------------
 */

/* The id was made of the key, each time. */
static void check_made_id(struct sim *sim, const struct sim_reply *reply, uint32_t id)
{
    json_t *document;
    const char *made;

    if (reply->rc != ERR_OK || (reply->status != 200 && reply->status != 202))
        return;
    document = sim_reply_json(sim, reply);
    made = json_string_value(json_array_get(json_object_get(document, "ids"), 0));
    if (made == NULL || strcmp(made, sim_ids[id]) != 0)
        sim_fail(sim, "the key of '%s' has made the id '%s'", sim_ids[id],
                 made == NULL ? "" : made);
    json_decref(document);
}

/* One value, written up to three times: as a client that is not sure does, and one that is. */
void sim_write_keyed(struct sim_node *client)
{
    struct sim *sim = client->sim;
    uint32_t number = (uint32_t)sim_below(sim, SIM_KEYS), id = SIM_FIRST_KEYED + number;
    uint32_t value = truth_new_op(client->region, OP_KEYED, id, NULL);
    struct sim_op *op = &sim->truth.ops[value];
    struct buffer body = {0};
    struct sim_reply reply;
    char key[16];
    struct sim_ask ask = {.method = "POST",
                          .path = "/v1/collections/" SIM_COLLECTION "/records",
                          .key = key,
                          .timeout_ns = SIM_PATIENCE_NS / 4};
    bool is_certain;

    (void)snprintf(key, sizeof(key), "key-%u", number);
    buffer_append_text(&body, "{\"records\":[");
    sim_append_record(&body, id, value, false);
    buffer_append(&body, "]}", 3);
    ask.body = (const char *)body.data;
    do {
        op->sends++;
        sim_call_router(client, &ask, &reply);
        sim_expect(sim, &reply, "200 202");
        check_made_id(sim, &reply, id);
        is_certain = reply.rc == ERR_OK && reply.status < 300;
        /* What was sent before may still be on its way: only an acknowledgement is final. */
        if (op->sends == 1 || is_certain)
            sim_settle(sim, &reply, &value, 1);
        if (op->state == OP_FAILED)
            op->state = OP_UNKNOWN;
        sim->counts.repeats += op->sends > 1;
        sim_reply_free(&reply);
    } while (op->sends < 3 && sim_below(sim, is_certain ? 4 : 2) == 0);
    buffer_free(&body);
}

/* --- patches -------------------------------------------------------------------------------------
 */

static bool is_ok(const struct sim_reply *reply)
{
    return reply->rc == ERR_OK && reply->status == 200;
}

/* The ETag of the id's record, by a read; "": none. */
static void get_etag(struct sim_node *client, const char *path, char *etag, size_t size)
{
    struct sim_ask ask = {.method = "GET", .path = path, .timeout_ns = 2 * NS_PER_S};
    struct sim_reply got;

    sim_call_router(client, &ask, &got);
    (void)snprintf(etag, size, "%s", is_ok(&got) ? got.etag : "");
    sim_reply_free(&got);
}

void sim_patch_record(struct sim_node *client)
{
    struct sim *sim = client->sim;
    uint32_t id = (uint32_t)sim_below(sim, SIM_IDS), value;
    struct sim_ask ask = {.method = "PATCH", .timeout_ns = SIM_PATIENCE_NS};
    char path[128], etag[64] = "", body[64];
    struct sim_reply reply;

    (void)snprintf(path, sizeof(path), "/v1/collections/%s/records/%s", SIM_COLLECTION,
                   sim_ids[id]);
    if (sim_below(sim, 3) == 0)
        get_etag(client, path, etag, sizeof(etag));
    value = truth_new_op(client->region, OP_PATCH, id, etag);
    (void)snprintf(body, sizeof(body), "{\"metadata\":{\"v\":%u}}", value);
    ask.path = path;
    ask.body = body;
    ask.if_match = etag[0] == '\0' ? NULL : etag;
    sim_call_router(client, &ask, &reply);
    sim_expect(sim, &reply, ask.if_match == NULL ? "200 404" : "200 412");
    if (reply.rc == ERR_OK && reply.status == 404)
        truth_check_between(client->region, id, reply.sent_ns, false, "patch: 404");
    sim->counts.precondition_failed += reply.rc == ERR_OK && reply.status == 412;
    sim->counts.patches += is_ok(&reply);
    sim_settle(sim, &reply, &value, 1);
    sim_reply_free(&reply);
}

static int64_t matched_of(struct sim *sim, const struct sim_reply *reply)
{
    json_t *document = sim_reply_json(sim, reply);
    int64_t matched = json_integer_value(json_object_get(document, "matched_count"));

    json_decref(document);
    return matched;
}

/* One record, found by its id or by the value that it has. */
void sim_patch_some(struct sim_node *client)
{
    struct sim *sim = client->sim;
    uint32_t id = (uint32_t)sim_below(sim, SIM_IDS), value;
    uint32_t expects = sim_below(sim, 2) == 0 ? truth_last(client->region, id) : VALUE_ABSENT;
    struct sim_ask ask = {.method = "POST",
                          .path = "/v1/collections/" SIM_COLLECTION "/records/update",
                          .timeout_ns = SIM_PATIENCE_NS};
    struct sim_reply reply;
    char body[160];

    value = truth_new_op(client->region, OP_PATCH, id, NULL);
    sim->truth.ops[value].expects = expects;
    if (expects == VALUE_ABSENT)
        (void)snprintf(body, sizeof(body), "{\"ids\":[\"%s\"],\"metadata\":{\"v\":%u}}",
                       sim_ids[id], value);
    else
        (void)snprintf(body, sizeof(body), "{\"filter\":{\"v\":%u},\"metadata\":{\"v\":%u}}",
                       expects, value);
    ask.body = body;
    sim_call_router(client, &ask, &reply);
    sim_expect(sim, &reply, "200");
    if (is_ok(&reply) && matched_of(sim, &reply) == 0) {
        truth_failed(sim, value, "nothing matched");
        if (expects == VALUE_ABSENT)
            truth_check_between(client->region, id, reply.sent_ns, false, "patch: nothing matched");
    } else {
        sim->counts.patches += is_ok(&reply);
        sim_settle(sim, &reply, &value, 1);
    }
    sim_reply_free(&reply);
}
