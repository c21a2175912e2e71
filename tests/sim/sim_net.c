/* The network: an HTTP call becomes a thread that travels to the other node, runs its handler
 * there, and travels back.
 *
 * On the way there and back it is slow, gets lost, breaks, or meets a link that is cut; a call
 * between our own services that may be sent twice is, by chance, delivered twice.  A node that is
 * down refuses; a node that dies under a request breaks the connection. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tests/sim/sim.h"

#define TRIP_NS       (50 * NS_PER_US)
#define TRIP_MAX_NS   (3 * NS_PER_MS)
#define CONNECT_NS    NS_PER_S /* until a connection that is not answered counts as none */
#define DAWDLE_ONE_IN 150
#define DAWDLE_MAX_NS (9 * NS_PER_S)
#define PATH_BYTES    1024

struct result {
    enum err_code rc;
    char text[80];
    int status;
    uint64_t left_ns;
    struct buffer reply;
    char type[64];
    char etag[64];
    uint32_t retry_after_s;
};

/* One call of a gather; an answer to an attempt that was given up is not taken. */
struct slot {
    uint32_t attempt;
    bool is_done, is_taken, is_held;
    struct result result;
};

struct group {
    uint32_t refs;
    struct sim *sim;
    size_t count;
    struct slot slots[];
};

struct flight {
    struct group *group;
    size_t index;
    uint32_t attempt;
    struct sim_node *from, *to;
    char method[8];
    char path[PATH_BYTES];
    char query[PATH_BYTES];
    char content_type[64];
    char if_match[64];
    char idempotency[64];
    uint64_t number; /* of those from there to there */
    char request_id[REQUEST_ID_BYTES];
    uint8_t *body;
    size_t body_len;
    struct result result;
};

struct sim_node *sim_find_node(struct sim *sim, const char *url)
{
    static const char SCHEME[] = "http://";

    if (strncmp(url, SCHEME, sizeof(SCHEME) - 1) != 0)
        return NULL;
    for (uint32_t i = 0; i < sim->node_count; i++)
        if (strcmp(sim->nodes[i].name, url + sizeof(SCHEME) - 1) == 0)
            return &sim->nodes[i];
    return NULL;
}

static void group_put(struct group *group)
{
    if (--group->refs > 0)
        return;
    for (size_t i = 0; i < group->count; i++)
        buffer_free(&group->slots[i].result.reply);
    free(group);
}

static void flight_free(struct flight *flight)
{
    group_put(flight->group);
    buffer_free(&flight->result.reply);
    free(flight->body);
    free(flight);
}

static void deliver(struct flight *flight)
{
    struct slot *slot = &flight->group->slots[flight->index];

    if (slot->attempt != flight->attempt || slot->is_done)
        return;
    slot->is_done = true;
    buffer_free(&slot->result.reply);
    slot->result = flight->result;
    flight->result.reply = (struct buffer){0};
    sim_wake(flight->group->sim, flight->group, true);
}

static void fails(struct flight *flight, enum err_code rc, const char *text)
{
    flight->result.rc = rc;
    (void)snprintf(flight->result.text, sizeof(flight->result.text), "%s", text);
    deliver(flight);
}

/* --- at the other node ----------------------------------------------------------------------- */

static const char *header_of(const struct request *req, const char *name)
{
    const struct flight *flight = req->transport;
    const char *value = strcasecmp(name, "Content-Type") == 0      ? flight->content_type
                        : strcasecmp(name, "If-Match") == 0        ? flight->if_match
                        : strcasecmp(name, "Idempotency-Key") == 0 ? flight->idempotency
                        : strcasecmp(name, "X-Request-Id") == 0    ? flight->request_id
                                                                   : "";

    return value[0] == '\0' ? NULL : value;
}

