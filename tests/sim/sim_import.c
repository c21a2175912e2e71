/* An import: parts of rows, sent until the import says that they are in, or given up.
 *
 * After anything but an answer to the part itself the import is asked where it stands: what it says
 * is acknowledged, like an answer.  A part that is given up may still come to count. */
#include <stdio.h>
#include <string.h>

#include "common/http/json_doc.h"
#include "tests/sim/sim.h"

#define PARTS_MAX  3
#define ROWS_MAX   3
#define SENDS      4
#define LOOKS      6
#define PAUSE_NS   (300 * NS_PER_MS)
#define NDJSON     "application/x-ndjson"
#define PATH_BYTES 160

struct importing {
    struct sim_node *client;
    struct sim *sim;
    char id[64];
    uint64_t offset; /* of the part in hand */
    uint32_t values[ROWS_MAX];
    size_t count;
    struct buffer rows;
    bool is_final;
};

static bool is_ok(const struct sim_reply *reply)
{
    return reply->rc == ERR_OK && (reply->status == 200 || reply->status == 201);
}

static bool begin(struct importing *importing)
{
    struct sim *sim = importing->sim;
    struct sim_ask ask = {.method = "POST",
                          .path = "/v1/collections/" SIM_COLLECTION "/imports",
                          .body = "{\"format\":\"ndjson\"}",
                          .timeout_ns = SIM_PATIENCE_NS};
    struct sim_reply reply;
    bool has_begun;
    json_t *document;

    sim_call_router(importing->client, &ask, &reply);
    sim_expect(sim, &reply, "201 429");
    has_begun = is_ok(&reply);
    if (has_begun) {
        document = sim_reply_json(sim, &reply);
        (void)snprintf(importing->id, sizeof(importing->id), "%s",
                       json_string_value(json_object_get(document, "id")));
        json_decref(document);
        sim->counts.imports++;
    }
    sim_reply_free(&reply);
    return has_begun;
}

/* Rows of different ids. */
static void make_part(struct importing *importing)
{
    struct sim *sim = importing->sim;
    uint32_t first = (uint32_t)sim_below(sim, SIM_IDS);

    importing->count = 1 + sim_below(sim, ROWS_MAX);
    buffer_reset(&importing->rows);
    for (size_t i = 0; i < importing->count; i++) {
        uint32_t id = (first + (uint32_t)i * 3) % SIM_IDS;

        importing->values[i] = truth_new_op(importing->client->region, OP_IMPORT, id, NULL);
        sim_append_record(&importing->rows, id, importing->values[i], true);
        buffer_append_text(&importing->rows, "\n");
    }
}

/* What an import says of itself: is the part in?  It is acknowledged, then. */
static bool take_progress(struct importing *importing, const struct sim_reply *reply)
{
    struct sim *sim = importing->sim;
    json_t *document = sim_reply_json(sim, reply);
    uint64_t at = (uint64_t)json_integer_value(json_object_get(document, "offset"));
    uint64_t end = importing->offset + importing->rows.len;
    struct token token = {0};
    bool is_in = at >= end;

    if (at != importing->offset && at != end)
        sim_fail(sim, "an import of %llu and %zu bytes stands at %llu",
                 (unsigned long long)importing->offset, importing->rows.len,
                 (unsigned long long)at);
    if (json_integer_value(json_object_get(document, "rows_refused")) != 0)
        sim_fail(sim, "an import has refused rows that are right");
    if (is_in && !sim_reply_token(sim, document, &token))
        sim_fail(sim, "an import with rows has no token");
    for (size_t i = 0; is_in && i < importing->count; i++)
        truth_acked(sim, importing->values[i], &token);
    sim->counts.parts += is_in;
    token_free(&token);
    json_decref(document);
    return is_in;
}

/* *is_known: it was told where the import stands.  True: the part is in. */
static bool look(struct importing *importing, bool *is_known)
{
    char path[PATH_BYTES];
    struct sim_ask ask = {.method = "GET", .path = path, .timeout_ns = 3 * NS_PER_S};
    struct sim_reply reply;
    bool is_in;

    (void)snprintf(path, sizeof(path), "/v1/collections/%s/imports/%s", SIM_COLLECTION,
                   importing->id);
    sim_call_router(importing->client, &ask, &reply);
    sim_expect(importing->sim, &reply, "200");
    *is_known = is_ok(&reply);
    is_in = *is_known && take_progress(importing, &reply);
    sim_reply_free(&reply);
    return is_in;
}

static bool send_once(struct importing *importing)
{
    char path[PATH_BYTES];
    struct sim_ask ask = {.method = "PUT",
                          .path = path,
                          .body = (const char *)importing->rows.data,
                          .content_type = NDJSON,
                          .timeout_ns = SIM_PATIENCE_NS};
    struct sim_reply reply;
    bool is_in;

    (void)snprintf(path, sizeof(path), "/v1/collections/%s/imports/%s/data?offset=%llu%s",
                   SIM_COLLECTION, importing->id, (unsigned long long)importing->offset,
                   importing->is_final ? "&final=true" : "");
    sim_call_router(importing->client, &ask, &reply);
    sim_expect(importing->sim, &reply, "200 409 429");
    is_in = is_ok(&reply) && take_progress(importing, &reply);
    sim_reply_free(&reply);
    return is_in;
}

/* True: the part is in. */
static bool send_part(struct importing *importing)
{
    bool is_in = false, is_known;

    for (int i = 0; i < SENDS && !is_in; i++) {
        is_in = send_once(importing);
        is_known = is_in;
        for (int j = 0; j < LOOKS && !is_known; j++) {
            is_in = look(importing, &is_known);
            if (!is_known)
                sim_world_sleep(importing->sim, PAUSE_NS);
        }
    }
    for (size_t i = 0; !is_in && i < importing->count; i++)
        importing->sim->truth.ops[importing->values[i]].state = OP_UNKNOWN;
    importing->sim->counts.undecided += !is_in;
    return is_in;
}

void sim_import(struct sim_node *client)
{
    struct importing importing = {.client = client, .sim = client->sim};
    size_t parts = 1 + sim_below(client->sim, PARTS_MAX);

    if (!begin(&importing))
        return;
    for (size_t i = 0; i < parts; i++) {
        make_part(&importing);
        /* The body of a call ends with its NUL. */
        buffer_append(&importing.rows, "", 1);
        importing.rows.len--;
        importing.is_final = i + 1 == parts;
        if (!send_part(&importing))
            break;
        importing.offset += importing.rows.len;
    }
    buffer_free(&importing.rows);
}
