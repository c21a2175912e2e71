/* GET /v1/admin/regions and POST /v1/admin/regions/{name}/role.
 *
 * How far this region is behind the others is told by its replicator; when that does not answer, by
 * the table that it left in the metadata store, and then the time since counts as lag.
 *
 * A role is answered when the ingest that holds the log has it in force: a region that is said to
 * be passive takes no write any more, and the token in the answer covers all that it ever took.
 * Failure modes: no ingest, or one that does not hear of it before the deadline: 503, and the role
 * stands in the metadata store nevertheless. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/regions.h"
#include "common/base/limits.h"
#include "common/http/json_doc.h"
#include "services/router/router.h"

#define ASK_NS    NS_PER_S
#define REPLY_MAX MIB(4)
#define PAUSE_NS  (10 * NS_PER_MS)
#define ROLE_NS   (12 * NS_PER_S) /* a write under way may take its whole deadline */

/* What is known about one origin. */
struct replication {
    bool is_known, is_told; /* at all; by the replicator */
    char state[16];
    char detail[ERR_MESSAGE_BYTES];
    uint64_t lag_ms, lag_records, seen_us;
    double p50_ms, p99_ms; /* negative: nothing came yet */
    struct token applied;
};

struct picture {
    struct region_row *rows;
    struct replication *replications; /* one for each row */
    size_t count;
    const struct region_row *self; /* or NULL */
    uint32_t own_number;
    enum region_role role;
};

static void picture_free(struct picture *picture)
{
    for (size_t i = 0; picture->replications != NULL && i < picture->count; i++)
        token_free(&picture->replications[i].applied);
    free(picture->replications);
    free(picture->rows);
}

static const struct region_row *find_self(const struct region_row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (rows[i].is_self)
            return &rows[i];
    return NULL;
}

/* The replication from an origin of this name, or NULL. */
static struct replication *find_origin(struct picture *picture, const char *name)
{
    for (size_t i = 0; i < picture->count; i++)
        if (strcmp(picture->rows[i].name, name) == 0)
            return &picture->replications[i];
    return NULL;
}

/* --- the table ------------------------------------------------------------------------------- */

static enum err_code add_lag(struct replication *known, const struct meta_lag *lag, uint64_t now_us,
                             struct err *err)
{
    uint64_t silent_ms = now_us > lag->seen_us ? (now_us - lag->seen_us) / 1000 : 0;
    uint64_t lag_ms = lag->lag_ms == LAG_NEVER ? LAG_NEVER : lag->lag_ms + silent_ms;

    known->is_known = true;
    if (lag_ms > known->lag_ms)
        known->lag_ms = lag_ms;
    known->lag_records += lag->lag_records;
    if (known->seen_us == 0 || lag->seen_us < known->seen_us)
        known->seen_us = lag->seen_us;
    return token_raise(&known->applied, lag->origin_number, lag->partition, lag->applied, err);
}

static enum err_code read_table(struct picture *picture, struct meta *meta, uint64_t now_us,
                                struct err *err)
{
    struct meta_lag *lags = NULL;
    size_t count = 0;
    enum err_code rc = meta_lag_list(meta, &lags, &count, err);

    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        struct replication *known = strcmp(lags[i].region, picture->self->name) == 0
                                        ? find_origin(picture, lags[i].origin)
                                        : NULL;

        if (known != NULL)
            rc = add_lag(known, &lags[i], now_us, err);
    }
    free(lags);
    return rc;
}

/* --- the replicator's own word --------------------------------------------------------------- */

static double number_or(json_t *object, const char *name, double otherwise)
{
    json_t *value = json_object_get(object, name);

    return json_is_number(value) ? json_number_value(value) : otherwise;
}

static uint64_t count_or(json_t *object, const char *name, uint64_t otherwise)
{
    json_t *value = json_object_get(object, name);

    return json_is_integer(value) && json_integer_value(value) >= 0
               ? (uint64_t)json_integer_value(value)
               : otherwise;
}