static void take_reply(struct flight *flight, struct request *req)
{
    struct result *result = &flight->result;
    const struct reply *reply = &req->reply;
    const char *type = reply->content_type == NULL ? "" : reply->content_type;

    result->rc = ERR_OK;
    result->left_ns = flight->group->sim->now_ns;
    result->status = reply->status;
    result->reply = reply->body;
    req->reply.body = (struct buffer){0};
    (void)snprintf(result->type, sizeof(result->type), "%.*s", (int)strcspn(type, "; "), type);
    for (size_t i = 0; i < reply->header_count; i++) {
        if (strcmp(reply->headers[i].name, "ETag") == 0)
            (void)snprintf(result->etag, sizeof(result->etag), "%s", reply->headers[i].value);
        if (strcmp(reply->headers[i].name, "Retry-After") == 0)
            result->retry_after_s = (uint32_t)strtoul(reply->headers[i].value, NULL, 10);
    }
}

/* Run the handler there; false: the node died under it. */
static bool visit(struct flight *flight)
{
    struct sim_node *node = flight->to;
    struct sim *sim = node->sim;
    struct sim_thread *thread = sim->current;
    struct sim_life *life = node->life;
    struct request req = {.state = node->service->state(node),
                          .env = &life->env,
                          .method = flight->method,
                          .path = flight->path,
                          .query = flight->query,
                          .body = flight->body,
                          .body_len = flight->body_len,
                          .header = header_of,
                          .transport = flight};

    node->guests++;
    thread->node = node;
    sim_switch(sim);
    req.received_ns = env_boot_ns(&life->env);
    route_dispatch(node->service->routes, &req);
    if (!life->dead)
        take_reply(flight, &req);
    request_free(&req);
    thread->node = NULL;
    if (--node->guests == 0)
        sim_wake(sim, &node->guests, true);
    return !life->dead;
}

/* Is there no way for what goes there (or comes back)? */
static bool is_cut(const struct flight *flight, bool back)
{
    struct sim *sim = flight->group->sim;
    const struct sim_node *from = back ? flight->to : flight->from;
    const struct sim_node *to = back ? flight->from : flight->to;

    return flight->to == NULL || from->isolated || to->isolated ||
           sim->links_cut[from->number][to->number];
}

/* Has a later one come there before? */
static void count_order(const struct flight *flight)
{
    struct sim *sim = flight->group->sim;
    uint64_t *arrived = &sim->arrived[flight->from->number][flight->to->number];

    sim->counts.reordered += flight->number < *arrived;
    *arrived = flight->number > *arrived ? flight->number : *arrived;
}

static uint64_t trip(struct sim *sim)
{
    return sim_delay(sim, TRIP_NS, TRIP_MAX_NS) + sim_below(sim, sim->net_slow_ns);
}

/* There; false: the journey has ended. */
static bool travel_there(struct flight *flight)
{
    struct sim *sim = flight->group->sim;

    sim_world_sleep(sim, trip(sim));
    if (is_cut(flight, false)) {
        sim_world_sleep(sim, CONNECT_NS);
        fails(flight, ERR_UNAVAILABLE, "no connection");
        return false;
    }
    if (sim_percent(sim, sim->net_drop)) {
        sim->counts.dropped++;
        return false;
    }
    if (!flight->to->serving) {
        sim->counts.refused++;
        sim_world_sleep(sim, trip(sim));
        fails(flight, ERR_UNAVAILABLE, "connection refused");
        return false;
    }
    count_order(flight);
    return true;
}

static void travel(void *argument)
{
    struct flight *flight = argument;
    struct sim *sim = flight->group->sim;
    bool lived;

    if (!travel_there(flight)) {
        flight_free(flight);
        return;
    }
    lived = visit(flight);
    sim_world_sleep(sim, trip(sim));
    if (!lived || sim_percent(sim, sim->net_break)) {
        sim->counts.broken++;
        buffer_free(&flight->result.reply);
        fails(flight, ERR_IO, "the connection broke");
    } else if (is_cut(flight, true) || sim_percent(sim, sim->net_drop)) {
        sim->counts.dropped++;
    } else {
        deliver(flight);
    }
    flight_free(flight);
}

/* --- at the caller --------------------------------------------------------------------------- */

static void copy_text(char *out, size_t size, const char *from)
{
    int len = snprintf(out, size, "%s", from == NULL ? "" : from);

    assert(len >= 0 && (size_t)len < size);
}

