/* From the first process of vicinal up to its "ready": see up.h.
 *
 * Happy path: start the ingests (which make the logs), write the shard maps, start everything, and
 * once the routers' ports are known tell every region of all regions.  Ready is: every router says
 * so, and every region follows every other, so that a token of one means something in all.
 *
 * Failure modes: a peer that cannot be one (another number of partitions) ends the start with what
 * its replicator says; one that is not followed within FOLLOW_NS is told in the log, and the rest
 * serves: replication is not what one region depends on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/up.h"
#include "common/base/log.h"

#define FOLLOW_NS (20 * NS_PER_S)
#define REPLY_MAX MIB(8)

static void step(struct up *up)
{
    supervisor_step(&up->supervisor, env_boot_ns(env_real()) + UP_STEP_NS);
}

/* "http://HOST:PORT" of a child, as we reach it. */
static void child_url(const struct child *child, char *out, size_t size)
{
    const char *host = strcmp(child->host, "0.0.0.0") == 0 ? "127.0.0.1" : child->host;

    (void)snprintf(out, size, "http://%s:%u", host, child->port);
}

/* What a child says at a path.  status (may be NULL) is its HTTP status.  NULL: nothing. */
static json_t *ask(struct up *up, const char *base, const char *path, int *status)
{
    struct http_call call = {.method = "GET", .base = base, .path = path, .reply_max = REPLY_MAX};
    json_t *answer = NULL;
    struct err ignored = {0};

    (void)http_call_one(up->client, &call, env_boot_ns(env_real()) + UP_CALL_NS);
    if (status != NULL)
        *status = call.rc == ERR_OK ? call.status : 0;
    if (http_call_expect(&call, &ignored) == ERR_OK)
        (void)(json_doc_parse(&answer, call.reply.data, call.reply.len, &ignored) == ERR_OK);
    http_call_free(&call);
    return answer;
}

/* --- the shard map --------------------------------------------------------------------------- */

/* Write the shard map, as soon as ingest has said how many partitions there are. */
static enum err_code place(struct up *up, const struct up_region *region, struct err *err)
{
    struct meta *meta = NULL;
    enum err_code rc;

    while (up_goes_on(up) && !region->ingest->is_listening)
        step(up);
    if (!up_goes_on(up))
        return ERR_OK;
    rc = meta_open(&meta, region->meta_url, env_real(), err);
    if (rc != ERR_OK)
        return err_wrap(err, "--meta");
    do {
        rc = cluster_place(meta, (uint32_t)up->shards, (uint32_t)up->replicas, err);
        if (rc != ERR_OK)
            step(up);
    } while (rc == ERR_NOT_FOUND && up_goes_on(up));
    meta_close(meta);
    return up_goes_on(up) ? rc : ERR_OK;
}

/* --- rows about regions ---------------------------------------------------------------------- */

/* A store belongs to one region. */
static enum err_code check_self(struct meta *meta, const char *name, struct err *err)
{
    struct region_row *rows = NULL;
    size_t count = 0;
    enum err_code rc = regions_read(meta, &rows, &count, err);

    for (size_t i = 0; i < count && rc == ERR_OK; i++)
        if (rows[i].is_self && strcmp(rows[i].name, name) != 0)
            rc = err_set(err, ERR_CONFIG,
                         "the metadata store of region %s is that of region %s: give each its own, "
                         "or `vicinal region remove %s` there",
                         name, rows[i].name, rows[i].name);
    free(rows);
    return rc;
}

/* All regions into one region's store. */
static enum err_code tell_region(struct up *up, const struct up_region *told, struct err *err)
{
    struct meta *meta = NULL;
    enum err_code rc = meta_open(&meta, told->meta_url, env_real(), err);

    if (rc != ERR_OK)
        return err_wrap(err, "--meta");
    rc = check_self(meta, told->name, err);
    for (size_t i = 0; i < up->region_count && rc == ERR_OK; i++) {
        const struct up_region *region = &up->regions[i];
        struct region_row row = {.is_self = region == told};

        if (strlen(region->wal_url) >= sizeof(row.wal_url)) {
            rc = err_set(err, ERR_CONFIG, "--wal or --data is too long");
            break;
        }
        (void)snprintf(row.name, sizeof(row.name), "%s", region->name);
        (void)snprintf(row.wal_url, sizeof(row.wal_url), "%.*s", REGION_URL_BYTES - 1,
                       region->wal_url);
        (void)snprintf(row.router_url, sizeof(row.router_url), "%s", region->router_url);
        rc = region_write(meta, &row, err);
    }
    meta_close(meta);
    return rc;
}

/* --- ready ----------------------------------------------------------------------------------- */

static void wait_for_doors(struct up *up)
{
    for (size_t i = 0; i < up->region_count; i++) {
        struct up_region *region = &up->regions[i];

        while (up_goes_on(up) && !region->router->is_listening)
            step(up);
        child_url(region->router, region->router_url, sizeof(region->router_url));
    }
}