static enum err_code take_word(struct replication *known, json_t *peer, struct err *err)
{
    json_t *propagation = json_object_get(peer, "propagation_ms"), *entry;
    const char *state = json_string_value(json_object_get(peer, "state"));
    const char *detail = json_string_value(json_object_get(peer, "detail"));
    uint64_t number = count_or(peer, "number", 0);
    enum err_code rc = ERR_OK;
    size_t i;

    known->is_known = known->is_told = true;
    (void)snprintf(known->state, sizeof(known->state), "%s", state == NULL ? "unknown" : state);
    (void)snprintf(known->detail, sizeof(known->detail), "%s", detail == NULL ? "" : detail);
    known->lag_ms = count_or(peer, "lag_ms", LAG_NEVER);
    known->lag_records = count_or(peer, "lag_records", 0);
    known->p50_ms = number_or(propagation, "p50", -1);
    known->p99_ms = number_or(propagation, "p99", -1);
    if (number == 0 || number > UINT32_MAX)
        return ERR_OK;
    json_array_foreach(json_object_get(peer, "partitions"), i, entry)
    {
        uint64_t partition = count_or(entry, "partition", PARTITIONS_MAX);

        if (partition < PARTITIONS_MAX && rc == ERR_OK)
            rc = token_raise(&known->applied, (uint32_t)number, (uint32_t)partition,
                             count_or(entry, "applied", 0), err);
    }
    return rc;
}

/* node/replicator/NAME of the metadata store; false: there is none. */
static bool replicator_url(struct router *router, const char *region, char *out, size_t size)
{
    char key[META_KEY_BYTES_MAX];
    struct meta_row row = {0};
    json_t *document = NULL;
    const char *url = "";
    struct err ignored = {0};
    bool found = false;

    (void)snprintf(key, sizeof(key), "node/replicator/%s", region);
    if (meta_get(router->meta, key, &row, &ignored) != ERR_OK)
        return false;
    if (json_doc_parse(&document, row.value, row.value_len, &ignored) == ERR_OK &&
        json_doc_text(document, "url", &url, &ignored) == ERR_OK && url[0] != '\0')
        found = (size_t)snprintf(out, size, "%s", url) < size;
    json_decref(document);
    meta_row_free(&row);
    return found;
}

/* What a service says of itself; NULL: it does not answer. */
static json_t *ask_status(struct router *router, const char *url, uint64_t deadline_ns)
{
    struct http_call call = {
        .method = "GET", .base = url, .path = "/internal/v1/status", .reply_max = REPLY_MAX};
    struct err ignored = {0};
    json_t *document = NULL;

    (void)http_call_one(router->client, &call, deadline_ns);
    if (http_call_expect(&call, &ignored) == ERR_OK)
        (void)(json_doc_parse(&document, call.reply.data, call.reply.len, &ignored) == ERR_OK);
    http_call_free(&call);
    return document;
}

static enum err_code ask_replicator(struct picture *picture, struct router *router, struct err *err)
{
    char url[256];
    json_t *status, *peer;
    enum err_code rc = ERR_OK;
    size_t i;

    if (!replicator_url(router, picture->self->name, url, sizeof(url)))
        return ERR_OK;
    status = ask_status(router, url, env_boot_ns(router->env) + ASK_NS);
    json_array_foreach(json_object_get(status, "peers"), i, peer)
    {
        const char *name = json_string_value(json_object_get(peer, "name"));
        struct replication *known = name == NULL ? NULL : find_origin(picture, name);

        if (known != NULL && rc == ERR_OK)
            rc = take_word(known, peer, err);
    }
    json_decref(status);
    return rc;
}

/* --- GET ------------------------------------------------------------------------------------- */

static enum err_code picture_take(struct picture *picture, struct router *router, struct err *err)
{
    uint32_t partitions;
    struct err ignored = {0};
    enum err_code rc = regions_read(router->meta, &picture->rows, &picture->count, err);