static void launch(struct sim_node *from, struct group *group, const struct http_call *call,
                   size_t index)
{
    struct flight *flight = calloc(1, sizeof(*flight));
    size_t path_len = strcspn(call->path, "?");
    const char *query = call->path + path_len;

    if (flight == NULL || (flight->body = malloc(call->body_len + 1)) == NULL)
        abort();
    flight->group = group;
    group->refs++;
    flight->index = index;
    flight->attempt = group->slots[index].attempt;
    flight->from = from;
    flight->to = sim_find_node(group->sim, call->base);
    if (flight->to != NULL)
        flight->number = ++group->sim->sent[from->number][flight->to->number];
    copy_text(flight->method, sizeof(flight->method), call->method);
    assert(path_len < sizeof(flight->path));
    memcpy(flight->path, call->path, path_len);
    copy_text(flight->query, sizeof(flight->query), query[0] == '?' ? query + 1 : "");
    copy_text(flight->content_type, sizeof(flight->content_type), call->content_type);
    copy_text(flight->if_match, sizeof(flight->if_match), call->if_match);
    copy_text(flight->idempotency, sizeof(flight->idempotency), call->idempotency);
    copy_text(flight->request_id, sizeof(flight->request_id), call->request_id);
    if (call->body_len > 0)
        memcpy(flight->body, call->body, call->body_len);
    flight->body_len = call->body_len;
    group->sim->counts.calls++;
    group->sim->counts.handovers += strcmp(flight->path, "/internal/v1/replay") == 0;
    sim_spawn(group->sim, "call", travel, flight);
}

static void launch_all(struct sim_node *from, struct group *group, const struct http_call *call,
                       size_t index)
{
    struct sim *sim = group->sim;
    struct slot *slot = &group->slots[index];

    slot->attempt++;
    slot->is_done = slot->is_taken = false;
    launch(from, group, call, index);
    if (!call->once && strncmp(call->path, "/internal/", 10) == 0 &&
        sim_percent(sim, sim->net_double)) {
        sim->counts.doubled++;
        launch(from, group, call, index);
    }
}

static void forget_answer(struct http_call *call)
{
    buffer_reset(&call->reply);
    call->rc = ERR_OK;
    call->status = 0;
    call->reply_type[0] = call->etag[0] = '\0';
    call->retry_after_s = 0;
    err_clear(&call->err);
}

static void fill_call(struct sim *sim, struct http_call *call, struct result *result)
{
    forget_answer(call);
    if (result->rc == ERR_OK && result->reply.len > call->reply_max) {
        result->rc = ERR_PAYLOAD_TOO_LARGE;
        copy_text(result->text, sizeof(result->text), "the reply is too large");
    }
    if (result->rc != ERR_OK) {
        call->rc =
            err_set(&call->err, result->rc, "%s %s: %s", call->method, call->base, result->text);
        return;
    }
    call->status = result->status;
    sim->left_ns = result->left_ns;
    buffer_free(&call->reply);
    call->reply = result->reply;
    result->reply = (struct buffer){0};
    copy_text(call->reply_type, sizeof(call->reply_type), result->type);
    copy_text(call->etag, sizeof(call->etag), result->etag);
    call->retry_after_s = result->retry_after_s;
}

struct gathering {
    struct sim_node *from;
    struct group *group;
    struct http_call *calls;
    const struct http_watcher *watcher;
};

static bool tell_ended(struct gathering *gathering, struct http_call *call)
{
    const struct http_watcher *watcher = gathering->watcher;

    return watcher->ended != NULL && watcher->ended(watcher->context, call);
}

/* Send what has been held back for long enough; the time when the next one is due. */
static uint64_t start_due(struct gathering *gathering)
{
    const struct http_watcher *watcher = gathering->watcher;
    struct group *group = gathering->group;
    uint64_t next_ns = NEVER_NS;

    for (size_t i = 0; i < group->count; i++) {
        struct http_call *call = &gathering->calls[i];

        if (!group->slots[i].is_held || call->is_dropped)
            continue;
        if (env_boot_ns(&gathering->from->life->env) < call->after_ns) {
            if (call->after_ns < next_ns)
                next_ns = call->after_ns;
            continue;
        }
        group->slots[i].is_held = false;
        if (watcher->due == NULL || watcher->due(watcher->context, call))
            launch_all(gathering->from, group, call, i);
        else
            call->is_dropped = true;
    }
    return next_ns;
}