static void wait_for_ready(struct up *up)
{
    for (size_t i = 0; i < up->region_count; i++) {
        int status = 0;

        while (up_goes_on(up)) {
            json_decref(ask(up, up->regions[i].router_url, "/readyz", &status));
            if (status == 200)
                break;
            step(up);
        }
    }
}

static bool is_listed(const struct up *up, const char *name)
{
    for (size_t i = 0; i < up->region_count; i++)
        if (strcmp(up->regions[i].name, name) == 0)
            return true;
    return false;
}

/* Does the region follow all others?  Errors: ERR_CONFIG (one is refused). */
static enum err_code look_at_peers(struct up *up, const struct up_region *region, size_t *followed,
                                   struct err *err)
{
    char url[160];
    json_t *status, *peer;
    enum err_code rc = ERR_OK;
    size_t i;

    *followed = 0;
    if (!region->replicator->is_listening)
        return ERR_OK;
    child_url(region->replicator, url, sizeof(url));
    status = ask(up, url, "/internal/v1/status", NULL);
    json_array_foreach(json_object_get(status, "peers"), i, peer)
    {
        const char *state = cli_text(peer, "state", "");

        if (!is_listed(up, cli_text(peer, "name", "")))
            continue;
        if (strcmp(state, "refused") == 0)
            rc = err_set(err, ERR_CONFIG, "region %s: %.250s", region->name,
                         cli_text(peer, "detail", "a peer is refused"));
        *followed += json_is_integer(json_object_get(peer, "lag_ms")) &&
                     (strcmp(state, "following") == 0 || strcmp(state, "catching_up") == 0);
    }
    json_decref(status);
    return rc;
}

/* Have all replicas applied what their log held at that boot time? */
static bool has_applied(struct up *up, const struct up_region *region, uint64_t since_ns)
{
    /* Before it is asked: the answer may be long on its way. */
    double age_ms = (double)(env_boot_ns(env_real()) - since_ns) / NS_PER_MS;
    json_t *status = ask(up, region->router_url, "/internal/v1/status", NULL), *replica, *partition;
    bool all = json_is_array(json_object_get(status, "replicas"));
    size_t i, j;

    json_array_foreach(json_object_get(status, "replicas"), i, replica)
    {
        json_t *report = json_object_get(replica, "status");
        double heard_ms = json_number_value(json_object_get(replica, "heard_ms_ago"));

        all = all && json_is_array(json_object_get(report, "partitions"));
        json_array_foreach(json_object_get(report, "partitions"), j, partition)
        {
            json_t *staleness = json_object_get(partition, "staleness_ms");

            all = all && json_is_number(staleness) &&
                  json_number_value(staleness) + heard_ms < age_ms;
        }
    }
    json_decref(status);
    return all;
}

/* A token of one region means something in another one when its shards have heard of that region's
 * log. */
static enum err_code wait_for_peers(struct up *up, const struct up_region *region,
                                    uint64_t until_ns, struct err *err)
{
    size_t followed = 0;
    uint64_t since_ns;
    enum err_code rc = ERR_OK;

    while (rc == ERR_OK && up_goes_on(up) && env_boot_ns(env_real()) < until_ns) {
        rc = look_at_peers(up, region, &followed, err);
        if (followed == up->region_count - 1)
            break;
        step(up);
    }
    since_ns = env_boot_ns(env_real());
    while (rc == ERR_OK && up_goes_on(up) && env_boot_ns(env_real()) < until_ns &&
           !has_applied(up, region, since_ns))
        step(up);
    if (rc == ERR_OK && up_goes_on(up) && env_boot_ns(env_real()) >= until_ns)
        log_warn(NULL, "a region does not follow all others yet; it serves nevertheless",
                 LOG_TEXT("region", region->name));
    return rc;
}

static enum err_code join_regions(struct up *up, struct err *err)
{
    uint64_t until_ns = env_boot_ns(env_real()) + FOLLOW_NS;
    enum err_code rc = ERR_OK;

    for (size_t i = 0; i < up->region_count && rc == ERR_OK && up_goes_on(up); i++)
        rc = tell_region(up, &up->regions[i], err);
    wait_for_ready(up);
    for (size_t i = 0; i < up->region_count && up->region_count > 1 && rc == ERR_OK; i++)
        rc = wait_for_peers(up, &up->regions[i], until_ns, err);
    return rc;
}

enum err_code up_start(struct up *up, struct err *err)
{
    enum err_code rc = ERR_OK;

    up->supervisor.running = up->region_count; /* the ingests */
    for (size_t i = 0; i < up->region_count && rc == ERR_OK; i++)
        rc = place(up, &up->regions[i], err);
    if (rc != ERR_OK || !up_goes_on(up))
        return rc;
    up->supervisor.running = up->child_count;
    wait_for_doors(up);
    if (up->region_names != NULL)
        rc = join_regions(up, err);
    else
        wait_for_ready(up);
    if (rc != ERR_OK || !up_goes_on(up))
        return rc;
    up->supervisor.is_ready = true;
    for (size_t i = 0; i < up->region_count; i++)
        (void)printf("ready %s\n", up->regions[i].router_url);
    (void)fflush(stdout);
    return ERR_OK;
}