    if (rc == ERR_OK)
        rc = region_role_read(router->meta, &picture->role, err);
    if (rc != ERR_OK)
        return rc;
    picture->self = find_self(picture->rows, picture->count);
    if (region_deployment(router->meta, &partitions, &picture->own_number, &ignored) != ERR_OK)
        picture->own_number = 0;
    picture->replications = calloc(picture->count + 1, sizeof(*picture->replications));
    if (picture->replications == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for regions");
    for (size_t i = 0; i < picture->count; i++)
        picture->replications[i].p50_ms = picture->replications[i].p99_ms = -1;
    if (picture->self == NULL)
        return ERR_OK;
    rc = read_table(picture, router->meta, env_wall_us(router->env), err);
    return rc == ERR_OK ? ask_replicator(picture, router, err) : rc;
}

static void write_seconds(struct json_writer *w, const char *key, double ms)
{
    json_key(w, key);
    if (ms < 0)
        json_put_null(w);
    else
        json_double(w, ms / 1000);
}

static void write_token(struct json_writer *w, const struct token *token)
{
    struct buffer text = {0};

    token_to_text(token, &text);
    json_key(w, "read_token");
    json_put_string(w, (const char *)text.data, text.len);
    buffer_free(&text);
}

static void write_replication(struct json_writer *w, const struct replication *known,
                              uint64_t now_us)
{
    double silent_ms = now_us > known->seen_us ? (double)(now_us - known->seen_us) / 1000 : 0;

    json_key(w, "replication");
    json_begin_object(w);
    json_key(w, "state");
    json_text(w, known->is_told ? known->state : "unknown");
    json_key(w, "detail");
    json_text(w, known->is_told ? known->detail : "the replicator does not answer");
    if (known->is_known) {
        write_seconds(w, "lag_seconds", known->lag_ms == LAG_NEVER ? -1 : (double)known->lag_ms);
        json_key(w, "lag_records");
        json_u64(w, known->lag_records);
        json_key(w, "propagation_seconds");
        json_begin_object(w);
        write_seconds(w, "p50", known->p50_ms);
        write_seconds(w, "p99", known->p99_ms);
        json_end_object(w);
        write_seconds(w, "seen_seconds_ago", known->seen_us == 0 ? -1 : silent_ms);
        write_token(w, &known->applied);
    }
    json_end_object(w);
}

enum err_code router_get_regions(struct request *req)
{
    struct router *router = req->state;
    struct picture picture = {0};
    uint64_t now_us = env_wall_us(router->env);
    enum err_code rc = picture_take(&picture, router, &req->err);
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    if (picture.self != NULL) {
        json_key(&w, "self");
        json_text(&w, picture.self->name);
    }
    json_key(&w, "role");
    json_text(&w, region_role_text(picture.role));
    json_key(&w, "regions");
    json_begin_array(&w);
    for (size_t i = 0; rc == ERR_OK && i < picture.count; i++) {
        const struct region_row *row = &picture.rows[i];

        json_begin_object(&w);
        json_key(&w, "name");
        json_text(&w, row->name);
        json_key(&w, "self");
        json_bool(&w, row->is_self);
        json_key(&w, "number");
        json_u64(&w, row->is_self ? picture.own_number : row->number);
        json_key(&w, "router_url");
        json_text(&w, row->router_url);
        if (row->is_self) {
            json_key(&w, "role");
            json_text(&w, region_role_text(picture.role));
        } else {
            write_replication(&w, &picture.replications[i], now_us);
        }
        json_end_object(&w);
    }
    json_end_array(&w);
    json_end_object(&w);
    picture_free(&picture);
    return rc == ERR_OK ? buffer_check(&req->reply.body, &req->err) : rc;
}

/* --- POST ------------------------------------------------------------------------------------ */

static enum err_code read_role(struct request *req, enum region_role *role)
{
    static const char *const names[] = {"role", NULL};
    json_t *document = NULL;
    const char *text = "";
    enum err_code rc = request_expect_media(req, MEDIA_JSON);