/* Take what has come; returns how many calls are still under way or held back. */
static size_t take_ended(struct gathering *gathering)
{
    struct group *group = gathering->group;
    size_t open = 0;

    for (size_t i = 0; i < group->count; i++) {
        struct slot *slot = &group->slots[i];

        if (slot->is_done && !slot->is_taken && !gathering->calls[i].is_dropped) {
            slot->is_taken = true;
            fill_call(group->sim, &gathering->calls[i], &slot->result);
            if (tell_ended(gathering, &gathering->calls[i])) {
                forget_answer(&gathering->calls[i]);
                launch_all(gathering->from, group, &gathering->calls[i], i);
            }
        }
    }
    /* Any of them may have dropped any other. */
    for (size_t i = 0; i < group->count; i++) {
        struct slot *slot = &group->slots[i];

        if (gathering->calls[i].is_dropped && !slot->is_taken) {
            slot->is_taken = true;
            slot->is_held = false;
            slot->attempt++; /* what comes now is not wanted */
            forget_answer(&gathering->calls[i]);
        }
        open += !slot->is_taken;
    }
    return open;
}

static void end_rest(struct gathering *gathering, enum err_code code)
{
    for (size_t i = 0; i < gathering->group->count; i++) {
        struct slot *slot = &gathering->group->slots[i];
        struct http_call *call = &gathering->calls[i];

        if (slot->is_taken)
            continue;
        slot->is_taken = true;
        slot->attempt++; /* what comes now comes too late */
        forget_answer(call);
        if (slot->is_held || call->is_dropped)
            continue;
        call->rc = err_set(&call->err, code, "%s %s: no answer in time", call->method, call->base);
        (void)tell_ended(gathering, call);
    }
}

/* A thread may be the only one of its node that does not get on, just when it has its answer. */
static void dawdle(struct sim_node *node, const struct http_call *call)
{
    struct sim *sim = node->sim;

    if (sim->healing || sim->options.calm || node->service == NULL ||
        strcmp(call->method, "POST") != 0 || sim_below(sim, DAWDLE_ONE_IN) != 0)
        return;
    sim->counts.dawdles++;
    sim_note(sim, "a thread of %s dawdles", node->name);
    (void)!sim_pass(&node->life->env, sim_below(sim, DAWDLE_MAX_NS));
}

static void net_gather(struct http_client *client, struct http_call *calls, size_t count,
                       uint64_t deadline_ns, const struct http_watcher *watcher)
{
    struct sim_node *from = (struct sim_node *)((char *)client - offsetof(struct sim_node, client));
    struct group *group = calloc(1, sizeof(*group) + count * sizeof(group->slots[0]));
    struct gathering gathering = {.from = from, .group = group, .calls = calls, .watcher = watcher};
    struct env *env = &from->life->env;
    enum err_code code = sim_touch(env);
    uint64_t next_ns;

    if (group == NULL)
        abort();
    *group = (struct group){.refs = 1, .sim = from->sim, .count = count};
    if (code == ERR_OK && env_boot_ns(env) >= deadline_ns)
        code = ERR_TIMEOUT;
    for (size_t i = 0; i < count; i++) {
        group->slots[i].is_held = calls[i].after_ns > 0;
        if (code == ERR_OK && calls[i].after_ns == 0)
            launch_all(from, group, &calls[i], i);
    }
    while (code == ERR_OK && take_ended(&gathering) > 0) {
        next_ns = start_due(&gathering);
        code = sim_wait(env, group, next_ns < deadline_ns ? next_ns : deadline_ns);
        if (code == ERR_TIMEOUT && env_boot_ns(env) < deadline_ns)
            code = ERR_OK;
    }
    if (code != ERR_OK && take_ended(&gathering) > 0)
        end_rest(&gathering, code);
    if (code == ERR_DEAD)
        sim_switch(from->sim);
    else
        dawdle(from, &calls[0]);
    group_put(group);
}

static void net_close(struct http_client *client)
{
    (void)client;
}

static const struct http_client_ops net_ops = {.gather = net_gather, .close = net_close};

void sim_net_attach(struct sim_node *node)
{
    node->client.ops = &net_ops;
}