    if (rc == ERR_OK)
        rc = json_doc_parse(&document, req->body, req->body_len, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_only(document, names, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_text(document, "role", &text, &req->err);
    if (rc == ERR_OK && !region_role_from_text(text, role))
        rc = err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/role",
                        "role has to be \"active\", \"primary\" or \"passive\"");
    json_decref(document);
    return rc;
}

/* The name is our own. */
static enum err_code check_name(struct request *req)
{
    struct router *router = req->state;
    struct region_row *rows = NULL;
    size_t count = 0;
    const struct region_row *named = NULL;
    enum err_code rc = regions_read(router->meta, &rows, &count, &req->err);

    for (size_t i = 0; i < count; i++)
        if (strcmp(rows[i].name, req->params[0]) == 0)
            named = &rows[i];
    if (rc == ERR_OK && named == NULL)
        rc = err_set(&req->err, ERR_NOT_FOUND, "there is no region of this name");
    else if (rc == ERR_OK && !named->is_self)
        rc = err_set(&req->err, ERR_WRONG_REGION, "region %s has its router at %.200s", named->name,
                     named->router_url[0] == '\0' ? "a URL not known here" : named->router_url);
    free(rows);
    return rc;
}

/* Does the holder have the role in force?  *token then covers all that it took before. */
static bool is_in_force(struct router *router, enum region_role role, struct token *token)
{
    struct err ignored = {0};
    char url[256];
    json_t *status, *entry;
    uint64_t region;
    bool done;
    size_t i;

    if (cluster_ingest_url(router->cluster, true, url, sizeof(url), &ignored) != ERR_OK)
        return false;
    status = ask_status(router, url, env_boot_ns(router->env) + ASK_NS);
    region = count_or(status, "region", 0);
    done =
        json_is_true(json_object_get(status, "holder")) && region > 0 && region <= UINT32_MAX &&
        json_string_value(json_object_get(status, "role")) != NULL &&
        strcmp(json_string_value(json_object_get(status, "role")), region_role_text(role)) == 0 &&
        (role != REGION_PASSIVE || count_or(status, "writes", 1) == 0);
    json_array_foreach(json_object_get(status, "partitions"), i, entry)
    {
        uint64_t partition = count_or(entry, "partition", PARTITIONS_MAX);

        if (done && partition < PARTITIONS_MAX)
            done = token_raise(token, (uint32_t)region, (uint32_t)partition,
                               count_or(entry, "end", 0), &ignored) == ERR_OK;
    }
    json_decref(status);
    return done;
}

static enum err_code put_in_force(struct request *req, enum region_role role, struct token *token)
{
    struct router *router = req->state;
    enum err_code rc = region_role_write(router->meta, role, &req->err);

    while (rc == ERR_OK && !is_in_force(router, role, token)) {
        uint64_t now_ns = env_boot_ns(router->env);

        if (now_ns > req->received_ns + ROLE_NS)
            rc = err_set(&req->err, ERR_UNAVAILABLE,
                         "the role is written down, but no ingest has confirmed that it is in "
                         "force: ask again");
        else if (env_sleep_until(router->env, now_ns + PAUSE_NS) != ERR_OK)
            rc = err_set(&req->err, ERR_DEAD, "shutting down");
    }
    return rc;
}

enum err_code router_set_role(struct request *req)
{
    struct token token = {0};
    enum region_role role = REGION_ACTIVE;
    struct json_writer w;
    enum err_code rc = read_role(req, &role);

    if (rc == ERR_OK)
        rc = check_name(req);
    if (rc == ERR_OK)
        rc = put_in_force(req, role, &token);
    if (rc == ERR_OK) {
        json_writer_init(&w, &req->reply.body);
        json_begin_object(&w);
        json_key(&w, "name");
        json_text(&w, req->params[0]);
        json_key(&w, "role");
        json_text(&w, region_role_text(role));
        write_token(&w, &token);
        json_end_object(&w);
    }
    token_free(&token);
    return rc;
}
